"""Fixtures for tests that run r3po whole: Ray, and tiny jobs in memory."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import NewJob, TinyJob, short_folder, write_tiny_function
from some_ray import some_ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all tests of a file that only need some Ray; r3po uses it and does not stop it."""
    with some_ray():
        yield


@pytest.fixture(params=["serial", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines, one after the other."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    name: str = request.param
    return name


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short temporary folder for one test's own Ray."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the whole session, in memory where there is such a place, since a run syncs a hundred times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("jobs")
        return
    with tempfile.TemporaryDirectory(prefix="r3po-test-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def jobs_folder(memory_folder: Path) -> Iterator[Path]:
    """Where `new_job` makes them."""
    with tempfile.TemporaryDirectory(dir=memory_folder) as folder:
        yield Path(folder)


@pytest.fixture
def new_job(jobs_folder: Path) -> Iterator[NewJob]:
    """Make jobs: `new_job()` in the folder `job`, or under another name beside it. All share one function file."""
    path, modules = sys.path[:], set(sys.modules)
    function = jobs_folder / "tiny_function.py"
    write_tiny_function(function)
    yield lambda name="job": TinyJob(jobs_folder / name, function)
    # r3po imports the function in this very process.
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "tiny_function" in name:
            del sys.modules[name]
