"""How each shard stands: what of it is done, failed or pending, by the one predicate.

It reads commits, outcomes and segments and decides nothing. A run starts from it, `r3po status` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import r3po.table.outcomes as tables
from r3po.state.commits import Commit, read_outcomes
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, read_segment
from r3po.state.shard_files import Entries, read_shard_file
from r3po.table import predicate
from r3po.table.outcomes import Indices, Table
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes, join_outcomes
from r3po.work import Span


@dataclass(frozen=True, slots=True)
class ShardState:
    """How one shard stands between two batches."""

    ref: ShardRef
    commit: Commit | None
    segments: tuple[Segment, ...]
    """Segments that add outcomes to what is committed; empty once a commit covers the shard."""
    n_done: int
    n_failed: int
    n_rows: int
    """Rows of the files that are done."""
    done_by_fingerprint: dict[str, int]
    pending: tuple[Span, ...]
    """Places of files that are in the source and have no outcome that counts."""
    is_stale: bool = False
    """The commit counts something else than counts by now, since files went; or it is of before a redo."""

    @property
    def n_pending(self) -> int:
        return sum(stop - start for start, stop in self.pending)

    @property
    def is_committed(self) -> bool:
        """Whether the commit's outcomes and parts are all there is to say."""
        return not self.pending and not self.segments and not self.is_stale and self.commit is not None

    def is_adopted(self, rules: CountingRules) -> bool:
        """Whether the commit knows the very entries of today, so that it alone tells how the shard stands."""
        return self.commit is not None and _covers(self.commit, self.ref, rules)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard and the files that hold its outcomes. Each method opens what it needs, and keeps nothing.

    Methods raise DamagedStateError where a file is not the one that manifest or commit name.
    """

    folders: JobFolders
    ref: ShardRef
    commit: Commit | None
    segments: Sequence[Segment]
    """Segments that the commit did not have."""

    def read_entries(self) -> Entries:
        return read_shard_file(self.folders.shards, self.ref)

    def read_candidates(
        self, *, with_values: bool = False, scratch: Path | None = None
    ) -> tuple[Outcomes, tuple[Segment, ...]]:
        """Return every outcome, committed or not, and the segments that were there whole.

        Args:
            with_values: read the values of the committed rows, too, into memory.
            scratch: read them into a copy on disk, in this folder, that goes with the table.
        """
        commit, found, present = self.commit, list[Outcomes](), list[Segment]()
        if commit is not None:
            found.append(read_outcomes(self.folders, commit, with_values=with_values, scratch=scratch))
        for segment in self.segments:
            outcomes = read_segment(self.folders.segments, segment)
            if outcomes is not None:
                found.append(outcomes)
                present.append(segment)
        return join_outcomes(found), tuple(present)

    def needed_builds(self, candidates: Table) -> list[int]:
        """Return the build that each place's outcome must have at least, negative where the file is deleted.

        Where no outcome is older than the newest entry, and no file deleted, the shard file is not opened.
        """
        if not self.ref.n_deleted and tables.lowest_build(candidates) >= self.ref.last_build:
            return [0] * self.ref.n_files
        return self.read_entries().needed_builds

    def choose(self, candidates: Table, rules: CountingRules) -> Indices:
        """Return the indices of the outcomes that count."""
        return predicate.choose(candidates, self.needed_builds(candidates), rules)

    def resolve(self, rules: CountingRules) -> ShardState:
        """Return how the shard stands. Opens outcomes and segments only where the commit alone does not tell."""
        ref, commit = self.ref, self.commit
        if commit is not None and not self.segments and _covers(commit, ref, rules):
            tally = commit.tally
            return ShardState(
                ref, commit, (), tally.n_done, tally.n_failed, tally.n_rows, tally.done_by_fingerprint, ()
            )
        if commit is None and not self.segments and not ref.n_deleted:
            return ShardState(ref, None, (), 0, 0, 0, {}, ((0, ref.n_files),))
        return self.read(rules)[0]

    def read(self, rules: CountingRules, *, with_values: bool = False) -> tuple[ShardState, Outcomes, Indices]:
        """Return how the shard stands by its outcomes themselves, all outcomes, and the indices of those that count."""
        ref, commit = self.ref, self.commit
        outcomes, present = self.read_candidates(with_values=with_values)
        table = outcomes.table
        needed = self.needed_builds(table)
        indices = predicate.choose(table, needed, rules)
        tally = tables.tally(table, indices)
        pending = tuple(missing_spans(tables.places_of(table, indices), needed))
        is_stale = commit is not None and (
            commit.first_build < rules.redo_since  # without an outcome it is of the columns of then all the same
            or (tally.n_done, tally.n_failed) != (commit.tally.n_done, commit.tally.n_failed)
        )
        counts = (tally.n_done, tally.n_failed, tally.n_rows, tally.done_by_fingerprint)
        return ShardState(ref, commit, present, *counts, pending, is_stale), outcomes, indices

    def count_kept_rows(self, rules: CountingRules) -> int:
        """Return how many rows count although their files are deleted."""
        if not self.ref.n_deleted or not rules.keeps_deleted:
            return 0
        table = self.read_candidates()[0].table
        entries = self.read_entries()
        indices = predicate.choose(table, entries.needed_builds, rules)
        return sum(entries.deleted[place] for place in tables.places_of(table, indices))

    def find_undone(self, after: ShardRef, rules: CountingRules) -> list[int]:
        """Return the places whose files went before an outcome of theirs counted.

        Args:
            after: the shard after they went.
            rules: of a redo under way: what was there before it does not count.
        """
        table = self.read_candidates()[0].table
        before, now = self.read_entries(), read_shard_file(self.folders.shards, after)
        done = set(tables.places_of(table, predicate.choose(table, before.needed_builds, rules)))
        return [
            place
            for place, is_gone in enumerate(now.deleted[: len(before)])
            if is_gone and not before.deleted[place] and place not in done
        ]


def newer_segments(commit: Commit | None, segments: Iterable[Segment]) -> list[Segment]:
    """Return the segments that a commit did not have; the others are what a kill or a late worker left behind.

    A commit covers every place that its build asked for, and whatever reopens a place raises the build.
    """
    return [segment for segment in segments if commit is None or segment.build > commit.build]


def missing_spans(places: Sequence[int], needed_builds: Sequence[int]) -> Iterator[Span]:
    """Yield what lies between ascending `places` in 0 ... n_files, without the places of files that were deleted."""
    if len(places) == len(needed_builds):
        return  # each place is there once
    covered = set(places)
    start = None
    for place, needed in enumerate(needed_builds):
        is_missing = needed >= 0 and place not in covered
        if is_missing and start is None:
            start = place
        elif not is_missing and start is not None:
            yield start, place
            start = None
    if start is not None:
        yield start, len(needed_builds)


# Private functions


def _covers(commit: Commit, ref: ShardRef, rules: CountingRules) -> bool:
    """Whether every place of the shard has a committed outcome that counts, by the commit file alone."""
    if not commit.is_for(ref) or commit.first_build < rules.redo_since:
        return False
    if ref.n_deleted and commit.keeps_deleted != rules.keeps_deleted:
        return False
    failures = commit.tally
    if failures.n_failed == 0:
        return True
    if failures.first_failure_build is not None and failures.first_failure_build < rules.retry_since:
        return False
    return rules.fingerprint is None or failures.failures_by_fingerprint.keys() <= {rules.fingerprint}
