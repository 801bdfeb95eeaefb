"""Globs over paths relative to a folder, as pathlib's `full_match` has them: `**` stands for any folders, also none.

They are matched name by name on the way down, so that the walk knows of a folder before it enters it whether it is
excluded as a whole, and whether anything in it can match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

States = frozenset[tuple[int, int]]
"""How far globs have come on the way to a folder: the glob, and how many of its parts are used up."""


class Globs:
    """Some globs, of which one has to match.

    Args:
        globs: parts with one slash between them, of which each is a name with `*`, `?` and `[...]`, or `**`.
        ignore_case: letters match their other case, too.
    """

    def __init__(self, globs: Sequence[str], *, ignore_case: bool = False) -> None:
        flags = re.IGNORECASE if ignore_case else 0
        self._globs = [
            [None if part == "**" else re.compile(translate(part), flags) for part in glob.split("/")] for glob in globs
        ]
        self.start: States = self._closed({(number, 0) for number in range(len(globs))})
        """At the folder that the globs are relative to."""
        self._is_matched = [False] * len(globs)
        self._texts = globs

    def __bool__(self) -> bool:
        return bool(self._globs)

    def enter(self, states: States, name: str) -> States:
        """Return how far the globs have come at a file or folder of this name; empty: nothing below can match."""
        found: set[tuple[int, int]] = set()
        for number, at in states:
            parts = self._globs[number]
            if at == len(parts):
                continue
            part = parts[at]
            if part is None:
                found.add((number, at))
            elif part.match(name):
                found.add((number, at + 1))
        return self._closed(found)

    def is_match(self, states: States) -> bool:
        """Whether one of the globs has come to its end."""
        ended = [number for number, at in states if at == len(self._globs[number])]
        for number in ended:
            self._is_matched[number] = True
        return bool(ended)

    @property
    def unmatched_names(self) -> list[str]:
        """The globs that are a name alone and of which `is_match` has met none: they fit in the topmost folder only."""
        matched = zip(self._texts, self._is_matched, strict=True)
        return [glob for glob, is_matched in matched if not is_matched and "/" not in glob and glob != "**"]

    def leads_on(self, states: States) -> bool:
        """Whether something below the folder that this was reached at may match."""
        return any(at < len(self._globs[number]) for number, at in states)

    def _closed(self, states: set[tuple[int, int]]) -> States:
        """Add what is reached without a name, since `**` may stand for none."""
        waiting = list(states)
        while waiting:
            number, at = waiting.pop()
            parts = self._globs[number]
            if at < len(parts) and parts[at] is None and (number, at + 1) not in states:
                states.add((number, at + 1))
                waiting.append((number, at + 1))
        return frozenset(states)
