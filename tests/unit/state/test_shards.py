"""How a shard stands: which outcomes count, and which places are pending."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import r3po.table.outcomes as tables
from r3po.errors import DamagedStateError
from r3po.file_version import FileVersion
from r3po.state.commits import Commit
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, list_segments, write_segment
from r3po.state.shard_files import Entries, read_shard_file, write_shard_file
from r3po.state.shards import (
    Shard,
    ShardState,
    missing_spans,
    newer_segments,
)
from r3po.storage import durable as storage
from r3po.storage.durable import NewFile
from r3po.table import predicate
from r3po.table import schema as schemas
from r3po.table.columns import columns_of
from r3po.table.outcomes import Failure, OutcomeBatch
from r3po.table.predicate import CountingRules

JOB_ID = "0123456789abcdef0123456789abcdef"
COLUMNS = columns_of({"n": 1})
FAILURE = Failure("ValueError", "bad", "count.py:3 in count", "...")
ANY = CountingRules(redo_since=1, retry_since=1)
"""Nothing was redone or retried, and every function counts."""

ROW, FAILED = True, False


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolders:
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)  # what is durable is another room's matter
    folders = JobFolders(tmp_path / "work", tmp_path / "out")
    folders.make()
    return folders


def list_files(folders: JobFolders, *builds: int) -> ShardRef:
    """Write a shard file: one file for each build at which its content was first seen."""
    entries = Entries()
    for place, build in enumerate(builds):
        entries.append(f"{place}.json", 100, 7, build)
    return write_shard_file(folders.shards, 0, max(builds), entries)


def add_segment(
    folders: JobFolders, outcomes: dict[int, bool], build: int = 1, attempt: str = "a", fingerprint: str = "f1"
) -> Segment:
    """Write a segment: whether each place has a row or failed."""
    n = len(outcomes)
    batch = OutcomeBatch(
        places=list(outcomes),
        sizes=[100] * n,
        mtimes_ns=[7] * n,
        hashes=[None] * n,
        racy=[False] * n,
        seconds=[0.5] * n,
        rows=[(place,) if is_row else None for place, is_row in outcomes.items()],
        failures={i: FAILURE for i, is_row in enumerate(outcomes.values()) if not is_row},
    )
    return write_segment(
        folders.segments,
        tables.outcome_table(batch, COLUMNS),
        shard=0,
        build=build,
        job_id=JOB_ID,
        attempt=attempt,
        fingerprint=fingerprint,
        n_failed=len(batch.failures),
    )


def commit(
    folders: JobFolders,
    ref: ShardRef,
    segments: Sequence[Segment],
    build: int = 1,
    rules: CountingRules = ANY,
    previous: Commit | None = None,
) -> Commit:
    """Return the commit of a shard of which every place has an outcome that counts."""
    table, _ = Shard(folders, ref, previous, segments).read_candidates()
    indices = predicate.choose(table, read_shard_file(folders.shards, ref).builds, rules)
    assert tables.places_of(table, indices) == list(range(ref.n_files))
    chosen = table.take(indices)
    with NewFile(folders.outcomes) as new:
        tables.write_table(chosen, new, {}, is_compressed=True)
        outcomes = new.finish(f"00000.b{build}.{new.sha256[:8]}.arrow")
    schema = schemas.own_schema(table, indices, COLUMNS)
    return Commit(
        job_id=JOB_ID,
        shard=0,
        build=build,
        made_from=ref.file.sha256,
        entries=ref,
        outcomes=outcomes,
        tally=tables.tally(table, indices),
        first_build=tables.lowest_build(chosen),
        own_schema=schema,
        schema=schema,
        parts=(),
        part_settings={},
    )


def resolve(
    folders: JobFolders,
    ref: ShardRef,
    made: Commit | None = None,
    segments: Sequence[Segment] = (),
    rules: CountingRules = ANY,
) -> ShardState:
    return Shard(folders, ref, made, newer_segments(made, segments)).resolve(rules)


def counts(state: ShardState) -> tuple[int, int, int]:
    """Return done, failed, pending, and see that they are all there is."""
    assert state.n_done + state.n_failed + state.n_pending == state.ref.n_files
    assert sum(state.rows_by_fingerprint.values()) == state.n_done
    return state.n_done, state.n_failed, state.n_pending


# Runs of places


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.integers(0, 31), st.sets(st.integers(0, 30)))
def test_missing_spans_are_all_that_is_missing(places: set[int], n_files: int, gone: set[int]) -> None:
    present = sorted(place for place in places if place < n_files)
    runs = list(missing_spans(present, [-1 if place in gone else 1 for place in range(n_files)]))
    missing = sorted({*range(n_files)} - {*present} - gone)
    assert [place for start, stop in runs for place in range(start, stop)] == missing
    assert all(start < stop for start, stop in runs)
    assert all(stop < start for (_, stop), (start, _) in pairwise(runs))


# Segments


def test_a_shard_without_outcomes_is_pending(folders: JobFolders) -> None:
    ref = list_files(folders, 1, 1, 1)
    state = resolve(folders, ref)
    assert state == ShardState(ref, None, (), 0, 0, {}, ((0, 3),))
    assert state.n_pending == 3
    assert not state.is_committed


def test_places_without_outcome_are_pending(folders: JobFolders) -> None:
    ref = list_files(folders, *[1] * 8)
    segments = [
        add_segment(folders, {2: ROW, 1: FAILED}),
        add_segment(folders, {5: ROW}, attempt="b", fingerprint="f2"),
    ]
    state = resolve(folders, ref, segments=segments)
    expected = ShardState(ref, None, tuple(segments), 2, 1, {"f1": 1, "f2": 1}, ((0, 1), (3, 5), (6, 8)))
    assert state == expected
    assert counts(state) == (2, 1, 5)


def test_a_shard_with_all_outcomes_is_not_committed_before_its_commit(folders: JobFolders) -> None:
    ref = list_files(folders, 1, 1)
    state = resolve(folders, ref, segments=[add_segment(folders, {0: ROW, 1: ROW})])
    assert counts(state) == (2, 0, 0)
    assert not state.is_committed


def test_the_places_of_a_damaged_segment_are_pending(folders: JobFolders) -> None:
    ref = list_files(folders, 1, 1, 1)
    good, bad = add_segment(folders, {0: ROW}), add_segment(folders, {1: ROW, 2: ROW}, attempt="b")
    os.truncate(folders.segments / "00000" / bad.name, 100)
    state = resolve(folders, ref, segments=[good, bad])
    assert state.segments == (good,)
    assert state.pending == ((1, 3),)


# Commits


def test_a_committed_shard_is_known_by_its_commit_alone(folders: JobFolders) -> None:
    ref = list_files(folders, 1, 1, 1)
    made = commit(folders, ref, [add_segment(folders, {0: ROW, 1: FAILED, 2: ROW})])
    (folders.outcomes / made.outcomes.name).unlink()
    (folders.shards / ref.file.name).unlink()
    for rules in (ANY, CountingRules(1, 1, "f1")):
        state = resolve(folders, ref, made, rules=rules)
        assert state == ShardState(ref, made, (), 2, 1, {"f1": 2}, ())
        assert state.is_committed


def test_a_commit_covers_the_shard_file_it_made_as_well(folders: JobFolders) -> None:
    """The manifest adopts it later."""
    ref = list_files(folders, 1, 1)
    made = commit(folders, ref, [add_segment(folders, {0: ROW, 1: ROW})])
    entries = read_shard_file(folders.shards, ref)
    entries.adopt(0, FileVersion(100, 8, bytes(16)))
    adopted = write_shard_file(folders.shards, 0, 1, entries)
    made = replace(made, entries=adopted)
    assert resolve(folders, ref, made).is_committed
    assert resolve(folders, adopted, made).is_committed


def test_segments_that_are_not_newer_than_the_commit_do_not_count(folders: JobFolders) -> None:
    """A late worker wrote them; even the better outcome comes too late."""
    ref = list_files(folders, 1, 2)
    made = commit(folders, ref, [add_segment(folders, {0: FAILED, 1: FAILED}, 2, "b")], build=2)
    late = [
        add_segment(folders, {0: ROW, 1: ROW}, 2, "a", "f2"),
        add_segment(folders, {0: ROW}, 1, "a", "f2"),
    ]
    assert newer_segments(made, late) == []
    state = resolve(folders, ref, made, late)
    assert state == ShardState(ref, made, (), 0, 2, {}, ())
    assert state.is_committed


def test_without_its_outcomes_a_reopened_commit_is_damage(folders: JobFolders) -> None:
    ref = list_files(folders, 1)
    made = commit(folders, ref, [add_segment(folders, {0: FAILED})])
    (folders.outcomes / made.outcomes.name).unlink()
    with pytest.raises(DamagedStateError, match="is missing"):
        resolve(folders, ref, made, rules=CountingRules(1, 2))


# What reopens places


@pytest.fixture
def committed(folders: JobFolders) -> tuple[ShardRef, Commit]:
    """Places 0 and 2 have a row, 1 and 3 failed."""
    ref = list_files(folders, 1, 1, 1, 1)
    return ref, commit(folders, ref, [add_segment(folders, {0: ROW, 1: FAILED, 2: ROW, 3: FAILED})])


def test_failures_of_several_functions_are_told_apart(folders: JobFolders) -> None:
    ref = list_files(folders, 1, 1, 1)
    segments = [add_segment(folders, {0: FAILED, 1: ROW}), add_segment(folders, {2: FAILED}, 1, "b", "f2")]
    for made, more in ((None, segments), (commit(folders, ref, segments), [])):
        assert resolve(folders, ref, made, more, CountingRules(1, 1, "f1")).pending == ((2, 3),)
        assert resolve(folders, ref, made, more, CountingRules(1, 1, "f2")).pending == ((0, 1),)
        assert resolve(folders, ref, made, more, CountingRules(1, 1, "f3")).pending == ((0, 1), (2, 3))


def test_a_commit_of_another_list_of_files_is_held_against_this_one(
    folders: JobFolders, committed: tuple[ShardRef, Commit]
) -> None:
    """Even if no build tells them apart."""
    _, made = committed
    longer = list_files(folders, 1, 1, 1, 1, 1)
    assert resolve(folders, longer, made).pending == ((4, 5),)


# What has to be opened


def test_the_shard_file_is_opened_only_if_an_outcome_is_older_than_an_entry(folders: JobFolders) -> None:
    ref = list_files(folders, 2, 3)
    (folders.shards / ref.file.name).rename(folders.shards / "aside")
    young = Shard(folders, ref, None, [add_segment(folders, {0: ROW, 1: ROW}, 3)])
    old = replace(young, segments=[add_segment(folders, {0: ROW}, 2), add_segment(folders, {1: ROW}, 3)])
    old_outcomes, _ = old.read_candidates()
    builds = young.needed_builds(young.read_candidates()[0])
    assert len(builds) == 2
    assert max(builds) <= 3
    with pytest.raises(DamagedStateError, match="is missing"):
        old.needed_builds(old_outcomes)
    (folders.shards / "aside").rename(folders.shards / ref.file.name)
    assert old.needed_builds(old_outcomes) == [2, 3]


# Whole histories against the predicate in plain Python


class Outcome(NamedTuple):
    place: int
    is_row: bool
    build: int
    attempt: str
    fingerprint: str


class History:
    """A job of one shard that grows, is run by two functions, retried, redone, killed and committed, by chance."""

    def __init__(self, folders: JobFolders, seed: int) -> None:
        self.folders = folders
        self.chosen = random.Random(seed)
        self.build = self.redo_since = self.retry_since = 1
        self.builds = [1] * 4
        self.ref = list_files(folders, *self.builds)
        self.commit: Commit | None = None
        self.counted: list[Outcome] = []
        """All outcomes that are committed or in newer segments."""
        self.handed_out = [(1, 4)]
        """Build and number of files at each time that a batch was handed out."""

    def rules(self, fingerprint: str | None) -> CountingRules:
        return CountingRules(self.redo_since, self.retry_since, fingerprint)

    def winners(self, fingerprint: str | None) -> dict[int, Outcome]:
        """The predicate, as FORMAT.md says it."""
        found: dict[int, Outcome] = {}
        for outcome in sorted(self.counted, key=lambda o: (-o.build, not o.is_row, o.attempt)):
            since = max(self.builds[outcome.place], self.redo_since)
            if not outcome.is_row:
                since = max(since, self.retry_since)
                if fingerprint not in (None, outcome.fingerprint):
                    continue
            if outcome.build >= since:
                found.setdefault(outcome.place, outcome)
        return found

    def pending(self, fingerprint: str | None) -> list[int]:
        return sorted({*range(len(self.builds))} - self.winners(fingerprint).keys())

    def step(self) -> None:
        self.chosen.choice([self.grow, self.retry, self.redo, self.run, self.run, self.run, self.late, self.late])()

    def grow(self) -> None:
        self.build += 1
        changed = self.chosen.randrange(len(self.builds))
        self.builds[changed] = self.build
        self.builds += [self.build] * self.chosen.randrange(3)
        self.ref = list_files(self.folders, *self.builds)

    def retry(self) -> None:
        self.build += 1
        self.retry_since = self.build

    def redo(self) -> None:
        if self.chosen.random() < 0.3:
            self.build += 1
            self.redo_since = self.build

    def run(self) -> None:
        """Some of the batches that a run would make; the commit if nothing is pending after them."""
        fingerprint = self.chosen.choice(["f1", "f2"])
        if len(self.pending(fingerprint)) > len(self.pending(None)):
            self.build += 1  # what reopens a place raises the build
        self.handed_out.append((self.build, len(self.builds)))
        for _ in range(self.chosen.randrange(4)):
            pending = self.pending(fingerprint)
            if pending:
                places = self.chosen.sample(pending, self.chosen.randint(1, len(pending)))
                self.record(places, self.build, fingerprint)
        if not self.pending(fingerprint):
            self.make_commit(fingerprint)

    def late(self) -> None:
        """A worker of an earlier run still writes."""
        build, n_files = self.chosen.choice(self.handed_out)
        places = self.chosen.sample(range(n_files), self.chosen.randint(1, n_files))
        self.record(places, build, self.chosen.choice(["f1", "f2"]))

    def record(self, places: list[int], build: int, fingerprint: str) -> None:
        attempt = f"{self.chosen.randrange(16**6):06x}"
        outcomes = {place: self.chosen.random() < 0.6 for place in places}
        add_segment(self.folders, outcomes, build, attempt, fingerprint)
        if self.commit is None or build > self.commit.build:
            self.counted += [Outcome(place, is_row, build, attempt, fingerprint) for place, is_row in outcomes.items()]

    def make_commit(self, fingerprint: str) -> None:
        rules = self.rules(fingerprint)
        self.commit = commit(self.folders, self.ref, self.newer(), self.build, rules, self.commit)
        self.counted = list(self.winners(fingerprint).values())

    def segments(self) -> list[Segment]:
        return list_segments(self.folders.segments, JOB_ID).get(0, [])

    def newer(self) -> list[Segment]:
        return [s for s in self.segments() if self.commit is None or s.build > self.commit.build]

    def check(self) -> None:
        for fingerprint in (None, "f1", "f2"):
            state = resolve(self.folders, self.ref, self.commit, self.segments(), self.rules(fingerprint))
            winners = self.winners(fingerprint)
            rows = [outcome.fingerprint for outcome in winners.values() if outcome.is_row]
            assert [p for start, stop in state.pending for p in range(start, stop)] == self.pending(fingerprint)
            assert counts(state)[:2] == (len(rows), len(winners) - len(rows))
            assert state.rows_by_fingerprint == {f: rows.count(f) for f in sorted({*rows})}
            assert state.segments == tuple(self.newer())


@pytest.mark.parametrize("seed", range(12))
def test_a_shard_stands_as_its_history_says(folders: JobFolders, seed: int) -> None:
    history = History(folders, seed)
    n_commits = 0
    for _ in range(25):
        before = history.commit
        history.step()
        history.check()
        n_commits += history.commit is not before
    assert n_commits
