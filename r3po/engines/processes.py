"""Workers as plain processes of this machine, without Ray. This module knows nothing of shards, files or outcomes.

The driver has two kinds of connections: one to the process that starts workers, which alone says that a worker has
ended, and one to each worker, for its calls. f may close the second kind, or leave a child that holds it open.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import selectors
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from r3po.engines.by_value import to_bytes
from r3po.engines.frames import Channel
from r3po.engines.needs import Needs
from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost
from r3po.engines.starter import Starter
from r3po.engines.worker_processes import WorkerProcesses
from r3po.errors import RunStoppedError
from r3po.work import Death
from r3po.worker.beacon import Sighting
from r3po.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

STARTER_ENDED = "the process that starts workers ended"
"""Reason of the loss of all workers at once: f may have ended the parent of its process."""


@dataclass(slots=True)
class _Link:
    """What the driver has of a worker."""

    worker: int
    channel: Channel
    calls: deque[Call] = field(default_factory=deque)
    """Those that are not answered yet, in order."""


class ProcessesPool(OneMachine):
    """Processes that are forked, or started fresh, by one process that imports what they need: see `starter_main`.

    Args:
        needs: what each worker needs; of a machine without Ray that is CPUs and memory.
        starter: one that was started before, while the driver had other things to do.
    """

    description = "processes"
    can_replace = True
    is_gone = False

    def __init__(self, needs: Needs = Needs(), starter: Starter | None = None) -> None:  # noqa: B008 - it is frozen
        self._needs, self._starter = needs, starter
        self._links: dict[int, _Link] = {}
        self._lost: list[WorkerLost] = []
        self._selector = selectors.DefaultSelector()
        self._setup: WorkerSetup | None = None
        self._pickled: bytes | None = None
        self._processes: WorkerProcesses | None = None
        self._n_workers = 0

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        """Start the workers.

        Raises:
            ConfigError: they have no room.
        """
        self._n_workers = self._needs.fit_machine(n_workers)
        self._pickled = to_bytes(setup.function.value) if setup.function.kind == "value" else None
        self._setup = dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=None))
        self._processes = WorkerProcesses(setup.workers_folder)
        self._take_starter(self._starter or Starter(self._needs.n_threads))
        for worker in range(self._n_workers):
            self.add_worker(worker)
        return self._n_workers

    def add_worker(self, worker: int) -> None:
        if self._starter is None:
            self._take_starter(Starter(self._needs.n_threads))
        assert self._starter is not None
        ours, theirs = socket.socketpair()
        self._starter.start(worker, theirs)
        theirs.close()
        link = self._links[worker] = _Link(worker, Channel(ours))
        self._selector.register(ours, selectors.EVENT_READ, link)
        self.submit(worker, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        link = self._links.get(worker)
        if link is not None:  # else it died, and whoever calls will hear of it
            link.calls.append(call)
            link.channel.send(pickle.dumps(call))
            self._watch(link)

    def sighting(self, worker: int) -> Sighting | None:
        return self._known_processes.sighting(worker)

    def end(self, worker: int) -> None:
        self._known_processes.end(worker, ask_first=True)
        if self._starter is not None:
            self._starter.end(worker)  # also one that never came to say where it is

    def dismiss(self, worker: int) -> None:
        self._known_processes.end(worker)
        if self._starter is not None:
            self._starter.end(worker)
        self._unlink(worker)
        self._known_processes.forget(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        death = self._known_processes.death_of(lost.worker, is_memory=lost.is_memory)
        is_shared = lost.reason == STARTER_ENDED and not death.is_known
        return dataclasses.replace(death, is_shared=is_shared)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        found: list[Answer | WorkerLost] = []
        deadline = time.monotonic() + (0 if self._lost else timeout_s)
        while True:
            for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
                found += self._hear_starter(key.data) if isinstance(key.data, Starter) else self._hear(key.data)
            lost, self._lost = self._lost, []
            found += lost
            if found or time.monotonic() >= deadline:
                return found

    def shortage(self) -> str:
        return ""

    def close(self) -> None:
        for worker in list(self._links):
            self._unlink(worker)
        self._lost.clear()
        if self._starter is not None:
            self._drop_starter()

    # Private methods

    @property
    def _known_processes(self) -> WorkerProcesses:
        assert self._processes is not None, "start comes first"
        return self._processes

    def _take_starter(self, starter: Starter) -> None:
        self._starter = starter
        starter.give(self._setup, self._pickled)
        self._selector.register(starter, selectors.EVENT_READ, starter)

    def _drop_starter(self) -> None:
        assert self._starter is not None
        starter, self._starter = self._starter, None
        self._selector.unregister(starter)
        starter.close()

    def _watch(self, link: _Link) -> None:
        """Wait for room in a worker's socket, too, where something is still to be sent."""
        if link.channel.is_over:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.channel.has_unsent else 0)
        if self._selector.get_key(link.channel).events != events:
            self._selector.modify(link.channel, events, link)

    def _unlink(self, worker: int) -> _Link | None:
        link = self._links.pop(worker, None)
        if link is not None:
            if not link.channel.is_over:
                self._selector.unregister(link.channel)
            link.channel.close()
        return link

    def _hear(self, link: _Link) -> list[Answer | WorkerLost]:
        """Return what a worker answered. That it is gone is for the starter to say."""
        if self._links.get(link.worker) is not link or link.channel.is_over:
            return []
        link.channel.flush()
        answers: list[Answer | WorkerLost] = []
        for content in link.channel.receive():
            value, error = pickle.loads(content)
            answers.append(Answer(link.worker, link.calls.popleft(), value, error))
        if link.channel.is_over:
            self._selector.unregister(link.channel)
        else:
            self._watch(link)
        return answers

    def _hear_starter(self, starter: Starter) -> list[Answer | WorkerLost]:
        """Return what dead workers had still answered, and then that they are lost."""
        found: list[Answer | WorkerLost] = []
        if starter is not self._starter:
            return []
        ended = [(worker, _reason(status)) for worker, status in starter.hear()]
        if starter.is_over:
            self._check_started(starter)
            log.info("the process that starts workers has ended: %s", starter.last_words()[1])
            self._drop_starter()
            for worker in self._links:  # they end with it; and what f started in them is ended here
                self._known_processes.end(worker)
            ended = [*ended, *((worker, STARTER_ENDED) for worker in self._links)]
        for worker, reason in ended:
            if worker in self._links:
                found += self._hear(self._links[worker])
                self._unlink(worker)
                self._lost.append(WorkerLost(worker, reason))
        return found

    def _check_started(self, starter: Starter) -> None:
        if not starter.is_ready:
            line, text = starter.last_words()
            raise RunStoppedError(
                f"workers do not start: {line or 'the process that starts them ended'}",
                evidence=text if text != line else None,
                hint="your state is safe; run again, or see more with: r3po run --engine serial",
            )


# Private functions


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
