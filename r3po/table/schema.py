"""The types of columns: of one shard's rows, of all shards together, and of the parts."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.column_types import MOST_DIGITS, ColumnType, why_unfit
from r3po.table.columns import Columns
from r3po.table.nested import decode
from r3po.table.outcomes import Indices, Schema, Table, gather, outcome_groups, variants_in
from r3po.table.value_arrays import AS_TEXT, VARIANT_TYPES
from r3po.table.values import family_of
from r3po.text import shorten

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


def own_schema(table: Table, indices: Indices, columns: Columns) -> Schema:
    """Return the types that the chosen rows alone give to the job's columns, in the lattice of the join."""
    groups = list(outcome_groups(table, indices))
    return pa.schema([(column.name, _own_type(table, groups, i)) for i, column in enumerate(columns.items)])


def join_schemas(schemas: Sequence[Schema]) -> Schema:
    """Return the types that hold the values of all `schemas`; neither their order nor their grouping matters.

    null gives way to anything, int and float join to float, nested types and decimals widen, all else becomes text.
    """
    first, *others = schemas
    types = [f.type for f in first]
    for schema in others:
        types = [join_types(a, f.type) for a, f in zip(types, schema, strict=True)]
    return pa.schema(zip(first.names, types, strict=True))


def join_types(a: Any, b: Any) -> Any:
    """Return the type that holds the values of two types of one column; `MIXED`, if none does."""
    try:
        joined = _joined(a, b)
    except _MixedError:
        return MIXED
    return MIXED if _count_fields(joined) > MOST_FIELDS else joined


def part_schema(joined: Schema, columns: Columns) -> Schema:
    """Return the names and types that parts have: those that the job shows, as `columns:` or the join says."""
    fields = [] if columns.source is None else [(columns.source, pa.string())]
    for i in columns.in_parts:
        column = columns.items[i]
        given = None if column.column_type is None else _arrow_type_of(column.column_type)
        fields.append((column.name, given or _part_type(joined.field(i).type)))
    return pa.schema(fields)


def schema_to_text(schema: Schema) -> str:
    """Return a schema as base64, which JSON can hold; `schema_from_text` reads it."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def schema_from_text(text: str) -> Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def schema_for_people(schema: Schema) -> dict[str, str]:
    """Return the types by the names of their columns, as Arrow prints them."""
    return {f.name: str(f.type) for f in schema}


def mixed_columns(joined: Schema, columns: Columns) -> list[str]:
    """Return the columns of the parts that are text because their values have no type in common."""
    return [columns.names[i] for i in columns.in_parts if joined.field(i).type == MIXED]


def rounded_columns(joined: Schema, columns: Columns) -> list[str]:
    """Return the columns of the parts in which an int is rounded, since there are floats beside it."""
    return [columns.names[i] for i in columns.in_parts if _is_rounded(joined.field(i).type)]


def has_inexact_ints(own_schema: Schema) -> bool:
    """Whether there are ints among the values that no float is equal to."""
    return any(field.type == INEXACT for field in own_schema)


def first_misfit(table: Table, indices: Indices, i: int, column_type: ColumnType) -> tuple[int, str] | None:
    """Return place and reason of the first chosen value of column number `i` that does not fit; None: all fit."""
    for group in outcome_groups(table, indices):
        for variant in variants_in(table, i):
            values = gather(table[f"{i}.{variant}"], group)
            if values.null_count == len(values) or _fit_all(values, variant, column_type):
                continue
            plain = plain_values(values, variant) if variant in AS_TEXT else values.to_pylist()
            for number, value in enumerate(plain):
                why = why_unfit(value, column_type)
                if why is not None:
                    place = table["place"].take(group.slice(number, 1))[0].as_py()
                    found = f"expected {column_type}, found {family_of(variant)} {shorten(repr(value))}"
                    return place, f"{found}: {why}" if why else found
    return None


def surely_fits(type_: Any, column_type: ColumnType) -> bool:
    """Whether values of a type of the lattice all fit a type of `columns:`; False: they have to be looked at."""
    given = _arrow_type_of(column_type)
    if given is None:
        return bool(
            pa.types.is_null(type_) or (pa.types.is_list if column_type.kind == "list" else pa.types.is_struct)(type_)
        )
    if column_type.innermost.kind in ("uint64", "float32"):
        return False  # Arrow's types of these mean something else in the lattice
    try:
        return bool(_joined(type_, given) == given)
    except _MixedError:
        return False


def plain_values(texts: Any, variant: str) -> list[Any]:
    """Return decimals, lists or dicts from the text that outcomes keep of them."""
    read = Decimal if variant == "decimal" else decode
    return [None if text is None else read(text) for text in texts.to_pylist()]


class _MixedError(Exception):
    """Values have no type in common, or none that parts can have."""


def _own_type(table: Table, groups: Sequence[Indices], i: int) -> Any:
    joined = pa.null()
    for variant in variants_in(table, i):
        values = table[f"{i}.{variant}"]
        if variant in AS_TEXT:
            joined = join_types(joined, _decoded_type(values, groups, variant))
        elif values.null_count == 0 or any(gather(values, g).null_count < len(g) for g in groups):
            joined = join_types(joined, VARIANT_TYPES[variant])
            # First over all outcomes, which is cheap: there is a look at those that count only if it may matter.
            if variant == "int" and _has_inexact(values) and any(_has_inexact(gather(values, g)) for g in groups):
                joined = join_types(joined, INEXACT)
    return joined


def _has_inexact(ints: Any) -> bool:
    """Whether an int among `ints` has no float that is equal to it."""
    ends = pc.min_max(ints)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is None or (low >= -_EXACT and high <= _EXACT):
        return False
    return any(int(float(value)) != value for value in ints.to_pylist() if value is not None)


_EXACT = 1 << 53
"""Each int up to this one has an equal float."""


def _decoded_type(texts: Any, groups: Sequence[Indices], variant: str) -> Any:
    """Return the type of decimals, lists or dicts in the lattice."""
    shape = _Shape([0], 0)
    try:
        for group in groups:  # one at a time: what is decoded takes many times the room of its text
            shape.add(plain_values(gather(texts, group), variant))
        return shape.type
    except _MixedError:
        return MIXED


class _Shape:
    """The join of the types of values that come bit by bit; the order makes no difference.

    Args:
        n_fields: of all dicts in the column; one list, which all shapes of the column share.
    """

    __slots__ = ("_depth", "_fields", "_item", "_leaf", "_n_fields")

    def __init__(self, n_fields: list[int], depth: int) -> None:
        if depth > _DEEPEST:
            raise _MixedError
        self._n_fields, self._depth = n_fields, depth
        self._leaf: Any = pa.null()
        self._item: _Shape | None = None
        self._fields: dict[str, _Shape] | None = None

    def add(self, values: list[Any]) -> None:
        types = set(map(type, values))
        types.discard(type(None))
        for kind in types:
            of_kind: list[Any] = values if len(types) == 1 else [value for value in values if type(value) is kind]
            if kind is list:
                self._item = self._item or _Shape(self._n_fields, self._depth + 1)
                self._item.add(list(chain.from_iterable(items for items in of_kind if items is not None)))
            elif kind is dict:
                self._add_dicts(of_kind)
            else:
                leaf = _LEAVES[kind]([value for value in of_kind if value is not None])
                self._leaf = _joined(self._leaf, leaf)
        if (self._item is not None) + (self._fields is not None) + (not pa.types.is_null(self._leaf)) > 1:
            raise _MixedError

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
            raise _MixedError
        for key, values in by_key.items():
            if key not in fields:
                fields[key] = _Shape(self._n_fields, self._depth + 1)
            fields[key].add(values)


def _type_of_ints(values: list[int]) -> Any:
    is_exact = min(values) >= -_EXACT and max(values) <= _EXACT
    return pa.int64() if is_exact or all(int(float(value)) == value for value in values) else INEXACT


def _type_of_moments(values: list[dt.datetime]) -> Any:
    has_zone = {value.tzinfo is not None for value in values}
    if len(has_zone) > 1:
        raise _MixedError
    return pa.timestamp("us", "UTC" if has_zone.pop() else None)


def _type_of_decimals(values: list[Decimal]) -> Any:
    n_before = scale = 0
    for value in values:
        _, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int):  # NaN or infinite
            raise _MixedError
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
        raise _MixedError
    return pa.decimal128(precision, scale)


# Complex by count: the lattice of types, one branch an edge.
def _joined(a: Any, b: Any) -> Any:
    """Return the least type that holds what both do, or raise _MixedError."""
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
        return pa.list_(_joined(a.value_type, b.value_type))
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        types = {f.name: f.type for f in a}
        for f in b:
            types[f.name] = _joined(types.get(f.name, pa.null()), f.type)
        return pa.struct(sorted(types.items()))
    raise _MixedError


_NUMBERS = (pa.int64(), INEXACT, pa.float64(), ROUNDED)


def _children(type_: Any) -> list[Any]:
    if pa.types.is_struct(type_):
        return [f.type for f in type_]
    return [type_.value_type] if pa.types.is_list(type_) else []


def _count_fields(type_: Any) -> int:
    n_own = type_.num_fields if pa.types.is_struct(type_) else 0
    return n_own + sum(map(_count_fields, _children(type_)))


def _is_rounded(type_: Any) -> bool:
    return type_ == ROUNDED or any(map(_is_rounded, _children(type_)))


def _part_type(type_: Any) -> Any:
    """Return a type of the lattice as parts have it: JSON text for what Parquet cannot hold, a dict without keys."""
    return pa.string() if type_ == MIXED or _has_empty_struct(type_) else _without_marks(type_)


def _without_marks(type_: Any) -> Any:
    if pa.types.is_struct(type_):
        return pa.struct([(f.name, _without_marks(f.type)) for f in type_])
    if pa.types.is_list(type_):
        return pa.list_(_without_marks(type_.value_type))
    return {INEXACT: pa.int64(), ROUNDED: pa.float64()}.get(type_, type_)


def _has_empty_struct(type_: Any) -> bool:
    is_empty = pa.types.is_struct(type_) and type_.num_fields == 0
    return is_empty or any(map(_has_empty_struct, _children(type_)))


def _arrow_type_of(column_type: ColumnType) -> Any:
    """Return the Arrow type of a column type, or None for lists and dicts of whatever they hold."""
    if column_type.kind == "decimal":
        return pa.decimal128(column_type.precision, column_type.scale)
    if column_type.item is not None:
        return pa.list_(_arrow_type_of(column_type.item))
    return _GIVEN_TYPES.get(column_type.kind)


_GIVEN_TYPES: dict[str, Any] = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp_utc": pa.timestamp("us", "UTC"),
    "time": pa.time64("us"),
}


def _fit_all(values: Any, variant: str, column_type: ColumnType) -> bool:
    """Whether it is clear without a look at each value that they fit."""
    if variant == "int" and column_type.family == "number" and not column_type.kind.startswith("float"):
        ends = pc.min_max(values)
        return all(why_unfit(ends[end].as_py(), column_type) is None for end in ("min", "max"))
    if variant in ("list", "dict"):
        return column_type == ColumnType(variant)
    return column_type.kind in _WHOLE.get(variant, ())


_WHOLE = {
    "float": ("float64",),
    "text": ("string",),
    "bool": ("bool",),
    "bytes": ("binary",),
    "date": ("date",),
    "timestamp": ("timestamp",),
    "timestamp_utc": ("timestamp_utc",),
    "time": ("time",),
}
"""Types that hold every value of a variant."""
