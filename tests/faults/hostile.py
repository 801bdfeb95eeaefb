"""A function for r3po that returns what no decent function does. Each source file is JSON that says what.

{"row": name} makes it return that row; {"cells": {column: name}} a dict of these values of the table in
`value_table` and the file's own name.
"""

from __future__ import annotations

import collections
import json
import os
import random
import types
from collections.abc import Iterator
from typing import Any

from value_table import LOOKS, MAKERS, Faceless, Make, Odd, bite, with_methods


def hostile(filepath: str) -> Any:
    with open(filepath) as file:
        wanted = json.load(file)
    if "row" in wanted:
        return ROWS[wanted["row"]]()
    cells = {column: MAKERS[name]() for column, name in wanted["cells"].items()}
    return {**cells, "path": os.path.basename(filepath)}


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


def quits(_: object) -> int:
    raise KeyboardInterrupt


class BitingRepr(list[int]):
    """A list, and so no row, whose repr is a text that bites."""

    def __repr__(self) -> str:
        return with_methods(str, "x", "__len__", "__getitem__", "encode")


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
    "quitting dict": lambda: with_methods(dict, {"path": "x"}, "__iter__", keys=quits),
}
