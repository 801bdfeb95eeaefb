"""What was put into a bucket for each part, and the tags that the store gave back: `working_dir/published`.

A part is as it was published if the store lists it with this tag. So a start finds with one listing what is to be put
again. failures.csv has such a note, too. Source: FORMAT.md, "A table in a bucket".
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3po.errors import DamagedStateError
from r3po.state.manifest import FORMAT
from r3po.storage.durable import FileRecord, list_names, remove_if_there, remove_temporaries
from r3po.storage.json_files import read_json, write_json
from r3po.storage.objects import ObjectInfo


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """A part as it was put."""

    path: str
    """Below the output: the part's kind and name."""
    size_bytes: int
    sha256: str
    tag: str

    def is_of(self, record: FileRecord) -> bool:
        """Whether it has the content of a staged file."""
        return (self.size_bytes, self.sha256) == (record.size_bytes, record.sha256)

    def is_like(self, info: ObjectInfo | None) -> bool:
        """Whether an object is the one that was put."""
        return info is not None and (info.size, info.tag) == (self.size_bytes, self.tag)


class PublishedParts:
    """The notes of all parts, one file each. Threads may share it.

    Args:
        folder: of these files; it is there once something is noted.
        output: URL of the table; notes about another one do not count.
    """

    def __init__(self, folder: Path, output: str) -> None:
        self._folder, self._output = folder, output
        self._parts: dict[str, PublishedPart] | None = None
        self._lock = threading.Lock()

    @property
    def parts(self) -> Mapping[str, PublishedPart]:
        """The notes by path."""
        with self._lock:
            if self._parts is None:
                self._parts = {part.path: part for part in self._read_all()}
            return self._parts

    def look_again(self) -> None:
        """Read the notes anew, once they are asked for."""
        self._parts = None

    def note(self, path: str, record: FileRecord, tag: str) -> None:
        """Remember durably what was put."""
        part = PublishedPart(path, record.size_bytes, record.sha256, tag)
        content = {"path": path, "size_bytes": part.size_bytes, "sha256": part.sha256, "tag": tag}
        write_json(self._file(path), {"format": FORMAT, "kind": "published", "output": self._output, **content})
        self._change()[path] = part

    def forget(self, path: str) -> None:
        """Drop the note of a part that was removed."""
        self._change().pop(path, None)
        remove_if_there(self._file(path))

    def sweep(self, listed: Mapping[str, ObjectInfo]) -> None:
        """Remove the notes that do not fit what is listed, and temporary files."""
        remove_temporaries(self._folder)
        parts = self._change()
        for path in [path for path, part in parts.items() if not part.is_like(listed.get(path))]:
            del parts[path]
        kept = {self._file(path).name for path in parts}
        for name in list_names(self._folder):
            if name not in kept:
                remove_if_there(self._folder / name)

    # Private methods

    def _change(self) -> dict[str, PublishedPart]:
        _ = self.parts
        assert self._parts is not None
        return self._parts

    def _file(self, path: str) -> Path:
        return self._folder / f"{path.rpartition('/')[2]}.json"  # its kind is at the end of its name, too

    def _read_all(self) -> Iterator[PublishedPart]:
        for name in list_names(self._folder):
            if not name.endswith(".json"):
                continue
            try:
                data: dict[str, Any] = read_json(self._folder / name, kind="published", newest_format=FORMAT)
            except (DamagedStateError, FileNotFoundError):
                continue  # the part is made again
            if data["output"] == self._output:
                yield PublishedPart(data["path"], data["size_bytes"], data["sha256"], data["tag"])
