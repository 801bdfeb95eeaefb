"""What a worker that is to be ended is asked: the stack of where it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import wait_until
from r3po.engines.worker_processes import WorkerProcesses
from r3po.worker.beacon import read_beacon

SLOW_WRITER = """
import os, signal, sys, time
from pathlib import Path
from r3po.worker.beacon import Beacon, Phase, worker_file

folder = Path(sys.argv[1])

def write_slowly(number, frame):
    with open(worker_file(folder, 0, "crash"), "ab", buffering=0) as file:
        for line in ("Stack (most recent call first):\\n", '  File "f.py", line 3 in inner\\n'):
            file.write(line.encode())
            time.sleep(0.2)

signal.signal(signal.SIGUSR1, write_slowly)
os.setpgrp()
Beacon(folder, 0).mark(Phase.READING, 0, 0)
while True:
    time.sleep(60)
"""
"""A worker that writes its stack as `faulthandler` does, a line after the other, on a machine that is busy."""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(tmp_path)]) as process:
        wait_until(lambda: getattr(read_beacon(tmp_path, 0), "is_in_file", False), "the worker is in a file")
        yield process
        process.kill()


def test_a_worker_is_not_ended_between_two_lines_of_its_stack(worker: subprocess.Popen[bytes], tmp_path: Path) -> None:
    processes = WorkerProcesses(tmp_path)
    processes.end(0, ask_first=True)
    assert worker.wait(10) < 0
    assert processes.death_of(0, is_memory=False).stack.splitlines()[1:] == ['  File "f.py", line 3 in inner']
