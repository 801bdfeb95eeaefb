"""Lists and dicts as text: how outcomes keep them, exactly, and how CSV shows them. Plain Python: no Arrow, no disk.

Outcomes keep JSON, in which a dict of the one key `$` stands for a scalar that JSON lacks, {"$":["date","2026-11-25"]};
a key of the user's own that begins with `$` gets one more. FORMAT.md, "Nested values", has the table.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson

MOST_DEPTH = 254
"""Most levels of lists and dicts; orjson has no more."""

_SIGN = "$"
_MARK = '"$'
"""What marks a value that JSON does not have; text without this mark is plain JSON."""
_FLOAT = '"$":["float",'

_EASY = frozenset((str, bool, type(None)))
"""Types that are JSON as they are, whatever their value."""


class NestedError(Exception):
    """Why a list or dict cannot be stored."""


def encode(value: Any, plain: Callable[[Any], Any]) -> str:
    """Return a list or dict as the text that outcomes keep.

    Args:
        plain: gives an object of any class as a plain value, list or dict; it raises what it likes.

    Raises:
        NestedError: it holds what cannot be stored.
    """
    try:
        text = orjson.dumps(value, option=_STRICT)
        if b"null" not in text and b'"$' not in text:  # null may be a NaN
            return text.decode()
    except TypeError:
        pass  # there is something in it that needs a closer look
    try:
        return orjson.dumps(_encoded(value, plain, 1)).decode()
    except TypeError as error:
        raise NestedError(str(error)) from error


_STRICT = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_STRICT_INTEGER
)
"""Refuse all but what JSON holds exactly, Enum and UUID excepted: their value and text are `plain`'s, too."""


def decode(text: str) -> Any:
    """Return the plain list or dict that `text` keeps."""
    value = orjson.loads(text)
    return _decoded(value) if _MARK in text else value


def show(text: str) -> str:
    """Return kept text as JSON for people and CSV: moments in ISO, decimals and base64 as text, NaN as `NaN`."""
    if _MARK not in text:
        return text
    return _json(decode(text), has_odd_floats=_FLOAT in text)


def show_value(value: Any) -> str:
    """Return a plain value, list or dict as JSON for people, as `show` does."""
    return _json(value, has_odd_floats=_has_odd_floats(value))


# Private functions: showing


def _json(value: Any, *, has_odd_floats: bool) -> str:
    if has_odd_floats:  # orjson would make null of it
        return json.dumps(value, default=_shown, ensure_ascii=False, separators=(",", ":"))
    return orjson.dumps(value, default=_shown, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()


def _has_odd_floats(value: Any) -> bool:
    if type(value) is dict:
        return any(map(_has_odd_floats, value.values()))
    if type(value) is list:
        return any(map(_has_odd_floats, value))
    return type(value) is float and not math.isfinite(value)


# Private functions: encoding


# Complex by count: one branch a kind of value; a table of functions costs a call for each item of a list.
def _encoded(value: Any, plain: Callable[[Any], Any], depth: int) -> Any:
    kind = type(value)
    if kind in _EASY:
        return value
    if kind is int:
        if not -(1 << 63) <= value < 1 << 63:
            raise NestedError(f"the int {_short(value)} in it does not fit 64 bit")
        return value
    if kind is float:
        return value if math.isfinite(value) else {_SIGN: ["float", repr(value)]}
    if kind in _TAGS:
        # A moment has its zone taken away, or is refused, like one that is no list's.
        return {_SIGN: _TAGS[kind](plain(value) if kind in (dt.datetime, dt.time) else value)}
    if depth > MOST_DEPTH:
        raise NestedError(f"it is nested deeper than {MOST_DEPTH} levels")
    if kind is list:
        types = set(map(type, value))
        if types <= _EASY or (types == {float} and all(map(math.isfinite, value))):
            return value
        return [item if type(item) in _EASY else _encoded(item, plain, depth + 1) for item in value]
    if kind is dict:
        return {
            key if type(key) is str and key[:1] != _SIGN else encode_key(key): item
            if type(item) in _EASY
            else _encoded(item, plain, depth + 1)
            for key, item in value.items()
        }
    return _encoded(plain(value), plain, depth)


def encode_key(key: Any) -> str:
    if not isinstance(key, str):
        raise NestedError(f"the key {_short(key)} in it is not text")
    plain = str.__str__(key)
    return _SIGN + plain if plain.startswith(_SIGN) else plain


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python gives no more than 4,300 digits of an int
        text = hex(value)
    return text if len(text) <= 100 else text[:100] + "..."


def _moment(value: dt.datetime) -> list[str]:
    return ["timestamp" if value.tzinfo is None else "timestamp_utc", value.isoformat()]


_TAGS: dict[type, Callable[[Any], list[str]]] = {
    dt.date: lambda value: ["date", value.isoformat()],
    dt.datetime: _moment,
    dt.time: lambda value: ["time", value.isoformat()],
    Decimal: lambda value: ["decimal", str(value)],
    bytes: lambda value: ["bytes", base64.b64encode(value).decode("ascii")],
}


# Private functions: decoding

_READERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "date": dt.date.fromisoformat,
    "timestamp": dt.datetime.fromisoformat,
    "timestamp_utc": dt.datetime.fromisoformat,
    "time": dt.time.fromisoformat,
    "decimal": Decimal,
    "bytes": base64.b64decode,
}


def _decoded(value: Any) -> Any:
    if type(value) is list:
        return [_decoded(item) for item in value]
    if type(value) is not dict:
        return value
    if _SIGN in value:
        name, text = value[_SIGN]
        return _READERS[name](text)
    return {key[1:] if key.startswith(_SIGN) else key: _decoded(item) for key, item in value.items()}


def _shown(value: Any) -> str:
    if type(value) is dt.datetime:
        return value.isoformat().replace("+00:00", "Z")
    if type(value) is bytes:
        return base64.b64encode(value).decode("ascii")
    return str(value)
