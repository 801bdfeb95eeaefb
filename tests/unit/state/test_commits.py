"""Commits: what is decided, what follows from it after a stop at any step, and whose folder it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from r3po.errors import DamagedStateError, NewerFormatError
from r3po.state.commits import Commit, commit_shard, read_commits, read_outcomes, roll_forward
from r3po.state.folders import JobFolders
from r3po.state.output_folder import Part, part_name
from r3po.state.segments import list_segments, read_segment, remove_segments
from r3po.storage import durable as storage
from r3po.storage.durable import list_names, write_whole
from r3po.table.columns import Columns, columns_of
from shards import BOTH, BROKE, JOB_ID, Shard, make_shard

OTHER_JOB = "f" * 32
COLUMNS = columns_of({"n": 1, "name": "apple"})
SHARD = 42
OLD = {"csv": b"old csv", "parquet": b"old parquet"}
NEW = {"csv": b"new csv", "parquet": b"new parquet"}  # of the same sizes


@pytest.fixture
def folders(tmp_path: Path) -> JobFolders:
    folders = JobFolders(tmp_path / "work", tmp_path / "out")
    folders.make()
    return folders


WIDER = pa.schema([("n", pa.float64()), ("name", pa.string())])


def write_outcomes(folders: JobFolders, shard: int, build: int, columns: Columns | None = COLUMNS) -> Shard:
    """Make a shard of which two files have a row, if it has columns, and one failed."""
    made = make_shard(folders.working_dir.parent, 3, shard=shard, columns=columns, hashed=False)
    made.write({place: (place, "apple") if columns and place < 2 else BROKE for place in range(3)}, build=build)
    return made


def stage(
    folders: JobFolders, build: int = 1, shard: int = SHARD, columns: Columns | None = COLUMNS, **parts: bytes | None
) -> Commit:
    """Make outcomes, shard file and staged parts durable, as a worker does, and return the commit to be decided."""
    attempt = f"run{build}-000001"
    made = write_outcomes(folders, shard, build, columns)
    schema = WIDER if columns else None
    commit = made.stage(build=build, attempt=attempt, schema=schema, settings={"csv": False, "parquet": False})
    remove_segments(folders.segments, shard)
    staged = {
        kind: write_whole(folders.output.staging / f"{part_name(shard, kind)}.{attempt}.tmp", content)
        for kind, content in parts.items()
        if content is not None
    }
    named = tuple(Part(kind, part_name(shard, kind), staged.get(kind)) for kind in ("csv", "parquet"))
    return replace(commit, parts=named, part_settings=BOTH)


def add_segments(folders: JobFolders, build: int = 1) -> None:
    write_outcomes(folders, SHARD, build).write({0: (0, "apple")}, build=build)


def decide(folders: JobFolders, commit: Commit) -> None:
    """Take step (a) alone."""
    with pytest.raises(Killed), power_cut(after=lambda call: call == "replace commits/00042.json"):
        commit_shard(folders, commit, None)


def read_parts(folders: JobFolders, shard: int = SHARD) -> dict[str, bytes]:
    found = {}
    for kind in ("csv", "parquet"):
        path = folders.output.data(kind) / part_name(shard, kind)
        if path.exists():
            found[kind] = path.read_bytes()
    return found


def recover(folders: JobFolders) -> set[int]:
    return roll_forward(folders, read_commits(folders, JOB_ID))


# Stopping the world


class Killed(BaseException):
    """Nothing more happens on disk."""


@contextmanager
def power_cut(after: Callable[[str], bool] = lambda call: False) -> Iterator[list[str]]:
    """Let calls through until one was the last, then raise from each; yield their list, as `replace csv/part-...`.

    fsync itself is not carried out: it takes most of the time, and the process alone dies here.
    """
    made: list[str] = []
    is_cut = False
    real = {name: getattr(storage, name) for name in ("_create", "_fsync", "_replace", "_unlink")}

    def through(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal is_cut
            if is_cut:
                raise Killed
            result = None if name == "_fsync" else real[name](*args)
            made.append(f"{name.removeprefix('_')} {_target(name, args)}")
            is_cut = after(made[-1])
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(storage, name, through(name))
        yield made


def _target(name: str, args: tuple[Any, ...]) -> str:
    if name == "_fsync":
        path = os.readlink(f"/proc/self/fd/{args[0]}") if os.path.exists("/proc/self/fd") else ""
        return os.path.basename(path) if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "file"
    path = Path(args[1] if name == "_replace" else args[0])
    return f"{path.parent.name}/{path.name}"


# Commit files


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("parts", [NEW, {"csv": b"x", "parquet": None}, {"csv": None, "parquet": None}])
def test_a_commit_comes_back_as_it_was_decided(
    folders: JobFolders, parts: dict[str, bytes | None], columns: Columns | None
) -> None:
    commit = stage(folders, 3, columns=columns, **parts)
    assert commit.tally.first_failure_build == 3
    assert (commit.own_schema == commit.schema) == (columns is None)
    commit_shard(folders, commit, None)
    for name in (".0123.tmp", "notes.txt", ".DS_Store"):
        (folders.commits / name).write_bytes(b"half")
    assert read_commits(folders, JOB_ID) == {SHARD: commit}


def test_commits_are_read_by_shard_and_keep_outcomes_that_stay(folders: JobFolders) -> None:
    commits = {shard: stage(folders, shard=shard, csv=b"%d" % shard) for shard in (100_000, 0, 7)}
    for commit in commits.values():
        commit_shard(folders, commit, None)
    assert read_commits(folders, JOB_ID) == commits
    again = replace(stage(folders, 2, shard=7, **NEW), outcomes=commits[7].outcomes)  # parts alone are made again
    commit_shard(folders, again, commits[7])
    assert read_parts(folders, 7) == NEW
    assert read_outcomes(folders, again).table.num_rows == 3


def test_a_commit_is_for_the_shard_file_it_was_made_from_and_for_the_one_it_made(folders: JobFolders) -> None:
    commit = stage(folders)
    ref = commit.entries
    assert commit.is_for(ref)
    assert commit.is_for(replace(ref, file=replace(ref.file, sha256=commit.made_from)))
    assert not commit.is_for(replace(ref, file=replace(ref.file, sha256="6" * 64)))


def test_a_flipped_bit_in_a_commit_is_refused_by_name(folders: JobFolders, flips: Any) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    path = folders.commits / "00042.json"
    for position in flips(path):
        if position == path.stat().st_size - 1:
            continue  # the newline after the closing brace
        with pytest.raises((DamagedStateError, NewerFormatError)) as caught:
            read_commits(folders, JOB_ID)
        assert caught.value.where == path


def test_a_commit_of_another_job_or_under_another_name_is_refused(folders: JobFolders) -> None:
    """Such as a copy that somebody made before trying something."""
    old, new = stage(folders, 1, **OLD), stage(folders, 2, **NEW)
    commit_shard(folders, old, None)
    path = folders.commits / "00042.json"
    with pytest.raises(DamagedStateError, match=r"00042\.json: belongs to another job") as caught:
        read_commits(folders, OTHER_JOB)
    assert caught.value.where == path
    (folders.commits / "00042_old.json").write_bytes(path.read_bytes())
    commit_shard(folders, new, old)
    with pytest.raises(DamagedStateError, match="00042_old"):
        read_commits(folders, JOB_ID)


# Committing


def test_a_shard_without_rows_gets_no_part_and_no_data_folder(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders), None)
    assert read_parts(folders) == {}
    assert sorted(os.listdir(folders.output_path)) == [".staging", "failures"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files come from /proc")
def test_the_decision_is_durable_before_anything_follows_from_it(folders: JobFolders) -> None:
    old, new = stage(folders, 1, **OLD), stage(folders, 2, csv=NEW["csv"], parquet=None)
    commit_shard(folders, old, None)
    add_segments(folders, build=2)
    with power_cut() as calls:
        commit_shard(folders, new, old)
    create, *rest = [call for call in calls if not call.startswith("unlink commits/")]
    segments = [call for call in rest if call.startswith("unlink 00042/")]
    assert create.startswith("create commits/.")
    assert len(segments) == 2
    assert rest == [
        "fsync file",
        "replace commits/00042.json",
        "fsync commits",
        "replace csv/part-00042.csv",
        "fsync csv",
        "unlink parquet/part-00042.parquet",
        "fsync parquet",
        *segments,
        f"unlink outcomes/{old.outcomes.name}",
    ]


# Rolling forward


@pytest.mark.parametrize("content", [None, b"", b"new parque", b"new parquet!"])
def test_a_part_that_is_missing_or_of_another_size_is_told(folders: JobFolders, content: bytes | None) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    path = folders.output.data("parquet") / "part-00042.parquet"
    path.unlink()
    path.parent.rmdir() if content is None else path.write_bytes(content)
    assert recover(folders) == {SHARD}


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_staged_part_wins_over_an_older_part_of_the_same_size_and_a_torn_one_is_told(
    folders: JobFolders, is_torn: bool
) -> None:
    commit_shard(folders, stage(folders, 1, **OLD), None)
    commit = stage(folders, 2, **NEW)
    decide(folders, commit)
    assert read_parts(folders) == OLD
    if is_torn:
        assert commit.parts[0].staged is not None
        os.truncate(folders.output.staging / commit.parts[0].staged.name, 3)
    assert recover(folders) == ({SHARD} if is_torn else set())
    assert read_parts(folders)["parquet"] == NEW["parquet"]
    assert is_torn or read_parts(folders) == NEW


def test_a_decided_commit_without_a_part_removes_the_older_part(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, 1, **OLD), None)
    decide(folders, stage(folders, 2, csv=NEW["csv"], parquet=None))
    assert recover(folders) == set()
    assert read_parts(folders) == {"csv": NEW["csv"]}


def test_missing_outcomes_are_refused_by_name(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    path = folders.outcomes / commit.outcomes.name
    path.unlink()
    (folders.outcomes / "orphan").touch()
    for read in (recover, lambda folders: read_outcomes(folders, commit)):
        with pytest.raises(DamagedStateError, match="is missing") as caught:
            read(folders)
        assert caught.value.where == path
    assert (folders.outcomes / "orphan").exists()


def test_what_was_left_unfinished_is_swept(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    stage(folders, 2, shard=43)
    swept = [folders.working_dir, folders.commits, folders.shards, folders.output.staging, folders.outcomes]
    for folder in swept:
        (folder / f".{'0123' * 8}.tmp").touch()
    (folders.output.staging / "part-00043.csv.run-000009.tmp").touch()
    assert recover(folders) == set()
    for folder in swept:
        assert f".{'0123' * 8}.tmp" not in list_names(folder)
    assert list(list_names(folders.output.staging)) == []
    assert list(list_names(folders.outcomes)) == [commit.outcomes.name]


def test_rolling_forward_leaves_segments_and_a_finished_job_alone(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    add_segments(folders)
    with power_cut() as calls:
        assert recover(folders) == set()
    assert calls == []
    assert len(list_segments(folders.segments, JOB_ID)[SHARD]) == 2


# Outcomes


def test_outcomes_come_back_as_they_were_written(folders: JobFolders) -> None:
    made = write_outcomes(folders, SHARD, 1)
    found = read_segment(folders.segments, made.segments[0])
    assert found is not None
    assert read_outcomes(folders, made.stage()).table.equals(found.table)


def test_outcomes_with_a_flipped_bit_are_refused_by_name(folders: JobFolders, flips: Any) -> None:
    commit = stage(folders)
    path = folders.outcomes / commit.outcomes.name
    for position in flips(path):
        with pytest.raises(DamagedStateError) as caught:
            read_outcomes(folders, commit)
        assert caught.value.where == path, position
    for size in (path.stat().st_size - 1, 100, 0):
        os.truncate(path, size)
        with pytest.raises(DamagedStateError, match="is damaged"):
            read_outcomes(folders, commit)
