"""The start of a run's workers, by whatever engine: once, as soon as there is work for them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from r3po import events
from r3po.config.settings import Config
from r3po.engines import ray_address
from r3po.engines.needs import needs_of
from r3po.engines.pool import Pool
from r3po.engines.private_ray import PrivateRay
from r3po.engines.serial import SerialPool
from r3po.engines.starter import Starter
from r3po.events import Observer
from r3po.function.arguments import may_be_made
from r3po.function.find import FunctionSpec
from r3po.run.leavers import Leavers
from r3po.run.run_log import RunLog
from r3po.run.signals import StopSignals
from r3po.state.folders import JobFolders
from r3po.storage.durable import check_space
from r3po.storage.objects import ObjectStore
from r3po.worker.import_trial import ImportTrial
from r3po.worker.messages import WorkerSetup
from r3po.worker.time_limit import is_possible

MANY_WORKERS = 500
"""Workers that one driver answers once a second, beside all else that it does: about a fourth of what it can."""


def pace(batch_seconds: float, n_workers: int) -> float:
    """Return how long a batch is to take: longer than asked for where one driver could not answer all workers."""
    return batch_seconds if n_workers <= MANY_WORKERS else max(batch_seconds, n_workers / MANY_WORKERS)


class Workforce:
    """Starts the workers of a run, and has their pool from then on.

    Args:
        starter: of plain processes, where one has been started before.
    """

    def __init__(
        self,
        config: Config,
        spec: FunctionSpec,
        log: RunLog,
        stop: StopSignals,
        observer: Observer,
        starter: Starter | None = None,
    ) -> None:
        self._starter = starter
        self._config, self._spec, self._log, self._stop, self._observer = config, spec, log, stop, observer
        self.is_serial = config.engine == "serial"
        self.n_workers = 1 if self.is_serial else config.processes
        self.batch_seconds = pace(config.batch_seconds, self.n_workers)
        self.pool: Pool | None = None
        self.leavers: Leavers | None = None
        """Where f may have to be closed, once there are workers."""
        self._started: events.WorkersStarted | None = None

    def start(self, folders: JobFolders) -> Pool:
        """Return the pool, whose workers are loading f; they are started if they have not been.

        Raises:
            RunStoppedError: a disk is full, or Ray does not start.
            StopNow: the run is to stop.
        """
        if self.pool is not None:
            return self.pool
        began = time.monotonic()
        for folder in self._config.own_folders:
            check_space(folder)
        self._observer(events.WorkersStarting(self.n_workers, self._config.engine))
        if self._config.timeout_seconds is not None and self.is_serial and not is_possible():
            text = "timeout_seconds does nothing here: in the serial engine it needs Python's main thread"
            self._observer(events.Notice(text, is_warning=True))
        setup = self._setup(folders)
        choice = self._choose_ray()
        # In a Ray of the caller's or of others the workers may be on other machines; and plain processes import f
        # themselves before such a trial would have come to it.
        is_trial = self._config.engine == "ray" and choice.address is None and not _has_ray()
        # A start can take long, and nothing of f is in flight yet.
        with self._stop.interrupting(), ImportTrial(setup, is_wanted=is_trial) as trial:
            self.pool = self._make_pool(choice.address)  # takes a second or two, in which most modules are imported
            trial.check()
            self.n_workers = self.pool.start(setup, self.n_workers)
            if may_be_made(self._spec):
                self.leavers = Leavers(self.pool, self._spec.label, self._observer)
            trial.check()
        self._started = events.WorkersStarted(self.n_workers, self.pool.description, time.monotonic() - began)
        return self.pool

    def tell_started(self) -> None:
        """Tell that the workers are there, once: after the walk, which they were started beside."""
        if self._started is not None:
            self._observer(self._started)
            self._started = None

    # Private methods

    def _setup(self, folders: JobFolders) -> WorkerSetup:
        config = self._config
        return WorkerSetup(
            folders=folders,
            source_path=str(config.source_path),
            store=None if config.source_url is None else ObjectStore(config.source_url, config.store_options),
            function=self._spec,
            input=config.input,
            hash=config.hash,
            batch_seconds=self.batch_seconds,
            stop_file=self._log.stop_file,
            workers_folder=self._log.workers,
            timeout_s=config.timeout_seconds,
            batch_files=config.batch_files,
            column_settings=config.column_settings,
            has_many_rows=config.rows == "many",
            current_folder=str(config.base_dir),
        )

    def _choose_ray(self) -> ray_address.Choice:
        """Return which Ray is to be used, and say so where somebody may have meant another."""
        config = self._config
        if config.engine != "ray" and config.ray_address not in (None, "local"):
            text = f"ray_address is {config.ray_address}, and is not used: the engine is {config.engine}"
            self._observer(events.Notice(text))
        if config.engine != "ray" or _has_ray():
            return ray_address.Choice(None)
        choice = ray_address.choose(config.ray_address, os.environ)
        if choice.notice:
            self._observer(events.Notice(choice.notice))
        return choice

    def _make_pool(self, address: str | None) -> Pool:
        if self.is_serial:
            return SerialPool()
        needs = needs_of(self._config)
        if self._config.engine == "processes":
            from r3po.engines.processes import ProcessesPool

            return ProcessesPool(needs, self._starter)
        log_file, note_file = self._log.folder / "ray.log", self._log.folder / "ray_folder"
        probes = tuple(map(_first_in, self._config.source_paths))
        private = PrivateRay(log_file, note_file, needs)
        source = None if _has_ray() else address or private
        try:
            if source is private:
                private.launch(needs.fit_cores(self.n_workers))  # which goes on beside the import
            from r3po.engines.ray_pool import RayPool  # slow, and needed by nobody else

            return RayPool(log_file, note_file, needs, self._observer, probes, source)
        except BaseException:
            private.end(is_gone=True)
            raise


# Private functions


def _has_ray() -> bool:
    """Whether this process has joined a Ray already, which is then used."""
    return bool(getattr(sys.modules.get("ray"), "is_initialized", bool)())


def _first_in(folder: Path) -> str:
    """Return a path in a folder of the source, which who sees the source must see: an empty mount has none of it."""
    try:
        with os.scandir(folder) as entries:
            return next((entry.path for entry in entries), str(folder))
    except OSError:  # told by who walks it
        return str(folder)
