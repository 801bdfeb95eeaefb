"""Parts read again: whether they hold the rows that the outcomes say, row by row and value by value.

The expected rows are made by the function that staging uses. Parquet must equal them exactly. CSV has no types, so its
fields are read as the types of the Parquet part beside it and compared with that. Files are read a row group at a
time, and nothing is written.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from r3po.table.outcomes import Indices, Schema, Table
from r3po.table.parts import part_table, row_groups
from r3po.text import first_line, shorten

MOST_DIFFERENCES = 5
"""Kept of one part: in a part with the rows of another one every value differs."""

_BLOCK_BYTES = 8 << 20
"""Of CSV, read at once; a longer row makes it larger."""

_MOST_BLOCK_BYTES = 1 << 30

_SHOWN = 60
"""Characters of a value in a message."""

_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)
"""What reading a damaged part may raise."""

_Unequal = Callable[[Any, Any], list[int]]
"""Gives the positions at which two columns differ: what has to be there, and what is."""


def expected_rows(table: Table, indices: Indices, schema: Schema) -> Iterator[Table]:
    """Yield the rows of a `shown_table` that the parts have to hold, by row groups, in the types of `schema`."""
    for group in row_groups(table, indices):
        yield part_table(table, group, schema)


def part_differences(
    csv: Path | None, parquet: Path | None, schema: Schema, expected: Iterator[Table] | None
) -> list[tuple[Path, str]]:
    """Return where the parts of one shard are not as they have to be: the part, and what differs in it.

    Args:
        csv: the CSV part, which is there; None: the shard has none.
        parquet: the same of Parquet.
        schema: the types of the columns.
        expected: the rows (`expected_rows`); None: nobody knows them, and CSV is compared with Parquet.
    """
    typed = None if parquet is None else _Part(parquet, _iter_parquet, schema)
    text = None if csv is None else _Part(csv, _iter_csv, schema)
    if expected is not None:
        _compare(expected, typed, text, "the outcomes have")
    elif typed is not None and text is not None:
        _compare(typed.iter_rows(), None, text, "Parquet has")
    return [(part.path, what) for part in (typed, text) if part is not None for what in part.differences]


def doubled_places(table: Table) -> list[int]:
    """Return the places that have more than one outcome in the table, ascending."""
    counted = pc.value_counts(table["place"])
    return sorted(item["values"].as_py() for item in counted if item["counts"].as_py() > 1)


# Private functions: reading


class _OtherColumnsError(ValueError):
    """A part has other names or types than its commit says."""


class _Part:
    """A part that is read from its front, and what was found wrong with it."""

    def __init__(self, path: Path, read: Callable[[Path, Schema], Iterator[Table]], schema: Schema) -> None:
        self.path = path
        self.differences: list[str] = []
        self._source = read(path, schema)
        self._rest: Table | None = None
        self._n_rows = 0
        self._is_readable = True

    def iter_rows(self) -> Iterator[Table]:
        """Yield all rows, as many at once as were read at once."""
        while self._is_readable and (table := self._read()) is not None:
            yield table

    def compare(self, rows: Table, first: int, unequal: _Unequal, against: str) -> Table | None:
        """Compare what comes next with `rows`, note what differs, and return what came; None if it ended before.

        Args:
            first: number of the first row, from 1.
        """
        found = self._take(len(rows))
        if not self._is_readable or found is None:
            return None
        try:
            for i, name in enumerate(rows.column_names):
                expected, column = rows.column(i).slice(0, len(found)), found.column(i)
                for at in islice(unequal(expected, column), MOST_DIFFERENCES):
                    shown = f"it has {_short(column[at].as_py())}, {against} {_short(expected[at].as_py())}"
                    self._say(f'row {first + at}, column "{name}": {shown}')
        except _UNREADABLE as error:  # a value that Python cannot hold, such as the year 30000
            self._end_reading(
                f"from row {first} on it cannot be compared: {first_line(str(error)) or type(error).__name__}"
            )
        return found if len(found) == len(rows) else None

    def end(self, n_expected: int, against: str) -> None:
        """Note if there are more or fewer rows than there should be."""
        for _ in self.iter_rows():
            pass
        if self._is_readable and self._n_rows != n_expected:
            self.differences.insert(0, f"it has {self._n_rows:,} rows, {against} {n_expected:,}")

    # Private methods

    def _take(self, n_rows: int) -> Table | None:
        pieces = []
        while n_rows > 0:
            table = self._rest if self._rest is not None else self._read()
            if table is None:
                break
            pieces.append(table.slice(0, n_rows))
            self._rest = table.slice(n_rows) if len(table) > n_rows else None
            n_rows -= len(pieces[-1])
        return pa.concat_tables(pieces) if pieces else None

    def _read(self) -> Table | None:
        try:
            table = next(self._source, None)
        except _OtherColumnsError as error:
            self._end_reading(str(error))
            return None
        except _UNREADABLE as error:
            self._end_reading(f"it cannot be read: {first_line(str(error)) or type(error).__name__}")
            return None
        self._n_rows += 0 if table is None else len(table)
        return table

    def _end_reading(self, what: str) -> None:
        self._is_readable = False
        self.differences.insert(0, what)

    def _say(self, what: str) -> None:
        if len(self.differences) < MOST_DIFFERENCES:
            self.differences.append(what)


def _compare(expected: Iterator[Table], typed: _Part | None, text: _Part | None, against: str) -> None:
    """Compare Parquet with the expected rows, and CSV with Parquet; where there is none, with the expected rows."""
    first = 1
    for rows in expected:
        right, whose = rows, against
        if typed is not None and (found := typed.compare(rows, first, _unequal, against)) is not None:
            right, whose = found, "Parquet has"
        if text is not None:
            text.compare(right, first, _unequal_text if len(rows.column_names) > 1 else _unequal_only_text, whose)
        first += len(rows)
    for part in (typed, text):
        if part is not None:
            part.end(first - 1, against)


def _iter_parquet(path: Path, schema: Schema) -> Iterator[Table]:
    with open(path, "rb") as file:
        part = pq.ParquetFile(file)
        found = part.schema_arrow.remove_metadata()
        if not found.equals(schema.remove_metadata()):
            raise _OtherColumnsError(f"its columns are {_columns(found)}; its commit says {_columns(schema)}")
        for i in range(part.num_row_groups):
            yield part.read_row_group(i)


def _iter_csv(path: Path, schema: Schema) -> Iterator[Table]:
    """Yield the rows as text; an empty field is null, and `""` is empty text."""
    is_first = True
    for table in _iter_records(path, len(schema)):
        if is_first:
            header = [column[0].as_py() or "" for column in table.columns]
            if header != schema.names:
                raise _OtherColumnsError(f"its header is {_short(header)}; its commit says {_short(schema.names)}")
            table, is_first = table.slice(1), False
        if len(table):
            yield table


def _iter_records(path: Path, n_columns: int) -> Iterator[Table]:
    n_done, block_bytes = 0, _BLOCK_BYTES
    while True:
        n_known = n_done
        try:
            with open(path, "rb") as file:
                for table in _open_csv(file, n_columns, block_bytes):
                    fresh = table.slice(min(n_known, len(table)))
                    n_known -= len(table) - len(fresh)
                    n_done += len(fresh)
                    if len(fresh):
                        yield fresh
            return
        except pa.ArrowInvalid as error:
            # One row is longer than a block: begin again with longer ones, and pass over what was read.
            if "straddling" not in str(error) or block_bytes >= _MOST_BLOCK_BYTES:
                raise
            block_bytes *= 8


def _open_csv(file: BinaryIO, n_columns: int, block_bytes: int) -> Iterator[Table]:
    names = [str(i) for i in range(n_columns)]
    reader = pcsv.open_csv(
        file,
        read_options=pcsv.ReadOptions(column_names=names, block_size=block_bytes, use_threads=False),
        parse_options=pcsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pcsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        yield pa.Table.from_batches([batch])


# Private functions: comparing


def _unequal(expected: Any, found: Any) -> list[int]:
    """Return where two columns of one type differ; NaN equals NaN, but 0.0 is not -0.0."""
    if pa.types.is_floating(expected.type):
        expected, found = _bits(expected), _bits(found)
    if expected.equals(found):
        return []
    pairs = zip(expected.to_pylist(), found.to_pylist(), strict=True)
    return [at for at, (a, b) in enumerate(pairs) if a != b]


def _bits(values: Any) -> Any:
    plain = pc.if_else(pc.is_nan(values), pa.scalar(float("nan"), values.type), values)
    return pa.chunked_array([chunk.view(pa.int64()) for chunk in plain.chunks], pa.int64())


def _unequal_text(expected: Any, cells: Any) -> list[int]:
    """Return where fields of CSV do not say what a typed column holds."""
    if pa.types.is_string(expected.type):
        return _unequal(expected, cells)
    if _is_cast_exactly(expected.type):
        try:
            return _unequal(expected, cells.cast(expected.type))
        except pa.ArrowException:
            pass  # some field is no such value; one by one, to see which
    pairs = zip(expected.to_pylist(), cells.to_pylist(), strict=True)
    return [at for at, (value, text) in enumerate(pairs) if not _says(text, value, expected.type)]


def _unequal_only_text(expected: Any, cells: Any) -> list[int]:
    """The same for a table of one column, where None is written as `""`: an empty line would be no row."""
    if pa.types.is_string(expected.type):
        return _unequal(pc.fill_null(expected, ""), cells)
    if pa.types.is_binary(expected.type):
        expected = pc.if_else(pc.equal(expected, b""), pa.scalar(None, expected.type), expected)
    return _unequal_text(expected, pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells))


def _is_cast_exactly(type_: Any) -> bool:
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_date,
        pa.types.is_timestamp,
        pa.types.is_decimal,
    )
    return any(is_kind(type_) for is_kind in kinds)


def _says(text: str | None, value: Any, type_: Any) -> bool:
    """Whether a field of CSV says a value."""
    if text is None or value is None:
        return text is None and value is None
    try:
        if pa.types.is_nested(type_):
            return _is_same(value, orjson.loads(text))
        if _is_cast_exactly(type_):
            read = pa.array([text]).cast(type_)
            return not _unequal(pa.chunked_array([pa.array([value], type_)]), pa.chunked_array([read]))
        return _is_same(value, text)
    except (ValueError, ArithmeticError, pa.ArrowException):
        return False


def _is_same(value: Any, read: Any) -> bool:
    """Whether a value within a nested one is what its JSON says; what a dict lacks is null in a struct."""
    if isinstance(value, dict):
        is_dict = isinstance(read, dict) and read.keys() <= value.keys()
        return is_dict and all(_is_same(item, read.get(key)) for key, item in value.items())
    if isinstance(value, list):
        return isinstance(read, list) and len(value) == len(read) and all(map(_is_same, value, read))
    if isinstance(value, float):
        # An int beside floats is one of them.
        return isinstance(read, int | float) and not isinstance(read, bool) and float(read) == value
    if isinstance(value, bytes):
        return isinstance(read, str) and base64.b64decode(read, validate=True) == value
    if isinstance(value, dt.date | dt.time):
        return isinstance(read, str) and bool(type(value).fromisoformat(read) == value)
    if isinstance(value, Decimal):
        return Decimal(str(read)) == value
    return type(value) is type(read) and bool(value == read)


# Private functions: for people


def _columns(schema: Schema) -> str:
    return _short({field.name: str(field.type) for field in schema})


def _short(value: object) -> str:
    return shorten(repr(value), _SHOWN)
