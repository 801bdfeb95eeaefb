"""`r3po status --watch`: a run that is going on, looked at from outside, until it is over."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

from r3po.cli.answers import print_text
from r3po.cli.progress_text import bar_text, lines_below_bar, plain_line
from r3po.config.settings import Config
from r3po.inspect.status import read_run
from r3po.state.progress import RunProgress
from r3po.storage.names import show_text
from r3po.text import duration

LOOK_EVERY_S = 1.0

LINE_EVERY_S = 30.0
"""Seconds between two lines, where stdout is no terminal."""

SILENT_S = 10.0
"""Seconds after which it is said that the run has not been heard of."""


def watch_run(config: Config) -> None:
    """Show the run that is going on until it is over, or until Ctrl-C; what there is to say then is the caller's."""
    with suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            _watch_on_terminal(config)
        else:
            _watch_in_lines(config)


def watch_text(job_name: str, run: RunProgress, width: int, now: float) -> str:
    """Return what is shown of a run, in lines of at most `width` characters where words allow it."""
    lines = [f"{job_name}: a run is going on, pid {run.pid}"]
    if run.files is None or run.started is None or run.updated is None:
        return "\n".join([*lines, "It is starting: it looks at the source and starts its workers."])
    lines[0] += f", for {duration(now - run.started)}"
    lines += [bar_text(run), *lines_below_bar(run, width, now=now)]
    if now - run.updated > SILENT_S:
        lines.append(f"not heard of for {duration(now - run.updated)}: at one file, stopped, or on a slow disk")
    return show_text("\n".join(lines))


# Private functions


def _watch_on_terminal(config: Config) -> None:
    console = Console(force_terminal=True, highlight=False, markup=False, soft_wrap=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (run := read_run(config)) is not None:
            text = watch_text(config.job_name, run, console.width, time.time())
            live.update(Text(text, no_wrap=False), refresh=True)
            time.sleep(LOOK_EVERY_S)


def _watch_in_lines(config: Config) -> None:
    told = -LINE_EVERY_S
    while (run := read_run(config)) is not None:
        if time.monotonic() - told >= LINE_EVERY_S and run.files is not None:
            told = time.monotonic()
            print_text(plain_line(run))
        time.sleep(LOOK_EVERY_S)
