"""`r3po try`: f on a few files in this process; nothing is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import DOUBLE, PICKY, make_job, r3po
from r3po import run_jobs, try_files
from r3po.config.settings import load_config
from r3po.errors import FunctionError, SourceError
from r3po.source.sample import sample_files
from r3po.state.job import open_job

ODD = """\
import json


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    print(f"at {n}")
    if n == 1:
        raise ValueError("one is odd")
    if n == 2:
        return [n]
    if n == 3:
        return {"other": n}
    if n == 4:
        return {"n": "four", "twice": 8}
    return {"n": n, "twice": 2 * n}
"""


def test_a_trial_shows_rows_types_and_guesses_and_keeps_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, 5)
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = r3po("try", cwd=tmp_path)
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[:3] == [["(file)", "n", "twice"], ["int64", "int64"], ["000.json", "0", "0"]]
    assert "5 files tried: 5 rows, 0 failed; nothing was kept" in ended.out
    assert "guessed from 4 files" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == before
    assert not job.output.exists()


def test_a_trial_says_of_each_file_what_a_run_says(tmp_path: Path) -> None:
    job = make_job(tmp_path, 6, ODD)
    ended = r3po("try", "--json", cwd=tmp_path)
    found = json.loads(ended.out)
    assert ended.code == 1
    assert "at 0\n" in ended.err, "what f prints is shown"
    assert found["rows"] == [{"n": 0, "twice": 0}, {"n": 5, "twice": 10}]
    result = run_jobs(job.config, engine="serial", progress=False)
    keys = ("path", "error_type", "message", "where", "traceback")
    of_run = [{key: failure[key] for key in keys} for failure in result.failures()]
    assert [{key: failure[key] for key in keys} for failure in found["failures"]] == of_run
    assert result.to_pandas().to_dict("records") == try_files(job.config).to_pandas().to_dict("records")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["002.json", "001.json"], "Next   r3po try --pdb 001.json"),
        (["002.json"], 'Next   let f return one dict a file, such as {"n": 1}'),
        (["000.json", "003.json"], "Next   give every file's row the same keys"),
        (["000.json", "004.json"], "Next   give every file's row the same keys"),
        (["005.json"], "Next   let f return what a table can hold"),
    ],
)
def test_the_next_step_is_the_debugger_only_where_f_raised(tmp_path: Path, files: list[str], said: str) -> None:
    make_job(
        tmp_path, 6, ODD.replace('    return {"n": n, "t', '    if n == 5:\n        n = 1j\n    return {"n": n, "t')
    )
    ended = r3po("try", *files, cwd=tmp_path)
    assert said in ended.out
    assert ("--pdb" in ended.out) == ("--pdb" in said)


def test_the_size_of_parts_is_a_range_that_holds_what_a_run_makes(tmp_path: Path) -> None:
    row = 'name = filepath[-8:]; return {"name": name, "kind": "ab"[n % 2], "n": n, "share": n / 7}'
    job = make_job(tmp_path, 400, DOUBLE.replace('return {"n": n, "twice": 2 * n}', row))
    found = try_files(job.config)
    estimate = found.estimate
    assert estimate is not None
    run_jobs(job.config, engine="serial", progress=False)
    for kind in ("csv", "parquet"):
        (part,) = (job.output / kind).glob("part-*")
        low, high = estimate.low_part_bytes[kind], estimate.high_part_bytes[kind]
        assert 0.9 * low <= part.stat().st_size <= 1.1 * high + 1000, "with what a Parquet file has at its end"
    assert "(guessed from 20 rows written as such)" in r3po("try", cwd=tmp_path).out


def test_a_column_of_two_kinds_is_named_with_a_file_of_each(tmp_path: Path) -> None:
    row = 'return {"n": n, "in": {"a": [n if n < 3 else "x"]}}'
    job = make_job(tmp_path, 5, DOUBLE.replace('return {"n": n, "twice": 2 * n}', row))
    (notice,) = try_files(job.config).notices
    said = 'column "in" holds values of different kinds: in.a[] is number in 000.json and text in 003.json; it is text'
    assert notice == said


def test_files_are_named_from_here_or_from_the_source(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3)
    found = try_files(job.config, files=[job.source / "001.json", "002.json"])
    assert [file["path"] for file in found.files] == ["001.json", "002.json"]
    assert [row["n"] for row in found.rows] == [1, 2]
    with pytest.raises(SourceError, match="no such file: nowhere"):
        try_files(job.config, files=["nowhere"])
    ended = r3po("try", "source/001.json", "--config", "config.yaml", cwd=tmp_path)
    assert (ended.code, "1 file tried" in ended.out) == (0, True)


def test_a_function_may_be_given_and_the_rows_are_plain(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3)
    found = try_files(job.config, lambda path: {"name": path[-8:]}, n=2)
    assert [row["name"] for row in found.rows] == [file["path"] for file in found.files]
    assert found.columns == {"name": "string"}
    with pytest.raises(FunctionError):
        try_files(job.config, lambda: {})


def test_a_trial_works_beside_a_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3)
    with open_job(load_config(job.config)):
        assert len(try_files(job.config).rows) == 3


def test_the_time_limit_holds_in_a_trial(tmp_path: Path) -> None:
    slow = DOUBLE.replace('["n"]\n', '["n"]\n    while n == 1:\n        pass\n')
    job = make_job(tmp_path, 3, slow, timeout_seconds=0.2)
    found = try_files(job.config)
    assert [(failure["path"], failure["error_type"]) for failure in found.failures] == [("001.json", "Timeout")]


def test_the_debugger_opens_where_f_raised(tmp_path: Path) -> None:
    make_job(tmp_path, 2, PICKY.format(bad=[1]))
    ended = r3po("try", "--pdb", cwd=tmp_path)
    assert ended.code == 1
    assert "double.py(10)double()" in ended.out and "(Pdb)" in ended.out
    assert "_on_error" not in ended.out


def test_ctrl_c_ends_a_trial_at_once_whatever_f_catches(tmp_path: Path) -> None:
    stubborn = """\
import time


def double(filepath):
    print("here", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
    make_job(tmp_path, 2, stubborn)
    command = [sys.executable, "-m", "r3po", "try"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
        assert time.monotonic() - started < 5


def test_an_interrupted_cell_ends_a_trial_and_is_no_failure_of_f(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            try_files(job.config, lambda path: signal.raise_signal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, previous)


def test_wide_rows_are_shown_one_column_a_line_within_the_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = 'def double(filepath):\n    return {f"column_{i}": "x" * i for i in range(50)}\n'
    make_job(tmp_path, 3, wide)
    monkeypatch.setenv("COLUMNS", "60")
    ended = r3po("try", cwd=tmp_path)
    table = ended.out.split("\n\n")[0].splitlines()
    assert table[1].split() == ["column_0", "string"]
    assert all(len(line) <= 60 for line in table[:40])
    assert "more columns" in ended.out


def test_a_sample_is_spread_over_folders_and_sizes_and_the_same_each_time(tmp_path: Path) -> None:
    job = make_job(tmp_path, 0)
    for folder in range(4):
        (job.source / f"d{folder}").mkdir(parents=True)
        for number in range(50):
            (job.source / f"d{folder}" / f"{number}.json").write_text(" " * (number * 10))
    config = load_config(job.config)
    found = sample_files(config, 8)
    assert found == sample_files(config, 8) != sample_files(config, 8, seed=1)
    assert (found.n_files, found.is_whole, len(found.paths)) == (200, True, 8)
    assert [sum(path.startswith(f"d{i}/") for path in found.paths) for i in range(4)] == [2, 2, 2, 2]
    sizes = sorted((job.source / path).stat().st_size for path in found.paths)
    assert sizes[0] < 70 and sizes[-1] > 420
    assert len(sample_files(config, 1000).paths) == 200
    cut = sample_files(config, 8, limit_s=0)
    assert not cut.is_whole and cut.n_files < 200 and len(cut.paths) == 8
