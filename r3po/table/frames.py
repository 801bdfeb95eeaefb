"""The published parts as one table in memory, for pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from r3po.table.outcomes import Table

if TYPE_CHECKING:
    import pandas

_EXACT = 1 << 53
"""Each int up to this one has an equal float."""


def read_parts(parts: Sequence[Path]) -> Table:
    """Return the rows of parts of one kind, in their order. While a run goes on their types may differ: they widen.

    Args:
        parts: Parquet files, or CSV files, whose types are then guessed.
    """
    tables = [pq.read_table(part) if part.suffix == ".parquet" else pcsv.read_csv(part) for part in parts]
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)


def to_frame(table: Table, dtype_backend: str | None) -> pandas.DataFrame:
    """Return a table as pandas has it.

    Args:
        dtype_backend: `numpy_nullable` or `pyarrow`, as in pandas. None: pandas' usual types, but `Int64` where floats,
            which pandas takes for ints beside None, would not be equal to the ints.
    """
    import pandas as pd

    if dtype_backend == "pyarrow":
        frame: pandas.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
        return frame
    if dtype_backend is not None:
        frame = table.to_pandas(types_mapper=_nullable_types(pd).get)
        return frame
    frame = table.to_pandas()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(column.type) and column.null_count and _has_large(column):
            frame[name] = column.to_pandas(types_mapper=_nullable_types(pd).get)
    return frame


# Private functions


def _has_large(ints: Any) -> bool:
    ends = pc.min_max(ints)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    return low is not None and (low < -_EXACT or high > _EXACT)


def _nullable_types(pd: Any) -> dict[Any, Any]:
    names = [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
    types = {getattr(pa, name.lower())(): getattr(pd, f"{name}Dtype")() for name in names}
    floats = {pa.float32(): pd.Float32Dtype(), pa.float64(): pd.Float64Dtype()}
    return {**types, **floats, pa.bool_(): pd.BooleanDtype(), pa.string(): pd.StringDtype()}
