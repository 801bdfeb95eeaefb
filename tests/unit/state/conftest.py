"""What several tests of the state do to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Flips = Callable[[Path], Iterator[int]]


@pytest.fixture
def flips() -> Flips:
    """Yield each position of a file while a bit of that byte is flipped in it; afterwards the file is as it was."""

    def flips(path: Path) -> Iterator[int]:
        with open(path, "r+b", buffering=0) as file:
            for position, byte in enumerate(path.read_bytes()):
                for content in (byte ^ (1 << position % 8), byte):
                    file.seek(position)
                    file.write(bytes([content]))
                    if content != byte:
                        yield position

    return flips
