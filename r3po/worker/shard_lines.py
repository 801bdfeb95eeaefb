"""The lines of the shard files that were in hand last: for the next batch, or to stage a shard meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from r3po.state.manifest import ShardRef
from r3po.state.shard_files import read_shard_lines
from r3po.work import Span

KEPT_LINES = 30_000
"""Most lines of shard files that are kept."""


class ShardLines:
    """Reads shard files, and keeps the lines of the latest.

    A batch parses its own lines alone: else each of many workers would parse all of every shard. The driver reads them
    for workers that cannot.
    """

    def __init__(self, shards: Path) -> None:
        self._shards = shards
        self._lines: dict[str, list[bytes]] = {}
        """By the digest of the shard file; the latest last."""

    def read(self, ref: ShardRef) -> list[bytes]:
        """Return the lines of a shard file. Raises DamagedStateError if it is not the one that the manifest names."""
        lines = self.take(ref)
        if lines is None:
            lines = read_shard_lines(self._shards, ref)
            while self._lines and sum(map(len, self._lines.values())) + len(lines) > KEPT_LINES:
                del self._lines[next(iter(self._lines))]
        self._lines[ref.file.sha256] = lines
        return lines

    def at(self, ref: ShardRef, places: Iterable[Span]) -> tuple[bytes, ...]:
        """Return the lines of these places. Raises DamagedStateError if the shard file is not the manifest's."""
        lines = self.read(ref)
        return tuple(line for start, stop in places for line in lines[start:stop])

    def take(self, ref: ShardRef) -> list[bytes] | None:
        """Return the lines of a shard file and keep them no longer; None: they are not at hand."""
        return self._lines.pop(ref.file.sha256, None)
