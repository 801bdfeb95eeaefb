"""Functions as people write them, on each engine: what they fork, start, move and call."""

from __future__ import annotations

import functools
import json
import linecache
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

import r3po
from r3po import events, run_jobs

LOOK = """\
import concurrent.futures
import json
import os
import subprocess
import sys
import multiprocessing
import os
import signal
import subprocess
import sys

IS_DEFAULT = '''
import signal
handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)]
is_calm = handlers == [signal.SIG_DFL] * 4 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(int(is_calm and not signal.pthread_sigmask(signal.SIG_BLOCK, ())))
'''


def look(_):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)]
    is_calm = handlers == [signal.SIG_DFL] * 4 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return int(is_calm and not signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def f(path):
    with open(path) as file:
        way = json.load(file)["way"]
    if way == "Pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map(look, range(2))
    elif way == "ProcessPoolExecutor":
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            found = list(pool.map(look, range(2)))
    elif way == "loky":
        from joblib.externals.loky import ProcessPoolExecutor
        with ProcessPoolExecutor(1) as pool:
            found = list(pool.map(look, range(1)))
    elif way == "subprocess":
        found = [int(subprocess.check_output([sys.executable, "-c", IS_DEFAULT]))]
    else:
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, b"1" if look(0) else b"0")
            os._exit(0)
        found = [int(os.read(reader, 1))]
        os.wait()
    return {"way": way, "calm": min(found)}
"""


def make_job(folder: Path, function: str, files: dict[str, Any], **keys: Any) -> Path:
    """Make a job with these JSON files in `source` and the function f in f.py; return the path of its config."""
    (folder / "source").mkdir()
    for name, content in files.items():
        (folder / "source" / name).write_text(json.dumps(content))
    (folder / "f.py").write_text(function)
    settings = {
        "job_name": "written",
        "processes": 2,
        "source_path": "source",
        "source_file_part": ".json",
        "working_dir": "work",
        "output_path": "out",
        "function": "f.py:f",
        **keys,
    }
    config = folder / "config.yaml"
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    return config


def rows_of(result: r3po.RunResult) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = result.to_pandas().to_dict("records")
    return rows


@pytest.mark.parametrize("timeout_seconds", [None, 60])
def test_what_f_forks_starts_like_a_fresh_python(engine: str, tmp_path: Path, timeout_seconds: int | None) -> None:
    ways = ["Pool"] * 12 + ["ProcessPoolExecutor", "subprocess", "os.fork"]
    try:
        import joblib  # noqa: F401 - in no requirement of ours
    except ImportError:
        pass
    else:
        ways.append("loky")
    files = {f"{number:02d}.json": {"way": way} for number, way in enumerate(ways)}
    config = make_job(tmp_path, LOOK, files, timeout_seconds=timeout_seconds)
    result = run_jobs(config, engine=engine)
    assert (result.done, result.failed) == (len(ways), 0), [*result.failures()]
    assert {row["way"]: row["calm"] for row in rows_of(result)} == dict.fromkeys(ways, 1)


def test_an_f_that_moves_its_input_has_its_rows_and_is_told_of(engine: str, tmp_path: Path) -> None:
    moves = (
        "import json, os, shutil\n"
        "def f(path):\n"
        "    with open(path) as file:\n"
        "        row = json.load(file)\n"
        "    done = os.path.join(os.path.dirname(os.path.dirname(path)), 'done')\n"
        "    os.makedirs(done, exist_ok=True)\n"
        "    shutil.move(path, done)\n"
        "    if row['n'] == 5:\n"
        "        raise ValueError('after it was moved')\n"
        "    return row\n"
    )
    files = {f"{n}.json": {"n": n} for n in range(9)}
    config = make_job(tmp_path, moves, files, on_deleted="keep")
    result = run_jobs(config, engine=engine)
    assert [row["n"] for row in rows_of(result)] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert [failure["error_type"] for failure in result.failures()] == ["ValueError"]
    log = [json.loads(line) for line in next(tmp_path.glob("work/runs/*/events.jsonl")).read_text().splitlines()]
    told = [line["text"] for line in log if line["event"] == events.Notice.__name__]
    assert len(told) == 1 and "moves or removes its input: 0.json was gone" in told[0]
    with pytest.raises(r3po.SourceError, match="9 of 9 files of this job are gone"):
        run_jobs(config, engine="serial")
    kept = run_jobs(config, engine="serial", accept_deletions=True)
    assert len(rows_of(kept)) == 8, "on_deleted: keep"
    assert r3po.verify_jobs(config).is_good


NESTED = """\
import json
import helper
import ray


@ray.remote
def square(x):
    return x * x


def f(path):
    with open(path) as file:
        n = json.load(file)["n"]
    return {"n": n, "square": helper.FACTOR * ray.get(square.remote(n))}
"""


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("before", ["", "ray.init(num_cpus=1, include_dashboard=False); ray.shutdown()"])
def test_a_script_may_import_ray_first_start_tasks_of_its_own_and_set_globals(before: str, tmp_path: Path) -> None:
    config = make_job(tmp_path, NESTED, {f"{n}.json": {"n": n} for n in range(6)}, timeout_seconds=60)
    (tmp_path / "helper.py").write_text("FACTOR = 1\n")
    script = tmp_path / "script.py"
    begin = f"import ray\n{before}\nimport f, helper\nfrom r3po import run_jobs\n"
    run = f"    helper.FACTOR = 10\n    print(run_jobs({str(config)!r}, f.f).done)\n"
    script.write_text(f"{begin}if __name__ == '__main__':\n{run}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "6\n"), ended.stderr
    rows = (tmp_path / "out" / "csv" / "part-00000.csv").read_text()
    assert rows == "n,square\n0,0\n1,10\n2,40\n3,90\n4,160\n5,250\n", "helper.FACTOR is what the script has set"


@pytest.mark.ray
def test_a_cached_function_without_an_importable_name_reaches_a_worker() -> None:
    from r3po.engines.by_value import from_bytes, to_bytes

    @functools.lru_cache(maxsize=3)
    def cached(path: str) -> str:
        return path * 2

    class Model:
        @functools.cached_property
        def n(self) -> int:
            return 5

        def __call__(self, path: str) -> str:
            return cached(path) * self.n

    again = from_bytes(to_bytes(cached))
    assert (again("a"), again.cache_parameters()) == ("aa", {"maxsize": 3, "typed": False})
    assert from_bytes(to_bytes(Model()))("a") == "a" * 10


@pytest.mark.ray
def test_a_traceback_has_the_lines_of_a_notebooks_cell_in_a_worker_too() -> None:
    from r3po.engines.by_value import from_bytes, to_bytes

    cell = "/tmp/ipykernel_no_such_file/1.py"
    source = "def inner(path):\n    raise ValueError(path)  # of a cell\ndef f(path):\n    return inner(path)\n"
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, cell, "exec"), names)
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    pickled = to_bytes(names["f"])
    del linecache.cache[cell]
    try:
        from_bytes(pickled)("x")
    except ValueError as error:
        shown = "".join(traceback.format_exception(error))
    assert "    return inner(path)\n" in shown and "    raise ValueError(path)  # of a cell\n" in shown
    del linecache.cache[cell]


WHERE = """\
import os
import sys

THERE = [os.getcwd(), *sys.argv]


def f(path):
    return {"then": THERE, "now": [os.getcwd(), *sys.argv]}
"""


def test_workers_are_in_the_config_s_folder_with_the_function_as_program(engine: str, tmp_path: Path) -> None:
    config = make_job(tmp_path, WHERE, {"1.json": 1})
    result = run_jobs(config, engine=engine)
    row = result.to_arrow().to_pylist()[0]
    expected = [str(tmp_path), str(tmp_path / "f.py")] if engine != "serial" else [os.getcwd(), *sys.argv]
    assert row == {"then": expected, "now": expected}
