"""What f forks starts like a fresh Python: signal handlers of r3po and of Ray end with the process that they are for.

Without this, `multiprocessing.Pool` in f waits for children that a handler of Ray's keeps from ending, and a child of
the serial engine would stop the run. Handlers that f itself has set are inherited, as in any Python.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading

_OWNERS = ("r3po", "ray")
"""Packages whose handlers no child inherits."""

_is_registered = False

_before = threading.local()
"""The signals that the forking thread blocked before."""


def shed_handlers_in_children() -> None:
    """From now on a forked child has the default handler wherever this process has one of r3po's or Ray's."""
    global _is_registered
    if not _is_registered:
        _is_registered = True
        # Blocked meanwhile: one that comes between the fork and the new handler would be lost, and its sender wait.
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_shed_handlers)


def ignore_interrupts() -> None:
    """Let SIGINT do nothing in this process, and let what it starts still be ended by one.

    `SIG_IGN` and a blocked signal would be inherited, also by programs that f starts.
    """
    signal.signal(signal.SIGINT, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


# Private functions


def _block() -> None:
    _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before.mask)


def _shed_handlers() -> None:
    try:
        for number in signal.valid_signals():
            owner = getattr(signal.getsignal(number), "__module__", None)
            if isinstance(owner, str) and owner.partition(".")[0] in _OWNERS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with contextlib.suppress(RuntimeError, ValueError):
            faulthandler.unregister(signal.SIGUSR1)
    finally:
        _unblock()


def _do_nothing(number: int, frame: object) -> None:
    """Take a signal that is for the driver."""
