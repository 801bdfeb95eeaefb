"""The processes of workers on this machine: what each is doing, ending one, and how one died.

Nothing else reads beacons and crash files, or sends signals to workers. A pool has one `WorkerProcesses` for its
machine; the functions below are about workers that killed runs left behind.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r3po.storage.durable import list_names
from r3po.work import Death, Span
from r3po.worker.beacon import Sighting, list_workers, read_beacon, read_crash, remove_worker_files
from r3po.worker.processes import has_ended, start_of

ASK_S = 2.0
"""Seconds that a worker that is to be ended may take to write down what it is doing."""

ASK_PAUSE_S = 0.02
"""Seconds between two looks at what it wrote. It writes a line after the other, and has no word for the end: it is
over when two looks see the same."""

_FRAME = re.compile(r"\n  .*\n\Z")

END_S = 2.0
"""Seconds to wait until a worker that was killed has ended. One that takes longer hangs in a call of the kernel."""

OOM_S = 3.0
"""Seconds after the kernel ended a process for its memory within which a worker that died was that process."""

LOOK_S = 0.5
"""Seconds between two looks at how many processes the kernel has ended for memory."""


class WorkerProcesses:
    """The workers of one run that have their beacons in `folder`."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._n_oom_kills = count_oom_kills()
        self._oom_kill_at = -math.inf
        self._looked_at = clock()

    def sighting(self, worker: int) -> Sighting | None:
        """Return what a worker is doing, or was doing when it died; None if it never came to say so."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._note_oom_kills()
        return read_beacon(self._folder, worker)

    def end(self, worker: int, *, ask_first: bool = False) -> None:
        """End a worker, and what f started in it.

        Args:
            ask_first: let it write what it is doing into its crash file, if that is still possible.
        """
        seen = read_beacon(self._folder, worker)
        if seen is not None:
            if ask_first:
                self._ask(worker, seen)
            end_process(seen)

    def await_end(self, limit_s: float = END_S) -> None:
        """Wait until no worker runs any more that somebody else has told to end, but not for ever."""
        seen = [read_beacon(self._folder, worker) for worker in list_workers(self._folder)]
        others = [one for one in seen if one is not None and one.pid != os.getpid()]  # the serial engine's is this one
        _await_end(others, limit_s)

    def death_of(self, worker: int, *, is_memory: bool) -> Death:
        """Return how a dead worker ended, and forget it.

        Args:
            is_memory: it is known that it was ended for its memory.
        """
        signal_name, stack = read_crash(self._folder, worker)
        last = read_beacon(self._folder, worker)
        self.forget(worker)
        self._note_oom_kills()
        if signal_name:
            return Death(signal_name, True, stack)
        if last is not None and last.exit_code is not None:
            return Death(f"exit code {last.exit_code}", True, stack)
        if is_memory or self._clock() - self._oom_kill_at < OOM_S:
            return Death("out of memory", True, stack, is_memory=True)
        return Death("killed, or exited", False, stack)

    def forget(self, worker: int) -> None:
        """Remove the files of a worker; what f printed stays, if it printed something."""
        remove_worker_files(self._folder, worker)

    # Private methods

    def _ask(self, worker: int, seen: Sighting) -> None:
        if not is_running(seen):
            return
        with contextlib.suppress(OSError):
            os.kill(seen.pid, signal.SIGUSR1)
        stack, deadline = "", time.monotonic() + ASK_S
        while time.monotonic() < deadline:
            time.sleep(ASK_PAUSE_S)
            before, stack = stack, read_crash(self._folder, worker)[1]
            if stack == before and _FRAME.search(stack):
                return

    def _note_oom_kills(self) -> None:
        self._looked_at = self._clock()
        n_oom_kills = count_oom_kills()
        if n_oom_kills > self._n_oom_kills:
            self._n_oom_kills, self._oom_kill_at = n_oom_kills, self._looked_at


# Workers that killed runs left


@dataclass(frozen=True, slots=True)
class LeftWorker:
    """A worker of a killed run, which was in this file."""

    shard: int
    place: int
    death: Death
    call: Span | None = None
    """It was in a call of several files, which reached from this one to the last of them."""


def iter_left_workers(runs: Path, own_run: str) -> Iterator[LeftWorker]:
    """Yield the workers of killed runs that were in a file.

    Args:
        runs: the folder of all runs.
        own_run: the name of this one, whose workers are passed over.
    """
    for folder, worker, seen in _iter_left(runs, own_run):
        if seen.is_in_file:
            signal_name, stack = read_crash(folder, worker)
            death = Death(signal_name or "killed, and the run with it", bool(signal_name), stack)
            yield LeftWorker(seen.shard, seen.place, death, seen.span if seen.n_more else None)


def end_left_workers(runs: Path, own_run: str) -> None:
    """End the workers of runs that were killed, and wait for that: nothing more is recorded by them.

    A worker outlives its driver by some seconds. The caller holds the job's lock, so nobody waits for it any more.
    """
    left = [seen for _, _, seen in _iter_left(runs, own_run)]
    ended = [seen for seen in left if is_running(seen) and end_process(seen)]
    _await_end(ended, END_S)


def forget_left_workers(runs: Path, own_run: str) -> None:
    """Remove what the workers of killed runs left."""
    for name in list_names(runs):
        if name != own_run:
            for worker in list_workers(runs / name / "workers"):
                remove_worker_files(runs / name / "workers", worker)


def forget_workers(folder: Path) -> None:
    """Remove the beacons of a run that ends in an orderly way: none of its files is to be mistrusted."""
    for worker in list_workers(folder):
        remove_worker_files(folder, worker)
    with contextlib.suppress(OSError):
        folder.rmdir()  # unless f printed something


# Processes


def is_running(sighting: Sighting) -> bool:
    """Whether the process of a worker on this machine is still there."""
    return bool(sighting.pid_started) and start_of(sighting.pid) == sighting.pid_started


def end_process(sighting: Sighting) -> bool:
    """SIGKILL a worker of this machine and what f started in it: the worker leads a process group of its own.

    Returns:
        Whether a signal was sent.
    """
    if not sighting.pid_started or sighting.pid in (os.getpid(), os.getpgrp()):
        return False  # not known, or the serial engine's, which is this very process
    started = start_of(sighting.pid)
    if started and started != sighting.pid_started:
        return False  # another process has that number now, so the worker and its group have ended
    with contextlib.suppress(OSError):
        os.killpg(sighting.pid, signal.SIGKILL)
    if started:
        with contextlib.suppress(OSError):
            os.kill(sighting.pid, signal.SIGKILL)
    return True


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for memory since it started; 0 where it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), 0)
    except OSError:
        return 0


# Private functions


def _iter_left(runs: Path, own_run: str) -> Iterator[tuple[Path, int, Sighting]]:
    for name in list_names(runs):
        folder = runs / name / "workers"
        for worker in list_workers(folder) if name != own_run else ():
            seen = read_beacon(folder, worker)
            if seen is not None:
                yield folder, worker, seen


def _await_end(workers: Sequence[Sighting], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_alive(seen: Sighting) -> bool:
    return is_running(seen) and not has_ended(seen.pid)
