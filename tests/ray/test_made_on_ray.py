"""f of a class on Ray: made once a worker, closed in each, replaced in order; and what a worker asks of Ray."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs import Job, make_job
from r3po import ConfigError, FunctionError, RunResult, run_jobs

pytestmark = pytest.mark.ray

MODEL = """\
import json
import os
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def say(text):
    with open(os.path.join(HERE, "said"), "a") as file:
        file.write(f"{os.getpid()} {text}\\n")


class Model:
    def __init__(self, slow=(), end=None, shade="red"):
        self.slow, self.shade = slow, shade
        say("made")
        if end is not None and os.path.exists(os.path.join(HERE, "ends")):
            os._exit(end)

    def __enter__(self):
        say("entered")
        return self

    def __call__(self, filepath):
        with open(filepath) as file:
            n = json.load(file)["n"]
        say("called")
        time.sleep(60 if n in self.slow else 0.02)
        return {"n": n, "pid": os.getpid()}

    def __exit__(self, *given):
        say("left")
"""


def model_job(folder: Path, **settings: Any) -> Job:
    job = make_job(folder, 24, MODEL, batch_seconds=0.05, shard_size=24, **settings)
    job.settings["function"] = "double.py:Model"
    job.write_config()
    return job


def said(job: Job) -> dict[str, list[str]]:
    """Return what each process said, by its id."""
    found: dict[str, list[str]] = {}
    for line in (job.folder / "said").read_text().splitlines():
        pid, text = line.split()
        found.setdefault(pid, []).append(text)
    (job.folder / "said").unlink()
    return found


def run(job: Job, f: Any = None, **options: Any) -> RunResult:
    return run_jobs(job.config, f, progress=False, **options)


@pytest.mark.usefixtures("cluster")
def test_each_worker_makes_f_once_and_leaves_it_also_when_it_is_replaced(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"slow": [5]}, timeout_seconds=1)
    result = run(job)
    assert (result.done, result.failed) == (23, 1)
    assert [failure["error_type"] for failure in result.failures()] == ["Timeout"]
    lives = said(job)
    called = [life for life in lives.values() if "called" in life]
    assert sum(life.count("called") for life in called) == 24
    for life in called:
        assert life == ["made", "entered", *["called"] * life.count("called"), "left"], lives
    assert len(lives) >= 2  # the one that was cut off has left, and another took its place


@pytest.mark.usefixtures("cluster")
def test_objects_and_partials_of_a_script_reach_the_workers(tmp_path: Path) -> None:
    job = model_job(tmp_path, processes=1)

    class Local:
        def __init__(self, shade: str = "red") -> None:
            self.shade = shade

        def __call__(self, filepath: str) -> dict[str, object]:
            with open(filepath) as file:
                return {"n": json.load(file)["n"], "shade": self.shade, "pid": os.getpid()}

    f: Any
    for f, shade in ((Local, "red"), (Local("blue").__call__, "blue"), (functools.partial(Local("green")), "green")):
        table = run(job, f, redo=True, restart=True).to_pandas()
        assert table["n"].tolist() == list(range(24))
        assert set(table["shade"]) == {shade} and os.getpid() not in set(table["pid"])


@pytest.mark.usefixtures("cluster")
def test_a_constructor_that_ends_its_process_is_one_error_and_no_files_failure(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"end": 7}, processes=1)
    (job.folder / "ends").touch()
    with pytest.raises(FunctionError, match="making Model ends the process: exit code 7") as caught:
        run(job)
    assert 'double.py", line' in (caught.value.evidence or "") and caught.value.exit_code == 2
    assert (job.status()["failed"], job.status()["done"]) == (0, 0)
    (job.folder / "ends").unlink()
    assert run(job).done == 24 and job.findings() == []


@pytest.mark.usefixtures("cluster")
def test_what_ray_lacks_is_said_at_once_and_auto_takes_what_has_room(tmp_path: Path) -> None:
    job = model_job(tmp_path, worker={"num_gpus": 0.5, "resources": {"tape": 1}})
    with pytest.raises(ConfigError) as caught:
        run(job)
    assert str(caught.value).splitlines() == [
        "one worker does not fit into this Ray: each is to have 0.5 GPU, 1 tape",
        "  there: no GPU, no tape",
        "hint:  ask for less with  worker:  in the config; or use a Ray of your own, whose machines have it",
    ]
    job.write_config(worker={"num_cpus": 2, "memory": "1 MiB"}, processes="auto")
    assert run(job).done == 24
    assert len([life for life in said(job).values() if "called" in life]) == 1
