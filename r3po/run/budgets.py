"""When so many files fail that it is rather the function's fault, or the machine's: pure counting, for one run."""

from __future__ import annotations

from r3po.config.settings import MaxErrors
from r3po.errors import RunStoppedError
from r3po.table.outcomes import Failure
from r3po.text import first_line
from r3po.worker.messages import BatchDone
from r3po.worker.worker import ENVIRONMENTAL_RUN

GUARD = 100
"""A run stops if its first outcomes, so many, are failures of one kind."""

COSTLY_GUARD = 10
"""The same for kinds that cost a worker each."""

COSTLY = frozenset({"WorkerDied", "OutOfMemory", "Timeout"})

_OTHERWISE = {"Timeout": ", or raise timeout_seconds", "OutOfMemory": ", or use fewer --processes"}

PERCENT_AFTER = 100
"""A share of failures is looked at once so many files have finished."""


class ErrorBudget:
    """Counts what a run's files come to, and says when to stop.

    Args:
        limit: `max_errors`; None: only the guard of the first outcomes.
        is_guarded: whether f has yet to prove itself.
    """

    def __init__(self, limit: MaxErrors | None, *, is_guarded: bool) -> None:
        self._limit = limit
        self._is_off = limit is not None and limit.is_off
        self._is_guarded = is_guarded and not self._is_off
        self._first_failures: list[tuple[str, Failure]] = []
        self._n_finished = 0
        self._n_failed = 0
        self._n_deferred_in_a_row = 0

    def take(self, done: BatchDone) -> None:
        """Count a batch.

        Raises:
            RunStoppedError: that is too much. What was done stays.
        """
        self._n_finished += done.n_rows + done.n_failed
        self._n_failed += done.n_failed
        self._check_environment(done)
        self._check_first(done)
        if done.n_failed:
            self._check_limit(done)

    # Private methods

    def _check_environment(self, done: BatchDone) -> None:
        longest = self._n_deferred_in_a_row = self._n_deferred_in_a_row + done.n_deferred_first
        if done.n_rows + done.n_failed:
            self._n_deferred_in_a_row = done.n_deferred_last
            longest = max(longest, done.n_deferred_last)
        if longest < ENVIRONMENTAL_RUN or done.deferral is None or self._is_off:
            return
        path, failure = done.deferral
        raise RunStoppedError(
            f"{longest} files in a row could not be processed, and it looks like the machine rather than the files; "
            "they are not recorded as failed",
            evidence=f"{path}  {failure.error_type}: {first_line(failure.message)}\n{failure.where}".rstrip(),
            hint="look at the disk, the mount, the network, the permissions and the limits of this machine\n"
            "(or does f leave files open?), then run again; --max-errors none records such files as failed",
        )

    def _check_first(self, done: BatchDone) -> None:
        if not self._is_guarded:
            return
        self._first_failures += done.failures
        kinds = {(failure.error_type, _place_of(failure)) for _, failure in self._first_failures}
        if done.n_rows or len(kinds) > 1:
            self._is_guarded = False
            self._first_failures.clear()
            return
        n = len(self._first_failures)
        if not n or n < (COSTLY_GUARD if self._first_failures[0][1].error_type in COSTLY else GUARD):
            return
        path, failure = self._first_failures[0]
        raise RunStoppedError(
            f"the first {n} files all failed with {failure.error_type}: {first_line(failure.message)}; "
            "the rest was not tried",
            evidence=f"{path}\n{failure.traceback or failure.where}".rstrip(),
            hint=f"mend the function and run again{_OTHERWISE.get(failure.error_type, '')}; "
            "--max-errors none goes on all the same\n(these files, if it was not the code: r3po run --retry-failed)",
        )

    def _check_limit(self, done: BatchDone) -> None:
        if self._limit is None or self._is_off:
            return
        count, percent = self._limit.count, self._limit.percent
        is_over = count is not None and self._n_failed > count
        if percent is not None and self._n_finished >= PERCENT_AFTER:
            is_over = 100 * self._n_failed > percent * self._n_finished
        if not is_over:
            return
        path, failure = done.failures[-1]
        raise RunStoppedError(
            f"{self._n_failed:,} of {self._n_finished:,} files of this run failed; max_errors is {self._limit}",
            evidence=f"the latest  {path}  {failure.error_type}: {first_line(failure.message)}",
            hint="r3po errors shows them; mend the function and run again, or allow more with --max-errors",
        )


def _place_of(failure: Failure) -> str:
    # Where a crash or a time limit strikes is chance.
    return "" if failure.error_type in COSTLY else failure.where
