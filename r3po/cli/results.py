"""What the functions of Python return, as text in a notebook: what a command says of the same, in Python's words.

`r3po` itself calls `show_in_notebooks` where IPython is; nothing of IPython is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from r3po.doors import in_python
from r3po.text import count_of, duration, wrap_lines

if TYPE_CHECKING:
    from r3po.inspect.slow import SlowFiles
    from r3po.inspect.status import JobStatus
    from r3po.inspect.verify import VerifyResult
    from r3po.run.result import RunResult
    from r3po.run.try_files import TryResult
    from r3po.state.manifest import Manifest

MOST_WIDTH = 100
"""Characters of a line in a cell, which has no width to be asked for."""


def show_in_notebooks() -> None:
    """Let IPython show results as text; once is enough, and without IPython nothing happens."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_shell is None else get_shell()
    if shell is not None:
        formatter = shell.display_formatter.formatters["text/plain"]
        for home, name in _TEXTS:
            formatter.for_type_by_name(home, name, _show)


def text_of(result: Any, width: int = MOST_WIDTH) -> str:
    """Return the text of a result, in lines of at most `width` characters where words allow it."""
    text = _TEXTS[type(result).__module__, type(result).__name__](result, width)
    return wrap_lines(in_python(text), width)


# Private functions


def _show(result: Any, printer: Any, cycle: bool) -> None:
    """Show a result; one within a list or a dict as Python does, in one line."""
    from r3po.cli.answers import width_of

    is_within = len(printer.stack) > 1
    printer.text(repr(result) if is_within else text_of(result, min(MOST_WIDTH, width_of(sys.stdout))))


def _run_text(result: RunResult, width: int) -> str:
    from r3po.cli.progress_text import machine_lines
    from r3po.cli.texts import plain

    files, rows = count_of(result.files, "file"), count_of(result.rows, "row")
    lines = [
        f"{result.job_name}: {files} in {duration(result.seconds)}: "
        f"{result.done:,} done, {result.failed:,} failed, {result.pending:,} to do",
        f"{rows} in {result.output}: to_pandas(), to_arrow(), to_polars()",
        *machine_lines(result.machines),
        *(["failures() lists the failed files, failure_groups() by cause"] if result.failed else []),
    ]
    return plain("\n".join(lines))


def _status_text(found: JobStatus, width: int) -> str:
    from r3po.cli.texts import status_text

    return status_text(found.config, found, width)


def _slow_text(found: SlowFiles, width: int) -> str:
    from r3po.cli.texts import slow_text

    return slow_text(found, width)


def _try_text(found: TryResult, width: int) -> str:
    from r3po.cli.try_text import try_text

    # A debugger is opened by the command alone.
    return "\n".join(line for line in try_text(found, width).split("\n") if "r3po try --pdb" not in line)


def _verify_text(found: VerifyResult, width: int) -> str:
    from r3po.cli.texts import verify_text

    return verify_text(found)


def _manifest_text(manifest: Manifest, width: int) -> str:
    files, shards = count_of(manifest.count_job_files, "file"), count_of(len(manifest.shards), "shard")
    return f"{manifest.job_name}, build {manifest.build}: {files} in {shards}"


_TEXTS: dict[tuple[str, str], Callable[[Any, int], str]] = {
    ("r3po.run.result", "RunResult"): _run_text,
    ("r3po.run.try_files", "TryResult"): _try_text,
    ("r3po.inspect.status", "JobStatus"): _status_text,
    ("r3po.inspect.slow", "SlowFiles"): _slow_text,
    ("r3po.inspect.verify", "VerifyResult"): _verify_text,
    ("r3po.state.manifest", "Manifest"): _manifest_text,
}
"""By module and name, so that nothing is loaded before there is one."""
