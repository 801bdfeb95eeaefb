"""Listing alone: every key below a URL with its size, by r3po or by one of the peers, into a CSV file."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from pathlib import Path

Found = Iterator[tuple[str, int]]


def by_r3po(bucket: str, prefix: str) -> Found:
    from r3po.config.selection import Selection
    from r3po.source.object_list import list_blocks
    from r3po.storage.object_urls import ObjectUrl
    from r3po.storage.objects import ObjectStore

    for block in list_blocks(ObjectStore(ObjectUrl.parse(f"s3://{bucket}/{prefix}")), Selection((".json",))):
        yield from ((prefix + path, size) for path, size, _, _ in block)


def by_obstore(bucket: str, prefix: str) -> Found:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    for page in obstore.list(store, prefix, chunk_size=1000):
        yield from ((meta["path"], meta["size"]) for meta in page)


def by_boto3(bucket: str, prefix: str) -> Found:
    import boto3

    for page in boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from ((found["Key"], found["Size"]) for found in page["Contents"])


def by_s3fs(bucket: str, prefix: str) -> Found:
    from s3fs import S3FileSystem

    for path, found in S3FileSystem().find(f"{bucket}/{prefix}", detail=True).items():
        yield path.removeprefix(f"{bucket}/"), found["size"]


CLIENTS = {"r3po": by_r3po, "obstore": by_obstore, "boto3": by_boto3, "s3fs": by_s3fs}


def main() -> None:
    parser = argparse.ArgumentParser(description="List the objects below a URL.")
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("url", help="s3://bucket/prefix/")
    parser.add_argument("out", type=Path, help="the CSV file")
    arguments = parser.parse_args()
    bucket, _, prefix = arguments.url.removeprefix("s3://").partition("/")
    with open(arguments.out, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("key", "size"))
        writer.writerows(CLIENTS[arguments.client](bucket, prefix))


if __name__ == "__main__":
    main()
