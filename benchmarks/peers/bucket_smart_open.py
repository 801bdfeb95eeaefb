"""smart_open in a multiprocessing.Pool, one client of boto3 a process."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pool
from typing import Any

import boto3
from smart_open import open as open_url

from bucket_peer import PER_CHUNK, BucketTask, parse_bucket_task
from peer import write_rows


def start(given: BucketTask) -> None:
    global task, client
    task, client = given, boto3.client("s3")


def row_of(key: str) -> dict[str, Any]:
    with open_url(f"s3://{task.bucket}/{key}", "rb", transport_params={"client": client, "defer_seek": True}) as file:
        return task.function(key, file.read())


def iter_keys(task: BucketTask) -> Iterator[str]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=task.bucket, Prefix=task.prefix)
    for page in pages:
        yield from (found["Key"] for found in page["Contents"])


if __name__ == "__main__":
    task = parse_bucket_task()
    with Pool(task.processes, start, (task,)) as pool:
        rows = pool.imap_unordered(row_of, iter_keys(task), chunksize=PER_CHUNK)
        write_rows(rows, task.out / "rows.csv")
