"""Workers as Ray actors. This module knows nothing of shards, files or outcomes.

What Ray says of a call is a hint: a call that failed may have done its work. r3po therefore owns retries
(`max_restarts=0`, `max_task_retries=0`), and an actor that is in doubt is never asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import logging
import math
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import IO, Any, NoReturn

import ray
import ray.exceptions

from r3po.engines.needs import Needs, options_of
from r3po.engines.pool import Answer, Call, WorkerLost, answer
from r3po.engines.ray_guard import end_users_of
from r3po.engines.ray_lines import ray_lines_to
from r3po.engines.ray_node import (
    answers,
    check_loopback,
    environment_for_start,
    find_dead,
    global_node,
    hide_messages,
    logging_only_to,
    machines,
    make_temporary,
    no_grace,
    on_loopback,
    resources,
    signals_kept,
    started_by_raylet,
    use_settings,
)
from r3po.engines.ray_pickle import from_bytes, to_bytes
from r3po.engines.ray_watch import START_HINT, VITAL, Guard, StartStuck, Watchdog
from r3po.engines.worker_processes import WorkerProcesses
from r3po.errors import FunctionError, R3poError, RunStoppedError
from r3po.function.load import extend_sys_path
from r3po.text import first_line
from r3po.work import Death
from r3po.worker.beacon import Beacon, Sighting, watch_for_crashes
from r3po.worker.forks import ignore_interrupts, shed_handlers_in_children
from r3po.worker.messages import WorkerSetup
from r3po.worker.printed import redirect_output, restore_streams
from r3po.worker.processes import start_of
from r3po.worker.worker import Worker

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20
"""Ray's least is about 75 MiB; answers are small and never go through it."""

START_TRIES = 3
"""How often a start of Ray is tried: two on one machine can race for a port."""

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
        self._temporary: Path | None = None
        self._setup: WorkerSetup | None = None
        self._processes: WorkerProcesses | None = None
        self._pickled: bytes | None = None
        self._actor_class: Any = None
        self._guard: Guard | None = None
        self._watchdog: Watchdog | None = None
        self._until_end = contextlib.ExitStack()
        """What holds as long as there is a Ray of our own."""
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
            self._start_ray(n_workers)
            n_workers = self._needs.fit(n_workers, machines(), "on this machine")
        # By value where it has no module to import it from. In memory only: no pickle on disk.
        self._pickled = to_bytes(setup.function.value) if setup.function.kind == "value" else None
        self._setup = _without_value(setup)
        self._processes = WorkerProcesses(setup.workers_folder)
        # Once: Ray writes a class into its GCS when it is first used, and waits for a GCS that is gone.
        # CPUs are left to the tasks that f itself may start, for which it would wait for ever: in a Ray of our own all.
        num_cpus = 0.0 if self._is_local else _cpus_each(n_workers, resources("available_resources").get("CPU", 0.0))
        options = options_of({"CPU": num_cpus} | dict(self._needs.each))
        self._actor_class = ray.remote(_Actor).options(**options, max_restarts=0, max_task_retries=0)
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
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        if done:  # and all that is there besides
            done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        return [self._collect(ref) for ref in done]

    def shortage(self) -> str:
        with contextlib.suppress(ray.exceptions.RayError):
            if self._is_local:
                return ""  # its CPUs are the workers' own
            return self._needs.shortage(resources("available_resources"), resources("cluster_resources"))
        return ""

    def close(self) -> None:
        self._calls.clear()
        workers = list(self._actors)
        if self._temporary is None:
            for worker in workers:
                self._end(worker)
            return
        self._actors.clear()
        node = global_node()
        started = started_by_raylet(node)  # now: what f started is not to be found once its worker is gone
        if self.is_gone and node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        with no_grace(node):
            ray.shutdown()
        for pid, start in started:
            if start_of(pid) == start:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self._remove_temporary(is_clean=not self.is_gone)

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
        return self._temporary is not None

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
        if self._watchdog is not None:
            self._watchdog.known_end = what  # to shut down what is dead may take for ever, too
        hint = "your state is safe; run again to go on"
        if not self._is_local:
            hint = "your state is safe; connect to a Ray that is there (ray.shutdown(), ray.init(...)), then run again"
        return RunStoppedError(f"Ray is gone: {what}", hint=hint)

    def _start_ray(self, n_workers: int) -> None:
        check_loopback()
        use_settings()
        for attempt in range(1, START_TRIES + 1):
            self._temporary = make_temporary()
            self._note_file.write_text(str(self._temporary))
            self._guard = Guard(self._temporary)
            self._watchdog = Watchdog(self._temporary, find_dead, self._guard)
            self._watchdog.start()
            try:
                self._init(n_workers)
                self._watchdog.ray_has_started()
                self._guard.ray_has_started()
                return
            except BaseException as error:
                is_stuck = isinstance(error, StartStuck)
                with contextlib.suppress(Exception):
                    ray.shutdown()
                self._remove_temporary(is_clean=False)
                if not isinstance(error, Exception) and not is_stuck:
                    raise  # a second Ctrl-C
                log.info("Ray did not start (%d of %d): %s", attempt, START_TRIES, error)
                if attempt == START_TRIES or is_stuck:
                    what = str(error) if is_stuck else f"{type(error).__name__}: {first_line(str(error))}"
                    raise RunStoppedError(
                        f"Ray does not start: {what}",
                        evidence=f"Ray's own messages are in {self._log_file}",
                        hint=START_HINT,
                    ) from error
                time.sleep(attempt)

    def _remove_temporary(self, *, is_clean: bool) -> None:
        """Remove Ray's folder and end who uses it; unless Ray ended well, the guard goes on looking for a while."""
        self._until_end.close()
        if self._watchdog is not None:
            self._watchdog.is_over.set()
            self._watchdog = None
        if self._temporary is not None:
            end_users_of(str(self._temporary))
        if self._guard is not None:
            self._guard.release(is_clean=is_clean)
            self._guard = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _init(self, n_workers: int) -> None:
        self._until_end.enter_context(logging_only_to(self._log_file, "ray._private"))
        with environment_for_start(self._needs.n_threads), on_loopback(), signals_kept(), ray_lines_to(self._log_file):
            self._ray_init(n_workers)
        self._until_end.enter_context(logging_only_to(self._log_file, "ray"))  # now: `ray.init` takes it away
        hide_messages()

    def _ray_init(self, n_workers: int) -> None:
        ray.init(
            address="local",
            # Those that the workers keep for themselves, and one each for tasks that f may start.
            num_cpus=n_workers + math.ceil(n_workers * self._needs.each.get("CPU", 0)),
            num_gpus=None if self._needs.each.get("GPU") else 0,  # None: as many as Ray finds
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._temporary),
        )


# Private


class _Actor:
    """A shell around `Worker`: no logic of its own."""

    def __init__(self, setup: WorkerSetup, number: int, pickled: bytes | None) -> None:
        ignore_interrupts()  # Ctrl-C on the terminal is for the driver; it tells us through the stop file
        shed_handlers_in_children()
        self._pickled = pickled
        self._setup = setup
        self._number = number
        self._worker: Worker | None = None

    def perform(self, call: Call) -> Answer:
        number = self._number
        try:
            if call.method == "load":
                self._load()
            else:
                restore_streams()
        except OSError as error:  # the disk of beacon and log
            return Answer(number, call, error=error)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            what = f"{self._setup.function.label} does not arrive in the workers: {type(error).__name__}: {error}"
            hint = "put the function into a module beside your script, and import it from there"
            return Answer(number, call, error=FunctionError(what, evidence=text, hint=hint))
        answered = answer(self._worker, number, call)
        if call.method == "load":
            gc.freeze()  # Ray's modules and f's, however large, need not be gone through with every collection
        if answered.error is not None and not isinstance(answered.error, (R3poError, OSError)):
            # A bug of ours, with whatever it carries: as text it survives the way to the driver.
            text = "".join(traceback.format_exception(answered.error))
            return Answer(number, call, error=RuntimeError(f"in a worker:\n{text}"))
        return answered

    def _load(self) -> None:
        """Not in `__init__`: what that raises is one more dead worker, without a word of the disk."""
        redirect_output(self._setup.workers_folder, self._number)
        sys.argv[:] = self._setup.arguments
        if self._setup.current_folder:
            with contextlib.suppress(OSError):  # another machine may not have it
                os.chdir(self._setup.current_folder)
        crash_file = watch_for_crashes(self._setup.workers_folder, self._number, on_request=True)
        self._worker = Worker(_with_value(self._setup, self._pickled), self._number)
        _note_exits(self._worker.beacon, crash_file)


def _cpus_each(n_workers: int, n_free: float) -> float:
    """Return how many CPUs each worker takes of a Ray that others use, too: one, or less where none would be left.

    With none free, one: the workers wait for their turn.
    """
    if n_free < 1 or n_free >= n_workers + 1:
        return 1.0
    return math.floor(100 * (n_free - 1) / n_workers) / 100


def _note_exits(beacon: Beacon, crash_file: IO[bytes]) -> None:
    """Let the beacon know the code, and the crash file the place, if f leaves by `os._exit`: nobody else will tell."""
    leave = os._exit

    def leave_with_a_note(status: int) -> NoReturn:
        if beacon.note_exit(status):
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # whatever f did to its descriptors
                faulthandler.dump_traceback(crash_file, all_threads=False)
        leave(status)

    os._exit = leave_with_a_note


def _without_value(setup: WorkerSetup) -> WorkerSetup:
    return dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=None))


def _with_value(setup: WorkerSetup, pickled: bytes | None) -> WorkerSetup:
    if pickled is None:
        return setup
    # What the function's module imports must be found before it is unpickled.
    extend_sys_path(setup.function.sys_path)
    return dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=from_bytes(pickled)))
