"""The workers as the driver sees them: who is ready, what each has in hand, who died, and of what.

It replaces those that died, at a bounded rate; who is late is found by its `BeaconWatch`. What becomes of the files is
the scheduler's; what a call meant is the run loop's.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from r3po.engines.pool import Answer, Call, Pool, WorkerLost
from r3po.run.beacon_watch import BeaconWatch
from r3po.run.leavers import Leavers
from r3po.run.roster import Roster, Standing, WorkerHandle
from r3po.work import Batch, Death, Span, Work
from r3po.worker.beacon import Phase, Sighting

log = logging.getLogger(__name__)

START_S = 30.0
"""Seconds after which no trial waits for a worker that has not loaded f."""

RECOVER_S = 300.0
"""Seconds for which there is one worker fewer after one died for want of memory."""

PAUSES_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next replacement, by the number of workers lost since something was last answered."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker died, or was ended."""

    handle: WorkerHandle
    death: Death
    last: Sighting | None
    """The last word of its beacon."""
    was_alone: bool
    """Nobody else of its machine had a file in hand."""
    n_workers: int | None = None
    """How many there are from now on, if there is one fewer."""

    @property
    def has_begun(self) -> bool:
        """Whether it did anything at all since it was given the first work that it had in hand."""
        return self.last is None or self.last.counter != self.handle.counter_before

    @property
    def is_overrun(self) -> bool:
        """It was ended over the very file that it was still in."""
        seen = self.handle.seen
        is_same = self.last is not None and seen is not None and self.last.counter == seen.counter
        return self.handle.ended_for == "time" and is_same

    @property
    def file(self) -> tuple[int, int] | None:
        """Shard and place of the file it was in; the first of a call with several files."""
        return (self.last.shard, self.last.place) if self.last is not None and self.last.is_in_file else None

    @property
    def call(self) -> Span | None:
        """The places that a call of several files reached to; None: it was in none, or in a file alone."""
        return self.last.span if self.last is not None and self.last.is_in_file and self.last.n_more else None


class WorkerManager:
    """Keeps `n_wanted` workers at work.

    Args:
        pool: started with `n_workers` workers, which are loading f.
        timeout_s: `timeout_seconds`, or None.
        leavers: where f may have to be closed in a worker that leaves.
    """

    def __init__(
        self,
        pool: Pool,
        n_workers: int,
        timeout_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        leavers: Leavers | None = None,
    ) -> None:
        self._pool, self._clock, self._leavers = pool, clock, leavers
        self.n_wanted = self._n_workers = n_workers
        self._memory_lost_at = 0.0
        self._roster = Roster()
        self.handles = self._roster.handles
        for number in range(n_workers):
            self._roster.add(self._new_handle(number))
        self._next_number = n_workers
        self._held: list[WorkerLost] = []
        self._due: list[float] = []
        """When replacements are to be started."""
        self.n_lost = 0
        """Workers that died or were ended; not those that were dismissed."""
        self._n_lost_in_a_row = 0
        self.beacons = BeaconWatch(pool, self.handles, timeout_s, clock)

    @property
    def is_gone(self) -> bool:
        """Whether there can be no workers any more."""
        return self._pool.is_gone

    @property
    def living(self) -> list[int]:
        """The numbers of the workers that are not known to have died."""
        dead = {lost.worker for lost in self._held}
        return [worker for worker in self.handles if worker not in dead]

    @property
    def is_busy(self) -> bool:
        return bool(self._roster.busy)

    def iter_free(self, standings: Iterable[Standing]) -> Iterator[Standing]:
        """Yield those of these standings in which there is a worker when their turn comes."""
        return self._roster.iter_free(standings)

    def next_free(self, standing: Standing) -> WorkerHandle | None:
        """Return a worker that may be given work and stands so, or None."""
        return self._roster.first(standing)

    def loaded(self, worker: int) -> None:
        """Note that a worker has loaded f: it may be given work."""
        self._roster.set_ready(self.handles[worker])

    def submit(self, handle: WorkerHandle, work: Work, call: Call) -> None:
        """Give a worker work, which its answer settles."""
        if not handle.in_hand:
            now = self._pool.sighting(handle.number)
            handle.counter_before = -1 if now is None else now.counter
            handle.given_at = self._clock()
        # One that cannot be replaced is as fresh as it gets.
        is_fresh = handle.is_fresh and not (isinstance(work, Batch) and self._pool.can_replace)
        self._roster.give(handle, work, is_fresh=is_fresh)
        self._pool.submit(handle.number, call)

    def settle(self, worker: int) -> Work:
        """Return the work that a worker's answer settles: the first that it has in hand, which it has no more."""
        return self._roster.take(self.handles[worker])

    def submit_more(self, worker: int, call: Call) -> None:
        """Give a worker a further call of the work that it has in hand."""
        if worker in self.handles:
            self._pool.submit(worker, call)

    @property
    def is_making(self) -> bool:
        """Whether some worker is making f, a class or a factory."""
        return any(handle.seen is not None and handle.seen.phase is Phase.MAKING for handle in self.handles.values())

    def shortage(self) -> str:
        """Say what workers that do not start are waiting for; empty where nothing is known."""
        return self._pool.shortage()

    def wait(self, timeout_s: float) -> list[Answer | Lost]:
        """Return what came in, answers before deaths; replace who is due, and look at the beacons now and then.

        Raises:
            RunStoppedError: there can be no workers any more.
        """
        self._start_due()
        messages = [*self._held, *self._pool.wait(0 if self._held else timeout_s)]
        self._follow_capacity()  # before those of a machine that was lost are replaced
        answers = [m for m in messages if isinstance(m, Answer)]
        deaths = [m for m in messages if isinstance(m, WorkerLost)]
        answered = {answer.worker for answer in answers}
        # Who died after an answer is told of next time: the answer finds its worker as it was.
        self._held = [death for death in deaths if death.worker in answered]
        found: list[Answer | Lost] = [*self._known(answers)]
        found += self._lose_all([death for death in deaths if death.worker not in answered])
        for _ in range(self._leavers.take(messages) if self._leavers is not None else 0):
            self._replace(0.0)
        self.beacons.look(answered)
        return found

    def dismiss(self, handle: WorkerHandle) -> None:
        """Let a worker leave once it has nothing in hand, and have it replaced."""
        if self._pool.can_replace:
            self._roster.set_leaving(handle)
            self.release(handle.number)

    def release(self, worker: int) -> None:
        """End a worker that is leaving, if it has nothing in hand any more."""
        handle = self.handles.get(worker)
        if handle is not None and handle.is_leaving and not handle.in_hand:
            self._roster.remove(worker)
            if self._leavers is not None:  # what f holds, such as the memory of a device, is free only then
                self._leavers.add(worker)
                return
            self._pool.dismiss(worker)
            self._replace(0.0)

    def need_fresh(self) -> None:
        """See that there is, or will be, a fresh worker for a trial."""
        if self._due or not self._pool.can_replace or (self._leavers is not None and self._leavers.is_busy):
            return
        roster = self._roster
        if roster.leaving or roster.has_fresh() or any(map(self._is_coming, roster.starting.values())):
            return
        least_busy = roster.least_busy()
        if least_busy is not None:
            self.dismiss(least_busy)

    def free_memory(self, trial: WorkerHandle) -> None:
        """Replace the others there that have called f: the memory that they hold must not be blamed on a trial."""
        for handle in [handle for handle in self.handles.values() if handle.role.machine == trial.role.machine]:
            if handle is not trial and handle.is_ready and not handle.is_fresh and not handle.in_hand:
                self.dismiss(handle)

    # Private methods

    def _new_handle(self, number: int) -> WorkerHandle:
        return WorkerHandle(number, self._clock(), role=self._pool.role_of(number))

    def _is_coming(self, handle: WorkerHandle) -> bool:
        """Whether a worker that is starting can be counted on: on a busy cluster some never start."""
        is_making = handle.seen is not None and handle.seen.phase is Phase.MAKING
        return is_making or self._clock() - handle.started_at < START_S

    def _company_of(self, lost: set[int]) -> dict[int, bool]:
        """Return of each worker whether another one of its machine has something in hand: memory is a machine's."""
        handles = self.handles
        busy = Counter(handles[worker].role.machine for worker in self._roster.busy)
        return {
            worker: busy[handles[worker].role.machine] > (worker in self._roster.busy)
            for worker in lost
            if worker in handles
        }

    def _known(self, answers: list[Answer]) -> list[Answer]:
        """Return the answers of workers that are still there; one to more than `load` shows that workers can live."""
        known = [answer for answer in answers if answer.worker in self.handles]
        if any(answer.call.method != "load" for answer in known):
            self._n_lost_in_a_row = 0
        return known

    def _lose_all(self, deaths: list[WorkerLost]) -> list[Lost]:
        if not deaths:
            return []
        company = self._company_of({death.worker for death in deaths})  # before any of them is gone
        return [
            self._lose(death, was_alone=not company[death.worker]) for death in deaths if death.worker in self.handles
        ]

    def _lose(self, message: WorkerLost, *, was_alone: bool) -> Lost:
        handle = self._roster.remove(message.worker)
        self.n_lost += 1
        last = self._pool.sighting(handle.number)
        death = self._pool.death_of(message)
        if handle.ended_for == "time":
            death = Death("time", True, death.stack)
        elif handle.ended_for == "silence" and not death.is_known:
            death = Death("did not answer any more", False, death.stack)
        if not handle.ended_for and not death.is_machine:
            self._n_lost_in_a_row += 1
        n_workers = None
        if death.is_memory and not was_alone:
            self._memory_lost_at = self._clock()
            if self.n_wanted > 1:
                n_workers = self.n_wanted = self.n_wanted - 1
        if self._pool.can_replace:
            self._replace(PAUSES_S[min(self._n_lost_in_a_row, len(PAUSES_S) - 1)])
        log.info("worker %d is gone: %s (%s), it last said %s", handle.number, death.cause, message.reason, last)
        return Lost(handle, death, last, was_alone, n_workers)

    def _replace(self, pause_s: float) -> None:
        if len(self.handles) + len(self._due) < self.n_wanted:
            self._due.append(self._clock() + pause_s)

    def _follow_capacity(self) -> None:
        """Have as many workers as the machines have room for, which may come and go."""
        capacity = self._pool.capacity()
        n_more = 0 if capacity is None else capacity - self._n_workers
        if n_more:
            self._n_workers += n_more
            # As many fewer for want of memory as before, but not none.
            self.n_wanted = max(min(1, self._n_workers), self.n_wanted + n_more)
            for _ in range(n_more):
                self._replace(0.0)

    def _start_due(self) -> None:
        now = self._clock()
        if self.n_wanted < self._n_workers and now - self._memory_lost_at > RECOVER_S:
            self.n_wanted += 1
            self._memory_lost_at = now
            self._replace(0.0)
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            if len(self.handles) >= self.n_wanted:
                continue  # its machine has gone meanwhile: elsewhere it would take the place of those to come
            self._pool.add_worker(self._next_number)
            self._roster.add(self._new_handle(self._next_number))
            self._next_number += 1
