"""What f prints in the workers: a log for each, of bounded size, kept with the run.

A worker's stdout and stderr are its log file, whoever writes: Python, a C library, a child process. The driver looks
at the logs now and then and cuts those that have grown too long.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from r3po.worker.beacon import worker_file

LOG_BYTES = 1 << 20
"""What is kept of a worker's output: the beginning."""

ALL_LOGS_BYTES = 64 << 20
"""What is kept of all workers' output."""

_LEFT_OUT = b"\n... more output is left out\n"


_log: Path | None = None
"""This process's log, if it is a worker's process."""


def redirect_output(folder: Path, worker: int) -> None:
    """Let everything that this process prints go to the worker's log, and let it read nothing."""
    global _log
    _log = worker_file(folder, worker, "out")
    _open_onto(os.devnull, os.O_RDONLY, 0)
    restore_streams()


def restore_streams() -> None:
    """Give stdout and stderr back to this process's log: f may have closed or replaced them."""
    assert _log is not None, "redirect_output comes first"
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name, None)
        if isinstance(stream, _LogStream) and not stream.closed and _is_same_file(descriptor, _log):
            continue
        _open_onto(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, descriptor)
        setattr(sys, name, _LogStream(open(descriptor, "wb", buffering=0, closefd=False)))  # noqa: SIM115


def _open_onto(path: str | Path, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags, 0o666)
    if opened == descriptor:
        os.set_inheritable(descriptor, True)  # as what `dup2` makes is
        return
    os.dup2(opened, descriptor)
    os.close(opened)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


class _LogStream(io.TextIOWrapper):
    """Text to a log, line by line. Whatever happens to the log, printing raises nothing."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: f closed it
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
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
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._cut: dict[int, int] = {}
        """Size that a log was cut to, by worker."""

    def unseen(self) -> Path | None:
        """Return the folder of the logs if there is something in them that nobody was shown."""
        if self._is_shown:
            return None
        for _, path in self._list():
            with contextlib.suppress(OSError):
                if path.stat().st_size:
                    return self._folder
        return None

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
        # A look may end in the middle of a character.
        decoder = self._decoders.setdefault(worker, codecs.getincrementaldecoder("utf-8")("backslashreplace"))
        return decoder.decode(data)
