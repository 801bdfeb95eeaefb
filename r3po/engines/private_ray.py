"""A Ray of our own on this machine: started by a keeper for one run, joined like any other, gone with the run.

Nothing here loads Ray until it is joined, so that the keeper starts it while this process still imports it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r3po.engines.needs import Needs
from r3po.engines.ray_guard import TEMPORARY_PREFIX, end_users_of
from r3po.engines.ray_keeper import END, END_S, JOINED, Settings, command_of
from r3po.errors import RunStoppedError
from r3po.text import first_line
from r3po.worker.processes import name_and_state

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20
"""Ray's least is about 75 MiB; answers are small and never go through it."""

START_TRIES = 3
"""How often a start of Ray is tried: two on one machine can race for a port."""

START_LIMIT_S = 60.0
"""Seconds for which a start of Ray may go on without a sign of life."""

JOIN_LIMIT_S = 60.0
"""Seconds for which this process may take to join a Ray that has started: half a second, if the machine is idle."""

LOOK_S = 1.0

AWAY_S = 5.0
"""Seconds between two looks after which this process itself was stopped, or its machine slept."""

STUCK_S = 15.0
"""Seconds after which a process that has not noticed the death of its Ray is taken to wait inside of it."""

START_HINT = "your state is safe; run again, or without Ray: r3po run --engine processes"

_LOOPBACK = "127.0.0.1"

_LOOPBACK_S = 5.0
"""Seconds that a connection from this machine to itself may take."""

_SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path; Ray's own part takes about 65 of them."""

_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, a Ray uses this machine's loopback alone, as it does on macOS and Windows.

It would take the address that leads to the internet, and wait for ever where a VPN or a firewall keeps packets from
that one; and nobody else need reach it.
"""


class PrivateRay:
    """Starts a Ray and ends it.

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
        needs: what each worker needs.
    """

    def __init__(self, log_file: Path, note_file: Path, needs: Needs) -> None:
        self._log_file, self._note_file, self._needs = log_file, note_file, needs
        self._token = secrets.token_hex(16)
        self._keeper: _Keeper | None = None
        self._watch: _Watch | None = None
        self._until_end = contextlib.ExitStack()
        """What holds as long as this Ray is there."""

    def launch(self, n_workers: int) -> None:
        """Let the start of a Ray with room for so many workers begin; `start` waits for it.

        Raises:
            RunStoppedError: this machine does not let it.
        """
        check_loopback()
        folder = make_temporary()
        self._note_file.write_text(str(folder))
        # Those that the workers keep for themselves, and one each for tasks that f may start.
        num_cpus = n_workers + math.ceil(n_workers * self._needs.each.get("CPU", 0))
        num_gpus = None if self._needs.each.get("GPU") else 0
        environment = keeper_environment(os.environ, self._token, self._needs.n_threads)
        self._keeper = _Keeper(folder, self._log_file, num_cpus, num_gpus, environment)

    def start(self, n_workers: int) -> None:
        """Start Ray, if that was not done, and join it.

        Raises:
            RunStoppedError: it does not start.
        """
        for attempt in range(1, START_TRIES + 1):
            try:
                if self._keeper is None:
                    self.launch(n_workers)
                assert self._keeper is not None
                self._join(self._keeper.wait_for_address())
                self._keeper.tell(JOINED)
                self._watch = _Watch(self._keeper)
                self._watch.start()
                return
            except BaseException as error:
                self.end(is_gone=True)
                if not isinstance(error, Exception) or isinstance(error, RunStoppedError):
                    raise  # a second Ctrl-C, or what trying again does not mend
                log.info("Ray did not start (%d of %d): %s", attempt, START_TRIES, error)
                if attempt == START_TRIES or isinstance(error, TimeoutError):
                    raise RunStoppedError(
                        f"Ray does not start: {first_line(str(error))}",
                        evidence=f"Ray's own messages are in {self._log_file}",
                        hint=START_HINT,
                    ) from error
                time.sleep(attempt)

    def find_end(self) -> str:
        """Return which part of this Ray has ended by itself; empty: none."""
        return "" if self._keeper is None else self._keeper.find_end()

    def note_end(self, what: str) -> None:
        """Take note that this Ray has ended by itself: to shut down what is dead may take for ever, too."""
        if self._watch is not None:
            self._watch.known_end = what

    def end(self, *, is_gone: bool) -> None:
        """End Ray, its workers, and whatever these have started; nothing of it is left.

        Args:
            is_gone: it has ended by itself.
        """
        keeper, self._keeper = self._keeper, None
        if is_gone and keeper is not None:
            keeper.tell(END)  # before this process leaves it: there may be nobody left to hear that it does
        try:
            self._until_end.close()
        finally:
            if keeper is not None:
                keeper.end()
            if self._watch is not None:
                self._watch.is_over.set()
                self._watch = None

    # Private methods

    def _join(self, address: str) -> None:
        from r3po.engines.ray_join import join_private  # not above: it loads Ray

        variables = private_variables(os.environ, self._token)
        self._until_end.enter_context(join_private(address, variables, self._log_file, JOIN_LIMIT_S))


def private_variables(given: Mapping[str, str], token: str) -> dict[str, str]:
    """Return what Ray reads of the environment, in a private Ray and in who joins it.

    Args:
        given: the user's environment, which says whether there is to be a token at all.
    """
    return {
        # Nobody else on this machine may use our Ray; and a token that is given keeps it from writing one to ~/.ray.
        "RAY_AUTH_MODE": given.get("RAY_AUTH_MODE", "token"),
        "RAY_AUTH_TOKEN": token,
        # `uv run` would upload the working directory to each worker.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": given.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
        "RAY_USAGE_STATS_ENABLED": given.get("RAY_USAGE_STATS_ENABLED", "0"),
        # At its end Ray waits 5 s for a GCS that may be gone, to tell it of tasks that are of no use any more.
        "RAY_task_events_shutdown_flush_timeout_ms": "200",
        _ALONE: "0",
    }


def keeper_environment(given: Mapping[str, str], token: str, n_threads: int) -> dict[str, str]:
    """Return the environment of a private Ray and its workers.

    So many threads for a worker's libraries, where the user has not chosen: each worker has a core, or what it asks
    for, and not all cores. And docstrings, which Ray itself needs: with `PYTHONOPTIMIZE=2` it does not start.
    """
    made = {"OMP_NUM_THREADS": str(n_threads), **given, **private_variables(given, token)}
    if given.get("PYTHONOPTIMIZE", "0") not in ("", "0"):
        made["PYTHONOPTIMIZE"] = "1"
    return made


def check_loopback() -> None:
    """Make sure that processes of this machine reach each other, which a Ray that starts waits for.

    Raises:
        RunStoppedError: they do not.
    """
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=_LOOPBACK_S).close()
    except OSError as error:
        raise RunStoppedError(
            f"Ray cannot start: processes of this machine do not reach each other on {_LOOPBACK} "
            f"({error.strerror or error})",
            hint="let the firewall or the VPN pass what goes from this machine to itself (is its interface lo up?);\n"
            "or run without Ray: r3po run --engine processes",
        ) from error


def make_temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    if len(os.fsencode(folder)) > _SOCKET_PATH_LIMIT - 70 and Path("/tmp").is_dir():
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir="/tmp"))
    return folder


# Private


class _Stuck(TimeoutError):
    """Ray has shown no sign of life for too long while it started."""

    def __str__(self) -> str:
        return f"nothing has come of it for {START_LIMIT_S:.0f} s"


class _Keeper:
    """The process that starts a Ray and ends it, as this process sees it."""

    def __init__(
        self, folder: Path, log_file: Path, num_cpus: int, num_gpus: int | None, environment: dict[str, str]
    ) -> None:
        self._folder = folder
        self._vital: dict[int, str] = {}
        try:
            self.screen = os.dup(2)
        except OSError:
            self.screen = -1  # there is no stderr
        settings = Settings(str(folder), os.getpid(), self.screen, num_cpus, num_gpus, OBJECT_STORE_BYTES)
        with open(log_file, "ab") as log_bytes:
            self._process = subprocess.Popen(
                command_of(settings, "-P"),  # not "-I": Ray may lie where only PYTHONPATH says
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_bytes,
                pass_fds=[self.screen] if self.screen >= 0 else [],
                env=environment,
                start_new_session=True,  # what kills this process's group or terminal must leave it alive
            )

    def wait_for_address(self) -> str:
        """Return the address of the head, once it has started.

        Raises:
            _Stuck: it shows no sign of life.
            OSError: it does not start.
        """
        assert self._process.stdout is not None
        signs: set[str] = set()
        looked_at = alive_at = time.monotonic()
        while not select.select([self._process.stdout], [], [], LOOK_S)[0]:
            now = time.monotonic()
            seen = {name for _, folders, files in os.walk(self._folder) for name in (*folders, *files)}
            if seen - signs or now - looked_at > AWAY_S:
                alive_at = now
            signs, looked_at = seen, now
            if now - alive_at > START_LIMIT_S:
                raise _Stuck
        line = self._process.stdout.readline()  # it writes all of it at once
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "the process that starts it ended"}
        if "failed" in answer:
            raise OSError(answer["failed"])
        self._vital = {int(pid): name for pid, name in answer["vital"].items()}
        address: str = answer["address"]
        return address

    def find_end(self) -> str:
        """Return what has ended by itself; empty: nothing."""
        dead = [name for pid, name in self._vital.items() if not _is_alive(pid)]
        if dead:
            return f"its {' and '.join(sorted(dead))} ended"
        return "its keeper ended" if self._process.poll() is not None else ""

    def tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was killed
            if self._process.stdin is not None:
                self._process.stdin.write(word)
                self._process.stdin.flush()

    def end(self) -> None:
        """Have it end its Ray, and wait until that is done; if it cannot, do it."""
        self.tell(END)
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=END_S + LOOK_S)
        if self._process.poll() != 0:
            for pid in [self._process.pid] if self._process.poll() is None else []:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
            end_users_of(str(self._folder))
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._process.stdout is not None:
            self._process.stdout.close()
        with contextlib.suppress(OSError):
            os.close(self.screen)
        self.screen = -1


class _Watch(threading.Thread):
    """Ends this process if it waits inside Ray for a Ray that is dead.

    Some calls of Ray wait for a GCS that is gone without ever coming back to Python, until Ray ends the process after a
    minute, with the exit code 1 and no word. This does it sooner, with 3 and a hint.
    """

    def __init__(self, keeper: _Keeper) -> None:
        super().__init__(name="r3po-ray-watch", daemon=True)
        self._keeper = keeper
        self.is_over = threading.Event()
        self.known_end = ""
        """What has ended, once this process knows by itself."""

    def run(self) -> None:
        dead_since: float | None = None
        while not self.is_over.wait(LOOK_S):
            now = time.monotonic()
            what = self.known_end or self._keeper.find_end()
            dead_since = (dead_since or now) if what else None
            if dead_since is not None and now - dead_since > STUCK_S:
                self._leave(what)

    def _leave(self, what: str) -> None:
        screen = self._keeper.screen
        text = f"error: Ray is gone: {what}\nhint:  your state is safe; run again to go on\n"
        if screen >= 0 and os.isatty(screen):
            text = "\n\x1b[?25h" + text  # the cursor that a live line hides
        with contextlib.suppress(OSError):
            os.write(screen, text.encode())
        self._keeper.end()
        os._exit(RunStoppedError.exit_code)


def _is_alive(pid: int) -> bool:
    if os.path.isdir("/proc"):
        return name_and_state(pid)[1] not in ("", "Z", "X")
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
