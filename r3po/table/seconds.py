"""How long f took, file by file: the slowest files, the spread, the share of the slowest. Four bytes a file."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from r3po.table.outcomes import Indices, Table


class SlowPlace(NamedTuple):
    """One of the slowest files."""

    seconds: float
    shard: int
    place: int
    is_row: bool
    error_type: str


class Spread(NamedTuple):
    """What the seconds of many files are like; zeros without any."""

    n_files: int
    total: float
    p50: float
    p95: float
    p99: float
    n_slowest: int
    """Files that are the slowest percent, rounded up."""
    slowest_share: float
    """Which part of the total these took, 0 to 1."""


class SecondsTally:
    """Takes the outcomes of one shard after the other, and keeps their seconds alone.

    Args:
        n: how many of the slowest to keep.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._chunks: list[pa.Array] = []
        self._slowest: list[SlowPlace] = []

    def add(self, shard: int, table: Table, indices: Indices) -> None:
        """Take the chosen outcomes of a shard."""
        chosen = table.select(["seconds", "place", "is_row", "error_type"]).take(indices).combine_chunks()
        if not len(chosen):
            return
        self._chunks += chosen["seconds"].chunks
        order = [("seconds", "descending"), ("place", "ascending")]
        top = chosen.take(pc.select_k_unstable(chosen, k=min(self._n, len(chosen)), sort_keys=order))
        for line in top.to_pylist():
            place = SlowPlace(line["seconds"], shard, line["place"], line["is_row"], line["error_type"] or "")
            self._slowest.append(place)
        self._slowest = self.slowest()

    def slowest(self) -> list[SlowPlace]:
        """Return the slowest files, slowest first, those of equal seconds in row order."""
        return sorted(self._slowest, key=lambda one: (-one.seconds, one.shard, one.place))[: self._n]

    def spread(self) -> Spread:
        """Return what all seconds are like."""
        seconds = pa.chunked_array(self._chunks, pa.float32())
        n_files = len(seconds)
        if not n_files:
            return Spread(0, 0.0, 0.0, 0.0, 0.0, 0, 0.0)
        p50, p95, p99 = pc.quantile(seconds, q=[0.5, 0.95, 0.99]).to_pylist()
        n_slowest = -(-n_files // 100)
        total = pc.sum(seconds).as_py()
        # The least of the slowest percent: several files may have just its seconds, and some be beyond the percent.
        least = pc.quantile(seconds, q=(n_files - n_slowest) / max(1, n_files - 1), interpolation="nearest")[0].as_py()
        above = seconds.filter(pc.greater(seconds, pa.scalar(least, pa.float32())))
        of_slowest = (pc.sum(above).as_py() or 0.0) + (n_slowest - len(above)) * least
        return Spread(n_files, total, p50, p95, p99, n_slowest, of_slowest / total if total else 0.0)
