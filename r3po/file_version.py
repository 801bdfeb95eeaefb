"""What a file looked like at one moment: the one shape in which the walk, f's reading, entries and outcomes say so."""

from __future__ import annotations

from typing import NamedTuple

UNSEEN = -1
"""Stands for size and mtime of a file that was listed, and not looked at since."""

UNKNOWN = -2
"""Stands for size and mtime of the content that f saw where these are unknown; the next build treats the file as
changed."""


class FileVersion(NamedTuple):
    """Size, mtime and content hash of a file. What an object store adds, such as an etag, gets its place here."""

    size: int
    """Bytes; or `UNSEEN`, `UNKNOWN`."""
    mtime_ns: int
    """Nanoseconds since the epoch; or `UNSEEN`, `UNKNOWN`."""
    hash: bytes | None = None
    """blake2b-128 of the content; None: not hashed."""
    is_racy: bool = False
    """It was read so soon after its mtime that its content may have changed within the same mtime since."""

    def is_like(self, other: FileVersion) -> bool:
        """Whether both have the same size and mtime."""
        return self.size == other.size and self.mtime_ns == other.mtime_ns


UNKNOWN_VERSION = FileVersion(UNKNOWN, UNKNOWN)
"""What f saw is not known: the next build treats the file as changed."""
