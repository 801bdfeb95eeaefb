"""A first look into a folder of files, for `r3po init --from`: how names end, how large files are, one to open.

It looks at a limited number of names for some seconds, and says so where it stopped there. It passes over what a run
passes over: names that begin with a dot, links to folders, what is no file.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from r3po.config.folders import hint_of_missing
from r3po.errors import SourceError
from r3po.storage.names import show_name

MOST_ENTRIES = 100_000
MOST_SECONDS = 5.0
"""Where a look stops."""

MOST_SAMPLE_BYTES = 1 << 20
"""Larger files are not opened."""

_SUFFIX = re.compile(r"\.[A-Za-z0-9_+-]*[A-Za-z][A-Za-z0-9_+-]*")
_LONGEST_SUFFIX = 12
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".br")
"""Suffixes that stand behind another one: `.json.gz`."""


@dataclass(slots=True)
class SuffixCount:
    """The files whose names end alike."""

    n_files: int = 0
    size_bytes: int = 0
    sample: Path | None = None
    """The first that is neither empty nor large."""


@dataclass(slots=True)
class SourceLook:
    """What a look has found."""

    folder: Path
    suffixes: dict[str, SuffixCount] = field(default_factory=dict)
    """By suffix; that of names without one is empty."""
    n_hidden: int = 0
    n_linked_folders: int = 0
    n_irregular: int = 0
    n_unreadable: int = 0
    """Folders that could not be listed, and files without a size."""
    stopped_at: str = ""
    """Where the look stopped before it was through, in words."""

    @property
    def n_files(self) -> int:
        return sum(count.n_files for count in self.suffixes.values())

    def by_number(self) -> list[tuple[str, SuffixCount]]:
        """Return the suffixes, the commonest first."""
        return sorted(self.suffixes.items(), key=lambda item: (-item[1].n_files, -item[1].size_bytes, item[0]))

    @property
    def passed_over(self) -> dict[str, int]:
        """How many were passed over, by the reason, in the words of a run."""
        passed = {
            "hidden": self.n_hidden,
            "linked folders": self.n_linked_folders,
            "not regular files": self.n_irregular,
            "not readable": self.n_unreadable,
        }
        return {reason: n for reason, n in passed.items() if n}

    @property
    def passed_over_text(self) -> str:
        """The same, for people; empty: nothing was."""
        return ", ".join(f"{n:,} {reason}" for reason, n in self.passed_over.items())

    def commonest(self) -> tuple[str, SuffixCount]:
        """Return the commonest suffix; the empty one, where no file has a suffix."""
        by_number = self.by_number()
        return next((item for item in by_number if item[0]), by_number[0])

    @property
    def _shown(self) -> str:
        return show_name(str(self.folder))


def look_at(folder: Path, most_entries: int = MOST_ENTRIES, most_seconds: float = MOST_SECONDS) -> SourceLook:
    """Return what lies in a folder and its subfolders, in the order in which a run would meet it.

    Raises:
        SourceError: it is missing, is no folder, cannot be listed, or holds no file that a run would take.
    """
    look = SourceLook(folder)
    end, left = time.monotonic() + most_seconds, most_entries
    to_do = [folder]
    while to_do:
        subfolders: list[Path] = []
        for entry in _entries(to_do.pop(), look):
            if not left or time.monotonic() > end:
                look.stopped_at = f"{most_seconds:g} seconds" if left else f"{most_entries:,} names"
                to_do.clear()
                subfolders.clear()
                break
            left -= 1
            if _note(entry, look):
                subfolders.append(Path(entry.path))
        to_do += sorted(subfolders, key=os.fsencode, reverse=True)
    if not look.n_files:
        raise _no_file(look)
    return look


# Private functions


def _entries(folder: Path, look: SourceLook) -> Iterator[os.DirEntry[str]]:
    """Yield a folder's entries: the first `MOST_ENTRIES` of them in byte order, the rest as they come."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(islice(entries, MOST_ENTRIES), key=lambda entry: os.fsencode(entry.name))
            yield from entries
    except OSError as error:
        if folder == look.folder:
            raise _cannot_list(folder, error) from error
        look.n_unreadable += 1


def _note(entry: os.DirEntry[str], look: SourceLook) -> bool:
    """Count an entry, and return whether it is a subfolder to enter."""
    if entry.name.startswith("."):
        look.n_hidden += 1
        return False
    try:
        if entry.is_dir(follow_symlinks=False):
            return True
        if entry.is_dir():
            look.n_linked_folders += 1
        elif not entry.is_file():
            look.n_irregular += 1
        else:
            _note_file(entry, look)
    except OSError:
        look.n_unreadable += 1
    return False


def _note_file(entry: os.DirEntry[str], look: SourceLook) -> None:
    size = entry.stat().st_size
    count = look.suffixes.setdefault(suffix_of(entry.name), SuffixCount())
    count.n_files += 1
    count.size_bytes += size
    if count.sample is None and 0 < size <= MOST_SAMPLE_BYTES:
        count.sample = Path(entry.path)


def suffix_of(name: str) -> str:
    """Return how a file's name ends, such as `.json` or `.json.gz`; empty where it has no suffix of letters."""
    stem, suffix = os.path.splitext(name)
    if not _SUFFIX.fullmatch(suffix) or len(suffix) > _LONGEST_SUFFIX:
        return ""
    return suffix_of(stem) + suffix if suffix.lower() in _COMPRESSED else suffix


def _cannot_list(folder: Path, error: OSError) -> SourceError:
    shown = show_name(str(folder))
    if isinstance(error, FileNotFoundError):
        return SourceError(f"source folder not found: {shown}", hint=hint_of_missing(folder))
    if isinstance(error, NotADirectoryError):
        hint = f"name the folder that holds it: {show_name(str(folder.parent))}"
        return SourceError(f"{shown} is no folder", hint=hint)
    return SourceError(
        f"source folder cannot be listed: {shown}", evidence=error.strerror, hint="look at its permissions and its disk"
    )


def _no_file(look: SourceLook) -> SourceError:
    passed = look.passed_over_text
    until = f" among the first {look.stopped_at}" if look.stopped_at else ""
    hidden = "names that begin with a dot are hidden, and passed over; " if look.n_hidden else ""
    return SourceError(
        f"there is no file in {look._shown}{until}",
        evidence=f"passed over: {passed}" if passed else None,
        hint=f"{hidden}name a folder that holds files; r3po init without --from makes one with small samples",
    )
