"""The objects of a bucket that are the job's, as the walk has the files of a folder.

Row order is the byte order of whole keys: not that of a walk, where the files of a folder come before its subfolders.
A path is what follows the source's prefix in the key. What a selection says of names holds for the parts of a key:
those that begin with a dot are passed over, and a folder that `exclude` names is left out with all that is below it.
Of keys that are passed over each counts as one, since a store has no folders.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from r3po.config.selection import Selection
from r3po.source.folders import WalkCounts
from r3po.source.globs import Globs, States
from r3po.storage.listing import list_store
from r3po.storage.objects import ObjectStore
from r3po.storage.s3_list import key_order

ObjectBlock = list[tuple[str, int, int, str]]
"""Objects of a listing: path, size in bytes, mtime_ns, tag."""


def list_blocks(
    store: ObjectStore,
    which: Selection,
    *,
    start_after: str = "",
    counts: WalkCounts | None = None,
    scratch: Path | None = None,
) -> Generator[ObjectBlock]:
    """Yield the objects below the store's URL that are one of `which`, in row order, in blocks that are not empty.

    Args:
        store: whose URL is the source.
        which: the objects to find; `folders` and `follow_links` say nothing here.
        start_after: only of paths behind this one.
        counts: filled with what was passed over.
        scratch: folder for a listing that has to be sorted and does not fit into memory.

    Raises:
        StoreError: the store cannot be listed: its objects must not be taken for deleted ones.
        OSError: the store fails for now.
    """
    chooser = KeyChooser(which, WalkCounts() if counts is None else counts)
    prefix = store.url.prefix
    behind = prefix + start_after if start_after else ""
    with closing(list_store(store, start_after=behind, scratch=scratch)) as pages:
        for page in pages:
            block = ObjectBlock()
            for key, size, tag, mtime_ns in page:
                path = key[len(prefix) :]
                if chooser.takes(path, size):
                    block.append((path, size, mtime_ns, tag))
            if block:
                yield block
    chooser.note_unmatched()


def path_order(path: str) -> bytes:
    """Return the sort key of a path: row order."""
    return key_order(path)


class KeyChooser:
    """Decides of each path, in their order, whether it is the job's. Of one listing."""

    def __init__(self, which: Selection, counts: WalkCounts) -> None:
        self._counts = counts
        self._is_case_ignored = which.ignore_case
        self._endings = tuple(map(self._folded, which.endings))
        self._include = Globs(which.include, ignore_case=which.ignore_case)
        self._exclude = Globs(which.exclude, ignore_case=which.ignore_case)
        self._folder: str | None = None
        self._states: tuple[States, States] | None = None
        self._is_hidden = False
        """The last two: of `_folder`. Keys of one folder mostly come together."""

    def takes(self, path: str, size: int) -> bool:
        """Whether an object is the job's; one that is not is counted."""
        folder, _, name = path.rpartition("/")
        if not name:
            self._counts.irregular += size > 0  # an empty one stands for a folder
            return False
        if folder != self._folder:
            self._enter(folder)
        if self._is_hidden or name[0] == ".":
            self._counts.hidden += 1
        elif not self._folded(name).endswith(self._endings):
            self._count_other(name)
        elif self._states is None or not self._is_chosen(name, *self._states):
            self._counts.excluded += 1
        else:
            return True
        return False

    def note_unmatched(self) -> None:
        """Put the globs that fitted nothing into the counts."""
        self._counts.unmatched += [*self._include.unmatched_names, *self._exclude.unmatched_names]

    # Private methods

    def _enter(self, folder: str) -> None:
        """Find out how far the globs come on the way to a folder."""
        self._folder = folder
        parts = folder.split("/") if folder else []
        self._is_hidden = any(part[:1] == "." for part in parts)
        include, exclude = self._include.start, self._exclude.start
        self._states = include, exclude
        for part in parts:
            include, exclude = self._include.enter(include, part), self._exclude.enter(exclude, part)
            if self._exclude.is_match(exclude) or (self._include and not self._include.leads_on(include)):
                self._states = None
                return
            self._states = include, exclude

    def _is_chosen(self, name: str, include: States, exclude: States) -> bool:
        if self._include and not self._include.is_match(self._include.enter(include, name)):
            return False
        return not (exclude and self._exclude.is_match(self._exclude.enter(exclude, name)))

    def _count_other(self, name: str) -> None:
        self._counts.other += 1
        for ending in self._endings:
            if name.lower().endswith(ending.lower()):
                self._counts.other_case[name[-len(ending) :]] += 1
                break

    def _folded(self, text: str) -> str:
        return text.lower() if self._is_case_ignored else text
