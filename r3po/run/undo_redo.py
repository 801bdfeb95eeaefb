"""Giving up a redo: the rows of before count again."""

from __future__ import annotations

from r3po.config.settings import ConfigSource
from r3po.engines.worker_processes import end_left_workers, forget_left_workers
from r3po.errors import StateError
from r3po.state.former import bring_back, read_former
from r3po.state.job import Job, open_job, read_job
from r3po.state.known import load_known


def reset_redo(config: ConfigSource) -> int:
    """Give up a redo that is under way: the job is as it was before. Returns how many rows of before count again.

    Equal to `r3po reset CONFIG --redo`. The next run makes the parts that the redo replaced from the rows of before,
    without a call of f. Rows that were in no part yet are gone where the redo has made theirs: it calls f for these.

    Raises:
        StateError: no redo is under way, or it found no rows.
    """
    loaded = load_known(config)
    with open_job(loaded) as job:
        _undo(job)
    after = read_job(loaded)
    return sum(state.n_done for state in after.resolve(None).values())


# Private functions


def _undo(job: Job) -> None:
    if job.manifest is None or not job.manifest.is_redoing:
        raise StateError("no redo is under way", hint="one that has come to its end cannot be undone")
    former = read_former(job.folders)
    if former is None:
        raise StateError("nothing is left of before this redo", hint="r3po run goes on with it")
    # What they record from now on would be taken for outcomes of before.
    end_left_workers(job.folders.runs, "")
    forget_left_workers(job.folders.runs, "")
    bring_back(job.folders, former, job.manifest.build + 1)
