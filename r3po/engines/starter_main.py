"""The program of the process that starts workers: it imports what they need once, and forks.

It stands between the driver and the workers, and is never without an answer: it tells which worker has ended, and once
the driver is gone, however that died, it ends the workers and all that f has started in them, wherever that went to.

A fork is safe here, since this process has one thread and runs nothing of the user's. Where that cannot be (not on
Linux, or libraries that have begun threads of their own), each worker is a fresh Python instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import pickle
import resource
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from r3po.engines.frames import END, ENDED, ENVIRONMENT, ORDER, READY, START, receive_frame, send_frame
from r3po.engines.pool import Answer
from r3po.engines.worker_shell import WorkerShell
from r3po.table.pandas_later import leave_pandas_to_f
from r3po.worker.processes import descendants_of

LOOK_MS = 1000
"""Milliseconds between two looks whether the driver is there: a fork of it may hold our socket open."""

END_S = 2.0
"""Seconds for which this process waits for the end of what it has killed."""

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36

_HIGH = 500
"""The least number of a worker's descriptor for its connection: f may close those that it takes for its own."""

_FRESH = (
    "import sys; sys.path.append(sys.argv[1]); from r3po.engines.starter_main import main_of_fresh; main_of_fresh()"
)

_leave = os._exit
"""As it is before a worker has its exits noted."""

_libc = ctypes.CDLL(None)


def main() -> None:
    """Serve the driver at the other end of the descriptor that is named, until it is gone."""
    driver = os.getppid()
    control = socket.socket(fileno=int(sys.argv[1]))
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _libc.prctl(_PR_SET_NAME, b"r3po-starter")
    leave_pandas_to_f()
    try:
        control.sendall(ENDED.pack(READY, 0))
        content = receive_frame(control)
        sys.path[:] = pickle.loads(content)[0]
    except (EOFError, ConnectionError):  # it was not needed
        _leave(0)
    starter = _Starter(control, content)
    try:
        starter.serve(driver)
    except ConnectionError:
        pass
    finally:
        starter.end_all()
    _leave(0)


def main_of_fresh() -> None:
    """Be a worker that was not forked: the whole program of its process."""
    number, setup_file, connection, parent = map(int, sys.argv[2:])
    content = os.pread(setup_file, os.fstat(setup_file).st_size, 0)
    os.close(setup_file)
    sys.path[:] = pickle.loads(content)[0]
    _be_worker(content, number, connection, parent)


class _Starter:
    """Carries out what the driver asks for.

    Args:
        content: what each worker gets: paths, f, setup.
    """

    def __init__(self, control: socket.socket, content: bytes) -> None:
        self._control, self._content = control, content
        self._pids: dict[int, int] = {}
        """By the numbers of the workers."""
        self._is_forking = _has_one_thread()
        self._setup_file = None if self._is_forking else _in_a_file(content)
        self._signalled, self._wakeup = os.pipe()
        for descriptor in (self._signalled, self._wakeup):
            os.set_blocking(descriptor, False)

    def serve(self, driver: int) -> None:
        """Start and end workers, and tell of those that ended, until the driver is gone."""
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGCHLD, _do_nothing)
        gc.freeze()  # what is not touched stays shared with the workers
        self._control.setblocking(False)
        watch = select.poll()
        watch.register(self._control, select.POLLIN)
        watch.register(self._signalled, select.POLLIN)
        while os.getppid() == driver:
            watch.poll(LOOK_MS)
            with contextlib.suppress(BlockingIOError):
                os.read(self._signalled, 1 << 12)
            self._reap()
            if not self._take_orders():
                return

    def end_all(self) -> None:
        """End the workers and all that was started in them. What outlives its parent comes to this process."""
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            for pid in {*self._pids.values(), *descendants_of(os.getpid())}:
                _kill_group(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.005)

    # Private methods

    def _take_orders(self) -> bool:
        """Carry out what was asked for. Returns whether the driver is there."""
        while True:
            try:
                order, descriptors, _, _ = socket.recv_fds(self._control, ORDER.size, 1)
            except BlockingIOError:
                return True
            if not order:
                return False
            kind, worker = ORDER.unpack(order)
            if kind == START:
                self._start(worker, descriptors[0])
            elif kind == END and worker in self._pids:
                _kill_group(self._pids[worker])

    def _start(self, worker: int, connection: int) -> None:
        try:
            pid = self._fork(worker, connection) if self._is_forking else self._spawn(worker, connection)
        except OSError:  # no process, no memory
            traceback.print_exc()
            self._tell(worker, 1 << 8)
            return
        finally:
            os.close(connection)
        self._pids[worker] = pid

    def _fork(self, worker: int, connection: int) -> int:
        parent, pid = os.getpid(), os.fork()
        if pid:
            with contextlib.suppress(OSError):  # whoever comes first: it may be ended right away
                os.setpgid(pid, pid)
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._signalled)
            os.close(self._wakeup)
            _be_worker(self._content, worker, connection, parent)
        finally:
            _leave(1)

    def _spawn(self, worker: int, connection: int) -> int:
        assert self._setup_file is not None
        os.set_inheritable(connection, True)
        texts = [str(Path(__file__).parents[2]), *map(str, (worker, self._setup_file, connection, os.getpid()))]
        return os.posix_spawn(
            sys.executable, [sys.executable, "-P", "-c", _FRESH, *texts], dict(os.environ), setpgroup=0
        )

    def _reap(self) -> None:
        """Tell of the workers that have ended, and end what is left in their groups."""
        for pid, status in _ended_children():
            worker = next((number for number, known in self._pids.items() if known == pid), None)
            if worker is not None:
                _kill_group(pid)
                del self._pids[worker]
                self._tell(worker, status)

    def _tell(self, worker: int, status: int) -> None:
        self._control.setblocking(True)
        try:
            self._control.sendall(ENDED.pack(worker, status))
        finally:
            self._control.setblocking(False)


# Private functions


def _be_worker(content: bytes, number: int, connection: int, parent: int) -> NoReturn:
    """Carry out the calls that come by a connection, until it is closed."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_NAME, b"r3po-worker")
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            _leave(1)  # it was ended in between
    _forget_starter()
    _, pickled, setup = pickle.loads(content)
    driver = socket.socket(fileno=_move_up(connection))
    shell = WorkerShell(pickle.loads(setup), number, pickled)
    try:
        while True:
            answer = shell.perform(pickle.loads(receive_frame(driver)))
            send_frame(driver, _packed(answer))
    except (EOFError, OSError):  # the driver is gone, or f has closed what is not its own
        _leave(1)


def _packed(answer: Answer) -> bytes:
    try:
        return pickle.dumps((answer.value, answer.error))
    except Exception as error:  # a bug of ours
        return pickle.dumps((None, RuntimeError(f"the answer to {answer.call.method}: {error}")))


def _forget_starter() -> None:
    """Take away what this process has of the one that it is a fork of."""
    for name, value in ENVIRONMENT.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    if "numpy.random" in sys.modules:  # as Python's own does by itself: all forks would draw the same
        sys.modules["numpy.random"].seed()


def _has_one_thread() -> bool:
    """Whether this process may be forked."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _in_a_file(content: bytes) -> int:
    """Return the descriptor of a file without a name, which fresh workers inherit."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("r3po-setup", 0)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.set_inheritable(descriptor, True)
    return descriptor


def _move_up(descriptor: int) -> int:
    least = min(_HIGH, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved


def _ended_children() -> list[tuple[int, int]]:
    """Return id and status of the children that have ended; orphans of theirs are among them."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(ended)
    return found


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _do_nothing(number: int, frame: object) -> None:
    """Take the signal that a child has ended: it wakes this process up."""
