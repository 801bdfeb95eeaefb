"""The manifest's paths: each stretch in walk order, and none there twice, in 8 bytes a file and no more."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from r3po.inspect.findings import UNREADABLE
from r3po.source.sources import order_of
from r3po.state.job import Job
from r3po.state.manifest import Manifest
from r3po.state.shard_files import Entries, read_shard_file
from r3po.storage.names import show_name

_SHOWN = 3


class WalkOrder:
    """Sees that each stretch of the manifest is in walk order, and remembers a hash of each path: 8 bytes a file."""

    def __init__(self, manifest: Manifest) -> None:
        self._order = order_of(manifest.source_path)
        self._starts = set(manifest.sorted_spans)
        self._is_sound = _are_starts(manifest.sorted_spans, manifest.n_places)
        self._n_files = 0
        self._last: Any = None
        self._n_unsorted = 0
        self._unsorted: list[str] = []
        """The first few of them."""
        self.hashes = array("q")

    def add(self, entries: Entries | None, n_files: int) -> None:
        """Take the next shard's files; None: they cannot be read."""
        if entries is None:
            self._n_files += n_files
            self._last = None
            return
        for number, path in enumerate(entries.paths, self._n_files):
            key = self._order(path)
            if self._last is not None and number not in self._starts and key <= self._last:
                self._n_unsorted += 1
                self._unsorted += [path] if self._n_unsorted <= _SHOWN else []
            self._last = key
            self.hashes.append(hash(path))
        self._n_files += n_files

    def problems(self) -> Iterator[str]:
        if not self._is_sound:
            yield "its sorted_spans are not ascending places of its files that begin with 0"
        elif self._unsorted:
            shown = ", ".join(map(show_name, self._unsorted))
            yield f"{self._n_unsorted:,} files are not in walk order: {shown}"


def doubled_files(job: Job, order: WalkOrder) -> Iterator[str]:
    """Yield what to say of files that the manifest has twice."""
    ordered = sorted(order.hashes)
    doubled = {a for a, b in pairwise(ordered) if a == b}
    if not doubled:
        return
    del ordered
    # Two names may have one hash; the names themselves decide.
    known: dict[str, int] = {}
    for ref in job.built.shards:
        with suppress(*UNREADABLE):
            for path in read_shard_file(job.folders.shards, ref).paths:
                if hash(path) in doubled:
                    known[path] = known.get(path, 0) + 1
    twice = [show_name(path) for path, n in known.items() if n > 1]
    if twice:
        yield f"{len(twice):,} files are there twice: {', '.join(twice[:_SHOWN])}"


# Private functions


def _are_starts(starts: tuple[int, ...], n_files: int) -> bool:
    is_ascending = all(a < b for a, b in pairwise(starts))
    return is_ascending and starts[:1] == (0,) and starts[-1] < max(n_files, 1)
