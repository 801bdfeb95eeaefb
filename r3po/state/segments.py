"""Segments: the durable outcomes of one batch. Written once, never changed, named with their own digest.

A segment whose digest is wrong is absent: its places are simply done again. Which outcomes of a good segment count is
not decided here, but by the predicate (`table.predicate.choose`).
Source: FORMAT.md, "Segments".
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from r3po.storage.durable import (
    MemoryFile,
    NewFile,
    digest_file,
    list_names,
    remove_if_there,
    remove_temporaries,
    sync_folder,
)
from r3po.table.outcome_files import OutcomeWriter, read_outcomes_file
from r3po.table.outcomes import Table, with_origin
from r3po.table.rows import Outcomes

log = logging.getLogger(__name__)

_DIGEST_CHARACTERS = 32
_NAME = re.compile(r"(\d{5,})\.b(\d+)\.([0-9a-f]{8})\.([^.]+)\.d(\d+)\.f(\d+)\.([0-9a-f]{32})\.arrow")


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment's name says."""

    shard: int
    build: int
    """The job's build when the batch was handed out."""
    job_id: str
    """The first 8 characters."""
    attempt: str
    n_done: int
    n_failed: int
    digest: str
    """The first 32 characters of the file's sha256."""

    @property
    def name(self) -> str:
        return (
            f"{self.shard:05d}.b{self.build}.{self.job_id}.{self.attempt}"
            f".d{self.n_done}.f{self.n_failed}.{self.digest}.arrow"
        )

    @classmethod
    def parse(cls, name: str) -> Segment | None:
        """Return what `name` says, or None if it is no segment's name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        shard, build, job_id, attempt, n_done, n_failed, digest = match.groups()
        found = cls(int(shard), int(build), job_id, attempt, int(n_done), int(n_failed), digest)
        return found if found.name == name else None


def segment_folder(segments: Path, shard: int) -> Path:
    return segments / f"{shard:05d}"


class SegmentWriter:
    """A segment in the making: row blocks as they come, and then its outcomes; nothing of it counts before `finish`.

    Nothing is on disk before the first of them.

    Args:
        segments: the folder of all segments; None: the segment is kept in memory, for `store_segment` at home.
    """

    def __init__(self, segments: Path | None, shard: int) -> None:
        self._segments, self._shard = segments, shard
        self._new: NewFile | MemoryFile | None = None
        self._writer: OutcomeWriter | None = None

    def write_rows(self, block: Table) -> None:
        """Write a row block. Raises OSError."""
        with self._open().rows(block.schema) as rows:
            rows.write(block)

    def finish(
        self, table: Table, *, build: int, job_id: str, attempt: str, fingerprint: str, n_failed: int
    ) -> Segment:
        """Write the outcomes, make all durable (unless it is in memory) and return the segment. Raises OSError."""
        metadata = {
            "r3po.job_id": job_id,
            "r3po.shard": str(self._shard),
            "r3po.build": str(build),
            "r3po.attempt": attempt,
            "r3po.fingerprint": fingerprint,
        }
        with self._open().outcomes(table.schema, metadata) as outcomes:
            outcomes.write(table)
        assert self._new is not None, "it is open"
        n_done, digest = len(table) - n_failed, self._new.sha256[:_DIGEST_CHARACTERS]
        segment = Segment(self._shard, build, job_id[:8], attempt, n_done, n_failed, digest)
        if isinstance(self._new, NewFile):
            self._new.finish(segment.name)
        return segment

    @property
    def content(self) -> bytes | None:
        """The bytes of a segment in memory; None: it is on disk."""
        return self._new.content if isinstance(self._new, MemoryFile) else None

    def abandon(self) -> None:
        """Leave nothing of it on disk, unless it is finished."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(self._new, NewFile):
            self._new.__exit__(kind, error, tb)

    def _open(self) -> OutcomeWriter:
        if self._writer is None:
            self._new = MemoryFile() if self._segments is None else _new_segment(self._segments, self._shard)
            self._writer = OutcomeWriter(self._new, is_compressed=False)
        return self._writer


def store_segment(segments: Path, segment: Segment, content: bytes) -> None:
    """Make a segment durable that a worker on another machine has made.

    A content that is not what the name says is stored all the same: such a segment is absent (`read_segment`).

    Raises:
        OSError: the disk refused; nothing of the segment is there.
    """
    with _new_segment(segments, segment.shard) as new:
        new.write(content)
        new.finish(segment.name)


def read_segment(segments: Path, segment: Segment) -> Outcomes | None:
    """Return a segment's outcomes with their origin, or None if it is not there whole."""
    path = segment_folder(segments, segment.shard) / segment.name
    try:
        _, sha256 = digest_file(path)
        if not sha256.startswith(segment.digest):
            log.warning("%s: its digest is wrong; its files are done again", path)
            return None
        found, metadata = read_outcomes_file(path)
    except (FileNotFoundError, ValueError):
        return None
    fingerprint = metadata.get("r3po.fingerprint", "")
    return found._replace(
        table=with_origin(found.table, build=segment.build, attempt=segment.attempt, fingerprint=fingerprint)
    )


def list_segments(segments: Path, job_id: str) -> dict[int, list[Segment]]:
    """Return the job's segments by shard, each list in order of the names. Only names are looked at."""
    found: dict[int, list[Segment]] = {}
    for folder in list_names(segments):
        for segment in _list_folder(segments / folder):
            if segment.job_id == job_id[:8] and f"{segment.shard:05d}" == folder:
                found.setdefault(segment.shard, []).append(segment)
    return found


def remove_segments_of(segments: Path, is_of: Callable[[Segment], bool], *, temporaries: bool = False) -> None:
    """Remove the segments for which `is_of` says so, and the folders that are empty then.

    Args:
        temporaries: remove also what workers that died had begun; no worker may be writing.
    """
    for folder in list_names(segments):
        if temporaries:
            remove_temporaries(segments / folder)
        for segment in _list_folder(segments / folder):
            if is_of(segment):
                remove_if_there(segments / folder / segment.name)
        with contextlib.suppress(OSError):
            os.rmdir(segments / folder)  # unless there is something left in it


def remove_segments(segments: Path, shard: int) -> None:
    """Remove the folder of a committed shard's segments, with whatever late workers put there."""
    folder = segment_folder(segments, shard)
    if not folder.is_dir():
        return
    for name in list_names(folder):
        if not (folder / name).is_dir():
            remove_if_there(folder / name)
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.info("%s stays for now: %s", folder, error)  # a late worker is writing; the next start sweeps it


def _new_segment(segments: Path, shard: int) -> NewFile:
    folder = segment_folder(segments, shard)
    folder.mkdir(exist_ok=True)
    sync_folder(segments)  # a new folder's name is only durable with its parent
    return NewFile(folder)


def _list_folder(folder: Path) -> Iterator[Segment]:
    for name in list_names(folder):
        segment = Segment.parse(name)
        if segment is not None:
            yield segment
