"""How fast a run is and what it is at, seen from outside while it goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import Terminal

import r3po as library
from jobs import GATED, Job, Running, make_job, r3po, running, snapshot
from r3po import events
from r3po.cli.progress_text import plain_line
from r3po.cli.watch_status import watch_text
from r3po.run.progress import Progress, ProgressNote
from r3po.state.progress import RunProgress, read_progress, write_progress

LONG_PATH = "2024/" + "a-folder-with-a-long-name/" * 4 + "0931.json"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of 12 files that fails on the third, and from the ninth on waits at the gate."""
    slow = GATED.format(at=9, pause=0.2).replace("    return", "    assert n != 2, 'a bad number'\n    return")
    return make_job(tmp_path, 12, slow, processes=1, batch_seconds=0.001)


@contextmanager
def at_the_gate(job: Job) -> Iterator[Running]:
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is at the gate")
        yield process


@pytest.mark.long
def test_status_tells_rate_time_left_and_last_failure_of_a_run_and_changes_nothing(job: Job) -> None:
    with at_the_gate(job) as process:
        before = snapshot(job.working_dir, job.output)
        found, text = job.status(), r3po("status", cwd=job.folder).out
        status = library.job_status(job.config)
        assert snapshot(job.working_dir, job.output) == before
        run = found["run"]
        assert run["pid"] == process.pid
        assert run["run_id"] in os.listdir(job.working_dir / "runs")
        assert 0 < run["files_per_second"] < 6
        assert run["files"] == 12 and run["failed"] == 1 and run["done"] + run["failed"] + run["pending"] == 12
        assert run["seconds_left"] == pytest.approx(run["pending"] / run["files_per_second"], rel=0.2)
        assert run["last_failure"] == "002.json  AssertionError: a bad number"
        assert re.search(r"^rate +[\d.]+ files/s \(last minute\)   left about \d", text, re.MULTILINE)
        assert re.search(r"^failure +002.json  AssertionError: a bad number$", text, re.MULTILINE)
        assert status.to_json() == found and status.run is not None and status.run.pid == process.pid
        job.open_gate()
        assert process.end(60).code == 1
    after = library.job_status({**job.settings, **{k: str(job.folder / job.settings[k]) for k in PATHS}})
    assert after.run is None and after.done == 11
    assert list(job.working_dir.glob("runs/*/progress.json*")) == []


PATHS = ("source_path", "working_dir", "output_path", "function")


@pytest.mark.long
def test_watch_shows_a_run_in_place_at_80_columns_until_it_is_over(job: Job) -> None:
    with at_the_gate(job) as process, Terminal("status", "--watch", cwd=job.folder) as terminal:
        terminal.wait_until_shown("last failure     002.json  AssertionError: a bad number")
        terminal.wait_until_shown("files/s (last minute)")
        assert "/12  " in terminal.shown and "━" in terminal.shown
        job.open_gate()
        assert process.end(60).code == 1
        assert terminal.end() == 0
        seen, shown = terminal.seen, terminal.shown
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is back"
    assert max(map(len, re.split(r"[\r\n]+", shown.split("job  ")[0]))) <= 80
    assert "files      11 done   1 failed   0 to do" in shown.split("job  ")[-1]


@pytest.mark.long
def test_watch_ends_by_ctrl_c_with_0_and_the_run_goes_on(job: Job) -> None:
    with at_the_gate(job) as process:
        with Terminal("status", "--watch", cwd=job.folder) as terminal:
            terminal.wait_until_shown("files/s")
            terminal.type("\x03")
            assert terminal.end() == 0
            assert "Traceback" not in terminal.shown and "a run is going on" in terminal.shown
        assert process.process.poll() is None
        job.open_gate()
        assert process.end(60).code == 1


@pytest.mark.long
def test_watch_of_no_run_is_status_and_where_it_is_no_terminal_it_writes_lines(job: Job) -> None:
    plain = r3po("status", cwd=job.folder)
    assert r3po("status", "--watch", cwd=job.folder) == plain
    with at_the_gate(job) as process, running("status", "--watch", cwd=job.folder) as watch:
        watch.wait_until(lambda: "files/s" in watch.out, "a line")
        job.open_gate()
        assert process.end(60).code == 1
        ended = watch.end(60)
    assert ended.code == 0 and ended.err == ""
    first, *rest = ended.out.splitlines()
    assert re.fullmatch(r"\S+Z \d+/12 \d+\.\d% [\d.]+ files/s failed=1 left=\d+s", first)
    assert rest[0].startswith("job  ") and "11 done" in ended.out


def test_watch_as_json_is_refused_with_a_way_on(job: Job) -> None:
    ended = r3po("status", "--watch", "--json", cwd=job.folder)
    assert ended.code == 2 and "hint:  r3po status --json" in ended.err


@pytest.mark.long
def test_a_run_that_was_killed_leaves_no_rate(job: Job) -> None:
    with at_the_gate(job) as process:
        process.process.kill()
        process.process.wait(30)
    assert list(job.working_dir.glob("runs/*/progress.json")), "it was killed"
    assert job.status()["run"] is None
    assert r3po("status", "--watch", cwd=job.folder).code == 0


# The rate


def planned(n_pending: int) -> events.ProcessingPlanned:
    return events.ProcessingPlanned(n_pending + 10, 9, 1, n_pending, 1, True)


def test_the_rate_is_that_of_the_last_minute_and_a_silent_minute_counts_from_the_start() -> None:
    now = 0.0
    progress = Progress(clock=lambda: now)
    progress.take(planned(10_000))
    assert progress.now().files_per_second is None and progress.now().seconds_left is None
    for second in range(1, 101):  # 10 a second, then 40
        now = float(second)
        progress.take(events.BatchFinished(10 if second <= 40 else 40, 0, ""))
    told = progress.now()
    assert told.files_per_second == pytest.approx(40, rel=0.03)
    assert told.seconds_left == pytest.approx((10_000 - 400 - 2400) / 40, rel=0.03)
    assert (told.files, told.done, told.failed, told.pending) == (10_010, 2809, 1, 7200)
    for second in range(101, 181):
        now = float(second)
        progress.take(events.LongestRunning("b.json", second - 100.0))
    told = progress.now()
    assert told.files_per_second == pytest.approx(2800 / 180, rel=0.03)
    assert (told.longest_running, told.longest_seconds) == ("b.json", 80.0)


def test_a_limit_is_what_percent_and_time_left_are_of_unless_all_that_is_pending_is_within_it() -> None:
    now = 0.0
    progress = Progress(clock=lambda: now)
    progress.take(replace(planned(2000), limit=100))
    now = 10.0
    progress.take(events.BatchFinished(78, 4, ""))
    run = progress.now()
    assert (run.limit, run.finished, run.seconds_left) == (100, 82, round(18 / 8.2, 1))
    assert (run.files, run.done, run.failed, run.pending) == (2010, 87, 5, 1918)
    text = watch_text("count_produce", run, 80, now=run.updated or 0.0)
    assert "82/100 (limit)  82.0 %" in text and "left about 2.2 s" in text
    assert plain_line(run).split()[1:] == ["82/100", "82.0%", "8.2", "files/s", "failed=5", "left=2s"]
    progress = Progress(clock=lambda: now)
    progress.take(replace(planned(2000), limit=2000))
    assert (progress.now().limit, progress.now().way) == (None, (10, 2010))


def test_what_f_waits_of_its_time_for_a_store_is_told_over_the_last_minute() -> None:
    now = 0.0
    progress = Progress(clock=lambda: now)
    progress.take(planned(2000))
    for second in range(1, 11):
        now = float(second)
        progress.take(events.BatchFinished(10, 0, "", seconds=1.0, waited=0.9))
    assert progress.now().store_wait == 0.9
    for second in range(11, 121):
        now = float(second)
        progress.take(events.BatchFinished(10, 0, "", seconds=1.0, waited=0.25))
    run = progress.now()
    assert run.store_wait == 0.25
    words = "workers wait for the store for 25% of their time"
    assert words in watch_text("count_produce", run, 80, now=run.updated or 0.0)
    assert plain_line(run).endswith(" store-wait=25%")
    on_disk = Progress(clock=lambda: now)
    on_disk.take(planned(2000))
    on_disk.take(events.BatchFinished(10, 0, "", seconds=1.0))
    assert on_disk.now().store_wait is None
    assert "store" not in plain_line(on_disk.now())


def test_the_note_is_written_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = 0.0, []
    monkeypatch.setattr("r3po.run.progress.write_progress", lambda folder, progress: written.append(progress))
    note = ProgressNote(tmp_path, clock=lambda: now)
    note.take(planned(1000))
    for n in range(1, 501):
        now = n / 100
        note.take(events.BatchFinished(1, 0, ""))
    assert len(written) == 1 + 5


def test_a_note_that_is_not_whole_or_of_another_process_is_as_none(tmp_path: Path) -> None:
    folder = tmp_path / "20260101T000000-aa"
    folder.mkdir()
    assert read_progress(tmp_path, 7) == RunProgress(None, 7)
    write_progress(folder, RunProgress(folder.name, 7, files=3))
    assert read_progress(tmp_path, 7).files == 3
    assert read_progress(tmp_path, 8) == RunProgress(None, 8)
    for text in ("{", '{"pid": 7}', '{"other": 1}', "[]", ""):
        (folder / "progress.json").write_text(text)
        assert read_progress(tmp_path, 7) == RunProgress(None, 7)


def test_at_80_columns_lines_break_at_spaces_and_no_error_is_cut() -> None:
    error = "ValueError: " + "what is wrong with this file is said in many words " * 4 + "the end"
    run = RunProgress("r", 7, 0.0, 100.0, 2_000_000, 900_000, 37, 1_099_963, 34120.4, 3600.0)
    run = replace(run, last_failure=f"{LONG_PATH}  {error}", longest_running=LONG_PATH, longest_seconds=12.0)
    text = watch_text("count_produce", run, 80, 103.0)
    assert max(map(len, text.splitlines())) <= 80
    assert error in re.sub(r"\s+", " ", text)
    assert "0931.json  15.0 s" in text and "..." in text
    assert "34,120 files/s (last minute)   left about 1:00:00   37 failed" in text
    assert "not heard of for 40.0 s" in watch_text("count_produce", run, 80, 140.0)
    assert "starting" in watch_text("count_produce", RunProgress(None, 7), 80, 140.0)
