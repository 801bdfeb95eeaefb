"""Listing any store: its objects in the byte order of whole keys, in blocks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.s3_list import Page, checked, key_order, list_objects
from r3po.storage.sorted_runs import SortedRuns

_ORDERED = ("gs", "az")
"""Schemes whose own clouds list in the order of keys; another server may not."""


def list_store(store: ObjectStore, *, start_after: str = "", scratch: Path | None = None) -> Generator[Page]:
    """Yield the objects below the store's URL, in the byte order of their keys.

    Of a store other than S3 there must be no keys with an empty or dotted part or with a control character below it:
    obstore lists nothing then, and says so.

    Args:
        store: whose URL says what to list.
        start_after: only of keys behind this one.
        scratch: folder for what does not fit into memory; None: the system's.

    Raises:
        StoreError, OSError: see `storage.store_errors`.
    """
    if store.is_s3:
        yield from list_objects(store.s3, store.url, start_after=start_after, scratch=scratch)
        return
    pages = store.list_pages(start_after)
    if store.url.scheme in _ORDERED and not store.options.endpoint:
        with closing(pages):
            yield from checked(pages, store.url)
    else:
        yield from _sorted(pages, key_order(start_after), scratch)


# Private functions


def _sorted(pages: Iterator[Page], behind: bytes, scratch: Path | None) -> Iterator[Page]:
    with SortedRuns(scratch) as runs:
        for page in pages:
            items = [(key_order(info.key), tuple(info)) for info in page]
            runs.add([item for item in items if item[0] > behind])
        for block in runs.blocks():
            yield [ObjectInfo(*info) for info in block]
