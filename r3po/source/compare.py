"""The walk compared with the manifest: which files are new or gone, or may have changed.

Both are sorted alike, so they are merged as streams, in blocks: memory holds one block of the walk, one piece of each
span of the manifest, and a byte for each file that the manifest knows. It compares names, sizes and mtimes, of objects
their tags; whether a file whose mtime moved has another content is found out by `new_manifest`.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from r3po.file_version import UNSEEN, FileVersion
from r3po.source.folders import is_below
from r3po.source.walk import BLOCK_FILES, Block, walk_key
from r3po.state.manifest import Manifest, ShardRef
from r3po.state.shard_files import Entries, iter_entries
from r3po.storage.names import show_name

SHOWN = 5
"""How many of the files that are gone are named."""

ABSENT, SAME, MOVED = 0, 1, 2
"""The walk's word on a file of the manifest: it is absent, as listed, or to be compared (changed, or back)."""


@dataclass(slots=True)
class ShardChanges:
    """One shard, as the walk found it."""

    seen: bytearray
    """ABSENT, SAME or MOVED, by place."""
    _versions: array[int] = field(default_factory=lambda: array("q"))
    """Size and mtime_ns of each place, of which those of MOVED files count; empty while there is none."""

    _tags: dict[int, str] = field(default_factory=dict)
    """Tags of MOVED objects, by place."""

    def note_moved(self, place: int, found: FileVersion) -> None:
        if not self._versions:
            self._versions = array("q", bytes(16 * len(self.seen)))
        self.seen[place] = MOVED
        self._versions[2 * place], self._versions[2 * place + 1] = found.size, found.mtime_ns
        if found.tag:
            self._tags[place] = found.tag

    def version_at(self, place: int) -> FileVersion:
        """Return the version of a MOVED file that the walk saw."""
        size, mtime_ns = self._versions[2 * place], self._versions[2 * place + 1]
        return FileVersion(size, mtime_ns, tag=self._tags.get(place, ""))

    def places(self, what: int) -> list[int]:
        """Return the places of which the walk said `what`."""
        return [place for place, seen in enumerate(self.seen) if seen == what] if what in self.seen else []


@dataclass(slots=True)
class Comparison:
    """A walk held against the manifest.

    Args:
        folder: of the shard files.
        manifest: in force; None: everything is new.
        known: entries of shards that say more than their files.
        unreadable: folders that the walk passed over, as paths that end with a slash; it adds them on its way.
        order: returns the sort key of a path: what the walk and each of the manifest's spans are sorted by.
    """

    folder: Path
    manifest: Manifest | None
    known: Mapping[int, Entries] = field(default_factory=dict)
    unreadable: Collection[str] = ()
    order: Callable[[str], Any] = walk_key
    shards: dict[int, ShardChanges] = field(init=False)
    n_found: int = 0
    size_bytes: int = 0
    """Bytes of the files that were found, but for the `n_unseen` whose size the walk did not ask for."""
    n_unseen: int = 0
    n_unreadable: int = 0
    """Files of the manifest that are in folders which the walk passed over; they count neither as found nor as gone."""
    n_deleted: int = 0
    """Files that the manifest has and the walk did not meet; those that were gone before do not count."""
    shown: list[str] = field(default_factory=list)
    """Names of the first `SHOWN` files that were deleted."""
    has_resized: bool = False
    """Whether a file has another size: then it has changed, whatever it holds."""

    def __post_init__(self) -> None:
        refs = self.manifest.shards if self.manifest is not None else ()
        self.shards = {ref.shard: ShardChanges(bytearray(ref.n_files)) for ref in refs}

    def iter_new(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield the files of a walk that the manifest does not know, in blocks, and note all the others.

        All other attributes are complete once this has come to its end.

        Args:
            blocks: of `walk_blocks`.
        """
        listed = _ListedFiles(self.folder, self.manifest, self.known, self.order)
        for block in _larger(blocks):
            self.n_found += len(block)
            sizes = [size for _, size, *_ in block]
            n_unseen = sizes.count(UNSEEN)
            self.n_unseen += n_unseen
            self.size_bytes += sum(sizes) - UNSEEN * n_unseen
            if new_files := self._compare(block, listed.take_until(block[-1][0])):
                yield new_files
        for piece in listed.take_until(None):
            for at in range(len(piece.entries)):
                self._note_absent(piece, at)

    @property
    def touched_shards(self) -> list[ShardRef]:
        """Shards of which some entry may have to be written again; wholly unchanged ones are not among them."""
        refs = self.manifest.shards if self.manifest is not None else ()
        return [ref for ref in refs if self._is_touched(ref)]

    # Private methods

    def _is_touched(self, ref: ShardRef) -> bool:
        # A file that is absent and was before is no change; which one it is says only the shard file.
        seen = self.shards[ref.shard].seen
        return MOVED in seen or seen.count(ABSENT) != ref.n_deleted

    def _compare(self, block: Block, pieces: list[_Piece]) -> Block:
        """Note which files of the manifest are in a block, and return the others of the block."""
        if not pieces:
            return block
        if _are_like(pieces, block):
            for piece in pieces:
                n = len(piece.entries)
                self.shards[piece.shard].seen[piece.first : piece.first + n] = bytes([SAME]) * n
            return []
        known = {path: (piece, at) for piece in pieces for at, path in enumerate(piece.entries.paths)}
        new_files: Block = []
        for file in block:
            where = known.pop(file[0], None)
            if where is None:
                new_files.append(file)
            else:
                self._note_found(*where, FileVersion(file[1], file[2], tag=file[3]))
        for piece, at in known.values():
            self._note_absent(piece, at)
        return new_files

    def _note_found(self, piece: _Piece, at: int, found: FileVersion) -> None:
        entries, changes, place = piece.entries, self.shards[piece.shard], piece.first + at
        if entries.sizes[at] == UNSEEN and not entries.deleted[at]:
            changes.seen[place] = SAME  # there is no outcome that could be of another content
            return
        is_same = entries.version_at(at).is_like(found)
        if is_same and not entries.racy[at] and not entries.deleted[at]:
            changes.seen[place] = SAME
            return
        changes.note_moved(place, found)
        self.has_resized = self.has_resized or entries.sizes[at] != found.size

    def _note_absent(self, piece: _Piece, at: int) -> None:
        if piece.entries.deleted[at]:
            return
        if self.unreadable and is_below(piece.entries.paths[at], self.unreadable):
            self.shards[piece.shard].seen[piece.first + at] = SAME  # nobody knows: it stays as it is
            self.n_unreadable += 1
            return
        self.n_deleted += 1
        if len(self.shown) < SHOWN:
            self.shown.append(show_name(piece.entries.paths[at]))


# Private


@dataclass(slots=True)
class _Piece:
    """Neighbouring entries of one shard."""

    shard: int
    first: int
    """The place of the first."""
    entries: Entries

    def is_like(self, files: Block) -> bool:
        """Whether these are exactly the files that were found, unchanged."""
        entries = self.entries
        if any(entries.racy) or any(entries.deleted):
            return False
        if entries.sizes.count(UNSEEN) == len(entries):
            return entries.paths == [path for path, *_ in files]
        return list(zip(entries.paths, entries.sizes, entries.mtimes_ns, entries.tags, strict=True)) == files

    def split(self, n: int) -> tuple[_Piece, _Piece]:
        """Return the first n entries, and the others."""
        head, tail = self.entries.between(0, n), self.entries.between(n, len(self.entries))
        return _Piece(self.shard, self.first, head), _Piece(self.shard, self.first + n, tail)


class _ListedFiles:
    """The manifest's files in walk order: each build appended one sorted span, and these are merged."""

    def __init__(
        self, folder: Path, manifest: Manifest | None, known: Mapping[int, Entries], order: Callable[[str], Any]
    ) -> None:
        self._order = order
        self._heads: list[tuple[Any, int, _Piece, Iterator[_Piece]]] = []
        """A heap: the key of the next file, a number that decides among equals, its piece, and what follows it."""
        if manifest is None:
            return
        for number, (start, stop) in enumerate(pairwise((*manifest.sorted_spans, manifest.n_places))):
            pieces = iter_entries(folder, manifest.shards, start, stop, known)
            self._push(number, (_Piece(*piece) for piece in pieces))

    def take_until(self, path: str | None) -> list[_Piece]:
        """Take out and return all entries up to and including `path`, None: all there are; in no particular order."""
        bound = None if path is None else self._order(path)
        taken = []
        while self._heads and (bound is None or self._heads[0][0] <= bound):
            _, number, piece, rest = heapq.heappop(self._heads)
            n = len(piece.entries) if bound is None else bisect_right(piece.entries.paths, bound, key=self._order)
            if n < len(piece.entries):
                head, tail = piece.split(n)
                taken.append(head)
                heapq.heappush(self._heads, (self._order(tail.entries.paths[0]), number, tail, rest))
            else:
                taken.append(piece)
                self._push(number, rest)
        return taken

    def _push(self, number: int, pieces: Iterator[_Piece]) -> None:
        piece = next(pieces, None)
        if piece is not None:
            heapq.heappush(self._heads, (self._order(piece.entries.paths[0]), number, piece, pieces))


def _are_like(pieces: list[_Piece], block: Block) -> bool:
    """Whether the pieces, one after the other, are exactly the files of the block, unchanged: nearly always so."""
    if sum(len(piece.entries) for piece in pieces) != len(block):
        return False
    start = 0
    for piece in pieces:
        stop = start + len(piece.entries)
        if not piece.is_like(block[start:stop]):
            return False
        start = stop
    return True


def _larger(blocks: Iterable[Block]) -> Iterator[Block]:
    """Put the blocks of small folders together, up to about the size of a large one."""
    collected: Block = []
    for block in blocks:
        collected += block
        if len(collected) >= BLOCK_FILES:
            yield collected
            collected = []
    if collected:
        yield collected
