"""Whole jobs on virtual time, without Ray and disk: workers and drivers die at any moment, and every file ends as told.

Run loop, manager, scheduler, book of suspects and predicate are the real ones. Simulated are the clock, the processes
of the workers and what the disk keeps: segments, commits, suspects and beacons. A case is one seed: with
`R3PO_FAULT_SEED=<seed> R3PO_FAULT_CASES=1` it is drawn again.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import r3po.table.outcomes as tables
from r3po.config.keys import MaxErrors
from r3po.engines import worker_processes as processes
from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost
from r3po.engines.worker_processes import WorkerProcesses
from r3po.errors import FunctionError, RunStoppedError
from r3po.file_version import UNKNOWN_VERSION, FileVersion
from r3po.run import loop as runloop
from r3po.run import suspects, trials, watch
from r3po.run.budgets import ErrorBudget
from r3po.run.loop import Counts, RunLoop
from r3po.run.orders import Orders
from r3po.run.roster import WorkerHandle
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import DEATHS, KNOWN_DEATHS
from r3po.run.suspects import SuspectBook
from r3po.run.trials import CAREFUL_S, Trials
from r3po.run.watch import Watch
from r3po.run.workers import START_S, WorkerManager
from r3po.state import shards as shardstate
from r3po.state.commits import Commit
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment
from r3po.state.shards import Shard, ShardState, missing_spans, newer_segments
from r3po.storage.durable import FileRecord
from r3po.table import predicate
from r3po.table.columns import Columns
from r3po.table.outcomes import Failure, OutcomeBatch, Table
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes
from r3po.work import Batch, Death, RecordFailure, Stage, Work
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.call_many import smaller_calls
from r3po.worker.failures import EnvironmentalFailure
from r3po.worker.messages import BatchDone, Probed, ShardContext
from r3po.worker.open_batch import ENVIRONMENTAL_RUN, OpenBatch
from r3po.worker.rows import append_outcome, note_file
from r3po.worker.shard_lines import ShardLines
from r3po.worker.staging import Staged
from roster_check import check_roster

if TYPE_CHECKING:
    from conftest import Draw

N_CASES = 500

MOST_VIRTUAL_S = 20_000.0
"""A run that takes longer is stuck."""

MOST_IDLE_LOOKS = 200
"""So many looks in a row with nothing in hand, nobody starting and nothing to come: stuck."""

RUNS = Path("runs")
FOLDERS: Any = SimpleNamespace(segments=None, shards=None, runs=RUNS)
JOB_ID = "5" * 32

Place = tuple[int, int]
"""Shard and place."""

DEADLY = ("kills the driver", "ends Ray")
"""Kinds that end the whole run."""

KNOWN_CAUSES = ("signal", "exit", "memory")


class DriverDied(BaseException):
    """The simulated driver was killed: no `except` and no `finally` of its own is meant to see it."""


# What the files are


@dataclass
class File:
    kind: str = "ok"
    """`ok`, `raises`, `crashes`, `crashes sometimes`, `crashes later`, `environment`, `environment once`, `stops` (its
    own time limit ends it), `hangs` (only the driver can), `memory`, `kills the driver`, `ends Ray`,
    `memory, ill once` (what it meets when it is called for the second time)."""
    seconds: float = 0.05
    cause: str = "kill"
    """Of its worker's death: `signal`, `exit`, `kill`, `memory`."""
    n_times: int = 0
    """So often it crashes, or meets its environment, before it works."""
    delay: float = 0.0
    """Of the death of `crashes later`, after f has returned."""
    version: int = 1
    """Of its content."""
    build: int = 1
    """Of its entry."""
    mtime_ns: int = 0

    @property
    def outcome(self) -> str:
        """What it ends as if nothing but itself ends workers; for those that do so now and then, `row`."""
        fixed = {"raises": "ValueError", "environment": "OSError", "stops": "Timeout", "hangs": "Timeout"}
        fatal = {"crashes": "WorkerDied", "memory": "OutOfMemory", "kills the driver": "WorkerDied"}
        fatal |= {"ends Ray": "WorkerDied", "memory, ill once": "OutOfMemory"}
        return (fixed | fatal).get(self.kind, "row")


@dataclass
class Chances:
    """How rough a case is."""

    n_worker_kills: int = 0
    """In the whole case, at random moments."""
    n_driver_kills: int = 0
    n_stops: int = 0
    answer_lost: float = 0.0
    """That a worker dies after its segment is durable, before its answer is out."""
    silent: float = 0.0
    """The same, but that it lives and does not answer any more."""
    slow_look: float = 0.1
    """That the driver is late to look, and finds several messages at once."""
    damaged: float = 0.0
    """That a segment is lost from the disk."""
    stays: float = 0.3
    """That superfluous segments are still there after a commit."""
    both_at_once: bool = False
    """The driver may find a worker's answer and its death in one look."""
    n_ill: int = 0
    """Runs that begin with a disk that reads nothing for a while."""
    n_touches: int = 0
    """Suspects that look different when the next run begins."""
    hangs_loading: float = 0.0
    """That a replacement never loads f: at most one in a run."""
    far: float = 0.3
    """That a worker outlives its driver and the sweep of the next start."""


# The world: a clock, what is durable, and processes


@dataclass
class Disk:
    """What outlives processes."""

    segments: dict[int, dict[str, Table]] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    outcomes: dict[str, Table] = field(default_factory=dict)
    json: dict[Path, dict[str, Any]] = field(default_factory=dict)
    beacons: dict[tuple[str, int], Process] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    columns: Columns | None = None


@dataclass
class World:
    rng: random.Random
    files: list[list[File]]
    """By shard and place."""
    chances: Chances
    n_workers: int = 2
    batch_seconds: float = 1.0
    timeout_s: float | None = None
    max_errors: MaxErrors | None = None
    batch_files: int = 1
    """The most files of one call of f."""
    has_columns: bool = True
    """False: each job begins with probes."""
    now: float = 0.0
    disk: Disk = field(default_factory=Disk)
    build: int = 1
    redo_since: int = 0
    retry_since: int = 0
    fingerprint: str = "f1"
    driver: Driver | None = None
    calls: Counter[Place] = field(default_factory=Counter)
    """Of f, in this phase."""
    own_deaths: Counter[Place] = field(default_factory=Counter)
    """Workers that a file ended."""
    deaths_alone: Counter[Place] = field(default_factory=Counter)
    known_alone: Counter[Place] = field(default_factory=Counter)
    n_in_hand_lost: int = 0
    """Files in the in_hand of workers that were lost."""
    n_deferred: int = 0
    n_halved: int = 0
    """Files that calls with several were made with in vain."""
    n_needed: int = 0
    n_driver_ends: int = 0
    ill_until: float = 0.0
    """Until then no file can be read."""
    may_fail: set[Place] = field(default_factory=set)
    """By what an ill disk did to them: when nothing else was left to try, or besides an environment of their own."""
    phase_build: int = 1
    """The build at the beginning of this phase: what is older was checked then."""
    happened: Counter[str] = field(default_factory=Counter)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _n_events: int = 0

    def __post_init__(self) -> None:
        if self.has_columns:
            self.disk.columns = Columns(())

    # Time

    def monotonic(self) -> float:
        return self.now

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._n_events += 1
        heapq.heappush(self._events, (self.now + delay, self._n_events, action))

    def advance(self, until: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if is_enough():
                return
        self.now = max(self.now, until)

    # The job

    @property
    def rules(self) -> CountingRules:
        return CountingRules(self.redo_since, self.retry_since, self.fingerprint)

    def ref(self, shard: int) -> ShardRef:
        files = self.files[shard]
        last_build = max(file.build for file in files)
        return ShardRef(shard, FileRecord(f"{shard}", 0, f"{shard}.{last_build}"), len(files), last_build, 0)

    def stat_place(self, shard: int, place: int) -> FileVersion:
        file = self.files[shard][place]
        return FileVersion(file.version, file.mtime_ns)

    def states(self) -> dict[int, ShardState]:
        found = {}
        for shard in range(len(self.files)):
            commit = self.disk.commits.get(shard)
            listed = [segment for name in self.disk.segments.get(shard, {}) if (segment := Segment.parse(name))]
            newer = newer_segments(commit, listed)
            if commit is not None and not newer and self.rng.random() > self.chances.stays:
                self.disk.segments.pop(shard, None)
            found[shard] = Shard(FOLDERS, self.ref(shard), commit, newer).resolve(self.rules)
        return found

    def write_segment(self, context: ShardContext, batch: OutcomeBatch) -> Segment:
        self._n_events += 1
        shard, build, attempt, n_failed = context.ref.shard, context.build, context.attempt, len(batch.failures)
        n_rows, digest = len(batch.places) - n_failed, f"{self._n_events:032x}"
        segment = Segment(shard, build, JOB_ID[:8], attempt, n_rows, n_failed, digest)
        outcomes = tables.outcome_table(batch, None)
        table = tables.with_origin(outcomes, build=build, attempt=attempt, fingerprint=self.fingerprint)
        self.disk.segments.setdefault(shard, {})[segment.name] = Outcomes(table)
        return segment

    def stage(self, order: Any) -> Staged:
        shard = order.ref.shard
        present = order.segments
        if present and self.rng.random() < self.chances.damaged:
            self.disk.segments.get(shard, {}).pop(self.rng.choice(present).name, None)
            self.happened["damaged"] += 1
        table = Shard(FOLDERS, order.ref, order.previous, present).read_candidates()[0].table
        needed = [file.build for file in self.files[shard]]
        indices = predicate.choose(table, needed, order.rules)
        places = tables.places_of(table, indices)
        if len(places) != order.ref.n_files:
            return Staged(shard, None, tuple(missing_spans(places, needed)))
        record = FileRecord(f"{shard}.{order.attempt}", 0, "")
        summed = predicate.with_tries_summed(table, indices, needed, order.rules)
        self.disk.outcomes[record.name] = Outcomes(tables.outcomes_at(summed, indices))
        made_of = (order.build, order.ref.file.sha256, order.ref, record, tables.tally(table, indices))
        first_build = tables.lowest_build(table.select(["build"]).take(indices))
        return Staged(shard, Commit(JOB_ID, shard, *made_of, first_build, None, None, (), {}))

    # What the rooms call instead of the disk

    def read_outcomes(self, _: object, commit: Commit, **_options: object) -> Outcomes:
        return self.disk.outcomes[commit.outcomes.name]

    def read_segment(self, _: object, segment: Segment) -> Outcomes | None:
        return self.disk.segments.get(segment.shard, {}).get(segment.name)

    def read_shard_file(self, _: object, ref: ShardRef) -> Any:
        files = self.files[ref.shard]
        paths, builds = [f"{place}" for place in range(len(files))], [f.build for f in files]
        return SimpleNamespace(paths=paths, builds=builds, needed_builds=builds)

    def read_json(self, path: Path, **_: object) -> dict[str, Any]:
        if path not in self.disk.json:
            raise FileNotFoundError(path)
        return self.disk.json[path]

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        self.step()
        self.disk.json[path] = content
        self.step()

    def remove_durably(self, path: Path) -> None:
        self.step()
        self.disk.json.pop(path, None)

    def list_names(self, _: Path) -> list[str]:
        return list(self.disk.runs)

    def list_workers(self, folder: Path) -> list[int]:
        return sorted(worker for run, worker in self.disk.beacons if run == folder.parent.name)

    def read_beacon(self, folder: Path, worker: int) -> Sighting | None:
        process = self.disk.beacons.get((folder.parent.name, worker))
        return None if process is None else process.sighting

    def read_crash(self, folder: Path, worker: int) -> tuple[str, str]:
        process = self.disk.beacons.get((folder.parent.name, worker))
        return ("", "") if process is None else (process.signal_name, "")

    def remove_worker_files(self, folder: Path, worker: int) -> None:
        self.disk.beacons.pop((folder.parent.name, worker), None)

    def is_running(self, sighting: Sighting) -> bool:
        process = self._process_of(sighting)
        return process is not None and process.is_alive

    def end_process(self, sighting: Sighting) -> None:
        process = self._process_of(sighting)
        assert process is not None and process.is_alive, "whoever has this number now is not to be ended"
        self.happened["swept"] += 1
        if self.rng.random() > self.chances.far:
            process.die("kill")

    def _process_of(self, sighting: Sighting) -> Process | None:
        return next((process for process in self.disk.beacons.values() if process.pid == sighting.pid), None)

    def step(self) -> None:
        """A moment at which the driver may be killed."""
        if self.driver is not None:
            self.driver.step()


class Process:
    """A worker: it does its calls in order, as `Worker` does."""

    def __init__(self, world: World, driver: Driver, number: int) -> None:
        self.world, self.driver, self.number = world, driver, number
        self.pid = world.rng.getrandbits(40)
        self.is_alive = True
        self.is_silent = False
        self.has_told = False
        self.signal_name = ""
        self.exit_code: int | None = None
        self.calls: deque[Call] = deque()
        self.trial: Place | None = None
        self.n_called = 0
        self.counter, self.phase, self.where = 1, Phase.IDLE, (-1, -1)
        self.n_more = 0
        self._cause = ""
        self._is_busy = False
        self._opened: OpenBatch | None = None
        self._is_probe = False
        self._has_row = False
        self._started = 0.0

    @property
    def sighting(self) -> Sighting:
        shard, place = self.where
        return Sighting(self.counter, self.phase, shard, place, self.pid, 1, self.exit_code, self.n_more)

    def submit(self, call: Call) -> None:
        self.calls.append(call)
        if not self.is_alive:
            self._tell_death()  # dead before it began: that counts for nothing
        elif not self._is_busy:
            self._begin()

    def die(self, cause: str) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self._cause = cause
        if cause == "signal":
            self.signal_name = "SIGSEGV"
        elif cause == "exit":
            self.exit_code = 3
        self._count_death()
        self.world.n_in_hand_lost += self.n_in_hand()
        if self.calls:
            self._tell_death()

    def n_in_hand(self) -> int:
        """Return of how many files f may have been called in vain if this worker is lost now."""
        batches = [call.arguments[0] for call in self.calls if call.method in ("run_batch", "probe")]
        n_files = sum(stop - start for batch in batches for start, stop in batch.places)
        is_probed = self._is_probe and not batches and self._opened is not None
        return n_files + (len(self._open_batch.outcomes.places) if is_probed else 0)

    @property
    def _open_batch(self) -> OpenBatch:
        assert self._opened is not None
        return self._opened

    # Private methods

    def _count_death(self) -> None:
        if self.trial is not None:
            self.world.deaths_alone[self.trial] += 1
            self.world.known_alone[self.trial] += self._cause in KNOWN_CAUSES

    def _tell_death(self) -> None:
        if not self.has_told:
            self.has_told = True
            message = WorkerLost(self.number, "ActorDiedError", self._cause == "memory")
            self.world.at(self.world.rng.uniform(0, 0.2), lambda: self.driver.hear(message))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.at(seconds, lambda: action() if self.is_alive else None)

    def _mark(self, phase: Phase, shard: int = -1, place: int = -1, n_more: int = 0) -> None:
        self.counter += 1
        self.phase, self.where, self.n_more = phase, (shard, place), n_more

    def _begin(self) -> None:
        if self.is_silent or not self.calls:
            return
        self._is_busy = True
        call = self.calls[0]
        uniform = self.world.rng.uniform
        match call.method:
            case "load":
                self._mark(Phase.LOADING)
                if not self.driver.hangs_loading(self.number):
                    self._after(uniform(0.1, 1.0), lambda: self._answer(self.world.fingerprint))
            case "stage":
                self._mark(Phase.STAGING)
                self._after(uniform(0.01, 0.3), lambda: self._answer(self.world.stage(*call.arguments)))
            case "record_failure":
                self._open(*call.arguments[:2])
                self._after(uniform(0.001, 0.01), lambda: self._record_failure(call.arguments[2]))
            case "run_batch" | "probe":
                self._open(*call.arguments)
                self._is_probe = call.method == "probe"
                self._has_row = False
                if self.driver.stop.is_requested:
                    self._end_batch()
                else:
                    self._next_call()
            case "record_probe":
                self._record()

    def _answer(self, value: object) -> None:
        if self.calls[0].method == "load":
            self._mark(Phase.IDLE)
        call = self.calls.popleft()
        self._mark(Phase.IDLE)
        self._is_busy = False
        answer = Answer(self.number, call, value)
        self.driver.hear(answer)
        self._begin()

    def _open(self, batch: Batch, context: ShardContext) -> None:
        self._mark(Phase.RECORDING)
        files = ((place, "file", UNKNOWN_VERSION[:2]) for start, stop in batch.places for place in range(start, stop))
        n_files = sum(stop - start for start, stop in batch.places)
        self._opened = OpenBatch(batch, context, ["file"] * n_files, files, self.world.now)

    def _next_call(self) -> None:
        opened, calls = self._open_batch, self._open_batch.smaller_calls
        files = calls.pop() if calls else list(islice(opened.files, opened.batch.call_files or self.world.batch_files))
        if not files:
            self._end_batch()
        elif len(files) == 1:
            self._call_alone(files[0][0])
        else:
            self._call_several(files)

    def _call_several(self, files: list[Any]) -> None:
        """Call f with several files: it comes to one after the other, and what one of them does befalls all."""
        world, shard, places = self.world, self._open_batch.batch.shard, [place for place, *_ in files]
        ends = min(places), max(places)
        self._mark(Phase.READING, shard, ends[0], ends[1] - ends[0])
        if world.timeout_s is not None:
            self._mark(Phase.CALLING, shard, ends[0], ends[1] - ends[0])
        world.happened["call of several"] += 1
        self.n_called += len(files)
        versions = [world.files[shard][place].version for place in places]
        most_s = math.inf if world.timeout_s is None else world.timeout_s
        took = 0.0
        for n_called, place in enumerate(places, start=1):
            file, key = world.files[shard][place], (shard, place)
            world.calls[key] += 1
            kind = "raises" if world.now < world.ill_until else self._kind_of(key)
            took += min(file.seconds, 0.1) if world.now < world.ill_until else file.seconds
            if kind == "hangs":
                return
            if took >= most_s or kind == "stops":
                self._open_batch.is_spent = True
                self._after(most_s, lambda n=n_called: self._several_failed(files, n))
                return
            match kind:
                case "crashes" | "memory":
                    self._after(took, lambda key=key, cause=file.cause: self._crash(key, cause))
                    return
                case "kills the driver" | "ends Ray":
                    self._after(took, lambda key=key, kind=kind: self._end_run(key, kind))
                    return
                case "raises" | "environment":
                    self._after(took, lambda n=n_called: self._several_failed(files, n))
                    return
                case "crashes later":
                    self._after(took + file.delay, lambda key=key, cause=file.cause: self._crash(key, cause))
        self._after(took, lambda: self._several_returned(places, versions))

    def _several_failed(self, files: list[Any], n_called: int) -> None:
        self.world.n_halved += n_called
        self._open_batch.smaller_calls += smaller_calls(files)
        self._go_on()

    def _several_returned(self, places: list[int], versions: list[int]) -> None:
        for place, version in zip(places, versions, strict=True):
            note_file(self._open_batch.outcomes, place, FileVersion(version, 0))
            append_outcome(self._open_batch.outcomes, (), None)
        self._open_batch.n_deferred_last = 0
        self._has_row = True
        self._go_on()

    def _kind_of(self, key: Place) -> str:
        """Return what a file does this time."""
        file = self.world.files[key[0]][key[1]]
        kind = file.kind
        if kind == "memory, ill once":
            kind = "environment" if self.world.calls[key] == 2 else "memory"
        if kind in ("crashes sometimes", "environment once"):
            kind = "ok" if file.n_times <= 0 else {"crashes sometimes": "crashes"}.get(kind, "environment")
            file.n_times -= 1
        return kind

    def _call_alone(self, place: int) -> None:
        world, shard = self.world, self._open_batch.batch.shard
        file, key = world.files[shard][place], (shard, place)
        self._mark(Phase.READING, *key)
        if world.timeout_s is not None:
            self._mark(Phase.CALLING, *key)
        self.n_called += 1
        world.calls[key] += 1
        version = file.version
        if world.now < world.ill_until:
            self._after(min(file.seconds, 0.1), lambda: self._returned_ill(place, version))
            return
        kind = self._kind_of(key)
        match kind:
            case "crashes" | "memory":
                self._after(file.seconds, lambda: self._crash(key, file.cause))
            case "kills the driver" | "ends Ray":
                self._after(file.seconds, lambda: self._end_run(key, kind))
            case "hangs":
                pass
            case "stops":
                assert world.timeout_s is not None
                self._open_batch.is_spent = True
                self._after(world.timeout_s, lambda: self._returned(place, version, "Timeout"))
            case _:
                error_type = {"raises": "ValueError", "environment": "OSError"}.get(kind, "")
                self._after(file.seconds, lambda: self._returned(place, version, error_type))
                if kind == "crashes later":
                    self._after(file.seconds + file.delay, lambda: self._crash(key, file.cause))

    def _crash(self, key: Place, cause: str) -> None:
        self.world.own_deaths[key] += 1
        self.die(cause)

    def _end_run(self, key: Place, kind: str) -> None:
        if kind == "ends Ray":
            self.driver.end_ray()
        else:
            self.driver.die()
            self.trial = None  # it has been counted
        self._crash(key, "kill")

    def _returned_ill(self, place: int, version: int) -> None:
        shard = self._open_batch.batch.shard
        if self._open_batch.batch.is_last_try or self.world.files[shard][place].kind == "environment once":
            self.world.may_fail.add((shard, place))
        self._returned(place, version, "OSError")

    def _returned(self, place: int, version: int, error_type: str) -> None:
        world, opened = self.world, self._open_batch
        kind = EnvironmentalFailure if error_type == "OSError" else Failure
        failure = kind(error_type, error_type, "", "") if error_type else None
        note_file(opened.outcomes, place, FileVersion(version, 0))
        if opened.defers(place, failure):
            self.driver.deferred.add((opened.batch.shard, place))
            world.n_deferred += 1
        else:
            append_outcome(opened.outcomes, (), failure)
            self._has_row = self._has_row or not error_type
        self._go_on()

    def _go_on(self) -> None:
        world, opened = self.world, self._open_batch
        if self._is_probe:
            is_over = self._has_row or opened.is_spent or opened.n_deferred_last >= ENVIRONMENTAL_RUN
        else:
            is_over = opened.is_spent or opened.n_deferred_last >= ENVIRONMENTAL_RUN
            is_over = is_over or world.now >= opened.started + world.batch_seconds
        if is_over or self.driver.stop.is_requested:
            self._end_batch()
        else:
            self._next_call()

    def _record_failure(self, failure: Failure) -> None:
        opened = self._open_batch
        for place, _, _ in opened.files:
            note_file(opened.outcomes, place, FileVersion(self.world.files[opened.batch.shard][place].version, 0))
            append_outcome(opened.outcomes, None, failure)
        self._record()

    def _end_batch(self) -> None:
        if self._is_probe:
            columns = Columns(()) if self._has_row else None
            n_failed = len(self._open_batch.outcomes.failures)
            self._answer(Probed(columns, "first", n_failed, None, self.driver.stop.is_requested))
        else:
            self._record()

    def _record(self) -> None:
        self._mark(Phase.RECORDING)
        self._after(self.world.rng.uniform(0.002, 0.03), self._recorded)

    def _recorded(self) -> None:
        world, opened = self.world, self._open_batch
        segment = world.write_segment(opened.shard, opened.outcomes) if opened.outcomes.places else None
        done = dataclasses.replace(opened.done(segment), seconds=world.now - opened.started)
        chance = world.rng.random()
        if chance < world.chances.answer_lost:
            world.happened["answer lost"] += 1
            self.die("kill")
        elif chance < world.chances.answer_lost + world.chances.silent:
            world.happened["silent"] += 1
            self._mark(Phase.IDLE)
            self.is_silent = True
        else:
            self._answer(done)


# The driver


class SimPublisher:
    """Gives orders and commits to the simulated disk."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._world = driver, driver.world
        self._n_attempts = 0
        self.committed: set[int] = set()
        self.in_force = None
        self.job = SimpleNamespace(built=SimpleNamespace(job_id=JOB_ID, build=self._world.build), folders=FOLDERS)

    @property
    def columns(self) -> Columns | None:
        return self._world.disk.columns

    def put_in_force(self) -> None:
        """Do nothing: no simulated run is a redo."""

    def set_columns(self, columns: Columns, _: str) -> None:
        self._world.step()
        self._world.disk.columns = columns
        self._world.step()

    def next_attempt(self) -> str:
        self._n_attempts += 1
        return f"{self._driver.name}-{self._n_attempts:06d}"

    def stage_order(self, ref: ShardRef, segments: Iterable[Segment] = ()) -> Any:
        world = self._world
        return SimpleNamespace(
            ref=ref,
            build=world.build,
            attempt=self.next_attempt(),
            previous=world.disk.commits.get(ref.shard),
            segments=tuple(segments),
            rules=world.rules,
        )

    def commit(self, ref: ShardRef, staged: Staged) -> Commit:
        world, commit = self._world, staged.commit
        assert commit is not None
        assert ref.shard not in self.committed, "a shard is committed once a run"
        self.committed.add(ref.shard)
        world.step()
        world.disk.commits[ref.shard] = commit
        world.step()
        if world.rng.random() > world.chances.stays:
            world.disk.segments.pop(ref.shard, None)
        return commit


class SimManager(WorkerManager):
    """The real manager, with a look at each work that it gives."""

    driver: Driver

    def submit(self, handle: WorkerHandle, work: Work, call: Call) -> None:
        self.driver.check_work(handle, work)
        super().submit(handle, work, call)


class SimBudget(ErrorBudget):
    """The real budget, which hears of each outcome once."""

    driver: Driver

    def take(self, done: BatchDone) -> None:
        self.driver.acknowledge(done)
        super().take(done)


class Driver(OneMachine):
    """One run of r3po, and the pool of its workers."""

    can_replace = True
    description = "simulated"

    def __init__(self, world: World, fuse: int | None = None, stop_at: float | None = None) -> None:
        self.world = world
        self.name = f"{len(world.disk.runs):06d}"
        self.folder = RUNS / self.name / "workers"
        self.stop: Any = SimpleNamespace(is_requested=False, is_urgent=False, tell_workers=self._tell_workers)
        self.is_dead = False
        self.is_gone = False
        self.deferred: set[Place] = set()
        """Places that met an ill environment in this run."""
        self._pending: set[Place] = set()
        """Those of its beginning."""
        self._has_hung = False
        self.processes: dict[int, Process] = {}
        self._known = WorkerProcesses(self.folder, world.monotonic)
        self._fuse = fuse
        """Steps until it is killed."""
        self._messages: list[Answer | WorkerLost] = []
        self._acknowledged: set[Place] = set()
        self._n_idle_looks = 0
        self._began = world.now
        self.loop: RunLoop
        if stop_at is not None:
            world.at(stop_at, self._request_stop)

    def run(self) -> bool:
        """Return whether the job is finished; False: the driver died, or stopped in an orderly way."""
        world = self.world
        world.driver = self
        world.disk.runs.append(self.name)
        try:
            return self._run()
        except DriverDied:
            self._leave()
            return False
        except (RunStoppedError, FunctionError) as error:
            world.happened[f"stopped: {str(error).splitlines()[0].lstrip('0123456789, ')[:30]}"] += 1
            self._close()
            return False
        finally:
            world.driver = None

    def _run(self) -> bool:
        world = self.world
        states = world.states()
        pending = [(state.ref.shard, state.pending) for state in states.values() if not state.is_committed]
        if not pending:
            return True
        self._pending = {(s, place) for s, runs in pending for start, stop in runs for place in range(start, stop)}
        for worker in range(world.n_workers):
            self.add_worker(worker)
        book = SuspectBook(Path("suspects.json"), JOB_ID, world.fingerprint, world.stat_place)
        suspects = book.recall(RUNS, self.name)
        self._manager = SimManager(self, world.n_workers, world.timeout_s, world.monotonic)
        self._manager.driver = self
        budget = SimBudget(world.max_errors, is_guarded=False)
        budget.driver = self
        names = ("n_done", "n_failed", "n_pending")
        counts = Counts(*(sum(getattr(state, name) for state in states.values()) for name in names))
        n_files = counts.n_done + counts.n_failed + counts.n_pending
        self.scheduler = Scheduler(
            pending, world.n_workers, world.batch_seconds, suspects, None, world.batch_files, book.in_doubt
        )
        outputs: Any = SimpleNamespace(look=lambda: [])
        publisher: Any = SimPublisher(self)
        self.loop = RunLoop(
            publisher,
            self._manager,
            budget,
            Trials(self.scheduler, book, world.timeout_s),
            self.scheduler,
            lambda event: None,
            self.stop,
            "f",
            counts,
            Watch(states, Path(), self._manager, outputs, lambda event: None, "f"),
            Orders(publisher, states, ShardLines(Path())),
            loaded_code=world.fingerprint,
        )
        self.loop.run()
        self._close()
        assert counts.n_done + counts.n_failed + counts.n_pending == n_files
        if not self.scheduler.is_finished:
            return False
        assert counts.n_pending == 0
        assert self.scheduler.n_pending == 0 and self.scheduler.n_in_flight == 0
        assert Path("suspects.json") not in world.disk.json, "nobody is mistrusted any more"
        return True

    # Its end

    def step(self) -> None:
        if self.is_dead:
            raise DriverDied
        if self._fuse is not None:
            self._fuse -= 1
            if self._fuse <= 0:
                self.die()
                raise DriverDied

    def die(self) -> None:
        if self.is_dead or self.world.driver is not self:
            return
        self.is_dead = True
        self.world.n_driver_ends += 1
        self.world.happened["driver killed"] += 1
        self._count_alone()

    def _count_alone(self) -> None:
        alone = getattr(self, "scheduler", None) and self.scheduler.suspects.trial_apart
        if alone:
            self.world.deaths_alone[alone.key] += 1

    def end_ray(self) -> None:
        """Ray ends, and all workers with it; the driver lives and sees that when it looks."""
        if self.is_dead or self.is_gone or self.world.driver is not self:
            return
        self.is_gone = True
        self.world.happened["Ray ended"] += 1
        self._count_alone()
        for process in self.processes.values():
            process.trial = None
            process.die("kill")

    def _leave(self) -> None:
        """The workers of a dead driver go on for a while."""
        world = self.world
        self.is_dead = True
        for process in self.processes.values():
            if process.is_alive:
                world.n_in_hand_lost += process.n_in_hand()
                process.trial = None
                world.at(world.rng.choice([0.0, 2.0, 5.0, 60.0]) * world.rng.random(), lambda p=process: p.die("kill"))
        world.advance(world.now + world.rng.choice([0.0, 0.1, 3.0]))

    def _close(self) -> None:
        self.world.n_driver_ends += 1
        for process in self.processes.values():
            process.trial = None
            process.die("kill")
        for worker in [] if self.is_gone else self.world.list_workers(self.folder):
            self.world.remove_worker_files(self.folder, worker)
        self.is_dead = True

    def _request_stop(self) -> None:
        if self.world.driver is self:
            self.world.happened["stopped by a signal"] += 1
            self._tell_workers()

    def _tell_workers(self) -> None:
        self.stop.is_requested = True

    # The pool

    def hangs_loading(self, worker: int) -> bool:
        """Whether a replacement is one that never loads f. The first workers do, and all of the others in a run."""
        world = self.world
        if self._has_hung or worker < world.n_workers or world.n_workers < 2:
            return False
        self._has_hung = world.rng.random() < world.chances.hangs_loading
        world.happened["hangs while it loads"] += self._has_hung
        return self._has_hung

    def add_worker(self, worker: int) -> None:
        if self.is_gone:
            return  # nobody ever starts
        process = Process(self.world, self, worker)
        self.processes[worker] = process
        self.world.disk.beacons[self.name, worker] = process
        process.submit(Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        self.step()
        self.processes[worker].submit(call)

    def sighting(self, worker: int) -> Sighting | None:
        return self._known.sighting(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        return self._known.death_of(lost.worker, is_memory=lost.is_memory)

    def end(self, worker: int) -> None:
        self._end(worker, ask_first=True)

    def dismiss(self, worker: int) -> None:
        self._end(worker)
        self._known.forget(worker)

    def _end(self, worker: int, *, ask_first: bool = False) -> None:
        process = self.processes[worker]
        if ask_first and process.is_alive:
            self.world.advance(self.world.now + self.world.rng.uniform(0, 0.5))
        # Ended by r3po: that is no death of the file that is on trial, unless it does not answer.
        if not process.is_silent:
            process.trial = None
        process.die("kill")

    def shortage(self) -> str:
        return ""

    def hear(self, message: Answer | WorkerLost) -> None:
        if not self.is_dead:
            self._messages.append(message)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        world = self.world
        self.step()
        self._check_progress()
        until = world.now + timeout_s
        if not self._messages:
            world.advance(until, lambda: bool(self._messages) or self.is_dead)
        if world.rng.random() < world.chances.slow_look:
            # Seldom for so long that the deadlines begin anew.
            late_s = 7.0 if world.rng.random() < 0.002 else world.rng.choice([0.05, 0.3, 1.0])
            world.advance(world.now + late_s, lambda: self.is_dead)
        if self.is_dead:
            raise DriverDied
        if self.is_gone:
            raise RunStoppedError("Ray is gone", hint="run again")
        messages, self._messages = self._messages, []
        if not world.chances.both_at_once:
            answering = {message.worker for message in messages if isinstance(message, Answer)}
            late = [m for m in messages if isinstance(m, WorkerLost) and m.worker in answering]
            messages = [m for m in messages if m not in late]
            self._messages = list(late)
        workers = {message.worker for message in messages if isinstance(message, WorkerLost)}
        if any(isinstance(message, Answer) and message.worker in workers for message in messages):
            world.happened["answer and death in one look"] += 1
        return messages

    # What is held against the model

    def check_work(self, handle: WorkerHandle, work: Work) -> None:
        process = self.processes[handle.number]
        process.trial = None
        assert handle.role.can_stage or not isinstance(work, Stage), "who is not at home stages nothing"
        others = [m for m in self._manager.handles.values() if m is not handle and m.in_hand]
        if isinstance(work, Batch) and work.kind == "trial":
            ((place, _),) = work.places
            assert not handle.in_hand, "a trial has its worker for itself"
            assert process.n_called == 0, "a trial is held on a fresh worker"
            process.trial = (work.shard, place)
            self.world.happened["trial"] += 1
            if self.scheduler.suspects.is_apart:
                self.world.happened["trial apart"] += 1
                assert not others, "a trial apart has no company"
        elif isinstance(work, RecordFailure):
            assert self.scheduler.suspects.trial_apart is None, "nothing is recorded while a trial apart is going on"
            self.world.happened["charge while a trial apart waits"] += self.scheduler.suspects.is_apart
        else:
            assert not self.scheduler.suspects.is_apart, "nobody begins while a trial apart waits"
        if isinstance(work, Batch) and work.kind == "last try":
            self.world.happened["last try"] += 1
        if isinstance(work, Batch) and work.is_last_try:
            self.world.happened["last try of a trial"] += work.kind == "trial"
            if self.world.now < self.world.ill_until and not self.world.chances.damaged:
                # The disk of a case is ill from the beginning: until it is well, no file proves that it is.
                untried = self._pending - self._acknowledged - self.deferred
                assert not untried, f"a last try on an ill disk while {len(untried)} others were not tried at all"
                self.world.happened["last try on an ill disk"] += 1

    def acknowledge(self, done: BatchDone) -> None:
        if done.segment is None:
            return
        shard = done.segment.shard
        table = self.world.disk.segments.get(shard, {}).get(done.segment.name)
        for place in [] if table is None else table.table["place"].to_pylist():
            assert (shard, place) not in self._acknowledged or self.world.chances.damaged, "no file is done twice"
            self._acknowledged.add((shard, place))

    def _check_progress(self) -> None:
        world = self.world
        check_roster(self._manager._roster)
        assert world.now - self._began < MOST_VIRTUAL_S, f"stuck after {world.now - self._began:.0f} s: {self.tell()}"
        is_waiting = self._manager.is_busy or self._manager._due or self.scheduler.n_in_flight
        is_starting = any(not handle.is_ready for handle in self._manager.handles.values())
        self._n_idle_looks = 0 if is_waiting or is_starting else self._n_idle_looks + 1
        assert self._n_idle_looks < MOST_IDLE_LOOKS, f"nobody works, and nothing is handed out: {self.tell()}"

    def tell(self) -> str:
        s = self.scheduler
        handles = [(m.number, m.is_ready, m.is_fresh, m.is_leaving, m.in_hand) for m in self._manager.handles.values()]
        told = f"{s.n_pending} pending, {s.n_in_flight} in flight, apart {s.suspects.is_apart}, {s.suspects}"
        return f"{told}, handles {handles}"


# The checks of a finished phase


def check_finished(world: World) -> None:
    for shard, files in enumerate(world.files):
        table = world.disk.outcomes[world.disk.commits[shard].outcomes.name].table
        assert table["place"].to_pylist() == list(range(len(files))), f"shard {shard} has every place once"
        columns = (table[name].to_pylist() for name in ("place", "is_row", "error_type", "size", "build"))
        for place, is_row, error_type, version, build, file in zip(*columns, files, strict=True):
            found = "row" if is_row else error_type
            if build >= world.phase_build:
                check_outcome(world, (shard, place), file, found)
            assert version == file.version, f"{shard}/{place}: the outcome is of content {version}, not {file.version}"
            assert build >= max(file.build, world.redo_since)
            assert is_row or build >= world.retry_since
    check_calls(world)


def check_outcome(world: World, key: Place, file: File, found: str) -> None:
    n, known = world.deaths_alone[key], world.known_alone[key]
    is_chargeable = n >= DEATHS or known >= KNOWN_DEATHS
    if found == "OSError" and key in world.may_fail:
        return
    if found in ("WorkerDied", "OutOfMemory"):
        assert is_chargeable, f"{key} ({file.kind}) is charged with {found} after {n} deaths alone, {known} known"
        assert found == "WorkerDied" or file.kind.startswith("memory")
        return
    assert found == file.outcome, f"{key} ({file.kind}) ends as {found}"


def check_calls(world: World) -> None:
    total = sum(world.calls.values())
    most = world.n_needed + world.n_in_hand_lost + world.n_deferred + world.n_halved
    if not world.chances.damaged:
        assert total <= most, f"{total} calls of f; {most} are accounted for"
    for key, n in world.own_deaths.items():
        file = world.files[key[0]][key[1]]
        # In a batch, alone; and once more for each run that ended before it could remember.
        most = 1 + DEATHS * (1 + world.happened["touched"]) + world.n_driver_ends + world.happened["silent"]
        most += (1 + world.n_driver_ends) * (world.batch_files - 1).bit_length()  # in company of fewer each time
        most *= 1 + world.happened["damaged"]
        if file.kind == "crashes later":
            most = 4 * most + 20
        if file.kind.startswith("memory"):
            most += world.n_workers * 4
        assert n <= most, f"{key} ({file.kind}) ended {n} workers; {most} are enough"


# Drawing a case


def draw_file(rng: random.Random, kinds: Sequence[str], usual_s: float) -> File:
    kind = rng.choice(kinds)
    seconds = usual_s * rng.uniform(0.3, 1.5)
    if kind == "slow":
        kind, seconds = "ok", rng.uniform(2.0, 8.0)
    if kind in DEADLY:
        seconds = rng.uniform(0.0, 1.0)
    cause = "memory" if kind == "memory" else rng.choice(["signal", "exit", "kill"])
    delay = rng.choice([0.001, 0.02, 0.2, 2.0]) * rng.random()
    n_times = 1 if kind == "environment once" else rng.randint(1, 2)
    return File(kind, seconds, cause, n_times, delay)


def draw_world(seed: int) -> World:
    rng = random.Random(seed)
    timeout_s = rng.choice([None, 10.0])
    odd = ["raises", "crashes", "crashes sometimes", "crashes later", "slow", "environment", "environment once"]
    odd += ["memory"] + (["stops", "hangs"] if timeout_s is not None else [])
    some = rng.sample(odd, rng.randint(1, 4))
    n_odd = rng.choice([0.0, 0.01, 0.03, 0.1])
    if rng.random() < 0.1:
        n_odd = 0.5
    usual_s = rng.choice([0.005, 0.05, 0.3])
    files = [
        [draw_file(rng, some if rng.random() < n_odd else ["ok"], usual_s) for _ in range(n_files)]
        for n_files in (rng.choice([1, 2, 7, 25, 60, 120]) for _ in range(rng.randint(1, 4)))
    ]
    if rng.random() < 0.1:
        if timeout_s is None and rng.random() < 0.5:  # longer than the others wait for it
            shard = rng.choice(files)
            shard[rng.randrange(len(shard))] = File(seconds=CAREFUL_S + rng.uniform(1.0, 30.0))
        shard = rng.choice(files)
        shard[rng.randrange(len(shard))] = draw_file(rng, DEADLY, usual_s)
    n_ill = sum(file.kind.startswith("environment") for shard in files for file in shard)
    is_rough = rng.random() < 0.7
    chances = Chances(
        n_worker_kills=rng.choice([0, 1, 5, 15]) if is_rough else 0,
        n_driver_kills=rng.choice([0, 1, 3]) if is_rough else 0,
        n_stops=rng.choice([0, 0, 1]) if is_rough else 0,
        answer_lost=rng.choice([0.0, 0.02]) if is_rough else 0.0,
        silent=rng.choice([0.0, 0.0, 0.01]) if is_rough else 0.0,
        slow_look=rng.choice([0.0, 0.1, 0.5]),
        damaged=rng.choice([0.0, 0.0, 0.2]) if is_rough else 0.0,
        both_at_once=rng.random() < 0.5,
        n_ill=rng.choice([0, 0, 1, 2]) if is_rough else 0,
        n_touches=rng.choice([0, 0, 1]) if is_rough else 0,
        hangs_loading=rng.choice([0.0, 0.0, 0.3]) if is_rough else 0.0,
    )
    return World(
        rng,
        files,
        chances,
        n_workers=rng.choice([1, 2, 3, 5]),
        batch_seconds=rng.choice([0.2, 1.0, 5.0]),
        timeout_s=timeout_s,
        max_errors=MaxErrors() if n_ill > 5 or rng.random() < 0.5 else None,
        has_columns=rng.random() < 0.7,
        batch_files=rng.choice([1, 1, 2, 5, 16, 64]),
    )


def finish(world: World) -> None:
    """Run the job, with what befalls it, until it is done."""
    rng, chances = world.rng, world.chances
    n_deadly = sum(file.kind in DEADLY for shard in world.files for file in shard)
    n_calm = 0
    for _ in range(60):
        fuse = stop_at = None
        touch_suspects(world)
        world.ill_until = 0.0
        is_ill = chances.n_ill > 0 and rng.random() < 0.5
        if is_ill:
            chances.n_ill -= 1
            world.happened["ill disk"] += 1
            world.ill_until = world.now + rng.choice([1.5, 3.0, 10.0])
        if chances.n_driver_kills and rng.random() < 0.7:
            chances.n_driver_kills -= 1
            fuse = int(math.exp(rng.uniform(0, 6)))
        elif chances.n_stops:
            chances.n_stops -= 1
            stop_at = rng.uniform(0, 10)
        elif not is_ill:
            n_calm += 1
        driver = Driver(world, fuse, stop_at)
        plan_kills(world, driver)
        if driver.run():
            return
        # Among others, released among others, alone; all of it anew only where the segment of the charge is damaged.
        # Released at most three times: the caution lasts 10, 20, 40, 80 s, one step with each run that dies of the
        # file, and the order is reversed each time. In 80 s the four other workers' files come to an end that are
        # suspects on one side of it (a hanging one is ended after 13 s). After one death alone it is never released.
        most = 3 + (1 + 3 + DEATHS) * n_deadly * (1 + world.happened["damaged"])
        most += DEATHS * world.happened["touched"]
        most += n_deadly * (world.batch_files > 1)  # among the others of a call, which is then made with each alone
        assert n_calm <= most, f"{n_calm} runs: {world.happened}"
    raise AssertionError(f"60 runs do not finish the job: {world.happened}")


def touch_suspects(world: World) -> None:
    """Let a suspect look different: its deaths until now say nothing of what it is now."""
    files = world.disk.json.get(Path("suspects.json"), {}).get("files", [])
    if not files or not world.chances.n_touches or world.rng.random() < 0.5:
        return
    world.chances.n_touches -= 1
    file = world.rng.choice(files)
    runs = world.states()[file["shard"]].pending
    if any(start <= file["place"] < stop for start, stop in runs):  # else its failure is durable already
        touch(world, (file["shard"], file["place"]))


def touch(world: World, key: Place) -> None:
    world.happened["touched"] += 1
    world.files[key[0]][key[1]].mtime_ns += 1
    world.deaths_alone[key] = world.known_alone[key] = 0


def plan_kills(world: World, driver: Driver) -> None:
    rng, chances = world.rng, world.chances

    def kill() -> None:
        alive = [process for process in driver.processes.values() if process.is_alive]
        if alive and not driver.is_dead and chances.n_worker_kills:
            chances.n_worker_kills -= 1
            world.happened["worker killed"] += 1
            for process in rng.sample(alive, rng.choice([1, 1, len(alive)])):
                process.die("kill")

    moment = 0.0
    for _ in range(rng.randint(0, chances.n_worker_kills)):
        moment += rng.expovariate(1.0)
        world.at(moment, kill)


def begin_phase(world: World, what: str) -> None:
    """Open places of a finished job again, as builds, retries and resets do."""
    rng = world.rng
    if what != "nothing":
        world.build += 1
    if what == "retry":
        world.retry_since = world.build
    if what == "redo":
        world.retry_since = world.redo_since = world.build
        world.disk.columns = Columns(()) if world.has_columns else None
    if what == "other code":
        world.fingerprint += "+"
    if what == "changed files":
        for shard in world.files:
            for file in rng.sample(shard, rng.randint(0, min(3, len(shard)))):
                file.version += 1
                file.build = world.build
                file.kind, file.seconds = rng.choice(["ok", "raises"]), 0.02
    world.happened[what] += 1


def run_case(world: World, machine: Machine) -> None:
    machine.world = world
    phases = ["first", *world.rng.sample(["retry", "redo", "other code", "changed files"], world.rng.randint(0, 2))]
    for what in phases:
        if what != "first":
            begin_phase(world, what)
        for counter in (world.calls, world.own_deaths, world.deaths_alone, world.known_alone):
            counter.clear()
        world.may_fail.clear()
        world.n_in_hand_lost = world.n_deferred = world.n_halved = world.n_driver_ends = 0
        world.phase_build = world.build
        world.n_needed = sum(state.n_pending for state in world.states().values())
        finish(world)
        check_finished(world)


# Machinery of the tests


class Machine:
    """Stands in for disk and clock in the rooms; the world behind it changes from case to case."""

    world: World

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: getattr(self.world, name)(*args, **kwargs)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    rooms: list[tuple[Any, str]] = [
        (processes, "read_beacon read_crash remove_worker_files list_workers list_names is_running end_process"),
        (watch, "read_shard_file"),
        (shardstate, "read_outcomes read_segment read_shard_file"),
        (suspects, "read_json write_json remove_durably"),
    ]
    for room, names in rooms:
        for name in names.split():
            monkeypatch.setattr(room, name, getattr(machine, name))
    for module in (runloop, trials, watch):
        monkeypatch.setattr(module, "time", machine)
    monkeypatch.setattr(processes, "count_oom_kills", lambda: 0)
    return machine


def test_every_file_ends_as_told_whatever_dies(draw: Draw, machine: Machine) -> None:
    first, n_cases = int(draw.seed), draw.n_cases(N_CASES)
    happened: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for seed in range(first, first + n_cases):
        world = draw_world(seed)
        kinds.update(file.kind for shard in world.files for file in shard)
        try:
            run_case(world, machine)
        except BaseException as error:
            error.add_note(f"seed {seed}: R3PO_FAULT_SEED={seed} R3PO_FAULT_CASES=1")
            raise
        happened.update(world.happened)
    if n_cases < N_CASES:
        return
    # Else it could pass because nothing ever happens.
    befalls = ["trial", "trial apart", "last try", "answer lost", "silent", "damaged", "worker killed", "driver killed"]
    befalls += ["swept", "answer and death in one look", "charge while a trial apart waits"]
    befalls += ["Ray ended", "ill disk", "touched", "hangs while it loads", "last try of a trial"]
    befalls += ["call of several", "stopped by a signal", "retry", "redo", "other code", "changed files"]
    assert all(happened[name] > 5 for name in befalls), happened
    assert len(kinds) == 12 and min(kinds.values()) > 2, kinds


# One case at a time


def calm_world(n_files: int, odd: dict[int, File] | None = None, seconds: float = 0.05, **fields: Any) -> World:
    files = [(odd or {}).get(place) or File(seconds=seconds) for place in range(n_files)]
    return World(random.Random(1), [files], Chances(slow_look=0.0, stays=0.0, far=0.0), **fields)


def end_of(world: World, machine: Machine, most: int = 1) -> tuple[int, Counter[str]]:
    """Start r3po again and again until the job is finished; return how often, and what the files of shard 0 came to."""
    machine.world = world
    world.n_needed = sum(len(shard) for shard in world.files)
    for n in range(1, most + 1):
        if Driver(world).run():
            check_finished(world)
            table = world.disk.outcomes[world.disk.commits[0].outcomes.name].table
            return n, Counter(error_type or "row" for error_type in table["error_type"].to_pylist())
    raise AssertionError(f"{most} runs do not finish the job: {world.happened}")


@pytest.mark.parametrize("kind", DEADLY)
@pytest.mark.parametrize("n_workers", [1, 2, 8])
def test_a_file_that_ends_the_run_each_time_is_charged_after_three_deaths_alone(
    n_workers: int, kind: str, machine: Machine
) -> None:
    """The first run dies of it among others, which proves nothing. A driver that outlives Ray remembers as much as if
    it had been killed."""
    world = calm_world(40, {20: File(kind, 0.2)}, n_workers=n_workers)
    assert end_of(world, machine, 1 + DEATHS + 1) == (1 + DEATHS + 1, {"row": 39, "WorkerDied": 1})
    assert world.happened["Ray ended"] == (1 + DEATHS if kind == "ends Ray" else 0)


@pytest.mark.parametrize("kind", DEADLY)
def test_deaths_of_a_file_that_looks_different_now_do_not_count(kind: str, machine: Machine) -> None:
    machine.world = world = calm_world(40, {20: File(kind, 0.2)})
    for _ in range(1 + DEATHS - 1):  # once among others; one death too few alone
        assert not Driver(world).run()
    touch(world, (0, 20))
    assert end_of(world, machine, DEATHS + 1) == (DEATHS + 1, {"row": 39, "WorkerDied": 1})


@pytest.mark.parametrize("place", [3, 36])
def test_two_files_that_kill_the_driver_are_both_charged(place: int, machine: Machine) -> None:
    killers = {killer: File("kills the driver", 0.2) for killer in (20, place)}
    world = calm_world(40, killers, seconds=0.3, n_workers=2)
    assert end_of(world, machine, 2 * (1 + DEATHS) + 1)[1] == {"row": 38, "WorkerDied": 2}


@pytest.mark.parametrize("long", [3, 12])
@pytest.mark.parametrize(("kind", "outcome", "timeout_s"), [("ok", "row", None), ("hangs", "Timeout", CAREFUL_S)])
def test_a_file_that_kills_the_driver_is_charged_beside_one_that_takes_long(
    kind: str, outcome: str, timeout_s: float | None, long: int, machine: Machine
) -> None:
    """At most one more run dies of it while it has company: in the next one its turn is before the other's."""
    odd = {long: File(kind, seconds=3 * CAREFUL_S), 4: File("kills the driver", 2.0)}
    world = calm_world(21, odd, n_workers=2, timeout_s=timeout_s)
    assert end_of(world, machine, 1 + 1 + DEATHS + 1)[1] == Counter({"row": 19}) + Counter([outcome, "WorkerDied"])


@pytest.mark.parametrize("kind", DEADLY)
@pytest.mark.parametrize("n_long", [1, 2, 3])
def test_a_file_that_ends_the_run_is_charged_between_files_that_hang(n_long: int, kind: str, machine: Machine) -> None:
    """On both sides of it, so that no order helps: at most three more runs die of it in company.

    `n_long` on each side need up to 15 s each, with the next worker's start; the caution lasts 10, 20, 40, 80 s.
    """
    distances = [sign * (4 * n // n_long) for n in range(1, n_long + 1) for sign in (1, -1)]
    odd = {15 + distance: File("hangs") for distance in distances} | {15: File(kind, 2.0)}
    world = calm_world(30, odd, n_workers=2 * n_long + 1, timeout_s=CAREFUL_S)
    outcomes = {"row": 29 - 2 * n_long, "Timeout": 2 * n_long, "WorkerDied": 1}
    assert end_of(world, machine, 1 + 3 + DEATHS + 1)[1] == outcomes


@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize("ill_s", [1.0, 3.0, 8.0])
def test_an_ill_disk_after_a_kill_records_no_innocent_file_as_failed(
    ill_s: float, n_workers: int, machine: Machine
) -> None:
    machine.world = world = calm_world(2_000, n_workers=n_workers, max_errors=MaxErrors())
    driver = Driver(world)
    world.at(6.0, driver.die)
    assert not driver.run()
    world.ill_until = world.now + ill_s
    assert end_of(world, machine) == (1, {"row": 2_000})
    assert world.n_deferred > 0


def test_a_file_whose_last_try_takes_all_memory_is_tried_apart_again(machine: Machine) -> None:
    """A last try waits for the disk to work, and what is apart holds everybody back: neither may wait for the other."""
    for seed in range(30):
        rng = random.Random(seed)
        kinds = rng.choices(["ok", "environment", "memory, ill once"], [0.85, 0.1, 0.05], k=120)
        files = [File(kind, rng.uniform(0.05, 0.5), "memory") for kind in kinds]
        end_of(World(rng, [files], Chances(), n_workers=3, batch_seconds=0.2, max_errors=MaxErrors()), machine)


@pytest.mark.parametrize("n_workers", [2, 4])
def test_a_replacement_that_hangs_while_it_loads_does_not_hold_up_a_trial(n_workers: int, machine: Machine) -> None:
    world = calm_world(60, {30: File("crashes", cause="signal")}, n_workers=n_workers)
    world.chances.hangs_loading = 1.0
    assert end_of(world, machine) == (1, {"row": 59, "WorkerDied": 1})
    assert world.happened["hangs while it loads"] == 1
    assert world.now < START_S + 20.0


def test_many_answers_in_one_look_are_settled_before_too_many_errors_stop_the_run(machine: Machine) -> None:
    n_stopped = 0
    for seed in range(5):
        rng = random.Random(seed)
        files = [[File(rng.choice(["ok", "raises"]), 0.02) for _ in range(rng.randint(1, 3))] for _ in range(60)]
        world = World(rng, files, Chances(slow_look=1.0), n_workers=8, max_errors=MaxErrors(count=4))
        end_of(world, machine, 40)  # each run goes on where the last one stopped
        n_stopped += sum(n for what, n in world.happened.items() if what.startswith("stopped"))
    assert n_stopped > 5


@pytest.mark.parametrize("cause", ["signal", "exit", "kill"])
def test_a_file_that_ends_its_worker_costs_so_many_calls_and_no_more(cause: str, machine: Machine) -> None:
    world = calm_world(60, {30: File("crashes", cause=cause)})
    assert end_of(world, machine) == (1, {"row": 59, "WorkerDied": 1})
    assert world.calls[0, 30] == 1 + (DEATHS if cause == "kill" else KNOWN_DEATHS)


def test_a_file_whose_trials_never_began_is_not_charged(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    n_left = DEATHS
    submit = Driver.submit

    def submit_to_the_dead(driver: Driver, worker: int, call: Call) -> None:
        nonlocal n_left
        process = driver.processes[worker]
        if process.trial is not None and n_left:
            n_left -= 1
            process.die("kill")
        submit(driver, worker, call)

    monkeypatch.setattr(Driver, "submit", submit_to_the_dead)
    world = calm_world(8, {3: File("crashes sometimes", n_times=1)})
    assert end_of(world, machine) == (1, {"row": 8})
    assert n_left == 0
