"""Places that refuse, machines that are odd, and jobs that are edited between two runs: E1, E2, E3, and errors that are
nobody's fault.

A place is a file system of its own, mounted for the test. f is what makes trouble in the middle of a run: its source
file says what happens in it, so that the same moment comes in every run.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import PICKY, Ended, Job, doubled, make_job, r3po, run_program

TROUBLED = r'''
import errno
import json
import os
import resource
import shutil
import signal
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
OPENED = []


def double(filepath):
    with open(filepath) as file:
        wanted = json.load(file)
    if "does" in wanted and not os.path.exists(os.path.join(HERE, "calm")):
        globals()[wanted["does"]](wanted.get("place"))
    n = wanted["n"]
    return {"n": n, "twice": 2 * n}


def fill(place):
    """Leave not one byte free, whatever has been reserved by others."""
    with open(os.path.join(place, "filler"), "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                pass


def use_up_names(place):
    folder = os.path.join(place, "fillers")
    os.makedirs(folder, exist_ok=True)
    try:
        for n in range(1_000_000):
            os.close(os.open(os.path.join(folder, str(n)), os.O_CREAT | os.O_WRONLY))
    except OSError:
        pass


def make_read_only(place):
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)


def remove(place):
    shutil.rmtree(place, ignore_errors=True)


def stop(place):
    os.kill(os.getpid(), signal.SIGTERM)


def fail_by_the_disk(place):
    raise OSError(errno.EIO, os.strerror(errno.EIO), place)


def leave_open(place):
    OPENED.append(open(os.devnull))
'''

N_FILES = 60
AT = 30
"""The file in which the trouble begins."""


def troubled_job(folder: Path, does: str | None = None, place: Path | None = None, **keys: Any) -> Job:
    """Make a job of which the file `AT` does something to a place."""
    job = make_job(folder, N_FILES, TROUBLED, **({"shard_size": 8, "batch_seconds": 0.01} | keys))
    if does is not None:
        let(job, does, AT, place=place)
    return job


def let(job: Job, does: str, *numbers: int, place: Path | None = None) -> None:
    for n in numbers:
        says = {"n": n, "does": does, "place": None if place is None else str(place)}
        (job.source / f"{n:03}.json").write_text(json.dumps(says))


def calm_down(job: Job) -> None:
    """From now on f makes no trouble."""
    (job.folder / "calm").touch()


def assert_stopped(ended: Ended, *said: str) -> None:
    """Check that a run stopped early with one clear message that says all this."""
    assert ended.code == 3, ended.err
    assert_told(ended, *said)


def assert_told(ended: Ended, *said: str) -> None:
    _, *errors = re.split("^error: ", ended.err, flags=re.MULTILINE)
    assert len(errors) == 1, ended.err
    assert "Traceback" not in ended.said
    for text in (*said, "hint:"):
        assert text in errors[0]


def assert_whole(job: Job, n_files: int = N_FILES) -> None:
    assert job.rows() == doubled(*range(n_files))
    assert job.failures() == []
    assert job.findings() == []


def assert_goes_on(job: Job, n_at_least: int = 0, n_files: int = N_FILES) -> None:
    """Check that what was done is kept, and that a plain run does the rest."""
    calm_down(job)
    before = job.status()
    assert (before["failed"], before["done"] >= n_at_least) == (0, True)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert_whole(job, n_files)


# E1: places

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system in memory: `mount("size=40m")`."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        place = tmp_path / f"place{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "r3po-test", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("key", ["working_dir", "output_path"])
@pytest.mark.parametrize(
    ("does", "filler", "options"),
    [("fill", "filler", "size=40m"), ("use_up_names", "fillers", "size=40m,nr_inodes=500")],
    ids=["bytes", "names"],
)
def test_a_disk_that_fills_up_stops_the_run_until_there_is_room(
    does: str, filler: str, options: str, key: str, mount: Mount, tmp_path: Path
) -> None:
    place = mount(options)
    job = troubled_job(tmp_path / "job", does, place, **{key: str(place / "folder")})
    assert_stopped(job.run(), "No space left on device", "run again", *([str(place)] if does == "fill" else []))
    if (does, key) == ("use_up_names", "output_path"):
        assert_stopped(job.run(), str(place), "make room")
    again = job.run("--no-build")
    assert again.code in (2, 3), again.err
    assert_told(again, str(place))
    subprocess.run(["rm", "-r", place / filler], check=True)
    assert_goes_on(job)


@pytest.mark.parametrize("key", ["output_path", "working_dir"])
def test_a_place_that_is_read_only_is_refused_until_it_is_not(key: str, mount: Mount, tmp_path: Path) -> None:
    """The output becomes so during a run; the state before one."""
    place = mount("size=64m")
    does = "make_read_only" if key == "output_path" else "stop"
    job = troubled_job(tmp_path / "job", does, place, **{key: str(place / "folder")})
    ended = job.run()
    if key == "output_path":
        assert_stopped(ended, str(place), "Read-only file system", "run again")
    else:
        assert ended.code == 143
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    calm_down(job)
    ended = job.run()
    assert ended.code == 2
    assert_told(ended, str(place), "Read-only file system")
    assert job.status()["failed"] == 0, "what only reads goes on"
    subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
    assert_goes_on(job)


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[None]:
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", folder], check=False).returncode:
        pytest.skip("nothing can be made immutable here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@pytest.mark.parametrize("name", ["out", "out/csv", "work", "work/segments", "work/commits"])
def test_a_folder_that_cannot_be_written_to_is_named(name: str, tmp_path: Path) -> None:
    job = troubled_job(tmp_path / "job", "stop")
    assert job.run().code == 143
    calm_down(job)
    assert (job.folder / name).is_dir()
    with immutable(job.folder / name):
        ended = job.run()
    assert ended.code in (2, 3), ended.err
    assert_told(ended, str(job.folder / name.partition("/")[0]), "Operation not permitted")
    assert_goes_on(job, n_at_least=1)


# E2: machines

EARLIER_S = 36 * 3600.0


def set_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now, now_ns, gmtime = time.time, time.time_ns, time.gmtime
    monkeypatch.setattr(time, "time", lambda: now() - EARLIER_S)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - int(EARLIER_S * 1e9))
    monkeypatch.setattr(time, "gmtime", lambda seconds=None: gmtime(time.time() if seconds is None else seconds))


def test_a_clock_that_is_set_back_between_runs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source file is from the future then, and the run's name sorts before that of the one before."""
    job = troubled_job(tmp_path / "job", "stop")
    assert job.run().code == 143
    calm_down(job)
    with monkeypatch.context() as patch:
        set_clock_back(patch)
        job.add_files(*range(N_FILES, N_FILES + 5))
        ended = job.run()
        assert ended.code == 0, ended.err
        assert_whole(job, N_FILES + 5)
        assert "Nothing to do" in job.run().err
        assert job.status()["done"] == N_FILES + 5
    job.add_files(*range(N_FILES + 5, N_FILES + 10))
    assert job.run().code == 0
    assert_whole(job, N_FILES + 10)
    assert "ago" not in job.status()["last_run"] or "-" not in job.status()["last_run"]


def test_a_clock_that_is_set_back_for_long_keeps_this_runs_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = troubled_job(tmp_path / "job")
    for n in range(25):
        (job.working_dir / "runs" / f"20990101T0000{n:02}-00000000").mkdir(parents=True)
    set_clock_back(monkeypatch)
    assert job.run().code == 0
    assert job.run("--retry-failed").code == 0
    assert_whole(job)


def run_by_shell(job: Job, script: str, **changed: str | None) -> Ended:
    """Run r3po, which is `"$@"` in the script."""
    return run_program("sh", "-c", script, "sh", sys.executable, "-m", "r3po", "run", cwd=job.folder, **changed)


@pytest.mark.ray
@pytest.mark.slow
def test_an_odd_environment_changes_nothing(temporary: Path, tmp_path: Path) -> None:
    """A dead Ray is named, HOME cannot be written to, TMPDIR is too long for sockets, the locale knows only ASCII,
    stdin is closed, nothing is a terminal, and few files may be open."""
    job = troubled_job(tmp_path / "job")
    long = temporary / ("long" * 30)
    long.mkdir()
    odd = {"RAY_ADDRESS": "127.0.0.1:1", "HOME": "/proc/no-such-home", "TMPDIR": str(long)}
    ended = run_by_shell(job, 'ulimit -n 256; exec "$@" <&-', **odd, LANG="C", LC_ALL="C", PYTHONUTF8="0", TERM="dumb")
    assert ended.code == 0, ended.err
    assert "Ray       2 workers, local" in ended.err
    assert_whole(job)
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-"])
def test_a_closed_stdin_stdout_or_stderr_changes_nothing(closed: str, tmp_path: Path) -> None:
    job = troubled_job(tmp_path / "job")
    ended = run_by_shell(job, f'exec "$@" --engine serial {closed}')
    assert ended.code == 0, ended.err
    assert_whole(job)


def can_unshare() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "r3po-test", "/dev/shm"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


@pytest.mark.ray
@pytest.mark.slow
def test_a_small_shared_memory_is_enough(temporary: Path, tmp_path: Path) -> None:
    if not can_unshare():
        pytest.skip("/dev/shm cannot be made small here")
    job = troubled_job(tmp_path / "job")
    small = "mount -t tmpfs -o size=16m r3po-test /dev/shm"
    ended = run_by_shell(job, f'exec unshare -m sh -c \'{small} && exec "$@"\' "$0" "$@"', TMPDIR=str(temporary))
    assert ended.code == 0, ended.err
    assert_whole(job)
    assert "Traceback" not in ended.err
    assert list(temporary.iterdir()) == []


# E3: edited between runs

EDITS: dict[str, dict[str, Any]] = {
    "processes": {"processes": 5},
    "shard_size": {"shard_size": 3},
    "larger shard_size": {"shard_size": 1000},
    "batch_seconds": {"batch_seconds": 30},
    "timeout_seconds": {"timeout_seconds": 9.5},
    "max_errors": {"max_errors": "1%"},
    "hash": {"hash": "stat"},
    "input": {"input": "path", "csv": True},
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_config_that_is_edited_between_runs_holds_from_then_on(edit: str, tmp_path: Path) -> None:
    job = troubled_job(tmp_path / "job", "stop")
    assert job.run().code == 143
    n_done = job.status()["done"]
    assert 0 < n_done < N_FILES
    calm_down(job)
    job.write_config(**EDITS[edit])
    job.add_files(*range(N_FILES, N_FILES + 20))
    ended = job.run()
    assert ended.code == 0, ended.err
    assert_whole(job, N_FILES + 20)
    before = job.parts()
    job.write_config()
    assert "Nothing to do" in job.run().err
    assert job.parts() == before


def test_a_function_that_is_edited_between_runs_tries_failures_again_and_keeps_rows(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 10, PICKY.format(bad=[3, 7]), shard_size=4)
    assert job.run().code == 1
    kept = job.parts()["csv/part-00002.csv"]
    job.write_function(PICKY.format(bad=[7]).replace("2 * n", "3 * n"))
    ended = job.run()
    assert ended.code == 1
    assert (
        "double changed after 8 rows were made; they stay as they are, the 2 failed files are tried again" in ended.err
    )
    assert "r3po run --redo" in ended.err
    assert [failure["path"] for failure in job.failures()] == ["007.json"]
    others = [n for n in range(10) if n not in (3, 7)]
    assert sorted(job.rows(), key=lambda row: int(row["n"])) == [
        {"n": str(n), "twice": str(3 * n if n == 3 else 2 * n)} for n in sorted([*others, 3])
    ]
    assert job.parts()["csv/part-00002.csv"] == kept
    assert job.findings() == []


# Errors that are nobody's fault


@pytest.mark.parametrize(
    ("keys", "n_files", "bad"),
    [
        ({"batch_seconds": 0.2, "shard_size": 10_000}, 200, range(20, 140)),  # however batches are cut, 50 are in one
        ({"batch_seconds": 0.2, "shard_size": 100}, 200, range(20, 140)),
        # A batch cut by nothing but its shard: ten rows, then thirty files that the disk is to blame for.
        ({"batch_seconds": 60, "shard_size": 40}, 300, range(130, 300)),
    ],
    ids=["large shards", "shards", "small shards"],
)
def test_a_disk_that_fails_for_many_files_stops_the_run_and_nothing_is_recorded(
    keys: dict[str, Any], n_files: int, bad: range, tmp_path: Path
) -> None:
    job = troubled_job(tmp_path / "job", **keys)
    job.add_files(*range(N_FILES, n_files))
    let(job, "fail_by_the_disk", *bad, place=tmp_path)
    assert_stopped(job.run(), "not recorded as failed", os.strerror(errno.EIO), "double.py")
    assert_goes_on(job, n_at_least=20, n_files=n_files)


def test_a_disk_that_fails_now_and_then_fails_these_files_at_the_end(tmp_path: Path) -> None:
    bad = [3, 17, 18, 19, 40, 59]
    job = troubled_job(tmp_path / "job")
    let(job, "fail_by_the_disk", *bad, place=tmp_path)
    ended = job.run()
    assert ended.code == 1, ended.err
    assert [failure["path"] for failure in job.failures()] == [f"{n:03}.json" for n in bad]
    assert {(failure["attempts"], failure["error_type"]) for failure in job.failures()} == {(1, "OSError")}
    assert job.rows() == doubled(*(n for n in range(N_FILES) if n not in bad))
    assert job.findings() == []
    calm_down(job)
    assert job.run("--retry-failed").code == 0
    assert_whole(job)


# On both engines


def test_an_output_folder_that_goes_during_the_run_is_made_anew(engine: str, tmp_path: Path) -> None:
    job = troubled_job(tmp_path / "job")
    let(job, "remove", AT, place=job.output)
    ended = r3po("run", "--engine", engine, cwd=job.folder)
    assert_stopped(ended, str(job.output), "run again")
    assert_goes_on(job, n_at_least=8)


def test_a_working_dir_that_goes_during_the_run_is_told(engine: str, tmp_path: Path) -> None:
    job = troubled_job(tmp_path / "job")
    let(job, "remove", AT, place=job.working_dir)
    ended = r3po("run", "--engine", engine, cwd=job.folder)
    assert ended.code in (2, 3), ended.err
    assert_told(ended, str(job.working_dir))
    calm_down(job)
    again = job.run()
    assert again.code == 2, "the parts that are there are of a job that nobody knows any more"
    assert_told(again, str(job.output), str(job.working_dir), "remove this folder")
    parts = job.parts()
    ended = r3po("reset", "--all", "--yes", cwd=job.folder)
    assert ended.code == 2
    assert f"error: {job.output}: there are parts here, but the state that knows of them is gone" in ended.err
    assert job.parts() == parts
    shutil.rmtree(job.output)  # as the hint says
    assert_goes_on(job)


FEW_FILES = """\
import resource

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
"""
"""For the end of a module: soon its process can open nothing more."""


@pytest.mark.ray
def test_files_that_are_left_open_until_none_can_be_opened_are_not_failed_for_it(cluster: None, tmp_path: Path) -> None:
    """All of them open a file and leave it open, in processes that may open thirty."""
    job = troubled_job(tmp_path / "job", shard_size=200, batch_seconds=1.0)
    job.write_function(f"{TROUBLED}\n\n{FEW_FILES}")
    job.add_files(*range(N_FILES, 300))
    let(job, "leave_open", *range(20, 300))
    ended = r3po("run", cwd=job.folder)
    assert_stopped(ended, "Too many open files", "run again")
    job.write_function(TROUBLED)
    assert_goes_on(job, n_at_least=1, n_files=300)
