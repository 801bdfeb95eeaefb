"""How a job stands, and which files failed. It reads state only, and needs no Ray and no f.

`read_status` and `read_failures` take no lock: they work while a run is going on, and read again what it replaced.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from r3po.config.settings import Config
from r3po.state.job import Job, read_again, read_job
from r3po.storage.durable import list_names
from r3po.storage.lock import ago, running_pid


def read_status(config: Config) -> dict[str, Any]:
    """Return the job's counts, as `r3po status --json` prints them.

    Returns:
        schema_version, job_name, build, files, done, failed, pending, size_bytes, shards, committed_shards, functions
        (rows by fingerprint), last_run (for people: how the last run ended, or that one is going on).

    Raises:
        StateError: the state is damaged or too new.
    """
    return read_again(lambda: _status(config))


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
