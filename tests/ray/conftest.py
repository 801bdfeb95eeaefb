"""One Ray for all files of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from some_ray import some_ray


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Some Ray, until the session ends; r3po uses it and does not stop it."""
    with some_ray():
        yield
