"""The manifest: the job's shards and, in shard files, every file with its place, size, mtime and hash.

It owns the model and its files, not the decisions: `source.build` says what a build changes.
Source of the fields and of the write order: FORMAT.md, "Manifest" and "Shard files".
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from r3po.config.selection import Selection
from r3po.storage.durable import FileRecord, list_names
from r3po.storage.json_files import read_json, write_json
from r3po.storage.names import name_from_json, name_to_json
from r3po.table.columns import Columns

FORMAT = 3
"""Version of every JSON file of the job."""

HASH_ALGORITHM = "blake2b-128"


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard as the manifest names it."""

    shard: int
    file: FileRecord
    n_files: int
    """Its places, those of files that were deleted included."""
    last_build: int
    """The highest build among its entries: outcomes that are not older count for all of them."""
    size_bytes: int
    """Bytes of the source files together, but for those that were deleted or that nobody has looked at."""
    n_deleted: int = 0
    """How many of its files are not in the source any more."""

    @property
    def n_present(self) -> int:
        return self.n_files - self.n_deleted

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": self.shard,
            "file": self.file.to_json(),
            "n_files": self.n_files,
            "last_build": self.last_build,
            "size_bytes": self.size_bytes,
            "n_deleted": self.n_deleted,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**{**data, "file": FileRecord.from_json(data["file"])})


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says."""

    job_id: str
    """32 hexadecimal characters, random; every file of the job carries it or its start."""
    job_name: str
    build: int
    redo_since: int
    """Outcomes of earlier builds do not count any more."""
    retry_since: int
    """Failures of earlier builds do not count any more."""
    source_path: str
    """Absolute: what the paths of files are relative to."""
    selection: Selection
    """Which files were the job's at the last build."""
    output_path: str
    """Absolute: where the parts are. A config that says something else has them made again there."""
    hash: str
    """`content` or `stat`."""
    count_all_files: int
    """Files that the last walk met, whatever their names."""
    sorted_spans: tuple[int, ...]
    """Where, counted over all shards, each stretch of entries in walk order begins."""
    shards: tuple[ShardRef, ...]
    is_redoing: bool = False
    """A redo was begun and has not come to its end."""
    layout_since: int = 1
    """Outcomes and commits of earlier builds are of places that had other files: a redo put the files in row order."""

    void_builds: tuple[tuple[int, int], ...] = ()
    """The first and the last build of each redo that was given up: what late workers of it record never counts."""

    def is_of_now(self, build: int) -> bool:
        """Whether what was recorded at a build is of the places that files have now, and of no redo given up."""
        return build >= self.layout_since and not any(first <= build <= last for first, last in self.void_builds)

    @property
    def count_job_files(self) -> int:
        """Files that are in the source."""
        return sum(ref.n_present for ref in self.shards)

    @property
    def n_places(self) -> int:
        """Files that are or were in the source."""
        return sum(ref.n_files for ref in self.shards)

    @property
    def size_bytes(self) -> int:
        return sum(ref.size_bytes for ref in self.shards)

    def replace(self, **changes: Any) -> Manifest:
        return dataclasses.replace(self, **changes)


def new_job_id() -> str:
    return secrets.token_hex(16)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put `manifest` in force. Every shard file that it names must be durable already."""
    write_json(path, {"format": FORMAT, "kind": "manifest", **manifest_to_json(manifest)})


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest in force, or None before the first build.

    Raises:
        DamagedStateError, NewerFormatError: see `read_json`.
    """
    try:
        return manifest_from_json(read_json(path, kind="manifest", newest_format=FORMAT))
    except FileNotFoundError:
        return None


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "job_id": manifest.job_id,
        "job_name": manifest.job_name,
        "build": manifest.build,
        "redo_since": manifest.redo_since,
        "retry_since": manifest.retry_since,
        "source": name_to_json(manifest.source_path),
        **manifest.selection.to_json(),
        "output": name_to_json(manifest.output_path),
        "hash": manifest.hash,
        "hash_algorithm": HASH_ALGORITHM if manifest.hash == "content" else None,
        "count_all_files": manifest.count_all_files,
        "count_job_files": manifest.count_job_files,
        "size_bytes": manifest.size_bytes,
        "sorted_spans": list(manifest.sorted_spans),
        "is_redoing": manifest.is_redoing,
        "layout_since": manifest.layout_since,
        "void_builds": [list(builds) for builds in manifest.void_builds],
        "shards": [ref.to_json() for ref in manifest.shards],
    }


def manifest_from_json(data: dict[str, Any]) -> Manifest:
    return Manifest(
        job_id=data["job_id"],
        job_name=data["job_name"],
        build=data["build"],
        redo_since=data["redo_since"],
        retry_since=data["retry_since"],
        source_path=name_from_json(data["source"]),
        selection=Selection.from_json(data),
        output_path=name_from_json(data["output"]),
        hash=data["hash"],
        count_all_files=data["count_all_files"],
        sorted_spans=tuple(data["sorted_spans"]),
        is_redoing=data["is_redoing"],
        # Absent before there were redos that put files in order, and that could be given up.
        layout_since=data.get("layout_since", 1),
        void_builds=tuple((first, last) for first, last in data.get("void_builds", ())),
        shards=tuple(ShardRef.from_json(ref) for ref in data["shards"]),
    )


# Columns


def write_columns(working_dir: Path, manifest: Manifest, columns: Columns, path: str, fingerprint: str) -> None:
    """Fix the job's columns durably, as the row of the file `path` set them, made by this version of f."""
    write_json(
        columns_path(working_dir, manifest),
        {
            "format": FORMAT,
            "kind": "columns",
            "job_id": manifest.job_id,
            "from": name_to_json(path),
            "fingerprint": fingerprint,
            "columns": columns.to_json(),
        },
    )


def read_columns(working_dir: Path, manifest: Manifest) -> tuple[Columns, str] | None:
    """Return the job's columns and the fingerprint of the function that gave them, or None before the first row."""
    path = columns_path(working_dir, manifest)
    try:
        data = read_json(path, kind="columns", newest_format=FORMAT)
    except FileNotFoundError:
        return None
    if data["job_id"] != manifest.job_id:
        return None  # left behind by an earlier job in this folder
    return Columns.from_json(data["columns"]), data["fingerprint"]


def read_former_columns(working_dir: Path, manifest: Manifest) -> Columns | None:
    """Return the columns of the parts that a redo has not replaced yet, or None if that is not known."""
    builds = [int(name[9:-5]) for name in list_names(working_dir) if re.fullmatch(r"columns\.b\d+\.json", name)]
    former = max((build for build in builds if build < manifest.redo_since), default=None)
    found = None if former is None else read_columns(working_dir, manifest.replace(redo_since=former))
    return None if found is None else found[0]


def columns_path(working_dir: Path, manifest: Manifest) -> Path:
    """Columns belong to the build since which every row counts: a redo sets them again."""
    return working_dir / f"columns.b{max(1, manifest.redo_since)}.json"
