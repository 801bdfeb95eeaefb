"""The output folder of a job: parts, the mark of success, failures.csv, and the claim that says whose the folder is.

Nothing else in r3po writes, renames or removes anything there. Parts go by kind and name; what the parts of a job are
is decided by its commits.
Source: FORMAT.md, "The tree", "Parts" and "`.r3po.json`".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from r3po.errors import FolderError
from r3po.state.claim import SUCCESS, Claimed, claim_content
from r3po.state.manifest import FORMAT
from r3po.storage.durable import (
    FileRecord,
    NewFile,
    digest_file,
    has_size,
    list_names,
    make_data_folder,
    make_empty,
    make_folder,
    publish,
    remove_durably,
    remove_if_there,
    remove_temporaries,
    remove_tree,
    sync_folder,
)
from r3po.storage.json_files import read_json, write_json

KINDS = ("csv", "parquet")
"""The kinds of parts, which are the names of the data folders."""


@dataclass(frozen=True, slots=True)
class Part:
    """One CSV or Parquet file of a shard."""

    kind: str
    name: str
    """Name of the final file in the data folder of its kind: by the shard's number and, if its rows make several, the
    part's."""
    staged: FileRecord | None
    """The durable file in `.staging` that becomes the part; None: the shard has no part of this kind."""


@dataclass(frozen=True, slots=True)
class PartLook:
    """How a part stands."""

    size_bytes: int | None
    """None: there is none."""
    problem: str = ""
    """What is wrong; empty: nothing."""
    is_damaged: bool = False
    """It has to be removed before a run makes it again; else a run sees by itself that it must."""


NO_SUCH_PART = "is there, but the shard has no such part"


def other_size(size_bytes: int, committed: int) -> str:
    """Say that a part has another size."""
    return f"has {size_bytes:,} bytes, its commit says {committed:,}"


def part_name(shard: int, kind: str, number: int | None = None) -> str:
    """Return the name of a part.

    Args:
        number: of the part, from 0, if the rows of the shard make several; names sort as the rows do.
    """
    return f"part-{shard:05d}.{kind}" if number is None else f"part-{shard:05d}-{number:05d}.{kind}"


def part_names(shard: int, kind: str, n_parts: int) -> list[str]:
    """Return the names of the parts that the rows of a shard make, in their order."""
    return [part_name(shard, kind, number if n_parts > 1 else None) for number in range(n_parts)]


def shard_of(name: str) -> int | None:
    """Return the number of the shard that a file with this name is a part of; None: it is no part's name."""
    match = _PART_NAME.fullmatch(name)
    return None if match is None else int(match[1])


_PART_NAME = re.compile(r"part-(\d{5,})(?:-\d{5,})?\.(?:csv|parquet)")


@dataclass(frozen=True, slots=True)
class OutputFolder(Claimed):
    """The output folder of the job whose state is in `working_dir`."""

    path: Path
    working_dir: Path

    # Names, for those who only read

    @property
    def where(self) -> Path:
        return self.path

    @property
    def claim(self) -> Path:
        return self.path / ".r3po.json"

    @property
    def staging(self) -> Path:
        return self.path / ".staging"

    @property
    def failures(self) -> Path:
        return self.path / "failures" / "failures.csv"

    def data(self, kind: str) -> Path:
        """Return the folder of the parts of one kind."""
        return self.path / kind

    def success(self, kind: str) -> Path:
        return self.data(kind) / SUCCESS

    def where_of(self, kind: str, name: str) -> Path:
        """Return where a part, or what else is beside it, lies."""
        return self.data(kind) / name

    def list_files(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and name of everything in the data folders, `_SUCCESS` included."""
        for kind in KINDS:
            for name in list_names(self.data(kind)):
                yield kind, name

    def part_numbers(self) -> set[int]:
        """Return the numbers of all shards of which a file has the name of a part."""
        found = (shard_of(name) for _, name in self.list_files())
        return {shard for shard in found if shard is not None}

    def list_failures(self) -> Iterator[str]:
        """Yield the names of what lies beside failures.csv, and its own."""
        return list_names(self.failures.parent)

    def success_size(self, kind: str) -> int | None:
        """Return the bytes of `_SUCCESS`, which has to have none; None: there is none."""
        path = self.success(kind)
        return path.stat().st_size if path.exists() else None

    def open_failures(self) -> BinaryIO:
        """Return failures.csv for reading. Raises FileNotFoundError."""
        return open(self.failures, "rb")

    def look_at(self, part: Part) -> PartLook:
        """Return how a part stands: whether the file is there that was written."""
        path, record = self.data(part.kind) / part.name, part.staged
        if record is None:
            return PartLook(None, NO_SUCH_PART if path.exists() else "")
        there = path.stat().st_size if path.is_file() else None
        if has_size(self.staging / record.name, record.size_bytes):
            return PartLook(there, f"is decided, but not published yet: it lies in {self.staging.name}")
        try:
            size_bytes, sha256 = digest_file(path)
        except FileNotFoundError:
            return PartLook(None, "is missing")
        except OSError as error:
            return PartLook(there, str(error.strerror), is_damaged=True)
        if size_bytes != record.size_bytes:
            return PartLook(size_bytes, other_size(size_bytes, record.size_bytes))
        if sha256 != record.sha256:
            what = "is not the file that was written: its sha256 is not the one that its commit names"
            return PartLook(size_bytes, what, is_damaged=True)
        return PartLook(size_bytes)

    @contextmanager
    def readable(self, parts: Iterable[tuple[str, str]]) -> Iterator[list[Path]]:
        """Give the files of parts that are there, of which kind and name are given."""
        yield [self.data(kind) / name for kind, name in parts]

    def look_again(self) -> None:
        """Do nothing: a disk is looked at each time."""

    # The claim

    def make(self) -> None:
        """Make the folder and what a run needs in it. Raises FolderError."""
        for folder in (self.path, self.staging, self.failures.parent):
            make_folder(folder)

    def write_claim(self, job_id: str, job_name: str) -> None:
        """Say durably that the folder is this job's, unless it says so already. Raises FolderError: another's."""
        if self.claim.exists():
            self.check_claim(job_id)  # another job may have come in since the start looked
        else:
            write_json(self.claim, claim_content(job_id, job_name, self.working_dir))

    def read_claim(self) -> dict[str, Any]:
        return read_json(self.claim, kind="claim", newest_format=FORMAT)

    def refuse_unclaimed(self, parts: Iterable[Part]) -> None:
        ours = {(part.kind, part.name): part.staged for part in parts}
        for kind, name in self.list_files():
            record = ours.get((kind, name))
            if record is None or digest_file(self.data(kind) / name) != (record.size_bytes, record.sha256):
                raise FolderError(
                    f"output_path already holds files that no job of r3po claims: {kind}/{name}",
                    where=self.path,
                    hint="give this job another output_path, or move them elsewhere",
                )

    # Parts

    def new_part(self) -> NewFile:
        """Return a sink for the content of a part, which `finish_part` makes durable."""
        return NewFile(self.staging)

    def finish_part(self, new: NewFile, name: str, kind: str, attempt: str) -> Part:
        """Make a part durable under a staged name, which only its commit will say."""
        return Part(kind, name, new.finish(f"{name}.{attempt}.tmp"))

    def publish(self, part: Part) -> bool:
        """Let a part appear under its final name, or whatever has that name disappear if there is to be no part.

        Returns:
            Whether the part is as it has to be; False: it is neither staged nor published in its size.
        """
        folder = self.data(part.kind)
        final = folder / part.name
        if part.staged is None:
            remove_durably(final)
            return True
        staged = self.staging / part.staged.name
        # The staged file first: as long as it is there, the final name may hold the part of an older commit.
        if not has_size(staged, part.staged.size_bytes):
            return not staged.exists() and has_size(final, part.staged.size_bytes)
        make_data_folder(folder)
        publish(staged, final)
        sync_folder(folder)
        return True

    def remove_parts(self, parts: Iterable[Part]) -> None:
        """Remove durably what has the names of parts. Callers wait for it by `settle`, as a bucket needs."""
        for part in parts:
            remove_durably(self.data(part.kind) / part.name)

    def settle(self, timeout_s: float | None = None) -> int:
        """Return how many parts are still to be published: none, since that takes no time."""
        return 0

    def close(self) -> None:
        """Do nothing: nothing is under way."""

    def unstage(self, parts: Iterable[Part]) -> None:
        """Remove parts that were staged and will not be published."""
        for part in parts:
            if part.staged is not None:
                remove_if_there(self.staging / part.staged.name)

    def sweep(self, parts: Iterable[Part]) -> None:
        """Remove temporary files, and what is staged but for `parts`; nobody may be staging."""
        for folder in (self.path, self.staging, self.failures.parent):
            remove_temporaries(folder)
        named = {part.staged.name for part in parts if part.staged}
        for name in list_names(self.staging):
            if name not in named:
                remove_if_there(self.staging / name)

    # The end of a run

    def write_failures(self, lines: Iterable[bytes]) -> None:
        """Make failures.csv of these lines, whole."""
        with NewFile(self.failures.parent) as new:
            for line in lines:
                new.write(line)
            new.finish(self.failures.name)

    def has_success(self, kinds: Iterable[str]) -> bool:
        """Whether the proof of a complete end is there: `_SUCCESS` for each of these kinds, and failures.csv."""
        return all(self.success(kind).exists() for kind in kinds) and self.failures.exists()

    def set_success(self, kinds: Collection[str]) -> None:
        """Say durably that everything is there in these kinds of parts, and that of other kinds it is not."""
        for kind in KINDS:
            if kind in kinds:
                make_data_folder(self.data(kind))
                make_empty(self.success(kind))
            else:
                remove_durably(self.success(kind))

    # Forgetting

    def remove_table(self, shards: Iterable[int]) -> int:
        """Remove durably `_SUCCESS`, failures.csv and the parts of these shards. Returns how many parts there were."""
        for kind in KINDS:
            remove_if_there(self.success(kind))
        ours = set(shards)
        names = [(kind, name) for kind, name in self.list_files() if shard_of(name) in ours]
        n_parts = sum(remove_if_there(self.data(kind) / name) for kind, name in names)
        remove_if_there(self.failures)
        for folder in self._filled():
            sync_folder(folder)
        return n_parts

    def forget(self, shards: Iterable[int]) -> int:
        """Remove what `remove_table` removes, and what else r3po made here. Returns how many parts there were."""
        n_parts = self.remove_table(shards)
        remove_tree(self.staging)
        for folder in self._filled():
            if not any(list_names(folder)):
                folder.rmdir()
        remove_if_there(self.claim)
        if self.path.is_dir():
            sync_folder(self.path)
        return n_parts

    # Private methods

    def _filled(self) -> list[Path]:
        """The folders that are there of those that hold parts and failures."""
        return [folder for folder in (*map(self.data, KINDS), self.failures.parent) if folder.is_dir()]
