"""The middle of a run: in_hand from the scheduler to the workers, answers back, decisions made.

One thread, one loop. Everything that is decided (columns, commits) is decided here, by the process that holds the lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from r3po import events
from r3po.engines.pool import Answer, Call
from r3po.errors import FunctionError, R3poError, RunStoppedError, StopNow
from r3po.events import Observer
from r3po.file_version import UNKNOWN_VERSION
from r3po.run.budgets import ErrorBudget, LossBudget
from r3po.run.publisher import Publisher
from r3po.run.scheduler import Scheduler
from r3po.run.signals import StopSignals
from r3po.run.suspects import SuspectBook
from r3po.run.workers import Lost, WorkerHandle, WorkerManager
from r3po.state.job import disk_error
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment
from r3po.state.shard_files import Entries, read_shard_file
from r3po.state.shards import ShardState
from r3po.storage.names import show_name
from r3po.table.outcomes import Failure
from r3po.text import first_line
from r3po.work import Batch, RecordFailure, Stage, Work
from r3po.worker.failures import death_failure, timeout_failure
from r3po.worker.messages import BatchDone, Probed, ShardContext
from r3po.worker.printed import Outputs
from r3po.worker.staging import Staged

QUEUE_DEPTH = 2
"""Tickets that a worker has at most: the one it works on, and the next."""

WAIT_S = 0.1
"""How long the loop waits for an answer before it looks whether it was asked to stop."""

DRAIN_S = 10.0
"""How long a stopped run waits for the batches in flight."""

FIRST_PROBE = 10
"""Files of the first probe: if none of them gives a dict, f is not a function for r3po."""

NEXT_PROBE = 90
"""Files of a later one."""

CAREFUL_S = 10.0
"""How long a run holds everybody back for the files that a killed run was in; then only those that died alone."""

CAREFUL_LIMIT_S = 3600.0
"""The most, after many runs that died."""

LOOK_S = 1.0
"""Between two looks at what takes long: the longest running file, workers that do not start."""

SHORTAGE_S = 20.0
"""Workers that have not started for so long are told of."""


@dataclass(slots=True)
class Counts:
    """The job's files as the run goes on: n_done + n_failed + n_pending is constant."""

    n_done: int
    n_failed: int
    n_pending: int


@dataclass(slots=True)
class RunLoop:
    """Processes everything that is pending in a job.

    Args:
        states: how each shard stands; those that are committed are left alone.
        manager: of a pool that was started; its workers are loading f.
        budget: how many failures are too many.
        book: the suspects of earlier runs and of this one.
        scheduler: has all that is pending, and the suspects.
        stop: whether a signal asked for the end.
        function_name: of f, for messages.
        outputs: what f prints.
        timeout_s: `timeout_seconds`, for messages.
        loaded_code: the fingerprint of f's file when the run began, if it has one.
    """

    publisher: Publisher
    states: dict[int, ShardState]
    manager: WorkerManager
    budget: ErrorBudget
    book: SuspectBook
    scheduler: Scheduler
    observer: Observer
    stop: StopSignals
    function_name: str
    counts: Counts
    outputs: Outputs
    timeout_s: float | None = None
    loaded_code: str | None = None
    _segments: dict[int, list[Segment]] = field(init=False)
    _is_probing: bool = False
    _is_draining: bool = False
    _n_probes: int = 0
    _losses: LossBudget = field(init=False)
    _careful_until: float | None = None
    _looked_at: float = field(default_factory=time.monotonic)
    _started_at: float = field(default_factory=time.monotonic)
    _has_told_shortage: bool = False
    _entries: tuple[int, Entries] | None = None

    def __post_init__(self) -> None:
        self._losses = LossBudget(self.function_name)
        open_states = [state for state in self.states.values() if not state.is_committed]
        self._segments = {state.ref.shard: list(state.segments) for state in open_states}

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
                self._look()
        except RunStoppedError:
            # The others did nothing wrong: what they have at hand is kept.
            self.stop.tell_workers()
            if not self.manager.is_gone:
                with contextlib.suppress(R3poError):
                    self._drain()
            raise
        finally:
            # An orderly end: whoever is on trial now did not end the run. But it may have ended Ray.
            with contextlib.suppress(OSError):
                alone = self.scheduler.trial_apart if self.manager.is_gone else None
                self.book.write(self.scheduler.suspects, alone)

    def stage(self, shards: Mapping[ShardRef, Sequence[Segment]]) -> None:
        """Stage shards that lack nothing on the workers, and commit them."""
        waiting = dict(shards)
        in_flight: dict[int, ShardRef] = {}
        while waiting or in_flight:
            if self.stop.is_requested:
                raise StopNow  # nothing of f is in flight, and the next run makes these parts
            for depth in range(1, QUEUE_DEPTH + 1):
                for handle in self.manager.iter_free(depth):
                    if waiting:
                        ref, segments = waiting.popitem()
                        in_flight[ref.shard] = ref
                        call = Call("stage", (self.publisher.stage_order(ref, segments),))
                        self.manager.submit(handle, Stage(-1, ref.shard), call)
            for message in self.manager.wait(WAIT_S):
                if isinstance(message, Lost):
                    lost = [in_flight.pop(work.shard) for work in message.handle.in_hand]
                    waiting |= {ref: shards[ref] for ref in lost}
                    self._check_losses(message)
                    continue
                work = self._settle(message)
                if work is not None:
                    self.publisher.commit(in_flight.pop(work.shard), message.value)

    def show_output(self) -> None:
        """Tell what f printed since the last look, if that was asked for; and cut what is too much."""
        for worker, text in self.outputs.look():
            self.observer(events.OutputSeen(worker, text))

    # Private methods: handing out

    def _hand_out(self) -> None:
        if self.scheduler.has_suspects:
            self.manager.need_fresh()
        if self.publisher.columns is None and (self.scheduler.n_pending or self._is_probing):
            if not self._is_probing:
                self._hand_out_probe()
            return  # the first row comes before everything else
        self._end_caution()
        for depth in range(1, QUEUE_DEPTH + 1):
            for handle in self.manager.iter_free(depth):
                is_fresh, is_ahead = self.manager.is_fresh(handle), bool(handle.in_hand)
                work = self.scheduler.next_work(is_fresh=is_fresh, is_ahead=is_ahead)
                if work is not None:
                    self._submit(handle, work)

    def _hand_out_probe(self) -> None:
        if self.scheduler.n_in_flight:
            return
        # A fresh worker first: whatever is next, it may have it.
        for handle in sorted(self.manager.iter_free(1), key=lambda handle: not self.manager.is_fresh(handle)):
            limit = FIRST_PROBE if self._n_probes == 0 else NEXT_PROBE
            work = self.scheduler.next_work(limit, is_fresh=self.manager.is_fresh(handle))
            if work is None:
                continue
            if isinstance(work, Batch):
                self._is_probing = True
                self._n_probes += 1
            self._submit(handle, work)
            return

    def _end_caution(self) -> None:
        """Hold the others back for a while only: most files that a killed run was in are innocent."""
        if not self.scheduler.is_apart:
            self._careful_until = None
            return
        now = time.monotonic()
        if self._careful_until is None:
            # Twice as long with each run that died: a file that kills them comes to its turn in the end.
            n_runs = max(suspect.n_runs for suspect in self.scheduler.suspects if suspect.is_apart)
            self._careful_until = now + min(CAREFUL_S * 2 ** max(0, n_runs - 1), CAREFUL_LIMIT_S)
        elif now > self._careful_until:
            self.scheduler.release_first_offenders()
            self._remember()

    def _submit(self, handle: WorkerHandle, work: Work) -> None:
        ref, publisher = self.states[work.shard].ref, self.publisher
        match work:
            case Stage():
                call = Call("stage", (publisher.stage_order(ref, self._segments[work.shard]),))
            case RecordFailure():
                version = self.book.version_of((work.shard, work.place)) if work.n_deaths else UNKNOWN_VERSION
                batch = Batch(work.number, work.shard, ((work.place, work.place + 1),))
                call = Call("record_failure", (batch, self._context_of(ref), self._failure_of(work), version))
            case Batch():
                call = Call("probe" if self._is_probing else "run_batch", (work, self._context_of(ref)))
                if work.kind == "trial":
                    self._remember()  # before it begins: it may end this process, too
                    alone = self.scheduler.trial_apart
                    if alone is not None and alone.death.is_memory:
                        self.manager.free_memory(handle)
        self.manager.submit(handle, work, call)

    def _context_of(self, ref: ShardRef) -> ShardContext:
        manifest, publisher = self.publisher.job.built, self.publisher
        return ShardContext(manifest.job_id, ref, manifest.build, publisher.next_attempt(), publisher.columns)

    def _failure_of(self, work: RecordFailure) -> Failure:
        death, n = work.death, work.n_deaths
        if not n:
            found = death_failure("Timeout", "", death.stack)
            return timeout_failure(self.timeout_s or 0.0, ())._replace(where=found.where, traceback=found.traceback)
        times = {1: "once", 2: "twice"}.get(n, f"{n} times")
        if death.is_memory:
            return death_failure("OutOfMemory", f"the process was killed for its memory, alone, {times}", death.stack)
        return death_failure("WorkerDied", f"{death.cause}: the process died in this file, alone, {times}", death.stack)

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
            self._lost(message)
            return
        if message.call.method == "probe" and message.error is None:
            self._probed(message)
            return
        work = self._settle(message)
        match work:
            case Stage():
                self._staged(work, message.value)
            case RecordFailure():
                self.scheduler.failure_recorded(work)
                self._record(work.shard, message.value)
            case Batch():
                self._batch_done(message.worker, work, message.value)
        if work is not None:
            self._losses.worked()
            self.manager.release(message.worker)

    def _settle(self, answer: Answer) -> Work | None:
        """Return the work that an answer settles, None for that to `load`; everything but an answer ends the run."""
        handle = self.manager.handles[answer.worker]
        work = None
        if answer.call.method != "load":
            work = handle.in_hand.pop(0)
        elif answer.error is None:
            handle.is_ready = True
            self._losses.loaded()
            self._check_code(answer.value)
        if isinstance(answer.error, R3poError):
            if answer.call.method == "load" and self._losses.has_loaded:
                raise RunStoppedError(
                    f"a worker that was started again cannot load {self.function_name}: {answer.error.args[0]}",
                    evidence=answer.error.evidence,
                    hint="what was done is saved; mend the function, then run again",
                ) from answer.error
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

    def _probed(self, answer: Answer) -> None:
        probed: Probed = answer.value
        is_first = not (self.counts.n_done or self.counts.n_failed)
        if is_first and probed.columns is None and probed.not_a_dict is not None and not probed.stopped:
            path, type_name, shown = probed.not_a_dict
            raise FunctionError(
                f"{self.function_name} returned {_with_article(type_name)} for {show_name(path)}; "
                "r3po needs one dict a file",
                evidence=f"returned  {shown}",
                hint="return a dict, such as {'name': value}; nothing was recorded",
            )
        if probed.columns is not None:
            # Durable before anything else is handed out: every row of the job is held against these columns.
            self.publisher.set_columns(probed.columns, probed.first_row_path)
            named = tuple((column.name, column.kind) for column in probed.columns.items)
            self.observer(events.ColumnsSet(named, show_name(probed.first_row_path)))
        self._is_probing = False
        # The work stays: the answer to this call settles it.
        self.manager.submit_more(answer.worker, Call("record_probe", (probed.columns,)))

    def _batch_done(self, worker: int, work: Batch, done: BatchDone) -> None:
        self.scheduler.batch_done(work, done.returned, done.seconds, done.deferred)
        handle = self.manager.handles[worker]
        if done.is_spent or (work.kind == "trial" and self.scheduler.has_suspects):
            self.manager.dismiss(handle)  # the next trial needs a fresh one
        if work.kind == "trial":
            self._remember()
        self._record(work.shard, done)

    def _record(self, shard: int, done: BatchDone) -> None:
        if done.segment is not None:
            self._segments[shard].append(done.segment)
        self.counts.n_done += done.n_rows
        self.counts.n_failed += done.n_failed
        self.counts.n_pending -= done.n_rows + done.n_failed
        last = done.failures[-1] if done.failures else None
        shown = "" if last is None else f"{last[0]}  {last[1].error_type}: {first_line(last[1].message)}"
        self.observer(events.BatchFinished(done.n_rows, done.n_failed, shown))
        if not self._is_draining:
            self.budget.take(done)

    def _staged(self, work: Stage, staged: Staged) -> None:
        if staged.commit is None:
            n_missing = sum(stop - start for start, stop in staged.missing)
            text = f"{n_missing} files lost their outcome (a damaged file in segments/); they are done again"
            self.observer(events.Notice(text, is_warning=True))
            self.counts.n_pending += n_missing
            self.counts.n_done -= n_missing
            self.scheduler.stage_incomplete(work, staged.missing)
            return
        tally = self.publisher.commit(self.states[work.shard].ref, staged).tally
        self.scheduler.stage_done(work)
        self._segments.pop(work.shard)
        self.observer(events.ShardCommitted(work.shard, tally.n_rows, tally.n_failed))

    # Private methods: deaths

    def _lost(self, lost: Lost) -> None:
        """Give back what a dead worker had in hand; the file it was in becomes a suspect."""
        self._is_probing = False
        in_hand, where = lost.handle.in_hand, lost.file
        begun = next((work for work in in_hand if _holds(work, where)), None)
        if begun is None:
            where = None  # it died between two files, or its beacon is of another time
            begun = in_hand[0] if in_hand and lost.has_begun else None
        for work in in_hand:
            if work is not begun:
                self.scheduler.hand_back(work)
        place = where[1] if where is not None else None
        if isinstance(begun, Batch) and place is not None and lost.is_overrun:
            self.scheduler.overran(begun, place, lost.death)
        elif begun is not None and lost.handle.ended_for == "time":
            self.scheduler.hand_back(begun)  # it had come to another file by then: our doing, and nobody's fault
        elif begun is not None:
            # Memory is shared: only who had it alone can be to blame.
            self.scheduler.lost(begun, place, lost.death, counts=lost.was_alone or not lost.death.is_memory)
        self._remember()
        self._tell_loss(lost, where)
        self._check_losses(lost)

    def _tell_loss(self, lost: Lost, where: tuple[int, int] | None) -> None:
        path = "" if where is None else self._path_of(*where)
        cause = "over timeout_seconds" if lost.handle.ended_for == "time" else lost.death.cause
        self.observer(events.WorkerLost(cause, path, lost.n_workers))

    def _check_losses(self, lost: Lost) -> None:
        if self.manager.can_replace:
            self._losses.take(lost)

    def _remember(self) -> None:
        """Make durable who is mistrusted, and who is alone right now."""
        self.book.write(self.scheduler.suspects, self.scheduler.trial_apart)

    # Private methods: looking around

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self.show_output()
        shard, place, seconds = self.manager.longest() or (-1, -1, 0.0)
        path = self._path_of(shard, place) if seconds >= events.LONG_S else ""
        self.observer(events.LongestRunning(path, seconds))
        if not self._losses.has_loaded and not self._has_told_shortage and now - self._started_at > SHORTAGE_S:
            self._has_told_shortage = True
            shortage = self.manager.shortage()
            text = f"{shortage}: the workers wait" if shortage else f"still importing {self.function_name}"
            hint = (
                "wait for its other users, or give fewer with --processes" if shortage else "--show-output shows more"
            )
            self.observer(events.Notice(text, hint=hint, is_warning=True))

    def _path_of(self, shard: int, place: int) -> str:
        """Return a file's name for people."""
        if shard not in self.states:
            return ""
        if self._entries is None or self._entries[0] != shard:
            folder = self.publisher.job.folders.shards
            self._entries = shard, read_shard_file(folder, self.states[shard].ref)
        paths = self._entries[1].paths
        return show_name(paths[place]) if 0 <= place < len(paths) else ""

    def _drain(self) -> None:
        """Wait for the batches in flight, which end at their next file, and keep what they did."""
        self._is_draining = True
        if not self.manager.is_gone:
            with contextlib.suppress(OSError):
                self.book.write(self.scheduler.suspects)  # from now on a death is no file's fault
        deadline = time.monotonic() + DRAIN_S
        while self.manager.is_busy and time.monotonic() < deadline and not self.stop.is_urgent:
            # Who dies now, or cannot load f, is nobody's concern any more: the next run does its files.
            answers = [message for message in self.manager.wait(WAIT_S) if isinstance(message, Answer)]
            self._handle_all(answer for answer in answers if answer.call.method != "load" or answer.error is None)


# Private functions


def _holds(work: Work, where: tuple[int, int] | None) -> bool:
    """Whether a work's worker calls f on this file."""
    if where is None or not isinstance(work, Batch) or work.shard != where[0]:
        return False
    return any(start <= where[1] < stop for start, stop in work.places)


def _with_article(type_name: str) -> str:
    if type_name == "NoneType":
        return "None"
    return f"{'an' if type_name[:1].lower() in 'aeiou' else 'a'} {type_name}"
