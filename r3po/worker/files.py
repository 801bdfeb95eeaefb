"""How a worker gets at the files of a batch, of a disk or a store, before f is called with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from r3po.file_version import UNKNOWN_VERSION
from r3po.source.object_ahead import ObjectInUse, ObjectsAhead, Wanted
from r3po.source.object_folders import ObjectFolders
from r3po.source.read import FileInUse, read_file, stat_file, use_file
from r3po.source.read_ahead import LITTLE_BYTES, TOLD_BYTES, ReadAhead
from r3po.storage.names import absolute_path
from r3po.storage.objects import ObjectStore
from r3po.worker.messages import Listed

InUse = FileInUse | ObjectInUse
"""A file from before f is called with it until f has returned."""


class Files(Protocol):
    """The files of a source, for one worker."""

    @property
    def waited_s(self) -> float:
        """Seconds that f was kept waiting for a store."""

    @property
    def is_ahead(self) -> bool:
        """Whether `advance` is to be called after each file."""

    def begin(self, paths: Sequence[str], listed: Iterable[Listed]) -> None:
        """Take the files of a batch, in f's order: they may be read ahead."""

    def use(self, path: str, listed: Listed) -> InUse:
        """Return a file for f's use; the caller closes it.

        Raises:
            OSError, MemoryError: it cannot be read.
            StoreError: no object can be read any more.
        """

    def look_at(self, path: str) -> Listed:
        """Return what a file is now that was only listed, without reading it."""

    def look(self, n_files: int) -> None:
        """Decide again whether to read ahead; f has come to the end of `n_files` files of the batch."""

    def advance(self) -> None:
        """Note that f has come to the end of one file."""

    def close(self) -> None:
        """Leave nothing behind."""


def files_of(source_path: str, store: ObjectStore | None, *, wants_data: bool, wants_hash: bool) -> Files:
    """Return how the files of a job are got at.

    Args:
        source_path: the folder of a disk that paths are relative to.
        store: where the files are; None: on a disk.
        wants_data: f takes the content, too.
        wants_hash: the content hash is taken.
    """
    if store is None:
        return DiskFiles(source_path, wants_data=wants_data, wants_hash=wants_hash)
    return StoreFiles(store, wants_data=wants_data, wants_hash=wants_hash)


class DiskFiles:
    """Files of a disk: f gets their paths, and the kernel reads ahead."""

    waited_s = 0.0

    def __init__(self, source_path: str, *, wants_data: bool, wants_hash: bool) -> None:
        reads_whole = wants_data or wants_hash
        read = partial(read_file, wants_data=wants_data, wants_hash=wants_hash)
        self._use: Callable[[str], FileInUse] = read if reads_whole else use_file
        self._absolute = partial(absolute_path, source_path)
        self._ahead = ReadAhead(TOLD_BYTES if reads_whole else LITTLE_BYTES)
        self.look, self.advance = self._ahead.look, self._ahead.advance

    @property
    def is_ahead(self) -> bool:
        return self._ahead.is_on

    def begin(self, paths: Sequence[str], listed: Iterable[Listed]) -> None:
        self._ahead.begin(map(self._absolute, paths))

    def use(self, path: str, listed: Listed) -> FileInUse:
        return self._use(self._absolute(path))

    def look_at(self, path: str) -> Listed:
        found = stat_file(self._absolute(path)) or UNKNOWN_VERSION
        return found.size, found.mtime_ns, None, False, ""

    def close(self) -> None:
        """Do nothing: none stays open."""


class StoreFiles:
    """Objects of a store, which are read before f is called: as bytes, or into files of their names."""

    is_ahead = False

    def __init__(self, store: ObjectStore, *, wants_data: bool, wants_hash: bool) -> None:
        self._folders = ObjectFolders()
        folder_for = None if wants_data else self._folders.folder_for
        self._ahead = ObjectsAhead(store, folder_for=folder_for, wants_hash=wants_hash)

    @property
    def waited_s(self) -> float:
        return self._ahead.waited_s

    def begin(self, paths: Sequence[str], listed: Iterable[Listed]) -> None:
        self._ahead.begin(map(_wanted, paths, listed))

    def use(self, path: str, listed: Listed) -> ObjectInUse:
        return self._ahead.take(_wanted(path, listed))

    def look_at(self, path: str) -> Listed:
        """Return that nothing is known: a listing of a store says all that there is to say."""
        return *UNKNOWN_VERSION[:2], None, False, ""

    def look(self, n_files: int) -> None:
        """Do nothing: objects are always read ahead."""

    def advance(self) -> None:
        """Do nothing: taking one makes room for another."""

    def close(self) -> None:
        self._ahead.close()
        self._folders.remove()


# Private functions


def _wanted(path: str, listed: Listed) -> Wanted:
    return Wanted(path, listed[0], listed[4])
