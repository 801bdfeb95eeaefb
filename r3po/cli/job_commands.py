"""The commands that change a job: run, build, reset. One library call each."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from r3po.cli.answers import (
    CONFIG,
    EXIT_FAILED_FILES,
    EXIT_USAGE,
    ConfigArgument,
    JsonOption,
    fail,
    pandas_left_out,
    print_json,
    print_text,
)
from r3po.cli.texts import fingerprint_today, preview_text
from r3po.text import count_of


# Long by its options, which Typer reads from the signature.
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
    engine: Annotated[
        str | None,
        typer.Option(metavar="ENGINE", help="ray; processes: without Ray; serial: all in this process, to debug."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray to join: auto or HOST:PORT, instead of the config's.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Workers, instead of the config's.")] = None,
    max_errors: Annotated[
        str | None, typer.Option(metavar="N", help="Stop if more than N files fail, or N% of the finished; or none.")
    ] = None,
    show_output: Annotated[
        bool, typer.Option("--show-output", help="Show what f prints: the first MiB of each worker.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Do the first N pending files; the next run goes on.")
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 although files failed.")] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and one line if not all is well.")] = False,
) -> None:
    """Build what is new, process what is pending, and write the table.

    A run that was stopped or killed goes on where it was: type the same again.
    """
    from r3po.config.settings import load_config
    from r3po.engines.starter import started_early

    loaded = load_config(config).with_overrides(
        processes=processes, max_errors=max_errors, engine=engine, address=address
    )
    with started_early(loaded) as starter:
        from r3po.cli.display import Display
        from r3po.function.find import find_function
        from r3po.run.result import RunOptions
        from r3po.run.session import find_configured, run_job

        # A function named on the command line is looked for from where the command was typed.
        spec = find_configured(loaded) if function is None else find_function(function, Path.cwd())
        options = RunOptions(
            build=not no_build,
            retry_failed=retry_failed,
            redo=redo,
            restart=restart,
            accept_deletions=accept_deletions,
            show_output=show_output,
            limit=limit,
            command=_command_to_go_on(
                config, function, engine, address, processes, max_errors, redo=redo, no_build=no_build
            ),
        )
        # The serial engine calls f in this process; f may want pandas.
        spared = pandas_left_out() if loaded.engine != "serial" else nullcontext()
        with Display(is_quiet=quiet) as display, spared:
            result = run_job(loaded, spec, options, display, starter)
    if as_json:
        print_json(result.to_json())
    if result.failed and not exit_zero:
        raise typer.Exit(EXIT_FAILED_FILES)


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
        with Display(is_quiet=as_json) as display, pandas_left_out():
            found = preview_build(loaded, fingerprint, display)
        if as_json:
            print_json({"schema_version": 1, "job_name": loaded.job_name, **found})
        else:
            print_text(preview_text(found, loaded.on_deleted))
        return
    with Display() as display:
        manifest = build_job(loaded, display, accept_deletions=accept_deletions)
    if as_json:
        counts = {"files": manifest.count_job_files, "shards": len(manifest.shards), "build": manifest.build}
        print_json({"schema_version": 1, "job_name": manifest.job_name, **counts})


def reset(
    config: ConfigArgument = CONFIG,
    errors: Annotated[bool, typer.Option("--errors", help="Let the next run try every failed file again.")] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Give up a redo under way: the rows of before are back.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Forget the job: its state and the parts it made.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget failures, a redo under way, or the whole job.

    Say which: --errors, --redo or --all.
    """
    from r3po.config.settings import load_config
    from r3po.run.undo_redo import reset_redo
    from r3po.state.reset import reset_all_errors, reset_all_tracking

    if errors + redo + all_ != 1:
        fail("say what to reset: --errors, --redo or --all", "r3po reset --help")
    loaded = load_config(config)
    if errors:
        n_failed = reset_all_errors(config)
        print_text(f"{count_of(n_failed, 'failed file')} will be tried again by the next run.")
        return
    if redo:
        rows = count_of(reset_redo(config), "row", "rows")
        print_text(f"{rows} of before the redo count again; r3po run makes what is left of parts.")
        return
    if not yes:
        if not sys.stdin.isatty():
            fail(
                "reset --all removes the job's state and its parts, and it cannot ask: stdin is no terminal",
                "add --yes",
            )
        if not typer.confirm(f"Remove all state and parts of {loaded.job_name} ({loaded.output_path})?", err=True):
            print("Nothing was removed.", file=sys.stderr)
            raise typer.Exit(EXIT_USAGE)  # not 1, which says that files failed
    n_parts = reset_all_tracking(config)
    print_text(f"{loaded.job_name} is as if it had never run; {count_of(n_parts, 'part was', 'parts were')} removed.")


def _command_to_go_on(
    config: Path,
    function: str | None,
    engine: str | None,
    address: str | None,
    processes: int | None,
    max_errors: str | None,
    *,
    redo: bool,
    no_build: bool,
) -> str:
    """Return what to type to go on with this run: what was typed, without what would begin something again."""
    words = ["r3po", "run", *([] if config == CONFIG else [str(config)])]
    words += ["--function", function] if function is not None else []
    words += ["--engine", engine] if engine is not None else []
    words += ["--address", address] if address is not None else []
    words += ["--processes", str(processes)] if processes is not None else []
    words += ["--max-errors", max_errors] if max_errors is not None else []
    words += ["--redo"] if redo else []
    words += ["--no-build"] if no_build else []
    return shlex.join(words)
