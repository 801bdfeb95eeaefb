"""Temporary folders that nobody has to remember: each has a lock, which its process holds as long as it lives.

Whoever finds one whose lock is free removes it: its process was killed, or its machine switched off.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import filelock

_LOCK = "lock"


def take_folder(
    prefix: str, places: Iterable[str], before_removal: Callable[[Path], object] = lambda left: None
) -> tuple[Path, filelock.BaseFileLock]:
    """Return a new folder in the first of these places that takes one, and its lock, which is held.

    In a container the usual place may be read-only. What was left there under this prefix is removed.

    Args:
        prefix: begins its name.
        before_removal: called with each folder that was left.

    Raises:
        OSError: none of them takes one.
    """
    refused: OSError | None = None
    for place in places:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            lock = _lock_of(folder)
            lock.acquire()
        except OSError as error:
            refused = error
            continue
        sweep_folders(prefix, [place], before_removal)
        return folder, lock
    raise refused or FileNotFoundError(errno.ENOENT, "no place for temporary files")


def sweep_folders(
    prefix: str, places: Iterable[str], before_removal: Callable[[Path], object] = lambda left: None
) -> None:
    """Remove the folders of this prefix whose lock nobody holds."""
    for place in places:
        for left in Path(place).glob(f"{prefix}*"):
            if (left / _LOCK).exists():
                with contextlib.suppress(OSError, filelock.Timeout), _lock_of(left):
                    before_removal(left)
                    shutil.rmtree(left, ignore_errors=True)


# Private functions


def _lock_of(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder / _LOCK, timeout=0, fallback_to_soft=False)
