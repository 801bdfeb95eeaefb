"""Signals become a flag, and a stop file that workers see; the second one ends the run at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from r3po.errors import StopNow

START_S = 3.0
"""Seconds for which a start that was asked to stop may go on."""


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP, taken over from `install` to `restore`.

    Args:
        stop_file: made when the first signal arrives; workers look for it.
        tell: called with the signal's name for people, from the handler.
        interrupts: the second signal raises StopNow wherever this process is, in f too; without it, it is a flag
            (`is_urgent`) for those who wait in a library that an exception would break.
    """

    def __init__(self, stop_file: Path, tell: Callable[[str], None], *, interrupts: bool) -> None:
        self._stop_file, self._tell, self._interrupts = stop_file, tell, interrupts
        self._is_closing = False
        self.is_starting = False
        """The workers are being started, so that no file is in hand."""
        self._timer: threading.Timer | None = None
        """Sends the second signal if the start goes on for too long after the first."""
        self.is_urgent = False
        """A second signal arrived: do not wait for what is in flight."""
        self._previous: dict[int, Any] = {}
        self._received: signal.Signals | None = None

    @property
    def is_requested(self) -> bool:
        return self._received is not None

    @property
    def signal_name(self) -> str:
        received = self._received or signal.SIGINT
        return "Ctrl-C" if received is signal.SIGINT else received.name

    @property
    def exit_code(self) -> int:
        """As a shell gives it: 128 and the signal's number."""
        return 128 + (self._received or signal.SIGINT)

    def install(self) -> None:
        """Take the signals over, again if somebody else did since. Off the main thread Python does not allow it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # whoever started us (nohup, a shell's background job) wants it ignored
            previous = signal.signal(number, self._handle)
            self._previous.setdefault(number, previous)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside this block a second signal raises StopNow at once, a first one after START_S seconds.

        At once would be too early: a library is better not interrupted while it is imported.

        Raises:
            StopNow: there was a signal before, so that nothing is to be started.
        """
        self.is_starting = True
        try:
            if self.is_requested:
                raise StopNow
            yield
        finally:
            self.is_starting = False
            if self._timer is not None:
                self._timer.cancel()

    def tell_workers(self) -> None:
        """Let the workers end their batches at the file they are in."""
        with contextlib.suppress(OSError):
            self._stop_file.touch()

    def close(self) -> None:
        """From now on signals change nothing: the run is ending, and ends what it started."""
        self._is_closing = True

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, previous in self._previous.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_closing:
            return
        if self._received is not None:
            self.is_urgent = True
            if self._interrupts or self.is_starting:
                raise StopNow
            return
        self._received = signal.Signals(number)
        self.tell_workers()
        self._tell(self.signal_name)
        if self.is_starting:
            self._timer = threading.Timer(START_S, os.kill, (os.getpid(), number))
            self._timer.daemon = True
            self._timer.start()
