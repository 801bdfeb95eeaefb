"""The columns that keys of rows have added (`extra_keys: add`): which there are, and their values.

Outcomes keep what a row adds as one text (see `table.ragged`), so a row group is decoded before its values are columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from r3po.errors import RunStoppedError
from r3po.table.nested import decode
from r3po.table.outcomes import Indices, Table, gather
from r3po.table.ragged import MOST_ADDED
from r3po.table.value_arrays import ADDED
from r3po.text import shorten


def has_added(table: Table) -> bool:
    """Whether a row of an outcome table may add a column."""
    return bool(table.schema.get_field_index(ADDED) >= 0)


def added_values(table: Table, group: Indices) -> dict[str, list[object]]:
    """Return what the rows in `group` add, by key in order of first appearance, each as a list with a value a row."""
    by_key: dict[str, list[object]] = {}
    if not has_added(table):
        return by_key
    texts = gather(table[ADDED], group)
    n_rows = len(texts)
    for row, text in enumerate(texts.to_pylist() if texts.null_count < n_rows else ()):
        for key, value in (decode(text) if text is not None else {}).items():
            by_key.setdefault(key, [None] * n_rows)[row] = value
    return by_key


def check_added(names: Sequence[str]) -> None:
    """Refuse more added columns than a table can bear; which rows add them is the same in each run.

    Raises:
        RunStoppedError: there are more than `MOST_ADDED`.
    """
    if len(names) <= MOST_ADDED:
        return
    raise RunStoppedError(
        f"extra_keys: add would give the table {len(names):,} more columns, and {MOST_ADDED:,} is the most",
        evidence=f"such as  {shorten(', '.join(names[:5]))}",
        hint="return such keys as one dict, {'counts': {...}}, and make all rows again: r3po run --redo\n"
        "or leave them out: extra_keys: drop",
    )
