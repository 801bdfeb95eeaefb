"""The Ray that the workers are on: a private one, one joined by address, or the one this process has joined already.

All three are started, looked after and left in the same words. Nothing here knows of workers.
"""

from __future__ import annotations

import time
from pathlib import Path

import ray

from r3po.engines.needs import Needs
from r3po.engines.nodes import NodeInfo, find_nodes
from r3po.engines.private_ray import PrivateRay
from r3po.engines.ray_join import JoinedRay
from r3po.engines.ray_keeper import VITAL
from r3po.engines.ray_node import answers, find_dead, global_node
from r3po.errors import RunStoppedError

CHECK_S = 1.0
"""Seconds between two looks whether the processes of our Ray are alive; it says so itself only after many seconds."""

GONE_S = 20.0
"""Seconds for which a Ray on another machine may be silent during a run: a network may fail for a moment."""

CONNECT_S = 5.0
"""Seconds between two looks whether a Ray on another machine is there, by a connection to it."""


class RayConnection:
    """One Ray, from its start to its end.

    Args:
        log_file: where Ray's own messages go; they stay off the screen.
        note_file: told where the private temporary folder is, so that a later start can remove it after a kill.
        needs: what each worker needs.
        source: the Ray to use: a private one, or the address of one to join; None: the one that this process has
            joined already, or else a private one.
    """

    def __init__(self, log_file: Path, note_file: Path, needs: Needs, source: PrivateRay | str | None) -> None:
        self._log_file, self._note_file, self._needs = log_file, note_file, needs
        self._private = source if isinstance(source, PrivateRay) else None
        self._joined = JoinedRay(source, log_file) if isinstance(source, str) else None
        self._checked_at = 0.0
        self._has_started = False
        self.is_gone = False
        self.description = "Ray, local"

    @property
    def is_private(self) -> bool:
        """Whether it is ours alone, on this machine."""
        return self._private is not None

    def start(self, n_workers: int) -> tuple[int, list[NodeInfo]]:
        """Start it, or join it.

        Returns:
            How many of the workers it has room for, and its machines.

        Raises:
            RunStoppedError: it does not start.
            ConfigError: it has no room for the workers.
        """
        if self._private is None and (self._joined is not None or ray.is_initialized()):
            self.description = "Ray, joined"
            if self._joined is not None:
                self.description = f"Ray, joined at {self._joined.start()}"
            self.check(is_due=True)  # what is sent to a Ray that is gone waits for ever
            nodes = find_nodes()
            n_workers = self._needs.fit_cluster(n_workers, [node.amounts for node in nodes])
        else:
            n_workers = self._needs.fit_cores(n_workers)
            self._private = self._private or PrivateRay(self._log_file, self._note_file, self._needs)
            self._private.start(n_workers)
            nodes = find_nodes()
            n_workers = self._needs.fit(n_workers, [node.amounts for node in nodes], "on this machine")
        self._has_started = True
        return n_workers, nodes

    def check(self, *, is_due: bool = False) -> None:
        """Look after it, from time to time or, if it is due, now.

        Raises:
            RunStoppedError: there is no Ray any more.
        """
        node = global_node()
        is_elsewhere = not self.is_private and (node is None or not node.all_processes)
        now = time.monotonic()
        if not is_due and now - self._checked_at < (CONNECT_S if is_elsewhere else CHECK_S):
            return
        self._checked_at = now
        if self._private is not None:
            if what := self._private.find_end():
                raise self.gone(what)
            return
        if is_elsewhere:
            until = time.monotonic() + (GONE_S if self._has_started else 0.0)
            while not answers():
                if time.monotonic() >= until:
                    raise self.gone("its head does not answer")
                time.sleep(CHECK_S)
            return
        dead = [kind for kind in find_dead() or [] if kind in VITAL]
        if dead:
            raise self.gone(f"its {' and '.join(sorted(dead))} ended")

    def gone(self, what: str) -> RunStoppedError:
        """Take note that it has ended, and return the error that says so."""
        self.is_gone = True
        if self._private is not None:
            self._private.note_end(what)
        hint = "your state is safe; run again to go on"
        if not self.is_private and self._joined is None:
            hint = "your state is safe; connect to a Ray that is there (ray.shutdown(), ray.init(...)), then run again"
        return RunStoppedError(f"Ray is gone: {what}", hint=hint)

    def end(self) -> None:
        """End a private Ray, leave one that was joined here; one that this process had joined already stays."""
        if self._private is not None:
            self._private.end(is_gone=self.is_gone)
            self._private = None
        elif self._joined is not None:
            self._joined.end()
