"""The parts of a shard: the rows of outcomes written as CSV and as Parquet. The same rows give the same bytes."""

from __future__ import annotations

import base64
import contextlib
import decimal
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from r3po.table.added import added_values
from r3po.table.column_types import MOST_DIGITS
from r3po.table.columns import PART_BYTES, Columns
from r3po.table.nested import show, show_value
from r3po.table.outcomes import Indices, Schema, Table, gather, variants_in
from r3po.table.rows import Rows
from r3po.table.schema import JSON, plain_values, written_schema
from r3po.table.value_arrays import AS_TEXT
from r3po.work import Span

PARQUET_MAKER = f"parquet-cpp-arrow version {pa.cpp_version}"
"""How this pyarrow signs the Parquet files that it writes."""


class ShownRows:
    """Rows as the parts show them: which columns, in what order, and those that r3po adds.

    Args:
        paths: of all places, for people; `columns.source` is made of them.
    """

    def __init__(self, rows: Rows, columns: Columns, paths: Sequence[str]) -> None:
        self.rows = rows
        self._columns = columns
        self._paths = pa.array(paths, pa.string()) if columns.source is not None else None

    def part_table(self, start: int, stop: int, schema: Schema) -> Table:
        """Return the rows of a span as the parts hold them, in the types of `schema`."""
        table, indices = self.rows.table, self.rows.at(start, stop)
        arrays = []
        if self._paths is not None:
            arrays.append(self._paths.take(self.rows.places(start, stop)))
        if self._columns.number is not None:
            arrays.append(self.rows.numbers(start, stop))
        for i in self._columns.in_parts:
            arrays.append(_column(table, indices, i, schema.field(len(arrays)).type))
        added = added_values(table, indices) if len(arrays) < len(schema) else {}
        for f in list(schema)[len(arrays) :]:
            values = added.get(f.name) or [None] * (stop - start)
            arrays.append(_as_type(values, f.type))
        # In one chunk: Parquet would cut its pages at the seams of the segments.
        return pa.Table.from_arrays(arrays, schema=written_schema(schema)).combine_chunks()


def write_parts(
    sinks: Mapping[str, Any],
    shown: ShownRows,
    schema: Schema,
    metadata: dict[str, str],
    settings: Mapping[str, Any],
    groups: Sequence[Span],
) -> None:
    """Write rows as one part of each kind; nothing, not even a header, if there is no row.

    Args:
        sinks: where each kind (`csv`, `parquet`) goes; they stay open.
        metadata: of Parquet (`part_metadata`).
        settings: the part settings of a commit: of `parquet`, compression and level.
        groups: spans of the rows, each of which becomes a row group.
    """
    with ExitStack() as stack:
        writers = [_open_part(kind, sink, schema, metadata, settings) for kind, sink in sinks.items() if groups]
        for writer in writers:
            stack.callback(writer.abandon)  # after an error: else it would write its footer to a closed file
        for group in shown.rows.one_by_one(groups):
            for writer in writers:
                writer.write(shown, group)
        for writer in writers:
            writer.close()


def part_groups(shown: ShownRows, schema: Schema, settings: Mapping[str, Any]) -> list[list[Span]]:
    """Return the row groups of each part that the rows are cut into, the same for all kinds of parts.

    Args:
        settings: the part settings of a commit: `part_rows` and `part_bytes`, if they are not as usual.
    """
    return list(shown.rows.parts(len(schema), settings.get("part_rows"), settings.get("part_bytes", PART_BYTES)))


def part_metadata(job_name: str, shard: int, version: str, fingerprints: Iterable[str]) -> dict[str, str]:
    """Return what a Parquet part says of its origin. No run id and no time: the same rows give the same bytes.

    Args:
        version: of r3po.
        fingerprints: of the functions that made its rows.
    """
    return {
        "r3po.job": job_name,
        "r3po.shard": str(shard),
        "r3po.version": version,
        "r3po.function": ",".join(sorted(fingerprints)),
    }


class Origin(NamedTuple):
    """Who made a Parquet file."""

    metadata: dict[str, str]
    """As `part_metadata` gives it."""
    is_made_here: bool
    """Whether a pyarrow of this version made it; another one may give equal rows other bytes."""


def read_origin(path: Path) -> Origin | None:
    """Return who made a Parquet file; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            found = pq.read_metadata(file)
        metadata = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
        return Origin(metadata, found.created_by == PARQUET_MAKER)
    except _UNREADABLE:
        return None


def copy_parquet(path: Path, sink: Any, schema: Schema, metadata: dict[str, str], settings: Mapping[str, Any]) -> bool:
    """Write the rows of a Parquet part into `sink` as this pyarrow writes them.

    Returns:
        Whether the part could be read, and has the columns and types of `schema`.
    """
    try:
        with open(path, "rb") as file:
            part = pq.ParquetFile(file)
            schema = written_schema(schema)
            if not part.schema_arrow.equals(schema):
                return False
            options = settings["parquet"]
            writer = ParquetPart(sink, schema, metadata, options["compression"], options["level"])
            for i in range(part.num_row_groups):
                # With the schema of the part in the making: what is read says more of each field.
                writer.write_rows(pa.Table.from_arrays(part.read_row_group(i).columns, schema=schema))
            writer.close()
    except _UNREADABLE:
        return False
    return True


class CsvPart:
    """Writes row groups as CSV (RFC 4180 quoting, `\\n` between rows, UTF-8, one header line)."""

    def __init__(self, sink: Any, schema: Schema) -> None:
        self._sink = sink
        self._schema = pa.schema([(f.name, f.type if _is_csv_type(f.type) else pa.string()) for f in schema])
        is_plain = all(not set(name) & set(',"\r\n') and name for name in schema.names)
        header = io.BytesIO()
        options = pcsv.WriteOptions(quoting_header="none" if is_plain else "needed")
        pcsv.write_csv(written_schema(self._schema).empty_table(), header, write_options=options)
        sink.write(header.getvalue())

    def write(self, shown: ShownRows, group: Span) -> None:
        part = shown.part_table(*group, self._schema)
        if len(self._schema) > 1:
            pcsv.write_csv(part, self._sink, write_options=pcsv.WriteOptions(include_header=False))
            return
        self._write_only_column(part)

    def close(self) -> None:
        """Do nothing: each write went to the sink whole."""

    def abandon(self) -> None:
        """Do nothing: what was written is complete."""

    def _write_only_column(self, part: Table) -> None:
        """Write None as `""`, as Python's csv module does: of one column, an empty field would be an empty line."""
        is_text = pa.types.is_string(part.schema.field(0).type)
        if is_text:
            part = part.set_column(0, part.schema.field(0), pc.fill_null(part.column(0), ""))
        rows = io.BytesIO()
        pcsv.write_csv(part, rows, write_options=pcsv.WriteOptions(include_header=False))
        if is_text:
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
            sink, written_schema(schema).with_metadata(metadata), compression=compression, compression_level=level
        )

    def write(self, shown: ShownRows, group: Span) -> None:
        self.write_rows(shown.part_table(*group, self._schema))

    def write_rows(self, rows: Table) -> None:
        """Write rows in the types of the part as one row group."""
        self._writer.write_table(rows, row_group_size=max(1, len(rows)))

    def close(self) -> None:
        """Write the footer."""
        self._is_open = False
        self._writer.close()

    def abandon(self) -> None:
        """End the writer after an error, unless it was closed: nobody will read what it wrote."""
        if self._is_open:
            with contextlib.suppress(OSError, ValueError):
                self.close()


# Private functions


_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)
"""What reading a damaged Parquet file may raise."""


def _open_part(
    kind: str, sink: Any, schema: Schema, metadata: dict[str, str], settings: Mapping[str, Any]
) -> CsvPart | ParquetPart:
    if kind == "csv":
        return CsvPart(sink, schema)
    options = settings["parquet"]
    return ParquetPart(sink, schema, metadata, options["compression"], options["level"])


def _column(table: Table, indices: Indices, i: int, target: Any) -> Any:
    found = [
        _convert(gather(table[f"{i}.{variant}"], indices), variant, target)
        for variant in variants_in(table, i)
        if not pa.types.is_null(target)
    ]
    if not found:
        return pa.nulls(len(indices), pa.string() if target == JSON else target)
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def _convert(values: Any, variant: str, target: Any) -> Any:
    if target == JSON:
        return pa.chunked_array([_as_type(plain_values(values, variant), target)])
    if values.null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values), target)])
    if variant in AS_TEXT:
        if target != pa.string():
            return pa.chunked_array([_as_type(plain_values(values, variant), target)])
        return values if variant == "decimal" else _shown_texts(values)
    if variant == "int" and pa.types.is_decimal(target):
        return values.cast(pa.decimal128(19, 0)).cast(target)
    if variant == "bytes" and target == pa.string():
        encoded = [None if v is None else base64.b64encode(v).decode("ascii") for v in values.to_pylist()]
        return pa.chunked_array([pa.array(encoded, pa.string())])
    return values if values.type == target else values.cast(target, safe=False)


def _shown_texts(texts: Any) -> Any:
    """Return kept lists and dicts as JSON for people; nearly always it is the text that is kept."""
    if not pc.any(pc.match_substring(texts, '"$')).as_py():
        return texts
    return pa.chunked_array([pa.array([None if t is None else show(t) for t in texts.to_pylist()], pa.string())])


def _as_type(values: list[Any], target: Any) -> Any:
    if target == JSON or (pa.types.is_string(target) and not all(type(v) is str for v in values if v is not None)):
        is_json = target == JSON
        return pa.array([None if v is None else _text(v, is_json=is_json) for v in values], pa.string())
    if not _has_map(target):
        # Else an int beyond 2^53 among floats, 1.50 where one digit is behind the point: by hand.
        with contextlib.suppress(pa.ArrowException, TypeError, OverflowError):
            return pa.array(values, target)
    return pa.array([_fitted(value, target) for value in values], target)


def _text(value: Any, *, is_json: bool) -> str:
    """Return a plain value as text: JSON, or as text columns have it."""
    if is_json or isinstance(value, (list, dict)):
        return show_value(value)
    return base64.b64encode(value).decode("ascii") if type(value) is bytes else str(value)


def _has_map(type_: Any) -> bool:
    if pa.types.is_map(type_):
        return True
    return pa.types.is_list(type_) and _has_map(type_.value_type)


def _fitted(value: Any, target: Any) -> Any:
    """Return a plain value as the Python value that Arrow takes for the type `target`."""
    if value is None:
        return None
    if pa.types.is_map(target):  # sorted, as the fields of a struct are
        return [(key, _fitted(item, target.item_type)) for key, item in sorted(value.items())]
    if pa.types.is_list(target):
        return [_fitted(item, target.value_type) for item in value]
    if pa.types.is_struct(target):
        return {f.name: _fitted(value.get(f.name), f.type) for f in target}
    if pa.types.is_floating(target):
        return float(value)
    if pa.types.is_integer(target):
        return int(value)
    if pa.types.is_decimal(target):
        return Decimal(value).quantize(Decimal(1).scaleb(-target.scale), context=_WIDE)
    return value


_WIDE = decimal.Context(prec=2 * MOST_DIGITS)


def _is_csv_type(type_: Any) -> bool:
    return not (pa.types.is_nested(type_) or pa.types.is_decimal(type_) or pa.types.is_binary(type_))
