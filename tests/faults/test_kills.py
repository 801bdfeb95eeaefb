"""Processes of a run are killed, stopped and signalled from outside; every file still ends as one row or one failure.

Each test hits one job, finishes it with a plain `r3po run`, and compares it, byte by byte, with an undisturbed one.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import soak
from jobs import HAS_PROC, make_job, run_process, running
from soak import GONE_S, SIGKILL_S, SIGNAL_S, Run, SoakJob

if TYPE_CHECKING:
    from conftest import Draw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_PROC, reason="finds processes by /proc"),
]

N_FILES = 1_500
SHARD_SIZE = 100
BATCH_SECONDS = 0.1
"""About 20 files: a few kills do not undo everything that lies between them."""


@dataclass
class Lab:
    """Jobs over one source, their runs, and the reference that they are held against."""

    folder: Path
    temporary: Path
    reference: SoakJob
    engine: str
    n_runs: int = 0

    def new_job(self, name: str = "job") -> SoakJob:
        return SoakJob(self.folder / name, self.reference.inputs, 2, SHARD_SIZE, BATCH_SECONDS).write()

    def run(self, job: SoakJob, stdio: int | None = None) -> Run:
        self.n_runs += 1
        file = job.folder / f"stderr-{self.n_runs}.txt"
        return Run(job, self.temporary, file, ("--engine", self.engine), stdio=stdio)

    def finish(self, job: SoakJob) -> None:
        """A plain run finishes the job, with nothing cleaned by hand."""
        with self.run(job) as run:
            assert run.wait(120) == 1, run.stderr
            assert run.findings() == []
        self.assert_finished(job)

    def assert_finished(self, job: SoakJob) -> None:
        assert soak.compare(job, self.reference)[0] == []
        calls = job.calls()
        assert [path for path in job.inputs.paths if path not in calls] == []
        assert list(self.temporary.iterdir()) == [], "the last run removes what the killed ones left"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> SoakJob:
    folder, temporary = tmp_path_factory.mktemp("kills"), tmp_path_factory.mktemp("no-ray")
    inputs = soak.make_source(folder / "source", N_FILES, ms=(4, 7), n_slow=2)
    return soak.make_reference(SoakJob(folder / "reference", inputs, 1, SHARD_SIZE, BATCH_SECONDS), temporary)


@pytest.fixture
def lab(reference: SoakJob, tmp_path: Path, temporary: Path, request: pytest.FixtureRequest) -> Lab:
    return Lab(tmp_path, temporary, reference, request.param)


def _with(*engines: str) -> Any:
    params = [pytest.param(engine, marks=[pytest.mark.ray] if engine == "ray" else []) for engine in engines]
    return pytest.mark.parametrize("lab", params, indirect=True)


on_processes, on_ray, on_both = _with("processes"), _with("ray"), _with("processes", "ray")


@pytest.fixture
def rng(draw: Draw, request: pytest.FixtureRequest) -> random.Random:
    return draw.case(request.node.name, 0)


def wait_for_calls(run: Run, n: int) -> None:
    """Wait until f has been called `n` times more."""
    enough = run.job.n_calls() + n
    run.wait_until(lambda: run.job.n_calls() >= enough, f"{n} more calls of f")


def wait_for_role(run: Run, role: str, n: int = 1) -> None:
    run.wait_until(lambda: len(run.of_role(role)) >= n, f"a {role} is there")


def assert_ended(run: Run, code: int, within_s: float, but: tuple[str, ...] = ()) -> None:
    """The run ends in time and says so; ten seconds later nothing of it is alive but, if named, some roles."""
    assert run.wait(within_s, f"exit code {code}") == code, run.stderr
    assert run.findings() == []
    soak.pause_until(lambda: not run.alive(but), GONE_S)
    assert run.alive(but) == [], f"alive {GONE_S:.0f} s after the end"


# B1, B2


@on_both
def test_a_driver_that_is_killed_three_times_goes_on_each_time(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    at_start = rng.randrange(3)
    for number in range(3):
        with lab.run(job) as run:
            if number == at_start:
                wait_for_role(run, "gcs_server" if lab.engine == "ray" else "starter")
            else:
                wait_for_calls(run, rng.randint(1, 150))
            assert run.kill("driver", rng)
            assert_ended(run, -signal.SIGKILL, SIGKILL_S)
    lab.finish(job)


@on_processes
def test_a_run_goes_on_when_workers_are_killed(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        for n_workers in (1, 2, 1):
            wait_for_calls(run, rng.randint(1, 150))
            wait_for_role(run, "worker", 2)
            assert run.kill("worker", rng, n_workers)
        assert_ended(run, 1, 60)
    lab.assert_finished(job)


# B3, B5, B6

ENDS = {
    "raylet": {3},
    "gcs_server": {3},
    "starter": {1},
    "keeper": {3},
    "agents": {1, 3},  # Ray may end a raylet whose agents died; whether it does is its own affair
    "everything": {-signal.SIGKILL},
    "SIGTERM": {143},
    "SIGHUP": {129},
    "SIGINT": {130},
    "SIGINT twice": {130},
    "worker stopped": {1},
    "driver stopped": {1},
}
"""How a run that is hit in the middle may end: it is over, it stops and says how to go on, or it is dead."""


OF_RAY = ("raylet", "gcs_server", "keeper", "agents")
ON_BOTH = ("everything", "SIGTERM", "SIGINT twice", "worker stopped")
"""Ray answers to these in its own way. The others are the driver's affair alone."""


@pytest.mark.parametrize(
    ("lab", "kind"),
    [
        *(pytest.param("ray", kind, marks=pytest.mark.ray) for kind in (*OF_RAY, *ON_BOTH)),
        *(("processes", kind) for kind in ENDS if kind not in OF_RAY),
    ],
    indirect=["lab"],
)
def test_a_run_that_is_hit_goes_on_or_stops_soon_and_says_how_to_go_on(lab: Lab, rng: random.Random, kind: str) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        # Or the workers, which outlive their raylet, might finish the job before the run notices.
        job.hold(kind in ("raylet", "gcs_server", "keeper"))
        if kind.endswith(" stopped"):
            assert run.stop_for(kind.split()[0], rng.uniform(4, 8), rng)
        else:
            hit = soak.FAULTS[kind][0] if kind in soak.FAULTS else soak.kill_starter
            assert hit(run, rng)
        code = run.wait(soak.BOUND_S.get(kind, 60))
        assert_ended(run, code, 0)
    job.hold(False)
    assert code in ENDS[kind], run.stderr
    if code == 3:
        assert "error: " in run.stderr
        assert "again" in run.stderr.partition("hint: ")[2], "it says how to go on"
    elif code > 3:
        assert run.stderr.splitlines()[-1].startswith("Continue with: r3po run")
    if code == 1:
        lab.assert_finished(job)
    else:
        lab.finish(job)


@on_ray
@pytest.mark.parametrize(("kind", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGINT twice", 130)])
def test_a_run_that_is_asked_to_stop_while_ray_starts_stops_soon(
    lab: Lab, rng: random.Random, kind: str, code: int
) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        role = rng.choice(["gcs_server", "raylet"])
        run.wait_until(lambda: run.is_listening, "r3po takes signals")
        wait_for_role(run, role)
        assert soak.FAULTS[kind][0](run, rng)
        assert_ended(run, code, SIGNAL_S)
    lab.finish(job)


@on_processes
def test_a_run_whose_terminal_is_closed_stops_soon(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    ours, theirs = os.openpty()
    with lab.run(job, stdio=theirs) as run:
        os.close(theirs)
        os.set_blocking(ours, False)
        enough = rng.randint(1, 300)

        def has_worked() -> bool:
            with contextlib.suppress(BlockingIOError):
                while os.read(ours, 1 << 16):  # as a terminal does: a full one would hold up the run
                    pass
            return job.n_calls() >= enough

        run.wait_until(has_worked, "f is called")
        run.hits.append(soak.Hit("SIGHUP", 0.0, [], 0))  # the kernel sends it
        os.close(ours)
        assert_ended(run, 129, SIGNAL_S)
    lab.finish(job)


@on_processes
def test_a_run_piped_into_head_finishes_or_stops_safely(lab: Lab) -> None:
    """`r3po run 2>&1 | head -1`: nobody reads what comes after the first line."""
    job = lab.new_job()
    ours, theirs = os.pipe()
    with lab.run(job, stdio=theirs) as run:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as pipe:
            assert pipe.readline().startswith(b"r3po ")
        run.hits.append(soak.Hit("nobody reads", 0.0, [], workers_hit=2))
        code = run.wait(60)
        assert code in (1, 3)
        assert_ended(run, code, 0)
    lab.finish(job)


@on_ray
def test_what_workers_of_a_killed_run_write_late_changes_nothing(lab: Lab, rng: random.Random) -> None:
    """Workers go on for some seconds after their driver's death; the next run is at work by then."""
    job = lab.new_job()
    with contextlib.ExitStack() as runs:
        killed = []
        for _ in range(3):
            run = runs.enter_context(lab.run(job))
            wait_for_calls(run, rng.randint(1, 150))
            assert run.kill("keeper", rng)  # it would end the workers at once
            run.hits.clear()
            assert run.kill("driver", rng)
            assert run.wait(SIGKILL_S) == -signal.SIGKILL
            assert run.alive(but=("agent",)), "the workers are still there"
            killed.append(run)
        last = runs.enter_context(lab.run(job))
        assert_ended(last, 1, 60)
        for run in killed:
            assert_ended(run, -signal.SIGKILL, 0, but=("agent",))
    lab.finish(job)  # also sweeps what was written after the last run had looked


# B4, B7


@on_ray
def test_a_job_under_a_kill_every_few_seconds_comes_to_its_end(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    round_ = soak.Soak(lab.folder, lab.temporary, lab.reference, 2, rng, soak.Report(0), ends_at=math.inf)
    try:
        round_.play_round(job, soak.STORM)
    finally:
        round_.close()
    assert round_.report.faults.total() > 0


@on_ray
def test_two_jobs_at_once_both_finish_and_a_second_run_of_one_is_refused(lab: Lab) -> None:
    jobs = [lab.new_job("one"), lab.new_job("other")]
    with lab.run(jobs[0]) as one, lab.run(jobs[1]) as other:
        wait_for_calls(one, 1)
        second = run_process("run", cwd=jobs[0].folder, TMPDIR=str(lab.temporary))
        assert second.code == 4, second.err
        assert str(one.process.pid) in second.err
        # Each has its Ray in the same temporary folder: only when both are over is what lies there left.
        assert [one.wait(120), other.wait(120)] == [1, 1], one.stderr + other.stderr
        for run in (one, other):
            assert_ended(run, 1, 0)
    for job in jobs:
        lab.assert_finished(job)


@pytest.mark.ray
def test_a_stop_that_takes_longer_than_three_seconds_is_a_clean_one_on_ray(tmp_path: Path) -> None:
    """Ray's own handler of SIGTERM would abort the process by then, and print a stack before."""
    text = (
        "import time\n\ndef double(filepath):\n    open('began', 'w').close()\n    time.sleep(6)\n    return {'n': 1}\n"
    )
    job = make_job(tmp_path, n_files=4, function=text, processes=1)
    with running("run", "config.yaml", cwd=tmp_path) as program:
        program.wait_until((tmp_path / "began").exists, "f is called", 120)
        os.kill(program.pid, signal.SIGTERM)
        ended = program.end(60)
    assert ended.code == 143, ended.err
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"
    assert "SIGTERM received" not in ended.err
    assert job.status()["pending"] in (2, 3)
