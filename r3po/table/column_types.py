"""The types that `columns:` may give to a column, and whether a value fits one. Plain Python: no Arrow, no disk.

Source: docs/table.md, "Values".
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from r3po.text import shorten

_INTS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}
_FAMILIES = {
    **dict.fromkeys(_INTS, "number"),
    "float32": "number",
    "float64": "number",
    "string": "text",
    "bool": "bool",
    "binary": "bytes",
    "date": "date",
    "timestamp": "timestamp",
    "timestamp_utc": "timestamp_utc",
    "time": "time",
    "decimal": "decimal",
    "list": "list",
    "dict": "dict",
    "json": "null",
}
_KNOWN = (
    "int8 to int64, uint8 to uint64, float32, float64, string, bool, binary, date, timestamp, timestamp_utc, time, "
    "decimal(10,2), list, dict, json (any value), or list<T> or map<string, T> of one of these"
)
_DECIMAL = re.compile(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_LIST = re.compile(r"list<(.*)>", re.DOTALL)
_MAP = re.compile(r"map<\s*string\s*,(.*)>", re.DOTALL)

PLAIN_TYPES = tuple(kind for kind in _FAMILIES if kind != "decimal")
"""The types that are one word."""

MOST_DIGITS = 38
"""Most digits of a decimal: polars reads none that are longer, and DuckDB makes floats of them."""

_MOST_DEPTH = 8
"""Most levels of list<list<...>>, and of maps."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type that `columns:` gives to a column."""

    kind: str
    """`int32`, `decimal`, `list` ..."""
    precision: int = 0
    """Digits of a decimal, in all."""
    scale: int = 0
    """Digits of a decimal behind the point."""
    item: ColumnType | None = None
    """What the items of a list, or the values of a map, are; None: as they come."""

    @property
    def family(self) -> str:
        return "dict" if self.kind == "map" else _FAMILIES[self.kind]

    @property
    def innermost(self) -> ColumnType:
        """What lists of lists, and maps, end in; the type itself if it is none of these."""
        return self if self.item is None else self.item.innermost

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "map":
            return f"map<string, {self.item}>"
        return self.kind if self.item is None else f"list<{self.item}>"


def parse_column_type(text: str, depth: int = 0) -> ColumnType:
    """Return the type that `text` names.

    Raises:
        ValueError: it names none; what is raised says which there are.
    """
    text = text.strip()
    if text in _FAMILIES and text != "decimal":
        return ColumnType(text)
    if match := _DECIMAL.fullmatch(text):
        return _decimal(int(match[1]), int(match[2]))
    if (match := _LIST.fullmatch(text)) and depth < _MOST_DEPTH:
        return ColumnType("list", item=_item(match[1], "list<{}>", "list, and its items", depth))
    if (match := _MAP.fullmatch(text)) and depth < _MOST_DEPTH:
        return ColumnType("map", item=_item(match[1], "map<string, {}>", "dict, and its values", depth))
    for opened, end, example in (("decimal(", ")", "decimal(10,2)"), ("map<", ">", "map<string, int64>")):
        if text.startswith(opened) and not text.endswith(end):
            raise ValueError(f'quote it: "{example}"; within {{...}} a comma ends the value')
    likely = _likely_type(text)
    raise ValueError(f'"{text}" is no type; ' + (f'did you mean "{likely}"?' if likely else f"there are {_KNOWN}"))


def why_unfit(value: Any, column_type: ColumnType) -> str | None:
    """Return why a plain value, which may hold lists and dicts, does not fit a type; None: it fits.

    None fits everything. Nothing is rounded but a float in float32: an int among floats has to have an equal there.
    """
    if value is None:
        return None
    fits, why = _FITS[column_type.kind](value, column_type)
    return None if fits else why


def as_column_type(value: Any, column_type: ColumnType) -> Any:
    """Return a plain value that fits as outcomes keep it: an int as a Decimal, where the type calls for that."""
    is_int = type(value) is int
    if is_int and (column_type.kind == "decimal" or (column_type.kind == "uint64" and value >= 1 << 63)):
        return Decimal(value)
    return value


# Private functions


def _item(text: str, whole: str, instead: str, depth: int) -> ColumnType:
    item = parse_column_type(text, depth + 1)
    if item.kind in ("dict", "json") or (item.kind == "list" and item.item is None):
        raise ValueError(f"{whole.format(item)} is no column type; write {instead} are as they come")
    return item


def _likely_type(text: str) -> str | None:
    names = [*sorted(_FAMILIES.keys() - {"decimal"}), "decimal(10,2)"]
    return _ALIASES.get(text.lower()) or next(iter(difflib.get_close_matches(text.lower(), names, n=1)), None)


_ALIASES = {
    "int": "int64",
    "integer": "int64",
    "long": "int64",
    "float": "float64",
    "double": "float64",
    "number": "float64",
    "str": "string",
    "text": "string",
    "bytes": "binary",
    "datetime": "timestamp",
    "any": "json",
    "object": "json",
    "map": "map<string, int64>",
}
"""What other tools call the types; only for hints."""

_Verdict = tuple[bool, str]


def _decimal(precision: int, scale: int) -> ColumnType:
    if not 1 <= precision <= MOST_DIGITS:
        raise ValueError(f"a decimal has 1 to {MOST_DIGITS} digits in all, not {precision}")
    if scale > precision:
        raise ValueError(f"a decimal of {precision} digits cannot have {scale} of them behind the point")
    return ColumnType("decimal", precision, scale)


def _is_int(value: Any, column_type: ColumnType) -> _Verdict:
    if type(value) is Decimal and column_type.kind == "uint64" and value.is_finite() and value >= 1 << 63:
        value = int(value) if value == value.to_integral_value() else None  # beyond 63 bit, as outcomes keep it
    if type(value) is not int:
        return False, ""
    sign, bits = _INTS[column_type.kind]
    low, high = (0, (1 << bits) - 1) if sign else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return low <= value <= high, f"it is not within {low} to {high}"


def _is_float(value: Any, column_type: ColumnType) -> _Verdict:
    if type(value) is int:
        most = 1 << (24 if column_type.kind == "float32" else 53)
        is_exact = -most <= value <= most or (abs(value) < 1 << 64 and int(_rounded(value, column_type)) == value)
        return is_exact, "no such float is equal to it"
    if type(value) is not float:
        return False, ""
    try:
        if column_type.kind == "float32":
            struct.pack("<f", value)
    except OverflowError:
        return False, "it is beyond the largest float32"
    return True, ""


def _rounded(value: int, column_type: ColumnType) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0] if column_type.kind == "float32" else float(value)
    return rounded


def _is_decimal(value: Any, column_type: ColumnType) -> _Verdict:
    if type(value) not in (int, Decimal):
        return False, ""
    value = Decimal(value)
    if not value.is_finite():
        return False, "a decimal column holds finite numbers"
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "the exponent of a finite number is one"
    n_behind = max(0, -exponent - _n_trailing_zeros(digits)) if value else 0
    n_before = max(0, value.adjusted() + 1) if value else 0
    if n_behind > column_type.scale:
        return False, f"it has {n_behind} digits behind the point"
    return n_before <= column_type.precision - column_type.scale, f"it has {n_before} digits before the point"


def _n_trailing_zeros(digits: tuple[int, ...]) -> int:
    return len(digits) - len("".join(map(str, digits)).rstrip("0"))


def _is_list(value: Any, column_type: ColumnType) -> _Verdict:
    if type(value) is not list:
        return False, ""
    if column_type.item is None:
        return True, ""
    for index, item in enumerate(value):
        why = why_unfit(item, column_type.item)
        if why is not None:
            return False, f"item {index} is no {column_type.item}" + (f": {why}" if why else "")
    return True, ""


def _is_map(value: Any, column_type: ColumnType) -> _Verdict:
    if type(value) is not dict:
        return False, ""
    assert column_type.item is not None, "a map says what its values are"
    for key, item in value.items():
        why = why_unfit(item, column_type.item)
        if why is not None:
            return False, f"the value of {shorten(repr(key))} is no {column_type.item}" + (f": {why}" if why else "")
    return True, ""


def _of(*types: type) -> Callable[[Any, ColumnType], _Verdict]:
    return lambda value, column_type: (type(value) in types, "")


def _has_zone(is_aware: bool) -> Callable[[Any, ColumnType], _Verdict]:
    return lambda value, column_type: (type(value) is dt.datetime and (value.tzinfo is not None) == is_aware, "")


_FITS: dict[str, Callable[[Any, ColumnType], _Verdict]] = {
    **dict.fromkeys(_INTS, _is_int),
    "float32": _is_float,
    "float64": _is_float,
    "string": _of(str),
    "bool": _of(bool),
    "binary": _of(bytes),
    "date": _of(dt.date),
    "timestamp": _has_zone(False),
    "timestamp_utc": _has_zone(True),
    "time": _of(dt.time),
    "decimal": _is_decimal,
    "list": _is_list,
    "dict": _of(dict),
    "map": _is_map,
    "json": lambda value, column_type: (True, ""),
}
