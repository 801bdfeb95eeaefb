"""A sample of the source's files: spread over sizes and folders, the same for the same seed, in bounded time."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import closing
from typing import NamedTuple

from r3po.config.settings import Config
from r3po.source.folders import WalkCounts
from r3po.source.sources import source_of
from r3po.source.told import no_file_error

KEPT = 2000
"""Files among which the sample is chosen; drawn evenly of all that the walk meets."""

WALK_S = 5.0
"""Seconds after which the walk ends, wherever it is."""

Candidate = tuple[float, str, int]
"""A random number, and the path and size of the file that drew it."""


class Sample(NamedTuple):
    paths: list[str]
    """Relative to the source, in the order of the walk."""
    sizes: list[int]
    """Bytes of each."""
    n_files: int
    """Files that the walk met."""
    is_whole: bool
    """The walk came to its end: there are no other files."""


def sample_files(config: Config, n: int, seed: int = 0, limit_s: float = WALK_S) -> Sample:
    """Return about `n` files of the source. Only names and sizes are looked at.

    Args:
        limit_s: seconds after which the walk ends; the sample is then of the files that it met.

    Raises:
        SourceError: a folder cannot be read, or no file matches.
    """
    draw = random.Random(seed)
    kept: list[Candidate] = []
    bound, n_files, is_whole = 1.0, 0, True
    deadline = time.monotonic() + limit_s
    counts, source = WalkCounts(), source_of(config)
    with closing(source.blocks(counts)) as blocks:
        for block in blocks:
            n_files += len(block)
            drawn = [(draw.random(), path, size) for path, size, *_ in block]
            kept += [candidate for candidate in drawn if candidate[0] < bound]
            if len(kept) > 4 * KEPT:
                kept = sorted(kept)[:KEPT]
                bound = kept[-1][0]
            if time.monotonic() > deadline:
                is_whole = next(blocks, None) is None
                break
    if not n_files:
        raise no_file_error(config, source, counts)
    chosen = sorted(_spread(sorted(kept)[:KEPT], n), key=lambda one: source.order(one[1]))
    return Sample([path for _, path, _ in chosen], [size for _, _, size in chosen], n_files, is_whole)


# Private functions


def _spread(candidates: list[Candidate], n: int) -> list[Candidate]:
    """Return `n` files: one of each nth of the sizes, in folders that have given as few as possible.

    As each nth gives one, the mean over the sample is one over all files.
    """
    by_size = sorted(candidates, key=lambda one: (one[2], one[0]))
    n = min(n, len(by_size))
    used: Counter[str] = Counter()
    chosen = []
    for i in range(n):
        stratum = by_size[i * len(by_size) // n : (i + 1) * len(by_size) // n]
        one = min(stratum, key=lambda one: (used[_folder_of(one[1])], one[0]))
        used[_folder_of(one[1])] += 1
        chosen.append(one)
    return chosen


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]
