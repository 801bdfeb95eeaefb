"""The lock of a job: one process at a time may change it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Self

import filelock

from r3po.errors import FolderError, LockedError

_HOLDER = "lock.holder.json"


class JobLock:
    """The right to change a job; one process at a time holds it, and the kernel frees it when that process dies."""

    def __init__(self, working_dir: Path) -> None:
        self._working_dir = working_dir
        # No soft fallback: a lock that is a mere file survives its holder's death.
        self._lock = filelock.FileLock(working_dir / "lock", timeout=0, fallback_to_soft=False)
        self._holder = working_dir / _HOLDER

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise LockedError(
                f"working_dir is in use by another run{self._describe_holder()}",
                hint="wait for it, or give this job another working_dir",
            ) from error
        except OSError as error:
            raise FolderError(
                f"cannot lock here: {error.strerror or error}",
                where=self._working_dir,
                hint="working_dir needs a file system with locks (flock)",
            ) from error
        self._write_holder()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _write_holder(self) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
            "started": time.time(),
        }
        # A note for people, not state: neither durable nor needed.
        with contextlib.suppress(OSError):
            self._holder.write_text(json.dumps(holder), encoding="utf-8")

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text(encoding="utf-8"))
            since = ago(time.time() - holder["started"])
            return f': pid {holder["pid"]} on {holder["host"]}, started {since} ago, "{holder["command"]}"'
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def running_pid(working_dir: Path) -> int | None:
    """Return the pid of the run that is going on in this folder on this machine, or None.

    For people only: the lock itself is not touched, since trying it could turn away a run that starts this moment.
    """
    try:
        holder = json.loads((working_dir / _HOLDER).read_text(encoding="utf-8"))
        if holder["host"] != socket.gethostname():
            return None
        os.kill(holder["pid"], 0)
        return int(holder["pid"])
    except PermissionError:
        return int(holder["pid"])  # somebody else's process
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ago(seconds: float) -> str:
    """Return a time span for people, in its largest unit."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}s" if unit == "day" and n > 1 else f"{n} {unit}"
    return f"{max(0, int(seconds))} s"
