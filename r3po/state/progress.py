"""How fast a run goes on, and what it is at: a small note that the run writes, for whoever looks at it meanwhile.

It is no state of the job: nothing is decided by it, it is not durable, and an orderly end of the run removes it.
Source: FORMAT.md, "Runs".
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from r3po.storage.durable import list_names, remove_if_there


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run that is going on, as it said itself a moment ago; None where it has not said so yet."""

    run_id: str | None
    """Its folder in `runs/` of working_dir."""
    pid: int
    started: float | None = None
    """When its first file was handed out, in seconds since 1970."""
    updated: float | None = None
    """When it said this, in seconds since 1970: each second, and after each file where that takes longer."""
    files: int | None = None
    """Files of the job: done + failed + pending, as the run counts them."""
    done: int | None = None
    failed: int | None = None
    pending: int | None = None
    files_per_second: float | None = None
    """Over the last minute; since the start, where no file was finished within the minute."""
    seconds_left: float | None = None
    """How long the pending files take at this rate; of those of a limit, if the run has one."""
    last_failure: str | None = None
    """`path  error` of the file of this run that failed last."""
    longest_running: str | None = None
    """The file that a worker has been at for longest, if that is 5 s or more."""
    longest_seconds: float | None = None
    limit: int | None = None
    """The most files that this run does; None: it does all that are pending."""
    finished: int | None = None
    """Files that this run has finished, whether they gave rows or failed."""
    store_wait: float | None = None
    """The share of the workers' time, from 0 to 1, that f waits for the store with its files, over the last minute;
    None: they are on a disk."""

    @property
    def way(self) -> tuple[int, int]:
        """How many files are finished, and of how many: of the job, or of the limit if the run has one."""
        if self.limit is not None:
            return self.finished or 0, self.limit
        return (self.done or 0) + (self.failed or 0), self.files or 0


def write_progress(folder: Path, progress: RunProgress) -> None:
    """Replace the note of the run with this folder. A disk that refuses is no reason to stop a run."""
    with contextlib.suppress(OSError):
        temporary = folder / f"{_NAME}.tmp"
        temporary.write_bytes(orjson.dumps(dataclasses.asdict(progress), option=orjson.OPT_INDENT_2))
        os.replace(temporary, folder / _NAME)


def remove_progress(folder: Path) -> None:
    """Remove the note: the run is over."""
    with contextlib.suppress(OSError):
        remove_if_there(folder / _NAME)


def read_progress(runs: Path, pid: int) -> RunProgress:
    """Return what the run of this process said last; of one that is just starting, only who it is.

    Args:
        runs: the folder of all runs of the job.
        pid: of the process that has the job's lock.
    """
    for run_id in sorted(list_names(runs), reverse=True)[:1]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            progress = RunProgress(**orjson.loads((runs / run_id / _NAME).read_bytes()))
            if progress.pid == pid:
                return progress
    return RunProgress(None, pid)


# Private

_NAME = "progress.json"
