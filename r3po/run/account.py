"""What a run tells and comes to: events for the observer and the run's log, how the files stand, and the result."""

from __future__ import annotations

import time

from r3po import events
from r3po.events import Event, Observer
from r3po.run.log_events import limit_words
from r3po.run.loop import Counts
from r3po.run.result import RunResult
from r3po.run.run_log import RunLog
from r3po.state.job import Job
from r3po.state.output_folder import KINDS
from r3po.state.shards import ShardState
from r3po.storage.object_urls import ObjectUrl
from r3po.table.schema import has_inexact_ints


class Account:
    """What one run tells, from its first event to the result.

    Attributes:
        counts: how the files of the job stand; the loop keeps them up to date.
    """

    def __init__(self, job: Job, log: RunLog, observer: Observer) -> None:
        self._job, self._log, self._observer = job, log, observer
        self._started = time.monotonic()
        self._notices: list[str] = []
        self.counts = Counts(0, 0, 0)

    def emit(self, event: Event) -> None:
        """Tell the observer, and write the event into the run's log."""
        if isinstance(event, events.Notice):
            self._notices.append(event.words)
        self._log.write(event)
        self._observer(event)

    def count(self, states: dict[int, ShardState]) -> None:
        """Take over how the files stand before the first call of f."""
        values = list(states.values())
        self.counts.n_done = sum(state.n_done for state in values)
        self.counts.n_failed = sum(state.n_failed for state in values)
        self.counts.n_pending = sum(state.n_pending for state in values)

    def announce(self, states: dict[int, ShardState], limit: int | None) -> None:
        """Tell what the run is going to do."""
        counts = self.counts
        n_files = counts.n_done + counts.n_failed + counts.n_pending
        self.emit(
            events.ProcessingPlanned(
                n_files=n_files,
                n_done=counts.n_done,
                n_failed=counts.n_failed,
                n_pending=counts.n_pending,
                n_shards=len(states),
                is_resumed=counts.n_pending < n_files,
                limit=limit,
            )
        )

    def end(
        self,
        worked: bool,
        stopped_by: str = "",
        *,
        n_left_out: int = 0,
        go_on: str = "",
        machines: tuple[events.MachineShare, ...] = (),
    ) -> RunResult:
        """Tell and keep what the run came to, and return it.

        Args:
            worked: there was something to do.
            stopped_by: why it ended early, if it did.
            n_left_out: files that are left to a later run, since this one has a limit.
            go_on: what to type for that later run.
            machines: what each of them did, where there are several.
        """
        counts = self.counts
        if self._job.manifest is not None and not (counts.n_done + counts.n_failed + counts.n_pending):
            self.count(self._job.resolve(None))  # it ended before it had looked
        n_files = counts.n_done + counts.n_failed + counts.n_pending
        commits = self._job.commits.values()
        parts = {
            kind: sum(1 for commit in commits for part in commit.parts if part.kind == kind and part.staged)
            for kind in KINDS
            if self._job.part_settings[kind]
        }
        config, url = self._job.config, self._job.config.output_path
        ended = events.RunFinished(
            n_files=n_files,
            n_done=counts.n_done,
            n_failed=counts.n_failed,
            n_pending=counts.n_pending,
            seconds=round(time.monotonic() - self._started, 3),
            worked=worked,
            output=str(self._job.folders.output.where),
            parts=parts,
            read_options=config.store_options.for_pandas(url.scheme) if isinstance(url, ObjectUrl) else {},
            n_rows=self._job.count_rows(),
            has_large_ints=any(has_inexact_ints(commit.own_schema) for commit in commits),
            is_stopped=bool(stopped_by),
            is_limited=not stopped_by and n_left_out > 0,
            go_on=go_on,
            machines=machines,
        )
        if ended.is_limited:
            self._notices.append(limit_words(ended))
        result = RunResult(
            run_id=self._log.run_id,
            job_name=config.job_name,
            files=ended.n_files,
            done=ended.n_done,
            failed=ended.n_failed,
            pending=ended.n_pending,
            rows=ended.n_rows,
            seconds=ended.seconds,
            output=ended.output,
            notices=tuple(dict.fromkeys(self._notices)),
            machines=machines,
            config=config,
        )
        self.emit(ended)
        self._log.write_summary({**result.to_json(), "stopped_by": stopped_by})
        return result
