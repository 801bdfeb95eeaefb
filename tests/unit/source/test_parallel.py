"""Helper processes: in order, as asked for, and never longer there than the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import r3po
from jobs import environment, wait_until
from r3po.source import parallel as helpers
from r3po.source.parallel import map_in_order
from r3po.worker.processes import children_of, name_and_state

DRIVER = """
import time
from r3po.source.parallel import map_in_order

for answer in map_in_order(time.sleep, [0] * 2 + [3600] * 10, 2):
    print("answered", flush=True)
"""


def test_answers_come_in_the_order_of_the_tasks() -> None:
    assert list(map_in_order(abs, range(0, -30, -1), 2)) == list(range(30))


def test_tasks_are_asked_for_as_they_are_needed() -> None:
    asked: list[int] = []

    def tasks() -> Iterator[int]:
        for n in range(100):
            asked.append(n)
            yield n

    with closing(map_in_order(abs, tasks(), 1)) as answers:
        assert next(answers) == 0
        assert len(asked) == helpers.WAITING_TASKS


def test_what_a_task_raises_is_raised_here_and_without_a_task_no_process_is_started() -> None:
    before = set(children_of(os.getpid()))
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        list(map_in_order(os.listdir, ["/", "/nowhere"], 1))
    assert list(map_in_order(abs, [], 2)) == []
    assert set(children_of(os.getpid())) == before


def test_a_helper_that_dies_costs_nothing() -> None:
    before = set(children_of(os.getpid()))
    found = []
    for answer in map_in_order(abs, range(0, -100, -1), 2):
        if answer == 10:
            for pid in set(children_of(os.getpid())) - before:
                os.kill(pid, signal.SIGKILL)
        found.append(answer)
    assert found == list(range(100))


def test_helpers_do_not_hear_what_is_for_the_drivers_group_and_end_when_nobody_wants_more() -> None:
    before, started = set(children_of(os.getpid())), time.monotonic()
    answers = map_in_order(time.sleep, [0, *[3600] * 20], 2)
    next(answers)
    helpers_there = set(children_of(os.getpid())) - before
    assert len(helpers_there) == 2
    assert all(os.getsid(pid) == pid != os.getsid(0) for pid in helpers_there)
    answers.close()
    assert set(children_of(os.getpid())) == before
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_helpers_end_with_the_driver_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(r3po.__file__).parent.parent)),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"answered\n"
        started = children_of(driver.pid)
        assert len(started) >= 2
        driver.send_signal(number)
        driver.wait(30)
        wait_until(lambda: all(name_and_state(pid)[1] in ("", "Z") for pid in started), "all of them are gone")
    finally:
        if driver.poll() is None:
            driver.kill()
        if driver.stdout is not None:
            driver.stdout.close()
