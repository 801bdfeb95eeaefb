"""Outcome tables as Arrow IPC files: written, read, and unpacked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.mapped import let_go
from r3po.table.outcomes import (
    Indices,
    Schema,
    Table,
    gather,
    has_blocks,
    is_fixed,
    join_tables,
    one_chunk,
    outcome_groups,
    outcomes_at,
)
from r3po.table.rows import Outcomes, check_blocks


class OutcomeWriter:
    """Writes outcomes into one file: row blocks, if there are any, then the outcome table.

    Args:
        sink: where to; it is left open.
    """

    def __init__(self, sink: Any, *, is_compressed: bool) -> None:
        self._sink, self._is_compressed = sink, is_compressed
        self._blocks: list[tuple[int, int]] = []

    @contextmanager
    def rows(self, schema: Schema) -> Iterator[TableWriter]:
        """Give a writer for one row block; after an error in it the block does not count."""
        self._sink.write(bytes(-self._sink.tell() % _ALIGNED))
        start = self._sink.tell()
        with TableWriter(self._sink, schema, {}, is_compressed=self._is_compressed) as writer:
            yield writer
        self._blocks.append((start, self._sink.tell()))

    @contextmanager
    def outcomes(self, schema: Schema, metadata: dict[str, str]) -> Iterator[TableWriter]:
        """Give a writer for the outcome table, which comes last; `metadata` goes into its schema."""
        if has_blocks(schema):
            metadata = {**metadata, _BLOCKS: json.dumps(self._blocks)}
            self._sink.write(bytes(-self._sink.tell() % _ALIGNED))
            metadata[_START] = str(self._sink.tell())
        with TableWriter(self._sink, schema, metadata, is_compressed=self._is_compressed) as writer:
            yield writer


class TableWriter:
    """Writes tables of one schema into one Arrow IPC file, one record batch a `write`."""

    def __init__(self, sink: Any, schema: Schema, metadata: dict[str, str], *, is_compressed: bool) -> None:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if is_compressed else None)
        self._writer = pa.ipc.new_file(sink, schema.with_metadata(metadata or None), options=options)

    def write(self, table: Table) -> None:
        self._writer.write_table(table.combine_chunks().replace_schema_metadata(None))

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def write_chosen(sink: Any, outcomes: Outcomes, indices: Indices, metadata: dict[str, str]) -> None:
    """Write the outcomes at `indices` with the values of their rows, and nothing else, compressed."""
    writer = OutcomeWriter(sink, is_compressed=True)
    table = outcomes.table
    if outcomes.blocks is not None:
        rows = outcomes.choose_rows(indices)
        with writer.rows(rows.table.schema) as block:
            for lines in rows.indices():
                block.write(gather(rows.table, lines))
        table = _renumbered(gather(table, indices))
        indices = pa.array(range(len(table)), pa.int64())
    with writer.outcomes(table.schema, metadata) as written:
        for group in outcome_groups(table, indices):
            written.write(outcomes_at(table, group))
            let_go(outcomes.maps)


def read_outcomes_file(path: Path, *, with_values: bool = True) -> tuple[Outcomes, dict[str, str]]:
    """Return outcomes and the metadata. Uncompressed values stay on disk until they are touched (mmap).

    Args:
        with_values: False: only the fixed columns, which are small; compressed values stay on disk that way, too.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such file.
    """
    with _mapped(path) as source:
        found = _Layout(source)
        reader = found.reader
        if not with_values:
            fixed = [i for i, name in enumerate(reader.schema.names) if is_fixed(name)]
            reader = pa.ipc.open_file(found.last, options=pa.ipc.IpcReadOptions(included_fields=fixed))
        table = reader.read_all().replace_schema_metadata(None)
        blocks = None
        if found.blocks is not None and with_values:
            blocks = join_tables([pa.ipc.open_file(block).read_all() for block in found.blocks] or [_NO_ROWS])
        return check_blocks(Outcomes(table, blocks, (found.whole,))), found.metadata


def unpack_outcomes(path: Path, sink: Any) -> None:
    """Write compressed outcomes without compression, so that they can be mapped; one record batch at a time.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such file.
    """
    with _mapped(path) as source:
        found = _Layout(source)
        writer = OutcomeWriter(sink, is_compressed=False)
        for block in found.blocks or ():
            reader = pa.ipc.open_file(block)
            with writer.rows(reader.schema) as rows:
                _copy(reader, rows)
                let_go([found.whole])
        with writer.outcomes(found.reader.schema, found.metadata) as outcomes:
            _copy(found.reader, outcomes)


# Private

_BLOCKS, _START = "r3po.blocks", "r3po.start"
"""Metadata of an outcome table behind row blocks: from where to where each of them is, and where the table begins."""

_ALIGNED = 64
"""Row blocks begin at multiples of it, so that Arrow can use mapped values where they are."""

_NO_ROWS = pa.table({"0.bool": pa.nulls(0, pa.bool_())})


def _renumbered(table: Table) -> Table:
    """Return outcomes whose rows follow each other without a gap."""
    n_rows = one_chunk(table["n_rows"])
    firsts = pc.subtract(pc.cumulative_sum(n_rows), n_rows)
    return table.set_column(table.schema.get_field_index("first_row"), "first_row", firsts)


class _Layout:
    """Where in a mapped file row blocks and outcome table are."""

    def __init__(self, source: Any) -> None:
        self.reader = pa.ipc.open_file(source)
        """Of the outcome table."""
        found = self.reader.schema.metadata or {}
        self.metadata = {key.decode(): value.decode() for key, value in found.items()}
        self.blocks: list[Any] | None = None
        self.last: Any = source
        source.seek(0)
        self.whole = source.read_buffer()
        if _BLOCKS in self.metadata:
            try:
                spans = [(int(start), int(stop)) for start, stop in json.loads(self.metadata[_BLOCKS])]
                self.blocks = [self.whole.slice(start, stop - start) for start, stop in spans]
                self.last = self.whole.slice(int(self.metadata[_START]))
                self.reader = pa.ipc.open_file(self.last)  # its batches are where they are from its beginning on
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(f"its row blocks are not where it says: {error}") from error


def _copy(reader: Any, writer: TableWriter) -> None:
    for i in range(reader.num_record_batches):
        writer.write(pa.Table.from_batches([reader.get_batch(i)]))


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """Give a file that is mapped into memory; what Arrow finds wrong within the block is a ValueError."""
    with pa.memory_map(str(path)) as source:
        try:
            yield source
        except pa.ArrowException as error:
            raise ValueError(f"no Arrow file: {error}") from error
