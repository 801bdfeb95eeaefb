"""The parts of a shard, made from its outcome table: the types of the job's columns, CSV and Parquet.

The type of a column is the join of the types of its values, over all shards; the order of neither rows nor shards has
a say in it. Pyarrow's other door is `tables`.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from r3po.columns import Columns
from r3po.tables import AS_TEXT, VARIANT_TYPES, Indices, Schema, Table, gather, outcome_groups, variants_in

_DEEPEST = 40
"""Lists and dicts nested deeper stay JSON text; Parquet readers give up at about 100 levels of their own counting."""


# Part schemas: the join of the types


def part_schema(table: Table, indices: Indices, columns: Columns) -> Schema:
    """Return the types that the chosen rows alone give to the job's columns."""
    return pa.schema(
        [(column.name, _own_type(table, indices, i)) for i, column in enumerate(columns.items)],
    )


def join_schemas(schemas: Sequence[Schema]) -> Schema:
    """Return the types that hold the values of all `schemas`; the order does not matter.

    null gives way to anything, int and float join to float, nested types and decimals widen, all else becomes text.
    """
    first, *others = schemas
    types = [f.type for f in first]
    for schema in others:
        types = [_join_types(a, f.type) for a, f in zip(types, schema, strict=True)]
    return pa.schema(zip(first.names, types, strict=True))


def schema_to_text(schema: Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def schema_from_text(text: str) -> Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def schema_for_people(schema: Schema) -> dict[str, str]:
    return {f.name: str(f.type) for f in schema}


def mixed_columns(schemas: Sequence[Schema]) -> list[str]:
    """Return the columns that became text because their types have nothing in common."""
    joined = join_schemas(schemas)
    return [
        f.name
        for i, f in enumerate(joined)
        if f.type == pa.string()
        and any(not pa.types.is_null(s.field(i).type) and s.field(i).type != f.type for s in schemas)
    ]


# Parts


def row_groups(table: Table, indices: Indices) -> Iterator[Indices]:
    """Yield the chosen rows' indices cut into row groups; the cuts depend on the rows alone."""
    return outcome_groups(table, indices.filter(pc.take(table["is_row"], indices)))


class CsvPart:
    """Writes row groups as CSV (RFC 4180 quoting, `\\n` between rows, UTF-8, one header line)."""

    def __init__(self, sink: Any, schema: Schema) -> None:
        self._sink = sink
        self._schema = pa.schema([(f.name, f.type if _is_csv_type(f.type) else pa.string()) for f in schema])
        is_plain = all(not set(name) & set(',"\r\n') and name for name in schema.names)
        header = io.BytesIO()
        options = pcsv.WriteOptions(quoting_header="none" if is_plain else "needed")
        pcsv.write_csv(self._schema.empty_table(), header, write_options=options)
        sink.write(header.getvalue())

    def write(self, table: Table, indices: Indices) -> None:
        part = _part_table(table, indices, self._schema)
        if len(self._schema) > 1:
            pcsv.write_csv(part, self._sink, write_options=pcsv.WriteOptions(include_header=False))
            return
        self._write_only_column(part)

    def close(self) -> None:
        """Do nothing: each write went to the sink whole."""

    def abandon(self) -> None:
        """Do nothing, for the same reason."""

    def _write_only_column(self, part: Table) -> None:
        """Write None as `""`, as Python's csv module does: of one column, an empty field would be an empty line."""
        if pa.types.is_string(self._schema.field(0).type):
            part = part.set_column(0, self._schema.field(0), pc.fill_null(part.column(0), ""))
        rows = io.BytesIO()
        pcsv.write_csv(part, rows, write_options=pcsv.WriteOptions(include_header=False))
        if pa.types.is_string(self._schema.field(0).type):
            self._sink.write(rows.getvalue())
            return
        lines = rows.getvalue().split(b"\n")[:-1]
        self._sink.write(b"".join((line or b'""') + b"\n" for line in lines))


class ParquetPart:
    """Writes row groups as Parquet."""

    def __init__(
        self, sink: Any, schema: Schema, metadata: dict[str, str], compression: str, level: int | None
    ) -> None:
        self._schema = schema
        self._is_open = True
        self._writer = pq.ParquetWriter(
            sink, schema.with_metadata(metadata), compression=compression, compression_level=level
        )

    def write(self, table: Table, indices: Indices) -> None:
        part = _part_table(table, indices, self._schema)
        self._writer.write_table(part, row_group_size=max(1, len(part)))

    def close(self) -> None:
        """Write the footer."""
        self._is_open = False
        self._writer.close()

    def abandon(self) -> None:
        """End the writer after an error, unless it was closed: nobody will read what it wrote."""
        if self._is_open:
            with contextlib.suppress(OSError, ValueError):
                self.close()


# Private functions: types


def _own_type(table: Table, indices: Indices, i: int) -> Any:
    joined = pa.null()
    for variant in variants_in(table, i):
        values = table[f"{i}.{variant}"]
        if variant in AS_TEXT:
            joined = _join_types(joined, _decoded_type(gather(values, indices), variant))
        elif values.null_count == 0 or pc.any(pc.take(pc.is_valid(values), indices)).as_py():
            joined = _join_types(joined, VARIANT_TYPES[variant])
    return joined


def _join_types(a: Any, b: Any) -> Any:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if (pa.types.is_nested(a) and pa.types.is_nested(b)) or (pa.types.is_decimal(a) and pa.types.is_decimal(b)):
        try:
            fields = [pa.schema([("x", t)]) for t in sorted((a, b), key=str)]
            return _canonical(pa.unify_schemas(fields, promote_options="permissive").field(0).type)
        except (pa.ArrowException, TypeError):
            pass  # nothing in common
    return pa.string()


def _decode(texts: Any, variant: str) -> list[Any]:
    """Return decimals, lists or dicts from their text."""
    read = Decimal if variant == "decimal" else orjson.loads
    return [None if text is None else read(text) for text in texts.to_pylist()]


def _decoded_type(texts: Any, variant: str) -> Any:
    """Return the Arrow type of decimals, lists or dicts; text if there is none, or none that Parquet can hold."""
    try:
        found = _canonical(pa.array(_decode(texts, variant)).type)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.string()
    return found if _is_storable(found) else pa.string()


def _canonical(type_: Any) -> Any:
    """Return a type with the fields of its structs by name, so that it does not depend on which row came first."""
    if pa.types.is_struct(type_):
        fields = sorted((type_.field(i) for i in range(type_.num_fields)), key=lambda f: f.name)
        return pa.struct([(f.name, _canonical(f.type)) for f in fields])
    if pa.types.is_list(type_):
        return pa.list_(_canonical(type_.value_type))
    return type_


def _is_storable(type_: Any, depth: int = 0) -> bool:
    """Whether Parquet can hold a type: no struct without fields, and not deeper than its readers go."""
    if depth > _DEEPEST:
        return False
    if pa.types.is_struct(type_):
        names = [type_.field(i).name for i in range(type_.num_fields)]
        is_named = bool(names) and len(set(names)) == len(names)
        return is_named and all(_is_storable(type_.field(i).type, depth + 1) for i in range(type_.num_fields))
    return not pa.types.is_list(type_) or _is_storable(type_.value_type, depth + 1)


# Private functions: parts


def _part_table(table: Table, indices: Indices, schema: Schema) -> Table:
    arrays = [_column(table, indices, i, f.type) for i, f in enumerate(schema)]
    # In one chunk: Parquet would cut its pages at the seams of the segments.
    return pa.Table.from_arrays(arrays, schema=schema).combine_chunks()


def _column(table: Table, indices: Indices, i: int, target: Any) -> Any:
    found = [
        _convert(gather(table[f"{i}.{variant}"], indices), variant, target)
        for variant in variants_in(table, i)
        if not pa.types.is_null(target)
    ]
    if not found:
        return pa.nulls(len(indices), target)
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def _convert(values: Any, variant: str, target: Any) -> Any:
    if values.null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values), target)])
    if variant in AS_TEXT:
        return values if target == pa.string() else pa.chunked_array([_as_type(_decode(values, variant), target)])
    if variant == "bytes" and target == pa.string():
        encoded = [None if v is None else base64.b64encode(v).decode("ascii") for v in values.to_pylist()]
        return pa.chunked_array([pa.array(encoded, pa.string())])
    return values if values.type == target else values.cast(target, safe=False)


def _as_type(values: list[Any], target: Any) -> Any:
    try:
        return pa.array(values, target)
    except (pa.ArrowException, TypeError, OverflowError):
        # An int beyond 2^53 among floats: refused as such, rounded like everywhere else when it is cast.
        return pa.array(values).cast(target, safe=False)


def _is_csv_type(type_: Any) -> bool:
    return not (pa.types.is_nested(type_) or pa.types.is_decimal(type_) or pa.types.is_binary(type_))
