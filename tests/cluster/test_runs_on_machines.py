"""One job over three machines that share nothing but the source, hit in every way: the table is that of a plain loop.

Each test hits one run, or lets it be, and holds what it made against an undisturbed run in one process: the same bytes.
Ten seconds after the end nothing of r3po is left on any machine.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from cluster_jobs import ClusterJob, ClusterLab
from jobs import comes_true
from machines import Machine, Machines, Program, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_FILES = int(os.environ.get("R3PO_CLUSTER_FILES", "30000"))

SLOW = 400 / (0.003 * N_FILES)
"""A pace at which four workers are busy for 80 s after the first fifth of the files."""

CUT_OFF_S = 150
"""So long after its link was cut a machine has nothing of r3po any more."""


@pytest.fixture(scope="module")
def lab_of_all(three_machines: Machines) -> ClusterLab:
    return ClusterLab(three_machines, N_FILES)


@pytest.fixture
def lab(lab_of_all: ClusterLab, machines: Machines) -> Iterator[ClusterLab]:
    """All machines are there; at the end nothing of r3po is left on those that are."""
    before = machines.files()
    yield lab_of_all
    machines.assert_nothing_left(before)


def started(lab: ClusterLab, share: float = 0.2) -> tuple[ClusterJob, Program]:
    """Return a new job and its run, which has done a share of the files."""
    job = lab.new_job()
    job.set_pace(2)
    program = job.start()
    job.wait_for_calls(program, share)
    return job, program


def finish(lab: ClusterLab, job: ClusterJob, program: Program, timeout_s: float = 240) -> str:
    """Wait for the end of a run, and compare its job with the reference; return what was told."""
    job.set_pace(1)
    ended = job.finish(program, timeout_s)
    lab.assert_finished(job)
    return ended.err


def test_three_machines_do_the_files_of_a_job(lab: ClusterLab) -> None:
    job = lab.new_job()
    told = finish(lab, job, job.start())
    by_machine = {name: calls.total() for name, calls in job.calls_by_machine().items()}
    assert sum(by_machine.values()) == N_FILES, "each file was called once"
    assert by_machine.keys() == {"m1", "m2", "m3"}
    assert min(by_machine.values()) > N_FILES / 10
    for name, n_files in by_machine.items():
        assert re.search(rf"^  {name} +{n_files:,} files +[\d,.]+ files/s$", told, re.M), "the summary has each machine"


def test_killed_workers_cost_their_batch_on_any_machine(lab: ClusterLab) -> None:
    job, program = started(lab, 0.1)
    for share, machine in zip(
        (0.2, 0.3, 0.4, 0.5), (*lab.machines.away, lab.machines.home, lab.machines[1]), strict=True
    ):
        assert machine.kill("worker", 1), f"{machine.name} has workers"
        job.wait_for_calls(program, share)
    told = finish(lab, job, program)
    assert re.search(r"m2 .* 2 workers lost", told)


def test_a_killed_agent_costs_what_its_machine_had_in_hand(lab: ClusterLab) -> None:
    job, program = started(lab)
    assert lab.machines[1].kill("agent")
    told = finish(lab, job, program)
    assert "m2 was lost" in told


def test_a_killed_raylet_costs_what_its_machine_had_in_hand(lab: ClusterLab) -> None:
    job, program = started(lab)
    assert lab.machines[2].kill("raylet")
    told = finish(lab, job, program)
    assert "m3 was lost" in told


@pytest.mark.parametrize("end", [Machine.crash, Machine.switch_off], ids=["crash", "power"])
def test_a_machine_that_is_gone_costs_what_it_had_in_hand(lab: ClusterLab, end: object) -> None:
    job, program = started(lab)
    lab.machines[2].crash() if end is Machine.crash else lab.machines[2].switch_off()
    told = finish(lab, job, program)
    assert "m3 was lost" in told


def test_a_link_that_is_cut_for_seconds_costs_seconds(lab: ClusterLab) -> None:
    job, program = started(lab)
    with lab.machines[1].link_cut():
        time.sleep(5)
    told = finish(lab, job, program)
    assert "was lost" not in told
    assert job.calls().total() == N_FILES, "each file was called once"


def test_a_machine_that_is_cut_off_for_a_minute_is_given_up_and_comes_back(lab: ClusterLab) -> None:
    job, program = started(lab)
    job.set_pace(SLOW)
    with lab.machines[1].link_cut():
        n_before = job.calls_by_machine()["m1"].total()
        time.sleep(60)
    assert program.poll() is None, f"it is in the middle\n{program.err}"
    assert job.calls_by_machine()["m1"].total() > n_before, "the others go on"
    told = finish(lab, job, program)
    assert "m2 was lost" in told


def test_a_machine_that_is_cut_off_for_ever_keeps_nothing_of_ours(lab: ClusterLab) -> None:
    job, program = started(lab)
    before, cut_at = lab.machines[1].files(), time.monotonic()
    lab.machines[1].cut_link()
    told = finish(lab, job, program)
    assert "m2 was lost" in told
    # As long as the link is cut nobody can tell it that the run is over: it must find out.
    files = {name for name in before if "r3po" not in name}
    comes_true(lambda: not lab.machines[1].left(files), CUT_OFF_S - (time.monotonic() - cut_at), 1)
    assert lab.machines[1].left(files) == []


def test_a_machine_that_joins_while_the_job_runs_gets_files(lab: ClusterLab) -> None:
    lab.machines[2].crash()
    lab.machines.wait_for_nodes(2)
    job = lab.new_job()
    job.write_config(processes="auto")
    job.set_pace(SLOW)
    program = job.start()
    job.wait_for_calls(program, 0.05, 2)
    assert "m3" not in job.calls_by_machine()
    lab.machines[2].restart_ray()
    program.wait_until(lambda: "m3" in job.calls_by_machine(), "the new machine calls f")
    told = finish(lab, job, program)
    assert "m3 joined: 2 workers" in told
    assert job.calls_by_machine()["m3"].total() > 100


def test_a_killed_driver_leaves_nothing_anywhere_and_goes_on(lab: ClusterLab) -> None:
    before = lab.machines.files()
    job, program = started(lab)
    program.kill()
    lab.machines.assert_nothing_left(before)
    done = job.n_calls()
    program = job.start()
    job.wait_for_calls(program, 0.6)
    program.kill()  # and the next one begins while workers of this one may be there
    finish(lab, job, job.start())
    assert job.calls().total() < N_FILES + 2 * 6 * 2 * 1000 / job.inputs.least_ms, f"{done} were done before"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_run_that_is_asked_to_stop_leaves_nothing_anywhere(
    lab: ClusterLab, number: signal.Signals, code: int
) -> None:
    before = lab.machines.files()
    job, program = started(lab)
    program.send(number)
    ended = program.end(30)
    assert ended.code == code, ended.said
    lab.machines.assert_nothing_left(before)
    n_calls = job.n_calls()
    finish(lab, job, job.start())
    assert job.calls().total() - N_FILES < 1000, f"what was done before is kept: {n_calls} files"


@pytest.mark.parametrize("role", ["raylet", "gcs_server"])
def test_a_killed_head_stops_the_run_and_leaves_nothing_anywhere(lab: ClusterLab, role: str) -> None:
    """Or the run is finished before Ray notices: workers outlive their raylet by seconds."""
    before = lab.machines.files()
    job, program = started(lab)
    assert lab.machines.head.kill(role)
    ended = program.end(120)
    assert ended.code == 3 or (role == "raylet" and ended.code == 1 and "Done in" in ended.err), ended.said
    assert "Ray is gone" in ended.err or ended.code == 1
    assert "Traceback" not in ended.said
    lab.machines.assert_nothing_left(before)
    lab.machines.mend()
    if ended.code == 3:
        program = job.start()
        finish(lab, job, program)
    else:
        lab.assert_finished(job)


def test_a_slow_link_is_no_loss(lab: ClusterLab) -> None:
    job, program = started(lab)
    lab.machines[1].slow_link("400kbit")
    told = finish(lab, job, program)
    assert "was lost" not in told
