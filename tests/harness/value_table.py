"""The one table of values: what f may give, and what becomes of it on its way to the parts.

`VALUES` can be stored: each says how it is kept, its type in Parquet, what comes back from there, and its field of CSV.
`REFUSED` cannot: each says why its file fails. docs/table.md, "Values", is the list of promises.
"""

from __future__ import annotations

import collections
import datetime as dt
import enum
import fractions
import json
import types
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd

Make = Callable[[], Any]

NOON = dt.datetime(2020, 1, 2, 12)
CET = dt.timezone(dt.timedelta(hours=1))
NOON_CET, ELEVEN_UTC = NOON.replace(tzinfo=CET), NOON.replace(hour=11, tzinfo=dt.UTC)
MICROS, MICROS_UTC = "timestamp[us]", "timestamp[us, tz=UTC]"


class Value(NamedTuple):
    """What a value that can be stored becomes in a column that has no other."""

    make: Make
    variant: str
    """What it is kept as in outcomes; empty for None."""
    type_: str
    """Of the column in Parquet."""
    back: Any
    """What Parquet gives back."""
    cell: str | None = None
    """The field of CSV; None if Parquet's value says enough, which CSV is compared with."""


def same(found: Any, expected: Any) -> bool:
    """Whether a value came back with its type, and a float to the last bit."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(map(same, found.values(), expected.values()))
    return str(found) == str(expected) if isinstance(expected, float) else bool(found == expected)


# Objects that bite whoever looks at them


def bite(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("do not look at me")


def with_methods(base: type, value: object, *names: str, **methods: Any) -> Any:
    """Return a value of a subclass of `base` whose methods of these names raise."""
    cls = type("Biter", (base,), {**dict.fromkeys(names, bite), **methods})
    return cls() if value is None else cls(value)


def raising(error: BaseException) -> Any:
    """Return an int that raises when it is read."""

    def read(_: object) -> NoReturn:
        raise error

    return with_methods(int, 3, __int__=read)


LOOKS = ("__str__", "__repr__", "__eq__", "__hash__", "__len__", "__bool__", "__format__")


class OddMeta(type):
    """A class that cannot be put into a set, nor asked for its name."""

    __hash__ = None  # type: ignore[assignment]
    __name__ = property(bite)  # type: ignore[assignment]


class Odd(metaclass=OddMeta):
    pass


class OddInt(int, metaclass=OddMeta):
    def __int__(self) -> int:
        return bite()


class Faceless:
    __class__ = property(bite)  # type: ignore[assignment]


class Quitter(str):
    """A text that ends the program when it is measured."""

    def __len__(self) -> int:
        raise SystemExit(5)


class Unprintable(Exception):
    def __str__(self) -> str:
        return bite()


class Level(enum.IntEnum):
    HIGH = 3


class Fruit(enum.StrEnum):
    PEAR = "pear"


class Name(str):
    """A str that shows itself as something else."""

    def __str__(self) -> str:
        return "shown"


class Bytes(bytes):
    def __bytes__(self) -> bytes:
        return self


class Nowhere(dt.tzinfo):
    """A time zone without an offset, which is none."""

    def utcoffset(self, _: dt.datetime | None) -> None:
        return None


Point = collections.namedtuple("Point", "x y")


def subclass(base: type, *arguments: Any) -> Any:
    return type("Sub", (base,), {})(*arguments)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def moments(*texts: str) -> Any:
    return np.array(texts, "datetime64[ns]")


# What can be stored

VALUES: dict[str, Value] = {
    "none": Value(lambda: None, "", "null", None, ""),
    "pandas NaT": Value(lambda: pd.NaT, "", "null", None, ""),
    "numpy NaT": Value(lambda: np.datetime64("NaT"), "", "null", None, ""),
    "true": Value(lambda: True, "bool", "bool", True, "true"),
    "int": Value(lambda: 7, "int", "int64", 7, "7"),
    "least int": Value(lambda: -(1 << 63), "int", "int64", -(1 << 63), "-9223372036854775808"),
    "greatest int": Value(lambda: (1 << 63) - 1, "int", "int64", (1 << 63) - 1),
    "IntEnum": Value(lambda: Level.HIGH, "int", "int64", 3, "3"),
    "numpy int": Value(lambda: np.int8(-7), "int", "int64", -7, "-7"),
    "numpy uint64": Value(lambda: np.uint64(1 << 62), "int", "int64", 1 << 62),
    "numpy array of none": Value(lambda: np.array(5), "int", "int64", 5),
    "float": Value(lambda: 0.1, "float", "double", 0.1, "0.1"),
    "nan": Value(lambda: float("nan"), "float", "double", float("nan"), "nan"),
    "inf": Value(lambda: float("-inf"), "float", "double", float("-inf"), "-inf"),
    "negative zero": Value(lambda: -0.0, "float", "double", -0.0),
    "least float": Value(lambda: 5e-324, "float", "double", 5e-324, "5e-324"),
    "greatest float": Value(lambda: 1.7976931348623157e308, "float", "double", 1.7976931348623157e308),
    "float that looks like an int": Value(lambda: 1e16, "float", "double", 1e16),
    "subclass of float": Value(lambda: subclass(float, 2.5), "float", "double", 2.5),
    "numpy float32": Value(lambda: np.float32(0.1), "float", "double", 0.10000000149011612, "0.10000000149011612"),
    "numpy nan": Value(lambda: np.float16("nan"), "float", "double", float("nan")),
    "numpy bool": Value(lambda: np.bool_(True), "bool", "bool", True),
    "text": Value(lambda: "plain", "text", "string", "plain", '"plain"'),
    "empty text": Value(lambda: "", "text", "string", "", '""'),
    "carriage return": Value(lambda: "a\r\n\x00b", "text", "string", "a\r\n\x00b", '"a\r\n\x00b"'),
    "quotes": Value(lambda: '"a","b"\n', "text", "string", '"a","b"\n', '"""a"",""b""\n"'),
    "formula": Value(lambda: "=1+1", "text", "string", "=1+1", '"=1+1"'),
    "turned text": Value(lambda: "\u202eabc\u2028", "text", "string", "\u202eabc\u2028"),
    "long text": Value(lambda: "x" * 1_000_000, "text", "string", "x" * 1_000_000),
    "StrEnum": Value(lambda: Fruit.PEAR, "text", "string", "pear"),
    "text that shows another": Value(lambda: Name("true name"), "text", "string", "true name"),
    "numpy text": Value(lambda: np.str_("é"), "text", "string", "é"),
    "bytes": Value(lambda: b"\xff\x00", "bytes", "binary", b"\xff\x00", '"/wA="'),
    "all bytes": Value(lambda: bytes(range(256)), "bytes", "binary", bytes(range(256))),
    "no bytes": Value(lambda: b"", "bytes", "binary", b""),
    "bytearray": Value(lambda: bytearray(b"ab"), "bytes", "binary", b"ab"),
    "subclass of bytes": Value(lambda: Bytes(b"ab"), "bytes", "binary", b"ab"),
    "numpy bytes": Value(lambda: np.bytes_(b"a"), "bytes", "binary", b"a"),
    "decimal": Value(lambda: Decimal("1.50"), "decimal", "decimal128(3, 2)", Decimal("1.50"), '"1.50"'),
    "large decimal": Value(lambda: Decimal("1E+2"), "decimal", "decimal128(3, 0)", Decimal(100), '"1E+2"'),
    "subclass of Decimal": Value(lambda: subclass(Decimal, "1.5"), "decimal", "decimal128(2, 1)", Decimal("1.5")),
    "decimal of 39 digits": Value(lambda: Decimal("9" * 39), "decimal", "string", "9" * 39, f'"{"9" * 39}"'),
    "decimal beyond all": Value(lambda: Decimal("1E+1000"), "decimal", "string", "1E+1000"),
    "decimal nan": Value(lambda: Decimal("NaN"), "decimal", "string", "NaN", '"NaN"'),
    "decimal signalling nan": Value(lambda: Decimal("sNaN"), "decimal", "string", "sNaN"),
    "decimal infinity": Value(lambda: Decimal("-Infinity"), "decimal", "string", "-Infinity"),
    "date": Value(lambda: dt.date(9999, 12, 31), "date", "date32[day]", dt.date(9999, 12, 31), "9999-12-31"),
    "first date": Value(lambda: subclass(dt.date, 1, 1, 1), "date", "date32[day]", dt.date(1, 1, 1), "0001-01-01"),
    "numpy date": Value(lambda: np.datetime64("2020-05-17"), "date", "date32[day]", dt.date(2020, 5, 17)),
    "moment": Value(lambda: NOON, "timestamp", MICROS, NOON, "2020-01-02 12:00:00.000000"),
    "first moment": Value(lambda: dt.datetime(1, 1, 1), "timestamp", MICROS, dt.datetime(1, 1, 1)),
    "subclass of datetime": Value(lambda: subclass(dt.datetime, 2020, 1, 2, 12), "timestamp", MICROS, NOON),
    "moment of no zone": Value(lambda: NOON.replace(tzinfo=Nowhere()), "timestamp", MICROS, NOON),
    "pandas Timestamp": Value(lambda: pd.Timestamp(NOON), "timestamp", MICROS, NOON),
    "nanoseconds": Value(
        lambda: pd.Timestamp("2020-01-02T12:00:00.000000999"), "timestamp", MICROS, NOON,
        "2020-01-02 12:00:00.000000",
    ),
    "numpy moment": Value(lambda: np.datetime64("2020-01-02T12:00", "s"), "timestamp", MICROS, NOON),
    "numpy nanoseconds": Value(lambda: np.datetime64("2020-01-02T12:00:00.000000999"), "timestamp", MICROS, NOON),
    "moment with zone": Value(lambda: NOON_CET, "timestamp_utc", MICROS_UTC, ELEVEN_UTC, "2020-01-02 11:00:00.000000Z"),
    "pandas Timestamp with zone": Value(lambda: pd.Timestamp(NOON, tz=CET), "timestamp_utc", MICROS_UTC, ELEVEN_UTC),
    "time": Value(
        lambda: dt.time(23, 59, 59, 999_999), "time", "time64[us]", dt.time(23, 59, 59, 999_999), "23:59:59.999999"
    ),
    "subclass of time": Value(lambda: subclass(dt.time, 1, 2, 3, 4), "time", "time64[us]", dt.time(1, 2, 3, 4)),
    "list": Value(lambda: [1, None, 2], "list", "list<item: int64>", [1, None, 2], '"[1,null,2]"'),
    "empty list": Value(lambda: [], "list", "list<item: null>", [], '"[]"'),
    "tuple": Value(lambda: (1, 2), "list", "list<item: int64>", [1, 2], '"[1,2]"'),
    "named tuple": Value(lambda: Point(1, 2), "list", "list<item: int64>", [1, 2]),
    "list of much": Value(lambda: [1, "a", [None]], "list", "string", '[1,"a",[null]]', '"[1,""a"",[null]]"'),
    "list in list": Value(lambda: [[1], [], None], "list", "list<item: list<item: int64>>", [[1], [], None]),
    "list of floats": Value(
        lambda: [float("nan"), None, float("inf")], "list", "list<item: double>", [float("nan"), None, float("inf")],
        '"[NaN,null,Infinity]"',
    ),
    "list of bytes": Value(lambda: [b"a"], "list", "list<item: binary>", [b"a"], '"[""YQ==""]"'),
    "list of dates": Value(
        lambda: [dt.date(2020, 1, 2)], "list", "list<item: date32[day]>", [dt.date(2020, 1, 2)], '"[""2020-01-02""]"'
    ),
    "list of moments": Value(
        lambda: [NOON], "list", "list<item: timestamp[us]>", [NOON], '"[""2020-01-02T12:00:00""]"'
    ),
    "list of enums and uuids": Value(
        lambda: [Fruit.PEAR, uuid.UUID(int=1)], "list", "list<item: string>", ["pear", str(uuid.UUID(int=1))]
    ),
    "numpy array": Value(
        lambda: np.ones((1, 2)), "list", "list<item: list<item: double>>", [[1.0, 1.0]], '"[[1.0,1.0]]"'
    ),
    "numpy moments": Value(
        lambda: moments("2020-01-02T12:00:00.000000999", "NaT"), "list", "list<item: timestamp[us]>", [NOON, None]
    ),
    "numpy scalars in a list": Value(
        lambda: [np.int32(1), np.float32(0.5), np.array(2)], "list", "list<item: double>", [1.0, 0.5, 2.0]
    ),
    "dict": Value(
        lambda: {"y": {"z": "a"}, "x": 1}, "dict", "struct<x: int64, y: struct<z: string>>",
        {"x": 1, "y": {"z": "a"}}, '"{""y"":{""z"":""a""},""x"":1}"',
    ),
    "empty dict": Value(lambda: {}, "dict", "string", "{}", '"{}"'),
    "dict of an empty dict": Value(lambda: {"a": {}}, "dict", "string", '{"a":{}}'),
    "subclass of dict": Value(
        lambda: collections.OrderedDict(a=1), "dict", "struct<a: int64>", {"a": 1}, '"{""a"":1}"'
    ),
    "proxy of a dict": Value(lambda: types.MappingProxyType({"a": 1}), "dict", "struct<a: int64>", {"a": 1}),
    "dict of moments": Value(
        lambda: {"t": NOON_CET}, "dict", "struct<t: timestamp[us, tz=UTC]>",
        {"t": ELEVEN_UTC}, '"{""t"":""2020-01-02T11:00:00Z""}"',
    ),
    "dict of decimals and bytes": Value(
        lambda: {"d": Decimal("1.50"), "b": b"\xff"}, "dict", "struct<b: binary, d: decimal128(3, 2)>",
        {"b": b"\xff", "d": Decimal("1.50")}, '"{""d"":""1.50"",""b"":""/w==""}"',
    ),
    "dict with odd keys": Value(
        lambda: {"": 1, "$": 2, "$$a": 3, '"': 4}, "dict", 'struct<: int64, ": int64, $: int64, $$a: int64>',
        {"": 1, '"': 4, "$": 2, "$$a": 3}, '"{"""":1,""$"":2,""$$a"":3,""\\"""":4}"',
    ),
    "deep": Value(lambda: nested(200), "list", "string", json.dumps(nested(200))),
    "biting list": Value(
        lambda: with_methods(list, [1], "__iter__", "__getitem__", *LOOKS), "list", "list<item: int64>", [1]
    ),
    "biting dict": Value(
        lambda: with_methods(dict, {"x": 1}, "__iter__", "keys", "items", *LOOKS), "dict", "struct<x: int64>", {"x": 1}
    ),
}  # fmt: skip


# What cannot be stored, and why

REFUSED: dict[str, tuple[Make, str]] = {
    "int beyond 64 bit": (lambda: 1 << 63, "the int 9223372036854775808 does not fit 64 bit"),
    "int below 64 bit": (lambda: -(1 << 63) - 1, "does not fit 64 bit"),
    "int of 400 digits": (lambda: 10**400, "does not fit 64 bit"),
    "int of 5,000 digits": (lambda: -(10**5000), "-0x"),
    "numpy uint beyond 64 bit": (lambda: np.uint64((1 << 64) - 1), "does not fit 64 bit"),
    "lone surrogate": (lambda: "a\ud800", r"'a\ud800' is not valid Unicode text"),
    "complex": (lambda: 1j, "a value of type complex cannot be stored"),
    "numpy complex": (lambda: np.complex128(1j), "complex"),
    "fraction": (lambda: fractions.Fraction(1, 3), "a value of type Fraction cannot be stored"),
    "duration": (lambda: dt.timedelta(1), "a value of type timedelta cannot be stored"),
    "numpy duration": (lambda: np.timedelta64(5, "s"), "timedelta"),
    "numpy duration in nanoseconds": (lambda: np.timedelta64(5, "ns"), "timedelta"),
    "set": (lambda: {1}, "a value of type set cannot be stored"),
    "memoryview": (lambda: memoryview(b"ab"), "a value of type memoryview cannot be stored"),
    "generator": (lambda: (n for n in range(3)), "a value of type generator cannot be stored"),
    "class": (lambda: int, "a value of type type cannot be stored"),
    "function": (lambda: bite, "a value of type function cannot be stored"),
    "object": (object, "a value of type object cannot be stored"),
    "uuid": (lambda: uuid.UUID(int=1), "a value of type UUID cannot be stored"),
    "moment out of utc": (lambda: dt.datetime(1, 1, 1, tzinfo=CET), "cannot be read: OverflowError"),
    "moment out of utc in the end": (
        lambda: dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(dt.timedelta(hours=-2))), "OverflowError"
    ),
    "time with zone": (lambda: dt.time(1, tzinfo=dt.UTC), "a time of day with a zone"),
    "time with zone in a list": (lambda: [dt.time(1, tzinfo=dt.UTC)], "a time of day with a zone"),
    **{
        f"numpy moment {text}": (lambda text=text: np.datetime64(text), "the years 1 to 9999 can")
        for text in ("20000-01-01", "-0001-01-01", "20000-01-01T00", "290000-01-01T00:00:00.000001")
    },
    "numpy moment beyond all years": (lambda: np.datetime64(1 << 61, "Y"), "the years 1 to 9999 can"),
    "numpy moment beyond all years in a list": (lambda: [np.datetime64("20000-01-01")], "cannot be stored"),
    "dict of numbers": (lambda: {1: "a"}, "this dict cannot be stored: the key 1 in it is not text"),
    "dict of numbers in a list": (lambda: [{None: 2}], "the key None in it is not text"),
    "list with a lone surrogate": (lambda: ["\ud800"], "surrogates"),
    "list with a large int": (lambda: [1 << 63], "does not fit 64 bit"),
    "list with a huge int": (lambda: [1 << 70], "64"),
    "list of sets": (lambda: [{1}], "it holds a set"),
    "dict of durations": (lambda: {"a": dt.timedelta(1)}, "it holds a timedelta"),
    "list of numpy durations": (lambda: [np.array([5], "timedelta64[ns]")], "cannot be stored"),
    "list of objects": (lambda: [object()], "object"),
    "numpy array of objects": (lambda: np.array([1, object()], dtype=object), "object"),
    "too deep": (lambda: nested(100_000), "this list cannot be stored"),
    "in itself": (in_itself, "this list cannot be stored"),
    "biting object": (lambda: with_methods(object, None, *LOOKS), "a value of type Biter cannot be stored"),
    "biting int": (lambda: with_methods(int, 7, "__int__", "__index__", *LOOKS), "RuntimeError: do not look at me"),
    "int that lies": (lambda: with_methods(int, 7, __int__=lambda self: "x"), "cannot be read: TypeError"),
    "biting float": (lambda: with_methods(float, 7.0, "__float__", *LOOKS), "RuntimeError: do not look at me"),
    "biting moment": (lambda: type("Biter", (dt.datetime,), {"date": bite})(2024, 1, 1), "do not look at me"),
    "biting attributes": (lambda: with_methods(object, None, "__getattr__", "__getattribute__"), "Biter"),
    "odd class": (Odd, "a value of type Odd cannot be read"),
    "odd class of int": (lambda: OddInt(7), "a value of type OddInt cannot be read"),
    "odd class in a list": (lambda: [Odd()], "this list "),
    "faceless": (Faceless, "a value of type Faceless "),
    "quitting int": (lambda: raising(KeyboardInterrupt()), "a value of type Biter cannot be read: KeyboardInterrupt"),
    "exiting int": (lambda: raising(SystemExit(5)), "a value of type Biter cannot be read: SystemExit"),
    "int that raises": (lambda: raising(ValueError("no")), "a value of type Biter cannot be read: ValueError: no"),
    "int that raises a surrogate": (lambda: raising(ValueError("\ud800")), "cannot be read: ValueError"),
    "int that raises a megabyte": (lambda: raising(ValueError("x" * 1_000_000)), "cannot be read: ValueError"),
    "int that raises the unprintable": (lambda: raising(Unprintable()), "cannot be read: Unprintable"),
}  # fmt: skip

UNSURE: dict[str, Make] = {"quitting text": lambda: Quitter("x")}
"""Refused or stored, as whoever looks at it happens to measure it."""

MAKERS: dict[str, Make] = {
    **{name: value.make for name, value in VALUES.items()},
    **{name: make for name, (make, _) in REFUSED.items()},
    **UNSURE,
}


# What a column of several values becomes: its type in the parts of all shards, whatever the order, and its values

COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "int": ("int64", [1, -(1 << 63), None]),
    "float": ("double", [float("nan"), float("inf"), 0.1]),
    "int and float": ("double", [1, 2.5, None]),
    "text": ("string", ["a,\r\n\x00", "", None]),
    "bool": ("bool", [True, None, False]),
    "bytes": ("binary", [b"\xff\x00", b"", None]),
    "date": ("date32[day]", [dt.date(2020, 1, 2), None, dt.date(1, 1, 1)]),
    "moment": ("timestamp[us]", [dt.datetime(2020, 1, 2, 3, 4, 5, 6), None, None]),
    "moment with zone": ("timestamp[us, tz=UTC]", [NOON_CET, None, None]),
    "time": ("time64[us]", [dt.time(1, 2, 3, 4), None, None]),
    "decimal": ("decimal128(4, 2)", [Decimal("1.50"), None, Decimal(12)]),
    "long decimal": ("string", [Decimal("9" * 39), None, Decimal(1)]),
    "decimal nan": ("string", [Decimal("NaN"), Decimal("100"), None]),
    "list": ("list<item: double>", [[1], [0.5], []]),
    "dates": ("list<item: date32[day]>", [[dt.date(2020, 1, 2), None], [], None]),
    "dict": (
        "struct<a: int64, b: list<item: decimal128(1, 1)>, when: time64[us]>",
        [{"a": 1, "when": dt.time(1)}, {"b": [Decimal("0.1")]}, None],
    ),
    "list of dicts": (
        "list<item: struct<a: list<item: double>, b: int64, c: int64>>",
        [[{"b": 1, "a": [2]}], [{"c": 3, "a": [0.5]}], []],
    ),
    "empty dict": ("string", [{}, None, {}]),
    "nothing": ("null", [None, None, None]),
    "int and text": ("string", [1, "a", None]),
    "int and bool": ("string", [True, 1, None]),
    "date and moment": ("string", [dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), None]),
    "moments with and without zone": ("string", [NOON, NOON_CET, None]),
    "list of both moments": ("string", [[NOON, NOON_CET], [], None]),
    "decimal and int": ("string", [Decimal(1), 1, None]),
    "list and dict": ("string", [[1], {"a": 1}, None]),
    "list of int and of text": ("string", [[1], ["a"], []]),
    "dict of int and of text": ("string", [{"a": 1}, {"a": "x"}, None]),
}  # fmt: skip
