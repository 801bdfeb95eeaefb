"""Calls that wait for a store, several at once in threads of this process; for work of the processor see `parallel`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], n_threads: int, name: str
) -> Generator[Result]:
    """Yield what `function` returns for each item, in their order; items are asked for as they are needed.

    Args:
        name: begins the names of the threads.
    """
    running = deque[Future[Result]]()
    threads = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
    try:
        for item in items:
            running.append(threads.submit(function, item))
            if len(running) >= 2 * n_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
