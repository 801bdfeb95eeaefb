"""One job over three machines that share nothing but a bucket, where its files are and its table goes.

What it makes is held against the same files on a disk in one process: the very bytes, also with requests that fail.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_jobs import joined
from jobs import Job, make_job
from machines import Machine, Machines, Program, why_not
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectStore
from seaweed import Seaweed, credentials
from store_proxy import SLOW_DOWN, Cut, FaultyProxy, Lost, Rule, Rules, Short

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N_FILES = 6000
SHARD_SIZE = 500
BUCKET = "machines"

FUNCTION = """\
import json
import os
import socket
import time

CALLS = {calls!r}


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    # One line a call, in one write to a file of this process: it is there whatever is killed next.
    log = os.open(f"{{CALLS}}/{{socket.gethostname()}}.{{os.getpid()}}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"%d\\n" % n)
    os.close(log)
    with open(f"{{CALLS}}/pace") as file:
        time.sleep(float(file.read()))
    if n % 1000 == 13:
        raise ValueError(f"{{n}} is refused")
    return {{"n": n, "name": os.path.basename(filepath)}}
"""
"""The same text in all jobs, since parts name its fingerprint."""

FAILING = Rules(
    *(
        Rule(fault, share=0.005, method="GET" if isinstance(fault, Short) else None)
        for fault in (SLOW_DOWN, Cut(), Lost(), Short(5))
    ),
    seed=3,
)
"""Two of a hundred requests."""


def content(n: int) -> tuple[str, bytes]:
    """Return the path and the content of one file."""
    return f"{n // 1000}/{n:05}.json", b'{"n": %d}' % n


class Lab:
    """Jobs over one bucket that all machines reach, and the parts that the same files on a disk give."""

    def __init__(self, machines: Machines, server: Seaweed) -> None:
        self.machines, self._n_jobs = machines, 0
        self.calls = machines.shared / "bucket_calls"
        self.calls.mkdir()
        server.make_bucket(BUCKET)
        # What is named in the environment is of the tests that run beside, and not of this bucket.
        key = credentials()
        options = StoreOptions(endpoint=server.endpoint, region=key["AWS_DEFAULT_REGION"])
        with pytest.MonkeyPatch.context() as patch:
            for name, value in key.items():
                patch.setenv(name, value)
            self._store = ObjectStore(ObjectUrl.parse(f"s3://{BUCKET}"), options)
            for n in range(N_FILES):
                path, data = content(n)
                self._store.write(f"source/{path}", data)
        self._port = server.port
        self.set_pace(0)
        self.expected = self._on_disk()

    def _on_disk(self) -> dict[str, bytes]:
        job = self._job("disk", engine="serial")
        for n in range(N_FILES):
            path, data = content(n)
            (job.source / path).parent.mkdir(parents=True, exist_ok=True)
            (job.source / path).write_bytes(data)
        assert job.run().code == 1
        return job.parts()

    def _job(self, name: str, **keys: Any) -> Job:
        folder = self.machines.home_folder / f"bucket_{name}"
        return make_job(folder, 0, FUNCTION.format(calls=str(self.calls)), shard_size=SHARD_SIZE, **keys)

    def proxy(self) -> FaultyProxy:
        return FaultyProxy(self._port, self.machines.home.listen())

    def new_job(self, endpoint: str) -> Job:
        self._n_jobs += 1
        for log in self.calls.glob("*.log"):
            log.unlink()
        name = f"job{self._n_jobs}"
        urls = {"source_path": f"s3://{BUCKET}/source", "output_path": f"s3://{BUCKET}/{name}"}
        where = {"endpoint": endpoint, "region": credentials()["AWS_DEFAULT_REGION"]}
        return self._job(name, processes=6, storage_options=where, **urls)

    def set_pace(self, seconds: float) -> None:
        """Let each call of f take so long from now on."""
        new = self.calls / "pace.new"
        new.write_text(str(seconds))
        new.replace(self.calls / "pace")

    def start(self, job: Job) -> Program:
        return self.machines.home.start(*joined(self.machines.address), cwd=job.folder)

    def n_calls(self) -> dict[str, int]:
        """Return how often each machine called f."""
        found: Counter[str] = Counter()
        for log in self.calls.glob("*.log"):
            found[log.name.partition(".")[0]] += log.read_bytes().count(b"\n")
        return dict(found)

    def wait_for_calls(self, program: Program, n: int) -> None:
        def is_so() -> bool:
            found = self.n_calls()
            return sum(found.values()) >= n and len(found) == len(self.machines)

        program.wait_until(is_so, f"{n} calls of f, some on each machine", 120)

    def parts(self, job: Job) -> dict[str, bytes]:
        """Return the bytes of all parts of a job, by name, as `Job.parts` does."""
        prefix = job.settings["output_path"].removeprefix(f"s3://{BUCKET}/") + "/"
        found = {}
        for page in self._store.list_pages(below=prefix):
            for info in page:
                name = info.key.removeprefix(prefix)
                if name.startswith(("csv/", "parquet/")):
                    found[name] = self._store.read(info.key)[0]
        return found

    def finish(self, job: Job, program: Program) -> str:
        """Wait for the end of a run that finishes the job, compare its table, and return what was told."""
        self.set_pace(0.001)
        ended = program.end(240)
        assert ended.code == 1, ended.said
        assert "Traceback" not in ended.said, ended.said
        assert self.parts(job) == self.expected
        told = self.machines.home.run(*(sys.executable, "-m", "r3po", "verify", "--json"), cwd=job.folder)
        assert told.code == 0, told.said
        return ended.err


@pytest.fixture(scope="module")
def lab_of_all(three_machines: Machines, seaweed: Seaweed) -> Lab:
    return Lab(three_machines, seaweed)


def give_key(machine: Machine) -> Path:
    """Put a key that may do anything where boto looks for it; return its file."""
    key = credentials()
    file = machine.disk / "home" / ".aws" / "credentials"
    file.parent.mkdir(exist_ok=True)
    lines = [f"{name.lower()} = {key[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    file.write_text("\n".join(["[default]", *lines, ""]))
    return file


@pytest.fixture
def lab(lab_of_all: Lab, machines: Machines) -> Iterator[Lab]:
    """All machines are there and have a key; at the end nothing of r3po is left on those that are there."""
    for machine in machines:
        give_key(machine)
    before = machines.files()
    yield lab_of_all
    machines.assert_nothing_left(before)


def test_three_machines_do_the_objects_of_a_bucket(lab: Lab) -> None:
    with lab.proxy() as proxy:
        job = lab.new_job(proxy.endpoint)
        lab.set_pace(0.01)
        program = lab.start(job)
        lab.wait_for_calls(program, 300)
        told = lab.finish(job, program)
    by_machine = lab.n_calls()
    assert sum(by_machine.values()) == N_FILES, "each object was called once"
    for name, n_files in by_machine.items():
        assert re.search(rf"^  {name} +{n_files:,} files? +[\d,.]+ files/s$", told, re.M), (
            "the summary has each machine"
        )


def crash(machines: Machines) -> None:
    machines[2].crash()


def kill_workers(machines: Machines) -> None:
    for machine in machines:
        assert machine.kill("worker", 1), f"{machine.name} has workers"


@pytest.mark.parametrize("hit", [crash, kill_workers])
def test_what_is_killed_while_requests_fail_costs_no_object(lab: Lab, hit: Callable[[Machines], None]) -> None:
    with lab.proxy() as proxy:
        proxy.choose = FAILING
        job = lab.new_job(proxy.endpoint)
        lab.set_pace(0.003)
        program = lab.start(job)
        lab.wait_for_calls(program, N_FILES // 4)
        hit(lab.machines)
        lab.finish(job, program)
        assert sum(proxy.counts.values()) > 20, "requests failed"


def test_a_killed_driver_goes_on_while_requests_fail(lab: Lab) -> None:
    with lab.proxy() as proxy:
        proxy.choose = FAILING
        job = lab.new_job(proxy.endpoint)
        lab.set_pace(0.003)
        for share in (0.2, 0.5):
            program = lab.start(job)
            lab.wait_for_calls(program, int(share * N_FILES))
            program.kill()
        lab.finish(job, lab.start(job))
        assert sum(proxy.counts.values()) > 20, "requests failed"


def test_a_machine_without_a_key_is_told_and_the_others_do_its_objects(lab: Lab) -> None:
    give_key(lab.machines[2]).unlink()
    with lab.proxy() as proxy:
        job = lab.new_job(proxy.endpoint)
        lab.set_pace(0.001)
        told = lab.finish(job, lab.start(job))
    assert lab.n_calls().keys() == {"m1", "m2"}
    assert "m3" in told and "credentials" in told, told
