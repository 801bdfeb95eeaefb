"""Running and resuming a job: build, process what is pending, make the end.

The steps are numbered in `_run`; each can be repeated after a kill. FORMAT.md, "A run, step by step".
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Self

from r3po import events
from r3po.config.settings import Config
from r3po.engines.needs import needs_of
from r3po.engines.ray_guard import sweep_temporary
from r3po.engines.starter import Starter
from r3po.engines.worker_processes import WorkerProcesses, end_left_workers, forget_workers, iter_left_workers
from r3po.errors import ConfigError, R3poError, RunStoppedError, StopNow
from r3po.events import Observer
from r3po.file_version import UNKNOWN_VERSION, FileVersion
from r3po.function.arguments import check_arguments
from r3po.function.find import FunctionSpec, find_function, fingerprint_of_file, with_arguments
from r3po.run.account import Account
from r3po.run.budgets import ErrorBudget
from r3po.run.finish import make_end
from r3po.run.loop import DRAIN_S, WAIT_S, RunLoop
from r3po.run.orders import Orders
from r3po.run.plan import Plan, command_of, plan_run, undo_of
from r3po.run.publisher import Publisher
from r3po.run.result import RunOptions, RunResult
from r3po.run.run_log import RunLog
from r3po.run.scheduler import Scheduler
from r3po.run.signals import START_S, StopSignals
from r3po.run.suspects import SuspectBook
from r3po.run.trials import Trials
from r3po.run.walk_and_start import walk_and_start
from r3po.run.watch import Watch
from r3po.run.workers import WorkerManager
from r3po.run.workforce import Workforce
from r3po.source.new_manifest import BuildStopped
from r3po.source.object_folders import sweep_object_folders
from r3po.source.sources import source_of
from r3po.state.job import Job, disk_error, open_job
from r3po.state.manifest import ShardRef, columns_path
from r3po.state.segments import Segment
from r3po.state.shard_files import read_shard_file
from r3po.state.shards import ShardState
from r3po.storage.durable import list_names
from r3po.storage.json_files import damaged
from r3po.text import count_of
from r3po.worker.printed import Outputs
from r3po.worker.shard_lines import ShardLines

log = logging.getLogger(__name__)

FEW_SHARDS = 8
"""Most shards that the driver stages itself where no file is to be done: a start of Ray would take longer."""

TOLD_S = 5.0
"""Seconds of waiting for a bucket after which it is said."""


def find_configured(config: Config) -> FunctionSpec:
    """Return the config's function. Raises ConfigError if it names none, FunctionError if it is not there."""
    if config.function is None:
        raise ConfigError(
            "no function is given",
            where=config.path.name,
            hint="add a line such as  function: count_fruits.py:count_fruits\n"
            "or run with  r3po run --function count_fruits.py:count_fruits",
        )
    return find_function(config.function, config.base_dir)


def run_job(
    config: Config, spec: FunctionSpec, options: RunOptions, observer: Observer, starter: Starter | None = None
) -> RunResult:
    """See `run_jobs`; tells `observer` what happens.

    Args:
        starter: of workers, where one has been started before.
    """
    if config.engine == "processes":
        needs_of(config).refuse_without_ray()
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: at least 1 file is done", hint="r3po run --limit 100")
    if options.restart and not options.redo:
        raise ConfigError("--restart says how to redo", hint="r3po run --redo --restart")
    if options.build:
        source_of(config).check()
    spec = with_arguments(spec, config.function_args)
    check_arguments(spec, config.input)
    with open_job(config) as job, _Run(job, spec, options, observer, starter) as run:
        return run.result_of(run.go)


class _Run:
    """One run, from the lock to the summary."""

    def __init__(
        self, job: Job, spec: FunctionSpec, options: RunOptions, observer: Observer, starter: Starter | None
    ) -> None:
        self.job, self.spec, self.options = job, spec, options
        self.config = job.config
        self.log = RunLog(job.folders.runs)
        self._observer = observer
        self._account = Account(job, self.log, observer)
        self.emit = self._account.emit
        self._code = fingerprint_of_file(spec)
        self._source = source_of(self.config)
        self._loop: RunLoop | None = None
        self._read_shard_file = lru_cache(maxsize=1)(read_shard_file)  # suspects are looked at in order
        self._has_new_places = False
        self.stop = StopSignals(self.log.stop_file, self._on_signal, interrupts=self.config.engine == "serial")
        self._workforce = Workforce(self.config, spec, self.log, self.stop, self.emit, starter)

    def __enter__(self) -> Self:
        self.log.open()
        for name in list_names(self.job.folders.runs):
            sweep_temporary(self.job.folders.runs / name / "ray_folder")
        self.stop.install()
        return self

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        self.stop.close()
        if isinstance(error, R3poError) and not isinstance(error, RunStoppedError):
            self.log.write_summary({"stopped_by": str(error.args[0])})
        pool = self._workforce.pool
        try:
            if pool is not None:
                pool.close()
            if self._loop is not None:
                self._loop.watch.show_output()
        finally:
            if self.config.source_url is not None:
                WorkerProcesses(self.log.workers).await_end()  # or they hold the locks of what they leave
                sweep_object_folders()
            if pool is None or not pool.is_gone:
                forget_workers(self.log.workers)
            self.stop.restore()
            self.log.close()

    def result_of(self, go: Callable[[], bool]) -> RunResult:
        """Return the result of `go`; an early end becomes a RunStoppedError that carries it."""
        try:
            try:
                worked = go()
            finally:
                self._close_function()
        except RunStoppedError as error:
            error.result = self._end(True, str(error.args[0]))
            raise
        except OSError as error:
            stopped = disk_error(error, self.config.working_dir)
            stopped.result = self._end(True, str(stopped.args[0]))
            raise stopped from error
        except (StopNow, BuildStopped, KeyboardInterrupt):
            raise self._stopped() from None
        if self.stop.is_requested:
            raise self._stopped()
        return self._end(worked)

    def go(self) -> bool:
        """Carry out the run. Returns whether there was something to do."""
        self._open()
        walk = partial(walk_and_start, self._workforce, self.job.folders, self.options, self.stop, self.emit)
        plan = plan_run(self.job, self.spec, self.options, walk)
        self._put_in_force(plan)
        to_do = [state for state in plan.states.values() if not state.is_committed]
        has_pending = any(state.pending for state in to_do)
        if not has_pending:
            self._publisher.put_in_force()  # no file is left that could give a row
        if has_pending or len(to_do) > FEW_SHARDS:
            self._account.announce(plan.states, self.options.limit)
            self._process(plan.states)
            if self.stop.is_requested:
                return True
            if self._n_left_out:
                self._end_at_limit()
                return True
        else:
            self._stage({state.ref: state.segments for state in to_do})
        return self._finish(is_needed=bool(to_do)) or bool(to_do)

    @property
    def _n_left_out(self) -> int:
        """How many files are left to a later run, since this one has a limit."""
        return 0 if self._loop is None else self._loop.scheduler.n_left_out

    def _end_at_limit(self) -> None:
        """Say why there may be no part. There is no end to make: a run that goes on makes it."""
        self.job.folders.output.set_success(())  # a finished job may have got new files
        if self._loop is not None and self._loop.manager.n_lost:
            self.job.sweep()
        self._await_parts()
        text = f"a part is written when all files of its shard are done (shard_size: {self.config.shard_size:,})"
        self.emit(events.Notice(text, hint="r3po try shows rows at once"))

    def _open(self) -> None:
        self.emit(events.JobOpened(self.config.job_name, str(self.config.path), self.spec.label))
        for notice in self.config.notices:
            self.emit(events.Notice(notice))
        # Before it is seen what they did, and what changed since.
        end_left_workers(self.job.folders.runs, self.log.run_id)

    @property
    def _was_killed(self) -> bool:
        """Whether a run was killed while files were in hand, and no run since has come to them."""
        folders = self.job.folders
        return folders.suspects.exists() or any(iter_left_workers(folders.runs, self.log.run_id))

    def _put_in_force(self, plan: Plan) -> None:
        """Make the plan the job's. Up to here a run may be refused, and then nothing has changed.

        A redo of rows is left to its first row: an f that gives none must not cost those that are there.
        """
        job, fingerprint = self.job, self.spec.fingerprint
        for notice in plan.notices:
            self.emit(notice)
        # After a kill a redo in another order does not wait for a row: what ended the run is found by its place, and
        # only a layout that is in force stays from run to run.
        is_waiting = plan.is_costly and not (plan.has_new_places and self._was_killed)
        if not is_waiting:
            if plan.manifest is not job.manifest:
                job.put_in_force(plan.manifest)
            job.adopt_commits(plan.states, fingerprint)
        self._account.count(plan.states)
        attempts = (f"{self.log.run_id}-{number:06d}" for number in count(1))
        planned = job.with_manifest(plan.manifest) if is_waiting else job
        self._has_new_places = plan.has_new_places
        self._publisher = Publisher(
            planned, fingerprint, r3po_version(), lambda: next(attempts), in_force=job if is_waiting else None
        )
        if self._publisher.columns is None and any(state.n_rows for state in plan.states.values()):
            path = columns_path(self.config.working_dir, plan.manifest)
            raise damaged(path, "is missing, although there are rows")

    def _finish(self, *, is_needed: bool) -> bool:
        """Make one schema, failures.csv, the manifest with all hashes, _SUCCESS. Returns whether these were due."""
        self._await_parts()
        ended = make_end(self._publisher, self._stage, self.emit, is_needed=is_needed)
        if self._loop is not None and self._loop.manager.n_lost:
            self.job.sweep()  # after the end, which may have lost workers, too
        return ended

    def _process(self, states: dict[int, ShardState]) -> None:
        pool = self._workforce.start(self.job.folders)
        self._workforce.tell_started()
        pending = ((s.ref.shard, s.pending) for s in states.values() if not s.is_committed)
        stat_place = partial(self._stat_place, states)
        built = self._publisher.job.built
        suspects_file, layout_since = self.job.folders.suspects, built.layout_since
        book = SuspectBook(suspects_file, built.job_id, self.spec.fingerprint, stat_place, layout_since)
        if self._has_new_places:
            book.forget(self.job.folders.runs, self.log.run_id)
        suspects = book.recall(self.job.folders.runs, self.log.run_id)
        n_apart = sum(suspect.is_apart for suspect in suspects)
        if n_apart:
            files = count_of(n_apart, "file was", "files were")
            self.emit(events.Notice(f"{files} in hand when a run was killed; these come first, one at a time"))
        n_doubted = sum(stop - start for _, (start, stop) in book.in_doubt)
        if n_doubted and self.config.batch_files is not None:
            files = count_of(n_doubted, "file was", "files were")
            self.emit(
                events.Notice(f"{files} in a call of f when a run was killed; each goes into a call by itself now")
            )
        # In a job that has rows, the first failures of a run are rather those of these files.
        has_rows = any(state.n_done for state in states.values())
        timeout_s, leavers = self.config.timeout_seconds, self._workforce.leavers
        manager = WorkerManager(pool, self._workforce.n_workers, timeout_s, leavers=leavers)
        outputs = Outputs(self.log.workers, is_shown=self.options.show_output)
        scheduler = Scheduler(
            pending,
            self._workforce.n_workers,
            self._workforce.batch_seconds,
            suspects,
            self.options.limit,
            self.config.batch_files or 1,
            book.in_doubt,
        )
        self._loop = RunLoop(
            publisher=self._publisher,
            manager=manager,
            budget=ErrorBudget(self.config.max_errors, is_guarded=not has_rows),
            trials=Trials(scheduler, book, self.config.timeout_seconds),
            scheduler=scheduler,
            observer=self.emit,
            stop=self.stop,
            function_name=self.spec.name,
            counts=self._account.counts,
            watch=Watch(states, self.job.folders.shards, manager, outputs, self.emit, self.spec.name),
            orders=Orders(self._publisher, states, ShardLines(self.job.folders.shards)),
            loaded_code=self._code,
        )
        self._loop.run()

    def _stage(self, shards: dict[ShardRef, Sequence[Segment]]) -> None:
        """Stage and commit shards that lack nothing: on the workers, or here where a start of Ray would take longer.

        Args:
            shards: each with the segments that its commit does not have; without any, only its parts are made again.
        """
        if self._loop is None and len(shards) > FEW_SHARDS:
            self._process({})
        if self._loop is not None:
            self._loop.stage(shards)
        else:
            for ref, segments in shards.items():
                if self.stop.is_requested:
                    raise StopNow
                self._publisher.stage(ref, segments)
        self._await_parts()

    def _await_parts(self) -> None:
        """Wait for the parts that are on their way into a bucket, and say so where it takes long."""
        output, began, is_told = self.job.folders.output, time.monotonic(), False
        while n_left := output.settle(WAIT_S):
            if self.stop.is_requested:
                raise StopNow  # the next run puts what is left
            if not is_told and time.monotonic() - began > TOLD_S:
                is_told = True
                self.emit(events.Notice(f"{count_of(n_left, 'part')} on the way to {output.where}"))

    # Parts of the steps

    def _stat_place(self, states: dict[int, ShardState], shard: int, place: int) -> FileVersion:
        """Return the version of the file of a place as it is now; `UNKNOWN_VERSION` if it cannot be seen."""
        if shard in states and place < states[shard].ref.n_files:
            with contextlib.suppress(OSError, R3poError):
                path = self._read_shard_file(self.job.folders.shards, states[shard].ref).paths[place]
                return self._source.version(path) or UNKNOWN_VERSION
        return UNKNOWN_VERSION

    # The end of it

    def _close_function(self) -> None:
        """Close f in the workers, where there is something to close: it is called no more, however the run ends."""
        workforce = self._workforce
        if workforce.leavers is not None:
            there = range(workforce.n_workers) if self._loop is None else self._loop.manager.living
            workforce.leavers.leave_all(there, self.stop)

    def _on_signal(self, name: str) -> None:
        limit_s = START_S if self.stop.is_starting else None if self.config.engine == "serial" else DRAIN_S
        self._observer(events.StopRequested(name, limit_s, self.stop.is_starting))

    def _end(self, worked: bool, stopped_by: str = "") -> RunResult:
        if self._loop is not None:
            self._loop.watch.show_output()  # before the summary, which is the last word
            self._loop.watch.tell_where_output_is()
        go_on = self.options.command or command_of(self.config)
        machines = () if self._loop is None else self._loop.shares.all()
        return self._account.end(worked, stopped_by, n_left_out=self._n_left_out, go_on=go_on, machines=machines)

    def _way_back(self) -> str:
        is_redoing = self.job.manifest is not None and self.job.built.is_redoing
        return f"\nOr give the redo up with: {undo_of(self.config)}" if is_redoing else ""

    def _stopped(self) -> RunStoppedError:
        result = self._end(True, f"stopped by {self.stop.signal_name}")
        return RunStoppedError(
            f"stopped by {self.stop.signal_name}; what was done is saved",
            hint=f"Continue with: {self.options.command or command_of(self.config)}" + self._way_back(),
            exit_code=self.stop.exit_code,
            result=result,
        )


def r3po_version() -> str:
    try:
        return version("r3po")
    except PackageNotFoundError:  # a bare checkout on sys.path
        return "0.3.0"
