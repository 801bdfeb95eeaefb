"""Which places next. Pure logic: no clock, no disk, no Ray, so that it can be tested by simulation.

The scheduler knows how many places of each shard are pending, hands them out in batches, takes back what a worker did
not come to, and says when a shard is complete and must be staged. It holds spans of places, never paths.

When a worker dies, the file it was in is a *suspect*: it runs in a trial, the only file of a fresh worker, until it
has an outcome or has died too often, which is its failure. The rest of its batch is innocent and is done again, in
batches half as large: if the true culprit is another file, it ends up in a batch of its own. Where f takes many files
at once, and a worker dies in a call of several, none of them is a suspect: they go into smaller calls, until a file
is alone in its call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from r3po.run.backlog import Backlog, Deferred
from r3po.run.suspect_list import Suspect, SuspectList
from r3po.work import Batch, Death, RecordFailure, Span, Stage, Work, count_places, files_of_smaller_call, iter_places


class Scheduler:
    """Hands out the pending places of a job, lowest shard first.

    Args:
        pending: shard and spans of pending places, in shard order. A shard without spans only needs staging.
        n_workers: how many workers share the work; the last batches are cut so that all of them stay busy.
        batch_seconds: how long a batch should take; the worker ends a longer one itself.
        suspects: pending places that an earlier run has reason to mistrust.
        limit: the most places to do, the first in row order; the others are left to a later run. None: all.
        batch_files: the most files that f is given at once.
        in_doubt: shard and places of calls of several files that an earlier run was killed in: each goes into a call
            by itself.
    """

    def __init__(
        self,
        pending: Iterable[tuple[int, Iterable[Span]]],
        n_workers: int,
        batch_seconds: float,
        suspects: Iterable[Suspect] = (),
        limit: int | None = None,
        batch_files: int = 1,
        in_doubt: Iterable[tuple[int, Span]] = (),
    ) -> None:
        self._batch_files = batch_files
        self._backlog = Backlog(max(1, n_workers), batch_seconds, batch_files)
        self._n_left: dict[int, int] = {}
        """By shard, places without an outcome, wherever they are: in the backlog, in flight, suspect, deferred."""
        self.suspects = SuspectList()
        self._deferred = Deferred()
        self._to_stage: deque[int] = deque()
        self._in_flight: dict[int, Work] = {}
        self._number = 0
        intake = _Intake(limit, suspects, in_doubt if batch_files > 1 else ())
        for shard, spans in pending:
            self._add_shard(shard, list(spans), intake)
        self.n_left_out = intake.n_left_out
        """Places beyond the limit. Their shards are not staged."""
        self.suspects.sort(lambda suspect: intake.order[suspect.key])

    def set_workers(self, n_workers: int) -> None:
        """Take note of how many workers share the work from now on."""
        self._backlog.n_workers = max(1, n_workers)

    @property
    def n_pending(self) -> int:
        """Places that are neither in flight nor done."""
        return self._backlog.n_places + self._deferred.n_places + self.suspects.n_waiting

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to hand out or to wait for."""
        return not (self.n_pending or self.suspects.to_record or self._to_stage or self._in_flight)

    @property
    def n_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def has_suspects(self) -> bool:
        """Whether a trial waits for a fresh worker, and for nothing else."""
        return self._next_suspect() is not None

    def next_work(
        self,
        limit: int | None = None,
        *,
        is_fresh: bool = False,
        is_ahead: bool = False,
        can_stage: bool = True,
        can_call: bool = True,
    ) -> Work | None:
        """Return the next thing to do, or None if there is nothing for this worker now.

        Failures that are due come first, then staging, trials, and batches.

        Args:
            limit: the most files of a batch, instead of what the measured speed suggests.
            is_fresh: the worker has called f on no file yet and has nothing else to do, so it may hold a trial.
            is_ahead: the worker still has work in hand; None towards the end of the job.
            can_stage: False: the worker stages no shard, since it is on another machine, or since nothing is to be
                staged yet.
            can_call: False: the worker calls f on no file.
        """
        if is_ahead and self._backlog.is_ending(self.n_pending):
            return None
        if self.suspects.to_record and self.suspects.trial_apart is None:
            due = self.suspects.recording[self._number] = self.suspects.to_record.popleft()
            return self._issue(RecordFailure(self._number, due.shard, due.place, due.n_deaths, due.death))
        if self.suspects.is_apart and (self._in_flight or not is_fresh):
            return None
        if self._to_stage and can_stage and not self.suspects.is_apart:
            return self._issue(Stage(self._number, self._to_stage.popleft()))
        if not can_call:
            return None
        suspect = self._next_suspect() if is_fresh else None
        if suspect is not None:
            return self._issue_trial(suspect)
        return self._next_last_try() or self._next_batch(limit)

    def batch_done(
        self,
        work: Batch,
        returned: Iterable[Span],
        seconds: float,
        deferred: Iterable[int] = (),
        doubted: Sequence[Span] = (),
        call_files: int = 0,
    ) -> None:
        """Take a worker's answer: everything of the work has an outcome, but for what it gave back.

        Args:
            returned: places that it did not come to.
            deferred: places that failed by no fault of theirs (a disk that does not answer).
            doubted: places of calls of several files that failed; they go into calls of `call_files` files at most.
        """
        self._in_flight.pop(work.number)
        returned, deferred = list(returned), list(deferred)
        n_done = count_places(work.places) - count_places(returned) - len(deferred) - count_places(doubted)
        if deferred:
            self._deferred.credit = 0
        elif not work.is_last_try:  # these prove nothing: they may all be failures
            self._deferred.credit += n_done
        self._backlog.learn(n_done, seconds)
        if self.suspects.end_trial(work.number, is_done=not (returned or deferred), is_deferred=bool(deferred)):
            pass  # it waits there, if it has to
        elif work.kind == "last try":
            self._deferred.add(work.shard, iter_places(returned))
        else:
            self._deferred.add(work.shard, deferred)
            self._backlog.add(work.shard, doubted, work.limit, call_files)
            self._backlog.add(work.shard, returned, work.limit, work.call_files)
        self._settle(work.shard, n_done)

    def hand_back(self, work: Work) -> None:
        """Take work back that its worker has not begun."""
        self._in_flight.pop(work.number)
        match work:
            case Stage():
                self._to_stage.append(work.shard)
            case RecordFailure():
                self.suspects.to_record.append(self.suspects.recording.pop(work.number))
            case Batch(kind="trial"):
                self.suspects.put_off_trial(work.number)
            case Batch(kind="last try"):
                self._deferred.add(work.shard, iter_places(work.places))
            case _:
                self._backlog.add(work.shard, work.places, work.limit, work.call_files)

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
        n_files = count_places(work.places)
        if place is None and n_files == 1:
            place = work.places[0][0]  # a batch of one file: whenever it died, it was with this one
        self.suspects.take_death(work.number, None if place is None else (work.shard, place), death, counts=counts)
        rest = list(work.places) if place is None else _outside(work.places, (place, place + 1))
        self._backlog.add(work.shard, rest, max(1, math.ceil(n_files / 2)), work.call_files)

    def lost_call(self, work: Batch, call: Span) -> None:
        """Take a batch back whose worker ended in a call of several files: these are called again in smaller calls.

        Nobody is to blame yet, whether the worker died or was ended because the call took too long.

        Args:
            call: reaches from the first to the last of them.
        """
        self._in_flight.pop(work.number)
        in_hand, rest = _inside(work.places, call), _outside(work.places, call)
        most = files_of_smaller_call(min(count_places(in_hand), work.call_files or self._batch_files))
        self._backlog.add(work.shard, in_hand, most, most)
        self._backlog.add(work.shard, rest, max(1, math.ceil(count_places(work.places) / 2)), work.call_files)

    def overran(self, work: Batch, place: int, death: Death) -> None:
        """Take a batch back whose worker was ended because this file took too long: that is its failure."""
        self._in_flight.pop(work.number)
        self.suspects.on_trial.pop(work.number, None)
        self.suspects.to_record.append(Suspect(work.shard, place, death=death))
        self._backlog.add(work.shard, _outside(work.places, (place, place + 1)), work.limit, work.call_files)

    def failure_recorded(self, work: RecordFailure) -> None:
        """The failure is durable."""
        self._in_flight.pop(work.number)
        self.suspects.recording.pop(work.number)
        self._settle(work.shard, 1)

    def stage_done(self, work: Stage) -> None:
        """The shard is committed."""
        self._in_flight.pop(work.number)
        del self._n_left[work.shard]

    def stage_incomplete(self, work: Stage, missing: Iterable[Span]) -> None:
        """Staging found places without an outcome: they are pending again."""
        self._in_flight.pop(work.number)
        missing = list(missing)
        self._n_left[work.shard] += count_places(missing)
        self._backlog.add(work.shard, missing)

    # Private methods: handing out

    def _issue(self, work: Work) -> Work:
        self._in_flight[work.number] = work
        self._number += 1
        return work

    def _issue_trial(self, suspect: Suspect) -> Work:
        self._deferred.spend(int(suspect.is_last_try))
        self.suspects.begin_trial(suspect, self._number)
        places = ((suspect.place, suspect.place + 1),)
        return self._issue(Batch(self._number, suspect.shard, places, "trial", suspect.is_last_try, call_files=1))

    def _next_suspect(self) -> Suspect | None:
        if not self.suspects.n_waiting:
            return None
        # A last try waits until the disk has been seen to work again.
        may_try_last = self._deferred.credit > 0 or self._is_all_deferred
        return self.suspects.ready(may_try_last=may_try_last)

    @property
    def _is_all_deferred(self) -> bool:
        """Whether there is nothing left but files that failed by no fault of theirs."""
        return not (self._backlog.n_places or self._in_flight or self.suspects.has_untried)

    def _next_last_try(self) -> Work | None:
        if not self._deferred.n_places:
            return None
        taken = self._deferred.take(self._n_left, is_all=self._is_all_deferred)
        if taken is None:
            return None
        shard, places = taken
        spans = tuple((place, place + 1) for place in places)
        return self._issue(Batch(self._number, shard, spans, "last try", is_last_try=True, call_files=1))

    def _next_batch(self, limit: int | None) -> Work | None:
        taken = self._backlog.take(self.n_pending, limit)
        if taken is None:
            return None
        places = tuple(taken.places)
        return self._issue(Batch(self._number, taken.shard, places, limit=taken.limit, call_files=taken.call_files))

    # Private methods: taking back

    def _add_shard(self, shard: int, spans: list[Span], intake: _Intake) -> None:
        self._n_left[shard] = count_places(spans)
        if not self._n_left[shard]:
            self._to_stage.append(shard)
            return
        intake.take_up(shard, spans, self.suspects, self._backlog)

    def _settle(self, shard: int, n_done: int) -> None:
        self._n_left[shard] -= n_done
        if not self._n_left[shard]:
            self._to_stage.append(shard)


# Private


class _Intake:
    """What a run takes up of the pending places, and what earlier runs have learned of them.

    Args:
        room: how many more places may be taken up; None: all.
    """

    def __init__(self, room: int | None, mistrusted: Iterable[Suspect], in_doubt: Iterable[tuple[int, Span]]) -> None:
        self.room, self.n_left_out = room, 0
        self.order: dict[tuple[int, int], int] = {}
        """Of the mistrusted files, by shard and place."""
        self._mistrusted: dict[int, dict[int, Suspect]] = {}
        """By shard and place."""
        self._in_doubt: dict[int, list[Span]] = {}
        for number, suspect in enumerate(mistrusted):
            self.order[suspect.key] = number
            self._mistrusted.setdefault(suspect.shard, {})[suspect.place] = suspect
        for shard, call in in_doubt:
            self._in_doubt.setdefault(shard, []).append(call)

    def take_up(self, shard: int, spans: Sequence[Span], suspects: SuspectList, backlog: Backlog) -> None:
        """Put the places of a shard where they belong: suspects, calls in doubt, and all others."""
        taken, beyond = _cut(spans, self.room)
        self.n_left_out += count_places(beyond)
        if self.room is not None:
            self.room -= count_places(taken)
        known = self._mistrusted.get(shard, {})
        # Nobody tries these now, but what is known of them is kept.
        suspects.left_out += [one for place, one in known.items() if _inside(beyond, (place, place + 1))]
        for place, suspect in known.items():
            if _inside(taken, (place, place + 1)):
                suspects.judge(suspect)
                taken = _outside(taken, (place, place + 1))
        for call in self._in_doubt.get(shard, ()):
            backlog.add(shard, _inside(taken, call), call_files=1)
            taken = _outside(taken, call)
        backlog.add(shard, taken)


def _cut(spans: Sequence[Span], n_places: int | None) -> tuple[list[Span], list[Span]]:
    """Return the first `n_places` places of `spans`, and the others; None: all of them are the first."""
    if n_places is None:
        return list(spans), []
    taken: list[Span] = []
    beyond: list[Span] = []
    for start, stop in spans:
        middle = min(stop, start + n_places)
        n_places -= middle - start
        taken += [(start, middle)] if start < middle else []
        beyond += [(middle, stop)] if middle < stop else []
    return taken, beyond


def _inside(spans: Iterable[Span], call: Span) -> list[Span]:
    """Return the places of `spans` that lie in `call`."""
    pieces = [(max(start, call[0]), min(stop, call[1])) for start, stop in spans]
    return [(start, stop) for start, stop in pieces if start < stop]


def _outside(spans: Iterable[Span], call: Span) -> list[Span]:
    """Return the places of `spans` that do not lie in `call`."""
    first, after = call
    pieces = [(s, e) for start, stop in spans for s, e in ((start, min(first, stop)), (max(after, start), stop))]
    return [(start, stop) for start, stop in pieces if start < stop]
