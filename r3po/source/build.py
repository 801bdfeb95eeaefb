"""Building: the walk, compared with the manifest, becomes the next manifest.

A build writes new shard files first and puts the manifest in force last, so that a build that dies leaves the old one.
What an entry says decides what is done: a new or changed file gets the build's number, so that no earlier outcome
counts for it; a file that is gone keeps its place and is marked; one that was only touched keeps its outcome.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from threading import Event as Flag

from r3po import events
from r3po.config.settings import Config, check_source
from r3po.errors import SourceError
from r3po.events import Observer
from r3po.source.compare import ABSENT, LOOK, SHOWN, Comparison, ShardChanges
from r3po.source.walk import BLOCK_FILES, Block, HashedFile, WalkCounts, count_suffixes, hash_files, walk_blocks
from r3po.state.job import Job, open_job, read_again, read_job
from r3po.state.manifest import Entries, Manifest, ShardRef, new_job_id, read_shard_file, write_shard_file
from r3po.state.segments import list_segments
from r3po.state.shards import ShardState, find_unredone_rows
from r3po.storage.durable import show_name

FEW_FILES = 500
"""So many files are hashed here; more are worth the start of other processes."""

TELL_FILES = 1000
"""Between two words on how far the walk is."""


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
    n_gone: int = 0
    n_returned: int = 0

    def __bool__(self) -> bool:
        return bool(self.n_new or self.n_changed or self.n_touched or self.n_gone or self.n_returned)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A manifest that is ready to be put in force."""

    manifest: Manifest
    is_changed: bool
    found: FileCounts
    counts: WalkCounts
    n_files: int
    """That the walk found."""
    size_bytes: int | None
    """Of these; None: some of them were listed without a look."""


def build_job(config: Config, observer: Observer, *, accept_deletions: bool = False) -> Manifest:
    """See `build_jobs`; tells `observer` what it finds."""
    progress = BuildProgress(tell=lambda n_files: observer(events.ScanProgressed(n_files)))
    check_source(config)
    with open_job(config) as job:
        observer(events.JobOpened(config.job_name, str(config.path), ""))
        for notice in config.notices:
            observer(events.Notice(notice))
        tell_moved_source(job, observer)
        result = plan_build(
            job,
            progress,
            processes=config.processes,
            walk_processes=config.processes,
            accept_deletions=accept_deletions,
        )
        apply_build(job, result)
        observer(scan_finished(job, result))
        return job.built


def preview_build(config: Config, fingerprint: str | None, observer: Observer) -> dict[str, int]:
    """Return what a run would find and do, without a lock and without changing anything.

    Args:
        fingerprint: of today's function, to tell which failures would be tried again; None: none of them.

    Returns:
        Counts of files: new, changed, touched, deleted, returned, unchanged, to_retry (failed under other code), failed
        (and left alone), pending (listed before, without an outcome yet).

    Raises:
        R3poError: what a build would raise, too.
    """
    progress = BuildProgress(tell=lambda n_files: observer(events.ScanProgressed(n_files)))
    check_source(config)
    job, result, standing, today = read_again(lambda: _look_ahead(config, fingerprint, progress))
    observer(scan_finished(job, result))
    n_pending = sum(state.n_pending for state in standing)
    n_to_retry = sum(state.n_pending for state in today) - n_pending
    found = result.found
    return {
        "new": found.n_new,
        "changed": found.n_changed,
        "touched": found.n_touched,
        "deleted": found.n_gone,
        "returned": found.n_returned,
        "unchanged": result.n_files - found.n_new - found.n_changed - found.n_touched - found.n_returned,
        "to_retry": n_to_retry,
        "failed": sum(state.n_failed for state in standing) - n_to_retry,
        "pending": n_pending,
    }


def plan_build(
    job: Job,
    progress: BuildProgress,
    processes: int = 0,
    *,
    walk_processes: int = 0,
    needs_looks: bool = True,
    accept_deletions: bool = False,
    is_dry: bool = False,
) -> BuildResult:
    """Walk the source, write the shard files that change, and return the manifest that names them.

    Args:
        processes: hash new and changed files now, in so many processes; 0 leaves that to the run, which reads them
            anyway. Files that may only have been touched are hashed in any case.
        walk_processes: see `walk_blocks`.
        needs_looks: False: the first build of a job may leave the look at a file to whoever reads it.
        accept_deletions: go on although more than half of the job's files are gone, or all.
        is_dry: write nothing; the manifest is the one in force.

    Raises:
        SourceError: a folder cannot be read, no file matches, or too many files are gone.
        BuildStopped: `progress.stop` said so.
    """
    config = job.config
    counts = WalkCounts()
    known = {} if job.manifest is None else job.entries_seen_since()
    comparison = Comparison(job.folders.shards, job.manifest, known)
    build = _Build(job, processes, progress, is_dry=is_dry)
    with closing(
        walk_blocks(
            config.source_path,
            config.source_file_part,
            skip=(config.working_dir, config.output_path),
            counts=counts,
            processes=walk_processes,
            needs_looks=needs_looks or job.manifest is not None,
        )
    ) as blocks:
        build.add_files(_announced(comparison.iter_new(_watched(blocks, progress, comparison)), progress))
    _check_found(job, comparison, accept_deletions)
    build.change_files(comparison)
    if not accept_deletions:
        _check_redo(job, build.manifest(0))
    count_all_files = comparison.n_found + counts.other
    manifest = build.manifest(count_all_files)
    return BuildResult(
        manifest=manifest,
        is_changed=manifest is not job.manifest,
        found=build.found,
        counts=counts,
        n_files=comparison.n_found,
        size_bytes=None if comparison.n_unseen else comparison.size_bytes,
    )


def apply_build(job: Job, result: BuildResult) -> None:
    """Put the new manifest in force, if there is one."""
    if result.is_changed:
        job.put_in_force(result.manifest)


def tell_moved_source(job: Job, observer: Observer) -> None:
    """Say what it means that the config names another source than the manifest, if it does."""
    config, known = job.config, job.manifest
    if known is None or (known.source_path, known.source_file_part) == (
        str(config.source_path),
        config.source_file_part,
    ):
        return
    if known.source_path != str(config.source_path):
        text = f"the source was {show_name(known.source_path)}; files of the same relative path, size and mtime keep "
        text += "their rows, and whatever these say of the old path"
    else:
        text = f'source_file_part was "{known.source_file_part}"; files that end otherwise are gone from the job'
    observer(events.Notice(text, hint="r3po run --redo makes all rows anew"))


def scan_finished(job: Job, result: BuildResult) -> events.ScanFinished:
    counts, found = result.counts, result.found
    passed_over = {
        "hidden": counts.hidden,
        "linked folders": counts.linked_folders,
        "not regular files": counts.irregular,
    }
    return events.ScanFinished(
        source=str(job.config.source_path),
        suffix=job.config.source_file_part,
        n_files=result.n_files,
        size_bytes=result.size_bytes,
        n_new=found.n_new,
        n_changed=found.n_changed,
        n_touched=found.n_touched,
        n_gone=found.n_gone,
        n_returned=found.n_returned,
        passed_over={reason: n for reason, n in passed_over.items() if n},
    )


# Private: a look ahead


def _look_ahead(
    config: Config, fingerprint: str | None, progress: BuildProgress
) -> tuple[Job, BuildResult, list[ShardState], list[ShardState]]:
    """Return the job, what a build would find, and how the shards stand, for any function and for today's."""
    job = read_job(config)
    if job.manifest is not None:
        job.manifest = job.built.replace(shards=job.adopted_shards)  # as a run does at its start
    # Whatever the guards would say: this is how to find out.
    result = plan_build(job, progress, walk_processes=config.processes, accept_deletions=True, is_dry=True)
    if job.manifest is None:
        return job, result, [], []
    return job, result, list(job.resolve(None).values()), list(job.resolve(fingerprint).values())


# Private: watching


def _watched(blocks: Iterable[Block], progress: BuildProgress, comparison: Comparison) -> Iterator[Block]:
    told = 0
    for block in blocks:
        progress.n_files += len(block)
        if progress.n_files - told >= TELL_FILES:
            told = progress.n_files
            progress.tell(told)
        if comparison.has_resized:
            progress.has_work.set()
        _end_if_stopped(progress)
        yield block


def _announced(new_files: Iterable[Block], progress: BuildProgress) -> Iterator[Block]:
    for block in new_files:
        progress.has_work.set()
        yield block


def _end_if_stopped(progress: BuildProgress) -> None:
    if progress.stop():
        raise BuildStopped


# Private: guards


def _check_found(job: Job, comparison: Comparison, accept_deletions: bool) -> None:
    """Refuse what looks like a disk that is not mounted rather than like files that were deleted."""
    n_files = job.manifest.count_job_files if job.manifest is not None else 0
    n_gone = comparison.n_gone
    if comparison.n_found == 0 and n_files == 0:
        raise _no_file(job.config)
    if n_gone * 2 > n_files and not accept_deletions:
        config = job.config
        source = show_name(str(config.source_path))
        if job.built.source_file_part != config.source_file_part:
            source += f' with the new source_file_part "{config.source_file_part}"'
        raise SourceError(
            f"{n_gone:,} of {n_files:,} files of this job are gone from {source}; nothing was changed",
            evidence="\n".join(f"gone  {path}" for path in comparison.shown),
            hint="is the disk mounted? r3po run --accept-deletions goes on without them"
            + ("" if config.on_deleted == "keep" else ", and removes their rows"),
        )


def _check_redo(job: Job, built: Manifest) -> None:
    """Refuse to drop what `on_deleted: keep` would keep, if a redo had not begun to make all rows anew."""
    if job.manifest is None or not job.built.is_redoing or job.config.on_deleted != "keep":
        return
    listed = list_segments(job.folders.segments, job.built.job_id)
    lost: list[str] = []
    for refs in zip(job.built.shards, built.shards, strict=False):  # those that are new have lost nothing
        old, new = refs
        if new.n_gone and new != old:
            commit, segments = job.commits.get(old.shard), listed.get(old.shard, ())
            places = find_unredone_rows(job.folders, refs, commit, segments, job.rules())
            paths = read_shard_file(job.folders.shards, new).paths if places else []
            lost += [show_name(paths[place]) for place in places]
    if lost:
        rows = "1 file is" if len(lost) == 1 else f"{len(lost):,} files are"
        raise SourceError(
            f"{rows} gone of which a redo under way has not made the row again; nothing was changed",
            evidence="\n".join(f"gone  {path}" for path in lost[:SHOWN]),
            hint="r3po run --accept-deletions goes on without them, and without the rows that on_deleted: keep kept",
        )


def _no_file(config: Config) -> SourceError:
    suffix = config.source_file_part
    others = list(count_suffixes(config.source_path).items())[:3]
    named = ", ".join(f'{n:,} {"file ends" if n == 1 else "files end"} with "{other}"' for other, n in others)
    return SourceError(
        f'no file under {show_name(str(config.source_path))} ends with "{suffix}"',
        hint=named or "the folder is empty, but for hidden names and linked folders",
    )


# Private: writing shard files


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
                sorted_runs=(0,),
                shards=tuple(self._refs),
            )
        is_moved = (old.source_path, old.source_file_part) != (source_path, source_file_part)
        if self._is_dry or not (self.found.n_new or self._has_rewritten or is_moved):
            return old
        return old.replace(
            build=self._build,
            hash=config.hash,
            count_all_files=count_all_files,
            sorted_runs=(*old.sorted_runs, old.n_places) if self.found.n_new else old.sorted_runs,
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
        is_anew = entries.gone[place] and self._config.on_deleted == "drop"
        return entries.hashes[place] is not None and size == entries.sizes[place] and not is_anew

    def _settle(self, entries: Entries, changes: ShardChanges, looks: Iterator[HashedFile | OSError]) -> bool:
        """Let the entries say what the walk found. Returns whether they say something else now."""
        is_changed = False
        for place in _places_of(changes, ABSENT):
            if not entries.gone[place]:
                entries.gone[place] = is_changed = True
                self.found.n_gone += 1
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
        was_gone = entries.gone[place]
        entries.gone[place] = False
        if hash_ is not None and entries.hashes[place] is not None:
            is_same = hash_ == entries.hashes[place]
        else:
            is_same = (size, mtime_ns) == known and hashed is None
        if was_gone and (self._config.on_deleted == "drop" or not is_same):
            is_same = False  # its outcome went with it
            self.found.n_returned += 1
        elif was_gone:
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
