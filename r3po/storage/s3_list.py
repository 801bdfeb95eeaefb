"""Listing a bucket of S3 exactly: every key as it is, in the byte order of whole keys, within memory.

Amazon lists in that order; other servers may not (SeaweedFS goes folder by folder), and directory buckets do not
either. Of those the listing goes through `SortedRuns` first, so that what comes out is in order, whoever lists.
"""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from r3po.errors import StoreError
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectInfo
from r3po.storage.s3_client import S3Client
from r3po.storage.sorted_runs import SortedRuns

PAGE_KEYS = 1000
"""Keys of one answer; stores give no more."""

N_AHEAD = 8
"""Most listings at once."""

MOST_FOLDERS = 200
"""Of more folders below the prefix each is taken to be too small for a listing of its own."""

PAGES_AHEAD = 4
"""Most pages of one listing that wait to be taken."""

N_LOOKS = 3
"""How often a page is asked for whose answer is no listing."""

Page = list[ObjectInfo]


def list_objects(
    client: S3Client, url: ObjectUrl, *, start_after: str = "", scratch: Path | None = None
) -> Generator[Page]:
    """Yield the objects whose key begins with the URL's prefix, in blocks, in the byte order of keys.

    Args:
        client: of the bucket.
        url: where.
        start_after: only of keys behind this one.
        scratch: folder for what does not fit into memory; None: the system's.

    Raises:
        StoreError, OSError: see `store_errors`.
    """
    promises = is_ordered(client, url)
    # Where a server goes on behind a key is in its own order.
    pages = _pages_in_parallel(client, url.prefix, start_after if promises else "")
    with closing(pages):
        if promises:
            yield from checked(pages, url)
            return
        behind = key_order(start_after)
        with SortedRuns(scratch) as runs:
            for page in pages:
                items = [(key_order(info.key), tuple(info)) for info in page]
                runs.add([item for item in items if item[0] > behind] if behind else items)
            for block in runs.blocks():
                yield [ObjectInfo(*info) for info in block]


def is_ordered(client: S3Client, url: ObjectUrl) -> bool:
    """Whether the store promises the order of keys."""
    return client.access.is_aws and not url.bucket.endswith("--x-s3")


def key_order(key: str) -> bytes:
    """Return what keys are ordered by."""
    return key.encode("utf-8", "surrogateescape")


def checked(pages: Iterable[Page], url: ObjectUrl) -> Iterator[Page]:
    """Yield pages as they come.

    Raises:
        StoreError: they are not in order, although the store promises it.
    """
    last = b""
    for page in pages:
        for info in page:
            order = key_order(info.key)
            if order <= last:
                raise StoreError(
                    "the store lists its keys out of order",
                    where=str(url),
                    evidence=f"{url.url_of(info.key)} comes behind a later one",
                    hint="name the server in storage_options: {endpoint: ...}; its keys are then sorted here",
                )
            last = order
        yield page


# Private functions


def _pages_in_parallel(client: S3Client, prefix: str, start_after: str) -> Generator[Page]:
    """Yield all pages; those of folders below the prefix are fetched at the same time."""
    first, is_all = _page(client, prefix, start_after=start_after)
    if is_all.token is None:
        yield first
        return
    parts = None if start_after else _parts_of(client, prefix)
    if parts is None:
        yield first
        yield from _pages(client, prefix, token=is_all.token)
        return
    waiting = iter(parts)
    running: deque[_Ahead | Page] = deque()
    try:
        while True:
            while len(running) < N_AHEAD and (part := next(waiting, None)) is not None:
                running.append(part if isinstance(part, list) else _Ahead(client, part))
            if not running:
                return
            now = running[0]
            yield from [now] if isinstance(now, list) else now
            running.popleft()
    finally:
        for each in running:
            if isinstance(each, _Ahead):
                each.close()


def _parts_of(client: S3Client, prefix: str) -> list[str | Page] | None:
    """Return the folders below a prefix, and pages of what lies between them, in order; None: one listing is better."""
    folders, loose, token = list[str](), Page(), None
    while True:
        page, more = _page(client, prefix, token=token, delimiter="/")
        loose += page
        folders += more.folders
        token = more.token
        if len(folders) > MOST_FOLDERS or len(loose) > PAGE_KEYS:
            return None
        if token is None:
            break
    if len(folders) < 2:
        return None
    parts: list[tuple[bytes, str | Page]] = [(key_order(folder), folder) for folder in folders]
    parts += [(key_order(info.key), [info]) for info in loose]
    return [part for _, part in sorted(parts, key=lambda part: part[0])]


def _pages(client: S3Client, prefix: str, token: str | None = None) -> Iterator[Page]:
    while True:
        page, more = _page(client, prefix, token=token)
        if page:
            yield page
        token = more.token
        if token is None:
            return


class _Ahead:
    """The pages of one listing, fetched by a thread."""

    def __init__(self, client: S3Client, prefix: str) -> None:
        self._pages: queue.Queue[Page | BaseException | None] = queue.Queue(PAGES_AHEAD)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, args=(client, prefix), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Page]:
        while (page := self._pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield page

    def close(self) -> None:
        """End the thread: after the request that it waits for."""
        self._is_closed.set()

    # Private methods

    def _fetch(self, client: S3Client, prefix: str) -> None:
        try:
            for page in _pages(client, prefix):
                if not self._put(page):
                    return
        except BaseException as error:  # for whoever takes the pages
            self._put(error)
            return
        self._put(None)

    def _put(self, page: Page | BaseException | None) -> bool:
        while not self._is_closed.is_set():
            try:
                self._pages.put(page, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


class _More:
    """What a page says beside its objects."""

    def __init__(self, token: str | None, folders: list[str]) -> None:
        self.token, self.folders = token, folders


def _page(
    client: S3Client, prefix: str, *, token: str | None = None, start_after: str = "", delimiter: str = ""
) -> tuple[Page, _More]:
    """Return one page of a listing, and how it goes on."""
    query = {"list-type": "2", "encoding-type": "url", "max-keys": str(PAGE_KEYS), "prefix": prefix}
    given = {"continuation-token": token, "start-after": start_after, "delimiter": delimiter}
    query |= {name: value for name, value in given.items() if value}
    for _ in range(N_LOOKS):
        body = client.request("list", "GET", query=query).body
        try:
            return _read_plain(body) or _read_page(client, body)
        except StoreError as error:  # an answer may be cut on its way, and say that this is all
            refused = error
    raise refused


_CONTENTS = [re.compile(rf"<{name}>([^<]*)</{name}>") for name in ("Key", "Size", "ETag", "LastModified")]


def _read_plain(body: bytes) -> tuple[Page, _More] | None:
    """Return what `_read_page` does, at a quarter of its cost, of an answer as Amazon gives it; None: it is another."""
    text = body.decode("utf-8", "replace")
    beginning, found, rest = text.partition("<Contents>")
    if not found or "<EncodingType>url</EncodingType>" not in text or "CommonPrefixes" in text or "<!" in text:
        return None
    keys, sizes, tags, times = (pattern.findall(rest) for pattern in _CONTENTS)
    n = 1 + rest.count("<Contents>")
    if not n == len(keys) == len(sizes) == len(tags) == len(times) or not text.rstrip().endswith("</ListBucketResult>"):
        return None
    outside = beginning + rest[rest.rindex("</Contents>") :]
    is_cut = "<IsTruncated>true</IsTruncated>" in outside
    token = re.search(r"<NextContinuationToken>([^<&]+)</NextContinuationToken>", outside)
    if is_cut != (token is not None):
        return None
    tags = [tag.replace("&quot;", '"').replace("&#34;", '"') for tag in tags]
    if any("&" in key for key in keys) or any("&" in tag for tag in tags):
        return None
    page = list(map(ObjectInfo, map(_unquoted, keys), map(int, sizes), tags, map(_nanoseconds, times)))
    return page, _More(token[1] if token else None, [])


def _read_page(client: S3Client, body: bytes) -> tuple[Page, _More]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise _no_listing(client, "no XML") from None
    if not root.tag.endswith("ListBucketResult"):
        raise _no_listing(client, f"<{root.tag}>")
    space = root.tag[: -len("ListBucketResult")]
    is_quoted = root.findtext(f"{space}EncodingType") == "url"
    names = tuple(f"{space}{name}" for name in ("Key", "Size", "ETag", "LastModified"))
    page = Page()
    for element in root.iter(f"{space}Contents"):
        found = {child.tag: child.text or "" for child in element}
        key, size, tag, modified = (found.get(name, "") for name in names)
        page.append(ObjectInfo(_unquoted(key) if is_quoted else key, int(size), tag, _nanoseconds(modified)))
    prefixes = (element.findtext(f"{space}Prefix") or "" for element in root.iter(f"{space}CommonPrefixes"))
    folders = [_unquoted(text) if is_quoted else text for text in prefixes]
    token = root.findtext(f"{space}NextContinuationToken")
    is_cut = root.findtext(f"{space}IsTruncated") == "true"
    if is_cut and not token:
        raise _no_listing(client, "it is cut, and does not say how it goes on")
    return page, _More(token if is_cut else None, folders)


def _no_listing(client: S3Client, what: str) -> StoreError:
    return StoreError(
        "the answer is no listing of S3",
        where=client.access.endpoint,
        evidence=what,
        hint="does the endpoint speak S3? look at storage_options: {endpoint: ...} and AWS_ENDPOINT_URL",
    )


def _unquoted(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape") if "%" in text or "+" in text else text


@lru_cache(maxsize=4096)
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _nanoseconds(text: str) -> int:
    """Return a moment such as 2026-01-31T10:20:30.250Z."""
    if not text:
        return 0
    whole, _, rest = text.partition(".")
    if not rest:
        return _seconds(text) * 10**9
    return _seconds(whole + "Z") * 10**9 + int(rest.rstrip("Z").ljust(9, "0")[:9])
