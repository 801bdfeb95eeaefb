"""What the scheduler hands out, as plain data: spans of places, and the three kinds of work; and how a worker died."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Span = tuple[int, int]
"""A range of places: from the first up to, not including, the second."""


def count_places(spans: Iterable[Span]) -> int:
    """Return how many places the spans have together."""
    return sum(stop - start for start, stop in spans)


def iter_places(spans: Iterable[Span]) -> Iterator[int]:
    """Yield the places of the spans, one after the other."""
    return (place for start, stop in spans for place in range(start, stop))


CALL_PARTS = 4
"""Into so many smaller calls go the files of one that failed. With two it would take as many calls in all, but twice as
many of them would fail, each of which may cost a worker."""


def files_of_smaller_call(n_files: int) -> int:
    """Return the most files of the calls that follow on one of `n_files` files that failed."""
    return -(-n_files // CALL_PARTS)


@dataclass(frozen=True, slots=True)
class Death:
    """How the process of a worker ended."""

    cause: str
    """For people: `SIGSEGV`, `exit code 7`, `killed`, `out of memory`."""
    is_known: bool = False
    """The process itself, or whoever ended it for its memory, left word of the cause."""
    stack: str = ""
    """The stack of its last moment, as `faulthandler` wrote it; may be empty."""
    is_memory: bool = False
    is_machine: bool = False
    """Its machine was lost with all that it did: no file is to blame."""
    is_shared: bool = False
    """It was one of several that ended at once, by what one of them may have done."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Places of one shard for one worker."""

    number: int
    shard: int
    places: tuple[Span, ...]
    kind: Literal["batch", "trial", "last try"] = "batch"
    """`trial`: one suspect, for a fresh worker. `last try`: places that failed by no fault of theirs."""
    is_last_try: bool = False
    """Record failures of the environment, too: what fails now has failed, whoever is at fault."""
    limit: int = 0
    """Most files of a batch that is made of these places, which are of a batch that was lost; 0: as many as fit."""
    call_files: int = 0
    """Most files that f is given at once, where it takes many; 0: as many as `batch_files` says."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Every place of this shard has an outcome: stage it."""

    number: int
    shard: int


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """This file ends its worker, or never returns: record its failure."""

    number: int
    shard: int
    place: int
    n_deaths: int
    """Deaths of its worker, alone; 0: it was ended because it took too long."""
    death: Death


Work = Batch | Stage | RecordFailure
