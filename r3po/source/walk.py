"""Walking the source folder. It reads the source and nothing else, and writes nothing at all.

The order of `walk` is the order of the rows: names in byte order, the files of a folder before its subfolders, depth
first. Paths are str relative to the source, with surrogates for bytes that are not UTF-8 (`os.fsdecode`).
"""

from __future__ import annotations

import os
import stat
from array import array
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from r3po.errors import SourceError
from r3po.file_version import UNSEEN, FileVersion
from r3po.source.hashing import mtime_of
from r3po.storage.names import show_name

BLOCK_FILES = 4096
"""Most files of one block of a walk."""

Block = list[tuple[str, int, int]]
"""Files of a walk: path, size in bytes, mtime_ns; the last two `UNSEEN` where the file was listed only."""

LONG_WALK_FILES = 200_000
"""Files after which a walk has helpers, or only lists; a shorter one is over before Ray has started."""

MOST_HELPERS = 3
"""Most helpers of a walk: the driver, which reads the folders, can keep no more of them busy."""

_TASK_FILES = 2000
"""The least number of files that a helper asks size and mtime of in one call."""

_FEW_NAMES = 8
"""A folder with fewer names is not opened for them."""


@dataclass(slots=True)
class WalkCounts:
    """What the walk passed over, for the screen."""

    hidden: int = 0
    """Files and folders whose name begins with a dot."""
    linked_folders: int = 0
    irregular: int = 0
    """Dangling links, FIFOs, sockets and devices with the right suffix."""
    other_case: Counter[str] = field(default_factory=Counter)
    """Files that end with `source_file_part` in other letters, such as .JSON, by this ending; they are in `other`."""
    other: int = 0
    """Files whose name does not end with `source_file_part`."""


def walk(
    source: Path, suffix: str, *, skip: Collection[Path] = (), counts: WalkCounts | None = None
) -> Iterator[tuple[str, FileVersion]]:
    """Yield the path and version of every regular file (or link to one) under `source` whose name ends with `suffix`.

    They come in row order. See `walk_blocks`, which yields them in blocks.
    """
    for block in walk_blocks(source, suffix, skip=skip, counts=counts):
        for path, size, mtime_ns in block:
            yield path, FileVersion(size, mtime_ns)


def walk_blocks(
    source: Path,
    suffix: str,
    *,
    skip: Collection[Path] = (),
    counts: WalkCounts | None = None,
    processes: int = 0,
    stats_all: bool = True,
) -> Generator[Block]:
    """Yield the files of `walk` in lists of path, size and mtime_ns, each of at most `BLOCK_FILES` of one folder.

    Args:
        source: the folder; it may itself be a link.
        skip: folders that are never entered (working_dir, output_path), compared by device and inode.
        counts: filled with what was passed over.
        processes: of this machine that the job may use. With two or more, a long walk leaves most of the work, to ask
            for each file's size and mtime, to helpers.
        stats_all: False: a long walk lists most of the files without asking for size and mtime. One that is deleted or
            becomes something else meanwhile is among them.

    Raises:
        SourceError: a folder cannot be read: its files must not be taken for deleted ones.
    """
    counts = WalkCounts() if counts is None else counts
    listings = _iter_listings(source, suffix, skip, counts)
    n_files = 0
    for prefix, names in listings:
        is_long = n_files >= LONG_WALK_FILES
        n_files += len(names)
        if is_long and not stats_all:
            with _folder_errors_told(source, prefix):
                _stat_files(source, prefix, names[:1])  # a folder may show its names, and nothing else
            yield [(prefix + name, UNSEEN, UNSEEN) for name in names]
        elif is_long and processes > 1:
            # This takes all that is left.
            yield from _helped(source, chain([(prefix, names)], listings), counts, min(processes, MOST_HELPERS))
        else:
            with _folder_errors_told(source, prefix):
                stats = _stat_files(source, prefix, names)
            yield from _block_of(prefix, names, stats, counts)


def walk_key(path: str) -> tuple[tuple[bool, bytes], ...]:
    """Return the sort key that puts paths into the order of `walk`."""
    *folders, name = os.fsencode(path).split(b"/")
    return (*((True, folder) for folder in folders), (False, name))


def count_suffixes(source: Path, limit: int = 100_000) -> dict[str, int]:
    """Return how many files end with which suffix, most first: the hint when no file matches."""
    found: dict[str, int] = {}
    for n, (path, _) in enumerate(walk(source, "")):
        suffix = os.path.splitext(path)[1] or os.path.basename(path)
        found[suffix] = found.get(suffix, 0) + 1
        if n >= limit:
            break
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


# Private functions


Listing = tuple[str, list[str]]
"""A folder, as a prefix that ends with a slash, and names of files in it."""


class _Stats(NamedTuple):
    """Sizes and mtimes of the files of a listing that are there, in the order of the names."""

    sizes: array[int]
    mtimes_ns: array[int]
    missing: set[int]
    """Which of the names are no files any more."""
    n_irregular: int


def _iter_listings(source: Path, suffix: str, skip: Collection[Path], counts: WalkCounts) -> Iterator[Listing]:
    """Yield the folders in the order of the walk, at most `BLOCK_FILES` names at a time."""
    skipped = {(s.st_dev, s.st_ino) for s in map(_stat_or_none, skip) if s is not None}
    # A stack of folders still to enter, deepest first; folders of one parent are pushed in reverse order.
    folders = [""]
    while folders:
        prefix = folders.pop()
        names, subfolders = _read_folder(source, prefix, suffix, skipped, counts)
        for start in range(0, len(names), BLOCK_FILES):
            yield prefix, names[start : start + BLOCK_FILES]
        folders.extend(reversed(subfolders))


def _helped(source: Path, listings: Iterator[Listing], counts: WalkCounts, processes: int) -> Iterator[Block]:
    """Yield what `_stat_files` returns for each listing, from helpers."""
    from r3po.source.parallel import map_in_order

    sent: deque[list[Listing]] = deque()

    def tasks() -> Iterator[tuple[Path, list[Listing]]]:
        for task in _grouped(listings):
            sent.append(task)
            yield source, task

    with closing(map_in_order(_stat_listings, tasks(), processes)) as answers:
        for answer in answers:
            for (prefix, names), stats in zip(sent.popleft(), answer, strict=True):
                with _folder_errors_told(source, prefix):
                    if isinstance(stats, OSError):
                        raise stats
                yield from _block_of(prefix, names, stats, counts)


def _block_of(prefix: str, names: list[str], stats: _Stats, counts: WalkCounts) -> Iterator[Block]:
    """Yield the files of a listing, unless there is none."""
    counts.irregular += stats.n_irregular
    if stats.missing:
        names = [name for at, name in enumerate(names) if at not in stats.missing]
    if names:
        yield list(zip([prefix + name for name in names], stats.sizes, stats.mtimes_ns, strict=True))


def _grouped(listings: Iterable[Listing]) -> Iterator[list[Listing]]:
    """Put the listings of small folders together: to ask a helper costs as much as many stats."""
    group: list[Listing] = []
    n_names = 0
    for listing in listings:
        group.append(listing)
        n_names += len(listing[1])
        if n_names >= _TASK_FILES:
            yield group
            group, n_names = [], 0
    if group:
        yield group


def _stat_listings(task: tuple[Path, list[Listing]]) -> list[_Stats | OSError]:
    """Carry out a task of `_helped`, in a helper."""
    source, listings = task
    answer: list[_Stats | OSError] = []
    for prefix, names in listings:
        try:
            answer.append(_stat_files(source, prefix, names))
        except OSError as error:
            answer.append(error)
    return answer


def _read_folder(
    source: Path, prefix: str, suffix: str, skipped: Collection[tuple[int, int]], counts: WalkCounts
) -> tuple[list[str], list[str]]:
    """Return the names in one folder that may be files, and its subfolders (as prefixes that end with a slash), sorted.

    Names only: of a folder with millions of files more would not fit into memory.
    """
    names: list[str] = []
    subfolders: list[str] = []
    with _folder_errors_told(source, prefix), os.scandir(os.path.join(source, prefix)) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                counts.hidden += 1
            elif name.endswith(suffix) and (entry.is_file(follow_symlinks=False) or _is_link_to_file(entry)):
                names.append(name)
            elif entry.is_dir(follow_symlinks=False):
                if not skipped or _device_and_inode(entry) not in skipped:
                    subfolders.append(f"{prefix}{name}/")
            else:
                _count_passed_over(entry, suffix, counts)
    _sort_names(names, subfolders)
    return names, subfolders


def _stat_files(source: Path, prefix: str, names: list[str]) -> _Stats:
    """Return sizes and mtimes of the files of one folder.

    Raises:
        OSError: `os.stat` of one of them fails, although it is there.
    """
    sizes, mtimes_ns, missing = array("q"), array("q"), set[int]()
    n_irregular = 0
    stat_name, is_regular = os.stat, stat.S_ISREG
    with _base_of(os.path.join(source, prefix), len(names)) as (folder, base):
        for at, name in enumerate(names):
            try:
                status = stat_name(base + name, dir_fd=folder)
            except FileNotFoundError:
                missing.add(at)  # deleted since the folder was read
                continue
            if is_regular(status.st_mode):
                sizes.append(status.st_size)
                mtimes_ns.append(mtime_of(status))
            else:
                missing.add(at)  # it has become something else
                n_irregular += 1
    return _Stats(sizes, mtimes_ns, missing, n_irregular)


@contextmanager
def _base_of(path: str, n_names: int) -> Iterator[tuple[int | None, str]]:
    """Give a descriptor of the folder, or none, and what to put before its names, for `os.stat` of `n_names` of them.

    From a descriptor the kernel does not walk the whole path for each: a fifth less, once the folder is open.
    """
    if n_names < _FEW_NAMES:
        yield None, path
        return
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None, path  # deleted since it was read, and all its files with it
        return
    try:
        yield folder, ""
    finally:
        os.close(folder)


@contextmanager
def _folder_errors_told(source: Path, prefix: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"cannot be read: {error.strerror}; nothing was changed",
            where=show_name(os.path.join(source, prefix).rstrip("/")),
            hint="fix the permissions, or move the folder out of the source; then run again",
        ) from error


def _is_link_to_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_file()
    except OSError:
        return False  # it leads nowhere: a loop, or through a file


def _sort_names(names: list[str], subfolders: list[str]) -> None:
    # Code points sort like UTF-8 bytes, but not where surrogates stand for bytes that are no UTF-8.
    if all(map(str.isascii, names)) and all(map(str.isascii, subfolders)):
        names.sort()
        subfolders.sort(key=_without_slash)
    else:
        names.sort(key=os.fsencode)
        subfolders.sort(key=lambda folder: os.fsencode(folder[:-1]))


def _without_slash(folder: str) -> str:
    return folder[:-1]


def _count_passed_over(entry: os.DirEntry[str], suffix: str, counts: WalkCounts) -> None:
    if entry.is_symlink() and os.path.isdir(entry.path):
        counts.linked_folders += 1
    elif entry.name.endswith(suffix):
        counts.irregular += 1
    else:
        counts.other += 1
        ending = entry.name[-len(suffix) :]
        if ending.lower() == suffix.lower():
            counts.other_case[ending] += 1


def _device_and_inode(entry: os.DirEntry[str]) -> tuple[int, int]:
    status = entry.stat(follow_symlinks=False)
    return status.st_dev, status.st_ino


def _stat_or_none(folder: Path) -> os.stat_result | None:
    try:
        return os.stat(folder)
    except OSError:
        return None
