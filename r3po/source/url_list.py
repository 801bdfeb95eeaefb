"""A text file of URLs on a web server, as a source: one URL a line; empty lines and those that begin with # are none.

Row order is the byte order of URLs, and a file's path is its URL. A URL with a query is refused: what it may hold of
secrets would be in the manifest and in the table.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from urllib.parse import urlsplit

from r3po.config.selection import Selection
from r3po.errors import SourceError
from r3po.file_version import UNSEEN
from r3po.source.folders import WalkCounts
from r3po.source.in_threads import map_in_threads
from r3po.source.object_list import KeyChooser, ObjectBlock, path_order
from r3po.storage.names import show_text
from r3po.storage.sorted_runs import SortedRuns
from r3po.storage.url_store import UrlStore

BLOCK_FILES = 1000

File = tuple[str, int, int, str]

N_REQUESTS = 32
"""Files that are looked at at once."""


def url_blocks(store: UrlStore, which: Selection, counts: WalkCounts, *, looks: bool = True) -> Generator[ObjectBlock]:
    """Yield the files that a list names and that are one of `which`, in row order, in blocks that are not empty.

    Args:
        store: whose URL is that of the list.
        which: the files to find.
        counts: filled with what was passed over.
        looks: ask each server for size, mtime and tag; a file that cannot be seen is `UNSEEN`, and will be a failure of
            the run. False: nothing but the list is asked for.

    Raises:
        SourceError: a line is no URL.
        StoreError, OSError: the list cannot be read.
    """
    chooser = KeyChooser(which, counts)
    chosen = (url for url in _sorted(_urls(store)) if chooser.takes(url, 0))
    files = (
        map_in_threads(partial(_look, store), chosen, N_REQUESTS, "r3po-look")
        if looks
        else ((url, UNSEEN, UNSEEN, "") for url in chosen)
    )
    with closing(files):
        while block := list(islice(files, BLOCK_FILES)):
            yield block
    chooser.note_unmatched()


# Private functions


def _urls(store: UrlStore) -> Iterator[str]:
    data, _ = store.read(str(store.url))
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        if what := _trouble_of(url):
            raise SourceError(
                f"line {number} of the list {what}",
                where=str(store.url),
                evidence=show_text(_shown(url)),
                hint="each line is a URL like https://host/folder/file.json",
            )
        yield url


def _trouble_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path in ("", "/"):
        return "is no URL of a file on a web server"
    if parts.query or parts.fragment or "?" in url:
        return "has a ? or a #: what is behind it may be a secret, and would be in the table"
    return "has a name or a password before its @" if "@" in parts.netloc else ""


def _shown(url: str) -> str:
    """Return a URL without what may be a secret in it."""
    return re.sub(r"//[^/@]*@", "//", re.split("[?#]", url)[0][:200])


def _sorted(urls: Iterable[str]) -> Iterator[str]:
    """Yield each URL once, in row order."""
    with SortedRuns() as runs:
        while items := [(path_order(url), (url,)) for url in islice(urls, BLOCK_FILES)]:
            runs.add(items)
        for block in runs.blocks():
            yield from (url for (url,) in block)


def _look(store: UrlStore, url: str) -> File:
    try:
        info = store.look(url)
    except (FileNotFoundError, PermissionError):
        return url, UNSEEN, UNSEEN, ""  # a failure of the run, if it is still so
    return url, info.size, info.mtime_ns, info.tag
