"""Whether the rows that are there fit what the config says of the columns now: asked before anything is changed for it.

Parts are made from the outcomes, without f; so another order, fewer columns and other types cost no call of f, as long
as every value fits. What does not fit is told, column by column; whether rows are made again is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from r3po.errors import ConfigError
from r3po.state.commits import Commit
from r3po.state.job import Job
from r3po.state.manifest import read_columns
from r3po.state.shards import Shard
from r3po.storage.names import show_name
from r3po.table import schema as schemas
from r3po.table.added import added_names
from r3po.table.column_types import ColumnType
from r3po.table.columns import Columns, ColumnSettings


def check_columns(job: Job) -> None:
    """Make sure that parts can be made as the config says from the rows that are there.

    Opens the outcomes of those shards alone whose parts were made for other types, and what is not committed yet.

    Raises:
        ConfigError: a column has no values, or some do not fit; nothing was changed.
        DamagedStateError: an outcomes file is not what its commit names.
    """
    wanted = job.config.column_settings
    known = read_columns(job.config.working_dir, job.built)
    if known is None:
        return
    names = known[0].names
    added = _added(job, wanted, len(names))
    for key, name in wanted.own_names:
        if name in names:
            raise _unfit(job, {name: f"the rows have a column of that name, and {key} would be another"})
        if name in added:
            raise _unfit(job, {name: f"rows have added a column of that name, and {key} is another"})
    found = {
        name: f"the rows that are there have {'added it, without a type' if name in added else 'no such column'}"
        for name, _ in wanted.column_types or ()
        if name not in set(names)
    }
    if not found:
        column_types = {names.index(name): column_type for name, column_type in wanted.column_types or ()}
        found = {names[i]: why for i, why in sorted(_misfits(job, known[0], column_types).items())}
    if found:
        raise _unfit(job, found)


# Private functions


def _added(job: Job, wanted: ColumnSettings, n_columns: int) -> set[str]:
    """Return the columns that rows have added to the job's `n_columns`, as far as that matters."""
    if not wanted.column_types and not (wanted.own_names and wanted.rules.adds):
        return set()
    found: set[str] = set()
    for shard in job.iter_shards():
        if shard.commit is not None and shard.commit.first_build >= job.built.redo_since:
            found.update(shard.commit.own_schema.names[n_columns:])
        if shard.segments and wanted.rules.adds:
            outcomes, _ = replace(shard, commit=None).read_candidates(scratch=job.folders.outcomes)
            found.update(added_names(outcomes.choose_rows(shard.choose(outcomes.table, job.rules()))))
    return found


def _unfit(job: Job, found: dict[str, str]) -> ConfigError:
    width = max(len(name) for name in found)
    redo = "--redo --restart" if job.built.is_redoing else "--redo"  # which else goes on with the same columns
    return ConfigError(
        f"{job.config.path.name} and the rows that are there do not go together; nothing was changed",
        evidence="\n".join(f"{name:{width}}   {why}" for name, why in found.items()),
        hint=f"change `columns` or `source_column`, or make all rows again: r3po run {redo}",
    )


def _misfits(job: Job, columns: Columns, column_types: dict[int, ColumnType]) -> dict[int, str]:
    """Return for each column of which a value does not fit where the first such value is, and why."""
    found: dict[int, str] = {}
    for shard in _to_look_at(job, columns, column_types):
        outcomes, _ = shard.read_candidates(scratch=job.folders.outcomes)
        rows = outcomes.choose_rows(shard.choose(outcomes.table, job.rules()))
        for i, column_type in column_types.items():
            misfit = None if i in found else schemas.first_misfit(rows, i, column_type)
            if misfit is not None:
                place, why = misfit
                path = shard.read_entries().paths[place]
                found[i] = f"{why}   ({show_name(path)})"
    return found


def _to_look_at(job: Job, columns: Columns, column_types: dict[int, ColumnType]) -> Iterator[Shard]:
    """Yield the shards that may have a value that does not fit, each with what may hold it."""
    for shard in job.iter_shards() if column_types else ():
        commit = shard.commit
        if (
            commit is not None
            and commit.first_build >= job.built.redo_since
            and _may_misfit(commit, columns, column_types)
        ):
            yield shard
        elif shard.segments:
            yield replace(shard, commit=None)


def _may_misfit(commit: Commit, columns: Columns, column_types: dict[int, ColumnType]) -> bool:
    if not commit.tally.n_rows:
        return False
    held = {name: column_type for name, column_type in commit.part_settings.get("columns", ())}
    return any(
        held.get(columns.names[i]) != str(column_type)
        and not schemas.surely_fits(commit.own_schema.field(i).type, column_type)
        for i, column_type in column_types.items()
    )
