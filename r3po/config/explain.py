"""What each key is and means, for people and programs: without a config, or as one config has it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from r3po.config.folders import expand, variables_in
from r3po.config.keys import Keys, MaxErrors, ParquetOptions
from r3po.config.places import FOLDERS
from r3po.config.settings import load_config
from r3po.config.worker_keys import WorkerResources
from r3po.config.yaml_file import read_entries, read_text

NOT_SET = "not set"
REQUIRED = "required"


@dataclass(frozen=True)
class KeyMeaning:
    """A key, whatever a config says of it."""

    key: str
    default: str
    """As a config would have it; `required`, or `not set`."""
    meaning: str
    example: str
    """A value as a config would have it: the default, where there is one."""

    @property
    def is_required(self) -> bool:
        return self.default == REQUIRED


@dataclass(frozen=True)
class Setting:
    """A key as one config has it, or leaves it at its default."""

    key: str
    value: Any
    """What JSON has for it; folders are absolute, and None stands for what is not set."""
    line: int | None
    """From 1; None: the file does not have the key."""
    written: Any
    """The value as the file has it; None: it does not."""
    variables: tuple[str, ...]
    """Names of the environment variables that were filled in."""
    default: str
    meaning: str

    @property
    def shown(self) -> str:
        """The value as a config would have it; `not set`."""
        return NOT_SET if self.value is None else in_yaml(self.value)

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "value": self.value,
            "from": "default" if self.line is None else "file",
            "line": self.line,
            "written": self.written,
            "variables": list(self.variables),
            "default": self.default,
            "meaning": self.meaning,
        }


def key_meanings() -> list[KeyMeaning]:
    """Return every key, in the order in which they are explained."""
    return [_meaning_of(name, field) for name, field in Keys.model_fields.items()]


def explain_config(file: Path) -> list[Setting]:
    """Return every key with its value in a config, where that comes from, and what it means.

    Raises:
        ConfigError: as of `load_config`.
    """
    config = load_config(file)
    entries = read_entries(config.path, read_text(config.path), (), [])
    settings = []
    for known in key_meanings():
        entry = entries.get(known.key)
        written = None if entry is None else _plain(entry.plain)
        value = _plain(getattr(config, known.key))
        if known.key in FOLDERS and isinstance(written, list):
            value = [_absolute(folder, config.base_dir) for folder in written]
        elif known.key == "parquet" and value is None:
            value = False
        line = None if entry is None else entry.line
        variables = tuple(variables_in(str(written))) if known.key in FOLDERS else ()
        settings.append(Setting(known.key, value, line, written, variables, known.default, known.meaning))
    return settings


def in_yaml(value: Any) -> str:
    """Return a value as it can stand in a config, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_yaml(key)}: {in_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    if isinstance(value, str):
        return value if _is_bare(value) else _in_quotes(value)
    return json.dumps(value)


# Private functions


def _meaning_of(name: str, field: FieldInfo) -> KeyMeaning:
    example = str((field.examples or [""])[0])
    default = _plain(field.default)
    if field.is_required():
        shown = REQUIRED
    elif default is None or default == []:
        shown = NOT_SET
    elif example:  # how people write the default
        shown = example
    else:
        # What parquet: true means is the default, which nobody needs to spell.
        example = shown = "true" if isinstance(field.default, ParquetOptions) else in_yaml(default)
    return KeyMeaning(name, shown, field.description or "", example)


def _plain(value: Any) -> Any:
    """Return a checked value as JSON has it."""
    if isinstance(value, ParquetOptions | WorkerResources):
        return {key: item for key, item in value.model_dump().items() if item is not None}
    if isinstance(value, MaxErrors):
        return value.count if value.count is not None else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # What is left is a folder, or a column's type.
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _absolute(folder: str, base: Path) -> str:
    return os.path.abspath(base / expand(folder))


def _in_quotes(text: str) -> str:
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30)
    return dumped.rstrip("\n")


def _is_bare(text: str) -> bool:
    """Whether YAML takes a text for that text, also within brackets, without quotes."""
    if not text or text != text.strip() or any(sign in text for sign in ",[]{}\n"):
        return False
    try:
        return bool(
            yaml.safe_load(f"key: {text}") == {"key": text}
            and yaml.safe_load(f"[{text}, {{{text}: {text}}}]") == [text, {text: text}]
        )
    except (yaml.YAMLError, ValueError):
        return False
