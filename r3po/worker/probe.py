"""The files that f is called with before the columns are known: what they come to, until one of them gives a row."""

from __future__ import annotations

from typing import Any

from r3po.table.columns import Columns, ColumnSettings, RowCollector, is_row
from r3po.table.outcomes import Failure
from r3po.table.user_objects import type_name
from r3po.worker.call_many import NO_LIST
from r3po.worker.messages import Probed
from r3po.worker.open_batch import ENVIRONMENTAL_RUN, OpenBatch
from r3po.worker.rows import append_outcome, first_row, safe_repr


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
        if self._columns is not None:  # f was given it together with the file of the first row
            opened.take(place, returned, failure, self._collector)
            return
        self._path = path
        row, failure = self._first_row(returned, failure)
        if opened.defers(place, failure):
            self.is_over = opened.n_deferred_last >= ENVIRONMENTAL_RUN
            return
        append_outcome(opened.outcomes, row, failure)
        if failure is not None and failure.error_type == NO_LIST:
            self._no_list = self._no_list or (path, failure.message)
        self.is_over = self._columns is not None

    def _first_row(self, returned: Any, failure: Failure | None) -> tuple[tuple[Any, ...] | None, Failure | None]:
        """Return the row of a file, which sets the columns, or its failure; many rows, or none, if it may have them."""
        rows = self._opened.rows
        if rows is not None:
            taken = rows.accept(returned, failure)
            self._columns = rows.columns
            if rows.not_rows is not None:
                self._not_a_dict = self._not_a_dict or (self._path, *rows.not_rows)
            return taken
        if failure is None and not is_row(returned):
            self._not_a_dict = self._not_a_dict or (self._path, type_name(returned), safe_repr(returned))
        row, failure = first_row(returned, failure, self._column_settings)
        if row is None:
            return None, failure
        self._columns, values = row
        self._collector = RowCollector(self._columns)
        return values, None

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
