"""What the commands answer, as text for people."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r3po.text import count_of, duration, failure_lines, percent_of, shorten, shorten_path, wrap_words

if TYPE_CHECKING:
    from r3po.config.settings import Config
    from r3po.inspect.slow import SlowFiles
    from r3po.inspect.status import JobStatus
    from r3po.inspect.verify import VerifyResult
    from r3po.state.failure_groups import FailureGroup
    from r3po.state.progress import RunProgress
    from r3po.storage.object_urls import ObjectUrl


MOST_SHOWN = 10
"""Findings of one kind, and notes, that `verify` shows."""


_INDENT = " " * 11
"""What further lines of `status` begin with."""

MOST_GROUPS = 20
"""Kinds of failures that `errors` shows."""


def plain(text: str) -> str:
    from r3po.storage.names import show_text

    return show_text(text)


def one_line(path: str) -> str:
    """Return a path for a line of its own: no name makes two lines."""
    return plain(path).replace("\n", "\\n")


def status_text(config: Config, found: JobStatus, width: int) -> str:
    """Return what `r3po status` says; paths are shortened so that their lines have at most `width` characters."""
    kinds = [kind for kind, is_on in (("csv", config.csv), ("parquet", config.parquet is not None)) if is_on]
    lines = [
        f"job        {found.job_name}, build {found.build}      {found.last_run}",
        f"function   {config.function or '(given at the run)'}{_versions_text(config, found.functions)}",
        f"source     {_source_text(config, width)}",
        f"files      {found.done:,} done   {found.failed:,} failed   {found.pending:,} to do"
        f"          {percent_of(found.done + found.failed, found.files)} %",
        *([f"rows       {found.rows:,}"] if found.rows != found.done else []),
        *(["redo       under way; r3po reset --redo brings the rows of before back"] if found.is_redoing else []),
        *_run_lines(found.run, width),
        f"shards     {found.committed_shards:,} of {found.shards:,} committed",
        f"output     {_place_text(config.output_path, ': ' + ', '.join(kinds), width)}",
    ]
    if not found.build:
        lines = [lines[0], "Nothing was built yet: r3po run"]
    return plain("\n".join(lines))


def _place_text(place: Path | ObjectUrl, end: str, width: int) -> str:
    from r3po.state.job import tidy_path

    shown = tidy_path(place) if isinstance(place, Path) else str(place).rstrip("/")
    return f"{shorten_path(shown, max(20, width - len(_INDENT) - len(end)))}{end}"


def _run_lines(run: RunProgress | None, width: int) -> list[str]:
    """Say how fast a run is that is going on, and what it is at."""
    if run is None or run.files is None:
        return []
    from r3po.cli.progress_text import rate_text, wait_text, way_text

    lines = [f"limit      {way_text(run)}"] if run.limit is not None else []
    lines.append(f"rate       {rate_text(run)}")
    if run.store_wait is not None:
        lines.append(f"store      {wait_text(run)}")
    if run.longest_running is not None:
        seconds = duration(run.longest_seconds or 0)
        path = shorten_path(run.longest_running, max(20, width - len(_INDENT) - len(seconds) - 2))
        lines.append(f"longest    {path}  {seconds}")
    if run.last_failure:
        lines += failure_lines("failure    ", run.last_failure, width)
    return lines


def _source_text(config: Config, width: int) -> str:
    """Return which files the job is of, as a shell would have it; the folders of a list one a line."""
    ends = config.selection.shown_endings
    places: list[Path | ObjectUrl] = [*config.source_paths] or [config.source_path]
    lines = [_place_text(place, f"/**{ends}", width) for place in places]
    for key, globs in (("include", config.include), ("exclude", config.exclude)):
        if globs:
            lines.append(f"{key}: {', '.join(globs)}")
    return f"\n{_INDENT}".join(lines)


def _versions_text(config: Config, done_by_fingerprint: dict[str, int]) -> str:
    """Say which files were done by which code, where that is not the same for all."""
    today = fingerprint_today(config)
    n_done = sum(done_by_fingerprint.values())
    n_older = n_done - done_by_fingerprint.get(today or "", 0)
    if today is None or not n_older:
        return "" if len(done_by_fingerprint) < 2 else f"            files by {len(done_by_fingerprint)} versions of it"
    n_versions = len(done_by_fingerprint.keys() - {today})
    versions = "another version" if n_versions == 1 else f"{n_versions:,} other versions"
    return f"            {n_older:,} of {n_done:,} files by {versions} of it"


def fingerprint_today(config: Config) -> str | None:
    """Return the fingerprint of the config's function, or None if it names none that is there."""
    from r3po.errors import FunctionError
    from r3po.function.find import find_function, with_arguments

    with suppress(FunctionError):
        if config.function is not None:
            return with_arguments(find_function(config.function, config.base_dir), config.function_args).fingerprint
    return None


def preview_text(found: dict[str, int], on_deleted: str) -> str:
    """Return what `build --dry-run` says: what became of the files, and apart from that what came of them before."""
    files = {
        "new": "",
        "changed": "",
        "returned": "deleted before, here again",
        "deleted": "their rows are kept" if on_deleted == "keep" else "their rows go",
        "touched": "another mtime, the same content: nothing to do",
        "unchanged": "",
    }
    outcomes = {
        "pending": "not done yet",
        "to_retry": "failed, and the function has changed since",
        "failed": "left alone; r3po run --retry-failed tries them again",
    }
    lines = ["A run would find"]
    lines += [_preview_line(name, found[name], files[name]) for name in files if found[name] or name in _ALWAYS_SAID]
    without_row = [_preview_line(name, found[name], outcomes[name]) for name in outcomes if found[name]]
    lines += ["Among the files that were listed before", *without_row] if without_row else []
    return "\n".join([*lines, "Nothing was changed."])


_ALWAYS_SAID = ("new", "changed", "deleted", "unchanged")


def _preview_line(name: str, n: int, meaning: str) -> str:
    return f"  {name.replace('_', ' '):10} {n:>12,}   {meaning}".rstrip()


def errors_text(groups: list[FailureGroup], width: int, *, has_columns: bool = False) -> str:
    """Return what `r3po errors` says of these groups, in lines of at most `width` characters where words allow it.

    Args:
        has_columns: the config names the columns.
    """
    if not groups:
        return "No file failed."
    n_failed = sum(len(group.failures) for group in groups)
    lines = [f"{count_of(n_failed, 'file')} failed, {count_of(len(groups), 'kind')}"]
    for group in groups[:MOST_GROUPS]:
        lines += _group_lines(group, width)
    if len(groups) > MOST_GROUPS:
        lines.append(f"        and {len(groups) - MOST_GROUPS:,} more kinds: r3po errors --json")
    lines += _column_lines(groups, has_columns) + _rule_lines(groups)
    lines += [
        "Next:  r3po errors --full PATH       one failure with its traceback",
        "       r3po errors --json            all of them",
        "       r3po errors --paths           one path a line",
        "       r3po run                      tries them again once the function is fixed",
        "       r3po run --retry-failed       tries them again as it is",
    ]
    return plain("\n".join(lines))


def _column_lines(groups: list[FailureGroup], has_columns: bool) -> list[str]:
    """Say who set the columns that rows do not fit, and what to do about it; a value that fits nowhere is f's alone."""
    rows = {one["message"] for group in groups for one in group.failures if one["error_type"] == "BadRow"}
    keys = {message for message in rows if message.startswith("the row's keys differ")}
    types = {message for message in rows if ": expected " in message}
    by_config = any("which the config's" in message for message in keys) or bool(types and has_columns)
    by_first = any("first row set" in message for message in keys) or bool(types and not has_columns)
    lines = []
    if by_config:
        lines.append("`columns` in the config says what the columns are.")
        lines.append("If it is wrong: change it, then r3po run --redo; if the function is: fix it, then r3po run")
    if by_first:
        lines.append("The first row set the columns. If its file is the odd one:")
        lines.append("       name all columns in the config (columns: {...}), then r3po run --redo")
        lines.append("If the function gives other columns by now: r3po run --redo")
    return lines


def _rule_lines(groups: list[FailureGroup]) -> list[str]:
    """Say how rows that differ are taken, where some were not."""
    if not any("(taken with " in one["message"] for group in groups for one in group.failures):
        return []
    return ["If rows may differ: put what they are taken with into the config, then r3po run --retry-failed"]


def failure_text(failure: dict[str, Any]) -> str:
    """Return all that is known of one failure."""
    lines = [one_line(failure["path"])]
    lines += [failure["traceback"].rstrip()] if failure["traceback"] else []
    if not failure["traceback"].rstrip().endswith(failure["message"].strip()):
        lines.append(f"{failure['error_type']}: {failure['message']}")
    lines.append(f"tried {count_of(failure['attempts'], 'time')}, {failure['seconds']:.3g} s")
    return plain("\n".join(lines))


def _group_lines(group: FailureGroup, width: int) -> list[str]:
    what = f"{group.error_type}: {shorten(group.message, 300)}" if group.message else group.error_type
    lines = wrap_words(what, width, first=f"{len(group.failures):>6,}  ", rest="        ")
    more = f", {len(group.paths) - 2:,} more" if len(group.paths) > 2 else ""
    where = f"        {group.where + '   ' if group.where else ''}"
    paths = [one_line(path) for path in group.paths[:2]]
    if len(where + ", ".join(paths) + more) <= width:
        return [*lines, f"{where}{', '.join(paths)}{more}"]
    if len(where) > width // 2:
        lines.append(where.rstrip())
        where = " " * 8
    # A line each: what tells one path from the other is at any place of them.
    shown = [shorten_path(path, max(20, width - len(where) - 1)) for path in paths]
    shown += [more.removeprefix(", ")] if more else []
    ends = [*("," for _ in shown[1:]), ""]
    begins = [where, *(" " * len(where) for _ in shown[1:])]
    return [*lines, *map("".join, zip(begins, shown, ends, strict=True))]


def slow_text(found: SlowFiles, width: int) -> str:
    """Return what `r3po slow` says, in lines of at most `width` characters."""
    if not found.files:
        return "No file is done yet: r3po run"
    lines = [f"{'seconds':>10}  file"]
    for one in found.slowest:
        failed = f"   failed: {one['error_type']}" if one["error_type"] else ""
        path = shorten_path(one_line(one["path"]), max(20, width - 12 - len(failed)))
        lines.append(f"{seconds_text(one['seconds']):>10}  {path}{failed}")
    n = found.slowest_percent_files
    who = "The slowest file" if n == 1 else f"The slowest 1 % ({n:,} files)"
    lines += [
        f"{count_of(found.files, 'file')}, {seconds_text(found.seconds)} s of the function in all",
        f"p50 {seconds_text(found.p50)} s   p95 {seconds_text(found.p95)} s   p99 {seconds_text(found.p99)} s",
        f"{who} took {100 * found.slowest_percent_share:.0f} % of the time.",
    ]
    return plain("\n".join(lines))


def seconds_text(seconds: float) -> str:
    """Return seconds with three digits that count."""
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return f"{seconds:.3g}" if seconds >= 0.001 or not seconds else f"{seconds:.6f}"


def verify_text(found: VerifyResult) -> str:
    lines = [] if found.is_good else [_findings_line(found)]
    by_remedy: dict[tuple[str, str], list[str]] = {}
    n_shown: dict[str, int] = {}
    for finding in found.findings:
        n_shown[finding.kind] = n_shown.get(finding.kind, 0) + 1
        if n_shown[finding.kind] <= MOST_SHOWN:
            what = f"{_where(finding.where)}: {finding.what}"
            by_remedy.setdefault((finding.kind, finding.hint), []).append(what)
    for (kind, hint), whats in by_remedy.items():
        lines += [f"{kind:<11} {one_line(what)}" for what in whats]
        lines.append(f"hint:       {hint}")
    for kind, n in found.counts.items():
        if n > MOST_SHOWN:
            lines.append(f"{kind:<11} and {n - MOST_SHOWN:,} more: r3po verify --json")
    lines += _checked_lines(found)
    lines += [f"note:       {one_line(note)}" for note in found.notes[:MOST_SHOWN]]
    if len(found.notes) > MOST_SHOWN:
        lines.append(f"note:       and {len(found.notes) - MOST_SHOWN:,} more: r3po verify --json")
    return plain("\n".join(lines))


def _findings_line(found: VerifyResult) -> str:
    n = sum(found.counts.values())
    kinds = ", ".join(f"{n_found:,} {kind}" for kind, n_found in found.counts.items())
    return f"{count_of(n, 'finding')} in {found.job_name}: {kinds}"


def _checked_lines(found: VerifyResult) -> list[str]:
    verdict = "Good:      " if found.is_good else "Checked:   "
    done = "" if found.done == found.rows else f"{found.done:,} done, "
    files, rows = count_of(found.files, "file"), count_of(found.rows, "row")
    counts = f"{files}: {done}{rows}, {found.failed:,} failed, {found.pending:,} to do"
    lines = [f"{verdict} {counts}; {count_of(found.parts, 'part')}, {found.size_bytes:,} bytes"]
    if found.source_files is not None:
        lines.append(f"            {count_of(found.source_files, 'file')} of the source")
    return lines


def _where(where: str) -> str:
    from r3po.state.job import tidy_path

    return tidy_path(Path(os.fsdecode(where))) if where.startswith("/") else where
