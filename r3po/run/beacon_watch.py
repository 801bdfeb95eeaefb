"""A look at every worker's beacon now and then: which file is in f for how long, and who is late and is ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from r3po.engines.pool import Pool
from r3po.run.roster import WorkerHandle
from r3po.worker.beacon import Phase, Sighting

log = logging.getLogger(__name__)

WATCH_S = 0.5
"""Seconds between two looks at the beacon of a worker. The looks at all are spread over this time."""

GAP_S = 5.0
"""Seconds without a look after which the driver itself was stopped, or a machine slept: deadlines begin again."""

GRACE_S = 3.0
"""Seconds after `timeout_seconds` at which the driver ends a worker that has not ended f itself."""

SILENT_S = 60.0
"""Seconds of idleness after which a worker that has calls does not hear them any more, and is ended."""


class BeaconWatch:
    """Looks at the beacons of workers, and ends those that overran or do not answer.

    Args:
        handles: of all workers, as they come and go.
        timeout_s: `timeout_seconds`, or None.
    """

    def __init__(
        self, pool: Pool, handles: Mapping[int, WorkerHandle], timeout_s: float | None, clock: Callable[[], float]
    ) -> None:
        self._pool, self._handles, self._timeout_s, self._clock = pool, handles, timeout_s, clock
        self._looked_at = self._turn_began = clock()
        self._turn = list(handles)
        """Whose beacons are looked at in this stretch of `WATCH_S`, in order."""
        self._n_looked = 0
        """How many of them have been."""

    def look(self, answered: set[int]) -> None:
        """Look at those whose turn it is: a few at each call, and each once in `WATCH_S`.

        Args:
            answered: workers that have answered just now, and so are not late.
        """
        now = self._clock()
        if now - self._looked_at > GAP_S:
            for handle in self._handles.values():
                handle.seen_at = now
        self._looked_at = now
        is_over = now - self._turn_began >= WATCH_S
        n_due = len(self._turn) if is_over else int(len(self._turn) * (now - self._turn_began) / WATCH_S)
        for worker in self._turn[self._n_looked : n_due]:
            if worker in self._handles:
                self._look_at(self._handles[worker], now, may_be_late=worker not in answered)
        self._n_looked = n_due
        if is_over:
            self._turn, self._turn_began, self._n_looked = list(self._handles), now, 0

    def longest(self) -> tuple[int, int, float] | None:
        """Return shard, place and seconds of the file that has been running for longest."""
        running = [(m.seen_at, m.seen) for m in self._handles.values() if m.seen is not None and m.seen.is_in_file]
        if not running:
            return None
        since, seen = min(running, key=lambda item: item[0])
        return seen.shard, seen.place, self._clock() - since

    # Private methods

    def _look_at(self, handle: WorkerHandle, now: float, *, may_be_late: bool) -> None:
        seen = self._pool.sighting(handle.number)
        if seen is None:
            return
        silence_s = self._pool.silence_of(handle.number)
        if handle.seen is None or seen.counter != handle.seen.counter:
            handle.seen, handle.seen_at = seen, now
        elif silence_s > GAP_S:
            handle.seen_at = now  # nobody knows what it does, or whether its machine runs at all
        elif may_be_late and not handle.ended_for:
            self._end_if_late(handle, seen, now - handle.seen_at - silence_s)

    def _end_if_late(self, handle: WorkerHandle, seen: Sighting, seconds: float) -> None:
        waited = self._clock() - handle.given_at
        if self._timeout_s is not None and seen.phase is Phase.CALLING and seconds > self._timeout_s + GRACE_S:
            handle.ended_for = "time"
        elif seen.phase is Phase.IDLE and handle.in_hand and min(seconds, waited) > SILENT_S:
            handle.ended_for = "silence"
        else:
            return
        log.info("worker %d is ended for %s: %s", handle.number, handle.ended_for, seen)
        self._pool.end(handle.number)
