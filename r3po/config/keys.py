"""The keys of config.yaml: their types, defaults, units and limits. Source: docs/keys.md."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
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
    field_validator,
)
from pydantic_core import PydanticCustomError

from r3po.config.folders import expand
from r3po.table.column_types import ColumnType, parse_column_type

MAX_PROCESSES = 4096
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


def _check_column(name: str) -> str:
    if not name:
        raise ValueError("must not be empty")
    if any(unicodedata.category(char) == "Cs" for char in name):  # half a character
        raise ValueError("is not valid Unicode text")
    return name


def _to_column_type(value: Any) -> ColumnType:
    if not isinstance(value, str):
        raise ValueError('must be a type such as int64, string or "decimal(10,2)"')
    return parse_column_type(value)


def _refuse_no_column(value: Any) -> Any:
    if value == {}:
        raise ValueError("names no column; take the key out, or name one: {fruits: int64}")
    return value


def _to_processes(value: Any) -> Any:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_PROCESSES) if value == "auto" else value


def _to_max_errors(value: Any) -> MaxErrors | None:
    return None if value is None else parse_max_errors(value)


def _to_parquet(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    return False if value is None else value  # `parquet:` without a value is no way to turn it off


def _to_folder(value: Any, info: ValidationInfo) -> Path:
    """Return the folder as an absolute path; one that is relative in the file starts at the file's own folder."""
    if not isinstance(value, str):
        raise PydanticCustomError("text_type", "must be text")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        raise ValueError(f"is no folder of this machine: r3po reads and writes no {scheme[0]} yet")
    base = info.context["base"] if info.context else Path()
    return Path(os.path.abspath(base / expand(_check_text(value))))


_Text = Annotated[str, AfterValidator(_check_text)]


_Folder = Annotated[Path, PlainValidator(_to_folder)]


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
    """Every key of config.yaml: its type, its default, its limits, and for messages an example or what it takes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    job_name: _Text = Field(examples=["count_produce"])
    processes: Annotated[int, BeforeValidator(_to_processes)] = Field(
        gt=0, le=MAX_PROCESSES, examples=["2"], description="a whole number, or auto"
    )
    """Workers, at least 1; `auto` is already a number here."""
    source_path: _Folder = Field(examples=["produce_log"])
    """Absolute, as the other two folders, with links left as they are."""
    source_file_part: Annotated[_Text, AfterValidator(_check_file_part)] = Field(examples=[".json"])
    """The end of file names."""
    working_dir: _Folder = Field(examples=["working_dir"])
    output_path: _Folder = Field(examples=["output_dir"])
    function: _Text | None = None
    input: Literal["path", "bytes"] = "path"
    csv: bool = True
    parquet: Annotated[ParquetOptions | None, BeforeValidator(_to_parquet)] = Field(
        default=ParquetOptions(), strict=False, description="true, false or {compression: zstd, level: 3}"
    )
    """None: no Parquet parts."""
    shard_size: int = Field(default=10_000, gt=0, le=10_000_000)
    """Files in a new shard."""
    batch_seconds: float = Field(default=1.0, gt=0, le=3600)
    hash: Literal["content", "stat"] = "content"
    timeout_seconds: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = Field(
        None, description="a number of seconds, or null"
    )
    max_errors: Annotated[MaxErrors | None, BeforeValidator(_to_max_errors)] = None
    """None: only the guard of the first files."""
    on_function_change: Literal["warn", "stop", "redo"] = "warn"
    """What happens to rows that other code made."""
    on_deleted: Literal["drop", "keep"] = "drop"
    """What happens to rows of files that were deleted."""
    columns: Annotated[
        dict[Annotated[str, AfterValidator(_check_column)], Annotated[ColumnType, PlainValidator(_to_column_type)]]
        | None,
        BeforeValidator(_refuse_no_column),
    ] = Field(default=None, description="a mapping such as {fruits: int64, name: string}, or null")
    """Names and types, in order; None: the first row sets them."""
    source_column: Annotated[str, AfterValidator(_check_column)] | None = None
    """The name of a column for each row's path."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Keep what is right, so that it can be looked at together although another key is wrong."""
        right = check(value)
        if info.context:
            info.context["checked"][info.field_name] = right
        return right
