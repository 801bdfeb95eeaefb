"""The pool's protocol, and `SerialPool`: one worker in the driver's own process, for debuggers, tests and small jobs.

A pool carries calls to workers and answers back. What a worker answers is a hint; what is on disk is the truth.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from r3po.worker import Worker, WorkerSetup


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


class Pool(Protocol):
    """Workers numbered from 0; the calls to one worker are carried out in order."""

    description: str
    """`Ray, local`, `Ray, joined` or `serial`, for people."""

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        """Start the workers and send each the call `load`; it is answered like any other."""

    def submit(self, worker: int, call: Call) -> None:
        """Queue a call."""

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        """Return what has been answered since, waiting up to `timeout_s` for something."""

    def close(self) -> None:
        """End the workers and everything that was started for them; calls in flight are dropped."""


class SerialPool:
    """Carries out one call a `wait`, here and now.

    Ctrl-C is a flag that the driver sets, so it reaches the batch between two files and is never f's failure.
    """

    description = "serial"

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._worker: Worker | None = None

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        self._worker = Worker(setup)
        self.submit(0, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        self._calls.append(call)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        if not self._calls:
            return []
        call = self._calls.popleft()
        return [answer(self._worker, 0, call)]

    def close(self) -> None:
        self._calls.clear()
        self._worker = None


def answer(worker: Worker | None, number: int, call: Call) -> Answer:
    """Carry out one call. Whatever the call raises becomes part of the answer."""
    assert worker is not None, "start comes first"
    method = getattr(worker, call.method)
    try:
        return Answer(number, call, method() if call.method == "load" else method(call.argument))
    except Exception as error:
        return Answer(number, call, error=error)
