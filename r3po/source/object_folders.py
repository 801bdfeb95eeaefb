"""Where copies of objects lie while f has them: in memory (`/dev/shm`) where there is room, else in TMPDIR."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from r3po.storage.temporary import sweep_folders, take_folder

FOLDER_PREFIX = "r3po-objects-"
"""Begins the name of each such folder."""

IN_MEMORY = "/dev/shm"

IN_MEMORY_BYTES = 32 << 20
"""Larger objects go to the disk."""

FREE_BYTES = 512 << 20
"""What must be free in memory for one more copy."""


_REMOVALS = 10
"""How often to try: a thread may make a file in a folder just when all in it was removed."""


class ObjectFolders:
    """The folders of one worker. Threads may share it; each is made when it is first needed."""

    def __init__(self) -> None:
        # Where whoever sweeps will look: f may set another TMPDIR, or work elsewhere.
        self._places = (_temporary_folder(), os.getcwd())
        self._is_removed = False
        self._making = threading.Lock()
        self._made: dict[bool, tuple[Path, Any]] = {}
        """Folder and lock, of memory and of the disk."""

    def folder_for(self, size: int) -> Path:
        """Return where a file of so many bytes goes to.

        Raises:
            OSError: no place takes a folder.
        """
        is_in_memory = size <= IN_MEMORY_BYTES and _has_room()  # each time: other workers fill it, too
        with self._making:
            if self._is_removed:
                raise FileNotFoundError(errno.ENOENT, "nobody wants the object any more")
            if is_in_memory not in self._made:
                places = (IN_MEMORY, *self._places) if is_in_memory else self._places
                self._made[is_in_memory] = take_folder(FOLDER_PREFIX, places)
            return self._made[is_in_memory][0]

    def remove(self) -> None:
        """Remove them, and make none any more. A thread that is still making a file finds none of them there."""
        with self._making:
            self._is_removed = True
            for folder, lock in self._made.values():
                for _ in range(_REMOVALS):
                    shutil.rmtree(folder, ignore_errors=True)
                    if not folder.exists():
                        break
                lock.release()
            self._made.clear()


def sweep_object_folders() -> None:
    """Remove what killed workers left on this machine."""
    sweep_folders(FOLDER_PREFIX, _places())


def object_folder_prefixes() -> list[str]:
    """Return how the paths of such folders begin on this machine."""
    return [os.path.join(place, FOLDER_PREFIX) for place in _places()]


# Private functions


def _places() -> tuple[str, str]:
    return IN_MEMORY, _temporary_folder()


def _temporary_folder() -> str:
    known = tempfile.tempdir
    try:
        return tempfile.gettempdir()
    finally:
        tempfile.tempdir = known  # f may yet say where it is to be


def _has_room() -> bool:
    with contextlib.suppress(OSError):
        found = os.statvfs(IN_MEMORY)
        return found.f_bavail * found.f_frsize > FREE_BYTES
    return False
