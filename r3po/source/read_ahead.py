"""Reading ahead of f: the kernel is told of the files that come next, so that f finds them in the page cache.

Where files wait for a disk this keeps it busy; where they do not, it would only cost. So it begins once this process is
seen to wait, and ends once the files that come next are found in memory: then f waits for something else.
What goes wrong here is nobody's failure: f's own look at the file decides.

One thread does it all. Threads that read ahead were slower than none, since each call of theirs asks for Python's lock:
benchmarks/NOTES.md.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice

WINDOW = 64
"""Most files between the one that f has and the last that the kernel was told of."""

BURST = 32
"""Files that the kernel is told of at once: a disk that has something to do already is not woken for each."""

TOLD_BYTES = 1 << 20
"""Bytes hinted per file that is read whole; in a larger one the kernel itself reads ahead."""

LITTLE_BYTES = 64 << 10
"""Bytes hinted per file with `input: path`, where f may read only part of it."""

WAITS_S = 20e-6
"""Average seconds of waiting per file from which on a process may be waiting for the disk."""

PAUSE_S = 10.0
"""Seconds until reading ahead is tried again, once it was found not to pay."""

IS_POSSIBLE = hasattr(os, "posix_fadvise") and hasattr(os, "RWF_NOWAIT")
"""Whether the system has the calls for it: Linux."""


class ReadAhead:
    """Decides whether to read ahead, and does it. Of one worker, from batch to batch."""

    def __init__(self, told_bytes: int = TOLD_BYTES) -> None:
        self._told_bytes = told_bytes
        self.is_on = False
        self._upcoming: Iterator[str] = iter(())
        self._n_taken = 0
        self._n_due = 0
        """Files that may be told of, but are not yet."""
        self._n_files = 0
        self._waiting_since = 0.0
        self._not_before = 0.0
        self._n_in_memory = 0
        """Paths of the files that were hinted last, in their order."""
        self._is_of_use = IS_POSSIBLE

    def begin(self, upcoming: Iterator[str]) -> None:
        """Take the paths of a batch, in f's order."""
        self._upcoming = upcoming
        self._n_taken = self._n_files = 0
        self._waiting_since = _waited()
        if self.is_on:
            self._tell(WINDOW)

    def look(self, n_files: int) -> None:
        """Decide again; f has come to the end of `n_files` files of the batch by now."""
        waited, n_more = _waited() - self._waiting_since, n_files - self._n_files
        self._waiting_since += waited
        self._n_files = n_files
        if self.is_on or not n_more or not self._is_of_use:
            return
        if waited > WAITS_S * n_more and time.perf_counter() >= self._not_before:
            self.is_on, self._n_in_memory = True, 0
            self._take(n_files - self._n_taken)  # these are done
            self._tell(WINDOW)

    def advance(self) -> None:
        """Note that f has come to the end of one file. Only while it is on."""
        self._n_due += 1
        if self._n_due >= BURST:
            self._tell(self._n_due)

    # Private methods

    def _tell(self, n_files: int) -> None:
        self._n_due = 0
        for path in self._take(n_files):
            is_in_memory = _is_in_memory_or_told(path, self._told_bytes)
            if is_in_memory is None:
                self.is_on = self._is_of_use = False
                return
            self._n_in_memory = self._n_in_memory + 1 if is_in_memory else 0
            if self._n_in_memory >= WINDOW:
                self.is_on, self._not_before = False, time.perf_counter() + PAUSE_S
                return

    def _take(self, n_files: int) -> list[str]:
        taken = list(islice(self._upcoming, max(0, n_files)))
        self._n_taken += len(taken)
        return taken


# Private functions


def _waited() -> float:
    """Return the seconds that this thread did not work, since some time."""
    return time.perf_counter() - time.thread_time()


def _is_in_memory_or_told(path: str, told_bytes: int) -> bool | None:
    """Whether a file's beginning is in memory; if it is not, the kernel is told to read it.

    None: this file system does not say (tmpfs, overlayfs, NFS), and without that there is no telling when to end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # nothing to read ahead
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else True
        if error.errno != errno.EAGAIN:
            return True
        os.posix_fadvise(descriptor, 0, told_bytes, os.POSIX_FADV_WILLNEED)
        return False
    finally:
        os.close(descriptor)
    return True
