"""One call of f, and whatever it does to this process: it raises anything, takes too long, or forks."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import dropwhile
from types import TracebackType
from typing import Any, Protocol

from r3po.errors import TimedOut
from r3po.table.outcomes import Failure
from r3po.table.user_objects import ends_worker
from r3po.text import first_line
from r3po.worker.beacon import Phase
from r3po.worker.failures import ENVIRONMENTAL, PACKAGE, failure_of, timeout_failure
from r3po.worker.time_limit import TimeLimit, is_possible

_n_forks = 0
"""Between the process that first imported this and the one that this is; `os.getpid` after each file would cost more.
Forks that do not come from Python are not among them, and are noticed a little later."""


def _note_fork() -> None:
    global _n_forks
    _n_forks += 1


os.register_at_fork(after_in_child=_note_fork)


class Marks(Protocol):
    """A beacon, as far as a call is concerned."""

    def advance(self, phase: Phase) -> None: ...


class Caller:
    """Calls f on one file after the other.

    Args:
        timeout_s: `timeout_seconds`; it holds where this thread can have a time limit.
        beacon: told when f begins under a time limit, and when it has ended.
        on_error: called with what f raised and its traceback, from the user's first frame on: a debugger.
    """

    def __init__(
        self,
        timeout_s: float | None,
        beacon: Marks,
        on_error: Callable[[BaseException, TracebackType | None], None] | None = None,
    ) -> None:
        self._timeout_s, self._beacon, self._on_error = timeout_s, beacon, on_error
        self._limit = TimeLimit(timeout_s) if timeout_s is not None and is_possible() else None
        self._pid, self._n_forks = os.getpid(), _n_forks
        self.function: Callable[..., Any] | None = None
        """f, once it is loaded."""
        self.close: Callable[[], object] | None = None
        """Called once at an orderly end; None: there is nothing to close."""
        self.was_cut_off = False
        """The last call was ended in its middle: this process is not to be trusted any more."""

    def call(self, *arguments: Any, consume: Callable[[Any], Any] | None = None) -> tuple[Any, Failure | None]:
        """Return what f returned, or why it gave nothing.

        Args:
            arguments: of f: the path and, with `input: bytes`, the content.
            consume: takes what f returned, and returns what is made of it; what it raises counts as raised by f, and
                the time limit holds for it, too. None: nothing is made of it.
        """
        function, limit = self.function, self._limit
        assert function is not None, "load comes first"
        if consume is not None:
            function = partial(_call_and_consume, function, consume)
        returned: Any = None
        failure: Failure | None = None
        self.was_cut_off = False
        try:
            if limit is None:
                returned = function(*arguments)
            else:
                self._beacon.advance(Phase.CALLING)
                returned = limit.call(function, *arguments)
        except TimedOut as error:
            self.was_cut_off = True
            frames = traceback.extract_tb(error.__traceback__)[:-1]  # without the handler that raised
            frames = list(dropwhile(lambda frame: frame.filename.startswith(PACKAGE), frames))
            failure = timeout_failure(self._timeout_s or 0.0, frames)
        # Everything: f may raise SystemExit or KeyboardInterrupt, and that is its failure, not the worker's end.
        except BaseException as error:
            if ends_worker(error):
                raise
            tb = sys.exc_info()[2]  # an exception's own `__traceback__` may raise
            while tb is not None and tb.tb_frame.f_code.co_filename.startswith(PACKAGE):  # without our own frames
                tb = tb.tb_next
            failure = failure_of(error, tb, ENVIRONMENTAL)
            if self._on_error is not None:
                self._on_error(error, tb)
        if limit is not None:
            self._beacon.advance(Phase.READING)
        if _n_forks != self._n_forks:
            self.leave_if_forked()
        return returned, failure

    def finish(self, limit_s: float) -> str:
        """Close f; it is called no more.

        Args:
            limit_s: seconds that it may take, where this thread can have a time limit.

        Returns:
            What went wrong, for people; empty: nothing did.
        """
        close, self.close = self.close, None
        if close is None:
            return ""
        try:
            if is_possible():
                TimeLimit(limit_s).call(close)
            else:
                close()
        except TimedOut:
            return f"it took longer than {limit_s:g} s and was ended"
        except BaseException as error:
            if ends_worker(error):
                raise
            failure = failure_of(error, sys.exc_info()[2])
            return f"{failure.error_type}: {first_line(failure.message)} ({failure.where})"
        finally:
            self.leave_if_forked()
        return ""

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Give a block, within a call, that the time limit does not cut off and no child of f takes part in."""
        self.leave_if_forked()
        with nullcontext() if self._limit is None else self._limit.held():
            yield

    def leave_if_forked(self) -> None:
        """Leave if f forked, and this is the child: the outcome is its parent's."""
        if os.getpid() != self._pid:
            os._exit(0)


# Private functions


def _call_and_consume(function: Callable[..., Any], consume: Callable[[Any], Any], *arguments: Any) -> Any:
    return consume(function(*arguments))
