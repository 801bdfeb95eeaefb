"""Is the table that r3po made the one that a plain loop makes? Row by row, value by value, in order.

Compares as text: csv/part-*.csv, and with --parquet also parquet/part-*.parquet (then it needs pyarrow), with the
plain loop's CSV. Shares no code with r3po. Ends with 1 and the first differences if there are any.

    python benchmarks/compare.py output_dir plain.0.csv plain.1.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

SHOWN = 5  # differences

Row = list[str]

csv.field_size_limit(sys.maxsize)


class DifferenceError(Exception):
    """The two tables differ, or one is not whole; the message says where."""


def compare_output(output: Path, plain: Iterable[Path], parquet: bool = False) -> int:
    """Return the number of rows, all of them equal.

    Args:
        output: r3po's `output_path`.
        plain: the plain loop's CSV files, in row order.
        parquet: compare the Parquet parts as well.

    Raises:
        DifferenceError: a row, the columns or the number of rows differ, a file failed, or `_SUCCESS` is missing.
    """
    plain = list(plain)
    if n_failed := sum(1 for _ in _read_csv(output / "failures" / "failures.csv")) - 1:
        raise DifferenceError(f"{output / 'failures' / 'failures.csv'}: {n_failed} files failed")
    n_rows = _compare_rows(_rows_of_csv(_parts(output / "csv")), _rows_of_csv(plain), output / "csv")
    if parquet:
        _compare_rows(_rows_of_parquet(_parts(output / "parquet")), _rows_of_csv(plain), output / "parquet")
    return n_rows


# Private functions


def _parts(folder: Path) -> list[Path]:
    if not (folder / "_SUCCESS").exists():
        raise DifferenceError(f"{folder}: no _SUCCESS, so the job is not finished")
    return sorted(folder.glob("part-*"), key=lambda part: int(part.stem.removeprefix("part-")))


def _compare_rows(ours: Iterator[Row], theirs: Iterator[Row], where: Path) -> int:
    """Return the number of rows; the first row of each side is its columns."""
    n_rows = -1
    differences = []
    for our, their in zip_longest(ours, theirs):
        n_rows += 1
        if our != their:
            what = f"row {n_rows}" if n_rows else "columns"
            differences.append(f"  {what}\n    r3po   {our}\n    plain  {their}")
            if len(differences) == SHOWN:
                break
    if differences:
        raise DifferenceError("\n".join([f"{where} differs from the plain loop:", *differences]))
    if n_rows < 1:
        raise DifferenceError(f"{where}: no rows")
    return n_rows


def _rows_of_csv(files: Iterable[Path]) -> Iterator[Row]:
    """Yield the columns once, then every row of every file; all files must have the same columns."""
    return _join_tables((file, _read_csv(file)) for file in files)


def _rows_of_parquet(files: Iterable[Path]) -> Iterator[Row]:
    return _join_tables((file, _read_parquet(file)) for file in files)


def _join_tables(tables: Iterable[tuple[Path, Iterator[Row]]]) -> Iterator[Row]:
    columns = None
    for file, rows in tables:
        own = next(rows, [])
        if columns is None:
            columns = own
            yield own
        elif own != columns:
            raise DifferenceError(f"{file}: columns {own}, but the files before it have {columns}")
        yield from rows


def _read_csv(file: Path) -> Iterator[Row]:
    with open(file, newline="", encoding="utf-8") as lines:
        yield from csv.reader(lines)


def _read_parquet(file: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as parquet:
        yield parquet.schema_arrow.names
        for batch in parquet.iter_batches():
            columns = [column.to_pylist() for column in batch.columns]
            yield from (["" if value is None else str(value) for value in row] for row in zip(*columns, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare r3po's table with a plain loop's CSV, row by row.")
    parser.add_argument("output", type=Path, help="r3po's output_path")
    parser.add_argument("plain", type=Path, nargs="+", help="the plain loop's CSV files, in row order")
    parser.add_argument("--parquet", action="store_true", help="the Parquet parts as well")
    arguments = parser.parse_args()
    try:
        n_rows = compare_output(arguments.output, arguments.plain, arguments.parquet)
    except (DifferenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"equal: {n_rows:,} rows")


if __name__ == "__main__":
    main()
