"""What f returns, from its dict to every reader: segment, staging, parts of several shards, CSV beside Parquet."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import compare_parts
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_staging import Shard, make_shard

import r3po.parts as parts
import r3po.tables as tables
from r3po.columns import NULL, BadRowError, Column, Columns, View, columns_of, plain_value
from r3po.nested import decode, show
from r3po.pins import parse_pin

SOME = settings(
    derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
FEW = settings(SOME, max_examples=25)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
EXACT = st.integers(-(1 << 53), 1 << 53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\r\n\x00$\ufeff'), max_size=8)
DECIMALS = st.decimals(-(10**9), 10**9, places=3)
MOMENTS = st.datetimes()
AWARE = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.just(dt.UTC))

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "int": INT64,
    "number": EXACT | st.floats(),
    "text": TEXT,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=6),
    "date": st.dates(),
    "timestamp": MOMENTS,
    "timestamp_utc": AWARE,
    "time": st.times(),
    "decimal": DECIMALS,
}
ANYTHING = st.recursive(
    st.none() | st.one_of(*SCALARS.values()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def shapes(draw: st.DrawFn, depth: int = 0) -> st.SearchStrategy[Any]:
    """Return a strategy whose values have one type: a scalar kind, lists of one, dicts with a kind a key."""
    kind = draw(st.sampled_from([*SCALARS, *(["list", "dict"] if depth < 2 else [])]))
    if kind == "list":
        return st.lists(st.none() | draw(shapes(depth + 1)), max_size=3)
    if kind == "dict":
        keys = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
        return st.fixed_dictionaries({key: st.none() | draw(shapes(depth + 1)) for key in keys})
    return SCALARS[kind]


def is_same(value: Any, found: Any) -> bool:
    """Whether a value came back; a float column may have made a float of an int, and a dict's missing keys are None."""
    if isinstance(value, dict):
        return (
            isinstance(found, dict)
            and value.keys() <= found.keys()
            and all(is_same(value.get(key), item) for key, item in found.items())
        )
    if isinstance(value, list):
        return isinstance(found, list) and len(value) == len(found) and all(map(is_same, value, found))
    if isinstance(value, float) or isinstance(found, float):
        return type(value) is not bool and (value == found or (value != value and found != found))
    return type(value) is type(found) and bool(value == found)


def stage_shards(folder: Path, shards: Sequence[Sequence[Any]], columns: Columns) -> tuple[Path, Any]:
    """Stage shards of one column as a job does, with the join of all their types, and put their parts in place.

    Returns:
        The output folder, and the join.
    """
    made = []
    for number, values in enumerate(shards):
        shard = make_shard(folder, len(values), shard=number, columns=columns)
        half = len(values) // 2
        shard.write({place: (values[place],) for place in range(half, len(values))})
        shard.write({place: (values[place],) for place in range(half)})
        made.append((shard, shard.stage(attempt=f"s{number}")))
    joined = parts.join_schemas([commit.own_schema for _, commit in made])
    for kind in ("csv", "parquet"):
        (folder / "out" / kind).mkdir(exist_ok=True)
    for shard, first in made:
        commit = shard.stage(previous=first, segments=(), schema=joined, attempt=f"again{first.shard}")
        assert commit.own_schema == first.own_schema
        publish(shard, commit)
    return folder / "out", joined


def publish(shard: Shard, commit: Any) -> None:
    for part in commit.parts:
        (shard.folders.data(part.kind) / part.name).write_bytes(shard.part(commit, part.kind))


def read_parquet(output: Path) -> Any:
    return pyarrow.dataset.dataset(output / "parquet").to_table().column("x").to_pylist()


# From f to the parts


@FEW
@given(st.data())
def test_values_of_one_type_come_back_from_the_parts_of_all_shards(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    strategy = data.draw(shapes())
    shards = data.draw(st.lists(st.lists(st.none() | strategy, min_size=1, max_size=4), min_size=1, max_size=3))
    output, joined = stage_shards(tmp_path_factory.mktemp("job"), shards, Columns((Column("x", NULL),)))
    values = list(itertools.chain(*shards))
    found = read_parquet(output)
    if joined.field(0).type == parts.MIXED or "struct<>" in str(joined.field(0).type):
        assert any(isinstance(value, (dict, list)) for value in values)
    else:
        assert all(map(is_same, values, found)), (values, found)
    assert compare_parts.compare_parts(output) == []


@FEW
@given(st.lists(st.lists(ANYTHING, min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_values_are_the_same_in_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[Any]]
) -> None:
    output, _ = stage_shards(tmp_path_factory.mktemp("job"), shards, Columns((Column("x", NULL),)))
    assert len(read_parquet(output)) == sum(map(len, shards))
    assert compare_parts.compare_parts(output) == []


@SOME
@given(st.lists(ANYTHING, max_size=4) | st.dictionaries(TEXT, ANYTHING, max_size=4))
@example({"$": ["date", "2020-01-01"]})
@example({"$$": {"$": 1}, "$x": "$"})
@example([math.nan, -math.inf, {"$": math.inf}])
@example([b"", Decimal("NaN"), dt.time(1)])
def test_lists_and_dicts_are_kept_exactly_and_shown_as_json(value: Any) -> None:
    kept = plain_value(value, "x").text
    assert repr(decode(kept)) == repr(value).replace("datetime.timezone.utc", "datetime.timezone.utc")
    shown = json.loads(show(kept))
    assert isinstance(shown, type(value)) and len(shown) == len(value)
    if isinstance(value, dict):
        assert list(shown) == list(value)


@SOME
@given(st.lists(st.lists(ANYTHING, max_size=3), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_join_of_types_does_not_depend_on_rows_shards_or_their_order(groups: list[list[Any]], random: Any) -> None:
    columns = Columns((Column("x", NULL),))

    def own(values: Sequence[Any]) -> Any:
        batch = tables.OutcomeBatch()
        for place, value in enumerate(values):
            batch.places.append(place)
            batch.sizes.append(0)
            batch.mtimes_ns.append(0)
            batch.hashes.append(None)
            batch.racy.append(False)
            batch.seconds.append(0.0)
            batch.rows.append((plain_value(value, "x"),))
        table = tables.outcome_table(batch, columns)
        return parts.own_schema(table, pa.array(range(len(values)), pa.int64()), columns)

    values = list(itertools.chain(*groups))
    whole = own(values)
    schemas = [own(group) for group in groups]
    assert parts.join_schemas(schemas) == whole
    random.shuffle(values)
    random.shuffle(schemas)
    assert own(values) == whole
    cut = random.randrange(len(schemas))
    halves = [half for half in (schemas[:cut], schemas[cut:]) if half]
    assert parts.join_schemas([parts.join_schemas(half) for half in halves]) == whole
