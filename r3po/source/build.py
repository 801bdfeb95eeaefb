"""Building: the walk, compared with the manifest, becomes the next manifest.

A build writes new shard files first and puts the manifest in force last, so that a build that dies leaves the old one.
What an entry says decides what is done: a new or changed file gets the build's number, so that no earlier outcome
counts for it; a file that was deleted keeps its place and is marked; one that was only touched keeps its outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from r3po import events
from r3po.config.settings import Config
from r3po.errors import SourceError
from r3po.events import Observer
from r3po.source.compare import SHOWN, Comparison
from r3po.source.folders import WalkCounts
from r3po.source.new_manifest import BuildProgress, FileCounts, NextManifest
from r3po.source.sources import Source, check_kind, source_of
from r3po.source.told import changed_keys, no_file_error, tell_moved_source, tell_scan
from r3po.source.walk import Block
from r3po.state.job import Job, open_job, read_again, read_job
from r3po.state.manifest import Manifest
from r3po.state.shard_files import read_shard_file
from r3po.state.shards import ShardState
from r3po.storage.names import show_name
from r3po.text import count_of

TELL_FILES = 1000
"""How many files lie between two words on how far the walk is."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A manifest that is ready to be put in force."""

    manifest: Manifest
    is_changed: bool
    found: FileCounts
    counts: WalkCounts
    n_files: int
    """Files that the walk found."""
    size_bytes: int | None
    """Bytes of these files; None: of some the walk did not ask for the size."""


def build_job(config: Config, observer: Observer, *, accept_deletions: bool = False) -> Manifest:
    """See `build_jobs`; tells `observer` what it finds."""
    progress = BuildProgress(tell=lambda n_files: observer(events.ScanProgressed(n_files)))
    source_of(config).check()
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
        tell_found(job, result, observer)
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
    source_of(config).check()
    job, result, standing, today = read_again(lambda: _preview(config, fingerprint, progress))
    tell_moved_source(job, observer)
    tell_found(job, result, observer)
    n_pending = sum(state.n_pending for state in standing)
    n_to_retry = sum(state.n_pending for state in today) - n_pending
    found = result.found
    return {
        "new": found.n_new,
        "changed": found.n_changed,
        "touched": found.n_touched,
        "deleted": found.n_deleted,
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
    stats_all: bool = True,
    accept_deletions: bool = False,
    is_dry: bool = False,
) -> BuildResult:
    """Walk the source, write the shard files that change, and return the manifest that names them.

    Args:
        processes: hash new and changed files now, in so many processes; 0 leaves that to the run, which reads them
            anyway. Files that may only have been touched are hashed in any case.
        walk_processes: see `walk_blocks`.
        stats_all: False: the first build of a job may leave size and mtime of a file to whoever reads it.
        accept_deletions: go on although more than half of the job's files are gone, or all.
        is_dry: write nothing; the manifest is the one in force.

    Raises:
        SourceError: a folder cannot be read, no file matches, or too many files are gone.
        BuildStopped: `progress.stop` said so.
    """
    config = job.config
    counts = WalkCounts()
    known = {} if job.manifest is None else job.entries_seen_since()
    source = source_of(config)
    if job.manifest is not None:
        check_kind(job.manifest.source_path, config)
    comparison = Comparison(job.folders.shards, job.manifest, known, counts.unreadable, source.order)
    build = NextManifest(job, source, processes, progress, is_dry=is_dry)
    stats_all = stats_all or job.manifest is not None
    with closing(source.blocks(counts, processes=walk_processes, stats_all=stats_all)) as blocks:
        build.add_files(_announced(comparison.iter_new(_watched(blocks, progress, comparison)), progress))
    _check_found(job, source, comparison, counts, accept_deletions)
    build.change_files(comparison)
    if not accept_deletions:
        _check_redo(job, build.manifest(0))
    count_all_files = comparison.n_found + counts.other + counts.excluded
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


def tell_found(job: Job, result: BuildResult, observer: Observer) -> None:
    """Tell what a build found in the source."""
    tell_scan(job, result.n_files, result.size_bytes, result.found, result.counts, observer)


# Private: a preview


def _preview(
    config: Config, fingerprint: str | None, progress: BuildProgress
) -> tuple[Job, BuildResult, list[ShardState], list[ShardState]]:
    """Return the job, what a build would find, and how its shards stand: for any function, and for today's."""
    job = read_job(config)
    if job.manifest is not None:
        job = job.with_manifest(job.built.replace(shards=job.adopted_shards))  # as a run does at its start
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
        progress.end_if_stopped()
        yield block


def _announced(new_files: Iterable[Block], progress: BuildProgress) -> Iterator[Block]:
    for block in new_files:
        progress.has_work.set()
        yield block


# Private: guards


def _check_found(job: Job, source: Source, comparison: Comparison, counts: WalkCounts, accept_deletions: bool) -> None:
    """Refuse what looks like a disk that is not mounted rather than like files that were deleted."""
    n_files = job.manifest.count_job_files if job.manifest is not None else 0
    n_deleted = comparison.n_deleted
    if comparison.n_found == 0 and n_files == 0:
        raise no_file_error(job.config, source, counts)
    if n_deleted * 2 > n_files and not accept_deletions:
        config = job.config
        changed = changed_keys(job.built, config)
        likely = "is the disk mounted?" if config.source_url is None else "is it the right bucket?"
        if changed:
            likely = f"{' and '.join(changed)}; if that is meant,"
        dropped = "" if config.on_deleted == "keep" else ", and removes their rows"
        raise SourceError(
            f"{n_deleted:,} of {n_files:,} files of this job are gone from {config.shown_source}"
            f"{f' with the new {_keys_of(changed)}' if changed else ''}; nothing was changed",
            evidence="\n".join(f"gone  {path}" for path in comparison.shown),
            hint=f"{likely} r3po run --accept-deletions goes on without them{dropped}",
        )


def _keys_of(changed: list[str]) -> str:
    return " and ".join(dict.fromkeys(words.split(maxsplit=1)[0] for words in changed))


def _check_redo(job: Job, built: Manifest) -> None:
    """Refuse to drop what `on_deleted: keep` would keep, if a redo had not begun to make all rows again.

    Whether there was a row before is not asked: the outcomes of before may be of other places.
    """
    if job.manifest is None or not job.built.is_redoing or job.config.on_deleted != "keep":
        return
    lost: list[str] = []
    for shard, new in zip(job.iter_shards(), built.shards, strict=False):  # those that are new have lost nothing
        if new.n_deleted and new != shard.ref:
            places = shard.find_undone(new, job.rules())
            paths = read_shard_file(job.folders.shards, new).paths if places else []
            lost += [show_name(paths[place]) for place in places]
    if lost:
        files = count_of(len(lost), "file is", "files are")
        raise SourceError(
            f"{files} gone that a redo under way had not done again; nothing was changed",
            evidence="\n".join(f"gone  {path}" for path in lost[:SHOWN]),
            hint="r3po run --accept-deletions goes on without them, and without the rows that on_deleted: keep kept",
        )
