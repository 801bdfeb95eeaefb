"""What a resumed job promises: what is durable is not done again, and what does not fit is refused by name."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import r3po
from jobs import r3po as r3po_command
from jobs import run_python, running
from r3po.config.settings import load_config
from r3po.inspect.status import read_status
from r3po.state.failed_files import read_failures
from r3po.storage import durable as storage
from r3po.worker import worker

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job


A_SEGMENT_A_FILE = {"batch_seconds": 0.0001, "shard_size": 5}
"""All of the five in one shard, so that no commit comes between their segments."""


@pytest.fixture
def job(new_job: NewJob) -> Job:
    """Five files in two shards of at most three; 0.json fails. Nothing has been run yet."""
    job = new_job()
    add_files(job)
    return job


@pytest.fixture
def finished(job: Job) -> Job:
    job.run()
    job.forget_calls()
    return job


@pytest.fixture
def interrupted(job: Job) -> Job:
    """The same job in one shard, whose run died over its third segment: there are two, and no commit."""
    job.configure(**A_SEGMENT_A_FILE)
    job.run_until(lambda path: "segments" in path.parts and len(segments(job)) == 2)
    assert 0 < n_pending(job) < 5
    job.forget_calls()
    return job


def add_files(job: Job, *, waits: str = "") -> None:
    """Add 0.json to 4.json; 0.json fails, and `waits` calls for a file `go` beside the config before it goes on."""
    for n in range(5):
        name = f"{n}.json"
        job.add(name, **({"error": "bad"} if n == 0 else {"value": n}), **({"wait_for": "go"} if name == waits else {}))


def n_pending(job: Job) -> int:
    pending: int = read_status(load_config(job.config))["pending"]
    return pending


def segments(job: Job) -> list[Path]:
    return sorted((job.state / "segments").glob("*/*.arrow"))


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mtime and content of every file: equal results mean that nobody wrote anything."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def state_of(job: Job) -> dict[str, tuple[int, bytes]]:
    """Return the stamps of everything but the log of the runs and the lock."""
    every = stamps(job.state) | stamps(job.output)
    return {path: stamp for path, stamp in every.items() if "/runs/" not in path and "/state/lock" not in path}


def replace_in_middle(path: Path) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_file_of_the_far_future_is_a_file_like_any_other(new_job: NewJob) -> None:
    """Its mtime in nanoseconds has more than 64 bits."""
    job = new_job()
    job.add("a.json", value=1)
    try:
        os.utime(job.source / "a.json", ns=(0, 10**19))
    except (OSError, OverflowError):
        pytest.skip("no such mtime on this system")
    if (job.source / "a.json").stat().st_mtime_ns != 10**19:
        pytest.skip("no such mtime on this file system")
    assert job.run().done == 1
    assert job.calls() == ["a.json"]
    r3po.build_jobs(job.config)
    assert job.run().done == 1
    assert job.calls() == ["a.json"]
    assert r3po.verify_jobs(job.config, source=True).findings == ()


AUDITED_RUN = """
import os, sys

source = sys.argv.pop(1) + "/"

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(source):
        print(arguments[0].removeprefix(source))

sys.addaudithook(note)
from r3po.cli.app import main
main()
"""


def test_a_resume_opens_no_finished_file_of_the_source(new_job: NewJob) -> None:
    """Killed with nearly everything done: neither the walk nor the worker opens what has an outcome."""
    job = new_job()
    job.configure(shard_size=20)
    names = [f"{n:03}.json" for n in range(30)]
    for n, name in enumerate(names):
        job.add(name, value=n)
    job.run_until(lambda path: "segments" in path.parts and len(job.calls()) >= 29)
    assert 0 < n_pending(job) <= 2
    done = run_python("-c", AUDITED_RUN, str(job.source), "run", "--engine", "serial", "-q", cwd=job.root)
    assert done.code == 0, done.err
    opened = set(done.out.split())  # without the folder itself
    assert opened
    assert opened <= set(names[-2:])
    assert n_pending(job) == 0


# Signals


def signalling(job: Job, number: signal.Signals) -> None:
    """Let f send a signal to its own process while it is in 3.json, unless a file `go` is beside the config."""
    path = job.function.with_name("tiny_function_signalling.py")
    condition = 'name == "3.json" and not os.path.exists(os.path.join(root, "go"))'
    line = f"    if {condition}:\n        os.kill(os.getpid(), {int(number)})\n"
    path.write_text(job.function.read_text().replace('    if "error"', f'{line}    if "error"'))
    job.configure(function=f"{path}:describe")


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda x: str(x)
)
def test_a_signal_lets_the_file_at_hand_finish_and_the_next_run_goes_on(
    number: signal.Signals, exit_code: int, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "STOP_CHECK_S", 0)  # as if f took long: the batch has one file more
    job, undisturbed = new_job(), new_job("undisturbed")
    for one in (job, undisturbed):
        one.configure(batch_seconds=60, shard_size=5)
        add_files(one)
        signalling(one, number)
    (undisturbed.root / "go").touch()
    undisturbed.run()
    job.config.rename(job.root / "big.yaml")
    ended = r3po_command("run", "big.yaml", "--engine", "serial", "--json", cwd=job.root)
    assert ended.code == exit_code
    assert ended.json()["pending"] == 1
    assert "Stopping" in ended.err
    assert re.search(r"Stopped after [\d.:]+( s)?\. 3 files have their rows, 1 failed, 1 is to do\.", ended.err)
    assert ended.err.splitlines()[-1] == "Continue with: r3po run big.yaml --engine serial"
    assert "error:" not in ended.err and "Traceback" not in ended.err
    job.configure()
    assert n_pending(job) == 1
    assert job.calls() == [f"{n}.json" for n in range(4)]
    job.run()
    assert job.calls() == [f"{n}.json" for n in range(5)]
    assert job.findings() == []
    assert job.published() == undisturbed.published()


def test_a_second_signal_stops_at_once_and_is_nobodys_failure(new_job: NewJob) -> None:
    job = new_job()
    add_files(job, waits="3.json")
    with running("run", "--engine", "serial", cwd=job.root) as process:
        process.wait_until(lambda: "3.json" in job.calls(), "f is called with 3.json")
        os.kill(process.pid, signal.SIGINT)
        process.wait_until(lambda: "Stopping" in process.err, "the run says that it stops")
        os.kill(process.pid, signal.SIGINT)  # and 3.json is not let go
        ended = process.end(30)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "Continue with: r3po run --engine serial"
    assert [failure["path"] for failure in read_failures(load_config(job.config))] in ([], ["0.json"])
    (job.root / "go").touch()
    job.run()
    assert job.failed() == {"0.json": 1}
    assert job.findings() == []


def test_a_killed_process_costs_the_file_it_was_in(new_job: NewJob) -> None:
    job = new_job()
    add_files(job, waits="2.json")
    with running("run", "--engine", "serial", cwd=job.root) as process:
        process.wait_until(lambda: "2.json" in job.calls(), "f is called with 2.json")
        process.process.kill()
        assert process.end(30).code == -signal.SIGKILL
    pending = n_pending(job)
    assert 0 < pending <= 3
    job.forget_calls()
    (job.root / "go").touch()
    job.run()
    assert len(job.calls()) == pending
    assert job.findings() == []


# What is not done again


def test_an_idle_run_calls_nothing_and_writes_no_byte_of_the_output(finished: Job) -> None:
    finished.run()  # sweeps what the build before left
    before = state_of(finished)
    result = finished.run()
    assert (result.files, result.done, result.failed, result.pending) == (5, 4, 1, 0)
    assert state_of(finished) == before
    assert finished.calls() == []
    assert finished.findings(is_swept=True, check_source=True) == []


def test_new_files_fill_the_last_shard_and_then_open_new_ones(finished: Job) -> None:
    before = finished.published()
    for name in ("0-new.json", "1-new.json", "5-new.json"):
        finished.add(name, value=10)
    finished.run()
    after = finished.published()
    assert sorted(finished.calls()) == ["0-new.json", "1-new.json", "5-new.json"]
    assert [ref.n_files for ref in r3po.build_jobs(finished.config).shards] == [3, 3, 2]
    assert after["csv/part-00000.csv"] == before["csv/part-00000.csv"]
    assert after["csv/part-00001.csv"].startswith(before["csv/part-00001.csv"])
    assert after["csv/part-00001.csv"].splitlines()[-1].startswith(b'"0-new.json"')
    assert finished.findings() == []


def test_the_proof_of_the_end_is_away_while_parts_are_published(finished: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, seen = storage._replace, []

    def look(source: Path, target: Path) -> None:
        if target.parent.name in ("csv", "parquet") and target.name != "_SUCCESS":
            seen.append([(finished.output / kind / "_SUCCESS").exists() for kind in ("csv", "parquet")])
        replace(source, target)

    monkeypatch.setattr(storage, "_replace", look)
    finished.add("new.json", value=1)
    finished.run()
    assert seen == [[False, False]] * 2
    assert finished.findings() == []


# Failures


def test_a_plain_run_tries_failures_of_other_code_again_and_nothing_else(finished: Job) -> None:
    finished.mend()
    assert finished.run().failed == 1
    assert finished.calls() == []
    assert finished.run(function=finished.mended_function).failed == 0
    assert finished.calls() == ["0.json"]
    assert finished.failed() == {}
    assert finished.findings() == []


def retry_by_option(job: Job) -> None:
    job.run(retry_failed=True)


def retry_by_reset(job: Job) -> None:
    assert [r3po.reset_all_errors(job.config) for _ in range(2)] == [1, 0]
    assert n_pending(job) == 1
    job.run()


def retry_by_other_code(job: Job) -> None:
    """Change what f is made of, but not what it does."""
    job.function.write_text(job.function.read_text().replace('"plain"', '"pl" + "ain"'))
    job.run()


@pytest.mark.parametrize("retry", [retry_by_option, retry_by_reset, retry_by_other_code])
def test_a_retry_calls_only_the_failed_files_and_counts_attempts(retry: Callable[[Job], None], finished: Job) -> None:
    assert finished.failed() == {"0.json": 1}
    retry(finished)
    assert finished.calls() == ["0.json"]
    assert finished.failed() == {"0.json": 2}
    assert finished.findings() == []
    finished.run()
    assert finished.calls() == ["0.json"]


def test_failures_that_were_not_committed_are_tried_again_by_other_code(interrupted: Job) -> None:
    assert [failure["path"] for failure in read_failures(load_config(interrupted.config))] == ["0.json"]
    assert interrupted.run(function=interrupted.mended_function).failed == 0
    assert interrupted.findings() == []


def test_a_retry_counts_for_everybody_as_soon_as_it_is_durable(finished: Job) -> None:
    finished.run_until(lambda path: path.parent.name == "outcomes", function=finished.mended_function)
    assert finished.calls() == ["0.json"]
    assert list(read_failures(load_config(finished.config))) == []
    finished.run(function=finished.mended_function)
    assert finished.calls() == ["0.json"]
    assert finished.findings() == []


# Parts


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def test_a_part_that_is_not_whole_is_made_again_without_f(finished: Job) -> None:
    before = finished.published()
    names = ("csv/part-00000.csv", "parquet/part-00001.parquet")
    for harm, name in [*product((remove, truncate, empty), names), (shutil.rmtree, "")]:
        harm(finished.output / name)
        finished.run()
        assert finished.calls() == []
        assert finished.published() == before
        assert finished.findings() == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_kind_of_parts_is_made_when_it_is_switched_on_and_removed_when_off(kind: str, new_job: NewJob) -> None:
    job, undisturbed = new_job(), new_job("undisturbed")
    for one in (job, undisturbed):
        add_files(one)
    undisturbed.run()
    job.configure(**{kind: False})
    job.run()
    job.forget_calls()
    for is_on in (False, True, False):
        job.configure(**{kind: is_on})
        job.run()
        expected = undisturbed.published().items()
        assert job.published() == {n: data for n, data in expected if is_on or not n.startswith(f"{kind}/")}
        assert job.findings() == []
    assert job.calls() == []


def test_a_stranger_among_the_parts_is_refused_by_name_and_left_alone(finished: Job) -> None:
    for name in ("csv/notes.txt", "csv/part-00007.csv", "parquet/.hidden", "csv/part-00000.parquet"):
        stranger = finished.output / name
        stranger.write_text("mine")
        before = state_of(finished)
        with pytest.raises(r3po.FolderError, match=f"{stranger}.*not a part of this job"):
            finished.run()
        assert state_of(finished) == before
        stranger.unlink()
    finished.run()
    assert finished.findings() == []


# Damage


def put_another(path: Path) -> None:
    """Put the file of the shard before in its place."""
    shutil.copyfile(path.with_name("00000.json"), path)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("state/manifest.json", [(remove, "manifest.json is missing")]),
        ("state/commits/00001.json", [(remove, "part-00001.csv: is not a part of this job"), (put_another, "0001")]),
        ("state/shards/00001.*", [(remove, r"00001\..*: is missing")]),
        ("state/outcomes/00001.*", [(remove, r"00001\..*: is missing")]),
        ("state/columns.b1.json", [(remove, "columns.b1.json: is missing")]),
        ("output/.r3po.json", []),
    ],
)
def test_a_damaged_or_missing_file_of_the_state_is_refused_by_name_and_nothing_is_lost(
    name: str, more: list[tuple[Callable[[Path], None], str]], finished: Job
) -> None:
    finished.run()  # sweeps the shard files of the build before
    finished.forget_calls()
    finished.add("new.json", value=7)  # for the last shard, so that its outcomes are needed
    (path,) = finished.root.glob(name)
    content, before = path.read_bytes(), finished.published()
    for harm, said in [*((harm, f"{path.name}: ") for harm in (replace_in_middle, truncate, empty)), *more]:
        harm(path)
        with pytest.raises(r3po.R3poError if (harm, said) in more else r3po.DamagedStateError, match=said):
            finished.run()
        assert finished.published() == before
        assert finished.calls() == []
        path.write_bytes(content)
    finished.run()
    assert finished.calls() == ["new.json"]
    assert finished.findings() == []


@pytest.mark.parametrize("harm", [replace_in_middle, truncate, empty, remove])
def test_the_files_of_a_damaged_segment_are_done_again(harm: Callable[[Path], None], interrupted: Job) -> None:
    path = segments(interrupted)[-1]
    n_done, n_failed = path.name.split(".")[-4:-2]
    pending = n_pending(interrupted) + int(n_done.removeprefix("d")) + int(n_failed.removeprefix("f"))
    harm(path)
    assert n_pending(interrupted) == pending
    interrupted.run()
    assert len(interrupted.calls()) == pending
    assert interrupted.findings() == []


def test_a_lost_working_dir_does_not_let_a_new_job_take_the_old_output(finished: Job) -> None:
    shutil.rmtree(finished.state)
    before = stamps(finished.output)
    with pytest.raises(r3po.FolderError, match="whose state is gone"):
        finished.run()
    assert stamps(finished.output) == before
    (finished.output / ".r3po.json").unlink()
    before = stamps(finished.output)
    with pytest.raises(r3po.FolderError, match="no job of r3po claims"):
        finished.run()
    assert stamps(finished.output) == before


def test_what_is_left_of_a_working_dir_that_was_removed_during_a_run_is_cleared_away(finished: Job) -> None:
    """A worker that was writing then may have left its file behind."""
    outcomes = finished.state / "outcomes"
    left = {path.name: path.read_bytes() for path in outcomes.iterdir()}
    shutil.rmtree(finished.state)
    shutil.rmtree(finished.output)
    outcomes.mkdir(parents=True)
    for name, content in left.items():
        (outcomes / name).write_bytes(content)
    finished.run()
    assert left
    assert not left.keys() & {path.name for path in outcomes.iterdir()}
    assert finished.findings() == []


# The source


def test_without_a_build_what_changed_in_the_source_is_left_alone(finished: Job) -> None:
    finished.run()
    path = finished.source / "3.json"
    for harm in (lambda: path.write_text('{"value": 333}'), lambda: os.utime(path, (1_700_000_000,) * 2), path.unlink):
        harm()
        before = state_of(finished)
        result = finished.run(build=False)
        assert (result.done, result.failed, result.pending) == (4, 1, 0)
        assert finished.calls() == []
        assert state_of(finished) == before


def test_a_change_that_size_and_mtime_do_not_show_is_noticed_in_a_young_file(job: Job) -> None:
    path = job.source / "3.json"
    os.utime(path)
    job.run()
    job.forget_calls()
    status = path.stat()
    path.write_text(path.read_text().replace("3", "8"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    job.run()
    assert job.calls() == ["3.json"]
    assert b'"3.json",8' in job.published()["csv/part-00001.csv"]


def test_without_a_build_the_files_that_are_listed_are_done_as_they_are_now(interrupted: Job) -> None:
    pending = n_pending(interrupted)
    interrupted.add("4.json", value=444)  # the last one
    interrupted.add("new.json", value=7)
    interrupted.run(build=False)
    assert len(interrupted.calls()) == pending
    assert b'"4.json",444' in interrupted.published()["csv/part-00000.csv"]
    assert interrupted.findings(check_source=True) == []
    # The manifest knows what f saw: it is no change any more.
    interrupted.forget_calls()
    interrupted.run()
    assert interrupted.calls() == ["new.json"]


# Late workers


def renamed(segment: Path, **parts: str) -> Path:
    """Return a segment's path with another build or attempt in its name, in the folder of its shard."""
    shard, build, job, attempt, *rest = segment.name.split(".")
    return segment.with_name(".".join([shard, parts.get("build", build), job, parts.get("attempt", attempt), *rest]))


def kept_segments(job: Job) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in segments(job)}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def test_outcomes_that_are_there_twice_count_once(interrupted: Job) -> None:
    status = read_status(load_config(interrupted.config))
    for path, content in kept_segments(interrupted).items():
        put(renamed(path, attempt="00000000T000000-late-000001"), content)
    assert read_status(load_config(interrupted.config)) == status
    interrupted.run()
    assert len(interrupted.calls()) == status["pending"]
    assert interrupted.findings() == []


@pytest.mark.parametrize("build", ["b0", "b1"])
def test_a_late_segment_changes_nothing_that_is_committed(build: str, interrupted: Job) -> None:
    late = kept_segments(interrupted)
    interrupted.run()
    interrupted.run()
    before, status = state_of(interrupted), read_status(load_config(interrupted.config))
    for path, content in late.items():
        put(renamed(path, build=build, attempt="00000000T000000-late-000001"), content)
    now = read_status(load_config(interrupted.config))
    assert {**now, "last_run": ""} == {**status, "last_run": ""}
    interrupted.forget_calls()
    interrupted.run()
    assert interrupted.calls() == []
    assert state_of(interrupted) == before
    assert interrupted.findings(is_swept=True) == []


def test_a_late_failure_does_not_outrank_the_row_of_a_retry(new_job: NewJob) -> None:
    job = new_job()
    job.configure(shard_size=1)
    job.add("0.json", value=0)
    job.add("1.json", error="bad")
    late: dict[Path, bytes] = {}
    unlink = storage._unlink

    def keep(path: Path) -> None:
        if path.suffix == ".arrow" and "segments" in path.parts:
            late[path] = path.read_bytes()
        unlink(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_unlink", keep)
        job.run()
    job.mend()
    # The late worker comes between the raised build and the new outcome, and once more after it.
    assert r3po.reset_all_errors(job.config) == 1
    for path, content in late.items():
        put(path, content)
    assert job.run().failed == 0
    before = job.published()
    for path, content in late.items():
        put(path, content)
    job.forget_calls()
    assert job.run().failed == 0
    assert job.calls() == []
    assert job.published() == before
    assert job.findings() == []


def test_a_late_worker_of_a_job_that_was_made_anew_changes_nothing(interrupted: Job) -> None:
    late = kept_segments(interrupted)
    r3po.reset_all_tracking(interrupted.config)
    for path, content in late.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
    interrupted.run()
    assert sorted(interrupted.calls()) == [f"{n}.json" for n in range(5)]
    assert interrupted.findings() == []
