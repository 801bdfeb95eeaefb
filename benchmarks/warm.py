"""Read every file of a tree once, so that the next reader finds it in the page cache.

A virtual machine may lose its page cache within a minute: warm right before each measurement.

    python benchmarks/warm.py data/logs
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from plain_loop import iter_files

BLOCK_BYTES = 1 << 20
AT_ONCE = 128


def warm_tree(source: Path, n_processes: int = 2) -> tuple[int, int]:
    """Read every file under `source`; return how many there are and their bytes."""
    paths = list(iter_files(str(source), suffix=""))
    step = -(-len(paths) // n_processes) or 1
    with ProcessPoolExecutor(n_processes) as pool:
        sizes = pool.map(_read_files, [paths[start : start + step] for start in range(0, len(paths), step)])
    return len(paths), sum(sizes)


def _read_files(paths: Sequence[str]) -> int:
    size_bytes = 0
    for start in range(0, len(paths), AT_ONCE):
        files = [os.open(path, os.O_RDONLY) for path in paths[start : start + AT_ONCE]]
        if hasattr(os, "posix_fadvise"):
            for file in files:  # all are asked for before the first is waited for
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
        for file in files:
            while block := os.read(file, BLOCK_BYTES):
                size_bytes += len(block)
            os.close(file)
    return size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="Read every file of a tree once, to warm the page cache.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    start = time.perf_counter()
    n_files, size_bytes = warm_tree(arguments.source, arguments.processes)
    print(json.dumps({"files": n_files, "bytes": size_bytes, "seconds": round(time.perf_counter() - start, 3)}))


if __name__ == "__main__":
    main()
