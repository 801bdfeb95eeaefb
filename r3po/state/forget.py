"""Forgetting a job: its state, and the parts that its commits name; nothing else.

A marker is made first and removed last, so that a reset that was killed is completed when the job is opened next.
"""

from __future__ import annotations

from contextlib import closing

from r3po.state.folders import JobFolders
from r3po.state.manifest import FORMAT
from r3po.storage.durable import list_names, remove_durably, remove_if_there, remove_tree, sync_folder
from r3po.storage.json_files import read_json, write_json


def reset_job(folders: JobFolders, job_id: str | None) -> int:
    """Remove the job's state and parts; the caller holds the lock. Returns how many parts there were.

    Args:
        job_id: whose output may be removed; None: that of a job of which the id is lost.
    """
    content = {"format": FORMAT, "kind": "reset", "job_id": job_id, **folders.output_to_json()}
    write_json(folders.reset_marker, content)
    return _remove_all(folders)


def complete_reset(folders: JobFolders) -> None:
    """Complete a reset that was killed; without one do nothing. The caller holds the lock."""
    try:
        marker = read_json(folders.reset_marker, kind="reset", newest_format=FORMAT)
    except FileNotFoundError:
        return
    # The config may name another output by now; earlier versions did not say which one it was.
    at_the_time = folders.at_output(marker) if "output" in marker else folders
    with closing(at_the_time.output):
        # Another job may have claimed it since.
        _remove_all(at_the_time, spare_output=at_the_time.output.claimed_by() not in (None, marker["job_id"]))


# Private functions


def _remove_all(folders: JobFolders, *, spare_output: bool = False) -> int:
    # The output first, since the commits name its parts; and durably, before the state that knows of it goes.
    names = [name.removesuffix(".json") for name in list_names(folders.commits)]
    n_parts = 0 if spare_output else folders.output.forget(int(name) for name in names if name.isdecimal())
    folders.forget_bucket()
    remove_if_there(folders.manifest)
    remove_if_there(folders.suspects)
    for name in list_names(folders.working_dir):
        if name.startswith("columns.b") and name.endswith(".json"):
            remove_if_there(folders.working_dir / name)
    # The commits last: a reset that is completed later learns the parts' names from them.
    for file in (folders.former, folders.undo_marker):
        remove_if_there(file)
    for folder in (folders.segments, folders.outcomes, folders.shards, folders.runs, folders.commits):
        remove_tree(folder)
    sync_folder(folders.working_dir)
    remove_durably(folders.reset_marker)
    return n_parts
