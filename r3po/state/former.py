"""What a redo sets aside: the manifest and the commits of before, until the redo has come to its end or is given up.

Both are in `former.json`. As long as that file is there, the outcomes and the shard files that they name stay, so that
the rows of before can be brought back. Source: FORMAT.md, "Former".
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from r3po.errors import DamagedStateError
from r3po.state.commits import Commit, commit_from_json, commit_to_json, read_commit, withdraw_parts
from r3po.state.folders import JobFolders
from r3po.state.manifest import FORMAT, Manifest, manifest_from_json, manifest_to_json, write_manifest
from r3po.state.segments import remove_segments_of
from r3po.storage.durable import list_names, remove_durably
from r3po.storage.json_files import read_json, write_json


@dataclass(frozen=True, slots=True)
class Former:
    """A job as it was before a redo."""

    manifest: Manifest
    commits: dict[int, Commit]

    @property
    def outcome_names(self) -> set[str]:
        return {commit.outcomes.name for commit in self.commits.values()}

    @property
    def shard_file_names(self) -> set[str]:
        refs = [*self.manifest.shards, *(commit.entries for commit in self.commits.values())]
        return {ref.file.name for ref in refs}


def set_aside(folders: JobFolders, manifest: Manifest, commits: Iterable[Commit]) -> None:
    """Keep the manifest and the commits that are in force, durably, as those of before a redo."""
    content = {"manifest": manifest_to_json(manifest), "commits": [commit_to_json(commit) for commit in commits]}
    write_json(folders.former, {"format": FORMAT, "kind": "former", **content})


def read_former(folders: JobFolders) -> Former | None:
    """Return what a redo under way set aside, or None if it set nothing aside.

    Raises:
        DamagedStateError: it is not what was written.
    """
    try:
        data = read_json(folders.former, kind="former", newest_format=FORMAT)
    except FileNotFoundError:
        return None
    except DamagedStateError as error:
        if isinstance(error.__cause__, PermissionError) or folders.undo_marker.exists():
            raise  # it may be read again; or a half of it is in force, and nothing can go on
        hint = "r3po run goes on with the redo; it cannot be given up any more"
        raise DamagedStateError(error.headline, where=folders.former, hint=hint) from error
    commits = [commit_from_json(commit) for commit in data["commits"]]
    return Former(manifest_from_json(data["manifest"]), {commit.shard: commit for commit in commits})


def names_to_keep(folders: JobFolders) -> tuple[set[str], set[str]]:
    """Return the names of the outcomes and of the shard files that are needed to bring back what a redo set aside.

    Where that cannot be read these are all that are there: the redo can go on, and its end removes them.
    """
    try:
        former = read_former(folders)
    except DamagedStateError:
        return set(list_names(folders.outcomes)), set(list_names(folders.shards))
    return (set(), set()) if former is None else (former.outcome_names, former.shard_file_names)


def bring_back(folders: JobFolders, former: Former, build: int) -> None:
    """Put the job back to what was set aside. The caller holds the lock, and the output folder is the job's.

    A marker is made first and removed last, so that it is completed if it is killed. Parts that the redo replaced are
    removed: the next run makes them from the outcomes of before.

    Args:
        build: higher than that of everything that the redo has recorded.
    """
    content = {"format": FORMAT, "kind": "undo", "build": build, **folders.output_to_json()}
    write_json(folders.undo_marker, content)
    _bring_back(folders, former, build)


def complete_undo(folders: JobFolders) -> None:
    """Complete a `bring_back` that was killed; without one do nothing. The caller holds the lock."""
    try:
        marker = read_json(folders.undo_marker, kind="undo", newest_format=FORMAT)
    except FileNotFoundError:
        return
    former = read_former(folders)
    if former is not None:
        # The config may name another output folder by now, which may be another job's.
        at_the_time = folders.at_output(marker)
        with closing(at_the_time.output):
            _bring_back(at_the_time, former, marker["build"])
    remove_durably(folders.undo_marker)


# Private functions


def _bring_back(folders: JobFolders, former: Former, build: int) -> None:
    folders.output.set_success(())
    names = [name for name in sorted(list_names(folders.commits)) if name.removesuffix(".json").isdecimal()]
    read = (read_commit(folders, name, former.manifest.job_id) for name in names)
    in_force = {commit.shard: commit for commit in read}
    of_redo = [commit for commit in in_force.values() if commit.shard not in former.commits]
    for commit in of_redo:
        folders.output.remove_parts(commit.parts)
    folders.output.settle()
    for commit in of_redo:
        remove_durably(folders.commits / f"{commit.shard:05d}.json")
    for commit in former.commits.values():
        present = in_force.get(commit.shard)
        if present != commit:
            # The redo may have cut the rows of the shard into parts of other names.
            withdraw_parts(folders, commit, () if present is None else present.parts)
    folders.output.settle()
    remove_segments_of(folders.segments, lambda segment: segment.build > former.manifest.build, temporaries=True)
    remove_durably(folders.suspects)  # they are named by places of the redo
    manifest = former.manifest
    void_builds = (*manifest.void_builds, (manifest.build + 1, build - 1))
    output_path = str(folders.output_path)
    write_manifest(folders.manifest, manifest.replace(build=build, output_path=output_path, void_builds=void_builds))
    remove_durably(folders.former)
    remove_durably(folders.undo_marker)
