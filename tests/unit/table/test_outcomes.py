"""Outcomes, the predicate that chooses among them, and the parts: the same rows give the same bytes."""

from __future__ import annotations

import csv
import datetime as dt
import functools
import hashlib
import io
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import r3po.table.outcomes as tables
import r3po.table.parts as parts
from jobs import run_python
from r3po.file_version import FileVersion
from r3po.run.signals import StopNow
from r3po.table import lattice, outcome_files, predicate
from r3po.table import schema as schemas
from r3po.table.columns import Column, Columns, RowCollector, columns_of
from r3po.table.outcomes import Failure, OutcomeBatch, Table
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes
from r3po.table.values import NULL, Nested, family_of, plain_value, variant_of
from value_table import VALUES, Odd, same

SOME = settings(derandomize=True, max_examples=40, deadline=None)
MANY = settings(derandomize=True, max_examples=100, deadline=None)

BROKE = Failure("ValueError", "broke", "f.py:3 in f", "Traceback ...\n")
UTC = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
NO_RULES = CountingRules(redo_since=0, retry_since=0)


@dataclass
class Line:
    """One outcome in the making: a row's values, or a failure."""

    place: int
    outcome: tuple[Any, ...] | Failure


@dataclass
class Origin:
    build: int = 1
    attempt: str = "a"
    fingerprint: str = "f1"
    lines: list[Line] = field(default_factory=list)


def seen(place: int) -> FileVersion:
    """Return what f saw of the file at a place."""
    return FileVersion(100 + place, 10**18 + place, bytes([place % 256]) * 16 if place % 5 else None, place % 3 == 0)


def batch_of(lines: Sequence[Line], columns: Columns, *, is_checked: bool = True) -> OutcomeBatch:
    """Return the lines as a worker would: rows taken by the collector, or by one that looks at nothing."""
    batch, collector = OutcomeBatch(), RowCollector(columns)
    for i, line in enumerate(lines):
        version = seen(line.place)
        batch.places.append(line.place)
        batch.sizes.append(version.size)
        batch.mtimes_ns.append(version.mtime_ns)
        batch.hashes.append(version.hash)
        batch.racy.append(version.is_racy)
        batch.seconds.append(0.5)
        row = None if isinstance(line.outcome, Failure) else line.outcome
        if isinstance(line.outcome, Failure):
            batch.failures[i] = line.outcome
        elif is_checked:
            row = collector.take(dict(zip(columns.names, line.outcome, strict=True)))
        batch.rows.append(row)
    return batch


def table_of(origin: Origin, columns: Columns) -> Table:
    table = tables.outcome_table(batch_of(origin.lines, columns), columns)
    return tables.with_origin(table, build=origin.build, attempt=origin.attempt, fingerprint=origin.fingerprint)


def rows_table(rows: Sequence[Sequence[Any]], columns: Columns) -> Table:
    """Return an outcome table of rows at the places 0, 1, 2 ..."""
    return table_of(Origin(lines=[Line(i, tuple(row)) for i, row in enumerate(rows)]), columns)


def numbers(*origins: Origin) -> Table:
    """Return an outcome table of all these, for a job of one column of numbers."""
    return tables.join_tables([table_of(origin, columns_named("number")) for origin in origins])


def all_of(table: Table) -> Any:
    """Return the indices of all outcomes, in place order."""
    return predicate.choose(table, [0] * len(table), NO_RULES)


def columns_named(*families: str) -> Columns:
    return Columns(tuple(Column(f"c{i}", family) for i, family in enumerate(families)))


def csv_bytes(table: Table, indices: Any, schema: Any) -> bytes:
    sink = io.BytesIO()
    return written(parts.CsvPart(sink, schema), sink, table, indices, schema.names)


def parquet_bytes(
    table: Table, indices: Any, schema: Any, metadata: Any = None, compression: str = "zstd", level: Any = 3
) -> bytes:
    sink = io.BytesIO()
    return written(
        parts.ParquetPart(sink, schema, metadata or {}, compression, level), sink, table, indices, schema.names
    )


def shown_of(table: Table, indices: Any, names: Sequence[str]) -> parts.ShownRows:
    """Return the chosen rows of a table that has columns of these names."""
    return parts.ShownRows(Outcomes(table).choose_rows(indices), Columns(tuple(Column(n, NULL) for n in names)), [])


def written(part: Any, sink: io.BytesIO, table: Table, indices: Any, names: Sequence[str]) -> bytes:
    shown = shown_of(table, indices, names)
    for group in shown.rows.groups():
        part.write(shown, group)
    part.close()
    return sink.getvalue()


def own_schema(table: Table, indices: Any, columns: Columns) -> Any:
    return schemas.own_schema(Outcomes(table).choose_rows(indices), columns)


def schema_of(table: Table, columns: Columns) -> Any:
    """Return the types of a part with all rows of a table."""
    return schemas.part_schema(own_schema(table, all_of(table), columns), columns)


def csv_of(rows: Sequence[Sequence[Any]], columns: Columns) -> bytes:
    table = rows_table(rows, columns)
    return csv_bytes(table, all_of(table), schema_of(table, columns))


def parquet_of(rows: Sequence[Sequence[Any]], columns: Columns) -> Any:
    """Return the rows as they read back from a Parquet part."""
    table = rows_table(rows, columns)
    content = parquet_bytes(table, all_of(table), schema_of(table, columns))
    return pq.read_table(io.BytesIO(content))


def type_of(values: Sequence[Any], family: str) -> Any:
    """Return the type that values give to a column of their own."""
    columns = columns_named(family)
    table = rows_table([(value,) for value in values], columns)
    return own_schema(table, all_of(table), columns).field(0).type


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


# The predicate


def model_choose(lines: Sequence[tuple[Origin, Line]], entry_builds: Sequence[int], rules: CountingRules) -> list[int]:
    """The predicate as `choose` tells it, one sentence a line."""
    best: dict[int, tuple[tuple[int, bool, str], int]] = {}
    for index, (origin, line) in enumerate(lines):
        is_row = not isinstance(line.outcome, Failure)
        # An outcome counts if its place exists,
        if not 0 <= line.place < len(entry_builds):
            continue
        # its build is at least the entry's and redo_since,
        if origin.build < entry_builds[line.place] or origin.build < rules.redo_since:
            continue
        # and, for a failure, at least retry_since
        if not is_row and origin.build < rules.retry_since:
            continue
        # and (where rules says one) made by that function.
        if not is_row and rules.fingerprint is not None and origin.fingerprint != rules.fingerprint:
            continue
        # Among those of one place: highest build, then row before failure, then the smallest attempt.
        key = (-origin.build, not is_row, origin.attempt)
        if line.place not in best or key < best[line.place][0]:
            best[line.place] = (key, index)
    # At most one a place, in place order.
    return [best[place][1] for place in sorted(best)]


ORIGINS = st.lists(
    st.builds(
        Origin,
        build=st.sampled_from([1, 2, 2, 3]),
        attempt=st.sampled_from(["", "a", "a1", "b", "w0-10", "w0-9"]),
        fingerprint=st.sampled_from(["f1", "f2", ""]),
        lines=st.lists(
            st.builds(
                Line, st.integers(-2, 7) | st.sampled_from([1 << 30, -(1 << 31)]), st.sampled_from([(1,), BROKE])
            ),
            max_size=8,
        ),
    ),
    max_size=6,
)
RULES = st.builds(
    CountingRules, st.integers(0, 4), st.integers(0, 4), st.none() | st.sampled_from(["f1", "f2", "other"])
)


@MANY
@given(ORIGINS, st.lists(st.integers(0, 4), max_size=5), RULES, st.randoms(use_true_random=False))
@example([Origin(attempt=attempt, lines=[Line(0, (1,))]) for attempt in "bac"], [1], NO_RULES, random.Random(0))
def test_the_predicate_chooses_what_its_docstring_says_in_whichever_order_outcomes_come(
    origins: list[Origin], entry_builds: list[int], rules: CountingRules, rng: random.Random
) -> None:
    known = []
    for order in (origins, rng.sample(origins, len(origins))):
        candidates = numbers(*order)
        lines = [(origin, line) for origin in order for line in origin.lines]
        chosen = predicate.choose(candidates, entry_builds, rules)
        assert chosen.to_pylist() == model_choose(lines, entry_builds, rules)
        assert tables.places_of(candidates, chosen) == sorted({lines[i][1].place for i in chosen.to_pylist()})
        known.append(candidates.select(["place", "build", "is_row", "attempt"]).take(chosen).to_pylist())
    assert known[0] == known[1]


# What is told of the chosen


def test_of_the_chosen_is_told_how_many_there_are_of_which_code_what_f_saw_and_what_failed() -> None:
    table = numbers(
        Origin(3, "a", "f2", [Line(6, (2,)), Line(1, BROKE), Line(0, (1,))]),
        Origin(2, "b", "f1", [Line(5, (1,)), Line(4, BROKE), Line(0, BROKE)]),
    )
    chosen = predicate.choose(table, [1] * 7, NO_RULES)
    assert tables.tally(table, chosen) == tables.Tally(3, 2, 3, {"f1": 1, "f2": 2}, {"f1": 1, "f2": 1}, 2)
    assert tables.tally(table, pa.array([], pa.int64())) == tables.Tally(0, 0, 0, {}, {}, None)
    assert (tables.lowest_build(table), tables.lowest_build(tables.join_tables([]))) == (2, 0)
    assert tables.seen_files(table, chosen) == [seen(place) for place in (0, 1, 4, 5, 6)]
    told = {**BROKE._asdict(), "tries": 1, "seconds": 0.5}
    assert tables.failures_of(table) == [{"place": place, **told} for place in (1, 4, 0)]
    assert tables.failures_of(table, chosen) == [{"place": place, **told} for place in (1, 4)]


@pytest.mark.parametrize(
    ("needed", "rules", "tries"),
    [([1, 1], NO_RULES, [3, 1]), ([2, 1], CountingRules(1, 1), [1, 1]), ([1, 1], CountingRules(2, 2), [1])],
    ids=["all of a place", "not on other content", "not before a redo"],
)
def test_tries_of_a_place_are_summed(needed: list[int], rules: CountingRules, tries: list[int]) -> None:
    first = Origin(1, "a", lines=[Line(0, BROKE), Line(1, (1,))])
    table = numbers(first, Origin(1, "b", lines=[Line(0, BROKE)]), Origin(2, "c", lines=[Line(0, BROKE)]))
    chosen = predicate.choose(table, needed, rules)
    summed = predicate.with_tries_summed(table, chosen, needed, rules)
    assert summed["tries"].take(chosen).to_pylist() == tries
    assert summed.schema == table.schema


@pytest.mark.parametrize(("keeps_deleted", "places"), [(False, [2]), (True, [0, 2])])
def test_of_a_file_that_is_gone_a_row_counts_only_if_it_is_kept_and_a_failure_never(
    keeps_deleted: bool, places: list[int]
) -> None:
    table = numbers(Origin(lines=[Line(0, (1,)), Line(1, BROKE), Line(2, (3,))]))
    rules = CountingRules(1, 1, keeps_deleted=keeps_deleted)
    assert tables.places_of(table, predicate.choose(table, [-1, -1, 1], rules)) == places
    outdated = predicate.choose(table, [-2, -1, 1], rules)
    assert tables.places_of(table, outdated) == [2], "it had changed before it went"


# Outcome tables


def test_a_value_that_does_not_fit_turns_its_row_into_a_failure_and_nothing_shifts() -> None:
    columns = Columns((Column("n", "number"), Column("t", "text"), Column("later", NULL)))
    lines = [
        Line(4, (1, "a", None)),
        Line(9, ("one", "b", "x")),
        Line(2, (2.5, "c", dt.date(2020, 1, 1))),
        Line(3, BROKE),
        Line(7, (1 << 70, 5, None)),
        Line(5, (3, "\ud800", None)),
        Line(8, (4, "d", object())),
        Line(1, (4, Odd(), None)),
        Line(6, (5, "e", b"x")),
    ]
    batch = batch_of(lines, columns, is_checked=False)
    found = tables.outcome_table(batch, columns).to_pylist()
    assert {i: failure.message for i, failure in batch.failures.items()} == {
        1: "column 'n': expected number, found text 'one' (taken with mixed: json)",
        3: "broke",
        4: "column 'n': the int 1180591620717411303424 does not fit 64 bit",
        5: r"column 't': '\ud800' is not valid Unicode text",
        6: "column 'later': a value of type object cannot be stored",
        7: "column 't': a value of type Odd cannot be read: TypeError: unhashable type: 'OddMeta'",
    }
    assert batch.failures[1] == Failure("BadRow", batch.failures[1].message, "", "")
    kept = {
        0: (1, None, "a", None, None),
        2: (None, 2.5, "c", dt.date(2020, 1, 1), None),
        8: (5, None, "e", None, b"x"),
    }
    for i, (line, made_of) in enumerate(zip(found, lines, strict=True)):
        failure = batch.failures.get(i)
        assert (line["place"], line["is_row"]) == (made_of.place, failure is None)
        assert tuple(line[name] for name in ("size", "mtime_ns", "hash", "racy")) == seen(made_of.place)[:4]
        assert (line["seconds"], line["tries"]) == (0.5, 1)
        assert (line["message"], line["error_type"]) == (
            (failure.message, failure.error_type) if failure else (None,) * 2
        )
        values = tuple(line[name] for name in ("0.int", "0.float", "1.text", "2.date", "2.bytes"))
        assert values == kept.get(i, (None,) * 5)


def test_an_int_beside_a_float_stays_an_int_and_a_variant_that_does_not_occur_has_no_column() -> None:
    columns = columns_named("number", NULL)
    table = rows_table([(1, None), (2.0, None), (None, None), ((1 << 62) + 1, None)], columns)
    assert table["0.int"].to_pylist() == [1, None, None, (1 << 62) + 1]
    assert table["0.float"].to_pylist() == [None, 2.0, None, None]
    joined = tables.join_tables([table, rows_table([(2.5, None)], columns)])
    assert joined["0.int"].to_pylist() == [1, None, None, (1 << 62) + 1, None]
    failures = tables.outcome_table(batch_of([Line(0, BROKE)], columns), None)  # the job has no columns yet
    assert failures["is_row"].to_pylist() == [False]
    for made, named in ((table, ["0.float", "0.int"]), (failures, [])):
        assert [name for name in made.column_names if name[0].isdigit()] == named


PLAIN = [plain_value(value.make(), "x") for value in VALUES.values()]


@pytest.mark.parametrize(
    "family", [NULL, *sorted({family_of(variant_of(value)) for value in PLAIN if value is not None})]
)
def test_every_value_is_kept_as_it_was_or_is_its_file_s_failure(family: str) -> None:
    columns = columns_named(family)
    batch = batch_of([Line(i, (value,)) for i, value in enumerate(PLAIN)], columns, is_checked=False)
    lines = tables.outcome_table(batch, columns).to_pylist()
    for i, (line, value) in enumerate(zip(lines, PLAIN, strict=True)):
        fits = value is None or family in (NULL, family_of(variant_of(value)))
        assert (line["place"], line["is_row"], i not in batch.failures) == (i, fits, fits)
        kept = [(name, item) for name, item in line.items() if name[0].isdigit() and item is not None]
        if value is None or not fits:
            assert kept == []
        else:
            [(name, item)] = kept
            text = value.text if isinstance(value, Nested) else str(value) if isinstance(value, Decimal) else value
            assert name == f"0.{variant_of(value)}" and same(item, text)


class HashEndsRun(type):
    def __hash__(cls) -> int:
        raise StopNow


class Ending(metaclass=HashEndsRun):
    pass


def test_the_end_of_a_run_is_no_failure_of_the_value_that_was_looked_at() -> None:
    columns = columns_of({"x": 1})
    with pytest.raises(StopNow):
        tables.outcome_table(batch_of([Line(0, (1,)), Line(1, (Ending(),))], columns), columns)


# On disk


def write_table(table: Table, sink: Any, metadata: dict[str, str], *, is_compressed: bool) -> None:
    writer = outcome_files.OutcomeWriter(sink, is_compressed=is_compressed)
    with writer.outcomes(table.schema, metadata) as written:
        written.write(table)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_outcome_table_reads_back_as_it_was_written(tmp_path: Path, is_compressed: bool) -> None:
    """At once or in pieces."""
    columns, metadata = columns_named("number", "text", "list", NULL), {"r3po.x": "ü", "r3po.shard": "7"}
    rows = [(1, "a\x00", [1], None), (2.5, "ü", [], b"x"), (None, None, None, {"a": 1})]
    table = tables.join_tables([rows_table(rows, columns), table_of(Origin(2, lines=[Line(3, BROKE)]), columns)])
    with open(tmp_path / "whole", "wb") as sink:
        write_table(table, sink, metadata, is_compressed=is_compressed)
    with (
        open(tmp_path / "pieces", "wb") as sink,
        outcome_files.TableWriter(sink, table.schema, metadata, is_compressed=is_compressed) as writer,
    ):
        for start in range(0, 4, 3):
            writer.write(table.slice(start, 3))
    for name in ("whole", "pieces"):
        found, told = outcome_files.read_outcomes_file(tmp_path / name)
        assert found.table.equals(table) and found.blocks is None
        assert told == metadata


def test_what_is_no_whole_arrow_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        outcome_files.read_outcomes_file(tmp_path / "t.arrow")
    with open(tmp_path / "t.arrow", "wb") as sink:
        write_table(rows_table([(1,)], columns_named("number")), sink, {}, is_compressed=False)
    whole = (tmp_path / "t.arrow").read_bytes()
    garbage = [b"ARROW1", b"ARROW1\x00\x00" + b"\xff" * 100, b"no arrow file at all"]
    for content in [*garbage, *(whole[:n] for n in range(0, len(whole), 97))]:
        (tmp_path / "t.arrow").write_bytes(content)
        with pytest.raises(ValueError):
            outcome_files.read_outcomes_file(tmp_path / "t.arrow")


# The types of parts


def test_only_the_chosen_rows_give_types() -> None:
    columns = columns_named("number", NULL)
    origins = [Origin(1, lines=[Line(0, (2.5, "old"))]), Origin(2, lines=[Line(0, (2, 7))])]
    table = tables.join_tables([table_of(origin, columns) for origin in origins])
    schema = own_schema(table, predicate.choose(table, [1], NO_RULES), columns)
    assert schema.types == [pa.int64(), pa.int64()]


def test_columns_that_conflict_become_text_that_reads_like_the_values() -> None:
    values = [None, 1, 2.5, "t", True, b"\xff\x00", dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, 3), UTC]
    values += [dt.time(1, 2, 3), Decimal("1.50"), [1], {"a": "x"}]
    expected = [None, "1", "2.5", "t", "true", "/wA=", "2020-01-02"]
    expected += ["2020-01-02 03:00:00.000000", "2020-01-01 00:00:00.000000Z", "01:02:03.000000"]
    expected += ["1.50", "[1]", '{"a":"x"}']
    columns = columns_named("number", NULL)
    rows = [(i, value) for i, value in enumerate(values)]
    assert parquet_of(rows, columns)["c1"].to_pylist() == expected
    assert [line[1] for line in read_csv(csv_of(rows, columns))[1:]] == [text or "" for text in expected]


FLAT = [
    pa.null(),
    *[type_of([v], NULL) for v in (1, 1.5, "a", True, b"a", dt.date(1, 1, 1), dt.datetime(1, 1, 1), UTC, dt.time(1))],
    *[type_of([Decimal(v)], NULL) for v in ("1", "0.001", "1E+30", "1E-30", "9" * 38, "9" * 60, "NaN")],
    *[type_of([v], NULL) for v in ([], [1], [1.5], ["a"], [[1]], [None], [1, "a"], [True])],
    *[type_of([v], NULL) for v in ((1 << 53) + 1, [(1 << 53) + 1], [dt.date(1, 1, 1)], [Decimal("1.5")], [UTC], {})],
    lattice.ROUNDED,
    pa.list_(lattice.ROUNDED),
]
STRUCTS = [
    type_of([v], NULL)
    for v in ({"a": 1}, {"a": 1.5}, {"a": "x"}, {"a": None}, {"a": [1]}, {"a": {"b": 1}}, [{"a": 1}], [{"a": None}])
]
OTHER_STRUCTS = [type_of([v], NULL) for v in ({"b": 1}, {"c": 1}, {"b": 1, "a": 1}, [{"b": "x"}])]


@functools.cache
def join_types(a: Any, b: Any) -> Any:
    return schemas.join_schemas([pa.schema([("x", t)]) for t in (a, b)]).field(0).type


def test_null_gives_way_int_and_float_are_float_all_else_is_text() -> None:
    for a, b in itertools.combinations(FLAT[:10], 2):
        expected = b if a == pa.null() else pa.float64() if {a, b} == {pa.int64(), pa.float64()} else lattice.MIXED
        assert join_types(a, b) == expected


def test_joining_depends_neither_on_order_nor_on_grouping_nor_on_repetition() -> None:
    for a, b in itertools.product([*FLAT, *STRUCTS, *OTHER_STRUCTS], repeat=2):
        assert join_types(a, a) == a
        assert join_types(a, b) == join_types(b, a), f"{a} | {b}"
    for types in ([*FLAT, *STRUCTS], [*STRUCTS, *OTHER_STRUCTS]):
        for a, b, c in itertools.combinations(dict.fromkeys(types), 3):
            whole = join_types(join_types(a, b), c)
            assert whole == join_types(join_types(b, c), a) == join_types(join_types(a, c), b), f"{a} | {b} | {c}"


def test_a_schema_survives_as_text() -> None:
    schema = pa.schema([(f"c{i}, ü", t) for i, t in enumerate([*FLAT, *STRUCTS, *OTHER_STRUCTS])])
    assert schemas.schema_from_text(schemas.schema_to_text(schema)) == schema
    assert schemas.schema_for_people(pa.schema([("n", pa.int64()), ("t", pa.null())])) == {"n": "int64", "t": "null"}


# Values in parts

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("\",\r\n\x00'\\;\t \ufeff"))
NASTY = ["", '"', '""', ",", "\r", "\n", "\r\n", "\x00", "\ufeff", "\x85\u2028", " lead", "trail ", "=1+1", "NULL"]
NASTY += ["nan", "\\N", "\\", 'a"b,c\r\nd', "🍐é", "e\u0301", "\x1a"]


def test_csv_gives_back_every_text_exactly() -> None:
    rows = list(itertools.product(NASTY, NASTY))
    assert read_csv(csv_of(rows, columns_named("text", "text"))) == [["c0", "c1"], *map(list, rows)]


def test_none_is_an_empty_field_and_an_empty_text_is_quoted() -> None:
    rows = [(None, "", 1), ("", None, None), (None, None, None)]
    assert csv_of(rows, columns_named("text", "text", "number")) == b'c0,c1,c2\n,"",1\n"",,\n,,\n'


@pytest.mark.parametrize(
    ("family", "values", "expected"),
    [
        ("number", [1, None, 3], b'c0\n1\n""\n3\n'),
        ("text", ["a\n\nb", None, ""], b'c0\n"a\n\nb"\n""\n""\n'),
        ("list", [None, [1, "\n"]], b'c0\n""\n"[1,""\\n""]"\n'),
        ("bytes", [None, b"a"], b'c0\n""\n"YQ=="\n'),
        (NULL, [None, None], b'c0\n""\n""\n'),
        (NULL, [None, "\n", 1], b'c0\n""\n"\n"\n"1"\n'),
    ],
    ids=repr,
)
def test_none_in_a_table_of_one_column_is_a_row_for_every_reader(
    family: str, values: list[Any], expected: bytes
) -> None:
    """Readers skip an empty line; Python's own csv module writes `""` for that reason."""
    content = csv_of([(value,) for value in values], columns_named(family))
    assert content == expected
    assert len(list(csv.DictReader(io.StringIO(content.decode(), newline="")))) == len(values)
    pandas = pytest.importorskip("pandas")
    assert len(pandas.read_csv(io.BytesIO(content))) == len(values)


NAMES = [["a,b", "c"], ['q"q', '""'], ["new\nline", "cr\r", "both\r\n"], ["", "x"], [""], [" ", "\t"], ["über", "🍐"]]
NAMES += [["nul\x00"], ["0.int", "place", "is_row"]]


@pytest.mark.parametrize("names", NAMES, ids=repr)
def test_every_column_name_comes_back_from_both_kinds_of_parts(names: list[str]) -> None:
    columns = columns_of({name: 1 for name in names})
    rows = [tuple(range(len(names)))]
    assert read_csv(csv_of(rows, columns)) == [names, [str(i) for i in range(len(names))]]
    found = parquet_of(rows, columns)
    assert found.column_names == names
    assert found.to_pylist() == [{name: i for i, name in enumerate(names)}]


def test_ints_among_floats_are_printed_as_floats_throughout() -> None:
    columns = columns_named("number")
    table = rows_table([(1 << 60,), (7,)], columns)
    wide = pa.schema([("c0", pa.float64())])
    assert csv_bytes(table, all_of(table), wide) == csv_of([(float(1 << 60),), (7.0,)], columns)


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_parquet_is_compressed_as_asked_and_carries_its_metadata_and_no_other(compression: str) -> None:
    table = rows_table([("x" * 1000,)], columns_named("text"))
    level = 3 if compression == "zstd" else None
    schema = pa.schema([("c0", pa.string())])
    content = parquet_bytes(table, all_of(table), schema, {"r3po.job": "ü"}, compression, level)
    found = pq.read_metadata(io.BytesIO(content))
    shown = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert found.row_group(0).column(0).compression == shown
    kept = {key: value for key, value in found.metadata.items() if key != b"ARROW:schema"}
    assert kept == {b"r3po.job": "ü".encode()}


@pytest.mark.parametrize(
    ("family", "value", "other", "expected"),
    [
        ("number", (1 << 53) + 1, 0.5, float(1 << 53)),
        ("list", [(1 << 53) + 1], [0.5], [float(1 << 53)]),
        ("dict", {"b": 1, "a": (1 << 53) + 1}, {"a": 0.5, "c": 2}, {"a": float(1 << 53), "b": 1, "c": None}),
        ("list", [{"b": [(1 << 53) + 1], "a": 1}], [{"b": [0.5]}], [{"a": 1, "b": [float(1 << 53)]}]),
    ],
    ids=repr,
)
def test_an_int_that_no_float_is_equal_to_is_rounded_where_the_job_has_floats(
    family: str, value: Any, other: Any, expected: Any
) -> None:
    columns = columns_named(family)
    table = rows_table([(value,)], columns)
    joined = pa.schema([("c0", join_types(type_of([value], family), type_of([other], family)))])
    content = parquet_bytes(table, all_of(table), schemas.part_schema(joined, columns))
    assert pq.read_table(io.BytesIO(content))["c0"].to_pylist() == [expected]


# Row groups


def test_row_groups_are_cut_as_late_as_32_mib_and_ten_thousand_rows_allow_without_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mega, half = "ü" * (1 << 19), b"x" * (1 << 19)
    rows = [(mega, None), ("x" * (1 << 19), half), (None, half + half), (mega, b"")] * 10
    table = rows_table([*rows, (mega * 33, None), (None, half), (mega, half)], columns_named("text", "bytes"))
    groups = groups_of(table, all_of(table))
    assert [len(group) for group in groups] == [32, 8, 1, 2]
    assert list(itertools.chain(*groups)) == list(range(43))
    table = numbers(Origin(lines=[Line(i, BROKE if i == 5 else (i,)) for i in range(10_002)]))
    assert [len(group) for group in groups_of(table, all_of(table))] == [10_000, 1]
    content = parquet_bytes(table, all_of(table), pa.schema([("c0", pa.int64())]))
    file = pq.ParquetFile(io.BytesIO(content))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10_000, 1]
    assert file.read()["c0"].to_pylist() == [*range(5), *range(6, 10_002)]
    assert groups_of(table, pa.array([], pa.int64())) == groups_of(table, pa.array([5])) == []
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 3)
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 9)
    table = rows_table([("x" * n,) for n in (1, 1, 1, 5, 4, 1, 9, 0, 10, 0, 0, 0)], columns_named("text"))
    assert [len(group) for group in groups_of(table, all_of(table))] == [3, 2, 1, 2, 1, 3]


def groups_of(table: Table, indices: Any) -> list[list[int]]:
    return [group.to_pylist() for group in Outcomes(table).choose_rows(indices).indices()]


def test_more_text_than_one_arrow_array_holds_can_be_written_in_row_groups() -> None:
    """Arrow's text arrays end at 2 GiB; a shard of 10,000 files is there with 215 kB a file."""
    table = shared_texts(n_texts=80, text_bytes=30 << 20)
    n_rows = 0
    for group in Outcomes(table).choose_rows(all_of(table)).indices():
        n_rows += len(group)
        assert len(group) == 1
    assert n_rows == 80
    last = pa.array([79], pa.int64())
    assert len(csv_bytes(table, last, pa.schema([("c0", pa.string())]))) > 30 << 20


def shared_texts(n_texts: int, text_bytes: int) -> Table:
    """Return an outcome table of equal texts that hold only one of them in memory."""
    one = tables.outcome_table(batch_of([Line(0, ("x" * text_bytes,))], columns_named("text")), columns_named("text"))
    lines = [one.set_column(0, "place", pa.array([place], pa.int32())) for place in range(n_texts)]
    return tables.join_tables([tables.with_origin(t, build=1, attempt="a", fingerprint="f1") for t in lines])


# The same rows give the same bytes

MIXED = (
    st.none() | st.integers(-9, 9) | st.floats(allow_nan=False) | TEXTS | st.booleans() | st.lists(st.integers(0, 3))
)
ROWS = st.tuples(
    st.none() | st.integers(-(1 << 53), 1 << 53) | st.floats(),
    st.none() | TEXTS,
    MIXED,
    st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1),
)
SAME_COLUMNS = columns_named("number", "text", NULL, "dict")


@dataclass
class Cut:
    """The same outcomes in two ways: as one segment in order, and torn to pieces."""

    final: list[Line]
    segments: list[Origin]


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Draw outcomes, segments that hold them in any order, and others that the predicate passes over."""
    outcomes = draw(st.lists(ROWS | st.just(BROKE), min_size=1, max_size=14))
    final = [Line(place, outcome) for place, outcome in enumerate(outcomes)]
    segments = []
    order = draw(st.permutations(final))
    while order:
        n = draw(st.integers(1, len(order)))
        segments.append(Origin(draw(st.sampled_from([3, 4])), "m", lines=order[:n]))
        order = order[n:]
    for _ in range(draw(st.integers(0, 4))):
        segments.append(draw(losing_segments(segments)))
    return Cut(final, draw(st.permutations(segments)))


@st.composite
def losing_segments(draw: st.DrawFn, winners: list[Origin]) -> Origin:
    """Draw a segment whose outcomes all lose: an older build, a failure beside a row, or a larger attempt."""
    winner = draw(st.sampled_from(winners))
    rows = [line for line in winner.lines if not isinstance(line.outcome, Failure)]
    kind = draw(st.sampled_from(["older", "failure", "later attempt", "no such place"]))
    if kind == "older":
        others = [Line(line.place, draw(ROWS | st.just(BROKE))) for line in winner.lines]
        return Origin(draw(st.sampled_from([1, 2])), draw(st.sampled_from("az")), lines=others)
    if kind == "failure":
        return Origin(winner.build, draw(st.sampled_from("az")), lines=[Line(line.place, BROKE) for line in rows])
    if kind == "later attempt":
        return Origin(winner.build, "z", lines=[Line(line.place, draw(ROWS)) for line in rows])
    return Origin(9, "a", lines=[Line(999, draw(ROWS)), Line(-1, draw(ROWS))])


def digests(segments: Sequence[Origin], n_places: int) -> tuple[str, str, Any]:
    table = tables.join_tables([table_of(segment, SAME_COLUMNS) for segment in segments])
    indices = predicate.choose(table, [0] * n_places, NO_RULES)
    assert tables.places_of(table, indices) == list(range(n_places))
    schema = schemas.part_schema(own_schema(table, indices, SAME_COLUMNS), SAME_COLUMNS)
    made = csv_bytes(table, indices, schema), parquet_bytes(table, indices, schema)
    return hashlib.sha256(made[0]).hexdigest(), hashlib.sha256(made[1]).hexdigest(), schema


@SOME
@given(cuts())
def test_the_same_rows_give_the_same_bytes_however_they_were_cut(cut: Cut) -> None:
    whole = [Origin(lines=cut.final)]
    assert digests(cut.segments, len(cut.final)) == digests(whole, len(cut.final))


def test_many_pages_of_rows_give_the_same_bytes_however_they_were_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet cuts pages by what was written so far: the seams of segments must not show there either."""
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 5000)
    rng = random.Random(5)
    rows = [(i if i < 2500 else i / 2, rng.randbytes(240).hex(), f"k{i % 7}", {"a": i}) for i in range(6000)]
    lines = [Line(place, row) for place, row in enumerate(rows)]
    whole = digests([Origin(lines=lines)], len(lines))
    for n_segments in (400, 30):
        cuts = [0, *sorted(rng.sample(range(1, len(lines)), n_segments - 1)), len(lines)]
        segments = [Origin(lines=lines[a:b]) for a, b in itertools.pairwise(cuts)]
        rng.shuffle(segments)
        assert digests(segments, len(lines)) == whole, n_segments
        rng.shuffle(lines)  # in order first, then at random


def test_a_pandas_that_is_broken_is_nobody_s_concern(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise ValueError('numpy.dtype size changed')\n")
    code = "import r3po.table.outcomes as t; t.complete_imports(); print(t.pa.array([1, 2]).to_pylist())"
    ended = run_python("-c", code, cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "[1, 2]\n"), ended.err
