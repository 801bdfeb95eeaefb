"""The predicate: which of the outcomes of a place counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.outcomes import Indices, Table, int32_array, one_chunk


@dataclass(frozen=True, slots=True)
class CountingRules:
    """What an outcome must be to count: the job's side of the predicate (FORMAT.md, "Which outcome counts")."""

    redo_since: int
    retry_since: int
    fingerprint: str | None = None
    """Fingerprint of today's function, which a failure must carry to count in a run. None: any."""
    keeps_deleted: bool = False
    """`on_deleted: keep`: the row of a file that was deleted counts. Its failure never does."""


def choose(candidates: Table, needed_builds: Sequence[int], rules: CountingRules) -> Any:
    """Return the indices of the outcomes that count, at most one a place, in place order.

    An outcome counts if its place exists, its build is at least the entry's and `redo_since`, and, for a failure, at
    least `retry_since` and (where `rules` says one) made by that function. Of a deleted file only a row may count,
    if `rules` says so. Among those of one place: highest build, then row before failure, then the smallest attempt.
    This is *the* predicate; resume, staging, status, `errors` and `verify` all come here.

    Args:
        candidates: outcomes with their origin.
        needed_builds: by place, the build of the entry; negative where the file is deleted.
        rules: the job's side.
    """
    if len(candidates) == 0:
        return pa.repeat(pa.scalar(0, pa.int64()), 0)
    places = candidates["place"]
    exists = pc.and_(pc.greater_equal(places, 0), pc.less(places, len(needed_builds)))
    if not pc.all(exists).as_py():
        positions = pc.indices_nonzero(exists)
        return positions.take(choose(candidates.take(positions), needed_builds, rules))
    positions = pc.indices_nonzero(_counts_alone(candidates, needed_builds, rules))
    keys = candidates.select(["place", "build", "is_row", "attempt"]).take(positions)
    # Booleans cannot be sorted by, so a row is 1.
    keys = keys.set_column(2, "is_row", pc.cast(keys["is_row"], pa.int8()))
    order = pc.sort_indices(
        keys,
        sort_keys=[("place", "ascending"), ("build", "descending"), ("is_row", "descending"), ("attempt", "ascending")],
    )
    sorted_places = one_chunk(pc.take(keys["place"], order))
    if len(sorted_places) > 1:
        is_first = pc.not_equal(sorted_places.slice(1), sorted_places.slice(0, len(sorted_places) - 1))
        is_first = pa.concat_arrays([pa.repeat(pa.scalar(True), 1), is_first])
        order = order.filter(is_first)
    return positions.take(order)


def with_tries_summed(table: Table, indices: Indices, needed_builds: Sequence[int], rules: CountingRules) -> Table:
    """Return the table in which each chosen outcome carries the tries of all outcomes of its place.

    What was tried on another content of the file, or before a redo, is not among them.
    """
    if len(indices) == len(table):
        return table
    is_recent = _is_recent(table, needed_builds, rules)
    sums = table.select(["place", "tries"]).filter(is_recent).group_by("place").aggregate([("tries", "sum")])
    positions = pc.index_in(table["place"], value_set=sums["place"].combine_chunks())
    tries = pc.take(sums["tries_sum"], positions).cast(pa.int32())
    return table.set_column(table.column_names.index("tries"), "tries", tries)


def doubled_places(table: Table) -> list[int]:
    """Return the places that have more than one outcome in the table, ascending."""
    counted = pc.value_counts(table["place"])
    return sorted(item["values"].as_py() for item in counted if item["counts"].as_py() > 1)


def _counts_alone(candidates: Table, needed_builds: Sequence[int], rules: CountingRules) -> Any:
    """Return for each candidate whether it counts, the others of its place apart."""
    is_row = candidates["is_row"]
    counts = pc.and_(_is_recent(candidates, needed_builds, rules), pc.or_(is_row, _failure_counts(candidates, rules)))
    if min(needed_builds) < 0:
        is_present = pc.greater_equal(pc.take(int32_array(needed_builds), candidates["place"]), 0)
        counts = pc.and_(counts, pc.or_(is_present, is_row) if rules.keeps_deleted else is_present)
    return counts


def _is_recent(candidates: Table, needed_builds: Sequence[int], rules: CountingRules) -> Any:
    """Return for each candidate whether it is of the file's present content, and not of before a redo."""
    needed = pc.abs(pc.take(int32_array(needed_builds), candidates["place"]))
    needed = pc.max_element_wise(needed, pa.scalar(rules.redo_since, pa.int32()))
    return pc.greater_equal(candidates["build"], needed)


def _failure_counts(candidates: Table, rules: CountingRules) -> Any:
    """Return for each candidate whether it would count as a failure: recent enough, and made by today's function."""
    counts = pc.greater_equal(candidates["build"], pa.scalar(rules.retry_since, pa.int32()))
    if rules.fingerprint is not None:
        counts = pc.and_(counts, pc.equal(candidates["fingerprint"], rules.fingerprint))
    return counts
