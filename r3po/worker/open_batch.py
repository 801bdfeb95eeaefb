"""A batch between its first file and its segment: its outcomes so far, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from r3po.state.segments import Segment, SegmentWriter
from r3po.storage.names import show_name
from r3po.table.columns import RowCollector
from r3po.table.outcomes import Failure, OutcomeBatch
from r3po.work import Batch, Span, iter_places
from r3po.worker.failures import EnvironmentalFailure
from r3po.worker.many_rows import ManyRows
from r3po.worker.messages import FAILURES_TOLD, BatchDone, Listed, ShardContext
from r3po.worker.rows import append_outcome, take_row

read_clock = partial(time.perf_counter)
"""`time.perf_counter`, also where f's module stops the clock for its tests: freezegun replaces it by name."""

ENVIRONMENTAL_RUN = 50
"""Files in a row that fail by their environment and so end the batch; over all workers, the run."""


File = tuple[int, str, Listed]
"""Place, path, and what the shard file says of it."""


@dataclass(slots=True)
class OpenBatch:
    """A batch that a worker has begun."""

    batch: Batch
    shard: ShardContext
    paths: list[str]
    """Paths of all files of the batch, in the order of its places."""
    files: Iterator[File]
    """Those that are still to be done."""
    started: float
    """By `read_clock`."""
    outcomes: OutcomeBatch = field(default_factory=OutcomeBatch)
    rows: ManyRows | None = None
    """Takes the rows of files that may have many; None: what f returns for a file is its row."""
    segment: SegmentWriter | None = None
    """Has the blocks of these rows."""
    smaller_calls: list[list[File]] = field(default_factory=list)
    """Files of calls that failed: each list is to be given to f by itself, the last first."""
    deferred: list[tuple[int, Failure]] = field(default_factory=list)
    """Place and reason of the files that failed by their environment, of which nothing is recorded."""
    n_deferred_first: int = 0
    """How many of them came before the first outcome."""
    n_deferred_last: int = 0
    """How many of them came after the last outcome."""
    is_spent: bool = False
    """f was ended in the middle of a file: the worker's process is not to be trusted any more."""
    vanished: str = ""
    """Path of the first file that was gone once f had returned; empty: none."""
    waited_s: float = 0.0
    """Seconds that f was kept waiting for the store."""

    def take(self, place: int, returned: Any, failure: Failure | None, collector: RowCollector | None) -> int:
        """Take what f returned for a file, which is in the batch without its row or failure.

        Returns:
            Characters of its failure.
        """
        row: tuple[Any, ...] | None = None
        if self.rows is not None:
            row, failure = self.rows.accept(returned, failure)
        elif failure is None:
            row, failure = take_row(returned, collector)
        if self.defers(place, failure):
            return 0
        append_outcome(self.outcomes, row, failure)
        return 0 if failure is None else len(failure.message) + len(failure.traceback)

    def defers(self, place: int, failure: Failure | None) -> bool:
        """Take a failure of the environment out of the batch again, unless this is the file's last try.

        Returns:
            Whether it did.
        """
        if not isinstance(failure, EnvironmentalFailure) or self.batch.is_last_try:
            self.n_deferred_last = 0
            return False
        self.outcomes.forget_last()
        self.deferred.append((place, failure))
        self.n_deferred_first += not self.outcomes.places
        self.n_deferred_last += 1
        return True

    @contextmanager
    def abandoned_on_error(self) -> Iterator[None]:
        """Give a block whose error leaves nothing of the segment on disk."""
        try:
            yield
        except BaseException as error:
            if self.segment is not None:
                self.segment.__exit__(type(error), error, error.__traceback__)
            raise

    def size_bytes(self, collector: RowCollector | None) -> int:
        """Return what the rows of the batch hold, roughly."""
        if self.rows is not None:
            return self.rows.size_bytes
        return 0 if collector is None else collector.size_bytes

    @property
    def last_failure(self) -> str:
        """Path and error of the last file that failed, for people; empty: none did."""
        if not self.outcomes.failures:
            return ""
        last = max(self.outcomes.failures)
        return self.outcomes.failures[last].line(show_name(self._names()[self.outcomes.places[last]]))

    def done(self, segment: Segment | None, content: bytes | None = None) -> BatchDone:
        """Return the answer to the batch, whose outcomes are in `segment`; None: there are none.

        Args:
            content: of the segment, where it is not on disk.
        """
        outcomes = self.outcomes
        if segment is None and self.segment is not None:
            self.segment.abandon()
        doubted = sorted(place for files in self.smaller_calls for place, *_ in files)
        last = self.deferred[-1] if self.deferred else None
        is_told = outcomes.failures or last
        names = self._names() if is_told else {}
        failed = [(outcomes.places[i], outcomes.failures[i]) for i in sorted(outcomes.failures)[:FAILURES_TOLD]]
        return BatchDone(
            segment=segment,
            content=content,
            n_done=len(outcomes.places) - len(outcomes.failures),
            n_failed=len(outcomes.failures),
            returned=tuple(_spans(place for place, *_ in self.files)),
            seconds=read_clock() - self.started if segment is not None else 0.0,
            failures=tuple((show_name(names[place]), failure) for place, failure in failed),
            deferred=tuple(place for place, _ in self.deferred),
            n_deferred_first=self.n_deferred_first,
            n_deferred_last=self.n_deferred_last,
            deferral=(show_name(names[last[0]]), last[1]) if last else None,
            is_spent=self.is_spent,
            vanished=show_name(self.vanished),
            doubted=tuple(_spans(doubted)),
            call_files=max(map(len, self.smaller_calls), default=0),
            waited_s=self.waited_s,
        )

    def _names(self) -> dict[int, str]:
        return dict(zip(iter_places(self.batch.places), self.paths, strict=True))


def _spans(places: Iterable[int]) -> Iterator[Span]:
    start = previous = None
    for place in places:
        if start is None or previous is None:
            start = place
        elif place != previous + 1:
            yield start, previous + 1
            start = place
        previous = place
    if start is not None and previous is not None:
        yield start, previous + 1
