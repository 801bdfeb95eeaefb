"""Narrow windows: a config, a clock, a function or a file that changes just where a run was killed.

An attack on r3po found them. What they have in common is that two things must go wrong at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_crash_points import Killed, Step, World, build, wider_function

import jobs
import r3po
from jobs import make_job
from r3po.run.run_log import KEPT_RUNS
from r3po.state.segments import Segment
from r3po.storage import durable as storage

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job

FUNCTION = """\
import json


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    {body}
    return {{"{key}": n}}
"""


def function(body: str = "pass", key: str = "n") -> str:
    """Return the code of an f that does something with n before it returns its row."""
    return FUNCTION.format(body=body, key=key)


def kill(act: Callable[[], object], fits: Callable[[Step], bool]) -> None:
    """Let the process die in the middle of `act`, just after the first step that fits."""
    with World(kill_if=fits), pytest.raises(Killed):
        act()


def puts(*names: str) -> Callable[[Step], bool]:
    """Fit the step that puts a whole file into place that begins so, or lies in a folder of such a name."""

    def fits(step: Step) -> bool:
        target = step.target
        return step.seam == "_replace" and target is not None and bool({*names} & {target.name, *target.parts[-3:-1]})

    return fits


def puts_columns(step: Step) -> bool:
    return step.seam == "_replace" and step.target is not None and step.target.name.startswith("columns.")


def puts_rows(n_rows: int) -> Callable[[Step], bool]:
    """Fit the segment with which so many rows are durable."""
    n_durable = 0

    def fits(step: Step) -> bool:
        nonlocal n_durable
        segment = Segment.parse(step.target.name) if step.seam == "_replace" and step.target is not None else None
        n_durable += 0 if segment is None else segment.n_done
        return n_durable >= n_rows

    return fits


def new_shards(new_job: NewJob, name: str = "job", **settings: Any) -> Job:
    """Four files in two shards; nothing has been run."""
    job = new_job(name)
    job.configure(**settings)
    for n in range(4):
        job.add(f"{n}.json", value=n)
    return job


def contents(folder: Path) -> dict[str, bytes]:
    """Return what lies in an output folder, its claim and what is unfinished too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The output folder of another job


def test_a_job_that_names_the_output_of_a_running_one_is_refused_and_leaves_what_is_unfinished_there(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    intruder, job, undisturbed = (new_shards(new_job, name) for name in ("intruder", "job", "undisturbed"))
    undisturbed.run()
    intruder.configure(output_path="../job/output")
    replace, unfinished = storage._replace, []

    def intrude(source: Path, target: Path) -> None:
        if Path(target).parent.name == ".staging" and not unfinished:
            unfinished.append(source)
            with pytest.raises(r3po.FolderError, match="belongs to another job"):
                intruder.run()
            assert Path(source).exists()
        replace(source, target)

    monkeypatch.setattr(storage, "_replace", intrude)
    result = job.run()
    assert unfinished
    assert (result.done, result.pending) == (4, 0)
    assert job.published() == undisturbed.published()
    assert job.findings(check_source=True) == []
    assert intruder.calls() == []
    # Nor does it sweep there, once the other one is done.
    for name in (f".staging/.{'0' * 32}.tmp", f".{'1' * 32}.tmp", "failures/.mine.tmp", ".mine.tmp"):
        (job.output / name).write_bytes(b"not the intruder's")
    before = contents(job.output)
    with pytest.raises(r3po.FolderError, match="belongs to another job"):
        intruder.run()
    assert contents(job.output) == before


def test_a_run_sweeps_what_r3po_left_unfinished_and_leaves_a_users_tmp_alone(new_job: NewJob) -> None:
    job = new_shards(new_job)
    job.run()
    folders = (job.output, job.output / "failures", job.output / ".staging", job.state)
    ours = [folder / f".{'0' * 32}.tmp" for folder in folders]
    theirs = [folder / ".mine.tmp" for folder in (job.output, job.state)]
    for path in (*ours, *theirs):
        path.write_bytes(b"half")
    job.run()
    assert [path for path in ours if path.exists()] == []
    assert [path for path in theirs if not path.exists()] == []


def test_a_killed_reset_does_not_forget_the_job_whose_output_the_config_names_by_now(new_job: NewJob) -> None:
    job, other = new_shards(new_job), new_shards(new_job, "other")
    for one in (job, other):
        one.run()
    before = contents(other.output)
    kill(lambda: r3po.reset_all_tracking(job.config), puts("reset"))
    job.configure(output_path="../other/output")
    with pytest.raises(r3po.FolderError, match="belongs to another job"):
        job.run()
    assert contents(other.output) == before
    other.forget_calls()
    assert other.run().done == 4
    assert other.calls() == []
    assert other.findings(check_source=True) == []


@pytest.mark.parametrize("last", ["reset", "part-00000.csv", ".r3po.json", "00000.json"])
def test_a_killed_reset_is_completed_in_the_folder_of_its_own_job(last: str, new_job: NewJob) -> None:
    job = new_shards(new_job)
    job.run()
    before = job.published()
    kill(lambda: r3po.reset_all_tracking(job.config), lambda step: step.target is not None and step.target.name == last)
    (job.source / "0.json").unlink()  # a job that is not forgotten refuses that
    job.forget_calls()
    assert job.run().done == 3
    assert job.calls() == ["1.json", "2.json", "3.json"]
    assert "csv/part-00001.csv" in before and "csv/part-00001.csv" not in job.published()
    assert not (job.state / "reset").exists()
    assert job.findings(check_source=True) == []


# The output folder there and back


def test_an_output_folder_that_comes_back_into_use_says_why_a_file_fails_today(jobs_folder: Path) -> None:
    job = make_job(jobs_folder / "job", 4, jobs.PICKY.format(bad=[2]))
    assert job.run().code == 1
    job.write_config(output_path="elsewhere")
    job.write_function(jobs.PICKY.format(bad=[2]).replace("is a bad", "is still a bad"))
    assert job.run().code == 1
    job.write_config()
    assert job.run().code == 1
    failures = (job.output / "failures" / "failures.csv").read_bytes()
    assert b"2 is still a bad number" in failures
    assert failures == (job.folder / "elsewhere" / "failures" / "failures.csv").read_bytes()  # attempts too
    assert job.rows() == jobs.doubled(0, 1, 3)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_an_output_folder_that_comes_back_into_use_has_todays_failures_and_parts_even_of_the_same_size(
    compression: str, new_job: NewJob
) -> None:
    job, elsewhere = new_shards(new_job, parquet={"compression": compression}), "elsewhere"
    job.run()
    assert job.failed() == {}
    old = job.published()["parquet/part-00000.parquet"]
    job.configure(output_path=elsewhere)
    job.add("4.json", value=0.5)  # all parts have floats from now on
    job.add("5.json", error="bad")
    job.run()
    new = contents(job.root / elsewhere)["parquet/part-00000.parquet"]
    assert new != old
    assert len(new) == len(old) or compression != "none"  # else this test does not try what it says
    job.configure(output_path="output")
    job.forget_calls()
    result = job.run()
    assert (result.failed, result.pending) == (1, 0)
    assert job.calls() == []
    assert job.failed() == {"5.json": 1}
    assert job.published()["parquet/part-00000.parquet"] == new
    assert job.published().items() <= contents(job.root / elsewhere).items()
    assert job.findings(check_source=True) == []


# The clock


def test_run_folders_of_a_clock_that_was_set_back_do_not_cost_a_run_its_own(new_job: NewJob) -> None:
    job = new_shards(new_job)
    runs = job.state / "runs"
    for n in range(KEPT_RUNS):
        (runs / f"20991231T2359{n:02}-abcd").mkdir(parents=True)
    result = job.run()
    assert (result.done, result.pending) == (4, 0)
    assert json.loads((runs / result.run_id / "summary.json").read_text())["done"] == 4
    assert (runs / result.run_id / "events.jsonl").exists()
    assert len(list(runs.iterdir())) == KEPT_RUNS
    assert job.findings(check_source=True) == []


# The function


def assert_same_end(job: jobs.Job, undisturbed: jobs.Job) -> None:
    assert job.parts() == undisturbed.parts()
    failures = [(one.output / "failures" / "failures.csv").read_bytes() for one in (job, undisturbed)]
    assert failures[0] == failures[1]
    found, expected = job.status(), undisturbed.status()
    assert [found[key] for key in ("files", "done", "failed", "pending")] == [
        expected[key] for key in ("files", "done", "failed", "pending")
    ]


def test_what_the_second_probe_returns_is_a_failure_and_no_refusal_of_f_also_after_a_kill(jobs_folder: Path) -> None:
    body = 'if n < 10: raise ValueError(f"bad {n}")\n    if n < 25: return None'
    job, undisturbed = (make_job(jobs_folder / name, 40, function(body)) for name in ("job", "undisturbed"))
    ended = undisturbed.run()
    kill(job.run, puts("segments"))
    assert (job.status()["done"], job.status()["failed"]) == (0, 10)
    resumed = job.run()
    assert (resumed.code, ended.code) == (1, 1), resumed.err
    assert job.rows() == [{"n": str(n)} for n in range(25, 40)]
    assert_same_end(job, undisturbed)


@pytest.mark.parametrize(("n_bad", "key"), [(0, "typo"), (10, "typo"), (0, "n")])
def test_columns_without_a_row_are_set_anew_by_a_mended_f_and_stay_if_f_stays(
    n_bad: int, key: str, jobs_folder: Path
) -> None:
    body = f'if n < {n_bad}: raise ValueError("bad")' if n_bad else "pass"
    job = make_job(jobs_folder / "job", 20, function(body, key=key))
    undisturbed = make_job(jobs_folder / "undisturbed", 20, function())
    undisturbed.run()
    kill(job.run, puts_columns)
    assert (job.status()["done"], job.status()["failed"]) == (0, n_bad)
    job.write_function(function())
    resumed = job.run()
    assert resumed.code == 0, resumed.err
    assert (job.status()["build"] == undisturbed.status()["build"]) == (key == "n")
    assert job.rows() == [{"n": str(n)} for n in range(20)]
    assert_same_end(job, undisturbed)


def test_the_guard_of_the_first_hundred_spares_a_resumed_run_whose_f_gave_rows_already(jobs_folder: Path) -> None:
    body = 'if n >= 5: raise ValueError("bad")'
    job = make_job(jobs_folder / "job", 110, function(body), batch_seconds=0.0001)
    undisturbed = make_job(jobs_folder / "undisturbed", 110, function(body))
    ended = undisturbed.run()
    kill(job.run, puts_rows(5))
    status = job.status()
    assert status["done"] == 5 and status["pending"] > 100  # whatever is left fails
    resumed = job.run()
    assert (resumed.code, ended.code) == (1, 1), resumed.err
    assert job.status()["pending"] == 0
    assert_same_end(job, undisturbed)


def test_the_guard_of_the_first_hundred_still_stops_a_resumed_run_whose_f_never_gave_a_row(jobs_folder: Path) -> None:
    job = make_job(jobs_folder / "job", 130, function('if n >= 0: raise ValueError("bad")'))
    kill(job.run, puts("segments"))
    resumed = job.run()
    assert resumed.code == 3, resumed.err
    assert "all failed with ValueError" in resumed.err


# The source


def test_a_file_that_changes_before_its_shard_is_committed_is_done_again_once_it_changes_back(
    jobs_folder: Path,
) -> None:
    body = """\
other = filepath.replace("000.json", "005.json")
    if n == 0:
        with open(other, "w") as file:
            file.write('{"n":        50}')
"""
    job = make_job(jobs_folder / "job", 6, function(body))
    kill(job.run, puts("outcomes"))
    assert job.status()["committed_shards"] == 0
    for _ in range(2):
        resumed = job.run()
        assert resumed.code == 0, resumed.err
    assert [row["n"] for row in job.rows()] == ["0", "1", "2", "3", "4", "50"]  # as f saw it
    job.source.joinpath("005.json").write_text('{"n": 5}')
    assert job.run().code == 0
    assert [row["n"] for row in job.rows()][-1] == "5"


def hold_back(job: Job) -> Callable[[], None]:
    """Take away the one segment of a killed run; return what lets it arrive: its worker lived on, and was slow."""
    (late,) = (job.state / "segments").glob("*/*.arrow")
    content = late.read_bytes()
    late.unlink()

    def arrive() -> None:
        late.parent.mkdir(exist_ok=True)
        late.write_bytes(content)

    return arrive


@pytest.mark.parametrize("on_deleted", ["drop", "keep"])
def test_a_late_row_of_a_new_file_that_went_meanwhile_does_not_bring_it_back(on_deleted: str, new_job: NewJob) -> None:
    job = new_shards(new_job, on_deleted=on_deleted, shard_size=6)
    job.run()
    job.add("4.json", value=4)
    kill(job.run, puts("segments"))
    arrive = hold_back(job)
    (job.source / "4.json").unlink()
    assert job.run().rows == 4
    before = {path: path.stat().st_mtime_ns for path in job.output.rglob("*") if path.is_file()}
    arrive()
    assert job.run().rows == 4
    assert {path: path.stat().st_mtime_ns for path in job.output.rglob("*") if path.is_file()} == before
    assert job.findings() == []


@pytest.mark.parametrize("on_deleted", ["drop", "keep"])
def test_a_late_row_of_old_content_counts_neither_before_nor_after_the_new_one(
    on_deleted: str, new_job: NewJob
) -> None:
    job = new_shards(new_job, on_deleted=on_deleted)
    job.run()
    job.add("3.json", value=33)
    kill(job.run, puts("segments"))
    arrive = hold_back(job)
    job.add("3.json", value=333)
    build(job)
    arrive()
    for _ in range(2):
        job.run()
        assert b'"3.json",333,' in job.published()["csv/part-00001.csv"]
        assert job.findings(check_source=True) == []
        arrive()


@pytest.mark.parametrize("how", [{}, {"restart": True}], ids=["once", "restarted"])
def test_a_late_row_of_before_a_redo_is_none_of_its_rows(how: dict[str, Any], new_job: NewJob) -> None:
    job = new_shards(new_job, shard_size=6)
    job.run()
    if how:
        kill(lambda: job.run(redo=True), puts("segments"))
    else:
        job.add("4.json", value=4)
        kill(job.run, puts("segments"))
    arrive = hold_back(job)
    (job.source / "1.json").unlink()
    kill(lambda: job.run(redo=True, function=wider_function(job), **how), puts("commits"))
    arrive()
    job.run(function=wider_function(job))
    assert job.published()["csv/part-00000.csv"].count(b"true") == job.published()["csv/part-00000.csv"].count(b"json")
    assert job.findings(check_source=True) == []


def test_a_shard_of_which_nothing_was_done_may_go_and_come_back(new_job: NewJob) -> None:
    job, undisturbed = new_shards(new_job, shard_size=2), new_shards(new_job, "undisturbed", shard_size=2)
    undisturbed.run()
    build(job)
    for n in range(4):
        (job.source / f"{n}.json").unlink()
        if n % 2:
            assert job.run(accept_deletions=True).rows == 3 - n
            assert job.findings() == []
    for n in range(4):
        job.add(f"{n}.json", value=n)
    job.run()
    assert job.published() == undisturbed.published()
    assert job.findings(check_source=True) == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_redo_sets_other_columns_also_beside_a_shard_whose_files_are_all_gone(
    is_killed: bool, new_job: NewJob
) -> None:
    job = new_shards(new_job, shard_size=2)
    job.run()
    for n in range(2):
        (job.source / f"{n}.json").unlink()
    job.run()
    function = wider_function(job)
    if is_killed:
        kill(lambda: job.run(redo=True, function=function), puts("segments"))
    job.run(redo=not is_killed, function=function)
    assert [name for name in job.published("csv") if "part" in name] == ["csv/part-00000.csv"]
    assert job.published()["csv/part-00000.csv"].count(b"true") == 2
    assert job.findings(check_source=True) == []


def test_a_redo_under_way_does_not_drop_rows_that_would_be_kept_unasked(new_job: NewJob) -> None:
    job = new_shards(new_job, on_deleted="keep")
    job.run()
    kill(lambda: job.run(redo=True), puts("segments"))
    (job.source / "0.json").unlink()  # which the redo has come to
    build(job)
    (job.source / "3.json").unlink()
    before = job.published()
    for act in (job.run, lambda: build(job)):
        with pytest.raises(r3po.SourceError, match="1 file is gone that a redo under way") as caught:
            act()
        assert "gone  3.json" in str(caught.value) and "accept_deletions=True" in str(caught.value)
    assert job.published() == before
    kill(lambda: job.run(accept_deletions=True), puts("manifest.json"))
    assert job.run().rows == 3
    assert job.findings() == []


def test_columns_that_do_not_fit_a_redo_under_way_are_set_by_what_is_told(new_job: NewJob) -> None:
    job = new_shards(new_job)
    job.run()
    kill(lambda: job.run(redo=True), puts("commits"))
    job.configure(columns={"path": "string", "value": "int64", "new": "bool"})
    function = job.function.with_name("tiny_function_new.py")
    function.write_text(
        job.function.read_text().replace('"other": wanted.get("other", 0), "text": "plain"', '"new": True')
    )
    with pytest.raises(r3po.ConfigError, match="no such column") as caught:
        job.run()
    assert "run_jobs(config, redo=True, restart=True)" in str(caught.value)
    job.run(function=f"{function}:describe", redo=True, restart=True)
    assert job.published()["csv/part-00001.csv"] == b'path,value,new\n"3.json",3,true\n'
    assert job.findings(check_source=True) == []


@pytest.mark.parametrize("last", ["commits", "csv", "manifest.json", "failures.csv"])
def test_a_config_that_changes_and_changes_back_around_a_kill_leaves_no_trace(last: str, new_job: NewJob) -> None:
    job, undisturbed = new_shards(new_job), new_shards(new_job, "undisturbed")
    undisturbed.run()
    job.run()
    usual = dict(job.settings)
    job.configure(source_column="file", columns={"value": "float64", "path": "string"}, parquet=False)
    with suppress(Killed), World(kill_if=puts(last)):
        job.run()
    job.settings = usual
    job.configure()
    job.forget_calls()
    job.run()
    assert job.calls() == []
    assert job.published() == undisturbed.published()
    assert job.findings(check_source=True) == []


# Folders and leftovers


def test_every_new_folder_above_the_state_and_the_output_is_synced_before_anything_is_written(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_shards(new_job, working_dir="one/two/three/state", output_path="four/five/six/output")
    create, fsync = storage._create, storage._fsync
    synced: set[tuple[int, int]] = set()
    unsynced: list[Path] = []
    roots = (job.root / "one/two/three/state", job.root / "four/five/six/output")
    new = [path for root in roots for path in (root, *root.parents) if job.root in path.parents]
    assert len(new) == 8

    def look_and_create(path: Path, flags: int, mode: int) -> int:
        there = [os.stat(folder.parent) for folder in new]
        unsynced.extend(f for f, s in zip(new, there, strict=True) if (s.st_dev, s.st_ino) not in synced)
        return create(path, flags, mode)

    def note_and_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.add((status.st_dev, status.st_ino))
        fsync(descriptor)

    monkeypatch.setattr(storage, "_create", look_and_create)
    monkeypatch.setattr(storage, "_fsync", note_and_sync)
    assert job.run().done == 4
    assert unsynced == []


def test_late_segments_of_a_forgotten_job_are_swept_at_the_next_start_and_those_of_the_job_are_not(
    new_job: NewJob,
) -> None:
    job, undisturbed = new_shards(new_job), new_shards(new_job, "undisturbed")
    undisturbed.run()
    kill(job.run, puts("segments"))
    (late,) = (job.state / "segments").glob("*/*.arrow")
    content = late.read_bytes()
    r3po.reset_all_tracking(job.config)
    kill(job.run, puts("segments"))
    (own,) = (job.state / "segments").glob("*/*.arrow")
    was = (Segment.parse(late.name), Segment.parse(own.name))
    assert was[0] is not None and was[1] is not None and was[0].job_id != was[1].job_id
    for folder in ("00000", "00001", "00007"):  # of a shard that is half done, that is not begun, that never was
        path = late.parent.parent / folder / late.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    job.forget_calls()
    assert job.run().done == 4
    assert len(job.calls()) == 4 - was[1].n_done
    assert list((job.state / "segments").rglob("*.arrow")) == []
    assert job.published() == undisturbed.published()
