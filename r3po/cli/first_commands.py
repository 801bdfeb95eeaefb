"""The commands of the first minutes, init and config: they need no job, and change none."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r3po.cli.answers import CONFIG, ConfigArgument, JsonOption, fail, print_json, print_text, width_of
from r3po.cli.texts import plain
from r3po.storage.names import show_name
from r3po.text import count_of, shorten_path, size_text, wrap_words

if TYPE_CHECKING:
    from r3po.begin.first_look import SourceLook
    from r3po.begin.init import NewJob
    from r3po.config.explain import KeyMeaning, Setting

MOST_SUFFIXES = 10
"""Suffixes that `init --from` shows."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The job's folder; it is made if missing.")] = Path(),
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FOLDER", help="The folder with your files: the job is made for it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a job: write a config, every key explained, and an f.

    Nothing that is there is written over. Without --from, a few small files to begin with are made, too.
    """
    from r3po.begin.init import make_job
    from r3po.storage.object_urls import is_url

    if source is not None and is_url(source):
        fail(
            f"--from looks at a folder of a disk, and {source} is none",
            f"r3po init DIR, then write into its config.yaml:  source_path: {source}",
        )
    made = make_job(folder, None if source is None else Path(source))
    if as_json:
        print_json(_init_json(made))
    else:
        print_text(init_text(made, folder))


def config(
    config: ConfigArgument = CONFIG,
    keys: Annotated[bool, typer.Option("--keys", help="Only what there is to set; no config is needed.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a config, for editors; no config is needed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every key: its value, from where, and what it means."""
    from r3po.config.explain import explain_config, key_meanings
    from r3po.config.schema import schema_text

    if keys and schema:
        fail("--keys and --schema are two answers", "give one of them")
    if schema:
        print_text(schema_text().rstrip())
        return
    width = min(100, width_of(sys.stdout))
    if keys:
        known = key_meanings()
        if as_json:
            print_json({"schema_version": 1, "keys": [_meaning_json(key) for key in known]})
        else:
            print_text(keys_text(known, width))
        return
    settings = explain_config(config)
    if as_json:
        path = os.path.abspath(config)
        print_json({"schema_version": 1, "config": path, "keys": [setting.to_json() for setting in settings]})
    else:
        print_text(settings_text(settings, os.path.abspath(config), width))


# What they answer


def init_text(made: NewJob, folder: Path) -> str:
    """Return what `init` says of what it wrote; `folder` is the job's, as it was typed."""
    lines = [] if made.look is None else _look_lines(made, made.look)
    where = "the current folder" if str(folder) == "." else str(folder)
    width = max(map(len, made.files))
    lines += [f"Wrote in {where}", *(f"  {name:{width}}   {what}" for name, what in made.files.items())]
    steps = [] if str(folder) == "." else [f"cd {shlex.quote(str(folder))}"]
    steps += ["r3po try", "r3po run"]
    lines += [f"{'Next:' if not at else '':5}  {step}" for at, step in enumerate(steps)]
    return plain("\n".join(lines))


def keys_text(known: list[KeyMeaning], width: int) -> str:
    """Return every key with its default and its meaning."""
    lines = ["The keys of a config, and their defaults", ""]
    for key in known:
        example = f", such as {key.example}" if key.default != key.example else ""
        lines += _wrapped(f"{key.key}: {key.default}{example}", key.meaning, width)
    return "\n".join([*lines, "", "r3po config CONFIG shows the values of a job; r3po init begins one."])


def settings_text(settings: list[Setting], config: str, width: int) -> str:
    """Return every key with its value, where that comes from, and its meaning."""
    lines = [config, ""]
    for setting in settings:
        lines += _wrapped(f"{setting.key}: {setting.shown}   ({_origin(setting)})", setting.meaning, width)
    return plain("\n".join(lines))


def _wrapped(first: str, meaning: str, width: int) -> list[str]:
    return [*wrap_words(first, width, rest="      "), *wrap_words(meaning, width, first="    ", rest="    ")]


def _origin(setting: Setting) -> str:
    from r3po.config.explain import in_yaml

    if setting.line is None:
        return "default"
    words = f"line {setting.line}"
    if setting.written is not None and in_yaml(setting.written) != setting.shown:
        words += f": {in_yaml(setting.written)}"
    if setting.variables:
        words += f", with {' and '.join(setting.variables)} of the environment"
    return words


def _look_lines(made: NewJob, look: SourceLook) -> list[str]:
    """Return what was found in the source."""
    until = f" (stopped after {look.stopped_at}; there is more)" if look.stopped_at else ""
    lines = [f"Found in {shorten_path(show_name(str(look.folder)), 60)}: {count_of(look.n_files, 'file')}{until}"]
    found = look.by_number()
    shown = found[:MOST_SUFFIXES]
    shown += [item for item in found[MOST_SUFFIXES:] if item[0] in made.suffixes]
    width = max(12, *(len(suffix) for suffix, _ in shown))
    for suffix, count in shown:
        mark = "   taken: source_file_part" if suffix in made.suffixes else ""
        files = count_of(count.n_files, "file")
        lines.append(f"  {suffix or '(no suffix)':{width}} {files:>15} {size_text(count.size_bytes):>12}{mark}")
    if len(found) > len(shown):
        lines.append(f"  and {len(found) - len(shown):,} more suffixes")
    if passed := look.passed_over_text:
        lines.append(f"  passed over: {passed}")
    if made.others:
        wanted = ", ".join([*made.suffixes, made.others[0]])
        lines.append(f"To take others, too: source_file_part: [{wanted}] in config.yaml, and an f for them")
    sample = look.suffixes[made.suffixes[0]].sample
    if sample is None:
        lines.append("No file was looked into: each is empty or large. The function is a general one.")
    else:
        lines.append(f"Looked into {shorten_path(show_name(os.path.relpath(sample, look.folder)), 60)}")
    return lines


def _init_json(made: NewJob) -> dict[str, Any]:
    look = made.look
    found = None
    if look is not None:
        found = {
            "files": look.n_files,
            "stopped_at": look.stopped_at or None,
            "passed_over": look.passed_over,
            "suffixes": {
                plain(suffix): {"files": count.n_files, "size_bytes": count.size_bytes}
                for suffix, count in look.by_number()
            },
        }
    return {
        "schema_version": 1,
        "folder": plain(str(made.folder)),
        "files": list(made.files),
        "settings": made.settings,
        "found": found,
    }


def _meaning_json(known: KeyMeaning) -> dict[str, Any]:
    return {
        "key": known.key,
        "required": known.is_required,
        "default": known.default,
        "example": known.example,
        "meaning": known.meaning,
    }
