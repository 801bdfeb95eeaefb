"""What f is, once its module is imported: the function itself, or what a class or a factory makes of `function_args`.

Such an f is made once a worker. One that is a context manager is entered then, and left at an orderly end; of another
one `close()` is called, where it has that. An object that the caller made is the caller's: it is neither entered nor
closed here.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from r3po.errors import FunctionError, StopNow
from r3po.function.find import FunctionSpec
from r3po.function.load import user_error
from r3po.function.messages import async_error, brief

CALL_HINT = "{} is made once a worker and called with each file: give it  def __call__(self, filepath)"


class Made(NamedTuple):
    """f as a worker calls it."""

    function: Callable[..., Any]
    """Called with a file, by position."""
    close: Callable[[], object] | None
    """Called once at an orderly end; None: there is nothing to close."""


def is_made(found: object, spec: FunctionSpec) -> bool:
    """Whether f is what `found` returns, and not `found` itself. A class of dicts that cannot be called gives rows."""
    if not isinstance(found, type):
        return spec.is_factory
    return spec.is_factory or callable_in_class(found) or not issubclass(found, dict)


def callable_in_class(cls: type) -> bool:
    """Whether the objects of a class can be called."""
    return any("__call__" in vars(base) for base in cls.__mro__)


def make_function(found: Callable[..., Any], spec: FunctionSpec, folder: str = "") -> Made:
    """Return f, made and entered where it is a class or a factory.

    Args:
        found: what the function's module has by its name.
        folder: the current folder while f is made, where relative paths start; empty: as it is.

    Raises:
        FunctionError: it raises, or what it makes cannot be called.
    """
    if not is_made(found, spec):
        return Made(partial(found, **spec.arguments) if spec.arguments else found, None)
    with _current_folder(folder):
        made = _attempt(partial(found, **spec.arguments), spec, "made")
        function, close = made, getattr(made, "close", None)
        if hasattr(type(made), "__enter__") and hasattr(type(made), "__exit__"):
            entered = _attempt(partial(type(made).__enter__, made), spec, "entered")
            function, close = (entered if callable(entered) else made), partial(_leave, made)
        try:
            return Made(_check_made(function, spec), close if callable(close) else None)
        except FunctionError:
            with contextlib.suppress(Exception):
                if callable(close):
                    close()
            raise


# Private functions


def _attempt(step: Callable[[], Any], spec: FunctionSpec, doing: str) -> Any:
    try:
        return step()
    except (KeyboardInterrupt, StopNow):
        raise
    except BaseException as error:
        hint = None
        if isinstance(error, FileNotFoundError):
            hint = f"relative paths start in the config's folder; here that is {os.getcwd()}"
        raise user_error(error, f"{spec.label} {{}} when it was {doing}", hint) from error


def _leave(made: Any) -> object:
    return type(made).__exit__(made, None, None, None)


def _check_made(function: Any, spec: FunctionSpec) -> Callable[..., Any]:
    if not callable(function):
        if spec.is_factory:
            what, hint = f"{spec.label} returned {brief(function)}, which cannot be called", "let it return f"
        else:
            name = spec.name.rpartition(".")[2]
            what, hint = f"the objects of {spec.label} cannot be called", CALL_HINT.format(name)
        raise FunctionError(what, hint=hint)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise async_error(spec.name, spec.label.rpartition(":")[0])
    returned: Callable[..., Any] = function
    return returned


@contextlib.contextmanager
def _current_folder(folder: str) -> Iterator[None]:
    """Be in a folder during this block, if there is one of that name: another machine may not have it."""
    before = None
    with contextlib.suppress(OSError):
        before = os.getcwd()
        if folder and folder != before:
            os.chdir(folder)
        else:
            before = None
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.chdir(before)
