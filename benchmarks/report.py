"""What a contest leaves in results/: JSON with every time, a Markdown table, an SVG chart."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from contest import Contest, Time

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("r3po", "ray", "pyarrow", "orjson", "joblib", "mpire", "dask", "pandas")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return where and with what the figures were made."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "versions": versions,
    }


def write_contest(
    name: str,
    title: str,
    contest: Contest,
    n_files: int,
    where: str = "",
    packages: Sequence[str] = PACKAGES,
) -> None:
    """Write results/NAME.json, .md and .svg.

    Args:
        name: of the files.
        title: of table and chart.
        contest: it is over.
        n_files: how many it had, or how many objects.
        where: a sentence on them; without one that of a tree.
        packages: whose versions are named.
    """
    said = machine(packages)
    summary = summarize(contest.times, contest.ray_seconds, n_files, contest.limit)
    _write_json(
        name,
        {
            "title": title,
            "machine": said,
            "files": n_files,
            "cache": contest.cache,
            "processes": contest.processes,
            "ray_start_and_stop_s": contest.ray_seconds,
            "summary": summary,
            "times": [dataclasses.asdict(time) for time in contest.times],
        },
    )
    where = where or f"{n_files:,} files, {contest.processes} processes, page cache {contest.cache} before each run."
    if contest.ray_seconds:
        where += f" Ray alone takes {median(contest.ray_seconds):.1f} s to start and to stop."
    lines = [
        f"# {title}",
        "",
        describe(said),
        "",
        where,
        "",
        *_table(summary, "files" if isinstance(contest.source, Path) else "objects"),
    ]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_chart(name, title, summary)


def write_figures(name: str, title: str, figures: dict[str, Any], lines: list[str]) -> None:
    """Write results/NAME.json and .md of what is no contest."""
    said = machine()
    _write_json(name, {"title": title, "machine": said, **figures})
    text = "\n".join([f"# {title}", "", describe(said), "", *lines])
    (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def summarize(times: list[Time], ray_seconds: list[float], n_files: int, limit: str = "limit") -> list[dict[str, Any]]:
    """Return one row a contestant, fastest first: median, range, rate, and the ratio to the limit of the same rounds.

    `less_ray` is that ratio without the seconds that Ray alone takes; only where r3po started one.
    """
    ray_s = median(ray_seconds or [0.0])
    by_name: dict[str, list[Time]] = {}
    for time in times:
        by_name.setdefault(time.contestant, []).append(time)
    limit_of = {time.round: time.seconds for time in by_name.get(limit, [])}
    rows = []
    for name, own in by_name.items():
        seconds = median(time.seconds for time in own)
        row: dict[str, Any] = {
            "contestant": name,
            "label": own[0].label,
            "runs": len(own),
            "seconds": round(seconds, 2),
            "least": min(time.seconds for time in own),
            "most": max(time.seconds for time in own),
            "files_per_s": round(n_files / seconds),
        }
        if limit_of:
            row["ratio"] = round(median(time.seconds / limit_of[time.round] for time in own), 2)
            if name.startswith("r3po_") and not name.startswith(("r3po_first", "r3po_processes")):
                less = (max(0.0, time.seconds - ray_s) / limit_of[time.round] for time in own)
                row["less_ray"] = round(median(less), 2)
        rows.append(row)
    return sorted(rows, key=lambda row: row["seconds"])


def describe(said: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    return (
        f"{said['date']}; {said['cpu']}, {said['cores']} cores, {said['memory_gib']} GiB; {said['system']}; "
        f"Python {said['python']}; {versions}."
    )


# Private functions


def _table(summary: list[dict[str, Any]], what: str) -> list[str]:
    lines = [
        f"| contestant | seconds (median) | least - most | {what}/s | x limit | x limit, less Ray alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in summary:
        lines.append(
            f"| {row['label']} | {row['seconds']:.1f} | {row['least']:.1f} - {row['most']:.1f} "
            f"| {row['files_per_s']:,} | {row.get('ratio', '')} | {row.get('less_ray', '')} |"
        )
    return lines


def _write_json(name: str, data: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _write_chart(name: str, title: str, summary: list[dict[str, Any]]) -> None:
    """Draw one bar a contestant; the same data give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(summary) + 1.1), layout="constrained")
    rows = summary[::-1]
    colors = ["#c0392b" if _is_ours(row["contestant"]) else "#8fa3b3" for row in rows]
    bars = axes.barh([row["label"] for row in rows], [row["seconds"] for row in rows], color=colors)
    axes.bar_label(bars, [f"{row['seconds']:.1f} s" for row in rows], padding=3)
    axes.set(title=title, xlabel="seconds (median), from the shell's start to the end; less is better")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def _is_ours(contestant: str) -> bool:
    return contestant.startswith("r3po_") and contestant != "r3po_first"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
