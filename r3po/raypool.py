"""Workers as Ray actors. The only room that imports Ray; it knows nothing of shards, files or outcomes.

What Ray says of a call is a hint: a call that failed may have done its work. r3po therefore owns retries
(`max_restarts=0`, `max_task_retries=0`), and an actor that is in doubt is never asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before `import ray`, which reads them once. A random token keeps Ray from writing one into the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
# `uv run` would upload the working directory to each worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.cloudpickle
from ray.exceptions import RayError

from r3po.errors import FunctionError, R3poError, RunStoppedError
from r3po.pool import Answer, Call, WorkerLost, answer
from r3po.userfunc import extend_sys_path
from r3po.worker import Worker, WorkerSetup

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20
"""Ray's least is about 75 MiB; answers are small and never go through it."""

START_TRIES = 3
"""Two starts on one machine can race for a port."""

TEMPORARY_PREFIX = "r3po-ray-"

_SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path; Ray's own part takes about 65 of them."""


class RayPool:
    """Actors on a private local Ray, or on the Ray that this process has initialised already (which is not stopped).

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
    """

    def __init__(self, log_file: Path, note_file: Path) -> None:
        self._log_file, self._note_file = log_file, note_file
        self._actors: list[Any] = []
        self._calls: dict[Any, tuple[int, Call]] = {}
        self._temporary: Path | None = None
        self.description = "Ray, local"

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        """Start Ray and the actors. Only on the main thread: Ray's processes die with the thread that started them.

        Raises:
            RunStoppedError: Ray does not start.
        """
        if ray.is_initialized():
            self.description = "Ray, joined"
        else:
            self._start_ray(n_workers)
        # By value where it has no module to import it from. In memory only: no pickle on disk.
        pickled = _pickle(setup.function.value) if setup.function.kind == "value" else None
        actor = ray.remote(_Actor)
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        sendable = _without_value(setup)
        self._actors = [actor.options(**options).remote(sendable, pickled) for _ in range(n_workers)]
        for worker in range(n_workers):
            self.submit(worker, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        self._calls[self._actors[worker].perform.remote(worker, call)] = (worker, call)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        if not self._calls:
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        if done:  # and all that is there besides
            done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        return [self._collect(ref) for ref in done]

    def close(self) -> None:
        self._calls.clear()
        actors, self._actors = self._actors, []
        if self._temporary is None:
            for actor in actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor)
            return
        ray.shutdown()
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None

    # Private methods

    def _collect(self, ref: Any) -> Answer | WorkerLost:
        worker, _ = self._calls.pop(ref)
        try:
            value: Answer = ray.get(ref)
            return value
        except RayError as error:
            log.info("worker %d: %s", worker, error)
            return WorkerLost(worker, type(error).__name__)

    def _start_ray(self, n_workers: int) -> None:
        for attempt in range(1, START_TRIES + 1):
            self._temporary = _make_temporary()
            self._note_file.write_text(str(self._temporary))
            try:
                self._init(n_workers)
                return
            except Exception as error:
                with contextlib.suppress(Exception):
                    ray.shutdown()
                shutil.rmtree(self._temporary, ignore_errors=True)
                self._temporary = None
                log.info("Ray did not start (%d of %d): %s", attempt, START_TRIES, error)
                if attempt == START_TRIES:
                    raise RunStoppedError(
                        f"Ray does not start: {type(error).__name__}: {error}",
                        hint="your state is safe; run again, or without Ray: r3po run --engine serial",
                    ) from error
                time.sleep(attempt)

    def _init(self, n_workers: int) -> None:
        logger = logging.getLogger("ray")
        logger.propagate = False
        if not any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
            logger.addHandler(logging.FileHandler(self._log_file, delay=True))
        with _one_thread_each():
            self._ray_init(n_workers)
        # `log_to_driver=False` leaves the raylet's messages on the screen; this is the switch that they obey.
        internals = sys.modules["ray._private.worker"]
        if hasattr(internals, "_worker_logs_enabled"):
            setattr(internals, "_worker_logs_enabled", False)  # noqa: B010 - not in Ray's types

    def _ray_init(self, n_workers: int) -> None:
        ray.init(
            address="local",
            num_cpus=n_workers,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._temporary),
        )


def sweep_temporary(note_file: Path) -> None:
    """Remove the temporary folder that a killed run noted. The caller holds the job's lock, so that run is over."""
    try:
        folder = Path(note_file.read_text())
    except OSError:
        return
    if folder.name.startswith(TEMPORARY_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    note_file.unlink(missing_ok=True)


# Private


class _Actor:
    """A shell around `Worker`: no logic of its own."""

    def __init__(self, setup: WorkerSetup, pickled: bytes | None) -> None:
        # Ctrl-C on the terminal is for the driver; it tells us through the stop file.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._pickled = pickled
        self._setup = setup
        self._worker: Worker | None = None

    def perform(self, number: int, call: Call) -> Answer:
        if call.method == "load":
            try:
                self._worker = Worker(_with_value(self._setup, self._pickled))
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                what = f"{self._setup.function.label} does not arrive in the workers: {type(error).__name__}: {error}"
                hint = "put the function into a module beside your script, and import it from there"
                return Answer(number, call, error=FunctionError(what, evidence=text, hint=hint))
        answered = answer(self._worker, number, call)
        if answered.error is not None and not isinstance(answered.error, (R3poError, OSError)):
            # A bug of ours, with whatever it carries: as text it survives the way to the driver.
            text = "".join(traceback.format_exception(answered.error))
            return Answer(number, call, error=RuntimeError(f"in a worker:\n{text}"))
        return answered


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let the workers inherit OMP_NUM_THREADS=1 unless the user chose: each has a core, not all of them."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _pickle(value: Any) -> bytes:
    dumps: Any = ray.cloudpickle.dumps
    try:
        pickled: bytes = dumps(value)
    except Exception as error:
        raise FunctionError(
            f"f cannot be sent to the workers: {type(error).__name__}: {error}",
            hint="f holds something that belongs to this process (a lock, an open file, a connection); "
            "open it inside f, or put f into a module of its own",
        ) from error
    return pickled


def _without_value(setup: WorkerSetup) -> WorkerSetup:
    return dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=None))


def _with_value(setup: WorkerSetup, pickled: bytes | None) -> WorkerSetup:
    if pickled is None:
        return setup
    # What the function's module imports must be found before it is unpickled.
    extend_sys_path(setup.function.sys_path)
    return dataclasses.replace(
        setup, function=dataclasses.replace(setup.function, value=ray.cloudpickle.loads(pickled))
    )


def _make_temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    if len(os.fsencode(folder)) > _SOCKET_PATH_LIMIT - 70 and Path("/tmp").is_dir():
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir="/tmp"))
    return folder
