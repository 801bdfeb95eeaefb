"""Commits: the decision what a shard's outcomes and parts are, and everything that follows from it.

A commit takes three steps, in this order: (a) the commit file is renamed into place: from here on it is decided;
(b) the staged parts are renamed over the final ones; (c) what the commit made superfluous is removed. A process may
die between any two of them: `roll_forward` repeats (b) and (c) at every start.
Source: FORMAT.md, "Commits".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r3po.errors import DamagedStateError, FolderError
from r3po.state.folders import JobFolders
from r3po.state.manifest import FORMAT, ShardRef
from r3po.state.segments import remove_segments
from r3po.storage.durable import (
    FileRecord,
    NewFile,
    digest_file,
    has_size,
    list_names,
    make_data_folder,
    publish,
    remove_durably,
    remove_if_there,
    remove_temporaries,
    sync_folder,
)
from r3po.storage.json_files import damaged, read_json, write_json
from r3po.storage.names import name_from_json, name_to_json
from r3po.table.outcomes import Schema, Table, Tally, read_table, unpack_table
from r3po.table.schema import schema_for_people, schema_from_text, schema_to_text

KINDS = ("csv", "parquet")
"""The kinds of parts, which are the names of the data folders."""


@dataclass(frozen=True, slots=True)
class Part:
    """One CSV or Parquet file of a shard."""

    kind: str
    name: str
    """Of the final file, in the data folder of its kind: from the shard's number and nothing else."""
    staged: FileRecord | None
    """The durable file in `.staging` that becomes the part; None: the shard has no part of this kind."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What `commits/00042.json` says."""

    job_id: str
    shard: int
    build: int
    """The job's build when the shard was staged, or when the commit was found to say all of it still."""
    made_from: str
    """sha256 of the shard file that listed the places."""
    entries: ShardRef
    """The shard file with the hashes, sizes and mtimes that f saw; the manifest adopts it."""
    outcomes: FileRecord
    tally: Tally
    first_build: int
    """The lowest build among the outcomes."""
    own_schema: Schema
    """The types that this shard's rows alone give to the columns."""
    schema: Schema
    """The types that the parts were written with."""
    parts: tuple[Part, ...]
    part_settings: dict[str, Any]
    """How the parts were written: the settings by kind; a part of other settings is made again."""
    keeps_deleted: bool = False
    """The rows of files that were deleted are among these (`on_deleted: keep`)."""

    def is_for(self, ref: ShardRef) -> bool:
        """Whether this commit covers the places and contents that `ref` lists."""
        return ref.file.sha256 in (self.made_from, self.entries.file.sha256)


def part_name(shard: int, kind: str) -> str:
    return f"part-{shard:05d}.{kind}"


def read_commits(folders: JobFolders, job_id: str) -> dict[int, Commit]:
    """Return the job's commits by shard. Parts and outcomes are not opened.

    Raises:
        DamagedStateError: a commit is not what was written, or is another job's.
        NewerFormatError: a newer r3po wrote it.
    """
    commits = {}
    for name in list_names(folders.commits):
        if name.endswith(".json"):
            commit = read_commit(folders, name, job_id)
            commits[commit.shard] = commit
    return commits


def read_commit(folders: JobFolders, name: str, job_id: str) -> Commit:
    """Return the job's commit of that file name. Raises like `read_commits`, or FileNotFoundError."""
    commit = _from_json(read_json(folders.commits / name, kind="commit", newest_format=FORMAT))
    if name != f"{commit.shard:05d}.json":
        raise damaged(folders.commits / name, f"is damaged: it is the commit of shard {commit.shard}")
    if commit.job_id != job_id:
        raise DamagedStateError(
            "belongs to another job than manifest.json beside it",
            where=folders.commits / name,
            hint="give each job a working_dir of its own, or make this one anew: r3po reset --all",
        )
    return commit


def commit_shard(folders: JobFolders, commit: Commit, previous: Commit | None) -> None:
    """Decide `commit` and publish its parts. The staged files and the outcomes must be durable already.

    Raises:
        OSError: the disk refused; a later `roll_forward` completes what was decided.
    """
    # Step (a). From here on resume trusts this commit.
    write_commit(folders, commit)
    # Step (b).
    _publish_parts(folders, commit)
    # Step (c).
    remove_segments(folders.segments, commit.shard)
    if previous is not None and previous.outcomes.name != commit.outcomes.name:
        remove_if_there(folders.outcomes / previous.outcomes.name)


def write_commit(folders: JobFolders, commit: Commit) -> None:
    """Put a commit in force; without the steps that follow it is for one that changes neither outcomes nor parts."""
    write_json(folders.commits / f"{commit.shard:05d}.json", _to_json(commit))


def withdraw_parts(folders: JobFolders, commit: Commit) -> Commit:
    """Take a shard's parts out of the data folders, and return its new commit: the outcomes stay as they are."""
    parts = tuple(Part(part.kind, part.name, None) for part in commit.parts)
    withdrawn = replace(commit, parts=parts, part_settings=dict.fromkeys(commit.part_settings, False))
    write_commit(folders, withdrawn)
    _publish_parts(folders, withdrawn)
    return withdrawn


def roll_forward(folders: JobFolders, commits: dict[int, Commit]) -> list[Part]:
    """Complete what an earlier run decided, and sweep what it left (segments apart). The claim was checked.

    Returns:
        The parts that are missing, or have another size than their commit says: they must be made again.

    Raises:
        FolderError: a data folder holds a file that no commit names.
        DamagedStateError: an outcomes file is missing.
    """
    _refuse_strangers(folders, commits)
    broken = [part for commit in commits.values() for part in _publish_parts(folders, commit)]
    sweep_leftovers(folders, commits)
    return broken


def sweep_leftovers(folders: JobFolders, commits: dict[int, Commit]) -> None:
    """Remove outcomes, staged parts and temporaries that no commit names; nobody may be staging.

    Raises:
        DamagedStateError: an outcomes file is missing.
    """
    _sweep_outcomes(folders, commits)
    _sweep_temporaries(folders)
    staged = {part.staged.name for commit in commits.values() for part in commit.parts if part.staged}
    for name in list_names(folders.staging):
        if name not in staged:
            remove_if_there(folders.staging / name)


def read_outcomes(
    folders: JobFolders, commit: Commit, *, with_values: bool = True, scratch: Path | None = None
) -> Table:
    """Return all outcomes of a committed shard.

    Args:
        with_values: False: without the values of the rows.
        scratch: a folder for a copy that takes disk rather than memory: the values, which can be a gigabyte.

    Raises:
        DamagedStateError: the file is missing or is not the one that the commit names.
    """
    path = folders.outcomes / commit.outcomes.name
    try:
        if digest_file(path) != (commit.outcomes.size_bytes, commit.outcomes.sha256):
            raise damaged(path, "is damaged: its digest is not the one that its commit names")
        if scratch is None:
            table, _ = read_table(path, with_values=with_values)
        else:
            with NewFile(scratch) as new:
                unpack_table(path, new)
                table, _ = read_table(new.written())  # which stays mapped when its name goes
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except ValueError as error:
        raise damaged(path, f"is damaged: {error}") from error
    return table


def clear_old_output(folders: JobFolders, commits: dict[int, Commit]) -> None:
    """Clear an output folder that was not the job's last one: what it holds of the job is of an unknown past.

    The parts are missing afterwards, so that they are made again.
    """
    remove_if_there(folders.failures)
    for kind in KINDS:
        remove_if_there(folders.success(kind))
        for commit in commits.values():
            remove_if_there(folders.data(kind) / part_name(commit.shard, kind))
        if folders.data(kind).is_dir():
            sync_folder(folders.data(kind))


def live_shard_files(commits: dict[int, Commit]) -> set[str]:
    """Return the names of the shard files that commits name: the manifest may not have adopted them yet."""
    return {commit.entries.file.name for commit in commits.values()}


# The claim on the output folder


def check_claim(folders: JobFolders, job_id: str | None, commits: Iterable[Commit] = ()) -> None:
    """See that `output_path` is this job's, or nobody's yet (`job_id` None: any job's is a stranger).

    Args:
        commits: of this job. What they name is ours, also where the claim is gone: a folder that was removed while a
            run published into it holds the last part and nothing else.

    Raises:
        FolderError: another job writes there, or files lie there that r3po did not write.
    """
    try:
        claim = read_json(folders.claim, kind="claim", newest_format=FORMAT)
    except FileNotFoundError:
        _refuse_unclaimed(folders, commits)
        return
    if job_id is None and name_from_json(claim["working_dir"]) == str(folders.working_dir):
        raise FolderError(
            f'holds the table of a job "{claim["job_name"]}" whose state is gone from {folders.working_dir}',
            where=folders.output_path,
            hint="put working_dir back, or remove this folder to begin anew",
        )
    if claim["job_id"] != job_id:
        raise FolderError(
            f'output_path belongs to another job: "{claim["job_name"]}", working_dir {claim["working_dir"]["path"]}',
            where=folders.output_path,
            hint="give this job another output_path, or remove that folder if you do not need its table any more",
        )


def claimed_by(folders: JobFolders, *, from_here: bool = False) -> str | None:
    """Return the id of the job that claims the output folder, or None if nobody does, legibly.

    Args:
        from_here: only of a job in this very working folder.
    """
    try:
        claim = read_json(folders.claim, kind="claim", newest_format=FORMAT)
    except (FileNotFoundError, NotADirectoryError, DamagedStateError):
        return None
    if from_here and name_from_json(claim["working_dir"]) != str(folders.working_dir):
        return None
    job_id: str = claim["job_id"]
    return job_id


def write_claim(folders: JobFolders, job_id: str, job_name: str) -> None:
    """Say durably that `output_path` is this job's."""
    if not folders.claim.exists():
        working_dir = name_to_json(str(folders.working_dir))
        content = {"format": FORMAT, "kind": "claim", "job_id": job_id, "job_name": job_name}
        write_json(folders.claim, {**content, "working_dir": working_dir})


# Private functions


def _publish_parts(folders: JobFolders, commit: Commit) -> list[Part]:
    """Rename staged parts into place and return those that are neither staged nor there."""
    broken = []
    for part in commit.parts:
        folder = folders.data(part.kind)
        final = folder / part.name
        if part.staged is None:
            remove_durably(final)
            continue
        staged = folders.staging / part.staged.name
        # The staged file first: as long as it is there, the final name may hold the part of an older commit.
        if has_size(staged, part.staged.size_bytes):
            make_data_folder(folder)
            publish(staged, final)
            sync_folder(folder)
        elif staged.exists() or not has_size(final, part.staged.size_bytes):
            broken.append(part)
    return broken


def _refuse_strangers(folders: JobFolders, commits: dict[int, Commit]) -> None:
    named = {(part.kind, part.name) for commit in commits.values() for part in commit.parts}
    for kind in KINDS:
        for name in list_names(folders.data(kind)):
            if name != "_SUCCESS" and (kind, name) not in named:
                raise FolderError(
                    "is not a part of this job; a data folder holds parts and nothing else",
                    where=folders.data(kind) / name,
                    hint="move it elsewhere, then run again",
                )


def _refuse_unclaimed(folders: JobFolders, commits: Iterable[Commit]) -> None:
    ours = {(part.kind, part.name): part.staged for commit in commits for part in commit.parts}
    for kind in KINDS:
        for name in list_names(folders.data(kind)):
            record = ours.get((kind, name))
            if record is not None and digest_file(folders.data(kind) / name) == (record.size_bytes, record.sha256):
                continue
            raise FolderError(
                f"output_path already holds files that no job of r3po claims: {kind}/{name}",
                where=folders.output_path,
                hint="give this job another output_path, or move them elsewhere",
            )


def _sweep_temporaries(folders: JobFolders) -> None:
    """Remove what a killed process did not finish; the folders of segments go with their commits."""
    for folder in (
        folders.working_dir,
        folders.commits,
        folders.shards,
        folders.outcomes,
        folders.output_path,
        folders.staging,
        folders.failures.parent,
    ):
        remove_temporaries(folder)


def _sweep_outcomes(folders: JobFolders, commits: dict[int, Commit]) -> None:
    named = {commit.outcomes.name for commit in commits.values()}
    present = set(list_names(folders.outcomes))
    missing = sorted(named - present)
    if missing:
        raise damaged(folders.outcomes / missing[0], "is missing")
    for name in present - named:
        remove_if_there(folders.outcomes / name)


def _to_json(commit: Commit) -> dict[str, Any]:
    tally = commit.tally
    return {
        "format": FORMAT,
        "kind": "commit",
        "job_id": commit.job_id,
        "shard": commit.shard,
        "build": commit.build,
        "made_from": commit.made_from,
        "entries": commit.entries.to_json(),
        "outcomes": commit.outcomes.to_json(),
        "n_rows": tally.n_rows,
        "n_failed": tally.n_failed,
        "rows_by_fingerprint": tally.rows_by_fingerprint,
        "failures_by_fingerprint": tally.failures_by_fingerprint,
        "first_failure_build": tally.first_failure_build,
        "first_build": commit.first_build,
        "columns": schema_for_people(commit.schema),
        "schema": schema_to_text(commit.schema),
        "own_schema": schema_to_text(commit.own_schema),
        "parts": [
            {"kind": part.kind, "name": part.name, "staged": part.staged.to_json() if part.staged else None}
            for part in commit.parts
        ],
        "part_settings": commit.part_settings,
        "keeps_deleted": commit.keeps_deleted,
    }


def _from_json(data: dict[str, Any]) -> Commit:
    return Commit(
        job_id=data["job_id"],
        shard=data["shard"],
        build=data["build"],
        made_from=data["made_from"],
        entries=ShardRef.from_json(data["entries"]),
        outcomes=FileRecord.from_json(data["outcomes"]),
        tally=Tally(
            n_rows=data["n_rows"],
            n_failed=data["n_failed"],
            rows_by_fingerprint=data["rows_by_fingerprint"],
            failures_by_fingerprint=data["failures_by_fingerprint"],
            first_failure_build=data["first_failure_build"],
        ),
        first_build=data["first_build"],
        own_schema=schema_from_text(data["own_schema"]),
        schema=schema_from_text(data["schema"]),
        parts=tuple(
            Part(p["kind"], p["name"], FileRecord.from_json(p["staged"]) if p["staged"] else None)
            for p in data["parts"]
        ),
        part_settings=data["part_settings"],
        keeps_deleted=data["keeps_deleted"],
    )
