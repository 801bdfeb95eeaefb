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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Whoever starts the tests with nohup, or in the background of a shell, has these ignored, and r3po keeps that.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

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


@dataclass(frozen=True)
class Job:
    """A folder with config.yaml, double.py and source/000.json, source/001.json ..."""

    folder: Path
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def working_dir(self) -> Path:
        return self.folder / "work"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write_config(self, **keys: Any) -> None:
        """Write the config anew, with some keys other than the usual; None leaves one out."""
        usual = {
            "job_name": "doubles",
            "processes": 2,
            "source_path": "source",
            "source_file_part": ".json",
            "working_dir": "work",
            "output_path": "out",
            "function": "double.py:double",
        }
        lines = [
            f"{key}: {json.dumps(value)}" for key, value in (usual | self.keys | keys).items() if value is not None
        ]
        self.config.write_text("\n".join(lines) + "\n")

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
        ended = r3po("status", "--json", cwd=self.folder)
        assert ended.code == 0, ended.err
        return ended.json()

    def failures(self) -> list[dict[str, Any]]:
        ended = r3po("errors", "--json", cwd=self.folder)
        assert ended.code == 0, ended.err
        failures: list[dict[str, Any]] = ended.json()["failures"]
        return failures

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of all CSV parts, in the order of the parts."""
        found = []
        for part in sorted((self.output / "csv").glob("part-*.csv")):
            with open(part, newline="", encoding="utf-8") as file:
                found += list(csv.DictReader(file))
        return found

    def parts(self) -> dict[str, bytes]:
        """Return the bytes of all parts, by name."""
        files = [*self.output.glob("csv/*"), *self.output.glob("parquet/*")]
        return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}


def make_job(folder: Path, n_files: int = 6, function: str = DOUBLE, **keys: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(folder, keys)
    job.write_config()
    job.write_function(function)
    job.add_files(*range(n_files))
    return job


def doubled(*numbers: int) -> list[dict[str, str]]:
    """Return what a plain loop over these files gives, as CSV has it."""
    return [{"n": str(n), "twice": str(2 * n)} for n in numbers]


# Calling r3po


def r3po(*arguments: str, cwd: Path) -> Ended:
    """Call the command line in this process, as if it were one of its own; stdin is empty and nothing is a terminal."""
    from r3po.cli.app import run_command

    out, err = io.StringIO(), io.StringIO()
    with as_new_process(cwd), redirect_stdout(out), redirect_stderr(err):
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
    merged |= {"PYTHONDONTWRITEBYTECODE": "1"} | {key: value for key, value in changed.items() if value is not None}
    return {key: value for key, value in merged.items() if changed.get(key, "") is not None}


def run_process(*arguments: str, cwd: Path, **changed: str | None) -> Ended:
    """`python -m r3po ...` as a process of its own, to its end."""
    return run_python("-m", "r3po", *arguments, cwd=cwd, **changed)


def run_python(*arguments: str, cwd: Path, **changed: str | None) -> Ended:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**changed),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
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
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.01)


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
    children: dict[int, list[int]] = {}
    for other in _all_pids():
        parent = _stat_of(other)
        if parent is not None:
            children.setdefault(int(parent[1]), []).append(other)
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop(0)
        stat = _stat_of(current)
        if stat is not None:
            found.append((current, stat[19]))
        waiting += children.get(current, [])
    return found


def alive(pids: list[Pid]) -> list[Pid]:
    """Return those that still run; a zombie does not."""
    return [(pid, started) for pid, started in pids if (s := _stat_of(pid)) and s[19] == started and s[0] != "Z"]


def kill_tree(pid: int) -> list[Pid]:
    """SIGKILL a process that this test started and its whole tree; return what that was."""
    killed: list[Pid] = []
    while fresh := [found for found in tree_of(pid) if found not in killed and alive([found])]:
        for other, _ in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
        killed += fresh
    return killed


def commands_with(text: str) -> list[str]:
    """Return the command lines of all processes that name `text`."""
    found = []
    for pid in _all_pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat_of(pid: int) -> list[str] | None:
    """Return state, parent and the rest of /proc/<pid>/stat; None if there is no such process."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return content.rpartition(")")[2].split()


# Looking


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
    text = re.sub(r"[\d,]+ files/s", "SPEED", text)
    text = re.sub(r"left=(\d+s|unknown)", "left=LEFT", text)
    return re.sub(r"\b(\d+\.\d s|\d+:\d\d(:\d\d)?)(?=[:. \n]|$)", "SECONDS", text)


ESCAPE = "\x1b"
