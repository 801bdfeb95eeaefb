"""The shard files of the next build, and the manifest that names them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from threading import Event as Flag

from r3po.source.compare import ABSENT, LOOK, Comparison, ShardChanges
from r3po.source.hashing import HashedFile, hash_files
from r3po.source.walk import BLOCK_FILES, Block
from r3po.state.job import Job
from r3po.state.manifest import Manifest, ShardRef, new_job_id
from r3po.state.shard_files import Entries, read_shard_file, write_shard_file

FEW_FILES = 500
"""So many files are hashed here; more are worth the start of other processes."""


class BuildStopped(BaseException):
    """The build was asked to stop; nothing was changed."""


@dataclass(slots=True)
class BuildProgress:
    """What other threads may watch while a build goes on."""

    n_files: int = 0
    has_work: Flag = field(default_factory=Flag)
    """Set once a file was found that has to be done."""
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[int], None] = lambda n_files: None
    """Called with the number of files now and then, by the thread that builds."""


@dataclass(slots=True)
class FileCounts:
    """How many files of the source a build found to be what. All others are unchanged."""

    n_new: int = 0
    n_changed: int = 0
    """Their content is another one, or could not be compared."""
    n_touched: int = 0
    """Their mtime moved, their content did not."""
    n_deleted: int = 0
    n_returned: int = 0

    def __bool__(self) -> bool:
        return bool(self.n_new or self.n_changed or self.n_touched or self.n_deleted or self.n_returned)


def _end_if_stopped(progress: BuildProgress) -> None:
    if progress.stop():
        raise BuildStopped


class _Build:
    """Makes the shard files of the next build; names none of them until it is asked for the manifest."""

    def __init__(self, job: Job, processes: int, progress: BuildProgress, *, is_dry: bool) -> None:
        self._job, self._config, self._progress, self._is_dry = job, job.config, progress, is_dry
        self._hashes = job.config.hash == "content"
        self._processes = processes if self._hashes else 0
        self._build = job.manifest.build + 1 if job.manifest else 1
        self._refs: list[ShardRef] = list(job.manifest.shards) if job.manifest else []
        self._n_known_shards = len(self._refs)
        self._tail = Entries()
        """New files that go into the last of the known shards."""
        self._has_rewritten = False
        self.found = FileCounts()

    def add_files(self, new_files: Iterable[Block]) -> None:
        """Put new files into the last shard, then into new ones."""
        if self._is_dry:
            self.found.n_new += sum(map(len, new_files))
            return
        room = self._config.shard_size - self._refs[-1].n_files if self._refs else 0
        entries, limit = (self._tail, room) if room > 0 else (Entries(), self._config.shard_size)
        for block in self._described(new_files):
            self.found.n_new += len(block)
            start = 0
            while start < len(block):
                stop = start + limit - len(entries)
                entries.extend(block.between(start, stop))
                start = stop
                if len(entries) >= limit:
                    self._flush(entries)
                    entries, limit = Entries(), self._config.shard_size
        self._flush(entries)

    def change_files(self, comparison: Comparison) -> None:
        """Write the known shards anew whose files changed, went, came back, or get company."""
        touched = comparison.touched_shards
        last = self._n_known_shards - 1
        shards = [ref.shard for ref in touched]
        if len(self._tail) and last not in shards:
            shards.append(last)
        with closing(self._look_closer(comparison, touched)) as looks:
            for shard in shards:
                _end_if_stopped(self._progress)
                entries = self._read_entries(self._refs[shard], comparison)
                is_changed = self._settle(entries, comparison.shards[shard], looks)
                if shard == last and len(self._tail):
                    entries.extend(self._tail)
                    is_changed = True
                if is_changed and not self._is_dry:
                    self._refs[shard] = write_shard_file(self._job.folders.shards, shard, self._build, entries)
                    self._has_rewritten = True

    def manifest(self, count_all_files: int) -> Manifest:
        """Return the next manifest; the one in force, the very object, if there is nothing to say."""
        old, config = self._job.manifest, self._config
        source_path, source_file_part = str(config.source_path), config.source_file_part
        if old is None:
            return Manifest(
                job_id=new_job_id(),
                job_name=config.job_name,
                build=self._build,
                redo_since=1,
                retry_since=1,
                source_path=source_path,
                source_file_part=source_file_part,
                output_path=str(config.output_path),
                hash=config.hash,
                count_all_files=count_all_files,
                sorted_spans=(0,),
                shards=tuple(self._refs),
            )
        is_moved = (old.source_path, old.source_file_part) != (source_path, source_file_part)
        if self._is_dry or not (self.found.n_new or self._has_rewritten or is_moved):
            return old
        return old.replace(
            build=self._build,
            hash=config.hash,
            count_all_files=count_all_files,
            sorted_spans=(*old.sorted_spans, old.n_places) if self.found.n_new else old.sorted_spans,
            source_path=source_path,
            source_file_part=source_file_part,
            shards=tuple(self._refs),
        )

    # Private methods

    def _flush(self, entries: Entries) -> None:
        if entries is not self._tail and len(entries):
            folder = self._job.folders.shards
            self._refs.append(write_shard_file(folder, len(self._refs), self._build, entries))

    def _described(self, new_files: Iterable[Block]) -> Iterator[Entries]:
        """Return new files as entries, in blocks; hashed, if that is due now."""
        if not self._processes:
            for block in new_files:
                yield Entries.listed(block, self._build)
            return
        pending: deque[tuple[str, int, int]] = deque()

        def paths() -> Iterator[str]:
            for block in new_files:
                for file in block:
                    pending.append(file)
                    yield self._absolute(file[0])

        with closing(hash_files(paths(), self._processes)) as hashed_files:
            while hashed := list(islice(hashed_files, BLOCK_FILES)):
                entries = Entries()
                for result in hashed:
                    path, size, mtime_ns = pending.popleft()
                    # A file that cannot be read stays unhashed: it will be a failure of the run, with its reason.
                    if isinstance(result, OSError):
                        entries.append(path, size, mtime_ns, self._build)
                    else:
                        seen = (result.size, result.mtime_ns)
                        entries.append(path, *seen, self._build, hash_=result.hash, racy=result.is_racy)
                yield entries

    def _look_closer(self, comparison: Comparison, touched: list[ShardRef]) -> Generator[HashedFile | OSError]:
        """Return the hashes of the files of which only the content can tell, in the order of shards and places."""
        n_looks = sum(comparison.shards[ref.shard].seen.count(LOOK) for ref in touched)
        processes = 0 if n_looks <= FEW_FILES else self._processes or self._config.processes

        def paths() -> Iterator[str]:
            for ref in touched:
                _end_if_stopped(self._progress)
                changes = comparison.shards[ref.shard]
                if LOOK not in changes.seen:
                    continue
                entries = self._read_entries(ref, comparison)
                for place in _places_of(changes, LOOK):
                    if self._needs_hash(entries, place, changes):
                        yield self._absolute(entries.paths[place])

        return hash_files(paths(), processes)

    def _read_entries(self, ref: ShardRef, comparison: Comparison) -> Entries:
        """Return the entries that a shard was compared by; they may be changed."""
        known = comparison.known.get(ref.shard)
        return read_shard_file(self._job.folders.shards, ref) if known is None else known.between(0, len(known))

    def _needs_hash(self, entries: Entries, place: int, changes: ShardChanges) -> bool:
        if not self._hashes:
            return False
        if self._processes:
            return True  # `r3po build` hashes everything
        size, _ = changes.look_at(place)
        is_anew = entries.deleted[place] and self._config.on_deleted == "drop"
        return entries.hashes[place] is not None and size == entries.sizes[place] and not is_anew

    def _settle(self, entries: Entries, changes: ShardChanges, looks: Iterator[HashedFile | OSError]) -> bool:
        """Let the entries say what the walk found. Returns whether they say something else now."""
        is_changed = False
        for place in _places_of(changes, ABSENT):
            if not entries.deleted[place]:
                entries.deleted[place] = is_changed = True
                self.found.n_deleted += 1
        for place in _places_of(changes, LOOK):
            hashed = next(looks) if self._needs_hash(entries, place, changes) else None
            is_changed = self._settle_look(entries, place, changes.look_at(place), hashed) or is_changed
        return is_changed

    def _settle_look(
        self, entries: Entries, place: int, look: tuple[int, int], hashed: HashedFile | OSError | None
    ) -> bool:
        """The same for one file that has another size or mtime, was gone, or may have changed within its mtime."""
        size, mtime_ns = look
        hash_, is_racy = None, False
        if isinstance(hashed, HashedFile):
            hash_, size, mtime_ns, is_racy = hashed
        known = (entries.sizes[place], entries.mtimes_ns[place])
        was_deleted = entries.deleted[place]
        entries.deleted[place] = False
        if hash_ is not None and entries.hashes[place] is not None:
            is_same = hash_ == entries.hashes[place]
        else:
            is_same = (size, mtime_ns) == known and hashed is None
        if was_deleted and (self._config.on_deleted == "drop" or not is_same):
            is_same = False  # its outcome went with it
            self.found.n_returned += 1
        elif was_deleted:
            self.found.n_returned += 1
        elif not is_same:
            self.found.n_changed += 1
        elif (size, mtime_ns) != known:
            self.found.n_touched += 1
        elif is_racy == entries.racy[place]:
            return False
        entries.sizes[place], entries.mtimes_ns[place], entries.racy[place] = size, mtime_ns, is_racy
        if not is_same:
            entries.hashes[place], entries.builds[place] = hash_, self._build
        return True

    def _absolute(self, path: str) -> str:
        return os.path.join(self._config.source_path, path)


def _places_of(changes: ShardChanges, what: int) -> list[int]:
    if what not in changes.seen:
        return []
    return [place for place, seen in enumerate(changes.seen) if seen == what]
