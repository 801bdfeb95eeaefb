"""Outcome tables as Arrow IPC files: written, read, and unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from r3po.table.outcomes import Schema, Table, is_fixed


def write_table(table: Table, sink: Any, metadata: dict[str, str], *, is_compressed: bool) -> None:
    """Write an outcome table as an Arrow IPC file with `metadata` in its schema."""
    with TableWriter(sink, table.schema, metadata, is_compressed=is_compressed) as writer:
        writer.write(table)


class TableWriter:
    """Writes outcome tables of one schema into one Arrow IPC file, one record batch a `write`."""

    def __init__(self, sink: Any, schema: Schema, metadata: dict[str, str], *, is_compressed: bool) -> None:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if is_compressed else None)
        self._writer = pa.ipc.new_file(sink, schema.with_metadata(metadata), options=options)

    def write(self, table: Table) -> None:
        self._writer.write_table(table.combine_chunks().replace_schema_metadata(None))

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def read_table(path: Path, *, with_values: bool = True) -> tuple[Table, dict[str, str]]:
    """Return an outcome table and its metadata. Uncompressed values stay on disk until they are touched (mmap).

    Args:
        with_values: False: only the fixed columns, which are small; compressed values stay on disk that way, too.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no Arrow IPC file.
    """
    with _mapped(path) as source:
        reader = pa.ipc.open_file(source)
        if not with_values:
            fixed = [i for i, name in enumerate(reader.schema.names) if is_fixed(name)]
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fixed))
        table = reader.read_all()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.replace_schema_metadata(None), metadata


def unpack_table(path: Path, sink: Any) -> None:
    """Write a compressed outcome table without compression, so that it can be mapped; one record batch at a time.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no Arrow IPC file.
    """
    with _mapped(path) as source:
        reader = pa.ipc.open_file(source)
        with pa.ipc.new_file(sink, reader.schema) as writer:
            for i in range(reader.num_record_batches):
                writer.write_batch(reader.get_batch(i))


# Private functions


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """Give a file that is mapped into memory; what Arrow finds wrong within the block is a ValueError."""
    with pa.memory_map(str(path)) as source:
        try:
            yield source
        except pa.ArrowException as error:
            raise ValueError(f"no Arrow file: {error}") from error
