"""The lattice of types: the least type that holds the values of several rows. FORMAT.md, "Commits", names its types."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa

from r3po.table.column_types import MOST_DIGITS

MOST_FIELDS = 1_000
"""Most keys of the dicts of one column, at all levels together; a column with more is JSON text."""

INEXACT = pa.uint64()
"""Type in the join of ints of which some have no equal float."""

ROUNDED = pa.float32()
"""Type in the join of floats beside `INEXACT` ints, which parts round."""

MIXED = pa.large_string()
"""Type in the join of values that no type holds: text in the parts. It absorbs every other type."""

_DEEPEST = 40
"""A column whose lists and dicts are nested deeper is JSON text: Parquet readers give up at about 100 levels of their
own counting."""


EXACT = 1 << 53
"""Each int up to this one has an equal float."""


class MixedError(Exception):
    """Values have no type in common, or none that parts can have."""


class Shape:
    """The join of the types of values that come bit by bit; the order makes no difference.

    Args:
        n_fields: of all dicts in the column; one list, which all shapes of the column share.
    """

    __slots__ = ("_depth", "_fields", "_item", "_leaf", "_n_fields")

    def __init__(self, n_fields: list[int], depth: int) -> None:
        if depth > _DEEPEST:
            raise MixedError
        self._n_fields, self._depth = n_fields, depth
        self._leaf: Any = pa.null()
        self._item: Shape | None = None
        self._fields: dict[str, Shape] | None = None

    def add(self, values: list[Any]) -> None:
        types = set(map(type, values))
        types.discard(type(None))
        for kind in types:
            of_kind: list[Any] = values if len(types) == 1 else [value for value in values if type(value) is kind]
            if kind is list:
                self._item = self._item or Shape(self._n_fields, self._depth + 1)
                self._item.add(list(chain.from_iterable(items for items in of_kind if items is not None)))
            elif kind is dict:
                self._add_dicts(of_kind)
            else:
                leaf = _LEAVES[kind]([value for value in of_kind if value is not None])
                self._leaf = joined_type(self._leaf, leaf)
        if (self._item is not None) + (self._fields is not None) + (not pa.types.is_null(self._leaf)) > 1:
            raise MixedError

    @property
    def type(self) -> Any:
        if self._item is not None:
            return pa.list_(self._item.type)
        if self._fields is not None:
            return pa.struct([(name, shape.type) for name, shape in sorted(self._fields.items())])
        return self._leaf

    def _add_dicts(self, dicts: list[dict[str, Any] | None]) -> None:
        fields = self._fields = {} if self._fields is None else self._fields
        by_key: dict[str, list[Any]] = {}
        for item in dicts:
            for key, value in (item or {}).items():
                by_key.setdefault(key, []).append(value)
        self._n_fields[0] += len(by_key.keys() - fields.keys())
        if self._n_fields[0] > MOST_FIELDS:
            raise MixedError
        for key, values in by_key.items():
            if key not in fields:
                fields[key] = Shape(self._n_fields, self._depth + 1)
            fields[key].add(values)


def _type_of_ints(values: list[int]) -> Any:
    is_exact = min(values) >= -EXACT and max(values) <= EXACT
    return pa.int64() if is_exact or all(int(float(value)) == value for value in values) else INEXACT


def _type_of_moments(values: list[dt.datetime]) -> Any:
    has_zone = {value.tzinfo is not None for value in values}
    if len(has_zone) > 1:
        raise MixedError
    return pa.timestamp("us", "UTC" if has_zone.pop() else None)


def _type_of_decimals(values: list[Decimal]) -> Any:
    n_before = scale = 0
    for value in values:
        _, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int):  # NaN or infinite
            raise MixedError
        behind = max(0, -exponent)
        scale = max(scale, behind)
        n_before = max(n_before, len(digits) + exponent if exponent >= 0 else len(digits) - behind)
    return _decimal_type(n_before, scale)


_LEAVES: dict[type, Callable[[list[Any]], Any]] = {
    int: _type_of_ints,
    float: lambda values: pa.float64(),
    str: lambda values: pa.string(),
    bool: lambda values: pa.bool_(),
    bytes: lambda values: pa.binary(),
    dt.date: lambda values: pa.date32(),
    dt.datetime: _type_of_moments,
    dt.time: lambda values: pa.time64("us"),
    Decimal: _type_of_decimals,
}


def _decimal_type(n_before: int, scale: int) -> Any:
    precision = max(1, n_before + scale)
    if precision > MOST_DIGITS:
        raise MixedError
    return pa.decimal128(precision, scale)


def join_types(a: Any, b: Any) -> Any:
    """Return the type that holds the values of two types of one column; `MIXED`, if none does."""
    try:
        joined = joined_type(a, b)
    except MixedError:
        return MIXED
    return MIXED if _count_fields(joined) > MOST_FIELDS else joined


# Complex by count: the lattice of types, one branch an edge.
def joined_type(a: Any, b: Any) -> Any:
    """Return the least type that holds what both do, or raise MixedError."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if a in _NUMBERS and b in _NUMBERS:
        is_float = not {a, b} <= {pa.int64(), INEXACT}
        is_exact = {a, b} <= {pa.int64(), pa.float64()}
        return (pa.float64() if is_exact else ROUNDED) if is_float else INEXACT
    if pa.types.is_decimal(a) and pa.types.is_decimal(b):
        return _decimal_type(max(a.precision - a.scale, b.precision - b.scale), max(a.scale, b.scale))
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(joined_type(a.value_type, b.value_type))
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        types = {f.name: f.type for f in a}
        for f in b:
            types[f.name] = joined_type(types.get(f.name, pa.null()), f.type)
        return pa.struct(sorted(types.items()))
    raise MixedError


_NUMBERS = (pa.int64(), INEXACT, pa.float64(), ROUNDED)


def children_of(type_: Any) -> list[Any]:
    if pa.types.is_struct(type_):
        return [f.type for f in type_]
    return [type_.value_type] if pa.types.is_list(type_) else []


def _count_fields(type_: Any) -> int:
    n_own = type_.num_fields if pa.types.is_struct(type_) else 0
    return n_own + sum(map(_count_fields, children_of(type_)))


def is_rounded(type_: Any) -> bool:
    return type_ == ROUNDED or any(map(is_rounded, children_of(type_)))
