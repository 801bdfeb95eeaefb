"""What f prints in the workers: a log for each, of bounded size, kept with the run.

A worker's stdout and stderr are its log file, whoever writes: Python, a C library, a child process. The driver looks
at the logs now and then and cuts those that have grown too long.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from r3po.beacon import worker_file

LOG_BYTES = 1 << 20
"""What is kept of a worker's output: the beginning."""

ALL_LOGS_BYTES = 64 << 20
"""What is kept of all workers' output."""

_LEFT_OUT = b"\n... more output is left out\n"


def redirect_output(folder: Path, worker: int) -> None:
    """Let everything that this process prints go to the worker's log, and let it read nothing."""
    log = os.open(worker_file(folder, worker, "out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)
    restore_streams()


def restore_streams() -> None:
    """Give Python's stdout and stderr back to this process's log: f may have closed or replaced them."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, _LogStream) and not stream.closed:
            continue
        setattr(sys, name, _LogStream(open(descriptor, "wb", buffering=0, closefd=False)))  # noqa: SIM115


class _LogStream(io.TextIOWrapper):
    """Text to a log, line by line. Whatever happens to the log, printing raises nothing."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


class Outputs:
    """The driver's side: cuts the logs, and reads what is new in them.

    Args:
        folder: of the workers' logs.
        is_shown: whether `look` returns what is new.
    """

    def __init__(self, folder: Path, *, is_shown: bool) -> None:
        self._folder, self._is_shown = folder, is_shown
        self._read: dict[int, int] = {}
        self._cut: dict[int, int] = {}
        """Size that a log was cut to, by worker."""

    def look(self) -> Iterator[tuple[int, str]]:
        """Cut what is too long; yield worker and text of what was printed since the last look."""
        left = ALL_LOGS_BYTES
        for worker, path in self._list():
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                limit = self._cut.get(worker, min(LOG_BYTES, max(left, 0)))
                if size > limit:
                    size = self._shorten(worker, path, limit)
                left -= size
                if self._is_shown and size > self._read.get(worker, 0):
                    text = self._read_on(worker, path, size)
                    if text:
                        yield worker, text

    # Private methods

    def _list(self) -> list[tuple[int, Path]]:
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:
            return []
        return [(int(name[:-4]), self._folder / name) for name in names if re.fullmatch(r"\d+\.out", name)]

    def _shorten(self, worker: int, path: Path, limit: int) -> int:
        os.truncate(path, limit)
        if worker not in self._cut:
            with open(path, "ab") as log:
                log.write(_LEFT_OUT)
            self._cut[worker] = limit + len(_LEFT_OUT)
        return self._cut[worker]

    def _read_on(self, worker: int, path: Path, size: int) -> str:
        start = self._read.get(worker, 0)
        with open(path, "rb") as log:
            log.seek(start)
            data = log.read(size - start)
        self._read[worker] = start + len(data)
        return data.decode("utf-8", "backslashreplace")
