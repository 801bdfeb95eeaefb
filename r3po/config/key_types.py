"""What texts, globs and folders in a config may be, and what they become: the types of keys that hold such.

Source: docs/keys.md.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from r3po.config.folders import expand
from r3po.errors import ConfigError
from r3po.storage.object_urls import ObjectUrl, StoreOptions, is_url
from r3po.text import is_control

SOURCE_SCHEMES = ("s3", "gs", "az", "file")
OUTPUT_SCHEMES = ("file",)
"""Schemes of URLs that `source_path` and `output_path` take."""


def _check_text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if any(map(is_control, value)):
        raise ValueError("must not hold line breaks, tabs or other control characters")
    return value


def _to_file_part(value: Any) -> str | tuple[str, ...]:
    """Return the end of file names, or several; the empty text for every file."""
    if isinstance(value, str):
        return "" if value == "all" else _check_file_part(value)
    parts = dict.fromkeys("" if part == "all" else _check_file_part(part) for part in _texts(value, "ends of names"))
    return "" if "" in parts else next(iter(parts)) if len(parts) == 1 else tuple(parts)


def _check_file_part(value: str) -> str:
    if "/" in value:
        raise ValueError("must be the end of file names, without a /")
    return _check_text(value) if value else value


def _to_globs(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else [] if value is None else _texts(value, "globs")
    return tuple(dict.fromkeys(map(_check_glob, texts)))


def _check_glob(glob: str) -> str:
    """Return a glob relative to the source, as `source.globs.Globs` takes it."""
    parts = _check_text(glob).removeprefix("./").rstrip("/").split("/")
    if glob.startswith("/"):
        raise ValueError(f'"{glob}" must be relative to source_path, without a / in front')
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError(f'"{glob}" must be folders and a name, with one / between them')
    if joined := next((part for part in parts if "**" in part and part != "**"), None):
        raise ValueError(
            f'"{glob}": ** stands for folders and has a / on each side; write **/{joined.replace("**", "*")}'
        )
    return "/".join(parts)


def _texts(value: Any, what: str) -> list[str]:
    """Return the texts of a list."""
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("text_type", "must be text")
    if not value:
        raise ValueError("is empty; take the key out, or name one")
    for text in value:
        if not isinstance(text, str):
            raise ValueError(f'must be a list of {what}, each a text; quote it: "{text}"')
    return list(value)


def check_column(name: str) -> str:
    if not name:
        raise ValueError("must not be empty")
    if any(unicodedata.category(char) == "Cs" for char in name):  # half a character
        raise ValueError("is not valid Unicode text")
    return name


def check_address(value: str) -> str:
    """Return the address of a Ray: auto, local, or host:port.

    Raises:
        ValueError: it is none.
    """
    if value in ("auto", "local"):
        return value
    if value.startswith("ray://"):
        raise ValueError(
            "cannot be a ray:// address, since a run has to be on a machine of that Ray: submit it there with "
            "ray job submit"
        )
    try:
        host, port = split_address(value)
    except ValueError:
        raise ValueError("must be auto, local, or HOST:PORT of a Ray's head, such as 10.0.0.1:6379") from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of host:port, or of [host]:port where the host has colons itself."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or any(map(str.isspace, host)) or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(address)
    return host, int(port)


def _to_source(value: Any, info: ValidationInfo) -> Path | ObjectUrl:
    """Return the source's folder, or what the paths of files of several folders are relative to."""
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return _to_place(value, info, SOURCE_SCHEMES)
    for folder in _texts(value, "folders"):
        if is_url(folder):
            raise ValueError(
                "is a list: its folders are of a disk; a bucket is named alone, such as s3://bucket/folder"
            )
        try:
            _to_folder(folder, info)
        except ValueError as error:
            raise ValueError(f'"{folder}" {error}') from None
    return Path(os.path.abspath(info.context["base"] if info.context else Path()))


def _to_output(value: Any, info: ValidationInfo) -> Path | ObjectUrl:
    return _to_place(value, info, OUTPUT_SCHEMES)


def _to_place(value: Any, info: ValidationInfo, schemes: tuple[str, ...]) -> Path | ObjectUrl:
    """Return a folder of a disk or of a store."""
    if not isinstance(value, str) or not is_url(value):
        return _to_folder(value, info)
    try:
        url = ObjectUrl.parse(expand(_check_text(value)))
    except ConfigError as error:
        raise ValueError("; ".join(filter(None, (str(error.args[0]), error.hint)))) from None
    if url.scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"is of {url.scheme}://, and takes a folder of a disk, or one of {known}")
    return Path(os.path.abspath(url.prefix)) if url.scheme == "file" else url


def _to_folder(value: Any, info: ValidationInfo) -> Path:
    """Return the folder as an absolute path; one that is relative in the file starts at the file's own folder."""
    if not isinstance(value, str):
        raise PydanticCustomError("text_type", "must be text")
    if is_url(value):
        raise ValueError("must be a folder of a disk: a store has no locks, and cannot append")
    base = info.context["base"] if info.context else Path()
    return Path(os.path.abspath(base / expand(_check_text(value))))


def _to_store_options(value: Any) -> StoreOptions | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "must be a mapping")
    try:
        return StoreOptions.from_mapping(value)
    except ConfigError as error:
        raise ValueError("; ".join((error.evidence or "").replace("storage_options.", "").splitlines())) from None


Text = Annotated[str, AfterValidator(_check_text)]


_TEXT_OR_TEXTS: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}

Folder = Annotated[Path, PlainValidator(_to_folder), WithJsonSchema({"type": "string", "minLength": 1})]
Output = Annotated[Path | ObjectUrl, PlainValidator(_to_output), WithJsonSchema({"type": "string", "minLength": 1})]
Source = Annotated[Path | ObjectUrl, PlainValidator(_to_source), WithJsonSchema(_TEXT_OR_TEXTS)]
Stores = Annotated[
    StoreOptions | None,
    PlainValidator(_to_store_options),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "endpoint": {"type": "string", "pattern": "^https?://"},
                        "region": {"type": "string"},
                        "anonymous": {"type": "boolean"},
                        "profile": {"type": "string"},
                        "account": {"type": "string"},
                    },
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]
FilePart = Annotated[str | tuple[str, ...], PlainValidator(_to_file_part), WithJsonSchema(_TEXT_OR_TEXTS)]
Globs = Annotated[
    tuple[str, ...],
    PlainValidator(_to_globs),
    WithJsonSchema({"anyOf": [*_TEXT_OR_TEXTS["anyOf"], {"type": "null"}]}),
]
