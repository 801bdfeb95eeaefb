"""Small jobs for the tests: a source folder, a config and a function; and r3po called on them, here or as a process."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import checker
from r3po import RunResult, run_jobs
from r3po.storage import durable

# Whoever starts the tests with nohup, or in the background of a shell, has these ignored, and r3po keeps that.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

# A terminal's width is of whoever starts the tests; each test has its own, or `WIDE`.
os.environ.pop("COLUMNS", None)

DOUBLE = """\
import json


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    return {"n": n, "twice": 2 * n}
"""
"""One row a file: 7 becomes n 7, twice 14."""

PICKY = """\
import json

BAD = {bad}


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n in BAD:
        raise ValueError(f"{{n}} is a bad number")
    return {{"n": n, "twice": 2 * n}}
"""
"""The same, but some numbers raise: PICKY.format(bad=[3, 4])."""

GATED = """\
import json
import os
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n >= {at} and not os.path.exists(os.path.join(HERE, "gate")):
        open(os.path.join(HERE, f"at_the_gate.{{os.getpid()}}"), "w").close()
        while not os.path.exists(os.path.join(HERE, "gate")):
            time.sleep(0.01)
    time.sleep({pause})
    return {{"n": n, "twice": 2 * n}}
"""
"""The same, but the files from `at` on wait until the file `gate` is there: GATED.format(at=3, pause=0)."""

DESCRIBE = '''\
import json
import os
import time

IS_MENDED = False


def describe(filepath):
    """Say in calls.log that it was called, then do what the file says."""
    folder, name = os.path.split(filepath)
    root = os.path.dirname(folder)
    with open(os.path.join(root, "calls.log"), "ab", buffering=0) as log:
        log.write(name.encode() + b"\\n")
    with open(filepath) as file:
        wanted = json.load(file)
    while "wait_for" in wanted and not os.path.exists(os.path.join(root, wanted["wait_for"])):
        time.sleep(0.01)
    is_mended = IS_MENDED or os.path.exists(os.path.join(root, "mended"))
    if "error" in wanted and not is_mended:
        raise ValueError(wanted["error"])
    return {"path": name, "value": wanted.get("value"), "other": wanted.get("other", 0), "text": "plain"}
'''
"""The function of a `TinyJob`."""

MENDED = "tiny_function_mended.py"

LONG_AGO = 1_600_000_000
"""Time of source files, in seconds: nobody takes them for files that may change within their mtime."""


@dataclass(frozen=True)
class Ended:
    """How a call of r3po ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    def json(self) -> dict[str, Any]:
        """Return the one JSON object that stdout holds."""
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


class Job:
    """A folder with config.yaml, double.py, source/000.json, source/001.json ..., and what r3po makes of them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """Know the job in this folder; `settings` are the keys of its config that are other than usual."""
        self.settings: dict[str, Any] = {
            "job_name": "doubles",
            "processes": 2,
            "source_path": "source",
            "source_file_part": ".json",
            "working_dir": "work",
            "output_path": "out",
            "function": "double.py:double",
            **settings,
        }
        self.folder, self.config, self.source = folder, folder / "config.yaml", folder / "source"
        self.working_dir = folder / self.settings["working_dir"]
        self.output = folder / self.settings["output_path"]

    def write_config(self, **keys: Any) -> None:
        """Write the config anew, with some keys other than the usual; None leaves one out."""
        config = {key: value for key, value in (self.settings | keys).items() if value is not None}
        self.config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))

    def write_function(self, text: str) -> None:
        (self.folder / "double.py").write_text(text)

    def add_files(self, *numbers: int) -> None:
        self.source.mkdir(exist_ok=True)
        for n in numbers:
            (self.source / f"{n:03}.json").write_text(json.dumps({"n": n}))

    def is_at_the_gate(self, n_workers: int = 1) -> bool:
        """Whether so many workers stand there, long enough to look for a stop as soon as they may go on."""
        there = list(self.folder.glob("at_the_gate.*"))
        return len(there) == n_workers and all(time.time() - path.stat().st_mtime > 0.2 for path in there)

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def run(self, *arguments: str) -> Ended:
        """`r3po run --engine serial`, in this process."""
        return r3po("run", "--engine", "serial", *arguments, cwd=self.folder)

    def status(self) -> dict[str, Any]:
        return self.told_by("status")

    def failures(self) -> list[dict[str, Any]]:
        failures: list[dict[str, Any]] = self.told_by("errors")["failures"]
        return failures

    def told_by(self, command: str) -> dict[str, Any]:
        ended = r3po(command, "--json", cwd=self.folder)
        assert ended.code == 0, ended.err
        return ended.json()

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of all CSV parts, in the order of the parts."""
        return [row for part in sorted((self.output / "csv").glob("part-*.csv")) for row in read_csv(part)]

    def parts(self) -> dict[str, bytes]:
        """Return the bytes of all parts, by name."""
        return self.published("csv", "parquet")

    def published(self, *folders: str) -> dict[str, bytes]:
        """Return what users read, by name: the bytes of all parts, and of failures.csv; or of some folders only."""
        names = folders or ("csv", "parquet", "failures")
        return {f"{name}/{file.name}": file.read_bytes() for name in names for file in self.output.glob(f"{name}/*")}

    def findings(self, **options: Any) -> list[str]:
        """Return what the independent checker finds."""
        return checker.check_job(self.working_dir, self.output, **options)


class TinyJob(Job):
    """A job whose files say what f does with them; it is run through the API, and the calls of f are logged."""

    def __init__(self, folder: Path, function: Path) -> None:
        super().__init__(
            folder,
            job_name="tiny",
            processes=1,
            working_dir="state",
            output_path="output",
            function=f"{function}:describe",
            shard_size=3,
            batch_seconds=0.0001,  # one file a batch, once the speed of f is known
        )
        self.root, self.state, self.function = folder, self.working_dir, function
        self.calls_log = folder / "calls.log"
        self.source.mkdir(parents=True)
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the config; what is given here stays."""
        self.settings |= settings
        self.write_config()

    def add(self, name: str, **wanted: Any) -> None:
        """Add a source file (`value`, `other`), one that fails (`error`), or one that waits for a file (`wait_for`)."""
        path = self.source / name
        path.write_text(json.dumps(wanted))
        os.utime(path, (LONG_AGO, LONG_AGO))

    def mend(self) -> None:
        """Let the files that fail give a row from now on, although the code of f stays the same."""
        (self.root / "mended").touch()

    @property
    def mended_function(self) -> str:
        """The same function with other code: it fails on nothing."""
        return f"{self.function.with_name(MENDED)}:describe"

    def run(self, **options: Any) -> RunResult:  # type: ignore[override]
        return run_jobs(self.config, engine="serial", progress=False, **options)

    def run_until(self, is_last: Callable[[Path], object], **options: Any) -> None:
        """Run, and die as the first file that fits is begun; its temporary name lies in the file's folder."""

        class Died(BaseException):
            pass

        def create(path: Path, flags: int, mode: int) -> int:
            if is_last(path):
                raise Died
            return os.open(path, flags, mode)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
            patch.setattr(durable, "_create", create)
            self.run(**options)

    def failed(self) -> dict[str, int]:
        """Return path and attempts of the files in failures.csv."""
        with open(self.output / "failures" / "failures.csv", newline="") as file:
            return {line["path"]: int(line["attempts"]) for line in csv.DictReader(file)}

    def calls(self) -> list[str]:
        """Return the file names that f was called with since the last `forget_calls`."""
        return self.calls_log.read_text().splitlines() if self.calls_log.exists() else []

    def forget_calls(self) -> None:
        self.calls_log.unlink(missing_ok=True)

    def findings(self, **options: Any) -> list[str]:
        has_many_rows = self.settings.get("rows") == "many"
        return super().findings(path_column="path", has_many_rows=has_many_rows, **options)


NewJob = Callable[..., TinyJob]
"""What the fixture `new_job` gives."""


def make_job(folder: Path, n_files: int = 6, function: str = DOUBLE, **settings: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder, **settings)
    job.write_config()
    job.write_function(function)
    job.add_files(*range(n_files))
    return job


def write_tiny_function(function: Path) -> None:
    """Write the function of tiny jobs, and beside it the mended one."""
    function.write_text(DESCRIBE)
    function.with_name(MENDED).write_text(DESCRIBE.replace("IS_MENDED = False", "IS_MENDED = True"))


def doubled(*numbers: int) -> list[dict[str, str]]:
    """Return what a plain loop over these files gives, as CSV has it."""
    return [{"n": str(n), "twice": str(2 * n)} for n in numbers]


# Calling r3po

WIDE = "300"
"""Characters of a line, so that tests find whole sentences on one, however long the path of tmp_path is."""


def r3po(*arguments: str, cwd: Path) -> Ended:
    """Call the command line in this process, as if it were one of its own; stdin is empty and nothing is a terminal."""
    from r3po.cli.app import run_command

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, as_new_process(cwd), redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", os.environ.get("COLUMNS", WIDE))
        sys.argv, sys.stdin = ["r3po", *arguments], io.StringIO()
        code = run_command()
    return Ended(code, out.getvalue(), err.getvalue())


_KEPT = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))
"""Where modules lie that no test wrote."""


@contextmanager
def as_new_process(cwd: Path) -> Iterator[None]:
    """Work in `cwd`, and forget afterwards what was imported from it."""
    here, argv, stdin, path, modules = os.getcwd(), sys.argv, sys.stdin, sys.path[:], set(sys.modules)
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(here)
        sys.argv, sys.stdin, sys.path[:] = argv, stdin, path
        sys.dont_write_bytecode = writes_bytecode
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if not file.startswith(_KEPT) and "site-packages" not in file:
                del sys.modules[name]
        importlib.invalidate_caches()


def environment(**changed: str | None) -> dict[str, str]:
    """Return this process's environment for another one, without what changes how r3po prints."""
    dropped = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "PYTHONPATH", "PYTHONWARNINGS", "RAY_ADDRESS")
    merged = {key: value for key, value in os.environ.items() if key not in dropped}
    merged |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": WIDE} | {
        key: value for key, value in changed.items() if value is not None
    }
    return {key: value for key, value in merged.items() if changed.get(key, "") is not None}


def run_process(*arguments: str, cwd: Path, **changed: str | None) -> Ended:
    """`python -m r3po ...` as a process of its own, to its end."""
    return run_python("-m", "r3po", *arguments, cwd=cwd, **changed)


def run_python(*arguments: str, cwd: Path, **changed: str | None) -> Ended:
    return run_program(sys.executable, *arguments, cwd=cwd, **changed)


def run_program(*command: str, cwd: Path, **changed: str | None) -> Ended:
    """Run a program to its end, in a session of its own, with neither terminal nor anything else of ours."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**changed),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass
class Running:
    """A process that goes on while the test looks; its stdout and stderr go to files."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return (self.folder / "stdout.txt").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
        """Wait for a condition; the process must be alive until then."""

        def is_so() -> bool:
            if condition():
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode} before: {what}\n{self.err}"
            return False

        wait_until(is_so, what, timeout_s)

    def end(self, timeout_s: float) -> Ended:
        return Ended(self.process.wait(timeout_s), self.out, self.err)


@contextmanager
def running(*arguments: str, cwd: Path, **changed: str | None) -> Iterator[Running]:
    """`python -m r3po ...` as a process; whatever is left of it and its children is killed at the end."""
    logs = cwd / f".process-{time.monotonic_ns()}"
    logs.mkdir()
    with open(logs / "stdout.txt", "wb") as out, open(logs / "stderr.txt", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "r3po", *arguments],
            cwd=cwd,
            env=environment(**changed),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # Ctrl-C for it is not for us
        )
    try:
        yield Running(process, logs)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.wait(30)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    assert comes_true(condition, timeout_s), f"not within {timeout_s:.0f} s: {what}"


def comes_true(condition: Callable[[], object], timeout_s: float, pause_s: float = 0.01) -> bool:
    """Return whether a condition became true within a time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
    return True


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder of its own with a short path, so that Ray's sockets fit and what Ray leaves behind is seen."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Processes, by /proc

HAS_PROC = Path("/proc/self/stat").exists()

Pid = tuple[int, str]
"""A process id and the time the process started: ids are used again."""


def tree_of(pid: int) -> list[Pid]:
    """Return a process that this test started and all that it started in turn, parents first."""
    stats = {other: stat for other in all_pids() if (stat := stat_of(other))}
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop(0)
        if current in stats:
            found.append((current, stats[current][19]))
        waiting += [other for other, stat in stats.items() if int(stat[1]) == current]
    return found


def alive(pids: list[Pid]) -> list[Pid]:
    """Return those that still run; a zombie does not."""
    return [(pid, started) for pid, started in pids if (s := stat_of(pid)) and s[19] == started and s[0] != "Z"]


def send(pid: Pid, number: signal.Signals) -> None:
    """Send a signal to this very process: its id may be another's by now."""
    if alive([pid]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid[0], number)


def kill_tree(pid: int) -> list[Pid]:
    """SIGKILL a process that this test started and its whole tree; return what that was."""
    killed: list[Pid] = []
    while fresh := [found for found in alive(tree_of(pid)) if found not in killed]:
        for process in fresh:
            send(process, signal.SIGKILL)
        killed += fresh
    return killed


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_of(pid: int) -> list[str]:
    """Return the words of a process's command line; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def stat_of(pid: int) -> list[str] | None:
    """Return state, parent and the rest of /proc/<pid>/stat; None if there is no such process."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return content.rpartition(")")[2].split()


# Looking


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def snapshot(*folders: Path) -> dict[str, str]:
    """Return every name under the folders with a digest of what it is: equal snapshots mean that nothing changed."""
    found = {}
    for folder in folders:
        for path in [folder, *sorted(folder.rglob("*"))]:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def without_times(text: str) -> str:
    """Return what r3po prints with its volatile parts replaced: version, times, speeds."""
    text = re.sub(r"r3po \d+\.\d+\.\S+", "r3po VERSION", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"[\d,.]+ files/s", "SPEED", text)
    text = re.sub(r"left=(\d+s|unknown)", "left=LEFT", text)
    return re.sub(r"\b(\d+\.\d s|\d+:\d\d(:\d\d)?)(?=[:. \n]|$)", "SECONDS", text)


ESCAPE = "\x1b"
