"""The limit of a bucket: a bare loop of obstore's get with so many in flight, in one process or in several.

The objects are asked for while the listing goes on; rows are written as they come. Nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from multiprocessing import get_context
from typing import Any

import obstore
from obstore.store import S3Store

from bucket_peer import BucketTask, in_chunks, parse_bucket_task
from peer import write_rows


class Loop:
    """The loop of one process."""

    def __init__(self, task: BucketTask) -> None:
        self._function = task.function
        self._prefix = task.prefix
        self._store = S3Store(
            task.bucket, endpoint=task.endpoint, region=task.region, client_options={"allow_http": True}
        )
        self._threads = ThreadPoolExecutor(task.in_flight)

    def keys(self) -> Iterator[str]:
        for page in obstore.list(self._store, self._prefix, chunk_size=1000):
            yield from (meta["path"] for meta in page)

    def row(self, key: str) -> dict[str, Any]:
        return self._function(key, bytes(obstore.get(self._store, key).bytes()))

    def rows(self, keys: Iterator[str] | Sequence[str]) -> Iterator[dict[str, Any]]:
        return self._threads.map(self.row, keys)


def start(task: BucketTask) -> None:
    global loop
    loop = Loop(task)


def rows_of(keys: Sequence[str]) -> list[dict[str, Any]]:
    return list(loop.rows(keys))


if __name__ == "__main__":
    task = parse_bucket_task()
    if task.processes == 1:
        only = Loop(task)
        write_rows(only.rows(only.keys()), task.out / "rows.csv")
    else:
        # Spawned: a process that has used obstore must not be forked.
        with get_context("spawn").Pool(task.processes, start, (task,)) as pool:
            rows = pool.imap_unordered(rows_of, in_chunks(Loop(task).keys()))
            write_rows(chain.from_iterable(rows), task.out / "rows.csv")
