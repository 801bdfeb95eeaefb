"""A first look into a folder of files, for `r3po init --from`: how names end, how large files are, one to open.

It takes the walk of a run, over all names, for a limited number of files and seconds, and says so where it stopped.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from r3po.config.folders import hint_of_missing
from r3po.config.selection import Selection
from r3po.errors import SourceError
from r3po.source.folders import WalkCounts
from r3po.source.walk import walk_blocks
from r3po.storage.names import show_name
from r3po.text import counts_text

MOST_FILES = 100_000
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
    counts: WalkCounts = field(default_factory=WalkCounts)
    """What was passed over."""
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
            "hidden": self.counts.hidden,
            "linked folders": self.counts.linked_folders,
            "not regular files": self.counts.irregular,
            "not readable": len(self.counts.unreadable),
        }
        return {reason: n for reason, n in passed.items() if n}

    @property
    def passed_over_text(self) -> str:
        """The same, for people; empty: nothing was."""
        return counts_text(self.passed_over)

    def commonest(self) -> tuple[str, SuffixCount]:
        """Return the commonest suffix; the empty one, where no file has a suffix."""
        by_number = self.by_number()
        return next((item for item in by_number if item[0]), by_number[0])

    @property
    def _shown(self) -> str:
        return show_name(str(self.folder))


def look_at(folder: Path, most_files: int = MOST_FILES, most_seconds: float = MOST_SECONDS) -> SourceLook:
    """Return what lies in a folder and its subfolders, in the order in which a run would meet it.

    Raises:
        SourceError: it is missing, is no folder, cannot be listed, or holds no file that a run would take.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise _cannot_list(folder, error) from error
    look = SourceLook(folder)
    end, left = time.monotonic() + most_seconds, most_files
    with closing(walk_blocks(folder, Selection(("",)), counts=look.counts, skip_unreadable=True)) as blocks:
        for block in blocks:
            if not left or time.monotonic() > end:
                look.stopped_at = f"{most_seconds:g} seconds" if left else f"{most_files:,} files"
                break
            for path, size, *_ in block[:left]:
                _note_file(path, size, look)
            if len(block) > left:
                look.stopped_at = f"{most_files:,} files"
                break
            left -= len(block)
    if not look.n_files:
        raise _no_file(look)
    return look


# Private functions


def _note_file(path: str, size: int, look: SourceLook) -> None:
    count = look.suffixes.setdefault(suffix_of(os.path.basename(path)), SuffixCount())
    count.n_files += 1
    count.size_bytes += size
    if count.sample is None and 0 < size <= MOST_SAMPLE_BYTES:
        count.sample = look.folder / path


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
    hidden = "names that begin with a dot are hidden, and passed over; " if look.counts.hidden else ""
    return SourceError(
        f"there is no file in {look._shown}{until}",
        evidence=f"passed over: {passed}" if passed else None,
        hint=f"{hidden}name a folder that holds files; r3po init without --from makes one with small samples",
    )
