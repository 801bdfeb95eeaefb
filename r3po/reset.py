"""Forgetting a job: its state, and the parts that its commits name; nothing else.

A marker is made first and removed last, so that a reset that was killed is completed by whoever opens the job next.
"""

from __future__ import annotations

from r3po.commits import KINDS, part_name
from r3po.storage import JobFolders, list_names, remove_durably, remove_if_there, remove_tree, sync_folder, write_whole


def reset_job(folders: JobFolders) -> int:
    """Remove the job's state and parts; the caller holds the lock. Returns how many parts there were."""
    write_whole(folders.reset_marker, b"")
    n_parts = _remove_output(folders)
    _remove_state(folders)
    # Before the marker goes: a power cut must not bring back half of a job that nobody knows is to be forgotten.
    for folder in (folders.output_path, folders.working_dir):
        if folder.is_dir():
            sync_folder(folder)
    remove_durably(folders.reset_marker)
    return n_parts


def complete_reset(folders: JobFolders) -> None:
    """Complete a reset that was killed; without one do nothing. The caller holds the lock."""
    if folders.reset_marker.exists():
        reset_job(folders)


# Private functions


def _remove_output(folders: JobFolders) -> int:
    """Remove the parts that commits name, by the names of the commits alone, and what belongs to them."""
    for kind in KINDS:
        remove_if_there(folders.success(kind))
    shards = [name.removesuffix(".json") for name in list_names(folders.commits)]
    names = [(kind, part_name(int(shard), kind)) for shard in shards if shard.isdecimal() for kind in KINDS]
    n_parts = sum(remove_if_there(folders.data(kind) / name) for kind, name in names)
    remove_if_there(folders.failures)
    remove_tree(folders.staging)
    for folder in (*(folders.data(kind) for kind in KINDS), folders.failures.parent):
        if folder.is_dir() and not any(list_names(folder)):
            folder.rmdir()
    remove_if_there(folders.claim)
    return n_parts


def _remove_state(folders: JobFolders) -> None:
    remove_if_there(folders.manifest)
    for name in list_names(folders.working_dir):
        if name.startswith("columns.b") and name.endswith(".json"):
            remove_if_there(folders.working_dir / name)
    # The commits last: a reset that is completed later learns the parts' names from them.
    for folder in (folders.segments, folders.outcomes, folders.shards, folders.runs, folders.commits):
        remove_tree(folder)
