"""The command `try`: f on a few files, here and now."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer

from r3po.cli.answers import CONFIG, EXIT_FAILED_FILES, JsonOption, fail, print_json, print_text, say, width_of
from r3po.cli.try_text import json_value, try_text


def try_files(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Try these; without any, a sample of the source.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--number", min=1, metavar="N", help="Files of the sample.")] = 20,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="CONFIG", help="The job's config file.")] = CONFIG,
    function: Annotated[
        str | None, typer.Option(metavar="F", help="file.py:name or package.module:name, instead of the config's.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Another number draws another sample.")] = 0,
    pdb: Annotated[bool, typer.Option("--pdb", help="Open the debugger where f raises.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Call the function on a few files, and show what it gives. Nothing is kept."""
    from r3po.config.settings import load_config
    from r3po.function.find import find_function
    from r3po.run.session import find_configured
    from r3po.run.try_files import try_function

    named = files or []
    if len(named) == 1 and named[0].suffix in (".yaml", ".yml") and config == CONFIG and not CONFIG.exists():
        fail(f"{named[0]} would be a file for the function to read", f"r3po try --config {named[0]}")
    loaded = load_config(config)
    spec = find_configured(loaded) if function is None else find_function(function, Path.cwd())
    # With --json stdout is for the answer alone; what f prints is shown all the same.
    printed = redirect_stdout(sys.stderr) if as_json else nullcontext()
    with _ended_by_interrupt(), printed:
        found = try_function(
            loaded, spec, n, files=named, seed=seed, debug=_debug if pdb else None, compares=function is None
        )
    if as_json:
        print_json(json_value(found.to_json()))
    else:
        print_text(try_text(found, width_of(sys.stdout)))
    if found.failures:
        raise typer.Exit(EXIT_FAILED_FILES)


# Private functions


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end this process at once in this block, whatever f is doing, C code too: there is nothing to save."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _debug(error: BaseException, tb: TracebackType | None) -> None:
    import pdb
    import traceback

    say("".join(traceback.format_exception(type(error), error, tb)))
    if tb is not None:
        pdb.post_mortem(tb)
