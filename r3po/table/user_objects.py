"""Looking at objects of the user's own classes: whatever is asked of one may raise anything, SystemExit too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r3po.errors import StopNow, TimedOut


def ends_worker(error: BaseException) -> bool:
    """Whether an exception is none of f's, but ends this worker: whoever catches it lets it pass.

    These are the driver's second signal, a time limit, and Ray's own SystemExit. All others are a file's failure.
    """
    # By type(): `isinstance` and `hasattr` would ask the exception, which may say anything.
    if type(error) is SystemExit:
        return "ray_terminate_msg" in vars(error)
    return issubclass(type(error), (StopNow, TimedOut))


def text_of(show: Callable[[Any], str], value: object, instead: str) -> str:
    """Return `show(value)` as plain text, or `instead` if it raises; there, `{}` stands for what it raised."""
    try:
        return str.__str__(show(value))  # `show` may give a subclass, whose own methods raise
    except BaseException as error:
        if ends_worker(error):
            raise
        return instead.replace("{}", type_name(error))


def type_name(value: object) -> str:
    """Return the name of a value's class, whatever its metaclass says."""
    return str.__str__(_NAME.__get__(type(value)))


_NAME: Any = type.__dict__["__name__"]
