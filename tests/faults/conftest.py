"""Every test of this folder injects a fault: `pytest -m faults` runs them, `-m "not faults"` leaves them out.

R3PO_FAULT_CASES is how many cases a generator draws, R3PO_FAULT_SEED what they are drawn from. Both are printed by a
test that fails, so that one can draw the same again.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # of the whole session: the hook is called once, whoever has it
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


class Draw:
    """How many cases a generator draws, and what from: the same seed and number give the same case."""

    def __init__(self) -> None:
        self.seed = os.environ.get("R3PO_FAULT_SEED", "1")
        self._n_cases = os.environ.get("R3PO_FAULT_CASES")

    def n_cases(self, usual: int) -> int:
        return usual if self._n_cases is None else int(self._n_cases)

    def case(self, name: object, number: int) -> random.Random:
        return random.Random(f"{self.seed} {name} {number}")


@pytest.fixture(scope="session")
def draw() -> Draw:
    found = Draw()
    print(f"R3PO_FAULT_SEED={found.seed}")
    return found


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the whole session, in memory where there is such a place."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(prefix="r3po-faults-", dir="/dev/shm") as folder:
        yield Path(folder)
