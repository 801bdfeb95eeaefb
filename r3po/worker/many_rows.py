"""The rows that f gives for one file, any number of them: taken as they come, and written out in blocks.

A file of millions of rows never is in memory as a whole. Blocks lie in a segment that does not count before it is
whole, and rows count only where an outcome leads to them: those of a file that failed in its middle are nobody's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any, Protocol

from r3po.table.columns import Columns, ColumnSettings, RowCollector, is_row
from r3po.table.outcomes import Failure, FileRows, OutcomeBatch, Table
from r3po.table.ragged import MOST_KEPT
from r3po.table.user_objects import type_name
from r3po.table.value_arrays import block_of
from r3po.worker.rows import no_dict, no_row, safe_repr

BLOCK_BYTES = 8 << 20
"""A block is written once its rows hold about this many bytes."""

BLOCK_ROWS = 50_000
"""A block is written once it has this many rows."""

NO_ROWS = "NoRows"
"""The kind of failure of a file for which f returned something that holds no rows."""


class BlockSink(Protocol):
    """Where blocks of rows go."""

    def write_rows(self, block: Table) -> None: ...


class ManyRows:
    """Takes the rows of the files of one batch.

    Args:
        sink: of the segment in the making.
        columns: None: the first row sets them, as `column_settings` say.
        uninterrupted: gives a block of code in which no time limit ends what is going on, and no child of f goes on.
    """

    def __init__(
        self,
        sink: BlockSink,
        columns: Columns | None,
        column_settings: ColumnSettings,
        uninterrupted: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._sink, self._column_settings, self._uninterrupted = sink, column_settings, uninterrupted
        self._collector = None if columns is None else RowCollector(columns)
        self._are_columns_set = columns is not None
        self._pending: list[tuple[Any, ...]] = []
        """Rows of which no block is written yet."""
        self._bytes_before = 0
        """What all rows held when the last block was written."""
        self._n_written = 0
        """Rows in blocks."""
        self._n_kept = 0
        """Behind the last row that an outcome leads to."""
        self._rejected: list[tuple[int, str]] = []
        """Numbers of the rows that cannot be kept, ascending, and why: found when their block was written."""
        self._error: OSError | None = None
        """Why a block could not be written: no failure of the file."""
        self.size_bytes = 0
        """What all rows of the batch hold, roughly."""
        self.not_rows: tuple[str, str] | None = None
        """Type and repr of the first thing that f returned, or gave as a row, and that is none."""

    @property
    def columns(self) -> Columns | None:
        """The job's columns, once a row of a file that has its outcome has set them."""
        return self._collector.columns if self._collector is not None and self._are_columns_set else None

    def begin(self) -> None:
        """Forget the rows of calls that came to no outcome; before what f returned in a call is taken."""
        del self._pending[max(0, self._n_kept - self._n_written) :]
        if not self._are_columns_set:
            self._collector = None

    def take_call(self, returned: Any) -> FileRows | Failure:
        """Take what f returned in a call with one file. Raises whatever f raises while it gives its rows."""
        self.begin()
        return self.take(returned)

    def take(self, returned: Any) -> FileRows | Failure:
        """Return where the rows of a file are, or why it has none. Raises whatever f raises while it gives them."""
        first, has_columns = self._n_written + len(self._pending), self._collector is not None
        items = self._items_of(returned)
        if isinstance(items, Failure):
            return items
        dropped: dict[str, None] = {}
        n = 0
        for item in items:
            failure = self._take_row(item, n, dropped)
            is_full = len(self._pending) >= BLOCK_ROWS or self.size_bytes - self._bytes_before >= BLOCK_BYTES
            if failure is None and is_full:
                self._write_block()
                failure = self._rejection(first, first + n + 1)
            if failure is not None:
                self._forget(first, sets_columns=not has_columns)
                if callable(close := getattr(items, "close", None)):
                    close()
                return failure
            n += 1
        return FileRows(first, n, tuple(dropped)[:MOST_KEPT])

    def accept(self, taken: Any, failure: Failure | None) -> tuple[FileRows | None, Failure | None]:
        """Return the rows of a file that comes to its outcome now, or its failure.

        Args:
            taken: what `take` returned.

        Raises:
            OSError: a block could not be written; nothing of the batch counts.
        """
        if self._error is not None:
            raise self._error
        if failure is None and isinstance(taken, Failure):
            failure = taken
        if failure is not None:
            return None, failure
        rows: FileRows = taken
        if rows.n:
            self._are_columns_set = True
            self._n_kept = max(self._n_kept, rows.first + rows.n)
        return rows, None

    def finish(self, batch: OutcomeBatch) -> None:
        """Write what is left of the rows; a file with a row that cannot be kept becomes a failure of the batch.

        Raises:
            OSError: the block could not be written; nothing of the batch counts.
        """
        self.begin()
        if self._pending:
            self._write_block()
        for index, rows in enumerate(batch.rows if self._rejected else ()):
            rejection = None if rows is None else self._rejection(rows[0], rows[0] + rows[1])
            if rejection is not None:
                batch.rows[index], batch.failures[index] = None, rejection

    # Private methods

    def _items_of(self, returned: Any) -> Iterable[Any] | Failure:
        if is_row(returned):
            return (returned,)
        if isinstance(returned, str | bytes | Mapping) or not hasattr(type(returned), "__iter__"):
            self._note(returned)
            needed = "rows: many needs a list or a generator of dicts, or one dict"
            return Failure(NO_ROWS, f"f returned a {type_name(returned)}; {needed}", "", "")
        items: Iterable[Any] = returned
        return items

    def _take_row(self, item: Any, number: int, dropped: dict[str, None]) -> Failure | None:
        """Take one row. Returns why it is none."""
        if type(item) is not dict and not is_row(item):
            self._note(item)
            return _numbered(no_dict(item, "each row is one dict"), number)
        try:
            if self._collector is None:
                self._collector = RowCollector(self._column_settings.first(dict(item)))
            size = self._collector.size_bytes
            row = self._collector.take(item)
        except BaseException as error:
            return _numbered(no_row(error), number)
        self._pending.append(row)
        self.size_bytes += self._collector.size_bytes - size
        if (names := getattr(row, "dropped", None)) and len(dropped) < MOST_KEPT:
            dropped.update(dict.fromkeys(names))
        return None

    def _forget(self, first: int, *, sets_columns: bool) -> None:
        """Forget the rows of a file that fails, from this number on, and the columns that only it has set."""
        del self._pending[max(0, first - self._n_written) :]
        if sets_columns and not self._are_columns_set:
            self._collector = None

    def _write_block(self) -> None:
        assert self._collector is not None, "there are rows"
        with self._uninterrupted():
            block, rejected = block_of(self._pending, self._collector.columns)
            self._rejected += [(self._n_written + index, rejected[index]) for index in sorted(rejected)]
            try:
                self._sink.write_rows(block)
            except OSError as error:
                self._error = error
                raise
            self._n_written += len(self._pending)
            self._pending, self._bytes_before = [], self.size_bytes

    def _rejection(self, start: int, stop: int) -> Failure | None:
        """Return the failure of the file whose rows have these numbers, if one of them cannot be kept."""
        at = bisect_left(self._rejected, start, key=itemgetter(0))
        if at == len(self._rejected) or self._rejected[at][0] >= stop:
            return None
        number, why = self._rejected[at]
        return _numbered(Failure("BadRow", why, "", ""), number - start)

    def _note(self, found: Any) -> None:
        self.not_rows = self.not_rows or (type_name(found), safe_repr(found))


# Private functions


def _numbered(failure: Failure, number: int) -> Failure:
    """Say of which of the file's rows a failure is."""
    return failure._replace(message=f"row {number:,}: {failure.message}")
