"""Running and resuming a job: build, process what is pending, make the end.

The steps are numbered in `_run`; each can be repeated after a kill. FORMAT.md, "A run, step by step".
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Self

import orjson

from r3po import events
from r3po.config.settings import Config, check_source
from r3po.engines.pool import Pool
from r3po.engines.ray_guard import sweep_temporary
from r3po.engines.serial import SerialPool
from r3po.errors import ConfigError, R3poError, RunStoppedError, SourceError, StateError, StopNow
from r3po.events import Event, Observer
from r3po.function.find import FunctionSpec, find_function, fingerprint_of_file
from r3po.run.budgets import ErrorBudget
from r3po.run.check_columns import check_columns
from r3po.run.finish import make_end
from r3po.run.loop import DRAIN_S, Counts, RunLoop
from r3po.run.publisher import Publisher
from r3po.run.scheduler import Scheduler
from r3po.run.signals import START_S, StopSignals
from r3po.run.suspects import SuspectBook, end_left_workers, forget_beacons
from r3po.run.workers import WorkerManager
from r3po.source.build import BuildResult, plan_build, scan_finished, tell_moved_source
from r3po.source.new_manifest import BuildProgress, BuildStopped
from r3po.source.read import glance
from r3po.state.commits import KINDS
from r3po.state.job import Job, disk_error, open_job, tidy_path
from r3po.state.manifest import ShardRef, columns_path, read_columns
from r3po.state.shard_files import read_shard_file
from r3po.state.shards import ShardState, count_kept_rows
from r3po.storage.durable import check_space, list_names, make_folder, remove_if_there, remove_tree
from r3po.storage.json_files import damaged
from r3po.text import count_of
from r3po.worker.messages import WorkerSetup
from r3po.worker.printed import Outputs
from r3po.worker.staging import stage_shard
from r3po.worker.time_limit import is_possible

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)

KEPT_RUNS = 20
"""Folders in `runs/` that are kept; older ones are removed."""

FEW_SHARDS = 8
"""So many shards are staged here, where no file is to be done: a start of Ray would take longer."""

WALK_END_S = 10.0
"""What a walk gets to end in; it may hang on a disk that does not answer."""

ENGINES = ("ray", "serial")

_UNLOGGED = (events.ScanProgressed, events.BatchFinished, events.LongestRunning, events.OutputSeen)
"""Too many, over a week, or written down elsewhere."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. The same fields as `r3po run --json`."""

    run_id: str
    job_name: str
    files: int
    """Files of the manifest: done + failed + pending."""
    done: int
    """Files with a row."""
    failed: int
    pending: int
    rows: int
    """Rows in the published parts."""
    seconds: float
    output: str
    """The output folder, absolute."""
    config: Config = field(repr=False, compare=False, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}
        return {"schema_version": 1, **fields}

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table, in row order. Needs pandas: `pip install 'r3po[pandas]'`.

        Raises:
            ImportError: pandas is not installed.
            FileNotFoundError: no row was made yet.
        """
        import pandas as pd

        kind = "parquet" if self.config.parquet is not None else "csv"
        folder = self.config.output_path / kind
        parts = [folder / name for name in list_names(folder) if name.startswith("part-")]
        if not parts:
            raise FileNotFoundError(f"no part in {folder}")
        read = pd.read_parquet if kind == "parquet" else pd.read_csv
        frame: pandas.DataFrame = pd.concat([read(part) for part in parts], ignore_index=True)
        return frame

    def failures(self) -> list[dict[str, Any]]:
        """Return every failed file, as `r3po errors --json` does."""
        from r3po.state.failed_files import read_failures

        return list(read_failures(self.config))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How this run differs from the config; none of it is kept."""

    build: bool = True
    retry_failed: bool = False
    redo: bool = False
    restart: bool = False
    accept_deletions: bool = False
    engine: str = "ray"
    show_output: bool = False


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


def run_job(config: Config, spec: FunctionSpec, options: RunOptions, observer: Observer) -> RunResult:
    """See `run_jobs`; tells `observer` what happens."""
    if options.engine not in ENGINES:
        raise ConfigError(f"unknown engine {options.engine!r}", hint=f"engines: {', '.join(ENGINES)}")
    if options.restart and not options.redo:
        raise ConfigError("--restart says how to redo", hint="r3po run --redo --restart")
    if options.build:
        check_source(config)
    with open_job(config) as job, _Run(job, spec, options, observer) as run:
        return run.result_of(run.go)


class _Run:
    """One run, from the lock to the summary."""

    def __init__(self, job: Job, spec: FunctionSpec, options: RunOptions, observer: Observer) -> None:
        self.job, self.spec, self.options = job, spec, options
        self.config = job.config
        self.started = time.monotonic()
        self.run_id = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)
        self.folder = job.folders.runs / self.run_id
        self.workers = self.folder / "workers"
        self._observer = observer
        self._numbers = count(1)
        self._code = fingerprint_of_file(spec)
        self._pool: Pool | None = None
        self._loop: RunLoop | None = None
        self._n_workers = 1 if options.engine == "serial" else self.config.processes
        self._started_event: events.WorkersStarted | None = None
        self.counts = Counts(0, 0, 0)
        self.stop = StopSignals(self.folder / "stop", self._on_signal, interrupts=options.engine == "serial")

    def __enter__(self) -> Self:
        make_folder(self.folder)
        make_folder(self.workers)
        self._events = open(self.folder / "events.jsonl", "ab")
        for name in list_names(self.job.folders.runs):
            sweep_temporary(self.job.folders.runs / name / "ray_folder")
        self._keep_last_runs()
        self.stop.install()
        return self

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        self.stop.close()
        if isinstance(error, R3poError) and not isinstance(error, RunStoppedError):
            self._keep_summary({"stopped_by": str(error.args[0])})
        try:
            if self._pool is not None:
                self._pool.close()
            if self._loop is not None:
                self._loop.show_output()
        finally:
            if self._pool is None or not self._pool.is_gone:
                forget_beacons(self.workers)
            self.stop.restore()
            self._events.close()
            remove_if_there(self.folder / "stop")

    def result_of(self, go: Callable[[], bool]) -> RunResult:
        """Return the result of `go`; an early end becomes a RunStoppedError that carries it."""
        try:
            worked = go()
        except RunStoppedError as error:
            error.result = self._summarize(True, str(error.args[0]))
            raise
        except OSError as error:
            stopped = disk_error(error, self.config.working_dir)
            stopped.result = self._summarize(True, str(stopped.args[0]))
            raise stopped from error
        except (StopNow, BuildStopped, KeyboardInterrupt):
            raise self._stopped() from None
        if self.stop.is_requested:
            raise self._stopped()
        return self._summarize(worked)

    # The steps

    def go(self) -> bool:
        """Carry out the run. Returns whether there was something to do."""
        job, config = self.job, self.config
        self.emit(events.JobOpened(config.job_name, str(config.path), self.spec.label))
        for notice in config.notices:
            self.emit(events.Notice(notice))
        end_left_workers(job.folders.runs, self.run_id)  # before it is seen what they did, and what changed since
        # 1. What is pending already decides whether Ray starts before the walk is over.
        is_known = job.manifest is not None
        if not is_known and not self.options.build:
            raise StateError("there is no manifest yet", hint="r3po build makes it; or run without --no-build")
        in_force = job.manifest
        states = self._reopened_states() if is_known else {}
        is_checked = not self._is_redo_due(states)
        if is_known and is_checked:
            check_columns(job)
        # 2. The walk, beside the start of Ray.
        if self.options.build:
            tell_moved_source(job, self.emit)
            built = self._build(self._is_redo_due(states) or any(state.pending for state in states.values()))
            if built.is_changed:
                job.manifest = built.manifest
                states = job.resolve(self.spec.fingerprint)
            self.emit(scan_finished(job, built))
            self._tell_started()
        elif job.built.source_path != str(config.source_path):
            raise StateError("source_path is another one than that of the manifest", hint="run without --no-build")
        # 3. A redo; and everything else that has no outcome that counts.
        if self._is_redo_due(states):
            self._plan_redo(states)
            states = job.resolve(self.spec.fingerprint)
        elif self._has_stale_columns(states):
            job.manifest = job.raised(redo=True)  # the last rows went, or are to be made again
            states = job.resolve(self.spec.fingerprint)
        elif not is_checked:
            check_columns(job)  # what was to be made again is gone by now
        # Not before: up to here the run may be refused, and then nothing has changed.
        if job.built is not in_force:
            job.put_in_force(job.built)
        job.adopt_commits(states, self.spec.fingerprint)
        self._count(states)
        self._publisher = Publisher(
            job, self.spec.fingerprint, r3po_version(), lambda: f"{self.run_id}-{next(self._numbers):06d}"
        )
        if self._publisher.columns is None and any(state.n_done for state in states.values()):
            raise damaged(columns_path(config.working_dir, job.built), "is missing, although there are rows")
        to_do = [state for state in states.values() if not state.is_committed]
        if any(state.pending for state in to_do) or len(to_do) > FEW_SHARDS:
            self._announce(states)
            self._process(states)
            if self.stop.is_requested:
                return True
        else:
            self._stage_here(to_do)
        # 4. The end: one schema, failures.csv, the manifest with all hashes, _SUCCESS.
        ended = make_end(self._publisher, self._restage, self.emit, is_needed=bool(to_do))
        if self._loop is not None and self._loop.crew.n_lost:
            job.sweep()  # after the end, which may have lost workers, too
        return bool(to_do) or ended

    def _reopened_states(self) -> dict[int, ShardState]:
        """Return how the shards stand for today's function; failures that are tried again raise the build first.

        The raised build is not in force yet.
        """
        job = self.job
        standing = job.resolve(None)
        self._judge_older_code(standing)
        if self._has_stale_columns(standing):
            # A kill came between the columns and their first row, and f or the config was mended since: they set them.
            job.manifest = job.raised(redo=True)
            return job.resolve(self.spec.fingerprint)
        if not any(state.n_failed for state in standing.values()):
            return standing
        if self.options.retry_failed:
            job.manifest = job.raised(retry=True)
            return job.resolve(self.spec.fingerprint)
        states = job.resolve(self.spec.fingerprint)
        if sum(s.n_pending for s in states.values()) > sum(s.n_pending for s in standing.values()):
            # Failures of other code are tried again: their new outcomes must outrank the old ones for everybody.
            job.manifest = job.raised()
        return states

    def _has_stale_columns(self, states: dict[int, ShardState]) -> bool:
        """Whether the job's columns are of other code, or of another config, and no row has them."""
        known = read_columns(self.config.working_dir, self.job.built)
        if known is None or any(state.n_done for state in states.values()):
            return False
        return known[1] != self.spec.fingerprint or not self.config.column_settings.would_set(known[0])

    # Other code, and a redo

    def _judge_older_code(self, states: dict[int, ShardState]) -> None:
        """Do what `on_function_change` says about rows that other code made."""
        n_older = self._count_older(states)
        if not n_older or self.options.redo:
            return
        rows = count_of(n_older, "row was", "rows were")
        what, redo = (
            f"{self.spec.label} changed after {rows} made",
            f"{self._command} --redo makes all rows with the new code",
        )
        match self.config.on_function_change:
            case "stop":
                raise StateError(
                    f"{what}; on_function_change: stop",
                    hint=f"{redo}\non_function_change: warn keeps the rows as they are",
                )
            case "redo":
                self.emit(events.Notice(f"{what}; all are made again (on_function_change: redo)"))
            case "warn":
                n_failed = sum(state.n_failed for state in states.values())
                files = "the failed file is" if n_failed == 1 else f"the {n_failed:,} failed files are"
                again = f", {files} tried again" if n_failed else ""
                text = f"{what}; they stay as they are{again}"
                self.emit(events.Notice(text, hint=redo, is_warning=True))

    def _count_older(self, states: dict[int, ShardState]) -> int:
        """Return how many rows that count were made by other code than today's."""
        counted = [item for state in states.values() for item in state.rows_by_fingerprint.items()]
        return sum(n for fingerprint, n in counted if fingerprint != self.spec.fingerprint)

    def _is_redo_due(self, states: dict[int, ShardState]) -> bool:
        """Whether all rows are to be made again, and that was not begun yet."""
        if not states or not (self.options.redo or self.config.on_function_change == "redo"):
            return False
        if self._count_older(states):
            return True  # a redo that was begun under other code, too
        return self.options.redo and (self.options.restart or not self.job.built.is_redoing)

    def _plan_redo(self, states: dict[int, ShardState]) -> None:
        """Let no outcome of today count any more, unless rows would be lost that nobody asked to drop.

        Raises:
            SourceError: rows that `on_deleted: keep` kept cannot be made again.
        """
        rules = self.job.rules()
        n_kept = sum(count_kept_rows(self.job.folders, state, rules) for state in states.values())
        if n_kept and not self.options.accept_deletions:
            rows = count_of(n_kept, "row is of a file that was deleted", "rows are of files that were deleted")
            raise SourceError(
                f"{rows}; a redo cannot make them again, and nothing was changed",
                hint=f"{self._command} --redo --accept-deletions drops them",
            )
        self.job.manifest = self.job.raised(redo=True)

    def _build(self, has_pending: bool) -> BuildResult:
        """Walk in a helper thread and start the workers on this one as soon as there is work for them."""
        is_over = Flag()
        progress = BuildProgress(stop=lambda: self.stop.is_requested or is_over.is_set())
        outcome: list[BuildResult | BaseException] = []

        def build() -> None:
            try:
                walk_processes = 0 if self.options.engine == "serial" else self.config.processes
                outcome.append(
                    plan_build(
                        self.job,
                        progress,
                        walk_processes=walk_processes,
                        needs_looks=False,
                        accept_deletions=self.options.accept_deletions,
                    )
                )
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=build, name="r3po-walk", daemon=True)
        thread.start()
        try:
            while not has_pending and thread.is_alive() and not progress.has_work.wait(0.01):
                self.emit(events.ScanProgressed(progress.n_files))
            failed_already = bool(outcome) and isinstance(outcome[0], BaseException)
            if (has_pending or progress.has_work.is_set()) and not failed_already:
                self._start_workers()
            while thread.is_alive():
                thread.join(0.1)
                self.emit(events.ScanProgressed(progress.n_files))
        finally:
            is_over.set()
            thread.join(WALK_END_S)  # it must write nothing any more once the lock is free
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _process(self, states: dict[int, ShardState]) -> None:
        self._start_workers()
        self._tell_started()
        assert self._pool is not None
        pending = [(s.ref.shard, s.pending) for s in states.values() if not s.is_committed]
        look_at = partial(self._look_at, states)
        book = SuspectBook(self.job.folders.suspects, self.job.built.job_id, self.spec.fingerprint, look_at)
        suspects = book.recall(self.job.folders.runs, self.run_id)
        n_apart = sum(suspect.is_apart for suspect in suspects)
        if n_apart:
            files = count_of(n_apart, "file was", "files were")
            self.emit(events.Notice(f"{files} in hand when a run was killed; these come first, one at a time"))
        # In a job that has rows, the first failures of a run are rather those of these files.
        has_rows = any(state.n_done for state in states.values())
        self._loop = RunLoop(
            publisher=self._publisher,
            states=states,
            crew=WorkerManager(self._pool, self.workers, self._n_workers, self.config.timeout_seconds),
            budget=ErrorBudget(self.config.max_errors, is_guarded=not has_rows),
            book=book,
            scheduler=Scheduler(pending, self._n_workers, self.config.batch_seconds, suspects),
            observer=self.emit,
            stop=self.stop,
            function_name=self.spec.name,
            counts=self.counts,
            outputs=Outputs(self.workers, is_shown=self.options.show_output),
            timeout_s=self.config.timeout_seconds,
            loaded_code=self._code,
        )
        self._loop.run()

    def _stage_here(self, states: list[ShardState]) -> None:
        """Stage shards that lack nothing; they are too few for a start of Ray."""
        for state in states:
            if self.stop.is_requested:
                raise StopNow
            staged = stage_shard(self._publisher.stage_order(state.ref, state.segments))
            if staged.commit is None:
                raise damaged(self.job.folders.segments, "was damaged while it was read; run again")
            self.counts.n_rows_committed += self._publisher.commit(state.ref, staged).tally.n_rows

    def _restage(self, refs: list[ShardRef]) -> None:
        if self._loop is None and len(refs) > FEW_SHARDS:
            self._process({})
        if self._loop is not None:
            self._loop.restage(refs)
            return
        for ref in refs:
            if self.stop.is_requested:
                raise StopNow
            self._publisher.commit(ref, stage_shard(self._publisher.stage_order(ref)))

    # Parts of the steps

    def _look_at(self, states: dict[int, ShardState], shard: int, place: int) -> tuple[int, int]:
        """Return size and mtime_ns of a file as it is now; zeros if it cannot be seen."""
        if shard in states and place < states[shard].ref.n_files:
            with contextlib.suppress(OSError, R3poError):
                path = read_shard_file(self.job.folders.shards, states[shard].ref).paths[place]
                return glance(f"{self.config.source_path}/{path}") or (0, 0)
        return 0, 0

    def _start_workers(self) -> None:
        if self._pool is not None:
            return
        started = time.monotonic()
        config = self.config
        for folder in (config.working_dir, config.output_path):
            check_space(folder)
        self.emit(events.WorkersStarting(self._n_workers, self.options.engine))
        if config.timeout_seconds is not None and self.options.engine == "serial" and not is_possible():
            text = "timeout_seconds does nothing here: in the serial engine it needs Python's main thread"
            self.emit(events.Notice(text, is_warning=True))
        setup = WorkerSetup(
            folders=self.job.folders,
            source_path=str(config.source_path),
            function=self.spec,
            input=config.input,
            hash=config.hash,
            batch_seconds=config.batch_seconds,
            stop_file=self.folder / "stop",
            workers_folder=self.workers,
            timeout_s=config.timeout_seconds,
            column_settings=config.column_settings,
        )
        with self.stop.interrupting():  # a start can take long, and nothing of f is in flight yet
            self._pool = self._make_pool()
            self._pool.start(setup, self._n_workers)
        self.stop.install()  # Ray replaces the handler of SIGTERM
        self._started_event = events.WorkersStarted(self._n_workers, self._pool.description, time.monotonic() - started)

    def _tell_started(self) -> None:
        """Tell that the workers are there, once: after the walk, which they were started beside."""
        if self._started_event is not None:
            self.emit(self._started_event)
            self._started_event = None

    def _make_pool(self) -> Pool:
        if self.options.engine == "serial":
            return SerialPool()
        from r3po.engines.ray_pool import RayPool

        return RayPool(self.folder / "ray.log", self.folder / "ray_folder")

    def _count(self, states: dict[int, ShardState]) -> None:
        values = list(states.values())
        self.counts.n_done = sum(state.n_done for state in values)
        self.counts.n_failed = sum(state.n_failed for state in values)
        self.counts.n_pending = sum(state.n_pending for state in values)
        self.counts.n_rows_committed = sum(state.n_done for state in values if state.is_committed)

    def _announce(self, states: dict[int, ShardState]) -> None:
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
            )
        )

    # The end of it

    def emit(self, event: Event) -> None:
        """Tell the observer, and write the event into the run's log."""
        if not isinstance(event, _UNLOGGED):
            line = {"event": type(event).__name__, "time": time.time(), **dataclasses.asdict(event)}
            with contextlib.suppress(OSError, ValueError):  # a log for people: its loss stops nothing
                self._events.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE, default=str))
                self._events.flush()
        self._observer(event)

    @property
    def _command(self) -> str:
        """What to type to run this job again."""
        name = self.config.path.name
        return "r3po run" if name == "config.yaml" else f"r3po run {tidy_path(self.config.path)}"

    def _on_signal(self, name: str) -> None:
        limit_s = START_S if self.stop.is_starting else None if self.options.engine == "serial" else DRAIN_S
        self._observer(events.StopRequested(name, limit_s, self.stop.is_starting))

    def _stopped(self) -> RunStoppedError:
        result = self._summarize(True, f"stopped by {self.stop.signal_name}")
        return RunStoppedError(
            f"stopped by {self.stop.signal_name}; what was done is saved",
            hint=f"Continue with: {self._command}",
            exit_code=self.stop.exit_code,
            result=result,
        )

    def _summarize(self, worked: bool, stopped_by: str = "") -> RunResult:
        """Tell and keep what the run came to; `stopped_by` says why it ended early, if it did."""
        counts = self.counts
        if self.job.manifest is not None and not (counts.n_done + counts.n_failed + counts.n_pending):
            counts.n_pending = self.job.built.count_job_files
        result = RunResult(
            run_id=self.run_id,
            job_name=self.config.job_name,
            files=counts.n_done + counts.n_failed + counts.n_pending,
            done=counts.n_done,
            failed=counts.n_failed,
            pending=counts.n_pending,
            rows=counts.n_rows_committed,
            seconds=round(time.monotonic() - self.started, 3),
            output=str(self.config.output_path),
            config=self.config,
        )
        commits = self.job.commits.values()
        parts = {
            kind: sum(1 for commit in commits for part in commit.parts if part.kind == kind and part.staged)
            for kind in KINDS
            if self.job.part_settings[kind]
        }
        self.emit(
            events.RunFinished(
                n_files=result.files,
                n_done=result.done,
                n_failed=result.failed,
                n_pending=result.pending,
                seconds=result.seconds,
                worked=worked,
                output=str(self.config.output_path),
                parts=parts,
                n_rows=result.rows,
                is_stopped=bool(stopped_by),
            )
        )
        self._keep_summary({**result.to_json(), "stopped_by": stopped_by})
        return result

    def _keep_summary(self, summary: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, TypeError):  # for people: `status` shows how the last run ended
            content = orjson.dumps({**summary, "ended": time.time()}, option=orjson.OPT_INDENT_2)
            (self.folder / "summary.json").write_bytes(content)

    def _keep_last_runs(self) -> None:
        runs = self.job.folders.runs
        others = [name for name in list_names(runs) if name != self.run_id]  # a clock may have been set back
        for name in others[: 1 - KEPT_RUNS]:
            remove_tree(runs / name)


def r3po_version() -> str:
    try:
        return version("r3po")
    except PackageNotFoundError:  # a bare checkout on sys.path
        return "0.3.0"
