"""s3fs in a multiprocessing.Pool: each process fetches its chunks by `cat`, many objects at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from multiprocessing import get_context
from typing import Any

from s3fs import S3FileSystem

from bucket_peer import BucketTask, in_chunks, parse_bucket_task
from peer import write_rows


def start(given: BucketTask) -> None:
    global task, files
    task, files = given, open_bucket(given)


def open_bucket(task: BucketTask) -> S3FileSystem:
    return S3FileSystem(
        endpoint_url=task.endpoint,
        client_kwargs={"region_name": task.region},
        config_kwargs={"max_pool_connections": task.in_flight},  # 10 unless it is said
    )


def rows_of(paths: Sequence[str]) -> list[dict[str, Any]]:
    found = files.cat(list(paths), batch_size=task.in_flight)
    return [task.function(path, data) for path, data in found.items()]


if __name__ == "__main__":
    task = parse_bucket_task()
    # Spawned: its event loop does not go on in a forked process.
    with get_context("spawn").Pool(task.processes, start, (task,)) as pool:
        paths = open_bucket(task).find(f"{task.bucket}/{task.prefix}")
        rows = pool.imap_unordered(rows_of, in_chunks(iter(paths)))
        write_rows(chain.from_iterable(rows), task.out / "rows.csv")
