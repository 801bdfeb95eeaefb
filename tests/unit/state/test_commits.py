"""Commits: what is decided, what follows from it after a stop at any step, and whose folder it is."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import r3po.table.outcomes as tables
from r3po.errors import DamagedStateError, FolderError, NewerFormatError
from r3po.state.commits import (
    Commit,
    commit_shard,
    live_shard_files,
    read_commits,
    read_outcomes,
    roll_forward,
)
from r3po.state.folders import JobFolders
from r3po.state.output_folder import Part, part_name
from r3po.state.segments import list_segments, write_segment
from r3po.state.shard_files import Entries, write_shard_file
from r3po.storage import durable as storage
from r3po.storage.durable import NewFile, list_names, write_whole
from r3po.storage.json_files import write_json
from r3po.table import predicate
from r3po.table.columns import Columns, columns_of
from r3po.table.outcomes import Failure, OutcomeBatch, Schema, Table
from r3po.table.predicate import CountingRules
from r3po.table.schema import join_schemas, own_schema

JOB_ID = "0123456789abcdef0123456789abcdef"
OTHER_JOB = "f" * 32
COLUMNS = columns_of({"n": 1, "name": "apple"})
SHARD = 42
OLD = {"csv": b"old csv", "parquet": b"old parquet"}
NEW = {"csv": b"new csv", "parquet": b"new parquet"}  # of the same sizes


@pytest.fixture
def folders(tmp_path: Path) -> JobFolders:
    return make_folders(tmp_path)


def make_folders(folder: Path) -> JobFolders:
    folders = JobFolders(folder / "work", folder / "out")
    folders.make()
    return folders


def some_outcomes(n_rows: int = 2, n_failed: int = 1, columns: Columns | None = COLUMNS) -> Table:
    n = n_rows + n_failed
    batch = OutcomeBatch(
        places=list(range(n)),
        sizes=[100] * n,
        mtimes_ns=[1_700_000_000_000_000_000] * n,
        hashes=[bytes(16)] * n,
        racy=[False] * n,
        seconds=[0.5] * n,
        rows=[*((i, "apple") for i in range(n_rows)), *[None] * n_failed],
        failures={i: Failure("ValueError", "bad", "count.py:3 in count", "...") for i in range(n_rows, n)},
    )
    return tables.outcome_table(batch, columns)


def with_origin(table: Table, build: int = 1) -> Table:
    return tables.with_origin(table, build=build, attempt="a", fingerprint="f1")


def wider_schema() -> Schema:
    """Return the types of a shard in which n is a float."""
    batch = OutcomeBatch([0], [1], [1], [None], [False], [0.5], [(0.5, "apple")])
    table = with_origin(tables.outcome_table(batch, COLUMNS))
    return own_schema(table, predicate.choose(table, [0], CountingRules(0, 0)), COLUMNS)


def stage(
    folders: JobFolders, build: int = 1, shard: int = SHARD, columns: Columns = COLUMNS, **parts: bytes | None
) -> Commit:
    """Make outcomes, shard file and staged parts durable, as a worker does, and return the commit to be decided."""
    attempt = f"run{build}-000001"
    table = with_origin(some_outcomes(columns=columns) if columns.items else some_outcomes(0, 3, None), build)
    with NewFile(folders.outcomes) as new:
        tables.write_table(table, new, {"r3po.job_id": JOB_ID}, is_compressed=True)
        outcomes = new.finish(f"{shard:05d}.b{build}.{attempt}.arrow")
    entries = Entries()
    for place in range(3):
        entries.append(f"{place}.json", 100, 7, 1, hash_=bytes([build]) * 16)
    ref = write_shard_file(folders.shards, shard, build, entries)
    staged = {
        kind: write_whole(folders.staging / f"{part_name(shard, kind)}.{attempt}.tmp", content)
        for kind, content in parts.items()
        if content is not None
    }
    indices = predicate.choose(table, [0] * 3, CountingRules(0, 0))
    schema = own_schema(table, indices, columns)
    wider = join_schemas([schema, wider_schema()]) if columns.items else schema
    return Commit(
        job_id=JOB_ID,
        shard=shard,
        build=build,
        made_from="5" * 64,
        entries=ref,
        outcomes=outcomes,
        tally=tables.tally(table, indices),
        first_build=1,
        own_schema=schema,
        schema=wider,
        parts=tuple(Part(kind, part_name(shard, kind), staged.get(kind)) for kind in ("csv", "parquet")),
        part_settings={"csv": True, "parquet": {"compression": "zstd", "level": 3}},
    )


def add_segments(folders: JobFolders, shard: int = SHARD, build: int = 1) -> None:
    for attempt in ("a", "b"):
        origin = {"shard": shard, "build": build, "job_id": JOB_ID, "attempt": attempt, "fingerprint": "f1"}
        write_segment(folders.segments, some_outcomes(1, 0), n_failed=0, **origin)


def decide(folders: JobFolders, commit: Commit) -> None:
    """Take step (a) alone."""
    with pytest.raises(Killed), power_cut(after=lambda call: call == "replace commits/00042.json"):
        commit_shard(folders, commit, None)


def read_parts(folders: JobFolders, shard: int = SHARD) -> dict[str, bytes]:
    found = {}
    for kind in ("csv", "parquet"):
        path = folders.data(kind) / part_name(shard, kind)
        if path.exists():
            found[kind] = path.read_bytes()
    return found


def recover(folders: JobFolders) -> list[Part]:
    return roll_forward(folders, read_commits(folders, JOB_ID))


# Stopping the world


class Killed(BaseException):
    """Nothing more happens on disk."""


@contextmanager
def power_cut(after: Callable[[str], bool] | None = None, n_calls: int | None = None) -> Iterator[list[str]]:
    """Let calls through until one was the last, then raise from each; yield their list, as `replace csv/part-...`.

    fsync itself is not carried out: it takes most of the time, and the process alone dies here.
    """
    made: list[str] = []
    is_cut = n_calls == 0
    real = {name: getattr(storage, name) for name in ("_create", "_fsync", "_replace", "_unlink")}

    def through(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal is_cut
            if is_cut:
                raise Killed
            result = None if name == "_fsync" else real[name](*args)
            made.append(f"{name.removeprefix('_')} {_target(name, args)}")
            is_cut = len(made) == n_calls or (after is not None and after(made[-1]))
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


@pytest.mark.parametrize("parts", [NEW, {"csv": b"x", "parquet": None}, {"csv": None, "parquet": None}])
def test_a_commit_comes_back_as_it_was_decided(folders: JobFolders, parts: dict[str, bytes | None]) -> None:
    commit = stage(folders, 3, **parts)
    assert (commit.tally.n_rows, commit.tally.n_failed, commit.tally.first_failure_build) == (2, 1, 3)
    assert commit.own_schema != commit.schema
    commit_shard(folders, commit, None)
    assert read_commits(folders, JOB_ID) == {SHARD: commit}


def test_a_commit_without_rows_comes_back(folders: JobFolders) -> None:
    commit = stage(folders, columns=Columns(()))
    commit_shard(folders, commit, None)
    assert read_commits(folders, JOB_ID) == {SHARD: commit}


def test_commits_are_read_by_shard(folders: JobFolders) -> None:
    commits = {shard: stage(folders, shard=shard, csv=b"%d" % shard) for shard in (100_000, 0, 7)}
    for commit in commits.values():
        commit_shard(folders, commit, None)
    assert read_commits(folders, JOB_ID) == commits
    assert live_shard_files(commits) == {commit.entries.file.name for commit in commits.values()}
    assert len(live_shard_files(commits)) == 3


def test_there_are_no_commits_without_a_folder(tmp_path: Path) -> None:
    assert read_commits(JobFolders(tmp_path / "work", tmp_path / "out"), JOB_ID) == {}


def test_a_commit_is_for_the_shard_file_it_was_made_from_and_for_the_one_it_made(folders: JobFolders) -> None:
    commit = stage(folders)
    ref = commit.entries
    assert commit.is_for(ref)
    assert commit.is_for(replace(ref, file=replace(ref.file, sha256=commit.made_from)))
    assert not commit.is_for(replace(ref, file=replace(ref.file, sha256="6" * 64)))


def test_a_flipped_bit_in_a_commit_is_refused_by_name(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    path = folders.commits / "00042.json"
    good = path.read_bytes()
    chosen = random.Random(0)
    for _ in range(300):
        position, bit = chosen.randrange(len(good) - 1), chosen.randrange(8)
        bad = bytearray(good)
        bad[position] ^= 1 << bit
        path.write_bytes(bad)
        with pytest.raises((DamagedStateError, NewerFormatError)) as caught:
            read_commits(folders, JOB_ID)
        assert caught.value.where == path


def test_unfinished_commits_and_other_files_are_not_read(folders: JobFolders) -> None:
    commit = stage(folders)
    commit_shard(folders, commit, None)
    for name in (".0123.tmp", "notes.txt", ".DS_Store"):
        (folders.commits / name).write_bytes(b"half")
    assert read_commits(folders, JOB_ID) == {SHARD: commit}


def test_a_commit_of_another_job_is_refused_by_name(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders), None)
    with pytest.raises(DamagedStateError, match=r"00042\.json: belongs to another job") as caught:
        read_commits(folders, OTHER_JOB)
    assert caught.value.where == folders.commits / "00042.json"


def test_a_commit_under_another_name_is_refused(folders: JobFolders) -> None:
    """Such as a copy that somebody made before trying something."""
    old, new = stage(folders, 1, **OLD), stage(folders, 2, **NEW)
    commit_shard(folders, old, None)
    (folders.commits / "00042_old.json").write_bytes((folders.commits / "00042.json").read_bytes())
    commit_shard(folders, new, old)
    with pytest.raises(DamagedStateError, match="00042_old"):
        read_commits(folders, JOB_ID)


# Committing


def test_a_commit_publishes_its_parts_and_nothing_else(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    assert read_parts(folders) == NEW
    assert list(list_names(folders.data("csv"))) == ["part-00042.csv"]
    assert list(list_names(folders.data("parquet"))) == ["part-00042.parquet"]
    assert list(list_names(folders.staging)) == []


def test_a_commit_removes_the_segments_and_outcomes_that_it_replaces(folders: JobFolders) -> None:
    old, new = stage(folders, 1, **OLD), stage(folders, 2, **NEW)
    commit_shard(folders, old, None)
    add_segments(folders, build=2)
    add_segments(folders, shard=43)
    commit_shard(folders, new, old)
    assert read_parts(folders) == NEW
    assert list(list_names(folders.outcomes)) == [new.outcomes.name]
    assert list_segments(folders.segments, JOB_ID).keys() == {43}


def test_a_commit_that_keeps_its_outcomes_keeps_them(folders: JobFolders) -> None:
    """When parts alone are made again."""
    old = stage(folders, 1, **OLD)
    commit_shard(folders, old, None)
    new = replace(stage(folders, 2, **NEW), outcomes=old.outcomes)
    commit_shard(folders, new, old)
    assert read_parts(folders) == NEW
    assert read_outcomes(folders, new).num_rows == 3


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


def test_a_refusing_disk_decides_nothing(folders: JobFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = stage(folders, 1, **OLD), stage(folders, 2, **NEW)
    commit_shard(folders, old, None)
    add_segments(folders, build=2)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(storage, "_replace", refuse)
        commit_shard(folders, new, old)
    assert read_commits(folders, JOB_ID) == {SHARD: old}
    assert read_parts(folders) == OLD
    assert len(list_segments(folders.segments, JOB_ID)[SHARD]) == 2
    assert read_outcomes(folders, old).num_rows == 3


# A stop at each step, and again in the recovery

WITH_PARTS: list[dict[str, bytes | None]] = [NEW, {"csv": None, "parquet": NEW["parquet"]}, {}]


def second_commit(folder: Path, parts: dict[str, bytes | None]) -> tuple[JobFolders, Commit, Commit]:
    """A shard that is committed once, staged a second time, and beside it one that stays as it is."""
    folders = make_folders(folder)
    with power_cut():  # never; but without fsync
        old, other = stage(folders, 1, **OLD), stage(folders, 1, shard=43, **OLD)
        commit_shard(folders, old, None)
        commit_shard(folders, other, None)
        add_segments(folders, build=2)
        new = stage(folders, 2, **parts)
    return folders, old, new


def check_world(folders: JobFolders, old: Commit, new: Commit, parts: dict[str, bytes | None]) -> bool:
    """See that everything is as one of the two commits says, and nothing is left over. Returns whether the new one."""
    commits = read_commits(folders, JOB_ID)
    current = commits[SHARD]
    assert current in (old, new)
    expected = OLD if current == old else {kind: content for kind, content in parts.items() if content is not None}
    assert read_parts(folders) == expected
    assert read_parts(folders, 43) == OLD
    for kind in ("csv", "parquet"):
        assert set(list_names(folders.data(kind))) <= {part_name(SHARD, kind), part_name(43, kind)}
    assert set(list_names(folders.outcomes)) == {current.outcomes.name, commits[43].outcomes.name}
    for commit in commits.values():
        read_outcomes(folders, commit)
    if current == new:
        assert list(list_names(folders.staging)) == []
    else:
        assert len(list_segments(folders.segments, JOB_ID)[SHARD]) == 2
    for folder in (folders.commits, folders.outcomes, folders.staging, folders.shards, folders.working_dir):
        assert not [name for name in list_names(folder) if name.startswith(".")]
    return current == new


@pytest.mark.parametrize("parts", WITH_PARTS)
def test_a_commit_that_is_stopped_at_any_step_is_whole_after_the_next_start(
    tmp_path: Path, parts: dict[str, bytes | None]
) -> None:
    outcomes = []
    for n in range(100):
        folders, old, new = second_commit(tmp_path / str(n), parts)
        with power_cut(n_calls=n) as calls:
            try:
                commit_shard(folders, new, old)
                is_complete = True
            except Killed:
                is_complete = False
        with power_cut():
            assert recover(folders) == []
        is_new = check_world(folders, old, new, parts)
        assert is_new == ("replace commits/00042.json" in calls)
        outcomes.append(is_new)
        if is_complete:
            break
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)
    assert len(outcomes) > 6


@pytest.mark.parametrize("parts", WITH_PARTS)
def test_a_recovery_that_is_stopped_at_any_step_is_completed_by_the_next_one(
    tmp_path: Path, parts: dict[str, bytes | None]
) -> None:
    for n in range(100):
        folders, old, new = second_commit(tmp_path / str(n), parts)
        with power_cut(after=lambda call: call == "replace commits/00042.json"), pytest.raises(Killed):
            commit_shard(folders, new, old)
        with power_cut(n_calls=n):
            try:
                recover(folders)
                is_complete = True
            except Killed:
                is_complete = False
        with power_cut():
            assert recover(folders) == []
        assert check_world(folders, old, new, parts)
        if is_complete:
            break
    assert n > 2


# Rolling forward


def test_staged_parts_of_a_decided_commit_are_published(folders: JobFolders) -> None:
    decide(folders, stage(folders, **NEW))
    assert read_parts(folders) == {}
    assert recover(folders) == []
    assert read_parts(folders) == NEW
    assert list(list_names(folders.staging)) == []


def test_a_staged_part_wins_over_an_older_part_of_the_same_size(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, 1, **OLD), None)
    decide(folders, stage(folders, 2, **NEW))
    assert read_parts(folders) == OLD
    assert recover(folders) == []
    assert read_parts(folders) == NEW


def test_an_older_part_is_not_taken_for_one_whose_staged_file_is_torn(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, 1, **OLD), None)
    commit = stage(folders, 2, **NEW)
    decide(folders, commit)
    assert commit.parts[0].staged is not None
    os.truncate(folders.staging / commit.parts[0].staged.name, 3)
    assert recover(folders) == [commit.parts[0]]


def test_a_decided_commit_without_a_part_removes_the_older_part(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, 1, **OLD), None)
    decide(folders, stage(folders, 2, csv=NEW["csv"], parquet=None))
    assert recover(folders) == []
    assert read_parts(folders) == {"csv": NEW["csv"]}


def test_a_missing_part_is_told(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    (folders.data("csv") / "part-00042.csv").unlink()
    assert recover(folders) == [commit.parts[0]]
    assert read_parts(folders) == {"parquet": NEW["parquet"]}


@pytest.mark.parametrize("content", [b"", b"new parque", b"new parquet!"])
def test_a_part_of_another_size_is_told(folders: JobFolders, content: bytes) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    (folders.data("parquet") / "part-00042.parquet").write_bytes(content)
    assert recover(folders) == [commit.parts[1]]


def test_parts_are_told_when_their_folder_is_gone(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    (folders.data("csv") / "part-00042.csv").unlink()
    folders.data("csv").rmdir()
    assert recover(folders) == [commit.parts[0]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("csv", "part-00043.csv"),
        ("csv", "part-00042.parquet"),
        ("csv", "part-00042 (copy).csv"),
        ("csv", ".hidden"),
        ("parquet", "part-00042.csv"),
        ("parquet", "_metadata"),
        ("parquet", "folder/"),
    ],
)
def test_a_stranger_in_a_data_folder_is_refused_before_anything_is_changed(
    folders: JobFolders, kind: str, name: str
) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    stranger = folders.data(kind) / name
    if name.endswith("/"):
        stranger.mkdir()
    else:
        stranger.touch()
    (folders.outcomes / "orphan").touch()
    (folders.staging / "orphan.tmp").touch()
    with pytest.raises(FolderError, match="is not a part of this job") as caught:
        recover(folders)
    assert caught.value.where == stranger
    assert stranger.exists()
    assert (folders.outcomes / "orphan").exists()
    assert (folders.staging / "orphan.tmp").exists()


def test_the_mark_of_success_is_no_stranger(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    for kind in ("csv", "parquet"):
        folders.success(kind).touch()
    assert recover(folders) == []
    assert folders.success("csv").exists()


def test_outcomes_that_no_commit_names_are_removed(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    stage(folders, 2, shard=43)
    assert recover(folders) == []
    assert list(list_names(folders.outcomes)) == [commit.outcomes.name]


def test_missing_outcomes_are_refused_by_name(folders: JobFolders) -> None:
    commit = stage(folders, **NEW)
    commit_shard(folders, commit, None)
    (folders.outcomes / commit.outcomes.name).unlink()
    (folders.outcomes / "orphan").touch()
    with pytest.raises(DamagedStateError, match="is missing") as caught:
        recover(folders)
    assert caught.value.where == folders.outcomes / commit.outcomes.name
    assert (folders.outcomes / "orphan").exists()


def test_what_was_left_unfinished_is_swept(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    swept = [folders.working_dir, folders.commits, folders.shards, folders.staging, folders.outcomes]
    for folder in swept:
        (folder / f".{'0123' * 8}.tmp").touch()
    (folders.staging / "part-00043.csv.run-000009.tmp").touch()
    assert recover(folders) == []
    for folder in swept:
        assert f".{'0123' * 8}.tmp" not in list_names(folder)
    assert list(list_names(folders.staging)) == []


def test_rolling_forward_leaves_segments_and_a_finished_job_alone(folders: JobFolders) -> None:
    commit_shard(folders, stage(folders, **NEW), None)
    add_segments(folders)
    with power_cut() as calls:
        assert recover(folders) == []
    assert calls == []
    assert len(list_segments(folders.segments, JOB_ID)[SHARD]) == 2


def test_rolling_forward_a_job_without_commits_makes_nothing(folders: JobFolders) -> None:
    assert roll_forward(folders, {}) == []
    assert sorted(os.listdir(folders.output_path)) == [".staging", "failures"]


# Outcomes


def test_outcomes_come_back_as_they_were_staged(folders: JobFolders) -> None:
    assert read_outcomes(folders, stage(folders)).equals(with_origin(some_outcomes()))


def test_outcomes_with_a_flipped_bit_are_refused_by_name(folders: JobFolders) -> None:
    commit = stage(folders)
    path = folders.outcomes / commit.outcomes.name
    good = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(good):
            file.seek(position)
            file.write(bytes([byte ^ (1 << position % 8)]))
            with pytest.raises(DamagedStateError) as caught:
                read_outcomes(folders, commit)
            assert caught.value.where == path
            file.seek(position)
            file.write(bytes([byte]))


@pytest.mark.parametrize("size", [0, 1, 100])
def test_truncated_outcomes_are_refused(folders: JobFolders, size: int) -> None:
    commit = stage(folders)
    os.truncate(folders.outcomes / commit.outcomes.name, size)
    with pytest.raises(DamagedStateError, match="is damaged"):
        read_outcomes(folders, commit)


def test_outcomes_that_are_gone_are_refused_by_name(folders: JobFolders) -> None:
    commit = stage(folders)
    (folders.outcomes / commit.outcomes.name).unlink()
    with pytest.raises(DamagedStateError, match=r"\.arrow: is missing"):
        read_outcomes(folders, commit)


def test_the_outcomes_of_another_shard_are_refused(folders: JobFolders) -> None:
    first, second = stage(folders), stage(folders, 2)
    (folders.outcomes / second.outcomes.name).replace(folders.outcomes / first.outcomes.name)
    with pytest.raises(DamagedStateError, match="is damaged"):
        read_outcomes(folders, first)


# The claim


def test_an_output_folder_is_claimed_once(folders: JobFolders) -> None:
    folders.output.check_claim(JOB_ID)
    folders.output.write_claim(JOB_ID, "count_produce")
    folders.output.check_claim(JOB_ID)
    before = folders.claim.read_bytes()
    folders.output.write_claim(OTHER_JOB, "other")
    assert folders.claim.read_bytes() == before


def test_the_output_folder_of_a_job_whose_state_is_gone_is_refused(folders: JobFolders) -> None:
    folders.output.write_claim(JOB_ID, "count_produce")
    with pytest.raises(FolderError, match="state is gone"):
        folders.output.check_claim(None)
    elsewhere = JobFolders(folders.working_dir / "another", folders.output_path)
    with pytest.raises(FolderError, match="belongs to another job"):
        elsewhere.output.check_claim(None)


def test_the_output_folder_of_another_job_is_refused(folders: JobFolders) -> None:
    folders.output.write_claim(JOB_ID, "count_produce")
    with pytest.raises(FolderError) as caught:
        folders.output.check_claim(OTHER_JOB)
    assert str(caught.value).splitlines()[0] == (
        f'{folders.output_path}: output_path belongs to another job: "count_produce", working_dir {folders.working_dir}'
    )


@pytest.mark.parametrize("job_id", [JOB_ID, None])
@pytest.mark.parametrize(
    "name", ["csv/part-00042.csv", "parquet/part-00042.parquet", "csv/data.csv", "parquet/_SUCCESS"]
)
def test_data_that_no_job_claims_are_refused(folders: JobFolders, job_id: str | None, name: str) -> None:
    (folders.output_path / name).parent.mkdir()
    (folders.output_path / name).touch()
    with pytest.raises(FolderError, match=f"holds files that no job of r3po claims: {name}"):
        folders.output.check_claim(job_id)


def test_a_part_that_a_commit_of_ours_names_is_ours_without_a_claim(folders: JobFolders) -> None:
    """The folder was removed while a run published into it, and only the last part is there."""
    commit = stage(folders, csv=b"a,b", parquet=b"PAR1")
    commit_shard(folders, commit, None)
    kept, lost = (folders.data(part.kind) / part.name for part in commit.parts)
    lost.unlink()
    folders.output.check_claim(JOB_ID, commit.parts)
    with pytest.raises(FolderError, match="no job of r3po claims"):
        folders.output.check_claim(JOB_ID)
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + b"?")
    with pytest.raises(FolderError, match="no job of r3po claims"):
        folders.output.check_claim(JOB_ID, commit.parts)


def test_other_files_in_the_output_folder_do_not_matter(folders: JobFolders) -> None:
    (folders.output_path / "notes.txt").touch()
    folders.data("csv").mkdir()
    folders.output.check_claim(None)


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 200])
def test_a_damaged_claim_is_refused_by_name(folders: JobFolders, content: bytes) -> None:
    folders.claim.write_bytes(content)
    with pytest.raises(DamagedStateError) as caught:
        folders.output.check_claim(JOB_ID)
    assert caught.value.where == folders.claim


def test_the_claim_of_a_newer_r3po_is_refused(folders: JobFolders) -> None:
    write_json(folders.claim, {"format": 4, "kind": "claim"})
    with pytest.raises(NewerFormatError):
        folders.output.check_claim(JOB_ID)


def test_a_claim_holds_a_working_dir_whatever_its_name(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / "out")
    try:
        folders.make()
    except FolderError:
        pytest.skip("this file system takes UTF-8 names only")
    folders.output.write_claim(JOB_ID, "count_produce")
    folders.output.check_claim(JOB_ID)
    with pytest.raises(FolderError, match=r"caf\\xe9"):
        folders.output.check_claim(OTHER_JOB)
