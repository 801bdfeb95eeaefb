"""What is in a bucket of a job's table, for those who only read: how the parts stand, and whose the table is.

Source: FORMAT.md, "A table in a bucket".
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from r3po.errors import FolderError
from r3po.state.claim import SUCCESS, Claimed
from r3po.state.manifest import FORMAT
from r3po.state.output_folder import KINDS, NO_SUCH_PART, Part, PartLook, other_size, shard_of
from r3po.state.published import PublishedParts
from r3po.storage.durable import FileRecord, has_size
from r3po.storage.json_files import parse_json
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectStore
from r3po.storage.own_objects import OwnObjects

CLAIM = ".r3po.json"
FAILURES = "failures/failures.csv"


class StoreReader(Claimed):
    """The table, in a bucket, of the job whose state is in `working_dir`. Pickled it takes no secret along.

    Args:
        url: where it is.
        working_dir: of the job.
        options: of the store.
    """

    def __init__(self, url: ObjectUrl, working_dir: Path, options: StoreOptions) -> None:
        self.url, self.working_dir = url, working_dir
        self._options = options
        self._store = ObjectStore(url, options)
        self._objects = OwnObjects(self._store, (*KINDS, "failures"))
        self._published = PublishedParts(working_dir / "published", str(url))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.working_dir, self._options)

    @property
    def where(self) -> str:
        return str(self.url).rstrip("/")

    @property
    def claim(self) -> str:
        return self._objects.url_of(CLAIM)

    @property
    def failures(self) -> str:
        return self._objects.url_of(FAILURES)

    def where_of(self, kind: str, name: str) -> str:
        """Return where a part, or what else is beside it, lies."""
        return self._objects.url_of(f"{kind}/{name}")

    @property
    def staging(self) -> Path:
        return self.working_dir / ".staging"

    def list_files(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and name of everything in the data folders, `_SUCCESS` included."""
        for path in sorted(self._objects.known):
            kind, _, name = path.partition("/")
            if kind in KINDS:
                yield kind, name

    def part_numbers(self) -> set[int]:
        """Return the numbers of all shards of which an object has the name of a part."""
        found = (shard_of(name) for _, name in self.list_files())
        return {shard for shard in found if shard is not None}

    def list_failures(self) -> Iterator[str]:
        """Yield the names of what lies beside failures.csv, and its own."""
        for path in sorted(self._objects.known):
            folder, _, name = path.partition("/")
            if folder not in KINDS:
                yield name

    def success_size(self, kind: str) -> int | None:
        """Return the bytes of `_SUCCESS`, which has to have none; None: there is none."""
        found = self._objects.known.get(success(kind))
        return None if found is None else found.size

    def open_failures(self) -> BinaryIO:
        """Return failures.csv for reading. Raises FileNotFoundError."""
        with self._objects.told(FAILURES):
            return io.BytesIO(self._store.read(self.url.key_of(FAILURES))[0])

    def look_at(self, part: Part) -> PartLook:
        """Return how a part stands: whether the object is there that was put."""
        path, record = f"{part.kind}/{part.name}", part.staged
        found = self._objects.known.get(path)
        if record is None:
            return PartLook(None, "" if found is None else NO_SUCH_PART)
        if has_size(self.staging / record.name, record.size_bytes):
            return PartLook(found and found.size, f"is decided, but not published yet: it lies in {self.staging}")
        if found is None:
            return PartLook(None, "is missing")
        if found.size != record.size_bytes:
            return PartLook(found.size, other_size(found.size, record.size_bytes))
        is_ours = self._is_published(path, record)
        return PartLook(
            found.size, "" if is_ours else "is not the object that was put: the store gave that another tag"
        )

    @contextmanager
    def readable(self, parts: Iterable[tuple[str, str]]) -> Iterator[list[Path]]:
        """Give copies of parts that are there, of which kind and name are given; they are gone after the block."""
        with tempfile.TemporaryDirectory(prefix="r3po-parts-") as folder:
            yield [self._copy_of(kind, name, Path(folder)) for kind, name in parts]

    def look_again(self) -> None:
        """Forget how everything looked: a run may have changed it."""
        self._objects.look_again()
        self._published.look_again()

    def read_claim(self) -> dict[str, Any]:
        with self._objects.told(CLAIM):
            data, _ = self._store.read(self.url.key_of(CLAIM))
        return parse_json(data, self._objects.url_of(CLAIM), kind="claim", newest_format=FORMAT)

    def refuse_unclaimed(self, parts: Iterable[Part]) -> None:
        records = {f"{part.kind}/{part.name}": part.staged for part in parts}
        ours = {path for path, record in records.items() if record is not None and self._is_published(path, record)}
        if ours:
            ours |= {*map(success, KINDS), FAILURES}  # they go with the parts
        there = {f"{kind}/{name}" for kind, name in self.list_files()} | ({FAILURES} & self._objects.known.keys())
        if strangers := there - ours:
            raise FolderError(
                f"output_path already holds files that no job of r3po claims: {min(strangers)}",
                where=self.where,
                hint="give this job another output_path, or move them elsewhere",
            )

    # For those who write, too

    def _is_published(self, path: str, record: FileRecord) -> bool:
        part = self._published.parts.get(path)
        return part is not None and part.is_of(record) and part.is_like(self._objects.known.get(path))

    # Private methods

    def _copy_of(self, kind: str, name: str, folder: Path) -> Path:
        path, copy = f"{kind}/{name}", folder / name
        with self._objects.told(path), copy.open("xb") as file:
            self._store.stream(self.url.key_of(path), file.write)
        return copy


def success(kind: str) -> str:
    """Return the path of the mark of one kind of parts."""
    return f"{kind}/{SUCCESS}"
