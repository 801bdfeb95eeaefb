"""What all peers share: their command line, and the list of files. A peer adds how the work is spread."""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 256
"""Files that go to a process at once. With 1, the default of most, a peer is several times slower: not its best."""


@dataclass(frozen=True)
class Task:
    source: Path
    out: Path
    """The folder for the CSV files; it is there and empty."""
    processes: int
    function: Callable[..., dict[str, Any]]


def parse_task() -> Task:
    parser = argparse.ArgumentParser(description="Call a function on every JSON file of a tree and write CSV.")
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="folder of the CSV files")
    parser.add_argument("--function", required=True, help="of benchmarks/functions.py")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    benchmarks = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, benchmarks)
    os.environ["PYTHONPATH"] = benchmarks  # for processes that are not forked
    function = getattr(importlib.import_module("functions"), arguments.function)
    return Task(arguments.source.resolve(), arguments.out, arguments.processes, function)


def iter_paths(source: Path) -> Iterator[str]:
    """Yield the JSON files in whatever order the disk gives."""
    for folder, _, names in os.walk(source):
        yield from (f"{folder}/{name}" for name in names if name.endswith(".json"))


def write_rows(rows: Iterable[dict[str, Any]], file: Path) -> None:
    """Write one CSV file as the rows come."""
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        for i, row in enumerate(rows):
            if i == 0:
                writer.writerow(row)
            writer.writerow(row.values())
