"""The functions of jobs with `rows: many`: a file holds a Python expression that says what f returns."""

from __future__ import annotations

import collections
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CALLS: list[str] = []
"""Names of the files that f was called with."""

CLOSED: list[str] = []
"""What the generators that were closed before their end had given."""


def give(filepath: str) -> Any:
    """Return what the file says."""
    path = Path(filepath)
    CALLS.append(path.name)
    known = {"name": path.name, "slow": slow, "until": until, "gen": gen, "Record": Record, "later": later}
    return eval(path.read_text(), known)


def give_all(filepaths: list[str]) -> list[Any]:
    """The same, for many files at once."""
    return list(map(give, filepaths))


def gen(items: list[Any]) -> Iterator[Any]:
    """Give items one by one."""
    n = 0
    try:
        for item in items:
            yield item
            n += 1
    except GeneratorExit:
        CLOSED.append(str(n))
        raise


def until(n: int, row: Any = None) -> Iterator[Any]:
    """Give so many rows, and raise then."""
    for i in range(n):
        yield {"n": i} if row is None else row
    raise ValueError("the file ends in the middle")  # the line that is the failure's place


def later(name: str, rows: Any) -> Any:
    """Give rows from the second call on since CALLS was cleared; the disk refuses the first one."""
    if CALLS.count(name) == 1:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return rows


def slow(n: int) -> Iterator[Any]:
    """Give so many rows, and hang then."""
    for i in range(n):
        yield {"n": i}
    time.sleep(60)


class Record(Mapping[str, Any]):
    """A row that is no dict."""

    def __init__(self, **values: Any) -> None:
        self._values = collections.OrderedDict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
