"""Failures put together that have one cause: by exception, place in the user's code, and message.

Of messages only the wording counts: digits, quoted texts and paths, which each file has of its own, are masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from r3po.text import first_line

_MASKS = (
    (re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)|\"(?:[^\"\\]|\\.)*\""), "'...'"),
    (re.compile(r"(?<!\w)[\w.~-]*/[^\s,;:)\]}]*"), "..."),
    (re.compile(r"0x[0-9a-fA-F]+|[+-]?\d+(?:[.,_]\d+)*(?:[eE][+-]?\d+)?"), "N"),
)
"""What is masked in a message, in this order: quoted texts, paths, numbers."""

_KEYS: dict[str, Callable[[dict[str, Any]], tuple[str, ...]]] = {
    "all": lambda failure: (failure["error_type"], failure["where"], mask(failure["message"])),
    "place": lambda failure: (failure["where"],),
    "type": lambda failure: (failure["error_type"],),
    "message": lambda failure: (mask(failure["message"]),),
}
WAYS = tuple(_KEYS)
"""By what failures may be grouped; `all`: exception, place and message together."""


@dataclass(slots=True)
class FailureGroup:
    """Failures of one cause."""

    number: int
    """From 1; the largest group is the first."""
    error_type: str
    where: str
    message: str
    """The first line of the first one's message, as it is."""
    n_files: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """In row order, as `read_failures` gives them."""

    @property
    def paths(self) -> list[str]:
        return [failure["path"] for failure in self.failures]


def group_failures(failures: Iterable[dict[str, Any]], by: str = "all") -> list[FailureGroup]:
    """Return the groups of failures, the largest first.

    Args:
        failures: as `read_failures` gives them.
        by: one of `WAYS`.
    """
    groups: dict[tuple[str, ...], FailureGroup] = {}
    for failure in failures:
        key = _KEYS[by](failure)
        if key not in groups:
            groups[key] = FailureGroup(0, failure["error_type"], failure["where"], first_line(failure["message"]))
        groups[key].failures.append(failure)
    ordered = sorted(groups.values(), key=lambda group: -len(group.failures))
    for number, group in enumerate(ordered, start=1):
        group.number, group.n_files = number, len(group.failures)
    return ordered


def with_groups(failures: Iterable[dict[str, Any]], by: str = "all") -> list[dict[str, Any]]:
    """Return the failures in their order, each with the number of its group under the key `group`."""
    failures = list(failures)
    for group in group_failures(failures, by):
        for failure in group.failures:
            failure["group"] = group.number
    return failures


def mask(message: str) -> str:
    """Return the first line of a message without what differs from file to file."""
    masked = first_line(message)
    for pattern, instead in _MASKS:
        masked = pattern.sub(instead, masked)
    return masked
