"""Hours of one question: has every file exactly one row or one failure, whatever is killed? `make soak` calls this.

One source and an undisturbed reference are made once. Then round follows round until the time is up: a fresh job over
that source is run on Ray and hit by faults, drawn from the seed, until it is finished; what it made is compared with
the reference. A run is looked at from outside only: its exit code, its stderr, its processes, the files on disk.

    python tests/harness/soak.py --minutes 60 --seed 7

exits with 1 as soon as something is wrong, and keeps the round: the job, the stderr of each run, the faults.
The pieces are a library, too: tests/faults/test_kills.py hits small jobs one fault at a time with them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

from jobs import (
    HAS_PROC,
    LONG_AGO,
    Job,
    Pid,
    alive,
    all_pids,
    comes_true,
    command_of,
    environment,
    read_csv,
    run_process,
    send,
    short_folder,
    stat_of,
)

# What has to hold

FINISHED = {0, 1}
"""Exit codes of a run after which nothing is pending."""

RAY_DEATH_S = 20.0
"""A run whose raylet or gcs_server died ends within this time."""

SIGNAL_S = 15.0
"""A run that a signal asked to end, ends within this time."""

RAY_START_S = 45.0
"""Ray waits half a minute for a raylet that died as it started; a run that is asked to end then ends after that."""

SIGKILL_S = 5.0

GONE_S = 10.0
"""So long after a run, nothing that it started is alive."""

AGENTS_GONE_S = 75.0
"""Ray's two agents notice only by a time limit of their own (60 s) that their raylet died with a killed driver."""

RUN_LIMIT_S = 300.0
"""No run lasts so long, whatever hits it: it hangs."""

MAX_RUNS = 60
"""Of one round: a job that needs more does not get on."""

DIED_AT_START = "this run ended while Ray was starting"
"""What a run says of which the driver was ended by Ray itself."""

RAY_STARTING = ", Ray starting"
"""Ends the kind of a fault that hit Ray before there were workers."""

SETTLED_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}

FUNCTION = """\
import json
import os
import signal
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def measure(filepath):
    with open(filepath) as file:
        wanted = json.load(file)
    # One line a call, in one write to a file of this process: it is there whatever is killed next.
    log = os.open(os.path.join(HERE, "calls", f"{os.getpid()}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, wanted["path"].encode() + b"\\n")
    os.close(log)
    while os.path.exists(os.path.join(HERE, "hold")):
        time.sleep(0.02)
    time.sleep(wanted["ms"] / 1000)
    if wanted["does"] == "fail":
        raise ValueError(f"{wanted['n']} is refused")
    if wanted["does"] == "crash":
        if not os.path.exists(os.path.join(HERE, "crashes")):
            raise RuntimeError("this one crashes the process elsewhere")
        if wanted["n"] % 2:
            os._exit(3)
        os.kill(os.getpid(), signal.SIGSEGV)
    value = wanted["n"] + 0.5 if wanted["does"] == "float" else wanted["n"]
    return {"path": wanted["path"], "value": value, "text": wanted["text"]}
"""
"""The same text everywhere, since parts name its fingerprint; what crashes is decided by a file beside it."""


# The source and the jobs over it


@dataclass(frozen=True)
class Source:
    """Small JSON files that say what f does with them."""

    folder: Path
    paths: tuple[str, ...]
    failing: frozenset[str]
    crashing: frozenset[str]
    least_ms: int
    """The least that f costs for one file."""


def make_source(
    folder: Path, n_files: int, *, n_crashers: int = 0, ms: tuple[int, int] = (2, 4), n_slow: int = 8
) -> Source:
    """Write the files: most give an int, each 97th fails, a few are slow, crash, or give a float in the second half."""
    crashing = {(2 * k + 1) * n_files // (2 * n_crashers) // 2 * 2 + k % 2 for k in range(n_crashers)}
    slow = {(2 * k + 1) * n_files // (2 * n_slow) + 3 for k in range(n_slow)}
    failing, paths = set(), []
    for n in range(n_files):
        path = f"{n // 200:03}/{n:05}.json"
        does = "crash" if n in crashing else "fail" if n % 97 == 41 else "row"
        if does == "row" and n > n_files // 2 and n % 371 == 5:
            does = "float"
        if does == "fail":
            failing.add(path)
        content = {
            "path": path,
            "n": n,
            "ms": 300 if n in slow else ms[0] + n % (ms[1] - ms[0] + 1),
            "does": does,
            "text": None if n % 13 == 4 else f'no. {n}, "so called"',
        }
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        os.utime(file, (LONG_AGO, LONG_AGO))
        paths.append(path)
    return Source(folder, tuple(paths), frozenset(failing), frozenset(paths[n] for n in crashing), ms[0])


class SoakJob(Job):
    """A job that logs the calls of f; files that crash do so where there is a file `crashes`, and raise elsewhere."""

    def __init__(
        self, folder: Path, inputs: Source, workers: int = 2, shard_size: int = 500, batch_seconds: float = 1.0
    ) -> None:
        super().__init__(
            folder,
            job_name="soak",
            processes=workers,
            source_path=str(inputs.folder),
            function="double.py:measure",
            shard_size=shard_size,
            batch_seconds=batch_seconds,
        )
        self.inputs, self.shard_size, self.batch_seconds = inputs, shard_size, batch_seconds

    def write(self, *, crashes: bool = True) -> Self:
        (self.folder / "calls").mkdir(parents=True)
        self.write_function(FUNCTION)
        self.write_config()
        if crashes:
            (self.folder / "crashes").touch()
        return self

    def hold(self, is_held: bool = True) -> None:
        """Let the calls of f wait from now on, so that the job cannot be finished; or let them go on."""
        if is_held:
            (self.folder / "hold").touch()
        else:
            (self.folder / "hold").unlink(missing_ok=True)

    def n_calls(self) -> int:
        """Return how often f has been called so far; one stat a process, so that it may be asked often."""
        line_bytes = len(self.inputs.paths[0]) + 1  # all paths are of one length
        return sum(log.stat().st_size for log in (self.folder / "calls").iterdir()) // line_bytes

    def calls(self) -> Counter[str]:
        logs = (self.folder / "calls").iterdir()
        return Counter(line for log in logs for line in log.read_text().splitlines())

    def failures_csv(self) -> dict[str, tuple[str, str]]:
        """Return kind and message by path. How often a file was tried is the faults' affair, not the file's."""
        lines = read_csv(self.output / "failures" / "failures.csv")
        return {line["path"]: (line["error_type"], line["message"]) for line in lines}


def compare(job: SoakJob, reference: SoakJob) -> tuple[list[str], Counter[str]]:
    """Look for everything that a finished job must be: whole, good in the checker's eyes, equal to the reference.

    Returns:
        What is wrong, and how many rows, failures, lost and doubled files there are.
    """
    findings = job.findings(path_column="path")
    rows, failures = [row["path"] for row in job.rows()], job.failures_csv()
    times = Counter(rows) + Counter(failures.keys())  # the checker sees a path that failed twice
    lost = [path for path in job.inputs.paths if path not in times]
    doubled = [path for path, n in times.items() if n > 1]
    ours, theirs = job.parts(), reference.parts()
    different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    for paths, what in ((lost, "files are lost"), (doubled, "files are there twice"), (different, "parts differ")):
        findings += [f"{len(paths)} {what}: {paths[:5]}"] if paths else []
    findings += _compare_failures(job, failures, reference.failures_csv())
    counts = {"rows": len(rows), "failures": len(failures), "lost": len(lost), "doubled": len(doubled)}
    return findings, Counter(counts)


Failures = dict[str, tuple[str, str]]


def _compare_failures(job: SoakJob, ours: Failures, theirs: Failures) -> list[str]:
    """Compare kind and message; of a file that crashes the kind, since what is known of a death differs."""
    crashing = job.inputs.crashing if (job.folder / "crashes").exists() else frozenset()
    ours = {path: (kind, "" if path in crashing else message) for path, (kind, message) in ours.items()}
    theirs = theirs | dict.fromkeys(crashing, ("WorkerDied", ""))
    return [
        f"{path}: failed as {ours.get(path)}, expected {theirs.get(path)}"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]


# One run, and what may hit it


@dataclass
class Hit:
    """A fault that reached a run."""

    kind: str
    at: float
    """time.monotonic()"""
    targets: list[str]
    workers_hit: int
    """Workers that lose what they have at hand."""


@dataclass
class Run:
    """`r3po run` in a session of its own; that, and those of the keepers of its Rays, keep its processes together also
    when their parent is dead.

    Use as a context: at its end everything that it started is killed.
    """

    job: SoakJob
    temporary: Path
    """TMPDIR of the run: short, since Ray's sockets lie in it."""
    stderr_file: Path
    arguments: tuple[str, ...] = ()
    stdio: int | None = None
    """Descriptor for stdout and stderr instead of the file; a terminal becomes the run's own, and its stdin, too."""
    hits: list[Hit] = field(default_factory=list)
    seen: dict[Pid, str] = field(default_factory=dict)
    """Role of each process that was ever seen in the sessions."""
    sessions: set[int] = field(default_factory=set)
    """Those of the keepers of its Rays."""
    ended_at: float | None = None

    def __enter__(self) -> Self:
        self.folders_before = set(self.temporary.iterdir())
        self.runs_before = set(self.job.working_dir.glob("runs/*/events.jsonl"))
        is_terminal = self.stdio is not None and os.isatty(self.stdio)
        with open(self.stderr_file, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "r3po", "run", *self.arguments],
                cwd=self.job.folder,
                env=environment(TMPDIR=str(self.temporary)),
                stdin=self.stdio if is_terminal else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self.stdio is None else self.stdio,
                stderr=err if self.stdio is None else self.stdio,
                start_new_session=True,
                preexec_fn=_take_terminal if is_terminal else None,
            )
        self.started_at = time.monotonic()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Kill what is left, unless the run ended by itself and its leaving is to be watched."""
        if self.poll() is None or kind is not None:
            self.kill_everything()
            self.process.wait(30)

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return the exit code, None while the driver lives."""
        code = self.process.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = time.monotonic()
        return code

    def look(self) -> dict[Pid, str]:
        """Return what lives of this run now by its role, and remember it."""
        self.sessions |= keepers_of(self.process.pid)
        found = processes_of(self.process.pid, self.sessions)
        self.seen |= found
        return found

    def of_role(self, role: str) -> list[Pid]:
        return [pid for pid, of in self.look().items() if of == role]

    def alive(self, but: tuple[str, ...] = ()) -> list[str]:
        """Return what still lives of all that was ever seen, as `role pid`; roles in `but` are left out."""
        self.look()
        return [f"{self.seen[pid]} {pid[0]}" for pid in alive(list(self.seen)) if self.seen[pid] not in but]

    @property
    def is_listening(self) -> bool:
        """Whether signals reach r3po: before that Python itself answers them, as it starts."""
        fresh = set(self.job.working_dir.glob("runs/*/events.jsonl")) - self.runs_before
        return any(file.stat().st_size for file in fresh)

    @property
    def left_folders(self) -> list[str]:
        """Return Ray's temporary folders that this run made and left."""
        return sorted(path.name for path in set(self.temporary.iterdir()) - self.folders_before)

    # Faults. Each returns whether there was something to hit.

    def kill(self, role: str, rng: random.Random, n: int | None = None) -> bool:
        """SIGKILL `n` processes of one role, or all of it."""
        targets = self.of_role(role)
        if not targets:
            return False
        targets = targets if n is None else rng.sample(targets, min(n, len(targets)))
        kind = role if role != "worker" or len(targets) == 1 else "workers"
        self._note(kind, targets, len(targets) if role == "worker" else self.job.settings["processes"])
        for pid in targets:
            send(pid, signal.SIGKILL)
        return True

    def kill_everything(self) -> bool:
        self._note("everything", list(self.look()), self.job.settings["processes"])
        while targets := alive(list(self.look())):
            for pid in targets:  # the driver first: none is left to tell of the others' deaths
                send(pid, signal.SIGKILL)
        return True

    def send(self, number: signal.Signals, *, group: bool = False) -> bool:
        """Send the driver a signal, or all of its process group as a terminal does."""
        if not self.is_listening or self.poll() is not None:
            return False
        self._note(number.name, [], 0)
        (os.killpg if group else os.kill)(self.process.pid, number)
        return True

    def interrupt_twice(self, rng: random.Random) -> bool:
        """Ctrl-C, and again within a second: once the first has been answered, if it is."""
        if not self.send(signal.SIGINT, group=True):
            return False
        pause_until(lambda: self.poll() is not None, rng.uniform(0.05, 1.0))
        if self.poll() is None:
            self.hits[-1].kind, self.hits[-1].workers_hit = "SIGINT twice", self.job.settings["processes"]
            os.killpg(self.process.pid, signal.SIGINT)
        return True

    def stop_for(self, role: str, seconds: float, rng: random.Random) -> bool:
        """SIGSTOP one process of a role, and SIGCONT after some seconds or when the run is over."""
        targets = self.of_role(role)
        if not targets:
            return False
        target = rng.choice(targets)
        self._note(f"{role} stopped", [target], 0)
        send(target, signal.SIGSTOP)
        try:
            pause_until(lambda: self.poll() is not None, seconds)
        finally:
            send(target, signal.SIGCONT)
        return True

    def _note(self, kind: str, targets: list[Pid], workers_hit: int) -> None:
        names = [f"{self.seen[pid]} {pid[0]}" for pid in targets]
        self.hits.append(Hit(kind, time.monotonic(), names, workers_hit))

    # What hit it

    @property
    def fatal(self) -> Hit | None:
        """The first hit that has to end the run."""
        return next((hit for hit in self.hits if hit.kind in BOUND_S), None)

    @property
    def was_hit_at_start(self) -> bool:
        return any(hit.kind.endswith(RAY_STARTING) for hit in self.hits)

    @property
    def has_worked(self) -> bool:
        return "worker" in self.seen.values()

    # Its end

    def wait(self, timeout_s: float, what: str = "the run ends") -> int:
        """Return the exit code; meanwhile keep looking at what processes there are."""

        def has_ended() -> bool:
            self.look()
            return self.poll() is not None

        wait_for(has_ended, what, timeout_s)
        code = self.poll()
        assert code is not None
        return code

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 120) -> None:
        """Wait for a condition; the run must go on until then."""

        def is_so() -> bool:
            assert self.poll() is None, f"ended with {self.process.returncode} before: {what}\n{self.stderr}"
            self.look()
            return bool(condition())

        wait_for(is_so, what, timeout_s)

    def findings(self) -> list[str]:
        """Return what is wrong with how the run ended; empty if all is well."""
        code = self.poll()
        kinds = [hit.kind for hit in self.hits]
        found = []
        if code not in self.allowed_codes():
            found.append(f"exit code {code} after {kinds or 'no fault'}")
        for chatter in ("Traceback (most recent call last)", "(raylet)", "*** SIGTERM received"):
            if chatter in self.stderr:
                found.append(f"stderr has {chatter!r}")
        if self.died_at_start:
            # Ray ends the driver itself then, from C++ and with 1; the guard says so, and removes the folder.
            pause_until(lambda: DIED_AT_START in self.stderr and not self.left_folders, GONE_S)
            if DIED_AT_START not in self.stderr or not self.was_hit_at_start:
                found.append(f"exit code {code} without an end after {kinds or 'no fault'}")
        if code != -signal.SIGKILL and self.left_folders:
            found.append(f"temporary folders are left after exit code {code}: {self.left_folders}")
        return found

    @property
    def died_at_start(self) -> bool:
        """Whether the run ended like a finished one, but did not say so (where it can be heard)."""
        return self.stdio is None and self.poll() in FINISHED and not self.says_the_end

    @property
    def says_the_end(self) -> bool:
        return any(end in self.stderr for end in ("Done in", "Nothing to do"))

    def allowed_codes(self) -> set[int]:
        """Return the codes that tell the truth; a run may always have been finished just before a fault."""
        allowed = {1 if self.job.inputs.failing else 0}
        if self.job.inputs.crashing or any(hit.workers_hit or "Ray" in hit.kind for hit in self.hits):
            allowed.add(3)
        for hit in self.hits:
            if hit.kind in ("driver", "everything"):
                allowed.add(-signal.SIGKILL)
            name = hit.kind.split()[0]
            if name in signal.Signals.__members__:
                number = signal.Signals[name]
                allowed.add(SETTLED_CODES[number])
                if self.says_the_end:  # the signal was nobody's any more; a shell says the same code
                    allowed.add(-number)
        return allowed


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def keepers_of(driver: int) -> set[int]:
    """Return the processes that keep a Ray for a driver; each is the leader of a session."""
    keepers = (pid for pid in all_pids() if any("ray_keeper" in word for word in command_of(pid)))
    return {pid for pid in keepers if (stat := stat_of(pid)) and int(stat[1]) == driver and int(stat[3]) == pid}


def processes_of(driver: int, sessions: set[int]) -> dict[Pid, str]:
    """Return the role of each process that lives in the session of a driver or in others, the driver first if it does:
    driver, keeper, worker, starter, raylet, gcs_server, agent or other."""
    found: dict[Pid, str] = {}
    for pid in all_pids():
        stat = stat_of(pid)
        if stat and int(stat[3]) in (driver, *sessions) and stat[0] != "Z":
            role = (
                "driver" if pid == driver else "keeper" if pid in sessions else _role_of(command_of(pid), _name_of(pid))
            )
            found[(pid, stat[19])] = role
    return dict(sorted(found.items(), key=lambda item: item[1] != "driver"))


def _name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


def _role_of(command: list[str], name: str) -> str:
    if name.startswith("r3po-"):
        return name.removeprefix("r3po-")
    program = command[0].strip() if command else ""  # it has just ended
    if program.startswith("ray::"):
        return "agent" if program.endswith("Agent") else "other" if program == "ray::IDLE" else "worker"
    if any(word.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for word in command):
        return "agent"
    name = os.path.basename(program)
    return name if name in ("raylet", "gcs_server") else "other"


# Waiting


class AskedToEnd(Exception):
    """The soak itself got SIGINT or SIGTERM."""


_is_asked_to_end = False


def wait_for(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    assert pause_until(condition, timeout_s), f"not within {timeout_s:.0f} s: {what}"


def pause_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Return whether a condition became true within a time."""
    is_so = comes_true(lambda: _is_asked_to_end or condition(), timeout_s, pause_s=0.05)
    if _is_asked_to_end:
        raise AskedToEnd
    return is_so


def make_reference(job: SoakJob, temporary: Path) -> SoakJob:
    """Run a job undisturbed and without Ray; files that crash raise there."""
    job.write(crashes=False)
    with Run(job, temporary, job.folder / "stderr.txt", ("--engine", "serial")) as run:
        code = run.wait(600)
        expected = 1 if job.inputs.failing or job.inputs.crashing else 0
        assert code == expected, f"the reference ended with {code}\n{run.stderr}"
    calls = job.calls()
    assert all(calls[path] == 1 for path in job.inputs.paths), "the reference called f more or less than once a file"
    return job


# The soak


Fault = Callable[[Run, random.Random], bool]

FAULTS: dict[str, tuple[Fault, int, int]] = {
    "worker": (lambda run, rng: run.kill("worker", rng, 1), 24, 44),
    "workers": (lambda run, rng: run.kill("worker", rng), 10, 16),
    "driver": (lambda run, rng: run.kill("driver", rng), 14, 9),
    "raylet": (lambda run, rng: run.kill("raylet", rng), 8, 4),
    "gcs_server": (lambda run, rng: run.kill("gcs_server", rng), 8, 4),
    "keeper": (lambda run, rng: run.kill("keeper", rng), 6, 4),
    "agents": (lambda run, rng: run.kill("agent", rng), 5, 3),
    "everything": (lambda run, rng: run.kill_everything(), 8, 6),
    "SIGTERM": (lambda run, rng: run.send(signal.SIGTERM), 5, 2),
    "SIGHUP": (lambda run, rng: run.send(signal.SIGHUP), 4, 2),
    "SIGINT": (lambda run, rng: run.send(signal.SIGINT, group=rng.random() < 0.5), 5, 2),
    "SIGINT twice": (lambda run, rng: run.interrupt_twice(rng), 4, 2),
    "worker stopped": (lambda run, rng: run.stop_for("worker", rng.uniform(1, 6), rng), 4, 3),
    "driver stopped": (lambda run, rng: run.stop_for("driver", rng.uniform(1, 6), rng), 4, 3),
}
"""What may hit a run, and how often of a hundred times it does, in steady weather and in a storm."""


def kill_starter(run: Run, rng: random.Random) -> bool:
    """Kill what starts the workers of a run without Ray, and with it the workers."""
    return run.kill("starter", rng)


BOUND_S = {
    **dict.fromkeys(("driver", "everything"), SIGKILL_S),
    **dict.fromkeys(("raylet", "gcs_server", "keeper", "Ray died of it"), RAY_DEATH_S),
    **dict.fromkeys(("SIGTERM", "SIGHUP", "SIGINT", "SIGINT twice"), SIGNAL_S),
}
"""Faults that end a run, and within what time."""


@dataclass(frozen=True)
class Weather:
    """How a round is disturbed: seconds between faults, and how often each kind is drawn."""

    pause_s: tuple[int, int]
    weights: list[int]

    @property
    def name(self) -> str:
        return "a fault every {}-{} s".format(*self.pause_s)


STEADY = Weather((5, 15), [steady for _, steady, _ in FAULTS.values()])
STORM = Weather((1, 5), [storm for _, _, storm in FAULTS.values()])


@dataclass
class Report:
    """What the soak came to, as it is printed and written."""

    seed: int
    minutes: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    """Of rounds, runs, files, rows, failures, lost and doubled files, calls beyond the files, and what is allowed."""
    faults: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    """Kind of fault: the longest time from it to the end of the run."""
    most_runs_of_a_round: int = 0
    findings: list[str] = field(default_factory=list)
    ended: str = "time is up"

    def lines(self) -> list[str]:
        n, n_faults = self.counts, self.faults.total()
        kinds = ", ".join(f"{times} {kind}" for kind, times in self.faults.most_common())
        codes = ", ".join(f"{times} times {code}" for code, times in self.exit_codes.most_common())
        longest = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in sorted(self.longest_s.items()))
        return [
            f"seed {self.seed}, {self.minutes:.1f} minutes ({self.ended}), {n['rounds']} rounds, {n['runs']} runs "
            f"(at most {self.most_runs_of_a_round} a round)",
            f"faults          {n_faults}, {n_faults / (self.minutes or 1):.1f} a minute: {kinds}",
            f"exit codes      {codes}",
            f"files           {n['files']:,}: {n['rows']:,} rows, {n['failures']:,} failures, "
            f"{n['lost']} lost, {n['doubled']} doubled",
            f"calls of f      {n['calls beyond']:,} beyond the files; allowed: {n['calls allowed']:,} "
            f"(two batches for each worker hit)",
            f"longest to end  {longest}",
            f"lost workers    stopped {n['stopped by lost workers']} runs that could have gone on",
            f"agents          alive {GONE_S:.0f} s after {n['with late agents']} runs",
            *(f"FINDING         {finding}" for finding in self.findings),
        ]


@dataclass
class Soak:
    """Rounds until the time is up or something is wrong."""

    folder: Path
    temporary: Path
    reference: SoakJob
    workers: int
    rng: random.Random
    report: Report
    ends_at: float
    """time.monotonic() after which nothing is disturbed any more, and no round begins."""
    _leaving: list[Run] = field(default_factory=list)
    """Runs that ended while something of theirs may still live."""
    _next_fault_at: float = 0.0
    _drawn: str | None = None
    """The next fault; it waits until there is something that it can hit."""

    def go(self) -> None:
        good = None
        while time.monotonic() < self.ends_at:
            number = self.report.counts["rounds"] + 1
            folder = self.folder / f"round-{number:04}"
            job = SoakJob(folder, self.reference.inputs, self.workers, self.reference.shard_size)
            try:
                self.play_round(job.write(), STORM if number % 2 == 0 else STEADY)
            except AssertionError as error:
                raise AssertionError(f"{folder}: {error}") from error
            if good is not None:  # the round before: nothing of it lives any more
                shutil.rmtree(good)
            good = folder

    def close(self) -> None:
        """Leave nothing behind: wait for what may go by itself, and kill the rest."""
        with contextlib.suppress(AskedToEnd):
            pause_until(lambda: not any(run.alive() for run in self._leaving), GONE_S)
        for run in self._leaving:
            for pid in run.seen:
                send(pid, signal.SIGKILL)

    def play_round(self, job: SoakJob, weather: Weather) -> None:
        """Run a job until it is finished, hit by faults, and compare it with the reference.

        Raises:
            AssertionError: something is wrong.
        """
        started, n_runs, hits, done = time.monotonic(), 0, [], 0
        logs = job.folder / "runs"
        logs.mkdir()
        self._next_fault_at = started + self.rng.uniform(*weather.pause_s)
        self._drawn = None
        while True:
            n_runs += 1
            assert n_runs <= MAX_RUNS, f"not finished after {MAX_RUNS} runs"
            with Run(job, self.temporary, logs / f"{n_runs:03}.stderr.txt") as run:
                try:
                    code = self._disturb(run, weather)
                finally:
                    self._write_faults(logs / "faults.jsonl", run, n_runs, started)
                hits += run.hits
                self._account(run, code)
            if code in FINISHED and not run.died_at_start:
                break
            done = self._check_progress(job, done)
        self.report.counts["rounds"] += 1
        self.report.most_runs_of_a_round = max(self.report.most_runs_of_a_round, n_runs)
        self._finish(job, hits)
        number = self.report.counts["rounds"]
        say(f"round {number}: {weather.name}; {n_runs} runs, {len(hits)} faults, {_seconds(started)}")

    # Private methods

    def _disturb(self, run: Run, weather: Weather) -> int:
        """Hit a run until it ends, and return its exit code."""
        while (code := run.poll()) is None:
            now = time.monotonic()
            self._notice_death_of_ray(run)
            if run.fatal is not None:
                self._require_end(run, run.fatal)
            elif self._next_fault_at <= now < self.ends_at:
                self._hit(run, weather)
            assert run.fatal or now - run.started_at <= RUN_LIMIT_S, f"{run.stderr_file}: the run does not end"
            self._check_leaving()
            pause_until(lambda: run.poll() is not None, 0.2)
        return code

    def _hit(self, run: Run, weather: Weather) -> None:
        if self._drawn is None:
            self._drawn = self.rng.choices(list(FAULTS), weather.weights)[0]
        n_before = len(run.hits)
        # Ray's start is tried again when it fails; only once there are workers must a death of Ray end the run.
        has_worked = run.has_worked
        if not FAULTS[self._drawn][0](run, self.rng):
            return
        hit = run.hits[-1]
        if (
            hit.kind in ("raylet", "gcs_server", "keeper", "agent") and not has_worked
        ):  # the raylet dies with its agents
            hit.kind += RAY_STARTING
        self.report.faults.update(hit.kind for hit in run.hits[n_before:])
        self._drawn = None
        self._next_fault_at = time.monotonic() + self.rng.uniform(*weather.pause_s)

    def _notice_death_of_ray(self, run: Run) -> None:
        """Ray's processes may die of the agents' death, or of one another's: that, too, has to end the run in time."""
        roles = set(run.look().values())
        is_at_work = run.has_worked and run.fatal is None and "driver" in roles
        if is_at_work and not {"raylet", "gcs_server"} <= roles and any(hit.kind == "agent" for hit in run.hits):
            run.hits.append(Hit("Ray died of it", time.monotonic(), [], self.workers))

    def _require_end(self, run: Run, fatal: Hit) -> None:
        seconds, bound = time.monotonic() - fatal.at, BOUND_S[fatal.kind]
        if run.was_hit_at_start:
            bound += RAY_START_S
        if seconds > bound:
            # How long does it really take? That is worth more than the bound.
            ended = pause_until(lambda: run.poll() is not None, 90)
            took = f"ended {time.monotonic() - fatal.at:.0f} s after it with {run.poll()}" if ended else "hangs"
            raise AssertionError(f"{run.stderr_file}: {fatal.kind}: the run {took}")

    def _account(self, run: Run, code: int) -> None:
        """Take down how a run ended; what it left is looked at later, while the next one is under way already."""
        self.report.counts["runs"] += 1
        self.report.exit_codes[code] += 1
        assert run.ended_at is not None
        if run.fatal is not None and code not in FINISHED:
            longest = self.report.longest_s
            kind = run.fatal.kind + (RAY_STARTING if run.was_hit_at_start else "")
            longest[kind] = round(max(longest.get(kind, 0.0), run.ended_at - run.fatal.at), 2)
        elif code == 3 and {hit.kind for hit in run.hits} <= {"worker", "workers", "worker stopped", "driver stopped"}:
            self.report.counts["stopped by lost workers"] += 1
        findings = run.findings()
        assert not findings, f"{run.stderr_file}: {'; '.join(findings)}"
        self._leaving.append(run)
        if self.rng.random() < 0.5:  # else the next run begins while workers of this one may still write
            pause_until(lambda: not run.alive(but=("agent",)), GONE_S)
        self._check_leaving()

    def _check_leaving(self) -> None:
        for run in list(self._leaving):
            assert run.ended_at is not None
            seconds = time.monotonic() - run.ended_at
            left = run.alive()
            if not left:
                self._leaving.remove(run)
            elif seconds > GONE_S:
                is_excused = run.poll() == -signal.SIGKILL and not run.alive(but=("agent",))
                is_in_time = is_excused and seconds <= AGENTS_GONE_S
                assert is_in_time, f"{run.stderr_file}: alive {seconds:.0f} s after its end: {left}"
                if not any(hit.kind == "agents live on" for hit in run.hits):
                    run.hits.append(Hit("agents live on", time.monotonic(), left, 0))
                    self.report.counts["with late agents"] += 1

    def _check_progress(self, job: SoakJob, done_before: int) -> int:
        """Return the files that have an outcome: they add up, and what was durable is not lost again."""
        if not (job.working_dir / "manifest.json").exists():
            return 0
        ended = run_process("status", "--json", cwd=job.folder)
        assert ended.code == 0, f"r3po status ended with {ended.code}: {ended.err}"
        counts = ended.json()
        done: int = counts["done"] + counts["failed"]
        assert counts["files"] == len(job.inputs.paths) == done + counts["pending"], f"r3po status counts {counts}"
        assert done >= done_before, f"{done_before} files had an outcome, now {done}"
        return done

    def _finish(self, job: SoakJob, hits: list[Hit]) -> None:
        """Compare a finished job with the reference, and count."""
        left = sorted(path.name for path in self.temporary.iterdir())
        assert not left, f"the job is finished, temporary folders are left: {left}"
        findings, counts = compare(job, self.reference)
        calls, n_files = job.calls(), len(job.inputs.paths)
        n_crashes = sum(calls[path] for path in job.inputs.crashing)
        workers_hit = sum(hit.workers_hit for hit in hits) + n_crashes
        batch_files = math.ceil(1000 * job.batch_seconds / job.inputs.least_ms)
        beyond, allowed = calls.total() - n_files, 2 * batch_files * workers_hit
        self.report.counts.update(counts)
        self.report.counts.update({"files": n_files, "calls beyond": beyond, "calls allowed": allowed})
        if beyond > allowed:
            findings.append(f"{beyond} calls of f beyond the files, allowed: {allowed}")
        if never := [path for path in job.inputs.paths if path not in calls]:
            findings.append(f"f was never called on {never[:5]}")
        assert not findings, "\n".join(findings[:20])

    def _write_faults(self, file: Path, run: Run, number: int, started: float) -> None:
        """Append what hit a run; times count from the begin of the round."""
        lines: list[dict[str, Any]] = [{"started": round(run.started_at - started, 2), "code": run.poll()}]
        lines += [vars(hit) | {"at": round(hit.at - started, 2)} for hit in run.hits]
        with open(file, "a") as log:
            log.writelines(json.dumps({"run": number} | line) + "\n" for line in lines)


def say(line: str) -> None:
    print(line, flush=True)


def _seconds(since: float) -> str:
    return f"{time.monotonic() - since:.0f} s"


def _ask_to_end(number: int, frame: FrameType | None) -> None:
    global _is_asked_to_end
    _is_asked_to_end = True


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill r3po for a while, and see whether every file has one outcome.")
    parser.add_argument("--minutes", type=float, default=60, help="how long (60); the last round is then finished")
    parser.add_argument("--seed", type=int, help="of the faults; random, and printed, unless given")
    parser.add_argument("--files", type=int, default=12_000, help="of the source (12,000)")
    parser.add_argument("--crashers", type=int, default=2, help="files that crash their process for good (2)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where all of it lies, and stays; a temporary folder unless given")
    given = parser.parse_args()
    assert HAS_PROC, "finds processes by /proc"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ask_to_end)
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    folder = given.folder or Path(tempfile.mkdtemp(prefix="r3po-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    return _soak(given, folder.resolve(), Report(seed))


def _soak(given: argparse.Namespace, folder: Path, report: Report) -> int:
    say(f"seed {report.seed}, in {folder}")
    started = time.monotonic()
    with short_folder() as temporary:
        soak = None
        try:
            for old in (folder / "source", folder / "reference", *folder.glob("round-*")):
                shutil.rmtree(old, ignore_errors=True)
            source = make_source(folder / "source", given.files, n_crashers=given.crashers)
            shard_size = max(1, min(500, given.files // 20))
            reference = make_reference(SoakJob(folder / "reference", source, 1, shard_size), temporary)
            say(f"source of {given.files:,} files and reference made in {_seconds(started)}")
            started = time.monotonic()
            ends_at, rng = started + 60 * given.minutes, random.Random(report.seed)
            soak = Soak(folder, temporary, reference, given.workers, rng, report, ends_at)
            soak.go()
        except AskedToEnd:
            report.ended = "asked to end"
        except AssertionError as error:
            report.ended = "something is wrong"
            report.findings += str(error).splitlines()
            shutil.copytree(temporary, folder / "temporary", symlinks=True, ignore=_sockets, dirs_exist_ok=True)
        finally:
            if soak is not None:
                soak.close()
            report.minutes = round((time.monotonic() - started) / 60, 2)
    (folder / "report.json").write_text(json.dumps(vars(report), indent=2) + "\n")
    say("\n".join(report.lines()))
    if report.findings or given.folder:
        say(f"kept: {folder}")
    else:
        kept = shutil.copy(folder / "report.json", Path(tempfile.gettempdir()) / "r3po-soak-report.json")
        say(f"report: {kept}")
        shutil.rmtree(folder)
    return 1 if report.findings else 0


def _sockets(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())}


if __name__ == "__main__":
    sys.exit(main())
