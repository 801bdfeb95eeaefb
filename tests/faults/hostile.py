"""A function for r3po that returns what no decent function does. Each source file is JSON that says what.

{"row": name} makes it return that row; {"cells": {column: name}} a dict of these values and the file's own name.
"""

from __future__ import annotations

import collections
import datetime as dt
import fractions
import json
import os
import random
import types
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

try:
    import numpy as np
except ImportError:
    np = None  # type: ignore[assignment]

Make = Callable[[], Any]

FAILS = object()
"""In place of the value that Parquet has: the file fails."""

EITHER = object()
"""The file fails, or has a row."""


def hostile(filepath: str) -> Any:
    with open(filepath) as file:
        wanted = json.load(file)
    if "row" in wanted:
        return ROWS[wanted["row"]]()
    cells = {column: VALUES[name][0]() for column, name in wanted["cells"].items()}
    return {**cells, "path": os.path.basename(filepath)}


# Objects that bite whoever looks at them


def bite(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("do not look at me")


def with_methods(base: type, value: object, *names: str, **methods: Any) -> Any:
    """Return a value of a subclass of `base` whose methods of these names raise."""
    cls = type("Biter", (base,), {**dict.fromkeys(names, bite), **methods})
    return cls() if value is None else cls(value)


LOOKS = ("__str__", "__repr__", "__eq__", "__hash__", "__len__", "__bool__", "__format__")


class Liar(dict[str, Any]):
    """A dict that says something else each time."""

    drawn = random.Random(1)

    def keys(self) -> Any:
        return self.drawn.sample("abcd", 2)

    def __len__(self) -> int:
        return self.drawn.randrange(10)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, key: str) -> Any:
        return self.drawn.random()


class Biting(collections.UserDict[str, Any]):
    __getitem__ = bite
    __iter__ = bite


class OddMeta(type):
    """A class that cannot be put into a set, nor asked for its name."""

    __hash__ = None  # type: ignore[assignment]
    __name__ = property(bite)  # type: ignore[assignment]


class Odd(metaclass=OddMeta):
    pass


class OddInt(int, metaclass=OddMeta):
    pass


class Faceless:
    __class__ = property(bite)  # type: ignore[assignment]


class Quitter(str):
    """A text that ends the program when it is measured."""

    def __len__(self) -> int:
        raise SystemExit(5)


class QuittingInt(int):
    def __int__(self) -> int:
        raise KeyboardInterrupt


class BitingRepr(list[int]):
    """A list, and so no row, whose repr is a text that bites."""

    def __repr__(self) -> str:
        return with_methods(str, "x", "__len__", "__getitem__", "encode")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


# Values of a column, and what Parquet has of each where the column has no other: the value, FAILS or EITHER

VALUES: dict[str, tuple[Make, Any]] = {
    "none": (lambda: None, None),
    "true": (lambda: True, True),
    "int": (lambda: 7, 7),
    "least int": (lambda: -(1 << 63), -(1 << 63)),
    "int beyond 64 bit": (lambda: 1 << 63, FAILS),
    "int of 4,000 digits": (lambda: 10**4000, FAILS),
    "int of 5,000 digits": (lambda: 10**5000, FAILS),
    "float": (lambda: 0.1, 0.1),
    "nan": (lambda: float("nan"), float("nan")),
    "inf": (lambda: float("inf"), float("inf")),
    "negative zero": (lambda: -0.0, -0.0),
    "least float": (lambda: 5e-324, 5e-324),
    "complex": (lambda: 1j, FAILS),
    "fraction": (lambda: fractions.Fraction(1, 3), FAILS),
    "text": (lambda: "plain", "plain"),
    "empty text": (lambda: "", ""),
    "carriage return": (lambda: "a\rb\r\nc", "a\rb\r\nc"),
    "nul": (lambda: "a\x00b", "a\x00b"),
    "quotes": (lambda: '"a","b"\n', '"a","b"\n'),
    "formula": (lambda: "=1+1", "=1+1"),
    "turned text": (lambda: "\u202eabc\u2028", "\u202eabc\u2028"),
    "long text": (lambda: "x" * 1_000_000, "x" * 1_000_000),
    "lone surrogate": (lambda: "\ud800", FAILS),
    "bytes": (lambda: b"\x00\xff", b"\x00\xff"),
    "no bytes": (lambda: b"", b""),
    "bytearray": (lambda: bytearray(b"ab"), b"ab"),
    "memoryview": (lambda: memoryview(b"ab"), FAILS),
    "decimal": (lambda: Decimal("1.50"), Decimal("1.50")),
    "decimal beyond all": (lambda: Decimal("1E+1000"), "1E+1000"),
    "decimal nan": (lambda: Decimal("NaN"), "NaN"),
    "decimal signalling nan": (lambda: Decimal("sNaN"), "sNaN"),
    "decimal infinity": (lambda: Decimal("-Infinity"), "-Infinity"),
    "date": (lambda: dt.date(9999, 12, 31), dt.date(9999, 12, 31)),
    "moment": (lambda: dt.datetime(1, 1, 1), dt.datetime(1, 1, 1)),
    "moment with zone": (
        lambda: dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    ),
    "moment out of utc": (lambda: dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), FAILS),
    "time": (lambda: dt.time(23, 59, 59, 999999), dt.time(23, 59, 59, 999999)),
    "time with zone": (lambda: dt.time(1, tzinfo=dt.UTC), FAILS),
    "duration": (lambda: dt.timedelta(1), FAILS),
    "list": (lambda: [1, None, 2], [1, None, 2]),
    "empty list": (lambda: [], []),
    "tuple": (lambda: (1, 2), [1, 2]),
    "list of much": (lambda: [1, "a", [None]], '[1,"a",[null]]'),
    "list in list": (lambda: [[1], [], None], [[1], [], None]),
    "dict": (lambda: {"x": 1, "y": {"z": "a"}}, {"x": 1, "y": {"z": "a"}}),
    "empty dict": (lambda: {}, "{}"),
    "dict of numbers": (lambda: {1: 2}, FAILS),
    "dict with an odd key": (lambda: {"": 1, "a.b": 2, '"': 3}, {"": 1, "a.b": 2, '"': 3}),
    "list with a lone surrogate": (lambda: ["\ud800"], FAILS),
    "list with a huge int": (lambda: [1 << 64], FAILS),
    "list of bytes": (lambda: [b"a"], [b"a"]),
    "list of moments": (lambda: [dt.datetime(2024, 1, 1)], [dt.datetime(2024, 1, 1)]),
    "deep": (lambda: nested(200), json.dumps(nested(200))),
    "too deep": (lambda: nested(100_000), FAILS),
    "in itself": (in_itself, FAILS),
    "set": (lambda: {1}, FAILS),
    "generator": (lambda: (n for n in range(3)), FAILS),
    "module": (lambda: json, FAILS),
    "class": (lambda: int, FAILS),
    "function": (lambda: bite, FAILS),
    "object": (object, FAILS),
    "uuid": (lambda: uuid.UUID(int=1), FAILS),
    "biting object": (lambda: with_methods(object, None, *LOOKS), FAILS),
    "biting int": (lambda: with_methods(int, 7, "__int__", "__index__", *LOOKS), FAILS),
    "int that lies": (lambda: with_methods(int, 7, __int__=lambda self: "x"), FAILS),
    "biting float": (lambda: with_methods(float, 7.0, "__float__", *LOOKS), FAILS),
    "biting list": (lambda: with_methods(list, [1], "__iter__", "__getitem__", *LOOKS), [1]),
    "biting dict": (lambda: with_methods(dict, {"x": 1}, "__iter__", "keys", "items", *LOOKS), {"x": 1}),
    "biting moment": (lambda: type("Biter", (dt.datetime,), {"date": bite})(2024, 1, 1), FAILS),
    "biting attributes": (lambda: with_methods(object, None, "__getattr__", "__getattribute__"), FAILS),
    "odd class": (Odd, FAILS),
    "odd class of int": (lambda: OddInt(7), FAILS),
    "faceless": (Faceless, FAILS),
    "quitting text": (lambda: Quitter("x"), EITHER),
    "quitting int": (lambda: QuittingInt(7), FAILS),
}

if np is not None:
    VALUES |= {
        "numpy int": (lambda: np.int8(-7), -7),
        "numpy uint beyond 64 bit": (lambda: np.uint64((1 << 64) - 1), FAILS),
        "numpy float": (lambda: np.float32(0.5), 0.5),
        "numpy nan": (lambda: np.float16("nan"), float("nan")),
        "numpy bool": (lambda: np.bool_(True), True),
        "numpy text": (lambda: np.str_("a"), "a"),
        "numpy bytes": (lambda: np.bytes_(b"a"), b"a"),
        "numpy array": (lambda: np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        "numpy array of objects": (lambda: np.array([1, object()], dtype=object), FAILS),
        "numpy moment": (lambda: np.datetime64("2024-01-01T00:00:00.000000001"), dt.datetime(2024, 1, 1)),
        "numpy moment beyond all years": (lambda: np.datetime64("20000-01-01"), FAILS),
        "numpy no moment": (lambda: np.datetime64("NaT"), None),
        "numpy duration": (lambda: np.timedelta64(1, "s"), FAILS),
        "numpy complex": (lambda: np.complex128(1j), FAILS),
    }


# What f returns instead of a decent row

ROWS: dict[str, Make] = {
    "none": lambda: None,
    "list": lambda: [1, 2],
    "number": lambda: 7,
    "text": lambda: "{}",
    "nothing": dict,
    "other keys": lambda: {"x": 1, "y": 2},
    "5,000 keys": lambda: {f"column {n}": n for n in range(5000)},
    "keys that are no text": lambda: {1: 1, None: 2},
    "keys of many kinds": lambda: {"path": "x", 1: 1, (1, 2): 2},
    "odd keys": lambda: {"": 1, "a\rb": 2, "a\x00": 3, '"': 4, ",": 5, "\n": 6},
    "key with a lone surrogate": lambda: {"\ud800": 1},
    "biting key": lambda: {with_methods(str, "a", "__str__", "__repr__", "__len__", "encode"): 1},
    "key that is another each time": lambda: {with_methods(str, "a", __eq__=lambda *_: False, __hash__=lambda _: 5): 1},
    "ordered dict": lambda: collections.OrderedDict(x=1),
    "default dict": lambda: collections.defaultdict(int),
    "proxy": lambda: types.MappingProxyType({"x": 1}),
    "chain": lambda: collections.ChainMap({"x": 1}, {"y": 2}),
    "liar": lambda: Liar(a="x"),
    "biting dict": lambda: Biting(path="x"),
    "biting dict class": lambda: with_methods(dict, {"path": "x"}, "__iter__", "keys", "__getitem__", *LOOKS),
    "generator": lambda: (n for n in range(3)),
    "class": lambda: dict,
    "exception": lambda: ValueError("returned, not raised"),
    "biting object": lambda: with_methods(object, None, *LOOKS),
    "biting attributes": lambda: with_methods(object, None, "__getattr__", "__getattribute__"),
    "odd class": Odd,
    "faceless": Faceless,
    "biting repr": lambda: BitingRepr([1]),
    "quitting dict": lambda: with_methods(dict, {"path": "x"}, "__iter__", keys=lambda _: int(QuittingInt(1))),
}
