"""Looks after the processes of a private Ray: a guard for what would outlive us, a watchdog for ourselves.

It knows processes, not Ray: `private_ray` tells it what to ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from r3po.engines import ray_guard as guard
from r3po.engines.ray_guard import DONE, ENDED, STARTED, end_users_of
from r3po.errors import RunStoppedError
from r3po.worker.processes import children_of, name_and_state

VITAL = ("raylet", "gcs_server")
"""Processes without which Ray is no Ray."""

LOOK_S = 1.0

STUCK_S = 15.0
"""Seconds after which a process that has not noticed the death of its Ray is taken to wait inside of it."""

START_LIMIT_S = 60.0
"""Seconds for which a start of Ray may go on without a sign of life."""

AWAY_S = 5.0
"""Seconds between two looks after which this process itself was stopped, or its machine slept."""

START_HINT = "your state is safe; run again, or without Ray: r3po run --engine serial"

_guards: list[Guard] = []
"""Guards that may still be looking; kept, so that each is waited for once it is done."""


class Guard:
    """A process that ends what is left of a Ray in `folder` if this process is killed."""

    def __init__(self, folder: Path) -> None:
        # A session of its own: what kills this process's group or terminal must leave it alive.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def ray_has_started(self) -> None:
        """From now on nobody has to say why this process ended: it does so itself."""
        self._tell(STARTED)

    def release(self, *, is_clean: bool) -> None:
        """Let it go; unless Ray ended well, it goes on looking for a while."""
        self._tell(DONE if is_clean else ENDED)
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            if self._process.stdin is not None:
                self._process.stdin.close()
            if is_clean:
                self._process.wait(timeout=5)
        _guards[:] = [earlier for earlier in [*_guards, self] if earlier._process.poll() is None]

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was killed
            if self._process.stdin is not None:
                self._process.stdin.write(word)
                self._process.stdin.flush()


class StartStuck(BaseException):
    """Ray has shown no sign of life for too long while it started. No `Exception`: Ray must not go on after it."""

    def __str__(self) -> str:
        return f"nothing has come of it for {START_LIMIT_S:.0f} s"


class Watchdog(threading.Thread):
    """Ends this process if it waits inside Ray for a Ray that is dead, or one that does not come to life.

    Some calls of Ray (`ray.init` above all) wait for a GCS that is gone without ever coming back to Python, until Ray
    ends the process after a minute, with the exit code 1 and no word. This does it sooner, with 3 and a hint.
    A start that is stuck is first interrupted, by a `StartStuck` in the thread that made this.

    Args:
        folder: Ray's temporary one.
        find_dead: the names of Ray's processes that have ended; None while Ray does not know them yet.
        guard: of the same Ray.
    """

    def __init__(self, folder: Path, find_dead: Callable[[], list[str] | None], guard: Guard) -> None:
        super().__init__(name="r3po-ray-watchdog", daemon=True)
        self._folder, self._find_dead, self._guard = str(folder), find_dead, guard
        self.is_over = threading.Event()
        self.known_end = ""
        """What has ended, once this process knows by itself; `find_dead` may know nothing any more by then."""
        self._earlier = set(children_of(os.getpid()))
        self._children: dict[int, str] = {}
        """Names of the new ones that were alive at some time."""
        self._starter: int | None = threading.get_ident()
        """The thread that starts Ray, until it has."""
        self._lock = threading.Lock()
        self._signs: set[str] = set()
        self._looked_at = self._alive_at = time.monotonic()
        self._screen = -1
        with contextlib.suppress(OSError):
            self._screen = os.dup(2)  # while Ray starts, stderr leads through ourselves

    def ray_has_started(self) -> None:
        """From now on there is no limit any more."""
        with self._lock:
            self._starter = None

    def run(self) -> None:
        dead_since: float | None = None
        while not self.is_over.wait(LOOK_S):
            now = time.monotonic()
            if self._is_stuck(now) and not self.is_over.wait(STUCK_S):
                self._end(f"Ray does not start: {StartStuck()}", START_HINT)
            what = self.known_end or self._look_for_an_end()
            dead_since = (dead_since or now) if what else None
            if dead_since is not None and now - dead_since > STUCK_S:
                self._end(f"Ray is gone: {what}", "your state is safe; run again to go on")
        with contextlib.suppress(OSError):
            os.close(self._screen)

    def _is_stuck(self, now: float) -> bool:
        """Look for signs of life of a start; if there were none for too long, interrupt it, and return True."""
        was_away, self._looked_at = now - self._looked_at > AWAY_S, now
        if self._starter is None:
            return False
        if self._has_new_sign() or was_away:
            self._alive_at = now
        return now - self._alive_at > START_LIMIT_S and self._interrupt()

    def _has_new_sign(self) -> bool:
        """Whether there is a file or a folder of Ray's that was not there at the last look."""
        signs = {name for _, folders, files in os.walk(self._folder) for name in (*folders, *files)}
        is_new, self._signs = bool(signs - self._signs), signs
        return is_new

    def _interrupt(self) -> bool:
        """Raise StartStuck in the thread that starts Ray, once it is in Python again. Returns False if it has."""
        with self._lock:
            if self._starter is None:
                return False
            starter, self._starter = ctypes.c_ulong(self._starter), None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(starter, ctypes.py_object(StartStuck))
            return True

    def _look_for_an_end(self) -> str:
        found = self._find_dead()
        dead = [name for name in (self._dead_children() if found is None else found) if name in VITAL]
        return f"its {dead[0]} ended" if dead else ""

    def _dead_children(self) -> list[str]:
        """Return the dead of a Ray that is still starting: new children of ours that are zombies, or were there."""
        seen = {pid: name_and_state(pid) for pid in set(children_of(os.getpid())) - self._earlier}
        alive = {pid: name for pid, (name, state) in seen.items() if state != "Z"}
        zombies = [name for name, state in seen.values() if state == "Z"]
        self._children.update(alive)
        # Ray waits for some of its children itself, and then nothing is left of them.
        return [*zombies, *(name for pid, name in self._children.items() if pid not in seen)]

    def _end(self, what: str, hint: str) -> None:
        text = f"error: {what}\nhint:  {hint}\n"
        if self._screen >= 0 and os.isatty(self._screen):
            text = "\n\x1b[?25h" + text  # the cursor that a live line hides
        with contextlib.suppress(OSError):
            os.write(self._screen, text.encode())
        self._guard.release(is_clean=False)  # it need not say anything any more
        for pid in set(children_of(os.getpid())) - self._earlier:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        end_users_of(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(RunStoppedError.exit_code)  # what comes up only now is the guard's
