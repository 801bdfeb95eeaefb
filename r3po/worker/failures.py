"""Why a file has no row, as text: the user's exception, a time limit, the death of a worker.

Nothing here raises, whatever the user's exception does when it is looked at, and nothing of it is kept but text.
"""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from traceback import FrameSummary
from types import TracebackType
from typing import Any

from r3po.table.outcomes import Failure
from r3po.table.user_objects import text_of, type_name

TEXT_LIMIT = 10_000
"""Characters kept of a failure's message and of its traceback."""

_ENVIRONMENTAL_NAMES = """
    EIO ESTALE ENOSPC EDQUOT EROFS EMFILE ENFILE ENOMEM ENODEV ENXIO ENOTCONN ENOLINK EREMOTEIO EHOSTDOWN EHOSTUNREACH
    ENETDOWN ENETUNREACH ETIMEDOUT
"""
ENVIRONMENTAL = frozenset(getattr(errno, name) for name in _ENVIRONMENTAL_NAMES.split() if hasattr(errno, name))
"""What the system says when a disk, a network or this machine is at fault rather than the file."""

GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM})
"""Error numbers of our own look at a file that was listed: one such file was deleted, many are a disk that is gone."""


PACKAGE = str(Path(__file__).parents[1]) + os.sep
"""Where r3po's own frames lie."""


class EnvironmentalFailure(Failure):
    """A failure that may not be the file's: it is tried once more before it is recorded."""

    __slots__ = ()


def failure_of(error: BaseException, tb: TracebackType | None, environmental: frozenset[int] = frozenset()) -> Failure:
    """Return an exception as text, from the user's first frame (`tb`) on; nothing of it can raise again.

    Args:
        environmental: the errno of an OSError that makes it an EnvironmentalFailure.
    """
    formatted = text_of(lambda error: _format(error, tb), error, "(the traceback cannot be shown: {})")
    where = text_of(lambda tb: _where(traceback.extract_tb(tb)), tb, "")
    message = text_of(str, error, "(no message: its __str__ raised {})")
    # By the C field: a subclass of the user's may have any `errno`.
    errno_of: Any = OSError.errno
    number = errno_of.__get__(error) if issubclass(type(error), OSError) else None
    kind = EnvironmentalFailure if type(number) is int and number in environmental else Failure
    return kind(type_name(error), clean(message), clean(where), clean(formatted))


def timeout_failure(timeout_s: float, frames: Sequence[FrameSummary]) -> Failure:
    """Return the failure of a file that took too long, with what f was doing then, outermost first."""
    message = f"f took longer than timeout_seconds: {timeout_s:g}"
    shown = "".join(traceback.format_list(list(frames)))
    return Failure("Timeout", message, clean(_where(frames)), clean(shown))


def death_failure(error_type: str, message: str, stack: str) -> Failure:
    """Return the failure of a file that ended its worker; `stack` is what faulthandler wrote, innermost first."""
    found = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', stack, re.MULTILINE)
    frames = [FrameSummary(file, int(line), name, lookup_line=False) for file, line, name in reversed(found)]
    own = [frame for frame in frames if not frame.filename.startswith(PACKAGE)]
    # Below f there are our own frames and Ray's, and then a list of all that is loaded: nothing of it is the user's.
    shown = stack.split(f'\n  File "{PACKAGE}', 1)[0].split("\nExtension modules:", 1)[0]
    return Failure(error_type, message, clean(_where(own)), clean(shown))


def clean(text: str) -> str:
    """Return text that UTF-8 can hold, at most `TEXT_LIMIT` characters of it: the beginning and the end."""
    if len(text) > TEXT_LIMIT:
        half = TEXT_LIMIT // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Private functions


def _format(error: BaseException, tb: TracebackType | None) -> str:
    return "".join(traceback.TracebackException(type(error), error, tb, compact=True).format())


def _where(frames: Iterable[FrameSummary]) -> str:
    """Return the innermost frame that is the user's own code rather than a library's."""
    frames = list(frames)
    own = [frame for frame in frames if not _is_library(frame.filename)] or frames
    if not own:
        return ""
    return f"{os.path.basename(own[-1].filename)}:{own[-1].lineno} in {own[-1].name}"


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_library(filename: str) -> bool:
    return filename.startswith((*_LIBRARIES, "<frozen"))
