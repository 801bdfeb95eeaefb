"""A table in a bucket: the same one as on a disk, whatever happens to the job."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fake_obstore
import r3po
from bucket_jobs import BucketJob
from fake_obstore import FakeObstore
from jobs import NewJob
from r3po import events
from r3po.config.settings import load_config
from r3po.run import session
from r3po.run.result import RunOptions
from r3po.state import former
from r3po.state.job import Job
from r3po.state.manifest import Manifest
from r3po.storage import own_objects


class Died(BaseException):
    """The process is killed."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeObstore:
    """The bucket that all jobs of a test get."""
    fake = FakeObstore()
    fake_obstore.use(fake, monkeypatch)
    return fake


@pytest.fixture
def bucket_job(new_job: NewJob, jobs_folder: Path, store: FakeObstore) -> BucketJob:
    return BucketJob(jobs_folder / "in-bucket", jobs_folder / "tiny_function.py", store)


def test_a_job_writes_the_same_table_as_on_a_disk(bucket_job: BucketJob, new_job: NewJob) -> None:
    on_disk = new_job("on-disk")
    for job in (bucket_job, on_disk):
        for n in range(5):
            job.add(f"{n}.json", **({"error": "bad"} if n == 1 else {"value": n}))
        job.run()
    assert bucket_job.published() == on_disk.published()
    assert bucket_job.findings(check_source=True) == []


def test_a_redo_is_given_up_in_the_bucket_where_it_was_begun(
    bucket_job: BucketJob, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset is killed, and the config names a folder of a disk when it is completed."""
    job = bucket_job
    job.configure(shard_size=1, storage_options={"region": "eu-north-1"})
    for n in range(2):
        job.add(f"{n}.json", value=n)
    job.run()
    before = job.published()
    commits = job.state / "commits"
    job.run_until(
        lambda path: path.parent == commits and b'"build": 2' in (commits / "00000.json").read_bytes(),
        redo=True,
        function=job.mended_function,
    )

    def die(*args: object) -> None:
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(former, "_bring_back", die)
        r3po.reset_redo(job.config)
    undo = json.loads((job.state / "undo").read_bytes())
    assert (undo["output"]["path"], undo["store"]) == (job.settings["output_path"], {"region": "eu-north-1"})

    job.forget_calls()
    job.configure(output_path="output")
    job.run()
    assert not job.calls()
    # The bucket keeps what the redo had not touched; the parts that it had replaced are gone.
    assert sorted(key for key in store.content if "part-" in key) == [
        "table/csv/part-00001.csv",
        "table/parquet/part-00001.parquet",
    ]
    on_disk = {name: (job.folder / "output" / name).read_bytes() for name in before}
    assert on_disk == before
    assert not (job.state / "published").exists() and not (job.state / ".staging").exists()


def test_a_table_beside_the_state_comes_from_a_bucket(bucket_job: BucketJob) -> None:
    """Its parts are staged where those for a bucket were."""
    job = bucket_job
    job.add("0.json", value=0)
    job.run()
    before = job.published()
    job.configure(output_path="state")
    job.run()
    assert {name: (job.state / name).read_bytes() for name in before} == before
    assert not (job.state / "published").exists()


def test_the_run_waits_for_the_bucket_and_says_so(
    bucket_job: BucketJob, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_objects, "ThreadPoolExecutor", concurrent.futures.ThreadPoolExecutor)
    monkeypatch.setattr(session, "TOLD_S", 0)
    put, is_told = store.put, threading.Event()

    def wait_for_the_notice(client: Any, key: str, *content: Any, **options: Any) -> Any:
        assert "part-" not in key or is_told.wait(30)
        return put(client, key, *content, **options)

    def observe(event: events.Event) -> None:
        if isinstance(event, events.Notice) and "on the way" in event.words:
            is_told.set()

    monkeypatch.setattr(store, "put", wait_for_the_notice)
    bucket_job.add("0.json", value=0)
    config = load_config(bucket_job.config)
    config = config.with_overrides(engine="serial")
    result = session.run_job(config, session.find_configured(config), RunOptions(), observe)
    assert is_told.is_set()
    assert result.rows == 1
    assert bucket_job.findings() == []


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_a_redo_that_cut_its_rows_into_other_parts_is_given_up(
    place: str, bucket_job: BucketJob, new_job: NewJob
) -> None:
    job = bucket_job if place == "bucket" else new_job("on-disk")
    job.configure(shard_size=2)
    for n in range(4):
        job.add(f"{n}.json", value=n)
    job.run()
    before = job.published()
    commits = job.state / "commits"
    job.configure(part_rows=1)
    job.run_until(
        lambda path: path.parent == commits and b'"build": 2' in (commits / "00000.json").read_bytes(),
        redo=True,
        function=job.mended_function,
    )
    assert "csv/part-00000-00001.csv" in job.published()
    r3po.reset_redo(job.config)
    assert "csv/part-00000-00001.csv" not in job.published()
    job.configure(part_rows=None)
    job.run()
    assert job.published() == before


@pytest.mark.parametrize("output_path", ["s3://bucket/table/", "../table"])
def test_of_two_jobs_that_begin_at_once_the_first_one_has_the_table(
    output_path: str, bucket_job: BucketJob, jobs_folder: Path, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find that nobody has it, and the second one looks through its source for longer."""
    second, first = bucket_job, BucketJob(jobs_folder / "first", jobs_folder / "tiny_function.py", store)
    for job in (first, second):
        job.configure(output_path=output_path, job_name=job.folder.name)
        job.add("0.json", value=0)

    def run_the_first_one(self: Job, manifest: Manifest) -> None:
        monkeypatch.undo()
        fake_obstore.use(store, monkeypatch)
        first.run()
        self.put_in_force(manifest)

    monkeypatch.setattr(Job, "put_in_force", run_the_first_one)
    with pytest.raises(r3po.FolderError, match="belongs to another job"):
        second.run()
    second.configure(output_path="s3://bucket/mine/")
    assert second.run().rows == 1
    first.configure()
    first.forget_calls()
    assert first.run().rows == 1 and not first.calls()


def run_until_put(job: BucketJob, name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Run until an object of this name is to be put, and return the request, which may still come."""
    put, late = job.store.put, list[Callable[[], object]]()

    def die(client: Any, key: str, *content: Any, **options: Any) -> Any:
        if not key.endswith(f"/{name}"):
            return put(client, key, *content, **options)
        data = content[0].read_bytes() if isinstance(content[0], Path) else content[0]
        late.append(partial(put, client, key, data, **options))
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(job.store, "put", die)
        job.run()
    (request,) = late
    return request


def test_a_success_of_a_killed_run_that_comes_late_is_no_proof_for_the_run_after_it(
    bucket_job: BucketJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bucket_job
    job.configure(parquet=False)
    job.add("0.json", value=0)
    job.add("1.json", value=1)
    late = run_until_put(job, "_SUCCESS", monkeypatch)
    job.add("1.json", error="bad")
    run_until_put(job, "failures.csv", monkeypatch)
    late()
    job.run()
    assert job.findings(check_source=True) == []
    assert job.failed() == {"1.json": 1}


def test_a_success_that_comes_late_is_removed_if_there_are_no_such_parts_any_more(
    bucket_job: BucketJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bucket_job
    job.add("0.json", value=0)
    late = run_until_put(job, "csv/_SUCCESS", monkeypatch)
    job.configure(csv=False)
    job.run()
    late()
    job.run()
    assert job.findings() == []
    assert "table/csv/_SUCCESS" not in job.store.content


def test_failures_of_a_killed_run_that_come_late_are_replaced(
    bucket_job: BucketJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its condition holds again: the tag is a digest, and failures.csv is the one of before."""
    job = bucket_job
    job.add("0.json", value=0)
    job.add("1.json", value=1)
    job.run()
    job.add("1.json", error="bad")
    late = run_until_put(job, "failures.csv", monkeypatch)
    job.add("1.json", value=1)
    job.run()
    late()
    job.run()
    assert job.findings(check_source=True) == []
    assert job.failed() == {}


def test_failures_that_nobody_claims_are_not_written_over(bucket_job: BucketJob, store: FakeObstore) -> None:
    store.content["table/failures/failures.csv"] = b"theirs"
    bucket_job.add("0.json", value=0)
    with pytest.raises(r3po.FolderError, match=r"no job of r3po claims: failures/failures\.csv"):
        bucket_job.run()
    assert store.content == {"table/failures/failures.csv": b"theirs"}


@pytest.mark.parametrize("n_deleted", [0, 3])
def test_a_reset_is_completed_in_the_bucket_where_it_was_begun(
    n_deleted: int, bucket_job: BucketJob, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed, and the config names a folder by then where others have the same names."""
    job, real, calls = bucket_job, store.delete, itertools.count()
    job.add("0.json", value=0)
    job.run()

    def die(client: Any, key: str) -> None:
        if next(calls) == n_deleted:
            raise Died
        real(client, key)

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(store, "delete", die)
        r3po.reset_all_tracking(job.config)
    theirs = {"theirs/csv/part-00000.csv": b"n", "theirs/csv/_SUCCESS": b"", "theirs/failures/failures.csv": b"path"}
    store.content.update(theirs)
    job.configure(output_path="s3://bucket/theirs/")
    with pytest.raises(r3po.FolderError, match="no job of r3po claims"):
        job.run()
    assert store.content == theirs
    job.configure(output_path="s3://bucket/table/")
    assert job.run().rows == 1
    assert job.findings() == []


def test_a_claim_that_has_expired_is_made_again(bucket_job: BucketJob, store: FakeObstore) -> None:
    """It is the oldest object of a table: a rule of the bucket that removes old ones begins with it."""
    bucket_job.add("0.json", value=0)
    bucket_job.run()
    del store.content["table/.r3po.json"]
    bucket_job.run()
    assert bucket_job.findings() == []
    del store.content["table/.r3po.json"]
    store.content["table/csv/part-00001.csv"] = b"theirs"
    with pytest.raises(r3po.FolderError, match="no job of r3po claims"):
        bucket_job.run()
