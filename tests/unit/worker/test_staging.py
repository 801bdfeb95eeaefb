"""Staging: what a worker makes of a shard's segments, in real folders."""

from __future__ import annotations

import gc
import io
import os
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import r3po.state.shards as shards
import r3po.storage.durable as storage
import r3po.table.outcomes as tables
import r3po.table.parts
from r3po.errors import DamagedStateError
from r3po.state.commits import Commit, read_outcomes
from r3po.state.folders import JobFolders
from r3po.state.output_folder import Part
from r3po.state.segments import segment_folder
from r3po.state.shard_files import read_shard_file
from r3po.table import schema as schemas
from r3po.table.columns import columns_of
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes
from r3po.worker.staging import Staged, stage_shard
from shards import BOTH, BROKE, JOB_ID, Shard, hash_of, make_shard


def tree(folders: JobFolders) -> set[str]:
    roots = (folders.working_dir, folders.output_path)
    return {str(path.relative_to(root)) for root in roots for path in root.rglob("*") if path.is_file()}


# A full pass


def test_a_shard_is_staged_in_place_order_with_everything_its_commit_says(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 5)
    shard.write({3: (3, "three"), 0: (0, "zero")}, fingerprint="f2")
    shard.write({4: (4, None), 2: BROKE, 1: (1, "")})
    before = tree(shard.folders)
    commit = shard.stage(attempt="s9", build=2)

    assert shard.part(commit, "csv") == b'n,t\n0,"zero"\n1,""\n3,"three"\n4,\n'
    found = shard.parquet(commit)
    assert found.to_pydict() == {"n": [0, 1, 3, 4], "t": ["zero", "", "three", None]}
    named = {b"job": b"count", b"shard": b"7", b"version": b"0.3.0", b"function": b"f1,f2"}
    assert {key: found.schema.metadata[b"r3po." + key] for key in named} == named
    assert (commit.job_id, commit.shard, commit.build, commit.first_build) == (JOB_ID, 7, 2, 1)
    assert commit.tally == tables.Tally(4, 1, 4, {"f1": 2, "f2": 2}, {"f1": 1}, 1)
    assert commit.own_schema == commit.schema == pa.schema([("n", pa.int64()), ("t", pa.string())])
    assert commit.part_settings == BOTH
    assert commit.made_from == shard.ref.file.sha256
    assert commit.is_for(shard.ref)
    assert [part.name for part in commit.parts] == ["part-00007.csv", "part-00007.parquet"]

    outcomes = read_outcomes(shard.folders, commit).table
    assert outcomes["place"].to_pylist() == [0, 1, 2, 3, 4]
    assert outcomes["fingerprint"].to_pylist() == ["f2", "f1", "f1", "f2", "f1"]
    assert tables.failures_of(outcomes) == [{"place": 2, **BROKE._asdict(), "tries": 1, "seconds": 0.5}]
    # Staging adds durable files under names that nobody looks at; it removes and publishes nothing.
    staged = {f".staging/{part.staged.name}" for part in commit.parts if part.staged}
    assert tree(shard.folders) == {*before, *staged, f"outcomes/{commit.outcomes.name}"}


def test_two_stagings_of_one_shard_do_not_share_a_file(tmp_path: Path) -> None:
    """A late worker of a dead run may stage what the next run stages."""
    shard = make_shard(tmp_path, 1)
    shard.write({0: (1, "a")})
    one, two = shard.stage(attempt="s1"), shard.stage(attempt="s2")
    assert one.outcomes.name != two.outcomes.name
    assert {p.staged.name for p in one.parts if p.staged}.isdisjoint(p.staged.name for p in two.parts if p.staged)
    assert parts_of(shard, one) == parts_of(shard, two)


def parts_of(shard: Shard, commit: Commit) -> list[bytes]:
    return [shard.part(commit, kind) for kind in ("csv", "parquet")]


def test_only_the_kinds_that_are_asked_for_are_made_with_the_compression_that_is_asked_for(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 1)
    shard.write({0: (1, "a" * 100)})
    wanted = [{"csv": False, "parquet": {"compression": "snappy", "level": None}}, {"csv": True, "parquet": False}]
    parquet, csv = (shard.stage(settings=kinds, attempt=f"s{n}") for n, kinds in enumerate(wanted))
    assert [parquet.part_settings, csv.part_settings] == wanted
    assert [part.kind for commit in (parquet, csv) for part in commit.parts if part.staged] == ["parquet", "csv"]
    assert len(os.listdir(shard.folders.output.staging)) == 2
    metadata = pq.read_metadata(io.BytesIO(shard.part(parquet, "parquet")))
    assert metadata.row_group(0).column(1).compression == "SNAPPY"


def test_failures_alone_make_no_part(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 3)
    shard.write({i: BROKE for i in range(3)})
    commit = shard.stage()
    assert commit.parts == (Part("csv", "part-00007.csv", None), Part("parquet", "part-00007.parquet", None))
    assert os.listdir(shard.folders.output.staging) == []
    assert (commit.tally.n_done, commit.tally.n_failed) == (0, 3)
    assert commit.own_schema.types == [pa.null(), pa.null()]
    assert len(read_outcomes(shard.folders, commit).table) == 3


# What is missing


def test_places_without_an_outcome_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    """Outcomes of other places, of older contents and by other code do not fill a gap."""
    shard = make_shard(tmp_path, 10, builds=[1, 2] + [1] * 8)
    shard.write({1: (1, "old"), 2: (2, "b"), 5: BROKE, 11: (7, "no such place")}, build=1)
    shard.write({8: BROKE}, build=1, fingerprint="old code")
    before = tree(shard.folders)
    assert stage_shard(shard.order(rules=CountingRules(0, 0, "f1"))) == Staged(7, None, ((0, 2), (3, 5), (6, 10)))
    assert tree(shard.folders) == before


def test_a_damaged_segment_does_no_harm_where_another_covers_its_places(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 2)
    broken = shard.write({0: (0, "a"), 1: (1, "b")})
    shard.write({1: (1, "b"), 0: (0, "a")})
    (segment_folder(shard.folders.segments, 7) / broken.name).write_bytes(b"garbage")
    assert shard.part(shard.stage(), "csv") == b'n,t\n0,"a"\n1,"b"\n'


def test_a_damaged_outcomes_file_and_a_shard_file_that_is_not_the_manifest_s_are_refused(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 2)
    shard.write({0: (1, "a"), 1: (2, "b")})
    previous = shard.stage()
    path = shard.folders.outcomes / previous.outcomes.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedStateError, match=previous.outcomes.name):
        stage_shard(shard.order(previous=previous, segments=()))
    path = shard.folders.shards / shard.ref.file.name
    path.write_bytes(path.read_bytes().replace(b"f0", b"f1"))
    with pytest.raises(DamagedStateError, match="digest"):
        stage_shard(shard.order())
    path.unlink()
    with pytest.raises(DamagedStateError, match="is missing"):
        stage_shard(shard.order())


# Staging again


def test_staging_again_without_segments_keeps_the_outcomes_and_gives_the_same_bytes(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 4)
    shard.write({2: (2, "c"), 0: (0, "a")}, build=1)
    shard.write({1: BROKE, 3: (3, "d")}, build=1)
    first = shard.stage(attempt="s1")
    n_outcomes = len(os.listdir(shard.folders.outcomes))
    again = shard.stage(attempt="s2", build=5, previous=first, segments=(), ref=first.entries)
    assert (again.build, again.outcomes, again.entries) == (5, first.outcomes, first.entries)
    assert len(os.listdir(shard.folders.outcomes)) == n_outcomes
    assert (again.tally, again.first_build, again.own_schema) == (first.tally, first.first_build, first.own_schema)
    assert parts_of(shard, again) == parts_of(shard, first)


def test_a_wider_schema_of_the_job_makes_the_part_float_and_leaves_its_own_types(tmp_path: Path) -> None:
    ints, floats = make_shard(tmp_path / "ints", 2), make_shard(tmp_path / "floats", 2)
    big = 1 << 60
    ints.write({0: (big, "a"), 1: (2, "b")})
    floats.write({0: (float(big), "a"), 1: (2.0, "b")})
    commit = ints.stage(schema=pa.schema([("n", pa.float64()), ("t", pa.null())]))
    assert commit.schema.types == [pa.float64(), pa.string()]
    assert commit.own_schema.types == [pa.int64(), pa.string()]
    found = ints.parquet(commit)
    assert found.schema.types == [pa.float64(), pa.string()]
    assert found["n"].to_pylist() == [float(big), 2.0]
    assert ints.part(commit, "csv") == floats.part(floats.stage(), "csv"), "as those of other shards print"


def test_new_segments_replace_what_was_committed_before_only_where_they_count(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 4)
    shard.write({i: (i, "old") for i in range(3)}, build=1)
    shard.write({3: BROKE}, build=1)
    previous = shard.stage()
    shard.segments.clear()
    shard.write({3: (3, "retried")}, build=2)
    shard.write({1: (1, "an older, late one")}, build=0)
    shard.write({0: (9, "a late one of the same build, with a larger attempt")}, build=1, attempt="z")
    commit = shard.stage(build=2, attempt="s2", previous=previous)
    assert [line[1] for line in shard.csv_rows(commit)] == ["t", "old", "old", "old", "retried"]
    assert commit.outcomes.name != previous.outcomes.name
    assert (commit.build, commit.first_build) == (2, 1)
    # The file of the commit that is still in force stays: the driver removes it once it has decided.
    assert len(read_outcomes(shard.folders, previous).table) == 4


def test_tries_are_summed_over_attempts_and_over_commits(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 3)
    shard.write({0: BROKE, 1: BROKE, 2: (2, "c")})
    shard.write({0: BROKE})
    shard.write({0: (1, "a")})
    first = shard.stage()
    assert read_outcomes(shard.folders, first).table["tries"].to_pylist() == [3, 1, 1]
    shard.segments.clear()
    shard.write({1: BROKE}, build=2)
    shard.write({1: BROKE}, build=3)
    second = shard.stage(previous=first, build=3, attempt="s2")
    assert read_outcomes(shard.folders, second).table["tries"].to_pylist() == [3, 3, 1]


# Hashes that f's own content had


def test_hashes_that_f_saw_are_adopted_into_a_new_shard_file(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 3, hashed=False)
    shard.write({2: (2, "c"), 1: BROKE}, sizes={2: 5})
    shard.write({0: (0, "a")}, hash_=False)
    commit = shard.stage(build=4)
    assert commit.entries != shard.ref
    assert commit.entries.file.name.startswith("00007.b4.")
    assert commit.made_from == shard.ref.file.sha256
    assert commit.is_for(shard.ref) and commit.is_for(commit.entries)
    entries = read_shard_file(shard.folders.shards, commit.entries)
    assert entries.hashes == [None, hash_of(1), hash_of(2)]
    assert entries.sizes == [100, 101, 5]
    assert entries.mtimes_ns == [10**18, 10**18 + 1, 10**18 + 2]
    assert entries.builds == [1, 1, 1]
    assert (commit.entries.n_files, commit.entries.last_build, commit.entries.size_bytes) == (3, 1, 206)
    # The old one is still what the manifest names.
    assert read_shard_file(shard.folders.shards, shard.ref).hashes == [None] * 3


def test_a_shard_file_that_says_it_all_is_kept_and_a_hash_goes_when_the_file_is_another_one_now(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 2)
    shard.write({0: (0, "a")})
    shard.write({1: (1, "b")}, hash_=False)
    commit = shard.stage()
    assert commit.entries == shard.ref
    assert len(os.listdir(shard.folders.shards)) == 1
    shard.segments.clear()
    shard.write({0: (0, "a"), 1: (1, "b")}, sizes={1: 7}, hash_=False)
    entries = read_shard_file(shard.folders.shards, shard.stage(attempt="s2").entries)
    assert (entries.hashes, entries.sizes) == ([hash_of(0), None], [100, 7])


# A disk that refuses


def stage_on_a_full_disk(shard: Shard, seam: str, n_allowed: int) -> Staged | None:
    """Stage where a seam fails like a full disk once it was called `n_allowed` times."""
    real, calls = getattr(storage, seam), iter(range(n_allowed))

    def refuse(*args: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(28, "No space left on device")
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, seam, refuse)
        try:
            return stage_shard(shard.order(attempt=f"{seam}{n_allowed}"))
        except OSError as error:
            assert error.errno == 28
            return None


@pytest.mark.parametrize(
    ("seam", "n_calls"),
    [("_create", 4), ("_fsync", 8), ("_replace", 4)],  # outcomes, shard file, two parts; each is synced with its folder
)
def test_a_disk_that_refuses_at_any_step_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str, n_calls: int
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: heard.append(repr(event.exc_value)))
    shard = make_shard(tmp_path, 3, hashed=False)
    shard.write({i: (i, "a") for i in range(3)})
    for n_allowed in range(n_calls):
        assert stage_on_a_full_disk(shard, seam, n_allowed) is None
        assert [name for name in tree(shard.folders) if Path(name).name.startswith(".")] == []
    staged = stage_on_a_full_disk(shard, seam, n_calls)
    assert staged is not None and staged.commit is not None
    gc.collect()
    assert heard == []


# The same rows give the same bytes


@settings(derandomize=True, max_examples=12, deadline=None)
@given(st.data())
def test_however_a_shard_was_cut_into_segments_its_parts_have_the_same_digests(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    columns = columns_of({"n": 1, "t": "x", "later": None, "d": {}})
    row = st.tuples(
        st.none() | st.integers(-99, 99) | st.floats(allow_nan=False),
        st.none() | st.text(max_size=4),
        st.none() | st.integers(0, 9) | st.text(max_size=3) | st.booleans(),
        st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1),
    )
    outcomes = dict(enumerate(data.draw(st.lists(row | st.just(BROKE), min_size=1, max_size=20))))
    rng = data.draw(st.randoms(use_true_random=False))

    whole = make_shard(tmp_path_factory.mktemp("whole"), len(outcomes), columns=columns)
    whole.write(outcomes, build=3)
    cut = make_shard(tmp_path_factory.mktemp("cut"), len(outcomes), columns=columns)
    write_in_pieces(cut, outcomes, rng)
    expected, found = whole.stage(build=3), cut.stage(build=3, attempt="other")

    def digests(commit: Commit) -> list[Any]:
        return [(part.kind, part.staged and part.staged.sha256) for part in commit.parts]

    assert digests(found) == digests(expected)
    assert (found.tally, found.own_schema) == (expected.tally, expected.own_schema)
    again = cut.stage(build=3, attempt="again", previous=found, segments=())
    assert digests(again) == digests(expected)


def write_in_pieces(shard: Shard, outcomes: dict[int, Any], rng: random.Random) -> None:
    """Write outcomes as many segments in any order, among duplicates that the predicate passes over."""
    places = rng.sample(sorted(outcomes), len(outcomes))
    while places:
        piece = [places.pop() for _ in range(min(len(places), rng.randint(1, 6)))]
        shard.write({place: outcomes[place] for place in piece}, build=3, attempt=f"m{len(places)}")
        others = [place for place in piece if rng.random() < 0.5]
        older = {place: outcomes[rng.choice(sorted(outcomes))] for place in others}
        kind = rng.choice(["none", "older", "failed", "late"])
        if others and kind == "older":
            shard.write(older, build=rng.choice([1, 2]), attempt=f"a{len(places)}")
        elif others and kind == "failed":
            shard.write({p: BROKE for p in others if outcomes[p] is not BROKE}, build=3, attempt=f"a{len(places)}")
        elif others and kind == "late":
            shard.write({p: outcomes[p] for p in others}, build=3, attempt=f"z{len(places)}")
    rng.shuffle(shard.segments)


def test_a_shard_with_more_text_than_one_arrow_array_holds_can_be_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 texts of 215 kB are enough. The files would take long to write; one text stands for all of them."""
    n_files = 40
    shard = make_shard(tmp_path, n_files, columns=columns_of({"t": "x"}))
    one = shard.write({0: ("x" * (60 << 20),)})
    table = shards.Shard(shard.folders, shard.ref, None, [one]).read_candidates()[0].table
    copies = [table.set_column(0, "place", pa.array([place], pa.int32())) for place in range(n_files)]
    monkeypatch.setattr(shards.Shard, "read_candidates", lambda *_, **__: (Outcomes(tables.join_tables(copies)), ()))
    commit = shard.stage(settings={"csv": False, "parquet": False})
    assert commit.tally.n_done == n_files


# Memory


def test_outcomes_that_are_read_again_take_disk_and_not_memory(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 40)
    shard.write({i: (i, f"{i:02}" * 500_000) for i in range(40)})
    commit = shard.stage()
    names = tree(shard.folders)

    def allocated(**options: Any) -> tuple[int, Any]:
        gc.collect()
        before = pa.total_allocated_bytes()
        table = read_outcomes(shard.folders, commit, **options).table
        return pa.total_allocated_bytes() - before, table

    in_memory, whole = allocated()
    on_disk, mapped = allocated(scratch=shard.folders.outcomes)
    without, fixed = allocated(with_values=False)
    assert in_memory > 40_000_000
    assert on_disk < 1_000_000 and without < 1_000_000
    assert mapped.equals(whole)
    assert fixed.equals(whole.select([name for name in whole.column_names if name in tables.FIXED.names]))
    assert tree(shard.folders) == names


def test_lists_are_decoded_one_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 2_000)
    decoded: list[int] = []
    original = schemas.plain_values

    def decode(texts: Any, variant: str) -> list[Any]:
        decoded.append(sum(map(len, filter(None, texts.to_pylist()))))
        return original(texts, variant)

    for module in (schemas, r3po.table.parts):
        monkeypatch.setattr(module, "plain_values", decode)
    shard = make_shard(tmp_path, 50, columns=columns_of({"x": [1]}))
    shard.write({i: ([i] * 100,) for i in range(50)})
    assert len(shard.parquet(shard.stage())) == 50
    assert len(decoded) > 10 and max(decoded) <= 2_000
