"""How fast a run goes on, from its events; written down about once a second for `r3po status`."""

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

RATE_OVER_S = 60.0
"""Seconds over which the rate is measured."""


class ProgressNote:
    """Keeps the note of one run up to date.

    Args:
        folder: of the run.
        clock: seconds that only rise.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._planned: events.ProcessingPlanned | None = None
        self._n_done = self._n_failed = 0
        """Of this run."""
        self._samples: deque[tuple[float, int]] = deque()
        """Moments, and how many files this run had finished by then."""
        self._last_failure: str | None = None
        self._longest = events.LongestRunning("", 0.0)

    def take(self, event: Event) -> None:
        """Take in what happened, and write the note if that is due."""
        match event:
            case events.ProcessingPlanned():
                self._planned, self._started = event, time.time()
                self._begun = self._written = self._clock()
                self._samples.append((self._begun, 0))
                write_progress(self._folder, self.progress())
            case events.BatchFinished():
                self._n_done += event.n_done
                self._n_failed += event.n_failed
                self._last_failure = event.last_failure or self._last_failure
                self._write_if_due()
            case events.LongestRunning():
                self._longest = event
                self._write_if_due()

    def close(self) -> None:
        """Remove the note: the run is over."""
        remove_progress(self._folder)

    def progress(self) -> RunProgress:
        """Return how the run stands now; it has been planned."""
        planned = self._planned
        assert planned is not None
        n_finished = self._n_done + self._n_failed
        n_pending = planned.n_pending - n_finished
        n_to_do = n_pending if planned.limit is None else min(planned.limit, planned.n_pending) - n_finished
        rate = self._rate(n_finished)
        return RunProgress(
            run_id=self._folder.name,
            pid=os.getpid(),
            started=self._started,
            updated=time.time(),
            files=planned.n_files,
            done=planned.n_done + self._n_done,
            failed=planned.n_failed + self._n_failed,
            pending=n_pending,
            files_per_second=None if rate is None else round(rate, 3),
            seconds_left=round(max(0, n_to_do) / rate, 1) if rate else None,
            last_failure=None if self._last_failure is None else shorten(first_line(self._last_failure), 1000),
            longest_running=self._longest.path or None,
            longest_seconds=round(self._longest.seconds, 1) if self._longest.path else None,
        )

    # Private methods

    def _write_if_due(self) -> None:
        now = self._clock()
        if self._planned is None or now - self._written < WRITE_EVERY_S:
            return
        self._written = now
        self._samples.append((now, self._n_done + self._n_failed))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_OVER_S:
            self._samples.popleft()
        write_progress(self._folder, self.progress())

    def _rate(self, n_finished: int) -> float | None:
        """Return files a second; None: too early to say."""
        now = self._clock()
        moment, n_before = self._samples[0]
        if n_finished > n_before and now > moment:
            return (n_finished - n_before) / (now - moment)
        return n_finished / (now - self._begun) if n_finished and now > self._begun else None
