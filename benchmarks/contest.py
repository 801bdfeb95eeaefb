"""One contest: contestants on one tree or bucket, in turn, the page cache put right before each, their tables compared.

Nobody's time counts before its rows are those of the first contestant (in any order). The order of the contestants
moves on by one each round, so that nobody always runs after the same one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from contestants import BENCHMARKS, PYTHON, Contestant
from plain_loop import iter_files
from processes import StillAliveError, kill_tree
from warm import warm_tree

RAY = Path(PYTHON).with_name("ray")
RAY_ALONE = BENCHMARKS / "ray_alone.py"

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class ContestError(Exception):
    """A contestant failed, or made another table; the message says which, and where its output is."""


@dataclass(frozen=True)
class Time:
    """One run of one contestant."""

    contestant: str
    label: str
    round: int
    seconds: float
    """From the start of the command to its end."""


@dataclass
class Contest:
    source: Path | str
    """A tree of files, or the URL of objects."""
    folder: Path
    """Emptied; one folder a contestant, kept until its next run."""
    processes: int = 2
    is_cold: bool = False
    limit: str = "limit"
    """The contestant that all are compared with."""
    has_ray: bool = True
    """Whether Ray alone is timed, too."""
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.times: list[Time] = []
        self.ray_seconds: list[float] = []
        self._expected: pa.Table | None = None
        if self.is_cold and not os.access(DROP_CACHES, os.W_OK):
            raise ContestError(f"cannot write {DROP_CACHES}: a cold run needs root, on Linux")

    def hold(self, contestants: Sequence[Contestant], rounds: int, rounds_of: dict[str, int] | None = None) -> None:
        """Let everybody run `rounds` times, or as often as `rounds_of` says for a name; and Ray start by itself.

        Raises:
            ContestError: a contestant failed, or its rows differ.
        """
        limits = rounds_of or {}
        self._prove(contestants[0])
        for number in range(rounds):
            if self.has_ray:
                self.ray_seconds.append(time_ray(self.folder, self.processes))
            turn = number % len(contestants)
            for contestant in [*contestants[turn:], *contestants[:turn]]:
                if number < limits.get(contestant.name, rounds):
                    self._run(contestant, number)

    def seconds_of(self, name: str) -> list[float]:
        """Return the times of one contestant."""
        return [time.seconds for time in self.times if time.contestant == name]

    @property
    def cache(self) -> str:
        """What is done to the page cache before each run."""
        return "dropped" if self.is_cold else "warmed" if isinstance(self.source, Path) else "left alone"

    # Private methods

    def _prove(self, first: Contestant) -> None:
        """Make the table that all are held to, in a run that is not timed."""
        folder = self._afresh(first)
        self._call(first, folder)
        self._expected = sorted_table(read_csv_files(folder, first.csv_files))

    def _run(self, contestant: Contestant, number: int) -> None:
        folder = self._afresh(contestant)
        if self.is_cold:
            os.sync()
            DROP_CACHES.write_text("3\n")
        elif isinstance(self.source, Path):  # the server of a bucket has read everything in the run before the first
            warm_tree(self.source)
        seconds = self._call(contestant, folder)
        self._compare(contestant, folder)
        self.times.append(Time(contestant.name, contestant.label, number, round(seconds, 3)))
        self.say(f"  {contestant.label:<32} {seconds:8.2f} s")
        shutil.rmtree(folder)

    def _afresh(self, contestant: Contestant) -> Path:
        folder = self.folder / contestant.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _call(self, contestant: Contestant, folder: Path) -> float:
        command = contestant.prepare(self.source, folder, self.processes)
        return timed(command, folder, contestant.label)

    def _compare(self, contestant: Contestant, folder: Path) -> None:
        tables = {"its CSV": read_csv_files(folder, contestant.csv_files)}
        if contestant.is_r3po:
            tables["its Parquet"] = pyarrow.parquet.read_table(folder / "output_dir" / "parquet")
        assert self._expected is not None
        for what, table in tables.items():
            if not sorted_table(table).equals(self._expected):
                raise ContestError(f"{contestant.label}: {what} is not the table of the first contestant: {folder}")


def timed(command: Sequence[str], folder: Path, label: str) -> float:
    """Return the seconds that a command takes.

    Raises:
        ContestError: it failed.
    """
    log = folder / "log.txt"
    with open(log, "wb") as out:
        start = time.perf_counter()
        ended = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        seconds = time.perf_counter() - start
    if ended.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise ContestError(f"{label} ended with {ended.returncode}; {log} ends with:\n{last}")
    return seconds


def time_ray(folder: Path, processes: int) -> float:
    """Return the seconds of `ray.init` and `ray.shutdown` alone, in a process of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [PYTHON, str(RAY_ALONE), str(processes)]
    said = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout
    answer = json.loads(said)
    return float(answer["init_s"] + answer["shutdown_s"])


@contextmanager
def running_ray(folder: Path, processes: int) -> Iterator[str]:
    """Give the address of a Ray of this machine, as people start one, that has done nothing yet."""
    command = [RAY, "start", "--head", "--block", "--port=0", f"--num-cpus={processes}"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-joined-", dir="/tmp") as temporary,
        open(folder / "ray.txt", "wb") as log,
    ):
        ray = subprocess.Popen([*command, f"--temp-dir={temporary}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while (told := re.search(r"ray start --address='([^']+)'", Path(log.name).read_text())) is None:
                if time.monotonic() > until or ray.poll() is not None:
                    raise ContestError(f"no Ray was started: see {log.name}")
                time.sleep(0.1)
            yield told[1]
        finally:
            kill_tree(ray.pid)
            ray.wait()


def read_csv_files(folder: Path, pattern: str) -> pa.Table:
    """Return the rows of a contestant's CSV files."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise ContestError(f"no {pattern} in {folder}")
    return pa.concat_tables(pyarrow.csv.read_csv(file) for file in files)


def sorted_table(table: pa.Table) -> pa.Table:
    """Return rows and columns in an order that depends on what they are alone."""
    table = table.select(sorted(table.column_names)).combine_chunks()
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])
    return table.take(order).combine_chunks().replace_schema_metadata(None)


def count_files(tree: Path) -> int:
    return sum(1 for _ in iter_files(str(tree), ".json"))


@contextmanager
def told_errors() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1."""
    try:
        yield
    except (ContestError, StillAliveError) as error:
        sys.exit(f"error: {error}")
