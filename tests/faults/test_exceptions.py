"""Whatever f raises is the failure of its file: its neighbours have rows, and the screen stays calm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import raising
from raising import EXCEPTIONS

from jobs import Ended, Job, make_job, r3po, read_csv

NewJob = Callable[..., Job]


@pytest.fixture
def new_job(jobs_folder: Path) -> NewJob:
    """Make a job of which each file raises what it names, or gives a row where it says `good`."""

    def make(*names: str) -> Job:
        job = make_job(jobs_folder / "job", 0, "")
        job.write_config(function=f"{raising.__file__}:raising")
        for n, name in enumerate(names):
            (job.source / f"{n:03}.json").write_text(name)
        return job

    return make


def run(job: Job) -> Ended:
    """Run the job; an exception that comes out of r3po must not reach pytest, which would look at it."""
    try:
        return job.run()
    except Exception:
        pass
    pytest.fail("the exception came out of r3po")


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_its_files_failure_and_its_neighbours_have_rows(name: str, new_job: NewJob) -> None:
    job = new_job(name, "good", name, "good")
    ended = run(job)
    assert (ended.code, ended.out) == (1, ""), ended.err[-2000:]
    assert "error:" not in ended.err
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.err
    failures = job.failures()
    assert [failure["path"] for failure in failures] == ["000.json", "002.json"]
    for failure in failures:
        assert failure["error_type"]
        assert len(failure["message"]) + len(failure["traceback"]) < 25_000
    assert job.rows() == [{"path": "001.json"}, {"path": "003.json"}]
    assert job.findings(path_column="path") == []
    shown = r3po("errors", cwd=job.folder)
    assert (shown.code, shown.err) == (0, "")
    assert all(character.isprintable() or character == "\n" for character in shown.out)
    lines = read_csv(job.output / "failures" / "failures.csv")
    assert [line["path"] for line in lines] == ["000.json", "002.json"]


def test_all_exceptions_in_one_job(engine: str, new_job: NewJob) -> None:
    """What one exception leaves behind must not reach the next file; and all outcomes share a few segments."""
    names = list(EXCEPTIONS)
    job = new_job(*(pair for name in names for pair in ("good", name)))
    assert r3po("run", "--engine", engine, cwd=job.folder).code == 1
    assert [failure["path"] for failure in job.failures()] == [f"{2 * n + 1:03}.json" for n in range(len(names))]
    assert [row["path"] for row in job.rows()] == [f"{2 * n:03}.json" for n in range(len(names))]
    assert job.findings(path_column="path") == []
    before = job.parts()
    again = job.run("--retry-failed")
    assert again.code == 1
    assert {failure["attempts"] for failure in job.failures()} == {2}
    assert job.parts() == before
