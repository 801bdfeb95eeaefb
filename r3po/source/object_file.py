"""The files that f is given in place of objects: each of its object's own name, in folders of its folders' names."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_LONGEST_NAME = 255


class ObjectFile:
    """A copy of one object, open for writing until the end of a `with`; after an error in it there is none.

    It is for f alone: nothing of it is synced.

    Attributes:
        top: a folder that nothing else is below.
        folder: the folder of the file, some levels below `top`, as its key has them.
        path: the file.
    """

    __slots__ = ("_descriptor", "folder", "path", "top")

    def __init__(self, top: str, path: str) -> None:
        """Make the file and its folders.

        Args:
            top: a folder that is not there yet.
            path: the object's, relative to the source.

        Raises:
            OSError: there is no room, say; nothing is left.
        """
        folder, _, name = f"{top}/{local_path(path)}".rpartition("/")
        self.top, self.folder, self.path = top, folder, f"{folder}/{name}"
        try:
            os.mkdir(top)  # alone: where the folder above it is gone, nobody wants the file any more
            os.makedirs(folder, exist_ok=True)
            self._open()
        except OSError:
            self.remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._descriptor)
        if kind is not None:
            self.remove()

    def write(self, block: Any) -> None:
        """Append to it."""
        n_written = os.write(self._descriptor, block)
        if n_written < len(block):  # one call of the system writes 2 GiB at the most
            self.write(memoryview(block)[n_written:])

    def remove(self) -> None:
        """Remove it and its folders, with whatever f may have put beside it."""
        try:
            os.unlink(self.path)
            folder = self.folder
            while folder != self.top:  # a tenth of what rmtree costs
                os.rmdir(folder)
                folder = folder[: folder.rindex("/")]
            os.rmdir(folder)
        except OSError:
            shutil.rmtree(self.top, ignore_errors=True)

    def clear(self) -> bool:
        """Remove it, and return whether its folder is empty then: another file may come into it."""
        try:
            os.unlink(self.path)
            return not os.listdir(self.folder)
        except OSError:
            return False

    def rename(self, path: str) -> bool:
        """After `clear`: make it anew, for another object; return False where that has another folder, or cannot."""
        folder, _, name = f"{self.top}/{local_path(path)}".rpartition("/")
        if folder != self.folder:
            return False
        self.path = f"{folder}/{name}"
        try:
            self._open()
        except OSError:
            return False
        return True

    # Private methods

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


class ObjectFiles:
    """Makes files for objects."""

    def __init__(self, folder_for: Callable[[int], Path]) -> None:
        """Make nothing yet.

        Args:
            folder_for: returns the folder for a file of so many bytes.
        """
        self._folder_for = folder_for
        self._numbers = itertools.count(1)
        self._kept: ObjectFile | None = None
        """The file that was given back last: its folders are still there. Making and removing them costs twice as much
        as the file, and most objects have the folder of the one before."""

    def make(self, path: str, n_bytes: int) -> ObjectFile:
        """Return a new file, whose `remove` is the caller's. Threads may call it.

        Raises:
            OSError: there is no room, say.
        """
        return ObjectFile(f"{self._folder_for(n_bytes)}/{next(self._numbers)}", path)

    def make_next(self, path: str, n_bytes: int) -> ObjectFile:
        """Return a new file, which comes back to `give_back`. One thread calls both.

        Raises:
            OSError: there is no room, say.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            if kept.top.startswith(f"{self._folder_for(n_bytes)}/") and kept.rename(path):
                return kept
            kept.remove()
        return self.make(path, n_bytes)

    def give_back(self, file: ObjectFile) -> None:
        """Remove a file; an empty folder of it may be the next one's."""
        if self._kept is None and file.clear():
            self._kept = file
        else:
            file.remove()

    def close(self) -> None:
        """Leave no folder."""
        if self._kept is not None:
            self._kept.remove()
            self._kept = None


def local_path(path: str) -> str:
    """Return a key's path as one that a disk takes: parts that it would not take are escaped or shortened.

    The name keeps its suffix.
    """
    return "/".join(map(_local_name, path.split("/")))


# Private functions


def _local_name(part: str) -> str:
    if part in ("", ".", ".."):
        return "%2E" * len(part) or "%"
    if "\0" in part:
        part = part.replace("\0", "%00")
    name = os.fsencode(part)
    if len(name) > _LONGEST_NAME:
        # With a digest: f may keep something by the path, and another name may begin and end alike.
        end = b"~" + hashlib.blake2b(name, digest_size=8).hexdigest().encode()
        end += os.fsencode(os.path.splitext(part)[1])[-50:]
        name = name[: _LONGEST_NAME - len(end)] + end
    return os.fsdecode(name)
