"""Segments: what their names say, what comes back, and that a damaged one is absent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import r3po.table.outcomes as tables
from r3po.state.segments import Segment, list_segments, read_segment, remove_segments, segment_folder
from r3po.storage import durable as storage
from r3po.storage.durable import digest_file
from r3po.table.columns import columns_of
from r3po.table.outcomes import Failure, OutcomeBatch, Table
from shards import write_segment

JOB_ID = "0123456789abcdef0123456789abcdef"
OTHER_JOB = "f" * 32
COLUMNS = columns_of({"fruit": "apple", "n": 1})
FAILURE = Failure("ValueError", "no fruit", "count.py:3 in count", "Traceback ...")


def some_outcomes(*places: int, failed: tuple[int, ...] = ()) -> Table:
    batch = OutcomeBatch(
        places=list(places),
        sizes=[100 + place for place in places],
        mtimes_ns=[1_700_000_000_000_000_000 + place for place in places],
        hashes=[bytes([place]) * 16 for place in places],
        racy=[place % 2 == 0 for place in places],
        seconds=[0.25] * len(places),
        rows=[None if place in failed else (f"fruit {place}", place) for place in places],
        failures={i: FAILURE for i, place in enumerate(places) if place in failed},
    )
    return tables.outcome_table(batch, COLUMNS)


def write(segments: Path, *places: int, failed: tuple[int, ...] = (), **names: object) -> Segment:
    origin = {"shard": 42, "build": 7, "job_id": JOB_ID, "attempt": "run-000001", "fingerprint": "f1"} | names
    table = some_outcomes(*places, failed=failed)
    return write_segment(segments, table, n_failed=len(failed), **origin)  # type: ignore[arg-type]


def path_of(segments: Path, segment: Segment) -> Path:
    return segments / f"{segment.shard:05d}" / segment.name


# Names


@given(
    st.builds(
        Segment,
        shard=st.integers(0, 10**7),
        build=st.integers(1, 2**31 - 1),
        job_id=st.text("0123456789abcdef", min_size=8, max_size=8),
        attempt=st.from_regex(r"[0-9A-Za-z_-]{1,40}", fullmatch=True),
        n_done=st.integers(0, 10**7),
        n_failed=st.integers(0, 10**7),
        digest=st.text("0123456789abcdef", min_size=32, max_size=32),
    )
)
@example(Segment(0, 1, "00000000", "20260102T030405-a1b2-000001", 0, 0, "0" * 32))
@example(Segment(99_999, 1, "00000000", "a", 0, 0, "0" * 32))
@example(Segment(100_000, 1, "00000000", "a", 0, 0, "0" * 32))
@settings(deadline=None, max_examples=50)
def test_a_name_says_everything_about_its_segment(segment: Segment) -> None:
    assert Segment.parse(segment.name) == segment
    assert len(segment.name) < 255
    assert "/" not in segment.name


GOOD_NAME = f"00042.b7.01234567.run-000001.d3.f1.{'0' * 32}.arrow"
OTHER_NAMES = ["", ".DS_Store", ".0123456789abcdef.tmp", GOOD_NAME + ".tmp", "." + GOOD_NAME, GOOD_NAME + "\n"]
PIECES = [("00042", "42"), (".b7", ".7"), (".01234567", ".0123456"), (".01234567", ".0123456X"), (".f1", ".f")]
PIECES += [("run-000001", "run.1"), (".d3", ""), ("0" * 32, "0" * 31), (".arrow", ".arrows")]


def test_a_name_is_as_documented_and_other_names_are_no_segments() -> None:
    segment = Segment(42, 7, "01234567", "run-000001", 3, 1, "0" * 32)
    assert segment.name == GOOD_NAME
    assert Segment.parse(GOOD_NAME) == segment
    for name in (*OTHER_NAMES, *(GOOD_NAME.replace(*piece) for piece in PIECES)):
        assert name != GOOD_NAME
        assert Segment.parse(name) is None, name


# Writing and reading


def test_outcomes_come_back_with_their_origin_from_a_file_that_is_named_with_what_it_holds(tmp_path: Path) -> None:
    segment = write(tmp_path, 3, 5, 4, failed=(5,))
    assert os.listdir(tmp_path) == ["00042"]
    assert os.listdir(tmp_path / "00042") == [segment.name]
    assert segment_folder(tmp_path, 42) == tmp_path / "00042"
    _, sha256 = digest_file(path_of(tmp_path, segment))
    assert segment == Segment(42, 7, JOB_ID[:8], "run-000001", 2, 1, sha256[:32])
    expected = tables.with_origin(some_outcomes(3, 5, 4, failed=(5,)), build=7, attempt="run-000001", fingerprint="f1")
    found = read_segment(tmp_path, segment)
    assert found is not None
    assert found.table.equals(expected)
    assert tables.failures_of(found.table) == [{"place": 5, **FAILURE._asdict(), "tries": 1, "seconds": 0.25}]


def test_the_folder_of_a_shards_first_segment_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    segment = write(tmp_path, 1)
    for path in (tmp_path, tmp_path / "00042", path_of(tmp_path, segment)):
        assert path.stat().st_ino in synced


# Damage


def test_a_segment_with_a_flipped_bit_is_absent(tmp_path: Path, flips: Any) -> None:
    segment = write(tmp_path, 1, 2, failed=(2,))
    for position in flips(path_of(tmp_path, segment)):
        assert read_segment(tmp_path, segment) is None, position
    assert read_segment(tmp_path, segment) is not None


def test_a_segment_that_is_not_there_whole_is_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment, other = write(tmp_path, 1, 2), write(tmp_path, 3, attempt="run-000002")
    path = path_of(tmp_path, segment)
    is_told = [f"{path}: its digest is wrong; its files are done again"]
    for harmed in (path.read_bytes()[:-1], b"", path_of(tmp_path, other).read_bytes()):
        caplog.clear()
        path.write_bytes(harmed)
        assert read_segment(tmp_path, segment) is None
        assert caplog.messages == is_told
    caplog.clear()
    path.unlink()
    assert read_segment(tmp_path, segment) is None
    path.parent.rename(tmp_path / "aside")
    assert read_segment(tmp_path, segment) is None
    assert caplog.messages == []
    garbage = Segment(42, 7, JOB_ID[:8], "a", 1, 0, hashlib.sha256(b"garbage").hexdigest()[:32])
    path.parent.mkdir()
    path_of(tmp_path, garbage).write_bytes(b"garbage")
    assert read_segment(tmp_path, garbage) is None, "it is whole, but no outcomes"


# Listing


def test_segments_are_listed_by_shard_and_in_order_of_their_names(tmp_path: Path) -> None:
    origins = [(3, 2, "b"), (3, 1, "c"), (3, 2, "a"), (0, 1, "a"), (100_000, 1, "a")]
    made = [write(tmp_path, 0, shard=shard, build=build, attempt=attempt) for shard, build, attempt in origins]
    assert list_segments(tmp_path, JOB_ID) == {3: [made[1], made[2], made[0]], 0: [made[3]], 100_000: [made[4]]}


def test_segments_of_other_jobs_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    own = write(tmp_path, 1)
    write(tmp_path, 1, job_id=OTHER_JOB)
    write(tmp_path, 1, job_id=OTHER_JOB, shard=43)
    for name in (".0123.tmp", "notes.txt", own.name + ".bak"):
        (tmp_path / "00042" / name).touch()
    (tmp_path / ".DS_Store").touch()
    moved = write(tmp_path, 2, shard=44)
    (tmp_path / "00044").rename(tmp_path / "00041")
    assert moved.name in os.listdir(tmp_path / "00041")
    assert list_segments(tmp_path, JOB_ID) == {42: [own]}
    assert list_segments(tmp_path, OTHER_JOB).keys() == {42, 43}


# Removing


def test_a_shards_segments_are_removed_with_whatever_late_workers_left_but_no_folder(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 1, job_id=OTHER_JOB)
    (tmp_path / "00042" / ".0123.tmp").touch()
    other = write(tmp_path, 1, shard=43)
    remove_segments(tmp_path, 42)
    remove_segments(tmp_path, 42)  # they are gone already
    assert os.listdir(tmp_path) == ["00043"]
    assert list_segments(tmp_path, JOB_ID) == {43: [other]}
    for name in ("0", "folder"):  # before and after the names of segments
        (tmp_path / "00043" / name).mkdir()
    remove_segments(tmp_path, 43)
    assert sorted(os.listdir(tmp_path / "00043")) == ["0", "folder"]


def test_a_segment_that_a_late_worker_writes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    real = storage._unlink

    def unlink(path: Path) -> None:
        real(path)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_unlink", real)
            write(tmp_path, 2, attempt="late")

    monkeypatch.setattr(storage, "_unlink", unlink)
    remove_segments(tmp_path, 42)
    [segment] = list_segments(tmp_path, JOB_ID)[42]
    found = read_segment(tmp_path, segment)
    assert segment.attempt == "late"
    assert found is not None
    assert tables.places_of(found.table) == [2]
