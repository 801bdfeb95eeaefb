"""A new job: the files that `r3po init` writes. Nothing that is there is written over, and half a job is taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3po.begin.first_look import SourceLook, look_at
from r3po.begin.templates import function_text
from r3po.config.explain import KeyMeaning, in_yaml, key_meanings
from r3po.config.folders import holds, variables_in
from r3po.config.schema import SCHEMA_FILE, schema_text
from r3po.errors import ConfigError, FolderError
from r3po.storage.names import show_name
from r3po.text import count_of, is_control, wrap_words

CONFIG_FILE = "config.yaml"
FUNCTION_FILE = "function.py"
SAMPLES = "files"
_SAMPLE_FILES = {
    "monday.json": {"day": "monday", "apples": 12, "pears": 7, "sold_to": ["Ann", "Bo"]},
    "tuesday.json": {"day": "tuesday", "apples": 9, "pears": 11, "sold_to": ["Cy"]},
    "wednesday.json": {"day": "wednesday", "apples": 15, "pears": None, "sold_to": []},
}
_COMMENT_WIDTH = 78

MOST_SUFFIXES = 4
"""Suffixes that a new job takes by itself."""

SUBSTANTIAL = 0.1
"""How many files a suffix needs to be taken, too, or to be told of: this share of those of the commonest."""


@dataclass(frozen=True)
class NewJob:
    """What `make_job` has written, in the order in which people look at it."""

    folder: Path
    files: dict[str, str]
    """What each file, or folder of samples, is; by its name in the job's folder."""
    settings: dict[str, Any]
    """The keys that the config sets."""
    look: SourceLook | None
    """What was found in the source, if one was named."""
    suffixes: tuple[str, ...]
    """The ends of names that the job takes, the commonest first."""
    others: tuple[str, ...]
    """Suffixes that many files have, too, for which the function was not made."""


def make_job(folder: Path, source: Path | None = None) -> NewJob:
    """Write a config, a function and, where no source is named, small samples into a folder, which is made if missing.

    Args:
        folder: of the job.
        source: the folder of the files; the config and the function are made for what is found there.

    Raises:
        SourceError: there is no such source, or no file in it.
        ConfigError: no config can name the source, or the job's folder lies in it.
        FolderError: something of these names is there already. Nothing was written.
        OSError: the disk refused. What was written before is removed.
    """
    folder_written = show_name(str(folder))
    folder = Path(os.path.abspath(folder))
    look, sample, source_written = None, None, SAMPLES
    suffixes: tuple[str, ...] = (".json",)
    others: tuple[str, ...] = ()
    if source is not None:
        look = look_at(Path(os.path.abspath(source)))
        suffixes, others = _choose_suffixes(look)
        sample, source_written = look.suffixes[suffixes[0]].sample, _written_source(source, folder)
        _check_outside(look.folder, folder)
    _check_free(folder, folder_written, has_samples=source is None)
    settings = {
        "job_name": _job_name(folder if look is None else look.folder),
        "processes": "auto",
        "source_path": source_written,
        "source_file_part": (suffixes[0] or "all") if len(suffixes) == 1 else list(suffixes),
        "working_dir": _free_name("working_dir", folder, look),
        "output_path": _free_name("output_dir", folder, look),
        "function": f"{FUNCTION_FILE}:f",
    }
    samples = _SAMPLE_FILES if source is None else {}
    _write(folder, settings, suffixes[0], sample, samples)
    files = {
        CONFIG_FILE: "the settings, each explained",
        FUNCTION_FILE: "f, which is called on every file: make it yours",
        **({f"{SAMPLES}/": f"{count_of(len(samples), 'small file')} to begin with"} if samples else {}),
        SCHEMA_FILE: f"lets editors complete and check {CONFIG_FILE}",
    }
    return NewJob(folder, files, settings, look, suffixes, others)


def config_text(settings: Mapping[str, Any]) -> str:
    """Return the text of a config: every key with its meaning, and commented out where `settings` leave it out."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "# The settings of one job. Folders are relative to this file; ~ and ${VAR} are filled in.",
    ]
    for known in key_meanings():
        lines += ["", *_comment(known, is_set=known.key in settings)]
        if known.key in settings:
            lines.append(f"{known.key}: {in_yaml(settings[known.key])}")
        else:
            lines.append(f"#{known.key}: {known.example}")
    return "\n".join(lines) + "\n"


# Private functions


def _choose_suffixes(look: SourceLook) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commonest suffix with those that its function fits, too; and the other common ones."""
    first, count = look.commonest()
    function = function_text(first, count.sample)
    taken: list[str] = [first]
    others: list[str] = []
    for suffix, found in look.by_number() if first else ():
        if suffix in (first, "") or found.n_files < SUBSTANTIAL * count.n_files:
            continue
        is_alike = function_text(suffix, found.sample or count.sample) == function
        (taken if is_alike and len(taken) < MOST_SUFFIXES else others).append(suffix)
    return tuple(taken), tuple(others)


def _comment(known: KeyMeaning, *, is_set: bool) -> list[str]:
    default = "" if is_set else f" (default: {known.default})"
    return wrap_words(known.meaning + default, _COMMENT_WIDTH, first="# ", rest="# ")


def _written_source(source: Path, folder: Path) -> str:
    """Return the source as the config of a job in `folder` names it: relative, if it was named so.

    Raises:
        ConfigError: no config can.
    """
    written = str(source) if source.is_absolute() else os.path.relpath(source, folder)
    written = f"./{written}" if written.startswith("~") else written
    is_text = not any(map(is_control, written))
    if not is_text or variables_in(written):
        why = "${...} stands for a variable there" if is_text else "it is not plain UTF-8 text"
        raise ConfigError(
            f"no config can name {show_name(written)}: {why}",
            hint="give the folder another name, or a link to it: ln -s FOLDER files; then r3po init --from files",
        )
    return written


def _check_outside(source: Path, folder: Path) -> None:
    if holds(source, folder):
        name = f"{source.name or 'my'}_job"
        raise ConfigError(
            f"a job in {show_name(str(folder))} would lie in its own source: what it writes would be taken for input",
            hint="make the job in a folder outside, such as: "
            f"r3po init {show_name(os.path.relpath(source.parent / name))} --from {show_name(os.path.relpath(source))}",
        )


def _check_free(folder: Path, written: str, *, has_samples: bool) -> None:
    """Make sure that nothing has a name that is to be written; a schema of the same content may stay."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise FolderError(f"{written} is no folder", hint="name another: r3po init DIR")
    schema = folder / SCHEMA_FILE
    names = [CONFIG_FILE, FUNCTION_FILE, *([SAMPLES] if has_samples else [])]
    names += [] if _has_content(schema, schema_text()) else [SCHEMA_FILE]
    there = [name for name in names if os.path.lexists(folder / name)]
    if there:
        hints = {
            CONFIG_FILE: "r3po run works with the config that is there; r3po init DIR makes a job in another folder",
            SAMPLES: f"r3po init --from {SAMPLES} takes these files; r3po init DIR makes a job in another folder",
            FUNCTION_FILE: f"give your {FUNCTION_FILE} another name; or r3po init DIR makes a job in another folder",
        }
        raise FolderError(
            f"{_joined(there)} {'is' if len(there) == 1 else 'are'} there already; nothing was written",
            where=written if written != "." else None,
            hint=hints.get(there[0], f"remove it: r3po config --schema writes what {SCHEMA_FILE} holds"),
        )


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _has_content(file: Path, text: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _job_name(folder: Path) -> str:
    name = "".join(char for char in folder.name if not is_control(char))
    return name.strip() or "my_job"


def _free_name(name: str, folder: Path, look: SourceLook | None) -> str:
    """Return the name of a folder of the job's own, beside the source where that has the same name."""
    while look is not None and (holds(look.folder, folder / name) or holds(folder / name, look.folder)):
        name = f"r3po_{name}"
    return name


def _write(
    folder: Path, settings: Mapping[str, Any], suffix: str, sample: Path | None, samples: Mapping[str, Any]
) -> None:
    """Write the files of a job, the config last: where it is, the others are."""
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if samples:
            _make_folder(folder / SAMPLES, made)
        for name, content in samples.items():
            _make_file(folder / SAMPLES / name, json.dumps(content) + "\n", made)
        sample = folder / SAMPLES / next(iter(samples)) if samples else sample
        _make_file(folder / FUNCTION_FILE, function_text(suffix, sample), made)
        if not os.path.lexists(folder / SCHEMA_FILE):
            _make_file(folder / SCHEMA_FILE, schema_text(), made)
        _make_file(folder / CONFIG_FILE, config_text(settings), made)
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _make_folder(folder: Path, made: list[Path]) -> None:
    folder.mkdir()
    made.append(folder)


def _make_file(file: Path, text: str, made: list[Path]) -> None:
    # Not by a rename, which would replace what somebody else has written there meanwhile.
    with open(file, "x", encoding="utf-8") as stream:
        made.append(file)
        stream.write(text)
