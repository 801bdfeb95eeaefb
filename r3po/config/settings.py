"""The user's settings: one YAML file, or a mapping of its keys, read once, checked whole, never written to.

It owns what the keys may be to each other; what each may hold is said in `config.keys`. A file with mistakes is refused
with all of them at once, each with its line.

It refuses whatever could be read in two ways: unknown keys, keys given twice, a quoted number where a number is
meant. It creates no folder and looks at no input file; whether the source is there is asked by `check_source` alone,
so that reading a job's state works while its disk is away.

Source: what the keys mean is in `config.keys`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from r3po.config.folders import check_current_folder, hint_of_missing
from r3po.config.key_types import check_address
from r3po.config.keys import ENGINES, MAX_PROCESSES, Keys, ParquetOptions, parse_max_errors
from r3po.config.places import check_places
from r3po.config.selection import ONE_FOLDER, Selection, folder_names, folder_paths
from r3po.config.worker_keys import WorkerResources
from r3po.config.yaml_file import KEYS_HINT, Entry, Problem, entries_of, read_entries, read_text, short
from r3po.errors import ConfigError, SourceError
from r3po.storage.names import show_name
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.table.columns import ColumnSettings
from r3po.table.ragged import RowRules
from r3po.text import count_of

# r3po 0.2.0 wrote these two into the user's file. They are read past, whatever they hold.
IGNORED = ("count_all_files", "count_job_files")
"""Keys that are read past, with a notice."""

MAPPING = "the config"
"""What messages call a mapping of keys, which has no file's name."""


class Config(Keys):
    """One job's settings, checked, and where they come from. `load_config` makes it."""

    path: Path
    """The config file itself; for a mapping, `MAPPING` in the current folder."""
    notices: tuple[str, ...] = ()
    """What the user is told once a run."""
    lines: dict[str, int] = Field(default_factory=dict)
    """The line of each key in the file, from 1."""
    source_written: str | list[str] = ""
    """`source_path` as the file has it, for messages."""
    source_folders: tuple[str, ...] = ONE_FOLDER
    """The folders of the source, relative to `source_path` or absolute; files' paths begin with them."""
    is_auto: bool = False
    """`processes: auto`: fewer are enough."""

    @property
    def is_file(self) -> bool:
        """Whether there is a config file; else the settings are a mapping's."""
        return self.path.name != MAPPING

    @property
    def base_dir(self) -> Path:
        """The folder of the config file, or the current one; what is relative in the config starts here."""
        return self.path.parent

    @property
    def column_settings(self) -> ColumnSettings:
        """What the keys that are about columns say together."""
        columns = None if self.columns is None else tuple(self.columns.items())
        rules = RowRules(self.missing_keys, self.extra_keys, self.mixed)
        return ColumnSettings(columns, self.source_column, rules, self.row_column)

    @property
    def source_url(self) -> ObjectUrl | None:
        """Where in a store the source is; None: on a disk."""
        return self.source_path if isinstance(self.source_path, ObjectUrl) else None

    @property
    def source_folder(self) -> Path:
        """The folder of a disk that files' paths are relative to. Of a source that is on a disk."""
        assert isinstance(self.source_path, Path)
        return self.source_path

    @property
    def output_folder(self) -> Path:
        """The folder of a disk that the table is in. Of an output that is on a disk."""
        assert isinstance(self.output_path, Path)
        return self.output_path

    @property
    def source_paths(self) -> list[Path]:
        """The absolute paths of the folders of the source; none of one in a store."""
        return [] if self.source_url else folder_paths(self.source_folder, self.source_folders)

    @property
    def own_folders(self) -> tuple[Path, ...]:
        """The folders of a disk that r3po writes to: never a source."""
        return self.working_dir, *([self.output_path] if isinstance(self.output_path, Path) else [])

    @property
    def store_options(self) -> StoreOptions:
        """What there is to say of a store."""
        return self.storage_options or StoreOptions()

    @property
    def shown_source(self) -> str:
        """The folders of the source in a few words, for messages."""
        if self.source_url is not None:
            return str(self.source_url)
        shown = [show_name(str(path)) for path in self.source_paths]
        if len(shown) > 3:
            return f"the {len(shown)} folders of source_path"
        return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

    @property
    def selection(self) -> Selection:
        """Which files of the source are the job's."""
        part = self.source_file_part
        return Selection(
            endings=(part,) if isinstance(part, str) else part,
            folders=self.source_folders,
            ignore_case=self.ignore_case,
            include=self.include,
            exclude=self.exclude,
            follow_links=self.follow_links,
        )

    def with_overrides(
        self,
        *,
        processes: int | None = None,
        function: str | None = None,
        max_errors: int | str | None = None,
        engine: str | None = None,
        address: str | None = None,
    ) -> Config:
        """Return the config with what a command line gave in place of the file's; None keeps the file's.

        Raises:
            ConfigError: a value that the file could not have held either.
        """
        changed: dict[str, Any] = {}
        if processes is not None:
            if not 1 <= processes <= MAX_PROCESSES:
                raise ConfigError(f"processes is {processes}", hint=f"give a whole number from 1 to {MAX_PROCESSES}")
            changed |= {"processes": processes, "is_auto": False}
        if function is not None:
            if not function.strip():
                raise ConfigError("function is empty", hint="name it as file.py:name or package.module:name")
            changed["function"] = function
        if max_errors is not None:
            changed["max_errors"] = _given("max_errors", max_errors, parse_max_errors)
        if engine is not None:
            if engine not in ENGINES:
                raise ConfigError(f"unknown engine {engine!r}", hint=f"engines: {', '.join(ENGINES)}")
            changed["engine"] = engine
        if address is not None:
            changed["ray_address"] = _given("address", address, check_address)
            if (name := changed.get("engine", self.engine)) != "ray":
                raise ConfigError(f"address names a Ray, and the engine is {name}", hint="--engine ray uses it")
        return self.model_copy(update=changed)


ConfigSource = str | os.PathLike[str] | Mapping[str, Any]
"""A config file, or a mapping of the keys that one would have."""


def load_config(source: ConfigSource, job_name: str | None = None) -> Config:
    """Return the settings in a config file, or in a mapping in place of one.

    Args:
        source: the YAML file, or the keys by name. Relative folders start at the file's own folder, not at the current
            one; those of a mapping at the current one.
        job_name: of the job, where a mapping gives none. Without `processes` a mapping has a worker for each core.

    Raises:
        ConfigError: the file cannot be read or is no YAML; or, all at once, every problem with its keys; or the
            current folder was removed.
    """
    check_current_folder()
    problems: list[Problem] = []
    if isinstance(source, Mapping):
        file = Path(os.path.abspath(MAPPING))
        named = {} if job_name is None else {"job_name": job_name}
        entries = entries_of({**named, "processes": "auto", **source})
    else:
        file = Path(os.path.abspath(source))
        entries = read_entries(file, read_text(file), _required(), problems)
    ignored = {key: entries.pop(key) for key in IGNORED if key in entries}

    checked = _check_keys(entries, file.parent, problems)
    _check_together(checked, entries, problems)
    _check_required(entries, problems)
    if problems:
        raise _config_error(file, problems)

    lines = {key: entry.line for key, entry in (entries | ignored).items() if entry.line is not None}
    written = entries["source_path"].value
    return Config.model_construct(
        **checked,
        path=file,
        notices=_notices(file, ignored),
        lines=lines,
        source_written=written,
        source_folders=folder_names(written),
        is_auto=entries["processes"].value == "auto",
    )


def check_source(config: Config) -> None:
    """Make sure that the folders of a source on a disk are there. Their files are not looked at; they may be links.

    Raises:
        SourceError: one is missing, cannot be reached, or is no folder.
    """
    for source in config.source_paths:
        _check_source_folder(source, _source_place(config))


def _check_source_folder(source: Path, place: str) -> None:
    try:
        mode = source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(f"source folder not found: {source}   {place}", hint=hint_of_missing(source)) from error
    except OSError as error:
        what, hint = f"source folder cannot be reached: {source}   {place}", "look at its permissions and its disk"
        raise SourceError(what, evidence=error.strerror, hint=hint) from error
    if not stat.S_ISDIR(mode):
        hint = f'name the folder that holds it: "{source.parent}"'
        raise SourceError(f"source_path is no folder: {source}   {place}", hint=hint)


def _given(name: str, value: Any, parse: Callable[[Any], Any]) -> Any:
    """Return what a command line gave for one run. Raises ConfigError if it is none of what that may be."""
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{name} is {value}", hint=f"it {error}") from None


# Private: from the entries to what is wrong with them


_TYPES = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false"}
"""What a value of another type must be, by the type of pydantic's finding."""

_TAKES = {
    "include": "a list of globs such as [2024/**]",
    "exclude": 'a list of globs such as ["**/tmp"]',
    "processes": "a whole number, or auto",
    "parquet": "true, false or {compression: zstd, level: 3}",
    "timeout_seconds": "a number of seconds, or null",
    "batch_files": "a whole number of files, or null",
    "missing_keys": "fail or null",
    "columns": "a mapping such as {fruits: int64, name: string}, or null",
    "storage_options": "a mapping such as {region: eu-west-1}, or null",
    "worker": "a mapping such as {num_cpus: 2, num_gpus: 1, memory: 4 GiB}",
    "num_cpus": "a number",
    "num_gpus": "a number",
    "resources": "a mapping such as {name: 1}",
}
"""What a value of another type must be, for keys of which pydantic's finding does not say it."""


_INNER: dict[str, type[BaseModel]] = {"parquet": ParquetOptions, "worker": WorkerResources}
"""What the entries of a key may be."""


def _check_keys(entries: dict[str, Entry], base: Path, problems: list[Problem]) -> dict[str, Any]:
    """Return the values that are right, by key, and note what is wrong with the others."""
    checked: dict[str, Any] = {}
    values = {key: entry.plain for key, entry in entries.items()}
    try:
        Keys.model_validate(values, context={"base": base, "checked": checked})
    except ValidationError as error:
        for finding in error.errors(include_url=False, include_input=False):
            if finding["type"] != "missing":  # these are told with their examples
                problems.append(_problem(finding, entries))
    return checked


def _problem(finding: ErrorDetails, entries: dict[str, Entry]) -> Problem:
    """Say in plain words what pydantic found, with the line of the innermost key that it is about."""
    key, *inner = map(str, finding["loc"])
    entry, fields = entries[key], Keys.model_fields
    for name in inner:
        if isinstance(entry.value, dict) and isinstance(entry.value.get(name), Entry):
            fields = _INNER.get(key, ParquetOptions).model_fields
            entry, key = entry.value[name], name
    return entry.problem(_reason(fields, key, entry, finding["type"], finding.get("ctx", {})))


def _reason(fields: dict[str, FieldInfo], key: str, entry: Entry, kind: str, context: dict[str, Any]) -> str:
    if kind == "extra_forbidden":
        likely = _likely_key(key, fields)
        return f'unknown key; did you mean "{likely}"?' if likely else "unknown key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']:g}"
    if kind == "greater_than":
        return f"must be greater than {context['gt']:g}"
    if kind == "less_than_equal":
        return f"must be at most {int(context['le']):,}"
    if kind == "literal_error":
        return _type_reason(context["expected"].replace("'", ""), entry)
    return _type_reason(_TAKES.get(key) or _TYPES.get(kind, "text"), entry)


def _type_reason(words: str, entry: Entry) -> str:
    is_quoted = entry.written.startswith(('"', "'"))
    if entry.value is None and entry.written != "~":
        return f"has no value; must be {words}"
    if words == "text" and not is_quoted and not isinstance(entry.value, list | dict):
        return f'must be text; quote it: "{short(entry.written)}"'  # YAML takes 2020, no and ~ for something else
    is_bare = "number" in words or "true" in words
    return f"must be {words}, without quotes" if is_quoted and is_bare else f"must be {words}"


def _likely_key(key: str, fields: Iterable[str]) -> str | None:
    # At difflib's own 0.6, keys that merely share an ending (timeout_seconds, batch_seconds) are taken for one.
    return next(iter(get_close_matches(key.lower(), list(fields), n=1, cutoff=0.66)), None)


def _required() -> dict[str, str]:
    """Return the keys that must be there, each with what a first config would say."""
    return {key: str((field.examples or [""])[0]) for key, field in Keys.model_fields.items() if field.is_required()}


def _check_together(checked: dict[str, Any], entries: dict[str, Entry], problems: list[Problem]) -> None:
    """Note what is wrong with keys that are right by themselves."""
    check_places(checked, entries, problems)
    if checked.get("csv") is False and checked.get("parquet", True) is None:
        last = max(entries["csv"], entries["parquet"], key=lambda entry: entry.line or 0)
        problems.append(last.problem("csv and parquet are both off, nothing would be written; set one to true"))
    _check_own_columns(checked, entries, problems)
    if "missing_keys" in checked and entries["missing_keys"].value is None and not entries["missing_keys"].written:
        problems.append(entries["missing_keys"].problem("has no value; must be fail or null"))
    if checked.get("columns") and checked.get("mixed") == "json" and checked.get("extra_keys") != "add":
        reason = f"columns{entries['columns'].place} has the type of each column; take this out, or say json there"
        problems.append(entries["mixed"].problem(reason))


def _check_own_columns(checked: dict[str, Any], entries: dict[str, Entry], problems: list[Problem]) -> None:
    """Note what is wrong with the columns that r3po adds."""
    named = [(key, checked[key]) for key in ("source_column", "row_column") if checked.get(key) is not None]
    columns = entries.get("columns")
    for key, name in named:
        if columns and isinstance(columns.value, dict) and name in columns.value:
            reason = f"columns{columns.place} has that name, too; give one of them another"
            problems.append(entries[key].problem(reason))
    if len(named) > 1 and named[0][1] == named[1][1]:
        reason = f"source_column{entries['source_column'].place} has that name, too; give one of them another"
        problems.append(entries["row_column"].problem(reason))
    if checked.get("row_column") is not None and checked.get("rows", "one") == "one":
        problems.append(entries["row_column"].problem("numbers the rows of a file; it needs rows: many"))


def _check_required(entries: dict[str, Entry], problems: list[Problem]) -> None:
    unknown = entries.keys() - Keys.model_fields.keys()
    misspelt = {_likely_key(key, Keys.model_fields) for key in unknown}  # said already, by the line that has it
    for key, example in _required().items():
        if key not in entries and key not in misspelt:
            problems.append(Problem(None, key, f"required, such as  {key}: {example}"))


def _config_error(file: Path, problems: list[Problem]) -> ConfigError:
    no_line = "key" if file.name == MAPPING else "missing"
    rows = [(no_line if problem.line is None else f"line {problem.line}", problem) for problem in problems]
    rows.sort(key=lambda row: (row[1].line is None, row[1].line or 0))
    place_width = max(len(place) for place, _ in rows)
    shown_width = max(len(problem.shown) for problem in problems)
    lines = [f"{place:{place_width}}   {found.shown:{shown_width}}   {found.reason}" for place, found in rows]
    return ConfigError(f"{file.name} has {count_of(len(rows), 'problem')}", evidence="\n".join(lines), hint=KEYS_HINT)


def _notices(file: Path, ignored: dict[str, Entry]) -> tuple[str, ...]:
    if not ignored:
        return ()
    verb, rest = ("are", "the lines") if len(ignored) > 1 else ("is", "the line")
    named = " and ".join(f"{key}{entry.place}" for key, entry in ignored.items())
    return (f"{file.name}: {named} {verb} not read any more: the counts are in the manifest now; {rest} can go",)


# Private: where the source folder could be


def _source_place(config: Config) -> str:
    line = f" line {config.lines['source_path']}" if "source_path" in config.lines else ""
    written = config.source_written
    is_relative = isinstance(written, str) and written and not written.startswith(("/", "~", "$"))
    if not config.is_file:
        return f"(source_path{'; relative to the current folder' if is_relative else ''})"
    return f"({config.path.name}{line}{'; relative to that file' if is_relative else ''})"
