"""A run with very many workers and files on virtual time: the real loop, manager and scheduler, without Ray and disk.

What is simulated answers at once, and the time that it takes is known: the rest is what a batch costs the driver.
"""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost
from r3po.events import Event
from r3po.file_version import UNKNOWN_VERSION
from r3po.run.budgets import ErrorBudget
from r3po.run.loop import Counts, RunLoop
from r3po.run.orders import Orders
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.run.suspects import SuspectBook
from r3po.run.trials import Trials
from r3po.run.watch import Watch
from r3po.run.workers import WorkerManager
from r3po.state.commits import Commit
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment
from r3po.state.shards import ShardState
from r3po.storage.durable import FileRecord
from r3po.table.columns import Columns
from r3po.work import Batch, Death
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.messages import BatchDone
from r3po.worker.staging import Staged

JOB_ID = "5" * 32
SHARD_SIZE = 10_000


def new_state(shard: int, n_files: int = SHARD_SIZE) -> ShardState:
    """Return how a shard stands of which nothing is done, as `Job.resolve` gives it."""
    digest = f"{shard:064x}"
    ref = ShardRef(shard, FileRecord(f"{shard:05d}.{digest[-32:]}.tsv.gz", 124 * n_files, digest), n_files, 1, 10**9)
    return ShardState(ref, None, (), 0, 0, 0, {}, ((0, n_files),))


class LargePool(OneMachine):
    """Workers that do `files_a_second` each, on a clock that only calls move.

    Args:
        batch_seconds: after so long a batch ends, and the rest of it comes back.
        look_s: the driver finds everything at once that came in so many seconds.
    """

    can_replace = True
    is_gone = False
    description = "simulated"

    def __init__(
        self, n_workers: int, batch_seconds: float, files_a_second: float, look_s: float = 0.0, seed: int = 1
    ) -> None:
        self.now, self.took_s = 0.0, 0.0
        self.n_batches = self.n_stages = self.n_waits = self.n_sightings = 0
        self.most_batches: int | None = None
        self._batch_seconds, self._files_a_second, self._look_s = batch_seconds, files_a_second, look_s
        self._random = random.Random(seed)
        self._calls: dict[int, list[Call]] = {worker: [] for worker in range(n_workers)}
        self._sightings: dict[int, Sighting] = {}
        self._ends: list[tuple[float, int]] = []
        self.idle = Sighting(1, Phase.IDLE, -1, -1, 1, 1, None)
        for worker in range(n_workers):
            self.submit(worker, Call("load"))

    def monotonic(self) -> float:
        return self.now

    def add_worker(self, worker: int) -> None:
        self._calls[worker] = []
        self.submit(worker, Call("load"))

    def submit(self, worker: int, call: Call) -> None:
        began = time.process_time()
        calls = self._calls[worker]
        calls.append(call)
        if len(calls) == 1:
            self._begin(worker, self.now)
        self.took_s += time.process_time() - began

    def sighting(self, worker: int) -> Sighting | None:
        self.n_sightings += 1
        return self._sightings.get(worker, self.idle)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        began = time.process_time()
        self.n_waits += 1
        found: list[Answer | WorkerLost] = []
        if self._ends:
            self.now = max(self.now, self._ends[0][0])
            until = self.now = self.now + self._look_s
            while self._ends and self._ends[0][0] <= until:
                end, worker = heapq.heappop(self._ends)
                found.append(self._answer(worker))
                if self._calls[worker]:
                    self._begin(worker, end)
        else:
            self.now += timeout_s
        self.took_s += time.process_time() - began
        return found

    def end(self, worker: int) -> None:
        raise AssertionError("nobody is late")

    def dismiss(self, worker: int) -> None:
        self._calls.pop(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        raise AssertionError("nobody dies")

    def shortage(self) -> str:
        return ""

    # Private methods

    def _begin(self, worker: int, now: float) -> None:
        call = self._calls[worker][0]
        match call.method:
            case "load":
                seconds = self._random.uniform(0.5, 1.5)
            case "stage":
                seconds = 0.3
            case _:
                batch = call.arguments[0]
                n_files = sum(stop - start for start, stop in batch.places)
                seconds = min(self._batch_seconds, n_files / self._files_a_second) * self._random.uniform(0.9, 1.1)
                counter = self._sightings.get(worker, self.idle).counter + 1
                place = batch.places[0][0]
                self._sightings[worker] = Sighting(counter, Phase.CALLING, batch.shard, place, 1, 1, None)
        heapq.heappush(self._ends, (now + seconds, worker))

    def _answer(self, worker: int) -> Answer:
        call = self._calls[worker].pop(0)
        match call.method:
            case "load":
                return Answer(worker, call, "f1")
            case "stage":
                self.n_stages += 1
                return Answer(worker, call, call.arguments[0])
        self.n_batches += 1
        batch, context = call.arguments
        n_files = sum(stop - start for start, stop in batch.places)
        n_done = max(1, min(n_files, round(self._batch_seconds * self._files_a_second)))
        segment = Segment(batch.shard, 1, JOB_ID[:8], context.attempt, n_done, 0, f"{self.n_batches:032x}")
        return Answer(worker, call, BatchDone(segment, n_done, 0, _rest_of(batch, n_done), self._batch_seconds))


def _rest_of(batch: Batch, n_done: int) -> tuple[tuple[int, int], ...]:
    rest = []
    for start, stop in batch.places:
        n_here = min(n_done, stop - start)
        n_done -= n_here
        if start + n_here < stop:
            rest.append((start + n_here, stop))
    return tuple(rest)


class LargePublisher:
    """Gives orders, and commits nothing."""

    in_force = None
    columns = Columns(())

    def __init__(self, n_shards: int) -> None:
        self.job = SimpleNamespace(built=SimpleNamespace(job_id=JOB_ID, build=1), folders=None)
        self.n_attempts = 0

    def put_in_force(self) -> None:
        pass

    def next_attempt(self) -> str:
        self.n_attempts += 1
        return f"20260101-120000-abcd-{self.n_attempts:06d}"

    def stage_order(self, ref: ShardRef, segments: Iterable[Segment] = ()) -> Any:
        commit: Any = SimpleNamespace(shard=ref.shard, tally=SimpleNamespace(n_done=ref.n_files, n_failed=0))
        return Staged(ref.shard, commit)

    def commit(self, ref: ShardRef, staged: Staged) -> Commit:
        assert staged.commit is not None
        return staged.commit


class Enough(Exception):
    """As many batches as were asked for have been answered."""


class LargeRun:
    """A job of `n_shards` whole shards with `n_workers` workers, as far as it is asked to go."""

    def __init__(
        self,
        n_workers: int,
        n_shards: int,
        batch_seconds: float = 1.0,
        files_a_second: float = 20.0,
        look_s: float = 0.0,
        shard_size: int = SHARD_SIZE,
        suspects: Sequence[Suspect] = (),
        book_path: Path = Path("suspects.json"),
    ) -> None:
        self.pool = LargePool(n_workers, batch_seconds, files_a_second, look_s)
        self.states = {shard: new_state(shard, shard_size) for shard in range(n_shards)}
        pending = [(state.ref.shard, state.pending) for state in self.states.values()]
        self.scheduler = Scheduler(pending, n_workers, batch_seconds, suspects)
        pool: Any = self.pool
        publisher: Any = LargePublisher(n_shards)
        self.manager = WorkerManager(pool, n_workers, 60.0, self.pool.monotonic)
        book = SuspectBook(book_path, JOB_ID, "f1", lambda shard, place: UNKNOWN_VERSION)
        outputs: Any = SimpleNamespace(look=lambda: [])
        self.stop: Any = SimpleNamespace(is_requested=False, is_urgent=False, tell_workers=lambda: None)
        lines: Any = SimpleNamespace(at=lambda ref, places: ())
        self.loop = RunLoop(
            publisher,
            self.manager,
            ErrorBudget(None, is_guarded=False),
            Trials(self.scheduler, book),
            self.scheduler,
            self._observe,
            self.stop,
            "f",
            Counts(0, 0, n_shards * shard_size),
            Watch(self.states, Path(), self.manager, outputs, self._observe, "f"),
            Orders(publisher, self.states, lines),
            loaded_code="f1",
        )

    def go(self, n_batches: int | None = None) -> tuple[int, float]:
        """Go on for so many batches at least, or to the end; return how many, and the driver's seconds for them."""
        pool = self.pool
        before, took_before = pool.n_batches, pool.took_s
        wanted = None if n_batches is None else before + n_batches
        began = time.process_time()
        with contextlib.suppress(Enough):
            self._go_to(wanted)
        seconds = time.process_time() - began - (pool.took_s - took_before)
        return pool.n_batches - before, seconds

    def _go_to(self, wanted: int | None) -> None:
        self._wanted = wanted
        self.loop.run()

    _wanted: int | None = None

    def _observe(self, event: Event) -> None:
        if self._wanted is not None and self.pool.n_batches >= self._wanted:
            raise Enough
