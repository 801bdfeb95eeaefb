"""What happens inside a worker: look at a file, call f, look again, and make a batch's outcomes durable.

No Ray here: the same code runs in Ray's actors and in the serial engine. A worker decides nothing and publishes
nothing; it answers with what it made durable, and gives back the places that it did not come to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat

import r3po.table.outcomes as tables
from r3po.file_version import UNKNOWN_VERSION, UNSEEN, FileVersion
from r3po.function.find import fingerprint_of_file
from r3po.function.load import extend_sys_path, load_function
from r3po.function.made import make_function
from r3po.state.segments import Segment, SegmentWriter
from r3po.state.shard_files import parse_entries
from r3po.table.columns import Columns, RowCollector
from r3po.table.outcomes import Failure
from r3po.work import Batch, iter_places
from r3po.worker.beacon import Beacon, Phase
from r3po.worker.call import Caller
from r3po.worker.files import files_of
from r3po.worker.many_files import ManyFiles
from r3po.worker.many_rows import ManyRows
from r3po.worker.messages import BatchDone, Probed, ShardContext, WorkerSetup
from r3po.worker.open_batch import ENVIRONMENTAL_RUN, OpenBatch, read_clock
from r3po.worker.probe import Probe
from r3po.worker.processor import Processor
from r3po.worker.rows import append_outcome, note_file
from r3po.worker.shard_lines import ShardLines
from r3po.worker.staging import Staged, StageOrder, stage_shard

BATCH_BYTES = 64 << 20
"""A batch ends early once its outcomes hold about this many bytes."""

STOP_CHECK_S = 0.1
"""How often a worker looks whether the run is to stop."""


class Worker:
    """Calls f and writes segments; one a process.

    Args:
        number: names its beacon; no two workers of a run have one.
        should_stop: asked now and then instead of the stop file, by an engine in the driver's own process.
    """

    def __init__(self, setup: WorkerSetup, number: int = 0, should_stop: Callable[[], bool] | None = None) -> None:
        self._setup = setup
        self.beacon = Beacon(setup.workers_folder, number)
        self._caller = Caller(setup.timeout_s, self.beacon)
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._should_stop = should_stop or setup.stop_file.exists
        self._files = files_of(
            setup.source_path, setup.store, wants_data=setup.input == "bytes", wants_hash=setup.hash == "content"
        )
        takes_many = setup.batch_files is not None
        self._processor = Processor(self.beacon, self._caller, self._files, takes_many=takes_many)
        self._many: ManyFiles | None = None
        """Of an f that takes many files at once."""
        if setup.batch_files is not None:
            self._many = ManyFiles(setup.batch_files, self.beacon, self._caller, self._files, self._processor)
        self._lines = ShardLines(setup.folders.shards)
        self._probe: OpenBatch | None = None

    def load(self) -> str | None:
        """Import the user's function, or make it, and return the fingerprint of its file as it is now, if it has one.

        Raises:
            FunctionError: it cannot be imported, or not be made.
        """
        self.beacon.mark(Phase.LOADING)
        extend_sys_path(self._setup.function.sys_path)
        tables.complete_imports()  # before f's module, which may stop the clock: pandas does not bear that
        found = load_function(self._setup.function)
        fingerprint = fingerprint_of_file(self._setup.function)
        self.beacon.mark(Phase.MAKING)
        made = make_function(found, self._setup.function, self._setup.current_folder)
        self._caller.function, self._caller.close = made
        self.beacon.mark(Phase.IDLE)
        return fingerprint

    def finish(self, limit_s: float) -> str:
        """Close f, which is called no more, and return what went wrong with that, for people; empty: nothing did."""
        with self._busy(Phase.CLOSING):
            return self._caller.finish(limit_s)

    def run_batch(self, batch: Batch, shard: ShardContext) -> BatchDone:
        """Do as much of a batch as fits into `batch_seconds`, and make it durable.

        Raises:
            DamagedStateError: the shard file is not the one that the manifest names.
            OSError: the segment could not be written; nothing of the batch counts.
        """
        with self._busy(Phase.RECORDING):
            opened = self._open(batch, shard)
            with opened.abandoned_on_error():
                if not self._should_stop():
                    self._fill_batch(opened)
                return self._record(opened, shard.columns)

    def probe(self, batch: Batch, shard: ShardContext) -> Probed:
        """Call f until a file gives a row, and keep what came out for `record_probe`."""
        with self._busy(Phase.RECORDING):
            opened = self._open(batch, shard)
            with opened.abandoned_on_error():
                return self._probe_files(opened)

    def record_probe(self, columns: Columns | None) -> BatchDone:
        """Make the outcomes of the last probe durable, now that the columns are."""
        assert self._probe is not None, "record_probe follows probe"
        opened, self._probe = self._probe, None
        with self._busy(Phase.RECORDING), opened.abandoned_on_error():
            return self._record(opened, columns)

    def record_failure(
        self, batch: Batch, shard: ShardContext, failure: Failure, version: FileVersion = UNKNOWN_VERSION
    ) -> BatchDone:
        """Record the failure of files that ended their worker, or would not end; f is not called.

        Args:
            version: of the file before f was called the last time; recorded if the file was only listed before.
        """
        with self._busy(Phase.RECORDING):
            opened = self._open(batch, shard, calls=False)
            for place, _, listed in opened.files:
                # As it is now, it may be another one than f failed on.
                note_file(opened.outcomes, place, version if listed[0] == UNSEEN else FileVersion(*listed))
                append_outcome(opened.outcomes, None, failure)
            return self._record(opened, shard.columns)

    def stage(self, order: StageOrder) -> Staged:
        """Stage a shard; see `stage_shard`."""
        with self._busy(Phase.STAGING):
            lines = self._lines.take(order.ref)
            return stage_shard(order, None if lines is None else parse_entries(lines))

    def close(self) -> None:
        """Let the beacon go; what it says last is that nothing is going on. No copy of a file is left."""
        if self._probe is not None and self._probe.segment is not None:
            self._probe.segment.abandon()
        self._files.close()
        self.beacon.mark(Phase.IDLE)
        self.beacon.close()

    # Private methods

    @contextmanager
    def _busy(self, phase: Phase) -> Iterator[None]:
        """Say what is being done; afterwards, that it is done."""
        os.umask(self._umask)
        self.beacon.mark(phase)
        try:
            yield
        except Exception:
            self.beacon.mark(Phase.IDLE)
            raise
        # Not after what ends this process (Ray, whose driver died): the file at hand stays named.
        self.beacon.mark(Phase.IDLE)

    def _probe_files(self, opened: OpenBatch) -> Probed:
        self._probe, probe = opened, Probe(opened, self._setup.column_settings, takes_many=self._many is not None)
        while not probe.is_over:
            if self._should_stop():
                probe.is_stopped = True
                break
            if not self._probe_next(opened, probe):
                break
            probe.is_over = probe.is_over or opened.is_spent
        return probe.result()

    def _probe_next(self, opened: OpenBatch, probe: Probe) -> bool:
        """Call f once, unless no file is left."""
        if self._many is not None:
            files = self._many.next_files(opened)
            for returned in self._many.call(opened, files) if files else ():
                probe.take(*returned)
            return bool(files)
        file = next(opened.files, None)
        if file is None:
            return False
        probe.take(*file[:2], *self._processor.process(opened, *file))
        return True

    def _open(self, batch: Batch, shard: ShardContext, *, calls: bool = True) -> OpenBatch:
        """Begin a batch. Args: calls: f is called with its files, which may be read ahead."""
        started = read_clock()
        lines = self._lines.at(shard.ref, batch.places) if shard.lines is None else shard.lines
        entries = parse_entries(lines)
        listed = list(zip(entries.sizes, entries.mtimes_ns, repeat(None), repeat(False), entries.tags))
        files = zip(iter_places(batch.places), entries.paths, listed, strict=True)
        opened = OpenBatch(batch, shard, entries.paths, files, started, waited_s=-self._files.waited_s)
        if calls:
            self._files.begin(entries.paths, listed)
        if self._setup.has_many_rows:
            opened.outcomes.has_blocks = True
            opened.segment = SegmentWriter(self._setup.segments, shard.ref.shard)
            settings, uninterrupted = self._setup.column_settings, self._uninterrupted
            opened.rows = ManyRows(opened.segment, shard.columns, settings, uninterrupted)
        return opened

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """Give a block, within a call of f, in which r3po writes."""
        with self._caller.uninterrupted():
            own = os.umask(self._umask)  # f may have changed it, and the driver must be able to read what is written
            try:
                yield
            finally:
                os.umask(own)

    def _fill_batch(self, opened: OpenBatch) -> None:
        columns = opened.shard.columns
        collector = RowCollector(columns) if columns is not None and opened.rows is None else None
        if self._many is None:
            self._fill(opened, collector)
        else:
            self._fill_with_many(self._many, opened, collector)
        self._files.look(len(opened.outcomes.places) + len(opened.deferred))

    def _fill(self, opened: OpenBatch, collector: RowCollector | None) -> None:
        """Call f on one file after the other until the batch is full, the time is up or the run is to stop."""
        batch, files = opened.outcomes, self._files
        deadline = opened.started + self._setup.batch_seconds
        next_check = opened.started + STOP_CHECK_S
        failure_bytes = 0
        for place, path, listed in opened.files:
            returned, failure = self._processor.process(opened, place, path, listed)
            failure_bytes += opened.take(place, returned, failure, collector)
            if opened.is_spent or opened.n_deferred_last >= ENVIRONMENTAL_RUN:
                return
            if files.is_ahead:
                self.beacon.mark(Phase.RECORDING)  # what may hang here is another file
                files.advance()
            now = read_clock()
            if now >= next_check:
                next_check = now + STOP_CHECK_S
                self._caller.leave_if_forked()
                if now >= deadline or self._should_stop():
                    return
                self.beacon.mark(Phase.RECORDING)
                files.look(len(batch.places) + len(opened.deferred))
            if failure_bytes + opened.size_bytes(collector) >= BATCH_BYTES:
                return

    def _fill_with_many(self, many: ManyFiles, opened: OpenBatch, collector: RowCollector | None) -> None:
        """The same, with many files a call; to a call that was begun its end."""
        deadline = opened.started + self._setup.batch_seconds
        failure_bytes = 0
        while files := many.next_files(opened):
            for place, _, returned, failure in many.call(opened, files):
                failure_bytes += opened.take(place, returned, failure, collector)
            self._caller.leave_if_forked()
            self.beacon.mark(Phase.RECORDING)
            for _ in files if self._files.is_ahead else ():
                self._files.advance()
            self._files.look(len(opened.outcomes.places) + len(opened.deferred))
            size_bytes = failure_bytes + opened.size_bytes(collector)
            is_over = read_clock() >= deadline or size_bytes >= BATCH_BYTES or self._should_stop()
            if is_over or opened.is_spent or opened.n_deferred_last >= ENVIRONMENTAL_RUN:
                return

    def _record(self, opened: OpenBatch, columns: Columns | None) -> BatchDone:
        self._caller.leave_if_forked()
        os.umask(self._umask)  # f may have changed it, and the driver must be able to read what is written here
        self.beacon.mark(Phase.RECORDING)
        opened.waited_s += self._files.waited_s  # which began below zero
        if not opened.outcomes.places:
            return opened.done(None)
        segment, content = self._write(opened, columns)  # may turn rows into failures
        return opened.done(segment, content)

    def _write(self, opened: OpenBatch, columns: Columns | None) -> tuple[Segment, bytes | None]:
        shard, batch = opened.shard, opened.outcomes
        if opened.rows is not None:
            opened.rows.finish(batch)
        table = tables.outcome_table(batch, columns)
        with opened.segment or SegmentWriter(self._setup.segments, shard.ref.shard) as writer:
            segment = writer.finish(
                table,
                build=shard.build,
                job_id=shard.job_id,
                attempt=shard.attempt,
                fingerprint=self._setup.function.fingerprint,
                n_failed=len(batch.failures),
            )
            return segment, writer.content
