"""The folder of a run in `runs/`: its events, its summary, and the folders of runs before it. A log for people."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from pathlib import Path
from typing import Any

import orjson

from r3po import events
from r3po.events import Event
from r3po.run.progress import ProgressNote
from r3po.storage.durable import list_names, make_folder, remove_if_there, remove_tree

KEPT_RUNS = 20
"""Folders in `runs/` that are kept; older ones are removed."""

_UNLOGGED = (events.ScanProgressed, events.BatchFinished, events.LongestRunning, events.OutputSeen)
"""Events that are too many over a week, or are written down elsewhere."""


class RunLog:
    """The log of one run, which it opens; all but its folder may be lost without harm.

    Args:
        runs: the folder of all runs of the job.
    """

    def __init__(self, runs: Path) -> None:
        self.run_id = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)
        self._runs = runs
        self.folder = runs / self.run_id
        self._progress = ProgressNote(self.folder)

    @property
    def workers(self) -> Path:
        """The folder of the workers' files."""
        return self.folder / "workers"

    @property
    def stop_file(self) -> Path:
        """The file that is there once the run is to stop."""
        return self.folder / "stop"

    def open(self) -> None:
        """Make the folder, and remove those of the oldest runs."""
        make_folder(self.folder)
        make_folder(self.workers)
        self._events = open(self.folder / "events.jsonl", "ab")  # noqa: SIM115 - closed by `close`
        others = [name for name in list_names(self._runs) if name != self.run_id]  # a clock may have been set back
        for name in others[: 1 - KEPT_RUNS]:
            remove_tree(self._runs / name)

    def write(self, event: Event) -> None:
        """Append an event to events.jsonl, unless it is one of those that come too often; keep progress.json of all."""
        self._progress.take(event)
        if isinstance(event, _UNLOGGED):
            return
        line = {"event": type(event).__name__, "time": time.time(), **dataclasses.asdict(event)}
        with contextlib.suppress(OSError, ValueError):
            self._events.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE, default=str))
            self._events.flush()

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Keep how the run ended; `r3po status` shows it."""
        with contextlib.suppress(OSError, TypeError):
            content = orjson.dumps({**summary, "ended": time.time()}, option=orjson.OPT_INDENT_2)
            (self.folder / "summary.json").write_bytes(content)

    def close(self) -> None:
        self._events.close()
        self._progress.close()
        remove_if_there(self.stop_file)
