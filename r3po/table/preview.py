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
from r3po.table.outcomes import OutcomeBatch, Table, outcome_table


@dataclass(frozen=True, slots=True)
class Preview:
    """What the parts of a few outcomes would be."""

    table: Table
    columns: dict[str, str] = field(default_factory=dict)
    """The types by the names of the columns, as Arrow prints them."""
    mixed: tuple[str, ...] = ()
    """What is said of the columns that are text since their values have no type in common."""
    row_bytes: dict[str, float] = field(default_factory=dict)
    """Bytes that one more row adds to a part, by kind (`csv`, `parquet`)."""

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


def preview_parts(
    batch: OutcomeBatch, columns: Columns | None, paths: Sequence[str], settings: Mapping[str, Any]
) -> Preview:
    """Return what the parts of these outcomes would be.

    Values that do not fit their column turn their row into a failure: `batch` is changed to say so.

    Args:
        columns: None: no file gave a row.
        paths: of all places, for people.
        settings: the part settings of a job.
    """
    if columns is None:
        return Preview(pa.table({}))
    outcomes = outcome_table(batch, columns)
    indices = pa.array(range(len(outcomes)), pa.int64())
    joined = schemas.own_schema(outcomes, indices, columns)
    schema = schemas.part_schema(joined, columns)
    shown = parts.shown_table(outcomes, columns, paths)
    groups = list(parts.row_groups(shown, indices))
    if not groups:
        return Preview(schema.empty_table(), schemas.schema_for_people(schema))
    return Preview(
        table=pa.concat_tables([parts.part_table(shown, group, schema) for group in groups]),
        columns=schemas.schema_for_people(schema),
        mixed=tuple(
            describe_mixed(name, _mixture(outcomes, indices, paths, columns, name))
            for name in schemas.mixed_columns(joined, columns)
        ),
        row_bytes=_row_bytes(shown, pa.concat_arrays([pa.array(group) for group in groups]), schema, settings),
    )


# Private functions


def _mixture(outcomes: Table, indices: Any, paths: Sequence[str], columns: Columns, name: str) -> Mixture | None:
    values = iter_values(outcomes, indices, columns.names.index(name))
    return find_mixture(name, ((paths[place], value) for place, value in values))


def _row_bytes(shown: Table, rows: Any, schema: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return what a row adds to a part: the header, and what Parquet says of its columns, are there only once."""
    kinds = [kind for kind in ("csv", "parquet") if settings[kind]]
    whole = _sizes(kinds, shown, rows, schema, settings)
    if len(rows) == 1:
        return {kind: float(size) for kind, size in whole.items()}
    one = _sizes(kinds, shown, rows.slice(0, 1), schema, settings)
    return {kind: max(0.0, (whole[kind] - one[kind]) / (len(rows) - 1)) for kind in kinds}


def _sizes(kinds: Sequence[str], shown: Table, rows: Any, schema: Any, settings: Mapping[str, Any]) -> dict[str, int]:
    sinks = {kind: io.BytesIO() for kind in kinds}
    parts.write_parts(sinks, shown, rows, schema, {}, settings)
    return {kind: len(sink.getvalue()) for kind, sink in sinks.items()}
