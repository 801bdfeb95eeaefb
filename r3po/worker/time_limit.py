"""A time limit for one call of f, by SIGALRM: it ends whatever Python code is running, a loop or a sleep.

Code that never returns to Python is not reached; the driver, which reads the beacons, ends its process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from r3po.errors import TimedOut

REPEAT_S = 1.0
"""Seconds after which an f that caught the interruption is interrupted again."""


class TimeLimit:
    """Calls functions with a limit. Only on the main thread, where Python runs its signal handlers.

    Args:
        seconds: of wall time, for each call.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_armed = False
        self._is_held = self._is_late = False

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns.

        Raises:
            TimedOut: it took too long. Whatever it had in hand may be in any state: use a fresh process.
        """
        # Each time: f may have put a handler of its own.
        signal.signal(signal.SIGALRM, self._expire)
        try:
            try:
                self._is_held = self._is_late = False
                self._is_armed = True
                signal.setitimer(signal.ITIMER_REAL, self._seconds, REPEAT_S)
                return function(*arguments)
            finally:
                self._disarm()
        except TimedOut:
            self._disarm()  # it may have come before the other one was through
            raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put the end off while this block lasts: what it does must not be cut off in its middle.

        Raises:
            TimedOut: after the block, if the limit has come meanwhile.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_late and self._is_armed:
            raise TimedOut

    def _disarm(self) -> None:
        # The flag first: an alarm that is on its way then finds nothing to end.
        self._is_armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _expire(self, number: int, frame: FrameType | None) -> None:
        self._is_late = self._is_held
        if self._is_armed and not self._is_held:
            raise TimedOut


def is_possible() -> bool:
    """Whether this thread can have a time limit."""
    return threading.current_thread() is threading.main_thread()
