"""The process that starts workers, as the driver has it. What it does is in `starter_main`."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle

from r3po.config.settings import Config
from r3po.engines.frames import END, ENDED, ENVIRONMENT, ORDER, READY, START, send_frame
from r3po.engines.needs import needs_of

_PROGRAM = "import sys; sys.path.append(sys.argv[2]); from r3po.engines.starter_main import main; main()"
"""r3po is imported first, by the paths of a fresh Python: files beside f may be named like what it needs."""

END_S = 5.0
"""Seconds for which the driver waits until the process has ended all that there is."""


@contextlib.contextmanager
def started_early(config: Config) -> Iterator[Starter | None]:
    """Give a starter where the engine of a job has one: it imports what workers need beside what its driver imports."""
    starter = Starter(needs_of(config).n_threads) if config.engine == "processes" else None
    try:
        yield starter
    finally:
        if starter is not None:
            starter.close()


class Starter:
    """Starts the process.

    Args:
        n_threads: threads for the libraries of a worker, where the user has not chosen.
    """

    def __init__(self, n_threads: int = 1) -> None:
        self._control, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._heard = b""
        self._is_given = False
        self.is_ready = False
        """It has imported what a worker needs."""
        self.is_over = False
        """It has ended by itself."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), str(Path(__file__).parents[2])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                env={"OMP_NUM_THREADS": str(n_threads), **ENVIRONMENT, **os.environ},
                process_group=0,  # Ctrl-C is for the run
            )
        finally:
            theirs.close()

    def fileno(self) -> int:
        return self._control.fileno()

    def give(self, setup: Any, pickled: bytes | None) -> None:
        """Give it what all workers need, before the first of them.

        Args:
            pickled: the function, where it has no module to import it from.
        """
        self._is_given = True
        content = pickle.dumps((sys.path, pickled, cloudpickle.dumps(setup)))
        with contextlib.suppress(OSError):  # it is over: `hear` says so
            send_frame(self._control, content)

    def start(self, worker: int, connection: socket.socket) -> None:
        """Have a worker started that has this end of its connection."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [ORDER.pack(START, worker)], [connection.fileno()])

    def end(self, worker: int) -> None:
        """Have a worker ended, and what f started in it, unless it has ended."""
        with contextlib.suppress(OSError):
            self._control.sendall(ORDER.pack(END, worker))

    def hear(self) -> list[tuple[int, int]]:
        """Return number and status of each worker that has ended since the last time; waits for nothing."""
        try:
            while content := self._control.recv(1 << 16, socket.MSG_DONTWAIT):
                self._heard += content
            self.is_over = True
        except BlockingIOError:
            pass
        except OSError:
            self.is_over = True
        end = len(self._heard) // ENDED.size * ENDED.size
        told, self._heard = list(ENDED.iter_unpack(self._heard[:end])), self._heard[end:]
        self.is_ready = self.is_ready or any(worker == READY for worker, _ in told)
        return [(worker, status) for worker, status in told if worker != READY]

    def last_words(self) -> tuple[str, str]:
        """Return the last line that it wrote on stderr, and all of it."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return text.rpartition("\n")[2], text

    def close(self) -> None:
        """End it, all workers, and whatever these have started. It may have been ended before."""
        if not self._is_given:
            self._process.kill()  # there is no worker, and it may be in the middle of an import
        self._control.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
