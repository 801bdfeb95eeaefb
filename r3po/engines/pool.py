"""The pool's protocol, and `SerialPool`: one worker in the driver's own process, for debuggers, tests and small jobs.

A pool carries calls to workers and answers back. What a worker answers is a hint; what is on disk is the truth.
"""

from __future__ import annotations

import faulthandler
from collections import deque
from dataclasses import dataclass
from typing import IO, Any, Protocol

from r3po.worker.beacon import watch_for_crashes
from r3po.worker.worker import Worker, WorkerSetup


@dataclass(frozen=True, slots=True)
class Call:
    """One method of `Worker` with its argument."""

    method: str
    argument: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, or raised."""

    worker: int
    call: Call
    value: Any = None
    error: BaseException | None = None
    """An `R3poError` or `OSError` of the call, or a bug of ours; never an error of f."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process of a worker died; its calls will not be answered."""

    worker: int
    reason: str
    is_memory: bool = False
    """It was ended because memory ran out."""


class Pool(Protocol):
    """Workers with numbers, which are never used again; the calls to one worker are carried out in order."""

    description: str
    """`Ray, local`, `Ray, joined` or `serial`, for people."""
    can_replace: bool
    """Whether workers can be ended and added."""
    is_gone: bool
    """Whatever runs the workers has ended by itself; maybe by what one of them did."""

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        """Start the workers 0 to n_workers - 1 and send each the call `load`; it is answered like any other."""

    def add_worker(self, worker: int) -> None:
        """Start one more worker, under a new number, and send it the call `load`."""

    def kill(self, worker: int, *, ask_first: bool = False) -> None:
        """End a worker, and what f started in it. Its calls in flight may be told as lost, or not at all.

        Args:
            ask_first: let it write what it is doing into its crash file, if that is still possible.
        """

    def submit(self, worker: int, call: Call) -> None:
        """Queue a call."""

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        """Return what has been answered since, waiting up to `timeout_s` for something.

        Raises:
            RunStoppedError: whatever runs the workers is gone.
        """

    def shortage(self) -> str:
        """Say what workers that do not start are waiting for, such as CPUs; empty where nothing is known."""

    def close(self) -> None:
        """End the workers and everything that was started for them; calls in flight are dropped."""


class SerialPool:
    """Carries out one call a `wait`, here and now.

    Ctrl-C is a flag that the driver sets, so it reaches the batch between two files and is never f's failure.
    """

    description = "serial"
    can_replace = False
    is_gone = False

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._worker: Worker | None = None
        self._crash_file: IO[bytes] | None = None

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        self._worker = Worker(setup)
        if not faulthandler.is_enabled():
            self._crash_file = watch_for_crashes(setup.workers_folder, 0)
        self.submit(0, Call("load"))

    def add_worker(self, worker: int) -> None:
        raise NotImplementedError("the serial engine has one worker: this process")

    def kill(self, worker: int, *, ask_first: bool = False) -> None:
        pass

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


def answer(worker: Worker | None, number: int, call: Call) -> Answer:
    """Carry out one call. Whatever the call raises becomes part of the answer."""
    assert worker is not None, "start comes first"
    method = getattr(worker, call.method)
    try:
        return Answer(number, call, method() if call.method == "load" else method(call.argument))
    except Exception as error:
        return Answer(number, call, error=error)
