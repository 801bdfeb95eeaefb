"""The command `r3po`. One library call a command; errors become text on stderr and an exit code, here and nowhere else.

stdout carries the answer, stderr messages and progress. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from r3po.cli.texts import (
    errors_text,
    failure_text,
    fingerprint_today,
    one_line,
    plain,
    preview_text,
    status_text,
    verify_text,
)
from r3po.errors import R3poError, RunStoppedError
from r3po.text import count_of

EXIT_FAILED_FILES = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_CLOSED_PIPE = 141


app = typer.Typer(
    name="r3po",
    help="Run one Python function over millions of files and get one table: CSV and Parquet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="[CONFIG]", help="The job's config file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
CONFIG = Path("config.yaml")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        _print(f"r3po {installed('r3po')}")
        raise typer.Exit


# Long by its options, which Typer reads from the signature.
@app.command()
def run(
    config: ConfigArgument = CONFIG,
    function: Annotated[
        str | None, typer.Option(metavar="F", help="file.py:name or package.module:name, instead of the config's.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try every failed file again.")] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Make every row again; columns are set again. One cut short goes on.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="With --redo: begin a redo that was cut short again.")
    ] = False,
    accept_deletions: Annotated[
        bool, typer.Option("--accept-deletions", help="Go on although more than half of the files are gone.")
    ] = False,
    no_build: Annotated[bool, typer.Option("--no-build", help="Do not look for new files in the source.")] = False,
    engine: Annotated[str, typer.Option(help="ray, or serial: all in this process, for a debugger.")] = "ray",
    processes: Annotated[int | None, typer.Option(min=1, help="Workers, instead of the config's.")] = None,
    max_errors: Annotated[
        str | None, typer.Option(metavar="N", help="Stop if more than N files fail, or N% of the finished; or none.")
    ] = None,
    show_output: Annotated[
        bool, typer.Option("--show-output", help="Show what f prints: the first MiB of each worker.")
    ] = False,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 although files failed.")] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
) -> None:
    """Build what is new, process what is pending, and write the table.

    A run that was stopped or killed goes on where it was: type the same again.
    """
    from r3po.cli.display import Display
    from r3po.config.settings import load_config
    from r3po.function.find import find_function
    from r3po.run.result import RunOptions
    from r3po.run.session import find_configured, run_job

    loaded = load_config(config).with_overrides(processes=processes, max_errors=max_errors)
    # A function named on the command line is looked for from where the command was typed.
    spec = find_configured(loaded) if function is None else find_function(function, Path.cwd())
    options = RunOptions(
        build=not no_build,
        retry_failed=retry_failed,
        redo=redo,
        restart=restart,
        accept_deletions=accept_deletions,
        engine=engine,
        show_output=show_output,
        command=_command_to_go_on(config, function, engine, processes, max_errors, redo=redo, no_build=no_build),
    )
    # The serial engine calls f in this process; f may want pandas.
    spared = _pandas_left_out() if engine != "serial" else nullcontext()
    with Display(is_quiet=quiet) as display, spared:
        try:
            result = run_job(loaded, spec, options, display)
        except RunStoppedError as error:
            if as_json and error.result is not None:
                _print_json(error.result.to_json())
            raise
    if as_json:
        _print_json(result.to_json())
    if result.failed and not exit_zero:
        raise typer.Exit(EXIT_FAILED_FILES)


@app.command()
def build(
    config: ConfigArgument = CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what a run would do.")] = False,
    accept_deletions: Annotated[
        bool, typer.Option("--accept-deletions", help="Go on although more than half of the files are gone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Only list and hash the source's files.

    `r3po run` does this by itself, and hashes while it reads.
    """
    from r3po.cli.display import Display
    from r3po.config.settings import load_config
    from r3po.source.build import build_job, preview_build

    loaded = load_config(config)
    if dry_run:
        fingerprint = fingerprint_today(loaded)
        with Display(is_quiet=as_json) as display, _pandas_left_out():
            found = preview_build(loaded, fingerprint, display)
        if as_json:
            _print_json({"schema_version": 1, "job_name": loaded.job_name, **found})
        else:
            _print(preview_text(found, loaded.on_deleted))
        return
    with Display() as display:
        manifest = build_job(loaded, display, accept_deletions=accept_deletions)
    if as_json:
        counts = {"files": manifest.count_job_files, "shards": len(manifest.shards), "build": manifest.build}
        _print_json({"schema_version": 1, "job_name": manifest.job_name, **counts})


@app.command()
def status(config: ConfigArgument = CONFIG, as_json: JsonOption = False) -> None:
    """Show how far the job is. Reads files only: instant, also while a run is going."""
    from r3po.config.settings import load_config
    from r3po.inspect.status import read_status

    loaded = load_config(config)
    with _pandas_left_out():
        found = read_status(loaded)
    if as_json:
        _print_json(found)
        return
    _print(status_text(loaded, found))


@app.command()
def errors(
    config: ConfigArgument = CONFIG,
    paths: Annotated[bool, typer.Option("--paths", help="One path a line, nothing else.")] = False,
    full: Annotated[
        str | None, typer.Option(metavar="PATH", help="The traceback of one file, named as in the list.")
    ] = None,
    by: Annotated[str, typer.Option(help="Group by place, type or message alone; all: by the three.")] = "all",
    as_json: JsonOption = False,
) -> None:
    """Show which files failed, and why, grouped by exception, place and message."""
    from r3po.config.settings import load_config
    from r3po.state.failed_files import read_failures
    from r3po.state.failure_groups import WAYS, group_failures, with_groups

    if by not in WAYS:
        _fail(f"--by {by} is no way to group failures", f"--by {', --by '.join(WAYS)}")
    loaded = load_config(config)
    with _pandas_left_out():
        failures = list(read_failures(loaded))
    if full is not None:
        found = [failure for failure in failures if full in (failure["path"], one_line(failure["path"]))]
        if not found:
            _fail(f"no failed file is named {full}", "r3po errors --paths lists them, relative to source_path")
        if as_json:
            _print_json({"schema_version": 1, **found[0]})
        else:
            _print(failure_text(found[0]))
    elif as_json:
        _print_json({"schema_version": 1, "failures": with_groups(failures, by)})
    elif paths:
        if failures:
            _print("\n".join(one_line(failure["path"]) for failure in failures))
    else:
        _print(errors_text(group_failures(failures, by), shutil.get_terminal_size((100, 24)).columns))


@app.command()
def verify(
    config: ConfigArgument = CONFIG,
    source: Annotated[bool, typer.Option("--source", help="Hash every file of the source again, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check all that the job left on disk, and say what is wrong and what fixes it.

    Reads files only, also while a run is going: every digest, count, type and value.
    """
    from r3po.config.settings import load_config
    from r3po.inspect.verify import verify_job

    with _pandas_left_out(), _one_line() as show:
        found = verify_job(load_config(config), source=source, tell=show)
    if as_json:
        _print_json(found.to_json())
    else:
        _print(verify_text(found))
    if not found.is_good:
        raise typer.Exit(EXIT_FAILED_FILES)


@app.command()
def reset(
    config: ConfigArgument = CONFIG,
    errors: Annotated[bool, typer.Option("--errors", help="Let the next run try every failed file again.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Forget the job: its state and the parts it made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget failures (--errors), or everything (--all)."""
    from r3po.config.settings import load_config
    from r3po.state.reset import reset_all_errors, reset_all_tracking

    if errors == all_:
        _fail("say what to reset: --errors or --all", "r3po reset --help")
    loaded = load_config(config)
    if errors:
        n_failed = reset_all_errors(config)
        _print(f"{count_of(n_failed, 'failed file')} will be tried again by the next run.")
        return
    if not yes:
        if not sys.stdin.isatty():
            _fail(
                "reset --all removes the job's state and its parts, and it cannot ask: stdin is no terminal",
                "add --yes",
            )
        if not typer.confirm(f"Remove all state and parts of {loaded.job_name} ({loaded.output_path})?", err=True):
            print("Nothing was removed.", file=sys.stderr)
            raise typer.Exit(EXIT_USAGE)  # not 1, which says that files failed
    n_parts = reset_all_tracking(config)
    _print(f"{loaded.job_name} is as if it had never run; {n_parts:,} parts were removed.")


def main() -> NoReturn:
    """Run the command line and end the process with the exit code of the README's table."""
    code = run_command()
    if not sys.modules.keys().isdisjoint(("ray", "r3po.source.parallel")):
        _leave_at_once(code)
    sys.exit(code)


def run_command() -> int:
    """Run the command line of this process and return the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    return _run()


# Private functions


def _command_to_go_on(
    config: Path,
    function: str | None,
    engine: str,
    processes: int | None,
    max_errors: str | None,
    *,
    redo: bool,
    no_build: bool,
) -> str:
    """Return what to type to go on with this run: what was typed, without what would begin something again."""
    words = ["r3po", "run", *([] if config == CONFIG else [str(config)])]
    words += ["--function", function] if function is not None else []
    words += ["--engine", engine] if engine != "ray" else []
    words += ["--processes", str(processes)] if processes is not None else []
    words += ["--max-errors", max_errors] if max_errors is not None else []
    words += ["--redo"] if redo else []
    words += ["--no-build"] if no_build else []
    return shlex.join(words)


def _leave_at_once(code: int) -> NoReturn:
    """End the process without what Python does at its end.

    A Ray that was cut off while it started may crash there, and helpers that a disk does not answer are waited for.
    Nothing of the run is open any more, and the exit code is decided: a signal would only replace it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run() -> int:
    try:
        app(standalone_mode=True)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    except R3poError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _end_with_os_error(error)
    except Exception:
        _say(traceback.format_exc())
        _say("error: this is a bug in r3po, not in your function; your state is safe\n")
        return EXIT_BUG
    return 0


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=name)


@contextmanager
def _pandas_left_out() -> Iterator[None]:
    """Spare a process that never calls f the import of pandas, which pyarrow does at its first scalar if it can."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        yield
    finally:
        sys.meta_path.remove(_NoPandas)


def _end_with_os_error(error: OSError) -> int:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    _say(plain(f"error: {where}{error.strerror or error}\nhint:  fix the disk or the permissions\n"))
    return EXIT_USAGE


def _print_error(error: R3poError) -> None:
    text = str(error)
    if not (isinstance(error, RunStoppedError) and error.exit_code > 128):
        text = f"error: {text}"
        _say(plain(text) + "\n")
        return
    # A signal is no error: what is said is how to go on.
    _say(plain(error.hint or text) + "\n")


def _say(text: str) -> None:
    with suppress(OSError):  # whoever read us has gone
        sys.stderr.write(text)
        sys.stderr.flush()


def _fail(what: str, hint: str) -> None:
    raise R3poError(what, hint=hint)


def _print_json(content: dict[str, Any]) -> None:
    _print(json.dumps(content))


def _print(text: str) -> None:
    """Print an answer. Whoever reads us may have enough (`r3po errors | head`), which is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_CLOSED_PIPE) from None


@contextmanager
def _one_line() -> Iterator[Callable[[int, int], None]]:
    """Give what shows how many files are checked, where stderr is a terminal, and clear the line at the end."""
    if not sys.stderr.isatty():
        yield lambda n_files, of: None
        return
    try:
        yield lambda n_files, of: _say(f"\rChecked {n_files:,} of {of:,} files")
    finally:
        _say("\r\x1b[K")
