"""Processes of a run are killed, stopped and signalled from outside; every file still ends as one row or one failure.

Each test hits one job, finishes it with a plain `r3po run`, and compares it, byte by byte, with an undisturbed one.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import soak
from jobs import HAS_PROC, run_process, short_folder, tree_of
from soak import GONE_S, RAY_DEATH_S, SIGKILL_S, SIGNAL_S, Job, Run

if TYPE_CHECKING:
    from conftest import Draw

pytestmark = [
    pytest.mark.ray,
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
    reference: Job
    n_runs: int = 0

    def new_job(self, name: str = "job") -> Job:
        job = Job(self.folder / name, self.reference.source, 2, SHARD_SIZE, BATCH_SECONDS)
        return job.write()

    def run(self, job: Job, stdio: int | None = None) -> Run:
        self.n_runs += 1
        return Run(job, self.temporary, job.folder / f"stderr-{self.n_runs}.txt", stdio=stdio)

    def finish(self, job: Job) -> None:
        """A plain run finishes the job, with nothing cleaned by hand."""
        with self.run(job) as run:
            assert run.wait(120) == 1, run.stderr
            assert run.findings() == []
        self.assert_finished(job)

    def assert_finished(self, job: Job) -> None:
        assert soak.compare(job, self.reference).findings == []
        calls = job.calls()
        assert [path for path in job.source.paths if path not in calls] == []
        assert list(self.temporary.iterdir()) == [], "the last run removes what the killed ones left"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("kills")
    source = soak.make_source(folder / "source", N_FILES, ms=(4, 7), n_slow=2)
    with short_folder() as temporary:
        yield soak.make_reference(Job(folder / "reference", source, 1, SHARD_SIZE, BATCH_SECONDS), temporary)
    shutil.rmtree(folder)


@pytest.fixture
def lab(reference: Job, tmp_path: Path) -> Iterator[Lab]:
    with short_folder() as temporary:
        yield Lab(tmp_path, temporary, reference)


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
    assert_gone(run, but)


def assert_gone(run: Run, but: tuple[str, ...] = ()) -> None:
    soak.pause_until(lambda: not run.alive(but), GONE_S)
    assert run.alive(but) == [], f"alive {GONE_S:.0f} s after the end"


# B1


def test_a_driver_that_is_killed_five_times_goes_on_each_time(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    at_start = rng.randrange(5)
    for number in range(5):
        with lab.run(job) as run:
            if number == at_start:
                wait_for_role(run, "gcs_server")
            else:
                wait_for_calls(run, rng.randint(1, 150))
            assert run.kill("driver", rng)
            # Ray's agents look only once a minute whether they still have a raylet; they write nothing of ours.
            assert_ended(run, -signal.SIGKILL, SIGKILL_S, but=("agent",))
    lab.finish(job)


# B2


@pytest.mark.parametrize(("n_workers", "n_kills"), [(1, 3), (2, 2)])
def test_a_run_goes_on_when_workers_are_killed(lab: Lab, rng: random.Random, n_workers: int, n_kills: int) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        for _ in range(n_kills):
            wait_for_calls(run, rng.randint(1, 150))
            wait_for_role(run, "worker", 2)
            assert run.kill("worker", rng, n_workers)
        assert_ended(run, 1, 60)
    lab.assert_finished(job)


# B3


@pytest.mark.parametrize("role", ["raylet", "gcs_server"])
def test_a_run_whose_ray_dies_stops_soon_and_says_how_to_go_on(lab: Lab, rng: random.Random, role: str) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        job.hold()  # or the workers, which outlive their raylet, might finish the job before the run notices
        assert run.kill(role, rng)
        assert_ended(run, 3, RAY_DEATH_S)
    job.hold(False)
    assert "error: " in run.stderr
    assert "again" in run.stderr.partition("hint: ")[2], "it says how to go on"
    lab.finish(job)


def test_a_run_whose_ray_loses_its_agents_goes_on_or_stops_soon(lab: Lab, rng: random.Random) -> None:
    """Ray may end a raylet whose agents died; whether it does is its own affair."""
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        assert run.kill("agent", rng)
        code = run.wait(60)
        assert code in (1, 3), run.stderr
        assert_ended(run, code, 0)
    lab.finish(job)


def test_a_run_that_is_killed_with_everything_it_started_goes_on(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        assert run.kill_everything()
        assert_ended(run, -signal.SIGKILL, SIGKILL_S)
    lab.finish(job)


# B4


def test_a_job_under_a_kill_every_few_seconds_comes_to_its_end(lab: Lab, rng: random.Random) -> None:
    job = lab.new_job()
    round_ = soak.Soak(
        lab.folder, lab.temporary, job.source, lab.reference, 2, rng, soak.Report(0), ends_at=math.inf, is_kept=True
    )
    try:
        round_.play_round(job, soak.STORM)
    finally:
        round_.close()
    assert round_.report.faults.total() > 0


# B5


def send_term(run: Run, rng: random.Random) -> bool:
    return run.send(signal.SIGTERM)


def send_hangup(run: Run, rng: random.Random) -> bool:
    return run.send(signal.SIGHUP)


def interrupt(run: Run, rng: random.Random) -> bool:
    return run.send(signal.SIGINT, group=True)


def interrupt_twice(run: Run, rng: random.Random) -> bool:
    return run.interrupt_twice(rng)


Send = Callable[[Run, random.Random], bool]


@pytest.mark.parametrize(
    ("send", "code"), [(send_term, 143), (send_hangup, 129), (interrupt, 130), (interrupt_twice, 130)]
)
def test_a_run_that_is_asked_to_stop_stops_soon(lab: Lab, rng: random.Random, send: Send, code: int) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        assert send(run, rng)
        assert_ended(run, code, SIGNAL_S)
    assert run.stderr.splitlines()[-1] == "Continue with: r3po run"
    lab.finish(job)


@pytest.mark.parametrize(("send", "code"), [(send_term, 143), (interrupt, 130), (interrupt_twice, 130)])
def test_a_run_that_is_asked_to_stop_while_ray_starts_stops_soon(
    lab: Lab, rng: random.Random, send: Send, code: int
) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        role = rng.choice(["gcs_server", "raylet"])
        run.wait_until(lambda: run.is_listening, "r3po takes signals")
        wait_for_role(run, role)
        assert send(run, rng)
        assert_ended(run, code, SIGNAL_S)
    lab.finish(job)


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


# B6


@pytest.mark.parametrize("role", ["worker", "driver"])
def test_a_process_that_is_stopped_for_some_seconds_only_costs_time(lab: Lab, rng: random.Random, role: str) -> None:
    job = lab.new_job()
    with lab.run(job) as run:
        wait_for_calls(run, rng.randint(1, 300))
        assert run.stop_for(role, rng.uniform(4, 8), rng)
        assert_ended(run, 1, 60)
    lab.assert_finished(job)


def kill_guard(run: Run) -> None:
    """Kill the process that would end the workers of a killed driver at once."""
    for pid, _ in tree_of(run.process.pid):
        with contextlib.suppress(OSError):
            if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def test_what_workers_of_a_killed_run_write_late_changes_nothing(lab: Lab, rng: random.Random) -> None:
    """Workers go on for some seconds after their driver's death; the next run is at work by then."""
    job = lab.new_job()
    with contextlib.ExitStack() as runs:
        killed = []
        for _ in range(3):
            run = runs.enter_context(lab.run(job))
            wait_for_calls(run, rng.randint(1, 150))
            kill_guard(run)
            assert run.kill("driver", rng)
            assert run.wait(SIGKILL_S) == -signal.SIGKILL
            assert run.alive(but=("agent",)), "the workers are still there"
            killed.append(run)
        last = runs.enter_context(lab.run(job))
        assert_ended(last, 1, 60)
        for run in killed:
            assert_gone(run, but=("agent",))
    lab.finish(job)  # also sweeps what was written after the last run had looked


# B7


def test_a_second_run_of_a_job_is_refused_and_names_the_first(lab: Lab) -> None:
    job = lab.new_job()
    with lab.run(job) as first:
        wait_for_calls(first, 1)
        second = run_process("run", cwd=job.folder, TMPDIR=str(lab.temporary))
        assert second.code == 4, second.err
        assert str(first.pid) in second.err
        assert_ended(first, 1, 60)
    lab.assert_finished(job)


def test_two_jobs_at_once_both_finish(lab: Lab) -> None:
    jobs = [lab.new_job("one"), lab.new_job("other")]
    with lab.run(jobs[0]) as one, lab.run(jobs[1]) as other:
        assert [one.wait(120), other.wait(120)] == [1, 1], one.stderr + other.stderr
        for run in (one, other):
            assert_gone(run)
    for job in jobs:
        lab.assert_finished(job)
