"""The table of a job in a bucket: parts, the mark of success, failures.csv, and the claim that says whose it is.

It does what `output_folder` does on a disk, and nothing else in r3po writes or removes anything there. Parts are
staged in `working_dir`; the commit decides, then a thread puts each under its final key.
Source: FORMAT.md, "A table in a bucket".
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from r3po.errors import R3poError, RunStoppedError, StoreError
from r3po.state.claim import SUCCESS, claim_content
from r3po.state.output_folder import KINDS, Part, shard_of
from r3po.state.published import PublishedPart
from r3po.state.store_reader import CLAIM, FAILURES, StoreReader, success
from r3po.storage.durable import (
    TEMPORARY_SUFFIX,
    FileRecord,
    NewFile,
    has_size,
    is_temporary,
    list_names,
    make_folder,
    remove_if_there,
    remove_temporaries,
    remove_tree,
)
from r3po.storage.json_files import json_bytes
from r3po.storage.multipart import abort_uploads
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import Only
from r3po.storage.store_errors import TagDiffers


class OutputStore(StoreReader):
    """The table of a job in a bucket, for the one who writes it. See `StoreReader`."""

    stranger_hint = (
        "move it elsewhere, then run again; if nobody has put it there, a run that was killed did, too late to count: "
        "remove it"
    )

    def __init__(self, url: ObjectUrl, working_dir: Path, options: StoreOptions) -> None:
        super().__init__(url, working_dir, options)
        self._in_hand: set[str] = set()
        """Names of the staged files that wait to be put, or are being put."""

    # The claim

    def make(self) -> None:
        """Make what a run needs at home, and see that the bucket can be listed and written.

        Raises:
            FolderError: there is no folder to stage in.
            StoreError: what is wrong with the store, within 20 s.
        """
        for folder in (self.staging, self.working_dir / "published"):
            make_folder(folder)
        self._store.check_listing()
        try:
            self._store.check_writing(self.url.key_of(f"failures/.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"))
        except OSError as error:
            hint = "try again later: the fault is the store's"
            raise StoreError("the store fails", where=self.where, evidence=error.strerror, hint=hint) from error

    def write_claim(self, job_id: str, job_name: str) -> None:
        """Say that the table is this job's, unless it says so already. Raises FolderError: another job is first."""
        claimed_by = self.claimed_by()
        if claimed_by == job_id:
            return
        if claimed_by is None:
            # Its tag may be a digest: with the same content two writers would both be the first.
            content = {**claim_content(job_id, job_name, self.working_dir), "nonce": uuid.uuid4().hex}
            with contextlib.suppress(TagDiffers), self._objects.told(CLAIM):
                self._store.write(self.url.key_of(CLAIM), json_bytes(content), Only())
                return
        self.check_claim(job_id)  # another job may have come in since the start looked

    # Parts

    def new_part(self) -> NewFile:
        """Return a sink for the content of a part, which `finish_part` makes durable."""
        return NewFile(self.staging)

    def finish_part(self, new: NewFile, name: str, kind: str, attempt: str) -> Part:
        """Make a part durable under a staged name, which only its commit will say."""
        return Part(kind, name, new.finish(f"{name}.{attempt}.tmp"))

    def publish(self, part: Part) -> bool:
        """Let a thread put a part under its final key, or remove what has that key if there is to be no part.

        Returns:
            Whether the part is as it has to be, once `settle` returns; False: it is neither staged nor published.

        Raises:
            RunStoppedError, OSError: this or an earlier part cannot be published.
        """
        path = f"{part.kind}/{part.name}"
        if part.staged is None:
            if self._objects.is_there(path):
                self._objects.change(path, partial(self._remove, path))
            return True
        staged = self.staging / part.staged.name
        # The staged file first: as long as it is there, the final key may hold the part of an older commit.
        if not has_size(staged, part.staged.size_bytes):
            return not staged.exists() and self._is_published(path, part.staged)
        self._in_hand.add(staged.name)
        self._objects.change(path, partial(self._put, path, part.staged))
        return True

    def remove_parts(self, parts: Iterable[Part]) -> None:
        """Remove what has the names of parts; it is gone once `settle` returns."""
        for part in parts:
            self.publish(Part(part.kind, part.name, None))

    def settle(self, timeout_s: float | None = None) -> int:
        """Wait until everything is published that was to be; how many parts are left then. Raises like `publish`."""
        return self._objects.settle(timeout_s)

    def close(self) -> None:
        """Begin to publish nothing any more; the next run does what is left."""
        self._objects.close()

    def unstage(self, parts: Iterable[Part]) -> None:
        """Remove parts that were staged and will not be published; what a thread has in hand goes with its end."""
        for part in parts:
            if part.staged is not None and part.staged.name not in self._in_hand:
                remove_if_there(self.staging / part.staged.name)

    def sweep(self, parts: Iterable[Part]) -> None:
        """Remove what killed runs left, and what is staged but for `parts`; nobody may be staging."""
        self.settle()
        remove_temporaries(self.staging)
        named = {part.staged.name for part in parts if part.staged}
        for name in list_names(self.staging):
            if name not in named:
                remove_if_there(self.staging / name)
        self._sweep_objects()
        self._published.sweep(self._objects.known)

    # The end of a run

    def write_failures(self, lines: Iterable[bytes]) -> None:
        """Make failures.csv of these lines, whole."""
        with NewFile(self.staging) as new:
            for line in lines:
                new.write(line)
            record = new.finish("failures.csv")
        staged = self.staging / record.name
        self._published.note(FAILURES, record, self._objects.put(FAILURES, staged))
        remove_if_there(staged)

    def has_success(self, kinds: Collection[str]) -> bool:
        """Whether the proof of a complete end is there: `_SUCCESS` for these kinds and no others, and our failures.csv.

        A `_SUCCESS` that a killed run had put may come late: only with the note of failures.csv it is that of today.
        """
        known, note = self._objects.known, self._published.parts.get(FAILURES)
        is_marked = all((success(kind) in known) == (kind in kinds) for kind in KINDS)
        return is_marked and note is not None and note.is_like(known.get(FAILURES))

    def set_success(self, kinds: Collection[str]) -> None:
        """Say that everything is there in these kinds of parts, and that of other kinds it is not.

        Raises:
            RunStoppedError: the store does not let us, or holds something else than what was published.
        """
        if kinds:
            self._check_all()
        else:
            self._published.forget(FAILURES)
        for kind in KINDS:
            if kind in kinds:
                self._objects.put(success(kind), b"")
            else:
                self._objects.delete(success(kind))  # whether it was listed or not: one may have come late

    # Forgetting

    def remove_table(self, shards: Iterable[int]) -> int:
        """Remove `_SUCCESS`, failures.csv and the parts of these shards. Returns how many parts there were."""
        for kind in KINDS:
            self._objects.delete(success(kind))
        ours = set(shards)
        names = [f"{kind}/{name}" for kind, name in self.list_files() if shard_of(name) in ours]
        for path in names:
            self._objects.change(path, partial(self._remove, path))
        self.settle()
        self._remove(FAILURES)
        return len(names)

    def forget(self, shards: Iterable[int]) -> int:
        """Remove what `remove_table` removes, and what else r3po made here. Returns how many parts there were."""
        n_parts = self.remove_table(shards)
        self._sweep_objects()
        for folder in (self.staging, self.working_dir / "published"):
            remove_tree(folder)
        self._objects.delete(CLAIM)
        return n_parts

    # Private methods

    def _put(self, path: str, record: FileRecord) -> None:
        """Put a staged file, unless it was put already. In a thread."""
        staged = self.staging / record.name
        if not self._is_published(path, record):
            tag = self._objects.put(path, staged)
            self._published.note(path, record, tag)
        remove_if_there(staged)
        self._in_hand.discard(record.name)

    def _remove(self, path: str) -> None:
        self._objects.delete(path)
        self._published.forget(path)

    def _check_all(self) -> None:
        """Look once more whether the parts that were published, and no others, are there."""
        self.settle()
        self._objects.look_again()
        noted: dict[str, PublishedPart] = dict(self._published.parts)
        listed = {
            path: info
            for path, info in self._objects.known.items()
            if path == FAILURES or (path.partition("/")[0] in KINDS and not path.endswith(f"/{SUCCESS}"))
        }
        wrong = [path for path, part in noted.items() if not part.is_like(listed.get(path))]
        wrong += listed.keys() - noted.keys()
        if wrong:
            raise RunStoppedError(
                "somebody else changed the table while the run went on",
                where=self._objects.url_of(min(wrong)),
                hint="run again: what is not as it was put is made again from the outcomes",
            )

    def _sweep_objects(self) -> None:
        for path in [path for path in self._objects.known if is_temporary(path.removeprefix("failures/"))]:
            self._objects.delete(path)
        with contextlib.suppress(R3poError, OSError):  # not all who may write may list uploads
            abort_uploads(self._store, _is_ours)


# Private functions


def _is_ours(path: str) -> bool:
    """Whether r3po alone writes what has this path below the URL."""
    kind, _, name = path.partition("/")
    return path == FAILURES or (kind in KINDS and shard_of(name) is not None)
