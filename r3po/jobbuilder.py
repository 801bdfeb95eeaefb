"""Building: the walk, compared with the manifest, becomes the next manifest.

A build writes new shard files first and puts the manifest in force last, so that a build that dies leaves the old one.
What changed or vanished since the last build is noticed and refused; nothing is half handled.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any

from r3po import events
from r3po.commits import KINDS, check_claim, claimed_by
from r3po.config import Config, check_source, load_config
from r3po.errors import DamagedStateError, FolderError, SourceError
from r3po.events import Observer
from r3po.job import Job, disk_errors_told, job_folders, open_job, read_job
from r3po.manifest import Entries, Manifest, ShardRef, iter_entries, new_job_id, read_shard_file, write_shard_file
from r3po.reset import reset_job
from r3po.scan import RACY_NS, Found, WalkCounts, count_suffixes, hash_file, hash_files, walk, walk_key
from r3po.storage import JobFolders, JobLock, list_names, show_name


class BuildStopped(BaseException):
    """The build was asked to stop; nothing was changed."""


@dataclass(slots=True)
class BuildProgress:
    """What other threads may watch while a build goes on."""

    n_files: int = 0
    has_work: Flag = field(default_factory=Flag)
    """Set once a new file was found."""
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[int], None] = lambda n_files: None
    """Called with the number of files now and then, by the thread that builds."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A manifest that is ready to be put in force."""

    manifest: Manifest
    is_changed: bool
    n_new: int
    counts: WalkCounts


def build_jobs(config: str | os.PathLike[str]) -> Manifest:
    """Make or extend the manifest of a job, hashing new files with `processes` processes, and return it.

    Equal to `r3po build CONFIG`. No Ray is started and f is not needed. Unchanged files are not opened.

    Raises:
        R3poError: of the kinds ConfigError, SourceError, FolderError, StateError or LockedError; nothing was changed.
    """
    return build_job(load_config(config), events.ignore)


def build_job(config: Config, observer: Observer) -> Manifest:
    """See `build_jobs`; tells `observer` what it finds."""
    progress = BuildProgress(tell=lambda n_files: observer(events.ScanProgressed(n_files)))
    check_source(config)
    with open_job(config) as job:
        observer(events.JobOpened(config.job_name, str(config.path), ""))
        for notice in config.notices:
            observer(events.Notice(notice))
        result = plan_build(job, progress, processes=config.processes)
        apply_build(job, result)
        observer(scan_finished(job, result))
        return job.built


def plan_build(job: Job, progress: BuildProgress, processes: int = 0) -> BuildResult:
    """Walk the source, write the shard files that are new, and return the manifest that names them.

    Args:
        processes: hash new files now, in so many processes; 0 leaves that to the run, which reads them anyway.

    Raises:
        SourceError: a folder cannot be read, no file matches, or files of the manifest changed or vanished.
        BuildStopped: `progress.stop` said so.
    """
    config = job.config
    counts = WalkCounts()
    changes = _Changes()
    found = walk(
        config.source_path, config.source_file_part, skip=(config.working_dir, config.output_path), counts=counts
    )
    new_files = _new_files(job, _watched(found, progress), changes)
    writer = _ShardWriter(job, processes)
    n_new = writer.write(_announced(new_files, changes, progress))
    _refuse_changes(job, changes, progress.n_files)
    if progress.n_files == 0:
        raise _no_file(config)
    count_all_files = progress.n_files + counts.other
    if n_new == 0:
        return BuildResult(job.built, False, 0, counts)
    return BuildResult(writer.manifest(count_all_files), True, n_new, counts)


def apply_build(job: Job, result: BuildResult) -> None:
    """Put the new manifest in force, if there is one."""
    if result.is_changed:
        job.put_in_force(result.manifest)


def scan_finished(job: Job, result: BuildResult) -> events.ScanFinished:
    counts = result.counts
    passed_over = {
        "hidden": counts.hidden,
        "linked folders": counts.linked_folders,
        "not regular files": counts.irregular,
    }
    return events.ScanFinished(
        source=str(job.config.source_path),
        suffix=job.config.source_file_part,
        n_files=job.built.count_job_files,
        size_bytes=job.built.size_bytes,
        n_new=result.n_new,
        passed_over={reason: n for reason, n in passed_over.items() if n},
    )


def reset_all_errors(config: str | os.PathLike[str]) -> int:
    """Let the next run try every failed file again. Returns how many files that are.

    Equal to `r3po reset CONFIG --errors`; rows stay as they are.
    """
    with open_job(load_config(config)) as job:
        if job.manifest is None:
            return 0
        n_failed = sum(state.n_failed for state in job.resolve(None).values())
        if n_failed:
            job.raise_build(retry=True)
        return n_failed


def reset_all_tracking(config: str | os.PathLike[str]) -> int:
    """Forget the job: remove its state, and the parts that its commits name. Returns how many parts were removed.

    Equal to `r3po reset CONFIG --all`. Files that r3po did not write stay, and the source is never touched.
    """
    loaded = load_config(config)
    folders = job_folders(loaded)
    _refuse_unknown_parts(folders)
    if not folders.working_dir.is_dir():
        return 0
    with JobLock(folders.working_dir), disk_errors_told():
        job_id = _check_ours(loaded)
        return reset_job(folders, job_id)


# Private


def _refuse_unknown_parts(folders: JobFolders) -> None:
    """Without commits nobody knows whose the parts are; to forget the claim, too, would leave them in the way."""
    if any(name.endswith(".json") for name in list_names(folders.commits)) or folders.manifest.exists():
        return
    if any(name.startswith("part-") for kind in KINDS for name in list_names(folders.data(kind))):
        raise FolderError(
            "there are parts here, but the state that knows of them is gone",
            where=folders.output_path,
            hint="remove this folder by hand, then reset again; or give the job another output_path",
        )


# Private: comparing the walk with the manifest

_SHOWN = 5


@dataclass(slots=True)
class _Changes:
    """What this version cannot follow; only the first few are kept by name."""

    n_changed: int = 0
    n_gone: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, what: str, path: str) -> None:
        if what == "changed":
            self.n_changed += 1
        else:
            self.n_gone += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{what:8} {show_name(path)}")

    def __bool__(self) -> bool:
        return bool(self.n_changed or self.n_gone)


def _new_files(job: Job, found: Iterable[Found], changes: _Changes) -> Iterator[Found]:
    """Yield the files that the manifest does not have, and note in `changes` those that are not as it says."""
    known = _known_files(job)
    entry = next(known, None)
    for file in found:
        while entry is not None and _path(entry) != file.path:
            if walk_key(_path(entry)) > walk_key(file.path):
                break
            changes.add("gone", _path(entry))
            entry = next(known, None)
        if entry is None or _path(entry) != file.path:
            yield file
            continue
        if _is_changed(job, entry, file):
            changes.add("changed", file.path)
        entry = next(known, None)
    while entry is not None:
        changes.add("gone", _path(entry))
        entry = next(known, None)


_Known = tuple[int, Entries, int]
"""A file of the manifest: shard, the shard's entries, place."""


def _path(entry: _Known) -> str:
    return entry[1].paths[entry[2]]


def _known_files(job: Job) -> Iterator[_Known]:
    """Yield the manifest's files in walk order: each build appended one sorted stretch, so these are merged."""
    if job.manifest is None:
        return iter(())
    starts = job.manifest.sorted_runs
    stops = (*starts[1:], job.manifest.count_job_files)
    stretches = [
        iter_entries(job.folders.shards, job.manifest.shards, start, stop)
        for start, stop in zip(starts, stops, strict=True)
    ]
    if len(stretches) == 1:
        return stretches[0]
    return heapq.merge(*stretches, key=_entry_key)


def _entry_key(entry: _Known) -> Any:
    return walk_key(_path(entry))


def _is_changed(job: Job, entry: _Known, file: Found) -> bool:
    shard, entries, place = entry
    commit = job.commits.get(shard)
    if commit is None or entries.builds[place] > commit.build:
        return False  # the entry is from a walk; the commit will say what f saw, and then the two are compared
    if (entries.sizes[place], entries.mtimes_ns[place]) != (file.size, file.mtime_ns):
        return True
    hash_ = entries.hashes[place]
    if not entries.racy[place] or hash_ is None:
        return False
    # Size and mtime prove nothing here: the entry was made within two seconds of the mtime.
    try:
        return hash_file(os.path.join(job.config.source_path, file.path)).hash != hash_
    except OSError:
        return True


def _refuse_changes(job: Job, changes: _Changes, n_found: int) -> None:
    if not changes:
        return
    n_files = job.built.count_job_files
    source = show_name(str(job.config.source_path))
    if n_found == 0 or changes.n_gone * 2 > n_files:
        raise SourceError(
            f"{changes.n_gone:,} of {n_files:,} files of this job are gone from {source}; nothing was changed",
            evidence="\n".join(changes.shown),
            hint="is the disk mounted?",
        )
    parts = [
        f"{n:,} {'file' if n == 1 else 'files'} of this job {what}"
        for n, what in (
            (changes.n_changed, "changed since it was listed" if changes.n_changed == 1 else "changed since"),
            (changes.n_gone, "is gone" if changes.n_gone == 1 else "are gone"),
        )
        if n
    ]
    raise SourceError(
        f"{' and '.join(parts)}; this version does not follow changed files yet, and nothing was changed",
        where=source,
        evidence="\n".join(changes.shown),
        hint="r3po run --no-build goes on with the files as they are listed; rows that were made stay as they are\n"
        "r3po reset --all, then r3po run, makes the job anew",
    )


def _no_file(config: Config) -> SourceError:
    suffix = config.source_file_part
    others = list(count_suffixes(config.source_path).items())[:3]
    named = ", ".join(f'{n:,} {"file ends" if n == 1 else "files end"} with "{other}"' for other, n in others)
    return SourceError(
        f'no file under {show_name(str(config.source_path))} ends with "{suffix}"',
        hint=named or "the folder is empty, but for hidden names and linked folders",
    )


# Private: watching


def _watched(found: Iterable[Found], progress: BuildProgress) -> Iterator[Found]:
    for file in found:
        progress.n_files += 1
        if progress.n_files % 1000 == 0:
            progress.tell(progress.n_files)
            if progress.stop():
                raise BuildStopped
        yield file


def _announced(new_files: Iterable[Found], changes: _Changes, progress: BuildProgress) -> Iterator[Found]:
    for file in new_files:
        if not changes:
            progress.has_work.set()
        yield file


# Private: writing shard files


class _ShardWriter:
    """Puts new files into the last shard, then into new ones; names nothing until it is asked for the manifest."""

    def __init__(self, job: Job, processes: int) -> None:
        self._job, self._config = job, job.config
        self._processes = processes if job.config.hash == "content" else 0
        self._build = job.manifest.build + 1 if job.manifest else 1
        self._refs: list[ShardRef] = list(job.manifest.shards) if job.manifest else []
        self._n_known = job.manifest.count_job_files if job.manifest else 0

    def write(self, new_files: Iterable[Found]) -> int:
        """Write shard files for all new files. Returns how many files that were."""
        n_new = 0
        entries: Entries | None = None
        for entry in self._entries(new_files):
            if entries is None:
                entries = self._last_shard()
            entries.append(*entry[:3], self._build, hash_=entry[3], racy=entry[4])
            n_new += 1
            if len(entries) >= self._config.shard_size:
                self._flush(entries)
                entries = Entries()
        if entries is not None and len(entries):
            self._flush(entries)
        return n_new

    def manifest(self, count_all_files: int) -> Manifest:
        old = self._job.manifest
        if old is not None:
            return old.replace(
                build=self._build,
                hash=self._config.hash,
                count_all_files=count_all_files,
                sorted_runs=(*old.sorted_runs, self._n_known),
                shards=tuple(self._refs),
            )
        return Manifest(
            job_id=new_job_id(),
            job_name=self._config.job_name,
            build=self._build,
            redo_since=1,
            retry_since=1,
            source_path=str(self._config.source_path),
            source_file_part=self._config.source_file_part,
            output_path=str(self._config.output_path),
            hash=self._config.hash,
            count_all_files=count_all_files,
            sorted_runs=(0,),
            shards=tuple(self._refs),
        )

    def _entries(self, new_files: Iterable[Found]) -> Iterator[tuple[str, int, int, bytes | None, bool]]:
        if not self._processes:
            for file in new_files:
                yield *file, None, False
            return
        pending: list[Found] = []
        source = str(self._config.source_path)

        def paths() -> Iterator[str]:
            for file in new_files:
                pending.append(file)
                yield os.path.join(source, file.path)

        done = 0
        for hashed in hash_files(paths(), self._processes):
            file = pending[done]
            done += 1
            if done >= 10_000:  # what is hashed need not be kept
                del pending[:done]
                done = 0
            # A file that cannot be read stays unhashed: it will be a failure of the run, with its reason.
            size, mtime_ns, hash_ = (
                (file.size, file.mtime_ns, None)
                if isinstance(hashed, OSError)
                else (hashed.size, hashed.mtime_ns, hashed.hash)
            )
            yield file.path, size, mtime_ns, hash_, hash_ is not None and mtime_ns > time.time_ns() - RACY_NS

    def _last_shard(self) -> Entries:
        if not self._refs or self._refs[-1].n_files >= self._config.shard_size:
            return Entries()
        return read_shard_file(self._job.folders.shards, self._refs.pop())

    def _flush(self, entries: Entries) -> None:
        folder: Path = self._job.folders.shards
        self._refs.append(write_shard_file(folder, len(self._refs), self._build, entries))


# Private: forgetting


def _check_ours(config: Config) -> str | None:
    """See that state and output are this job's, and return its id, if it can be known.

    This is the way out of damaged state, so damage is no obstacle.

    Raises:
        FolderError: working_dir or output_path belongs to another job.
    """
    folders = job_folders(config)
    job_id = None
    with suppress(DamagedStateError):
        job = read_job(config)
        job_id = None if job.manifest is None else job.manifest.job_id
    if job_id is None:
        job_id = claimed_by(folders, from_here=True)
    with suppress(DamagedStateError):
        check_claim(folders, job_id)
    return job_id
