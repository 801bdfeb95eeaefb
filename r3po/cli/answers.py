"""What all commands share: their arguments, how an answer is printed, exit codes that a command chooses itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from r3po.errors import R3poError, RunStoppedError
from r3po.text import wrap_lines

EXIT_FAILED_FILES = 1
EXIT_USAGE = 2
EXIT_CLOSED_PIPE = 141

# A mail of cron, a log or an editor has no width that could be asked for. They show 100 characters without wrapping; at
# 80 a path more often leaves its message, and who looks for both with grep finds neither.
WIDTH_WITHOUT_TERMINAL = 100
"""Characters of a line where there is no terminal and no `COLUMNS`."""

CONFIG = Path("config.yaml")
ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The job's config file.")]


class _Asked:
    """Whether this call is to answer in JSON, and whether it has."""

    for_json = False
    is_answered = False


def _note_json(value: bool) -> bool:
    _Asked.for_json = value
    return value


JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; an error, too.", callback=_note_json)
]


def width_of(stream: TextIO) -> int:
    """Return how many characters a line on this stream has: `COLUMNS`, or those of its terminal."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    with suppress(OSError, ValueError):  # it has no file, or that is no terminal
        return os.get_terminal_size(stream.fileno()).columns or WIDTH_WITHOUT_TERMINAL
    return WIDTH_WITHOUT_TERMINAL


def print_text(text: str) -> None:
    """Print an answer. Whoever reads us may have enough (`r3po errors | head`), which is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_CLOSED_PIPE) from None


def print_wrapped(text: str) -> None:
    """Print an answer for people; its lines are wrapped at words."""
    print_text(wrap_lines(text, width_of(sys.stdout)))


def print_json(content: dict[str, Any]) -> None:
    """Print the one JSON object that a command answers with."""
    _Asked.is_answered = True
    print_text(json.dumps(content))


def forget_answers() -> None:
    """Begin another call of the command line in this process."""
    _Asked.for_json = _Asked.is_answered = False


def print_error_json(error: R3poError | OSError, exit_code: int) -> None:
    """Answer with an error, where an answer in JSON was asked for and there was none; of a run with how far it came."""
    if _Asked.for_json and not _Asked.is_answered:
        result = error.result if isinstance(error, RunStoppedError) else None
        told = {"schema_version": 1} if result is None else result.to_json()
        print_json({**told, "error": error_json(error, exit_code)})


def error_json(error: R3poError | OSError, exit_code: int) -> dict[str, Any]:
    """Return an error as docs/json.md describes it."""
    if isinstance(error, R3poError):
        said = {"kind": type(error).__name__, "message": error.headline, "evidence": error.evidence, "hint": error.hint}
    else:
        said = {"kind": "OSError", "message": str(error), "evidence": None, "hint": None}
    return {**said, "exit_code": exit_code}


def say(text: str) -> None:
    """Write text on stderr, as it is."""
    with suppress(OSError):  # whoever read us has gone
        sys.stderr.write(text)
        sys.stderr.flush()


def say_message(text: str) -> None:
    """Write a message for people on stderr; its lines are wrapped at words."""
    say(wrap_lines(text, width_of(sys.stderr)) + "\n")


def fail(what: str, hint: str) -> NoReturn:
    """Refuse an option or an argument, with the exit code of a usage error.

    Raises:
        R3poError: always.
    """
    raise R3poError(what, hint=hint)


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=name)


@contextmanager
def pandas_left_out() -> Iterator[None]:
    """Spare a process that never calls f the import of pandas, which pyarrow does at its first scalar if it can."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        yield
    finally:
        sys.meta_path.remove(_NoPandas)
