"""What a value of a row may be, and how it is kept."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from r3po.table.column_types import ColumnType, as_column_type, why_unfit
from r3po.table.nested import NestedError, decode, encode
from r3po.table.user_objects import ends_worker, text_of, type_name
from r3po.text import shorten

_EXACT: dict[type, str] = {
    int: "int",
    float: "float",
    str: "text",
    bool: "bool",
    bytes: "bytes",
    dt.date: "date",
}
"""Types whose values are kept as they are; every other type goes through `plain_value`."""


class BadRowError(Exception):
    """What f returned cannot be a row of this job; it becomes the failure of its file."""


class _CannotStoreError(Exception):
    """Why a value cannot be stored; `plain_value` adds whose."""


@dataclass(frozen=True, slots=True)
class Nested:
    """A list or dict as text (see `table.nested`): frozen, exact, and free of pickle."""

    text: str
    variant: str


def variant_of(value: Any) -> str:
    """Return the variant of a plain value (see `plain_value`)."""
    variant = _EXACT.get(type(value))
    if variant is not None:
        return variant
    if type(value) is Nested:
        return value.variant
    if isinstance(value, dt.datetime):
        return "timestamp" if value.tzinfo is None else "timestamp_utc"
    if isinstance(value, dt.time):
        return "time"
    return "decimal"


def plain_value(value: Any, column: str) -> Any:
    """Return `value` as one of the exact types that the variants name; subclasses and numpy scalars are unwrapped.

    Raises:
        BadRowError: no column can hold such a value.
    """
    try:
        if value is None or type(value) in _EXACT or type(value) is Nested:
            return value
        plain = _unwrap(value)
    except _CannotStoreError as error:
        raise BadRowError(f"column {column!r}: {error}") from error
    except BaseException as error:
        if ends_worker(error):
            raise
        what = f"a value of type {type_name(value)} cannot be read: {type_name(error)}: {_message_of(error)}"
        raise BadRowError(f"column {column!r}: {what}") from error
    if plain is _CANNOT:
        raise BadRowError(f"column {column!r}: a value of type {type_name(value)} cannot be stored")
    return plain


_CANNOT = object()


def _unwrap(value: Any) -> Any:
    """Return the value as an exact type, frozen if it is a list or dict, or `_CANNOT`."""
    for base, convert in _PLAIN:
        if isinstance(value, base):
            return convert(value)
    if _is_numpy(value):
        return _unwrap_numpy(value)
    if isinstance(value, (list, tuple, Mapping)):
        return _freeze_nested(value)
    return None if _is_pandas_na(value) else _CANNOT


def _is_pandas_na(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "NAType" and kind.__module__.partition(".")[0] == "pandas"


def _is_numpy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist")


def _unwrap_numpy(value: Any) -> Any:
    if value.shape:
        return _CANNOT if value.dtype.kind == "m" else _freeze_nested(_items_of_array(value))
    plain = value.tolist()
    if value.dtype.kind == "M" and type(plain) is int:
        # tolist gives a bare number for nanoseconds and below, which have no datetime, and for years that have none.
        if value.dtype.str[-3:] in _FINER:
            plain = value.astype("datetime64[us]").tolist()
        if type(plain) is int:
            raise _CannotStoreError(f"the moment {value} cannot be stored; the years 1 to 9999 can")
    elif value.dtype.kind == "m" or type(plain) is type(value):
        return _CANNOT
    return _unwrap_or_none(plain)


_FINER = ("ns]", "ps]", "fs]", "as]")
"""How the types of numpy moments end that Python's datetime has no digits for; they are cut to microseconds."""


def _items_of_array(value: Any) -> Any:
    if value.dtype.kind == "m":
        return _CANNOT
    if value.dtype.kind == "M":
        value = value.astype("datetime64[us]") if value.dtype.str[-3:] in _FINER else value
        items = value.reshape(-1).tolist()
        if any(type(item) is int for item in items):
            raise _CannotStoreError("a moment in it cannot be stored; the years 1 to 9999 can")
    return value.tolist()


def _unwrap_or_none(value: Any) -> Any:
    return value if value is None or type(value) in _EXACT else _unwrap(value)


def _as_utc(value: dt.datetime) -> dt.datetime | None:
    if value != value:  # pandas' NaT
        return None
    if value.utcoffset() is None:
        return dt.datetime.combine(value.date(), value.time(), None)
    return dt.datetime.combine(value.date(), value.time(), value.tzinfo).astimezone(dt.UTC)


def _as_time(value: dt.time) -> dt.time:
    if value.tzinfo is not None:
        raise _CannotStoreError("a time of day with a zone cannot be stored; give a datetime, or drop the zone")
    return dt.time(value.hour, value.minute, value.second, value.microsecond)


_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (dt.datetime, _as_utc),
    (dt.date, lambda value: dt.date(value.year, value.month, value.day)),
    (dt.time, _as_time),
    (int, int),
    (float, float),
    (str, lambda value: str.__str__(value)),
    (bytes, lambda value: b"".join((value,))),  # a __bytes__ could give any subclass
    (bytearray, bytes),
    (Decimal, Decimal),
)


def _freeze_nested(value: Any) -> Nested:
    variant = "dict" if isinstance(value, Mapping) else "list"
    try:
        return Nested(encode(value, plain_item), variant)
    except NestedError as error:
        raise _CannotStoreError(f"this {variant} cannot be stored: {error}") from error


def plain_item(value: Any) -> Any:
    """Return what is in a list or dict as a plain value, or as a list or dict."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, (list, tuple, Mapping)):
        plain = _items_of_array(value) if _is_numpy(value) and value.shape else _unwrap(value)
        if plain is _CANNOT:
            raise NestedError(f"it holds a {type_name(value)}")
        return plain
    if isinstance(value, dict):
        return dict(dict.items(value))  # what a subclass says of its items does not count
    if isinstance(value, list):
        return list.copy(value)
    return dict(value) if isinstance(value, Mapping) else list(value)


def _as_given_type(value: Any, name: str, column_type: ColumnType) -> Any:
    why = why_unfit(
        decode(value.text) if type(value) is Nested and column_type.item is not None else _bare(value), column_type
    )
    if why is not None:
        found = _shown(value.text if type(value) is Nested else value)
        more = f": {why}" if why else ""
        raise BadRowError(
            f"column {name!r}: expected {column_type}, found {family_of(variant_of(value))} {found}{more}"
        )
    return as_column_type(value, column_type)


def _bare(value: Any) -> Any:
    """Return a list or dict emptied, and any other value as it is: enough to check the type of a bare list or dict."""
    return ([] if value.variant == "list" else {}) if type(value) is Nested else value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _message_of(error: BaseException) -> str:
    return shorten(text_of(str, error, "(no message)").encode("utf-8", "backslashreplace").decode())


def _shown(value: Any) -> str:
    """Return a plain value as text for a message, shortened."""
    try:
        return shorten(repr(value))
    except ValueError:  # Python gives no more than 4,300 digits of an int
        return shorten(hex(value))


NULL = "null"
"""The family of a column whose first value was None."""


VARIANTS = (
    "int",
    "float",
    "text",
    "bool",
    "bytes",
    "date",
    "timestamp",
    "timestamp_utc",
    "time",
    "decimal",
    "list",
    "dict",
)


def family_of(variant: str) -> str:
    return "number" if variant in ("int", "float") else variant
