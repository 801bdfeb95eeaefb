"""A run in a notebook: the lines and the bar of a terminal in one output of the cell, which is updated in place.

IPython is there if a notebook is; it is imported when there is something to show.
"""

from __future__ import annotations

import io
import time
from typing import Any, Self

from rich.console import Console, RenderableType

from r3po import events
from r3po.cli.display import Display
from r3po.doors import in_python
from r3po.text import count_of

UPDATE_S = 0.25
"""Seconds between two updates of what moves; a new line is shown at once."""

WIDTH = 100
"""Characters of a line with a bar."""


class NotebookDisplay(Display):
    """An observer that shows a run in the output of a notebook's cell."""

    def __init__(self) -> None:
        super().__init__(words=in_python)
        self._is_terminal = False
        self._lines: list[str] = []
        self._moving: RenderableType | None = None
        self._handle: Any = None
        self._updated = 0.0

    def __exit__(self, *_: object) -> None:
        self._moving = None
        self._update()

    def __enter__(self) -> Self:
        return self

    # Private methods: where a Display writes

    def _show(self, event: events.Event) -> None:
        match event:
            case events.OutputSeen():
                print(*(f"worker {event.worker}: {line}" for line in event.text.splitlines()), sep="\n", flush=True)
            case events.StopRequested():
                what = "Ray is just starting" if event.is_starting else "what is in hand is finishing"
                limit = "" if event.limit_s is None else f", at most {event.limit_s:.0f} s"
                self._line(f"Stopping: {what}{limit} (interrupt again: stop now)")
            case _:
                super()._show(event)

    @property
    def _width(self) -> int:
        return WIDTH

    def _write(self, text: str) -> None:
        self._lines += text.split("\n")
        self._update()

    def _wait_for_ray(self, n_workers: int) -> None:
        self._moving = f"Ray       starting {count_of(n_workers, 'worker')}, usually 5 to 10 s ..."
        self._update()

    def _show_live(self, line: RenderableType) -> None:
        self._moving = line
        self._update_if_due()

    def _end_live(self) -> None:
        self._moving = None

    def _start_bar(self) -> None:
        self._moving = None if self._bar is None else _Moving(self._bar)
        self._update()

    def _keep_bar(self) -> None:
        if self._bar is not None:
            self._line(_as_text(self._bar.bar()))

    def _plain_line_if_due(self) -> None:
        self._update_if_due()

    def _update_if_due(self) -> None:
        if time.monotonic() - self._updated >= UPDATE_S:
            self._update()

    def _update(self) -> None:
        self._updated = time.monotonic()
        moving = [] if self._moving is None else [_as_text(self._moving)]
        data = {"text/plain": "\n".join([*self._lines, *moving])}
        if self._handle is not None:
            self._handle.update(data, raw=True)
        elif data["text/plain"]:
            from IPython.display import display

            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]


# Private


class _Moving:
    """The bar as it is whenever it is looked at."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __rich__(self) -> RenderableType:
        rendered: RenderableType = self._bar.render(WIDTH)
        return rendered


def _as_text(renderable: RenderableType) -> str:
    # In a notebook Rich would show things by itself, each in an output of its own.
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, markup=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
