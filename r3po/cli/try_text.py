"""What `r3po try` answers, as text for people and as JSON."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r3po.cli.texts import one_line, plain, seconds_text
from r3po.text import count_of, first_line, shorten, shorten_path, wrap_words

if TYPE_CHECKING:
    from r3po.run.try_files import Estimate, TryResult

MOST_CELL = 30
"""Characters of a value in the table of rows."""

MOST_ROWS = 20
MOST_COLUMNS = 40
"""Columns that are shown one a line, where they do not fit beside each other."""

MOST_TRACEBACKS = 3


def try_text(found: TryResult, width: int) -> str:
    """Return what came of a trial, in lines of at most `width` characters (but for tracebacks)."""
    lines = _table_lines(found, width) if found.rows else []
    lines += _failure_lines(found, width)
    lines += [f"warning: {notice}" for notice in found.notices]
    seconds = sorted(file["seconds"] for file in found.files)
    rows, failed = count_of(len(found.rows), "row"), f"{len(found.failures):,} failed"
    lines += ["", f"{count_of(len(found.files), 'file')} tried: {rows}, {failed}; nothing was kept"]
    middle = seconds_text(seconds[len(seconds) // 2])
    lines.append(f"Seconds a file   {middle} (median), {seconds_text(seconds[0])} to {seconds_text(seconds[-1])}")
    if found.estimate is not None:
        lines += _estimate_lines(found.estimate, len(found.rows))
    if found.failures:
        lines += _next_lines(found.failures, width)
    return plain("\n".join(lines).lstrip("\n"))


def json_value(value: Any) -> Any:
    """Return a value as JSON can have it: moments and decimals as text, bytes as base64, NaN and infinity as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case dict():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


# Private functions


def _table_lines(found: TryResult, width: int) -> list[str]:
    """Return the rows below the names and types of their columns; where that is too wide, one column a line."""
    names = list(found.columns)
    rows = found.rows[:MOST_ROWS]
    paths = [shorten_path(one_line(file["path"]), MOST_CELL) for file in found.files if file["is_row"]]
    columns = [["(file)", "", *paths[:MOST_ROWS]]]
    columns += [[one_line(name), found.columns[name], *(_cell(row[name]) for row in rows)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 2 * len(widths) <= width:
        across = zip(*columns, strict=True)
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)) for line in across]
        more = len(found.rows) - len(rows)
        lines += [f"... and {count_of(more, 'more row', 'more rows')}"] if more else []
        return [line.rstrip() for line in lines]
    return _turned_lines(columns, len(found.rows), width)


def _turned_lines(columns: list[list[str]], n_rows: int, width: int) -> list[str]:
    shown = [[shorten(cell, max(8, width // 3 - 3)) for cell in column] for column in columns[:MOST_COLUMNS]]
    across = [list(line) for line in zip(*shown, strict=True)]
    widths = [max(map(len, line)) for line in across]
    fitting = 2
    while fitting < len(across) and sum(widths[: fitting + 1]) + 2 * fitting <= width:
        fitting += 1
    fitting = max(fitting, min(3, len(across)))
    lines = ["  ".join(map(str.ljust, column[:fitting], widths)).rstrip() for column in shown]
    if len(columns) > MOST_COLUMNS:
        lines.append(f"... and {count_of(len(columns) - MOST_COLUMNS, 'more column')}")
    lines.append(
        f"(one column a line: its name, its type, and its values in {fitting - 2} of {count_of(n_rows, 'row')})"
    )
    return lines


def _cell(value: object) -> str:
    text = "" if value is None else one_line(str(value)).replace("\t", " ").replace("\r", " ")
    return text if len(text) <= MOST_CELL else text[: MOST_CELL - 3] + "..."


def _failure_lines(found: TryResult, width: int) -> list[str]:
    lines: list[str] = []
    for number, failure in enumerate(found.failures):
        if number < MOST_TRACEBACKS and failure["traceback"]:
            path = shorten_path(one_line(failure["path"]), max(20, width - len("failed: ")))
            lines += ["", f"failed: {path}", failure["traceback"].rstrip()]
        else:
            what = f"{failure['error_type']}: {first_line(failure['message'])}"
            lines.append(f"failed: {shorten_path(one_line(failure['path']), max(20, width // 2))}   {what}")
    return lines


def _next_lines(failures: Sequence[dict[str, Any]], width: int) -> list[str]:
    """Say what to do about the first failure that f raised, or else about the first."""
    # Where f raised nothing, a debugger has nothing to show.
    raised = next((one for one in failures if one["where"] and one["error_type"] != "Timeout"), None)
    if raised is not None:
        return [f"Next   r3po try --pdb {shlex.quote(one_line(raised['path']))}"]  # in one line, to be copied
    return wrap_words(_advice(failures[0]), width, first="Next   ", rest="       ")


def _advice(failure: dict[str, Any]) -> str:
    kind, message = failure["error_type"], failure["message"]
    if kind == "NoDict":
        return 'let f return one dict a file, such as {"n": 1}: its keys are the columns'
    if kind == "BadRow" and ("keys differ" in message or ": expected " in message):
        return (
            "give every file's row the same keys, with values of one type each (None where there is nothing); "
            "or say names and types: columns: in the config"
        )
    if kind == "BadRow":
        return "let f return what a table can hold: numbers, text, dates, bytes, lists and dicts of these"
    if kind == "Timeout":
        return "raise timeout_seconds in the config, or look at where f was"
    return f"look at the function's arguments, and at the file: {one_line(failure['path'])}"


def _estimate_lines(estimate: Estimate, n_rows: int) -> list[str]:
    files = count_of(estimate.files, "file")
    at_least = "" if estimate.is_all_counted else "at least "
    low, high = _duration(estimate.low_seconds), _duration(estimate.high_seconds)
    span = low if low == high else f"{low} to {high}"
    processes = count_of(estimate.processes, "process", "processes")
    lines = [
        f"The whole job    {at_least}{files}: {span} with {processes},",
        f"                 and some seconds for Ray (guessed from {estimate.from_files} files)",
    ]
    if estimate.high_part_bytes:
        spans = {kind: _span(estimate.low_part_bytes[kind], size) for kind, size in estimate.high_part_bytes.items()}
        sizes = ", ".join(f"{kind} about {size}" for kind, size in spans.items())
        lines.append(f"Parts            {estimate.parts:,}, each of {sizes}")
        lines.append(f"                 (guessed from {count_of(n_rows, 'row')} written as such)")
    return lines


def _span(low: float, high: float) -> str:
    if low == high:
        return _size(high)
    first, last = _size(low), _size(high)
    return f"{first.split()[0]} to {last}" if first.split()[1] == last.split()[1] else f"{first} to {last}"


def _duration(seconds: float) -> str:
    """Return seconds for a guess: two digits that count are enough."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return "under 1 s" if seconds < 1 else f"{seconds:.0f} s"


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1000 or unit == "GiB":
            return f"{size_bytes:.0f} {unit}" if size_bytes >= 10 or unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable")
