"""What a file looked like at one moment: the one shape in which the walk, f's reading, entries and outcomes say so."""

from __future__ import annotations

from typing import NamedTuple

UNSEEN = -1
"""Stands for size and mtime of a file that was listed, and not looked at since."""

UNKNOWN = -2
"""Stands for size and mtime of the content that f saw where these are unknown; the next build treats the file as
changed."""


class FileVersion(NamedTuple):
    """Size, mtime and content hash of a file, and the tag of an object."""

    size: int
    """Bytes; or `UNSEEN`, `UNKNOWN`."""
    mtime_ns: int
    """Nanoseconds since the epoch; or `UNSEEN`, `UNKNOWN`."""
    hash: bytes | None = None
    """blake2b-128 of the content; None: not hashed."""
    is_racy: bool = False
    """It was read so soon after its mtime that its content may have changed within the same mtime since."""
    tag: str = ""
    """Of an object: what the store tells it by from others of its key, such as its etag. Empty: of a file on a disk."""

    def is_like(self, other: FileVersion) -> bool:
        """Whether both have the same size and tag; without tags, the same size and mtime."""
        if self.tag or other.tag:
            return self.size == other.size and self.tag == other.tag
        return self.size == other.size and self.mtime_ns == other.mtime_ns


UNKNOWN_VERSION = FileVersion(UNKNOWN, UNKNOWN)
"""What f saw is not known: the next build treats the file as changed."""
