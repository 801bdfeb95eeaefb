"""Looking at a file around a call of f: what f is about to see of it, and whether that held until f returned.

A file that is read stays open meanwhile. A second look through its descriptor costs half of one by its path, and a file
that is written, replaced or removed shows there: in size, times or link count. Only then is the path asked again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time

from r3po.file_version import FileVersion
from r3po.source.hashing import BLOCK_BYTES, HASH_BYTES, RACY_NS, hash_rest, mtime_of, open_regular


class FileInUse:
    """A file from before f is called with it until f has returned.

    Attributes:
        path: what f is given.
        size, mtime_ns, hash, is_racy: as in `FileVersion`, of before f was called; kept here, since a tuple more costs
            0.3 us a file.
        data: its content, None if that is not wanted.
    """

    __slots__ = ("_descriptor", "_status", "data", "hash", "is_racy", "mtime_ns", "path", "size")
    tag = ""

    def __init__(self, path: str, status: os.stat_result, descriptor: int = -1) -> None:
        self.path = path
        self._status = status
        self._descriptor = descriptor
        self.size = status.st_size
        self.mtime_ns = mtime_of(status)
        self.hash: bytes | None = None
        self.is_racy = False
        self.data: bytes | None = None

    @property
    def version(self) -> FileVersion:
        """What the file was before f was called."""
        return FileVersion(self.size, self.mtime_ns, self.hash, self.is_racy)

    def still_holds(self) -> bool:
        """Whether the file that the path names has the size and the mtime that were seen.

        Raises:
            OSError: the path names no regular file any more.
        """
        if self._descriptor >= 0 and self._is_untouched():
            return True
        now = _stat_regular(self.path)
        return now.st_size == self.size and now.st_mtime_ns == self._status.st_mtime_ns

    def let_go(self) -> None:
        """Close the file before f is called: the second look is by the path alone. Of many files none stays open."""
        self.close()
        self._descriptor = -1

    def close(self) -> None:
        if self._descriptor >= 0:
            try:  # noqa: SIM105 - to make a `suppress` costs as much as to close
                os.close(self._descriptor)
            except OSError:  # f may close what it did not open
                pass

    # Private methods

    def _is_untouched(self) -> bool:
        """Whether nobody did anything at all to the file. A link to it counts, too: it costs a second look."""
        before = self._status
        try:
            now = os.fstat(self._descriptor)
        except OSError:
            now = None
        if now is None or now.st_ino != before.st_ino or now.st_dev != before.st_dev:
            self._descriptor = -1  # f closed it; what has its number now is not ours
            return False
        return (
            now.st_ctime_ns == before.st_ctime_ns
            and now.st_mtime_ns == before.st_mtime_ns
            and now.st_size == self.size
            and now.st_nlink == before.st_nlink
        )


def use_file(path: str) -> FileInUse:
    """Return a file for f's use without opening it: its version has no hash.

    Raises:
        OSError: there is no regular file; f would wait for ever for the writer of what became a FIFO.
    """
    return FileInUse(path, _stat_regular(path))


def stat_file(path: str) -> FileVersion | None:
    """Return size and mtime of what a path names, without opening it; None if it cannot be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileVersion(status.st_size, mtime_of(status))


def read_file(path: str, *, wants_data: bool, wants_hash: bool) -> FileInUse:
    """Read a file for f's use; the caller closes what it gets.

    Raises:
        OSError: it cannot be read.
        MemoryError: its content is wanted, and does not fit.
    """
    now_ns = time.time_ns()
    descriptor, status = open_regular(path)
    file = FileInUse(path, status, descriptor)
    try:
        if wants_data or status.st_size <= BLOCK_BYTES:
            data = _read_whole(descriptor, status.st_size)
            file.size = len(data)
            if wants_hash:
                file.hash = hashlib.blake2b(data, digest_size=HASH_BYTES).digest()
            if wants_data:
                file.data = data
        else:
            file.hash, file.size = hash_rest(descriptor)
    except BaseException:
        file.close()
        raise
    file.is_racy = file.hash is not None and file.mtime_ns > now_ns - RACY_NS
    return file


# Private functions


def _stat_regular(path: str) -> os.stat_result:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return status


def _read_whole(descriptor: int, size: int) -> bytes:
    # One byte more than there should be: a file that grew shows it in the same call.
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    blocks = [data]
    while block := os.read(descriptor, BLOCK_BYTES):
        blocks.append(block)
    return b"".join(blocks)
