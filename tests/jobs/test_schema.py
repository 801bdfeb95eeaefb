"""`columns` and `source_column` of the config: what they promise over the runs of a job."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow.dataset
import pyarrow.dataset as ds
import pytest

import compare_parts
import r3po
import r3po.storage.durable as storage
from r3po.config.settings import load_config
from r3po.errors import ConfigError
from r3po.state.job import open_job

if TYPE_CHECKING:
    from jobs import NewJob

CONFIG = """\
job_name: t
processes: 1
source_path: source
source_file_part: .txt
working_dir: work
output_path: out
shard_size: 2
"""
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "source").mkdir()
    for n in range(5):
        path = tmp_path / "source" / f"{n}.txt"
        path.write_text(str(n))
        os.utime(path, (1_600_000_000, 1_600_000_000))  # a young one is looked at once more, after a while
    CALLS.clear()
    yield tmp_path


def f(filepath: str) -> dict[str, Any]:
    n = int(Path(filepath).read_text())
    CALLS.append(Path(filepath).name)
    return {"n": n, "price": Decimal(n) / 4, "day": dt.date(2020, 1, 1 + n), "tags": [f"t{n}"]}


def run(folder: Path, keys: str = "", function: Callable[..., Any] = f) -> r3po.RunResult:
    (folder / "config.yaml").write_text(CONFIG + keys)
    return r3po.run_jobs(folder / "config.yaml", function, engine="serial", progress=False)


def table(folder: Path) -> Any:
    assert compare_parts.compare_parts(folder / "out") == []
    return pyarrow.dataset.dataset(folder / "out" / "parquet").to_table()


def types(folder: Path) -> dict[str, str]:
    return {field.name: str(field.type).replace("element", "item") for field in table(folder).schema}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file of a finished job but those of its runs."""
    found = [path for root in ("work", "out") for path in (folder / root).rglob("*") if path.is_file()]
    return {str(p): p.read_bytes() for p in found if "runs" not in p.parts and not p.name.startswith("lock")}


FULL = '{tags: list<string>, n: int16, price: "decimal(10,2)", day: date}'


def test_columns_pin_names_order_and_types(folder: Path) -> None:
    assert run(folder, f"columns: {FULL}\n").rows == 5
    assert types(folder) == {
        "tags": "list<item: string>",
        "n": "int16",
        "price": "decimal128(10, 2)",
        "day": "date32[day]",
    }
    assert table(folder)["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert table(folder)["price"].to_pylist() == [Decimal(n) / 4 for n in range(5)]


def odd(filepath: str) -> dict[str, Any]:
    """Return a first row that is the odd one, and others that fit or not."""
    n = int(Path(filepath).read_text())
    return [{"n": "zero"}, {"n": 1, "more": 2}, {"n": 300}, {"n": 3}, {"n": None}][n]


def test_the_first_row_does_not_set_pinned_columns_and_what_does_not_fit_has_failed(folder: Path) -> None:
    result = run(folder, "columns: {n: int8}\n", odd)
    assert (result.rows, result.failed) == (2, 3)
    assert table(folder)["n"].to_pylist() == [3, None]
    messages = [failure["message"] for failure in result.failures()]
    assert messages == [
        "column 'n': expected int8, found text 'zero'",
        "the row's keys differ from the job's columns, which the config's `columns` set: "
        "not a column of this job: 'more' (taken with extra_keys: drop or add)",
        "column 'n': expected int8, found number 300: it is not within -128 to 127",
    ]


def test_parts_follow_the_config_without_a_call_of_f(folder: Path) -> None:
    run(folder)
    inferred = {"n": "int64", "price": "decimal128(3, 2)", "day": "date32[day]", "tags": "list<item: string>"}
    assert types(folder) == inferred
    first = snapshot(folder)
    CALLS.clear()
    for keys, expected in (
        (f"columns: {FULL}\n", ["tags", "n", "price", "day"]),
        ('columns: {n: "decimal(38,30)", day: date}\n', ["n", "day"]),
        ('columns: {price: "decimal(38,20)", n: float64}\n', ["price", "n"]),
        ("columns: {n: uint8}\nsource_column: file\n", ["file", "n"]),
        ("source_column: from\n", ["from", *inferred]),
    ):
        run(folder, keys)
        assert list(types(folder)) == expected
        assert [float(n) for n in table(folder)["n"].to_pylist()] == [0, 1, 2, 3, 4]
    assert table(folder)["from"].to_pylist() == [f"{n}.txt" for n in range(5)]
    run(folder)
    assert CALLS == []
    again = snapshot(folder)
    parts = [name for name in first if "part-" in name]
    assert len(parts) == 6 and all(first[name] == again[name] for name in parts)


def test_new_files_after_fewer_columns_are_held_against_all_of_them(folder: Path) -> None:
    run(folder)
    (folder / "source" / "5.txt").write_text("5")
    assert run(folder, "columns: {n: int64}\n").failed == 0
    assert table(folder).to_pydict() == {"n": [0, 1, 2, 3, 4, 5]}
    run(folder)
    assert table(folder)["day"].to_pylist()[-1] == dt.date(2020, 1, 6)


@pytest.mark.parametrize(
    ("keys", "evidence"),
    [
        ("columns: {n: int64, more: int64}\n", "more   the rows that are there have no such column"),
        ("columns: {n: string}\n", "n   expected string, found number 0   (0.txt)"),
        (
            'columns: {n: uint8, price: "decimal(10,1)"}\n',
            "price   expected decimal(10,1), found decimal Decimal('0.25'): it has 2 digits behind the point   (1.txt)",
        ),
        ("columns: {tags: list<date>}\n", "tags   expected list<date>, found list ['t0']: item 0 is no date   (0.txt)"),
        ("source_column: day\n", "day   the rows have a column of that name, and source_column would be another"),
    ],
    ids=["a new name", "another family", "too narrow", "other items", "a name that f returns"],
)
def test_what_cannot_be_done_without_f_is_refused_and_nothing_changed(folder: Path, keys: str, evidence: str) -> None:
    run(folder)
    run(folder)  # a start sweeps what the end of the run before has replaced
    before = snapshot(folder)
    with pytest.raises(ConfigError) as caught:
        run(folder, keys)
    assert caught.value.evidence == evidence
    assert "r3po run --redo" in str(caught.value.hint)
    assert snapshot(folder) == before
    assert run(folder).rows == 5


def test_rows_that_are_not_committed_yet_are_held_against_new_types_too(folder: Path) -> None:
    def create(path: Path, flags: int, mode: int) -> int:
        if "commits" in path.parts:
            raise KeyboardInterrupt
        return os.open(path, flags, mode)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(r3po.RunStoppedError):
        patch.setattr(storage, "_create", create)
        run(folder)
    assert list((folder / "work" / "segments").rglob("*.arrow"))
    with pytest.raises(ConfigError) as caught:
        run(folder, "columns: {n: string, price: string, day: string, tags: string}\n")
    assert str(caught.value.evidence).startswith("n       expected string, found number 0")
    assert run(folder, f"columns: {FULL}\n").rows == 5


def test_a_source_column_holds_the_path_even_if_it_is_not_utf_8(folder: Path) -> None:
    result = run(folder, "source_column: day\n")
    assert result.failed == 5
    assert result.failures()[0]["message"] == "f returned a column 'day', which is source_column, too; rename either"
    (folder / "source" / "sub").mkdir()
    try:
        (folder / "source" / "sub" / os.fsdecode(b"\xff.txt")).write_text("5")
    except OSError:
        pytest.skip("this file system has no such names")
    r3po.reset_all_errors(folder / "config.yaml")
    run(folder, "source_column: file\n")
    assert table(folder).column_names[0] == "file"
    assert table(folder)["file"].to_pylist() == [*(f"{n}.txt" for n in range(5)), "sub/\\xff.txt"]


def rounded(filepath: str) -> dict[str, Any]:
    return {"x": [0.5, (1 << 53) + 1, 1, 2, 3][int(Path(filepath).read_text())], "y": (1 << 53) + 1}


def mixed(filepath: str) -> dict[str, Any]:
    n = int(Path(filepath).read_text())
    return {"x": [None, [n]][n > 0] if n < 4 else ["a"], "n": n}


def mixed_deeper(filepath: str) -> dict[str, Any]:
    n = int(Path(filepath).read_text())
    return {"x": {"sizes": [{"w": n}, {"w": "1 cm"} if n == 3 else {}]}, "n": n}


def too_many_keys(filepath: str) -> dict[str, Any]:
    n = int(Path(filepath).read_text())
    return {"x": {f"{n}_{i}": i for i in range(400)}, "n": n}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (rounded, 'column "x" holds floats beside ints beyond 2^53, which are rounded in all parts'),
        (
            mixed,
            'column "x" holds values of different kinds: x[] is number in 1.txt and text in 4.txt; '
            "it is text in all parts",
        ),
        (
            mixed_deeper,
            'column "x" holds values of different kinds: x.sizes[].w is number in 2.txt and text in 3.txt; '
            "it is text in all parts",
        ),
        (too_many_keys, 'column "x" holds values of different kinds, or too many keys; it is text in all parts'),
    ],
)
def test_what_parts_do_not_hold_as_it_is_is_warned_of_at_the_end(
    folder: Path, function: Callable[..., Any], text: str
) -> None:
    run(folder, function=function)
    events = "".join(path.read_text() for path in (folder / "work" / "runs").rglob("events.jsonl"))
    assert events.count(text.replace('"', '\\"')) == 1
    assert 'column \\"y\\"' not in events and 'column \\"n\\"' not in events


def other(filepath: str) -> dict[str, Any]:
    return {"name": Path(filepath).name, "n": str(Path(filepath).read_text())}


def test_once_rows_are_made_anew_columns_may_be_others(folder: Path) -> None:
    run(folder)
    keys = "columns: {n: string, name: string}\n"
    with pytest.raises(ConfigError):
        run(folder, keys, other)
    with open_job(load_config(folder / "config.yaml")) as job:
        job.raise_build(redo=True)
    assert run(folder, keys, other).rows == 5
    assert types(folder) == {"n": "string", "name": "string"}
    assert table(folder)["n"].to_pylist() == ["0", "1", "2", "3", "4"]


# While a run goes on


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3, 4.5, 5, 6], [1, 2, 3, 4.5, 5, 6]),
        ([None, None, None, "x", None, None], [None, None, None, "x", None, None]),
        ([[1], [2], [3], [4.5], [5], [6]], [[1], [2], [3], [4.5], [5], [6]]),
        ([None, 2, 3.5, {"a": 1}, None, 6], [None, "2", "3.5", '{"a":1}', None, "6"]),
    ],
    ids=["int, then float", "null, then text", "lists", "what has nothing in common"],
)
def test_parts_load_together_at_every_moment_of_a_run(new_job: NewJob, values: list[Any], expected: list[Any]) -> None:
    """The first part has the widest types whenever a part is published: readers take the types from it."""
    job = new_job()
    job.configure(shard_size=2, csv=False)
    for n, value in enumerate(values):
        job.add(f"{n}.json", value=value)
    folder, seen = job.output / "parquet", []
    replace = storage._replace

    def look_after(source: Path, target: Path) -> None:
        replace(source, target)
        if target.parent == folder:
            table = ds.dataset(folder, exclude_invalid_files=True).to_table()
            assert duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall() == [(len(table),)]
            assert len(pd.read_parquet(folder)) == len(table)
            seen.append(table["value"].to_pylist())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_replace", look_after)
        job.run()
    assert seen[-1] == expected
    for column in seen:
        assert all(value in [*expected, *values] for value in column)
