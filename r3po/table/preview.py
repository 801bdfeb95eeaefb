"""Rows as the parts of a job would have them, in memory: values, types, and how large parts would be."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from r3po.table import parts
from r3po.table import schema as schemas
from r3po.table.columns import Columns
from r3po.table.mixed import Mixture, describe_mixed, find_mixture, iter_values
from r3po.table.outcomes import OutcomeBatch, Table, dropped_keys, join_tables, outcome_table
from r3po.table.rows import Outcomes, Rows
from r3po.work import Span


@dataclass(frozen=True, slots=True)
class Preview:
    """What the parts of a few outcomes would be."""

    table: Table
    columns: dict[str, str] = field(default_factory=dict)
    """The types by the names of the columns, as Arrow prints them."""
    mixed: tuple[str, ...] = ()
    """What is said of the columns that are text since their values have no type in common."""
    dropped: dict[str, int] = field(default_factory=dict)
    """In how many files each key was left out."""
    row_bytes: dict[str, float] = field(default_factory=dict)
    """Bytes that one more row adds to a part, by kind (`csv`, `parquet`)."""

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


class Blocks:
    """Row blocks that stay in memory."""

    def __init__(self) -> None:
        self.all: list[Table] = []

    def write_rows(self, block: Table) -> None:
        """Keep a block."""
        self.all.append(block)


def preview_parts(
    batch: OutcomeBatch,
    columns: Columns | None,
    paths: Sequence[str],
    settings: Mapping[str, Any],
    blocks: Sequence[Table] = (),
) -> Preview:
    """Return what the parts of these outcomes would be.

    Values that do not fit their column turn their row into a failure: `batch` is changed to say so.

    Args:
        columns: None: no file gave a row.
        paths: of all places, for people.
        settings: the part settings of a job.
        blocks: the rows of a batch that has its rows in blocks.
    """
    if columns is None:
        return Preview(pa.table({}))
    outcomes = Outcomes(outcome_table(batch, columns), join_tables(blocks) if blocks else None)
    indices = pa.array(range(len(outcomes.table)), pa.int64())
    rows = outcomes.choose_rows(indices)
    joined = schemas.own_schema(rows, columns)
    schema = schemas.part_schema(joined, columns)
    shown = parts.ShownRows(rows, columns, paths)
    groups = list(rows.groups())
    if not groups:
        return Preview(schemas.written_schema(schema).empty_table(), schemas.schema_for_people(schema))
    return Preview(
        table=pa.concat_tables([shown.part_table(*group, schema) for group in groups]),
        columns=schemas.schema_for_people(schema),
        mixed=tuple(
            describe_mixed(name, _mixture(rows, paths, columns, name))
            for name in schemas.mixed_columns(joined, columns)
        ),
        dropped=dropped_keys(outcomes.table, indices),
        row_bytes=_row_bytes(shown, schema, settings),
    )


# Private functions


def _mixture(rows: Rows, paths: Sequence[str], columns: Columns, name: str) -> Mixture | None:
    values = iter_values(rows, columns.names.index(name))
    return find_mixture(name, ((paths[place], value) for place, value in values))


def _row_bytes(shown: parts.ShownRows, schema: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return what a row adds to a part: the header, and what Parquet says of its columns, are there only once."""
    kinds = [kind for kind in ("csv", "parquet") if settings[kind]]
    n_rows = len(shown.rows)
    whole = _sizes(kinds, shown, list(shown.rows.groups()), schema, settings)
    if n_rows == 1:
        return {kind: float(size) for kind, size in whole.items()}
    one = _sizes(kinds, shown, [(0, 1)], schema, settings)
    return {kind: max(0.0, (whole[kind] - one[kind]) / (n_rows - 1)) for kind in kinds}


def _sizes(
    kinds: Sequence[str], shown: parts.ShownRows, groups: Sequence[Span], schema: Any, settings: Mapping[str, Any]
) -> dict[str, int]:
    sinks = {kind: io.BytesIO() for kind in kinds}
    parts.write_parts(sinks, shown, schema, {}, settings, groups)
    return {kind: len(sink.getvalue()) for kind, sink in sinks.items()}
