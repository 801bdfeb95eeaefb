"""The types of columns: of one shard's rows, of all shards together, and of the parts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.added import check_added, has_added, present_values
from r3po.table.column_types import ColumnType, why_unfit
from r3po.table.columns import Column, Columns
from r3po.table.lattice import (
    EXACT,
    INEXACT,
    MIXED,
    ROUNDED,
    MixedError,
    Shape,
    children_of,
    is_rounded,
    join_types,
    joined_type,
)
from r3po.table.nested import decode
from r3po.table.outcomes import ROW_GROUP_ROWS, Indices, Schema, gather, variants_in
from r3po.table.ragged import MOST_ADDED
from r3po.table.rows import Rows
from r3po.table.value_arrays import AS_TEXT, VARIANT_TYPES
from r3po.table.values import NULL, family_of
from r3po.text import shorten
from r3po.work import Span

JSON = MIXED
"""Type of JSON text in the schema of parts; it is written as text."""


def own_schema(rows: Rows, columns: Columns) -> Schema:
    """Return the types that rows alone give to the job's columns, in the lattice of the join.

    Behind these are the columns that the rows add, in order of first appearance, whether parts show them or not.

    Raises:
        RunStoppedError: they add too many.
    """
    groups = list(rows.groups())
    own = [(column.name, _own_type(rows, groups, i)) for i, column in enumerate(columns.items)]
    return pa.schema([*own, *_added_types(rows, groups, columns).items()])


def join_schemas(schemas: Sequence[Schema]) -> Schema:
    """Return the types that hold the values of all `schemas`; neither their order nor their grouping matters for these.

    null gives way to anything, int and float join to float, nested types and decimals widen, all else becomes text.
    The columns stand in the order in which the schemas first have them: the job's, which all have, then those added.
    """
    types: dict[str, Any] = {}
    for schema in schemas:
        for name, type_ in zip(schema.names, schema.types, strict=True):
            types[name] = join_types(types[name], type_) if name in types else type_
    return pa.schema(list(types.items()))


def join_commits(own_schemas: Mapping[int, Schema]) -> Schema:
    """Return the join of the types of shards, given by their numbers: columns that rows add come in row order."""
    return join_schemas([own_schemas[shard] for shard in sorted(own_schemas)])


def part_schema(joined: Schema, columns: Columns) -> Schema:
    """Return the names and types that parts have: those that the job shows, as `columns:` or the join says."""
    fields = [] if columns.source is None else [(columns.source, pa.string())]
    fields += [] if columns.number is None else [(columns.number, pa.int64())]
    for column, type_ in _shown_types(joined, columns):
        given = None if column.column_type is None else _arrow_type_of(column.column_type)
        fields.append((column.name, given or _part_type(type_, mixed=JSON if column.is_mixed else pa.string())))
    return pa.schema(fields)


def written_schema(schema: Schema) -> Schema:
    """Return the types with which the files are written: JSON is text there."""
    # Not Parquet's own JSON type: polars reads that as a type of its own, which none of its text functions takes.
    if JSON not in schema.types:
        return schema
    return pa.schema([(f.name, pa.string() if f.type == JSON else f.type) for f in schema])


def added_columns(joined: Schema, columns: Columns) -> list[str]:
    """Return the columns that rows add to those of the job, in order."""
    return list(joined.names[len(columns.items) :])


def schema_to_text(schema: Schema) -> str:
    """Return a schema as base64, which JSON can hold; `schema_from_text` reads it."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


@lru_cache(maxsize=64)
def schema_from_text(text: str) -> Schema:
    """Return the schema; for the same text the same object, since 100,000 commits in memory have a few in all."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def shared(schema: Schema) -> Schema:
    """Return an equal schema, which is one object for all that are equal."""
    return schema_from_text(schema_to_text(schema))


def schema_for_people(schema: Schema) -> dict[str, str]:
    """Return the types by the names of their columns, as Arrow prints them."""
    return {f.name: "json" if f.type == JSON else str(f.type) for f in schema}


def mixed_columns(joined: Schema, columns: Columns, *, as_json: bool = False) -> list[str]:
    """Return the columns of the parts that are text because their values have no type in common.

    Args:
        as_json: those that are JSON text then; else those that are plain text.
    """
    return [
        column.name
        for column, type_ in _shown_types(joined, columns)
        if type_ == MIXED
        and column.is_mixed == as_json
        and not (column.column_type and column.column_type.kind == "json")
    ]


def rounded_columns(joined: Schema, columns: Columns) -> list[str]:
    """Return the columns of the parts in which an int is rounded, since there are floats beside it."""
    return [
        column.name
        for column, type_ in _shown_types(joined, columns)
        if is_rounded(type_) and not (column.column_type and column.column_type.kind == "json")
    ]


def has_inexact_ints(own_schema: Schema) -> bool:
    """Whether there are ints among the values that no float is equal to."""
    return any(field.type == INEXACT for field in own_schema)


def first_misfit(rows: Rows, i: int, column_type: ColumnType) -> tuple[int, str] | None:
    """Return place and reason of the first value of column number `i` that does not fit; None: all fit."""
    table = rows.table
    for start, stop in rows.groups():
        group = rows.at(start, stop)
        for variant in variants_in(table, i):
            values = gather(table[f"{i}.{variant}"], group)
            if values.null_count == len(values) or _fit_all(values, variant, column_type):
                continue
            for number, value in enumerate(plain_values(values, variant)):
                why = why_unfit(value, column_type)
                if why is not None:
                    place = rows.places(start + number, start + number + 1)[0].as_py()
                    found = f"expected {column_type}, found {family_of(variant)} {shorten(repr(value))}"
                    return place, f"{found}: {why}" if why else found
    return None


def surely_fits(type_: Any, column_type: ColumnType) -> bool:
    """Whether values of a type of the lattice all fit a type of `columns:`; False: they have to be looked at."""
    given = _arrow_type_of(column_type)
    if column_type.kind == "json":
        return True
    if given is None:
        return bool(
            pa.types.is_null(type_) or (pa.types.is_list if column_type.kind == "list" else pa.types.is_struct)(type_)
        )
    if column_type.innermost.kind in ("uint64", "float32"):
        return False  # Arrow's types of these mean something else in the lattice
    try:
        return bool(joined_type(type_, given) == given)
    except MixedError:
        return False


def plain_values(values: Any, variant: str) -> list[Any]:
    """Return values of a variant as Python has them; of decimals, lists and dicts a text is kept."""
    if variant not in AS_TEXT:
        found: list[Any] = values.to_pylist()
        return found
    read = Decimal if variant == "decimal" else decode
    return [None if text is None else read(text) for text in values.to_pylist()]


def _shown_types(joined: Schema, columns: Columns) -> Iterator[tuple[Column, Any]]:
    """Yield the columns that parts show and their types in the join, in order."""
    types = joined.types
    for i in columns.in_parts:
        yield columns.items[i], types[i]
    if columns.rules.adds:
        for i in range(len(columns.items), len(types)):
            yield Column(joined.names[i], NULL, is_mixed=True), types[i]


def _added_types(rows: Rows, groups: Sequence[Span], columns: Columns) -> dict[str, Any]:
    """Return the types of the columns that rows add, in order of first appearance; none if there are too many."""
    shapes: dict[str, Shape | None] = {}
    for group in rows.indices(groups if has_added(rows.table) else ()):
        for key, values in present_values(rows.table, group).items():
            try:
                shape = shapes.setdefault(key, Shape([0], 0))
                if shape is not None:
                    shape.add(values)
            except MixedError:
                shapes[key] = None
    if columns.rules.adds:
        check_added(list(shapes))
    elif len(shapes) > MOST_ADDED:
        return {}
    return {key: MIXED if shape is None else shape.type for key, shape in shapes.items()}


def _own_type(rows: Rows, groups: Sequence[Span], i: int) -> Any:
    joined = pa.null()
    for variant in variants_in(rows.table, i) if groups else ():
        values = rows.table[f"{i}.{variant}"]
        if variant in AS_TEXT:
            joined = join_types(joined, _decoded_type(values, rows.indices(groups), variant))
        elif values.null_count == 0 or any(gather(values, g).null_count < len(g) for g in rows.indices(groups)):
            joined = join_types(joined, VARIANT_TYPES[variant])
            # First over all outcomes, which is cheap: there is a look at those that count only if it may matter.
            counted = (gather(values, g) for g in rows.indices(groups))
            if variant == "int" and _has_inexact(values) and any(map(_has_inexact, counted)):
                joined = join_types(joined, INEXACT)
    return joined


def _has_inexact(ints: Any) -> bool:
    """Whether an int among `ints` has no float that is equal to it."""
    ends = pc.min_max(ints)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is None or (low >= -EXACT and high <= EXACT):
        return False
    pieces = (
        chunk.slice(start, ROW_GROUP_ROWS) for chunk in ints.chunks for start in range(0, len(chunk), ROW_GROUP_ROWS)
    )
    return any(int(float(value)) != value for piece in pieces for value in piece.to_pylist() if value is not None)


def _decoded_type(texts: Any, groups: Iterable[Indices], variant: str) -> Any:
    """Return the type of decimals, lists or dicts in the lattice."""
    shape = Shape([0], 0)
    try:
        for group in groups:  # one at a time: what is decoded takes many times the room of its text
            shape.add(plain_values(gather(texts, group), variant))
        return shape.type
    except MixedError:
        return MIXED


def _part_type(type_: Any, mixed: Any) -> Any:
    """Return a type of the lattice as parts have it: JSON text for what Parquet cannot hold, a dict without keys.

    Args:
        mixed: the type of values that have none in common.
    """
    if type_ == MIXED:
        return mixed
    return pa.string() if _has_empty_struct(type_) else _without_marks(type_)


def _without_marks(type_: Any) -> Any:
    if pa.types.is_struct(type_):
        return pa.struct([(f.name, _without_marks(f.type)) for f in type_])
    if pa.types.is_list(type_):
        return pa.list_(_without_marks(type_.value_type))
    return {INEXACT: pa.int64(), ROUNDED: pa.float64()}.get(type_, type_)


def _has_empty_struct(type_: Any) -> bool:
    is_empty = pa.types.is_struct(type_) and type_.num_fields == 0
    return is_empty or any(map(_has_empty_struct, children_of(type_)))


def _arrow_type_of(column_type: ColumnType) -> Any:
    """Return the Arrow type of a column type, or None for lists and dicts of whatever they hold."""
    if column_type.kind == "decimal":
        return pa.decimal128(column_type.precision, column_type.scale)
    if column_type.item is not None:
        item = _arrow_type_of(column_type.item)
        return pa.map_(pa.string(), item) if column_type.kind == "map" else pa.list_(item)
    return _GIVEN_TYPES.get(column_type.kind)


_GIVEN_TYPES: dict[str, Any] = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "json": JSON,
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
    if column_type.kind == "json":
        return True
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
