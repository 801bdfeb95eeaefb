"""The two kinds of source, folders of a disk and objects of a store, behind one face: what a build asks of them.

How a worker reads files for f is said in `worker.files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from r3po.config.selection import Selection
from r3po.config.settings import Config, check_source
from r3po.errors import SourceError
from r3po.file_version import FileVersion
from r3po.source.folders import WalkCounts
from r3po.source.hashing import HASH_BYTES, hash_files
from r3po.source.in_threads import map_in_threads
from r3po.source.object_list import list_blocks, path_order
from r3po.source.read import stat_file
from r3po.source.url_list import url_blocks
from r3po.source.walk import Block, count_suffixes, suffixes_of, walk_blocks, walk_key
from r3po.storage.names import absolute_path, show_name
from r3po.storage.object_urls import is_url
from r3po.storage.objects import ObjectStore
from r3po.storage.url_store import UrlStore

HASH_REQUESTS = 32
"""Objects that are read at once to be hashed."""

File = tuple[str, FileVersion]
"""Path and version as it was listed."""


class Source(Protocol):
    """Where the files of a job are. Paths are relative to it."""

    @property
    def order(self) -> Callable[[str], Any]:
        """Returns the sort key of a path: rows and blocks are in its order."""

    def check(self) -> None:
        """Make sure that it is there and can be listed; no file is looked at.

        Raises:
            SourceError, StoreError: it is not.
        """

    def blocks(self, counts: WalkCounts, *, processes: int = 0, stats_all: bool = True) -> Generator[Block]:
        """Yield the job's files in blocks, in its order; what is passed over goes into `counts`. See `walk_blocks`."""

    def hashes(self, files: Iterable[File], processes: int) -> Generator[FileVersion | OSError]:
        """Yield each file's version now with its content hash, in their order, or why it cannot be read."""

    def version(self, path: str) -> FileVersion | None:
        """Return what a file is now, without reading it; None if it cannot be seen."""

    def where(self, path: str) -> str:
        """Return the absolute path of a file, or its URL."""

    def suffixes(self) -> dict[str, int]:
        """Return how many files, the job's or not, end with which suffix, most first."""


def source_of(config: Config) -> Source:
    """Return the source that a config names; nothing is asked of it yet."""
    store = store_of(config)
    if store is None:
        return DiskSource(config)
    return UrlListSource(config, store) if isinstance(store, UrlStore) else BucketSource(config, store)


def store_of(config: Config) -> ObjectStore | None:
    """Return where objects are read from; None: the files are on a disk."""
    url = config.source_url
    if url is None:
        return None
    return (ObjectStore if url.is_cloud else UrlStore)(url, config.store_options)


def order_of(source_path: str) -> Callable[[str], Any]:
    """Return the sort key of the paths of a source, as the manifest names it."""
    return path_order if is_url(source_path) else walk_key


def check_kind(known: str, config: Config) -> None:
    """Refuse that a job moves from a disk to a store, or back: their files come in different orders.

    Args:
        known: the source of the manifest.

    Raises:
        SourceError: it does.
    """
    if is_url(known) != (config.source_url is not None):
        here, there = ("a disk", "a store") if config.source_url is None else ("a store", "a disk")
        raise SourceError(
            f"the files of this job are on {there}, and source_path is on {here} now; nothing was changed",
            where=show_name(known),
            hint="rows come in another order there: give the config another working_dir and output_path",
        )


class DiskSource:
    """One folder or several."""

    order = staticmethod(walk_key)

    def __init__(self, config: Config) -> None:
        self._config = config
        self._root = str(config.source_path)

    def check(self) -> None:
        check_source(self._config)

    def blocks(self, counts: WalkCounts, *, processes: int = 0, stats_all: bool = True) -> Generator[Block]:
        config = self._config
        return walk_blocks(
            config.source_folder,
            config.selection,
            skip=config.own_folders,
            counts=counts,
            processes=processes,
            stats_all=stats_all,
            skip_unreadable=config.on_unreadable == "skip",
        )

    def hashes(self, files: Iterable[File], processes: int) -> Generator[FileVersion | OSError]:
        return hash_files((self.where(path) for path, _ in files), processes)

    def version(self, path: str) -> FileVersion | None:
        return stat_file(self.where(path))

    def where(self, path: str) -> str:
        return absolute_path(self._root, path)

    def suffixes(self) -> dict[str, int]:
        return count_suffixes(self._config.source_folder, self._config.selection)


class BucketSource:
    """The objects below a URL."""

    order = staticmethod(path_order)

    def __init__(self, config: Config, store: ObjectStore) -> None:
        self._config, self._store = config, store

    def check(self) -> None:
        self._store.check_listing()

    def blocks(self, counts: WalkCounts, *, processes: int = 0, stats_all: bool = True) -> Generator[Block]:
        return self._blocks(self._config.selection, counts, looks=stats_all)

    def hashes(self, files: Iterable[File], processes: int) -> Generator[FileVersion | OSError]:
        return map_in_threads(self._hash, (path for path, _ in files), HASH_REQUESTS, "r3po-hash")

    def version(self, path: str) -> FileVersion | None:
        try:
            info = self._store.look(self._store.key_of(path))
        except OSError:
            return None
        return FileVersion(info.size, info.mtime_ns, tag=info.tag)

    def where(self, path: str) -> str:
        return self._store.where(path)

    def suffixes(self) -> dict[str, int]:
        which = replace(self._config.selection, endings=("",))
        with closing(self._blocks(which, WalkCounts(), looks=False)) as blocks:
            return suffixes_of(path for block in blocks for path, *_ in block)

    # Private methods

    def _blocks(self, which: Selection, counts: WalkCounts, *, looks: bool) -> Generator[Block]:
        return list_blocks(self._store, which, counts=counts, scratch=self._scratch)

    @property
    def _scratch(self) -> Path | None:
        """The folder for a long listing that has to be sorted; the system's until the job has its own."""
        folder = self._config.working_dir
        return folder if folder.is_dir() else None

    def _hash(self, path: str) -> FileVersion | OSError:
        digest = hashlib.blake2b(digest_size=HASH_BYTES)
        try:
            info = self._store.stream(self._store.key_of(path), digest.update)
        except OSError as error:
            return error
        return FileVersion(info.size, info.mtime_ns, digest.digest(), tag=info.tag)


class UrlListSource(BucketSource):
    """The files that a list on a web server names."""

    def __init__(self, config: Config, store: UrlStore) -> None:
        super().__init__(config, store)
        self._list = store

    def check(self) -> None:
        try:
            self._list.check_listing()
        except OSError as error:
            hint = "source_path: https://... is a text file with a URL a line"
            what = f"the list of URLs cannot be read: {error.strerror}"
            raise SourceError(what, where=str(self._list.url), hint=hint) from None

    # Private methods

    def _blocks(self, which: Selection, counts: WalkCounts, *, looks: bool) -> Generator[Block]:
        return url_blocks(self._list, which, counts, looks=looks)
