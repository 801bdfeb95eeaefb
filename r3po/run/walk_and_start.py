"""The walk of a run and the start of its workers, side by side: with Ray, each can take many seconds."""

from __future__ import annotations

import threading

from r3po.events import Observer, ScanProgressed
from r3po.run.result import RunOptions
from r3po.run.signals import StopSignals
from r3po.run.workforce import Workforce
from r3po.source.build import BuildResult, plan_build, tell_found
from r3po.source.new_manifest import BuildProgress
from r3po.source.told import tell_moved_source
from r3po.state.folders import JobFolders
from r3po.state.job import Job

WALK_END_S = 10.0
"""Seconds that a walk gets to end in; it may hang on a disk that does not answer."""


def walk_and_start(
    workforce: Workforce,
    folders: JobFolders,
    options: RunOptions,
    stop: StopSignals,
    observer: Observer,
    job: Job,
    has_pending: bool,
) -> BuildResult:
    """Walk in a helper thread, and start the workers on this one as soon as there is work for them.

    Args:
        folders: of the job on disk.
        job: as it is planned so far.
        has_pending: there is work already, whatever the walk finds.

    Raises:
        BuildStopped: a signal asked the run to stop.
        R3poError: the source or the job cannot be used, or the workers do not start.
    """
    tell_moved_source(job, observer)
    is_over = threading.Event()
    progress = BuildProgress(stop=lambda: stop.is_requested or is_over.is_set())
    outcome: list[BuildResult | BaseException] = []

    def build() -> None:
        try:
            processes = 0 if job.config.engine == "serial" else job.config.processes
            accepts = options.accept_deletions
            found = plan_build(job, progress, walk_processes=processes, stats_all=False, accept_deletions=accepts)
            outcome.append(found)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=build, name="r3po-walk", daemon=True)
    thread.start()
    try:
        while not has_pending and thread.is_alive() and not progress.has_work.wait(0.01):
            observer(ScanProgressed(progress.n_files))
        failed_already = bool(outcome) and isinstance(outcome[0], BaseException)
        if (has_pending or progress.has_work.is_set()) and not failed_already:
            workforce.start(folders)
        while thread.is_alive():
            thread.join(0.1)
            observer(ScanProgressed(progress.n_files))
    finally:
        is_over.set()
        thread.join(WALK_END_S)  # it must write nothing any more once the lock is free
    built = outcome[0]
    if isinstance(built, BaseException):
        raise built
    tell_found(job, built, observer)
    workforce.tell_started()
    return built
