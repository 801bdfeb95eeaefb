"""Hashing the content of files, here or in helper processes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from itertools import islice

from r3po.file_version import FileVersion
from r3po.source.read_ahead import ReadAhead

HASH_BYTES = 16
"""Length of a content hash: blake2b with 128 bits."""

BLOCK_BYTES = 1 << 20
"""Files larger than this are hashed block by block."""

_CHUNK_FILES = 256
"""Files that a hashing process gets in one call."""

LATEST_NS = (1 << 63) - 1
"""The mtime that stands for every one after the year 2262; its negative stands for those before 1677 (64 bits)."""

RACY_NS = 2_000_000_000
"""A file whose mtime is younger than this when it is looked at may change again within the same mtime (git's rule)."""


class ChangingFileError(OSError):
    """A file that somebody still writes: what was read of it is no one content."""


def hash_file(path: str) -> FileVersion:
    """Return a file's content hash with the size and mtime of that very content.

    Raises:
        OSError: it cannot be read.
        ChangingFileError: it changed each time that it was read.
    """
    for _ in range(3):
        now_ns = time.time_ns()
        descriptor, before = open_regular(path)
        try:
            digest, size = hash_rest(descriptor)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and size == after.st_size:
            return FileVersion(size, mtime_of(after), digest, after.st_mtime_ns > now_ns - RACY_NS)
    raise ChangingFileError(errno.EAGAIN, "the file keeps changing while it is read", path)


def mtime_of(status: os.stat_result) -> int:
    """Return the mtime in nanoseconds, between `-LATEST_NS` and `LATEST_NS`."""
    mtime_ns = status.st_mtime_ns
    if -LATEST_NS <= mtime_ns <= LATEST_NS:  # of every file, so without two calls
        return mtime_ns
    return max(-LATEST_NS, min(mtime_ns, LATEST_NS))


def hash_rest(descriptor: int) -> tuple[bytes, int]:
    """Return the hash of what there is still to read, and its bytes; block by block."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    size = 0
    while block := os.read(descriptor, BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return digest.digest(), size


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading without waiting for a FIFO's writer, and return its descriptor and status.

    Raises:
        OSError: it cannot be opened, or is no regular file (EINVAL).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor, status


def hash_files(paths: Iterable[str], processes: int) -> Generator[FileVersion | OSError]:
    """Yield each file's hash, in the order of `paths`, from `processes` processes; 0: here, one after the other.

    A file that cannot be read yields its error: it will be a failure of the run, not of the build.
    """
    if not processes:
        for path in paths:
            yield from _hash_chunk([path])
        return
    from r3po.source.parallel import map_in_order

    remaining = iter(paths)
    chunks = iter(lambda: list(islice(remaining, _CHUNK_FILES)), [])
    with closing(map_in_order(_hash_chunk, chunks, processes)) as hashed:
        for chunk in hashed:
            yield from chunk


def _hash_chunk(paths: list[str]) -> list[FileVersion | OSError]:
    hashed: list[FileVersion | OSError] = []
    _ahead.begin(iter(paths))
    for path in paths:
        try:
            hashed.append(hash_file(path))
        except OSError as error:
            hashed.append(error)
        if _ahead.is_on:
            _ahead.advance()
    _ahead.look(len(paths))
    return hashed


_ahead = ReadAhead()
"""Reads ahead in this process, from chunk to chunk."""
