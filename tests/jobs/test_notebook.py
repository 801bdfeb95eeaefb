"""A job in a notebook: a real kernel, without a screen; what its cells show is looked at."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.utils import ensure_async
from nbclient import NotebookClient

from jobs import ESCAPE, GATED, Job, comes_true, environment, make_job

SETUP = """\
import json, os, time
from r3po import run_jobs

def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n in BAD:
        raise ValueError(f"{n} is a bad number")
    return {"n": n, "twice": 2 * n}

BAD = [3]
config = {"source_path": "source", "source_file_part": ".json", "processes": 1, "working_dir": "work",
          "output_path": "out", "batch_seconds": 0.001}
"""

PRINTING = """\
def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    print("at", n)
    return {"n": n, "twice": 2 * n}
"""


class Client(NotebookClient):
    """Runs a notebook, and keeps of which kind each message to its cells was."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self.__dict__.setdefault("seen", []).append(msg["msg_type"])
        return super().process_message(msg, cell, cell_index)  # type: ignore[arg-type]


def notebook(*cells: str) -> Any:
    book = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    return book


def execute(folder: Path, *cells: str, interrupt_when: Any = None) -> tuple[list[list[Any]], list[str]]:
    """Run a notebook that lies in a folder. Returns the outputs of each cell, and the kinds of all messages."""
    path = folder / "book.ipynb"
    nbformat.write(notebook(*cells), path)  # type: ignore[no-untyped-call]
    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = Client(
        book, timeout=300, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )

    async def go() -> None:
        running = asyncio.create_task(client.async_execute(env=environment()))
        while interrupt_when is not None and not interrupt_when():
            assert not running.done(), book.cells
            await asyncio.sleep(0.01)
        if interrupt_when is not None:
            await ensure_async(client.km.interrupt_kernel())  # type: ignore[union-attr]
        await running

    asyncio.run(go())
    return [cell.outputs for cell in book.cells], client.__dict__["seen"]


def texts(outputs: list[Any]) -> dict[str, list[str]]:
    """Return what a cell shows, by kind of output."""
    found: dict[str, list[str]] = {}
    for output in outputs:
        if output.output_type == "stream":
            found.setdefault(output.name, []).append(output.text)
        elif output.output_type == "error":
            found.setdefault("error", []).append("\n".join(output.traceback))
        else:
            found.setdefault(output.output_type, []).append(output.data["text/plain"])
    return found


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path, n_files=12)


def test_a_cell_shows_one_output_that_is_updated_then_the_table_what_f_prints_and_a_mistake_in_short(job: Job) -> None:
    outputs, seen = execute(
        job.folder,
        SETUP,
        'result = run_jobs(config, double, engine="serial")',
        "print(result.to_pandas())",
        PRINTING,
        'run_jobs(config, double, redo=True, engine="serial", show_output=True);',
        'run_jobs(config | {"proceses": 4}, double)',
        "result",
        "from r3po import job_status; job_status(config)",
    )
    _, ran, table, _, printed, mistake, again, status = map(texts, outputs)

    assert again["execute_result"][0].startswith("double: 12 files in ")
    assert "files      12 done   0 failed   0 to do" in status["execute_result"][0]

    (screen,) = ran["display_data"]
    assert seen.count("display_data") == 2  # one a run
    assert seen.count("update_display_data") >= 6
    assert "Scan      source/**.json       12 files" in screen
    assert screen.count("Process") == 1 and "12/12" in screen and "━" in screen
    assert "Done in" in screen and "12 files, 1 failed" in screen
    assert "Next   result.failures(); fix the function, then run_jobs(config) (unchanged: retry_failed=True)" in screen
    assert "r3po run" not in screen and ESCAPE not in screen
    assert ran["stderr"] == ["1 of 12 files failed; result.failures() lists them, result.failure_groups() by cause\n"]

    assert table["stdout"][0].split()[:5] == ["n", "twice", "0", "0", "0"]

    assert "at 11\n" in "".join(printed["stdout"])
    assert len(printed["display_data"]) == 1

    (error,) = mistake["error"]
    assert error.startswith("ConfigError: ") and "proceses" in error and "settings.py" not in error


def test_an_interrupted_cell_stops_and_the_next_one_goes_on(tmp_path: Path) -> None:
    job = make_job(tmp_path, n_files=8, function=GATED.format(at=5, pause=0), processes=1, batch_seconds=0.001)
    stopped_at: list[float] = []

    def is_there() -> bool:
        if not job.is_at_the_gate():
            return False
        stopped_at.append(time.monotonic())
        asyncio.get_running_loop().call_later(1, job.open_gate)  # the file in hand is not what is tested
        return True

    (_, first, second), _ = execute(
        job.folder,
        "from r3po import run_jobs",
        'run_jobs("config.yaml", engine="serial")',
        "import signal\n"
        'result = run_jobs("config.yaml", engine="serial")\n'
        "print(result.done, signal.getsignal(signal.SIGINT).__name__)",
        interrupt_when=is_there,
    )
    assert time.monotonic() - stopped_at[0] < 20
    shown = texts(first)
    (error,) = shown["error"]
    assert error.startswith("RunStoppedError: stopped by Ctrl-C; what was done is saved")
    assert "run it again to go on" in error and "File " not in error and "session.py" not in error
    (screen,) = shown["display_data"]
    assert "Stopping: what is in hand is finishing (interrupt again: stop now)" in screen
    assert "Stopped after" in screen
    assert texts(second)["stdout"] == ["8 default_int_handler\n"]
    assert "Resume" in texts(second)["display_data"][0]
    assert job.findings() == []


@pytest.mark.ray
@pytest.mark.long
def test_a_cell_runs_its_function_on_ray_and_shows_what_it_prints_and_where_it_raised(job: Job) -> None:
    printing = (
        f'{PRINTING}    if n == 3: raise ValueError("three")\n'.replace("    return", "    row =") + "    return row\n"
    )
    run, look = "result = run_jobs(config, double, show_output=True)", 'print(result.failures()[0]["traceback"])'
    (_, _, ran, looked), seen = execute(job.folder, SETUP, printing, run, look)
    shown = texts(ran)
    assert seen.count("display_data") == 1 and "12 files, 1 failed" in shown["display_data"][0]
    assert 'if n == 3: raise ValueError("three")' in texts(looked)["stdout"][0]
    assert "worker 0: at 11" in "".join(shown["stdout"])
    assert comes_true(lambda: job.findings() == [], 5)
