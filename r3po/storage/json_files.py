"""The JSON files of a job: a format, a kind, and a digest of their own content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson

from r3po.errors import DamagedStateError, NewerFormatError
from r3po.storage.durable import FileRecord, write_whole


def write_json(path: Path, content: dict[str, Any]) -> FileRecord:
    """Write `content` whole, with a digest of itself under the key `digest`."""
    return write_whole(path, json_bytes(content))


def json_bytes(content: dict[str, Any]) -> bytes:
    """Return what `write_json` writes."""
    return _dump({**content, "digest": _digest_of(content)}) + b"\n"


def read_json(path: Path, *, kind: str, newest_format: int) -> dict[str, Any]:
    """Return what `write_json` wrote there, without the digest.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedStateError: it is not what was written (no JSON, another digest, another kind of file), is too old, or
            may not be read.
        NewerFormatError: its `format` is newer than `newest_format`.
    """
    try:
        data = path.read_bytes()
    except PermissionError as error:
        hint = "fix its permissions; nothing is known to be damaged"
        raise DamagedStateError(f"cannot be read: {error.strerror}", where=path, hint=hint) from error
    except IsADirectoryError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    return parse_json(data, path, kind=kind, newest_format=newest_format)


def parse_json(data: bytes, path: Path | str, *, kind: str, newest_format: int) -> dict[str, Any]:
    """Return what `json_bytes` gave, without the digest. Raises as `read_json`, which names `path`."""
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise damaged(path, f"is damaged: no valid JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise damaged(path, "is damaged: not a file of r3po")
    if content["format"] > newest_format:
        raise NewerFormatError(
            f"format {content['format']} is newer than this r3po reads ({newest_format})",
            where=path,
            hint="upgrade r3po, or give this job another working_dir",
        )
    if content["format"] < newest_format:
        raise DamagedStateError(
            f"format {content['format']} is of a r3po before 0.3.0, and is not read any more ({newest_format} is)",
            where=path,
            hint="make the job again: r3po reset --all, then r3po run",
        )
    digest = content.pop("digest", None)
    if digest != _digest_of(content):
        raise damaged(path, f"is damaged: its digest does not fit its content; it is not the {kind} that r3po wrote")
    if content.get("kind") != kind:
        raise damaged(path, f"is damaged: it holds a {content.get('kind')!r}, not a {kind!r}")
    return content


def _dump(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(_dump(content) + b"\n").hexdigest()


def damaged(path: Path | str, what: str) -> DamagedStateError:
    """Return the error for a file of the job's state that cannot be trusted."""
    return DamagedStateError(
        what, where=path, hint="put the file back from a copy, or make the job again: r3po reset --all"
    )
