"""A long first walk lists most files without a look at them: f's own looks tell what they were, from then on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from test_resume import A_SEGMENT_A_FILE, add_files, n_pending, segments

import r3po
from jobs import r3po as r3po_command
from r3po.config.settings import load_config
from r3po.file_version import UNKNOWN, UNSEEN
from r3po.inspect.status import read_status
from r3po.source import walk as scan
from r3po.state.job import read_job
from r3po.state.shard_files import Entries, read_shard_file

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job


@pytest.fixture(autouse=True)
def long_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONG_WALK_FILES", 0)


def entries_of(job: Job) -> list[Entries]:
    opened = read_job(load_config(job.config))
    return [read_shard_file(opened.folders.shards, ref) for ref in opened.built.shards]


def unseen(job: Job) -> list[str]:
    return [
        path
        for entries in entries_of(job)
        for path, size in zip(entries.paths, entries.sizes, strict=True)
        if size == UNSEEN
    ]


@pytest.fixture(params=["content"])
def interrupted(new_job: NewJob, request: pytest.FixtureRequest) -> Job:
    """Five files; killed over the third segment: 0.json has failed, 1.json has a row, no shard is committed."""
    job = new_job()
    job.configure(hash=request.param, **A_SEGMENT_A_FILE)
    add_files(job)
    job.run_until(lambda path: "segments" in path.parts and len(segments(job)) == 2)
    assert unseen(job) == [f"{n}.json" for n in range(5)]
    done = sorted(set(job.calls()))
    assert done[:2] == ["0.json", "1.json"]
    assert 0 < n_pending(job) < 4
    job.forget_calls()
    return job


def test_a_long_walk_makes_the_same_table_and_the_same_state(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, looked_at = new_job("listed"), new_job("looked_at")
    for job in (listed, looked_at):
        add_files(job)
    listed.run()
    monkeypatch.setattr(scan, "LONG_WALK_FILES", 1000)
    looked_at.run()
    assert listed.published() == looked_at.published()
    assert entries_of(listed) == entries_of(looked_at)
    assert read_status(load_config(listed.config))["size_bytes"] == sum(
        path.stat().st_size for path in listed.source.iterdir()
    )
    assert listed.findings() == []


def test_a_job_that_was_only_listed_can_be_checked_and_told_of(interrupted: Job) -> None:
    assert interrupted.findings(is_finished=False) == []
    findings = r3po.verify_jobs(interrupted.config, source=True).findings
    assert [finding.kind for finding in findings] == ["pending"]
    assert read_status(load_config(interrupted.config))["size_bytes"] == 0


def test_what_was_done_is_not_done_again(interrupted: Job, new_job: NewJob) -> None:
    pending = n_pending(interrupted)
    undisturbed = new_job("undisturbed")
    undisturbed.configure(shard_size=5)
    add_files(undisturbed)
    undisturbed.run()
    interrupted.run()
    assert len(interrupted.calls()) == pending
    assert interrupted.published() == undisturbed.published()
    assert interrupted.findings() == []
    assert unseen(interrupted) == []


def rewrite(job: Job, name: str) -> None:
    """Same size, another content and mtime."""
    path = job.source / name
    path.write_bytes(path.read_bytes()[::-1] if b"value" not in path.read_bytes() else b'{"value": 9}')
    os.utime(path, (1_700_000_000, 1_700_000_000))


def lengthen(job: Job, name: str) -> None:
    """Another size, as old as before."""
    job.add(name, value=1234567)


def touch(job: Job, name: str) -> None:
    os.utime(job.source / name, (1_700_000_000, 1_700_000_000))


@pytest.mark.parametrize(
    ("name", "change", "is_done_again"),
    [
        ("1.json", rewrite, True),
        ("1.json", lengthen, True),
        ("1.json", touch, False),
        ("0.json", lengthen, True),
        ("0.json", touch, False),
    ],
)
@pytest.mark.parametrize("interrupted", ["content", "stat"], indirect=True)
def test_a_file_that_changed_since_f_saw_it_is_done_again(
    interrupted: Job, new_job: NewJob, name: str, change: Callable[[Job, str], None], is_done_again: bool
) -> None:
    job, hash_ = interrupted, interrupted.settings["hash"]
    change(job, name)
    dry = r3po_command("build", "--dry-run", "--json", cwd=job.root).json()
    is_changed = is_done_again or hash_ == "stat"  # then nothing tells a touch from a change
    assert (dry["changed"], dry["touched"]) == ((1, 0) if is_changed else (0, 1))
    job.run()
    assert (name in job.calls()) is is_changed
    fresh = new_job("fresh")
    fresh.configure(hash=hash_, shard_size=5)
    shutil.copytree(job.source, fresh.source, dirs_exist_ok=True)
    fresh.run()
    assert job.published()["csv/part-00000.csv"] == fresh.published()["csv/part-00000.csv"]
    assert job.findings() == []


def test_a_failure_that_is_tried_again_tells_of_the_content_that_it_was_of(interrupted: Job) -> None:
    interrupted.add("0.json", error="another one")
    interrupted.run(retry_failed=True)
    assert interrupted.failed() == {"0.json": 1}, "what was tried on other content is not counted"


def test_outcomes_of_two_contents_tell_of_none(interrupted: Job) -> None:
    """Which of them counts depends on today's f: whichever it is, the file is done again."""
    entries = read_job(load_config(interrupted.config)).entries_seen_since()[0]
    assert entries.sizes[0] == (interrupted.source / "0.json").stat().st_size
    n_before = len(segments(interrupted))
    interrupted.add("0.json", error="of other content")
    interrupted.run_until(
        lambda path: "segments" in path.parts and len(segments(interrupted)) > n_before,
        build=False,
        function=interrupted.mended_function,
    )
    assert "0.json" in interrupted.calls()
    entries = read_job(load_config(interrupted.config)).entries_seen_since()[0]
    assert entries.sizes[0] == UNKNOWN
    interrupted.forget_calls()
    interrupted.run(function=interrupted.mended_function)
    assert "0.json" in interrupted.calls()
    interrupted.forget_calls()
    interrupted.run(function=interrupted.mended_function)
    assert interrupted.calls() == []


def test_a_dry_run_sees_what_changed_in_a_shard_that_a_killed_run_had_committed(new_job: NewJob) -> None:
    job = new_job()
    add_files(job)
    commits = job.state / "commits"
    job.run_until(lambda path: path.parent == commits and any(commits.glob("*.json")))
    rewrite(job, "1.json")
    touch(job, "2.json")
    dry = r3po_command("build", "--dry-run", "--json", cwd=job.root).json()
    assert (dry["changed"], dry["touched"]) == (1, 1)


def test_a_folder_that_shows_names_alone_is_refused_as_ever(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job()
    add_files(job)
    real = os.stat

    def stat(path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        if str(path).endswith("0.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(r3po.SourceError, match="cannot be read: Permission denied"):
        job.run()


def test_a_file_that_changes_before_f_saw_it_is_done_once_and_one_that_goes_or_comes_is_seen(interrupted: Job) -> None:
    lengthen(interrupted, "4.json")
    dry = r3po_command("build", "--dry-run", "--json", cwd=interrupted.root).json()
    assert (dry["changed"], dry["pending"]) == (0, n_pending(interrupted))
    for name in ("1.json", "3.json"):
        (interrupted.source / name).unlink()
    interrupted.add("5.json", value=5)
    result = interrupted.run()
    assert (result.files, result.done, result.failed) == (4, 3, 1)
    assert interrupted.calls().count("4.json") == 1
    assert interrupted.findings() == []
    interrupted.add("1.json", value=11)
    interrupted.forget_calls()
    interrupted.run()
    assert interrupted.calls() == ["1.json"]


def test_the_scan_is_told_without_a_size_that_nobody_knows(new_job: NewJob) -> None:
    job = new_job()
    add_files(job)
    told = r3po_command("run", "--engine", "serial", "--exit-zero", cwd=job.root)
    assert "5 files: 5 new\n" in told.err
    told = r3po_command("run", "--engine", "serial", "--exit-zero", cwd=job.root)
    assert " bytes: nothing new\n" in told.err
