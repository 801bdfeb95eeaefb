"""What each machine of a cluster did in a run, for its summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from r3po.events import MachineShare


@dataclass(slots=True)
class _Share:
    since: float
    until: float
    n_files: int = 0
    n_lost: int = 0


class MachineShares:
    """Counts files and losses by machine; workers without a machine's name are on the only one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shares: dict[str, _Share] = {}

    def add(self, machine: str, n_files: int, seconds: float) -> None:
        """Count the files of a batch that took so many seconds."""
        share = self._of(machine, seconds)
        share.n_files += n_files
        share.until = self._clock()

    def add_loss(self, machine: str) -> None:
        """Count a worker that was lost."""
        self._of(machine, 0.0).n_lost += 1

    def all(self) -> tuple[MachineShare, ...]:
        """Return what each machine did, by name; nothing where there is only one."""
        return tuple(
            MachineShare(name, share.n_files, share.n_files / max(share.until - share.since, 0.001), share.n_lost)
            for name, share in sorted(self._shares.items())
            if name
        )

    # Private methods

    def _of(self, machine: str, seconds: float) -> _Share:
        if machine not in self._shares:
            now = self._clock()
            self._shares[machine] = _Share(now - seconds, now)
        return self._shares[machine]
