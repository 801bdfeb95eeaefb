"""How a job stands, and which files failed. It reads state only, and needs no Ray and no f.

`read_status` and `read_failures` take no lock: they work while a run is going on, and read again what it replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson

import r3po.tables as tables
from r3po.config import Config
from r3po.job import Job, read_again, read_job
from r3po.manifest import read_shard_file
from r3po.segments import list_segments
from r3po.shardstate import newer_segments, read_counting
from r3po.storage import ago, list_names, running_pid, show_name


def read_status(config: Config) -> dict[str, Any]:
    """Return the job's counts, as `r3po status --json` prints them.

    Returns:
        schema_version, job_name, build, files, done, failed, pending, size_bytes, shards, committed_shards, functions
        (rows by fingerprint), last_run (for people: how the last run ended, or that one is going on).

    Raises:
        StateError: the state is damaged or too new.
    """
    return read_again(lambda: _status(config))


def read_failures(config: Config) -> Iterator[dict[str, Any]]:
    """Yield every failed file in row order: path, error_type, message, where, traceback, attempts, seconds.

    Raises:
        StateError: the state is damaged or too new.
    """
    yield from read_again(lambda: list(_failures(read_job(config))))


# Private functions


def _status(config: Config) -> dict[str, Any]:
    job = read_job(config)
    status: dict[str, Any] = {"schema_version": 1, "job_name": config.job_name, "build": 0, "files": 0}
    counts = {"done": 0, "failed": 0, "pending": 0, "size_bytes": 0, "shards": 0, "committed_shards": 0}
    functions: dict[str, int] = {}
    if job.manifest is not None:
        status |= {"build": job.built.build, "files": job.built.count_job_files}
        counts |= {"size_bytes": job.built.size_bytes, "shards": len(job.built.shards)}
        for state in job.resolve(None).values():
            counts["done"] += state.n_done
            counts["failed"] += state.n_failed
            counts["pending"] += state.n_pending
            counts["committed_shards"] += state.is_committed
            for fingerprint, n in state.rows_by_fingerprint.items():
                functions[fingerprint] = functions.get(fingerprint, 0) + n
    return {**status, **counts, "functions": functions, "last_run": _last_run(job)}


def _last_run(job: Job) -> str:
    pid = running_pid(job.folders.working_dir)
    if pid is not None:
        return f"a run is going on: pid {pid}"
    last = max(list_names(job.folders.runs), default=None)
    if last is None:
        return "no run yet"
    try:
        summary = orjson.loads((job.folders.runs / last / "summary.json").read_bytes())
        when = f"{ago(time.time() - summary['ended'])} ago"
        stopped_by = summary["stopped_by"]
        return f"last run ended {when}: {stopped_by}" if stopped_by else f"last run finished {when}"
    except (OSError, ValueError, KeyError, TypeError):
        return "last run was killed"


def _failures(job: Job) -> Iterator[dict[str, Any]]:
    if job.manifest is None:
        return
    segments = list_segments(job.folders.segments, job.built.job_id)
    for ref in job.built.shards:
        commit = job.commits.get(ref.shard)
        added = newer_segments(commit, segments.get(ref.shard, ()))
        n_failed = (commit.tally.n_failed if commit else 0) + sum(segment.n_failed for segment in added)
        if not n_failed:
            continue
        rules = job.rules()
        table, indices, _ = read_counting(job.folders, ref, commit, added, rules)
        entries = read_shard_file(job.folders.shards, ref)
        paths = entries.paths
        table = tables.with_tries_summed(table, indices, entries.needed_builds, rules)
        for failure in tables.failures_of(table, indices):
            place, tries = failure.pop("place"), failure.pop("tries")
            seconds = round(failure.pop("seconds"), 6)
            yield {"path": show_name(paths[place]), **failure, "attempts": tries, "seconds": seconds}
