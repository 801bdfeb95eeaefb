"""`run_jobs`: the run of a job from Python. Equal to `r3po run`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from r3po.config.settings import ConfigSource, load_config
from r3po.doors import in_python
from r3po.errors import RunStoppedError
from r3po.events import Observer
from r3po.function.find import describe_callable, name_of_job
from r3po.run.log_events import log_event
from r3po.run.result import RunOptions, RunResult
from r3po.run.session import find_configured, run_job

__all__ = ["RunOptions", "RunResult", "run_jobs"]

log = logging.getLogger(__name__)


# Long by its options and what is said of them.
def run_jobs(
    config: ConfigSource,
    f: Callable[..., Any] | None = None,
    build: bool = True,
    progress: bool | None = None,
    *,
    function: str | None = None,
    retry_failed: bool = False,
    redo: bool = False,
    restart: bool = False,
    accept_deletions: bool = False,
    processes: int | None = None,
    engine: str | None = None,
    max_errors: int | str | None = None,
    show_output: bool = False,
    limit: int | None = None,
    address: str | None = None,
) -> RunResult:
    """Call f on every file of the job that has no outcome yet, and return what the job has come to.

    Equal to `r3po run CONFIG`: what is new in the source is built first, what is done is left alone.

    Args:
        config: the config file; or a mapping of the keys that it would have, with relative paths from the current
            folder, and without `job_name` the name of f.
        f: the function; without it, the config's `function` is used. A function of the script itself is fine.
        build: False: process the manifest as it is (`--no-build`).
        progress: show it on stderr, in a notebook below the cell; None: where stderr is a terminal, and in a notebook.
            Where it is not shown, warnings are logged ("r3po").
        function: `file.py:name` or `package.module:name`, instead of the config's.
        retry_failed: try every failed file again.
        redo: make every row again, with columns set again; one that was cut short goes on.
        restart: with `redo`: make again also what a redo that was cut short has made.
        accept_deletions: go on although more than half of the job's files are gone, or rows that `on_deleted: keep`
            kept would go with a redo.
        processes: workers, instead of the config's.
        engine: `ray`; `processes`: plain processes, without Ray; or `serial`: everything in this process, for a
            debugger. Instead of the config's.
        max_errors: a number of failed files, a share such as "1%", or "none", instead of the config's.
        show_output: show what f prints in the workers, while it does.
        limit: do the first so many pending files, in row order, and leave the others to a later run (`pending` says
            how many).

    Returns:
        The result, also when files failed; then one warning is logged. Its `notices` are what was said of the run.

    Raises:
        RunStoppedError: the run ended early; its `result` says how far it came.
        R3poError: of another kind: nothing was started.
    """
    loaded = load_config(config, job_name=name_of_job(f)).with_overrides(
        processes=processes, function=function, max_errors=max_errors, engine=engine, address=address
    )
    spec = describe_callable(f) if f is not None else find_configured(loaded)
    options = RunOptions(build, retry_failed, redo, restart, accept_deletions, show_output, limit)
    try:
        with _open_screen(progress) as observer:
            result = _as_told(run_job(loaded, spec, options, observer))
    except RunStoppedError as error:
        if error.exit_code > 128:  # by a signal; whoever called us knows how to call us again
            error.hint = "run it again to go on"
        if error.result is not None:
            error.result = _as_told(error.result)
        raise
    if result.failed:
        log.warning(
            "%d of %d files failed; result.failures() lists them, result.failure_groups() by cause",
            result.failed,
            result.files,
        )
    return result


# Private functions


@contextmanager
def _open_screen(progress: bool | None) -> Iterator[Observer]:
    """Give what is told of the run: a notebook's cell, a terminal, or the log."""
    is_notebook = _is_notebook()
    if progress is False or (progress is None and not is_notebook and not sys.stderr.isatty()):
        yield log_event
    elif is_notebook:
        from r3po.cli.notebook import NotebookDisplay

        with NotebookDisplay() as cell:
            yield cell
    else:
        from r3po.cli.display import Display

        with Display(words=in_python) as display:
            yield display


def _is_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose cells have outputs that can be updated."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


def _as_told(result: RunResult) -> RunResult:
    """Return the result with the notices as Python is told them."""
    return replace(result, notices=tuple(in_python(notice) for notice in result.notices))
