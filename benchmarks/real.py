"""r3po on real amounts of input, compared with a plain loop; `make real` and `make real-synthetic` call this.

    cldr        the Unicode CLDR's dates (fetched once with npm): every JSON file described, equal row by row
    synthetic   300,000 produce logs: equal row by row; then the same job afresh with three SIGKILLs of the whole
                process tree, each followed by a plain `r3po run`, and in the end equal byte by byte

Everything lands in data/. Uses the installed `r3po` command and what its users see: the config, `--json`, the parts.
Measures and reports times; fails only where the output is not what it must be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import DifferenceError, compare_output
from plain_loop import out_paths, run_plain_loop
from processes import StillAliveError, kill_tree
from trees import DATA, made_tree
from warm import warm_tree

BENCHMARKS = Path(__file__).resolve().parent
R3PO = Path(sys.executable).with_name("r3po")
CLDR_PACKAGE = "cldr-dates-full"
PROCESSES = 2  # of the plain loop, and r3po's workers
N_SHARDS = 30  # at least, so that there is something between the kills
POLL_S = 0.02


class RunError(Exception):
    """r3po did not do what the check needs; the message says what, and where its log is."""


@dataclass(frozen=True)
class Job:
    """One job in a folder of its own, which is emptied first."""

    folder: Path
    source: Path | str  # a folder, or a URL
    function: str  # of benchmarks/functions.py
    shard_size: int
    keys: dict[str, Any] = field(default_factory=dict)  # further keys of the config

    @property
    def output(self) -> Path:
        return self.folder / "output_dir"

    @property
    def state(self) -> Path:
        return self.folder / "working_dir"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def function_spec(self) -> str:
        return f"{BENCHMARKS / 'functions.py'}:{self.function}"

    def write_afresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        config = {
            "job_name": self.function,
            "processes": PROCESSES,
            "source_path": str(self.source),
            "source_file_part": ".json",
            "working_dir": "working_dir",
            "output_path": "output_dir",
            "function": self.function_spec,
            "shard_size": self.shard_size,
            **self.keys,
        }
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in config.items()]
        (self.folder / "config.yaml").write_text("".join(lines), encoding="utf-8")

    def warm(self) -> None:
        """Have the page cache hold the source, where it is on this machine."""
        if isinstance(self.source, Path):
            warm_tree(self.source)

    def start(self) -> subprocess.Popen[str]:
        """Start a plain `r3po run`; its stderr goes to the end of the log."""
        with open(self.log, "a", encoding="utf-8") as log:
            command = [str(R3PO), "run", str(self.folder / "config.yaml"), "--json"]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)


@dataclass(frozen=True)
class Moment:
    """When to kill: as soon as `reached` says so of what the run has made since it started."""

    name: str
    reached: Callable[[Progress], bool]


@dataclass
class Progress:
    """What a job's state holds now, next to what it held when the run started."""

    state: Path
    segments_before: set[str] = field(default_factory=set)
    new_segments: int = 0
    commits: int = 0

    def __post_init__(self) -> None:
        self.segments_before = set(_names(self.state / "segments"))
        self.look()

    def look(self) -> Progress:
        self.new_segments = sum(name not in self.segments_before for name in _names(self.state / "segments"))
        self.commits = sum(name.endswith(".json") for name in _names(self.state / "commits"))
        return self


def check_cldr() -> None:
    """Describe every JSON file of the Unicode CLDR's dates and compare with a plain loop."""
    source = _fetch_cldr()
    job = Job(DATA / "real" / "cldr", source, "describe_json", shard_size=1_000)  # several parts
    plain, seconds = _compare_with_plain_loop(job)
    say(f"  {plain['files']:,.0f} files of {source.name}, equal row by row in CSV and Parquet")
    _say_times(plain, seconds)


def check_synthetic(n_files: int) -> None:
    """Count produce logs: equal to a plain loop, and byte-identical after three kills of the whole process tree."""
    source = made_tree(n_files, say)
    shard_size = max(1, min(10_000, n_files // N_SHARDS))
    n_shards = -(-n_files // shard_size)
    undisturbed = Job(DATA / "real" / "synthetic", source, "count_produce", shard_size)
    plain, seconds = _compare_with_plain_loop(undisturbed)
    say(f"  {plain['files']:,.0f} files, equal row by row in CSV and Parquet")
    _say_times(plain, seconds)

    killed = Job(DATA / "real" / "synthetic-killed", source, "count_produce", shard_size)
    killed.write_afresh()
    for moment in moments_of(n_shards):
        kill_one_run(killed, moment)
    say(f"  the last run ended after {run_to_end(killed, n_files):.1f} s")
    n_parts = require_equal(digests_of(undisturbed.output), digests_of(killed.output))
    say(f"  {n_parts} parts, byte-identical to those of the undisturbed run")


# Private functions: input


def _fetch_cldr() -> Path:
    """Return the unpacked package; fetch and unpack only what is not there yet."""
    DATA.mkdir(exist_ok=True)
    if not (tarballs := sorted(DATA.glob(f"{CLDR_PACKAGE}-*.tgz"))):
        if (npm := shutil.which("npm")) is None:
            raise RunError(
                f"npm is not installed; it fetches {CLDR_PACKAGE}, once\n"
                f"hint:  install Node.js, or put {CLDR_PACKAGE}-<version>.tgz into {DATA}"
            )
        say(f"npm pack {CLDR_PACKAGE}")
        with tempfile.TemporaryDirectory(dir=DATA) as folder:
            _call([npm, "pack", CLDR_PACKAGE, "--loglevel=error"], cwd=folder)
            tarballs = [tarball.rename(DATA / tarball.name) for tarball in Path(folder).glob("*.tgz")]
    unpacked = DATA / tarballs[-1].name.removesuffix(".tgz")
    if not unpacked.is_dir():
        with tempfile.TemporaryDirectory(dir=DATA) as folder:
            _call(["tar", "-xzf", str(tarballs[-1])], cwd=folder)
            Path(folder, "package").rename(unpacked)
    return unpacked


def _call(command: list[str], cwd: str) -> None:
    if subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        raise RunError(f"{' '.join(command)} failed")


# Private functions: runs


def _compare_with_plain_loop(job: Job) -> tuple[dict[str, float], float]:
    """Run both, the page cache warmed right before each; return the plain loop's report and r3po's seconds.

    Raises:
        DifferenceError: the tables differ.
    """
    job.write_afresh()
    plain_files = out_paths(job.folder / "plain.csv", PROCESSES)
    job.warm()
    assert isinstance(job.source, Path)
    plain = run_plain_loop(job.source, job.function_spec, plain_files)
    job.warm()
    seconds = run_to_end(job, int(plain["files"]))
    if (n_rows := compare_output(job.output, plain_files, parquet=True)) != plain["files"]:
        raise DifferenceError(f"{n_rows} rows, but {plain['files']} files")
    return plain, seconds


def run_to_end(job: Job, n_files: int) -> float:
    """Return the seconds of one whole `r3po run`, after which every file has its row."""
    start = time.perf_counter()
    process = job.start()
    stdout, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise RunError(f"r3po run ended with {process.returncode}\n{_last_lines(job.log)}")
    answer = json.loads(stdout)
    expected = {"files": n_files, "done": n_files, "failed": 0, "pending": 0, "rows": n_files}
    if wrong := {key: answer.get(key) for key in expected if answer.get(key) != expected[key]}:
        raise RunError(f"r3po run --json says {wrong}, expected {expected}")
    return seconds


def moments_of(n_shards: int) -> list[Moment]:
    third, two_thirds = -(-n_shards // 3), -(-2 * n_shards // 3)
    return [
        Moment("at the first segment", lambda now: now.new_segments > 0),
        Moment(f"at {third} of {n_shards} commits", lambda now: now.commits >= third),
        Moment(f"at {two_thirds} of {n_shards} commits", lambda now: now.commits >= two_thirds),
    ]


def kill_one_run(job: Job, moment: Moment) -> None:
    """Start a run and kill its whole process tree at `moment`.

    Raises:
        RunError: the run ended before.
    """
    progress = Progress(job.state)
    job.warm()
    start = time.perf_counter()
    process = job.start()
    while not moment.reached(progress.look()):
        if process.poll() is not None:
            what = f"the run ended with {process.returncode} before it could be killed {moment.name}"
            raise RunError(f"{what}\n{_last_lines(job.log)}")
        time.sleep(POLL_S)
    seconds = time.perf_counter() - start
    n_killed = kill_tree(process.pid)
    process.communicate()
    left = progress.look()
    say(
        f"  killed {moment.name}, after {seconds:.1f} s: {n_killed} processes; "
        f"{sum(1 for _ in _names(job.state / 'segments'))} segments and {left.commits} commits are left"
    )


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    return "\n".join([f"{log} ends with:", *(f"  {line}" for line in lines)])


# Private functions: output


def _names(folder: Path) -> Iterator[str]:
    """Yield the files below `folder`, which may change meanwhile or not be there."""
    for _, _, names in os.walk(folder):  # it skips what has vanished
        yield from names


def require_equal(expected: dict[str, str], found: dict[str, str]) -> int:
    """Return the number of parts.

    Args:
        expected: digests of the files of a table by their paths there, as `digests_of` returns them.
        found: of another table.

    Raises:
        DifferenceError: they hold different files, or a file has other bytes.
    """
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        shown = "\n".join(f"  {name}" for name in different[:10])
        raise DifferenceError(f"{len(different)} files differ from those of the undisturbed run:\n{shown}")
    return sum("/part-" in name for name in expected)


def digests_of(output: Path) -> dict[str, str]:
    """Return the sha256 of every file in the data folders, by its path there."""
    files = [file for folder in ("csv", "parquet", "failures") for file in (output / folder).iterdir()]
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _say_times(plain: dict[str, float], run_s: float) -> None:
    n_files, plain_s = plain["files"], plain["seconds"]
    say(f"  {PROCESSES} bare processes   {plain_s:6.1f} s   {n_files / plain_s:8,.0f} files/s")
    say(f"  r3po run           {run_s:6.1f} s   {n_files / run_s:8,.0f} files/s   {run_s / plain_s:.1f} times as long")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run r3po on real amounts of input and compare with a plain loop.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cldr", help="the Unicode CLDR's dates")
    synthetic = commands.add_parser("synthetic", help="synthetic produce logs, undisturbed and with three kills")
    synthetic.add_argument("--files", type=int, default=300_000, metavar="N", help="how many (300,000)")
    arguments = parser.parse_args()
    try:
        if not R3PO.exists():
            raise RunError(f"no r3po beside {sys.executable}\nhint:  make real, or make real-synthetic, installs it")
        if arguments.command == "cldr":
            check_cldr()
        else:
            check_synthetic(arguments.files)
    except (RunError, DifferenceError, StillAliveError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
