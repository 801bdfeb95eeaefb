"""A machine that is not home, without a second machine: its worker has none of the job's folders."""

from __future__ import annotations

import dataclasses
import pickle
from collections import deque
from pathlib import Path

from r3po.engines.pool import Answer, Call, Role, WorkerLost, answer
from r3po.engines.worker_processes import WorkerProcesses
from r3po.work import Death
from r3po.worker.beacon import Sighting
from r3po.worker.messages import WorkerSetup
from r3po.worker.worker import Worker

NOWHERE = Path("/proc/nowhere")
"""Where the job's folders are for the other machine: nothing can be read or written there."""


class TwoMachines:
    """A pool of two workers in this process: one at home, which only stages, and one elsewhere, which only calls f.

    What they are told and what they answer goes through pickle, as between processes.
    """

    description = "serial"
    can_replace = False
    is_gone = False

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._calls: deque[tuple[int, bytes]] = deque()
        self.calls: list[tuple[int, str]] = []
        """Worker and method of every call."""

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        self._processes = WorkerProcesses(setup.workers_folder)
        folders = dataclasses.replace(
            setup.folders, **{field.name: NOWHERE for field in dataclasses.fields(setup.folders)}
        )
        away = dataclasses.replace(setup, folders=folders, is_home=False)
        self._workers = [Worker(setup, 0), Worker(away, 1)]
        for worker in range(2):
            self.submit(worker, Call("load"))
        return 2

    def capacity(self) -> int | None:
        return None

    def role_of(self, worker: int) -> Role:
        return Role(can_stage=True, can_call=False, machine="home") if worker == 0 else Role(False, True, "away")

    def silence_of(self, worker: int) -> float:
        return 0.0

    def sighting(self, worker: int) -> Sighting | None:
        return self._processes.sighting(worker)

    def end(self, worker: int) -> None:
        raise NotImplementedError

    add_worker = dismiss = end

    def death_of(self, lost: WorkerLost) -> Death:
        raise NotImplementedError

    def submit(self, worker: int, call: Call) -> None:
        self.calls.append((worker, call.method))
        self._calls.append((worker, pickle.dumps(call)))

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        if not self._calls:
            return []
        worker, call = self._calls.popleft()
        answered = answer(self._workers[worker], worker, pickle.loads(call))
        return [pickle.loads(pickle.dumps(answered)) if answered.error is None else answered]

    def shortage(self) -> str:
        return ""

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
