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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plain_loop import iter_files

BLOCK_BYTES = 1 << 20


def warm_tree(source: Path, n_threads: int = 4) -> tuple[int, int]:
    """Read every file under `source`; return how many there are and their bytes."""
    paths = list(iter_files(str(source), suffix=""))
    with ThreadPoolExecutor(n_threads) as pool:
        sizes = pool.map(_read_files, [paths[i::n_threads] for i in range(n_threads)])
    return len(paths), sum(sizes)


def _read_files(paths: Sequence[str]) -> int:
    size_bytes = 0
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            while block := os.read(file, BLOCK_BYTES):
                size_bytes += len(block)
        finally:
            os.close(file)
    return size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="Read every file of a tree once, to warm the page cache.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--threads", type=int, default=4, metavar="N")
    arguments = parser.parse_args()
    start = time.perf_counter()
    n_files, size_bytes = warm_tree(arguments.source, arguments.threads)
    print(json.dumps({"files": n_files, "bytes": size_bytes, "seconds": round(time.perf_counter() - start, 3)}))


if __name__ == "__main__":
    main()
