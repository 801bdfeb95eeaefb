"""Reading config.yaml: keys and values with their lines, and what is wrong with its syntax."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from r3po.config.folders import scan
from r3po.errors import ConfigError
from r3po.text import first_line, shorten

_LINE_SHAPE = 'each line is "key: value", with a space after the colon'
KEYS_HINT = "r3po config --keys lists every key"

NESTED = ("parquet", "columns", "worker")
"""Keys whose entries have lines of their own."""

_SHOWN_CHARS = 37  # of a line that has a problem; the user has the file for the rest


@dataclass(frozen=True)
class Problem:
    """One line of what the user is told; `line` is None for a key that is missing."""

    line: int | None
    shown: str  # what the file has there
    reason: str  # what is wrong, and what to do


@dataclass(frozen=True)
class Entry:
    """One key of the file, or of the mapping that stands for one, and what YAML makes of its value."""

    line: int | None  # from 1; None: it is of a mapping
    shown: str
    written: str  # the value as the file has it
    value: Any  # of `NESTED`, such as `parquet: {...}`: the entries in it, by key

    @property
    def plain(self) -> Any:
        """The value as `yaml.safe_load` has it, without lines."""
        if not isinstance(self.value, dict):
            return self.value
        return {key: entry.plain if isinstance(entry, Entry) else entry for key, entry in self.value.items()}

    @property
    def place(self) -> str:
        """Where it is, for people, in brackets with a space before; empty: it has no line."""
        return "" if self.line is None else f" (line {self.line})"

    def problem(self, reason: str) -> Problem:
        return Problem(self.line, self.shown, reason)


def read_text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(file) from error
    except IsADirectoryError as error:
        named = file / "config.yaml"
        hint = f'did you mean "{named}"?' if os.path.isfile(named) else "name the config file in it"
        raise ConfigError(f"{file} is a folder, not a config", hint=hint) from error
    except OSError as error:
        raise ConfigError(
            f"{file.name} cannot be read: {error.strerror}", hint=f"look at the permissions of {file}"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file.name} is not UTF-8 text (line {line})", hint="save it as UTF-8") from error


def _not_found(file: Path) -> ConfigError:
    if not file.parent.is_dir():
        return ConfigError(f"{file.name} not found: there is no folder {file.parent}", hint="look at the path")
    others = [entry.name for entry in scan(file.parent) if entry.name.endswith((".yaml", ".yml"))]
    # Not at difflib's own 0.6: the ending alone makes two short names that similar.
    likely = get_close_matches(file.name, others, n=1, cutoff=0.8) or others[:3]
    named = " or ".join(f'"{name}"' for name in likely)
    hint = (
        f"did you mean {named}?"
        if likely
        else "r3po init begins a job here; or name the config, such as: r3po run my.yaml"
    )
    return ConfigError(f"{file.name} not found in {file.parent}", hint=hint)


def read_entries(file: Path, text: str, needed: Iterable[str], problems: list[Problem]) -> dict[str, Entry]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            return _read_mapping(loader, root, text, problems)
    except (yaml.YAMLError, RecursionError) as error:
        raise _syntax_error(file, text, error) from error
    if root is None or (root.tag == "tag:yaml.org,2002:null" and not root.value):
        raise ConfigError(f"{file.name} is empty", hint=f"it needs {', '.join(needed)}\n{KEYS_HINT}")
    evidence = f"line {root.start_mark.line + 1}   {short(text[root.start_mark.index :])}"
    raise ConfigError(f"{file.name} holds no keys", evidence=evidence, hint=f"{_LINE_SHAPE}\n{KEYS_HINT}")


def entries_of(keys: Mapping[str, Any]) -> dict[str, Entry]:
    """Return the keys of a mapping that stands for a file."""
    entries: dict[str, Entry] = {}
    for key, value in keys.items():
        is_nested = key in NESTED and isinstance(value, Mapping)
        content = entries_of(value) if is_nested else _without_paths(value)
        entries[str(key)] = Entry(None, short(f"{key}: {value}"), repr(value), content)
    return entries


def _without_paths(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _read_mapping(
    loader: yaml.SafeLoader, mapping: yaml.MappingNode, text: str, problems: list[Problem]
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key_node, node in mapping.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        # The marks of an alias are those of its anchor, which comes earlier in the file.
        end = max(node.end_mark.index, key_node.end_mark.index + 1)
        shown = short(text[key_node.start_mark.index : end])
        if key_node.tag != "tag:yaml.org,2002:str":
            problems.append(Problem(line, shown, "the key is not text; keys are names such as job_name"))
        elif key in entries:
            problems.append(Problem(line, shown, f"{key} is given twice; line {entries[key].line} has it, too"))
        else:
            is_nested = key in NESTED and isinstance(node, yaml.MappingNode)
            value = _read_mapping(loader, node, text, problems) if is_nested else _construct(loader, node)
            entries[key] = Entry(line, shown, text[node.start_mark.index : node.end_mark.index], value)
    return entries


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return the value as `yaml.safe_load` would; the node itself, of no type a key has, where it would raise."""
    try:
        return loader.construct_document(node)
    # PyYAML lets Python's own errors through: 2026-13-45 looks like a date and is none, `!!int ""` has no digit.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError):
        return node


def _syntax_error(file: Path, text: str, error: Exception) -> ConfigError:
    what, hint = f"{file.name} is not valid YAML", f"{_LINE_SHAPE}; quote values that hold other signs"
    if isinstance(error, yaml.MarkedYAMLError):
        line, reason = _syntax_mark(error), ", ".join(filter(None, (error.problem, error.context)))
        hint = "indent with spaces, not with tabs" if r"'\t'" in reason else hint
        if unquoted := _unquoted_value(text, error):
            line, reason = unquoted.line, f"what begins with {unquoted.text[0]} needs quotes"
            hint = f'quote it: "{unquoted.text}"'
    elif isinstance(error, yaml.reader.ReaderError):
        line, reason = text.count("\n", 0, error.position) + 1, f"holds the character U+{error.character:04X}"
        hint = "take the character out"
    else:
        return ConfigError(what, evidence="it is nested too deeply", hint=KEYS_HINT)
    shown = "".join(char for char in "".join(text.split("\n")[line - 1 : line]) if char.isprintable())
    return ConfigError(what, evidence=f"line {line}   {short(shown)}   {reason}", hint=hint)


class _Unquoted(NamedTuple):
    line: int
    text: str


def _unquoted_value(text: str, error: yaml.MarkedYAMLError) -> _Unquoted | None:
    """Return the value that YAML takes for something else by its first sign, as `**/tmp`; None: there is none."""
    context, problem = error.context or "", error.problem or ""
    is_alias = context in ("while scanning an alias", "while scanning an anchor")
    if not is_alias and not problem.startswith(("found undefined alias", "found character")):
        return None
    mark = error.context_mark if is_alias else error.problem_mark
    found = None if mark is None else _VALUE.match(text, mark.index)
    return None if mark is None or found is None else _Unquoted(mark.line + 1, found[0])


_VALUE = re.compile(r"[*&@%`][^\s,\]}\"]*")


def _syntax_mark(error: yaml.MarkedYAMLError) -> int:
    """Return the line, from 1, to look at: where a quote or bracket was opened, not where its end was missed."""
    is_opened = (error.context or "").startswith(("while scanning a", "while parsing a flow"))
    mark = error.context_mark if is_opened and error.context_mark else error.problem_mark
    return mark.line + 1 if mark else 1


def short(text: str) -> str:
    return shorten(first_line(text.strip()).rstrip(), _SHOWN_CHARS)
