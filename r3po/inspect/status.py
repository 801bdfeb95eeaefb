"""How a job stands, and which files failed. It reads state only, and needs no Ray and no f.

`read_status` and `read_failures` take no lock: they work while a run is going on, and read again what it replaced.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from r3po.config.settings import Config, ConfigSource
from r3po.state.job import Job, job_folders, read_again, read_job
from r3po.state.known import load_known
from r3po.state.progress import RunProgress, read_progress
from r3po.storage.durable import list_names
from r3po.storage.lock import ago, running_pid


@dataclass(frozen=True)
class JobStatus:
    """How far a job is. The same fields as `r3po status --json`."""

    job_name: str
    build: int
    """Rises whenever what has to be done changes; 0: nothing was built yet."""
    files: int
    """Files of the manifest that are in the source."""
    done: int
    """Files that f is done with."""
    failed: int
    pending: int
    rows: int
    """Rows of the files that are done."""
    size_bytes: int
    """Bytes of the files, as far as they were looked at."""
    shards: int
    committed_shards: int
    """Shards whose parts are made."""
    functions: dict[str, int]
    """Files that are done, by the fingerprint of the function that made them."""
    last_run: str
    """For people: how the last run ended, or that one is going on."""
    is_redoing: bool
    """A redo was begun and has not come to its end: `done` counts the files that it has done."""
    run: RunProgress | None
    """The run that is going on, on this machine; None: there is none."""
    config: Config = field(repr=False, compare=False, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}
        return {"schema_version": 1, **fields, "run": None if self.run is None else dataclasses.asdict(self.run)}


def job_status(config: ConfigSource) -> JobStatus:
    """Return how far a job is, also while a run is going on: files are read, nothing is locked, started or changed.

    Equal to `r3po status CONFIG`.

    Args:
        config: the config file, or a mapping of the keys that it would have.

    Raises:
        ConfigError: the config cannot be used.
        StateError: the state is damaged or too new.
    """
    return status_of(load_known(config))


def status_of(config: Config) -> JobStatus:
    """See `job_status`."""
    return read_again(lambda: _status(config))


def read_status(config: Config) -> dict[str, Any]:
    """Return what `r3po status --json` prints."""
    return status_of(config).to_json()


def read_run(config: Config) -> RunProgress | None:
    """Return the run that is going on; None: there is none on this machine. Reads two small files."""
    folders = job_folders(config)
    pid = running_pid(folders.working_dir)
    return None if pid is None else read_progress(folders.runs, pid)


# Private functions


def _status(config: Config) -> JobStatus:
    job = read_job(config)
    build, files = 0, 0
    counts = {"done": 0, "failed": 0, "pending": 0, "rows": 0, "size_bytes": 0, "shards": 0, "committed_shards": 0}
    functions: dict[str, int] = {}
    if job.manifest is not None:
        build, files = job.built.build, job.built.count_job_files
        counts |= {"size_bytes": job.built.size_bytes, "shards": len(job.built.shards)}
        for state in job.resolve(None).values():
            counts["done"] += state.n_done
            counts["failed"] += state.n_failed
            counts["pending"] += state.n_pending
            counts["rows"] += state.n_rows
            counts["committed_shards"] += state.is_committed
            for fingerprint, n in state.done_by_fingerprint.items():
                functions[fingerprint] = functions.get(fingerprint, 0) + n
    return JobStatus(
        job_name=config.job_name,
        build=build,
        files=files,
        **counts,
        functions=functions,
        last_run=_last_run(job),
        is_redoing=job.manifest is not None and job.built.is_redoing,
        run=read_run(config),
        config=config,
    )


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
