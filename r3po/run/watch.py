"""What people are told during a run: what f prints, the file that takes longest, who died, why no worker starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from r3po import events
from r3po.events import Observer
from r3po.run.workers import Lost, WorkerManager
from r3po.state.job import tidy_path
from r3po.state.shard_files import Entries, read_shard_file
from r3po.state.shards import ShardState
from r3po.storage.names import show_name
from r3po.worker.printed import Outputs

LOOK_S = 1.0
"""Seconds between two looks at what takes long."""

SHORTAGE_S = 20.0
"""Seconds after which people are told that no worker has started."""


class Watch:
    """Tells an observer what it sees of a run.

    Args:
        states: the shards, whose files may be named.
        folder: of the shard files.
        function_name: of f, for messages.
    """

    def __init__(
        self,
        states: Mapping[int, ShardState],
        folder: Path,
        manager: WorkerManager,
        outputs: Outputs,
        observer: Observer,
        function_name: str,
    ) -> None:
        self._states, self._folder, self._manager = states, folder, manager
        self._outputs, self._observer, self._function_name = outputs, observer, function_name
        self._looked_at = self._started_at = time.monotonic()
        self._has_told_shortage = self._has_told_vanished = False
        self._entries: tuple[int, Entries] | None = None

    def look(self, *, has_loaded: bool) -> None:
        """Tell what there is to tell, unless the last look was a moment ago.

        Args:
            has_loaded: some worker has loaded f.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self.show_output()
        shard, place, seconds = self._manager.beacons.longest() or (-1, -1, 0.0)
        path = self.path_of(shard, place) if seconds >= events.LONG_S else ""
        self._observer(events.LongestRunning(path, seconds))
        if not has_loaded and not self._has_told_shortage and now - self._started_at > SHORTAGE_S:
            self._has_told_shortage = True
            self._tell_shortage()

    def show_output(self) -> None:
        """Tell what f printed since the last look, if that was asked for; and cut what is too much."""
        for worker, text in self._outputs.look():
            self._observer(events.OutputSeen(worker, text))

    def tell_where_output_is(self) -> None:
        """Say where to find what f printed, if it printed something that was not shown."""
        folder = self._outputs.unseen()
        if folder is not None:
            where = os.path.join(tidy_path(folder), "*.out")
            self._observer(events.Notice(f"what f printed is in {where}", hint="--show-output shows it during a run"))

    def tell_loss(self, lost: Lost, where: tuple[int, int] | None) -> None:
        """Tell that a worker died, and in which file, if that is known; of a machine that was lost is told once."""
        if lost.death.is_machine:
            return
        path = "" if where is None else self.path_of(*where)
        cause = "over timeout_seconds" if lost.handle.ended_for == "time" else lost.death.cause
        is_of_several = where is not None and lost.call is not None
        self._observer(events.WorkerLost(cause, path, lost.n_workers, is_of_several))

    def tell_vanished(self, path: str) -> None:
        """Tell, once a run, that a file was gone once f had returned; `path` is empty if none was."""
        if path and not self._has_told_vanished:
            self._has_told_vanished = True
            text = f"{self._function_name} moves or removes its input: {path} was gone when it returned"
            hint = "its row counts; the next run takes the file for deleted (on_deleted: keep keeps its row)"
            self._observer(events.Notice(text, hint=hint, is_warning=True))

    def path_of(self, shard: int, place: int) -> str:
        """Return a file's name for people; empty if there is no such file."""
        if shard not in self._states:
            return ""
        if self._entries is None or self._entries[0] != shard:
            self._entries = shard, read_shard_file(self._folder, self._states[shard].ref)
        paths = self._entries[1].paths
        return show_name(paths[place]) if 0 <= place < len(paths) else ""

    # Private methods

    def _tell_shortage(self) -> None:
        shortage = self._manager.shortage()
        if shortage:
            text, hint = f"{shortage}: the workers wait", "wait for its other users, or give fewer with --processes"
        else:
            doing = "making" if self._manager.is_making else "importing"
            text, hint = f"still {doing} {self._function_name}", "--show-output shows more"
        self._observer(events.Notice(text, hint=hint, is_warning=True))
