"""The middle of a run: tickets from the scheduler to the workers, answers back, decisions made.

One thread, one loop. Everything that is decided (columns, commits) is decided here, by the process that holds the lock.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from r3po import events
from r3po.errors import FunctionError, R3poError, RunStoppedError
from r3po.events import Observer
from r3po.job import disk_error
from r3po.manifest import ShardRef, read_shard_file
from r3po.pool import Answer, Call, Pool, WorkerLost
from r3po.publisher import Publisher
from r3po.scheduler import BatchTicket, Scheduler, StageTicket, Ticket
from r3po.segments import Segment
from r3po.shardstate import ShardState
from r3po.staging import Staged, StageOrder
from r3po.stopsignals import StopNow, StopSignals
from r3po.storage import show_name
from r3po.tables import Failure
from r3po.worker import BatchDone, Offer, Probed

log = logging.getLogger(__name__)

QUEUE_DEPTH = 2
"""Tickets that a worker has at most: the one it works on, and the next."""

WAIT_S = 0.1
"""How long the loop waits for an answer before it looks whether it was asked to stop."""

DRAIN_S = 10.0
"""How long a stopped run waits for the batches in flight."""

FIRST_PROBE = 10
"""Files of the first probe: if none of them gives a dict, f is not a function for r3po."""

GUARD = 100
"""A run stops if its first outcomes, so many, are failures of one kind."""


@dataclass(slots=True)
class Counts:
    """The job's files as the run goes on: n_done + n_failed + n_pending is constant."""

    n_done: int
    n_failed: int
    n_pending: int
    n_rows_committed: int = 0


@dataclass(slots=True)
class RunLoop:
    """Processes everything that is pending in a job.

    Args:
        states: how each shard stands; those that are committed are left alone.
        pool: started; its workers are loading f.
        stop: whether a signal asked for the end.
        function_name: of f, for messages.
    """

    publisher: Publisher
    states: dict[int, ShardState]
    pool: Pool
    n_workers: int
    observer: Observer
    stop: StopSignals
    function_name: str
    counts: Counts
    _scheduler: Scheduler = field(init=False)
    _segments: dict[int, list[Segment]] = field(init=False)
    _ready: list[int] = field(default_factory=list)
    _tickets: dict[int, list[Ticket]] = field(default_factory=dict)
    _is_probing: bool = False
    _n_probes: int = 0
    _n_probed: int = 0
    _first_failures: list[tuple[str, Failure]] = field(default_factory=list)
    _is_guarded: bool = field(init=False)

    def __post_init__(self) -> None:
        open_states = [state for state in self.states.values() if not state.is_committed]
        pending = [(state.ref.shard, state.pending) for state in open_states]
        self._scheduler = Scheduler(pending, self.n_workers, self.publisher.job.config.batch_seconds)
        self._segments = {state.ref.shard: list(state.segments) for state in open_states}
        # A function that has given rows is not to blame for the first failures of this run.
        self._is_guarded = not any(self.publisher.fingerprint in s.rows_by_fingerprint for s in self.states.values())

    def run(self) -> None:
        """Process until nothing is pending, or raise.

        Raises:
            FunctionError: f cannot be imported, or gives no dict; nothing was recorded.
            RunStoppedError: a worker was lost, f fails on everything, or the disk refused. What was done is saved.
        """
        while not self._scheduler.is_finished:
            if self.stop.is_requested:
                self._drain()
                return
            try:
                self._hand_out()
                for message in self.pool.wait(WAIT_S):
                    self._handle(message)
            except RunStoppedError:
                # The others did nothing wrong: what they have at hand is kept.
                self.stop.tell_workers()
                with contextlib.suppress(R3poError):
                    self._drain()
                raise

    def restage(self, refs: Iterable[ShardRef]) -> None:
        """Make the parts of committed shards again, on the workers, and commit them."""
        waiting = list(refs)
        in_flight: dict[int, list[ShardRef]] = {worker: [] for worker in self._ready}
        while waiting or any(in_flight.values()):
            if self.stop.is_requested:
                raise StopNow  # nothing of f is in flight, and the next run makes these parts
            for worker, queue in in_flight.items():
                while waiting and len(queue) < QUEUE_DEPTH:
                    queue.append(waiting.pop(0))
                    self.pool.submit(worker, Call("stage", self.publisher.stage_order(queue[-1])))
            for message in self.pool.wait(WAIT_S):
                answer = self._accept(message)
                if answer.call.method == "load":
                    in_flight[answer.worker] = []
                else:
                    self.publisher.commit(in_flight[answer.worker].pop(0), answer.value)

    # Private methods: handing out

    def _hand_out(self) -> None:
        if self.publisher.columns is None and (self._scheduler.n_pending or self._is_probing):
            if not self._is_probing:
                self._hand_out_probe()
            return  # the first row comes before everything else
        for depth in range(1, QUEUE_DEPTH + 1):
            for worker in self._ready:
                if len(self._tickets[worker]) < depth:
                    ticket = self._scheduler.next_ticket()
                    if ticket is None:
                        return
                    self._submit(worker, ticket)

    def _hand_out_probe(self) -> None:
        if not self._ready or self._scheduler.n_in_flight:
            return
        limit = FIRST_PROBE if self._n_probes == 0 else GUARD - FIRST_PROBE
        ticket = self._scheduler.next_ticket(limit)
        if ticket is None:
            return
        if isinstance(ticket, BatchTicket):
            self._is_probing = True
            self._n_probes += 1
        self._submit(self._ready[0], ticket)

    def _submit(self, worker: int, ticket: Ticket) -> None:
        argument: Offer | StageOrder
        ref = self.states[ticket.shard].ref
        if isinstance(ticket, StageTicket):
            method, argument = "stage", self.publisher.stage_order(ref, self._segments[ticket.shard])
        else:
            method = "probe" if self._is_probing else "run_batch"
            manifest, publisher = self.publisher.job.built, self.publisher
            attempt = publisher.next_attempt()
            argument = Offer(manifest.job_id, ref, manifest.build, attempt, ticket.places, publisher.columns)
        self._tickets[worker].append(ticket)
        self.pool.submit(worker, Call(method, argument))

    # Private methods: answers

    def _handle(self, message: Answer | WorkerLost) -> None:
        answer = self._accept(message)
        method = answer.call.method
        if method == "load":
            self._ready.append(answer.worker)
            self._tickets[answer.worker] = []
            return
        if method == "probe":
            self._probed(answer)
            return
        if answer.worker not in self._tickets:
            return  # a late word of a worker that was lost
        ticket = self._tickets[answer.worker].pop(0)
        if isinstance(ticket, StageTicket):
            self._staged(ticket, answer.value)
        else:
            self._batch_done(ticket, answer.value)

    def _accept(self, message: Answer | WorkerLost) -> Answer:
        """Return an answer that has a value; everything else ends the run."""
        if isinstance(message, WorkerLost):
            evidence = self._in_doubt(message.worker)
            self._lose(message.worker)
            raise RunStoppedError(
                f"worker {message.worker} died ({message.reason}); what was done is saved",
                evidence=evidence,
                hint="a file may crash the process of your function: let f refuse it (raise), then r3po run goes on;\n"
                "or move it away, then r3po run --no-build",
            )
        if message.error is None:
            return message
        if self._tickets.get(message.worker):
            self._tickets[message.worker].pop(0)  # answered, if badly
        if isinstance(message.error, R3poError):
            raise message.error
        if isinstance(message.error, OSError):
            raise disk_error(message.error) from message.error
        raise message.error

    def _lose(self, worker: int) -> None:
        """Expect nothing of a worker any more; what it had is done again by the next run."""
        self._tickets.pop(worker, None)
        if worker in self._ready:
            self._ready.remove(worker)

    def _in_doubt(self, worker: int) -> str | None:
        """Name the files of the batch that a worker had at hand."""
        for ticket in self._tickets.get(worker, []):
            if isinstance(ticket, BatchTicket):
                ref = self.states[ticket.shard].ref
                paths = read_shard_file(self.publisher.job.folders.shards, ref).paths
                named = [show_name(paths[place]) for start, stop in ticket.places for place in range(start, stop)]
                if len(named) == 1:
                    return f"it was in {named[0]}"
                return f"it was in one of {len(named)} files, {named[0]} to {named[-1]}"
        return None

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
            named = tuple((column.name, column.family) for column in probed.columns.items)
            self.observer(events.ColumnsSet(named, show_name(probed.first_row_path)))
        self._is_probing = False
        # The ticket stays: the answer to this call settles it.
        self.pool.submit(answer.worker, Call("record_probe", probed.columns))

    def _batch_done(self, ticket: BatchTicket, done: BatchDone) -> None:
        if done.segment is not None:
            self._segments[ticket.shard].append(done.segment)
        self._scheduler.batch_done(ticket, done.returned, done.seconds)
        self.counts.n_done += done.n_rows
        self.counts.n_failed += done.n_failed
        self.counts.n_pending -= done.n_rows + done.n_failed
        last = done.failures[-1] if done.failures else None
        shown = "" if last is None else f"{last[0]}  {last[1].error_type}: {last[1].message}"
        self.observer(events.BatchFinished(done.n_rows, done.n_failed, shown))
        self._guard(done)

    def _guard(self, done: BatchDone) -> None:
        """Stop when the first outcomes are all failures of one kind: rather the function's fault than the files'."""
        if not self._is_guarded:
            return
        self._first_failures += done.failures
        kinds = {(failure.error_type, failure.where) for _, failure in self._first_failures}
        if done.n_rows or len(kinds) > 1:
            self._is_guarded = False
        elif len(self._first_failures) >= GUARD:
            _, failure = self._first_failures[0]
            raise RunStoppedError(
                f"the first {len(self._first_failures)} files all failed with "
                f"{failure.error_type}: {_first_line(failure.message)}; nothing else was tried",
                evidence=failure.traceback or failure.where,
                hint="mend the function and run again; without a change, r3po run goes on after these files",
            )

    def _staged(self, ticket: StageTicket, staged: Staged) -> None:
        if staged.commit is None:
            n_missing = sum(stop - start for start, stop in staged.missing)
            log.warning("shard %d: %d places lost their outcome and are done again", ticket.shard, n_missing)
            self.counts.n_pending += n_missing
            self.counts.n_done -= n_missing
            self._scheduler.stage_incomplete(ticket, staged.missing)
            return
        tally = self.publisher.commit(self.states[ticket.shard].ref, staged).tally
        self._scheduler.stage_done(ticket)
        self.counts.n_rows_committed += tally.n_rows
        self._segments.pop(ticket.shard)
        self.observer(events.ShardCommitted(ticket.shard, tally.n_rows, tally.n_failed))

    def _drain(self) -> None:
        """Wait for the batches in flight, which end at their next file, and keep what they did."""
        deadline = time.monotonic() + DRAIN_S
        while any(self._tickets.values()) and time.monotonic() < deadline and not self.stop.is_urgent:
            for message in self.pool.wait(WAIT_S):
                if isinstance(message, WorkerLost):
                    self._lose(message.worker)
                elif not (message.call.method == "load" and message.error is not None):
                    self._handle(message)


# Private functions


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else ""


def _with_article(type_name: str) -> str:
    if type_name == "NoneType":
        return "None"
    return f"{'an' if type_name[:1].lower() in 'aeiou' else 'a'} {type_name}"
