"""The files that f is called with before the columns are known: what they come to, until one of them gives a row."""

from __future__ import annotations

from typing import Any

from r3po.table.columns import Columns, ColumnSettings, RowCollector, is_row
from r3po.table.outcomes import Failure, FileRows
from r3po.table.user_objects import type_name
from r3po.worker.call_many import NO_LIST
from r3po.worker.many_rows import ManyRows
from r3po.worker.messages import Probed
from r3po.worker.open_batch import ENVIRONMENTAL_RUN, OpenBatch
from r3po.worker.rows import append_outcome, first_row, safe_repr, take_row


class Probe:
    """Takes what f returned for one file after the other.

    Attributes:
        is_over: no further file is to be tried.
        is_stopped: the run is to stop; set from outside.
    """

    def __init__(self, opened: OpenBatch, column_settings: ColumnSettings, *, takes_many: bool = False) -> None:
        self._opened, self._column_settings, self._takes_many = opened, column_settings, takes_many
        self._columns: Columns | None = None
        self._collector: RowCollector | None = None
        self._not_a_dict: tuple[str, str, str] | None = None
        self._no_list: tuple[str, str] | None = None
        self._path = ""
        self.is_over = self.is_stopped = False

    def take(self, place: int, path: str, returned: Any, failure: Failure | None) -> None:
        """Take what f returned for a file, which is in the batch without its row or failure."""
        opened = self._opened
        if opened.rows is not None:
            self._take_rows(opened, opened.rows, place, path, *opened.rows.accept(returned, failure))
            return
        if self._collector is not None:  # f was given it together with the file of the first row
            append_outcome(opened.outcomes, *_row_of(returned, failure, self._collector))
            return
        self._path = path
        if opened.defers(place, failure):
            self.is_over = opened.n_deferred_last >= ENVIRONMENTAL_RUN
            return
        if failure is None and not is_row(returned):
            self._not_a_dict = self._not_a_dict or (path, type_name(returned), safe_repr(returned))
        if failure is not None and failure.error_type == NO_LIST:
            self._no_list = self._no_list or (path, failure.message)
        row, failure = first_row(returned, failure, self._column_settings)
        if row is None:
            append_outcome(opened.outcomes, None, failure)
            self.is_over = opened.is_spent
            return
        self._columns, values = row
        self._collector = RowCollector(self._columns)
        append_outcome(opened.outcomes, values, None)
        self.is_over = True

    def _take_rows(
        self, opened: OpenBatch, taker: ManyRows, place: int, path: str, rows: FileRows | None, failure: Failure | None
    ) -> None:
        """Take the rows of a file that may have many; one without rows is done, and sets no columns."""
        if self._columns is None:
            self._path = path
            if opened.defers(place, failure):
                self.is_over = opened.n_deferred_last >= ENVIRONMENTAL_RUN
                return
        append_outcome(opened.outcomes, rows, failure)
        if taker.not_rows is not None:
            self._not_a_dict = self._not_a_dict or (path, *taker.not_rows)
        if failure is not None and failure.error_type == NO_LIST:
            self._no_list = self._no_list or (path, failure.message)
        self._columns = taker.columns
        self.is_over = self._columns is not None or (failure is not None and opened.is_spent)

    def result(self) -> Probed:
        """Return what came of it."""
        opened = self._opened
        n_failed = len(opened.outcomes.failures)
        return Probed(
            columns=self._columns,
            first_row_path=self._path,
            n_failed=n_failed,
            n_done=len(opened.outcomes.rows) - n_failed,
            not_a_dict=self._not_a_dict,
            stopped=self.is_stopped,
            last_failure=opened.last_failure,
            takes_many=self._takes_many,
            no_list=self._no_list,
        )


# Private functions


def _row_of(
    returned: Any, failure: Failure | None, collector: RowCollector
) -> tuple[tuple[Any, ...] | None, Failure | None]:
    return (None, failure) if failure is not None else take_row(returned, collector)
