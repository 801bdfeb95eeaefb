"""What workers are told: the call for each piece of work, with all that its worker cannot see by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from r3po.engines.pool import Call, Role
from r3po.file_version import FileVersion
from r3po.run.publisher import Publisher
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment
from r3po.state.shards import ShardState
from r3po.table.outcomes import Failure
from r3po.work import Batch, RecordFailure
from r3po.worker.messages import ShardContext
from r3po.worker.shard_lines import ShardLines


class Orders:
    """Makes the calls of a run.

    Args:
        states: how each shard stands.
        lines: of the shard files, for workers that cannot read them.
    """

    def __init__(self, publisher: Publisher, states: Mapping[int, ShardState], lines: ShardLines) -> None:
        self._publisher, self._states, self._lines = publisher, states, lines
        self._segments: dict[int, list[Segment]] = defaultdict(list)
        for state in states.values():
            if state.segments:
                self._segments[state.ref.shard] = list(state.segments)

    def add_segment(self, segment: Segment) -> None:
        """Take note of what a shard is to be staged from."""
        self._segments[segment.shard].append(segment)

    def forget_segments(self, shard: int) -> None:
        """Take note that a shard is committed."""
        self._segments.pop(shard, None)

    def ref_of(self, shard: int) -> ShardRef:
        """Return how the manifest names a shard's file."""
        return self._states[shard].ref

    def stage(self, shard: int) -> Call:
        return Call("stage", (self._publisher.stage_order(self.ref_of(shard), self._segments[shard]),))

    def batch(self, work: Batch, role: Role, *, is_probe: bool) -> Call:
        return Call("probe" if is_probe else "run_batch", (work, self._context_of(work, role)))

    def record_failure(self, work: RecordFailure, role: Role, evidence: tuple[Failure, FileVersion]) -> Call:
        batch = Batch(work.number, work.shard, ((work.place, work.place + 1),))
        return Call("record_failure", (batch, self._context_of(batch, role), *evidence))

    # Private methods

    def _context_of(self, batch: Batch, role: Role) -> ShardContext:
        ref, publisher = self.ref_of(batch.shard), self._publisher
        manifest = publisher.job.built
        lines = None if role.can_stage else self._lines.at(ref, batch.places)
        return ShardContext(manifest.job_id, ref, manifest.build, publisher.next_attempt(), publisher.columns, lines)
