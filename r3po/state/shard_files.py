"""Shard files: every file of a shard with its place, size, mtime and hash, and of an object its tag."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import orjson

from r3po.errors import DamagedStateError
from r3po.file_version import FileVersion
from r3po.state.manifest import ShardRef
from r3po.storage.durable import FileRecord, NewFile, digest_file
from r3po.storage.json_files import damaged
from r3po.storage.names import name_from_json, name_to_json


@dataclass(slots=True)
class Entries:
    """The files of one shard: lists of equal length, indexed by place."""

    paths: list[str] = field(default_factory=list)
    """Relative to the source."""
    sizes: list[int] = field(default_factory=list)
    """`UNSEEN`: the first build listed the file, and it was not looked at since; then no outcome counts for it.
    `UNKNOWN`: f failed on it, and it is not known on what."""
    mtimes_ns: list[int] = field(default_factory=list)
    hashes: list[bytes | None] = field(default_factory=list)
    """None: not hashed yet, or `hash: stat`."""
    builds: list[int] = field(default_factory=list)
    racy: list[bool] = field(default_factory=list)
    """Looked at within two seconds of its mtime: size and mtime alone do not prove that it is unchanged."""
    deleted: list[bool] = field(default_factory=list)
    """Not in the source any more; the file keeps its place, and gets it back if it returns."""
    tags: list[str] = field(default_factory=list)
    """Of objects, by which the store tells one from another of its key; empty of files on a disk."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def needed_builds(self) -> list[int]:
        """By place, the least build of an outcome that counts; negative where the file was deleted (`choose`)."""
        return [-build if deleted else build for build, deleted in zip(self.builds, self.deleted, strict=True)]

    def append(
        self,
        path: str,
        size: int,
        mtime_ns: int,
        build: int,
        *,
        hash_: bytes | None = None,
        racy: bool = False,
        deleted: bool = False,
        tag: str = "",
    ) -> None:
        self.paths.append(path)
        self.sizes.append(size)
        self.mtimes_ns.append(mtime_ns)
        self.hashes.append(hash_)
        self.builds.append(build)
        self.racy.append(racy)
        self.deleted.append(deleted)
        self.tags.append(tag)

    @classmethod
    def listed(cls, files: Sequence[tuple[str, int, int, str]], build: int) -> Self:
        """Return entries for files that were not read yet: of path, size, mtime_ns and tag."""
        n = len(files)
        paths, sizes, mtimes_ns, tags = map(list, zip(*files, strict=True)) if n else ([], [], [], [])
        return cls(paths, sizes, mtimes_ns, [None] * n, [build] * n, [False] * n, [False] * n, tags)

    def extend(self, more: Entries) -> None:
        for own, others in zip(self._columns, more._columns, strict=True):
            own += others

    def between(self, start: int, stop: int) -> Entries:
        """Return a copy of the entries `start` to `stop` - 1."""
        return Entries(*(column[start:stop] for column in self._columns))

    def at(self, places: Sequence[int]) -> Entries:
        """Return a copy of the entries at these places."""
        return Entries(*([column[place] for place in places] for column in self._columns))

    @property
    def _columns(self) -> list[list[Any]]:
        return [getattr(self, column.name) for column in dataclasses.fields(self)]

    def version_at(self, place: int) -> FileVersion:
        known = self.sizes[place], self.mtimes_ns[place], self.hashes[place], self.racy[place], self.tags[place]
        return FileVersion(*known)

    def set_version(self, place: int, version: FileVersion) -> None:
        self.sizes[place], self.mtimes_ns[place], self.hashes[place], self.racy[place], self.tags[place] = version

    def adopt_all(self, places: Sequence[int], seen: Sequence[FileVersion]) -> bool:
        """Take over what f saw of many files, as `adopt` does of one. Returns whether any entry says something else."""
        return any([self.adopt(place, version) for place, version in zip(places, seen, strict=True)])

    def adopt(self, place: int, seen: FileVersion) -> bool:
        """Take over the version of a file that f saw. Returns whether the entry says something else now.

        Where the entry has the hash of that content already, its own size and mtime are the later ones: the file may
        have been touched since f saw it.
        """
        known = self.version_at(place)
        if seen == known:
            return False
        if seen.hash is None and seen.is_like(known):
            seen = seen._replace(hash=known.hash)
        elif seen.hash is not None and seen.hash == known.hash:
            seen = known._replace(is_racy=known.is_racy and (seen.is_racy or not seen.is_like(known)))
        if seen == known:
            return False
        self.set_version(place, seen)
        return True


def iter_filled(blocks: Iterable[Entries], first_size: int, size: int) -> Iterator[Entries]:
    """Yield the entries of blocks as shards have them: first `first_size`, then `size` each; the last has the rest."""
    entries, limit = Entries(), first_size
    for block in blocks:
        start = 0
        while start < len(block):
            stop = start + limit - len(entries)
            entries.extend(block.between(start, stop))
            start = stop
            if len(entries) >= limit:
                yield entries
                entries, limit = Entries(), size
    if len(entries):
        yield entries


def write_shard_file(folder: Path, shard: int, build: int, entries: Entries) -> ShardRef:
    """Write a shard's entries durably under a name with their digest, and return how the manifest names them."""
    with NewFile(folder) as new:
        for start in range(0, len(entries), _LINES_AT_ONCE):
            new.write(_lines(entries.between(start, start + _LINES_AT_ONCE)))
        record = new.finish(f"{shard:05d}.b{build}.{new.sha256[:12]}.jsonl")
    return ref_of(shard, record, entries)


def ref_of(shard: int, record: FileRecord, entries: Entries) -> ShardRef:
    """Return how the manifest names a shard file that holds `entries`."""
    size_bytes = sum(
        size for size, deleted in zip(entries.sizes, entries.deleted, strict=True) if not deleted and size > 0
    )
    return ShardRef(shard, record, len(entries), max(entries.builds, default=0), size_bytes, sum(entries.deleted))


def read_shard_file(folder: Path, ref: ShardRef) -> Entries:
    """Return the entries of a shard.

    Raises:
        DamagedStateError: the file is missing, or is not the one that the manifest names.
    """
    return parse_entries(read_shard_lines(folder, ref))


def read_shard_lines(folder: Path, ref: ShardRef) -> list[bytes]:
    """Return the lines of a shard file by place, for `parse_entries`.

    Raises:
        DamagedStateError: the file is missing, or is not the one that the manifest names.
    """
    path = folder / ref.file.name
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    if hashlib.sha256(content).hexdigest() != ref.file.sha256:
        raise _is_damaged(path)
    return content.splitlines()


def parse_entries(lines: Iterable[bytes]) -> Entries:
    """Return the entries that these lines of a shard file hold."""
    found: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
    return Entries(
        paths=[name_from_json(data) if "path_b64" in data else data["path"] for data in found],
        sizes=[data["size"] for data in found],
        mtimes_ns=[data["mtime_ns"] for data in found],
        hashes=[None if data["hash"] is None else bytes.fromhex(data["hash"]) for data in found],
        builds=[data["build"] for data in found],
        racy=["racy" in data for data in found],
        deleted=["deleted" in data for data in found],
        tags=[data.get("tag", "") for data in found],
    )


def iter_entries(
    folder: Path,
    shards: tuple[ShardRef, ...],
    start: int,
    stop: int,
    known: Mapping[int, Entries] = MappingProxyType({}),
) -> Iterator[tuple[int, int, Entries]]:
    """Yield the files number `start` up to `stop`, counted over all shards, in pieces of a few hundred.

    Args:
        known: entries of some shards, which are yielded instead of what their files say.

    Yields:
        The shard, the first place of a piece, and its entries. Between two pieces no file is open and only one piece is
        in memory, so that many such iterators can go on side by side.

    Raises:
        DamagedStateError: a shard file is missing, or is not the one that the manifest names.
    """
    for ref, first, last in _places_of_span(shards, start, stop):
        if ref.shard in known:
            yield ref.shard, first, known[ref.shard].between(first, last)
            continue
        path = folder / ref.file.name
        _check_shard_file(path, ref)
        offset = place = 0
        while place < last:
            lines, offset = _read_lines(path, offset)
            if not lines:
                raise damaged(path, f"is damaged: it has {place} files, the manifest says {ref.n_files}")
            if place + len(lines) > first:
                skipped = max(0, first - place)
                yield ref.shard, place + skipped, parse_entries(lines[skipped : last - place])
            place += len(lines)


_LINES_AT_ONCE = 1000
"""Lines of a shard file that are written in one call; a call for each would cost more than the line."""


_PIECE_BYTES = 128 << 10
"""Bytes of a shard file that are read at once: about 800 entries."""


def _places_of_span(shards: tuple[ShardRef, ...], start: int, stop: int) -> Iterator[tuple[ShardRef, int, int]]:
    """Yield each shard that has files of the span, the first of these places and the one after the last."""
    first = 0
    for ref in shards:
        if first + ref.n_files > start and first < stop:
            yield ref, max(0, start - first), min(ref.n_files, stop - first)
        first += ref.n_files


def _check_shard_file(path: Path, ref: ShardRef) -> None:
    try:
        _, sha256 = digest_file(path)
    except FileNotFoundError as error:
        raise damaged(path, "is missing") from error
    if sha256 != ref.file.sha256:
        raise _is_damaged(path)


def _read_lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    """Return some whole lines from `offset` on, and where the next one begins."""
    with open(path, "rb") as file:
        file.seek(offset)
        lines = file.readlines(_PIECE_BYTES)
    return lines, offset + sum(map(len, lines))


def _is_damaged(path: Path) -> DamagedStateError:
    return damaged(path, "is damaged: its digest is not the one that the manifest names")


def _lines(entries: Entries) -> bytes:
    """Return the lines of these entries."""
    known = zip(entries.paths, entries.sizes, entries.mtimes_ns, entries.hashes, entries.builds, strict=True)
    lines: list[dict[str, Any]] = [
        {
            "path": path,
            "size": size,
            "mtime_ns": mtime_ns,
            "hash": None if hash_ is None else hash_.hex(),
            "build": build,
        }
        for path, size, mtime_ns, hash_, build in known
    ]
    if any(entries.racy) or any(entries.deleted) or any(entries.tags):
        for line, racy, deleted, tag in zip(lines, entries.racy, entries.deleted, entries.tags, strict=True):
            if racy:
                line["racy"] = True
            if deleted:
                line["deleted"] = True
            if tag:
                line["tag"] = tag
    # One call for all costs half of a call for each. But a path may hold what stands between two objects.
    try:
        content = orjson.dumps(lines)
        if content.count(b"},{") == len(lines) - 1:
            return content[1:-1].replace(b"},{", b"}\n{") + b"\n"
    except TypeError:  # a name that is not UTF-8
        pass
    return b"".join(map(_line, lines))


def _line(line: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a name that is not UTF-8
        return orjson.dumps({**line, **name_to_json(line["path"])}, option=orjson.OPT_APPEND_NEWLINE)
