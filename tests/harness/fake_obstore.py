"""A bucket in memory that stands in for obstore, at whose requests a process may die, or lose an answer.

Tags are digests of the content, as S3's are, so that a bucket can be brought back to what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore.exceptions
import pytest

from r3po.state import store_reader
from r3po.storage import objects, own_objects
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectStore

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class _Found:
    def __init__(self, key: str, content: bytes) -> None:
        self.meta, self._content = _meta(key, content), content

    def bytes(self) -> bytes:
        return self._content

    def stream(self, min_chunk_size: int) -> Iterator[bytes]:
        yield self._content


def _meta(key: str, content: bytes) -> dict[str, Any]:
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    return {"path": key, "size": len(content), "e_tag": tag, "version": None, "last_modified": LONG_AGO}


@dataclass
class FakeObstore:
    """The functions of obstore that r3po calls; `content` has the objects by key."""

    content: dict[str, bytes] = field(default_factory=dict)
    exceptions = obstore.exceptions

    def get(self, client: Any, key: str, options: dict[str, Any] | None = None) -> _Found:
        found = self._find(key)
        if options and options["if_match"] != _meta(key, found)["e_tag"]:
            raise obstore.exceptions.PreconditionError(key)
        return _Found(key, found)

    def head(self, client: Any, key: str) -> dict[str, Any]:
        return _meta(key, self._find(key))

    def list(self, client: Any, prefix: str | None, **options: Any) -> list[list[dict[str, Any]]]:
        return [[_meta(key, self.content[key]) for key in sorted(self.content) if key.startswith(prefix or "")]]

    def put(self, client: Any, key: str, data: bytes | Path, mode: Any = None, **options: Any) -> dict[str, Any]:
        """Put an object if the condition holds."""
        there = self.content.get(key)
        if mode == "create" and there is not None:
            raise obstore.exceptions.AlreadyExistsError(key)
        if isinstance(mode, dict) and (there is None or _meta(key, there)["e_tag"] != mode["e_tag"]):
            raise obstore.exceptions.PreconditionError(key)
        self.content[key] = data.read_bytes() if isinstance(data, Path) else bytes(data)
        return _meta(key, self.content[key])

    def delete(self, client: Any, key: str) -> None:
        self.content.pop(key, None)

    def mirror(self, prefix: str, folder: Path) -> None:
        """Write all objects below a prefix into a folder, as files."""
        for key, content in self.content.items():
            if key.startswith(prefix):
                path = folder / key.removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def _find(self, key: str) -> bytes:
        if key not in self.content:
            raise FileNotFoundError(f"Object at location {key} not found")
        return self.content[key]


class _Inline:
    """An executor that does everything at once, in this thread: the order of the requests is always the same."""

    def __init__(self, n_threads: int, thread_name_prefix: str) -> None:
        pass

    def submit(self, work: Any, *args: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(work(*args))
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        pass


def use(fake: FakeObstore, patch: pytest.MonkeyPatch, *, inline: bool = True) -> None:
    """Let every bucket be this one."""

    def make(url: ObjectUrl, options: StoreOptions | None = None) -> ObjectStore:
        return ObjectStore(url, options, client=fake)

    patch.setattr(objects, "obstore_of", lambda url: fake)
    patch.setattr(store_reader, "ObjectStore", make)
    if inline:
        patch.setattr(own_objects, "ThreadPoolExecutor", _Inline)
