"""Staging: from a shard's segments to its outcomes file and its parts, in one pass and in place order.

A worker stages, from an exact list that the driver gives it; nothing here decides or publishes. What is staged counts
only once the driver wrote the commit that is returned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import r3po.table.outcomes as tables
import r3po.table.parts as parts
from r3po.file_version import FileVersion
from r3po.state.commits import Commit
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.output_folder import KINDS, Part, part_name, part_names
from r3po.state.segments import Segment
from r3po.state.shard_files import Entries, read_shard_file, write_shard_file
from r3po.state.shards import Shard, missing_spans
from r3po.storage.durable import FileRecord, NewFile
from r3po.storage.names import show_name
from r3po.table import outcome_files, predicate
from r3po.table import schema as schemas
from r3po.table.columns import Columns
from r3po.table.outcomes import Schema, Tally
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes
from r3po.work import Span


@dataclass(frozen=True, slots=True)
class StageOrder:
    """Everything that a worker needs to stage one shard."""

    folders: JobFolders
    job_id: str
    job_name: str
    version: str
    """The version of r3po, for the Parquet metadata."""
    ref: ShardRef
    build: int
    attempt: str
    previous: Commit | None
    segments: tuple[Segment, ...]
    """Outcomes since `previous`; without any only the parts are made again, without the files that were deleted."""
    rules: CountingRules
    columns: Columns | None
    settings: dict[str, Any]
    """What parts to make: `csv` true or false, `parquet` false or its compression and level; and what they show."""
    schema: Schema | None
    """The types that the job's columns are known to need; the parts get the join of these and their own."""


@dataclass(frozen=True, slots=True)
class Staged:
    """The result of a StageOrder."""

    shard: int
    commit: Commit | None
    """Ready to be decided; None if places lack an outcome."""
    missing: tuple[Span, ...] = ()
    """Places that no outcome covers, since a segment turned out to be damaged."""


def stage_shard(order: StageOrder, entries: Entries | None = None) -> Staged:
    """Make the outcomes file and the parts of one shard durable, under names that no commit has yet.

    Args:
        entries: what the shard file holds, if it was read already; they will be changed.

    Raises:
        DamagedStateError: the shard file or the last outcomes file is not what the manifest or commit names.
        OSError: the disk refused.
        RunStoppedError: the rows add too many columns.
    """
    if entries is None:
        entries = read_shard_file(order.folders.shards, order.ref)
    shard = Shard(order.folders, order.ref, order.previous, order.segments)
    outcomes, _ = shard.read_candidates(scratch=order.folders.outcomes)
    table = outcomes.table
    needed = entries.needed_builds
    indices = predicate.choose(table, needed, order.rules)
    places = tables.places_of(table, indices)
    missing = tuple(missing_spans(places, needed))
    if missing:
        return Staged(order.ref.shard, None, missing)
    if order.segments or order.previous is None or len(indices) != len(table):
        table = predicate.with_tries_summed(table, indices, needed, order.rules)
        record = _write_outcomes(order, outcomes._replace(table=table), indices)
    else:
        record = order.previous.outcomes
    adopted = _adopt_entries(order, entries, places, tables.seen_files(table, indices))
    columns = order.columns or Columns(())
    rows = outcomes.choose_rows(indices)
    own_schema = schemas.own_schema(rows, columns)
    joined = own_schema if order.schema is None else schemas.join_schemas([order.schema, own_schema])
    schema = schemas.part_schema(joined, columns) if len(own_schema) else own_schema
    shown = parts.ShownRows(rows, columns, [show_name(path) for path in entries.paths] if columns.source else ())
    counted = tables.tally(table, indices)
    commit = Commit(
        job_id=order.job_id,
        shard=order.ref.shard,
        build=order.build,
        made_from=order.ref.file.sha256,
        entries=adopted,
        outcomes=record,
        tally=counted,
        first_build=tables.lowest_build(table.select(["build"]).take(indices)) or order.build,
        own_schema=own_schema,
        schema=schema,
        parts=_write_parts(order, shown, schema, counted),
        part_settings=order.settings,
        keeps_deleted=order.rules.keeps_deleted,
        dropped=tables.dropped_keys(table, indices),
    )
    return Staged(order.ref.shard, commit)


# Private functions


def _write_outcomes(order: StageOrder, outcomes: Outcomes, indices: Any) -> FileRecord:
    metadata = {"r3po.job_id": order.job_id, "r3po.shard": str(order.ref.shard), "r3po.build": str(order.build)}
    with NewFile(order.folders.outcomes) as new:
        outcome_files.write_chosen(new, outcomes, indices, metadata)
        return new.finish(f"{order.ref.shard:05d}.b{order.build}.{order.attempt}.arrow")


def _adopt_entries(order: StageOrder, entries: Entries, places: Sequence[int], seen: Sequence[FileVersion]) -> ShardRef:
    """Return the shard file that says what f saw: a new one, or the old one if that says it already."""
    if not entries.adopt_all(places, seen):
        return order.ref
    return write_shard_file(order.folders.shards, order.ref.shard, order.build, entries)


def _write_parts(order: StageOrder, shown: parts.ShownRows, schema: Schema, tally: Tally) -> tuple[Part, ...]:
    shard, output = order.ref.shard, order.folders.output
    made: list[Part] = []
    kinds = [kind for kind in KINDS if order.settings[kind]]
    metadata = parts.part_metadata(order.job_name, shard, order.version, tally.done_by_fingerprint)
    cuts = parts.part_groups(shown, schema, order.settings) if kinds else []
    names = {kind: part_names(shard, kind, len(cuts)) for kind in kinds}
    for number, groups in enumerate(cuts):
        with ExitStack() as stack:
            files = {kind: stack.enter_context(output.new_part()) for kind in kinds}
            parts.write_parts(files, shown, schema, metadata, order.settings, groups)
            for kind, file in files.items():
                made.append(output.finish_part(file, names[kind][number], kind, order.attempt))
    # What has such a name and is no part any more goes with the commit.
    named = {(part.kind, part.name) for part in made}
    before = [(kind, part_name(shard, kind)) for kind in KINDS]
    # Those that are to go already, too: the commit that says so may not be in force yet.
    before += [(part.kind, part.name) for part in (order.previous.parts if order.previous else ())]
    return (*made, *(Part(kind, name, None) for kind, name in dict.fromkeys(before) if (kind, name) not in named))
