"""The rows of outcomes: which lines of which table hold them, in what order, cut into row groups and into parts.

With `rows: one` an outcome table holds the values itself, one line a file. With `rows: many` the values are in a table
of their own, the *row blocks*, and the outcome table says where the rows of each file begin and how many they are.
Lines of blocks that no outcome leads to are of files that failed in their middle; nobody reads them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.mapped import let_go
from r3po.table.outcomes import (
    ROWS_OF_A_FILE,
    Indices,
    Table,
    group_spans,
    has_blocks,
    int64_array,
    is_fixed,
    join_tables,
    one_chunk,
    text_bytes,
)
from r3po.work import Span

VALUE_BYTES = 8
"""What each value of a row counts for in the size of a part, beside the bytes of text and binary values."""


class Outcomes(NamedTuple):
    """Outcomes with the values of their rows."""

    table: Table
    """One line a file."""
    blocks: Table | None = None
    """One line a row; None: the values are in `table`."""
    maps: tuple[Any, ...] = ()
    """Buffers of the mapped files that tables may lie in."""

    @property
    def values(self) -> Table:
        """The table that holds the values of the rows."""
        return self.table if self.blocks is None else self.blocks

    def choose_rows(self, indices: Indices) -> Rows:
        """Return the rows of the outcomes at `indices`, in that order; failures have none."""
        return Rows(self, indices)


def join_outcomes(found: Sequence[Outcomes]) -> Outcomes:
    """Return several outcomes below each other; if one of them has row blocks, the values of all are in blocks.

    Where the blocks of one were not read, there are no values in what is returned.
    """
    maps = tuple(buffer for outcomes in found for buffer in outcomes.maps)
    if not any(has_blocks(outcomes.table.schema) for outcomes in found):
        return Outcomes(join_tables([outcomes.table for outcomes in found]), None, maps)
    if any(has_blocks(outcomes.table.schema) and outcomes.blocks is None for outcomes in found):
        return Outcomes(join_tables([_in_blocks(outcomes).table for outcomes in found]), None, maps)
    n_lines = 0
    shifted = []
    blocks = []
    for outcomes in map(_in_blocks, found):
        table = outcomes.table
        firsts = pc.add(table["first_row"], pa.scalar(n_lines, pa.int64()))
        shifted.append(table.set_column(table.schema.get_field_index("first_row"), "first_row", firsts))
        blocks.append(outcomes.values)
        n_lines += len(outcomes.values)
    return Outcomes(join_tables(shifted), join_tables(blocks), maps)


def check_blocks(outcomes: Outcomes) -> Outcomes:
    """Return outcomes as they are, if the rows of each file lie within the blocks, and no row is two files'.

    Raises:
        ValueError: they do not, or one is.
    """
    if outcomes.blocks is None:
        return outcomes
    firsts, counts = (outcomes.table[name].to_pylist() for name in ROWS_OF_A_FILE.names)
    if None in firsts or None in counts or min(firsts, default=0) < 0 or min(counts, default=0) < 0:
        raise ValueError("it is not said where the rows of a file are")
    spans = sorted((first, first + n) for first, n in zip(firsts, counts, strict=True) if n)
    ends = [0, *(stop for _, stop in spans)]
    if ends[-1] > len(outcomes.blocks) or any(start < end for (start, _), end in zip(spans, ends, strict=False)):
        raise ValueError("rows of a file are said to be where none are, or those of another file")
    return outcomes


class Rows:
    """The rows of chosen outcomes, numbered from 0 in the order of the outcomes."""

    def __init__(self, outcomes: Outcomes, indices: Indices) -> None:
        self.table = outcomes.values
        self._outcomes = outcomes.table
        self._maps = outcomes.maps
        chosen = outcomes.table["is_row"].take(indices)
        self._owners = indices.filter(chosen)
        """Indices of the outcomes: of each row, or with blocks of each file."""
        self._firsts: list[int] | None = None
        self._stops: list[int] = []
        if outcomes.blocks is not None:
            self._owners = self._owners.filter(pc.greater(outcomes.table["n_rows"].take(self._owners), 0))
            self._firsts = outcomes.table["first_row"].take(self._owners).to_pylist()
            self._stops = list(accumulate(outcomes.table["n_rows"].take(self._owners).to_pylist()))

    def __len__(self) -> int:
        if self._firsts is None:
            return len(self._owners)
        return self._stops[-1] if self._stops else 0

    def at(self, start: int, stop: int) -> Indices:
        """Return where in `table` the rows of a span are."""
        if self._firsts is None:
            return self._owners.slice(start, stop - start)
        begins = [(first + number, n) for first, n, number in self._files(start, stop)]
        return int64_array(chain.from_iterable(range(begin, begin + n) for begin, n in begins))

    def places(self, start: int, stop: int) -> Any:
        """Return the place of the file of each row of a span."""
        if self._firsts is None:
            return one_chunk(self._outcomes["place"].take(self._owners.slice(start, stop - start)))
        places = self._outcomes["place"].take(self._owners)
        first = bisect_right(self._stops, start)
        counts = [n for _, n, _ in self._files(start, stop)]
        own = places.slice(first, len(counts)).to_pylist()
        return pa.array([place for place, n in zip(own, counts, strict=True) for _ in range(n)], pa.int32())

    def numbers(self, start: int, stop: int) -> Any:
        """Return the number of each row of a span within its file, from 0."""
        if self._firsts is None:
            return pa.repeat(pa.scalar(0, pa.int64()), stop - start)
        files = self._files(start, stop)
        return int64_array(chain.from_iterable(range(number, number + n) for _, n, number in files))

    def groups(self, start: int = 0, stop: int | None = None) -> Iterator[Span]:
        """Yield the spans from `start` to `stop` that make a row group each; the cuts depend on the rows alone."""
        return self.one_by_one(group_spans(self.table, len(self) if stop is None else stop, self.at, start))

    def indices(self, groups: Iterable[Span] | None = None) -> Iterator[Indices]:
        """Yield where in `table` the rows are, one row group at a time.

        Args:
            groups: what `groups` gave, if it is known: it takes time.
        """
        return (self.at(*span) for span in (self.groups() if groups is None else self.one_by_one(groups)))

    def one_by_one(self, groups: Iterable[Span]) -> Iterator[Span]:
        """Yield row groups; when the next one is asked for, what was read of the mapped files leaves the memory."""
        for group in groups:
            yield group
            let_go(self._maps)

    def parts(self, n_columns: int, part_rows: int | None, part_bytes: int | None) -> Iterator[list[Span]]:
        """Yield the row groups of one part after the other; the cuts depend on the rows alone.

        Args:
            n_columns: of the part.
            part_rows: the most rows of a part; None: as many as there are.
            part_bytes: about the most bytes of a part: `VALUE_BYTES` a value, and the bytes of texts and binary values.
        """
        n = len(self)
        # A cheap look first: nearly always all of it is one part.
        is_small = part_bytes is None or self.table.nbytes + n * n_columns * VALUE_BYTES <= part_bytes
        start = 0
        while start < n:
            groups: list[Span] = []
            size = 0
            for span in self.groups(start, n if part_rows is None else min(n, start + part_rows)):
                if not is_small:
                    size += self._size_bytes(span, n_columns)
                if groups and part_bytes is not None and size > part_bytes:
                    break
                groups.append(span)
            yield groups
            start = groups[-1][1]

    # Private methods

    def _size_bytes(self, span: Span, n_columns: int) -> int:
        texts = text_bytes(self.table, self.at(*span))
        n_text = 0 if texts is None else pc.sum(texts).as_py() or 0
        return n_text + (span[1] - span[0]) * n_columns * VALUE_BYTES

    def _files(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield first line, count, and number of the first within its file, of the rows of each file in a span."""
        assert self._firsts is not None, "without blocks a row is its outcome"
        i = bisect_right(self._stops, start)
        while start < stop:
            begin = self._stops[i - 1] if i else 0
            end = min(stop, self._stops[i])
            yield self._firsts[i], end - start, start - begin
            start = end
            i += 1


# Private functions


def _in_blocks(outcomes: Outcomes) -> Outcomes:
    """Return outcomes whose values are in blocks, whatever they are in now."""
    if has_blocks(outcomes.table.schema):
        return outcomes
    table = outcomes.table
    fixed = table.select([name for name in table.column_names if is_fixed(name)])
    values = table.select([name for name in table.column_names if not is_fixed(name)])
    if not values.num_columns:  # a table without columns has no lines
        values = pa.table({"0.bool": pa.nulls(len(table), pa.bool_())})
    fixed = fixed.append_column("first_row", pa.array(range(len(table)), pa.int64()))
    return Outcomes(fixed.append_column("n_rows", table["is_row"].cast(pa.int64())), values, outcomes.maps)
