"""Jobs whose f takes many files at once: the table is that of a plain loop, whoever fails, and however a run ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import r3po as r3po_package
from jobs import (
    DOUBLE,
    HAS_PROC,
    Job,
    as_new_process,
    doubled,
    kill_tree,
    make_job,
    r3po,
    run_process,
    running,
)
from r3po import try_files

DOUBLES = """\
import json
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def double(paths):
    numbers = []
    for path in paths:
        with open(path) as file:
            numbers.append(json.load(file)["n"])
    with open(os.path.join(HERE, "calls.log"), "a") as log:
        log.write(" ".join(map(str, numbers)) + "\\n")
    {body}
    return [{{"n": n, "twice": 2 * n}} for n in numbers]
"""

PICKY_ALONE = DOUBLE.replace(
    "    return", '    if n in (3, 20):\n        raise ValueError(f"{n} is a bad number")\n    return'
)
PICKY_MANY = 'bad = [n for n in numbers if n in (3, 20)]\n    if bad: raise ValueError(f"{bad[0]} is a bad number")'


def many_job(folder: Path, n_files: int = 40, body: str = "pass", batch_files: int = 8, **settings: Any) -> Job:
    return make_job(folder, n_files, DOUBLES.format(body=body), batch_files=batch_files, **settings)


def calls_of(job: Job) -> list[list[int]]:
    return [[int(n) for n in line.split()] for line in (job.folder / "calls.log").read_text().splitlines()]


@pytest.mark.parametrize("batch_files", [1, 2, 7, 40, 64])
def test_the_table_is_that_of_an_f_for_one_file(tmp_path: Path, batch_files: int) -> None:
    one = make_job(tmp_path / "one", 40, PICKY_ALONE, shard_size=15)
    many = many_job(tmp_path / "many", 40, PICKY_MANY, batch_files, shard_size=15)
    assert (one.run().code, many.run().code) == (1, 1)
    csv_parts = [{name: part for name, part in job.published("csv").items()} for job in (one, many)]
    assert csv_parts[0] == csv_parts[1]
    assert [failure["path"] for failure in many.failures()] == ["003.json", "020.json"]
    named = ("path", "error_type", "message")
    alone, found = ([[failure[name] for name in named] for failure in job.failures()] for job in (one, many))
    assert alone == found
    assert max(map(len, calls_of(many))) == min(batch_files, 15)
    assert many.findings() == []
    verified = r3po("verify", cwd=many.folder)
    assert verified.code == 0, verified.said


def test_with_bytes_the_table_is_the_same(tmp_path: Path) -> None:
    source = "import json\n\ndef double(paths, datas):\n"
    source += '    return [{"n": json.loads(data)["n"], "twice": 2 * json.loads(data)["n"]} for data in datas]\n'
    job = make_job(tmp_path, 10, source, batch_files=4, input="bytes")
    assert job.run().code == 0
    assert job.rows() == doubled(*range(10))


def test_failures_are_tried_again_in_calls_with_others(tmp_path: Path) -> None:
    job = many_job(tmp_path, 20, PICKY_MANY.replace("(3, 20)", "(3, 12)"))
    assert job.run().code == 1
    (job.folder / "calls.log").unlink()
    job.write_function(DOUBLES.format(body="pass"))
    assert job.run().code == 0
    assert calls_of(job) == [[3, 12]]
    assert job.rows() == doubled(*range(20))


def test_a_changed_size_of_calls_is_no_reason_to_do_anything_again(tmp_path: Path) -> None:
    job = many_job(tmp_path, 10)
    assert job.run().code == 0
    job.write_config(batch_files=3)
    ended = job.run()
    assert ended.code == 0 and "Nothing to do" in ended.err


def test_a_limited_run_and_those_after_it_call_f_on_each_file_once(tmp_path: Path) -> None:
    job = many_job(tmp_path, 40, batch_files=8)
    for _ in range(3):
        assert job.run("--limit", "15").code == 0
    assert sorted(n for call in calls_of(job) for n in call) == list(range(40))
    assert job.rows() == doubled(*range(40))


def test_f_may_be_given_from_python(tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = many_job(tmp_path, 10)
        result = r3po_package.run_jobs(
            job.config, lambda paths: [{"name": os.path.basename(p)} for p in paths], engine="serial", progress=False
        )
    assert (result.done, result.failed) == (10, 0)
    assert [row["name"] for row in job.rows()] == [f"{n:03}.json" for n in range(10)]


def test_f_may_be_a_class_that_is_made_once(tmp_path: Path) -> None:
    source = """\
import json
from pathlib import Path


class Double:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, paths):
        numbers = [json.loads(Path(path).read_text())["n"] for path in paths]
        return [{"n": n, "twice": self.factor * n} for n in numbers]
"""
    job = make_job(tmp_path, 10, source, batch_files=4, function_args={"factor": 2})
    job.write_config(function="double.py:Double")
    assert job.run().code == 0
    assert job.rows() == doubled(*range(10))


# What f is told that takes one file


def test_an_f_for_one_file_is_told_of_batch_files(tmp_path: Path) -> None:
    job = make_job(tmp_path, 10, DOUBLE, batch_files=4)
    ended = job.run()
    assert ended.code == 1
    assert "warning: double gave no row for the first 10 files" in ended.err
    assert "with batch_files it gets a list of paths" in ended.err


def test_an_f_that_gives_one_dict_is_refused_and_nothing_is_recorded(tmp_path: Path) -> None:
    job = make_job(tmp_path, 10, "def double(paths):\n    return {'n': 1}\n", batch_files=4)
    ended = job.run()
    assert ended.code == 2
    assert "error: double gave no list of rows for 000.json" in ended.err
    assert "f returned a dict for a list of 1 path; batch_files needs a list of 1 dict, one a file" in ended.err
    assert job.status()["pending"] == 10


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "batch_files: 0   must be greater than 0"),
        (20_000, "batch_files: 20000   must be at most 10,000"),
        ("many", 'batch_files: "many"   must be a whole number of files, or null, without quotes'),
    ],
)
def test_a_size_that_makes_no_sense_is_refused(tmp_path: Path, value: object, words: str) -> None:
    job = many_job(tmp_path, 1, batch_files=value)  # type: ignore[arg-type]
    ended = job.run()
    assert ended.code == 2
    assert words in ended.err


# A trial


def test_a_trial_finds_the_same_rows_and_failures_as_a_run(tmp_path: Path) -> None:
    job = many_job(tmp_path, 20, PICKY_MANY.replace("(3, 20)", "(3, 12)"))
    with as_new_process(tmp_path):
        found = try_files(job.config)
    assert [row["n"] for row in found.rows] == [n for n in range(20) if n not in (3, 12)]
    assert [failure["path"] for failure in found.failures] == ["003.json", "012.json"]
    assert [file["path"] for file in found.files] == [f"{n:03}.json" for n in range(20)]
    assert calls_of(job)[0] == list(range(8))
    assert job.run().code == 1
    keys = ("path", "error_type", "message", "where", "traceback")
    of_run, of_trial = ([{key: f[key] for key in keys} for f in fs] for fs in (job.failures(), found.failures))
    assert of_run == of_trial


def test_the_debugger_opens_in_the_call_with_the_culprit_alone(tmp_path: Path) -> None:
    many_job(tmp_path, 8, PICKY_MANY)
    ended = r3po("try", "--pdb", cwd=tmp_path)
    assert ended.code == 1
    assert ended.out.count("(Pdb)") == 1


# With any number of rows a file

ROWS_OF = """\
import json


def rows_of(path):
    with open(path) as file:
        n = json.load(file)["n"]
    for i in range(n % 5):
        if n in (8, 23) and i == 2:
            raise ValueError(f"{n} is a bad number")
        yield {"n": n, "i": "odd" if n == 14 and i == 3 else i}


def rows_of_many(paths):
    return [rows_of(path) for path in paths]
"""


@pytest.mark.parametrize(("block_rows", "batch_files"), [(3, 1), (3, 40), (50_000, 4)])
def test_with_rows_many_the_table_is_that_of_an_f_for_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int, batch_files: int
) -> None:
    monkeypatch.setattr("r3po.worker.many_rows.BLOCK_ROWS", block_rows)
    one = make_job(tmp_path / "one", 40, ROWS_OF, rows="many", shard_size=15)
    many = make_job(tmp_path / "many", 40, ROWS_OF, rows="many", shard_size=15, batch_files=batch_files)
    one.write_config(function="double.py:rows_of")
    many.write_config(function="double.py:rows_of_many")
    assert (one.run().code, many.run().code) == (1, 1)
    named = ("path", "error_type", "message", "where")
    alone, found = ([[failure[name] for name in named] for failure in job.failures()] for job in (one, many))
    assert alone == found
    assert [path for path, *_ in found] == ["008.json", "014.json", "023.json"]
    assert one.published("csv") == many.published("csv")
    assert len(many.rows()) == sum(n % 5 for n in range(40) if n not in (8, 14, 23))
    verified = r3po("verify", cwd=many.folder)
    assert verified.code == 0, verified.said


def test_with_rows_many_a_trial_has_the_rows_of_every_call(tmp_path: Path) -> None:
    job = make_job(tmp_path, 12, ROWS_OF, rows="many", batch_files=4)
    job.write_config(function="double.py:rows_of_many")
    with as_new_process(tmp_path):
        found = try_files(job.config)
    assert [file["path"] for file in found.files] == [f"{n:03}.json" for n in range(12)]
    assert len(found.rows) == sum(n % 5 for n in range(12) if n != 8)
    assert job.run().code == 1
    assert len(job.rows()) == len(found.rows)


def test_with_rows_many_a_list_is_needed_all_the_same(tmp_path: Path) -> None:
    source = "def double(paths):\n    return 7\n"
    job = make_job(tmp_path, 4, source, rows="many", batch_files=4)
    ended = job.run()
    assert ended.code == 2
    assert "f returned a int for a list of 1 path; batch_files needs a list with the rows of each file" in ended.err


# Kills


def ends_of(job: Job, most: int) -> list[int]:
    """Run as processes of their own until one ends by itself; return how each ended."""
    codes: list[int] = []
    while not codes or codes[-1] < 0:
        assert len(codes) < most
        codes.append(run_process("run", "--engine", "serial", cwd=job.folder).code)
    return codes


@pytest.mark.faults
def test_a_file_that_ends_the_whole_run_is_a_failure_in_the_end_and_its_neighbours_have_rows(tmp_path: Path) -> None:
    job = many_job(tmp_path, 20, "if 11 in numbers: os.kill(os.getpid(), signal.SIGSEGV)")
    assert ends_of(job, 6) == [-signal.SIGSEGV] * 4 + [1], "among others, in a call by itself, and twice alone"
    (failure,) = job.failures()
    assert (failure["path"], failure["error_type"]) == ("011.json", "WorkerDied")
    assert failure["message"] == "SIGSEGV: the process died in this file, alone, twice"
    assert job.rows() == doubled(*(n for n in range(20) if n != 11))
    assert not (job.working_dir / "suspects.json").exists()
    deadly = [call for call in calls_of(job) if 11 in call]
    assert [len(call) for call in deadly] == [8, 1, 1, 1]
    assert job.findings() == []


@pytest.mark.faults
@pytest.mark.skipif(not HAS_PROC, reason="kills a tree of processes, found by /proc")
def test_a_kill_in_the_middle_of_a_call_costs_that_call(tmp_path: Path) -> None:
    wait = "while 20 in numbers and not os.path.exists(os.path.join(HERE, 'gate')): time.sleep(0.01)"
    job = many_job(tmp_path, 40, wait)
    with running("run", "--engine", "serial", cwd=tmp_path) as process:
        process.wait_until(lambda: any(20 in call for call in calls_of_if_any(job)), "f has 020.json in hand")
        kill_tree(process.pid)
    job.open_gate()
    ended = job.run()
    assert ended.code == 0
    assert "8 files were in a call of f when a run was killed; each goes into a call by itself now" in ended.err
    assert job.rows() == doubled(*range(40))
    assert [call for call in calls_of(job) if 20 in call] == [list(range(16, 24)), [20]]
    assert not (job.working_dir / "suspects.json").exists()
    assert job.findings() == []


def calls_of_if_any(job: Job) -> list[list[int]]:
    return calls_of(job) if (job.folder / "calls.log").exists() else []


@pytest.mark.faults
def test_what_a_killed_run_had_in_a_call_is_known_until_it_is_done(tmp_path: Path) -> None:
    """The next run is killed, too, before it has come to them."""
    job = many_job(tmp_path, 20, "if 11 in numbers: os.kill(os.getpid(), signal.SIGSEGV)", shard_size=10)
    assert run_process("run", "--engine", "serial", cwd=tmp_path).code == -signal.SIGSEGV
    job.write_function("import os, signal\n\nos.kill(os.getpid(), signal.SIGKILL)\n\ndef double(paths): ...\n")
    assert run_process("run", "--engine", "serial", cwd=tmp_path).code == -signal.SIGKILL
    assert json.loads((job.working_dir / "suspects.json").read_text())["calls"] == [[1, 0, 8]]
    job.write_function(DOUBLES.format(body="pass"))
    (job.folder / "calls.log").unlink()
    assert job.run().code == 0
    assert [len(call) for call in calls_of(job)] == [1] * 8 + [2]
    assert job.rows() == doubled(*range(20))
    assert not (job.working_dir / "suspects.json").exists()


# Under Ray

HOSTILE = """\
import ctypes
    for n in numbers:
        if n == 37: ctypes.string_at(0)
        if n == 90: ctypes.PyDLL(None).pause()"""
"""37 crashes, 90 hangs in C, where no signal reaches Python."""


@pytest.mark.ray
@pytest.mark.faults
def test_files_that_crash_or_hang_among_64_fail_alone(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = many_job(tmp_path, 200, HOSTILE, 64, shard_size=130, timeout_seconds=1.0)
        result = r3po_package.run_jobs(job.config, progress=False)
        failures = result.failures()
    found = {failure["path"]: (failure["error_type"], failure["message"]) for failure in failures}
    assert found == {
        "037.json": ("WorkerDied", "SIGSEGV: the process died in this file, alone, twice"),
        "090.json": ("Timeout", "f took longer than timeout_seconds: 1"),
    }
    assert (result.done, result.failed, result.pending) == (198, 2, 0)
    assert job.rows() == doubled(*(n for n in range(200) if n not in (37, 90)))
    assert max(map(len, calls_of(job))) == 64
    assert not (job.working_dir / "suspects.json").exists()
    assert job.findings() == []
    (run,) = job.working_dir.glob("runs/*")
    happened = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lost = [event for event in happened if event["event"] == "WorkerLost"]
    assert any(event["is_of_several"] for event in lost)
    assert {e["path"] for e in lost if not e["is_of_several"]} <= {*found, ""}


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.skipif(not HAS_PROC, reason="kills a tree of processes, found by /proc")
def test_a_kill_of_everything_in_the_middle_of_calls_loses_no_row_and_doubles_none(tmp_path: Path) -> None:
    wait = "while max(numbers) >= 40 and not os.path.exists(os.path.join(HERE, 'gate')): time.sleep(0.01)"
    job = many_job(tmp_path, 200, wait, 16, shard_size=64)
    with running("run", cwd=tmp_path) as process:
        in_hand = lambda: [call for call in calls_of_if_any(job) if max(call) >= 40]  # noqa: E731
        process.wait_until(lambda: len(in_hand()) == 2, "both workers have a call in hand", 120)
        kill_tree(process.pid)
    stuck = sorted(n for call in in_hand() for n in call)
    job.open_gate()
    ended = job.run()
    assert ended.code == 0, ended.err
    assert f"{len(stuck)} files were in a call of f when a run was killed" in ended.err
    assert job.rows() == doubled(*range(200))
    assert sorted(call for call in calls_of(job) if len(call) == 1) == [[n] for n in stuck]
    assert not (job.working_dir / "suspects.json").exists()
    assert job.findings() == []
