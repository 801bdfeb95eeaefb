"""How a run stands and how fast it goes on, from its events: the one place where that is reckoned.

The progress on a screen shows it, and about once a second it is written down for `r3po status`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from r3po import events
from r3po.events import Event
from r3po.state.progress import RunProgress, remove_progress, write_progress
from r3po.text import first_line, shorten

WRITE_EVERY_S = 1.0
"""Seconds between two notes at least."""

SAMPLE_EVERY_S = 1.0
"""Seconds between two moments at least that are kept to measure the rate by."""

RATE_OVER_S = 60.0
"""Seconds over which the rate is measured."""

MOST_OF_FAILURE = 1000
"""Characters of the last failure that are kept."""


class Progress:
    """How one run stands, from its first file on.

    Args:
        run_id: of the run, where it is known.
        clock: seconds that only rise.
    """

    def __init__(self, run_id: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_id, self._clock = run_id, clock
        self._planned: events.ProcessingPlanned | None = None
        self._n_done = self._n_failed = 0
        """Of this run."""
        self._seconds = self._waited = 0.0
        """Of all batches, and what f waited of them for the store."""
        self._samples: deque[tuple[float, int, float, float]] = deque()
        """Moments, how many files this run had finished by then, and the two above."""
        self._last_failure: str | None = None
        self._longest = events.LongestRunning("", 0.0)

    @property
    def is_planned(self) -> bool:
        """Whether it is known what there is to do; before that there is nothing to tell."""
        return self._planned is not None

    def take(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case events.ProcessingPlanned():
                self._planned, self._started = event, time.time()
                self._begun = self._clock()
                self._samples.append((self._begun, 0, 0.0, 0.0))
            case events.BatchFinished():
                self._n_done += event.n_done
                self._n_failed += event.n_failed
                self._last_failure = event.last_failure or self._last_failure
                self._seconds += event.seconds
                self._waited += event.waited
                self._sample()
            case events.LongestRunning():
                self._longest = event
                self._sample()

    def now(self) -> RunProgress:
        """Return how the run stands now; it has been planned."""
        planned = self._planned
        assert planned is not None
        n_finished = self._n_done + self._n_failed
        # A limit that all pending files are within is none.
        limit = None if planned.limit is None or planned.limit >= planned.n_pending else planned.limit
        n_to_do = (planned.n_pending if limit is None else limit) - n_finished
        rate = self._rate(n_finished)
        is_long = bool(self._longest.path) and self._longest.seconds >= events.LONG_S
        return RunProgress(
            run_id=self._run_id,
            pid=os.getpid(),
            started=self._started,
            updated=time.time(),
            files=planned.n_files,
            done=planned.n_done + self._n_done,
            failed=planned.n_failed + self._n_failed,
            pending=planned.n_pending - n_finished,
            files_per_second=None if rate is None else float(f"{rate:.6g}"),
            seconds_left=round(max(0, n_to_do) / rate, 1) if rate else None,
            last_failure=None
            if self._last_failure is None
            else shorten(first_line(self._last_failure), MOST_OF_FAILURE),
            longest_running=self._longest.path if is_long else None,
            longest_seconds=round(self._longest.seconds, 1) if is_long else None,
            limit=limit,
            finished=n_finished,
            store_wait=self._store_wait(),
        )

    # Private methods

    def _sample(self) -> None:
        now = self._clock()
        if not self._samples or now - self._samples[-1][0] < SAMPLE_EVERY_S:
            return
        self._samples.append((now, self._n_done + self._n_failed, self._seconds, self._waited))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_OVER_S:
            self._samples.popleft()

    def _rate(self, n_finished: int) -> float | None:
        """Return files a second; None: too early to say."""
        now = self._clock()
        moment, n_before, *_ = self._samples[0]
        if n_finished > n_before and now > moment:
            return (n_finished - n_before) / (now - moment)
        return n_finished / (now - self._begun) if n_finished and now > self._begun else None

    def _store_wait(self) -> float | None:
        if not self._waited:
            return None
        *_, seconds, waited = self._samples[0]
        if self._seconds <= seconds:
            seconds = waited = 0.0
        return round(min(1.0, (self._waited - waited) / (self._seconds - seconds)), 3) if self._seconds else None


class ProgressNote:
    """Keeps the note of one run up to date.

    Args:
        folder: of the run.
        clock: seconds that only rise.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._progress = Progress(folder.name, clock)
        self._written = 0.0

    def take(self, event: Event) -> None:
        """Take in what happened, and write the note if that is due."""
        self._progress.take(event)
        match event:
            case events.ProcessingPlanned():
                self._write()
            case events.BatchFinished() | events.LongestRunning():
                if self._progress.is_planned and self._clock() - self._written >= WRITE_EVERY_S:
                    self._write()

    def close(self) -> None:
        """Remove the note: the run is over."""
        remove_progress(self._folder)

    # Private methods

    def _write(self) -> None:
        self._written = self._clock()
        write_progress(self._folder, self._progress.now())
