"""The trees of the benchmarks, in data/: made when they are not there yet, then kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from functions import SLOW
from generate import write_tree

DATA = Path(__file__).resolve().parents[1] / "data"
PER_FOLDER = 700
"""Folders and shards end at different files."""


def made_tree(
    n_files: int, say: Callable[[str], None] = print, *, links: bool = False, deep: bool = False, n_slow: int = 0
) -> Path:
    """Return a tree of `n_files` small produce logs.

    Args:
        links: nearly all names are hard links; for trees of many millions.
        deep: each folder is five levels down.
        n_slow: so many, spread evenly, have a name that makes `functions.wait_20_ms` wait for 5 s.
    """
    kind = "linked" if links else "deep" if deep else f"slow-{n_slow}" if n_slow else "synthetic"
    source = DATA / f"{kind}-{n_files}"
    if not source.is_dir():
        say(f"writing {n_files:,} produce logs into {source}")
        partial = source.with_name(f"{source.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_tree(partial, n_files, per_folder=PER_FOLDER, links=links, deep=deep)
        if n_slow:
            for file in sorted(partial.rglob("*.json"))[n_files // (2 * n_slow) :: n_files // n_slow][:n_slow]:
                os.rename(file, file.with_name(file.stem + SLOW))
        partial.rename(source)
    return source
