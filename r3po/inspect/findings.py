"""What a check found: each finding says where, what is wrong and what fixes it. Only the first of a kind are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from r3po.errors import DamagedStateError, R3poError

UNREADABLE = (DamagedStateError, OSError)
"""What reading the job's state may raise, and is a finding."""

MOST_KEPT = 1000
"""Findings of one kind that are kept; the others are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it has to be."""

    kind: str
    """manifest, shard_file, commit, columns, outcomes, segment, pending, part, values, failures, success, claim,
    foreign, settings, suspects, source or reset."""
    where: str
    what: str
    hint: str
    """What to do to fix it."""


@dataclass(slots=True)
class Findings:
    """Collects findings and notes; a note is about what the next run fixes by itself."""

    counts: dict[str, int] = field(default_factory=dict)
    """All findings, by kind."""
    notes: list[str] = field(default_factory=list)
    _kept: dict[str, list[Finding]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Finding]:
        """Yield what was kept, a kind after the other."""
        for findings in self._kept.values():
            yield from findings

    def add(self, kind: str, where: Path | str, what: str, hint: str) -> None:
        self._count(kind, 1)
        kept = self._kept.setdefault(kind, [])
        if len(kept) < MOST_KEPT:
            kept.append(Finding(kind, str(where), what, hint))

    def add_error(self, kind: str, error: R3poError | OSError) -> None:
        """Add what an error says."""
        if isinstance(error, R3poError):
            self.add(kind, str(error.where), str(error.args[0]), error.hint or "")
        else:
            where = error.filename if isinstance(error.filename, str) else "a file of the job"
            self.add(kind, where, f"cannot be read: {error.strerror or error}", "fix its permissions or its disk")

    def note(self, text: str) -> None:
        if len(self.notes) < MOST_KEPT:
            self.notes.append(text)

    def extend(self, other: Findings) -> None:
        """Take over all that `other` has."""
        for kind, kept in other._kept.items():
            for finding in kept:
                self.add(kind, finding.where, finding.what, finding.hint)
            self._count(kind, other.counts[kind] - len(kept))
        for text in other.notes:
            self.note(text)

    def _count(self, kind: str, n: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + n
