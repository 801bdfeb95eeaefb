"""A table in a bucket: the same one as on a disk, whatever happens to the job."""

from __future__ import annotations

from pathlib import Path

import pytest

import fake_obstore
from bucket_jobs import BucketJob
from fake_obstore import FakeObstore
from jobs import NewJob


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
