"""The serial engine: one worker in the driver's own process, for debuggers, tests and small jobs."""

from __future__ import annotations

import faulthandler
from collections import deque
from typing import IO

from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost, answer
from r3po.engines.worker_processes import WorkerProcesses
from r3po.work import Death
from r3po.worker.beacon import Sighting, watch_for_crashes
from r3po.worker.forks import shed_handlers_in_children
from r3po.worker.messages import WorkerSetup
from r3po.worker.worker import Worker


class SerialPool(OneMachine):
    """Carries out one call a `wait`, here and now.

    Ctrl-C is a flag that the driver sets, so it reaches the batch between two files and is never f's failure.
    """

    description = "serial"
    can_replace = False
    is_gone = False

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._worker: Worker | None = None
        self._processes: WorkerProcesses | None = None
        self._crash_file: IO[bytes] | None = None

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        shed_handlers_in_children()
        self._worker = Worker(setup)
        self._processes = WorkerProcesses(setup.workers_folder)
        if not faulthandler.is_enabled():
            self._crash_file = watch_for_crashes(setup.workers_folder, 0)
        self.submit(0, Call("load"))
        return 1

    def add_worker(self, worker: int) -> None:
        raise NotImplementedError("the serial engine has one worker: this process")

    def sighting(self, worker: int) -> Sighting | None:
        return None if self._processes is None else self._processes.sighting(worker)

    def end(self, worker: int) -> None:
        """Do nothing: the worker is this very process."""

    def dismiss(self, worker: int) -> None:
        """Do nothing, for the same reason."""

    def death_of(self, lost: WorkerLost) -> Death:
        raise NotImplementedError("who would ask has died with it")

    def submit(self, worker: int, call: Call) -> None:
        self._calls.append(call)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        if not self._calls:
            return []
        call = self._calls.popleft()
        return [answer(self._worker, 0, call)]

    def shortage(self) -> str:
        return ""

    def close(self) -> None:
        self._calls.clear()
        if self._crash_file is not None:
            faulthandler.disable()
            self._crash_file.close()
            self._crash_file = None
        if self._worker is not None:
            self._worker.close()
            self._worker = None
