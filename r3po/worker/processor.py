"""One file after the other: look at it, call f, look again whether it is still the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from r3po.file_version import UNKNOWN_VERSION, UNSEEN, FileVersion
from r3po.source.read import FileInUse, read_file, stat_file, use_file
from r3po.storage.names import absolute_path
from r3po.table.outcomes import Failure
from r3po.worker.beacon import Beacon, Phase
from r3po.worker.call import Caller
from r3po.worker.call_many import call_file
from r3po.worker.failures import ENVIRONMENTAL, GONE, failure_of
from r3po.worker.messages import WorkerSetup
from r3po.worker.open_batch import OpenBatch, read_clock
from r3po.worker.rows import note_file

_CHANGED = Failure("FileChanged", "the file changed while it was read, twice", "", "")


class Processor:
    """Calls f on the files of batches.

    Args:
        beacon: told which file is in hand.
        caller: calls f.
    """

    def __init__(self, setup: WorkerSetup, beacon: Beacon, caller: Caller) -> None:
        wants_data, wants_hash = setup.input == "bytes", setup.hash == "content"
        self._beacon, self._caller = beacon, caller
        self._takes_many = setup.batch_files is not None
        self.wants_data = wants_data
        self.reads_whole = wants_data or wants_hash
        """Whether each file is read to its end, whatever f does."""
        read = partial(read_file, wants_data=wants_data, wants_hash=wants_hash)
        self.use_file: Callable[[str], FileInUse] = read if self.reads_whole else use_file
        self.absolute = partial(absolute_path, setup.source_path)

    def process(self, opened: OpenBatch, place: int, name: str, listed: tuple[int, int]) -> tuple[Any, Failure | None]:
        """Return what f returned for one file, or why there is nothing; what f saw of the file goes into the batch.

        Args:
            name: the file's path, relative to the source.
            listed: size and mtime of the file as it was listed; recorded if it cannot be looked at.
        """
        version: FileVersion | FileInUse | None = None
        self._beacon.mark(Phase.READING, opened.shard.ref.shard, place)
        path = self.absolute(name)
        returned: Any = None
        failure: Failure | None = None
        started = read_clock()
        try:
            for _ in range(2):
                file = self.use_file(path)
                try:
                    version = file
                    started = read_clock()
                    arguments = (path,) if file.data is None else (path, file.data)
                    returned, failure = call_file(
                        self._caller, *arguments, rows=opened.rows, takes_many=self._takes_many
                    )
                    opened.is_spent = self._caller.was_cut_off
                    try:
                        if opened.is_spent or file.still_holds():
                            break
                    except (FileNotFoundError, NotADirectoryError):
                        if failure is not None and failure.error_type == "FileNotFoundError":
                            raise  # it went before f came to it
                        opened.vanished = opened.vanished or name  # f moved or removed what it had read
                        break
                finally:
                    file.close()
            else:
                failure = _CHANGED
        except (OSError, MemoryError) as error:  # a file may be larger than what `input: bytes` can hold
            if (version or FileVersion(*listed)).size == UNSEEN:
                # Once more: what is recorded of a file must be older than what was found wrong with it.
                return self.process(opened, place, name, (stat_file(path) or UNKNOWN_VERSION)[:2])
            failure = failure_of(error, None, ENVIRONMENTAL | GONE)
        note_file(opened.outcomes, place, version or FileVersion(*listed), read_clock() - started)
        return returned, failure
