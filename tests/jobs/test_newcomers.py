"""What newcomers ran into: functions, folders and files as people have them, and what a script is told."""

from __future__ import annotations

import errno
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import Ended, r3po, snapshot
from r3po import (
    ConfigError,
    FunctionError,
    R3poError,
    RunStoppedError,
    build_jobs,
    reset_all_errors,
    reset_all_tracking,
    run_jobs,
    verify_jobs,
)
from r3po.state.failure_groups import mask

CONFIG = """\
job_name: written
processes: 2
source_path: source
source_file_part: .json
working_dir: work
output_path: out
function: {function}
"""


def make_job(folder: Path, function: str = "f.py:f") -> Path:
    (folder / "source").mkdir()
    (folder / "source" / "a.json").write_text('{"n": 1}')
    name = function.partition(":")[0]
    (folder / name).write_text(
        "import json\n\n\ndef f(path):\n    with open(path) as file:\n        return json.load(file)\n"
    )
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(function=function))
    return config


@pytest.mark.parametrize("name", ["numpy", "r3po", "orjson", "yaml"])
def test_a_function_s_file_may_not_be_named_like_a_library(name: str, tmp_path: Path) -> None:
    config = make_job(tmp_path, f"{name}.py:f")
    with pytest.raises(FunctionError, match=rf"{name}\.py has the name of the library {name}"):
        run_jobs(config, engine="serial")
    assert not (tmp_path / "work" / "runs").exists()


@pytest.mark.parametrize("name", ["numpy.py", "pandas/__init__.py"])
def test_a_file_beside_the_function_may_not_hide_what_a_worker_imports_late(name: str, tmp_path: Path) -> None:
    config = make_job(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(FunctionError, match="would be imported in its place"):
        run_jobs(config, engine="serial")


@pytest.mark.parametrize("name", ["test", "queue", "my_numpy"])
def test_other_names_are_fine(name: str, tmp_path: Path) -> None:
    assert run_jobs(make_job(tmp_path, f"{name}.py:f"), engine="serial").done == 1


def test_a_current_folder_that_is_gone_is_told_at_once(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        f"import os, sys; os.rmdir({str(gone)!r})\n"
        "from r3po.cli.app import run_command\n"
        "for command in ('run', 'build', 'status', 'verify'):\n"
        f"    sys.argv = ['r3po', command, {str(config)!r}]\n"
        "    print(command, run_command(), flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=gone, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["run 2", "build 2", "status 2", "verify 2"]
    told = "error: the current folder was removed\nhint:  cd to a folder that is there, then again\n"
    assert ended.stderr == told * 4


def test_a_script_is_told_what_a_terminal_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = make_job(tmp_path)
    with caplog.at_level(logging.INFO, "r3po"):
        first = run_jobs(config, engine="serial")
        assert (first.notices, caplog.records) == ((), [])
        (tmp_path / "f.py").write_text("def f(path):\n    return {'n': 2}\n")
        second = run_jobs(config, engine="serial")
    assert (second.done, len(second.notices), second.to_json()["notices"]) == (1, 1, second.notices)
    assert "f.py:f changed after 1 row was made; they stay as they are" in second.notices[0]
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("r3po", logging.WARNING, second.notices[0])
    ]


def test_what_f_prints_is_shown_without_a_progress_display(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text("def f(path):\n    print('hello', flush=True)\n    return {'n': 1}\n")
    run_jobs(config, engine="serial", show_output=True, progress=False)
    assert "hello" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("key", "url", "reason"),
    [
        ("source_path", "ftp://host/a", "ftp:// is no store that r3po knows"),
        ("source_path", "s3://", "it names no bucket"),
        ("working_dir", "s3://bucket/a", "must be a folder of a disk"),
        ("output_path", "ftp://host/a", "ftp:// is no store that r3po knows"),
    ],
)
def test_a_url_that_is_no_place_for_it_is_refused(key: str, url: str, reason: str, tmp_path: Path) -> None:
    config = make_job(tmp_path)
    lines = config.read_text().splitlines()
    config.write_text("\n".join(f"{key}: {url}" if line.startswith(key) else line for line in lines))
    with pytest.raises(ConfigError, match=f"{key}: {url} .*{reason}"):
        run_jobs(config, engine="serial")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "f.py", "source"]


def test_names_that_nearly_match_are_told_also_where_others_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_job(tmp_path)
    for name in ("b.JSON", "c.JSON", "d.Json", "e.txt"):
        (tmp_path / "source" / name).touch()
    run_jobs(config, engine="serial", progress=True)
    assert "passed over: 2 end with .JSON, 1 ends with .Json" in capsys.readouterr().err
    assert build_jobs(config).count_all_files == 5


# Failures that have one cause are one group


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("could not convert string to float: 'a b'", "could not convert string to float: '...'"),
        ('Expecting "," delimiter: line 3 column 17 (char 40)', "Expecting '...' delimiter: line N column N (char N)"),
        ("[Errno 2] No such file: '/data/x/1.json'", "[Errno N] No such file: '...'"),
        ("cannot open /data/x y/1.json, or C", "cannot open ... ..., or C"),
        ("at 0x7f3a, -1.5e-07 and 1,234", "at N, N and N"),
        ("it's one, and it isn't two\nsecond line", "it's one, and it isn't two"),
        ("", ""),
    ],
)
def test_what_differs_from_file_to_file_is_masked(message: str, masked: str) -> None:
    assert mask(message) == masked


FAILS = """\
import json


def f(path):
    with open(path) as file:
        n = json.load(file)["n"]
    if n % 3 == 0:
        raise ValueError(f"{n} is a multiple of 3: {path!r} at column {n * n}")
    if n % 3 == 1:
        raise KeyError(f"key{n}")
    return {"n": n}
"""


def test_errors_are_grouped_by_their_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text(FAILS)
    for n in range(10, 31):
        (tmp_path / "source" / f"{n}.json").write_text(f'{{"n": {n}}}')
    run_jobs(config, engine="serial", max_errors="none")

    def errors(*options: str) -> Ended:
        return r3po("errors", str(config), *options, cwd=tmp_path)

    monkeypatch.setenv("COLUMNS", "60")
    lines = errors().out.splitlines()
    assert lines[0] == "15 files failed, 2 kinds"
    assert (
        lines[1].startswith("     8  KeyError: 'key10'")
        and lines[2] == "        f.py:10 in f   10.json, 13.json, 6 more"
    )
    assert lines[3].startswith("     7  ValueError: 12 is a multiple of 3:")
    assert all(len(line) <= 60 for line in lines if "Next" not in line and "r3po" not in line and "/" not in line)
    assert errors("--by", "type").out.splitlines()[0] == "15 files failed, 2 kinds"
    failures = json.loads(errors("--json").out)["failures"]
    assert {(failure["error_type"], failure["group"]) for failure in failures} == {("KeyError", 1), ("ValueError", 2)}
    full = errors("--full", "12.json").out
    assert full.startswith("12.json\nTraceback (most recent call last):\n") and "in f\n" in full
    assert "ValueError: 12 is a multiple of 3" in full and full.rstrip().splitlines()[-1].startswith("tried 1 time, ")
    assert json.loads(errors("--full", "12.json", "--json").out)["path"] == "12.json"
    for wrong in (("--full", "14.json"), ("--by", "colour")):
        ended = errors(*wrong)
        assert (ended.code, ended.out) == (2, "") and ended.err.startswith("error: ")


def test_a_job_whose_first_file_is_the_odd_one_stops_early_and_the_remedy_works(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    (tmp_path / "source" / "a.json").rename(tmp_path / "source" / "000.json")
    for n in range(1, 400):
        (tmp_path / "source" / f"{n:03}.json").write_text(f'{{"n": {n}, "text": "t{n}"}}')
    with pytest.raises(RunStoppedError, match=r"\d+ of the first \d+ files do not fit .* that of 000.json") as caught:
        run_jobs(config, engine="serial")
    assert caught.value.result is not None and caught.value.result.failed < 100
    config.write_text(config.read_text() + "columns: {n: int64, text: string}\n")
    result = run_jobs(config, engine="serial", redo=True)
    assert (result.done, [failure["path"] for failure in result.failures()]) == (399, ["000.json"])


def test_ten_files_among_many_that_do_not_fit_stop_nothing(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    for n in range(1, 60):
        row = '{"n": 1, "text": ""}' if n % 2 else '{"n": 1}'
        (tmp_path / "source" / f"{n:03}.json").write_text(row)
    assert run_jobs(config, engine="serial").failed == 30


SCRIPT = """\
import helper
from r3po import run_jobs

if __name__ == "__main__":
    for factor in (10, 20):
        helper.FACTOR = factor
        helper.TABLE["two"] = 2
        result = run_jobs("config.yaml", helper.f, engine="serial")
        print(result.to_pandas()["n"].tolist(), len(result.notices))
    helper.FACTOR = open("config.yaml")
    run_jobs("config.yaml", helper.f, engine="serial")
"""


def test_globals_that_the_caller_has_set_count_as_its_code(tmp_path: Path) -> None:
    make_job(tmp_path)
    (tmp_path / "helper.py").write_text(
        "FACTOR = 1\nTABLE = {}\nN_CALLS = 0\n\n\ndef f(path):\n    global N_CALLS\n    N_CALLS += 1\n"
        "    return {'n': FACTOR * len(TABLE)}\n"
    )
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    # The second time it is another function: its rows stay, and that is said.
    assert ended.stdout == "[10] 0\n[10] 1\n", ended.stderr
    assert "helper.FACTOR was set to" in ended.stderr and "cannot be sent to workers" in ended.stderr


def test_a_table_comes_back_with_exact_values(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    big = (1 << 60) + 1
    for n, row in enumerate([{"id": big, "few": 1}, {"id": None, "few": None}]):
        (tmp_path / "source" / f"{n}.json").write_text(json.dumps(row))
    (tmp_path / "source" / "a.json").unlink()
    result = run_jobs(config, engine="serial")
    frame = result.to_pandas()
    assert (str(frame["id"].dtype), str(frame["few"].dtype)) == ("Int64", "float64")
    for exact in (frame, result.to_pandas("numpy_nullable"), result.to_pandas("pyarrow")):
        assert exact["id"].iloc[0] == big and exact["id"].isna().tolist() == [False, True]
    assert (
        result.to_arrow().to_pylist()
        == result.to_polars().to_dicts()
        == [{"id": big, "few": 1}, {"id": None, "few": None}]
    )


KEYS = {
    "source_path": "source",
    "source_file_part": ".json",
    "working_dir": "work",
    "output_path": "out",
    "processes": 2,
}


def double(path: str) -> dict[str, int]:
    return {"n": json.loads(Path(path).read_text())["n"] * 2}


def test_a_mapping_stands_for_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_job(tmp_path).unlink()
    monkeypatch.chdir(tmp_path)
    keys = {**KEYS, "source_path": tmp_path / "source"}
    result = run_jobs(keys, double, engine="serial")
    assert (result.job_name, result.done, result.output) == ("double", 1, str(tmp_path / "out"))
    named = {**keys, "job_name": "double"}
    assert verify_jobs(named).is_good and build_jobs(named).count_job_files == 1
    assert (reset_all_errors(named), reset_all_tracking(named)) == (0, 2)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"source_path": "nope"},
            "/nope   (source_path; relative to the current folder)",
        ),
        (
            {"processes": "4"},
            "the config has 1 problem\n  key   processes: 4   must be a whole number, or auto, without",
        ),
        (
            {"output_path": "source/x"},
            "key   output_path: source/x   lies inside source_path: its files would be taken",
        ),
        ({"colums": 1}, 'key   colums: 1   unknown key; did you mean "columns"?'),
        ({"parquet": {"level": 3.5}}, "level"),
    ],
)
def test_what_is_wrong_in_a_mapping_is_told_by_its_key(
    wrong: dict[str, object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_job(tmp_path)
    monkeypatch.chdir(tmp_path)
    keys = {**KEYS, **wrong}
    with pytest.raises(R3poError) as caught:
        run_jobs(keys, double, engine="serial")
    assert told in str(caught.value) and "line" not in str(caught.value)


def test_a_stopped_run_says_how_it_goes_on_as_it_was_typed(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text(
        "import os, signal\n\n\ndef f(path):\n    os.kill(os.getpid(), signal.SIGINT)\n    return {}\n"
    )
    config.rename(tmp_path / "my job.yaml")
    ended = r3po("run", "my job.yaml", "--engine", "serial", "--max-errors", "5%", "--retry-failed", cwd=tmp_path)
    assert ended.err.splitlines()[-1] == "Continue with: r3po run 'my job.yaml' --engine serial --max-errors 5%"


def test_quiet_says_how_many_files_failed(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text("def f(path):\n    raise ValueError\n")
    ended = r3po("run", str(config), "--engine", "serial", "--quiet", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "1 of 1 file failed: r3po errors\n")


@pytest.mark.parametrize(
    "body",
    [
        "return [1]",
        "raise ValueError('broken')",
        "raise OSError(5, 'io')",
        "os.kill(os.getpid(), signal.SIGINT); raise ValueError",
    ],
)
def test_a_redo_without_a_row_changes_nothing(body: str, tmp_path: Path) -> None:
    config = make_job(tmp_path)
    for n in range(50):
        (tmp_path / "source" / f"{n:02}.json").write_text(f'{{"n": {n}}}')
    assert run_jobs(config, engine="serial").rows == 51
    before = snapshot(tmp_path / "out"), (tmp_path / "work" / "manifest.json").read_bytes()
    good = (tmp_path / "f.py").read_text()
    (tmp_path / "f.py").write_text(f"import os, signal\n\n\ndef f(path):\n    {body}\n")
    (tmp_path / "source" / "new.json").write_text('{"n": 99}')
    with pytest.raises(R3poError) as caught:
        run_jobs(config, engine="serial", redo=True)
    assert re.search("nothing was recorded|not begun|stopped by|not recorded as failed", str(caught.value))
    assert (snapshot(tmp_path / "out"), (tmp_path / "work" / "manifest.json").read_bytes()) == before
    assert verify_jobs(config).counts == {}
    (tmp_path / "f.py").write_text(good)
    result = run_jobs(config, engine="serial", redo=True)
    assert (result.rows, result.done, result.failed) == (52, 52, 0)


def test_a_redo_that_nothing_stops_begins_without_a_row(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    run_jobs(config, engine="serial")
    (tmp_path / "f.py").write_text("def f(path):\n    raise ValueError\n")
    result = run_jobs(config, engine="serial", redo=True, max_errors="none")
    assert (result.rows, result.failed) == (0, 1)
    assert verify_jobs(config).is_good


def test_state_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_job(tmp_path)
    run_jobs(config, engine="serial")
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "manifest.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(R3poError, match="cannot be read: Permission denied") as caught:
        run_jobs(config, engine="serial")
    assert caught.value.hint == "fix its permissions; nothing is known to be damaged"


@pytest.mark.parametrize(
    ("head", "given", "told"),
    [
        ("def f(path, data):", "path", "takes 2 arguments, but `input: path` calls f(filepath)"),
        ("def f(path):", "bytes", "takes 1 argument, but `input: bytes` calls f(filepath, data)"),
        ("def f():", "path", "takes 0 arguments"),
        ("def f(path, data, more):", "bytes", "takes 3 arguments"),
        ("def f(path, data=None):", "path", ""),
        ("def f(*parts):", "bytes", ""),
        ("@staticmethod\ndef f(path, data):", "path", ""),  # what a decorator makes of it is not known
    ],
)
def test_a_signature_that_does_not_fit_input_is_told_before_anything_starts(
    head: str, given: str, told: str, tmp_path: Path
) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text(f"{head}\n    return {{'n': 1}}\n")
    config.write_text(f"{config.read_text()}input: {given}\n")
    names: dict[str, Any] = {}
    exec(f"{head}\n    return {{'n': 1}}\n", names)
    for function in (None, names["f"]):
        if told:
            with pytest.raises(FunctionError, match=re.escape(told)) as caught:
                run_jobs(config, function if "@" not in head else None, engine="serial")
            assert ("write  input: " in str(caught.value)) == ("2" in told or "1" in told)
            assert not (tmp_path / "work").exists()
        elif "@" not in head:
            assert run_jobs(config, function, engine="serial").done == 1
            reset_all_tracking(config)


def test_pandas_na_is_null_also_inside_of_lists_and_dicts(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    (tmp_path / "f.py").write_text(
        "import numpy as np\nimport pandas as pd\n\n\ndef f(path):\n"
        "    inner = {'a': pd.NA, 'b': [1, pd.NA, pd.NaT], 'c': np.array([1, pd.NA], dtype=object)}\n"
        "    return {'x': pd.NA, 'y': inner, 'z': pd.Series([2, None], dtype='Int64')[1]}\n"
    )
    result = run_jobs(config, engine="serial")
    assert [*result.failures()] == []
    text = (tmp_path / "out" / "csv" / "part-00000.csv").read_text()
    assert text == 'x,y,z\n,"{""a"":null,""b"":[1,null,null],""c"":[1,null]}",\n'


def test_a_module_that_stops_the_clock_breaks_nothing(tmp_path: Path) -> None:
    config = make_job(tmp_path)
    for n in range(30):
        (tmp_path / "source" / f"{n}.json").write_text(f'{{"n": {n}}}')
    stops = (
        "import time\nfor name in ('time', 'monotonic', 'perf_counter'):\n    setattr(time, name, lambda: 0.0)\n\n\n"
    )
    (tmp_path / "f.py").write_text(
        f"import datetime\ndatetime.datetime = None\n{stops}" + (tmp_path / "f.py").read_text()
    )
    ended = r3po_in_a_process(config)
    assert (ended.returncode, "Done in" in ended.stderr) == (0, True), ended.stderr
    assert verify_jobs(config).is_good


def r3po_in_a_process(config: Path) -> subprocess.CompletedProcess[str]:
    program = "from r3po.cli.app import main; main()"
    arguments = [sys.executable, "-c", program, "run", str(config), "--engine", "serial"]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


CACHED = """\
import functools
import json
import sys

from r3po import run_jobs


@functools.lru_cache(maxsize=8)
def cached(path):
    with open(path) as file:
        return json.load(file)


def keep(function):
    @functools.wraps(function)
    def kept(path):
        return {**function(path), "kept": 1}

    return kept


@keep
def wrapped(path):
    return cached(path)


partial = functools.partial(lambda k, path: {**cached(path), "k": k}, 5)

if __name__ == "__main__":
    for name in ("cached", "wrapped", "partial"):
        keys = {"source_path": "source", "source_file_part": ".json", "processes": 2}
        keys |= {"job_name": name, "working_dir": f"work_{name}", "output_path": f"out_{name}"}
        result = run_jobs(keys, globals()[name], engine="serial")
        print(result.to_pandas().to_dict("records"), [*result.failures()])
"""


def test_cached_wrapped_and_partial_functions_of_a_script_work(tmp_path: Path) -> None:
    make_job(tmp_path)
    (tmp_path / "script.py").write_text(CACHED)
    ended = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout == "[{'n': 1}] []\n[{'n': 1, 'kept': 1}] []\n[{'n': 1, 'k': 5}] []\n", ended.stderr


@pytest.mark.parametrize(
    ("columns", "row", "told", "not_told"),
    [
        ("", '{"n": "text"}', "The first row set the columns.", "`columns` in the config"),
        ("", '{"m": 1}', "The first row set the columns.", "`columns` in the config"),
        ("columns: {n: int64}\n", '{"n": "text"}', "`columns` in the config says", "The first row"),
        ("columns: {n: int64}\n", '{"m": 1}', "`columns` in the config says", "The first row"),
        ("", '{"n": 9223372036854775808}', "Next:", "columns"),
    ],
)
def test_errors_says_who_set_the_columns(columns: str, row: str, told: str, not_told: str, tmp_path: Path) -> None:
    config = make_job(tmp_path)
    config.write_text(config.read_text() + columns)
    (tmp_path / "source" / "b.json").write_text(row)
    assert run_jobs(config, engine="serial").failed == 1
    out = r3po("errors", str(config), cwd=tmp_path).out
    footer = out[out.index("b.json") :]
    assert told in footer and not_told not in footer
