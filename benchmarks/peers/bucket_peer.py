"""What the peers on a bucket share: their command line. How they find the objects and spread the work is their own."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

PER_CHUNK = 250
"""Objects that go to a process at once."""


@dataclass(frozen=True)
class BucketTask:
    bucket: str
    prefix: str
    out: Path
    """The folder for the CSV files; it is there and empty."""
    processes: int
    in_flight: int
    """Requests that a process has under way at most, where a peer can say so."""
    function: Callable[[str, bytes], dict[str, Any]]

    @property
    def endpoint(self) -> str:
        return os.environ["AWS_ENDPOINT_URL"]

    @property
    def region(self) -> str:
        return os.environ["AWS_DEFAULT_REGION"]


def parse_bucket_task() -> BucketTask:
    parser = argparse.ArgumentParser(description="Call a function on every object below a URL and write CSV.")
    parser.add_argument("url", help="s3://bucket/prefix/")
    parser.add_argument("out", type=Path, help="folder of the CSV files")
    parser.add_argument("--function", required=True, help="of benchmarks/functions.py: gets key and bytes")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--in-flight", type=int, default=1, metavar="N", help="requests at once, a process")
    arguments = parser.parse_args()
    benchmarks = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, benchmarks)
    os.environ["PYTHONPATH"] = benchmarks  # for processes that are not forked
    function = getattr(importlib.import_module("functions"), arguments.function)
    bucket, _, prefix = arguments.url.removeprefix("s3://").partition("/")
    return BucketTask(bucket, prefix, arguments.out, arguments.processes, arguments.in_flight, function)


def in_chunks(keys: Iterator[str]) -> Iterator[Sequence[str]]:
    """Yield what goes to a process at once."""
    while chunk := list(islice(keys, PER_CHUNK)):
        yield chunk
