"""Functions that end their process, hang, eat memory or turn their process upside down: C1, C2, C3 and C5.

Each hostile file costs itself one failure at most; its neighbours have rows, and nothing is left of the run. What a
file does is the name of a function in `HOSTILE`, so that a failure's line tells it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from jobs import (
    HAS_PROC,
    Ended,
    Job,
    all_pids,
    comes_true,
    command_of,
    make_job,
    run_program,
    wait_until,
)

BEGIN = r"""
import ctypes
import json
import locale
import os
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT = []


def double(filepath):
    with open(filepath) as file:
        wanted = json.load(file)
    if "does" in wanted:
        globals()[wanted["does"]]()
    return {"path": os.path.basename(filepath), "n": wanted["n"]}


def deadlock(library):
    # Wait for a lock that nobody gives: no signal gets C code out of this.
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""

CRASHES = {
    "raise_sigsegv": ("SIGSEGV", "os.kill(os.getpid(), signal.SIGSEGV)"),
    "read_address_zero": ("SIGSEGV", "ctypes.string_at(0)"),
    "exit_with_3": ("exit code 3", "os._exit(3)"),
    "abort": ("SIGABRT", "os.abort()"),
    "overflow_the_stack": ("SIGSEGV", "sys.setrecursionlimit(1 << 30)\njson.loads('[' * 50_000_000)"),
    "kill_itself": ("killed", "os.kill(os.getpid(), signal.SIGKILL)"),
    "exit_in_c": ("exited", "ctypes.CDLL(None).exit(7)"),
}
"""What is said of the cause; and what f does."""

WITH_A_LINE = {"raise_sigsegv", "read_address_zero", "abort", "overflow_the_stack"}
"""The others leave the process no time to say where it is."""

KILLERS = {
    "kill_the_driver": """\
with open(os.path.join(HERE, "work", "lock.holder.json")) as file:
    pid = json.load(file)["pid"]
with open(os.path.join(HERE, "driver_kills.log"), "a") as log:
    log.write(f"{pid}\\n")
os.kill(pid, signal.SIGKILL)
time.sleep(60)""",
    "kill_the_parent": "os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)",
}

HANGS = {
    "loop": "while True: pass",
    "sleep": "time.sleep(600)",
    "swallow_everything": "while True:\n    try: time.sleep(600)\n    except BaseException: pass",
    "pause_in_c": "while True: ctypes.CDLL(None).pause()",
    "pause_in_c_with_the_gil": "while True: ctypes.PyDLL(None).pause()",
    "deadlock_in_c": "deadlock(ctypes.CDLL(None))",
    "deadlock_in_c_with_the_gil": "deadlock(ctypes.PyDLL(None))",
    "ignore_the_alarm": "signal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: time.sleep(0.1)",
    "block_the_alarm": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\nwhile True: time.sleep(0.1)",
    "stop_the_alarm": "signal.setitimer(signal.ITIMER_REAL, 0)\ntime.sleep(600)",
    "pause_without_signals": """\
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
ctypes.CDLL(None).pause()""",
}
WITHOUT_A_LINE = ["pause_without_signals"]
"""Nobody can ask it where it is."""

EATERS = {
    "take_all_memory": "while True: KEPT.append(bytearray(os.urandom(1) * (8 << 20)))",
    "leak": "KEPT.append(bytearray(b'x' * (20 << 20)))",
}

ODDITIES = {
    "print_a_line": "print('hello from f')",
    "print_past_python": """\
os.write(1, b"written past Python\\n")
subprocess.run(["echo", "from a child"], check=True)""",
    "print_fifty_megabytes": "for n in range(50_000): print('x' * 999)\nprint('the last line')",
    "lose_stdout": "sys.stdout = sys.stderr = None",
    "print_another_line": "print('hello again')",
    "go_elsewhere": "os.chdir('/')",
    "mask_all_rights": "os.umask(0o777)",
    "speak_another_language": """\
os.environ.update(LANG="C", LC_ALL="C", TZ="Asia/Tokyo")
locale.setlocale(locale.LC_ALL, "C")
time.tzset()""",
    "take_the_signals": """\
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)""",
    "leave_threads": """\
for daemon in (True, False):
    threading.Thread(target=time.sleep, args=(600,), daemon=daemon).start()""",
    "fork_and_wait": "pid = os.fork()\nif pid: os.waitpid(pid, 0)",
    "fork_and_go_on": "os.fork()",
    "fork_and_exit": "if not os.fork(): os._exit(9)",
    "fork_and_raise": "if not os.fork(): raise ValueError('in the child')",
    "fork_and_sleep": "if not os.fork(): time.sleep(600)",
    "leave_a_child": "subprocess.Popen(['sleep', '600'])",
    "leave_a_child_of_its_own_session": "subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "trace_everything": "sys.settrace(lambda *_: None)\nsys.setprofile(lambda *_: None)",
    "change_the_recursion_limit": "sys.setrecursionlimit(200)",
    "close_stdout": "sys.stdout.close()",
    "close_stdout_below_python": "os.close(1)",
    "exit_politely": "sys.exit('goodbye')",
}
"""In one process as many of these as it meets; the last one is a failure."""

BODIES = {name: body for name, (_, body) in CRASHES.items()} | KILLERS | HANGS | EATERS | ODDITIES
BODIES["close_descriptors"] = "os.closerange(3, 101)"

HOSTILE = BEGIN + "".join(f"\n\ndef {name}():\n{indent(body, '    ')}\n" for name, body in BODIES.items())
LINES = HOSTILE.splitlines()


def line_in(name: str) -> set[str]:
    """Return what `where` may say of a file that does `name`: the lines of that function."""
    start = LINES.index(f"def {name}():") + 1
    stop = next((n for n, line in enumerate(LINES[start:], start) if line.startswith("def ")), len(LINES))
    return {f"double.py:{n} in {name}" for n in range(start, stop + 1)}


def hostile_job(folder: Path, n_files: int, does: dict[int, str], **keys: Any) -> Job:
    """Make a job of `n_files` files, of which some do what they say."""
    job = make_job(folder, 0, HOSTILE, **({"batch_seconds": 0.2} | keys))
    for n in range(n_files):
        says = {"n": n} | ({"does": does[n]} if n in does else {})
        (job.source / name_of(n)).write_text(json.dumps(says))
    return job


def name_of(n: int) -> str:
    return f"{n:03}.json"


def rows_of(*numbers: int) -> list[dict[str, str]]:
    return [{"path": name_of(n), "n": str(n)} for n in numbers]


# Running it, and looking whether something is left


@dataclass
class Lab:
    """Runs as processes of their own; whatever they start is known by the TMPDIR that they are given."""

    temporary: Path
    engine: str
    seconds: float = 0.0
    """That the last run took."""
    n_done: list[int] = field(default_factory=list)
    """After each run of `run_until_it_ends`."""

    def run(self, job: Job, *arguments: str, command: tuple[str, ...] = ()) -> Ended:
        started = time.monotonic()
        words = (*command, sys.executable, "-m", "r3po", "run", "--engine", self.engine, *arguments)
        ended = run_program(*words, cwd=job.folder, TMPDIR=str(self.temporary))
        self.seconds = time.monotonic() - started
        return ended

    def run_until_it_ends(self, job: Job, stops_with: int, *arguments: str) -> list[Ended]:
        """Run a job again and again, as long as a file of it ends the run."""
        runs: list[Ended] = []
        while not runs or runs[-1].code == stops_with:
            assert len(runs) < 5, "one that ends by surprise, and four at most that know of it"
            runs.append(self.run(job, *arguments))
            self.n_done.append(job.status()["done"])
            assert_calm(runs[-1])
        return runs

    def assert_nothing_is_left(self, but: str | None = None) -> None:
        def left() -> list[str]:
            commands = [" ".join(command_of(pid)) for pid in self.processes()]
            return [command for command in commands if but is None or but not in command]

        comes_true(lambda: not left(), 10)
        assert left() == []
        assert list(self.temporary.iterdir()) == []

    def processes(self) -> list[int]:
        """Return all processes that a run of this lab started, however they went away from it."""
        return [pid for pid in all_pids() if pid != os.getpid() and self._is_ours(Path(f"/proc/{pid}"))]

    def _is_ours(self, process: Path) -> bool:
        """By its environment, or, since Ray's workers write their titles over theirs, by its open files."""
        with contextlib.suppress(OSError):
            if b"TMPDIR=" + os.fsencode(self.temporary) + b"\0" in (process / "environ").read_bytes():
                return True
            files = [os.readlink(process / "fd" / fd) for fd in os.listdir(process / "fd")]
            return any(file.startswith(f"{self.temporary}/") for file in files)
        return False


@pytest.fixture
def lab(temporary: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    if not HAS_PROC:
        pytest.skip("finds processes by /proc")
    made = Lab(temporary, request.param)
    yield made
    for pid in made.processes():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _with(*engines: str) -> Any:
    marks = {"ray": (pytest.mark.ray, pytest.mark.slow)}
    return pytest.mark.parametrize(
        "lab", [pytest.param(engine, marks=marks.get(engine, ())) for engine in engines], indirect=True
    )


on_serial, on_processes, on_ray, on_both = _with("serial"), _with("processes"), _with("ray"), _with("processes", "ray")
"""A death is a death: what is the same with all workers is tried on those that start at once."""


def assert_calm(ended: Ended) -> None:
    for chatter in ("Traceback", "ray.exceptions", "RayError", "(raylet)", "(pid=", "ActorDiedError", "core dumped"):
        assert chatter not in ended.said


def the_error(ended: Ended) -> str:
    """Return the one error that was told, with its evidence and hint."""
    before, *found = re.split("^error: ", ended.err, flags=re.MULTILINE)
    assert len(found) == 1
    assert before.startswith("r3po ")
    return found[0]


def failures_by_name(job: Job) -> dict[str, dict[str, Any]]:
    failures = job.failures()
    found = {failure["path"]: failure for failure in failures}
    assert len(found) == len(failures)
    return found


def assert_finished(job: Job, ended: Ended, n_files: int, failing: dict[int, str], error_type: str) -> None:
    """Check that the failing files, and they alone, have failures of this type, and all others have rows."""
    assert ended.code == (1 if failing else 0), ended.err
    assert_calm(ended)
    found = {path: failure["error_type"] for path, failure in failures_by_name(job).items()}
    assert found == {name_of(n): error_type for n in failing}
    assert job.rows() == rows_of(*(n for n in range(n_files) if n not in failing))
    assert job.findings(path_column="path") == []


# C1: f ends its process


@on_both
def test_a_file_that_ends_its_worker_is_one_failure_that_names_cause_and_line(lab: Lab, tmp_path: Path) -> None:
    """Seven in one run: in the same batch, side by side, as the first of a shard and as the last of the job."""
    does = dict(zip((3, 5, 6, 20, 39, 40, 59), CRASHES, strict=True))
    job = hostile_job(tmp_path, 60, does, shard_size=20)
    ended = lab.run(job)
    assert_finished(job, ended, 60, does, "WorkerDied")
    lab.assert_nothing_is_left()
    failures = failures_by_name(job)
    for n, name in does.items():
        failure = failures[name_of(n)]
        assert CRASHES[name][0] in failure["message"]
        if name in WITH_A_LINE:
            assert failure["where"] in line_in(name)
            assert name in failure["traceback"]
    assert lab.run(job).code == 1
    assert job.failures() == list(failures.values()), "the next run has nothing to do"


@on_processes
def test_a_run_of_which_every_file_crashes_stops_early(lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 200, dict.fromkeys(range(200), "raise_sigsegv"))
    ended = lab.run(job)
    assert ended.code == 3, ended.err
    assert_calm(ended)
    lab.assert_nothing_is_left()
    error = the_error(ended)
    assert re.match(r"the first \d+ files all failed with WorkerDied: SIGSEGV", error)
    assert "double.py" in error
    assert "hint:" in error
    status = job.status()
    assert (status["done"], status["pending"] + status["failed"]) == (0, 200)
    assert status["failed"] <= 20
    job.write_function(HOSTILE.replace('if "does" in wanted:', 'if "mended" in wanted:'))
    assert_finished(job, job.run(), 200, {}, "")


@on_processes
def test_a_small_job_of_which_every_file_crashes_ends_if_errors_are_not_limited(lab: Lab, tmp_path: Path) -> None:
    does = dict.fromkeys(range(3), "exit_with_3")
    job = hostile_job(tmp_path, 3, does)
    ended = lab.run(job, "--max-errors", "none")
    assert_finished(job, ended, 3, does, "WorkerDied")
    lab.assert_nothing_is_left()


@on_both
def test_a_module_whose_import_ends_the_process_is_one_error(lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 20, {})
    job.write_function(HOSTILE + "\n\nctypes.string_at(0)\n")
    ended = lab.run(job)
    assert ended.code == 2, ended.err
    assert_calm(ended)
    lab.assert_nothing_is_left()
    error = the_error(ended)
    assert "import" in error.splitlines()[0]
    assert "SIGSEGV" in error.splitlines()[0]
    assert "hint:" in error
    status = job.status()
    assert (status["done"], status["failed"]) == (0, 0), "nothing was recorded"
    job.write_function(HOSTILE)
    assert_finished(job, job.run(), 20, {}, "")


@on_both
def test_a_file_that_kills_the_driver_runs_alone_and_fails_after_a_few_runs(lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 40, {7: "kill_the_driver"}, shard_size=10)
    *killed, ended = lab.run_until_it_ends(job, -signal.SIGKILL)
    alone = [later - earlier for earlier, later in pairwise(lab.n_done[:-1])]
    assert set(alone) <= {0, 1}, "nothing before it but the file that the other worker was in"
    assert_finished(job, ended, 40, {7: "kill_the_driver"}, "WorkerDied")
    assert len((job.folder / "driver_kills.log").read_text().split()) == len(killed)
    # Ray's agents look only once a minute whether they still have a raylet; they write nothing of ours.
    lab.assert_nothing_is_left(but="Agent" if lab.engine == "ray" else None)


@on_ray
def test_a_file_that_kills_ray_fails_after_a_few_runs(lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 40, {7: "kill_the_parent"}, shard_size=10)
    *stopped, ended = lab.run_until_it_ends(job, 3)
    assert all("error: Ray is gone: its raylet ended" in run.err for run in stopped)
    assert_finished(job, ended, 40, {7: "kill_the_parent"}, "WorkerDied")
    lab.assert_nothing_is_left()


@on_processes
def test_a_file_that_kills_what_starts_the_workers_fails_and_all_others_have_rows(lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 40, {7: "kill_the_parent"}, shard_size=10)
    assert_finished(job, lab.run(job), 40, {7: "kill_the_parent"}, "WorkerDied")
    lab.assert_nothing_is_left()


@on_serial
@pytest.mark.parametrize(("name", "code"), [("raise_sigsegv", -11), ("exit_with_3", 3), ("kill_itself", -9)])
def test_a_file_that_ends_the_serial_engine_fails_after_a_few_runs(
    name: str, code: int, lab: Lab, tmp_path: Path
) -> None:
    job = hostile_job(tmp_path, 12, {6: name}, shard_size=5)
    ended = lab.run_until_it_ends(job, code)[-1]
    assert_finished(job, ended, 12, {6: name}, "WorkerDied")
    if name in WITH_A_LINE:
        assert {failure["where"] for failure in job.failures()} <= line_in(name)


# C2: f does not return


@on_both
def test_a_file_that_does_not_return_is_a_timeout_that_names_its_line(lab: Lab, tmp_path: Path) -> None:
    does = {4 + 3 * n: name for n, name in enumerate(HANGS)}
    job = hostile_job(tmp_path, 40, does, shard_size=15, timeout_seconds=1.0)
    ended = lab.run(job)
    assert_finished(job, ended, 40, does, "Timeout")
    lab.assert_nothing_is_left()
    failures = failures_by_name(job)
    assert [name for n, name in does.items() if not is_in(name, failures[name_of(n)])] == WITHOUT_A_LINE
    assert {failure["message"] for failure in failures.values()} == {"f took longer than timeout_seconds: 1"}
    assert lab.seconds < 60, "five seconds for a file at most, two at once, and a worker after each"


def is_in(name: str, failure: dict[str, Any]) -> bool:
    """Whether a failure names a line of what its file did, or of what that called."""
    return failure["where"] in line_in(name) or name in failure["traceback"]


def test_a_file_that_hangs_in_python_is_a_timeout_of_the_serial_engine(tmp_path: Path) -> None:
    does = {3: "loop", 5: "sleep"}
    job = hostile_job(tmp_path, 8, does, timeout_seconds=0.5)
    started = time.monotonic()
    assert_finished(job, job.run(), 8, does, "Timeout")
    for n, name in does.items():
        assert failures_by_name(job)[name_of(n)]["where"] in line_in(name)
    assert time.monotonic() - started < 20


# C3: f eats memory

LIMIT_BYTES = 1 << 30
"""Ray and two workers need half of it."""


@pytest.fixture
def limited() -> Iterator[tuple[str, ...]]:
    """The beginning of a command that runs what follows with so much memory."""
    folder = Path("/sys/fs/cgroup/memory") / f"r3po-test-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    try:
        limit = folder / "memory.limit_in_bytes"
        try:
            limit.write_text(str(LIMIT_BYTES))
        except OSError as error:
            pytest.skip(f"no memory cgroup of version 1: {error.strerror}")
        yield ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder))
    finally:
        wait_until(lambda: removed(folder), "the cgroup is empty", 20)


def removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@on_both
def test_a_file_that_takes_all_memory_fails_for_memory(limited: tuple[str, ...], lab: Lab, tmp_path: Path) -> None:
    job = hostile_job(tmp_path, 40, {13: "take_all_memory"}, shard_size=15)
    ended = lab.run(job, command=limited)
    assert_finished(job, ended, 40, {13: "take_all_memory"}, "OutOfMemory")
    assert "memory" in job.failures()[0]["message"]
    assert "memory" in ended.err
    lab.assert_nothing_is_left()


@on_processes
def test_files_that_leak_memory_all_get_their_rows(limited: tuple[str, ...], lab: Lab, tmp_path: Path) -> None:
    """Each leaks 20 MB, all together more than there is; the worker that is killed for it is replaced."""
    does = dict.fromkeys(range(2, 80), "leak")
    job = hostile_job(tmp_path, 80, does)
    ended = lab.run(job, command=limited)
    assert_finished(job, ended, 80, {}, "OutOfMemory")
    assert "worker was lost" in ended.err
    assert "memory" in ended.err
    lab.assert_nothing_is_left()


# C5: f leaves its process other than it was


@on_both
def test_a_process_that_f_leaves_in_disorder_works_on_and_is_gone_at_the_end(lab: Lab, tmp_path: Path) -> None:
    does = {2 * n + 1: name for n, name in enumerate(ODDITIES)}
    last = max(does)
    job = hostile_job(tmp_path, last + 10, does, shard_size=25, timeout_seconds=20.0)
    ended = lab.run(job, "--show-output")
    shown = [line for line in ended.err.splitlines() if re.match(r"worker \d+: ", line)]
    assert_finished(job, ended, last + 10, {last: "exit_politely"}, "SystemExit")
    lab.assert_nothing_is_left()
    texts = [line.partition(": ")[2] for line in shown]
    assert {"hello from f", "written past Python", "from a child"} <= set(texts)
    assert 0 < texts.count("x" * 999) <= LOG_BYTES / 1000
    logs = [path.stat().st_size for path in job.working_dir.glob("runs/*/workers/*.out")]
    assert logs
    assert max(logs) <= LOG_BYTES + 1000


LOG_BYTES = 1 << 20
"""What is kept of a worker's output, and a line that says so."""


@on_processes
def test_a_file_that_closes_stdout_does_not_fail_its_neighbours(lab: Lab, tmp_path: Path) -> None:
    """They are in one batch: the first file is the probe's, the next four are the first offer."""
    job = hostile_job(tmp_path, 40, {2: "close_stdout", 3: "print_a_line"}, processes=1, batch_seconds=60)
    assert_finished(job, lab.run(job), 40, {}, "")


@on_both
def test_a_file_that_closes_descriptors_it_did_not_open_costs_itself_at_most(lab: Lab, tmp_path: Path) -> None:
    """Ray's own connections are among them."""
    job = hostile_job(tmp_path, 40, {13: "close_descriptors"}, shard_size=15)
    ended = lab.run(job)
    failing = {13: "close_descriptors"} if job.failures() else {}
    assert_finished(job, ended, 40, failing, "WorkerDied")
    lab.assert_nothing_is_left()
