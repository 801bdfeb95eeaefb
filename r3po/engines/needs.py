"""What each worker needs, and for how many such workers a Ray or a machine has room. Arithmetic, without Ray itself."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r3po.config.keys import n_cores
from r3po.config.settings import Config
from r3po.errors import ConfigError
from r3po.text import count_of, size_text

_SHOWN_MACHINES = 5

Amounts = Mapping[str, float]
"""Resources by the names that Ray has for them: CPU, GPU, memory in bytes, and others."""


@dataclass(frozen=True)
class Needs:
    """What the config says of the workers' resources."""

    each: Amounts = field(default_factory=dict)
    """Of one worker; empty: nothing is said."""
    is_auto: bool = False
    """Fewer workers are enough, where not all have room."""

    def fit(self, n_workers: int, machines: Sequence[Amounts], place: str) -> int:
        """Return how many workers to start: all, or with `processes: auto` as many as have room.

        Args:
            machines: what each of them has, whoever uses it now.
            place: where that is, for people: `on this machine`.

        Raises:
            ConfigError: they have no room, however long they would wait.
        """
        most = sum(room_for(self.each, machine) for machine in machines) if any(self.each.values()) else n_workers
        if most >= n_workers or (self.is_auto and most):
            return min(n_workers, int(most))
        who = "one worker does" if n_workers == 1 or not most else f"{n_workers} workers do"
        there = [_text({name: machine.get(name, 0) for name in self.each}) for machine in machines]
        more = [f"and {len(there) - _SHOWN_MACHINES} more"] if len(there) > _SHOWN_MACHINES else []
        hint = f"write  processes: {most:.0f}  or  auto" if most else "ask for less with  worker:  in the config"
        raise ConfigError(
            f"{who} not fit {place}: each is to have {_text(self.each)}",
            evidence="\n".join([f"there: {one}" for one in there[:_SHOWN_MACHINES]] + more),
            hint=hint + ("; or use a Ray of your own, whose machines have it" if _is_odd(self.each) else ""),
        )

    def fit_cluster(self, n_workers: int, machines: Sequence[Amounts]) -> int:
        """Return how many workers to start in a Ray that is there: with `processes: auto` one a CPU of all machines."""
        n_cpus = int(sum(machine.get("CPU", 0) for machine in machines))
        return self.fit(max(1, n_cpus) if self.is_auto else n_workers, machines, "into this Ray")

    def fit_cores(self, n_workers: int) -> int:
        """Do the same for this machine's cores alone, which are known before Ray has started."""
        return Needs({name: n for name, n in self.each.items() if name == "CPU"}, self.is_auto).fit(
            n_workers, [{"CPU": n_cores()}], "on this machine"
        )

    def fit_machine(self, n_workers: int) -> int:
        """Do the same for all that a machine without Ray gives: cores and memory."""
        return self.fit(n_workers, [{"CPU": n_cores(), "memory": _memory_bytes()}], "on this machine")

    def refuse_without_ray(self) -> None:
        """Raise ConfigError if the workers are to have what Ray alone can give them."""
        asked = {name: amount for name, amount in self.each.items() if amount and name not in ("CPU", "memory")}
        if asked:
            raise ConfigError(
                f"engine: processes cannot give a worker {_text(asked)}: Ray shares these out",
                hint="r3po run --engine ray, or take it out of  worker:  in the config",
            )

    @property
    def n_threads(self) -> int:
        """Threads for the libraries of a worker: one a CPU of its own."""
        return max(1, int(self.each.get("CPU", 1)))

    def shortage(self, free: Amounts, there: Amounts) -> str:
        """Say which resource one more worker waits for, since others use it; empty: none."""
        for name, amount in ({"CPU": 1.0} | dict(self.each)).items():
            if free.get(name, 0) < amount:
                what = "CPU" if name == "CPU" and amount == 1 else _text({name: amount})
                return f"Ray has no free {what} ({there.get(name, 0):g} in all)"
        return ""


def needs_of(config: Config) -> Needs:
    """Return what each worker of a job needs."""
    return Needs({} if config.worker is None else config.worker.needs, is_auto=config.is_auto)


def room_for(each: Amounts, machine: Amounts) -> float:
    """Return for how many workers a machine has room."""
    # Rounded: 0.1 + 0.2 is not 0.3.
    return min(math.floor(round(machine.get(name, 0) / amount, 6)) for name, amount in each.items() if amount)


def options_of(each: Amounts) -> dict[str, Any]:
    """Return what a worker needs as Ray's options of an actor."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    own = {names[name]: amount for name, amount in each.items() if name in names}
    others = {name: amount for name, amount in each.items() if name not in names}
    return {**own, **({"resources": others} if others else {})}


# Private functions


def _memory_bytes() -> float:
    """Return the memory of this machine, or what a container may have of it."""
    found = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # `max`: none
            found.append(float(Path(limit).read_text()))
    return min(found)


def _is_odd(each: Amounts) -> bool:
    return bool(each.keys() - {"CPU", "GPU", "memory"})


def _text(amounts: Amounts) -> str:
    return ", ".join(_amount(name, amount) for name, amount in amounts.items())


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{size_text(amount)} of memory"
    if not amount:
        return f"no {name}"
    return count_of(int(amount), name) if amount == int(amount) and name in ("CPU", "GPU") else f"{amount:g} {name}"
