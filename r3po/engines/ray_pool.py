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
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from r3po.engines.needs import Needs, options_of
from r3po.engines.pool import Answer, Call, WorkerLost
from r3po.engines.private_ray import PrivateRay
from r3po.engines.ray_node import answers, find_dead, global_node, machines, resources
from r3po.engines.ray_pickle import to_bytes
from r3po.engines.ray_watch import VITAL
from r3po.engines.worker_processes import WorkerProcesses
from r3po.engines.worker_shell import WorkerShell
from r3po.errors import RunStoppedError
from r3po.work import Death
from r3po.worker.beacon import Sighting
from r3po.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

CHECK_S = 1.0
"""Seconds between two looks whether the processes of our Ray are alive; it says so itself only after many seconds."""

CONNECT_S = 5.0
"""Seconds between two looks whether a Ray on another machine is there, by a connection to it."""


class RayPool:
    """Actors on a private local Ray, or on the Ray that this process has initialised already (which is not stopped).

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
        needs: what each worker needs.
    """

    can_replace = True

    def __init__(self, log_file: Path, note_file: Path, needs: Needs = Needs()) -> None:  # noqa: B008 - it is frozen
        self._log_file, self._note_file, self._needs = log_file, note_file, needs
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, Call]] = {}
        self._private: PrivateRay | None = None
        self._setup: WorkerSetup | None = None
        self._processes: WorkerProcesses | None = None
        self._pickled: bytes | None = None
        self._actor_class: Any = None
        self._checked_at = 0.0
        self.is_gone = False
        self.description = "Ray, local"

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        """Start Ray and the actors. Only on the main thread: Ray's processes die with the thread that started them.

        Raises:
            RunStoppedError: Ray does not start.
            ConfigError: it has no room for the workers.
        """
        if ray.is_initialized():
            self.description = "Ray, joined"
            self._check(is_due=True)  # what is sent to a Ray that is gone waits for ever
            n_workers = self._needs.fit(n_workers, machines(), "into this Ray")
        else:
            n_workers = self._needs.fit_cores(n_workers)
            self._private = PrivateRay(self._log_file, self._note_file, self._needs)
            self._private.start(n_workers)
            n_workers = self._needs.fit(n_workers, machines(), "on this machine")
        # By value where it has no module to import it from. In memory only: no pickle on disk.
        self._pickled = to_bytes(setup.function.value) if setup.function.kind == "value" else None
        self._setup = _without_value(setup)
        self._processes = WorkerProcesses(setup.workers_folder)
        # Once: Ray writes a class into its GCS when it is first used, and waits for a GCS that is gone.
        # CPUs are left to the tasks that f itself may start, for which it would wait for ever: in a Ray of our own all.
        num_cpus = 0.0 if self._is_local else _cpus_each(n_workers, resources("available_resources").get("CPU", 0.0))
        options = options_of({"CPU": num_cpus} | dict(self._needs.each))
        self._actor_class = ray.remote(WorkerShell).options(**options, max_restarts=0, max_task_retries=0)
        for worker in range(n_workers):
            self.add_worker(worker)
        return n_workers

    def add_worker(self, worker: int) -> None:
        self._actors[worker] = self._actor_class.remote(self._setup, worker, self._pickled)
        self.submit(worker, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        if worker in self._actors:  # else it died, and whoever calls will hear of it
            self._calls[self._actors[worker].perform.remote(call)] = (worker, call)

    def sighting(self, worker: int) -> Sighting | None:
        return self._known_processes.sighting(worker)

    def end(self, worker: int) -> None:
        self._end(worker, ask_first=True)

    def dismiss(self, worker: int) -> None:
        self._end(worker)
        self._known_processes.forget(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        return self._known_processes.death_of(lost.worker, is_memory=lost.is_memory)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        self._check()
        if not self._calls:
            time.sleep(timeout_s)
            return []
        # All that is there; one look takes many milliseconds where 10,000 calls are out, so there is a second one only
        # where nothing is there yet.
        calls = list(self._calls)
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        if not done:
            done, _ = ray.wait(calls, num_returns=1, timeout=timeout_s)
        return [self._collect(ref) for ref in done]

    def shortage(self) -> str:
        with contextlib.suppress(ray.exceptions.RayError):
            if self._is_local:
                return ""  # its CPUs are the workers' own
            return self._needs.shortage(resources("available_resources"), resources("cluster_resources"))
        return ""

    def close(self) -> None:
        self._calls.clear()
        if self._private is None:
            for worker in list(self._actors):
                self._end(worker)
            return
        self._actors.clear()
        self._private.end(is_gone=self.is_gone)
        self._private = None

    # Private methods

    @property
    def _known_processes(self) -> WorkerProcesses:
        assert self._processes is not None, "start comes first"
        return self._processes

    def _end(self, worker: int, *, ask_first: bool = False) -> None:
        # First: ray.kill asks the process itself, which may be beyond answering.
        if self._is_local:
            self._known_processes.end(worker, ask_first=ask_first)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def _collect(self, ref: Any) -> Answer | WorkerLost:
        worker, _ = self._calls.pop(ref)
        try:
            value: Answer = ray.get(ref)
            return value
        except ray.exceptions.RayError as error:
            log.info("worker %d: %s", worker, error)
            if isinstance(error, ray.exceptions.ActorDiedError) and "owner has died" in str(error):
                raise self._gone("its raylet ended") from error  # the owner is this process, which has not
            self._check(is_due=True)
            actor = self._actors.pop(worker, None)
            if actor is not None:  # whatever is left of it must not go on beside its replacement
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.kill(actor)
            return WorkerLost(worker, type(error).__name__, isinstance(error, ray.exceptions.OutOfMemoryError))

    @property
    def _is_local(self) -> bool:
        return self._private is not None

    def _check(self, *, is_due: bool = False) -> None:
        """Raise RunStoppedError if there is no Ray any more."""
        node = global_node()
        is_elsewhere = node is None or not node.all_processes
        now = time.monotonic()
        if not is_due and now - self._checked_at < (CONNECT_S if is_elsewhere else CHECK_S):
            return
        self._checked_at = now
        if is_elsewhere:
            if not answers():
                raise self._gone("its head does not answer")
            return
        dead = [kind for kind in find_dead() or [] if kind in VITAL]
        if dead:
            raise self._gone(f"its {' and '.join(sorted(dead))} ended")

    def _gone(self, what: str) -> RunStoppedError:
        self.is_gone = True
        if self._private is not None:
            self._private.note_end(what)
        hint = "your state is safe; run again to go on"
        if not self._is_local:
            hint = "your state is safe; connect to a Ray that is there (ray.shutdown(), ray.init(...)), then run again"
        return RunStoppedError(f"Ray is gone: {what}", hint=hint)


# Private functions


def _cpus_each(n_workers: int, n_free: float) -> float:
    """Return how many CPUs each worker takes of a Ray that others use, too: one, or less where none would be left.

    With none free, one: the workers wait for their turn.
    """
    if n_free < 1 or n_free >= n_workers + 1:
        return 1.0
    return math.floor(100 * (n_free - 1) / n_workers) / 100


def _without_value(setup: WorkerSetup) -> WorkerSetup:
    return dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=None))
