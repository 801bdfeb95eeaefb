"""Runs in this process that die as a file is begun, and what they have published."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import r3po.storage.durable as storage


def cut_short(run: Callable[[], object], after: int) -> bool:
    """Run, and die as the file of that number is begun. Returns whether it came so far."""

    class Died(BaseException):
        pass

    numbers = itertools.count()

    def create(path: Path, flags: int, mode: int) -> int:
        if next(numbers) >= after:  # the dead stay dead: f may not make a failure of it
            raise Died
        return os.open(path, flags, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_create", create)
        try:
            run()
        except Died:
            return True
    return False


def parts_in(output: Path) -> dict[str, bytes]:
    """Return every part in an output folder, by kind and name, in the order of the names."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(output.glob("*/part-*"))}
