"""One file after the other: look at it, call f, look again whether it is still the same."""

from __future__ import annotations

from typing import Any

from r3po.file_version import UNSEEN, FileVersion
from r3po.table.outcomes import Failure
from r3po.worker.beacon import Beacon, Phase
from r3po.worker.call import Caller
from r3po.worker.call_many import call_file
from r3po.worker.current import set_current
from r3po.worker.failures import ENVIRONMENTAL, GONE, failure_of
from r3po.worker.files import Files, InUse
from r3po.worker.messages import Listed
from r3po.worker.open_batch import OpenBatch, read_clock
from r3po.worker.rows import note_file

_CHANGED = Failure("FileChanged", "the file changed while it was read, twice", "", "")


class Processor:
    """Calls f on the files of batches.

    Args:
        takes_many: f takes lists of files.
        beacon: told which file is in hand.
        caller: calls f.
        files: gets at the files.
    """

    def __init__(self, beacon: Beacon, caller: Caller, files: Files, *, takes_many: bool) -> None:
        self._beacon, self._caller, self._files, self._takes_many = beacon, caller, files, takes_many

    def process(self, opened: OpenBatch, place: int, name: str, listed: Listed) -> tuple[Any, Failure | None]:
        """Return what f returned for one file, or why there is nothing; what f saw of the file goes into the batch.

        Args:
            name: the file's path, relative to the source.
            listed: the file as it was listed; recorded if it cannot be looked at.
        """
        version: FileVersion | InUse | None = None
        self._beacon.mark(Phase.READING, opened.shard.ref.shard, place)
        returned: Any = None
        failure: Failure | None = None
        started = read_clock()
        try:
            for _ in range(2):
                file = self._files.use(name, listed)
                try:
                    version = file
                    started = read_clock()
                    arguments = (file.path,) if file.data is None else (file.path, file.data)
                    set_current(name)
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
                return self.process(opened, place, name, self._files.look_at(name))
            failure = failure_of(error, None, ENVIRONMENTAL | GONE)
        note_file(opened.outcomes, place, version or FileVersion(*listed), read_clock() - started)
        return returned, failure
