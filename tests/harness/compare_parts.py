"""Compares the CSV parts of a table with its Parquet parts, row by row and value by value. No code shared with r3po.

    python tests/harness/compare_parts.py OUTPUT

prints one finding a line and exits with 1 if there is one. CSV has no types, so each of its fields is read as the type
that the Parquet column has. Where both could not but differ, that is no finding: a struct has a null where the dict of
a row lacks a key, and both cells of a number are the same number however they are written.
"""

from __future__ import annotations

import argparse
import base64
import csv
import datetime as dt
import json
import struct
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOST_FINDINGS = 100
"""Of one part: a column of another type differs in every row."""


def compare_parts(output: Path) -> list[str]:
    """Return where CSV and Parquet differ, one finding a line; an empty list is a good table."""
    findings = []
    names = {kind: {path.stem for path in (output / kind).glob(f"part-*.{kind}")} for kind in ("csv", "parquet")}
    findings += [f"csv/{name}.csv: has no Parquet part" for name in sorted(names["csv"] - names["parquet"])]
    findings += [f"parquet/{name}.parquet: has no CSV part" for name in sorted(names["parquet"] - names["csv"])]
    for name in sorted(names["csv"] & names["parquet"]):
        findings += compare_part(output / "csv" / f"{name}.csv", output / "parquet" / f"{name}.parquet")
    return findings


def compare_part(csv_part: Path, parquet_part: Path) -> list[str]:
    """Return where two parts differ; at most `MOST_FINDINGS`."""
    try:
        header, rows = read_csv(csv_part)
        table = pq.read_table(parquet_part)
    except (ValueError, csv.Error, pa.ArrowException) as error:
        return [f"{csv_part.stem}: cannot be read: {error!r}"]
    if header != table.column_names:
        return [f"{csv_part}: its header is {short(header)}, Parquet has {short(table.column_names)}"]
    if len(rows) != len(table):
        return [f"{csv_part}: {len(rows)} rows, Parquet has {len(table)}"]
    findings: list[str] = []
    for finding in differences(csv_part, rows, table):
        findings.append(finding)
        if len(findings) == MOST_FINDINGS:
            break
    return findings


def differences(csv_part: Path, rows: list[list[Cell]], table: Any) -> Iterator[str]:
    for index, row in enumerate(rows):
        if len(row) != table.num_columns:
            yield f"{csv_part} row {index}: {len(row)} fields, Parquet has {table.num_columns} columns"
            return
    for column, field in enumerate(table.schema):
        values = (value.as_py() for value in table.column(column))
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            if not is_equal(row[column], value, field.type, is_only=table.num_columns == 1):
                cell = row[column]
                shown = cell.text if cell.is_quoted or cell.text else "nothing"
                yield (
                    f"{csv_part} row {index}, column {short(field.name)} ({field.type}): "
                    f"CSV has {short(shown)}, Parquet {short(value)}"
                )


# CSV, with what Python's reader does not tell: whether a field was quoted


class Cell:
    """A field of a CSV file."""

    __slots__ = ("is_quoted", "text")

    def __init__(self, text: str, is_quoted: bool) -> None:
        self.text, self.is_quoted = text, is_quoted


def read_csv(path: Path) -> tuple[list[str], list[list[Cell]]]:
    """Return header and rows. Raises ValueError for what is no CSV, or not UTF-8."""
    text = path.read_bytes().decode("utf-8")
    csv.field_size_limit(sys.maxsize)
    with open(path, newline="", encoding="utf-8") as file:
        plain = list(csv.reader(file, strict=True))
    records = list(iter_records(text))
    if not records or [[cell.text for cell in record] for record in records] != plain:
        raise ValueError("Python's csv module reads it otherwise than by the letter of RFC 4180")
    header, *rows = records
    return [cell.text for cell in header], rows


def iter_records(text: str) -> Iterator[list[Cell]]:
    """Yield the records of a text: fields between commas, quotes doubled within quotes, `\\n` between records."""
    at, record = 0, []
    while at < len(text):
        if text[at] == '"':
            cell, at = read_quoted(text, at + 1)
        else:
            stop = min((found for found in (text.find(",", at), text.find("\n", at)) if found >= 0), default=len(text))
            cell, at = Cell(text[at:stop], False), stop
        record.append(cell)
        if text[at : at + 1] == ",":
            at += 1
            if at < len(text):
                continue
            record.append(Cell("", False))
        elif text[at : at + 1] != "\n":
            raise ValueError(f"neither a comma nor a newline follows a field: {text[at : at + 20]!r}")
        at += 1
        yield record
        record = []


def read_quoted(text: str, at: int) -> tuple[Cell, int]:
    """Return the field that was opened just before `at`, and where what follows it begins."""
    pieces = []
    while True:
        stop = text.find('"', at)
        if stop < 0:
            raise ValueError("a quote is never closed")
        pieces.append(text[at:stop])
        if text[stop + 1 : stop + 2] != '"':
            return Cell("".join(pieces), True), stop + 1
        pieces.append('"')
        at = stop + 2


# Values


def is_equal(cell: Cell, value: Any, type_: Any, *, is_only: bool) -> bool:
    """Whether a field of CSV says what Parquet has there.

    Args:
        is_only: the table has one column: None is `""` there, for an empty line would be no row.
    """
    if value is None:
        return cell.text == "" and cell.is_quoted == is_only
    if is_text(type_):
        return bool(cell.text == value and cell.is_quoted)
    try:
        return is_said_by(cell.text, value, type_)
    except (ValueError, InvalidOperation):
        return False


def is_text(type_: Any) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def is_said_by(text: str, value: Any, type_: Any) -> bool:
    """Whether a text, read as this type, is the value."""
    for is_kind, is_same in READERS.items():
        if is_kind(type_):
            return bool(is_same(text, value, type_))
    raise ValueError(f"no value of type {type_} is expected")


def is_same_float(text: str, value: float, type_: Any) -> bool:
    read = float(text)
    if pa.types.is_float32(type_):
        read = struct.unpack("f", struct.pack("f", read))[0]
    return (read != read and value != value) or (read == value and str(read)[0] == str(value)[0])


def is_same_moment(text: str, value: dt.datetime, _: Any) -> bool:
    if (value.tzinfo is not None) != text.endswith("Z"):
        return False
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00")) == value


def is_same_nested(value: Any, read: Any, type_: Any) -> bool:
    """Whether Parquet's nested value is what the JSON text says; what a dict lacks is null in a struct."""
    if value is None or read is None:
        return value is None and read is None
    if pa.types.is_struct(type_):
        if not isinstance(read, dict) or not read.keys() <= value.keys():
            return False
        return all(is_same_nested(value[field.name], read.get(field.name), field.type) for field in type_)
    if pa.types.is_map(type_):  # its keys are sorted in Parquet
        is_same_keys = isinstance(read, dict) and sorted(read) == [key for key, _ in value]
        return is_same_keys and all(is_same_nested(item, read[key], type_.item_type) for key, item in value)
    if pa.types.is_list(type_):
        is_list = isinstance(read, list) and len(value) == len(read)
        return is_list and all(is_same_nested(*pair, type_.value_type) for pair in zip(value, read, strict=True))
    if is_text(type_) or pa.types.is_boolean(type_) or pa.types.is_integer(type_):
        return type(value) is type(read) and bool(value == read)
    if pa.types.is_floating(type_):
        # An int beside floats is one of them; json reads NaN and Infinity.
        return type(read) in (int, float) and is_same_float(repr(float(read)), value, type_)
    is_number = pa.types.is_decimal(type_) and type(read) is int  # beside decimals
    return (isinstance(read, str) or is_number) and is_said_by(str(read), value, type_)


READERS: dict[Callable[[Any], bool], Callable[[str, Any, Any], bool]] = {
    pa.types.is_integer: lambda text, value, _: int(text) == value,
    pa.types.is_floating: is_same_float,
    pa.types.is_boolean: lambda text, value, _: text == ("true" if value else "false"),
    pa.types.is_binary: lambda text, value, _: base64.b64decode(text, validate=True) == value,
    pa.types.is_decimal: lambda text, value, _: Decimal(text) == value,  # 1.5 is 1.50 in a column of that scale
    pa.types.is_date: lambda text, value, _: dt.date.fromisoformat(text) == value,
    pa.types.is_time: lambda text, value, _: dt.time.fromisoformat(text) == value,
    pa.types.is_timestamp: is_same_moment,
    pa.types.is_nested: lambda text, value, type_: is_same_nested(value, json.loads(text), type_),
}


def short(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 100 else shown[:100] + "..."


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the CSV parts of a table with its Parquet parts.")
    parser.add_argument("output", type=Path, help="the folder that holds csv/ and parquet/")
    findings = compare_parts(parser.parse_args().output)
    print("\n".join(findings) or "good: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
