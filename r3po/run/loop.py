"""The middle of a run: work from the scheduler to the workers, answers back, decisions made.

One thread, one loop. Everything that is decided (columns, commits) is decided here, by the process that holds the lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from r3po import events
from r3po.engines.pool import Answer, Call
from r3po.errors import R3poError, RunStoppedError, StopNow
from r3po.events import Observer
from r3po.run.budgets import ErrorBudget, LossBudget
from r3po.run.first_row import FirstRow
from r3po.run.machine_shares import MachineShares
from r3po.run.orders import Orders
from r3po.run.publisher import Publisher
from r3po.run.roster import Standing, WorkerHandle
from r3po.run.scheduler import Scheduler
from r3po.run.signals import StopSignals
from r3po.run.trials import Trials
from r3po.run.watch import Watch
from r3po.run.workers import Lost, WorkerManager
from r3po.state.job import disk_error
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, store_segment
from r3po.storage.names import show_name
from r3po.work import Batch, RecordFailure, Stage, Work, count_places
from r3po.worker.messages import BatchDone
from r3po.worker.staging import Staged

QUEUE_DEPTH = 2
"""Pieces of work that a worker has at most: what it works on, and the next."""

_ROLES = ((True, False), (True, True), (False, True))
"""Whether a worker may stage, and whether it may call f."""

IDLE = [Standing(0, is_fresh, *role) for is_fresh in (False, True) for role in _ROLES]
"""How workers stand that have nothing in hand, in the order in which they get some: fresh ones are kept for trials."""

STANDINGS = [*IDLE, *(Standing(n, False, *role) for n in range(1, QUEUE_DEPTH) for role in _ROLES)]
"""How all workers stand that may be given work, in that order: first those that have nothing to do."""

WAIT_S = 0.1
"""Seconds that the loop waits for an answer before it looks whether it was asked to stop."""

DRAIN_S = 10.0
"""Seconds that a stopped run waits for the batches in flight."""


@dataclass(slots=True)
class Counts:
    """The job's files as the run goes on: n_done + n_failed + n_pending is constant."""

    n_done: int
    n_failed: int
    n_pending: int

    def add(self, n_done: int, n_failed: int) -> None:
        """Count files that were pending and have a row or a failure now; negative: that lost it."""
        self.n_done += n_done
        self.n_failed += n_failed
        self.n_pending -= n_done + n_failed


@dataclass(slots=True)
class RunLoop:
    """Processes everything that is pending in a job.

    Args:
        manager: of a pool that was started; its workers are loading f.
        budget: how many failures are too many.
        trials: takes deaths, and remembers the suspects of this run and of those before it.
        scheduler: has all that is pending, and the suspects.
        stop: whether a signal asked for the end.
        function_name: of f, for messages.
        watch: tells what takes long, what f prints, and who died.
        orders: makes the calls of workers.
        loaded_code: the fingerprint of f's file when the run began, if it has one.
    """

    publisher: Publisher
    manager: WorkerManager
    budget: ErrorBudget
    trials: Trials
    scheduler: Scheduler
    observer: Observer
    stop: StopSignals
    function_name: str
    counts: Counts
    watch: Watch
    orders: Orders
    loaded_code: str | None = None
    shares: MachineShares = field(default_factory=MachineShares)
    _is_draining: bool = False
    _first_row: FirstRow = field(init=False)
    _losses: LossBudget = field(init=False)

    def __post_init__(self) -> None:
        self._losses = LossBudget(self.function_name)
        self._first_row = FirstRow(self.publisher, self.observer, self.function_name)

    def run(self) -> None:
        """Process until nothing is pending, or raise.

        Raises:
            FunctionError: f cannot be imported, or gives no dict; nothing was recorded.
            RunStoppedError: workers cannot be kept, f fails on too much, or the disk refused. What was done is saved.
        """
        try:
            while not self.scheduler.is_finished:
                if self.stop.is_requested:
                    self._drain()
                    return
                self._hand_out()
                self._handle_all(self.manager.wait(WAIT_S))
                self.watch.look(has_loaded=self._losses.has_loaded)
        except RunStoppedError:
            # The others did nothing wrong: what they have at hand is kept.
            self.stop.tell_workers()
            if not self.manager.is_gone:
                with contextlib.suppress(R3poError):
                    self._drain()
            raise
        finally:
            # An orderly end: whoever is on trial now did not end the run. But it may have ended Ray.
            self.trials.remember_end(is_gone=self.manager.is_gone)

    def stage(self, shards: Mapping[ShardRef, Sequence[Segment]]) -> None:
        """Stage shards that lack nothing on the workers, and commit them."""
        waiting = dict(shards)
        in_flight: dict[int, ShardRef] = {}
        while waiting or in_flight:
            if self.stop.is_requested:
                raise StopNow  # nothing of f is in flight, and the next run makes these parts
            for standing in (standing for standing in STANDINGS if standing.can_stage):
                while waiting and (handle := self.manager.next_free(standing)) is not None:
                    ref, segments = waiting.popitem()
                    in_flight[ref.shard] = ref
                    call = Call("stage", (self.publisher.stage_order(ref, segments),))
                    self.manager.submit(handle, Stage(-1, ref.shard), call)
            for message in self.manager.wait(WAIT_S):
                if isinstance(message, Lost):
                    lost = [in_flight.pop(work.shard) for work in message.handle.in_hand]
                    waiting |= {ref: shards[ref] for ref in lost}
                    self._losses.take(message)
                    continue
                work = self._settle(message)
                if work is not None:
                    self.publisher.commit(in_flight.pop(work.shard), message.value)

    # Private methods: handing out

    def _hand_out(self) -> None:
        if self.scheduler.has_suspects:
            self.manager.need_fresh()
        if self.publisher.columns is None and (self.scheduler.n_pending or self._first_row.is_sought):
            self._hand_out_probe()
            return  # the first row comes before everything else
        self.trials.end_caution()
        self.scheduler.set_workers(self.manager.n_wanted)
        for standing in self.manager.iter_free(STANDINGS):
            n_in_hand, is_fresh, can_stage, can_call = standing
            while (handle := self.manager.next_free(standing)) is not None:
                work = self.scheduler.next_work(
                    is_fresh=is_fresh, is_ahead=n_in_hand > 0, can_stage=can_stage, can_call=can_call
                )
                if work is None:
                    break  # nor is there any for the others that stand so
                self._submit(handle, work)

    def _hand_out_probe(self) -> None:
        if self._first_row.is_sought or self.scheduler.n_in_flight:
            return
        # A fresh worker first: whatever is next, it may have it.
        for standing in reversed(IDLE):
            handle = self.manager.next_free(standing)
            if handle is None:
                continue
            # Nothing is staged: until the first row a redo may not be in force, and then nothing is decided.
            size, is_fresh, can_call = self._first_row.probe_size, standing.is_fresh, standing.can_call
            work = self.scheduler.next_work(size, is_fresh=is_fresh, can_stage=False, can_call=can_call)
            if work is not None:
                self._first_row.note_handed_out(work)
                self._submit(handle, work)
                return

    def _submit(self, handle: WorkerHandle, work: Work) -> None:
        match work:
            case Stage():
                call = self.orders.stage(work.shard)
            case RecordFailure():
                self.publisher.put_in_force()  # a redo is given up for no file that ends its worker
                call = self.orders.record_failure(work, handle.role, self.trials.evidence_of(work))
            case Batch():
                call = self.orders.batch(work, handle.role, is_probe=self._first_row.is_sought)
                if work.kind == "trial":
                    alone = self.trials.begin()
                    if alone is not None and alone.death.is_memory:
                        self.manager.free_memory(handle)
        self.manager.submit(handle, work, call)

    # Private methods: answers

    def _handle_all(self, messages: Iterable[Answer | Lost]) -> None:
        """Settle everything that came in, and only then raise what one of them is a reason for."""
        stopped: RunStoppedError | None = None
        for message in messages:
            try:
                self._handle(message)
            except RunStoppedError as error:
                stopped = stopped or error
        if stopped is not None:
            raise stopped

    def _handle(self, message: Answer | Lost) -> None:
        if isinstance(message, Lost):
            if any(isinstance(work, Batch) for work in message.handle.in_hand):
                self._first_row.is_sought = False  # by nobody any more
            self.shares.add_loss(message.handle.role.machine)
            self.watch.tell_loss(message, self.trials.take_loss(message))
            self._losses.take(message)
            return
        if message.call.method == "probe" and message.error is None:
            self._take_probe(message)
            return
        work = self._settle(message)
        if isinstance(message.value, BatchDone):
            self._store(message.value)  # before anybody counts it
        match work:
            case Stage():
                self._staged(work, message.value)
            case RecordFailure():
                self.scheduler.failure_recorded(work)
                machine = self.manager.handles[message.worker].role.machine
                self._record(machine, message.value)
            case Batch():
                self._batch_done(message.worker, work, message.value)
        if work is not None:
            self._losses.worked()
            self.manager.release(message.worker)

    def _store(self, done: BatchDone) -> None:
        """Make durable what a worker on another machine did."""
        if done.segment is not None and done.content is not None:
            folders = self.publisher.job.folders
            try:
                store_segment(folders.segments, done.segment, done.content)
            except OSError as error:
                raise disk_error(error, folders.working_dir) from error

    def _take_probe(self, answer: Answer) -> None:
        probed, is_first = answer.value, not (self.counts.n_done or self.counts.n_failed)
        columns = self._first_row.take(probed, is_first=is_first, goes_on=self.budget.is_off)
        if columns is None and probed.n_failed and self.publisher.in_force:
            self.scheduler.hand_back(self.manager.settle(answer.worker))
            return  # it was stopped, and of a redo that is not in force nothing is recorded
        self.budget.first_row_path = show_name(probed.first_row_path)
        # The work stays: the answer to this call settles it.
        self.manager.submit_more(answer.worker, Call("record_probe", (columns,)))

    def _settle(self, answer: Answer) -> Work | None:
        """Return the work that an answer settles, None for that to `load`; everything but an answer ends the run."""
        work = None
        if answer.call.method != "load":
            work = self.manager.settle(answer.worker)
        elif answer.error is None:
            self.manager.loaded(answer.worker)
            self._losses.loaded()
            self._check_code(answer.value)
        if isinstance(answer.error, R3poError):
            if answer.call.method == "load":
                self._losses.check_load(answer.error)
            raise answer.error
        if isinstance(answer.error, OSError):
            raise disk_error(answer.error, self.publisher.job.folders.working_dir) from answer.error
        if answer.error is not None:
            raise answer.error
        return work

    def _check_code(self, fingerprint: str | None) -> None:
        """Stop if a worker has loaded other code than the run began with."""
        if fingerprint != self.loaded_code:
            raise RunStoppedError(
                f"the code of {self.function_name} changed while the run was going on",
                hint="what was done is saved; run again, with the new code",
            )

    def _batch_done(self, worker: int, work: Batch, done: BatchDone) -> None:
        machine = self.manager.handles[worker].role.machine
        was_apart = self.scheduler.suspects.trial_apart is not None
        self.scheduler.batch_done(work, done.returned, done.seconds, done.deferred, done.doubted, done.call_files)
        if done.is_spent or (work.kind == "trial" and self.scheduler.has_suspects):
            self.manager.dismiss(self.manager.handles[worker])  # the next trial needs a fresh one
        if work.kind == "trial":
            self.trials.end(was_apart=was_apart)
        self._record(machine, done)

    def _record(self, machine: str, done: BatchDone) -> None:
        if done.segment is not None:
            self.orders.add_segment(done.segment)
        self.counts.add(done.n_done, done.n_failed)
        self.shares.add(machine, done.n_done + done.n_failed, done.seconds)
        self.observer(events.BatchFinished(done.n_done, done.n_failed, done.last_failure, done.seconds, done.waited_s))
        self.watch.tell_vanished(done.vanished)
        if not self._is_draining:
            self.budget.take(done)

    def _staged(self, work: Stage, staged: Staged) -> None:
        if staged.commit is None:
            n_missing = count_places(staged.missing)
            text = f"{n_missing} files lost their outcome (a damaged file in segments/); they are done again"
            self.observer(events.Notice(text, is_warning=True))
            self.counts.add(-n_missing, 0)
            self.scheduler.stage_incomplete(work, staged.missing)
            return
        tally = self.publisher.commit(self.orders.ref_of(work.shard), staged).tally
        self.scheduler.stage_done(work)
        self.orders.forget_segments(work.shard)
        self.observer(events.ShardCommitted(work.shard, tally.n_done, tally.n_failed))

    def _drain(self) -> None:
        """Wait for the batches in flight, which end at their next file, and keep what they did."""
        self._is_draining = True
        if not self.manager.is_gone:
            self.trials.remember_end(is_gone=False)  # from now on a death is no file's fault
        deadline = time.monotonic() + DRAIN_S
        while self.manager.is_busy and time.monotonic() < deadline and not self.stop.is_urgent:
            # Who dies now, or cannot load f, is nobody's concern any more: the next run does its files.
            answers = [message for message in self.manager.wait(WAIT_S) if isinstance(message, Answer)]
            self._handle_all(answer for answer in answers if answer.call.method != "load" or answer.error is None)
