"""The command `r3po`: its commands in order; errors become text on stderr and an exit code, here and nowhere else.

stdout carries the answer, stderr messages and progress. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from r3po.cli.answers import EXIT_USAGE, forget_answers, print_error_json, print_text, say, say_message
from r3po.cli.first_commands import config, init
from r3po.cli.job_commands import build, reset, run
from r3po.cli.look_commands import errors, slow, status, verify
from r3po.cli.texts import plain
from r3po.cli.try_command import try_files
from r3po.errors import R3poError, RunStoppedError

EXIT_BUG = 70


app = typer.Typer(
    name="r3po",
    help="Run one Python function over millions of files and get one table: CSV and Parquet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print_text(f"r3po {installed('r3po')}")
        raise typer.Exit


_COMMANDS: dict[str, Callable[..., None]] = {
    "init": init,
    "try": try_files,
    "run": run,
    "build": build,
    "status": status,
    "errors": errors,
    "slow": slow,
    "verify": verify,
    "reset": reset,
    "config": config,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of the table in docs/commands.md."""
    end = _call()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the exit code is decided, and would only be replaced, or cut off
    _leave_at_once(_tell(end))


def run_command() -> int:
    """Run the command line of this process and return the exit code."""
    return _tell(_call())


# Private functions


def _leave_at_once(code: int) -> NoReturn:
    """End the process without what Python does at its end. Nothing of the run is open any more.

    To take all modules down costs 0.2 s; a Ray that was cut off while it started may crash there, and helpers that a
    disk does not answer are waited for.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _call() -> BaseException | None:
    """Run the command line; return what it ended with, of which nothing is said yet."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    forget_answers()
    try:
        app(standalone_mode=True)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return error
    return None


def _tell(end: BaseException | None) -> int:
    """Say how the command ended, and return the exit code."""
    if end is None:
        return 0
    if isinstance(end, (SystemExit, KeyboardInterrupt)):
        stopped = _stopped_before(end)
        if stopped is None:
            code = end.code if isinstance(end, SystemExit) else 130
            return code if isinstance(code, int) else 0
        end = stopped
    if isinstance(end, R3poError):
        _print_error(end)
        print_error_json(end, end.exit_code)
        return end.exit_code
    if isinstance(end, OSError):
        return _end_with_os_error(end)
    say("".join(traceback.format_exception(end)))
    say_message("error: this is a bug in r3po, not in your function; your state is safe")
    return EXIT_BUG


def _stopped_before(end: BaseException) -> RunStoppedError | None:
    """Return how a run had stopped, of which a Ctrl-C came to be the end: a second one, while it was on its way out."""
    is_interrupted = False
    error: BaseException | None = end
    while error is not None and not (is_interrupted and isinstance(error, RunStoppedError)):
        is_interrupted = is_interrupted or isinstance(error, KeyboardInterrupt)
        error = error.__context__
    return error


def _end_with_os_error(error: OSError) -> int:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    is_store = type(error).__name__ == "StoreUnavailable"  # by name: its module costs a start
    hint = "try again once the store answers" if is_store else "fix the disk or the permissions"
    say_message(plain(f"error: {where}{error.strerror or error}\nhint:  {hint}"))
    print_error_json(error, EXIT_USAGE)
    return EXIT_USAGE


def _print_error(error: R3poError) -> None:
    text = error.for_terminal()
    if not (isinstance(error, RunStoppedError) and error.exit_code > 128):
        text = f"error: {text}"
        say_message(plain(text))
        return
    # A signal is no error: what is said is how to go on.
    say_message(plain(error.hint or text))
