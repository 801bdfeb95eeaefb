"""What a worker is doing right now, readable after its death: a small file that is mapped into its memory.

Before each file the worker writes shard and place here, so that only that file is suspect when its process dies. A
mapped page outlives its process, whatever ended it, and costs no system call. It is no durable state: after a power
cut it may be anything, and a suspect that is innocent is done as any other.

Beside the beacon lie two more files of the same worker: `.crash`, into which `faulthandler` writes what a fatal signal
interrupted, and `.out`, what f printed. Source: FORMAT.md, "Workers".
"""

from __future__ import annotations

import contextlib
import enum
import faulthandler
import mmap
import os
import re
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from r3po.work import Span
from r3po.worker.processes import start_of

_DOING = struct.Struct("<qqqqq")
"""Layout of counter, phase, shard, place, further places in hand."""

_PHASE = struct.Struct("<qq")
"""The first two of them."""

_PROCESS = struct.Struct("<qqq")
"""pid, start of the process in clock ticks since boot (0 where unknown), exit code + 1 (0: none)"""

_SIZE = _DOING.size + _PROCESS.size

CRASH_LIMIT = 10_000
"""Characters of a crash file that are read."""


class Phase(enum.IntEnum):
    IDLE = 0
    LOADING = 1
    """Importing f."""
    READING = 2
    """At a file: looking at it, and in f where there is no time limit."""
    CALLING = 3
    """In f under a time limit, until the next mark."""
    RECORDING = 4
    """Writing a segment."""
    STAGING = 5
    MAKING = 6
    """Making f: calling a class or a factory."""
    CLOSING = 7
    """Closing f."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a beacon said at one moment."""

    counter: int
    """Changes with every mark."""
    phase: Phase
    shard: int
    place: int
    pid: int
    pid_started: int
    exit_code: int | None
    """Given to `os._exit`, if that ended the process."""
    n_more: int = 0
    """How many places after this one the call reaches to, if f was given many files at once."""

    @property
    def is_in_file(self) -> bool:
        return self.phase in (Phase.READING, Phase.CALLING)

    @property
    def span(self) -> Span:
        """The places from the first to the last that are in hand; not all between them need be."""
        return self.place, self.place + self.n_more + 1


def worker_file(folder: Path, worker: int, kind: str) -> Path:
    """Return the path of a worker's `beacon`, `crash` or `out` file."""
    return folder / f"{worker:05d}.{kind}"


class Beacon:
    """The writing end; one a worker, made by the worker itself."""

    def __init__(self, folder: Path, worker: int) -> None:
        folder.mkdir(exist_ok=True)
        with open(worker_file(folder, worker, "beacon"), "w+b") as file:
            file.write(bytes(_SIZE))  # a hole would be a SIGBUS at the first mark on a full disk
            file.flush()
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self.counter = 0
        """Changes with every mark."""
        self._pid = os.getpid()
        _PROCESS.pack_into(self._map, _DOING.size, self._pid, start_of(self._pid), 0)
        self.mark(Phase.IDLE)

    def mark(self, phase: Phase, shard: int = -1, place: int = -1, n_more: int = 0) -> None:
        """Say what is being done from now on.

        Args:
            n_more: how many places after `place` a call of f with many files reaches to.
        """
        self.counter += 1
        _DOING.pack_into(self._map, 0, self.counter, phase, shard, place, n_more)

    def advance(self, phase: Phase) -> None:
        """Say that the same file has come to its next phase."""
        self.counter += 1
        _PHASE.pack_into(self._map, 0, self.counter, phase)

    def note_exit(self, code: int) -> bool:
        """Say that this process is about to end by `os._exit`. Returns False in a fork of it, which changes nothing."""
        if os.getpid() != self._pid:
            return False
        _PROCESS.pack_into(self._map, _DOING.size, self._pid, start_of(self._pid), code + 1)
        return True

    def close(self) -> None:
        self._map.close()


def read_beacon(folder: Path, worker: int) -> Sighting | None:
    """Return what a worker is doing, or was doing when it died; None if it never came to say so."""
    try:
        with open(worker_file(folder, worker, "beacon"), "rb") as file:
            for _ in range(3):  # the worker may be writing: two equal looks are one whole mark
                first, second = os.pread(file.fileno(), _SIZE, 0), os.pread(file.fileno(), _SIZE, 0)
                if first == second:
                    break
    except OSError:
        return None
    if len(second) != _SIZE:
        return None
    counter, phase, shard, place, n_more = _DOING.unpack_from(second)
    pid, pid_started, exit_code = _PROCESS.unpack_from(second, _DOING.size)
    if not counter or not 0 <= phase < len(Phase) or n_more < 0:
        return None
    left_by = exit_code - 1 if exit_code else None
    return Sighting(counter, Phase(phase), shard, place, pid, pid_started, left_by, n_more)


def list_workers(folder: Path) -> list[int]:
    """Return the numbers of all workers that have a beacon there."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(int(name[: -len(".beacon")]) for name in names if re.fullmatch(r"\d+\.beacon", name))


def remove_worker_files(folder: Path, worker: int) -> None:
    """Forget a dead worker; what f printed stays, if it printed something."""
    for kind in ("beacon", "crash"):
        with contextlib.suppress(OSError):
            os.unlink(worker_file(folder, worker, kind))
    output = worker_file(folder, worker, "out")
    with contextlib.suppress(OSError):
        if not output.stat().st_size:
            output.unlink()


# What a fatal signal interrupted


def watch_for_crashes(folder: Path, worker: int, *, on_request: bool = False) -> IO[bytes]:
    """Let fatal signals write the stack into the worker's crash file.

    Args:
        on_request: SIGUSR1 does so, too, without ending the process.

    Returns:
        The open file, which must stay open.
    """
    file = open(worker_file(folder, worker, "crash"), "wb", buffering=0)  # noqa: SIM115 - for the process's life
    faulthandler.enable(file, all_threads=False)
    if on_request:
        faulthandler.register(signal.SIGUSR1, file, all_threads=False, chain=False)
        os.register_at_fork(after_in_child=faulthandler.disable)  # a crash of f's own child is not the worker's
    return file


_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


def read_crash(folder: Path, worker: int) -> tuple[str, str]:
    """Return the signal that ended a worker, or "", and the stack of its last moment, innermost first, or ""."""
    try:
        with open(worker_file(folder, worker, "crash"), "rb") as file:
            text = file.read(CRASH_LIMIT).decode("utf-8", "backslashreplace")
    except OSError:
        return "", ""
    fatal = re.search(r"Fatal Python error: ([^\n]*)", text)
    if fatal is None:
        return "", text
    return next((name for words, name in _SIGNALS.items() if words in fatal[1]), fatal[1]), text[fatal.start() :]
