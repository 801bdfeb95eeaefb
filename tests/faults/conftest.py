"""Every test of this folder injects a fault: `pytest -m faults` runs them, `-m "not faults"` leaves them out.

R3PO_FAULT_CASES is how many cases a generator draws, R3PO_FAULT_SEED what they are drawn from. Both are printed by a
test that fails, so that one can draw the same again.
"""

from __future__ import annotations

import os
import random
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
