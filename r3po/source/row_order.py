"""Row order for a redo: the files of a job in the shards and places that a first build would give them today.

Builds append: a file that came later has a later place, and one that was deleted keeps its own. A redo calls f for
every file anyway, so it can begin with the files in the order of the walk, and without those that are gone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from r3po.source.walk import BLOCK_FILES
from r3po.state.manifest import Manifest
from r3po.state.shard_files import Entries, iter_entries, iter_filled, write_shard_file

Order = Callable[[str], Any]
"""Returns the sort key of a path."""

_Keyed = tuple[Any, Entries, int]
"""A file: its sort key, the entries that it is among, and where among them."""


def is_in_row_order(manifest: Manifest, shard_size: int) -> bool:
    """Whether a first build over the same files would give them the very shards and places that they have."""
    sizes = [ref.n_files for ref in manifest.shards]
    is_full = all(size == shard_size for size in sizes[:-1]) and (not sizes or sizes[-1] <= shard_size)
    return len(manifest.sorted_spans) == 1 and is_full and not any(ref.n_deleted for ref in manifest.shards)


def in_row_order(folder: Path, manifest: Manifest, shard_size: int, order: Order) -> Manifest:
    """Return the manifest with its files in row order, those that were deleted left out.

    Its shard files are written; no outcome of a build before the manifest's counts for any of their places.

    Args:
        folder: of the shard files.
        manifest: of which at least one file is in the source.
        order: of the source.
    """
    build, shards = manifest.build, iter_filled(_iter_sorted(folder, manifest, order), shard_size, shard_size)
    refs = []
    for shard, entries in enumerate(shards):
        entries.builds = [build] * len(entries)
        refs.append(write_shard_file(folder, shard, build, entries))
    return manifest.replace(shards=tuple(refs), sorted_spans=(0,), layout_since=build)


def _iter_sorted(folder: Path, manifest: Manifest, order: Order) -> Iterator[Entries]:
    """Yield the entries of all files that are in the source, in row order, in blocks. Each build's files are sorted."""
    spans = list(pairwise((*manifest.sorted_spans, manifest.n_places)))
    if len(spans) == 1:
        for _, _, piece in iter_entries(folder, manifest.shards, *spans[0]):
            yield piece.at([place for place, deleted in enumerate(piece.deleted) if not deleted])
        return
    block = Entries()
    for _, piece, place in heapq.merge(*(_iter_keyed(folder, manifest, *span, order) for span in spans), key=_key):
        block.extend(piece.between(place, place + 1))
        if len(block) >= BLOCK_FILES:
            yield block
            block = Entries()
    yield block


def _iter_keyed(folder: Path, manifest: Manifest, start: int, stop: int, order: Order) -> Iterator[_Keyed]:
    for _, _, piece in iter_entries(folder, manifest.shards, start, stop):
        for place, path in enumerate(piece.paths):
            if not piece.deleted[place]:
                yield order(path), piece, place


def _key(file: _Keyed) -> Any:
    return file[0]
