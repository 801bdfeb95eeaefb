"""How each shard stands: what of it is done, failed or pending, by the one predicate.

It reads manifest, commits and segments and decides nothing. `jobrunner` starts from it, `jobstatus` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import r3po.tables as tables
from r3po.commits import Commit, read_outcomes
from r3po.manifest import ShardRef, read_shard_file
from r3po.segments import Segment, read_segment
from r3po.storage import JobFolders
from r3po.tables import Indices, Rules, Table

Run = tuple[int, int]
"""Places from the first up to, not including, the second."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard between two batches."""

    ref: ShardRef
    commit: Commit | None
    segments: tuple[Segment, ...]
    """Those that add outcomes to what is committed; empty once a commit covers the shard."""
    n_done: int
    n_failed: int
    rows_by_fingerprint: dict[str, int]
    pending: tuple[Run, ...]
    """Places without an outcome that counts."""

    @property
    def n_pending(self) -> int:
        return sum(stop - start for start, stop in self.pending)

    @property
    def is_committed(self) -> bool:
        """Whether a commit says all there is to say."""
        return not self.pending and not self.segments and self.commit is not None


def resolve_shard(
    folders: JobFolders, ref: ShardRef, commit: Commit | None, segments: Sequence[Segment], rules: Rules
) -> ShardState:
    """Return how a shard stands. Opens outcomes and segments only where the commit alone does not tell.

    Raises:
        DamagedStateError: the shard file or the outcomes file is not what the commit names.
    """
    segments = newer_segments(commit, segments)
    if commit is not None and not segments and _covers(commit, ref, rules):
        tally = commit.tally
        return ShardState(ref, commit, (), tally.n_rows, tally.n_failed, tally.rows_by_fingerprint, ())
    if commit is None and not segments:
        return ShardState(ref, None, (), 0, 0, {}, ((0, ref.n_files),))
    table, indices, present = read_counting(folders, ref, commit, segments, rules)
    tally = tables.tally(table, indices)
    pending = tuple(missing_runs(tables.places_of(table, indices), ref.n_files))
    return ShardState(ref, commit, present, tally.n_rows, tally.n_failed, tally.rows_by_fingerprint, pending)


def newer_segments(commit: Commit | None, segments: Sequence[Segment]) -> Sequence[Segment]:
    """Return the segments that a commit did not have; the others are what a kill or a late worker left behind.

    A commit covers every place that its build asked for, and whatever reopens a place raises the build.
    """
    return [segment for segment in segments if commit is None or segment.build > commit.build]


def read_counting(
    folders: JobFolders, ref: ShardRef, commit: Commit | None, segments: Iterable[Segment], rules: Rules
) -> tuple[Table, Indices, tuple[Segment, ...]]:
    """Return every outcome of a shard, the indices of those that count, and the segments that were there whole."""
    table, present = read_candidates(folders, commit, segments)
    return table, tables.choose(table, entry_builds(folders, ref, table), rules), present


def read_candidates(
    folders: JobFolders, commit: Commit | None, segments: Iterable[Segment], scratch: Path | None = None
) -> tuple[Table, tuple[Segment, ...]]:
    """Return every outcome of a shard, committed or not, and the segments that were there whole.

    The values of what is committed are there only with a `scratch` folder, where a copy of them is made for the while.
    """
    has_values = scratch is not None
    found = [] if commit is None else [read_outcomes(folders, commit, with_values=has_values, scratch=scratch)]
    present = []
    for segment in segments:
        table = read_segment(folders.segments, segment)
        if table is not None:
            found.append(table)
            present.append(segment)
    return tables.join_tables(found), tuple(present)


def entry_builds(folders: JobFolders, ref: ShardRef, candidates: Table) -> list[int]:
    """Return the build that each place's outcome must have at least.

    Where no outcome is older than the newest entry, the shard file need not be opened.
    """
    if tables.lowest_build(candidates) >= ref.last_build:
        return [0] * ref.n_files
    return read_shard_file(folders.shards, ref).builds


def missing_runs(places: Sequence[int], n_files: int) -> Iterator[Run]:
    """Yield what lies between ascending `places` in 0 ... n_files."""
    expected = 0
    for place in places:
        if place > expected:
            yield expected, place
        expected = place + 1
    if expected < n_files:
        yield expected, n_files


# Private functions


def _covers(commit: Commit, ref: ShardRef, rules: Rules) -> bool:
    """Whether every place of the shard has a committed outcome that counts, by the commit file alone."""
    if not commit.is_for(ref) or commit.first_build < rules.redo_since:
        return False
    failures = commit.tally
    if failures.n_failed == 0:
        return True
    if failures.first_failure_build is not None and failures.first_failure_build < rules.retry_since:
        return False
    return rules.fingerprint is None or failures.failures_by_fingerprint.keys() <= {rules.fingerprint}
