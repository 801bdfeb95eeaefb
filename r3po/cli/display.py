"""A run on the terminal: events in, lines on stderr out. Nothing else is written here, and nothing is decided.

On a terminal one live line is kept up to date; elsewhere a plain line appears every 30 seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r3po import events
from r3po.cli.answers import width_of
from r3po.cli.progress_text import BAR_WIDTH, lines_below_bar, machine_lines, percent, plain_line, way_text
from r3po.events import Event
from r3po.run.progress import Progress
from r3po.state.progress import RunProgress
from r3po.storage.names import show_name, show_text
from r3po.storage.object_urls import is_url
from r3po.text import count_of, counts_text, duration, failure_lines, shorten_path, size_text, wrap_lines

PLAIN_EVERY_S = 30.0
"""Seconds between two plain lines, where stderr is no terminal."""

UPDATES_PER_SECOND = 10

MOST_LINES = 3
"""Most lines of the last failure while the run goes on."""

_INDENT = " " * 10

LOSSES_SHOWN = 5
"""Most lost workers that are told of one by one."""


class Display:
    """An observer that shows a run. Use it as a context manager: it restores the terminal.

    Args:
        is_quiet: nothing but what f prints if that is asked for, and one line if the run does not end well.
        words: makes what may name a command into what is shown; for a caller in Python, `doors.in_python`.
    """

    def __init__(self, *, is_quiet: bool = False, words: Callable[[str], str] = str) -> None:
        # Rich believes FORCE_COLOR; only a real terminal is one.
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._console = Console(
            stderr=True, force_terminal=self._is_terminal, highlight=False, soft_wrap=True, markup=False
        )
        self._is_quiet, self._words = is_quiet, words
        self._live: Live | None = None
        self._bar: _Bar | None = None
        self._last_plain = time.monotonic()
        self._n_lost = 0
        self._is_broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._end_live()

    def __call__(self, event: Event) -> None:
        if self._is_broken:
            return
        try:
            self._show(event)
        except OSError:  # whoever read us has gone (`r3po run 2>&1 | head`): no reason to stop a week of work
            self._is_broken = True
            self._live = None

    # Private methods

    # Complex by count: one case an event, each of a line or two.
    def _show(self, event: Event) -> None:
        match event:
            case events.RunFinished() if self._is_quiet:
                self._finished_quietly(event)
            case events.OutputSeen():
                for line in event.text.splitlines():
                    self._write(show_text(f"worker {event.worker}: {line}"))
            case _ if self._is_quiet:
                pass
            case events.Notice():
                self._notice(event)
            case events.PartsRepaired():
                self._line(f"Repair    {', '.join(event.names[:3])} made again from the outcomes")
            case events.JobOpened():
                self._line(f"{_name_and_version()}   {_base(event.config_path)}   {event.function}".rstrip())
            case events.ScanProgressed():
                self._scan_progressed(event)
            case events.ScanFinished():
                self._scan_finished(event)
            case events.WorkersStarting():
                if event.engine == "ray":
                    self._wait_for_ray(event.n_workers)
            case events.WorkersStarted():
                self._end_live()
                self._line(_workers_started(event))
            case events.ProcessingPlanned():
                self._planned(event)
            case events.ColumnsSet():
                named = ", ".join(f"{name} {family}" for name, family in event.columns[:8])
                more = f", {len(event.columns) - 8} more" if len(event.columns) > 8 else ""
                room = max(20, self._width - len("Columns   (from )"))
                self._line(f"Columns   {named}{more}      (from {shorten_path(event.path, room)})")
            case events.BatchFinished():
                self._batch_finished(event)
            case events.WorkerLost():
                self._worker_lost(event)
            case events.LongestRunning():
                if self._bar is not None:
                    self._bar.take(event)
                    self._plain_line_if_due()
            case events.StopRequested():
                self._line(_stopping(event))
            case events.RunFinished():
                self._end_live()
                self._finished(event)

    @property
    def _width(self) -> int:
        """Characters of a line."""
        # While Ray starts, stderr leads through a pipe; Rich then asks the other streams.
        return self._console.width if self._is_terminal else width_of(sys.stderr)

    def _line(self, text: str) -> None:
        """Write text whose lines are wrapped at words."""
        self._write(wrap_lines(show_text(text), self._width))

    def _write(self, text: str) -> None:
        """Write text that a screen can have as it is."""
        self._console.print(Text(text))

    def _notice(self, event: events.Notice) -> None:
        self._line(f"{'warning' if event.is_warning else 'note'}: {self._words(event.text)}")
        if event.hint:
            self._line(f"hint:  {self._words(event.hint)}")

    def _scan_progressed(self, event: events.ScanProgressed) -> None:
        if event.n_files:
            self._show_live(Text(f"Scan      {event.n_files:,} files so far"))

    def _wait_for_ray(self, n_workers: int) -> None:
        """Say what is waited for, and for how long by now; once where nothing moves."""
        if self._is_terminal:
            self._show_live(_Waiting(f"Ray       starting {count_of(n_workers, 'worker')}, usually 5 to 10 s ..."))
        else:
            self._line(f"Ray       starting {count_of(n_workers, 'worker')}, usually 5 to 10 s")

    def _show_live(self, line: RenderableType) -> None:
        """Show a line that the next one replaces; on a terminal only."""
        if not self._is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=UPDATES_PER_SECOND, transient=True)
            self._live.start()
        self._live.update(line)

    def _scan_finished(self, event: events.ScanFinished) -> None:
        self._end_live()
        counts = {
            "new": event.n_new,
            "changed": event.n_changed,
            "touched": event.n_touched,
            "deleted": event.n_deleted,
            "returned": event.n_returned,
        }
        found = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n) or "nothing new"
        source = event.source.rstrip("/") if is_url(event.source) else _base(event.source)
        where = f"{source}/**{event.suffix}"
        size = "" if event.size_bytes is None else f", {size_text(event.size_bytes)}"
        self._line(f"Scan      {where}       {count_of(event.n_files, 'file')}{size}: {found}")
        if event.passed_over:
            self._line(f"          passed over: {counts_text(event.passed_over)}")

    def _planned(self, event: events.ProcessingPlanned) -> None:
        if event.is_resumed:
            self._line(
                f"Resume    {event.n_done:,} of {event.n_files:,} files done, "
                f"{event.n_failed:,} failed, {event.n_pending:,} to do"
            )
        self._bar = _Bar()
        self._bar.take(event)
        self._last_plain = time.monotonic()
        self._start_bar()

    def _start_bar(self) -> None:
        """Show the bar, which moves from now on."""
        bar = self._bar
        if self._is_terminal and bar is not None:
            self._end_live()
            self._live = Live(
                get_renderable=lambda: bar.render(self._console.width),
                console=self._console,
                refresh_per_second=UPDATES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    def _batch_finished(self, event: events.BatchFinished) -> None:
        if self._bar is None:
            return
        self._bar.take(event)
        self._plain_line_if_due()

    def _plain_line_if_due(self) -> None:
        if self._bar is not None and not self._is_terminal and time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._write(plain_line(self._bar.run))

    def _worker_lost(self, event: events.WorkerLost) -> None:
        self._n_lost += 1
        if self._n_lost > LOSSES_SHOWN:
            return
        then = "" if event.n_workers is None else f"; {count_of(event.n_workers, 'worker')} for the next minutes"
        self._line(f"note: {event.words}{then}")
        if self._n_lost == LOSSES_SHOWN:
            self._line("note: more are not shown; events.jsonl in the newest folder of runs/ has them all")

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _keep_bar(self) -> None:
        """Show the bar as it stays."""
        if self._bar is not None:
            if self._is_terminal:
                self._console.print(self._bar.bar())
            else:
                self._write(plain_line(self._bar.run))

    def _finished_quietly(self, event: events.RunFinished) -> None:
        """Say the one line that counts, if the run did not end well; an error comes with its own words."""
        if event.is_stopped:
            self._line(_stopped(event))
        elif event.n_failed:
            self._line(self._words(f"{event.n_failed:,} of {count_of(event.n_files, 'file')} failed: r3po errors"))

    # Complex by count: the last lines of a run, which differ with how it ended.
    def _finished(self, event: events.RunFinished) -> None:
        if event.is_stopped:
            self._line(_stopped(event))
            return
        if event.is_limited:
            self._line(self._words(_limited(event)))
            self._line(self._words(f"Continue with: {event.go_on}"))
            return
        if not event.worked:
            self._line(self._words(_nothing_to_do(event)))
            return
        self._keep_bar()
        self._line("")
        self._line(f"Done in {duration(event.seconds)}: {count_of(event.n_files, 'file')}, {event.n_failed:,} failed")
        output = _relative(event.output)
        width = max((len(kind) for kind in event.parts), default=0) + len(output) + 1
        for kind, n_parts in event.parts.items():
            parts, rows = count_of(n_parts, "part"), count_of(event.n_rows, "row")
            self._line(f"  {f'{output}/{kind}':{width}}   {parts}   {rows}")
        for line in machine_lines(event.machines):
            self._line(line)
        if event.n_failed:
            self._line(f"  {output}/failures/failures.csv   {count_of(event.n_failed, 'failed file')}")
            if self._bar is not None and (last := self._bar.run.last_failure):
                for line in failure_lines("  Last   ", show_text(last), self._width):
                    self._write(line)
            again = "r3po errors; fix the function, then r3po run (unchanged: --retry-failed)"
            self._line(f"  Next   {self._words(again)}")
        if event.n_rows and "parquet" in event.parts:
            words = f'"{output}/parquet"'
            if event.read_options:
                words += f", storage_options={json.dumps(dict(event.read_options))}"
            if event.has_large_ints:
                words += ', dtype_backend="pyarrow"'
            self._line(f"  Read   pd.read_parquet({words})")


class _Waiting:
    """A line that says what is waited for, with the seconds since it was first shown."""

    def __init__(self, what: str) -> None:
        self._what, self._since = what, time.monotonic()

    def __rich__(self) -> Text:
        return Text(f"{self._what}  {time.monotonic() - self._since:.0f} s", no_wrap=True)


class _Bar:
    """The progress of one run as a screen has it: the live lines, and the line that stays."""

    def __init__(self) -> None:
        self._progress = Progress(clock=lambda: time.monotonic())

    @property
    def run(self) -> RunProgress:
        """How the run stands."""
        return self._progress.now()

    def take(self, event: Event) -> None:
        self._progress.take(event)

    def bar(self) -> Table:
        """The line that stays when the run is over."""
        run = self.run
        n_finished, n_goal = run.way
        bar = Table.grid(padding=(0, 1))
        drawn = ProgressBar(total=max(1, n_goal), completed=n_finished, width=BAR_WIDTH)
        bar.add_row("Process  ", drawn, way_text(run), f"{percent(run):.1f} %")
        return bar

    def render(self, width: int) -> Table:
        """Everything that is shown while the run goes on, on a terminal of `width` columns."""
        below = lines_below_bar(self.run, width, now=time.time(), indent=_INDENT, has_elapsed=True, most=MOST_LINES)
        lines = Table.grid()
        lines.add_row(self.bar())
        lines.add_row(Text("\n".join(below), overflow="ellipsis", no_wrap=True))
        return lines


# Private functions


def _workers_started(event: events.WorkersStarted) -> str:
    if event.engine == "serial":
        return "Serial    everything in this process, one file after the other"
    if event.engine == "processes":
        return f"Processes {count_of(event.n_workers, 'worker')}          ready in {event.seconds:.1f} s"
    kind = event.engine.removeprefix("Ray, ")
    return f"Ray       {count_of(event.n_workers, 'worker')}, {kind}          ready in {event.seconds:.1f} s"


def _stopping(event: events.StopRequested) -> str:
    if event.is_starting:
        return (
            f"Stopping ({event.signal_name}): Ray is just starting, this takes a few seconds (Ctrl-C again: stop now)"
        )
    limit = "" if event.limit_s is None else f", at most {event.limit_s:.0f} s"
    what = "the file at hand is finishing" if event.limit_s is None else "the files at hand are finishing"
    again = "Ctrl-C again: stop now, what is in hand will be done again"
    return f"Stopping ({event.signal_name}): {what}{limit}\n          {again}"


def _stopped(event: events.RunFinished) -> str:
    done = count_of(event.n_done, "file has its row", "files have their rows")
    to_do = count_of(event.n_pending, "is to do", "are to do")
    return f"Stopped after {duration(event.seconds)}. {done}, {event.n_failed:,} failed, {to_do}."


def _limited(event: events.RunFinished) -> str:
    done = count_of(event.n_done, "file has its row", "files have their rows")
    failed = f"{event.n_failed:,} failed{' (r3po errors)' if event.n_failed else ''}"
    to_do = count_of(event.n_pending, "is to do", "are to do")
    return f"Limit reached after {duration(event.seconds)}. {done}, {failed}, {to_do}."


def _nothing_to_do(event: events.RunFinished) -> str:
    if not event.n_failed:
        files = count_of(event.n_files, "file is", "files are")
        return f"Nothing to do: {files} done and unchanged (--redo does them again)."
    return (
        f"Nothing to do: {event.n_done:,} of {count_of(event.n_files, 'file')} have a row, {event.n_failed:,} failed "
        "(r3po errors; r3po run --retry-failed)."
    )


def _name_and_version() -> str:
    from importlib.metadata import version

    return f"r3po {version('r3po')}"


def _base(path: str) -> str:
    return show_name(os.path.basename(path))


def _relative(path: str) -> str:
    """Return a path as it is shortest from here; a URL as it is."""
    if is_url(path):
        return path
    relative = os.path.relpath(path)
    shown = path if relative.startswith("..") else relative
    return show_name(shown)
