"""Shards of a job as workers leave them: segments are written and parts are staged by r3po's own code."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import r3po.table.outcomes as tables
from r3po.state.commits import Commit
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, SegmentWriter
from r3po.state.shard_files import Entries, write_shard_file
from r3po.storage.durable import digest_file
from r3po.table.columns import Columns, RowCollector, columns_of
from r3po.table.outcomes import Failure, OutcomeBatch
from r3po.table.predicate import CountingRules
from r3po.table.values import BadRowError
from r3po.worker.staging import StageOrder, stage_shard

BROKE = Failure("ValueError", "broke", "f.py:3 in f", "Traceback ...\n")
JOB_ID = "0123456789abcdef0123456789abcdef"
BOTH = {"csv": True, "parquet": {"compression": "zstd", "level": 3}}


def write_segment(segments: Path, table: tables.Table, *, shard: int, **names: Any) -> Segment:
    """Make outcomes durable as a segment, as a worker does without row blocks."""
    with SegmentWriter(segments, shard) as writer:
        return writer.finish(table, **names)


COLUMNS = columns_of({"n": 1, "t": "x"})


def hash_of(place: int) -> bytes:
    return bytes([place % 256]) * 16


@dataclass
class Shard:
    """One shard of a job in a folder of its own; segments are written as workers write them."""

    folders: JobFolders
    ref: ShardRef
    columns: Columns | None = COLUMNS
    segments: list[Segment] = field(default_factory=list)

    def write(
        self,
        outcomes: dict[int, Any],
        *,
        build: int = 1,
        attempt: str | None = None,
        fingerprint: str = "f1",
        sizes: dict[int, int] | None = None,
        hash_: bool = True,
    ) -> Segment:
        """Write one segment: a row's values or a Failure for each place, in the order given."""
        batch = OutcomeBatch()
        collector = RowCollector(self.columns) if self.columns else None
        for i, (place, outcome) in enumerate(outcomes.items()):
            batch.places.append(place)
            batch.sizes.append((sizes or {}).get(place, 100 + place))
            batch.mtimes_ns.append(10**18 + place)
            batch.hashes.append(hash_of(place) if hash_ else None)
            batch.racy.append(False)
            batch.seconds.append(0.5)
            if isinstance(outcome, Failure) or collector is None or self.columns is None:
                batch.failures[i] = outcome
                batch.rows.append(None)
            else:
                try:
                    batch.rows.append(collector.take(dict(zip(self.columns.names, outcome, strict=True))))
                except BaseException as error:  # like a worker: values may raise anything
                    message = str(error) if isinstance(error, BadRowError) else ""
                    batch.failures[i] = Failure(type(error).__name__, message, "", "")
                    batch.rows.append(None)
        table = tables.outcome_table(batch, self.columns)
        segment = write_segment(
            self.folders.segments,
            table,
            shard=self.ref.shard,
            build=build,
            job_id=JOB_ID,
            attempt=attempt or f"w{len(self.segments)}",
            fingerprint=fingerprint,
            n_failed=len(batch.failures),
        )
        self.segments.append(segment)
        return segment

    def order(self, **changes: Any) -> StageOrder:
        order = StageOrder(
            folders=self.folders,
            job_id=JOB_ID,
            job_name="count",
            version="0.3.0",
            ref=self.ref,
            build=1,
            attempt="s1",
            previous=None,
            segments=tuple(self.segments),
            rules=CountingRules(redo_since=0, retry_since=0),
            columns=self.columns,
            settings=BOTH,
            schema=None,
        )
        return dataclasses.replace(order, **changes)

    def stage(self, **changes: Any) -> Commit:
        staged = stage_shard(self.order(**changes))
        assert staged.shard == self.ref.shard
        assert staged.missing == ()
        assert staged.commit is not None
        return staged.commit

    def part(self, commit: Commit, kind: str) -> bytes:
        """Return the content of a staged part, after a look at its record."""
        (found,) = [part for part in commit.parts if part.kind == kind]
        assert found.staged is not None
        path = self.folders.output.staging / found.staged.name
        assert digest_file(path) == (found.staged.size_bytes, found.staged.sha256)
        return path.read_bytes()

    def csv_rows(self, commit: Commit) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.part(commit, "csv").decode(), newline="")))

    def parquet(self, commit: Commit) -> Any:
        return pq.read_table(io.BytesIO(self.part(commit, "parquet")))


def make_shard(
    folder: Path,
    n_files: int,
    *,
    shard: int = 7,
    columns: Columns | None = COLUMNS,
    hashed: bool = True,
    builds: Sequence[int] | None = None,
    names: Iterable[str] | None = None,
) -> Shard:
    folders = JobFolders(folder / "work", folder / "out")
    folders.make()
    entries = Entries()
    for place, name in enumerate(names or (f"f{i}.json" for i in range(n_files))):
        hash_ = hash_of(place) if hashed else None
        build = builds[place] if builds else 1
        entries.append(name, 100 + place, 10**18 + place, build, hash_=hash_)
    return Shard(folders, write_shard_file(folders.shards, shard, 1, entries), columns)
