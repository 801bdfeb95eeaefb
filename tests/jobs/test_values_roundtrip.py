"""What f returns, from its dict to every reader: segment, staging, parts of several shards, CSV beside Parquet."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import compare_parts
import r3po.storage.durable as storage
import r3po.table.outcomes as tables
from r3po.table import lattice
from r3po.table import schema as schemas
from r3po.table.column_types import parse_column_type, why_unfit
from r3po.table.columns import Column, Columns, ColumnSettings, columns_of
from r3po.table.nested import decode, show
from r3po.table.rows import Outcomes
from r3po.table.values import NULL, BadRowError, Nested, plain_value
from shards import Shard, make_shard
from value_table import COLUMNS, VALUES, same


@pytest.fixture(scope="module", autouse=True)
def without_fsync() -> Iterator[None]:
    """Hundreds of small jobs, none of which has to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_fsync", lambda descriptor: None)
        yield


SOME = settings(derandomize=True, max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEW = settings(SOME, max_examples=25)

BIG = (1 << 53) + 1
ANY = Columns((Column("x", NULL),))
QUOTE = '"'
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
EXACT = st.integers(-(1 << 53), 1 << 53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\r\n\x00$\ufeff'), max_size=8)
DECIMALS = st.decimals(-(10**9), 10**9, places=3)
MOMENTS = st.datetimes().map(lambda value: value.replace(fold=0))
AWARE = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.just(dt.UTC)).map(
    lambda value: value.replace(fold=0)
)

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "int": INT64,
    "number": EXACT | st.floats(),
    "text": TEXT,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=6),
    "date": st.dates(),
    "timestamp": MOMENTS,
    "timestamp_utc": AWARE,
    "time": st.times().map(lambda value: value.replace(fold=0)),
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


def put_in_place(shards: Sequence[Shard]) -> tuple[Path, Any]:
    """Stage and publish shards as a job does, with the join of their types; return the output folder and that join."""
    made = [(shard, shard.stage(attempt=f"s{shard.ref.shard}")) for shard in shards]
    joined = schemas.join_schemas([commit.own_schema for _, commit in made])
    output: Path = shards[0].folders.output_path
    for kind in ("csv", "parquet"):
        (output / kind).mkdir(exist_ok=True)
    for shard, first in made:
        commit = shard.stage(previous=first, segments=(), schema=joined, attempt=f"again{first.shard}")
        assert commit.own_schema == first.own_schema
        publish(shard, commit)
    assert compare_parts.compare_parts(output) == []
    return output, joined


def stage_shards(folder: Path, shards: Sequence[Sequence[Any]], columns: Columns = ANY) -> tuple[Path, Any]:
    """Put shards of one column in place, each of two segments."""
    made = []
    for number, values in enumerate(shards):
        shard = make_shard(folder, len(values), shard=number, columns=columns)
        half = len(values) // 2
        shard.write({place: (values[place],) for place in range(half, len(values))})
        shard.write({place: (values[place],) for place in range(half)})
        made.append(shard)
    return put_in_place(made)


def publish(shard: Shard, commit: Any) -> None:
    for part in commit.parts:
        (shard.folders.output.data(part.kind) / part.name).write_bytes(shard.part(commit, part.kind))


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
    output, joined = stage_shards(tmp_path_factory.mktemp("job"), shards)
    values = list(itertools.chain(*shards))
    found = read_parquet(output)
    if joined.field(0).type == lattice.MIXED or "struct<>" in str(joined.field(0).type):
        assert any(isinstance(value, (dict, list)) for value in values)
    else:
        assert all(map(is_same, values, found)), (values, found)


@FEW
@given(st.lists(st.lists(ANYTHING, min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_values_are_the_same_in_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[Any]]
) -> None:
    output, _ = stage_shards(tmp_path_factory.mktemp("job"), shards)
    assert len(read_parquet(output)) == sum(map(len, shards))


@SOME
@given(st.lists(ANYTHING, max_size=4) | st.dictionaries(TEXT, ANYTHING, max_size=4))
@example({"$": ["date", "2020-01-01"]})
@example({"$$": {"$": 1}, "$x": "$"})
@example([math.nan, -math.inf, {"$": math.inf}])
@example([b"", Decimal("NaN"), dt.time(1)])
def test_lists_and_dicts_are_kept_exactly_and_shown_as_json(value: Any) -> None:
    kept = plain_value(value, "x")
    assert repr(decode(kept.text)) == repr(value)
    assert plain_value(kept, "x") is kept
    shown = json.loads(show(kept.text))
    assert isinstance(shown, type(value)) and len(shown) == len(value)
    if isinstance(value, dict):
        assert list(shown) == list(value)


@SOME
@given(st.lists(st.lists(ANYTHING, max_size=3), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_join_of_types_does_not_depend_on_rows_shards_or_their_order(groups: list[list[Any]], random: Any) -> None:
    values = list(itertools.chain(*groups))
    whole = own(values)
    known = [own(group) for group in groups]
    assert schemas.join_schemas(known) == whole
    random.shuffle(values)
    random.shuffle(known)
    assert own(values) == whole
    cut = random.randrange(len(known))
    halves = [half for half in (known[:cut], known[cut:]) if half]
    assert schemas.join_schemas([schemas.join_schemas(half) for half in halves]) == whole


def own(values: Sequence[Any]) -> Any:
    """Return the types of a shard with these values in one column."""
    n = len(values)
    rows = [(plain_value(value, "x"),) for value in values]
    batch = tables.OutcomeBatch([*range(n)], [0] * n, [0] * n, [None] * n, [False] * n, [0.0] * n, rows)
    rows = Outcomes(tables.outcome_table(batch, ANY)).choose_rows(pa.array(range(n), pa.int64()))
    return schemas.own_schema(rows, ANY)


# The table of values, docs/table.md, "Values"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of one shard with one row, which has a column for every value that can be stored."""
    row = {name: value.make() for name, value in VALUES.items()}
    shard = make_shard(tmp_path_factory.mktemp("job"), 1, columns=columns_of(row))
    shard.write({0: tuple(row.values())})
    return put_in_place([shard])[0]


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_its_type_and_comes_back_from_both_kinds_of_parts(stored: Path, name: str) -> None:
    _, _, type_, back, cell = VALUES[name]
    column = pyarrow.parquet.read_table(stored / "parquet" / "part-00007.parquet", columns=[name])[name]
    assert str(column.type).replace("element", "item") == type_
    assert same(column[0].as_py(), back)
    if cell is not None:
        header, (row,) = compare_parts.read_csv(stored / "csv" / "part-00007.csv")
        found = row[header.index(name)]
        assert (f'"{found.text.replace(QUOTE, 2 * QUOTE)}"' if found.is_quoted else found.text) == cell


# Readers


def test_parts_of_all_shards_have_the_joined_types_and_load_together_in_every_reader(tmp_path: Path) -> None:
    columns = ColumnSettings(source="file").of(Columns(tuple(Column(name, NULL) for name in COLUMNS)))
    shards = []
    for number, row in enumerate(zip(*(values for _, values in COLUMNS.values()), strict=True)):
        shards.append(make_shard(tmp_path, 1, shard=number, columns=columns, names=[f"{number}/\udcff.json"]))
        shards[-1].write({0: row})
    output, _ = put_in_place(shards)
    glob = f"{output}/parquet/*.parquet"
    names = ["file", *COLUMNS]
    paths = [f"{i}/\\xff.json" for i in range(3)]
    arrow = pyarrow.dataset.dataset(output / "parquet").to_table()
    found = {field.name: str(field.type).replace("element", "item") for field in arrow.schema}
    assert found == {"file": "string", **{name: type_ for name, (type_, _) in COLUMNS.items()}}
    frame = pd.read_parquet(output / "parquet")
    polars = pl.read_parquet(glob)
    duck = duckdb.sql(f"select * from '{glob}' order by file")
    assert arrow.column_names == list(frame.columns) == polars.columns == duck.columns == names
    assert arrow["file"].to_pylist() == list(frame["file"]) == polars["file"].to_list() == paths
    rows = duck.fetchall()
    for name in COLUMNS.keys() - {"float", "moment with zone", "dict", "list of dicts"}:  # shown in other ways
        expected = arrow[name].to_pylist()
        assert polars[name].to_list() == expected, name
        assert [row[names.index(name)] for row in rows] == expected, name
    csv = pd.concat([pd.read_csv(part) for part in sorted((output / "csv").glob("*.csv"))], ignore_index=True)
    assert list(csv.columns) == names and list(csv["file"]) == paths


# Pinned types

PINNED: list[tuple[str, list[Any]]] = [
    ("int8", [-128, 127, None]),
    ("uint64", [0, (1 << 64) - 1, None]),
    ("uint8", [255]),
    ("float64", [1, math.nan, -math.inf, 0.1]),
    ("float32", [1 << 24, 0.1, math.inf]),
    ("string", ["", "a"]),
    ("binary", [b"\xff"]),
    ("decimal(10,2)", [Decimal("12345678.90"), 5, Decimal("1.5000"), Decimal("-0.01"), Decimal("1E+3")]),
    ("decimal(38,30)", [1, Decimal("1E-30")]),
    ("timestamp_utc", [dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]),
    ("list<int8>", [[1, None, -128], [], None]),
    ("list<float32>", [[0.1, math.nan], [1]]),
    ("list<list<decimal(5,1)>>", [[[Decimal("1.50"), 2], None]]),
    ("list<timestamp>", [[dt.datetime(2020, 1, 1)]]),
    ("list", [[1], [2.5]]),
    ("dict", [{"a": 1}, {"b": dt.date(2020, 1, 1)}]),
]


@pytest.mark.parametrize(("name", "values"), PINNED, ids=[name for name, _ in PINNED])
def test_values_of_a_pinned_type_come_back_as_that_type(tmp_path: Path, name: str, values: list[Any]) -> None:
    assert str(parse_column_type(name)) == name
    columns = ColumnSettings((("x", parse_column_type(name)),)).first({"x": values[0]})
    output, joined = stage_shards(tmp_path, [values, values[::-1], [None]], columns)
    type_ = pyarrow.dataset.dataset(output / "parquet").schema.field("x").type
    if name not in ("list", "dict"):
        assert all(part == type_ for part in schemas.part_schema(joined, columns).types)
    back = read_parquet(output)
    assert len(back) == 2 * len(values) + 1
    for value, found in zip(values, back, strict=False):
        if "float32" not in name:
            # Decimals come back with the digits of their type, ints among them as decimals.
            assert is_same(value, found) or value == found, name


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("int8", 128, "expected int8, found number 128: it is not within -128 to 127"),
        ("int64", 1 << 63, "it is not within"),
        ("uint64", -1, "it is not within 0 to"),
        ("uint64", Decimal("sNaN"), r"expected uint64, found decimal Decimal\('sNaN'\)$"),
        ("uint64", Decimal(5), "expected uint64, found decimal"),
        ("decimal(4,2)", Decimal("sNaN"), "finite"),
        ("int64", 3.0, r"expected int64, found number 3\.0$"),
        ("int64", True, "expected int64, found bool True$"),
        ("bool", 1, "expected bool, found number 1$"),
        ("float64", (1 << 53) + 1, "no such float is equal to it"),
        ("float32", (1 << 24) + 1, "no such float is equal to it"),
        ("float32", 1e300, "beyond the largest float32"),
        ("string", 5, "expected string, found number 5"),
        ("date", dt.datetime(2020, 1, 1), "expected date, found timestamp"),
        ("timestamp", dt.date(2020, 1, 1), "expected timestamp, found date"),
        ("timestamp", dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "expected timestamp, found timestamp_utc"),
        ("timestamp_utc", dt.datetime(2020, 1, 1), "expected timestamp_utc, found timestamp "),
        ("decimal(4,2)", Decimal("1.234"), "it has 3 digits behind the point"),
        ("decimal(4,2)", Decimal("123"), "it has 3 digits before the point"),
        ("decimal(4,2)", Decimal("NaN"), "finite"),
        ("decimal(4,2)", 1.5, r"expected decimal\(4,2\), found number 1\.5$"),
        ("list<int8>", [1, 300], "item 1 is no int8: it is not within"),
        ("list<string>", ["a", 5], "item 1 is no string$"),
        ("list<list<date>>", [[dt.date(2020, 1, 1)], ["x"]], "item 1 is no list<date>: item 0 is no date"),
        ("list", {"a": 1}, "expected list, found dict"),
        ("dict", [1], "expected dict, found list"),
    ],
)
def test_what_does_not_fit_a_pinned_type_is_refused(name: str, value: Any, why: str) -> None:
    with pytest.raises(BadRowError, match=why):
        ColumnSettings((("x", parse_column_type(name)),)).first({"x": value})


PIN_NAMES = [
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float32", "float64", "string", "bool", "binary", "date", "timestamp", "timestamp_utc", "time", "list", "dict"),
    *("decimal(38,3)", "decimal(5,0)", "decimal(3,3)", "list<float32>", "list<int64>", "list<decimal(20,2)>"),
    *("list<list<uint64>>", "list<string>", "list<timestamp_utc>", "list<list<float64>>"),
]
NUMBERS = st.sampled_from([0, -1, 127, 255, 1 << 24, BIG, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 0.1, -0.0])
NUMBERS |= st.sampled_from([math.nan, math.inf, 1e300, 3.4028235677973366e38, 3.4028236e38, 1e-46])
NUMBERS |= st.sampled_from(
    [Decimal(d) for d in ("0", "-0.0", "0E+9", "0E-9", "1E+2", "99999", "0.999", "1E-400", "NaN")]
)
PINNABLE = NUMBERS | DECIMALS | ANYTHING | st.lists(NUMBERS | DECIMALS) | st.lists(st.lists(NUMBERS, max_size=2))


@SOME
@given(st.sampled_from(PIN_NAMES), st.lists(PINNABLE, min_size=1, max_size=12), st.booleans())
@example("decimal(10,2)", [5, Decimal("1.50")], True)
@example("decimal(3,3)", [Decimal("0E+9"), Decimal("0.999")], False)  # a zero of more digits than the type has
@example("list<list<uint64>>", [[[1], None]], True)
def test_what_fits_a_type_can_be_written_whether_it_was_pinned_at_first_or_later(
    tmp_path_factory: pytest.TempPathFactory, name: str, values: list[Any], is_later: bool
) -> None:
    column_type, fitting = parse_column_type(name), []
    for value in values:
        with contextlib.suppress(BadRowError):
            columns_of({"x": value}) if is_later else ColumnSettings((("x", column_type),)).first({"x": value})
            stored = plain_value(value, "x")
            if why_unfit(decode(stored.text) if isinstance(stored, Nested) else stored, column_type) is None:
                fitting.append(value)
    pinned = Columns((Column("x", column_type.family, column_type),), (0,))
    folder = tmp_path_factory.mktemp("job")
    shard = make_shard(folder, len(fitting) + 1, columns=ANY if is_later else pinned)
    shard.write({place: (value,) for place, value in enumerate([*fitting, None])})
    first = shard.stage()
    assert first.tally.n_failed == 0
    for kind in ("csv", "parquet"):
        (folder / "out" / kind).mkdir()
    publish(shard, shard.stage(previous=first, segments=(), columns=pinned, attempt="again"))
    assert compare_parts.compare_parts(folder / "out") == []
    if "float32" not in name:
        found = read_parquet(folder / "out")
        assert all(is_same(value, back) or value == back for value, back in zip(fitting, found, strict=False)), found


# What is wide, large or of many kinds


def types_of(*values: Any) -> Any:
    """Return the type in the parts of a column with these values, each in a shard of its own and all in one."""
    joins = [own(order) for order in itertools.permutations(values)]
    joins += [schemas.join_schemas([own([value]) for value in order]) for order in itertools.permutations(values)]
    assert all(join == joins[0] for join in joins)
    return joins[0]


def test_dicts_of_very_many_keys_are_text_whatever_the_order_of_rows() -> None:
    few = {f"k{i}": i for i in range(lattice.MOST_FIELDS)}
    assert schemas.part_schema(types_of(few), ANY).field(0).type.num_fields == len(few)
    assert types_of(few, {"one more": 1}).field(0).type == lattice.MIXED
    assert types_of({"a": few}).field(0).type == lattice.MIXED  # with `a` there is one too many
    assert types_of([{f"k{i}": None} for i in range(lattice.MOST_FIELDS + 1)], [], None).field(0).type == lattice.MIXED
    assert types_of({f"k{i}": i for i in range(100_000)}).field(0).type == lattice.MIXED


def test_a_nested_column_of_values_of_different_kinds_is_text_whatever_the_order() -> None:
    for values in (([1], ["a"]), ([1], [True]), ({"a": dt.date(2020, 1, 1)}, {"a": "x"}), ([b""], [""]), ([{}], [1])):
        assert types_of(*values).field(0).type == lattice.MIXED
    assert types_of([], [None], [1], [2.5]).field(0).type == pa.list_(pa.float64())
    assert types_of({}, {"b": 1}, {"a": [None]}).field(0).type == pa.struct(
        [("a", pa.list_(pa.null())), ("b", pa.int64())]
    )


def test_a_value_of_100_mb_goes_through(tmp_path: Path) -> None:
    big = "0123456789" * 10_000_000
    shard = make_shard(tmp_path, 2, columns=columns_of({"n": 0, "text": ""}))
    shard.write({0: (1, big), 1: (2, None)})
    commit = shard.stage()
    assert shard.parquet(commit)["text"].to_pylist() == [big, None]
    assert len(shard.part(commit, "csv")) > len(big)


def test_5000_columns_go_through(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, 2, columns=columns_of({f"c{i}": 0 for i in range(5_000)}))
    shard.write({0: range(5_000), 1: range(5_000)})
    table = shard.parquet(shard.stage())
    assert table.num_columns == 5_000
    assert table["c4999"].to_pylist() == [4_999] * 2


def test_ints_beyond_2_53_beside_floats_are_marked_whatever_the_order() -> None:
    for values in ((BIG, 0.5, 1), ([BIG], [0.5]), ({"a": BIG}, {"a": 0.5}, {"a": None})):
        joined = types_of(*values)
        assert schemas.rounded_columns(joined, ANY) == ["x"]
        assert "double" in str(schemas.part_schema(joined, ANY).field(0).type)
    for values in ((BIG, 1), (1 << 60, 0.5), ({"a": BIG}, {"b": 0.5}), (1, 0.5)):
        assert schemas.rounded_columns(types_of(*values), ANY) == []
