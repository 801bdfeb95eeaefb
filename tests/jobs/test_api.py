"""Python's way in: `build_jobs`, `run_jobs` and the two resets; which functions they take, and what an import costs."""

from __future__ import annotations

import contextlib
import csv
import functools
import inspect
import io
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import r3po
import r3po.jobbuilder
import r3po.jobrunner
from jobs import DOUBLE, PICKY, Job, as_new_process, doubled, make_job, run_python, snapshot, wait_until
from odd_names import NAMES

FIELDS = [
    "run_id",
    "job_name",
    "files",
    "done",
    "failed",
    "pending",
    "rows",
    "seconds",
    "output",
    "notices",
    "machines",
]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with as_new_process(tmp_path):
        yield make_job(tmp_path)


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Job]:
    with as_new_process(tmp_path):
        yield make_job(tmp_path, function=PICKY.format(bad=[2, 3]))


def double(filepath: str) -> dict[str, int]:
    with open(filepath) as file:
        n = json.load(file)["n"]
    return {"n": n, "twice": 2 * n}


def always_fails(filepath: str) -> dict[str, int]:
    raise RuntimeError("always")


def run(job: Job, f: Callable[..., Any] | None = None, **options: Any) -> r3po.RunResult:
    return r3po.run_jobs(job.config, f, engine="serial", **options)


# The four functions and their old addresses


def test_what_is_public_is_there_and_nothing_else() -> None:
    for name in r3po.__all__:
        assert getattr(r3po, name) is not None
    assert dir(r3po) == r3po.__all__
    with pytest.raises(AttributeError, match="no attribute 'run_job'"):
        r3po.run_job  # noqa: B018 - the access itself
    assert r3po.__version__ == version("r3po")
    # Where they were in 2020.
    assert r3po.jobbuilder.build_jobs is r3po.build_jobs
    assert r3po.jobrunner.run_jobs is r3po.run_jobs
    parameters = list(inspect.signature(r3po.run_jobs).parameters.values())
    assert [p.name for p in parameters[:4]] == ["config", "f", "build", "progress"]
    assert (parameters[2].default, parameters[3].default) == (True, None)
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])


def test_build_jobs_then_run_jobs_as_in_2020_or_run_jobs_alone(job: Job) -> None:
    (job.source / "notes.txt").touch()
    manifest = r3po.build_jobs(str(job.config))
    assert (manifest.count_job_files, manifest.count_all_files) == (6, 7)
    before = job.config.read_bytes()
    result = run(job, double)
    assert (result.files, result.done) == (6, 6)
    assert job.rows() == doubled(*range(6))
    job.add_files(6)
    assert run(job, double, build=False).files == 6
    assert run(job, double).files == 7
    assert job.rows() == doubled(*range(7))
    assert job.config.read_bytes() == before, "the user's file is never written to"


def test_run_jobs_takes_a_function_by_name_relative_to_the_config(job: Job) -> None:
    (job.folder / "triple.py").write_text(DOUBLE.replace("2 * n", "3 * n"))
    run(job, function="triple.py:double")
    assert job.rows()[1] == {"n": "1", "twice": "3"}


def test_reset_all_errors_says_how_many_and_lets_them_be_tried(failing: Job) -> None:
    assert r3po.reset_all_errors(failing.config) == 0, "before there is a job"
    run(failing)
    assert r3po.reset_all_errors(failing.config) == 2
    assert r3po.reset_all_errors(str(failing.config)) in (0, 2)
    assert [failure["attempts"] for failure in run(failing).failures()] == [2, 2]
    assert [failure["attempts"] for failure in run(failing, retry_failed=True).failures()] == [3, 3]


def test_reset_all_tracking_says_how_many_parts_it_removed(job: Job) -> None:
    assert r3po.reset_all_tracking(job.config) == 0, "before there is a job"
    run(job)
    assert r3po.reset_all_tracking(job.config) == 2
    assert job.parts() == {}
    assert run(job).done == 6


# The result


def test_the_result_has_the_fields_of_the_contract(failing: Job) -> None:
    result = run(failing)
    assert isinstance(result, r3po.RunResult)
    assert list(result.to_json()) == ["schema_version", *FIELDS]
    assert [getattr(result, name) for name in FIELDS] == [result.to_json()[name] for name in FIELDS]
    assert (result.files, result.done, result.failed, result.pending, result.rows) == (6, 4, 2, 0, 4)
    assert (result.job_name, result.output) == ("doubles", str(failing.output))
    assert [failure["path"] for failure in result.failures()] == ["002.json", "003.json"]
    assert result.failures() == failing.failures()
    (group,) = result.failure_groups()
    assert (group.number, group.n_files, group.paths) == (1, 2, ["002.json", "003.json"])
    assert [failure["group"] for failure in result.failures()] == [1, 1]
    assert "traceback" not in repr(group), "a notebook shows a list of groups in a few lines"
    assert [one.n_files for one in result.failure_groups("type")] == [2]
    with pytest.raises(ValueError, match="by='cause' is no way to group failures; there are all, place, type, message"):
        result.failure_groups("cause")
    assert re.fullmatch(r"RunResult\(run_id='[^']+', .*output='[^']+', notices=\(\)\)", repr(result))
    assert result.seconds > 0


@pytest.mark.parametrize("keys", [{}, {"parquet": False}], ids=["from Parquet", "from CSV"])
def test_the_result_is_a_data_frame_in_row_order(tmp_path: Path, keys: dict[str, Any]) -> None:
    pytest.importorskip("pandas")
    with as_new_process(tmp_path):
        frame = run(make_job(tmp_path, 25, shard_size=10, **keys)).to_pandas()
    assert list(frame.columns) == ["n", "twice"]
    assert frame["n"].tolist() == list(range(25))
    assert frame["twice"].tolist() == [2 * n for n in range(25)]
    assert frame.index.tolist() == list(range(25))


def test_the_data_frame_of_a_job_without_rows_says_why(job: Job) -> None:
    pytest.importorskip("pandas")
    with pytest.raises(FileNotFoundError, match="no part"):
        run(job, always_fails).to_pandas()


# Words and silence


def test_failed_files_and_changed_code_are_logged_once_as_warnings(
    failing: Job, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "r3po"):
        assert run(failing).failed == 2
        (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "2 of 6 files failed" in warning.getMessage()
        assert warning.name.startswith("r3po")
        caplog.clear()
        failing.write_function(DOUBLE)  # it is imported anew in this process, as in a notebook
        assert run(failing).failed == 0
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "double changed after 4 rows were made; they stay as they are" in told
    assert failing.rows() == doubled(*range(6))


@pytest.mark.parametrize(("progress", "is_shown"), [(True, True), (False, False), (None, False)])
def test_progress_is_shown_when_asked_or_on_a_terminal(job: Job, progress: bool | None, is_shown: bool) -> None:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        run(job, progress=progress)
    assert out.getvalue() == ""
    assert ("Done in" in err.getvalue()) == is_shown
    assert is_shown or err.getvalue() == ""


def test_a_stopped_run_raises_with_its_result(tmp_path: Path) -> None:
    job = make_job(tmp_path, 120)
    with pytest.raises(r3po.RunStoppedError, match="the first 100 files all failed with RuntimeError") as caught:
        run(job, always_fails)
    result = caught.value.result
    assert isinstance(result, r3po.RunResult)
    assert (result.files, result.done, result.failed, result.pending) == (120, 0, 100, 20)
    assert len(result.failures()) == 100
    assert caught.value.exit_code == 3
    assert run(job, double).done == 120


def test_other_errors_are_raised_and_never_exit(job: Job) -> None:
    cases: list[tuple[type[r3po.R3poError], Callable[[], object]]] = [
        (r3po.ConfigError, lambda: r3po.run_jobs(job.folder / "nowhere.yaml", double)),
        (r3po.ConfigError, lambda: run(job, double, processes=0)),
        (r3po.ConfigError, lambda: r3po.run_jobs(job.config, double, engine="dask")),
        (r3po.FunctionError, lambda: run(job, function="double.py:treble")),
        (r3po.FunctionError, lambda: run(job, "double.py:double")),  # type: ignore[arg-type]
        (r3po.FunctionError, lambda: run(job, lambda filepath: [filepath])),
    ]
    for kind, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert isinstance(caught.value, r3po.R3poError)
    job.write_config(source_path="nowhere")
    with pytest.raises(r3po.SourceError):
        run(job, double)


def test_a_run_leaves_this_process_as_it_was_and_works_in_a_thread_that_may_not_handle_signals(job: Job) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    environment, here = dict(os.environ), os.getcwd()
    run(job, double)
    assert [signal.getsignal(number) for number in numbers] == handlers
    assert (dict(os.environ), os.getcwd()) == (environment, here)
    results: list[r3po.RunResult] = []
    job.add_files(6)
    thread = threading.Thread(target=lambda: results.append(run(job, double)))
    thread.start()
    thread.join(60)
    assert [result.done for result in results] == [7]


# Which functions


class Doubler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, filepath: str) -> dict[str, int]:
        return scaled(filepath, self.factor)

    def method(self, filepath: str) -> dict[str, int]:
        return scaled(filepath, self.factor)

    @staticmethod
    def static(filepath: str) -> dict[str, int]:
        return scaled(filepath, 2)


def scaled(filepath: str, factor: int) -> dict[str, int]:
    n = double(filepath)["n"]
    return {"n": n, "twice": factor * n}


def _closure(factor: int) -> Callable[[str], dict[str, int]]:
    def inner(filepath: str) -> dict[str, int]:
        return scaled(filepath, factor)

    return inner


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "of an imported module": double,
    "lambda": lambda filepath: scaled(filepath, 2),
    "closure": _closure(2),
    "partial": functools.partial(scaled, factor=2),
    "callable object": Doubler(2),
    "bound method": Doubler(2).method,
    "static method": Doubler.static,
    "decorated": functools.lru_cache(double),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_f_may_be_any_callable(jobs_folder: Path, kind: str) -> None:
    with as_new_process(jobs_folder):
        job = make_job(jobs_folder)
        assert run(job, FUNCTIONS[kind]).done == 6
        assert job.rows() == doubled(*range(6))
        fingerprints = job.status()["functions"]
        assert list(fingerprints.values()) == [6]
        assert run(job, FUNCTIONS[kind], retry_failed=True).done == 6, "nothing of it is done again"
        assert job.status()["functions"] == fingerprints


def test_f_gets_the_absolute_path_of_the_file_as_text_and_may_take_its_bytes(job: Job) -> None:
    seen: list[str] = []

    def of_bytes(filepath: str, data: bytes) -> dict[str, int]:
        seen.append(filepath)
        n = json.loads(data)["n"]
        return {"n": n, "twice": 2 * n}

    def look(filepath: str) -> dict[str, int]:
        seen.append(filepath)
        return {"n": 1}

    job.write_config(input="bytes")
    assert run(job, of_bytes).done == 6
    assert job.rows() == doubled(*range(6))
    job.write_config()
    run(job, look, redo=True)
    assert seen == [str(job.source / f"{n:03}.json") for n in range(6)] * 2


# Scripts: what a user types in main.py

SCRIPT = """\
import json
import os
import sys

from r3po import build_jobs, run_jobs

with open("executed.log", "a") as log:
    log.write("x")

import beside


def double(filepath):
    import pandas

    with open(filepath) as file:
        n = json.load(file)["n"]
    return {"n": n, "twice": beside.twice(n)}


build_jobs("config.yaml")
result = run_jobs("config.yaml", double, engine=sys.argv[1])
print(result.done, *{"ray", "pandas"} & set(sys.modules))
"""

BESIDE = "def twice(n):\n    return 2 * n\n"


@pytest.mark.parametrize(
    ("engine", "loaded"), [("serial", "pandas"), pytest.param("ray", "ray", marks=[pytest.mark.ray, pytest.mark.long])]
)
def test_a_script_without_a_main_guard_is_executed_once_and_loads_pandas_only_where_it_calls_f(
    tmp_path: Path, engine: str, loaded: str
) -> None:
    """Called by a path from another folder, too: a module beside the script must be found by the workers."""
    pytest.importorskip("pandas")
    job = make_job(tmp_path / "job")
    job.write_config(function=None)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "main.py").write_text(SCRIPT)
    (scripts / "beside.py").write_text(BESIDE)
    ended = run_python(str(scripts / "main.py"), engine, cwd=job.folder)
    assert (ended.code, ended.out) == (0, f"6 {loaded}\n"), ended.err
    assert ended.err == ""
    assert (job.folder / "executed.log").read_text() == "x"
    assert job.rows() == doubled(*range(6))


def test_the_script_and_the_command_agree_on_what_f_is_and_the_script_warns_once_of_failures(tmp_path: Path) -> None:
    """`python main.py` and `r3po run` with the same function: the second finds nothing to do."""
    job = make_job(tmp_path)
    (tmp_path / "double_it.py").write_text(PICKY.format(bad=[2]))
    job.write_config(function="double_it.py:double")
    (tmp_path / "main.py").write_text(
        "from double_it import double\nfrom r3po import run_jobs\nrun_jobs('config.yaml', double, engine='serial')\n"
    )
    ended = run_python("main.py", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.count("\n") == 1
    assert "1 of 6 files failed" in ended.err
    idle = job.run()
    assert "Nothing to do: 5 of 6 files have a row, 1 failed" in idle.err


# What is loaded when

HEAVY = ("ray", "pandas", "pyarrow", "numpy", "rich", "pydantic", "yaml", "typer")


TELL = """
import os, sys

def loaded():
    print("LOADED", *sys.modules)

import r3po
loaded()
from r3po import R3poError, RunStoppedError
loaded()
import r3po.cli.app

def command(*arguments):
    sys.argv = ["r3po", *arguments]
    r3po.cli.app.run_command()
    loaded()

r3po.build_jobs("config.yaml")
loaded()
command("run")
for folder in {folders!r}:
    os.chdir(folder)
    command("status")
    command("errors")
"""


def test_an_import_loads_nothing_heavy_and_reading_commands_a_build_and_an_idle_run_neither_ray_nor_pandas(
    job: Job,
) -> None:
    stopped = make_job(job.folder / "stopped", 120, "def double(filepath):\n    raise RuntimeError('always')\n")
    assert stopped.run().code == 3
    for path in job.source.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))  # young files are hashed once more
    run(job)
    ended = run_python("-c", TELL.format(folders=[str(job.folder), str(stopped.folder)]), cwd=job.folder)
    assert ended.code == 0, ended.err
    found = [set(line.split()) & set(HEAVY) for line in ended.out.splitlines() if line.startswith("LOADED")]
    assert len(found) == 8
    assert found[:2] == [set(), set()]
    assert all(heavy & {"ray", "pandas"} == set() for heavy in found)


# Names are bytes


def add_named(job: Job, wanted: Callable[[int], int]) -> list[bytes]:
    """Add a file of each odd name that this file system knows; `wanted` gives the number in it. Return the names."""
    added = []
    for name in sorted(NAMES.values()):
        if name != NAMES["very deep"]:  # the folder of the test is deep, too
            path = os.fsencode(job.source) + b"/" + name
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write(json.dumps({"n": wanted(len(added))}))
                added.append(name)
    return added


@pytest.mark.parametrize("f", [None, double], ids=["f by name", "f by value"])
def test_every_name_gives_a_row(tmp_path: Path, f: Callable[..., Any] | None) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 0)
        job.add_files()
        total = len(add_named(job, lambda n: n))
        assert r3po.build_jobs(job.config).count_job_files == total
        result = run(job, f)
        assert (result.done, result.failed) == (total, 0), result.failures()
        assert sorted(int(row["n"]) for row in job.rows()) == list(range(total))
        before = job.parts()
        assert run(job, f).done == total
        assert job.parts() == before


def test_every_name_can_fail(tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 1, PICKY.format(bad=[7]))
        names = add_named(job, lambda _: 7)
        result = run(job)
        assert (result.done, result.failed) == (1, len(names))
        shown = sorted(name.decode("utf-8", "backslashreplace") for name in names)
        assert sorted(failure["path"] for failure in result.failures()) == shown
        assert {failure["message"] for failure in result.failures()} == {"7 is a bad number"}
        with open(job.output / "failures" / "failures.csv", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == ["path", "error_type", "message", "where", "attempts"]
        assert sorted(row[0] for row in rows) == shown
        job.write_function(DOUBLE)
        assert r3po.reset_all_errors(job.config) == len(names)


def test_a_name_may_be_written_in_the_config_too(tmp_path: Path) -> None:
    job = make_job(tmp_path / "my job 🍎 (é), v1", source_path="my 'source'", working_dir="w # 1", output_path="o: 2")
    job.source.rename(job.folder / "my 'source'")
    assert job.run().code == 0
    assert (job.folder / "o: 2" / "csv" / "part-00000.csv").exists()


def test_two_threads_cannot_run_one_job_at_once(job: Job) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def waits(filepath: str) -> dict[str, int]:
        entered.set()
        assert go_on.wait(60)
        return double(filepath)

    thread = threading.Thread(target=run, args=(job, waits))
    thread.start()
    try:
        wait_until(entered.is_set, "the first run is in f")
        before = snapshot(job.output)
        with pytest.raises(r3po.LockedError, match=f"pid {os.getpid()} "):
            run(job, double)
        assert snapshot(job.output) == before
    finally:
        go_on.set()
        thread.join(60)
    assert job.rows() == doubled(*range(6))


def test_a_ray_that_the_config_names_and_the_engine_does_not_use_is_told(job: Job) -> None:
    job.write_config(ray_address="10.0.0.1:6379")
    with redirect_stderr(io.StringIO()) as shown:
        assert run(job, progress=True).pending == 0
    text = "ray_address is 10.0.0.1:6379, and is not used: the engine is serial"
    assert " ".join(shown.getvalue().split()).count(text) == 1
