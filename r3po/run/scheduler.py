"""Which places next. Pure logic: no clock, no disk, no Ray, so that it can be tested by simulation.

The scheduler knows how many places of each shard are pending, hands them out in batches, takes back what a worker did
not come to, and says when a shard is complete and must be staged. It holds spans of places, never paths.

When a worker dies, the file it was in is a *suspect*: it spans in a trial, the only file of a fresh worker, until it
has an outcome or has died too often, which is its failure. The rest of its batch is innocent and is done again, in
batches half as large: if the true culprit is another file, it ends up in a batch of its own.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from r3po.work import Batch, Death, RecordFailure, Span, Stage, Work

FIRST_BATCH = 4
"""Files of a batch while the speed of f is unknown."""

GROWTH = 16
"""A batch is at most this many times as large as the largest that was answered."""

SHORTEST_S = 0.1
"""Batches shrink towards the end, but not below so many seconds of work: a batch has a price, too."""

TAIL = 4
"""When fewer than this many full batches per worker remain, no worker gets a second one: it could get stuck behind a
slow file while others have nothing to do."""

KNOWN_DEATHS = 2
"""Deaths alone, of a cause that is known (a signal, an exit code, memory), after which a file has failed."""

DEATHS = 3
"""Deaths alone after which a file has failed, whatever is known of them."""

LAST_TRIES = 10
"""Files of one batch that tries once more what failed by no fault of the files."""


@dataclass(slots=True)
class Suspect:
    """A file that a worker died in, until it has an outcome."""

    shard: int
    place: int
    n_deaths: int = 0
    """In trials: alone."""
    n_known: int = 0
    """Those of them whose cause is known."""
    is_apart: bool = False
    """Its trial waits until nobody else works, and nobody begins before it is over: the whole run may die of it."""
    death: Death = field(default_factory=lambda: Death("killed"))
    """The latest."""
    n_runs: int = 0
    """Runs that died while it was in flight, alone or not."""
    is_last_try: bool = False
    """A trial of it failed by no fault of the file."""

    @property
    def key(self) -> tuple[int, int]:
        return self.shard, self.place


@dataclass(slots=True)
class _Shard:
    pending: deque[Span] = field(default_factory=deque)
    n_left: int = 0
    """Places without an outcome, wherever they are: pending, in flight, suspect, deferred."""


@dataclass(slots=True)
class _Doubt:
    """The rest of a batch that was lost."""

    shard: int
    places: deque[Span]
    limit: int
    """The most files of a batch made of it."""


class Scheduler:
    """Hands out the pending places of a job, lowest shard first.

    Args:
        pending: shard and spans of pending places, in shard order. A shard without spans only needs staging.
        n_workers: how many workers share the work; the last offers are cut so that all of them stay busy.
        batch_seconds: how long a batch should take; the worker ends a longer one itself.
        suspects: pending places that an earlier run has reason to mistrust.
    """

    def __init__(
        self,
        pending: Iterable[tuple[int, Iterable[Span]]],
        n_workers: int,
        batch_seconds: float,
        suspects: Iterable[Suspect] = (),
    ) -> None:
        self._n_workers = max(1, n_workers)
        self._batch_seconds = batch_seconds
        self._shards: dict[int, _Shard] = {}
        self._queue: list[int] = []
        """A heap of the shards that have pending places: the lowest comes first, so few are open at a time."""
        self._doubts: deque[_Doubt] = deque()
        self._suspects: deque[Suspect] = deque()
        self._on_trial: dict[int, Suspect] = {}
        """By the number of their work."""
        self._to_record: deque[Suspect] = deque()
        self._recording: dict[int, Suspect] = {}
        """By the number of their work."""
        self._to_stage: deque[int] = deque()
        self._deferred: dict[int, list[int]] = {}
        """Places by shard that failed by no fault of theirs, and are tried once more."""
        self._credit = 0
        """Files that came to an outcome since one was deferred: as many may be tried once more."""
        self._in_flight: dict[int, Work] = {}
        self._number = 0
        self._files_per_second = 0.0
        self._largest_answered = 0
        self.n_pending = 0
        """Places that are neither in flight nor done."""
        mistrusted = {suspect.key: suspect for suspect in suspects}
        for shard, spans in pending:
            self._add_shard(shard, list(spans), mistrusted)
        order = {key: number for number, key in enumerate(mistrusted)}
        self._suspects = deque(sorted(self._suspects, key=lambda suspect: order[suspect.key]))

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to hand out or to wait for."""
        waits = self._queue or self._doubts or self._suspects or self._to_record or self._to_stage or self._deferred
        return not (waits or self._in_flight)

    @property
    def n_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def has_suspects(self) -> bool:
        """Whether a trial waits for a fresh worker, and for nothing else."""
        return any(self._may_try(suspect) for suspect in self._suspects)

    @property
    def is_apart(self) -> bool:
        """Whether a trial that must not have company is going on or is to come first."""
        on_trial = any(suspect.is_apart for suspect in self._on_trial.values())
        return on_trial or any(suspect.is_apart for suspect in self._suspects)

    @property
    def suspects(self) -> list[Suspect]:
        """Every file that is mistrusted now, those on trial first; until its failure is durable, it is among them."""
        return [*self._on_trial.values(), *self._suspects, *self._recording.values(), *self._to_record]

    @property
    def trial_apart(self) -> Suspect | None:
        """The file that is on trial while nobody else works."""
        return next((suspect for suspect in self._on_trial.values() if suspect.is_apart), None)

    def next_work(self, limit: int | None = None, *, is_fresh: bool = False, is_ahead: bool = False) -> Work | None:
        """Return the next thing to do, or None if there is nothing for this worker now.

        Failures that are due come first, then staging, trials, and batches.

        Args:
            limit: the most files of a batch, instead of what the measured speed suggests.
            is_fresh: the worker has called f on no file yet and has nothing else to do, so it may hold a trial.
            is_ahead: the worker still has work in hand; None towards the end of the job.
        """
        if is_ahead and self.n_pending < TAIL * self._n_workers * self._full_batch():
            return None
        if self._to_record and self.trial_apart is None:
            due = self._recording[self._number] = self._to_record.popleft()
            return self._issue(RecordFailure(self._number, due.shard, due.place, due.n_deaths, due.death))
        if self.is_apart:
            return self._next_trial() if is_fresh and not self._in_flight else None
        if self._to_stage:
            return self._issue(Stage(self._number, self._to_stage.popleft()))
        if is_fresh and self.has_suspects:
            return self._next_trial()
        return self._next_last_try() or self._next_doubt(limit) or self._next_batch(limit)

    def batch_done(self, work: Batch, returned: Iterable[Span], seconds: float, deferred: Iterable[int] = ()) -> None:
        """Take a worker's answer: everything of the work has an outcome, but for what it gave back.

        Args:
            returned: places that it did not come to.
            deferred: places that failed by no fault of theirs (a disk that does not answer).
        """
        self._in_flight.pop(work.number)
        returned, deferred = list(returned), list(deferred)
        n_done = _count(work.places) - _count(returned) - len(deferred)
        if deferred:
            self._credit = 0
        elif not work.is_last_try:  # these prove nothing: they may all be failures
            self._credit += n_done
        if seconds > 0 and n_done > 0:
            self._learn(n_done, seconds)
        suspect = self._on_trial.pop(work.number, None)
        if suspect is not None and (returned or deferred):
            if deferred:  # it did not end its worker, so it needs no protection for its next try
                suspect.is_last_try, suspect.is_apart = True, False
            self._mistrust(suspect)
        elif work.kind == "last try":
            self._defer(work.shard, returned)
        else:
            self._defer(work.shard, _spans(deferred))
            self._requeue(work.shard, returned, work.limit)
        self._settle(work.shard, n_done)

    def hand_back(self, work: Work) -> None:
        """Take work back that its worker has not begun."""
        self._in_flight.pop(work.number)
        match work:
            case Stage():
                self._to_stage.append(work.shard)
            case RecordFailure():
                self._to_record.append(self._recording.pop(work.number))
            case Batch(kind="trial"):
                self._mistrust(self._on_trial.pop(work.number))
            case Batch(kind="last try"):
                self._defer(work.shard, work.places)
            case _:
                self._requeue(work.shard, list(work.places), work.limit)

    def lost(self, work: Work, place: int | None, death: Death, *, counts: bool = True) -> None:
        """Take work back whose worker died over it.

        Args:
            place: the file that it died in; None: between two files, or it is not known.
            counts: False: the file need not be to blame (others had their share of the memory); its next trial, without
                company, will tell.
        """
        if not isinstance(work, Batch):
            self.hand_back(work)
            return
        self._in_flight.pop(work.number)
        n_files = _count(work.places)
        if place is None and n_files == 1:
            place = work.places[0][0]  # a batch of one file: whenever it died, it was with this one
        suspect = self._on_trial.pop(work.number, None)
        if suspect is not None and counts:
            suspect.n_deaths += 1
            suspect.n_known += death.is_known
        elif suspect is None and place is not None:
            suspect = Suspect(work.shard, place)
        if suspect is not None:
            suspect.death = death
            suspect.is_apart = suspect.is_apart or death.is_memory
            self._judge(suspect)
        rest = list(work.places) if place is None else _without(work.places, place)
        self._requeue(work.shard, rest, max(1, math.ceil(n_files / 2)))

    def overran(self, work: Batch, place: int, death: Death) -> None:
        """Take a batch back whose worker was ended because this file took too long: that is its failure."""
        self._in_flight.pop(work.number)
        self._on_trial.pop(work.number, None)
        self._to_record.append(Suspect(work.shard, place, death=death))
        self._requeue(work.shard, _without(work.places, place), work.limit)

    def failure_recorded(self, work: RecordFailure) -> None:
        """The failure is durable."""
        self._in_flight.pop(work.number)
        self._recording.pop(work.number)
        self._settle(work.shard, 1)

    def stage_done(self, work: Stage) -> None:
        """The shard is committed."""
        self._in_flight.pop(work.number)
        del self._shards[work.shard]

    def stage_incomplete(self, work: Stage, missing: Iterable[Span]) -> None:
        """Staging found places without an outcome: they are pending again."""
        self._in_flight.pop(work.number)
        missing = list(missing)
        self._shards[work.shard].n_left += _count(missing)
        self._requeue(work.shard, missing)

    def release_first_offenders(self) -> None:
        """Let trials have company, but for files that died alone before: they take longer than the others can wait."""
        for suspect in self.suspects:
            suspect.is_apart = suspect.is_apart and suspect.n_deaths > 0

    # Private methods: handing out

    def _issue(self, work: Work) -> Work:
        self._in_flight[work.number] = work
        self._number += 1
        return work

    def _issue_batch(
        self,
        shard: int,
        places: Iterable[Span],
        kind: Literal["batch", "trial", "last try"] = "batch",
        *,
        is_last_try: bool = False,
        limit: int = 0,
    ) -> Work:
        places = tuple(places)
        self.n_pending -= _count(places)
        return self._issue(Batch(self._number, shard, places, kind, is_last_try, limit))

    def _next_trial(self) -> Work | None:
        # Those that must not have company first: nothing else begins before they are over.
        ready = [suspect for suspect in self._suspects if self._may_try(suspect)]
        suspect = next((suspect for suspect in ready if suspect.is_apart), None) or ready[0]
        self._suspects.remove(suspect)
        self._credit = max(0, self._credit - suspect.is_last_try)
        self._on_trial[self._number] = suspect
        places = [(suspect.place, suspect.place + 1)]
        return self._issue_batch(suspect.shard, places, "trial", is_last_try=suspect.is_last_try)

    def _may_try(self, suspect: Suspect) -> bool:
        """Whether a suspect's trial may be held now; a last try waits until the disk has been seen to work again.

        But not one that everybody else waits for.
        """
        return not suspect.is_last_try or suspect.is_apart or self._credit > 0 or self._is_all_deferred

    @property
    def _is_all_deferred(self) -> bool:
        """Whether there is nothing left but files that failed by no fault of theirs."""
        waits = self._queue or self._doubts or any(not suspect.is_last_try for suspect in self._suspects)
        return not (waits or self._in_flight)

    def _next_last_try(self) -> Work | None:
        is_all = self._is_all_deferred
        limit = LAST_TRIES if is_all else min(LAST_TRIES, self._credit)
        for shard, places in self._deferred.items() if limit else ():
            # As late as its shard can wait: what ails the disk may be over by then.
            if is_all or len(places) == self._shards[shard].n_left:
                taken, rest = places[:limit], places[limit:]
                if rest:
                    self._deferred[shard] = rest
                else:
                    del self._deferred[shard]
                self._credit = max(0, self._credit - len(taken))
                return self._issue_batch(shard, _spans(taken), "last try", is_last_try=True)
        return None

    def _next_doubt(self, limit: int | None) -> Work | None:
        if not self._doubts:
            return None
        doubt = self._doubts[0]
        places = _take(doubt.places, min(doubt.limit, limit or self._batch_size()))
        if not doubt.places:
            self._doubts.popleft()
        return self._issue_batch(doubt.shard, places, limit=doubt.limit)

    def _next_batch(self, limit: int | None) -> Work | None:
        if not self._queue:
            return None
        shard = self._queue[0]
        state = self._shards[shard]
        places = _take(state.pending, limit or self._batch_size())
        if not state.pending:
            heapq.heappop(self._queue)
        return self._issue_batch(shard, places)

    # Private methods: taking back

    def _add_shard(self, shard: int, spans: list[Span], mistrusted: dict[tuple[int, int], Suspect]) -> None:
        state = self._shards.setdefault(shard, _Shard())
        state.n_left = _count(spans)
        if not state.n_left:
            self._to_stage.append(shard)
            return
        for start, stop in list(spans):
            for place in [p for s, p in mistrusted if s == shard and start <= p < stop]:
                self._judge(mistrusted[shard, place])
                spans = _without(spans, place)
        self._requeue(shard, spans)

    def _settle(self, shard: int, n_done: int) -> None:
        state = self._shards[shard]
        state.n_left -= n_done
        if not state.n_left:
            self._to_stage.append(shard)

    def _requeue(self, shard: int, spans: list[Span], limit: int = 0) -> None:
        if not spans:
            return
        if limit:
            self._doubts.append(_Doubt(shard, deque(spans), limit))
            self.n_pending += _count(spans)
            return
        state = self._shards[shard]
        if not state.pending:
            heapq.heappush(self._queue, shard)
        state.pending.extendleft(reversed(spans))
        self.n_pending += _count(spans)

    def _defer(self, shard: int, spans: Iterable[Span]) -> None:
        places = [place for start, stop in spans for place in range(start, stop)]
        if places:
            self._deferred.setdefault(shard, []).extend(places)
            self.n_pending += len(places)

    def _judge(self, suspect: Suspect) -> None:
        if suspect.n_known >= KNOWN_DEATHS or suspect.n_deaths >= DEATHS:
            self._to_record.append(suspect)
        else:
            self._mistrust(suspect)

    def _mistrust(self, suspect: Suspect) -> None:
        self._suspects.append(suspect)
        self.n_pending += 1

    def _learn(self, n_files: int, seconds: float) -> None:
        rate = n_files / seconds
        self._files_per_second = rate if not self._files_per_second else (self._files_per_second + rate) / 2
        self._largest_answered = max(self._largest_answered, n_files)

    def _full_batch(self) -> int:
        """Return how many files take `batch_seconds`, as far as that is known."""
        if not self._files_per_second:
            return FIRST_BATCH
        n_files = math.ceil(self._files_per_second * self._batch_seconds)
        return max(1, min(n_files, GROWTH * self._largest_answered))

    def _batch_size(self) -> int:
        # Towards the end offers shrink, so that no worker sits on a long batch while the others are idle.
        share = self.n_pending / self._n_workers
        shortest = min(self._files_per_second * SHORTEST_S, share)
        return min(self._full_batch(), max(1, math.ceil(share / 2), math.ceil(shortest)))


# Private functions


def _count(spans: Iterable[Span]) -> int:
    return sum(stop - start for start, stop in spans)


def _take(pending: deque[Span], n_files: int) -> list[Span]:
    """Remove up to `n_files` places from the front of `pending` and return them."""
    taken: list[Span] = []
    while pending and n_files > 0:
        start, stop = pending.popleft()
        if stop - start > n_files:
            pending.appendleft((start + n_files, stop))
            stop = start + n_files
        taken.append((start, stop))
        n_files -= stop - start
    return taken


def _without(spans: Iterable[Span], place: int) -> list[Span]:
    pieces = [(s, e) for start, stop in spans for s, e in ((start, min(place, stop)), (max(place + 1, start), stop))]
    return [(start, stop) for start, stop in pieces if start < stop]


def _spans(places: Iterable[int]) -> list[Span]:
    return [(place, place + 1) for place in places]
