"""f of a class or a factory through whole runs: made once, closed at an orderly end, and what goes wrong there."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import DOUBLE, Job, alive, make_job, r3po, running, tree_of
from r3po import FunctionError, RunStoppedError, run_jobs, try_files
from r3po.run import leavers

MODEL = """\
import json
import os
import signal
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def say(text):
    with open(os.path.join(HERE, "said"), "a") as file:
        file.write(text + "\\n")


class Model:
    def __init__(self, weights="weights.json", bad=()):
        with open(weights) as file:
            self.factor = json.load(file)["factor"]
        self.bad = bad
        say("made")

    def __call__(self, filepath):
        with open(filepath) as file:
            n = json.load(file)["n"]
        say(f"called with {n}")
        if n in self.bad:
            raise ValueError(f"{n} is bad")
        return {"n": n, "twice": self.factor * n}

    def close(self):
        say("closed")


def make_model(**given):
    return Model(**given)


class Entered(Model):
    def __enter__(self):
        say("entered")
        return self

    def __exit__(self, *given):
        say(f"left with {given}")


def plain(filepath, bad=()):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n in bad:
        raise ValueError(f"{n} is bad")
    return {"n": n, "twice": 2 * n}
"""


def model_job(folder: Path, function: str = "Model", n_files: int = 3, code: str = MODEL, **settings: Any) -> Job:
    job = make_job(folder, n_files, code, **settings)
    job.settings["function"] = f"double.py:{function}"
    job.write_config()
    (folder / "weights.json").write_text('{"factor": 2}')
    return job


def said(job: Job) -> list[str]:
    file = job.folder / "said"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


CALLED = ["called with 0", "called with 1", "called with 2"]


@pytest.mark.parametrize("function", ["Model", "make_model()"])
def test_f_is_made_once_and_closed_at_the_end(tmp_path: Path, function: str) -> None:
    job = model_job(tmp_path, function)
    assert job.run().code == 0
    assert said(job) == ["made", *CALLED, "closed"]
    assert [row["twice"] for row in job.rows()] == ["0", "2", "4"]
    assert job.run().code == 0 and said(job) == []  # nothing to do: nothing is made


def test_a_context_manager_is_entered_once_and_left(tmp_path: Path) -> None:
    job = model_job(tmp_path, "Entered")
    assert job.run().code == 0
    assert said(job) == ["made", "entered", *CALLED, "left with (None, None, None)"]


def test_weights_are_found_from_wherever_a_run_is_started(tmp_path: Path) -> None:
    job = model_job(tmp_path / "job", function_args={"weights": "weights.json"})
    (tmp_path / "elsewhere").mkdir()
    for command in (("run", "../job/config.yaml", "--engine", "serial"), ("try", "--config", "../job/config.yaml")):
        ended = r3po(*command, cwd=tmp_path / "elsewhere")
        assert ended.code == 0, ended.err
    assert said(job) == ["made", *CALLED, "closed"] * 2


def test_what_a_script_or_a_notebook_hands_over_works_alike(tmp_path: Path) -> None:
    job = model_job(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(job.folder / "double.py")}
    exec(MODEL, names)
    weights = str(job.folder / "weights.json")
    made = names["Model"](weights)
    assert said(job) == ["made"]
    for number, f in enumerate((names["Model"], made, made.__call__, functools.partial(made), names["plain"])):
        keys: dict[str, Any] = {"working_dir": f"state{number}", "output_path": f"out{number}", "processes": 1}
        keys |= {"source_path": str(job.source), "source_file_part": ".json", "job_name": "x"}
        keys |= {key: str(job.folder / keys[key]) for key in ("working_dir", "output_path")}
        args = {"weights": weights} if isinstance(f, type) else {"bad": []} if f is names["plain"] else {}
        result = run_jobs({**keys, "function_args": args}, f, engine="serial", progress=False)
        assert (result.done, result.to_pandas()["twice"].tolist()) == (3, [0, 2, 4])
        lines = said(job)
        assert ("made" in lines, "closed" in lines) == (
            isinstance(f, type),
        ) * 2  # what the caller made is the caller's


def test_a_factory_is_named_as_text_from_python_too(tmp_path: Path) -> None:
    job = model_job(tmp_path)
    result = run_jobs(job.config, function="double.py:make_model()", engine="serial", progress=False)
    assert result.done == 3 and said(job)[0] == "made"


def test_arguments_are_part_of_what_f_is(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"bad": [1]})
    assert job.run().code == 1 and said(job) == ["made", *CALLED, "closed"]
    assert job.run().code == 1 and said(job) == []
    job.write_config(function_args={"bad": [2]})
    assert "2 of 2 files by another version of it" in r3po("status", cwd=job.folder).out
    ended = job.run()
    assert "double.py:Model changed after 2 rows were made" in ended.err
    assert said(job) == ["made", "called with 1", "closed"]  # the failure is tried again, and the rows stay
    assert [row["n"] for row in job.rows()] == ["0", "1", "2"]
    assert "nothing new" in job.run().err


def test_a_plain_function_gets_its_arguments_by_name(tmp_path: Path) -> None:
    job = model_job(tmp_path, "plain", function_args={"bad": [0, 1]})
    assert job.run().code == 1
    assert [failure["message"] for failure in job.failures()] == ["0 is bad", "1 is bad"]
    assert job.findings() == []


def test_arguments_that_do_not_fit_are_told_before_anything_is_made(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"wieghts": "weights.json"})
    for ended in (job.run(), r3po("try", cwd=job.folder)):
        assert ended.code == 2
        assert ended.err == (
            'error: double.py:Model takes no argument "wieghts", which function_args gives\n'
            'hint:  did you mean "weights"?\n'
        )
    assert not job.working_dir.exists() and said(job) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('no device')", "double.py:Model raised RuntimeError when it was made: no device"),
        ("raise SystemExit(3)", "double.py:Model raised SystemExit when it was made: 3"),
    ],
)
def test_a_constructor_that_fails_is_one_error_and_no_files_failure(tmp_path: Path, body: str, told: str) -> None:
    job = model_job(
        tmp_path, code=f"class Model:\n    def __init__(self):\n        {body}\n    def __call__(self, p): ...\n"
    )
    ended = job.run()
    assert ended.code == 2 and f"error: {told}" in ended.err
    assert 'double.py", line 3, in __init__' in ended.err and "r3po/" not in ended.err
    assert job.status()["failed"] == 0 and job.status()["pending"] == 3
    with pytest.raises(FunctionError, match=told.partition(":Model")[2]):
        run_jobs(job.config, engine="serial", progress=False)
    with pytest.raises(FunctionError, match=told.partition(":Model")[2]):
        try_files(job.config)


BROKEN_CLOSE = MODEL.replace('say("closed")', "raise OSError('no space for the cache')")


def test_an_error_at_the_close_is_a_warning_at_every_door(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = "closing double.py:Model went wrong: OSError: no space for the cache (double.py:"
    job = model_job(tmp_path, code=BROKEN_CLOSE)
    ended = job.run("--json")
    assert ended.code == 0 and len(job.rows()) == 3
    assert f"warning: {told}" in ended.err
    assert any(notice.startswith(told) for notice in ended.json()["notices"])
    caplog.clear()
    result = run_jobs(job.config, redo=True, engine="serial", progress=False)
    assert any(notice.startswith(told) for notice in result.notices)
    assert any(record.getMessage().startswith(told) and record.levelname == "WARNING" for record in caplog.records)
    assert try_files(job.config).notices[0].startswith(told)
    assert told in r3po("try", cwd=job.folder).out
    events = [
        json.loads(line)
        for file in job.working_dir.glob("runs/*/events.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert any(str(event.get("text", "")).startswith(told) for event in events)


def test_a_close_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leavers, "CLOSE_S", 0.2)
    job = model_job(tmp_path, code=MODEL.replace('say("closed")', "time.sleep(600)"))
    ended = job.run()
    assert ended.code == 0 and len(job.rows()) == 3
    assert "went wrong: it took longer than 0.2 s and was ended" in ended.err


def test_after_a_stop_f_is_closed_and_has_less_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leavers, "STOPPED_CLOSE_S", 0.2)
    stops = MODEL.replace("return {", "os.kill(os.getpid(), signal.SIGINT)\n        return {", 1)
    job = model_job(tmp_path, code=stops)
    ended = job.run()
    assert ended.code == 130 and said(job) == ["made", "called with 0", "closed"]
    job.write_function(stops.replace('say("closed")', 'say("closing")\n        time.sleep(600)'))
    ended = job.run()
    assert ended.code == 130 and said(job)[-1] == "closing"
    assert "it took longer than 0.2 s and was ended" in ended.err
    job.write_function(MODEL)
    assert job.run().code == 0 and job.findings() == []
    assert len(job.rows()) == 3


def test_a_second_ctrl_c_ends_the_close(tmp_path: Path) -> None:
    twice = "[os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]; time.sleep(600)"
    job = model_job(tmp_path, code=MODEL.replace('say("closed")', twice))
    ended = job.run()
    assert ended.code == 130 and "Traceback" not in ended.err
    job.write_function(MODEL)
    assert job.run().code == 0 and len(job.rows()) == 3 and job.findings() == []


def test_whatever_ends_a_run_in_order_f_is_closed(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"bad": [0, 1, 2]}, max_errors=0)
    with pytest.raises(RunStoppedError):
        run_jobs(job.config, engine="serial", progress=False)
    assert said(job)[-1] == "closed"
    no_dict = model_job(tmp_path / "other", code=MODEL.replace('return {"n": n,', 'return [n]; {"n": n,'))
    with pytest.raises(FunctionError):
        run_jobs(no_dict.config, engine="serial", progress=False)
    assert said(no_dict)[-1] == "closed"


def test_a_kill_closes_nothing_and_costs_no_row(tmp_path: Path) -> None:
    waits = MODEL.replace(
        'say(f"called', 'say(f"at {n}")\n        time.sleep(600 * (n == 2 and not self.bad))\n        say(f"called'
    )
    job = model_job(tmp_path, code=waits)
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(
            lambda: "at 2" in "".join(map(Path.read_text, job.folder.glob("said"))), "f is in its last file"
        )
        tree = tree_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.process.wait(60)
    assert alive(tree) == [] and "closed" not in said(job)
    job.write_config(function_args={"bad": [7]})
    assert job.run().code == 0 and len(job.rows()) == 3 and job.findings() == []


def test_try_makes_f_once_and_closes_it(tmp_path: Path) -> None:
    job = model_job(tmp_path, function_args={"bad": [1]})
    ended = r3po("try", "--json", cwd=job.folder)
    assert ended.code == 1 and len(ended.json()["rows"]) == 2
    assert said(job) == ["made", *CALLED, "closed"]
    assert not job.working_dir.exists()


def test_with_input_bytes_an_object_gets_path_and_content(tmp_path: Path) -> None:
    code = "import json\nclass Model:\n    def __call__(self, path, data): return {'n': json.loads(data)['n']}\n"
    job = model_job(tmp_path, code=code, input="bytes")
    assert job.run().code == 0
    assert [row["n"] for row in job.rows()] == ["0", "1", "2"]


def test_serial_ignores_what_a_worker_asks_of_ray(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2, DOUBLE, worker={"num_gpus": 64, "memory": "900 TiB"})
    assert job.run().code == 0


def test_a_script_that_defines_the_class_itself_runs(tmp_path: Path) -> None:
    job = model_job(tmp_path)
    code = MODEL + (
        "if __name__ == '__main__':\n    from r3po import run_jobs\n"
        "    print(run_jobs('config.yaml', Model, engine='serial', progress=False).done)\n"
    )
    (job.folder / "main.py").write_text(code)
    found = subprocess.run([sys.executable, "main.py"], cwd=job.folder, capture_output=True, text=True, timeout=120)
    assert found.stdout == "3\n", found.stderr
    assert said(job) == ["made", *CALLED, "closed"]
