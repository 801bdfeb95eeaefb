"""The columns that keys of rows have added (`extra_keys: add`): which there are, and their values.

Outcomes keep what a row adds as one text (see `table.ragged`), so a row group is decoded before its values are columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r3po.errors import RunStoppedError
from r3po.table.nested import decode
from r3po.table.outcomes import Indices, Table, gather
from r3po.table.ragged import MOST_ADDED
from r3po.table.rows import Rows
from r3po.table.value_arrays import ADDED
from r3po.text import shorten


def has_added(table: Table) -> bool:
    """Whether a row of an outcome table may add a column."""
    return bool(table.schema.get_field_index(ADDED) >= 0)


def added_values(table: Table, group: Indices) -> dict[str, list[object]]:
    """Return what the rows in `group` add, by key in order of first appearance, each as a list with a value a row."""
    by_key: dict[str, list[object]] = {}
    for row, added in _iter_added(table, group):
        for key, value in added.items():
            if key not in by_key:
                by_key[key] = [None] * len(group)
            by_key[key][row] = value
    return by_key


def present_values(table: Table, group: Indices) -> dict[str, list[object]]:
    """Return what `added_values` does without a value for the rows that lack the key."""
    by_key: dict[str, list[object]] = {}
    for _, added in _iter_added(table, group):
        for key, value in added.items():
            by_key.setdefault(key, []).append(value)
    return by_key


def added_names(rows: Rows) -> list[str]:
    """Return the columns that rows add, in order of first appearance; none if there are too many."""
    names: dict[str, None] = {}
    for group in rows.indices() if has_added(rows.table) else ():
        names.update(dict.fromkeys(present_values(rows.table, group)))
    return list(names) if len(names) <= MOST_ADDED else []


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


# Private functions


def _iter_added(table: Table, group: Indices) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the number in `group` and the dict of each row that adds something."""
    if not has_added(table):
        return
    texts = gather(table[ADDED], group)
    for row, text in enumerate(texts.to_pylist() if texts.null_count < len(texts) else ()):
        if text is not None:
            yield row, decode(text)
