"""The limit that r3po is measured against: bare processes that loop over the files and write CSV, nothing else.

No progress, no failures (an exception ends it), no resume. With one process it is the loop that a user would write,
and its CSV is what r3po's parts are compared with.

    python benchmarks/plain_loop.py data/logs --function benchmarks/functions.py:count_produce --out data/plain.csv
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any


def iter_files(folder: str, suffix: str) -> Iterator[str]:
    """Yield the files that r3po would take, in its order: names by bytes, files before subfolders, depth first.

    Hidden names and links to folders are skipped.
    """
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=_name_bytes)
    yield from (entry.path for entry in entries if entry.name.endswith(suffix) and entry.is_file())
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from iter_files(entry.path, suffix)


def load_function(spec: str) -> Callable[[str], dict[str, Any]]:
    """Return the function that `file.py:name` names."""
    path, _, name = spec.rpartition(":")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise SystemExit(f"error: --function must be file.py:name, not {spec!r}")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    function: Callable[[str], dict[str, Any]] = getattr(module, name)
    return function


def run_plain_loop(source: Path, function: str, outs: Sequence[Path], suffix: str = ".json") -> dict[str, float]:
    """Call `function` on every file with one process for each of `outs`.

    Each process takes an equal, unbroken stretch of the sorted list and writes a CSV file of its own, so the files
    in the order of `outs` hold the rows in the order of the walk.

    Returns:
        The number of files; the seconds of the loop, start and end of the processes included; and, apart from them,
        the seconds that listing the files took.

    Raises:
        SystemExit: there is no file, or a process failed.
    """
    start = time.perf_counter()
    paths = list(iter_files(os.path.abspath(source), suffix))
    listed = time.perf_counter()
    if not paths:
        raise SystemExit(f"error: no file under {source} ends with {suffix!r}")
    bounds = [len(paths) * i // len(outs) for i in range(len(outs) + 1)]
    parts = [paths[low:high] for low, high in pairwise(bounds)]
    if len(outs) == 1:
        _loop(paths, function, outs[0])
    else:
        tasks = zip(parts, outs, strict=True)
        processes = [multiprocessing.Process(target=_loop, args=(part, function, out)) for part, out in tasks]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("error: a process of the plain loop failed")
    seconds = time.perf_counter() - listed
    return {"files": len(paths), "seconds": round(seconds, 3), "list_seconds": round(listed - start, 3)}


def out_paths(out: Path, n_processes: int) -> list[Path]:
    """Return the CSV files, in row order: `out` itself for one process, else out.0.csv, out.1.csv ..."""
    return [out] if n_processes == 1 else [out.with_suffix(f".{i}{out.suffix}") for i in range(n_processes)]


# Private functions


def _name_bytes(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _loop(paths: list[str], function: str, out: Path) -> None:
    call = load_function(function)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for i, path in enumerate(paths):
            row = call(path)
            if i == 0:
                writer.writerow(row)
            writer.writerow(row.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Call a function on every file of a tree, with as little as possible.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--function", required=True, metavar="FILE.py:NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="1: one plain loop (2)")
    parser.add_argument("--suffix", default=".json", help="how the names of the files end (.json)")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        parser.error("--processes must be 1 or more")
    outs = out_paths(arguments.out, arguments.processes)
    print(json.dumps(run_plain_loop(arguments.source, arguments.function, outs, arguments.suffix)))


if __name__ == "__main__":
    main()
