"""How a run that goes on is put into words: its bar, its rate, what it is at. From `RunProgress` alone.

A run's own display, the cell of a notebook, `status` and `status --watch` say the same of it with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from r3po.events import MachineShare
from r3po.state.progress import RunProgress
from r3po.storage.names import show_text
from r3po.text import count_of, duration, failure_lines, percent_of, shorten_path, wrap_words

BAR_WIDTH = 24
"""Characters of a bar."""


def rate_text(run: RunProgress, elapsed_s: float | None = None) -> str:
    """Return a run's rate, for how long it goes on if that is given, and the time that is left if it is known.

    With all of it the line is full at 80 columns: which time the rate is of is said where there is room.
    """
    elapsed = "" if elapsed_s is None else f"   elapsed {duration(elapsed_s)}"
    if run.files_per_second is None:
        return f"no file is finished yet{elapsed}"
    left = "" if run.seconds_left is None else f"   left about {duration(run.seconds_left)}"
    return f"{_number(run.files_per_second)} files/s{elapsed or ' (last minute)'}{left}"


def bar_text(run: RunProgress) -> str:
    """Return the bar where nothing draws one: with how many files are finished, and how many percent."""
    n_finished, n_goal = run.way
    n_full = BAR_WIDTH * n_finished // max(1, n_goal)
    return f"{'━' * n_full}{'─' * (BAR_WIDTH - n_full)}  {way_text(run)}  {percent(run):.1f} %"


def way_text(run: RunProgress) -> str:
    """Return how many files are finished, of how many: `82/2,000`; of a limit, if the run has one."""
    n_finished, n_goal = run.way
    return f"{n_finished:,}/{n_goal:,}{' (limit)' if run.limit is not None else ''}"


def percent(run: RunProgress) -> float:
    """Return how many percent of its way a run has behind it."""
    return percent_of(*run.way)


def plain_line(run: RunProgress) -> str:
    """Return the line for what is no terminal; it is not wrapped, since programs read it, too."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    n_finished, n_goal = run.way
    rate = "0" if run.files_per_second is None else _number(run.files_per_second).replace(",", "")
    left = "unknown" if run.seconds_left is None else f"{run.seconds_left:.0f}s"
    line = f"{now} {n_finished}/{n_goal} {percent(run):.1f}% {rate} files/s failed={run.failed} left={left}"
    if run.longest_running is not None:
        line += f" longest={run.longest_seconds:.0f}s {run.longest_running}"
    if run.store_wait is not None:
        line += f" store-wait={run.store_wait:.0%}"
    return show_text(line)


def wait_text(run: RunProgress) -> str:
    """Say what a run on a store waits for: f, or the store."""
    share = run.store_wait or 0.0
    return f"workers wait for the store for {share:.0%} of their time"


def lines_below_bar(
    run: RunProgress, width: int, *, now: float, indent: str = "", has_elapsed: bool = False, most: int | None = None
) -> list[str]:
    """Return rate, failures, and what the run is at, in lines of at most `width` characters.

    Args:
        run: as it stood at `run.updated`.
        now: seconds since 1970.
        indent: what each line begins with.
        has_elapsed: say for how long it has been going on.
        most: lines of the last failure at most; None: all of it.
    """
    elapsed_s = now - run.started if has_elapsed and run.started is not None else None
    failed = f"   {run.failed:,} failed" if run.failed else ""
    lines = wrap_words(f"{rate_text(run, elapsed_s)}{failed}", width, first=indent, rest=indent)
    if run.store_wait is not None:
        lines.append(f"{indent}{wait_text(run)}")
    if run.longest_running is not None and run.longest_seconds is not None:
        seconds = duration(run.longest_seconds + now - (now if run.updated is None else run.updated))
        title = f"{indent}longest running  "
        path = shorten_path(run.longest_running, max(20, width - len(f"{title}  {seconds}")))
        lines.append(f"{title}{path}  {seconds}")
    if run.last_failure:
        lines += failure_lines(f"{indent}last failure     ", run.last_failure, width, most=most)
    return show_text("\n".join(lines)).split("\n")


def machine_lines(machines: Sequence[MachineShare]) -> list[str]:
    """Return what each machine of a cluster did, a line each."""
    names = max((len(one.name) for one in machines), default=0)
    files = max((len(f"{one.n_files:,}") for one in machines), default=0)
    lines = []
    for one in machines:
        lost = f"   {count_of(one.n_lost, 'worker')} lost" if one.n_lost else ""
        speed = f"{_number(one.files_per_second)} files/s"
        lines.append(f"  {one.name:{names}}   {one.n_files:>{files},} files   {speed}{lost}")
    return lines


# Private functions


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
