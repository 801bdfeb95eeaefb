"""Workers as Ray actors. This module knows nothing of shards, files or outcomes.

What Ray says of a call is a hint: a call that failed may have done its work. r3po therefore owns retries
(`max_restarts=0`, `max_task_retries=0`), and an actor that is in doubt is never asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from r3po.engines.agent import Visit, versions
from r3po.engines.by_value import to_bytes
from r3po.engines.machines import NO_RETRIES, Machine, Machines, on_machine
from r3po.engines.needs import Needs, options_of
from r3po.engines.nodes import find_nodes
from r3po.engines.pool import Answer, Call, Role, WorkerLost
from r3po.engines.private_ray import PrivateRay
from r3po.engines.ray_connection import RayConnection
from r3po.engines.ray_join import JoinTimeout, within
from r3po.engines.ray_node import resources
from r3po.engines.worker_processes import WorkerProcesses
from r3po.engines.worker_shell import WorkerShell
from r3po.errors import FunctionError
from r3po.events import Observer
from r3po.function.travel import pack
from r3po.work import Death
from r3po.worker.beacon import Sighting
from r3po.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

CLOSE_S = 8.0
"""Seconds that the agents have at the end to hear of it and to tidy up; who did not hear of it finds out by itself."""


class RayPool:
    """Actors on a private local Ray, or on the Ray that this process has initialised already (which is not stopped).

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
        needs: what each worker needs.
        observer: told of machines that join, are lost, or cannot be used.
        probes: paths that every machine must see.
        source: the Ray to use: a private one, or the address of one to join; None: the one that this process has
            joined already, or else a private one.
    """

    can_replace = True

    def __init__(
        self,
        log_file: Path,
        note_file: Path,
        needs: Needs = Needs(),  # noqa: B008 - it is frozen
        observer: Observer = lambda event: None,
        probes: tuple[str, ...] = (),
        source: PrivateRay | str | None = None,
    ) -> None:
        self._needs, self._observer, self._probes = needs, observer, probes
        self._ray = RayConnection(log_file, note_file, needs, source)
        self._actors: dict[int, Any] = {}
        self._next: dict[Any, int] = {}
        """Workers by the call that each is to answer next: a large answer may be overtaken by one that comes after."""
        self._open: dict[int, deque[Any]] = {}
        """All calls of each worker that are not answered, in order."""
        self._machines: Machines | None = None
        self._processes: WorkerProcesses | None = None
        self._pickled: bytes | None = None
        self._actor_class: Any = None

    @property
    def is_gone(self) -> bool:
        return self._ray.is_gone

    @property
    def description(self) -> str:
        return self._ray.description

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        """Start Ray and the actors.

        Raises:
            RunStoppedError: Ray does not start.
            ConfigError: it has no room for the workers.
        """
        n_workers, nodes = self._ray.start(n_workers)
        # By value where it has no module to import it from. In memory only: no pickle on disk.
        function = setup.function
        self._pickled = to_bytes(function.value) if function.kind == "value" else None
        setup = dataclasses.replace(setup, function=dataclasses.replace(function, value=None))
        self._processes = WorkerProcesses(setup.workers_folder)
        find = (lambda: nodes) if self._ray.is_private else find_nodes
        home = ray.get_runtime_context().get_node_id()

        def visit() -> Visit:
            return Visit(setup.function, pack(function), self._probes, versions(), setup.store)

        most = None if self._needs.is_auto and not self._ray.is_private else n_workers
        self._machines = Machines(setup, visit, most, self._needs.each, home, find, self._observer)
        # Once: Ray writes a class into its GCS when it is first used, and waits for a GCS that is gone.
        # CPUs are left to the tasks that f itself may start, for which it would wait for ever: in a Ray of our own all.
        n_free = 0.0 if self._ray.is_private else resources("available_resources").get("CPU", 0.0)
        num_cpus = 0.0 if self._ray.is_private else _cpus_each(n_workers, n_free)
        self._options = options_of({"CPU": num_cpus} | dict(self._needs.each))
        self._actor_class = ray.remote(WorkerShell)
        self._machines.begin()
        for worker in range(self._machines.capacity):
            self.add_worker(worker)
        return self._machines.capacity

    def add_worker(self, worker: int) -> None:
        machine = self._known_machines.place(worker)
        # One that only stages needs nothing of what f does, and must fit where there is none of it.
        own = self._options if machine.n_calling else {"num_cpus": 0}
        options = {**own, **({} if self._ray.is_private else on_machine(machine)), **NO_RETRIES}
        self._actors[worker] = self._actor_class.options(**options).remote(machine.setup, worker, self._pickled)
        self.submit(worker, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        if worker in self._actors:  # else it died, and whoever calls will hear of it
            ref = self._actors[worker].perform.remote(call)
            opened = self._open.setdefault(worker, deque())
            opened.append(ref)
            self._next[opened[0]] = worker

    def capacity(self) -> int | None:
        return self._known_machines.capacity

    def role_of(self, worker: int) -> Role:
        machine = self._machine_of(worker)
        return Role(machine.is_home, bool(machine.n_calling), "" if self._ray.is_private else machine.name)

    def sighting(self, worker: int) -> Sighting | None:
        source = self._known_processes if self._is_home(worker) else self._known_machines
        return source.sighting(worker)

    def silence_of(self, worker: int) -> float:
        return 0.0 if self._is_home(worker) else self._known_machines.silence_of(worker)

    def end(self, worker: int) -> None:
        if self._is_home(worker):
            self._end(worker, ask_first=True)
        else:
            self._known_machines.ask("end", worker, ask_first=True)

    def dismiss(self, worker: int) -> None:
        if self._is_home(worker):
            self._end(worker)
            self._known_processes.forget(worker)
        else:
            self._kill(worker)
            self._known_machines.ask("dismiss", worker)
        self._known_machines.forget(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        if not self._is_home(lost.worker):
            return self._known_machines.death_of(lost.worker)
        self._known_machines.forget(lost.worker)
        return self._known_processes.death_of(lost.worker, is_memory=lost.is_memory)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        self._ray.check()
        machines = self._known_machines
        machines.tick()
        messages: list[Answer | WorkerLost] = self._take_losses()
        refs = [*self._next, *machines.refs]
        if not refs:
            time.sleep(0 if messages else timeout_s)
            return messages
        # All that is there. With 10,000 calls out a look takes milliseconds, so there is a second one only to wait.
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not done and not messages:
            done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        for ref in done:
            if ref not in self._next:
                machines.take(ref)
                continue
            message = self._collect(ref)
            messages += [] if message is None else [message]
        return messages + self._take_losses()

    def shortage(self) -> str:
        with contextlib.suppress(ray.exceptions.RayError):
            if self._ray.is_private:
                return ""  # its CPUs are the workers' own
            return self._needs.shortage(resources("available_resources"), resources("cluster_resources"))
        return ""

    def close(self) -> None:
        self._next.clear()
        if self._ray.is_private:
            self._actors.clear()  # they end with it
        else:
            self._leave()
        self._ray.end()

    # Private methods

    @property
    def _known_processes(self) -> WorkerProcesses:
        assert self._processes is not None, "start comes first"
        return self._processes

    @property
    def _known_machines(self) -> Machines:
        assert self._machines is not None, "start comes first"
        return self._machines

    def _machine_of(self, worker: int) -> Machine:
        machine = self._known_machines.machine_of(worker)
        assert machine is not None, "it was added"
        return machine

    def _is_home(self, worker: int) -> bool:
        return self._machine_of(worker).is_home

    def _end(self, worker: int, *, ask_first: bool = False) -> None:
        # First: ray.kill asks the process itself, which may be beyond answering.
        self._known_processes.end(worker, ask_first=ask_first)
        self._kill(worker)

    def _kill(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _leave(self) -> None:
        """End the workers and the agents, and nothing else, of a Ray that others use, too."""
        workers = list(self._actors)
        for worker in workers:
            self._kill(worker)  # first, so that a Ray that others watch knows that this is no accident
        if self._machines is not None and ray.is_initialized():  # else a call would start a Ray
            # Agents hear it even where the head is gone: they are called without it. But Ray may wait for ever then.
            with contextlib.suppress(JoinTimeout, ray.exceptions.RayError):
                within(CLOSE_S, self._machines.close)
        if workers:
            self._known_processes.await_end()
        for worker in workers:
            if self._is_home(worker):
                self._known_processes.end(worker)  # what f started there

    def _take_losses(self) -> list[Answer | WorkerLost]:
        losses = self._known_machines.take_losses()
        for loss in losses:
            self._kill(loss.worker)  # whatever is left of it must not go on beside its replacement
            self._drop_calls(loss.worker)
        return [*losses]

    def _drop_calls(self, worker: int) -> None:
        opened = self._open.pop(worker, None)
        if opened:
            self._next.pop(opened[0], None)

    def _collect(self, ref: Any) -> Answer | WorkerLost | None:
        """Return what came of a call; None: of a worker elsewhere that is lost, which is told later."""
        worker = self._next.pop(ref)
        try:
            value: Answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._drop_calls(worker)
            return self._lose(worker, error)
        opened = self._open[worker]
        opened.popleft()
        if opened:
            self._next[opened[0]] = worker
        return value if self._is_home(worker) else self._check_machine(worker, value)

    def _check_machine(self, worker: int, value: Answer) -> Answer | None:
        """Return what a worker elsewhere answered; None: its machine is not used any more."""
        machine, error = self._machine_of(worker), value.error
        if isinstance(error, FunctionError) and value.call.method == "load":
            # It need not be f: home is to judge that.
            self._known_machines.refuse(machine, str(error.args[0]), error.hint or "")
            return None
        if isinstance(error, OSError):
            hint = "look at its folder of temporary files, and at its limits"
            self._known_machines.refuse(machine, error.strerror or str(error), hint)
            return None
        self._known_machines.note_answer(worker, value.counter)
        return value

    def _lose(self, worker: int, error: ray.exceptions.RayError) -> WorkerLost | None:
        log.info("worker %d: %s", worker, error)
        if isinstance(error, ray.exceptions.ActorDiedError) and "owner has died" in str(error):
            raise self._ray.gone("its raylet ended") from error  # the owner is this process, which has not
        self._ray.check(is_due=True)
        is_memory = isinstance(error, ray.exceptions.OutOfMemoryError)
        is_new = worker in self._actors
        self._kill(worker)  # whatever is left of it must not go on beside its replacement
        if self._is_home(worker):
            return WorkerLost(worker, type(error).__name__, is_memory)
        if is_new:
            is_unreachable = isinstance(error, ray.exceptions.ActorUnavailableError)
            self._known_machines.ask("autopsy", worker, is_memory=is_memory, is_unreachable=is_unreachable)
        return None


# Private functions


def _cpus_each(n_workers: int, n_free: float) -> float:
    """Return how many CPUs each worker takes of a Ray that others use, too: one, or less where none would be left.

    With none free, one: the workers wait for their turn.
    """
    if n_free < 1 or n_free >= n_workers + 1:
        return 1.0
    return math.floor(100 * (n_free - 1) / n_workers) / 100
