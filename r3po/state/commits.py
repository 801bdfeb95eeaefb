"""Commits: the decision what a shard's outcomes and parts are, and everything that follows from it.

A commit takes three steps, in this order: (a) the commit file is renamed into place: from here on it is decided;
(b) the staged parts are renamed over the final ones; (c) what the commit made superfluous is removed. A process may
die between any two of them: `roll_forward` repeats (b) and (c) at every start.
Source: FORMAT.md, "Commits".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r3po.errors import DamagedStateError
from r3po.state.folders import JobFolders
from r3po.state.manifest import FORMAT, ShardRef
from r3po.state.output_folder import KINDS, Part
from r3po.state.segments import remove_segments
from r3po.storage.durable import FileRecord, NewFile, digest_file, list_names, remove_if_there, remove_temporaries
from r3po.storage.json_files import damaged, read_json, write_json
from r3po.table.outcome_files import read_outcomes_file, unpack_outcomes
from r3po.table.outcomes import Schema, Tally
from r3po.table.rows import Outcomes
from r3po.table.schema import schema_for_people, schema_from_text, schema_to_text


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
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    """In how many files each key was left out (`extra_keys: drop`), of the 100 keys that were so in the most."""

    def is_for(self, ref: ShardRef) -> bool:
        """Whether this commit covers the places and contents that `ref` lists."""
        return ref.file.sha256 in (self.made_from, self.entries.file.sha256)


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
    commit = commit_from_json(read_json(folders.commits / name, kind="commit", newest_format=FORMAT))
    if name != f"{commit.shard:05d}.json":
        raise damaged(folders.commits / name, f"is damaged: it is the commit of shard {commit.shard}")
    if commit.job_id != job_id:
        raise DamagedStateError(
            "belongs to another job than manifest.json beside it",
            where=folders.commits / name,
            hint="give each job a working_dir of its own, or make this one again: r3po reset --all",
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
    content = {"format": FORMAT, "kind": "commit", **commit_to_json(commit)}
    write_json(folders.commits / f"{commit.shard:05d}.json", content)


def withdraw_parts(folders: JobFolders, commit: Commit, others: Iterable[Part] = ()) -> Commit:
    """Take a shard's parts out of the data folders, and return its new commit: the outcomes stay as they are.

    Args:
        others: parts of another commit of the shard, which go, too.
    """
    names = dict.fromkeys((part.kind, part.name) for part in (*commit.parts, *others))
    parts = tuple(Part(kind, name, None) for kind, name in names)
    withdrawn = replace(commit, parts=parts, part_settings=dict.fromkeys(KINDS, False))
    write_commit(folders, withdrawn)
    _publish_parts(folders, withdrawn)
    return withdrawn


def roll_forward(folders: JobFolders, commits: dict[int, Commit], kept: Set[str] = frozenset()) -> set[int]:
    """Complete what an earlier run decided, and sweep what it left (segments apart). The claim was checked.

    Args:
        kept: names of outcomes that stay although no commit names them.

    Returns:
        The shards of which a part is missing, or has another size than its commit says: it must be made again.

    Raises:
        FolderError: a data folder holds a file that no commit names.
        DamagedStateError: an outcomes file is missing.
    """
    folders.output.refuse_strangers(all_parts(commits))
    broken = {commit.shard for commit in commits.values() if not _publish_parts(folders, commit)}
    folders.output.settle()
    sweep_leftovers(folders, commits, kept)
    return broken


def sweep_leftovers(folders: JobFolders, commits: dict[int, Commit], kept: Set[str] = frozenset()) -> None:
    """Remove outcomes, staged parts and temporaries that no commit names; nobody may be staging.

    Args:
        kept: names of outcomes that stay all the same.

    Raises:
        DamagedStateError: an outcomes file is missing.
    """
    sweep_outcomes(folders, commits, kept)
    for folder in (folders.working_dir, folders.commits, folders.shards, folders.outcomes):
        remove_temporaries(folder)  # the folders of segments go with their commits
    folders.output.sweep(all_parts(commits))


def sweep_outcomes(folders: JobFolders, commits: dict[int, Commit], kept: Set[str] = frozenset()) -> None:
    """Remove the outcomes that no commit names, but for those in `kept`.

    Raises:
        DamagedStateError: an outcomes file is missing.
    """
    named = {commit.outcomes.name for commit in commits.values()}
    present = set(list_names(folders.outcomes))
    missing = sorted(named - present)
    if missing:
        raise damaged(folders.outcomes / missing[0], "is missing")
    for name in present - named - kept:
        remove_if_there(folders.outcomes / name)


def read_outcomes(
    folders: JobFolders, commit: Commit, *, with_values: bool = True, scratch: Path | None = None
) -> Outcomes:
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
            found, _ = read_outcomes_file(path, with_values=with_values)
        else:
            with NewFile(scratch) as new:
                unpack_outcomes(path, new)
                found, _ = read_outcomes_file(new.written())  # which stays mapped when its name goes
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    except ValueError as error:
        raise damaged(path, f"is damaged: {error}") from error
    return found


def all_parts(commits: dict[int, Commit]) -> list[Part]:
    return [part for commit in commits.values() for part in commit.parts]


def commit_to_json(commit: Commit) -> dict[str, Any]:
    schemas = {"schema": schema_to_text(commit.schema), "own_schema": schema_to_text(commit.own_schema)}
    fields = dataclasses.asdict(commit)
    tally = fields.pop("tally")
    if not commit.dropped:
        fields.pop("dropped")
    return {**fields, **tally, "columns": schema_for_people(commit.schema), **schemas}


def commit_from_json(data: dict[str, Any]) -> Commit:
    return Commit(
        **{name: data[name] for name in _PLAIN},
        tally=Tally(**{field.name: data[field.name] for field in dataclasses.fields(Tally)}),
        entries=ShardRef.from_json(data["entries"]),
        outcomes=FileRecord.from_json(data["outcomes"]),
        schema=schema_from_text(data["schema"]),
        own_schema=schema_from_text(data["own_schema"]),
        dropped=data.get("dropped", {}),
        parts=tuple(
            Part(part["kind"], part["name"], part["staged"] and FileRecord(**part["staged"])) for part in data["parts"]
        ),
    )


# Private functions

_PLAIN = ("job_id", "shard", "build", "made_from", "first_build", "part_settings", "keeps_deleted")
"""Fields of a commit that are in its JSON as they are."""


def _publish_parts(folders: JobFolders, commit: Commit) -> bool:
    """Publish a commit's parts. Returns whether all of them are there then."""
    return all([folders.output.publish(part) for part in commit.parts])
