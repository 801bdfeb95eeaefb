"""Which places next. Pure logic: no clock, no disk, no Ray, so that it can be tested by simulation.

The scheduler knows how many places of each shard are pending, hands them out as tickets, takes back what a worker did
not come to, and says when a shard is complete and must be staged. It holds ranges of places, never paths.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

Run = tuple[int, int]
"""Places from the first up to, not including, the second."""

FIRST_OFFER = 4
"""Files of an offer while the speed of f is unknown."""

GROWTH = 16
"""An offer is at most this many times as large as the largest that was answered."""


@dataclass(frozen=True, slots=True)
class BatchTicket:
    """Places of one shard for one worker."""

    number: int
    shard: int
    places: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class StageTicket:
    """Every place of this shard has an outcome: stage it."""

    number: int
    shard: int


Ticket = BatchTicket | StageTicket


@dataclass(slots=True)
class _Shard:
    pending: deque[Run] = field(default_factory=deque)
    n_in_flight: int = 0


class Scheduler:
    """Hands out the pending places of a job, lowest shard first.

    Args:
        pending: shard and runs of pending places, in shard order. A shard without runs only needs staging.
        n_workers: how many workers share the work; the last offers are cut so that all of them stay busy.
        batch_seconds: how long an offer should take; the worker ends a longer one itself.
    """

    def __init__(self, pending: Iterable[tuple[int, Iterable[Run]]], n_workers: int, batch_seconds: float) -> None:
        self._n_workers = max(1, n_workers)
        self._batch_seconds = batch_seconds
        self._shards: dict[int, _Shard] = {}
        self._queue: list[int] = []
        """A heap of the shards that have pending places: the lowest comes first, so few are open at a time."""
        self._to_stage: deque[int] = deque()
        self._in_flight: dict[int, Ticket] = {}
        self._number = 0
        self._files_per_second = 0.0
        self._largest_answered = 0
        self.n_pending = 0
        """Places that are neither in flight nor done."""
        for shard, runs in pending:
            state = self._shards.setdefault(shard, _Shard(deque(runs)))
            self.n_pending += _count(state.pending)
            if state.pending:
                heapq.heappush(self._queue, shard)
            else:
                self._to_stage.append(shard)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to hand out or to wait for."""
        return not (self._queue or self._to_stage or self._in_flight)

    @property
    def n_in_flight(self) -> int:
        return len(self._in_flight)

    def next_ticket(self, limit: int | None = None) -> Ticket | None:
        """Return the next thing to do, staging before batches, or None if all is handed out.

        Args:
            limit: the most files of a batch, instead of what the measured speed suggests.
        """
        if self._to_stage:
            return self._issue(StageTicket(self._number, self._to_stage.popleft()))
        if not self._queue:
            return None
        shard = self._queue[0]
        state = self._shards[shard]
        places = _take(state.pending, limit or self._offer_size())
        if not state.pending:
            heapq.heappop(self._queue)
        n_files = _count(places)
        self.n_pending -= n_files
        state.n_in_flight += 1
        return self._issue(BatchTicket(self._number, shard, tuple(places)))

    def batch_done(self, ticket: BatchTicket, returned: Iterable[Run], seconds: float) -> None:
        """Take a worker's answer: everything of the ticket but `returned` has an outcome."""
        returned = list(returned)
        n_done = _count(ticket.places) - _count(returned)
        if seconds > 0 and n_done > 0:
            self._learn(n_done, seconds)
        self._settle(ticket, returned)

    def hand_back(self, ticket: Ticket) -> None:
        """Take a ticket back that nobody will answer: all of it is to do again."""
        if isinstance(ticket, StageTicket):
            self._in_flight.pop(ticket.number)
            self._to_stage.append(ticket.shard)
        else:
            self._settle(ticket, list(ticket.places))

    def stage_done(self, ticket: StageTicket) -> None:
        """The shard is committed."""
        self._in_flight.pop(ticket.number)
        del self._shards[ticket.shard]

    def stage_incomplete(self, ticket: StageTicket, missing: Iterable[Run]) -> None:
        """Staging found places without an outcome: they are pending again."""
        self._in_flight.pop(ticket.number)
        self._requeue(ticket.shard, list(missing))

    # Private methods

    def _issue(self, ticket: Ticket) -> Ticket:
        self._in_flight[ticket.number] = ticket
        self._number += 1
        return ticket

    def _settle(self, ticket: BatchTicket, returned: list[Run]) -> None:
        self._in_flight.pop(ticket.number)
        state = self._shards[ticket.shard]
        state.n_in_flight -= 1
        if returned:
            self._requeue(ticket.shard, returned)
        elif not state.pending and not state.n_in_flight:
            self._to_stage.append(ticket.shard)

    def _requeue(self, shard: int, runs: list[Run]) -> None:
        state = self._shards[shard]
        if not state.pending:
            heapq.heappush(self._queue, shard)
        state.pending.extendleft(reversed(runs))
        self.n_pending += _count(runs)

    def _learn(self, n_files: int, seconds: float) -> None:
        rate = n_files / seconds
        self._files_per_second = rate if not self._files_per_second else (self._files_per_second + rate) / 2
        self._largest_answered = max(self._largest_answered, n_files)

    def _offer_size(self) -> int:
        wanted = FIRST_OFFER
        if self._files_per_second:
            wanted = math.ceil(self._files_per_second * self._batch_seconds)
            wanted = min(wanted, GROWTH * self._largest_answered)
        # Towards the end offers shrink, so that no worker sits on a long batch while the others are idle.
        fair = math.ceil(self.n_pending / (2 * self._n_workers))
        return max(1, min(wanted, fair))


# Private functions


def _count(runs: Iterable[Run]) -> int:
    return sum(stop - start for start, stop in runs)


def _take(pending: deque[Run], n_files: int) -> list[Run]:
    """Remove up to `n_files` places from the front of `pending` and return them."""
    taken: list[Run] = []
    while pending and n_files > 0:
        start, stop = pending.popleft()
        if stop - start > n_files:
            pending.appendleft((start + n_files, stop))
            stop = start + n_files
        taken.append((start, stop))
        n_files -= stop - start
    return taken
