"""Jobs with `rows: many`: what f gives for a file, any number of rows, and what becomes of it over the job's runs."""

from __future__ import annotations

import csv
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import checker
import compare_parts
import r3po
import r3po.storage.durable as storage
from cut_short import cut_short, parts_in
from jobs import as_new_process
from jobs import r3po as command
from r3po.run.publisher import Publisher
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, SegmentWriter
from r3po.table.preview import Blocks
from r3po.worker import many_rows
from r3po.worker.staging import StageOrder
from rows_of_a_file import CALLS, CLOSED, give, give_all


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)
    monkeypatch.setattr(many_rows, "BLOCK_ROWS", 2)
    CALLS.clear()
    CLOSED.clear()


class ManyJob:
    """A job whose files hold the expressions that f returns."""

    def __init__(self, folder: Path, *texts: str, **keys: Any) -> None:
        self.folder, self.source, self.keys = folder, folder / "source", keys
        self.source.mkdir(parents=True)
        for n, text in enumerate(texts):
            self.write(n, text)

    def write(self, n: int, text: str) -> None:
        path = self.source / f"{n:03}.txt"
        path.write_text(text)
        os.utime(path, (1_600_000_000 + len(text), 1_600_000_000 + len(text)))

    @property
    def config(self) -> dict[str, Any]:
        fixed = {"processes": 1, "source_path": str(self.source), "source_file_part": ".txt", "job_name": "many"}
        folders = {"working_dir": str(self.folder / "work"), "output_path": str(self.folder / "out")}
        return {**fixed, **folders, "rows": "many", "shard_size": 3, "batch_seconds": 0.0001, **self.keys}

    def write_config(self, function: str) -> None:
        """Write config.yaml for the terminal."""
        lines = {**self.config, "function": function}
        (self.folder / "config.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in lines.items()))

    def run(self, function: Callable[..., Any] = give, **options: Any) -> r3po.RunResult:
        return r3po.run_jobs(self.config, function, engine="serial", progress=False, **options)

    def run_cut_short(self, after: int, **options: Any) -> bool:
        """Run, and die as the file of that number is begun. Returns whether it came so far."""
        return cut_short(partial(self.run, **options), after)

    def parts(self) -> dict[str, bytes]:
        return parts_in(self.folder / "out")

    def names(self, kind: str = "csv") -> list[str]:
        return [name.split("/part-")[1].split(".")[0] for name in self.parts() if name.startswith(kind)]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all Parquet parts in order, after a look at everything on disk."""
        out = self.folder / "out"
        assert r3po.verify_jobs(self.config).findings == ()
        path_column = self.keys.get("source_column")
        options: dict[str, Any] = {} if path_column is None else {"path_column": path_column, "has_many_rows": True}
        assert checker.check_job(self.folder / "work", out, **options) == []
        assert compare_parts.compare_parts(out) == []
        return [row for path in sorted((out / "parquet").glob("part-*")) for row in pq.read_table(path).to_pylist()]

    def failed(self) -> dict[str, str]:
        with open(self.folder / "out" / "failures" / "failures.csv", newline="") as file:
            return {line["path"][:3]: f"{line['error_type']}: {line['message']}" for line in csv.DictReader(file)}

    def numbers(self) -> list[Any]:
        return [row["n"] for row in self.rows()]


NewMany = Callable[..., ManyJob]


@pytest.fixture
def many_job(jobs_folder: Path) -> Iterator[NewMany]:
    numbers = itertools.count()
    yield lambda *texts, **keys: ManyJob(jobs_folder / f"job{next(numbers)}", *texts, **keys)


def rows_of(*numbers: int) -> str:
    return repr([{"n": n} for n in numbers])


def generator_of(*numbers: int) -> str:
    return f"gen({rows_of(*numbers)})"


# What f may return


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"n": 1}, {"n": 2}, {"n": 3}]', [1, 2, 3]),
        ('({"n": 1}, {"n": 2}, {"n": 3})', [1, 2, 3]),
        ('gen([{"n": 1}, {"n": 2}, {"n": 3}])', [1, 2, 3]),
        ('gen([Record(n=1), {"n": 2}, Record(n=3)])', [1, 2, 3]),
        ('({"n": n} for n in range(4))', [0, 1, 2, 3]),
        ('map(lambda n: {"n": n}, [4, 5])', [4, 5]),
        ('{"n": 7}', [7]),
        ("Record(n=8)", [8]),
        ("[]", []),
        ("gen([])", []),
    ],
)
def test_a_list_a_tuple_a_generator_or_one_dict_gives_its_rows_in_order(
    many_job: NewMany, text: str, expected: list[int]
) -> None:
    job = many_job(rows_of(0), text, generator_of(9))
    result = job.run()
    assert (result.done, result.failed, result.rows) == (3, 0, len(expected) + 2)
    assert job.numbers() == [0, *expected, 9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("None", "NoRows: f returned a NoneType; rows: many needs a list or a generator of dicts, or one dict"),
        ('"abc"', "NoRows: f returned a str; rows: many needs a list or a generator of dicts, or one dict"),
        ("7", "NoRows: f returned a int; rows: many needs a list or a generator of dicts, or one dict"),
        ('[{"n": 1}, 7]', "NoDict: row 1: f returned a int; each row is one dict"),
        ('[{"n": 1}, [{"n": 2}]]', "NoDict: row 1: f returned a list; each row is one dict"),
        ('[{"n": 1}] * 5 + [{"n": "x"}]', "BadRow: row 5: column"),
        ('[{"n": 1}] * 5 + [{}]', "BadRow: row 5: "),
        ('[{"n": 1}] * 5 + [{"n": 1, "m": 2}]', "BadRow: row 5: "),
        ('[{"n": 1}] * 5 + [{"n": 1 << 70}] + [{"n": 1}] * 3', "BadRow: row 5: "),
        ('[{"n": 1}] * 4 + [{"n": 1 << 70}]', "BadRow: row 4: "),
        ("until(500)", "ValueError: the file ends in the middle"),
    ],
)
def test_a_file_with_one_row_that_is_none_is_one_failure_and_none_of_its_rows_counts(
    many_job: NewMany, text: str, words: str
) -> None:
    job = many_job(rows_of(10, 11), text, rows_of(12), row_column="i", batch_seconds=10)
    result = job.run()
    assert (result.done, result.failed, result.rows) == (2, 1, 3)
    assert job.rows() == [{"i": 0, "n": 10}, {"i": 1, "n": 11}, {"i": 0, "n": 12}]
    assert list(job.failed()) == ["001"]
    assert words in job.failed()["001"]


def test_a_failure_in_the_middle_has_its_place_in_the_code_of_f(many_job: NewMany) -> None:
    job = many_job(rows_of(1), "until(500)")
    (failure,) = job.run().failures()
    line = next(
        n for n, text in enumerate(Path(give.__code__.co_filename).read_text().split("\n"), 1) if "ends in" in text
    )
    assert failure["where"].endswith(f"rows_of_a_file.py:{line} in until")
    assert "many_rows.py" not in failure["traceback"].replace("test_many_rows.py", "")


def test_a_generator_whose_row_is_refused_is_closed(many_job: NewMany) -> None:
    job = many_job(rows_of(1), 'gen([{"n": 1}, {"n": "x"}, {"n": 2}])')
    assert job.run().failed == 1
    assert CLOSED == ["1"]


def test_a_job_of_files_without_rows_is_done_and_has_no_part(many_job: NewMany) -> None:
    job = many_job("[]", "gen([])", "()", "[]")
    result = job.run()
    assert (result.done, result.failed, result.rows) == (4, 0, 0)
    assert job.parts() == {}
    assert job.rows() == []
    CALLS.clear()
    assert job.run().done == 4
    assert CALLS == []


def test_files_without_rows_come_before_the_first_row(many_job: NewMany) -> None:
    job = many_job("[]", "[]", "[]", "[]", rows_of(4, 5), shard_size=2)
    assert job.run().rows == 2
    assert job.numbers() == [4, 5]


@pytest.mark.parametrize("text", ["until(5, {'other': 'x', 'n': 1, 'more': 2.5})", "[{'x': b'', 'y': 2}] * 5 + [0]"])
def test_a_first_file_that_fails_sets_no_columns(many_job: NewMany, text: str) -> None:
    job = many_job(text, rows_of(1, 2, 3), text, batch_seconds=10)
    result = job.run()
    assert (result.done, result.failed) == (1, 2)
    assert job.rows() == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_row_of_a_first_file_that_cannot_be_kept_fails_when_its_block_is_written(many_job: NewMany) -> None:
    """Its columns stand: they were durable before its last block."""
    job = many_job('[{"n": 1}, {"n": 2}, {"n": 1 << 70}]', rows_of(3))
    result = job.run()
    assert (result.done, result.failed) == (1, 1)
    assert job.numbers() == [3]


def test_the_columns_that_r3po_adds_say_file_and_number(many_job: NewMany) -> None:
    job = many_job(generator_of(5, 6, 7), "[]", '{"n": 8}', rows_of(9, 10), source_column="file", row_column="i")
    job.run()
    assert [tuple(row.values()) for row in job.rows()] == [
        ("000.txt", 0, 5),
        ("000.txt", 1, 6),
        ("000.txt", 2, 7),
        ("002.txt", 0, 8),
        ("003.txt", 0, 9),
        ("003.txt", 1, 10),
    ]
    assert list(job.rows()[0]) == ["file", "i", "n"]


# Runs that stop, retries, changes


TEXTS = (
    rows_of(0, 1, 2),
    "[]",
    "until(3)",
    generator_of(3, 4, 5, 6, 7),
    '{"n": 8}',
    rows_of(9),
    generator_of(10, 11, 12),
)


def test_a_run_that_stops_anywhere_goes_on_to_the_same_parts(many_job: NewMany) -> None:
    undisturbed = many_job(*TEXTS)
    undisturbed.run()
    for first in (1, 3, 4):
        job = many_job(*TEXTS)
        n = 0
        while job.run_cut_short(first + n):
            n += 1
            assert n < 60
        assert n > 1
        assert job.numbers() == list(range(13))
        assert list(job.failed()) == ["002"]
        assert job.parts() == undisturbed.parts()


def test_what_a_retry_gives_lies_in_its_place(many_job: NewMany) -> None:
    job = many_job(rows_of(0), "until(3)", rows_of(4))
    job.run()
    job.write(1, rows_of(1, 2, 3))
    CALLS.clear()
    assert job.run().failed == 0
    assert (CALLS, job.numbers()) == (["001.txt"], [0, 1, 2, 3, 4])
    job.write(1, "until(4)")
    assert (job.run().failed, job.numbers()) == (1, [0, 4])
    CALLS.clear()
    job.run(retry_failed=True)
    assert (CALLS, job.numbers(), list(job.failed())) == (["001.txt"], [0, 4], ["001"])


@pytest.mark.parametrize("text", ["[]", rows_of(50), generator_of(50, 51, 52, 53, 54, 55), '{"n": 50}'])
def test_a_changed_file_has_the_rows_of_now(many_job: NewMany, text: str) -> None:
    job = many_job(*TEXTS)
    job.run()
    job.write(3, text)
    CALLS.clear()
    job.run()
    fresh = many_job(*TEXTS[:3], text, *TEXTS[4:])
    assert CALLS == ["003.txt"]
    fresh.run()
    assert job.rows() == fresh.rows()
    assert job.parts() == fresh.parts()


@pytest.mark.parametrize("keeps", [False, True])
def test_rows_of_a_deleted_file_go_or_stay_together(many_job: NewMany, keeps: bool) -> None:
    job = many_job(*TEXTS, on_deleted="keep" if keeps else "drop", source_column="file")
    job.run()
    (job.source / "003.txt").unlink()
    result = job.run()
    left = list(range(13)) if keeps else [0, 1, 2, 8, 9, 10, 11, 12]
    assert job.numbers() == left
    assert result.rows == len(left)


def test_a_redo_makes_all_rows_again_whatever_is_killed(many_job: NewMany) -> None:
    job = many_job(*TEXTS, part_rows=2, shard_size=10)
    job.run()
    assert len(job.names()) == 7
    before = job.parts()
    job.write(3, "[]")
    for after in range(4, 80, 3):
        is_begun = (job.folder / "work" / "former.json").exists()
        if not job.run_cut_short(after, redo=not is_begun):
            break
    else:
        pytest.fail("it never ends")
    fresh = many_job(*TEXTS[:3], "[]", *TEXTS[4:], part_rows=2, shard_size=10)
    fresh.run()
    assert job.numbers() == fresh.numbers()
    assert job.parts() == fresh.parts() != before


def test_a_run_with_a_limit_counts_files(many_job: NewMany) -> None:
    job = many_job(*TEXTS)
    result = job.run(limit=2)
    assert (result.done, result.failed, result.pending) == (2, 0, 5)
    assert job.run().rows == 13
    assert job.numbers() == list(range(13))


# Beside other settings


def test_ragged_rows_of_many(many_job: NewMany) -> None:
    texts = ('[{"a": 1, "b": 2}, {"a": 2}, {"a": 3, "z": 1}]', "[]", '[{"b": "x", "a": 1.5}] * 3', '{"z": "y"}')
    ragged = {"missing_keys": "null", "extra_keys": "add", "mixed": "json"}
    job = many_job(*texts, **ragged, row_column="i")
    assert job.run().failed == 0
    assert [tuple(row.values()) for row in job.rows()] == [
        (0, 1.0, "2", None),
        (1, 2.0, None, None),
        (2, 3.0, None, "1"),
        (0, 1.5, '"x"', None),
        (1, 1.5, '"x"', None),
        (2, 1.5, '"x"', None),
        (0, None, None, '"y"'),
    ]


def test_keys_that_are_left_out_are_told_once_a_file(many_job: NewMany) -> None:
    texts = ('[{"a": 1}, {"a": 2, "z": 1}, {"a": 3, "z": 1}]', '[{"a": 1, "z": 4}] * 5', '{"a": 4}')
    job = many_job(*texts, extra_keys="drop")
    result = job.run()
    assert [row["a"] for row in job.rows()] == [1, 2, 3, 1, 1, 1, 1, 1, 4]
    assert any('left out: "z" (2 files)' in notice for notice in result.notices), result.notices


def test_columns_that_are_said_hold_for_each_row(many_job: NewMany) -> None:
    job = many_job('[{"n": 1}, {"n": 127}]', '[{"n": 1}, {"n": 1}, {"n": 128}]', columns={"n": "int8"})
    result = job.run()
    assert (result.failed, job.numbers()) == (1, [1, 127])
    assert "row 2: " in job.failed()["001"]


def test_many_files_a_call_with_many_rows_each(many_job: NewMany) -> None:
    job = many_job(*TEXTS, '[{"n": "x"}]', "None", batch_files=4, shard_size=20, batch_seconds=10)
    result = job.run(give_all)
    assert (result.done, result.failed, result.rows) == (6, 3, 13)
    assert job.numbers() == list(range(13))
    assert list(job.failed()) == ["002", "007", "008"]


def test_one_generator_is_slow_and_its_file_fails(many_job: NewMany) -> None:
    job = many_job(rows_of(0, 1), "slow(5)", rows_of(2, 3), timeout_seconds=0.3, batch_seconds=10)
    result = job.run()
    assert (result.failed, job.numbers()) == (1, [0, 1, 2, 3])
    assert job.failed()["001"].startswith("Timeout: ")


def test_a_time_limit_waits_for_a_block_that_is_being_written(
    many_job: NewMany, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds for f: what r3po writes in the meantime is whole, or not there."""
    write, interrupted = SegmentWriter.write_rows, []

    def write_slowly(self: SegmentWriter, block: Any) -> None:
        try:
            time.sleep(0.5)
            write(self, block)
        except BaseException as error:
            interrupted.append(error)
            raise

    monkeypatch.setattr(SegmentWriter, "write_rows", write_slowly)
    job = many_job('{"n": 0}', generator_of(*range(50)), '{"n": 1}', timeout_seconds=0.3, batch_seconds=10)
    result = job.run()
    assert interrupted == []
    assert (result.failed, job.numbers()) == (1, [0, 1])


def test_a_disk_that_refuses_a_block_stops_the_run_and_is_no_failure_of_a_file(
    many_job: NewMany, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r3po.state.segments import SegmentWriter

    write, n_written = SegmentWriter.write_rows, itertools.count()

    def refuse(self: SegmentWriter, block: Any) -> None:
        if next(n_written) == 3:
            raise OSError(28, "No space left on device")
        write(self, block)

    job = many_job(*TEXTS)
    with monkeypatch.context() as patch, pytest.raises(r3po.RunStoppedError, match="No space left"):
        patch.setattr(SegmentWriter, "write_rows", refuse)
        job.run()
    assert job.run().failed == 1
    assert (job.numbers(), list(job.failed())) == (list(range(13)), ["002"])


# From one row to many, and back


def test_a_list_in_a_job_of_one_row_is_told_of_rows_many(many_job: NewMany) -> None:
    job = many_job(rows_of(1), rows_of(2), rows="one")
    with pytest.raises(r3po.FunctionError) as caught:
        job.run()
    assert "rows: many" in f"{caught.value} {caught.value.hint}"


def test_a_job_goes_from_one_row_to_many_and_back_without_a_call(many_job: NewMany) -> None:
    job = many_job('{"n": 0}', '{"n": 1}', '{"n": 2}', '{"n": 3}', rows="one")
    job.run()
    whole = job.parts()
    job.keys["rows"] = "many"
    CALLS.clear()
    job.run()
    assert (CALLS, job.parts()) == ([], whole)
    job.write(2, rows_of(20, 21, 22))
    job.write(4, rows_of(40, 41))
    job.run()
    assert (CALLS, job.numbers()) == (["002.txt", "004.txt"], [0, 1, 20, 21, 22, 3, 40, 41])
    job.keys["rows"] = "one"
    job.write(2, '{"n": 2}')
    job.run()
    assert job.numbers() == [0, 1, 2, 3, 40, 41]


# Parts


def test_part_rows_cuts_every_shard_alike_in_csv_and_parquet(many_job: NewMany) -> None:
    job = many_job(*TEXTS, part_rows=4, shard_size=4)
    job.run()
    assert job.names("csv") == job.names("parquet") == ["00000-00000", "00000-00001", "00001-00000", "00001-00001"]
    found = [pq.read_table(path)["n"].to_pylist() for path in sorted((job.folder / "out/parquet").glob("part-*"))]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]
    assert job.numbers() == list(range(13))


@pytest.mark.parametrize(("n", "names"), [(3, ["00000"]), (4, ["00000-00000", "00000-00001"]), (0, [])])
def test_one_part_has_the_name_of_its_shard_and_surplus_ones_go(many_job: NewMany, n: int, names: list[str]) -> None:
    job = many_job(rows_of(*range(10)), part_rows=3)
    job.run()
    assert len(job.names()) == 4
    job.write(0, f"gen([{{'n': n}} for n in range({n})])")
    job.run()
    assert job.names("csv") == job.names("parquet") == names
    assert job.numbers() == list(range(n))
    fresh = many_job(f"gen([{{'n': n}} for n in range({n})])", part_rows=3)
    fresh.run()
    assert job.parts() == fresh.parts()


def test_another_size_of_parts_cuts_them_again_without_a_call(many_job: NewMany) -> None:
    job = many_job(*TEXTS, shard_size=10)
    job.run()
    whole = job.parts()
    CALLS.clear()
    for part_rows, n_parts in ((5, 3), (13, 1), (1, 13), (12, 2)):
        job.keys["part_rows"] = part_rows
        job.run()
        assert (len(job.names()), job.numbers()) == (n_parts, list(range(13)))
    job.keys |= {"csv": False}
    job.run()
    assert (len(job.names("csv")), len(job.names("parquet"))) == (0, 2)
    del job.keys["part_rows"], job.keys["csv"]
    job.run()
    assert (CALLS, job.parts()) == ([], whole)


def test_cut_parts_of_before_go_when_the_first_part_is_made_again_with_wider_types(
    many_job: NewMany, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = many_job(rows_of(*range(6)), rows_of(10), part_rows=2, shard_size=1)
    job.run()
    job.write(1, "[{'n': 1.5}]")
    job.run()
    # Its worker began with it before the float was known.
    ordered = Publisher.stage_order

    def order_early(publisher: Publisher, ref: ShardRef, segments: Iterable[Segment] = ()) -> StageOrder:
        order = ordered(publisher, ref, segments)
        return replace(order, schema=None) if order.segments else order

    monkeypatch.setattr(Publisher, "stage_order", order_early)
    job.write(0, rows_of(7))
    job.run()
    assert job.names("csv") == job.names("parquet") == ["00000", "00001"]
    assert job.numbers() == [7, 1.5]


def test_a_first_part_that_cannot_be_made_again_yet_keeps_what_its_shard_has_got_since(many_job: NewMany) -> None:
    job = many_job(*map(rows_of, range(6)))
    job.run()
    CALLS.clear()
    job.write(0, rows_of(100))
    job.write(1, f"later(name, {rows_of(101)})")  # comes last, behind the float, which wants a wider first part
    job.write(4, "[{'n': 1.5}]")
    job.run()
    assert CALLS == ["000.txt", "001.txt", "004.txt", "001.txt"]
    assert job.numbers() == [100, 101, 2, 3, 1.5, 5]


def test_part_bytes_cuts_between_row_groups(many_job: NewMany, monkeypatch: pytest.MonkeyPatch) -> None:
    from r3po.table import outcomes

    monkeypatch.setattr(outcomes, "ROW_GROUP_BYTES", 1000)
    text = "({'n': n, 't': 'x' * 484} for n in range(11))"  # 500 bytes a row, two of which are a row group
    job = many_job(text, part_bytes=2400)
    job.run()
    paths = sorted((job.folder / "out/parquet").glob("part-*"))
    assert [pq.read_metadata(path).num_rows for path in paths] == [4, 4, 3]
    assert [pq.read_metadata(path).num_row_groups for path in paths] == [2, 2, 2]
    assert job.numbers() == list(range(11))


def test_verify_finds_each_harm_to_one_of_several_parts(many_job: NewMany) -> None:
    job = many_job(*TEXTS, part_rows=4, shard_size=10)
    job.run()
    folder = job.folder / "out" / "csv"
    whole = job.parts()
    part = folder / "part-00000-00002.csv"
    for harm, name in (
        (part.unlink, part.name),
        (lambda: part.write_text("n\n7\n"), part.name),
        (lambda: part.write_bytes(part.read_bytes().replace(b"9", b"8")), part.name),
        (lambda: (folder / "part-00000-00009.csv").write_text("n\n1\n"), "part-00000-00009.csv"),
        (lambda: (folder / "part-00000.csv").write_text("n\n1\n"), "part-00000.csv"),
    ):
        harm()
        found = r3po.verify_jobs(job.config).findings
        assert {Path(finding.where).name for finding in found} == {name}, found
        (folder / name).unlink(missing_ok=True)
        job.run()
        assert job.numbers() == list(range(13))
        assert job.parts() == whole


# What is told


def test_files_and_rows_are_told_apart_at_every_door(many_job: NewMany) -> None:
    job = many_job(*TEXTS)
    job.write_config(f"{give.__code__.co_filename}:give")

    def told(*arguments: str) -> dict[str, Any]:
        return command(*arguments, "--json", cwd=job.folder).json()

    counts = {"files": 7, "done": 6, "failed": 1, "rows": 13}
    with as_new_process(job.folder):
        ran = told("run", "--engine", "serial")
        assert {key: ran[key] for key in counts} == counts
        status = told("status")
        assert {key: status[key] for key in counts} == counts
        verified = told("verify")
        assert {key: verified[key] for key in counts if key in verified} == {
            key: value for key, value in counts.items() if key in verified
        }
        assert "13" in command("status", cwd=job.folder).said


def test_a_trial_shows_rows_of_many(many_job: NewMany) -> None:
    job = many_job(*TEXTS, row_column="i")
    tried = r3po.try_files(job.config, give, 7)
    assert [row["n"] for row in tried.rows] == list(range(13))
    assert [failure["path"] for failure in tried.failures] == ["002.txt"]
    assert not (job.folder / "out").exists()


@pytest.mark.parametrize("batch_files", [None, 2])
def test_in_a_trial_a_time_limit_waits_for_a_block_too(
    many_job: NewMany, monkeypatch: pytest.MonkeyPatch, batch_files: int | None
) -> None:
    n_blocks = []

    def write_slowly(self: Blocks, block: Any) -> None:
        n_blocks.append(False)
        time.sleep(0.5)
        n_blocks[-1] = True

    monkeypatch.setattr(Blocks, "write_rows", write_slowly)
    keys = {} if batch_files is None else {"batch_files": batch_files}
    job = many_job(rows_of(1), generator_of(*range(50)), timeout_seconds=0.3, **keys)
    tried = r3po.try_files(job.config, give if batch_files is None else give_all, 2)
    assert n_blocks and all(n_blocks)
    assert [failure["error_type"] for failure in tried.failures] == ["Timeout"]


def give_one_array(filepath: str) -> Iterator[dict[str, Any]]:
    numpy = pytest.importorskip("numpy")
    held = numpy.array(0)
    for n in range(3):
        held[...] = n
        yield {"n": held}


def test_an_array_that_f_uses_again_gives_each_row_the_value_of_then(many_job: NewMany) -> None:
    job = many_job("[]")
    assert job.run(give_one_array).rows == 3
    assert [row["n"] for row in job.run(give_one_array).to_arrow().to_pylist()] == [0, 1, 2]


def test_a_first_file_that_fails_in_a_call_with_others_sets_no_columns_for_them(many_job: NewMany) -> None:
    job = many_job("[{'a': 1}, {'c': 1}]", "[{'b': 1}]", "[{'b': 2}]", batch_files=3)
    result = job.run(give_all)
    assert (result.done, result.failed, result.rows) == (2, 1, 2)
