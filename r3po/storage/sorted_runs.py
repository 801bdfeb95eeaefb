"""Sorting more than fits into memory: what was added comes out in order, from runs in a temporary file."""

from __future__ import annotations

import heapq
import marshal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

RUN_ITEMS = 100_000
"""Most items in memory before they go to the disk, about 30 MB of keys."""

BLOCK_ITEMS = 1000
"""Items that are read of a run at once."""

_Item = tuple[bytes, tuple[Any, ...]]


class SortedRuns:
    """Items by their keys. Of those with the same key the first that was added remains.

    What comes in order costs no sorting: it is written down, and read again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._items: list[_Item] = []
        self._file: IO[bytes] | None = None
        self._runs: list[list[tuple[int, int]]] = []
        """Of each run its blocks: where they begin, and their bytes."""
        self._last_of_run = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, items: Sequence[_Item]) -> None:
        """Add items: what each is ordered by, and a tuple of plain values."""
        self._items += items
        if len(self._items) >= RUN_ITEMS:
            self._write()

    def blocks(self) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all tuples in order, in lists of at most `BLOCK_ITEMS`."""
        items: Iterator[_Item]
        if self._runs:
            self._write()
            items = heapq.merge(*map(self._read, self._runs), key=_order)  # stable: the first run wins
        else:
            self._items.sort(key=_order)
            items = iter(self._items)
        block, last = list[tuple[Any, ...]](), None
        for order, item in items:
            if order == last:
                continue
            last = order
            block.append(item)
            if len(block) >= BLOCK_ITEMS:
                yield block
                block = []
        if block:
            yield block

    # Private methods

    def _write(self) -> None:
        """Write what is in memory behind the last run if it is all behind it, else as a new one."""
        if not self._items:
            return
        self._items.sort(key=_order)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        if not self._runs or self._items[0][0] <= self._last_of_run:
            self._runs.append([])
        for start in range(0, len(self._items), BLOCK_ITEMS):
            data = marshal.dumps(self._items[start : start + BLOCK_ITEMS])
            self._runs[-1].append((self._file.tell(), len(data)))
            self._file.write(data)
        self._last_of_run = self._items[-1][0]
        self._items = []

    def _read(self, run: list[tuple[int, int]]) -> Iterator[_Item]:
        assert self._file is not None
        for start, n_bytes in run:
            self._file.seek(start)
            yield from marshal.loads(self._file.read(n_bytes))


def _order(item: _Item) -> bytes:
    return item[0]
