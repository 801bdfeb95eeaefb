"""f called with many files at a time: read them all, call f, look at each again; what fails goes into smaller calls.

What f does with a file alone is what counts. So a call that fails names nobody: its files are given to f again in
smaller calls, and so on, until a file is alone. Of a call that failed nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from r3po.table.outcomes import Failure
from r3po.worker.beacon import Beacon, Phase
from r3po.worker.call import Caller
from r3po.worker.call_many import call_many, smaller_calls
from r3po.worker.current import set_current
from r3po.worker.files import Files, InUse
from r3po.worker.open_batch import File, OpenBatch, read_clock
from r3po.worker.processor import Processor
from r3po.worker.rows import note_file

CALL_BYTES = 64 << 20
"""A call with `input: bytes` gets no further file once its files hold so many bytes."""

Returned = tuple[int, str, Any, Failure | None]
"""Place and path of a file, and what f returned for it, or why there is nothing."""


class ManyFiles:
    """Makes the calls of batches, each with many files.

    Args:
        batch_files: the most files of a call.
        files: gets at the files.
        processor: calls f on a file that is alone.
    """

    def __init__(self, batch_files: int, beacon: Beacon, caller: Caller, files: Files, processor: Processor) -> None:
        self._batch_files, self._beacon, self._caller = batch_files, beacon, caller
        self._files, self._processor = files, processor

    def next_files(self, opened: OpenBatch) -> list[File]:
        """Take the files of the next call out of the batch; an empty list: there are no more."""
        if opened.smaller_calls:
            return opened.smaller_calls.pop()
        return list(islice(opened.files, opened.batch.call_files or self._batch_files))

    def call(self, opened: OpenBatch, files: list[File]) -> Iterator[Returned]:
        """Call f, and yield each file with what came of it; go through all of them.

        A file that is yielded is in the batch, without its row or failure. The others are in `opened.smaller_calls`:
        those of a call that failed, what could not be read, and what changed meanwhile.
        """
        if len(files) == 1:
            place, name, listed = files[0]
            yield place, name, *self._processor.process(opened, place, name, listed)
            return
        taken = self._read(opened, files)
        if len(taken) < 2:
            for file, in_use in taken:
                in_use.close()
                opened.smaller_calls.append([file])
            return
        started = read_clock()
        try:
            items, failure = self._call(opened, taken)
        finally:
            for _, in_use in taken:
                in_use.close()
        seconds = (read_clock() - started) / len(taken)
        if failure is not None:
            opened.smaller_calls += smaller_calls([file for file, _ in taken])
            return
        for (file, in_use), item in zip(taken, items, strict=True):
            place, name, _ = file
            if self._holds(opened, name, in_use):
                note_file(opened.outcomes, place, in_use, seconds)
                yield place, name, item, None
            else:
                opened.smaller_calls.append([file])

    # Private methods

    def _read(self, opened: OpenBatch, files: list[File]) -> list[tuple[File, InUse]]:
        taken: list[tuple[File, InUse]] = []
        n_bytes = 0
        for number, file in enumerate(files):
            if n_bytes >= CALL_BYTES:
                opened.smaller_calls.append(files[number:])
                break
            place, name, listed = file
            self._beacon.mark(Phase.READING, opened.shard.ref.shard, place)
            try:
                in_use = self._files.use(name, listed)
            except (OSError, MemoryError):
                opened.smaller_calls.append([file])  # what is wrong with it is no failure of the others
                continue
            in_use.let_go()
            n_bytes += len(in_use.data or b"")
            taken.append((file, in_use))
        return taken

    def _call(self, opened: OpenBatch, taken: list[tuple[File, InUse]]) -> tuple[list[Any], Failure | None]:
        places = [file[0] for file, _ in taken]
        first = min(places)  # what came back from other batches may stand before them
        self._beacon.mark(Phase.READING, opened.shard.ref.shard, first, max(places) - first)
        arguments: list[list[Any]] = [[in_use.path for _, in_use in taken]]
        if taken[0][1].data is not None:
            arguments.append([in_use.data for _, in_use in taken])
        set_current(*(file[1] for file, _ in taken))
        found = call_many(self._caller, *arguments, rows=opened.rows)
        opened.is_spent = self._caller.was_cut_off
        return found

    def _holds(self, opened: OpenBatch, name: str, in_use: InUse) -> bool:
        """Whether a file is still what f saw; if it is gone, f has seen it all the same."""
        try:
            return in_use.still_holds()
        except (FileNotFoundError, NotADirectoryError):
            opened.vanished = opened.vanished or name
            return True
        except OSError:
            return False
