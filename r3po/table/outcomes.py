"""Outcomes as Arrow tables: made of batches, written, read, joined and counted.

An *outcome table* has one line an outcome. The fixed columns are `FIXED`; the values of row number i of the job's
columns lie in `<i>.<variant>`, one Arrow column a variant that occurs, null elsewhere: so an int stays an int beside a
float, and the join of the types can be made again whenever the rows change. FORMAT.md, "Outcomes", has the table.

Tables go in and out as opaque values; other packages keep the `Table` alias and never look inside.
"""

from __future__ import annotations

import array as machine
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from r3po.file_version import FileVersion
from r3po.table.columns import Columns
from r3po.table.ragged import RaggedRow, most_dropped, names_text
from r3po.table.value_arrays import VARIANT_TYPES, value_arrays
from r3po.text import first_line
from r3po.work import Span

# pyarrow ships no types; the names say what is meant.
Table: TypeAlias = Any
Schema: TypeAlias = Any
Indices: TypeAlias = Any

ROW_GROUP_ROWS = 10_000
"""Most rows of one row group; it and `ROW_GROUP_BYTES` alone cut them, so cuts depend on the rows and nothing else."""

ROW_GROUP_BYTES = 32 << 20
"""Most bytes of text and binary values of one row group (a single larger row is a group of its own)."""

_MOST_STRETCHES = 256
"""Rows in more stretches than this are copied one by one, unless the table has `_TAKE_BYTES` or more."""
_TAKE_BYTES = 1 << 30

FIXED = pa.schema(
    [
        ("place", pa.int32()),
        ("is_row", pa.bool_()),
        ("build", pa.int32()),
        ("attempt", pa.string()),
        ("fingerprint", pa.string()),
        ("tries", pa.int32()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("hash", pa.binary()),
        ("racy", pa.bool_()),
        ("seconds", pa.float32()),
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("where", pa.string()),
        ("traceback", pa.string()),
    ]
)


ROWS_OF_A_FILE = pa.schema([("first_row", pa.int64()), ("n_rows", pa.int64())])
"""Further columns of an outcome table whose values are in row blocks: where the rows of a file begin, counted over all
blocks, and how many they are."""
DROPPED = "dropped"
"""The column of the keys that were left out of each file's rows, where there are any: JSON lists of names."""
TAG = "tag"
"""The column of the tags of objects, where there are any: files on a disk have none."""

_FIXED = frozenset([*FIXED.names, *ROWS_OF_A_FILE.names, DROPPED, TAG])


class Failure(NamedTuple):
    """Why a file has no row, as text: nothing of the user's exception itself is kept."""

    error_type: str
    message: str
    where: str
    """`count_fruits.py:14 in count_fruits`: the innermost place in the user's code; empty where there is none."""
    traceback: str

    def line(self, path: str) -> str:
        """Return the failure of the file `path` in one line, for people."""
        return f"{path}  {self.error_type}: {first_line(self.message)}"


class FileRows(NamedTuple):
    """Where the rows of a file are in the row blocks of its segment."""

    first: int
    """The number of its first row, counted over all blocks."""
    n: int
    dropped: tuple[str, ...] = ()
    """The keys that were left out of them."""


@dataclass(slots=True)
class OutcomeBatch:
    """Outcomes in the making: lists of equal length, one item a file, in the order they were made."""

    places: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes_ns: list[int] = field(default_factory=list)
    hashes: list[bytes | None] = field(default_factory=list)
    racy: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows: list[tuple[Any, ...] | None] = field(default_factory=list)
    """Values in column order, or with `has_blocks` a `FileRows`; None for a failure."""
    has_blocks: bool = False
    """The values of the rows are elsewhere, in blocks."""
    failures: dict[int, Failure] = field(default_factory=dict)
    """By index in the lists."""
    tags: list[str] = field(default_factory=list)
    """Of objects, empty of files on a disk; a list as the others."""

    def forget_last(self) -> None:
        """Take back what is known of a file whose outcome is not added."""
        for items in (self.places, self.sizes, self.mtimes_ns, self.hashes, self.racy, self.tags, self.seconds):
            items.pop()


def complete_imports() -> None:
    """Have pyarrow import now what it imports at its first conversion: pandas, where it is installed.

    It tries only once. A pandas that is broken matters to an f that uses it, and to nobody else.
    """
    with suppress(Exception):
        pa.scalar(0)


# Outcome tables


def outcome_table(batch: OutcomeBatch, columns: Columns | None) -> Table:
    """Return the batch as an outcome table, without origin (see `with_origin`).

    Values that do not fit their column turn their row into a failure: `batch` is changed to say so.
    """
    values: dict[str, Any] = {}
    rejected: dict[int, str] = {}
    if batch.has_blocks:
        spans = [(0, 0) if row is None else row[:2] for row in batch.rows]
        values = {f.name: pa.array([span[i] for span in spans], f.type) for i, f in enumerate(ROWS_OF_A_FILE)}
    elif columns is not None:
        values, rejected = value_arrays(batch.rows, columns)
    if columns is not None and rejected:
        for index, message in rejected.items():
            batch.rows[index] = None
            batch.failures[index] = Failure("BadRow", message, "", "")
        values, _ = value_arrays(batch.rows, columns)
    n = len(batch.places)
    fixed = {
        "place": pa.array(batch.places, pa.int32()),
        "is_row": pa.repeat(pa.scalar(True), n),
        "tries": pa.repeat(pa.scalar(1, pa.int32()), n),
        "size": pa.array(batch.sizes, pa.int64()),
        "mtime_ns": pa.array(batch.mtimes_ns, pa.int64()),
        "hash": pa.array(batch.hashes, pa.binary()),
        "racy": pa.array(batch.racy, pa.bool_()),
        "seconds": pa.array(batch.seconds, pa.float32()),
    }
    fixed.update(dict.fromkeys(Failure._fields, pa.nulls(n, pa.string())))
    if batch.failures:
        failures = [batch.failures.get(i) for i in range(n)]
        fixed["is_row"] = pa.array([failure is None for failure in failures], pa.bool_())
        for i, name in enumerate(Failure._fields):
            fixed[name] = pa.array([None if failure is None else failure[i] for failure in failures], pa.string())
    if columns is not None and columns.rules.extra == "drop":
        fixed |= _dropped_array(batch)
    if any(batch.tags):
        fixed[TAG] = pa.array(batch.tags, pa.string())
    return pa.table({**fixed, **values})


def _dropped_array(batch: OutcomeBatch) -> dict[str, Any]:
    dropped = [names_text(row.dropped) if isinstance(row, RaggedRow | FileRows) else None for row in batch.rows]
    return {DROPPED: pa.array(dropped, pa.string())} if any(dropped) else {}


def with_origin(table: Table, *, build: int, attempt: str, fingerprint: str) -> Table:
    """Return an outcome table with the columns that are the same for a whole segment."""
    n = len(table)
    origin = {
        "build": pa.repeat(pa.scalar(build, pa.int32()), n),
        "attempt": pa.repeat(pa.scalar(attempt, pa.string()), n),
        "fingerprint": pa.repeat(pa.scalar(fingerprint, pa.string()), n),
    }
    for name, array in origin.items():
        table = table.append_column(name, array)
    return table


def outcomes_at(table: Table, indices: Indices) -> Table:
    """Return the outcomes at `indices`, in their order."""
    return gather(table, indices)


def outcome_groups(table: Table, indices: Indices) -> Iterator[Indices]:
    """Yield `indices` in pieces of at most `ROW_GROUP_ROWS` outcomes and about `ROW_GROUP_BYTES` bytes."""
    for start, stop in group_spans(table, len(indices), lambda start, stop: indices.slice(start, stop - start)):
        yield indices.slice(start, stop - start)


def group_spans(table: Table, n: int, at: Callable[[int, int], Indices], start: int = 0) -> Iterator[Span]:
    """Yield the spans from `start` to `n` that make a row group each, by the rows alone.

    Args:
        at: returns the indices in the table of the rows of a span.
    """
    texts = _text_columns(table)
    while start < n:
        stop = min(start + ROW_GROUP_ROWS, n)
        sizes = text_bytes(table, at(start, stop), texts)
        if sizes is None or (pc.sum(sizes).as_py() or 0) <= ROW_GROUP_BYTES:
            yield start, stop
            start = stop
            continue
        running: list[int] = pc.cumulative_sum(sizes).to_pylist()
        position = 0
        while position < len(running):
            limit = (running[position - 1] if position else 0) + ROW_GROUP_BYTES
            end = max(position + 1, bisect_right(running, limit))
            if end >= len(running) and position and stop < n:
                break  # the group may go on behind what was looked at
            yield start + position, start + end
            position = end
        start += position


def text_bytes(table: Table, indices: Indices, texts: Sequence[str] | None = None) -> Any:
    """Return the bytes of text and binary values of each row, or None: there are none.

    Args:
        texts: names of the columns that hold such.
    """
    total = None
    names = _text_columns(table) if texts is None else texts
    chosen = gather(table.select(names), indices) if names else {}
    for name in names:
        sizes = one_chunk(pc.fill_null(pc.binary_length(chosen[name]), 0).cast(pa.int64()))
        total = sizes if total is None else pc.add(total, sizes)
    return total


def gather(values: Any, indices: Indices) -> Any:
    """Return the rows of a table or a chunked column at `indices`.

    Stretches of neighbours, which is nearly all there is, are sliced without a copy; `take` would first make one array
    of each column, which text of more than 2 GiB does not fit.
    """
    starts, stops = _stretches(indices)
    if len(starts) > _MOST_STRETCHES and values.nbytes < _TAKE_BYTES:
        return values.take(indices)
    slices = [values.slice(start, stop - start) for start, stop in zip(starts, stops, strict=True)]
    if not slices:
        return values.slice(0, 0)
    if isinstance(values, pa.Table):
        return pa.concat_tables(slices)
    return pa.chunked_array([chunk for piece in slices for chunk in piece.chunks], values.type)


def int32_array(values: Sequence[int]) -> Any:
    """Return ints as an Arrow array."""
    # From a buffer: pa.array would import pandas, where it is installed, and `status` has no use for that.
    return pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(machine.array("i", values))])


def int64_array(values: Iterable[int]) -> Any:
    """Return ints as an Arrow array."""
    items = machine.array("q", values)
    return pa.Array.from_buffers(pa.int64(), len(items), [None, pa.py_buffer(items)])


def one_chunk(values: Any) -> Any:
    """Return a chunked column as one array."""
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0, values.type)


def variants_in(table: Table, i: int) -> list[str]:
    """Return the variants that occur in column number `i` of the job."""
    # Asked by name: a list of all names, for each of 5,000 columns, would be slow.
    return [variant for variant in VARIANT_TYPES if table.schema.get_field_index(f"{i}.{variant}") >= 0]


def join_tables(tables: Sequence[Table]) -> Table:
    """Return the outcomes of several tables below each other; variants that a table lacks are null there."""
    if not tables:
        return FIXED.empty_table()
    return pa.concat_tables(tables, promote_options="default")


# The predicate


def places_of(table: Table, indices: Indices | None = None) -> list[int]:
    """Return the places of the chosen outcomes (all, without `indices`), in their order."""
    chosen = table["place"] if indices is None else table["place"].take(indices)
    places: list[int] = chosen.to_pylist()
    return places


def lowest_build(table: Table) -> int:
    """Return the lowest build among the outcomes; 0 if there are none."""
    return pc.min(table["build"]).as_py() or 0


@dataclass(frozen=True, slots=True)
class Tally:
    """What chosen outcomes amount to."""

    n_done: int
    """Files that f was done with."""
    n_failed: int
    n_rows: int
    """Rows of those files."""
    done_by_fingerprint: dict[str, int]
    failures_by_fingerprint: dict[str, int]
    first_failure_build: int | None
    """The lowest build among the failures: below `retry_since` some of them have to be tried again."""


def tally(table: Table, indices: Indices) -> Tally:
    """Count the chosen outcomes."""
    names = ["n_rows"] if has_blocks(table.schema) else []
    chosen = table.select(["is_row", "build", "fingerprint", *names]).take(indices)
    failed = chosen.filter(pc.invert(chosen["is_row"]))
    n_failed = len(failed)
    return Tally(
        n_done=len(chosen) - n_failed,
        n_failed=n_failed,
        n_rows=(pc.sum(chosen["n_rows"]).as_py() or 0) if names else len(chosen) - n_failed,
        done_by_fingerprint=_counts(chosen.filter(chosen["is_row"])["fingerprint"]),
        failures_by_fingerprint=_counts(failed["fingerprint"]),
        first_failure_build=pc.min(failed["build"]).as_py() if n_failed else None,
    )


def seen_files(table: Table, indices: Indices | None = None) -> list[FileVersion]:
    """Return the version of its file that f saw, for each chosen outcome (all, without `indices`)."""
    has_tags = table.schema.get_field_index(TAG) >= 0
    chosen = table.select(["size", "mtime_ns", "hash", "racy", *([TAG] if has_tags else [])])
    if indices is not None:
        chosen = chosen.take(indices)
    if has_tags:
        chosen = chosen.set_column(4, TAG, pc.fill_null(chosen[TAG], ""))
    return list(map(FileVersion, *(chosen[name].to_pylist() for name in chosen.column_names)))


def dropped_keys(table: Table, indices: Indices) -> dict[str, int]:
    """Return in how many of the chosen files each key was left out: the 100 most, then by name."""
    if table.schema.get_field_index(DROPPED) < 0:
        return {}
    n_files: Counter[str] = Counter()
    for item in pc.value_counts(table[DROPPED].take(indices).drop_null()).to_pylist():
        n_files.update(dict.fromkeys(json.loads(item["values"]), item["counts"]))
    return dict(most_dropped(n_files))


def has_blocks(schema: Schema) -> bool:
    """Whether the rows of an outcome table of this schema are in row blocks."""
    return bool(schema.get_field_index("n_rows") >= 0)


def is_fixed(name: str) -> bool:
    """Whether a column of an outcome table is no value of a row."""
    return name in _FIXED


def failures_of(table: Table, indices: Indices | None = None) -> list[dict[str, Any]]:
    """Return the chosen failures (all, without `indices`) as dicts: place, the fields of `Failure`, tries, seconds."""
    names = ["place", *Failure._fields, "tries", "seconds"]
    chosen = table.select([*names, "is_row"])
    if indices is not None:
        chosen = chosen.take(indices)
    failed: list[dict[str, Any]] = chosen.filter(pc.invert(chosen["is_row"])).select(names).to_pylist()
    return failed


def _counts(values: Any) -> dict[str, int]:
    counted = pc.value_counts(values)
    return dict(sorted((item["values"].as_py(), item["counts"].as_py()) for item in counted))


# Private functions: rows of a table


def _stretches(indices: Indices) -> tuple[list[int], list[int]]:
    """Return where each run of consecutive indices starts, and where it stops."""
    n = len(indices)
    if n == 0:
        return [], []
    indices = indices.cast(pa.int64())  # the difference of two unsigned numbers has no sign
    steps = pc.subtract(indices.slice(1), indices.slice(0, n - 1))
    breaks = pc.indices_nonzero(pc.not_equal(steps, 1)).to_pylist()
    firsts = [0, *(b + 1 for b in breaks)]
    lasts = [*breaks, n - 1]
    return [indices[i].as_py() for i in firsts], [indices[i].as_py() + 1 for i in lasts]


def _text_columns(table: Table) -> list[str]:
    """Return the names of the columns that hold text or binary values of rows."""
    values = [f for f in table.schema if not is_fixed(f.name)]
    return [f.name for f in values if pa.types.is_string(f.type) or pa.types.is_binary(f.type)]
