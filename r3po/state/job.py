"""A job opened: its config, folders, manifest and commits together, and the checks that they belong to each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import r3po.table.outcomes as tables
from r3po.config.settings import Config
from r3po.errors import DamagedStateError, FolderError, RunStoppedError
from r3po.file_version import UNKNOWN_VERSION, UNSEEN, FileVersion
from r3po.state.commits import (
    Commit,
    all_parts,
    read_commit,
    read_commits,
    roll_forward,
    sweep_leftovers,
    sweep_outcomes,
    write_commit,
)
from r3po.state.folders import JobFolders
from r3po.state.forget import complete_reset
from r3po.state.former import complete_undo, names_to_keep, set_aside
from r3po.state.manifest import Manifest, ShardRef, columns_path, read_manifest, write_manifest
from r3po.state.output_folder import KINDS
from r3po.state.segments import list_segments, remove_segments, remove_segments_of
from r3po.state.shard_files import Entries
from r3po.state.shards import Shard, ShardState, newer_segments
from r3po.storage.durable import list_names, make_folder, remove_durably, remove_if_there
from r3po.storage.lock import JobLock
from r3po.storage.names import show_name
from r3po.table.columns import PART_BYTES
from r3po.table.predicate import CountingRules

T = TypeVar("T")

READ_TRIES = 5
"""How often a read begins again because a run replaced a file in the middle of it."""


@dataclass(slots=True)
class Job:
    """What is on disk of one job. `manifest` is what the file says; None before the first build."""

    config: Config
    folders: JobFolders
    manifest: Manifest | None
    commits: dict[int, Commit]
    broken_shards: set[int] = dataclasses.field(default_factory=set)
    """Committed shards of which a part is missing or has another size."""

    @property
    def built(self) -> Manifest:
        assert self.manifest is not None, "the job has been built by now"
        return self.manifest

    @property
    def part_settings(self) -> dict[str, Any]:
        """How parts are to be written, as a commit records it."""
        parquet = self.config.parquet
        return {
            "csv": self.config.csv,
            "parquet": False if parquet is None else {"compression": parquet.compression, "level": parquet.level},
            **({} if self.config.part_rows is None else {"part_rows": self.config.part_rows}),
            **({} if self.config.part_bytes == PART_BYTES else {"part_bytes": self.config.part_bytes}),
            **self.config.column_settings.to_json(),
        }

    def rules(self, fingerprint: str | None = None) -> CountingRules:
        keeps_deleted = self.config.on_deleted == "keep"
        return CountingRules(self.built.redo_since, self.built.retry_since, fingerprint, keeps_deleted)

    def with_manifest(self, manifest: Manifest) -> Job:
        """Return the job as it would be with another manifest, for a plan or a preview; not for writing."""
        return dataclasses.replace(self, manifest=manifest, commits=_of_layout(self.commits, manifest))

    def put_in_force(self, manifest: Manifest) -> None:
        """Write `manifest` and claim the output folder; the shard files that it names are durable.

        If it is the beginning of a redo, the job as it was is set aside.
        """
        if self.manifest is not None and manifest.is_redoing and not self.manifest.is_redoing:
            set_aside(self.folders, self.manifest, self.commits.values())
        write_manifest(self.folders.manifest, manifest)
        self.folders.output.write_claim(manifest.job_id, manifest.job_name)
        self.manifest = manifest
        self.drop_former_layout()

    def drop_former_layout(self) -> None:
        """Remove commits whose places had other files, and their parts: a redo has put the files in row order since."""
        self.commits = _of_layout(self.commits, self.built)
        for name in sorted(list_names(self.folders.commits)):
            number = name.removesuffix(".json")
            if not number.isdecimal() or int(number) in self.commits:
                continue
            commit = read_commit(self.folders, name, self.built.job_id)
            if not self.built.is_of_now(commit.build):
                self.folders.output.set_success(())
                self.folders.output.remove_parts(commit.parts)
                remove_durably(self.folders.commits / name)

    def raise_build(self, *, retry: bool = False, redo: bool = False) -> None:
        """Put the next build in force; see `raised`."""
        self.put_in_force(self.raised(retry=retry, redo=redo))

    def raised(self, *, retry: bool = False, redo: bool = False) -> Manifest:
        """Return the manifest of the next build: what is tried again outranks what was there.

        Args:
            retry: failures of earlier builds do not count any more.
            redo: no outcome of an earlier build counts any more.
        """
        build = self.built.build + 1
        since = {name: build for name, is_on in (("retry_since", retry or redo), ("redo_since", redo)) if is_on}
        return self.built.replace(build=build, is_redoing=redo or self.built.is_redoing, **since)

    def note_end(self) -> None:
        """Let the manifest say what the end of a run is: all shard files with their hashes, and no redo under way."""
        was_redoing = self.built.is_redoing
        manifest = self.built.replace(shards=self.adopted_shards, is_redoing=False)
        if manifest != self.built:
            self.put_in_force(manifest)
        if was_redoing:
            self.end_redo()
        self.sweep_columns()

    def end_redo(self) -> None:
        """Remove what a redo set aside, once it has come to its end."""
        remove_durably(self.folders.former)
        sweep_outcomes(self.folders, self.commits)
        self.sweep_former_segments(temporaries=True)

    def sweep_former_segments(self, *, temporaries: bool = False) -> None:
        """Remove segments of an earlier job in this folder, and those that never count any more.

        Late workers may have written them after the job was forgotten, or a redo was given up or came to its end.
        """
        job_id = self.built.job_id[:8]
        remove_segments_of(
            self.folders.segments,
            lambda segment: (
                segment.job_id != job_id or not (self.built.is_redoing or self.built.is_of_now(segment.build))
            ),
            temporaries=temporaries,
        )

    def adopt_commits(self, states: dict[int, ShardState], fingerprint: str | None) -> None:
        """Let the commits of shards whose shard file alone was written again name that shard file.

        Nothing else of such a shard changes: its files were touched, or went without having had an outcome. What a late
        worker records for one of these is of a build that the commit covers by now.
        """
        rules = self.rules(fingerprint)
        for shard, state in states.items():
            if not state.is_committed or state.is_adopted(rules):
                continue
            commit = dataclasses.replace(
                self.commits[shard],
                build=self.built.build,
                made_from=state.ref.file.sha256,
                entries=state.ref,
                keeps_deleted=rules.keeps_deleted,
            )
            write_commit(self.folders, commit)
            self.commits[shard] = commit

    def entries_seen_since(self) -> dict[int, Entries]:
        """Return the entries of shards of which a run that was cut short did files that their entries do not know.

        The first build may list files without looking at them. What f saw of them is with their outcomes; until these
        are committed, only they can tell whether a file has changed since. All outcomes are asked, also those that do
        not count today: a failure that is tried again still tells of the content that it was of.
        """
        found: dict[int, Entries] = {}
        for shard in self.iter_shards():
            entries = shard.read_entries() if shard.segments else Entries()
            if UNSEEN not in entries.sizes:
                continue
            table = shard.read_candidates()[0].table
            seen: dict[int, FileVersion] = {}
            for place, version in zip(tables.places_of(table), tables.seen_files(table), strict=True):
                known = seen.setdefault(place, version)
                if not known.is_like(version):
                    # Which of its outcomes counts depends on today's f, and each is of another content.
                    seen[place] = UNKNOWN_VERSION
                elif known.hash is None:
                    seen[place] = version
            unseen = [place for place in seen if entries.sizes[place] == UNSEEN]
            if entries.adopt_all(unseen, [seen[place] for place in unseen]):
                found[shard.ref.shard] = entries
        return found

    def iter_shards(self) -> Iterator[Shard]:
        """Yield every shard with its commit and the segments since. Only names of files are looked at."""
        segments = list_segments(self.folders.segments, self.built.job_id)
        for ref in self.built.shards:
            commit = self.commits.get(ref.shard)
            # A redo may begin while somebody reads who has no lock: its outcomes are of a later manifest.
            listed = [
                s for s in segments.get(ref.shard, ()) if s.build <= self.built.build and self.built.is_of_now(s.build)
            ]
            yield Shard(self.folders, ref, commit, newer_segments(commit, listed))

    def resolve(self, fingerprint: str | None) -> dict[int, ShardState]:
        """Return how every shard stands, by shard."""
        rules = self.rules(fingerprint)
        return {shard.ref.shard: shard.resolve(rules) for shard in self.iter_shards()}

    def count_rows(self) -> int:
        """Return how many rows the parts hold; during a redo only those that were made again."""
        redo_since = 0 if self.manifest is None else self.manifest.redo_since
        return sum(commit.tally.n_rows for commit in self.commits.values() if commit.first_build >= redo_since)

    def sweep(self) -> None:
        """Remove what workers that died had begun; nobody may be at work."""
        outcomes, shard_files = names_to_keep(self.folders)
        sweep_leftovers(self.folders, self.commits, outcomes)
        self.sweep_shard_files(shard_files)

    def sweep_columns(self) -> None:
        """Remove the columns of before a redo, once it has come to its end."""
        columns = columns_path(self.folders.working_dir, self.built).name
        for name in list_names(self.folders.working_dir) if not self.built.is_redoing else ():
            if name.startswith("columns.b") and name != columns:
                remove_if_there(self.folders.working_dir / name)

    def sweep_shard_files(self, kept: Collection[str]) -> None:
        """Remove the shard files that neither the manifest nor a commit names, but for those to be kept."""
        named = {ref.file.name for ref in self.built.shards} | {
            commit.entries.file.name for commit in self.commits.values()
        }
        for name in list_names(self.folders.shards):
            if name not in named and name not in kept:
                remove_if_there(self.folders.shards / name)

    def adopt_entries(self) -> None:
        """Let the manifest name the shard files that the commits say: with the hashes that f's reading gave."""
        manifest = self.built.replace(shards=self.adopted_shards)
        if manifest != self.built:
            self.put_in_force(manifest)

    @property
    def adopted_shards(self) -> tuple[ShardRef, ...]:
        """The shard files that the commits say, where there is one."""
        return tuple(_adopted(ref, self.commits.get(ref.shard)) for ref in self.built.shards)


def job_folders(config: Config) -> JobFolders:
    return JobFolders(config.working_dir, config.output_folder)


def read_job(config: Config) -> Job:
    """Return the job as it is on disk, without lock and without changing anything: a run may be going on.

    Raises:
        StateError: manifest or commits are damaged or too new.
        FolderError: working_dir holds another job.
    """
    job = _read_job(config)
    if job.manifest is not None:
        now = read_manifest(job.folders.manifest)
        if now is not None and now.layout_since != job.manifest.layout_since:
            return read_job(config)  # a redo has begun in between: the commits are of other places
    return job


def read_again(read: Callable[[], T]) -> T:
    """Return what `read` returns; a run may have replaced a file between two of its reads, and then it begins again."""
    for attempt in range(1, READ_TRIES + 1):
        try:
            return read()
        except (FileNotFoundError, DamagedStateError):
            if attempt == READ_TRIES:
                raise
    raise AssertionError("unreachable")


@contextmanager
def open_job(config: Config) -> Iterator[Job]:
    """Lock the job, complete what an earlier run decided, and give it for changing.

    Raises:
        LockedError: another run holds it.
        FolderError: a folder is not writable, not ours, or holds what is not ours.
        StateError: the state is damaged or too new.
    """
    folders = job_folders(config)
    _refuse_nesting(folders)
    make_folder(folders.working_dir)
    with JobLock(folders.working_dir), disk_errors_told():
        complete_reset(folders)
        complete_undo(folders)
        folders.make()
        job = _read_job(config)
        if job.manifest is None:
            _refuse_orphans(folders)
        folders.output.check_claim(None if job.manifest is None else job.manifest.job_id, all_parts(job.commits))
        # After the claim: what is unfinished in another job's folder is its own.
        if job.manifest is None:
            sweep_leftovers(folders, {})  # of a working_dir that was removed while a run was in it
        else:
            _complete(job)
        yield job


@contextmanager
def disk_errors_told() -> Iterator[None]:
    """Turn an OSError of ours into a RunStoppedError that says where, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error


def disk_error(error: OSError, working_dir: Path | None = None) -> RunStoppedError:
    """Return the error for a disk that refused: the run stops, and what is durable stays."""
    if working_dir is not None and not working_dir.exists():
        return RunStoppedError(
            "working_dir is gone, and the job's state with it",
            where=working_dir,
            hint="bring it back (a disk that is mounted elsewhere?) and run again",
        )
    return RunStoppedError(
        f"the disk refused: {error.strerror or error}",
        where=show_name(error.filename) if isinstance(error.filename, str) else None,
        hint="what was done is saved; fix the disk or make room, then run again",
    )


# Private functions


def _read_job(config: Config) -> Job:
    folders = job_folders(config)
    # A running job replaces files while we read; a commit is only ever newer than the manifest that we have.
    manifest = read_manifest(folders.manifest)
    if manifest is None:
        return Job(config, folders, None, {})
    check_identity(config, manifest)
    return Job(config, folders, manifest, _of_layout(read_commits(folders, manifest.job_id), manifest))


def _complete(job: Job) -> None:
    """Roll forward, and sweep what no file names any more."""
    job.folders.output.write_claim(job.built.job_id, job.built.job_name)
    if job.built.output_path != str(job.folders.output_path):
        # What this folder holds of the job is of an unknown past; all parts are made there again.
        job.folders.output.remove_table({*job.commits, *job.folders.output.part_numbers()})
        job.put_in_force(job.built.replace(output_path=str(job.folders.output_path)))
    if not job.built.is_redoing:
        remove_durably(job.folders.former)
    job.drop_former_layout()
    former_outcomes, former_shard_files = names_to_keep(job.folders)
    job.broken_shards = roll_forward(job.folders, job.commits, former_outcomes)
    job.sweep_former_segments()
    for shard in job.iter_shards():
        if shard.commit is not None and not shard.segments:
            remove_segments(job.folders.segments, shard.ref.shard)
    job.adopt_entries()
    job.sweep_columns()
    job.sweep_shard_files(former_shard_files)


def _of_layout(commits: dict[int, Commit], manifest: Manifest) -> dict[int, Commit]:
    """Return the commits of which the places are those of the manifest."""
    return {shard: commit for shard, commit in commits.items() if manifest.is_of_now(commit.build)}


def _adopted(ref: ShardRef, commit: Commit | None) -> ShardRef:
    return commit.entries if commit is not None and commit.is_for(ref) else ref


def check_identity(config: Config, manifest: Manifest) -> None:
    """See that `manifest` is of the job that the config describes. Raises FolderError."""
    if manifest.job_name != config.job_name:
        raise FolderError(
            f'working_dir holds another job: "{manifest.job_name}"; this config says "{config.job_name}"',
            where=config.working_dir,
            hint="give this job another working_dir",
        )


def _refuse_nesting(folders: JobFolders) -> None:
    """Neither folder may lie in a subfolder that the other one keeps for itself."""
    state = {folder.name for folder in (folders.shards, folders.segments, folders.commits, folders.outcomes)}
    data = {*KINDS, folders.output.failures.parent.name, folders.output.staging.name}
    for inner, outer, names, keys in (
        (folders.working_dir, folders.output_path, data, ("working_dir", "output_path")),
        (folders.output_path, folders.working_dir, {*state, folders.runs.name}, ("output_path", "working_dir")),
    ):
        if inner.is_relative_to(outer) and inner != outer and inner.relative_to(outer).parts[0] in names:
            raise FolderError(
                f"{keys[0]} lies in a folder that {keys[1]} keeps for itself",
                where=inner,
                hint=f"put {keys[0]} beside {keys[1]}, not into it",
            )


def _refuse_orphans(folders: JobFolders) -> None:
    """Without a manifest there must be no commit: else the manifest was lost, and a new job would bury the old one."""
    left = next((name for name in list_names(folders.commits) if name.endswith(".json")), None)
    if left is not None:
        raise FolderError(
            f"manifest.json is missing, but commits/{left} is there",
            where=folders.working_dir,
            hint="put manifest.json back from a copy, or give this job another working_dir",
        )


def tidy_path(path: Path) -> str:
    """Return a path for people: relative to the current folder where it lies below it."""
    try:
        return show_name(str(path.relative_to(Path.cwd())))
    except ValueError:
        return show_name(str(path))
