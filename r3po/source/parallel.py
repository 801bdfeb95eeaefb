"""Helper processes of the driver, for what is too much for one core before there are workers: hashing, and long walks.

Each has a session of its own, so that signals for the driver's terminal or process group do not reach it, and ends with
the driver, however that ends. One that dies costs nothing: this process does its task. They run r3po's functions only;
the user's script is never executed again in them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

WAITING_TASKS = 4
"""A process: so many are asked for before the first of them is answered."""

END_S = 1.0
"""How long to wait for a helper's end; longer, and it waits for a disk that does not answer."""

_PROGRAM = """\
import sys
sys.path[:] = sys.argv[2:]
from r3po.source.parallel import serve
serve(int(sys.argv[1]))
"""


def map_in_order(function: Callable[[Task], Result], tasks: Iterable[Task], processes: int) -> Generator[Result]:
    """Yield what `function` returns for each task, in the order of the tasks, which are asked for as they are needed.

    Args:
        function: of a module of r3po or the standard library; it, the tasks and the results are pickled.
    """
    helpers = _Helpers()
    window: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(processes, thread_name_prefix="r3po-helper")
    try:
        for task in tasks:
            window.append(threads.submit(helpers.call, function, task))
            if len(window) >= WAITING_TASKS * processes:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        helpers.end()
        threads.shutdown(wait=False, cancel_futures=True)


def serve(answers: int) -> None:
    """Carry out the calls that come by stdin, one after the other, and answer into the descriptor `answers`."""
    threading.Thread(target=_end_with_driver, name="r3po-end-with-driver", daemon=True).start()
    with open(answers, "wb") as out:
        while True:
            try:
                function, task = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer = pickle.dumps((function(task), None))
            except Exception as error:
                answer = pickle.dumps((None, error))
            out.write(answer)
            out.flush()


# Private


class _Helpers:
    """One helper for each thread that calls it."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[_Helper] = []
        self._is_over = False

    def call(self, function: Callable[[Any], Any], task: Any) -> Any:
        with self._lock:
            if self._is_over:
                raise CancelledError
            helper: _Helper | None = getattr(self._own, "helper", None)
            if helper is None:
                helper = self._own.helper = _Helper()
                self._all.append(helper)
        try:
            result, error = helper.call(function, task)
        except (OSError, EOFError, pickle.UnpicklingError):
            if self._is_over:
                raise CancelledError from None
            return function(task)  # it died
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """End all of them at once: what they have in hand is not wanted any more."""
        with self._lock:
            self._is_over = True
        for helper in self._all:
            helper.process.kill()
        for helper in self._all:
            helper.close()


class _Helper:
    """A helper process, as its thread in the driver has it."""

    def __init__(self) -> None:
        answers, write_end = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(write_end), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        except BaseException:
            os.close(answers)
            raise
        finally:
            os.close(write_end)
        self._answers = open(answers, "rb")  # noqa: SIM115 - for as long as the process

    def call(self, function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
        calls = self.process.stdin
        assert calls is not None
        pickle.dump((function, task), calls)
        calls.flush()
        answer: tuple[Any, Exception | None] = pickle.load(self._answers)
        return answer

    def close(self) -> None:
        """Wait for its end."""
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            return  # and its thread still reads from it
        with contextlib.suppress(OSError):
            self._answers.close()
        with contextlib.suppress(OSError):  # there may be something left to send
            if self.process.stdin is not None:
                self.process.stdin.close()


def _end_with_driver() -> None:
    """Leave once nobody holds the other end of stdin, even in the middle of a task."""
    watch = select.poll()
    watch.register(sys.stdin.fileno(), 0)
    watch.poll()
    os._exit(1)
