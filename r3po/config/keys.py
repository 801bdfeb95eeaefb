"""The keys of config.yaml: their types, defaults, units, limits, and what each means.

The meaning of a key is said here alone, as its `description`: `r3po config`, the comments of `r3po init` and the JSON
schema take it from here, and a test compares the table of docs/keys.md. An optional key without a default has an
example, which `r3po init` shows.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
)

from r3po.config.key_types import FilePart, Folder, Globs, Output, Source, Stores, Text, check_address, check_column
from r3po.config.worker_keys import SIZE_SCHEMA, WorkerResources, parse_size, to_arguments
from r3po.table.column_types import PLAIN_TYPES, ColumnType, parse_column_type
from r3po.table.columns import PART_BYTES

ENGINES = ("ray", "processes", "serial")
MAX_PROCESSES = 4096
MAX_BATCH_FILES = 10_000
MAX_TIMEOUT_S = 31 * 24 * 3600.0

# Codec: (lowest level, highest level, the level if none is given). Codecs without levels are not here.
# Source: Arrow's `Codec`; zstd's levels below 1 trade nearly all compression away and are left out.
_LEVELS = {"zstd": (1, 22, 3), "gzip": (1, 9, 6), "brotli": (0, 11, 8), "lz4": (1, 12, 1)}


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


def _to_column_type(value: Any) -> ColumnType:
    if not isinstance(value, str):
        raise ValueError('must be a type such as int64, string or "decimal(10,2)"')
    return parse_column_type(value)


def _refuse_no_column(value: Any) -> Any:
    if value == {}:
        raise ValueError("names no column; take the key out, or name one: {fruits: int64}")
    return value


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _to_processes(value: Any) -> Any:
    return min(n_cores(), MAX_PROCESSES) if value == "auto" else value


def _to_max_errors(value: Any) -> MaxErrors | None:
    return None if value is None else parse_max_errors(value)


def _to_missing(value: Any) -> Any:
    return "null" if value is None else value


def _to_parquet(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    return False if value is None else value  # `parquet:` without a value is no way to turn it off


# What the JSON schema says of values that become something else here. It may allow more than r3po, and never less.
_PROCESSES_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_PROCESSES}, {"const": "auto"}]
}
_MAX_ERRORS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\s*([+]?[0-9_]+|.*[0-9].*%|[Nn][Oo][Nn][Ee])\s*$"},
        {"type": "null"},
    ]
}
_MISSING_SCHEMA: dict[str, Any] = {"enum": ["fail", "null", None]}
_COLUMNS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"minLength": 1},
            "additionalProperties": {
                "anyOf": [
                    {"type": "string", "enum": list(PLAIN_TYPES)},
                    {
                        "type": "string",
                        "pattern": r"^\s*(decimal\(\s*\d+\s*,\s*\d+\s*\)|list<.+>|map<\s*string\s*,.+>)\s*$",
                    },
                ]
            },
        },
        {"type": "null"},
    ]
}


class ParquetOptions(BaseModel):
    """How Parquet parts are compressed; `level` is None where the codec has no levels (snappy, none)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    compression: Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"] = "zstd"
    level: int | None = Field(default=None, validate_default=True)

    @field_validator("level")
    @classmethod
    def _fit_codec(cls, level: int | None, info: ValidationInfo) -> int | None:
        codec = info.data.get("compression")
        if codec is None:
            return level  # an unknown codec, said already: its levels are unknown, too
        if codec not in _LEVELS:
            if level is not None:
                raise ValueError(f"{codec} has no levels; take this out")
            return None
        lowest, highest, default = _LEVELS[codec]
        if level is not None and not lowest <= level <= highest:
            raise ValueError(f"must be from {lowest} to {highest} for {codec}")
        return default if level is None else level


class Keys(BaseModel):
    """Every key of config.yaml: its type, its default, its limits, what it means, and where it helps an example."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    job_name: Text = Field(
        description="names the job in messages and in the Parquet metadata", examples=["count_produce"]
    )
    processes: Annotated[int, BeforeValidator(_to_processes), WithJsonSchema(_PROCESSES_SCHEMA)] = Field(
        gt=0,
        le=MAX_PROCESSES,
        description="number of workers, or auto: one a core, or as many as worker leaves room for",
        examples=["2"],
    )
    """Workers, at least 1; `auto` is already a number here."""
    source_path: Source = Field(
        description="the folder with your files, or a list of folders; subfolders are walked; or s3://bucket/folder, "
        "gs://, az://",
        examples=["produce_log"],
    )
    """Absolute, as the other two folders, with links left as they are. Of a list: the config's folder, which the paths
    of files are relative to; they begin with one of `Config.source_folders`."""
    source_file_part: FilePart = Field(
        description='how the names of the files end: .json, _v2.csv, or a list: [.png, .jpg]; "" or all: every file',
        examples=[".json"],
    )
    """The end of file names, or several; the empty text: every file."""
    ignore_case: bool = Field(False, description="letter case does not count in source_file_part, include and exclude")
    """Of the ends of names, and of `include` and `exclude`."""
    include: Globs = Field(
        (),
        description='globs relative to source_path: only these files, such as ["2024/**", "**/final.json"]',
        examples=['["2024/**", "**/final.json"]'],
    )
    """Globs of files, relative to the source; empty: all files."""
    exclude: Globs = Field(
        (),
        description='globs of files and folders to leave out, such as ["**/tmp", "*.bak"]',
        examples=['["**/tmp", "*.bak"]'],
    )
    """Globs of files and folders, relative to the source."""
    follow_links: bool = Field(
        False, description="enter links to folders; a folder that is reached twice is walked once"
    )
    """Links to folders are entered."""
    on_unreadable: Literal["stop", "skip"] = Field(
        "stop",
        description="a subfolder that cannot be listed: stop: nothing is done; skip: its files stay as they are",
    )
    """What is done about a subfolder that cannot be listed."""
    working_dir: Folder = Field(
        description="the folder for the job's state, from which a stopped run goes on", examples=["working_dir"]
    )
    output_path: Output = Field(
        description="the folder for the table; may be the same as working_dir", examples=["output_dir"]
    )
    storage_options: Stores = Field(
        None,
        description="of s3://, gs://, az://: {endpoint: https://host:9000, region: eu-west-1, profile: name, "
        "account: name, anonymous: true}; secrets come from the environment or a profile, as for the cloud's own tools",
        examples=["{region: eu-west-1}"],
    )
    function: Text | None = Field(
        None,
        description="your f: file.py:name or package.module:name; a class, or name() of a factory, is called once a "
        "worker to make it; r3po run needs it here or as --function",
        examples=["count_fruits.py:count_fruits"],
    )
    function_args: Annotated[
        dict[str, Any] | None,
        BeforeValidator(lambda value: None if value is None else to_arguments(value)),
        WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]}),
    ] = Field(
        default=None,
        description="what f, the class or the factory is given by name, such as {weights: weights.json}; other values "
        "count as other code of f",
        examples=["{weights: weights.json}"],
    )
    engine: Literal["ray", "processes", "serial"] = Field(
        "ray",
        description="what runs the workers: ray; processes: plain processes of this machine, which start at once; "
        "serial: all in one process, for a debugger",
    )
    worker: WorkerResources | None = Field(
        None,
        description="what Ray keeps for each worker: {num_cpus: 2, num_gpus: 0.5, memory: 4 GiB, resources: "
        "{name: 1}}; processes: num_cpus and memory alone; serial ignores it",
        examples=["{num_cpus: 2, memory: 4 GiB}"],
    )
    """Of Ray, for each worker."""
    ray_address: Annotated[Text, AfterValidator(check_address)] | None = Field(
        None,
        description="the Ray to use: host:port of one that is there; auto: the one that RAY_ADDRESS names or that runs "
        "on this machine; local, or not set: one of the run's own",
        examples=["auto"],
    )
    """auto, local or host:port; None: the run starts one, unless Ray itself started the run."""
    input: Literal["path", "bytes"] = Field(
        "path",
        description="what f takes: path: f(filepath); bytes: f(filepath, data), and no file is opened twice",
    )
    csv: bool = Field(True, description="write CSV parts")
    parquet: Annotated[ParquetOptions | None, BeforeValidator(_to_parquet)] = Field(
        default=ParquetOptions(), strict=False, description="write Parquet parts; or {compression: zstd, level: 3}"
    )
    """None: no Parquet parts."""
    columns: Annotated[
        dict[Annotated[str, AfterValidator(check_column)], Annotated[ColumnType, PlainValidator(_to_column_type)]]
        | None,
        BeforeValidator(_refuse_no_column),
        WithJsonSchema(_COLUMNS_SCHEMA),
    ] = Field(
        default=None,
        description="names, order and types of the columns, such as "
        '{fruits: int64, price: "decimal(10,2)"}, in place of the first row\'s',
        examples=['{fruits: int64, price: "decimal(10,2)"}'],
    )
    """Names and types, in order; None: the first row sets them."""
    source_column: Annotated[str, AfterValidator(check_column)] | None = Field(
        None,
        description="name of a first column that holds each row's path, relative to source_path; of a list of "
        "folders it begins with the folder",
        examples=["file"],
    )
    """The name of a column for each row's path."""
    rows: Literal["one", "many"] = Field(
        "one",
        description="what f returns: one: a dict, its file's row; many: a list or generator of dicts, 0 or more rows",
    )
    row_column: Annotated[str, AfterValidator(check_column)] | None = Field(
        None,
        description="with rows: many: name of a column with each row's number in its file, from 0",
        examples=["row"],
    )
    """The name of a column for each row's number."""
    part_rows: Annotated[int, Field(gt=0)] | None = Field(
        None, description="most rows of a part; a shard with more makes several parts", examples=["1000000"]
    )
    """None: as many as the shard has."""
    part_bytes: Annotated[int, BeforeValidator(parse_size), WithJsonSchema(SIZE_SCHEMA)] = Field(
        PART_BYTES,
        description="about the most bytes of a part: 8 a value, and those of its texts; a shard with more makes "
        "several parts",
        examples=["1 GiB"],
    )
    """Bytes."""
    missing_keys: Annotated[Literal["fail", "null"], BeforeValidator(_to_missing), WithJsonSchema(_MISSING_SCHEMA)] = (
        Field("fail", description="a row that lacks a key of the columns: fail: its file fails; null: None there")
    )
    """What a row comes to that lacks a key."""
    extra_keys: Literal["fail", "drop", "add"] = Field(
        "fail",
        description="a key that is no column: fail: its file fails; drop: left out, and told at the end; add: a "
        "column behind the others, null where a row lacks it",
    )
    """What a row comes to that has a key which is no column."""
    mixed: Literal["fail", "json"] = Field(
        "fail",
        description="values of another kind than the column's first: fail: their files fail; json: the type that holds "
        "all rows, or else JSON text",
    )
    """What values of several families in a column come to."""
    shard_size: int = Field(
        default=10_000,
        gt=0,
        le=10_000_000,
        description="files of a new shard, which is one part; smaller makes the first part sooner",
    )
    """Files in a new shard."""
    batch_files: Annotated[int, Field(gt=0, le=MAX_BATCH_FILES)] | None = Field(
        None,
        description="f takes many files at once: a list of so many paths at most, and returns a list of as many dicts",
        examples=["64"],
    )
    """The most files of one call of f, which takes and gives lists; None: f takes one file."""
    batch_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="about how much work a kill costs; longer with more than 500 workers"
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = Field(
        None, description="a call of f that takes longer is a failure", examples=["60"]
    )
    max_errors: Annotated[MaxErrors | None, BeforeValidator(_to_max_errors), WithJsonSchema(_MAX_ERRORS_SCHEMA)] = (
        Field(
            None,
            description="stop when more files of a run fail: 100, or 1% (of the finished, after 100); none: never, not "
            "even when the first 100 all fail alike or 50 in a row by the machine",
            examples=["1%"],
        )
    )
    """None: only the guard of the first files."""
    on_function_change: Literal["warn", "stop", "redo"] = Field(
        "warn",
        description="rows that other code of f made: warn: they stay; stop: nothing is done; redo: all rows are made "
        "again",
    )
    """What happens to rows that other code made."""
    on_deleted: Literal["drop", "keep"] = Field("drop", description="rows of files that are gone: drop, or keep")
    """What happens to rows of files that were deleted."""
    hash: Literal["content", "stat"] = Field(
        "content",
        description="how a change is noticed: content: blake2b of every file, taken while it is read for f; stat: size "
        "and mtime only",
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Keep what is right, so that it can be looked at together although another key is wrong."""
        right = check(value)
        if info.context:
            info.context["checked"][info.field_name] = right
        return right
