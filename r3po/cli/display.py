"""A run on the terminal: events in, lines on stderr out. Nothing else is written here, and nothing is decided.

On a terminal one live line is kept up to date; elsewhere a plain line appears every 30 seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r3po import events
from r3po.events import Event
from r3po.storage.names import show_name, show_text
from r3po.text import count_of, duration, first_line, percent_of, shorten, shorten_path, size_text, wrap_lines

PLAIN_EVERY_S = 30.0
"""Seconds between two plain lines, where stderr is no terminal."""

RATE_OVER_S = 30.0
"""Seconds over which the shown speed is measured."""

UPDATES_PER_SECOND = 10

MOST_LINES = 3
"""Most lines of one text while the run goes on."""

_INDENT = " " * 10

LOSSES_SHOWN = 5
"""Most lost workers that are told of one by one."""


class Display:
    """An observer that shows a run. Use it as a context manager: it restores the terminal.

    Args:
        is_quiet: only warnings.
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
            case events.Notice():
                self._notice(event)
            case events.PartsRepaired():
                self._line(f"Repair    {', '.join(event.names[:3])} made again from the outcomes")
            case events.OutputSeen():
                for line in event.text.splitlines():
                    self._line(f"worker {event.worker}: {line}")
            case events.RunFinished() if self._is_quiet:
                if event.n_failed and event.worked:
                    self._line(
                        self._words(f"{event.n_failed:,} of {count_of(event.n_files, 'file')} failed: r3po errors")
                    )
            case _ if self._is_quiet:
                pass
            case events.JobOpened():
                self._line(f"{_name_and_version()}   {_base(event.config_path)}   {event.function}".rstrip())
            case events.ScanProgressed():
                self._scan_progressed(event)
            case events.ScanFinished():
                self._scan_finished(event)
            case events.WorkersStarting():
                if event.engine == "ray":
                    self._show_live(Text(f"Ray       {count_of(event.n_workers, 'worker')}, starting ..."))
            case events.WorkersStarted():
                self._end_live()
                self._line(_workers_started(event))
            case events.ProcessingPlanned():
                self._planned(event)
            case events.ColumnsSet():
                named = ", ".join(f"{name} {family}" for name, family in event.columns[:8])
                more = f", {len(event.columns) - 8} more" if len(event.columns) > 8 else ""
                self._line(f"Columns   {named}{more}      (from {event.path})")
            case events.BatchFinished():
                self._batch_finished(event)
            case events.WorkerLost():
                self._worker_lost(event)
            case events.LongestRunning():
                if self._bar is not None:
                    self._bar.longest = event
                    self._plain_line_if_due()
            case events.StopRequested():
                self._line(_stopping(event))
            case events.RunFinished():
                self._end_live()
                self._finished(event)

    def _line(self, text: str) -> None:
        text = show_text(text)
        self._console.print(Text(wrap_lines(text, self._console.width) if self._is_terminal else text))

    def _notice(self, event: events.Notice) -> None:
        self._line(f"{'warning' if event.is_warning else 'note'}: {self._words(event.text)}")
        if event.hint:
            self._line(f"hint:  {self._words(event.hint)}")

    def _scan_progressed(self, event: events.ScanProgressed) -> None:
        if event.n_files:
            self._show_live(Text(f"Scan      {event.n_files:,} files so far"))

    def _show_live(self, line: Text) -> None:
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
        where = f"{_base(event.source)}/**{event.suffix}"
        size = "" if event.size_bytes is None else f", {size_text(event.size_bytes)}"
        self._line(f"Scan      {where}       {count_of(event.n_files, 'file')}{size}: {found}")
        if event.passed_over:
            passed = ", ".join(f"{n:,} {reason}" for reason, n in event.passed_over.items())
            self._line(f"          passed over: {passed}")

    def _planned(self, event: events.ProcessingPlanned) -> None:
        if event.is_resumed:
            self._line(
                f"Resume    {event.n_done:,} of {event.n_files:,} files done, "
                f"{event.n_failed:,} failed, {event.n_pending:,} to do"
            )
        self._bar = _Bar(event)
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
        self._bar.add(event)
        self._plain_line_if_due()

    def _plain_line_if_due(self) -> None:
        if self._bar is not None and not self._is_terminal and time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._line(self._bar.plain_line())

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
                self._line(self._bar.plain_line())

    # Complex by count: the last lines of a run, which differ with how it ended.
    def _finished(self, event: events.RunFinished) -> None:
        if event.is_stopped:
            done = count_of(event.n_done, "file has its row", "files have their rows")
            to_do = count_of(event.n_pending, "is to do", "are to do")
            self._line(f"Stopped after {duration(event.seconds)}. {done}, {event.n_failed:,} failed, {to_do}.")
            return
        if event.is_limited:
            self._line(self._words(_limited(event)))
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
        if event.n_failed:
            self._line(f"  {output}/failures/failures.csv   {count_of(event.n_failed, 'failed file')}")
            if self._bar is not None and self._bar.last_failure:
                self._line(f"  Last   {shorten(first_line(self._bar.last_failure), 200)}")
            again = "r3po errors; fix the function, then r3po run (unchanged: --retry-failed)"
            self._line(f"  Next   {self._words(again)}")
        if event.n_rows and "parquet" in event.parts:
            exact = ', dtype_backend="pyarrow"' if event.has_large_ints else ""
            self._line(f'  Read   pd.read_parquet("{output}/parquet"{exact})')


class _Bar:
    """The progress of one run: what the live line and the plain lines are made from."""

    def __init__(self, planned: events.ProcessingPlanned) -> None:
        self._n_files = planned.n_files
        self._n_goal = planned.n_files
        """How many are finished when this run is over."""
        if planned.limit is not None:
            self._n_goal = planned.n_done + planned.n_failed + min(planned.limit, planned.n_pending)
        self._n_finished = planned.n_done + planned.n_failed
        self._n_failed = planned.n_failed
        self._started = time.monotonic()
        self.last_failure = ""
        self.longest = events.LongestRunning("", 0.0)
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._n_here = 0

    def add(self, event: events.BatchFinished) -> None:
        n = event.n_done + event.n_failed
        self._n_here += n
        self._n_finished += n
        self._n_failed += event.n_failed
        self.last_failure = event.last_failure or self.last_failure
        now = time.monotonic()
        self._samples.append((now, self._n_here))
        while len(self._samples) > 2 and self._samples[0][0] < now - RATE_OVER_S:
            self._samples.popleft()

    def plain_line(self) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        left = self._seconds_left()
        is_long = self.longest.seconds >= events.LONG_S
        longest = f" longest={self.longest.seconds:.0f}s {self.longest.path}" if is_long else ""
        return (
            f"{now} {self._n_finished}/{self._n_files} {self._percent():.1f}% {self._rate():.0f} files/s "
            f"failed={self._n_failed} left={'unknown' if left is None else f'{left:.0f}s'}{longest}"
        )

    def bar(self) -> Table:
        """The line that stays when the run is over."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            "Process  ",
            ProgressBar(total=max(1, self._n_files), completed=self._n_finished, width=24),
            f"{self._n_finished:,}/{self._n_files:,}",
            f"{self._percent():.1f} %",
        )
        return bar

    def render(self, width: int) -> Table:
        """Everything that is shown while the run goes on, on a terminal of `width` columns."""
        left = self._seconds_left()
        elapsed = duration(time.monotonic() - self._started)
        speed = f"{self._rate():,.0f} files/s   elapsed {elapsed}"
        if left is not None:
            speed += f"   left about {duration(left)}"
        if self._n_failed:
            speed += f"   {self._n_failed:,} failed"
        lines = Table.grid()
        lines.add_row(self.bar())
        texts = [speed]
        if self.longest.seconds >= events.LONG_S:
            seconds = duration(self.longest.seconds)
            path = shorten_path(self.longest.path, max(20, width - len(f"{_INDENT}longest running    {seconds}")))
            texts.append(f"longest running  {path}  {seconds}")
        if self.last_failure:
            texts.append(f"last failure  {first_line(self.last_failure)}")
        for text in texts:
            shown = wrap_lines(_INDENT + show_text(text), width).split("\n")[:MOST_LINES]
            lines.add_row(Text("\n".join(shown), overflow="ellipsis", no_wrap=True))
        return lines

    def _percent(self) -> float:
        return percent_of(self._n_finished, self._n_files)

    def _rate(self) -> float:
        (t0, n0), (t1, n1) = self._samples[0], self._samples[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0

    def _seconds_left(self) -> float | None:
        rate = self._rate()
        return (self._n_goal - self._n_finished) / rate if rate else None


# Private functions


def _workers_started(event: events.WorkersStarted) -> str:
    if event.engine == "serial":
        return "Serial    everything in this process, one file after the other"
    kind = event.engine.removeprefix("Ray, ")
    return f"Ray       {count_of(event.n_workers, 'worker')}, {kind}          ready in {event.seconds:.1f} s"


def _stopping(event: events.StopRequested) -> str:
    if event.is_starting:
        return f"Stopping ({event.signal_name}): Ray is just starting, its end takes some 10 s (Ctrl-C again: stop now)"
    limit = "" if event.limit_s is None else f", at most {event.limit_s:.0f} s"
    what = "the file at hand is finishing" if event.limit_s is None else "the files at hand are finishing"
    again = "Ctrl-C again: stop now, what is in hand will be done again"
    return f"Stopping ({event.signal_name}): {what}{limit}\n          {again}"


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
    relative = os.path.relpath(path)
    shown = path if relative.startswith("..") else relative
    return show_name(shown)
