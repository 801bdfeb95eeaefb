"""A function that no worker can import (of a script, of a notebook, a closure) as bytes, and back. In memory only.

The source of code that is in no file, as a notebook's, goes along: tracebacks show its lines in the workers, too.
"""

from __future__ import annotations

import functools
import inspect
import io
import linecache
import os
import pickle
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import cloudpickle

from r3po.errors import FunctionError
from r3po.function.fingerprint import MAIN_NAMES


def to_bytes(value: Any) -> bytes:
    """Return a function and all that it holds as bytes.

    Raises:
        FunctionError: it holds something that belongs to this process.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
    except Exception as error:
        raise FunctionError(
            f"f cannot be sent to the workers: {type(error).__name__}: {error}",
            hint="f holds something that belongs to this process (a lock, an open file, a connection); "
            "open it inside f, or put f into a module of its own",
        ) from error
    pickle.dump({name: lines for name, lines in pickler.sources.items() if lines}, file)
    return file.getvalue()


def from_bytes(pickled: bytes) -> Any:
    """Return the function that `to_bytes` was given."""
    file = io.BytesIO(pickled)
    function = pickle.load(file)
    for name, lines in pickle.load(file).items():
        # Without an mtime it is never looked for on the disk.
        linecache.cache.setdefault(name, (sum(map(len, lines)), None, lines, name))
    return function


# Private


_SHARED_NAMES = ("<string>", "<stdin>")
"""What code of many origins has for the name of its file: lines by such a name may be another's."""

_Base: Any = cloudpickle.Pickler


class _Pickler(_Base):  # type: ignore[misc]
    """Also takes what has a cache, which pickle knows by its name alone; each worker begins with an empty one.

    Code keeps the name of its file, by which failures name their line: cloudpickle takes it away since 3.1.

    Attributes:
        sources: the lines of all code that is in no file, by the name that it has for one.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.sources: dict[str, list[str]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            self._note_source(obj)
        if isinstance(obj, CodeType):
            make, parts = self.dispatch_table[CodeType](obj)
            return _code_of_file, (obj.co_filename, make, parts)
        if isinstance(obj, functools._lru_cache_wrapper) and _has_no_name(obj):
            return _with_cache, (obj.__wrapped__, obj.cache_parameters())
        if isinstance(obj, functools.cached_property):  # has a lock, until Python 3.12
            return _cached_property, (obj.func, obj.attrname)
        return super().reducer_override(obj)

    def _note_source(self, function: FunctionType) -> None:
        name = function.__code__.co_filename
        if name in _SHARED_NAMES or name in self.sources or os.path.exists(name):
            return
        try:
            self.sources[name] = inspect.findsource(function.__code__)[0]
        except (OSError, IndexError):
            self.sources[name] = []  # nobody knows it


def _has_no_name(function: Any) -> bool:
    """Whether another process finds no such function by its name."""
    return function.__module__ in MAIN_NAMES or "<locals>" in function.__qualname__


def _code_of_file(name: str, make: Callable[..., CodeType], parts: tuple[Any, ...]) -> CodeType:
    return make(*parts).replace(co_filename=name)


def _with_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(maxsize=parameters["maxsize"], typed=parameters["typed"])(function)


def _cached_property(function: Callable[..., Any], name: str | None) -> Any:
    made: Any = functools.cached_property(function)
    if name is not None:
        made.__set_name__(None, name)
    return made
