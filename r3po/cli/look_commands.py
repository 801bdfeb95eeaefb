"""The commands that only look at a job, also while a run is going on. One library call each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from r3po.cli.answers import (
    CONFIG,
    EXIT_FAILED_FILES,
    ConfigArgument,
    JsonOption,
    fail,
    pandas_left_out,
    print_json,
    print_text,
    print_wrapped,
    say,
    width_of,
)
from r3po.cli.texts import errors_text, failure_text, one_line, slow_text, status_text, verify_text


def status(
    config: ConfigArgument = CONFIG,
    watch: Annotated[bool, typer.Option("--watch", help="Show the run that is going on, until it is over.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far the job is. Reads files only: instant, also while a run is going."""
    from r3po.config.settings import load_config
    from r3po.inspect.status import status_of

    if watch and as_json:
        fail("--watch is for people, --json for programs", "r3po status --json, again and again, or one of them")
    loaded = load_config(config)
    if watch:
        from r3po.cli.watch_status import watch_run

        watch_run(loaded)
    with pandas_left_out():
        found = status_of(loaded)
    if as_json:
        print_json(found.to_json())
        return
    print_wrapped(status_text(loaded, found, width_of(sys.stdout)))


def errors(
    config: ConfigArgument = CONFIG,
    paths: Annotated[bool, typer.Option("--paths", help="One path a line, nothing else.")] = False,
    full: Annotated[
        str | None, typer.Option(metavar="PATH", help="The traceback of one file, named as in the list.")
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="WAY", help="Group by place, type or message alone; all: by the three.")
    ] = "all",
    as_json: JsonOption = False,
) -> None:
    """Show which files failed, and why, grouped by cause.

    A cause is an exception, its place in your code, and its message (digits, quoted texts and paths apart).
    """
    from r3po.config.settings import load_config
    from r3po.state.failed_files import read_failures
    from r3po.state.failure_groups import WAYS, group_failures, with_groups
    from r3po.state.job import job_folders
    from r3po.state.manifest import read_manifest

    if by not in WAYS:
        fail(f"--by {by} is no way to group failures", f"--by {', --by '.join(WAYS)}")
    loaded = load_config(config)
    with pandas_left_out():
        failures = list(read_failures(loaded))
    if full is not None:
        failure = _failure_of(full, failures, str(loaded.source_path))
        if as_json:
            print_json({"schema_version": 1, **failure})
        else:
            print_text(failure_text(failure))
    elif as_json:
        print_json({"schema_version": 1, "failures": with_groups(failures, by)})
    elif paths:
        if failures:
            print_text("\n".join(one_line(failure["path"]) for failure in failures))
    elif not failures and read_manifest(job_folders(loaded).manifest) is None:
        print_text("Nothing was run yet: r3po run")
    else:
        width = width_of(sys.stdout)
        print_wrapped(errors_text(group_failures(failures, by), width, has_columns=loaded.columns is not None))


def slow(
    config: ConfigArgument = CONFIG,
    n: Annotated[int, typer.Option("-n", "--number", min=1, metavar="N", help="How many files to name.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show which files took longest, and how the seconds of all spread."""
    from r3po.config.settings import load_config
    from r3po.inspect.slow import find_slow_files

    with pandas_left_out():
        found = find_slow_files(load_config(config), n)
    if as_json:
        print_json(found.to_json())
    else:
        print_text(slow_text(found, width_of(sys.stdout)))


def verify(
    config: ConfigArgument = CONFIG,
    source: Annotated[
        bool, typer.Option("--source", help="Hash every file of the source again, and read the parts of a bucket.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check all that is on disk, and say what fixes what is wrong.

    Reads files only, also while a run is going: every digest, count, type and value.
    """
    from r3po.config.settings import load_config
    from r3po.inspect.verify import verify_job

    with pandas_left_out(), _one_line() as show:
        found = verify_job(load_config(config), source=source, tell=show)
    if as_json:
        print_json(found.to_json())
    else:
        print_wrapped(verify_text(found))
    if not found.is_good:
        raise typer.Exit(EXIT_FAILED_FILES)


@contextmanager
def _one_line() -> Iterator[Callable[[int, int], None]]:
    """Give what shows how many files are checked, where stderr is a terminal, and clear the line at the end."""
    if not sys.stderr.isatty():
        yield lambda n_files, of: None
        return
    try:
        yield lambda n_files, of: say(f"\rChecked {n_files:,} of {of:,} files")
    finally:
        say("\r\x1b[K")


def _failure_of(name: str, failures: list[dict[str, Any]], source: str) -> dict[str, Any]:
    """Return the failure of the file of this name: relative to the source, absolute, or the end of one path alone."""
    from r3po.storage.names import absolute_path

    def is_named(failure: dict[str, Any]) -> bool:
        return name in (failure["path"], one_line(failure["path"]), absolute_path(source, failure["path"]))

    found = list(filter(is_named, failures))
    found = found or [failure for failure in failures if one_line(failure["path"]).endswith(f"/{name}")]
    if len(found) > 1:
        fail(f"{len(found):,} failed files are named {name}", "name it with its folders: r3po errors --paths")
    if not found:
        fail(f"no failed file is named {name}", "r3po errors --paths lists them, relative to source_path")
    return found[0]
