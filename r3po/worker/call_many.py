"""One call of f with many files: it gets lists, and gives back as many items, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from r3po.table.outcomes import Failure
from r3po.table.user_objects import type_name
from r3po.text import count_of
from r3po.work import files_of_smaller_call
from r3po.worker.call import Caller
from r3po.worker.many_rows import ManyRows

NO_LIST = "NoList"
"""The kind of failure of files for which f returned no list of as many items."""


def call_many(caller: Caller, *arguments: list[Any], rows: ManyRows | None = None) -> tuple[list[Any], Failure | None]:
    """Return what f returned for each file, in their order, or why it gave nothing for any of them.

    Args:
        arguments: of f: the paths and, with `input: bytes`, the contents; f may change these lists.
        rows: takes the rows of each item, in the call; what it makes of them is returned. None: an item is one row.
    """
    n_files = len(arguments[0])
    returned, failure = caller.call(*arguments, consume=partial(_taken_of, n_files, rows))
    if failure is None and isinstance(returned, _Unfit):
        failure = Failure(NO_LIST, returned.message, "", "")
    return ([], failure) if failure is not None else (returned, None)


def call_alone(caller: Caller, *arguments: Any, rows: ManyRows | None = None) -> tuple[Any, Failure | None]:
    """Return what f returned for one file, which it is given in a list, or why it gave nothing."""
    items, failure = call_many(caller, *([argument] for argument in arguments), rows=rows)
    return (None, failure) if failure is not None else (items[0], None)


def call_file(caller: Caller, *arguments: Any, rows: ManyRows | None, takes_many: bool) -> tuple[Any, Failure | None]:
    """Return what f returned for one file, or why it gave nothing.

    Args:
        rows: takes the rows of the file, in the call; what it makes of them is returned. None: it has one.
        takes_many: f takes lists of files.
    """
    if takes_many:
        return call_alone(caller, *arguments, rows=rows)
    return caller.call(*arguments, consume=None if rows is None else rows.take_call)


_T = TypeVar("_T")


def calls_of(files: Sequence[_T], n_files: int) -> list[list[_T]]:
    """Return files as those of calls of at most `n_files` each; the last call comes first."""
    return [list(files[start : start + n_files]) for start in range(0, len(files), n_files)][::-1]


def smaller_calls(files: Sequence[_T]) -> list[list[_T]]:
    """Return the files of a call that failed as those of the calls that follow on it; the last one comes first."""
    return calls_of(files, files_of_smaller_call(len(files)))


# Private


@dataclass(frozen=True, slots=True)
class _Unfit:
    """f returned something else than as many items as it was given files."""

    message: str


def _taken_of(n_files: int, rows: ManyRows | None, returned: Any) -> list[Any] | _Unfit:
    needed = (
        f"a list of {count_of(n_files, 'dict')}, one a file" if rows is None else "a list with the rows of each file"
    )
    items = _items_of(n_files, returned, needed)
    if rows is None or isinstance(items, _Unfit):
        return items
    rows.begin()
    return [rows.take(item) for item in items]


def _items_of(n_files: int, returned: Any, needed: str) -> list[Any] | _Unfit:
    """Return the items of what f returned. To go through them may be f's own code, and raise."""
    if isinstance(returned, str | bytes | Mapping) or not _is_iterable(returned):
        return _unfit(type_name(returned), n_files, needed)
    iterator = iter(returned)
    items = list(islice(iterator, n_files + 1))
    if len(items) == n_files:
        return items
    if len(items) < n_files:
        return _unfit(f"{type_name(returned)} of {len(items)}", n_files, needed)
    if callable(close := getattr(iterator, "close", None)):
        close()
    return _unfit(f"{type_name(returned)} of more than {n_files}", n_files, needed)


def _is_iterable(returned: Any) -> bool:
    return hasattr(type(returned), "__iter__") or hasattr(type(returned), "__getitem__")


def _unfit(found: str, n_files: int, needed: str) -> _Unfit:
    return _Unfit(f"f returned a {found} for a list of {count_of(n_files, 'path')}; batch_files needs {needed}")
