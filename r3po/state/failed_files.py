"""Which files have failed: as `r3po errors` lists them, and as `failures.csv` does."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import r3po.table.outcomes as tables
from r3po.config.settings import Config
from r3po.state.job import Job, read_again, read_job
from r3po.storage.names import show_name
from r3po.table import predicate


def read_failures(config: Config) -> Iterator[dict[str, Any]]:
    """Yield every failed file in row order: path, error_type, message, where, traceback, attempts, seconds.

    Raises:
        StateError: the state is damaged or too new.
    """
    yield from read_again(lambda: list(_failures(read_job(config))))


def iter_failure_lines(job: Job) -> Iterator[bytes]:
    """Yield failures.csv as it has to be, line by line; every shard has its commit."""
    yield _csv_line(_CSV_COLUMNS)
    for failure in _failures(job):
        yield _csv_line([failure[name] for name in _CSV_COLUMNS])


# Private functions

_CSV_COLUMNS = ("path", "error_type", "message", "where", "attempts")


def _failures(job: Job) -> Iterator[dict[str, Any]]:
    if job.manifest is None:
        return
    rules = job.rules()
    for shard in job.iter_shards():
        n_failed = shard.commit.tally.n_failed if shard.commit else 0
        if not n_failed + sum(segment.n_failed for segment in shard.segments):
            continue
        table = shard.read_candidates()[0].table
        entries = shard.read_entries()
        needed = entries.needed_builds
        indices = predicate.choose(table, needed, rules)
        table = predicate.with_tries_summed(table, indices, needed, rules)
        for failure in tables.failures_of(table, indices):
            place, tries = failure.pop("place"), failure.pop("tries")
            seconds = round(failure.pop("seconds"), 6)
            yield {"path": show_name(entries.paths[place]), **failure, "attempts": tries, "seconds": seconds}


def _csv_line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    # Older Pythons quote a "\r" only if it ends lines, too.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8")
