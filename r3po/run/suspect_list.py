"""Files that a worker died in, within a run: who waits for a trial, who has one, whose failure is to be recorded.

Pure logic, like the scheduler's. A suspect's trial is the only file of a fresh worker; it ends with an outcome, or the
file has died too often, which is its failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from r3po.work import Death

KNOWN_DEATHS = 2
"""Deaths alone, of a cause that is known (a signal, an exit code, memory), after which a file has failed."""

DEATHS = 3
"""Deaths alone after which a file has failed, whatever is known of them."""


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
    """Its trial waits until no other worker is busy, and none begins before it is over: the whole run may die of it."""
    death: Death = field(default_factory=lambda: Death("killed"))
    """The latest."""
    n_runs: int = 0
    """Runs that died while it was in flight, alone or not."""
    is_last_try: bool = False
    """A trial of it failed by no fault of the file."""

    @property
    def key(self) -> tuple[int, int]:
        return self.shard, self.place


class SuspectList:
    """The suspects of a run, each in one of four states: waiting, on trial, to be recorded, being recorded."""

    def __init__(self) -> None:
        self._apart: deque[Suspect] = deque()
        """Those that wait for a trial without company."""
        self._waiting: deque[Suspect] = deque()
        """All others that wait for a trial."""
        self.on_trial: dict[int, Suspect] = {}
        """By the number of their work."""
        self.to_record: deque[Suspect] = deque()
        self.recording: dict[int, Suspect] = {}
        """By the number of their work."""
        self.left_out: list[Suspect] = []
        """Beyond the limit of this run: a later run tries them."""

    @property
    def all(self) -> list[Suspect]:
        """Every file that is mistrusted now, those on trial first; until its failure is durable, it is among them."""
        waiting = [*self._apart, *self._waiting]
        return [*self.on_trial.values(), *waiting, *self.recording.values(), *self.to_record, *self.left_out]

    @property
    def n_waiting(self) -> int:
        """How many wait for a trial."""
        return len(self._apart) + len(self._waiting)

    @property
    def has_untried(self) -> bool:
        """Whether some wait for a trial that is not a last try."""
        return any(not suspect.is_last_try for waiting in (self._apart, self._waiting) for suspect in waiting)

    @property
    def trial_apart(self) -> Suspect | None:
        """The file that is on trial while no other worker is busy."""
        if len(self.on_trial) != 1:
            return None  # it would have no company
        (suspect,) = self.on_trial.values()
        return suspect if suspect.is_apart else None

    @property
    def is_apart(self) -> bool:
        """Whether a trial that must not have company is going on or is to come first."""
        return bool(self._apart) or self.trial_apart is not None

    def ready(self, *, may_try_last: bool) -> Suspect | None:
        """Return the suspect whose trial comes next, if one may be held now; it goes on waiting.

        Args:
            may_try_last: False: what failed by its environment waits, unless everybody else waits for it.
        """
        if self._apart:  # first: nothing else begins before they are over
            return self._apart[0]
        return next((suspect for suspect in self._waiting if may_try_last or not suspect.is_last_try), None)

    def begin_trial(self, suspect: Suspect, number: int) -> None:
        """Let the work of this number be the trial of a suspect that waits."""
        (self._apart if suspect.is_apart else self._waiting).remove(suspect)
        self.on_trial[number] = suspect

    def put_off_trial(self, number: int) -> None:
        """Let the suspect wait again whose trial, the work of this number, was not begun."""
        self._wait(self.on_trial.pop(number))

    def sort(self, key: Callable[[Suspect], int]) -> None:
        """Let those that wait have their trials in this order, but those without company before all others."""
        self._apart, self._waiting = deque(sorted(self._apart, key=key)), deque(sorted(self._waiting, key=key))

    def end_trial(self, number: int, *, is_done: bool, is_deferred: bool) -> bool:
        """Take note that the work of this number has come back, if it was a trial, and return whether it was.

        Args:
            is_done: the suspect has an outcome; else it waits for its next trial.
            is_deferred: it failed by its environment.
        """
        suspect = self.on_trial.pop(number, None)
        if suspect is not None and not is_done:
            if is_deferred:  # it did not end its worker, so it needs no protection for its next try
                suspect.is_last_try, suspect.is_apart = True, False
            self._wait(suspect)
        return suspect is not None

    def take_death(self, number: int, key: tuple[int, int] | None, death: Death, *, counts: bool) -> None:
        """Take note that the worker died that had the work of this number.

        Args:
            key: shard and place of the file that it was in, alone; None: that is not known.
            counts: whether a death on trial is held against the file.
        """
        suspect = self.on_trial.pop(number, None)
        if suspect is not None and counts:
            suspect.n_deaths += 1
            suspect.n_known += death.is_known
        elif suspect is None and key is not None:
            suspect = Suspect(*key)
        if suspect is not None:
            suspect.death = death
            suspect.is_apart = suspect.is_apart or death.is_memory or death.is_shared
            self.judge(suspect)

    def judge(self, suspect: Suspect) -> None:
        """Let a suspect wait for its next trial, or have its failure recorded if it has died often enough."""
        is_failed = suspect.n_known >= KNOWN_DEATHS or suspect.n_deaths >= DEATHS
        if is_failed:
            self.to_record.append(suspect)
        else:
            self._wait(suspect)

    def release_first_offenders(self) -> None:
        """Let trials have company, but for files that died alone before: they take longer than the others can wait."""
        for suspect in self.all[: len(self.all) - len(self.left_out)]:  # the later run has its own time for these
            suspect.is_apart = suspect.is_apart and suspect.n_deaths > 0
        released = [suspect for suspect in self._apart if not suspect.is_apart]
        self._apart = deque(suspect for suspect in self._apart if suspect.is_apart)
        self._waiting.extendleft(reversed(released))

    # Private methods

    def _wait(self, suspect: Suspect) -> None:
        (self._apart if suspect.is_apart else self._waiting).append(suspect)
