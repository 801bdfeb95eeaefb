"""Walking the source folder. It reads the source and nothing else, and writes nothing at all.

The order of `walk` is the order of the rows: names in byte order, the files of a folder before its subfolders, depth
first. Paths are str relative to the source, with surrogates for bytes that are not UTF-8 (`os.fsdecode`). Several
folders of one source are walked like folders of those names.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from r3po.config.selection import Selection
from r3po.errors import SourceError
from r3po.file_version import UNSEEN, FileVersion
from r3po.source.folders import Chooser, WalkCounts, path_of, read_folder, roots_of, stat_or_none
from r3po.source.hashing import mtime_of
from r3po.storage.names import show_name

BLOCK_FILES = 4096
"""Most files of one block of a walk."""

Block = list[tuple[str, int, int, str]]
"""Files of a walk: path, size in bytes, mtime_ns, and of objects the tag (else empty); size and mtime_ns are `UNSEEN`
where the file was listed only."""

LONG_WALK_FILES = 200_000
"""Files after which a walk has helpers, or only lists; a shorter one is over before Ray has started."""

MOST_HELPERS = 3
"""Most helpers of a walk: the driver, which reads the folders, can keep no more of them busy."""

_TASK_FILES = 2000
"""The least number of files that a helper asks size and mtime of in one call."""

_FEW_NAMES = 8
"""A folder with fewer names is not opened for them."""


def walk(
    source: Path,
    which: Selection | str,
    *,
    skip: Collection[Path] = (),
    counts: WalkCounts | None = None,
    skip_unreadable: bool = False,
) -> Iterator[tuple[str, FileVersion]]:
    """Yield path and version of every regular file (or link to one) under `source` that is one of `which`.

    They come in row order. See `walk_blocks`, which yields them in blocks.
    """
    for block in walk_blocks(source, which, skip=skip, counts=counts, skip_unreadable=skip_unreadable):
        for path, size, mtime_ns, _ in block:
            yield path, FileVersion(size, mtime_ns)


def walk_blocks(
    source: Path,
    which: Selection | str,
    *,
    skip: Collection[Path] = (),
    counts: WalkCounts | None = None,
    processes: int = 0,
    stats_all: bool = True,
    skip_unreadable: bool = False,
) -> Generator[Block]:
    """Yield the files of `walk` in lists of path, size and mtime_ns, each of at most `BLOCK_FILES` of one folder.

    Args:
        source: the folder, which may itself be a link; or what the folders of `which` are relative to.
        which: the files to find, or only the end of their names.
        skip: folders that are never entered (working_dir, output_path), compared by device and inode.
        counts: filled with what was passed over.
        processes: of this machine that the job may use. With two or more, a long walk leaves most of the work, to ask
            for each file's size and mtime, to helpers.
        stats_all: False: a long walk lists most of the files without asking for size and mtime. One that is deleted or
            becomes something else meanwhile is among them.
        skip_unreadable: pass over subfolders that cannot be read. They are in `counts` before any file behind them.

    Raises:
        SourceError: a folder cannot be read: its files must not be taken for deleted ones.
    """
    selection = Selection((which,)) if isinstance(which, str) else which
    counts = WalkCounts() if counts is None else counts
    errors = _FolderErrors(source, selection, skip_unreadable, counts)
    listings = _iter_listings(source, selection, skip, counts, errors)
    n_files = 0
    for prefix, names in listings:
        is_long = n_files >= LONG_WALK_FILES
        n_files += len(names)
        if is_long and stats_all and processes > 1:
            # This takes all that is left.
            rest = chain([(prefix, names)], listings)
            yield from _helped(source, rest, counts, errors, min(processes, MOST_HELPERS))
            return
        is_listed_only = is_long and not stats_all
        try:
            # A folder may show its names, and nothing else.
            stats = _stat_files(source, prefix, names[:1] if is_listed_only else names)
        except OSError as error:
            errors.take(prefix, error)
            continue
        if is_listed_only:
            yield [(prefix + name, UNSEEN, UNSEEN, "") for name in names]
        else:
            yield from _block_of(prefix, names, stats, counts)


def walk_key(path: str) -> tuple[tuple[bool, bytes], ...]:
    """Return the sort key that puts paths into the order of `walk`."""
    *folders, name = os.fsencode(path).split(b"/")
    return (*((True, folder) for folder in folders), (False, name))


def count_suffixes(source: Path, which: Selection | str = "", limit: int = 100_000) -> dict[str, int]:
    """Return how many files end with which suffix, most first: the hint when no file matches.

    Args:
        which: the files that were looked for; how their names end counts here for nothing.
    """
    which = which if isinstance(which, str) else replace(which, endings=("",))
    return suffixes_of((path for path, _ in walk(source, which, skip_unreadable=True)), limit)


def suffixes_of(paths: Iterable[str], limit: int = 100_000) -> dict[str, int]:
    """Return how many of the first paths end with which suffix, most first."""
    found: dict[str, int] = {}
    for n, path in enumerate(paths):
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


class _FolderErrors:
    """What becomes of folders that cannot be read."""

    def __init__(self, source: Path, selection: Selection, skip: bool, counts: WalkCounts) -> None:
        self._source, self._skips, self._counts = source, skip, counts
        self._roots = roots_of(selection)

    def take(self, prefix: str, error: OSError) -> None:
        """Note that a folder is passed over.

        Raises:
            SourceError: it may not be.
        """
        is_root = prefix in self._roots
        if self._skips and not is_root:
            self._counts.unreadable[prefix] = error.strerror or str(error)
            return
        others = "" if is_root else "; on_unreadable: skip in the config goes on without such folders"
        raise SourceError(
            f"cannot be read: {error.strerror}; nothing was changed",
            where=show_name(path_of(self._source, prefix).rstrip("/")),
            hint=f"fix the permissions, or move the folder out of the source; then run again{others}",
        ) from error


def _iter_listings(
    source: Path, selection: Selection, skip: Collection[Path], counts: WalkCounts, errors: _FolderErrors
) -> Iterator[Listing]:
    """Yield the folders in the order of the walk, at most `BLOCK_FILES` names at a time."""
    skipped = {(s.st_dev, s.st_ino) for s in map(stat_or_none, skip) if s is not None}
    chooser = None
    if selection.include or selection.exclude or selection.ignore_case or selection.follow_links:
        chooser = Chooser(source, selection, skipped, counts)
        read = chooser.read_folder
    else:
        read = partial(read_folder, source, selection.endings, skipped, counts)
    # A stack of folders still to enter, deepest first; folders of one parent are pushed in reverse order.
    folders = roots_of(selection)[::-1]
    while folders:
        prefix = folders.pop()
        try:
            names, subfolders = read(prefix)
        except OSError as error:
            errors.take(prefix, error)
            continue
        for start in range(0, len(names), BLOCK_FILES):
            yield prefix, names[start : start + BLOCK_FILES]
        folders.extend(reversed(subfolders))
    if chooser is not None:
        chooser.note_unmatched()


def _helped(
    source: Path, listings: Iterator[Listing], counts: WalkCounts, errors: _FolderErrors, processes: int
) -> Iterator[Block]:
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
                if isinstance(stats, OSError):
                    errors.take(prefix, stats)
                else:
                    yield from _block_of(prefix, names, stats, counts)


def _block_of(prefix: str, names: list[str], stats: _Stats, counts: WalkCounts) -> Iterator[Block]:
    """Yield the files of a listing, unless there is none."""
    counts.irregular += stats.n_irregular
    if stats.missing:
        names = [name for at, name in enumerate(names) if at not in stats.missing]
    if names:
        yield list(zip([prefix + name for name in names], stats.sizes, stats.mtimes_ns, repeat("")))


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


def _stat_files(source: Path, prefix: str, names: list[str]) -> _Stats:
    """Return sizes and mtimes of the files of one folder.

    Raises:
        OSError: `os.stat` of one of them fails, although it is there.
    """
    sizes, mtimes_ns, missing = array("q"), array("q"), set[int]()
    n_irregular = 0
    stat_name, is_regular = os.stat, stat.S_ISREG
    with _base_of(path_of(source, prefix), len(names)) as (folder, base):
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
