"""When so many files fail that it is rather the function's fault, or the machine's: pure counting, for one run."""

from __future__ import annotations

from r3po.config.keys import MaxErrors
from r3po.errors import FunctionError, R3poError, RunStoppedError
from r3po.run.workers import Lost
from r3po.storage.store_errors import StoreUnavailable
from r3po.table.outcomes import Failure
from r3po.text import first_line
from r3po.worker.beacon import Phase
from r3po.worker.messages import BatchDone
from r3po.worker.open_batch import ENVIRONMENTAL_RUN

GUARD = 100
"""Number of first outcomes that stop a run if all are failures of one kind."""

COSTLY_GUARD = 10
"""First outcomes that stop a run if they all fail alike by a kind that costs a worker each."""

COSTLY = frozenset({"WorkerDied", "OutOfMemory", "Timeout"})

_OTHERWISE = {"Timeout": ", or raise timeout_seconds", "OutOfMemory": ", or use fewer --processes"}

_RULES = "missing_keys: null, extra_keys: drop (or add), mixed: json"

_MACHINE_HINT = (
    "look at the disk, the mount, the network, the permissions and the limits of this machine\n"
    "(or does f leave files open?), then run again"
)

_STORE_HINT = "what was done is saved; run again once the store answers"

ODD_AFTER = 10
"""Outcomes of a new job from which on it is looked at whether the first row was an odd one."""

ODD_UNTIL = 1_000
"""Outcomes of a new job after which it is not looked at any more."""

ODD_PERCENT = 90
"""Share of the first outcomes that do not fit the columns, which stops the run."""

PERCENT_AFTER = 100
"""Finished files from which on the share of failures is looked at."""

START_LOSSES = 3
"""Number of workers that die in a row before they have loaded f, which stops the run."""

FRUITLESS_LOSSES = 12
"""Number of workers that die in a row, none with a file in hand, which stops the run."""


class ErrorBudget:
    """Counts what a run's files come to, and says when to stop.

    Args:
        limit: `max_errors`; None: only the guard of the first outcomes.
        is_guarded: whether f has yet to prove itself.
    """

    def __init__(self, limit: MaxErrors | None, *, is_guarded: bool) -> None:
        self._limit = limit
        self.is_off = limit is not None and limit.is_off
        """Nothing stops the run."""
        self._is_guarded = is_guarded and not self.is_off
        self._first_failures: list[tuple[str, Failure]] = []
        self._n_finished = 0
        self._n_failed = 0
        self._n_deferred_in_a_row = 0
        self._is_new = self._is_guarded
        self._n_misfits = 0
        self.first_row_path = ""
        """The file whose row set the columns in this run, for messages."""

    def take(self, done: BatchDone) -> None:
        """Count a batch.

        Raises:
            RunStoppedError: that is too much. What was done stays.
        """
        self._n_finished += done.n_done + done.n_failed
        self._n_failed += done.n_failed
        self._check_environment(done)
        self._check_first(done)
        self._check_columns(done)
        if done.n_failed:
            self._check_limit(done)

    # Private methods

    def _check_environment(self, done: BatchDone) -> None:
        longest = self._n_deferred_in_a_row = self._n_deferred_in_a_row + done.n_deferred_first
        if done.n_done + done.n_failed:
            self._n_deferred_in_a_row = done.n_deferred_last
            longest = max(longest, done.n_deferred_last)
        if longest < ENVIRONMENTAL_RUN or done.deferral is None or self.is_off:
            return
        path, failure = done.deferral
        is_store = failure.error_type == StoreUnavailable.__name__
        whose, hint = ("the store", _STORE_HINT) if is_store else ("the machine", _MACHINE_HINT)
        raise RunStoppedError(
            f"{longest} files in a row could not be processed, and it looks like {whose} rather than the files; "
            "they are not recorded as failed",
            evidence=f"{failure.line(path)}\n{failure.where}".rstrip(),
            hint=f"{hint}; --max-errors none records such files as failed",
        )

    def _check_first(self, done: BatchDone) -> None:
        if not self._is_guarded:
            return
        self._first_failures += done.failures
        kinds = {(failure.error_type, _place_of(failure)) for _, failure in self._first_failures}
        if done.n_done or len(kinds) > 1:
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
            hint=f"fix the function and run again{_OTHERWISE.get(failure.error_type, '')}; "
            "--max-errors none goes on all the same\n(these files, if it was not the code: r3po run --retry-failed)",
        )

    def _check_columns(self, done: BatchDone) -> None:
        """Stop a new job early whose columns nearly no file has but the first."""
        if not self._is_new or self._n_finished > ODD_UNTIL:
            return
        misfits = [told for told in done.failures if told[1].error_type == "BadRow"]
        self._n_misfits += len(misfits)
        if self._n_finished < ODD_AFTER or 100 * self._n_misfits < ODD_PERCENT * self._n_finished or not misfits:
            return
        path, failure = misfits[0]
        raise RunStoppedError(
            f"{self._n_misfits} of the first {self._n_finished} files do not fit the columns that the first row set"
            + (f", that of {self.first_row_path}" if self.first_row_path else ""),
            evidence=f"{path}  {first_line(failure.message)}",
            hint="if that file is the odd one, name all columns in the config, as in  columns: {id: int64, t: string}\n"
            "and then: r3po run --redo; --max-errors none goes on all the same\n"
            f"if rows differ: {_RULES} in the config,\nand then: r3po run --retry-failed",
        )

    def _check_limit(self, done: BatchDone) -> None:
        if self._limit is None or self.is_off:
            return
        count, percent = self._limit.count, self._limit.percent
        is_over = count is not None and self._n_failed > count
        if percent is not None and self._n_finished >= PERCENT_AFTER:
            is_over = 100 * self._n_failed > percent * self._n_finished
        if not is_over:
            return
        raise RunStoppedError(
            f"{self._n_failed:,} of {self._n_finished:,} files of this run failed; max_errors is {self._limit}",
            evidence=f"the latest  {done.last_failure}",
            hint="r3po errors shows them; fix the function and run again, or allow more with --max-errors",
        )


class LossBudget:
    """Counts the workers that die outside any file, and says when replacing them does not help."""

    def __init__(self, function_name: str) -> None:
        self._function_name = function_name
        self.has_loaded = False
        self._n_starting = 0
        self._n_fruitless = 0

    def loaded(self) -> None:
        """Note that a worker has loaded f."""
        self.has_loaded = True
        self._n_starting = 0

    def check_load(self, error: R3poError) -> None:
        """Raise RunStoppedError if a worker cannot load f although others could: what was done stays."""
        if self.has_loaded:
            raise RunStoppedError(
                f"a worker cannot load {self._function_name}, although another one could: {error.args[0]}",
                evidence=error.evidence,
                hint="what was done is saved; fix the function, then run again",
            ) from error

    def worked(self) -> None:
        """Note that a worker has done some work."""
        self._n_fruitless = 0

    def take(self, lost: Lost) -> None:
        """Count a dead worker.

        Raises:
            FunctionError: importing f's module ends the process, or making f does.
            RunStoppedError: too many died in a row, while starting or between files.
        """
        if lost.death.is_machine:
            return  # machines may go
        if lost.handle.is_ready:
            self._check_fruitless(lost)
        else:
            self._check_starting(lost)

    # Private methods

    def _check_starting(self, lost: Lost) -> None:
        death = lost.death
        self._n_starting += 1
        phase = lost.last.phase if lost.last is not None else Phase.IDLE
        is_import = phase in (Phase.LOADING, Phase.MAKING)
        is_certain = death.is_known and not death.is_memory
        if is_import and not self.has_loaded and (is_certain or self._n_starting >= START_LOSSES):
            doing, alone = f"importing the module of {self._function_name}", "import it"
            if phase is Phase.MAKING:
                doing, alone = f"making {self._function_name}", "make it"
            raise FunctionError(
                f"{doing} ends the process: {death.cause}",
                evidence=death.stack or None,
                hint=f"{alone} alone, in a Python of its own, to see why; this run recorded nothing",
            )
        if self._n_starting >= START_LOSSES:
            raise RunStoppedError(
                f"workers die while they start: {death.cause}",
                evidence=death.stack or None,
                hint="your state is safe; run again, or see more with: r3po run --engine serial",
            )

    def _check_fruitless(self, lost: Lost) -> None:
        self._n_fruitless = 0 if lost.file is not None else self._n_fruitless + 1
        if self._n_fruitless >= FRUITLESS_LOSSES:
            raise RunStoppedError(
                f"{self._n_fruitless} workers died in a row, and none of them in a file: {lost.death.cause}",
                evidence=lost.death.stack or None,
                hint="something on this machine ends them; your state is safe, run again once it is found",
            )


def _place_of(failure: Failure) -> str:
    # Where a crash or a time limit strikes is chance.
    return "" if failure.error_type in COSTLY else failure.where
