"""The end of a run: one schema over all parts, failures.csv, the manifest with all hashes, `_SUCCESS`.

Every step can be repeated. `_SUCCESS` is the proof that all of them were taken; a run that misses it takes them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r3po import events
from r3po.events import Observer
from r3po.run.publisher import Publisher
from r3po.state.commits import Commit
from r3po.state.failed_files import iter_failure_lines
from r3po.state.job import Job
from r3po.state.manifest import ShardRef
from r3po.state.output_folder import KINDS
from r3po.state.segments import Segment
from r3po.storage.names import show_name
from r3po.table import schema as schemas
from r3po.table.columns import Columns
from r3po.table.mixed import Mixture, describe_mixed, find_mixture, iter_values, mixing_shards
from r3po.table.ragged import told_columns, told_dropped

Stage = Callable[[dict[ShardRef, Sequence[Segment]]], None]
"""Stages and commits shards; those given without segments get their parts made again."""


def make_end(publisher: Publisher, stage: Stage, observer: Observer, *, is_needed: bool) -> bool:
    """Make the end of a job of which every shard is committed.

    Args:
        is_needed: take the steps even if their proof is there: this run committed something.

    Returns:
        Whether there was something to make.

    Raises:
        OSError: the disk refused; the next run makes the end.
        RunStoppedError: the rows add more columns than a table can bear.
    """
    job = publisher.job
    job.adopt_entries()
    publisher.forget_replaced()
    publisher.check_added()
    stale = _stale_commits(publisher)
    kinds = [kind for kind in KINDS if job.part_settings[kind]]
    if job.folders.output.has_success(kinds) and not (stale or is_needed or job.built.is_redoing):
        return False
    broken = sorted(job.broken_shards)
    refs = {ref.shard: ref for ref in job.built.shards}
    stage({refs[commit.shard]: () for commit in stale})
    if broken:
        observer(events.PartsRepaired(tuple(f"part-{shard:05d}" for shard in broken)))
    _warn_of_columns(job, publisher.columns, observer)
    _tell_dropped(job, observer)
    job.folders.output.write_failures(iter_failure_lines(job))
    job.note_end()
    job.folders.output.set_success(kinds)  # Last: it says that everything else is there.
    return True


# Private functions


def _stale_commits(publisher: Publisher) -> list[Commit]:
    """Return the commits whose parts are missing, or were made with other types or settings than the job's."""
    job = publisher.job
    return [
        commit
        for commit in job.commits.values()
        if commit.part_settings != job.part_settings
        or commit.shard in job.broken_shards
        or (commit.tally.n_rows and commit.schema != publisher.part_schema)
    ]


def _warn_of_columns(job: Job, columns: Columns | None, observer: Observer) -> None:
    """Say which columns of the parts are not what their values are; the same whatever the order of the rows."""
    known = {commit.shard: commit.own_schema for commit in job.commits.values() if commit.tally.n_rows}
    if not known or columns is None:
        return
    joined = schemas.join_commits(known)
    for name in schemas.mixed_columns(joined, columns):
        text = f"{describe_mixed(name, _mixture(job, columns, name))}; it is text in all parts"
        hint = "give the column's type with columns: in the config, then r3po run --redo; "
        hint += "a file that does not fit is a failure with its name"
        observer(events.Notice(text, hint=hint, is_warning=True))
    if as_json := schemas.mixed_columns(joined, columns, as_json=True):
        text = f"{told_columns(as_json)} values of different kinds, or too many keys: JSON text in all parts"
        observer(events.Notice(text))
    for name in schemas.rounded_columns(joined, columns):
        text = f'column "{name}" holds floats beside ints beyond 2^53, which are rounded in all parts'
        hint = "return these ints as text, or give the column's type with columns: in the config"
        observer(events.Notice(text, hint=hint, is_warning=True))


def _tell_dropped(job: Job, observer: Observer) -> None:
    """Say which keys of the rows that count were left out, now or when `extra_keys` said something else."""
    n_files: Counter[str] = Counter()
    for commit in job.commits.values():
        n_files.update(commit.dropped)
    if not n_files:
        return
    text = told_dropped(n_files)
    hint = "extra_keys: add makes columns of them, after r3po run --redo"
    if job.config.extra_keys == "add":
        hint = "these files were done before extra_keys was add; r3po run --redo makes columns of them"
    observer(events.Notice(text, hint=hint))


def _mixture(job: Job, columns: Columns, name: str) -> Mixture | None:
    """Return where a column that is text holds values of two kinds. At most two shards are looked into."""
    i = columns.names.index(name)
    known = [commit for _, commit in sorted(job.commits.items()) if commit.tally.n_rows]
    shards = {known[number].shard for number in mixing_shards([commit.own_schema for commit in known], i)}
    rules = job.rules()

    def values() -> Iterator[tuple[str, Any]]:
        for shard in job.iter_shards():
            if shard.ref.shard in shards:
                outcomes, _ = shard.read_candidates(scratch=job.folders.outcomes)
                rows = outcomes.choose_rows(shard.choose(outcomes.table, rules))
                paths = shard.read_entries().paths
                yield from ((show_name(paths[place]), value) for place, value in iter_values(rows, i))

    return find_mixture(name, values())
