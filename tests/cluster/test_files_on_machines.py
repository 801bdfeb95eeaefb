"""Files that crash, hang or print on a machine that is not home; machines that cannot be used: what is told of them.

All workers are on the other machines, so that whatever f does it does there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_jobs import joined
from jobs import Ended, Job
from machines import Machines, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FUNCTION = """\
import ctypes
import json
import os
import socket
import time

from neighbour import named

KEPT = []


def double(filepath):
    with open(filepath) as file:
        wanted = json.load(file)
    if "does" in wanted:
        globals()[wanted["does"]]()
    return {"n": wanted["n"], "at": named(socket.gethostname()), "argv": len(filepath)}


def crash():
    ctypes.string_at(0)


def leave():
    os._exit(3)


def hang():
    while True:
        ctypes.PyDLL(None).pause()


def sleep():
    time.sleep(600)


def take_all_memory():
    while True:
        KEPT.append(bytearray(os.urandom(1) * (8 << 20)))


def print_a_line():
    print("hello from", socket.gethostname())
    os.system("echo from a child")
"""

NEIGHBOUR = """\
def named(name):
    return f"on {name}"
"""


@pytest.fixture
def lab(machines: Machines) -> Iterator[Machines]:
    before = machines.files()
    yield machines
    machines.assert_nothing_left(before)


def make_job(machines: Machines, name: str, n_files: int, does: dict[int, str], **settings: object) -> Job:
    """Make a job of which some files do something, on other machines; f's module has a neighbour, at home alone."""
    folder, source = machines.home_folder / name, machines.shared / f"source_{name}"
    settings = {"worker": {"num_cpus": 1, "resources": {"away": 1}}, "processes": 4, "batch_seconds": 0.2, **settings}
    job = Job(folder, source_path=str(source), **settings)
    folder.mkdir()
    source.mkdir()
    job.write_config()
    job.write_function(FUNCTION)
    (folder / "neighbour.py").write_text(NEIGHBOUR)
    for n in range(n_files):
        (source / f"{n:03}.json").write_text(json.dumps({"n": n} | ({"does": does[n]} if n in does else {})))
    return job


def run(machines: Machines, job: Job, *arguments: str) -> Ended:
    ended = machines.home.run(*joined(machines.address, *arguments), cwd=job.folder)
    for chatter in ("Traceback", "ray.exceptions", "RayError", "ActorDiedError"):
        assert chatter not in ended.said, ended.said
    return ended


def assert_finished(job: Job, ended: Ended, n_files: int, failing: dict[int, str]) -> dict[str, dict[str, object]]:
    """Check that these files, and they alone, have failures of these types, and all others have rows from elsewhere;
    return the failures by path."""
    assert ended.code == (1 if failing else 0), ended.said
    failures = {failure["path"]: failure for failure in job.failures()}
    assert {path: failure["error_type"] for path, failure in failures.items()} == {
        f"{n:03}.json": kind for n, kind in failing.items()
    }, ended.said
    rows = job.rows()
    assert [row["n"] for row in rows] == [str(n) for n in range(n_files) if n not in failing]
    assert {row["at"] for row in rows} <= {"on m2", "on m3"}
    assert job.findings() == []
    return failures


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(FUNCTION.splitlines(), 1) if text in line)


def test_files_that_end_their_process_elsewhere_are_failures_that_name_cause_and_line(lab: Machines) -> None:
    job = make_job(lab, "crashing", 60, {5: "crash", 6: "leave", 30: "crash"})
    ended = run(lab, job)
    failures = assert_finished(job, ended, 60, {5: "WorkerDied", 6: "WorkerDied", 30: "WorkerDied"})
    for name in ("005.json", "030.json"):
        assert failures[name]["message"] == "SIGSEGV: the process died in this file, alone, twice"
        assert failures[name]["where"] == f"double.py:{line_of('ctypes.string_at(0)')} in crash"
        assert "Segmentation fault" in str(failures[name]["traceback"])
    assert failures["006.json"]["message"] == "exit code 3: the process died in this file, alone, twice"
    assert not (job.working_dir / "suspects.json").exists()


def test_files_that_hang_elsewhere_are_timeouts_that_name_the_line(lab: Machines) -> None:
    job = make_job(lab, "hanging", 60, {7: "hang", 20: "sleep", 40: "hang"}, timeout_seconds=2)
    failures = assert_finished(job, run(lab, job), 60, dict.fromkeys((7, 20, 40), "Timeout"))
    assert {failure["message"] for failure in failures.values()} == {"f took longer than timeout_seconds: 2"}
    for name, text, function in (("007.json", "PyDLL", "hang"), ("020.json", "time.sleep(600)", "sleep")):
        assert f"{line_of(text)} in {function}" in str(failures[name]["where"])


def test_a_file_that_takes_all_memory_of_another_machine_fails_for_memory(lab: Machines) -> None:
    if not all(machine.has_limited_memory for machine in lab.away):
        pytest.skip("no memory cgroup of version 1 can be made here: it would take all memory there is")
    job = make_job(lab, "eating", 40, {13: "take_all_memory"})
    ended = run(lab, job)
    failures = assert_finished(job, ended, 40, {13: "OutOfMemory"})
    assert "memory" in str(failures["013.json"]["message"])
    assert "memory" in ended.err


def test_what_f_prints_elsewhere_is_shown_and_kept(lab: Machines) -> None:
    job = make_job(lab, "printing", 40, {3: "print_a_line", 33: "print_a_line"})
    ended = run(lab, job, "--show-output")
    assert_finished(job, ended, 40, {})
    shown = [line.partition(": ")[2] for line in ended.err.splitlines() if line.startswith("worker ")]
    kept = "".join(path.read_text() for path in job.working_dir.glob("runs/*/workers/*.out")).splitlines()
    for lines in (shown, kept):
        assert len([line for line in lines if line in ("hello from m2", "hello from m3")]) == 2, ended.said
        assert lines.count("from a child") == 2


# Machines that cannot be used


def test_a_machine_with_another_r3po_is_named_and_costs_no_file(lab: Machines) -> None:
    machine, fake = lab[1], lab.shared / "older"
    (fake / "r3po-0.0.1.dist-info").mkdir(parents=True)
    (fake / "r3po-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: r3po\nVersion: 0.0.1\n")
    machine.environment = {"PYTHONPATH": str(fake)}
    machine.restart_ray()
    lab.wait_for_nodes(3)
    try:
        job = make_job(lab, "older", 60, {})
        ended = run(lab, job)
        assert_finished(job, ended, 60, {})
        assert {row["at"] for row in job.rows()} == {"on m3"}
        assert "m2 is not used: it has r3po 0.0.1 (here " in ended.err
    finally:
        machine.environment = {}
        machine.restart_ray()
        lab.wait_for_nodes(3)


def test_a_machine_that_does_not_see_the_source_is_named_and_costs_no_file(lab: Machines) -> None:
    job = make_job(lab, "unseen", 60, {})
    with lab[2].hidden(Path(job.settings["source_path"])):
        ended = run(lab, job)
    assert_finished(job, ended, 60, {})
    assert {row["at"] for row in job.rows()} == {"on m2"}
    assert "m3 is not used: it does not see the source" in ended.err


def test_without_any_machine_that_can_be_used_the_run_stops_and_charges_no_file(lab: Machines) -> None:
    job = make_job(lab, "nobody", 60, {})
    source = Path(job.settings["source_path"])
    with lab[1].hidden(source), lab[2].hidden(source):
        ended = run(lab, job)
    assert ended.code == 3, ended.said
    assert "m2 is not used" in ended.err and "m3 is not used" in ended.err
    assert job.status()["pending"] == 60
    assert_finished(job, run(lab, job), 60, {})


def test_machines_with_no_home_and_nowhere_to_write_but_shared_memory_do_their_files(lab: Machines) -> None:
    """As in a container whose root is read-only."""
    machine = lab[1]
    machine.environment = {"HOME": "/nowhere", "TMPDIR": "/proc", "RAY_TMPDIR": str(lab.local / "ray")}
    machine.restart_ray()
    lab.wait_for_nodes(3)
    try:
        job = make_job(lab, "bare", 60, {5: "crash"})
        assert_finished(job, run(lab, job), 60, {5: "WorkerDied"})
        assert {row["at"] for row in job.rows()} == {"on m2", "on m3"}
    finally:
        machine.environment = {}
        machine.restart_ray()
        lab.wait_for_nodes(3)
