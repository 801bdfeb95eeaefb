"""Uploads in pieces that nobody will complete: a process that was killed leaves them in a bucket, where they cost.

Of S3 alone. Azure drops such pieces after a week; of Google's store a rule of the bucket does (docs/buckets_output.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

from r3po.storage.objects import ObjectStore


def abort_uploads(store: ObjectStore, is_ours: Callable[[str], bool]) -> int:
    """Abort the uploads of some objects below the store's URL. Returns how many there were.

    Args:
        store: its URL is where.
        is_ours: asked with the path below the URL.

    Raises:
        StoreError, OSError: see `store_errors`.
    """
    if not store.is_s3:
        return 0
    ours = [(key, upload) for key, upload in _uploads(store) if is_ours(key.removeprefix(store.url.prefix))]
    for key, upload in ours:
        store.s3.request("delete", "DELETE", key, {"uploadId": upload})
    return len(ours)


# Private functions


def _uploads(store: ObjectStore) -> Iterator[tuple[str, str]]:
    """Yield the key and the id of each upload below the URL."""
    query = {"uploads": "", "prefix": store.url.prefix}
    while True:
        answer = store.s3.request("list", "GET", query=query)
        root = ElementTree.fromstring(re.sub(rb' xmlns="[^"]*"', b"", answer.body, count=1))
        for upload in root.iterfind("Upload"):
            yield upload.findtext("Key", ""), upload.findtext("UploadId", "")
        if root.findtext("IsTruncated") != "true":
            return
        query |= {
            "key-marker": root.findtext("NextKeyMarker", ""),
            "upload-id-marker": root.findtext("NextUploadIdMarker", ""),
        }
