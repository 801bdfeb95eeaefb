"""A Ray that others have started: it is joined by its address, and left as it was found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs import Ended, Job, doubled, environment, make_job, run_process, run_python, short_folder

pytestmark = pytest.mark.ray

TOKEN = "the token of the joined Ray"

HEAD = """\
import json, os, sys
import ray
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
from r3po.engines import ray_keeper
settings = ray_keeper.Settings(sys.argv[1], os.getppid(), -1, num_cpus=2, num_gpus=0, object_store_bytes=80 << 20)
head = ray_keeper._start_head(settings)
print(head.gcs_address, flush=True)
state = GlobalState()
state._initialize_global_state(
    GcsClientOptions.create(head.gcs_address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
)
for _ in sys.stdin:
    alive = [actor for actor in state.actor_table(None).values() if actor["State"] != "DEAD"]
    running = [job for job in state.job_table() if not job["IsDead"]]
    print(json.dumps([len(alive), len(running)]), flush=True)
head.kill_all_processes(check_alive=False, allow_graceful=False)
"""


@dataclass
class Head:
    process: subprocess.Popen[str]
    address: str
    with_token: dict[str, str | None]
    """The environment of who may join it."""

    def left(self) -> list[int]:
        """Return how many actors live, and how many drivers it has."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counts: list[int] = json.loads(self.process.stdout.readline())
        return counts


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with short_folder() as folder:
        for name in ("home", "ray"):
            (folder / name).mkdir()
        own: dict[str, str | None] = {"HOME": str(folder / "home"), "RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}
        begun = environment(**own | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
        command = [sys.executable, "-c", HEAD, str(folder / "ray")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=begun, start_new_session=True
        ) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the head does not start"
            yield Head(process, address, own | {"RAY_AUTH_TOKEN": TOKEN})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path, 20)


def assert_done(job: Job, ended: Ended, head: Head) -> None:
    assert ended.code == 0, ended.err
    assert f"joined at {head.address}" in ended.err
    assert job.rows() == doubled(*range(20))
    assert head.left() == [0, 0], "it is left as it was found"


def test_a_run_joins_a_ray_by_its_address_with_the_token_that_it_wants(head: Head, job: Job) -> None:
    ended = run_process("run", "--address", head.address, cwd=job.folder, **head.with_token)
    assert_done(job, ended, head)
    assert not [path for path in (job.working_dir / "runs").glob("*/ray_folder")], "there is no Ray of its own"


IN_PYTHON = """\
import os, sys
import ray
from r3po import run_jobs
before = dict(os.environ)
ended = []
for address in sys.argv[1:]:
    result = run_jobs("config.yaml", progress=False, address=address, redo=True)
    print(result.done, ray.is_initialized(), dict(os.environ) == before)
"""


@pytest.mark.long
def test_python_joins_it_too_and_then_has_a_ray_of_its_own(head: Head, job: Job, temporary: Path) -> None:
    """Ray was imported before, and reads its settings once only."""
    changed = head.with_token | {"TMPDIR": str(temporary)}
    ended = run_python("-c", IN_PYTHON, head.address, "local", head.address, cwd=job.folder, **changed)
    assert ended.out.splitlines() == ["20 False True"] * 3, ended.err
    assert list(temporary.iterdir()) == []
    assert head.left() == [0, 0]


def test_a_submitted_job_runs_on_the_ray_that_it_was_submitted_to(head: Head, job: Job) -> None:
    submitted = {"RAY_ADDRESS": head.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {}, "metadata": {}}'}
    assert_done(job, run_process("run", cwd=job.folder, **head.with_token | submitted), head)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"RAY_AUTH_TOKEN": None}, "wants a token, and there is none"),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": "token"}, "wants a token, and there is none"),
        ({"RAY_AUTH_TOKEN": "another"}, "does not take the token of this process"),
        ({"RAY_AUTH_MODE": "disabled"}, "does not take the token of this process"),
    ],
    ids=["none", "none, but wanted", "another", "disabled"],
)
def test_a_token_that_does_not_fit_is_told_with_one_error(
    head: Head, job: Job, changed: dict[str, str | None], told: str
) -> None:
    began = time.monotonic()
    ended = run_process("run", "--address", head.address, cwd=job.folder, **head.with_token | changed)
    assert (ended.code, time.monotonic() - began < 60) == (3, True), ended.err
    assert f"error: the Ray at {head.address} {told}\n" in ended.err
    assert "hint:  give that Ray's token in RAY_AUTH_TOKEN" in ended.err
    assert "Traceback" not in ended.err and "StackTrace" not in ended.err
    assert head.left() == [0, 0]
