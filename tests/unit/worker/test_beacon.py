"""Beacons: what a worker says of itself is there after its death, whatever ended it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import HAS_PROC, environment, wait_until
from r3po.engines.worker_processes import end_process, is_running
from r3po.worker.beacon import (
    CRASH_LIMIT,
    Beacon,
    Phase,
    Sighting,
    list_workers,
    read_beacon,
    read_crash,
    remove_worker_files,
    start_of,
    worker_file,
)

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="when a process started is known from /proc only")

PREFACE = """\
import os, signal, subprocess, sys, time
from pathlib import Path
from r3po.worker.beacon import Beacon, Phase, watch_for_crashes
folder = Path(sys.argv[1])
beacon = Beacon(folder, 3)
"""
FOR_EVER = "while True:\n    time.sleep(1)\n"


@pytest.fixture
def beacon(tmp_path: Path) -> Iterator[Beacon]:
    made = Beacon(tmp_path, 3)
    yield made
    made.close()


def seen(folder: Path) -> Sighting:
    found = read_beacon(folder, 3)
    assert found is not None
    return found


@contextmanager
def worker(folder: Path, source: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with beacon 3, leader of its own group; killed at the end."""
    command = [sys.executable, "-c", PREFACE + source, str(folder)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def run_worker(folder: Path, source: str) -> int:
    with worker(folder, source) as process:
        return process.wait(30)


def wait_for_place(folder: Path, place: int) -> Sighting:
    wait_until(lambda: (found := read_beacon(folder, 3)) and found.place == place, f"the beacon says {place}")
    return seen(folder)


# Marks


def test_a_mark_is_read_as_it_was_written(tmp_path: Path, beacon: Beacon) -> None:
    new = Sighting(1, Phase.IDLE, -1, -1, os.getpid(), start_of(os.getpid()), None)
    assert seen(tmp_path) == new, "who it is, and that nothing is going on"
    marks = [*Phase, Phase.READING, Phase.READING]  # an equal one changes the counter, too
    for counter, phase in enumerate(marks, 2):
        beacon.mark(phase, 2**40, 12_345)
        found = seen(tmp_path)
        assert found == replace(new, counter=counter, phase=phase, shard=2**40, place=12_345)
        assert found.is_in_file is (phase in (Phase.READING, Phase.CALLING))
    beacon.advance(Phase.CALLING)
    assert seen(tmp_path) == replace(found, counter=found.counter + 1, phase=Phase.CALLING), "of the same file"
    beacon.mark(Phase.RECORDING)
    assert (seen(tmp_path).shard, seen(tmp_path).place) == (-1, -1), "of none"


def test_a_call_with_many_files_is_read_as_the_places_that_it_reaches_to(tmp_path: Path, beacon: Beacon) -> None:
    beacon.mark(Phase.READING, 4, 10, 63)
    assert (seen(tmp_path).place, seen(tmp_path).n_more, seen(tmp_path).span) == (10, 63, (10, 74))
    beacon.advance(Phase.CALLING)
    assert seen(tmp_path).span == (10, 74)
    beacon.mark(Phase.READING, 4, 11)
    assert (seen(tmp_path).n_more, seen(tmp_path).span) == (0, (11, 12)), "a file alone"


def test_the_code_of_an_exit_is_told_and_a_new_worker_under_an_old_number_begins_anew(tmp_path: Path) -> None:
    for code in (0, 1, 255):
        made = Beacon(tmp_path, 3)
        assert (seen(tmp_path).counter, seen(tmp_path).exit_code) == (1, None)
        made.mark(Phase.READING, 7, 8)
        made.note_exit(code)
        assert (seen(tmp_path).exit_code, seen(tmp_path).place) == (code, 8)
        made.close()


def test_the_exit_of_a_fork_is_not_the_worker_s(tmp_path: Path) -> None:
    source = "child = os.fork()\nif not child:\n    beacon.note_exit(9)\n    os._exit(9)\nos.waitpid(child, 0)\n"
    assert run_worker(tmp_path, source) == 0
    assert seen(tmp_path).exit_code is None


# What is no beacon


def test_a_beacon_that_is_none_says_nothing_and_is_never_an_error(tmp_path: Path) -> None:
    assert read_beacon(tmp_path, 3) is None
    assert read_beacon(tmp_path / "nowhere", 3) is None
    for size in (0, 1, 55, 56, 4096):
        worker_file(tmp_path, 3, "beacon").write_bytes(bytes(size))
        assert read_beacon(tmp_path, 3) is None
    for _ in range(50):
        worker_file(tmp_path, 3, "beacon").write_bytes(os.urandom(64))
        found = read_beacon(tmp_path, 3)
        assert found is None or found.phase in Phase


def test_only_beacons_name_workers_in_their_order(tmp_path: Path) -> None:
    for name in ("00012.beacon", "00002.beacon", "123456.beacon", "00003.out", "00004.crash", "x.beacon", "5.beacon~"):
        (tmp_path / name).touch()
    assert list_workers(tmp_path) == [2, 12, 123456]
    assert list_workers(tmp_path / "nowhere") == []


@pytest.mark.parametrize(("printed", "left"), [("", []), ("words", ["00003.out"])])
def test_of_a_dead_worker_only_what_f_printed_is_kept(tmp_path: Path, printed: str, left: list[str]) -> None:
    for kind in ("beacon", "crash", "out"):
        worker_file(tmp_path, 3, kind).write_text(printed)
    remove_worker_files(tmp_path, 3)
    remove_worker_files(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == left


# Deaths


def test_a_mark_is_there_after_sigkill(tmp_path: Path) -> None:
    source = "beacon.mark(Phase.READING, 4, 77)\nbeacon.advance(Phase.CALLING)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    assert run_worker(tmp_path, source) == -signal.SIGKILL
    found = seen(tmp_path)
    assert (found.phase, found.shard, found.place, found.exit_code) == (Phase.CALLING, 4, 77, None)


def test_a_fatal_signal_tells_its_name_and_the_line_that_it_interrupted(tmp_path: Path) -> None:
    names = ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"]
    source = f"""\
def weigh(number):
    os.kill(os.getpid(), number)
for worker, name in enumerate({names}):
    child = os.fork()
    if not child:
        file = watch_for_crashes(folder, worker)
        weigh(getattr(signal, name))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -getattr(signal, name)
"""
    assert run_worker(tmp_path, source) == 0
    for worker, name in enumerate(names):
        found, stack = read_crash(tmp_path, worker)
        assert found == name
        assert stack.startswith("Fatal Python error: ")
        assert 'File "<string>", line 7 in weigh' in stack


def test_a_crash_may_be_cut_is_read_to_a_limit_and_may_not_be_there(tmp_path: Path) -> None:
    assert read_crash(tmp_path, 3) == ("", "")
    file = worker_file(tmp_path, 3, "crash")
    file.write_bytes(b"")
    assert read_crash(tmp_path, 3) == ("", "")
    file.write_bytes(b"some words\nFatal Python error: Something odd")
    assert read_crash(tmp_path, 3) == ("Something odd", "Fatal Python error: Something odd")
    file.write_bytes(b"\xff" * (2 * CRASH_LIMIT))
    assert read_crash(tmp_path, 3) == ("", "\\xff" * CRASH_LIMIT)


def test_on_request_a_worker_says_what_it_is_in_and_lives_on(tmp_path: Path) -> None:
    source = "file = watch_for_crashes(folder, 3, on_request=True)\nbeacon.mark(Phase.READING, 1, 1)\n"
    busy = "import itertools\ndef weigh():\n    all(itertools.repeat(1))\nweigh()\n"  # Python's own handlers never run
    with worker(tmp_path, source + busy) as process:
        wait_for_place(tmp_path, 1)

        def is_told() -> bool:
            os.kill(process.pid, signal.SIGUSR1)
            return "line 10 in weigh" in read_crash(tmp_path, 3)[1]

        wait_until(is_told, "the stack is written", 20)
        assert process.poll() is None
    assert read_crash(tmp_path, 3)[0] == "", "nothing fatal"


# Processes


@needs_proc
def test_a_process_is_known_by_its_start_and_one_that_may_be_another_is_left_alone(tmp_path: Path) -> None:
    with worker(tmp_path, "beacon.mark(Phase.READING, 1, 1)\n" + FOR_EVER) as process:
        found = wait_for_place(tmp_path, 1)
        assert is_running(found)
        for pid_started in (found.pid_started + 1, 0):  # that of a later process with this number; not known
            other = replace(found, pid_started=pid_started)
            assert not is_running(other)
            end_process(other)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert start_of(found.pid) == 0
    assert not is_running(found), "gone after its end"


@needs_proc
def test_ending_a_worker_ends_what_f_started_in_it(tmp_path: Path) -> None:
    child = "child = subprocess.Popen(['sleep', '1000'])\nbeacon.mark(Phase.READING, 1, child.pid)\n"
    with worker(tmp_path, child + FOR_EVER) as process:
        wait_until(lambda: (found := read_beacon(tmp_path, 3)) and found.place > 0, "the worker has a child")
        found = seen(tmp_path)
        end_process(found)
        assert process.wait(30) == -signal.SIGKILL
        wait_until(lambda: is_dead(found.place), "its child is dead")


def is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_process_never_ends_itself(tmp_path: Path, beacon: Beacon) -> None:
    end_process(seen(tmp_path))
