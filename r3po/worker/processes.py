"""Processes of this machine, by /proc: who started whom, and when. Where there is no /proc, nothing is known."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with its id, it names one process. 0: not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started, those that ended and were not waited for among them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def descendants_of(pid: int) -> list[int]:
    """Return what a process has started, and what these have, and so on."""
    found: list[int] = []
    remaining = [pid]
    while remaining:
        children = children_of(remaining.pop())
        found += children
        remaining += children
    return found


def name_and_state(pid: int) -> tuple[str, str]:
    """Return a process's name and state; `Z`: it has ended, and nobody has asked for its exit code."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").partition("(")[2].rpartition(")")
    except OSError:
        return "", ""
    return name, rest.split()[0]


def has_ended(pid: int) -> bool:
    """Whether a process is over with all its threads, so that its files are closed and its locks are free.

    A process that was killed is shown as ended once its first thread is; the others may take some milliseconds more.
    """
    try:
        return name_and_state(pid)[1] in ("", "Z", "X") and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True


def command_of(pid: int) -> list[str]:
    """Return the words of the command that a process was started with; none if it is not there or says none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []
