"""Reading one folder of the source: which of its names may be files of the job, and which folders are entered.

Without globs and links to follow it is one loop over the names, `read_folder`; `Chooser` is for all else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from r3po.config.selection import Selection
from r3po.source.globs import Globs, States


def is_below(path: str, folders: Collection[str]) -> bool:
    """Whether a path lies in one of some folders, which are paths that end with a slash."""
    at = path.find("/")
    while at >= 0:
        if path[: at + 1] in folders:
            return True
        at = path.find("/", at + 1)
    return False


@dataclass(slots=True)
class WalkCounts:
    """What the walk passed over, for the screen."""

    hidden: int = 0
    """Files and folders whose name begins with a dot."""
    linked_folders: int = 0
    """Links to folders that were not entered; with `follow_links`, since those are walked under another name."""
    irregular: int = 0
    """Dangling links, FIFOs, sockets and devices with the right suffix."""
    other_case: Counter[str] = field(default_factory=Counter)
    """Files that end with `source_file_part` in other letters, such as .JSON, by this ending; they are in `other`."""
    other: int = 0
    """Files whose name does not end with `source_file_part`."""
    excluded: int = 0
    """Files whose name ends so, and that `include` and `exclude` leave out."""
    excluded_folders: int = 0
    """Folders that were not entered because of them."""
    unmatched: list[str] = field(default_factory=list)
    """Globs that are a name alone and fit no file and no folder; complete at the end of the walk."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folders that could not be listed and were skipped, as paths that end with a slash, each with the reason."""


def stat_or_none(folder: Path | str) -> os.stat_result | None:
    """Return what a folder is, links followed; None: it is not there, or cannot be seen."""
    try:
        return os.stat(folder)
    except OSError:
        return None


def roots_of(selection: Selection) -> list[str]:
    """Return the folders of the source as prefixes of paths, in walk order."""
    return [folder and folder.rstrip("/") + "/" for folder in selection.folders]


def path_of(source: Path, prefix: str) -> str:
    """Return the path of a folder, with a slash at its end."""
    path = os.path.join(source, prefix)
    return os.path.normpath(path) + "/" if prefix[:1] == "." else path  # as `absolute_path`


def read_folder(
    source: Path, endings: tuple[str, ...], skipped: Collection[tuple[int, int]], counts: WalkCounts, prefix: str
) -> tuple[list[str], list[str]]:
    """Return the names in one folder that may be files, and its subfolders (as prefixes that end with a slash), sorted.

    Names only: of a folder with millions of files more would not fit into memory.
    """
    names: list[str] = []
    subfolders: list[str] = []
    suffix = endings[0] if len(endings) == 1 else endings
    with os.scandir(path_of(source, prefix)) as entries:
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
                _count_passed_over(entry, endings, counts)
    _sort_names(names, subfolders)
    return names, subfolders


class Chooser:
    """Reads folders as `read_folder` does, and leaves out what the globs of a selection say; follows links to folders.

    A folder that can be reached twice is walked once: under its own name, if it lies in the source and is not left out
    there, else under that which comes first in the walk.
    """

    def __init__(
        self, source: Path, selection: Selection, skipped: Collection[tuple[int, int]], counts: WalkCounts
    ) -> None:
        self._source, self._skipped, self._counts = source, skipped, counts
        self._is_case_ignored, self._follows = selection.ignore_case, selection.follow_links
        self._endings = tuple(map(self._folded, selection.endings))
        self._include = Globs(selection.include, ignore_case=selection.ignore_case)
        self._exclude = Globs(selection.exclude, ignore_case=selection.ignore_case)
        self._start = self._include.start, self._exclude.start
        roots = roots_of(selection)
        self._states = dict.fromkeys(roots, self._start)
        """How far the globs have come at each folder that is still to be read."""
        found = [(path_of(source, root), root) for root in roots] if self._follows else []
        self._real_roots = [os.path.realpath(path) for path, _ in found]
        self._walked = {(s.st_dev, s.st_ino): root for path, root in found if (s := stat_or_none(path)) is not None}
        """Folders that are walked, by device and inode, each with its name; only where links are followed."""

    def read_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """See `read_folder`."""
        names: list[str] = []
        subfolders: list[str] = []
        states = self._states.pop(prefix)
        path = path_of(self._source, prefix)
        if self._follows and self._is_walked_already(path, prefix):
            self._counts.linked_folders += 1
            return names, subfolders
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    self._counts.hidden += 1
                elif entry.is_dir(follow_symlinks=False) or (self._follows and _is_link_to_folder(entry)):
                    self._take_folder(entry, prefix, states, subfolders)
                elif self._folded(entry.name).endswith(self._endings) and (
                    entry.is_file(follow_symlinks=False) or _is_link_to_file(entry)
                ):
                    self._take_file(entry.name, states, names)
                else:
                    _count_passed_over(entry, self._endings, self._counts, self._folded)
        _sort_names(names, subfolders)
        return names, subfolders

    def note_unmatched(self) -> None:
        """Put the globs that fitted nothing into the counts."""
        self._counts.unmatched += [*self._include.unmatched_names, *self._exclude.unmatched_names]

    # Private methods

    def _take_file(self, name: str, states: tuple[States, States], names: list[str]) -> None:
        include, exclude = states
        is_included = not self._include or self._include.is_match(self._include.enter(include, name))
        if is_included and not (exclude and self._exclude.is_match(self._exclude.enter(exclude, name))):
            names.append(name)
        else:
            self._counts.excluded += 1

    def _take_folder(
        self, entry: os.DirEntry[str], prefix: str, states: tuple[States, States], subfolders: list[str]
    ) -> None:
        below = self._enter(states, entry.name)
        if below is None:
            self._counts.excluded_folders += 1
        elif self._skipped and _device_and_inode(entry, follow=self._follows) in self._skipped:
            return
        elif self._follows and entry.is_symlink() and self._has_own_name(os.path.realpath(entry.path)):
            self._counts.linked_folders += 1
        else:
            folder = f"{prefix}{entry.name}/"
            subfolders.append(folder)
            self._states[folder] = below

    def _enter(self, states: tuple[States, States], name: str) -> tuple[States, States] | None:
        """Return how far the globs have come in a subfolder; None: nothing in it is one of the files."""
        include, exclude = self._include.enter(states[0], name), self._exclude.enter(states[1], name)
        is_left_out = self._exclude.is_match(exclude) or (self._include and not self._include.leads_on(include))
        return None if is_left_out else (include, exclude)

    def _has_own_name(self, path: str) -> bool:
        """Whether a folder, given without links, is met in the walk without following a link."""
        for root in self._real_roots:
            if path == root:
                return True
            if path.startswith(root.rstrip("/") + "/"):
                states: tuple[States, States] | None = self._start
                for name in path[len(root) :].strip("/").split("/"):
                    states = None if states is None or name[0] == "." else self._enter(states, name)
                return states is not None
        return False

    def _is_walked_already(self, path: str, prefix: str) -> bool:
        status = os.stat(path)
        return self._walked.setdefault((status.st_dev, status.st_ino), prefix) != prefix

    def _folded(self, text: str) -> str:
        return text.lower() if self._is_case_ignored else text


# Private functions


def _is_link_to_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_file()
    except OSError:
        return False  # it leads nowhere: a loop, or through a file


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False


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


def _count_passed_over(
    entry: os.DirEntry[str], endings: tuple[str, ...], counts: WalkCounts, folded: Callable[[str], str] = str
) -> None:
    if entry.is_symlink() and os.path.isdir(entry.path):
        counts.linked_folders += 1
    elif folded(entry.name).endswith(endings):
        counts.irregular += 1
    else:
        counts.other += 1
        name = entry.name.lower()
        for ending in endings:
            if name.endswith(ending.lower()):
                counts.other_case[entry.name[-len(ending) :]] += 1
                break


def _device_and_inode(entry: os.DirEntry[str], *, follow: bool = False) -> tuple[int, int]:
    status = entry.stat(follow_symlinks=follow)
    return status.st_dev, status.st_ino
