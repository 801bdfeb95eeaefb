"""A Ray of our own on this machine: started for one run, gone with it, in a temporary folder that nothing outlives."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import time
from pathlib import Path

import ray

from r3po.engines.needs import Needs
from r3po.engines.ray_guard import end_users_of
from r3po.engines.ray_lines import ray_lines_to
from r3po.engines.ray_node import (
    check_loopback,
    environment_for_start,
    find_dead,
    global_node,
    hide_messages,
    logging_only_to,
    make_temporary,
    no_grace,
    on_loopback,
    signals_kept,
    started_by_raylet,
    use_settings,
)
from r3po.engines.ray_watch import START_HINT, Guard, StartStuck, Watchdog
from r3po.errors import RunStoppedError
from r3po.text import first_line
from r3po.worker.processes import start_of

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20
"""Ray's least is about 75 MiB; answers are small and never go through it."""

START_TRIES = 3
"""How often a start of Ray is tried: two on one machine can race for a port."""


class PrivateRay:
    """Starts a Ray and ends it.

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
        needs: what each worker needs.
    """

    def __init__(self, log_file: Path, note_file: Path, needs: Needs) -> None:
        self._log_file, self._note_file, self._needs = log_file, note_file, needs
        self._temporary: Path | None = None
        self._guard: Guard | None = None
        self._watchdog: Watchdog | None = None
        self._until_end = contextlib.ExitStack()
        """What holds as long as this Ray is there."""

    def start(self, n_workers: int) -> None:
        """Start Ray, with room for so many workers.

        Raises:
            RunStoppedError: it does not start.
        """
        check_loopback()
        use_settings()
        for attempt in range(1, START_TRIES + 1):
            self._temporary = make_temporary()
            self._note_file.write_text(str(self._temporary))
            self._guard = Guard(self._temporary)
            self._watchdog = Watchdog(self._temporary, find_dead, self._guard)
            self._watchdog.start()
            try:
                self._init(n_workers)
                self._watchdog.ray_has_started()
                self._guard.ray_has_started()
                return
            except BaseException as error:
                is_stuck = isinstance(error, StartStuck)
                with contextlib.suppress(Exception):
                    ray.shutdown()
                self._remove_temporary(is_clean=False)
                if not isinstance(error, Exception) and not is_stuck:
                    raise  # a second Ctrl-C
                log.info("Ray did not start (%d of %d): %s", attempt, START_TRIES, error)
                if attempt == START_TRIES or is_stuck:
                    what = str(error) if is_stuck else f"{type(error).__name__}: {first_line(str(error))}"
                    raise RunStoppedError(
                        f"Ray does not start: {what}",
                        evidence=f"Ray's own messages are in {self._log_file}",
                        hint=START_HINT,
                    ) from error
                time.sleep(attempt)

    def note_end(self, what: str) -> None:
        """Take note that this Ray has ended by itself: to shut down what is dead may take for ever, too."""
        if self._watchdog is not None:
            self._watchdog.known_end = what

    def end(self, *, is_gone: bool) -> None:
        """End Ray, its workers, and whatever these have started; nothing of it is left.

        Args:
            is_gone: it has ended by itself.
        """
        node = global_node()
        started = started_by_raylet(node)  # now: what f started is not to be found once its worker is gone
        if is_gone and node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        with no_grace(node):
            ray.shutdown()
        for pid, start in started:
            if start_of(pid) == start:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self._remove_temporary(is_clean=not is_gone)

    # Private methods

    def _remove_temporary(self, *, is_clean: bool) -> None:
        """Remove Ray's folder and end who uses it; unless Ray ended well, the guard goes on looking for a while."""
        self._until_end.close()
        if self._watchdog is not None:
            self._watchdog.is_over.set()
            self._watchdog = None
        if self._temporary is not None:
            end_users_of(str(self._temporary))
        if self._guard is not None:
            self._guard.release(is_clean=is_clean)
            self._guard = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _init(self, n_workers: int) -> None:
        self._until_end.enter_context(logging_only_to(self._log_file, "ray._private"))
        with environment_for_start(self._needs.n_threads), on_loopback(), signals_kept(), ray_lines_to(self._log_file):
            self._ray_init(n_workers)
        self._until_end.enter_context(logging_only_to(self._log_file, "ray"))  # now: `ray.init` takes it away
        hide_messages()

    def _ray_init(self, n_workers: int) -> None:
        ray.init(
            address="local",
            # Those that the workers keep for themselves, and one each for tasks that f may start.
            num_cpus=n_workers + math.ceil(n_workers * self._needs.each.get("CPU", 0)),
            num_gpus=None if self._needs.each.get("GPU") else 0,  # None: as many as Ray finds
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._temporary),
        )
