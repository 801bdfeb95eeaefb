"""Mapped files whose pages do not stay in memory: what was read of them is let go, and read again when it is needed."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from typing import Any


def let_go(buffers: Iterable[Any]) -> None:
    """Take what was read of mapped files out of the process's memory; their content stays where it is.

    The kernel counts pages that were read as memory of the process until it needs them for something else, which a
    limit of memory (a container's, Ray's) does not wait for.

    Args:
        buffers: Arrow's, of whole files that are mapped for reading.
    """
    for buffer in buffers:
        if buffer.size:
            _LIBRARY.madvise(ctypes.c_void_p(buffer.address), ctypes.c_size_t(buffer.size), mmap.MADV_DONTNEED)


# Private

_LIBRARY = ctypes.CDLL(None)
"""The C library. `mmap.mmap` has `madvise`, too, but keeps a file open for each map, and a shard has many segments."""
