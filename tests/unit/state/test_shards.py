"""How a shard stands: which outcomes count, and which places are pending."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3po.errors import DamagedStateError
from r3po.state.commits import Commit
from r3po.state.segments import Segment, list_segments
from r3po.state.shards import Shard, ShardState, missing_spans, newer_segments
from r3po.storage import durable as storage
from r3po.table.columns import columns_of
from r3po.table.predicate import CountingRules
from shards import BROKE, JOB_ID, make_shard
from shards import Shard as Made

COLUMNS = columns_of({"n": 1})
NO_PARTS = {"csv": False, "parquet": False}
ANY = CountingRules(redo_since=1, retry_since=1)
"""Nothing was redone or retried, and every function counts."""

ROW, FAILED = True, False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)  # what is durable is another room's matter
    return tmp_path


def list_files(folder: Path, *builds: int) -> Made:
    """Make a shard file: one file for each build at which its content was first seen."""
    return make_shard(folder, len(builds), shard=0, columns=COLUMNS, builds=builds)


def add_segment(
    made: Made, outcomes: dict[int, bool], build: int = 1, attempt: str = "a", fingerprint: str = "f1"
) -> Segment:
    """Write a segment: whether each place has a row or failed."""
    lines = {place: (place,) if is_row else BROKE for place, is_row in outcomes.items()}
    return made.write(lines, build=build, attempt=attempt, fingerprint=fingerprint)


def commit(made: Made, segments: Sequence[Segment], build: int = 1, rules: CountingRules = ANY, **order: Any) -> Commit:
    """Return the commit of a shard of which every place has an outcome that counts."""
    return made.stage(segments=tuple(segments), build=build, rules=rules, settings=NO_PARTS, **order)


def resolve(
    made: Made, commit: Commit | None = None, segments: Sequence[Segment] = (), rules: CountingRules = ANY
) -> ShardState:
    return Shard(made.folders, made.ref, commit, newer_segments(commit, segments)).resolve(rules)


def counts(state: ShardState) -> tuple[int, int, int]:
    """Return done, failed, pending, and see that they are all there is."""
    assert state.n_done + state.n_failed + state.n_pending == state.ref.n_files
    assert sum(state.done_by_fingerprint.values()) == state.n_done
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


def test_places_without_outcome_are_pending(folder: Path) -> None:
    made = list_files(folder, *[1] * 8)
    state = resolve(made)
    assert state == ShardState(made.ref, None, (), 0, 0, 0, {}, ((0, 8),))
    assert counts(state) == (0, 0, 8)
    segments = [add_segment(made, {2: ROW, 1: FAILED}), add_segment(made, {5: ROW}, attempt="b", fingerprint="f2")]
    state = resolve(made, segments=segments)
    expected = ShardState(made.ref, None, tuple(segments), 2, 1, 2, {"f1": 1, "f2": 1}, ((0, 1), (3, 5), (6, 8)))
    assert state == expected
    assert counts(state) == (2, 1, 5)
    os.truncate(made.folders.segments / "00000" / segments[1].name, 100)
    state = resolve(made, segments=segments)
    assert (state.segments, state.pending) == ((segments[0],), ((0, 1), (3, 8))), "a damaged segment is absent"


# Commits


def test_a_committed_shard_is_known_by_its_commit_alone(folder: Path) -> None:
    made = list_files(folder, 1, 1, 1)
    segment = add_segment(made, {0: ROW, 1: FAILED, 2: ROW})
    assert not resolve(made, segments=[segment]).is_committed, "all outcomes are there, but not their commit"
    committed = commit(made, [segment])
    (made.folders.outcomes / committed.outcomes.name).unlink()
    (made.folders.shards / made.ref.file.name).unlink()
    for rules in (ANY, CountingRules(1, 1, "f1")):
        state = resolve(made, committed, rules=rules)
        assert state == ShardState(made.ref, committed, (), 2, 1, 2, {"f1": 2}, ())
        assert state.is_committed
    with pytest.raises(DamagedStateError, match="is missing"):
        resolve(made, committed, rules=CountingRules(1, 2))  # its outcomes are needed to reopen it


def test_a_commit_covers_the_shard_file_it_made_as_well(folder: Path) -> None:
    """The manifest adopts it later."""
    made = make_shard(folder, 2, shard=0, columns=COLUMNS, hashed=False)
    add_segment(made, {0: ROW, 1: ROW})
    committed = commit(made, made.segments)
    assert committed.entries != made.ref
    for ref in (made.ref, committed.entries):
        assert resolve(replace(made, ref=ref), committed).is_committed


def test_segments_that_are_not_newer_than_the_commit_do_not_count(folder: Path) -> None:
    """A late worker wrote them; even the better outcome comes too late."""
    made = list_files(folder, 1, 2)
    committed = commit(made, [add_segment(made, {0: FAILED, 1: FAILED}, 2, "b")], build=2)
    late = [add_segment(made, {0: ROW, 1: ROW}, 2, "a", "f2"), add_segment(made, {0: ROW}, 1, "a", "f2")]
    assert newer_segments(committed, late) == []
    state = resolve(made, committed, late)
    assert state == ShardState(made.ref, committed, (), 0, 2, 0, {}, ())
    assert state.is_committed


# What reopens places


def test_failures_of_several_functions_are_told_apart(folder: Path) -> None:
    made = list_files(folder, 1, 1, 1)
    segments = [add_segment(made, {0: FAILED, 1: ROW}), add_segment(made, {2: FAILED}, 1, "b", "f2")]
    for committed, more in ((None, segments), (commit(made, segments), [])):
        assert resolve(made, committed, more, CountingRules(1, 1, "f1")).pending == ((2, 3),)
        assert resolve(made, committed, more, CountingRules(1, 1, "f2")).pending == ((0, 1),)
        assert resolve(made, committed, more, CountingRules(1, 1, "f3")).pending == ((0, 1), (2, 3))


def test_a_commit_of_another_list_of_files_is_held_against_this_one(folder: Path) -> None:
    """Even if no build tells them apart."""
    made = list_files(folder, 1, 1, 1, 1)
    committed = commit(made, [add_segment(made, {0: ROW, 1: FAILED, 2: ROW, 3: FAILED})])
    assert resolve(list_files(folder, 1, 1, 1, 1, 1), committed).pending == ((4, 5),)


# What has to be opened


def test_the_shard_file_is_opened_only_if_an_outcome_is_older_than_an_entry(folder: Path) -> None:
    made = list_files(folder, 2, 3)
    path = made.folders.shards / made.ref.file.name
    path.rename(folder / "aside")
    young = Shard(made.folders, made.ref, None, [add_segment(made, {0: ROW, 1: ROW}, 3)])
    old = replace(young, segments=[add_segment(made, {0: ROW}, 2), add_segment(made, {1: ROW}, 3)])
    old_outcomes = old.read_candidates()[0].table
    builds = young.needed_builds(young.read_candidates()[0].table)
    assert len(builds) == 2
    assert max(builds) <= 3
    with pytest.raises(DamagedStateError, match="is missing"):
        old.needed_builds(old_outcomes)
    (folder / "aside").rename(path)
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

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.chosen = random.Random(seed)
        self.build = self.redo_since = self.retry_since = 1
        self.builds = [1] * 4
        self.made = list_files(folder, *self.builds)
        self.commit: Commit | None = None
        self.n_commits = 0
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
        self.made = list_files(self.folder, *self.builds)

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
        add_segment(self.made, outcomes, build, attempt, fingerprint)
        if self.commit is None or build > self.commit.build:
            self.counted += [Outcome(place, is_row, build, attempt, fingerprint) for place, is_row in outcomes.items()]

    def make_commit(self, fingerprint: str) -> None:
        rules = self.rules(fingerprint)
        self.n_commits += 1
        attempt = f"s{self.n_commits}"
        self.commit = commit(self.made, self.newer(), self.build, rules, previous=self.commit, attempt=attempt)
        self.counted = list(self.winners(fingerprint).values())

    def segments(self) -> list[Segment]:
        return list_segments(self.made.folders.segments, JOB_ID).get(0, [])

    def newer(self) -> list[Segment]:
        return [s for s in self.segments() if self.commit is None or s.build > self.commit.build]

    def check(self) -> None:
        for fingerprint in (None, "f1", "f2"):
            state = resolve(self.made, self.commit, self.segments(), self.rules(fingerprint))
            winners = self.winners(fingerprint)
            rows = [outcome.fingerprint for outcome in winners.values() if outcome.is_row]
            assert [p for start, stop in state.pending for p in range(start, stop)] == self.pending(fingerprint)
            assert counts(state)[:2] == (len(rows), len(winners) - len(rows))
            assert state.done_by_fingerprint == {f: rows.count(f) for f in sorted({*rows})}
            assert state.segments == tuple(self.newer())


@pytest.mark.parametrize("seed", range(8))
def test_a_shard_stands_as_its_history_says(folder: Path, seed: int) -> None:
    history = History(folder, seed)
    for _ in range(25):
        history.step()
        history.check()
    assert history.n_commits
