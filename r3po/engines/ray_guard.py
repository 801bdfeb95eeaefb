"""Ends what is left of a private Ray whose driver was killed: some of its processes would stay for a minute.

It runs as a process of its own, `python guard.py FOLDER`, with the driver at the other end of its stdin: when that
closes, the driver is gone. Standard library only, since it is started by its path and must be small.

While Ray starts it also has the driver's stderr: a raylet that dies then takes the driver along from C++, with the exit
code 1 and no word, and somebody has to say what happened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time

STARTED = b"started\n"
"""What a driver says once its Ray has started."""

DONE = b"done\n"
"""What a driver says that has ended its Ray itself, and well."""

ENDED = b"ended\n"
"""What it says where its Ray did not start or did not end well: somebody may be left."""

DIED_AT_START = (
    "error: this run ended while Ray was starting; its raylet, or r3po itself, was killed\n"
    "hint:  your state is safe; run again to go on\n"
)

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


def main(folder: str) -> None:
    """Wait for the driver's end, then end the rest and remove the folder."""
    driver = os.getppid()  # it may go on, with another Ray
    word = sys.stdin.buffer.readline()
    if not word:
        _say(DIED_AT_START)
    _leave_stderr()  # whoever reads it must not wait for us
    if word == STARTED:
        word = sys.stdin.buffer.readline()
    if word == DONE:
        return
    deadline = time.monotonic() + PATIENCE_S
    n_quiet = 0
    while n_quiet < 6 and time.monotonic() < deadline:
        n_quiet = 0 if end_users_of(folder, driver) else n_quiet + 1
        time.sleep(LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    is_terminal = os.isatty(2)  # where a live line hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, (f"\n\x1b[?25h{text}" if is_terminal else text).encode())


def _leave_stderr() -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


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
    main(sys.argv[1])
