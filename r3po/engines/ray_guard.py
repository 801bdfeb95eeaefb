"""Ends the processes that use a folder, and removes it: by itself once whoever made it is gone.

It is a process of its own, `python ray_guard.py FOLDER [PREFIX ...]`, with its maker at the other end of its stdin:
when that closes, the maker is gone. Standard library only, since it is started by its path and must be small.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable

DONE = b"done\n"
"""What a maker says that has removed the folder itself."""

TEMPORARY_PREFIX = "r3po-ray-"
"""Begins the name of every temporary folder that a private Ray of ours has."""

LOOK_S = 0.5

PATIENCE_S = 20.0
"""How long to look for processes: one that was just being started opens its log late."""


def end_users_of(folder: str, spared: int = 0) -> int:
    """SIGKILL every process that has a file in `folder` open, but this one and `spared`.

    Returns:
        How many; 0 where there is no /proc.
    """
    inside, n_ended = folder.rstrip("/") + "/", 0
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []:
        if pid not in (os.getpid(), spared) and _has_open(pid, inside):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                n_ended += 1
    return n_ended


def sweep_temporary(note_file: str | os.PathLike[str]) -> None:
    """Remove the temporary folder that a killed run noted, and end who uses it.

    The caller holds the job's lock, so that run is over.
    """
    try:
        with open(note_file) as file:
            folder = file.read()
    except OSError:
        return
    if os.path.basename(folder).startswith(TEMPORARY_PREFIX):
        end_users_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(note_file)


def sweep_unlocked(prefix: str) -> None:
    """Remove the folders whose paths begin so and whose `lock` nobody holds, as `storage.temporary` does."""
    for left in glob.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError), open(os.path.join(left, "lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


class Guard:
    """A process that removes `folder`, and ends who uses it, if this process is killed.

    Args:
        prefixes: of other folders that those who used it may have left; see `sweep_unlocked`.
    """

    def __init__(self, folder: str | os.PathLike[str], prefixes: Iterable[str] = ()) -> None:
        # A session of its own: what kills this process's group or terminal must leave it alive.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, os.fspath(folder), *prefixes],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def release(self) -> None:
        """Let it go: the folder is removed."""
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            self._process.communicate(DONE, timeout=5)


def main(folder: str, *prefixes: str) -> None:
    """Wait for the maker's end, then end the rest and remove the folder."""
    maker = os.getppid()  # it may go on
    if os.fork():  # it is to be nobody's child: Ray ends the children of an actor that it ends
        os._exit(0)
    if sys.stdin.buffer.readline() == DONE:
        return
    deadline = time.monotonic() + PATIENCE_S
    n_quiet = 0
    while n_quiet < 6 and time.monotonic() < deadline:
        n_quiet = 0 if end_users_of(folder, maker) else n_quiet + 1
        time.sleep(LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)
    for prefix in prefixes:
        sweep_unlocked(prefix)


def _has_open(pid: int, inside: str) -> bool:
    try:
        entries = list(os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False  # it ended, or is somebody else's
    for entry in entries:
        with contextlib.suppress(OSError):
            # Files and sockets: who removes the folder has its subfolders open, and is not of the old Ray.
            if os.readlink(entry).startswith(inside) and not stat.S_ISDIR(os.stat(entry).st_mode):
                return True
    return False


if __name__ == "__main__":
    main(*sys.argv[1:])
