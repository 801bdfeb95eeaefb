"""Helper processes of the driver, for what is too much for one core before there are workers: hashing, and long walks.

They leave Ctrl-C to the driver and end with it, however it ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING_TASKS = 4
"""A process: so many are asked for before the first of them is answered."""


def map_in_order(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Generator[Result]:
    """Yield what `function` returns for each task, in the order of the tasks, which are asked for as they are needed.

    Args:
        function: of a module that can be imported; it and the tasks are pickled.
    """
    # spawn: a forked child would share the job's lock and keep it when this process dies.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin) as pool:
        window: deque[Future[Result]] = deque()
        for n_submitted, task in enumerate(tasks):
            if n_submitted < processes:
                with _script_hidden():  # these submits start the processes
                    window.append(pool.submit(function, task))
            else:
                window.append(pool.submit(function, task))
            if len(window) >= WAITING_TASKS * processes:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


# Private functions


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, name="r3po-end-with-driver", daemon=True).start()


def _end_with_driver() -> None:
    """A pool's process would wait for the next task for ever if the driver is killed."""
    driver = parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep multiprocessing from running the user's script again in each child, as spawn does by default."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
