"""The benchmarks: r3po, the limit and the peers, side by side. `make bench` and its like call this; see README.md here.

    peers      100,000 files, everybody
    millions   100,000, 1,000,000 and 3,000,000 files; then the idle run and `status` on the job of a million
    cold       300,000 files, page cache dropped before each run
    resume     killed half way and started again: r3po goes on, Pool starts anew
    scale      10,000,000 names: memory of the driver and of the workers
    workers    a function that waits for 20 ms, 1 to 64 workers
    start      the sample, `--help`

Writes results/CASE*.json, .md and .svg. Measures, asserts nothing but that all tables are equal.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bare_walk import bare_walk
from contest import RAY_ALONE, Contest, ContestError, running_ray, time_ray, timed, told_errors
from contestants import BENCHMARKS, COLD, CONTENT, EVERYBODY, MILLIONS, POOL, PYTHON, R3PO, STAT, Contestant, r3po
from memory import MemoryWatch
from processes import kill_tree
from report import write_contest, write_figures
from trees import DATA, made_tree
from warm import warm_tree

WORK = DATA / "bench"

ENGINES = ("ray", "processes", "serial")

TAIL_WORKERS, TAIL_SLOW = 16, 6
"""The contest's last rows: a few files that take 250 times as long as the others."""


def bench_peers(n_files: int, rounds: int) -> None:
    contest = _contest(made_tree(n_files))
    contest.hold(EVERYBODY, rounds, {"r3po_first": 1})
    write_contest("peers", f"{n_files:,} small files: everybody", contest, n_files)


def bench_millions(sizes: list[int], rounds: int) -> None:
    """Hold the contest at each size, the largest once; then what a file more costs, and the run with nothing to do."""
    contests = {}
    for n_files in sizes:
        _say(f"{n_files:,} files")
        contest = contests[n_files] = _contest(made_tree(n_files))
        contest.hold(MILLIONS, 1 if n_files > 1_000_000 else rounds, {"ray_data_items": 1})
        write_contest(f"millions-{n_files}", f"{n_files:,} small files", contest, n_files)
    small, large = (contests[n] for n in sizes[:2])
    figures = marginal(small, large, sizes[1] - sizes[0])
    lines = ["| contestant | us a file | x limit |", "| --- | ---: | ---: |"]
    lines += [f"| {row['label']} | {row['us_a_file']:.1f} | {row.get('ratio', '')} |" for row in figures]
    write_figures(
        "marginal", f"What a file more costs, between {sizes[0]:,} and {sizes[1]:,}", {"marginal": figures}, lines
    )
    bench_idle(sizes[1], rounds)


def marginal(small: Contest, large: Contest, n_more: int) -> list[dict[str, Any]]:
    """Return the cost of each file beyond the smaller tree, of each contestant; medians over the rounds."""

    def seconds(contest: Contest, name: str) -> float:
        return median(time.seconds for time in contest.times if time.contestant == name)

    labels = {time.contestant: time.label for time in large.times}
    costs = {name: (seconds(large, name) - seconds(small, name)) / n_more * 1e6 for name in labels}
    rows = [
        {
            "contestant": name,
            "label": labels[name],
            "us_a_file": round(cost, 2),
            "ratio": round(cost / costs["limit"], 2),
        }
        for name, cost in costs.items()
    ]
    return sorted(rows, key=lambda row: float(str(row["us_a_file"])))


def bench_idle(n_files: int, rounds: int) -> None:
    """Time a run with nothing to do, and `status`, against a bare walk, each with the names in the cache."""
    tree = made_tree(n_files)
    folder = _afresh("idle")
    command = CONTENT.prepare(tree, folder, 2)
    timed(command, folder, "r3po run")
    figures: dict[str, list[float]] = {"walk": [], "idle": [], "status": []}
    for _ in range(rounds):
        for name, this in (
            ("walk", [PYTHON, str(BENCHMARKS / "bare_walk.py"), str(tree)]),
            ("idle", command),
            ("status", [R3PO, "status", "config.yaml"]),
        ):
            bare_walk(str(tree))
            figures[name].append(timed(this, folder, name))
    middle = {name: median(seconds) for name, seconds in figures.items()}
    lines = [
        f"- a bare scandir-and-stat walk, shell to exit: {middle['walk']:.2f} s",
        f"- `r3po run` with nothing to do: {middle['idle']:.2f} s, {middle['idle'] / middle['walk']:.2f} x the walk",
        f"- `r3po status`: {middle['status']:.2f} s",
    ]
    write_figures("idle", f"Nothing to do, on {n_files:,} files", {"seconds": figures, "medians": middle}, lines)
    _say("\n".join(lines))


def bench_cold(n_files: int, rounds: int) -> None:
    contest = Contest(made_tree(n_files), WORK / "cold", is_cold=True)
    contest.hold(COLD, rounds)
    write_contest("cold", f"{n_files:,} small files, nothing in the page cache", contest, n_files)


def bench_resume(n_files: int, rounds: int) -> None:
    """Kill the whole process tree half way, start again, and add both times; against one run that is left alone."""
    tree = made_tree(n_files)
    figures: dict[str, list[float]] = {}
    for contestant in (CONTENT, POOL):
        for _ in range(rounds):
            whole = _timed_afresh(contestant, tree)
            killed = _killed_and_again(contestant, tree, whole / 2)
            figures.setdefault(f"{contestant.label}, left alone", []).append(whole)
            figures.setdefault(f"{contestant.label}, killed half way", []).append(killed)
    lines = ["| run | seconds (median) |", "| --- | ---: |"]
    lines += [f"| {name} | {median(seconds):.1f} |" for name, seconds in figures.items()]
    write_figures("resume", f"Killed half way, on {n_files:,} files", {"seconds": figures}, lines)
    _say("\n".join(lines))


def bench_scale(n_files: int) -> None:
    """Run on many millions of names, and watch the memory of the driver and of each worker."""
    tree = made_tree(n_files, links=True)
    figures = {}
    lines = ["| run | seconds | driver, MB | largest worker, MB |", "| --- | ---: | ---: | ---: |"]
    for contestant in (STAT,):
        folder = _afresh(contestant.name)
        command = contestant.prepare(tree, folder, 2)
        with open(folder / "log.txt", "wb") as log:
            started = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            with MemoryWatch(process.pid) as watch:
                code = process.wait()
            seconds = time.perf_counter() - started
        if code:
            raise ContestError(f"{contestant.label} ended with {code}; see {folder / 'log.txt'}")
        figures[contestant.name] = {"seconds": seconds, "memory": watch.figures()}
        row = f"| {contestant.label} | {seconds:.0f} | {watch.driver_mb:.0f} | {watch.worker_mb:.0f} |"
        lines.append(row)
        _say(row)
        shutil.rmtree(folder)
    write_figures(f"scale-{n_files}", f"{n_files:,} names", figures, lines)


def bench_workers(counts: list[int]) -> None:
    """Let more and more workers wait for 20 ms a file, and then some of them for a few files of 5 s among these.

    What counts begins when all workers are at work. The best possible is that nobody is ever idle.
    """
    figures = []
    lines = ["| workers | files | of 5 s | seconds | of the best possible |", "| ---: | ---: | ---: | ---: | ---: |"]
    short, long = 1_000, 2_000  # files a worker; many workers take long to be ready, and only then it counts
    cases = [(n, short if n <= 16 else long, 0) for n in counts]
    cases += [(TAIL_WORKERS, short, TAIL_SLOW), (TAIL_WORKERS, long, TAIL_SLOW)]
    for n_workers, n_each, n_slow in cases:
        n_files = n_each * n_workers
        folder = _afresh("workers")
        _timed_run(_waiting(n_workers), made_tree(n_files, n_slow=n_slow), folder, n_workers)
        share, seconds = _share_of_best(folder)
        figures.append({"workers": n_workers, "files": n_files, "slow": n_slow, "seconds": seconds, "share": share})
        lines.append(f"| {n_workers} | {n_files:,} | {n_slow} | {seconds:.1f} | {share:.1%} |")
        _say(lines[-1])
    write_figures("workers", "A function that waits for 20 ms", {"runs": figures}, lines)


def bench_start(rounds: int) -> None:
    """Time what a user waits for at the least: help, and the sample on each engine beside Ray alone."""
    folder = _afresh("start")
    shutil.copytree(BENCHMARKS.parent / "sample", folder / "sample")
    figures: dict[str, list[float]] = defaultdict(list)

    def time_sample(label: str, *options: str) -> None:
        for name in ("working_dir", "output_dir"):
            shutil.rmtree(folder / "sample" / name, ignore_errors=True)
        command = [R3PO, "run", "config.yaml", *options]
        figures[f"sample, {label}"].append(timed(command, folder / "sample", "the sample"))

    for _ in range(rounds):
        figures["help"].append(timed([R3PO, "--help"], folder, "--help"))
        figures["ray alone: init and shutdown"].append(time_ray(folder, 2))
        figures["ray alone: the whole process"].append(timed([PYTHON, str(RAY_ALONE), "2"], folder, "ray alone"))
        for engine in ENGINES:
            time_sample(engine, "--engine", engine)
    with running_ray(folder, 2) as address:
        for _ in range(rounds):
            time_sample("joined to a Ray that runs", "--address", address)
    lines = [
        f"- {name}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        for name, seconds in figures.items()
    ]
    write_figures("start", "The least that a user waits for", {"seconds": figures}, lines)
    _say("\n".join(lines))


# Private functions


def _contest(tree: Path) -> Contest:
    return Contest(tree, WORK / "contest", say=_say)


def _afresh(name: str) -> Path:
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _timed_run(contestant: Contestant, tree: Path, folder: Path, processes: int = 2) -> float:
    return timed(contestant.prepare(tree, folder, processes), folder, contestant.label)


def _timed_afresh(contestant: Contestant, tree: Path) -> float:
    folder = _afresh(contestant.name)
    warm_tree(tree)
    return _timed_run(contestant, tree, folder)


def _killed_and_again(contestant: Contestant, tree: Path, after_s: float) -> float:
    folder = _afresh(contestant.name)
    command = contestant.prepare(tree, folder, 2)
    warm_tree(tree)
    start = time.perf_counter()
    with open(folder / "killed.txt", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        time.sleep(after_s)
        kill_tree(process.pid)
        process.wait()
    first = time.perf_counter() - start
    if not contestant.is_r3po:
        shutil.rmtree(folder / "out")
        (folder / "out").mkdir()
    return first + timed(command, folder, contestant.label)


def _waiting(n_workers: int) -> Contestant:
    return r3po("r3po_waiting", f"r3po, {n_workers} workers", "wait_20_ms", hash="stat")


def _share_of_best(folder: Path) -> tuple[float, float]:
    """Return the share of their time that the workers spent in f, and the seconds, once all of them were at work."""
    import pandas

    calls = pandas.read_parquet(folder / "output_dir" / "parquet")
    ready = float(calls.groupby("pid")["began"].min().max())
    end = float(calls["ended"].max())
    inside = (calls["ended"] - calls["began"].clip(lower=ready)).clip(lower=0).sum()
    return float(inside / (calls["pid"].nunique() * (end - ready))), end - ready


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure r3po beside the limit and its peers.")
    parser.add_argument("case", choices=["peers", "millions", "cold", "resume", "scale", "workers", "start", "idle"])
    parser.add_argument("--files", type=int, nargs="+", metavar="N", help="another number of files")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each contestant (3)")
    arguments = parser.parse_args()
    files: list[int] = arguments.files or []
    rounds: int = arguments.rounds
    cases: dict[str, Callable[[], None]] = {
        "peers": lambda: bench_peers(*(files or [100_000]), rounds),
        "millions": lambda: bench_millions(files or [100_000, 1_000_000, 3_000_000], rounds),
        "cold": lambda: bench_cold(*(files or [300_000]), rounds),
        "resume": lambda: bench_resume(*(files or [300_000]), rounds),
        "scale": lambda: bench_scale(*(files or [10_000_000])),
        "workers": lambda: bench_workers(files or [1, 2, 4, 8, 16, 32, 64]),
        "start": lambda: bench_start(rounds),
        "idle": lambda: bench_idle(*(files or [1_000_000]), rounds),
    }
    with told_errors():
        cases[arguments.case]()


if __name__ == "__main__":
    main()
