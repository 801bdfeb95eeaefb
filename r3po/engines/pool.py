"""The pool's protocol: what an engine has to do for the driver.

A pool carries calls to workers and answers back. What a worker answers is a hint; what is on disk is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from r3po.work import Death
from r3po.worker.beacon import Sighting
from r3po.worker.messages import WorkerSetup
from r3po.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class Call:
    """One method of `Worker` with its arguments."""

    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call returned, or raised."""

    worker: int
    call: Call
    value: Any = None
    error: BaseException | None = None
    """An `R3poError` or `OSError` of the call, or a bug of ours; never an error of f."""
    counter: int = field(default=-1, compare=False)
    """Of the worker's beacon, after the call; -1: it is not told."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process of a worker died; its calls will not be answered."""

    worker: int
    reason: str
    is_memory: bool = False
    """It was ended because memory ran out."""


@dataclass(frozen=True, slots=True)
class Role:
    """Where a worker is, and what it may do there."""

    can_stage: bool = True
    """It is on the driver's machine, where everything durable is, and reads and writes the job's folders."""
    can_call: bool = True
    """It calls f; else it only stages shards and records failures."""
    machine: str = ""
    """Name of its machine, for people; empty: there is only this one."""


class OneMachine:
    """What a pool says whose workers are all on this machine."""

    def capacity(self) -> int | None:
        return None

    def role_of(self, worker: int) -> Role:
        return Role()

    def silence_of(self, worker: int) -> float:
        return 0.0


class Pool(Protocol):
    """Workers with numbers, which are never used again; the calls to one worker are carried out in order."""

    can_replace: bool
    """Whether workers can be ended and added."""

    @property
    def description(self) -> str:
        """`Ray, local`, `Ray, joined`, `processes` or `serial`, for people."""

    @property
    def is_gone(self) -> bool:
        """Whether what runs the workers has ended by itself; maybe by what one of them did."""

    def start(self, setup: WorkerSetup, n_workers: int) -> int:
        """Start the workers 0 to n_workers - 1 and send each the call `load`; it is answered like any other.

        Returns:
            How many there are; fewer only where fewer are enough and not all have room.

        Raises:
            ConfigError: they have no room.
        """

    def add_worker(self, worker: int) -> None:
        """Start one more worker, under a new number, and send it the call `load`."""

    def capacity(self) -> int | None:
        """Return how many workers there can be now, as machines come and go; None: as many as were started."""

    def role_of(self, worker: int) -> Role:
        """Return where a worker is that was started, and what it may do there."""

    def sighting(self, worker: int) -> Sighting | None:
        """Return what a worker is doing, or was doing when it died; None if it never came to say so."""

    def silence_of(self, worker: int) -> float:
        """Return for how many seconds nothing was heard of a worker's machine: so old is what it was seen doing."""

    def end(self, worker: int) -> None:
        """End a worker that is late, and what f started in it; it is told as lost, or not at all.

        If it still can, it writes down first what it is doing: the stack of its death.
        """

    def dismiss(self, worker: int) -> None:
        """End a worker that has nothing in hand, and forget it."""

    def death_of(self, lost: WorkerLost) -> Death:
        """Return how a worker died that was told as lost, and forget it."""

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


def answer(worker: Worker | None, number: int, call: Call) -> Answer:
    """Carry out one call. Whatever the call raises becomes part of the answer."""
    assert worker is not None, "start comes first"
    method = getattr(worker, call.method)
    try:
        return Answer(number, call, method(*call.arguments), counter=worker.beacon.counter)
    except Exception as error:
        return Answer(number, call, error=error, counter=worker.beacon.counter)
