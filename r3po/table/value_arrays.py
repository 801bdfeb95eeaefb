"""The values of rows as Arrow arrays: one array a column and variant, null where a row has another variant.

Source: FORMAT.md, "Outcomes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from r3po.table.columns import Column, Columns, check_value
from r3po.table.ragged import RaggedRow
from r3po.table.user_objects import ends_worker
from r3po.table.values import NULL, BadRowError, Nested, variant_of

VARIANT_TYPES: dict[str, Any] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "bool": pa.bool_(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp_utc": pa.timestamp("us", "UTC"),
    "time": pa.time64("us"),
    "decimal": pa.string(),
    "list": pa.string(),
    "dict": pa.string(),
}
"""How each variant is stored. Decimals, lists and dicts are text: exact, whatever else the column holds."""

AS_TEXT = ("decimal", "list", "dict")

ADDED = "added"
"""The column of what each row adds to the job's columns, by name (see `table.ragged`)."""

_FAST: dict[str, dict[type, str]] = {
    "number": {int: "int", float: "float"},
    "text": {str: "text"},
    "bool": {bool: "bool"},
    "bytes": {bytes: "bytes"},
    NULL: {int: "int", float: "float", str: "text", bool: "bool", bytes: "bytes"},
}
"""Families whose values Arrow takes without a look at each."""

_FAST_TYPES: dict[str, dict[type, str]] = {
    "int64": {int: "int"},
    "float64": {float: "float"},
    "string": {str: "text"},
    "bool": {bool: "bool"},
    "binary": {bytes: "bytes"},
    "json": _FAST[NULL],
}
"""Types of `columns:` that hold every value of their Python type: Arrow takes these without a look at each, too."""


def value_arrays(rows: Sequence[tuple[Any, ...] | None], columns: Columns) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the values of rows as arrays by `<i>.<variant>`, and why rows cannot be kept, by their index in `rows`.

    The arrays of a call in which a row was rejected are not whole: call again without that row.

    Args:
        rows: values in column order; None: nulls.
    """
    arrays: dict[str, Any] = {}
    rejected: dict[int, str] = {}
    blank = (None,) * len(columns.items)
    filled = [blank if row is None else row for row in rows]
    by_column = zip(*filled, strict=True) if filled else iter([()] * len(columns.items))
    for i, (column, values) in enumerate(zip(columns.items, by_column, strict=True)):
        variants = _fast_arrays(values, column)
        if variants is None:
            variants = _checked_arrays(values, column, rejected)
        arrays.update((f"{i}.{variant}", array) for variant, array in variants.items())
    if columns.rules.adds and any(type(row) is RaggedRow for row in rows):
        added = [row.added if type(row) is RaggedRow else None for row in rows]
        arrays[ADDED] = pa.array(added, pa.string())
    return arrays, rejected


def block_of(rows: list[tuple[Any, ...]], columns: Columns) -> tuple[Any, dict[int, str]]:
    """Return the values of rows as a table, and why rows cannot be kept, by their index: these are null there.

    Args:
        rows: values in column order; those that cannot be kept are replaced by nulls.
    """
    arrays, rejected = value_arrays(rows, columns)
    if rejected:
        kept: list[tuple[Any, ...] | None] = [None if i in rejected else row for i, row in enumerate(rows)]
        arrays, _ = value_arrays(kept, columns)
    # A table without columns has no rows.
    return pa.table(arrays or {"0.bool": pa.nulls(len(rows), pa.bool_())}), rejected


# Private functions


def _fast_arrays(values: Sequence[Any], column: Column) -> dict[str, Any] | None:
    """Return the arrays of a column whose values are all of one variant, or None: look at each value."""
    known = _FAST.get(column.taken) if column.column_type is None else _FAST_TYPES.get(column.column_type.kind)
    if known is None:
        return None
    try:
        types = set(map(type, values))
        types.discard(type(None))
        if len(types) > 1 or not types <= known.keys():
            return None
    except BaseException as error:  # the class of a value may not even hash
        if ends_worker(error):
            raise
        return None
    if not types:
        return {}
    variant = known[types.pop()]
    try:
        return {variant: pa.array(values, VARIANT_TYPES[variant], from_pandas=False)}
    except (OverflowError, UnicodeEncodeError, pa.ArrowException):
        return None  # some value does not fit; the careful way finds out which


def _checked_arrays(values: Sequence[Any], column: Any, rejected: dict[int, str]) -> dict[str, Any]:
    by_variant: dict[str, list[Any]] = {}
    for index, value in enumerate(values):
        try:
            value = check_value(value, column)
        except BadRowError as error:
            rejected.setdefault(index, str(error))
            continue
        if value is not None:
            variant = variant_of(value)
            by_variant.setdefault(variant, [None] * len(values))[index] = _stored(value, variant)
    return {v: pa.array(items, VARIANT_TYPES[v], from_pandas=False) for v, items in sorted(by_variant.items())}


def _stored(value: Any, variant: str) -> Any:
    if isinstance(value, Nested):
        return value.text
    return str(value) if variant == "decimal" else value
