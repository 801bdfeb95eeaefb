"""Several machines for tests: one Ray over three of them, shared by the whole session.

Every test of this folder is of `make cluster`: `pytest -m cluster` runs them. A test may hit the machines as it likes:
before the next one those that were hit are started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Machines, why_not

HERE = Path(__file__).parent

MEMORY_MB = 2048
"""Of each machine but the first, where the kernel keeps such a limit: Ray and two workers need half of it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # of the whole session: the hook is called once, whoever has it
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def three_machines() -> Iterator[Machines]:
    if reason := why_not():
        pytest.skip(reason)
    with Machines(3, memory_mb=MEMORY_MB) as machines:
        machines.start_ray()
        yield machines


@pytest.fixture
def machines(three_machines: Machines) -> Machines:
    """Three machines, joined by Ray, whatever the test before did to them."""
    three_machines.mend()
    return three_machines
