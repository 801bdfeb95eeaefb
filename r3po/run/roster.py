"""The workers of a run by what they may be given now. Pure logic; it asks no worker, and knows of no file.

Whoever looks for a worker finds it at once, among however many: all that changes what a worker may be given goes
through the roster, which moves it from one group to another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from r3po.engines.pool import Role
from r3po.work import Batch, Work
from r3po.worker.beacon import Sighting


@dataclass(slots=True)
class WorkerHandle:
    """One worker, from its start to its death. What the roster goes by is changed by the roster alone."""

    number: int
    started_at: float = 0.0
    is_ready: bool = False
    """It has imported f."""
    is_fresh: bool = True
    """It has been given no file yet."""
    is_leaving: bool = False
    """It gets nothing more, and is replaced once it has nothing in hand."""
    role: Role = field(default_factory=Role)
    in_hand: list[Work] = field(default_factory=list)
    """The work that it has been given, in order; it does the first."""
    ended_for: Literal["", "time", "silence"] = ""
    """Why we ended it."""
    counter_before: int = -1
    """The counter of its beacon when it was given the first of these, having nothing in hand."""
    given_at: float = 0.0
    """When that was."""
    seen: Sighting | None = None
    seen_at: float = 0.0
    """When its beacon first said so, on our clock."""

    @property
    def has_trial(self) -> bool:
        work = self.in_hand[0] if self.in_hand else None  # a trial has its worker for itself
        return isinstance(work, Batch) and work.kind == "trial"


class Standing(NamedTuple):
    """What decides, of a worker that may be given work, which work that can be: those that stand alike are equals."""

    n_in_hand: int
    is_fresh: bool
    """It has nothing in hand and has been given no file yet: it may hold a trial."""
    can_stage: bool = True
    can_call: bool = True


Group = OrderedDict[int, WorkerHandle]
"""Workers by number, longest there first."""


class Roster:
    """All workers, each in one group."""

    def __init__(self) -> None:
        self.handles: dict[int, WorkerHandle] = {}
        self.busy: set[int] = set()
        """The numbers of those that have something in hand."""
        self.starting: Group = OrderedDict()
        self.leaving: Group = OrderedDict()
        self._on_trial: Group = OrderedDict()
        self._free: dict[Standing, Group] = {}
        self._group_of: dict[int, Group] = {}

    def add(self, handle: WorkerHandle) -> None:
        """Take up a worker that is starting."""
        self.handles[handle.number] = handle
        self._place(handle)

    def remove(self, worker: int) -> WorkerHandle:
        """Strike out a worker, and return what was known of it."""
        self.busy.discard(worker)
        del self._group_of.pop(worker)[worker]
        return self.handles.pop(worker)

    def set_ready(self, handle: WorkerHandle) -> None:
        """Note that a worker has loaded f."""
        handle.is_ready = True
        self._place(handle)

    def set_leaving(self, handle: WorkerHandle) -> None:
        """Note that a worker gets nothing more."""
        handle.is_leaving = True
        self._place(handle)

    def give(self, handle: WorkerHandle, work: Work, *, is_fresh: bool) -> None:
        """Put work into a worker's hand, behind what it has there.

        Args:
            is_fresh: it is so afterwards, too.
        """
        handle.in_hand.append(work)
        handle.is_fresh = is_fresh
        self._place(handle)

    def take(self, handle: WorkerHandle) -> Work:
        """Take the first work out of a worker's hand, and return it."""
        work = handle.in_hand.pop(0)
        self._place(handle)
        return work

    def iter_free(self, standings: Iterable[Standing]) -> Iterator[Standing]:
        """Yield those of these standings in which there is a worker when their turn comes."""
        free = self._free
        for standing in standings:
            if free.get(standing):
                yield standing

    def first(self, standing: Standing) -> WorkerHandle | None:
        """Return the worker that has stood so for longest, or None."""
        group = self._free.get(standing)
        return next(iter(group.values())) if group else None

    def least_busy(self) -> WorkerHandle | None:
        """Return one that has as little in hand as any of those that may call f now; None: there are none."""
        standing = min(
            (standing for standing, group in self._free.items() if group and standing.can_call), default=None
        )
        return None if standing is None else self.first(standing)

    def has_fresh(self) -> bool:
        """Whether there is a worker that may hold a trial."""
        return any(group for standing, group in self._free.items() if standing.is_fresh and standing.can_call)

    # Private methods

    def _place(self, handle: WorkerHandle) -> None:
        number = handle.number
        if number in self._group_of:
            del self._group_of[number][number]
        group = self._group_of[number] = self._group_for(handle)
        group[number] = handle
        if handle.in_hand:
            self.busy.add(number)
        else:
            self.busy.discard(number)

    def _group_for(self, handle: WorkerHandle) -> Group:
        if handle.is_leaving:
            return self.leaving
        if not handle.is_ready:
            return self.starting
        if handle.has_trial:
            return self._on_trial
        n_in_hand = len(handle.in_hand)
        role = handle.role
        standing = Standing(n_in_hand, handle.is_fresh and not n_in_hand, role.can_stage, role.can_call)
        group = self._free.get(standing)
        if group is None:
            group = self._free[standing] = OrderedDict()
        return group
