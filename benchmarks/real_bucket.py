"""30,000 objects from a bucket to a bucket, on a SeaweedFS server of this machine: what `make real-bucket` checks.

The same files on a disk give the reference. Then the same from a bucket to a bucket: undisturbed; with three SIGKILLs
of the whole process tree, each followed by a plain `r3po run`; and with 2 % of the requests failing. Each time every
file has its row, and every part has the very bytes of the disk's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from buckets import BUCKET, running_server
from compare import DifferenceError
from processes import StillAliveError
from real import Job, RunError, digests_of, kill_one_run, moments_of, require_equal, run_to_end, say
from trees import DATA, made_tree

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "harness"))

from store_proxy import SLOW_DOWN, Cut, FaultyProxy, Lost, Rule, Rules, Short

WORK = DATA / "real" / "bucket"
N_SHARDS = 30
FAILING = 0.02
"""The share of requests that fail."""


def check(n_files: int) -> None:
    """Run the four jobs, and compare their tables. Raises RunError, DifferenceError: something is not as it must be."""
    tree = made_tree(n_files, say)
    shard_size = -(-n_files // N_SHARDS)
    on_disk = Job(WORK / "disk", tree, "count_produce", shard_size, {"engine": "processes"})
    on_disk.write_afresh()
    say(f"  from a disk to a disk: {run_to_end(on_disk, n_files):.1f} s")
    expected = digests_of(on_disk.output)
    with running_server(WORK / "server"):
        say(f"  putting {n_files:,} objects took {_put(tree):.1f} s")
        undisturbed = _job("undisturbed", shard_size)
        say(f"  from a bucket to a bucket: {run_to_end(undisturbed, n_files):.1f} s")
        _compare(undisturbed, expected)

        killed = _job("killed", shard_size)
        for moment in moments_of(N_SHARDS):
            kill_one_run(killed, moment)
        say(f"  the last run ended after {run_to_end(killed, n_files):.1f} s")
        _compare(killed, expected)

        with FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])) as proxy:
            share = FAILING / 4
            faults = [SLOW_DOWN, Cut(), Lost(), Short(10)]
            proxy.choose = Rules(*(Rule(fault, share=share, method=_method(fault)) for fault in faults), seed=16)
            failing = _job("failing", shard_size, endpoint=proxy.endpoint)
            say(f"  with {FAILING:.0%} of the requests failing: {run_to_end(failing, n_files):.1f} s")
            told = ", ".join(f"{n:,} {type(fault).__name__}" for fault, n in proxy.counts.items())
            say(f"  of {len(proxy.served):,} requests: {told}")
        _compare(failing, expected)


# Private functions


def _job(name: str, shard_size: int, **options: str) -> Job:
    keys: dict[str, Any] = {"engine": "processes", "output_path": f"s3://{BUCKET}/{name}"}
    if options:
        keys["storage_options"] = options
    job = Job(WORK / name, f"s3://{BUCKET}/source", "count_produce", shard_size, keys)
    job.write_afresh()
    return job


def _method(fault: object) -> str | None:
    return "GET" if isinstance(fault, Short) else None


def _put(tree: Path) -> float:
    """Put the files of a tree into the bucket, and return the seconds that it took."""
    began = time.perf_counter()
    store, files = _store(), [path for path in tree.rglob("*.json")]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda file: store.put(f"source/{file.relative_to(tree)}", file.read_bytes()), files))
    return time.perf_counter() - began


def _compare(job: Job, expected: dict[str, str]) -> None:
    n_parts = require_equal(expected, _digests(str(job.keys["output_path"]).removeprefix(f"s3://{BUCKET}/")))
    say(f"    {n_parts} parts, byte-identical to those on the disk")


def _digests(folder: str) -> dict[str, str]:
    """Return the sha256 of every object of a table, by its path there, but for the claim."""
    store = _store()
    paths = [meta["path"].removeprefix(f"{folder}/") for page in store.list(f"{folder}/") for meta in page]
    paths = [path for path in paths if "/" in path]
    return {path: hashlib.sha256(bytes(store.get(f"{folder}/{path}").bytes())).hexdigest() for path in paths}


def _store() -> Any:
    from obstore.store import S3Store

    options = {"allow_http": True}
    return S3Store(BUCKET, endpoint=os.environ["AWS_ENDPOINT_URL"], region="us-east-1", client_options=options)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run r3po from a bucket to a bucket, disturbed and not.")
    parser.add_argument("--files", type=int, default=30_000, metavar="N", help="how many (30,000)")
    try:
        check(parser.parse_args(arguments).files)
    except (RunError, DifferenceError, StillAliveError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
