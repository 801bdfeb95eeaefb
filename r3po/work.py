"""What is handed out and what became of it, as plain data: spans of places, and how a worker died."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]
"""A range of places: from the first up to, not including, the second."""


@dataclass(frozen=True, slots=True)
class Death:
    """How the process of a worker ended."""

    cause: str
    """For people: `SIGSEGV`, `exit code 7`, `killed`, `out of memory`."""
    is_known: bool = False
    """The process itself, or whoever ended it for its memory, left word of the cause."""
    stack: str = ""
    """The stack of its last moment, as `faulthandler` wrote it; may be empty."""
    is_memory: bool = False
