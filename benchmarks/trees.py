"""The trees of the benchmarks, in data/: made when they are not there yet, then kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from generate import write_tree

DATA = Path(__file__).resolve().parents[1] / "data"
PER_FOLDER = 700
"""Folders and shards end at different files."""


def made_tree(n_files: int, say: Callable[[str], None] = print, *, links: bool = False, deep: bool = False) -> Path:
    """Return a tree of `n_files` small produce logs.

    Args:
        links: nearly all names are hard links; for trees of many millions.
        deep: each folder is five levels down.
    """
    source = DATA / f"{'linked' if links else 'deep' if deep else 'synthetic'}-{n_files}"
    if not source.is_dir():
        say(f"writing {n_files:,} produce logs into {source}")
        partial = source.with_name(f"{source.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_tree(partial, n_files, per_folder=PER_FOLDER, links=links, deep=deep)
        partial.rename(source)
    return source
