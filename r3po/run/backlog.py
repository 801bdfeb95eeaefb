"""Places that wait for a worker, and how many of them make a batch. Pure logic, like the scheduler's.

Batches take about `batch_seconds` by the speed that was measured, grow by a factor at most, and shrink towards the end.
What is left of a batch whose worker died goes out first, in batches half as large: if the true culprit is among it, it
ends up in a batch of its own.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from r3po.work import Span, count_places

FIRST_BATCH = 4
"""Files of a batch while the speed of f is unknown."""

GROWTH = 16
"""A batch is at most this many times as large as the largest that was answered."""

SHORTEST_S = 0.1
"""Batches shrink towards the end, but not below so many seconds of work: a batch has a price, too."""

TAIL = 4
"""When fewer than this many full batches per worker remain, no worker gets a second one: it could get stuck behind a
slow file while others have nothing to do."""

LAST_TRIES = 10
"""Files of one batch that tries once more what failed by no fault of the files."""


class Taken(NamedTuple):
    """What a batch is made of."""

    shard: int
    places: list[Span]
    limit: int = 0
    """As given to `Backlog.add`."""
    call_files: int = 0


@dataclass(slots=True)
class _Doubt:
    """What is left of a batch that was lost, or of a call that failed."""

    shard: int
    places: list[Span]
    """The next ones last."""
    limit: int
    """The most files of a batch made of it; 0: as many as fit."""
    call_files: int
    """The most files of a call; 0: as many as any call has."""


class Backlog:
    """The places that no worker has, lowest shard first, those of lost batches before all others.

    Args:
        n_workers: how many workers share the work; the last batches are cut so that all of them stay busy.
        batch_seconds: how long a batch should take.
        call_files: the most files that f is given at once; a batch has whole calls of them.
    """

    def __init__(self, n_workers: int, batch_seconds: float, call_files: int = 1) -> None:
        self.n_workers, self._batch_seconds, self._call_files = n_workers, batch_seconds, call_files
        self._pending: dict[int, list[Span]] = {}
        """By shard, the next ones last: a list of one span is small, and there may be 100,000 of them."""
        self._queue: list[int] = []
        """A heap of the shards that have pending places: the lowest comes first, so few are open at a time."""
        self._doubts: deque[_Doubt] = deque()
        self.n_places = 0
        self._files_per_second = 0.0
        self._largest_answered = 0

    def add(self, shard: int, spans: Iterable[Span], limit: int = 0, call_files: int = 0) -> None:
        """Take places that are to be done.

        Args:
            limit: the most files of a batch made of them, which are of a lost one; 0: as many as fit.
            call_files: the most files of a call, of those that were in one that failed; 0: as many as any call has.
        """
        places = list(spans)
        if not places:
            return
        self.n_places += count_places(places)
        places.reverse()
        if limit or call_files:
            self._doubts.append(_Doubt(shard, places, limit, call_files))
            return
        if shard not in self._pending:
            heapq.heappush(self._queue, shard)
        self._pending.setdefault(shard, []).extend(places)

    def take(self, n_pending: int, limit: int | None = None) -> Taken | None:
        """Return what the next batch is made of, or None if there is nothing.

        Args:
            n_pending: places that are neither in flight nor done, here and elsewhere.
            limit: the most files of the batch, instead of what the measured speed suggests.
        """
        n_files = limit or self._batch_size(n_pending)
        if self._doubts:
            doubt = self._doubts[0]
            n_files = _whole_calls(n_files, doubt.call_files or self._call_files)
            taken = self._take(doubt.places, min(doubt.limit or n_files, n_files))
            if not doubt.places:
                self._doubts.popleft()
            return Taken(doubt.shard, taken, doubt.limit, doubt.call_files)
        if not self._queue:
            return None
        shard = self._queue[0]
        taken = self._take(self._pending[shard], _whole_calls(n_files, self._call_files))
        if not self._pending[shard]:
            del self._pending[heapq.heappop(self._queue)]
        return Taken(shard, taken)

    def learn(self, n_files: int, seconds: float) -> None:
        """Take note of how long a batch of `n_files` took."""
        if seconds > 0 and n_files > 0:
            rate = n_files / seconds
            self._files_per_second = (self._files_per_second + rate) / 2 if self._files_per_second else rate
            self._largest_answered = max(self._largest_answered, n_files)

    def is_ending(self, n_pending: int) -> bool:
        """Whether so few places remain that a worker should have one batch only."""
        return n_pending < TAIL * self.n_workers * _whole_calls(self._full_batch(), self._call_files)

    # Private methods

    def _full_batch(self) -> int:
        """Return how many files take `batch_seconds`, as far as that is known."""
        if not self._files_per_second:
            return FIRST_BATCH
        n_files = math.ceil(self._files_per_second * self._batch_seconds)
        return max(1, min(n_files, GROWTH * self._largest_answered))

    def _batch_size(self, n_pending: int) -> int:
        share = n_pending / self.n_workers
        shortest = min(self._files_per_second * SHORTEST_S, share)
        return min(self._full_batch(), max(1, math.ceil(share / 2), math.ceil(shortest)))

    def _take(self, places: list[Span], n_files: int) -> list[Span]:
        """Remove the next places of `places`, up to `n_files`, and return them."""
        taken: list[Span] = []
        while places and n_files > 0:
            start, stop = places.pop()
            if stop - start > n_files:
                places.append((start + n_files, stop))
                stop = start + n_files
            taken.append((start, stop))
            n_files -= stop - start
        self.n_places -= count_places(taken)
        return taken


def _whole_calls(n_files: int, call_files: int) -> int:
    return -(-n_files // call_files) * call_files


class Deferred:
    """Places that failed by no fault of theirs (a disk that does not answer), and wait to be tried once more.

    One is tried again once the disk has been seen to work, by a file that came to an outcome since: as many as came.
    """

    def __init__(self) -> None:
        self._places: dict[int, list[int]] = {}
        """By shard."""
        self.n_places = 0
        self.credit = 0
        """Files that came to an outcome since one was deferred."""

    def add(self, shard: int, places: Iterable[int]) -> None:
        """Take places of a shard."""
        if added := list(places):
            self._places.setdefault(shard, []).extend(added)
            self.n_places += len(added)

    def take(self, n_left: Mapping[int, int], *, is_all: bool) -> tuple[int, list[int]] | None:
        """Return the shard and places to try again now, or None.

        Args:
            n_left: by shard, its places without an outcome.
            is_all: there is nothing left to do but this.
        """
        limit = LAST_TRIES if is_all else min(LAST_TRIES, self.credit)
        for shard, places in self._places.items() if limit else ():
            # As late as its shard can wait: what ails the disk may be over by then.
            if is_all or len(places) == n_left[shard]:
                taken, rest = places[:limit], places[limit:]
                if rest:
                    self._places[shard] = rest
                else:
                    del self._places[shard]
                self.n_places -= len(taken)
                self.spend(len(taken))
                return shard, taken
        return None

    def spend(self, n_files: int) -> None:
        """Take note that so many files are tried again."""
        self.credit = max(0, self.credit - n_files)
