"""Ending a process and all that it started, at one moment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

DEATH_TIMEOUT_S = 10.0
POLL_S = 0.02


class StillAliveError(Exception):
    """A process outlives its SIGKILL."""


def kill_tree(root: int) -> int:
    """SIGKILL `root` and all that descends from it; return how many processes that were.

    All are stopped first, so that none can start another, or notice a death, before its own.
    """
    stopped: set[int] = set()
    while new := _descendants(root) - stopped:
        for pid in new:
            _send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _send(pid, signal.SIGKILL)
    deadline = time.monotonic() + DEATH_TIMEOUT_S
    while alive := stopped & _processes().keys():
        if time.monotonic() > deadline:
            raise StillAliveError(f"still alive {DEATH_TIMEOUT_S:.0f} s after SIGKILL: {sorted(alive)}")
        time.sleep(POLL_S)
    return len(stopped)


# Private functions


def _descendants(root: int) -> set[int]:
    """Return `root` and the processes below it, as far as they live."""
    parents = _processes()
    found = {root} & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _processes() -> dict[int, int]:
    """Return the parent of every process that lives; zombies do not."""
    if not Path("/proc/self/stat").exists():
        return _processes_by_ps()
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it has just ended
                state, parent = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(name)] = int(parent)
    return parents


def _processes_by_ps() -> dict[int, int]:
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
