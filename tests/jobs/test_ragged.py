"""`missing_keys`, `extra_keys` and `mixed`: rows that are not like the first one, over the runs of a job."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import checker
import compare_parts
import r3po
import r3po.storage.durable as storage
from cut_short import cut_short, parts_in
from jobs import r3po as command
from r3po.errors import ConfigError, RunStoppedError
from r3po.storage.json_files import write_json
from r3po.table import added, ragged
from ragged_rows import CALLS, read_row

RAGGED: dict[str, Any] = {"missing_keys": "null", "extra_keys": "add", "mixed": "json"}
SOME = settings(
    derandomize=True,
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)
    CALLS.clear()


class RaggedJob:
    """A job whose files hold the rows that f returns."""

    def __init__(self, folder: Path, returned: Sequence[Any], **keys: Any) -> None:
        self.folder, self.source, self.keys = folder, folder / "source", keys
        self.source.mkdir(parents=True)
        for n, row in enumerate(returned):
            self.write(n, row)

    def write(self, n: int, row: Any, age: int = 0) -> None:
        path = self.source / f"{n:03}.txt"
        path.write_text(repr(row))
        os.utime(path, (1_600_000_000 - age, 1_600_000_000 - age))

    @property
    def config(self) -> dict[str, Any]:
        fixed = {"processes": 1, "source_path": str(self.source), "source_file_part": ".txt", "job_name": "ragged"}
        folders = {"working_dir": str(self.folder / "work"), "output_path": str(self.folder / "out")}
        return {**fixed, **folders, "shard_size": 2, "batch_seconds": 0.0001, **self.keys}

    def run(self, **options: Any) -> r3po.RunResult:
        return r3po.run_jobs(self.config, read_row, engine="serial", progress=False, **options)

    def run_cut_short(self, after: int, **options: Any) -> bool:
        """Run, and die as the file of that number is begun. Returns whether it came so far."""
        return cut_short(partial(self.run, **options), after)

    def parts(self) -> dict[str, bytes]:
        return parts_in(self.folder / "out")

    def check(self) -> Any:
        """See that everything on disk agrees, and return the table."""
        out = self.folder / "out"
        assert r3po.verify_jobs(self.config).findings == ()
        assert checker.check_job(self.folder / "work", out) == []
        assert compare_parts.compare_parts(out) == []
        return pyarrow.dataset.dataset(out / "parquet").to_table()

    def told(self) -> list[str]:
        """Return what the last run told as notices."""
        runs = sorted((self.folder / "work" / "runs").glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        lines = [json.loads(line) for line in runs[-1].read_text().splitlines()]
        return [f"{line['text']}; {line.get('hint', '')}" for line in lines if line.get("event") == "Notice"]


NewRagged = Callable[..., RaggedJob]


@pytest.fixture
def ragged_job(jobs_folder: Path) -> Iterator[NewRagged]:
    numbers = itertools.count()
    yield lambda returned, **keys: RaggedJob(jobs_folder / f"job{next(numbers)}", returned, **keys)


ROWS = [{"a": 1, "b": "x"}, {"a": 2}, {"c": 0.5, "b": "y", "a": 3}, {"a": 4, "z": 1, "c": 2}, {"b": None, "k": None}]


def test_a_missing_key_is_null_and_a_new_one_is_a_column_behind_the_others(ragged_job: NewRagged) -> None:
    job = ragged_job(ROWS, missing_keys="null", extra_keys="add")
    assert job.run().rows == 5
    assert job.check().to_pydict() == {
        "a": [1, 2, 3, 4, None],
        "b": ["x", None, "y", None, None],
        "c": [None, None, 0.5, 2.0, None],
        "z": [None, None, None, 1, None],
        "k": [None] * 5,
    }


@pytest.mark.parametrize(
    ("keys", "columns", "failed"),
    [
        ({}, "ab", [1, 2, 3, 4]),
        ({"missing_keys": "null"}, "ab", [2, 3, 4]),
        ({"missing_keys": None}, "ab", [2, 3, 4]),
        ({"extra_keys": "add"}, "abc", [1, 3, 4]),
        ({"extra_keys": "drop", "missing_keys": "null"}, "ab", []),
    ],
    ids=str,
)
def test_each_key_takes_what_it_says_and_the_other_rows_fail(
    ragged_job: NewRagged, keys: dict[str, Any], columns: str, failed: list[int]
) -> None:
    job = ragged_job(ROWS, **keys)
    result = job.run()
    assert [failure["path"] for failure in result.failures()] == [f"{n:03}.txt" for n in failed]
    assert "".join(job.check().column_names) == columns


def test_what_was_left_out_is_told_by_name_and_number_of_files_whatever_was_killed(ragged_job: NewRagged) -> None:
    job = ragged_job([*ROWS, {"a": 1, "b": "", 5: 1, "c": 3}], missing_keys="null", extra_keys="drop")
    for after in range(60):
        if not job.run_cut_short(after):
            break
    told = [text for text in job.told() if "left out" in text]
    assert told == [
        'keys that are no column were left out: "c" (3 files), "5" (1 file), "k" (1 file), "z" (1 file); '
        "extra_keys: add makes columns of them, after r3po run --redo"
    ]
    job.check()
    job.keys["extra_keys"] = "add"
    CALLS.clear()
    job.run()
    assert CALLS == [] and "r3po run --redo makes columns of them" in job.told()[0]
    job.write(5, {"a": 1})  # what it had left out counts no more
    job.run()
    assert 'left out: "c" (2 files), "k" (1 file), "z" (1 file)' in job.told()[0]
    job.run(redo=True)
    assert job.told() == [] and job.check().column_names == ["a", "b", "c", "z", "k"]


def test_columns_that_rows_add_come_and_go_with_the_setting_without_a_call_of_f(ragged_job: NewRagged) -> None:
    job = ragged_job(ROWS, missing_keys="null", extra_keys="add")
    job.run()
    whole = job.parts()
    CALLS.clear()
    for extra, names in (("fail", "ab"), ("add", "abczk"), ("drop", "ab")):
        job.keys["extra_keys"] = extra
        job.run()
        assert "".join(job.check().column_names) == names
    job.keys |= {"extra_keys": "add", "columns": {"b": "string"}, "source_column": "file"}
    job.run()
    assert job.check().column_names == ["file", "b", "a", "c", "z", "k"]
    del job.keys["columns"], job.keys["source_column"]
    job.run()
    assert job.parts() == whole and CALLS == []


def test_a_column_goes_when_no_row_that_counts_has_its_key_any_more(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4, "last": 1}, {"a": 5, "x": 1}], extra_keys="add")
    job.run()
    assert job.check().column_names == ["a", "last", "x"]
    job.write(3, {"a": 40})
    job.run()
    assert job.check().to_pydict() == {"a": [1, 2, 3, 40, 5], "x": [None] * 4 + [1]}
    (job.source / "004.txt").unlink()
    job.run()
    assert job.check().column_names == ["a"]
    job.write(6, {"a": 6, "new": "n"})
    job.run()
    assert job.check()["new"].to_pylist() == [None] * 4 + ["n"]


def test_a_deleted_file_whose_row_is_kept_keeps_its_column(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1}, {"a": 2, "x": 1}, {"a": 3}], extra_keys="add", on_deleted="keep")
    job.run()
    (job.source / "001.txt").unlink()
    job.run()
    assert job.check()["x"].to_pylist() == [None, 1, None]


def test_columns_of_the_config_come_first_with_their_types_and_other_keys_behind(ragged_job: NewRagged) -> None:
    columns = {"b": "string", "a": "int8"}
    job = ragged_job(ROWS, missing_keys="null", extra_keys="add", columns=columns)
    assert job.run().rows == 5
    table = job.check()
    assert table.column_names == ["b", "a", "c", "z", "k"]
    assert str(table.schema.field("a").type) == "int8"


# The order of rows, workers and kills


VALUES = st.sampled_from(
    [None, 1, 2.5, "", "text", True, b"\xff", dt.date(2020, 1, 2), Decimal("1.50"), [1], [], {"k": 1}, {}, 1 << 60]
)
SOME_ROWS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "$", 'é,"\n']), VALUES, min_size=1, max_size=5),
    min_size=1,
    max_size=7,
)


@SOME
@given(
    rows=SOME_ROWS,
    dies=st.lists(st.integers(0, 12), max_size=4),
    shard_size=st.integers(1, 4),
    extra=st.sampled_from(["add", "drop"]),
)
@example([{"a": 1}, {"a": None}, {"a": "x", "b": 1}], [3, 5], 1, "add")
def test_parts_are_the_same_however_the_run_was_cut(
    ragged_job: NewRagged, rows: list[dict[str, Any]], dies: list[int], shard_size: int, extra: str
) -> None:
    keys = {**RAGGED, "extra_keys": extra, "shard_size": shard_size}
    whole, cut = ragged_job(rows, **keys, batch_seconds=60), ragged_job(rows, **keys)
    assert whole.run().failed == 0
    for after in dies:
        cut.run_cut_short(after)
    cut.run()
    assert cut.parts() == whole.parts()
    assert cut.check() == whole.check()


@SOME
@given(rows=SOME_ROWS, data=st.data())
def test_columns_types_and_rows_do_not_depend_on_which_file_comes_first(
    ragged_job: NewRagged, rows: list[dict[str, Any]], data: Any
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    seen = []
    for numbers in (range(len(rows)), order):
        job = ragged_job([{**rows[n], "n": n} for n in numbers], **RAGGED)
        assert job.run().failed == 0
        table = job.check()
        names = sorted(table.column_names)
        seen.append(table.select(names).sort_by("n"))
        expected = set().union(*rows) | {"n"}
        assert set(names) == expected
    assert seen[0] == seen[1]


ROW = st.dictionaries(st.sampled_from("abxyz"), st.integers(0, 9), min_size=1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 5), ROW),
        st.tuples(st.just("delete"), st.integers(0, 5), st.none()),
        st.tuples(st.just("run"), st.integers(0, 20), st.sampled_from(["add", "drop"])),
        st.tuples(st.just("redo"), st.integers(0, 20), st.sampled_from(["add", "drop"])),
        st.tuples(st.just("run"), st.just(1_000), st.sampled_from(["add", "drop"])),
    ),
    max_size=12,
)


@SOME
@given(steps=STEPS)
@example(
    [("run", 1_000, "drop"), ("write", 3, {"x": 1}), ("run", 9, "add"), ("delete", 3, None), ("run", 1_000, "add")]
)
@example([("write", 1, {"z": 1}), ("run", 1_000, "add"), ("redo", 8, "drop"), ("write", 0, {"y": 1, "a": 2})])
def test_whatever_comes_between_a_row_is_whole_or_lacks_what_was_left_out(
    ragged_job: NewRagged, steps: list[tuple[str, int, Any]]
) -> None:
    """Each row is what f gave under `add` or under `drop`; the columns are those of the rows, in their order."""
    rows: dict[str, dict[str, int]] = {"000.txt": {"a": 1}}
    job = ragged_job([{"a": 1}], missing_keys="null", columns={"a": "json", "b": "int64"}, source_column="file")
    for step, (kind, number, more) in enumerate([*steps, ("run", 1_000, "add")]):
        name = f"{number:03}.txt"
        if kind == "write":
            rows[name] = more
            job.write(number, more, age=step)
        elif kind == "delete" and number and name in rows:
            del rows[name]
            (job.source / name).unlink()
        elif kind in ("run", "redo"):
            job.keys["extra_keys"] = more
            is_over = not job.run_cut_short(number, redo=kind == "redo", accept_deletions=True)
            if is_over:
                check_rows(job, rows)


def check_rows(job: RaggedJob, rows: dict[str, dict[str, int]]) -> None:
    table = job.check().to_pylist()
    assert {row["file"] for row in table} == rows.keys()
    names, n_dropped = ["file", "a", "b"], 0
    for found in table:
        wanted = rows[found["file"]]
        a = str(wanted["a"]) if "a" in wanted else None
        extra = {key: value for key, value in wanted.items() if key not in "ab"}
        known = {key: value for key, value in found.items() if key not in ("file", "a", "b") and value is not None}
        assert (found["a"], found["b"]) == (a, wanted.get("b")) and known in (extra, {})
        names += [key for key in extra if key in known and key not in names]
        n_dropped += bool(extra) and not known
    assert list(table[0]) == names
    said = " ".join(text for text in job.told() if "left out" in text)
    commits = [json.loads(path.read_text()) for path in (job.folder / "work" / "commits").glob("*.json")]
    assert job.keys["extra_keys"] == "drop" or bool(said) == bool(n_dropped) == any("dropped" in c for c in commits)


def test_with_many_rows_a_file_each_row_has_keys_of_its_own(ragged_job: NewRagged) -> None:
    rows = [[{"a": 1}, {"a": 2, "x": 1}], [], [{"y": 1, "x": "s"}, {"a": 3, "x": None}], {"a": "t"}]
    tables = []
    for shard_size in (1, 10):
        job = ragged_job(rows, **RAGGED, rows="many", shard_size=shard_size, source_column="file", row_column="n")
        job.run_cut_short(9)
        assert job.run().rows == 5
        tables.append(job.check())
    assert tables[0] == tables[1]
    assert tables[0].drop(["file"]).to_pydict() == {
        "n": [0, 1, 0, 1, 0],
        "a": ["1", "2", None, "3", '"t"'],
        "x": [None, "1", '"s"', None, None],
        "y": [None, None, 1, None, None],
    }
    job.keys["extra_keys"] = "drop"
    job.run(redo=True)
    assert 'left out: "x" (2 files), "y" (1 file)' in job.told()[-1]
    assert job.check().column_names == ["file", "n", "a"]


def test_a_key_first_seen_in_the_last_shard_is_a_column_of_all_parts_and_keys_come_in_row_order(
    ragged_job: NewRagged,
) -> None:
    rows = [{"n": n} for n in range(7)]
    rows[6] |= {"late": 1, "first": 2}
    rows[3] |= {"y": 1, "x": 2}
    job = ragged_job(rows, extra_keys="add")
    job.run()
    for name, part in job.parts().items():
        if name.startswith("csv"):
            assert part.startswith(b"n,y,x,late,first\n")
    job.check()


# Values of several kinds


KINDS = [1, "text", None, True, 2.5, float("nan"), [1, {"a": None}], dt.date(2020, 1, 2), Decimal("1.50"), b"\xff"]
AS_JSON = ["1", '"text"', None, "true", "2.5", "NaN", '[1,{"a":null}]', '"2020-01-02"', '"1.50"', '"/w=="']


@pytest.mark.parametrize("first", range(3))
def test_what_has_no_type_in_common_is_json_in_all_parts_and_told(ragged_job: NewRagged, first: int) -> None:
    assert base64.b64encode(b"\xff") == b"/w=="
    kinds = KINDS[first:] + KINDS[:first]
    job = ragged_job([{"n": i, "x": value} for i, value in enumerate(kinds)], mixed="json")
    assert job.run().failed == 0
    assert job.check()["x"].to_pylist() == AS_JSON[first:] + AS_JSON[:first]
    assert job.told() == ['column "x" holds values of different kinds, or too many keys: JSON text in all parts; ']


def test_values_that_have_a_type_in_common_keep_it_although_any_may_come(ragged_job: NewRagged) -> None:
    job = ragged_job([{"x": None, "y": [1]}, {"x": 1, "y": [None]}, {"x": 2.5, "y": [0.5]}], mixed="json")
    job.run()
    assert job.check().to_pydict() == {"x": [None, 1.0, 2.5], "y": [[1.0], [None], [0.5]]}
    assert job.told() == []


def test_files_that_failed_for_another_kind_are_taken_once_mixed_is_json(ragged_job: NewRagged) -> None:
    job = ragged_job([{"x": value} for value in (1, "two", 3)])
    assert job.run().failed == 1
    job.keys["mixed"] = "json"
    job.run(retry_failed=True)
    assert job.check()["x"].to_pylist() == ["1", '"two"', "3"]
    CALLS.clear()
    job.keys["mixed"] = "fail"
    job.run()
    assert job.check()["x"].to_pylist() == ["1", "two", "3"] and CALLS == []


def test_added_values_of_all_kinds_have_the_types_that_columns_of_the_job_have(ragged_job: NewRagged) -> None:
    kinds = {f"x{n}": value for n, value in enumerate(KINDS) if value == value}  # NaN is not equal to itself
    rows = [{"n": 1, **kinds}, {"n": 2, **kinds}, {"n": 3}]
    tables = []
    for order in (rows, rows[::-1]):
        job = ragged_job(order, missing_keys="null", extra_keys="add")
        job.run()
        tables.append(job.check().sort_by("n"))
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1, "b": {1, 2}}, "column 'b': a value of type set cannot be stored"),
        ({"a": 1, "b": 1 << 64}, "column 'b': the int 18446744073709551616 does not fit 64 bit"),
        ({"a": 1, "b": "\udcff"}, "column 'b': '\\udcff' is not valid Unicode text"),
        (
            {"a": 1, "b": ["\udcff"]},
            "column 'b': this list cannot be stored: str is not valid UTF-8: surrogates not allowed",
        ),
        ({"a": 1, "\udcff": 1}, "the key '\\udcff' is not valid Unicode text"),
        ({"a": 1, 5: 1}, "the key 5 is not text; column names are text"),
        ({"a": 1, "file": 1}, "f returned a column 'file', which is source_column, too; rename either"),
        ({}, "f returned an empty dict; a row needs at least one column"),
    ],
)
def test_a_key_that_can_be_no_column_is_the_failure_of_its_file(
    ragged_job: NewRagged, row: dict[Any, Any], message: str
) -> None:
    job = ragged_job([{"a": 1}, row], **RAGGED, source_column="file")
    assert [failure["message"] for failure in job.run().failures()] == [message]
    assert job.check().column_names == ["file", "a"]


@pytest.mark.parametrize(
    ("extra", "field", "what"),
    [
        ("drop", "dropped", "the keys that it says were left out are not those that its commit says"),
        ("add", "own_schema", "its rows add the columns ['x'], but its commit says others"),
    ],
)
def test_verify_finds_a_commit_that_says_other_keys_than_its_outcomes(
    ragged_job: NewRagged, extra: str, field: str, what: str
) -> None:
    job = ragged_job([{"a": 1}, {"a": 2, "x": 1}, {"a": 3}, {"a": 4, "y": 1}], extra_keys=extra)
    job.run()
    commits = [job.folder / "work" / "commits" / f"{shard:05d}.json" for shard in range(2)]
    first, second = (json.loads(path.read_text()) for path in commits)
    changed = {key: second[key] if key == field else value for key, value in first.items() if key != "digest"}
    write_json(commits[0], changed)
    assert what in [finding.what for finding in r3po.verify_jobs(job.config).findings]


# Types of the config


def test_json_and_map_are_types_that_columns_take(ragged_job: NewRagged) -> None:
    rows = [{"j": value, "m": {"b": 2, "a": n}} for n, value in enumerate(KINDS)] + [{"j": 1, "m": None}]
    job = ragged_job(rows, columns={"m": "map<string, int64>", "j": "json"}, shard_size=20)
    assert job.run().failed == 0
    table = job.check()
    assert table["j"].to_pylist() == [*AS_JSON, "1"]
    assert table["m"].to_pylist()[0] == [("a", 0), ("b", 2)]
    part = job.folder / "out" / "parquet" / "part-00000.parquet"
    assert pd.read_parquet(part)["j"].tolist()[:2] == ["1", '"text"']
    assert pl.read_parquet(part)["j"].str.len_bytes().to_list()[:2] == [1, 6]
    assert duckdb.sql(f"select j from '{part}'").fetchall()[1] == ('"text"',)
    assert pd.read_parquet(part)["m"].tolist()[0] == [("a", 0), ("b", 2)]
    assert pl.read_parquet(part)["m"].dtype == pl.read_parquet(part).schema["m"]
    assert duckdb.sql(f"select m from '{part}'").fetchall()[0] == ({"a": 0, "b": 2},)
    first = (job.folder / "out" / "csv" / "part-00000.csv").read_text().splitlines()[1]
    assert first == '"{""b"":2,""a"":0}","1"'


@pytest.mark.parametrize(
    ("type_", "good", "bad", "why"),
    [
        ("map<string, int8>", {"a": 1, "b": None}, {"a": 300}, "the value of 'a' is no int8: it is not within"),
        (
            "map<string, list<date>>",
            {"a": [dt.date(2020, 1, 1)]},
            {"a": [1]},
            "the value of 'a' is no list<date>: item 0",
        ),
        ("list<map<string, string>>", [{"a": "x"}, {}], [{"a": 1}], "item 0 is no map<string, string>"),
        ("map<string, decimal(5,1)>", {"a": Decimal("1.5"), "b": 2}, {"a": 1.5}, "the value of 'a' is no decimal(5,1)"),
        ("map<string, map<string, bool>>", {"a": {"b": True}}, {"a": True}, "the value of 'a' is no map<string, bool>"),
    ],
)
def test_a_map_refuses_other_values(ragged_job: NewRagged, type_: str, good: Any, bad: Any, why: str) -> None:
    job = ragged_job([{"x": good}, {"x": bad}, {"x": None}], columns={"x": type_})
    [failure] = job.run().failures()
    assert why in failure["message"]
    assert len(job.check()) == 2


def test_the_types_of_rows_that_are_there_may_become_json_or_a_map(ragged_job: NewRagged) -> None:
    job = ragged_job([{"x": {"a": 1}, "y": 1}, {"x": {"b": 2}, "y": 2}])
    job.run()
    CALLS.clear()
    job.keys["columns"] = {"x": "map<string, int8>", "y": "json"}
    job.run()
    assert job.check().to_pydict() == {"x": [[("a", 1)], [("b", 2)]], "y": ["1", "2"]}
    job.keys["columns"] = {"x": "json"}
    job.run()
    assert job.check().to_pydict() == {"x": ['{"a":1}', '{"b":2}']} and CALLS == []
    job.keys["columns"] = {"x": "map<string, string>"}
    with pytest.raises(ConfigError) as caught:
        job.run()
    assert "the value of 'a' is no string" in str(caught.value.evidence)


# What is refused


def test_more_added_columns_than_a_table_bears_stop_the_run_whatever_the_order(
    ragged_job: NewRagged, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (added, ragged):
        monkeypatch.setattr(module, "MOST_ADDED", 3)
    for rows in ([{"a": n, f"k{n}": n} for n in range(6)], [{"a": 1, **{f"k{n}": n for n in range(4)}}, {"a": 1}]):
        job = ragged_job([{"a": 0}, *rows], extra_keys="add", shard_size=3)
        if len(rows) == 2:
            [failure] = job.run().failures()
            assert failure["message"] == "the row has 4 keys that are no column; it may add 3"
            continue
        for _ in range(2):
            with pytest.raises(RunStoppedError, match=r"extra_keys: add would give the table .* more columns"):
                job.run()
        assert not (job.folder / "out" / "csv" / "_SUCCESS").exists()
        job.keys["extra_keys"] = "drop"
        job.run()
        assert job.check().column_names == ["a"]
        job.keys["extra_keys"] = "add"
        with pytest.raises(RunStoppedError, match="extra_keys: drop"):
            job.run()


def test_a_name_that_rows_have_added_is_no_other_column(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1}, {"a": 2, "x": 1}], extra_keys="add")
    job.run()
    for keys, why in (
        ({"source_column": "x"}, "x   rows have added a column of that name, and source_column is another"),
        ({"columns": {"x": "int64"}}, "x   the rows that are there have added it, without a type"),
    ):
        before = dict(job.keys)
        job.keys |= keys
        with pytest.raises(ConfigError) as caught:
            job.run()
        assert caught.value.evidence == why
        job.keys = before
    job.keys |= {"columns": {"x": "int8"}, "missing_keys": "null"}
    job.run(redo=True)
    assert job.check().to_pydict() == {"x": [None, 1], "a": [1, 2]}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"missing_keys": "nil"}, "must be fail or null"),
        ({"extra_keys": None}, "must be fail, drop or add"),
        (
            {"mixed": "json", "columns": {"a": "int8"}},
            "columns has the type of each column; take this out, or say json",
        ),
        ({"columns": {"a": "map<int8, string>"}}, '"map<int8, string>" is no type'),
        ({"columns": {"a": "map<string"}}, 'quote it: "map<string, int64>"'),
        ({"columns": {"a": "list<json>"}}, "list<json> is no column type; write list, and its items are as they come"),
        ({"columns": {"a": "map<string, dict>"}}, "write dict, and its values are as they come"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_the_reason(
    ragged_job: NewRagged, keys: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ragged_job([], **keys).run()
    assert why in str(caught.value.evidence)


def test_a_key_without_a_value_is_no_null(ragged_job: NewRagged) -> None:
    job = ragged_job([])
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in job.config.items()]
    (job.folder / "config.yaml").write_text("".join([*lines, "missing_keys:\n"]))
    assert "has no value; must be fail or null" in command("run", cwd=job.folder).err


def test_many_rows_that_do_not_fit_the_first_stop_a_new_job_with_the_keys_that_help(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1, "odd": 1}, *({"a": n} for n in range(20))])
    with pytest.raises(RunStoppedError, match="missing_keys: null, extra_keys: drop"):
        job.run()
    job.keys["missing_keys"] = "null"
    assert job.run(retry_failed=True).rows == 21


def test_try_shows_what_a_run_would_make_of_ragged_rows(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1, "b": 1}, {"a": "x", "c": 2}], **RAGGED)
    found = r3po.try_files(job.config, read_row)
    assert found.failures == () and found.columns == {"a": "json", "b": "int64", "c": "int64"}
    assert [row["a"] for row in found.rows] == ["1", '"x"']
    job.keys["extra_keys"] = "drop"
    assert 'keys that are no column were left out: "c" (1 file)' in r3po.try_files(job.config, read_row).notices


def test_the_terminal_says_it_too(ragged_job: NewRagged) -> None:
    job = ragged_job([{"a": 1}, {"a": 2, "c": 2}], extra_keys="drop")
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in job.config.items()]
    (job.folder / "config.yaml").write_text("".join([*lines, "missing_keys: null\nfunction: rows.py:f\n"]))
    function = "from pathlib import Path\n\n\ndef f(path):\n    return eval(Path(path).read_text())\n"
    (job.folder / "rows.py").write_text(function)
    ended = command("run", "--engine", "serial", cwd=job.folder)
    assert ended.code == 0 and 'were left out: "c" (1 file)' in ended.said
