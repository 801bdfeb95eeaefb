"""How much memory a run takes: looked at twice a second, of the driver and of every worker."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import psutil

EVERY_S = 0.5
_MB = 1e6


class MemoryWatch:
    """Watches a process and Ray's workers below it, as a context.

    What counts of a worker is what it has for itself (USS): the rest is the interpreter's and Arrow's code, which all
    share. Of the driver it is all that is resident (RSS).
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_again)
        self._started = time.monotonic()
        self.driver_mb = 0.0
        """The most so far."""
        self.worker_mb = 0.0
        """The most that one worker had."""
        self.looks: list[tuple[float, float, float]] = []
        """Seconds since the start, driver, largest worker; in MB."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def figures(self) -> dict[str, Any]:
        """Return the most, and forty looks from start to end: whether it is flat over time."""
        every = max(1, len(self.looks) // 40)
        looks = [[round(value, 1) for value in look] for look in self.looks[::every]]
        return {"driver_mb": round(self.driver_mb, 1), "worker_mb": round(self.worker_mb, 1), "looks": looks}

    # Private methods

    def _look_again(self) -> None:
        while not self._is_over.wait(EVERY_S):
            try:
                self._look()
            except psutil.Error:
                continue  # a process has just ended

    def _look(self) -> None:
        driver = self._process.memory_info().rss / _MB
        worker = 0.0
        for child in self._process.children(recursive=True):
            try:
                if child.name().startswith("ray::_Actor"):
                    worker = max(worker, child.memory_full_info().uss / _MB)
            except psutil.Error:
                continue
        self.looks.append((time.monotonic() - self._started, driver, worker))
        self.driver_mb = max(self.driver_mb, driver)
        self.worker_mb = max(self.worker_mb, worker)
