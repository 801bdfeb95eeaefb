"""The first row of a job, which sets its columns: one worker calls f on a few files, while all others wait."""

from __future__ import annotations

from r3po.errors import FunctionError
from r3po.events import ColumnsSet, Notice, Observer
from r3po.run.publisher import Publisher
from r3po.storage.names import show_name
from r3po.table.columns import Columns
from r3po.text import count_of
from r3po.work import Batch, Work
from r3po.worker.messages import Probed

FIRST_PROBE = 10
"""Files of the first probe: if none of them gives a dict, f is not a function for r3po."""

NEXT_PROBE = 90
"""Files of a later one."""


class FirstRow:
    """Says how many files to probe, and makes the columns durable that a probe found.

    Args:
        function_name: of f, for messages.
    """

    def __init__(self, publisher: Publisher, observer: Observer, function_name: str) -> None:
        self._publisher, self._observer, self._function_name = publisher, observer, function_name
        self._n_probes = 0
        self.is_sought = False
        """A probe is in flight."""

    @property
    def probe_size(self) -> int:
        """The most files of the next probe."""
        return NEXT_PROBE if self._n_probes else FIRST_PROBE

    def note_handed_out(self, work: Work) -> None:
        """Note what a worker was given; a batch is a probe."""
        if isinstance(work, Batch):
            self.is_sought = True
            self._n_probes += 1

    def take(self, probed: Probed, *, is_first: bool, goes_on: bool) -> Columns | None:
        """Take what a probe found; return the columns that it set, which are durable then.

        They are durable before anything else is handed out: every row of the job is held against them.

        Args:
            is_first: no file of the job has an outcome yet.
            goes_on: nothing stops the run (`max_errors: none`), not even that the first files give no row.

        Raises:
            FunctionError: no file gave a row, and f returned something else than a dict, or it would have been the
                first of a redo; nothing was recorded.
        """
        if is_first and probed.columns is None and not probed.stopped:
            self._check_kind(probed)
        if probed.columns is None and probed.n_done:
            self._publisher.put_in_force()  # files without rows are done all the same
        is_waiting = probed.columns is None and self._publisher.in_force is not None
        if is_waiting and probed.n_failed and not probed.stopped:
            if not goes_on:
                raise FunctionError(
                    f"none of the first {count_of(probed.n_failed, 'file')} gave a row; the redo was not begun, "
                    "and the rows of before are as they were",
                    evidence=probed.last_failure or None,
                    hint="fix the function and run again; --max-errors none begins all the same",
                )
            self._publisher.put_in_force()
        if probed.columns is not None:
            self._publisher.set_columns(probed.columns, probed.first_row_path)
            named = tuple((column.name, column.kind) for column in probed.columns.items)
            self._observer(ColumnsSet(named, show_name(probed.first_row_path)))
        self.is_sought = False
        return probed.columns

    # Private methods

    def _check_kind(self, probed: Probed) -> None:
        """Raise if f returned something else than rows for the first files of a job, none of which gave one."""
        if probed.not_a_dict is not None:
            path, type_name, shown = probed.not_a_dict
            has_many = self._publisher.job.config.rows == "many"
            raise FunctionError(
                f"{self._function_name} returned {_with_article(type_name)} for {show_name(path)}; "
                f"{'rows: many needs dicts' if has_many else 'r3po needs one dict a file'}",
                evidence=f"returned  {shown}",
                hint=f"{_needed(type_name, has_many=has_many)}; nothing was recorded",
            )
        if probed.no_list is not None:
            path, message = probed.no_list
            raise FunctionError(
                f"{self._function_name} gave no list of rows for {show_name(path)}",
                evidence=message,
                hint="return [{'name': value}, ...], one dict for each path of the list that it gets;\n"
                "or take batch_files out of the config: it gets one path at a time then. Nothing was recorded",
            )
        if probed.takes_many and probed.n_failed:
            text = f"{self._function_name} gave no row for the first {count_of(probed.n_failed, 'file')}"
            hint = "with batch_files it gets a list of paths; without, one path at a time"
            self._observer(Notice(text, hint=hint, is_warning=True))


def _needed(type_name: str, *, has_many: bool) -> str:
    """Say what f has to return, in place of something of this type."""
    if has_many:
        return "return a list of dicts, or yield them: [{'name': value}, ...]"
    if type_name in ("list", "tuple", "generator"):
        return "return one dict, such as {'name': value}; or, for many rows a file, write in the config  rows: many"
    return "return a dict, such as {'name': value}"


def _with_article(type_name: str) -> str:
    if type_name == "NoneType":
        return "None"
    return f"{'an' if type_name[:1].lower() in 'aeiou' else 'a'} {type_name}"
