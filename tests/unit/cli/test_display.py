"""Events in, lines on stderr out; here stderr is no terminal (tests/jobs/test_cli.py has one)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import ESCAPE, wait_until, without_times
from r3po import events
from r3po.cli import display as progress
from r3po.cli.display import Display
from r3po.events import Event

Show = Callable[..., str]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Return what a Display writes on stderr for some events; nothing may go to stdout."""

    def shown(*happened: Event, is_quiet: bool = False) -> str:
        with Display(is_quiet=is_quiet) as display:
            for event in happened:
                display(event)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return shown


def opened(config: str = "/jobs/config.yaml") -> events.JobOpened:
    return events.JobOpened(job_name="doubles", config_path=config, function="double.py:double")


def scanned(n_files: int = 6, size_bytes: int = 2150, n_new: int = 6, **changes: Any) -> events.ScanFinished:
    told = {"source": "/jobs/produce_log", "suffix": ".json", "passed_over": {}} | changes
    return events.ScanFinished(n_files=n_files, size_bytes=size_bytes, n_new=n_new, **told)


def planned(n_files: int = 6, n_done: int = 0, n_failed: int = 0) -> events.ProcessingPlanned:
    return events.ProcessingPlanned(
        n_files=n_files,
        n_done=n_done,
        n_failed=n_failed,
        n_pending=n_files - n_done - n_failed,
        n_shards=1,
        is_resumed=bool(n_done or n_failed),
    )


def batch(n_done: int, n_failed: int = 0, last_failure: str = "") -> events.BatchFinished:
    return events.BatchFinished(n_done=n_done, n_failed=n_failed, last_failure=last_failure)


def finished(n_done: int = 6, n_failed: int = 0, n_pending: int = 0, **changes: Any) -> events.RunFinished:
    told: dict[str, Any] = {"seconds": 5.1, "worked": True, "is_stopped": False, "parts": {"csv": 1, "parquet": 1}}
    return events.RunFinished(
        n_files=n_done + n_failed + n_pending,
        n_done=n_done,
        n_failed=n_failed,
        n_pending=n_pending,
        output=os.path.abspath("output_dir"),
        n_rows=n_done,
        **told | changes,
    )


def test_a_first_run_is_told_in_ten_lines(show: Show) -> None:
    text = show(
        opened(),
        events.ScanProgressed(n_files=3),
        scanned(),
        events.WorkersStarted(n_workers=2, engine="Ray, local", seconds=3.14),
        planned(),
        events.ColumnsSet(columns=(("fruits", "number"), ("meat", "text")), path="file_0.json"),
        batch(4),
        batch(2),
        events.ShardCommitted(shard=0, n_done=6, n_failed=0),
        finished(),
    )
    assert without_times(text) == (
        "r3po VERSION   config.yaml   double.py:double\n"
        "Scan      produce_log/**.json       6 files, 2.1 KiB: 6 new\n"
        "Ray       2 workers, local          ready in SECONDS\n"
        "Columns   fruits number, meat text      (from file_0.json)\n"
        "TIME 6/6 100.0% SPEED failed=0 left=LEFT\n"
        "\n"
        "Done in SECONDS: 6 files, 0 failed\n"
        "  output_dir/csv       1 part   6 rows\n"
        "  output_dir/parquet   1 part   6 rows\n"
        '  Read   pd.read_parquet("output_dir/parquet")\n'
    )


def test_failures_are_named_at_the_end_with_what_to_type(show: Show) -> None:
    text = show(planned(), batch(4, 2, "a.json  KeyError: 'n'"), finished(n_done=4, n_failed=2, seconds=61))
    assert without_times(text) == (
        "TIME 6/6 100.0% SPEED failed=2 left=LEFT\n"
        "\n"
        "Done in SECONDS: 6 files, 2 failed\n"
        "  output_dir/csv       1 part   4 rows\n"
        "  output_dir/parquet   1 part   4 rows\n"
        "  output_dir/failures/failures.csv   2 failed files\n"
        "  Last   a.json  KeyError: 'n'\n"
        "  Next   r3po errors; fix the function, then r3po run (unchanged: --retry-failed)\n"
        '  Read   pd.read_parquet("output_dir/parquet")\n'
    )


def test_the_last_failure_stands_whole_at_80_columns_with_its_path_shortened_in_the_middle(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "2024/" + "a-folder-with-a-long-name/" * 8 + "0931.json"
    error = "ValueError: " + "what is wrong with this file is said in many words " * 6 + "the end"
    lines = show(planned(), batch(4, 2, f"{path}  {error}"), finished(n_done=4, n_failed=2)).splitlines()
    (start,) = [at for at, line in enumerate(lines) if line.startswith("  Last   2024/a-folder")]
    (stop,) = [at for at, line in enumerate(lines) if line.startswith("  Next   ")]
    assert max(map(len, lines[start:])) <= 80
    assert "..." in lines[start] and lines[start].endswith("0931.json")
    assert " ".join(" ".join(lines[start + 1 : stop]).split()) == error


def test_of_a_limited_run_percent_and_plain_line_are_of_the_limit(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    text = show(replace(planned(2000), limit=100), batch(82))
    assert " 82/100 82.0% " in text


def test_resumed_and_idle_runs_say_so_in_one_line(show: Show) -> None:
    text = show(planned(2_000_000, n_done=920_967, n_failed=37))
    assert text == "Resume    920,967 of 2,000,000 files done, 37 failed, 1,078,996 to do\n"
    assert show(finished(worked=False)).startswith("Nothing to do: 6 files are done and unchanged")
    assert show(finished(n_done=0, n_failed=6, worked=False)) == (
        "Nothing to do: 0 of 6 files have a row, 6 failed (r3po errors; r3po run --retry-failed).\n"
    )


def test_a_stopped_run_counts_what_is_safe(show: Show) -> None:
    text = show(
        planned(2_000_000),
        events.StopRequested(signal_name="Ctrl-C", limit_s=10.0),
        finished(n_done=920_967, n_failed=37, n_pending=1_078_996, seconds=91, is_stopped=True),
    )
    stopping, again, stopped = text.splitlines()
    assert stopping.startswith("Stopping")
    assert "at most 10 s" in stopping
    assert "Ctrl-C again" in again
    assert max(map(len, (stopping, again))) < 80
    assert stopped == "Stopped after 1:31. 920,967 files have their rows, 37 failed, 1,078,996 are to do."
    single = show(planned(2), finished(n_done=1, n_failed=0, n_pending=1, seconds=91, is_stopped=True))
    assert single.splitlines()[-1] == "Stopped after 1:31. 1 file has its row, 0 failed, 1 is to do."


def test_quiet_says_the_one_line_that_counts_and_what_f_prints_since_somebody_asked_for_it(show: Show) -> None:
    happened = (
        opened(),
        events.Notice(text="the config has an old key", hint="take it out", is_warning=True),
        events.PartsRepaired(names=("part-00000", "part-00007")),
        scanned(),
        planned(),
        events.ColumnsSet(columns=(("n", "number"),), path="a.json"),
        lost(),
        events.LongestRunning("b.json", 61.4),
        events.OutputSeen(3, "one\ntwo\n"),
        batch(6),
    )
    printed = "worker 3: one\nworker 3: two\n"
    assert show(*happened, finished(), is_quiet=True) == printed
    assert show(*happened, finished(n_failed=2), is_quiet=True) == f"{printed}2 of 8 files failed: r3po errors\n"
    assert show(finished(n_failed=2, worked=False), is_quiet=True) == "2 of 8 files failed: r3po errors\n"
    stopped = show(*happened, finished(n_failed=2, n_pending=1, is_stopped=True), is_quiet=True)
    assert stopped == f"{printed}Stopped after 5.1 s. 6 files have their rows, 2 failed, 1 is to do.\n"


def test_what_the_walk_passed_over_is_counted_and_its_source_shown_escaped(show: Show) -> None:
    text = show(scanned(n_new=0, source=os.fsdecode(b"/jobs/caf\xe9"), passed_over={"hidden": 1200}))
    scan, over = text.splitlines()
    assert scan.split(maxsplit=2) == ["Scan", r"caf\xe9/**.json", "6 files, 2.1 KiB: nothing new"]
    assert over == "          passed over: 1,200 hidden"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    yield now


def test_a_plain_line_comes_every_30_seconds_with_the_speed_of_those(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Display() as display:
        display(planned(2000))
        for _ in range(7):
            clock[0] += 10
            display(batch(99, 1))
    first, second = capsys.readouterr().err.splitlines()
    assert first.split()[1:] == ["300/2000", "15.0%", "10", "files/s", "failed=3", "left=170s"]
    assert second.split()[1:] == ["600/2000", "30.0%", "10", "files/s", "failed=6", "left=140s"]
    with Display() as display:
        display(planned(100_000))
        clock[0] += 1000
        display(batch(1000))
        for _ in range(6):
            clock[0] += 10
            display(batch(500))
    *_, last = capsys.readouterr().err.splitlines()
    assert last.split()[1:5] == ["4000/100000", "4.0%", "50", "files/s"]


def test_a_start_of_ray_is_told_once_and_on_a_terminal_in_place_with_seconds(
    show: Show, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = events.WorkersStarting(2, "ray")
    assert show(starting) == "Ray       starting 2 workers, usually 5 to 10 s\n"
    assert show(events.WorkersStarting(1, "serial")) == "" == show(starting, is_quiet=True)

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Display() as display:
        display(starting)
        clock[0] += 7
        wait_until(lambda: "starting 2 workers, usually 5 to 10 s ...  7 s" in screen.getvalue(), "the seconds")
        display(events.WorkersStarted(2, "Ray, local", 7.5))
        n_written = len(screen.getvalue())
    assert "ready in 7.5 s" in screen.getvalue()
    assert "starting" not in screen.getvalue()[n_written:]


def test_percent_counts_from_where_the_job_was_and_never_says_100_before_all_is_done(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    text = show(planned(1_000_000), batch(999_999), batch(1))
    assert [line.split()[2] for line in text.splitlines()] == ["99.9%", "100.0%"]
    plain = show(planned(200, n_done=90, n_failed=10), batch(50)).splitlines()[1].split()
    assert (plain[1], plain[2], plain[5]) == ("150/200", "75.0%", "failed=10")


def test_a_duration_is_seconds_then_minutes_then_hours(show: Show) -> None:
    shown = {0.04: "0.0 s", 5.1: "5.1 s", 59.9: "59.9 s", 59.97: "1:00", 60: "1:00", 91: "1:31", 3599.9: "59:59"}
    for seconds, expected in (shown | {3600: "1:00:00", 126_065: "35:01:05"}).items():
        assert f"Done in {expected}: " in show(planned(), finished(seconds=seconds))


def test_a_size_has_the_unit_that_people_read(show: Show) -> None:
    shown = {0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 2150: "2.1 KiB", 1_048_575: "1.0 MiB"}
    shown |= {1_048_576: "1.0 MiB", 8_160_437_862: "7.6 GiB", 3 << 40: "3.0 TiB", 5000 << 40: "5000.0 TiB"}
    for size_bytes, expected in shown.items():
        assert f"6 files, {expected}: 6 new" in show(scanned(size_bytes=size_bytes))


def test_one_of_a_thing_is_not_a_plural(show: Show) -> None:
    text = show(scanned(1, 10, 1), planned(1), batch(1), finished(n_done=1))
    assert "1 file, 10 bytes: 1 new" in text
    assert ": 1 file, 0 failed\n" in text
    assert "output_dir/csv       1 part   1 row\n" in text
    assert "Nothing to do: 1 file is done and unchanged" in show(finished(n_done=1, worked=False))


def test_no_name_can_steer_the_terminal(show: Show) -> None:
    evil = f"{ESCAPE}]0;owned\a{ESCAPE}[2J\r"
    text = show(
        opened(f"/jobs/{evil}.yaml"),
        events.Notice(text=evil, hint=evil),
        scanned(),
        planned(),
        events.ColumnsSet(columns=((evil, "number"),), path=evil),
        batch(1, 1, f"{evil}.json  ValueError: {evil}"),
        finished(),
    )
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


# Workers that are lost, files that take long, what f prints


def lost(path: str = "d/007.json", cause: str = "SIGSEGV", n_workers: int | None = None) -> events.WorkerLost:
    return events.WorkerLost(cause=cause, path=path, n_workers=n_workers)


def test_a_lost_worker_is_told_with_its_file_and_what_follows_and_of_many_only_the_first(show: Show) -> None:
    assert show(lost(), lost(path=""), lost(cause="out of memory", n_workers=1)) == (
        "note: a worker was lost in d/007.json: SIGSEGV\n"
        "note: a worker was lost: SIGSEGV\n"
        "note: a worker was lost in d/007.json: out of memory; 1 worker for the next minutes\n"
    )
    many = events.WorkerLost("SIGSEGV", "d/007.json", None, is_of_several=True)
    assert show(many) == "note: a worker was lost in d/007.json or a file that f had with it: SIGSEGV\n"
    lines = show(*[lost()] * 40).splitlines()
    assert len(lines) == progress.LOSSES_SHOWN + 1
    assert lines[-1] == "note: more are not shown; events.jsonl in the newest folder of runs/ has them all"


def test_a_file_that_runs_for_long_is_named_in_the_plain_line(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    text = show(
        planned(),
        events.LongestRunning("a.json", events.LONG_S - 0.1),
        events.LongestRunning("b.json", 61.4),
        events.LongestRunning("", 0.0),
    )
    assert without_times(text).splitlines() == [
        "TIME 0/6 0.0% SPEED failed=0 left=LEFT",
        "TIME 0/6 0.0% SPEED failed=0 left=LEFT longest=61s b.json",
        "TIME 0/6 0.0% SPEED failed=0 left=LEFT",
    ]


def test_what_f_prints_is_shown_line_by_line_and_harmless(show: Show) -> None:
    text = show(events.OutputSeen(3, f"one\ntwo{ESCAPE}[2J\n"), events.OutputSeen(0, "no newline"))
    assert text.splitlines() == ["worker 3: one", "worker 3: two\\x1b[2J", "worker 0: no newline"]
