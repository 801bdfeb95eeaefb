"""What looks after the workers of one machine that is not home: an actor there, which the driver asks twice a second.

It does for the driver what `WorkerProcesses` does at home: it reads beacons, ends workers, says how one died, passes on
what f printed, and keeps the stop file. Everything lies in one temporary folder of that machine. Once the agent is
gone, or has had no word from the driver for `LEASE_S`, its workers are ended and the folder is removed, and their
copies of objects: a machine that is cut off keeps nothing of ours, and what its workers may still do counts nowhere.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import filelock

from r3po.engines.ray_guard import Guard, end_users_of
from r3po.engines.worker_processes import WorkerProcesses
from r3po.errors import R3poError
from r3po.function.find import FunctionSpec
from r3po.function.travel import Baggage, unpack
from r3po.source.object_folders import object_folder_prefixes, sweep_object_folders
from r3po.storage.durable import make_empty
from r3po.storage.names import show_name
from r3po.storage.objects import ObjectStore
from r3po.storage.temporary import take_folder
from r3po.work import Death
from r3po.worker.beacon import Sighting, list_workers, read_beacon
from r3po.worker.printed import Outputs

LEASE_S = 120.0
"""Seconds without a word from the driver after which an agent ends its workers and itself."""

LEFT_S = 2.0
"""Seconds for which an agent that has tidied up still answers."""

FOLDER_PREFIX = "r3po-agent-"
"""Begins the name of the temporary folder of every agent."""

_COMPARED = ("r3po", "ray", "pyarrow")
"""Packages that must have the same version on all machines."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What an agent needs to begin."""

    function: FunctionSpec
    baggage: Baggage
    """The files of the function."""
    probes: tuple[str, ...]
    """Paths within the source, which the machine must see."""
    wanted: Mapping[str, str]
    """The driver's `versions`."""
    store: ObjectStore | None = None
    """Where the files are; None: on a disk."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came of a visit."""

    name: str
    """Of the machine, for people."""
    trouble: str = ""
    """Why no worker can be there; empty: nothing is in the way."""
    hint: str = ""
    folder: str = ""
    function: FunctionSpec | None = None
    """With the paths of that machine."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an agent sees."""

    sightings: dict[int, Sighting]
    printed: list[tuple[int, str]]
    """What f printed since the last look, by worker."""


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What is known of a dead worker."""

    death: Death
    last: Sighting | None
    printed: list[tuple[int, str]]


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines, by name."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


class Agent:
    """The actor: one a machine, and one for each time that the machine joins."""

    def __init__(self) -> None:
        self._folder, self._lock = take_agent_folder((tempfile.gettempdir(), "/dev/shm", os.getcwd()))
        self._workers.mkdir()
        self._guard = Guard(self._folder, object_folder_prefixes())  # for whatever way this process ends
        self._processes = WorkerProcesses(self._workers)
        self._outputs = Outputs(self._workers, is_shown=True)
        self._heard_at = time.monotonic()
        threading.Thread(target=self._wait_for_words, name="r3po-lease", daemon=True).start()

    def arrive(self, visit: Visit) -> Arrival:
        """Compare versions, look at the source, and put the function's files down; with trouble, nothing is left."""
        self._heard_at = time.monotonic()
        arrival = self._arrive(visit, socket.gethostname())
        if arrival.trouble:
            self._clear()
            self._guard.release()
        return arrival

    def look(self, *, is_stopping: bool) -> Look:
        """Return what the workers do. Args: is_stopping: the run is to stop, which they are told."""
        self._heard_at = time.monotonic()
        if is_stopping and not self._stop_file.exists():
            make_empty(self._stop_file)
        seen = {worker: self._processes.sighting(worker) for worker in list_workers(self._workers)}
        return Look({worker: one for worker, one in seen.items() if one is not None}, list(self._outputs.look()))

    def end(self, worker: int, *, ask_first: bool) -> None:
        """End a worker; see `WorkerProcesses.end`."""
        self._processes.end(worker, ask_first=ask_first)

    def dismiss(self, worker: int) -> None:
        """End a worker and forget it."""
        self._processes.end(worker)
        self._processes.forget(worker)

    def autopsy(self, worker: int, *, is_memory: bool, is_unreachable: bool) -> Autopsy:
        """Return how a worker died, and forget it.

        Args:
            is_unreachable: the driver knows no more than that; it need not be dead, but for what is found of its death.
        """
        self._heard_at = time.monotonic()
        self._processes.end(worker)  # what f started in it may still be there
        last = read_beacon(self._workers, worker)
        death = self._processes.death_of(worker, is_memory=is_memory)
        if is_unreachable and not death.is_known:
            death = Death("could not be reached", is_machine=True)
        return Autopsy(death, last, list(self._outputs.look()))

    def leave(self) -> list[tuple[int, str]]:
        """End all workers, remove everything, and return what f has printed since the last look."""
        self._processes.await_end()  # the driver has told Ray to end them, which then takes it for no accident
        printed = list(self._outputs.look())
        self._clear()
        self._guard.release()
        # The driver has Ray end this process; where Ray's head is gone nobody does.
        end = threading.Timer(LEFT_S, os._exit, (0,))
        end.daemon = True
        end.start()
        return printed

    # Private methods

    def _arrive(self, visit: Visit, name: str) -> Arrival:
        own = versions()
        different = [
            f"{what} {own[what]} (here {wanted})" for what, wanted in visit.wanted.items() if own[what] != wanted
        ]
        if different:
            return Arrival(name, f"it has {', '.join(different)}", "install the same there")
        unseen = next((path for path in visit.probes if not os.path.lexists(path)), None)
        if unseen is not None:
            hint = "mount the source there under the same path"
            return Arrival(name, f"it does not see the source: there is no {show_name(unseen)}", hint)
        try:
            if visit.store is not None:
                visit.store.check_listing()
        except R3poError as error:
            return Arrival(name, f"it cannot use the store: {error.headline}", error.hint or "")
        function = unpack(visit.function, visit.baggage, self._folder / "code")
        return Arrival(name, folder=str(self._folder), function=function)

    @property
    def _workers(self) -> Path:
        return workers_folder(self._folder)

    @property
    def _stop_file(self) -> Path:
        return stop_file(self._folder)

    def _wait_for_words(self) -> None:
        while time.monotonic() - self._heard_at < LEASE_S:
            time.sleep(1)
        self._clear()
        os._exit(0)

    def _clear(self) -> None:
        for worker in list_workers(self._workers):
            self._processes.end(worker)
        self._processes.await_end()  # or they hold the locks of what they leave
        end_users_of(str(self._folder))
        shutil.rmtree(self._folder, ignore_errors=True)
        sweep_object_folders()


def take_agent_folder(places: Iterable[str]) -> tuple[Path, filelock.BaseFileLock]:
    """Return a folder for an agent and its lock. What agents left there that did not end by themselves is removed."""
    return take_folder(FOLDER_PREFIX, places, lambda left: end_users_of(str(left)))


def workers_folder(folder: Path) -> Path:
    """Return where the workers of a machine have their beacons."""
    return folder / "workers"


def stop_file(folder: Path) -> Path:
    """Return what exists once the workers of a machine are to stop."""
    return folder / "stop"
