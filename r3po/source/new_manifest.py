"""The shard files of the next build, and the manifest that names them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from threading import Event as Flag

from r3po.file_version import FileVersion
from r3po.source.compare import ABSENT, MOVED, Comparison, ShardChanges
from r3po.source.sources import File, Source
from r3po.source.walk import BLOCK_FILES, Block
from r3po.state.job import Job
from r3po.state.manifest import Manifest, ShardRef, new_job_id
from r3po.state.shard_files import Entries, iter_filled, read_shard_file, write_shard_file

FEW_FILES = 500
"""Up to this many files are hashed in this process; more are worth the start of others."""


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

    def end_if_stopped(self) -> None:
        if self.stop():
            raise BuildStopped


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


class NextManifest:
    """Makes the shard files of the next build; names none of them until it is asked for the manifest.

    Args:
        source: of the job.
        processes: new files and all that may have changed are hashed now, in so many processes; 0: only what has to be.
        is_dry: count only, and write nothing.
    """

    def __init__(self, job: Job, source: Source, processes: int, progress: BuildProgress, *, is_dry: bool) -> None:
        self._source = source
        self._job, self._config, self._progress, self._is_dry = job, job.config, progress, is_dry
        self._hashes = job.config.hash == "content"
        self._drops_deleted = job.config.on_deleted == "drop"
        self._processes = processes if self._hashes else 0
        self._build = job.manifest.build + 1 if job.manifest else 1
        self._refs: list[ShardRef] = list(job.manifest.shards) if job.manifest else []
        self._last_known = len(self._refs) - 1
        self._tail = Entries()
        """New files that go into the last of the known shards."""
        self._has_rewritten = False
        self.found = FileCounts()

    def add_files(self, new_files: Iterable[Block]) -> None:
        """Put new files into the last shard, then into new ones."""
        if self._is_dry:
            self.found.n_new += sum(map(len, new_files))
            return
        folder, size = self._job.folders.shards, self._config.shard_size
        free = size - self._refs[-1].n_files if self._refs else 0
        shards = iter_filled(self._described(new_files), free if free > 0 else size, size)
        if free > 0:
            self._tail = next(shards, self._tail)
        for entries in shards:
            self._refs.append(write_shard_file(folder, len(self._refs), self._build, entries))
        self.found.n_new = len(self._tail) + sum(ref.n_files for ref in self._refs[self._last_known + 1 :])

    def change_files(self, comparison: Comparison) -> None:
        """Write the known shards again whose files changed, went, came back, or get company."""
        touched = comparison.touched_shards
        shards = [ref.shard for ref in touched]
        if len(self._tail) and self._last_known not in shards:
            shards.append(self._last_known)
        with closing(self._hash_moved(comparison, touched)) as hashed:
            for shard in shards:
                self._progress.end_if_stopped()
                entries = self._read_entries(self._refs[shard], comparison)
                is_changed = self._settle_shard(entries, comparison.shards[shard], hashed)
                if shard == self._last_known and len(self._tail):
                    entries.extend(self._tail)
                    is_changed = True
                if is_changed and not self._is_dry:
                    self._refs[shard] = write_shard_file(self._job.folders.shards, shard, self._build, entries)
                    self._has_rewritten = True

    def manifest(self, count_all_files: int) -> Manifest:
        """Return the next manifest; the one in force, the very object, if there is nothing to say."""
        old, config = self._job.manifest, self._config
        source_path, selection = str(config.source_path), config.selection
        if old is None:
            return Manifest(
                job_id=new_job_id(),
                job_name=config.job_name,
                build=self._build,
                redo_since=1,
                retry_since=1,
                source_path=source_path,
                selection=selection,
                output_path=str(config.output_path),
                hash=config.hash,
                count_all_files=count_all_files,
                sorted_spans=(0,),
                shards=tuple(self._refs),
            )
        is_moved = (old.source_path, old.selection) != (source_path, selection)
        if self._is_dry or not (self.found.n_new or self._has_rewritten or is_moved):
            return old
        return old.replace(
            build=self._build,
            hash=config.hash,
            count_all_files=count_all_files,
            sorted_spans=(*old.sorted_spans, old.n_places) if self.found.n_new else old.sorted_spans,
            source_path=source_path,
            selection=selection,
            shards=tuple(self._refs),
        )

    # Private methods: new files

    def _described(self, new_files: Iterable[Block]) -> Iterator[Entries]:
        """Yield new files as entries, in blocks; hashed, if that is due now."""
        if not self._processes:
            for block in new_files:
                yield Entries.listed(block, self._build)
            return
        pending: deque[tuple[str, int, int, str]] = deque()

        def files() -> Iterator[File]:
            for block in new_files:
                for file in block:
                    pending.append(file)
                    path, size, mtime_ns, tag = file
                    yield path, FileVersion(size, mtime_ns, tag=tag)

        with closing(self._source.hashes(files(), self._processes)) as results:
            while hashed := list(islice(results, BLOCK_FILES)):
                entries = Entries.listed([pending.popleft() for _ in hashed], self._build)
                for place, version in enumerate(hashed):
                    # A file that cannot be read stays unhashed: it will be a failure of the run, with its reason.
                    if isinstance(version, FileVersion):
                        entries.set_version(place, version)
                yield entries

    # Private methods: files of the manifest

    def _hash_moved(self, comparison: Comparison, touched: list[ShardRef]) -> Generator[FileVersion | OSError]:
        """Return the versions of the files of which only the content can tell, in the order of shards and places."""
        n_moved = sum(comparison.shards[ref.shard].seen.count(MOVED) for ref in touched)
        processes = 0 if n_moved <= FEW_FILES else self._processes or self._config.processes

        def files() -> Iterator[File]:
            for ref in touched:
                self._progress.end_if_stopped()
                changes = comparison.shards[ref.shard]
                places = changes.places(MOVED)
                entries = self._read_entries(ref, comparison) if places else Entries()
                for place in places:
                    if self._needs_hash(entries, place, changes):
                        yield entries.paths[place], changes.version_at(place)

        return self._source.hashes(files(), processes)

    def _read_entries(self, ref: ShardRef, comparison: Comparison) -> Entries:
        """Return the entries that a shard was compared by; they may be changed."""
        known = comparison.known.get(ref.shard)
        return read_shard_file(self._job.folders.shards, ref) if known is None else known.between(0, len(known))

    def _needs_hash(self, entries: Entries, place: int, changes: ShardChanges) -> bool:
        if not self._hashes or self._processes:
            return self._hashes  # `r3po build` hashes everything
        is_new_again = entries.deleted[place] and self._drops_deleted
        is_same_size = changes.version_at(place).size == entries.sizes[place]
        return entries.hashes[place] is not None and is_same_size and not is_new_again

    def _settle_shard(self, entries: Entries, changes: ShardChanges, hashed: Iterator[FileVersion | OSError]) -> bool:
        """Let the entries say what the walk found. Returns whether they say something else now."""
        is_changed = False
        for place in changes.places(ABSENT):
            if not entries.deleted[place]:
                entries.deleted[place] = is_changed = True
                self.found.n_deleted += 1
        for place in changes.places(MOVED):
            version = next(hashed) if self._needs_hash(entries, place, changes) else None
            is_changed |= self._settle_file(entries, place, changes.version_at(place), version)
        return is_changed

    def _settle_file(
        self, entries: Entries, place: int, walked: FileVersion, hashed: FileVersion | OSError | None
    ) -> bool:
        """Let the entry of a file with the mark MOVED say what it is now. Returns whether it says something else.

        Args:
            walked: the version that the walk saw.
            hashed: the version whose content was hashed, or why it could not be; None: hashing was not due.
        """
        version = hashed if isinstance(hashed, FileVersion) else walked
        known, was_deleted = entries.version_at(place), entries.deleted[place]
        if version.hash is not None and known.hash is not None:
            is_same = version.hash == known.hash
        else:
            is_same = version.is_like(known) and hashed is None
        if was_deleted:
            is_same = is_same and not self._drops_deleted  # else its outcome went with it
            self.found.n_returned += 1
        elif not is_same:
            self.found.n_changed += 1
        elif not version.is_like(known):
            self.found.n_touched += 1
        elif version.is_racy == known.is_racy:
            return False
        entries.deleted[place] = False
        entries.set_version(place, version._replace(hash=known.hash) if is_same else version)
        if not is_same:
            entries.builds[place] = self._build
        return True
