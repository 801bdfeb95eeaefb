"""Workers that leave in order: what f made is closed in them first, for a limited time.

Only where f may have something to close: a class or a factory makes it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from r3po.engines.pool import Answer, Call, Pool, WorkerLost
from r3po.errors import R3poError
from r3po.events import Notice, Observer
from r3po.run.signals import StopSignals
from r3po.worker.beacon import Phase

CLOSE_S = 60.0
"""Seconds that closing f may take, at the end of a run and when a worker is replaced."""

STOPPED_CLOSE_S = 10.0
"""The same, once a signal has asked the run to stop."""

GRACE_S = 3.0
"""Seconds after which a worker is ended that does not end the closing itself: it is in C code."""

MAKING_S = 3.0
"""Seconds that a worker gets at the end of a run that is still making f, so as to close it."""

LOOK_S = 0.1


class Leavers:
    """Has f closed in workers, and lets them go.

    Args:
        label: of f, for people.
    """

    def __init__(self, pool: Pool, label: str, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._label, self._observer, self._clock = pool, label, observer, clock
        self._until: dict[int, float] = {}
        """When each is ended that has not answered."""
        self._late: set[int] = set()
        """Those of them that may have made nothing yet."""
        self._told: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether some are still leaving."""
        return bool(self._until)

    def add(self, worker: int, limit_s: float = CLOSE_S) -> None:
        """Let a worker leave that has nothing in hand; `take` says when it is gone."""
        self._until[worker] = self._clock() + limit_s + GRACE_S
        self._pool.submit(worker, Call("finish", (limit_s,)))

    def take(self, messages: Iterable[Answer | WorkerLost]) -> int:
        """Return how many have gone since the last time; `messages` are what the pool has told."""
        n_before = len(self._until)
        for message in messages:
            if message.worker not in self._until:
                continue
            if isinstance(message, WorkerLost):
                del self._until[message.worker]
                self._tell(f"the process ended: {self._pool.death_of(message).cause}")
            elif message.call.method == "finish":
                del self._until[message.worker]
                self._tell(str(message.error or message.value or ""))
                self._pool.dismiss(message.worker)
        now = self._clock()
        for worker in [worker for worker, until in self._until.items() if until <= now]:
            del self._until[worker]
            if worker not in self._late:
                self._tell("it did not end, and its worker was killed")
            self._pool.dismiss(worker)
        return n_before - len(self._until)

    def leave_all(self, workers: Iterable[int], stop: StopSignals) -> None:
        """Have f closed in these workers, but not in one that is in a file, and wait; a second signal ends that."""
        if self._pool.is_gone:
            return
        limit_s = STOPPED_CLOSE_S if stop.is_requested else CLOSE_S
        for worker in workers:
            seen = self._pool.sighting(worker)
            if seen is None or seen.is_in_file or seen.phase is Phase.LOADING:
                continue  # it has nothing to close, or would not come to it
            self.add(worker, limit_s)
            if seen.phase is Phase.MAKING:
                self._late.add(worker)
                self._until[worker] = self._clock() + MAKING_S
        with contextlib.suppress(R3poError):  # Ray may be gone, and nothing is lost with it
            while self._until and not stop.is_urgent:
                if stop.is_requested:
                    latest = self._clock() + STOPPED_CLOSE_S
                    self._until = {worker: min(until, latest) for worker, until in self._until.items()}
                self.take(self._pool.wait(LOOK_S))

    # Private methods

    def _tell(self, trouble: str) -> None:
        if trouble and trouble not in self._told:  # once for all workers
            self._told.add(trouble)
            self._observer(
                Notice(f"closing {self._label} went wrong: {trouble}", hint="no row is lost", is_warning=True)
            )
