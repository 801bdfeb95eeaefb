"""Forgetting on purpose: the failures of a job, or all of it."""

from __future__ import annotations

from contextlib import closing, suppress

from r3po.config.settings import Config, ConfigSource
from r3po.errors import DamagedStateError, FolderError
from r3po.state.commits import all_parts
from r3po.state.folders import JobFolders
from r3po.state.forget import reset_job
from r3po.state.job import disk_errors_told, job_folders, open_job, read_job
from r3po.state.known import load_known
from r3po.state.output_folder import Part
from r3po.storage.durable import list_names
from r3po.storage.lock import JobLock


def reset_all_errors(config: ConfigSource) -> int:
    """Let the next run try every failed file again. Returns how many files that are.

    Equal to `r3po reset CONFIG --errors`; rows stay as they are.
    """
    with open_job(load_known(config)) as job:
        if job.manifest is None:
            return 0
        n_failed = sum(state.n_failed for state in job.resolve(None).values())
        if n_failed:
            job.raise_build(retry=True)
        return n_failed


def reset_all_tracking(config: ConfigSource) -> int:
    """Forget the job: remove its state, and the parts that its commits name. Returns how many parts were removed.

    Equal to `r3po reset CONFIG --all`. Files that r3po did not write stay, and the source is never touched.
    """
    loaded = load_known(config)
    folders = job_folders(loaded)
    _refuse_unknown_parts(folders)
    if not folders.working_dir.is_dir():
        return 0
    with JobLock(folders.working_dir), disk_errors_told(), closing(folders.output):
        folders.output.look_again()  # a run may have ended in between
        job_id = _check_ours(loaded)
        return reset_job(folders, job_id)


# Private functions


def _refuse_unknown_parts(folders: JobFolders) -> None:
    """Without commits it is not known whose the parts are; to forget the claim, too, would leave them in the way."""
    if any(name.endswith(".json") for name in list_names(folders.commits)) or folders.manifest.exists():
        return
    if any(name.startswith("part-") for _, name in folders.output.list_files()):
        raise FolderError(
            "there are parts here, but the state that knows of them is gone",
            where=folders.output.where,
            hint="remove this folder by hand, then reset again; or give the job another output_path",
        )


def _check_ours(config: Config) -> str | None:
    """See that state and output are this job's, and return its id, if it can be known.

    This is the way out of damaged state, so damage is no obstacle.

    Raises:
        FolderError: working_dir or output_path belongs to another job.
    """
    folders = job_folders(config)
    job_id, parts = None, list[Part]()
    with suppress(DamagedStateError):
        job = read_job(config)
        job_id, parts = None if job.manifest is None else job.manifest.job_id, all_parts(job.commits)
    if job_id is None:
        job_id = folders.output.claimed_by(from_here=True)
    with suppress(DamagedStateError):
        folders.output.check_claim(job_id, parts)
    return job_id
