"""Files that workers died in, within a run: who becomes a suspect, how long the others wait, and what is recorded."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import replace

from r3po.file_version import UNKNOWN_VERSION, FileVersion
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.run.suspects import SuspectBook
from r3po.run.workers import Lost
from r3po.table.outcomes import Failure
from r3po.work import Batch, RecordFailure, Span, Work
from r3po.worker.failures import death_failure, timeout_failure

CAREFUL_S = 10.0
"""Seconds for which a run holds everybody back for the files that a killed run was in; then only for those that died
alone."""

MACHINE_LOSSES = 5
"""Machines that are lost while a worker of theirs is in one and the same file, from which on it is mistrusted: it may
take its machine with it. Trials without company then tell."""

CAREFUL_LIMIT_S = 3600.0
"""The most seconds of it, after many runs that died."""


class Trials:
    """Tells the scheduler of deaths, and the book of suspects what the scheduler makes of them.

    Args:
        timeout_s: `timeout_seconds`, for messages.
    """

    def __init__(self, scheduler: Scheduler, book: SuspectBook, timeout_s: float | None = None) -> None:
        self._scheduler, self._book, self._timeout_s = scheduler, book, timeout_s
        self._careful_until: float | None = None
        self._machine_losses: Counter[tuple[int, int]] = Counter()
        """How many machines were lost while a worker of theirs was in a file, by shard and place."""

    def take_loss(self, lost: Lost) -> tuple[int, int] | None:
        """Give back what a dead worker had in hand; the file it was in becomes a suspect, if it was alone in its call.

        Returns:
            Shard and place of that file, or of the first of several; None if it was in none.
        """
        in_hand, where, call = lost.handle.in_hand, lost.file, lost.call
        if lost.death.is_machine:
            self._take_machine_loss(lost)
            return None
        begun = next((work for work in in_hand if _holds(work, where, call)), None)
        if begun is None:
            where = None  # it died between two files, or its beacon is of another time
            begun = in_hand[0] if in_hand and lost.has_begun else None
        for work in in_hand:
            if work is not begun:
                self._scheduler.hand_back(work)
        if begun is not None:
            self._take_back(begun, lost, where)
        self.remember()
        return where

    def begin(self) -> Suspect | None:
        """Make durable who is on trial without company, before it begins: it may end this process, too. Return it."""
        alone = self._scheduler.suspects.trial_apart
        if alone is not None:
            self.remember()
        return alone

    def end(self, *, was_apart: bool) -> None:
        """Take note that a trial has come back.

        Args:
            was_apart: it had no company. Of others nothing is written, as long as there are any: there may be 10,000,
                and whoever is mistrusted for too long costs the next run a trial, if it is pending there at all.
        """
        if was_apart or not self._scheduler.suspects.all:
            self.remember()

    def remember(self) -> None:
        """Make durable who is mistrusted, and who is alone right now."""
        self._book.write(self._scheduler.suspects.all, self._scheduler.suspects.trial_apart)

    def remember_end(self, *, is_gone: bool) -> None:
        """Make durable who is mistrusted at the end of a run.

        Args:
            is_gone: Ray ended by itself: whoever is alone on trial may have ended it. Else nobody ended anything.
        """
        if self._scheduler.is_finished:
            self._book.in_doubt = []
        with contextlib.suppress(OSError):
            self._book.write(self._scheduler.suspects.all, self._scheduler.suspects.trial_apart if is_gone else None)

    def end_caution(self) -> None:
        """Hold the others back for a while only: most files that a killed run was in are innocent."""
        if not self._scheduler.suspects.is_apart:
            self._careful_until = None
            return
        now = time.monotonic()
        if self._careful_until is None:
            # Twice as long with each run that died: a file that kills them comes to its turn in the end.
            n_runs = max(suspect.n_runs for suspect in self._scheduler.suspects.all if suspect.is_apart)
            self._careful_until = now + min(CAREFUL_S * 2 ** max(0, n_runs - 1), CAREFUL_LIMIT_S)
        elif now > self._careful_until:
            self._scheduler.suspects.release_first_offenders()
            self.remember()

    def evidence_of(self, work: RecordFailure) -> tuple[Failure, FileVersion]:
        """Return the failure to record of a file, and its version when it was first mistrusted."""
        death, n = work.death, work.n_deaths
        if not n:
            found = death_failure("Timeout", "", death.stack)
            failure = timeout_failure(self._timeout_s or 0.0, ())
            return failure._replace(where=found.where, traceback=found.traceback), UNKNOWN_VERSION
        times = {1: "once", 2: "twice"}.get(n, f"{n} times")
        if death.is_memory:
            kind, message = "OutOfMemory", f"the process was killed for its memory, alone, {times}"
        else:
            kind, message = "WorkerDied", f"{death.cause}: the process died in this file, alone, {times}"
        return death_failure(kind, message, death.stack), self._book.version_of((work.shard, work.place))

    # Private methods

    def _take_machine_loss(self, lost: Lost) -> None:
        """Give back what a worker had in hand whose machine was lost, which by itself says nothing of any file."""
        seen = lost.handle.seen
        where = (seen.shard, seen.place) if seen is not None and seen.is_in_file and not seen.n_more else None
        begun = next((work for work in lost.handle.in_hand if _holds(work, where, None)), None)
        if begun is not None and where is not None:
            self._machine_losses[where] += 1
        for work in lost.handle.in_hand:
            if work is begun and where is not None and self._machine_losses[where] >= MACHINE_LOSSES:
                death = replace(lost.death, is_shared=True)
                self._scheduler.lost(begun, where[1], death, counts=lost.was_alone)
                self.remember()
            else:
                self._scheduler.hand_back(work)

    def _take_back(self, begun: Work, lost: Lost, where: tuple[int, int] | None) -> None:
        """Take back what a dead worker had begun.

        Args:
            where: the file that it was in, or the first of several.
        """
        scheduler = self._scheduler
        if lost.handle.ended_for == "time" and (where is None or not lost.is_overrun):
            scheduler.hand_back(begun)  # it had come to another file by then: our doing, and nobody's fault
        elif not isinstance(begun, Batch) or where is None:
            scheduler.lost(begun, None, lost.death, counts=_counts(lost))
        elif lost.call is not None:
            scheduler.lost_call(begun, lost.call)  # of several files none is to blame yet
        elif lost.is_overrun:
            scheduler.overran(begun, where[1], lost.death)
        else:
            scheduler.lost(begun, where[1], lost.death, counts=_counts(lost))


# Private functions


def _counts(lost: Lost) -> bool:
    """Whether a death can be held against a file: of what is shared, as memory is, only who was alone is to blame."""
    return lost.was_alone or not (lost.death.is_memory or lost.death.is_shared)


def _holds(work: Work, where: tuple[int, int] | None, call: Span | None) -> bool:
    """Whether the worker that has this work calls f on this file, or on these from the first to the last."""
    if where is None or not isinstance(work, Batch) or work.shard != where[0]:
        return False
    ends = (where[1],) if call is None else (call[0], call[1] - 1)
    return all(any(start <= place < stop for start, stop in work.places) for place in ends)
