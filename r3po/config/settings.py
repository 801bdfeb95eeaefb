"""The user's settings: one YAML file, read once, checked whole, never written to.

It owns the keys of `config.yaml`, their types, defaults and units, and what the folders may be to each other.
A file with mistakes is refused with all of them at once, each with its line.

It refuses whatever could be read in two ways: unknown keys, keys given twice, a quoted number where a number is
meant. It creates no folder and looks at no input file; whether the source is there is asked by `check_source` alone,
so that reading a job's state works while its disk is away.

Source: README.md, "Config".
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from r3po.config.yaml_file import _README, _REQUIRED, _Entry, _Problem, _read_entries, _read_text, _scan, _short
from r3po.errors import ConfigError, SourceError
from r3po.table.column_types import ColumnType, parse_column_type
from r3po.table.columns import ColumnSettings
from r3po.text import count_of

MAX_PROCESSES = 4096
MAX_TIMEOUT_S = 31 * 24 * 3600.0

# r3po 0.2.0 wrote these two into the user's file. They are read past, whatever they hold.
_IGNORED = ("count_all_files", "count_job_files")
_FOLDERS = ("source_path", "working_dir", "output_path")

# Codec: (lowest level, highest level, the level if none is given). Codecs without levels are not here.
# Source: Arrow's `Codec`; zstd's levels below 1 trade nearly all compression away and are left out.
_LEVELS = {"zstd": (1, 22, 3), "gzip": (1, 9, 6), "brotli": (0, 11, 8), "lz4": (1, 12, 1)}


@dataclass(frozen=True)
class ParquetOptions:
    """How Parquet parts are compressed; `level` is None where the codec has no levels (snappy, none)."""

    compression: str = "zstd"
    level: int | None = 3


@dataclass(frozen=True)
class MaxErrors:
    """How many failures stop a run."""

    count: int | None = None  # more failed files than this
    percent: float | None = None  # a larger share of the files that the run has finished, 100 of them at least

    @property
    def is_off(self) -> bool:
        """`none`: nothing stops it, not even that the first files all fail alike."""
        return self.count is None and self.percent is None

    def __str__(self) -> str:
        return "none" if self.is_off else f"{self.count}" if self.percent is None else f"{self.percent:g}%"


def parse_max_errors(value: object) -> MaxErrors:
    """Return what `max_errors` says: a number of files, a share such as `1%`, or `none`.

    Raises:
        ValueError: it is none of these.
    """
    text = str(value).strip().lower()
    if text == "none":
        return MaxErrors()
    with contextlib.suppress(ValueError):
        if text.endswith("%") and 0 <= float(text[:-1]) <= 100:
            return MaxErrors(percent=float(text[:-1]))
        if not isinstance(value, (bool, float)) and int(text) >= 0:
            return MaxErrors(count=int(text))
    raise ValueError("must be a number of files such as 100, a share such as 1%, or none")


@dataclass(frozen=True)
class Config:
    """One job's settings, checked; folders are absolute, with links left as they are."""

    path: Path  # the config file itself
    job_name: str
    processes: int  # workers, at least 1; `auto` is already a number here
    source_path: Path
    source_file_part: str  # the end of file names
    working_dir: Path
    output_path: Path
    function: str | None  # as written
    input: Literal["path", "bytes"]
    csv: bool
    parquet: ParquetOptions | None  # None: no Parquet parts
    shard_size: int  # files in a new shard
    batch_seconds: float
    hash: Literal["content", "stat"]
    timeout_seconds: float | None
    max_errors: MaxErrors | None  # None: only the guard of the first files
    on_function_change: Literal["warn", "stop", "redo"]  # what happens to rows that other code made
    on_deleted: Literal["drop", "keep"]  # what happens to rows of files that were deleted
    columns: tuple[tuple[str, ColumnType], ...] | None = (
        None  # names and types, in order; None: the first row sets them
    )
    source_column: str | None = None  # the name of a column for each row's path
    notices: tuple[str, ...] = field(default=(), compare=False)  # to be said to the user, once a run
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)  # key: its line in the file, from 1
    source_written: str = field(default="", compare=False)  # source_path as the file has it, for messages

    @property
    def base_dir(self) -> Path:
        """The folder of the config file; what is relative in the file starts here."""
        return self.path.parent

    @property
    def column_settings(self) -> ColumnSettings:
        """What `columns` and `source_column` say together."""
        return ColumnSettings(self.columns, self.source_column)

    def with_overrides(
        self, *, processes: int | None = None, function: str | None = None, max_errors: int | str | None = None
    ) -> Config:
        """Return the config with what a command line gave in place of the file's; None keeps the file's.

        Raises:
            ConfigError: a value that the file could not have held either.
        """
        if processes is not None and not 1 <= processes <= MAX_PROCESSES:
            raise ConfigError(f"processes is {processes}", hint=f"give a whole number from 1 to {MAX_PROCESSES}")
        if function is not None and not function.strip():
            raise ConfigError("function is empty", hint="name it as file.py:name or package.module:name")
        try:
            limit = self.max_errors if max_errors is None else parse_max_errors(max_errors)
        except ValueError as error:
            raise ConfigError(f"max_errors is {max_errors}", hint=f"it {error}") from None
        return replace(
            self,
            max_errors=limit,
            processes=self.processes if processes is None else processes,
            function=self.function if function is None else function,
        )


def load_config(path: str | os.PathLike[str]) -> Config:
    """Return the settings in a config file.

    Args:
        path: the YAML file. Relative folders in it start at its own folder, not at the current one.

    Raises:
        ConfigError: the file cannot be read or is no YAML; or, all at once, every problem with its keys.
    """
    file = Path(os.path.abspath(path))
    problems: list[_Problem] = []
    entries = _read_entries(file, _read_text(file), problems)
    ignored = {key: entries.pop(key) for key in _IGNORED if key in entries}

    keys = _check_keys(_Keys, entries, problems)
    parquet = _check_parquet(keys, entries.get("parquet"), problems)
    columns = _check_columns(keys, entries, problems)
    folders = _expand_folders(keys, entries, file.parent, problems)
    _check_folders(folders, entries, problems)
    _check_formats(keys, entries, problems)
    _check_required(entries, problems)
    if problems:
        raise _config_error(file, problems)

    settings = keys.model_dump() | folders | {"parquet": parquet, "columns": columns, "max_errors": keys.max_errors}
    lines = {key: entry.line for key, entry in (entries | ignored).items()}
    return Config(path=file, **settings, notices=_notices(file, ignored), lines=lines, source_written=keys.source_path)


def check_source(config: Config) -> None:
    """Make sure that the source folder is there. Its files are not looked at, and it may be a link.

    Raises:
        SourceError: it is missing, cannot be reached, or is no folder.
    """
    source, place = config.source_path, _source_place(config)
    try:
        mode = source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(f"source folder not found: {source}   {place}", hint=_source_hint(source)) from error
    except OSError as error:
        what, hint = f"source folder cannot be reached: {source}   {place}", "look at its permissions and its disk"
        raise SourceError(what, evidence=error.strerror, hint=hint) from error
    if not stat.S_ISDIR(mode):
        hint = f'name the folder that holds it: "{source.parent}"'
        raise SourceError(f"source_path is no folder: {source}   {place}", hint=hint)


# Private: what the keys may hold


def _check_text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):  # Cs: half a character
        raise ValueError("must not hold line breaks, tabs or other control characters")
    return value


def _check_file_part(value: str) -> str:
    if "/" in value:
        raise ValueError("must be the end of file names, without a /")
    return value


def _resolve_auto(value: Any) -> Any:
    return _usable_cores() if value == "auto" else value


def _resolve_max_errors(value: Any) -> Any:
    return None if value is None else parse_max_errors(value)


def _resolve_columns(value: Any) -> Any:
    if value == {}:
        raise ValueError("names no column; take the key out, or name one: {fruits: int64}")
    return value


def _check_column(name: str) -> str:
    if not name:
        raise ValueError("must not be empty")
    if any(unicodedata.category(char) == "Cs" for char in name):  # half a character
        raise ValueError("is not valid Unicode text")
    return name


def _is_on(value: Any) -> Any:
    return True if isinstance(value, dict) else value  # what is in {compression: ...} has a model of its own


def _usable_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES)


_Text = Annotated[str, AfterValidator(_check_text)]


class _Keys(BaseModel):
    """The type of each key.

    The defaults of required keys stand in for those that are missing or wrong, while the others are still checked.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    job_name: _Text = ""
    processes: Annotated[int, Field(gt=0, le=MAX_PROCESSES), BeforeValidator(_resolve_auto)] = 1
    source_path: _Text = ""
    source_file_part: Annotated[_Text, AfterValidator(_check_file_part)] = ""
    working_dir: _Text = ""
    output_path: _Text = ""
    function: _Text | None = None
    input: Literal["path", "bytes"] = "path"
    csv: bool = True
    parquet: Annotated[bool, BeforeValidator(_is_on)] = True
    shard_size: Annotated[int, Field(gt=0, le=10_000_000)] = 10_000
    batch_seconds: Annotated[float, Field(gt=0, le=3600)] = 1.0
    hash: Literal["content", "stat"] = "content"
    timeout_seconds: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    max_errors: Annotated[MaxErrors | None, BeforeValidator(_resolve_max_errors)] = None
    on_function_change: Literal["warn", "stop", "redo"] = "warn"
    on_deleted: Literal["drop", "keep"] = "drop"
    columns: Annotated[dict[str, Any] | None, BeforeValidator(_resolve_columns)] = None
    source_column: Annotated[str, AfterValidator(_check_column)] | None = None


class _ParquetKeys(BaseModel):
    """The keys inside of `parquet:`, where it is more than true or false."""

    model_config = ConfigDict(strict=True, extra="forbid")

    compression: Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"] = "zstd"
    level: int | None = None


# What a value of another type must be: pydantic's finding in our words, and the keys that take more than one type.
_TYPES = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false"}
_MIXED = {"processes": "a whole number, or auto", "parquet": "true, false or {compression: zstd, level: 3}"} | {
    "timeout_seconds": "a number of seconds, or null",
    "columns": "a mapping such as {fruits: int64, name: string}, or null",
}
_Model = TypeVar("_Model", bound=BaseModel)


# Private: from the file to its entries


# Private: from the entries to what is wrong with them


def _check_keys(model: type[_Model], entries: dict[str, _Entry], problems: list[_Problem]) -> _Model:
    """Return the entries with their types checked; a wrong one is noted, and has its default here."""
    values = {key: entry.value for key, entry in entries.items()}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for finding in error.errors(include_url=False, include_input=False):
            key = str(finding["loc"][0])
            reason = _reason(model, key, entries[key], finding["type"], finding.get("ctx", {}))
            problems.append(entries[key].problem(reason))
            del values[key]
    return model.model_validate(values)


def _reason(model: type[BaseModel], key: str, entry: _Entry, kind: str, context: dict[str, Any]) -> str:
    """Say in plain words what pydantic found: the type of its error, and the limits that come with it."""
    if kind == "extra_forbidden":
        likely = _likely_key(key, model)
        return f'unknown key; did you mean "{likely}"?' if likely else "unknown key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than":
        return f"must be greater than {context['gt']:g}"
    if kind == "less_than_equal":
        return f"must be at most {int(context['le']):,}"
    if kind == "literal_error":
        return _type_reason(context["expected"].replace("'", ""), entry)
    return _type_reason(_MIXED.get(key) or _TYPES.get(kind, "text"), entry)


def _type_reason(words: str, entry: _Entry) -> str:
    is_quoted = entry.written.startswith(('"', "'"))
    if entry.value is None and entry.written != "~":
        return f"has no value; must be {words}"
    if words == "text" and not is_quoted and not isinstance(entry.value, list | dict):
        return f'must be text; quote it: "{_short(entry.written)}"'  # YAML takes 2020, no and ~ for something else
    is_bare = "number" in words or "true" in words
    return f"must be {words}, without quotes" if is_quoted and is_bare else f"must be {words}"


def _likely_key(key: str, model: type[BaseModel]) -> str | None:
    # At difflib's own 0.6, keys that merely share an ending (timeout_seconds, batch_seconds) are taken for one.
    return next(iter(get_close_matches(key.lower(), list(model.model_fields), n=1, cutoff=0.66)), None)


def _check_parquet(keys: _Keys, entry: _Entry | None, problems: list[_Problem]) -> ParquetOptions | None:
    if not keys.parquet:
        return None
    entries = entry.value if entry and isinstance(entry.value, dict) else {}
    options = _check_keys(_ParquetKeys, entries, problems)
    codec, level = options.compression, options.level
    if "compression" in entries and entries["compression"].value != codec:
        return None  # an unknown codec, said already: its levels are unknown, too
    if codec not in _LEVELS:
        if level is not None:
            problems.append(entries["level"].problem(f"{codec} has no levels; take this out"))
        return ParquetOptions(codec, None)
    lowest, highest, default = _LEVELS[codec]
    if level is not None and not lowest <= level <= highest:
        problems.append(entries["level"].problem(f"must be from {lowest} to {highest} for {codec}"))
    return ParquetOptions(codec, default if level is None else level)


def _check_columns(
    keys: _Keys, entries: dict[str, _Entry], problems: list[_Problem]
) -> tuple[tuple[str, ColumnType], ...] | None:
    if keys.columns is None:
        return None
    column_types = []
    for name, entry in keys.columns.items():
        try:
            _check_column(name)
            if not isinstance(entry.value, str):
                raise ValueError('must be a type such as int64, string or "decimal(10,2)"')
            column_types.append((name, parse_column_type(entry.value)))
        except ValueError as error:
            problems.append(entry.problem(str(error)))
    if keys.source_column in keys.columns:
        reason = f"columns (line {entries['columns'].line}) has that name, too; give one of them another"
        problems.append(entries["source_column"].problem(reason))
    return tuple(column_types)


def _expand_folders(keys: _Keys, entries: dict[str, _Entry], base: Path, problems: list[_Problem]) -> dict[str, Path]:
    folders = {}
    for key in _FOLDERS:
        try:
            if written := getattr(keys, key):
                folders[key] = Path(os.path.abspath(base / _expand(written)))
        except ValueError as error:
            problems.append(entries[key].problem(str(error)))
    return folders


def _expand(written: str) -> str:
    """Return the path with `${VAR}` and a leading `~` filled in; an empty VAR would turn `${VAR}/x` into `/x`."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise ValueError(f"the variable {name} is {'empty' if name in os.environ else 'not set'}; export it first")
        return os.environ[name]

    expanded = os.path.expanduser(re.sub(r"\$\{([^}]*)\}?", value_of, written))
    if expanded.startswith("~"):
        raise ValueError("there is no such user's home; ./~ starts a folder of that name")
    return expanded


def _check_folders(folders: dict[str, Path], entries: dict[str, _Entry], problems: list[_Problem]) -> None:
    if "source_path" not in folders:
        return
    source, named = folders["source_path"], f"source_path (line {entries['source_path'].line})"
    for key in [key for key in _FOLDERS[1:] if key in folders]:
        is_inside, is_around = _holds(source, folders[key]), _holds(folders[key], source)
        relation = "is" if is_inside and is_around else "lies inside" if is_inside else "holds"
        why = "its files would be taken for input" if is_inside else "r3po would write beside your data"
        if is_inside or is_around:
            problems.append(entries[key].problem(f"{relation} {named}: {why}; choose a folder outside"))


def _holds(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies in it, once links are followed; neither has to exist."""
    real_outer, real_inner = Path(os.path.realpath(outer)), Path(os.path.realpath(inner))
    chain = [real_inner, *real_inner.parents]
    identity = _identity(real_outer)
    # By inode, too: a disk that ignores case has two names for one folder, and so has a bind mount.
    return real_outer in chain or (identity is not None and identity in map(_identity, chain))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_formats(keys: _Keys, entries: dict[str, _Entry], problems: list[_Problem]) -> None:
    if not keys.csv and not keys.parquet:
        last = max(entries["csv"], entries["parquet"], key=lambda entry: entry.line)
        problems.append(last.problem("csv and parquet are both off, nothing would be written; set one to true"))


def _check_required(entries: dict[str, _Entry], problems: list[_Problem]) -> None:
    unknown = entries.keys() - _Keys.model_fields.keys()
    misspelt = {_likely_key(key, _Keys) for key in unknown}  # said already, by the line that has it
    for key, example in _REQUIRED.items():
        if key not in entries and key not in misspelt:
            problems.append(_Problem(None, key, f"required, such as  {key}: {example}"))


def _config_error(file: Path, problems: list[_Problem]) -> ConfigError:
    rows = [("missing" if problem.line is None else f"line {problem.line}", problem) for problem in problems]
    rows.sort(key=lambda row: (row[1].line is None, row[1].line or 0))
    place_width = max(len(place) for place, _ in rows)
    shown_width = max(len(problem.shown) for problem in problems)
    lines = [f"{place:{place_width}}   {found.shown:{shown_width}}   {found.reason}" for place, found in rows]
    return ConfigError(f"{file.name} has {count_of(len(rows), 'problem')}", evidence="\n".join(lines), hint=_README)


def _notices(file: Path, ignored: dict[str, _Entry]) -> tuple[str, ...]:
    if not ignored:
        return ()
    verb, rest = ("are", "the lines") if len(ignored) > 1 else ("is", "the line")
    named = " and ".join(f"{key} (line {entry.line})" for key, entry in ignored.items())
    return (f"{file.name}: {named} {verb} not read any more: the counts are in the manifest now; {rest} can go",)


# Private: where the source folder could be


def _source_place(config: Config) -> str:
    line = f" line {config.lines['source_path']}" if "source_path" in config.lines else ""
    is_relative = config.source_written and not config.source_written.startswith(("/", "~", "$"))
    return f"({config.path.name}{line}{'; relative to that file' if is_relative else ''})"


def _source_hint(source: Path) -> str:
    missing = source  # the topmost folder that is not there
    while not os.path.lexists(missing.parent):
        missing = missing.parent
    if missing.is_symlink():
        return f'"{missing}" is a link to "{os.readlink(missing)}", which is not there'
    siblings = [entry.name for entry in _scan(missing.parent) if os.path.isdir(entry)]
    likely = get_close_matches(missing.name, siblings, n=1)
    return f'did you mean "{likely[0]}"?' if likely else f'there is no folder "{missing.name}" in {missing.parent}'
