"""Rows with other keys than the job's columns: what becomes of these keys. Plain Python: no Arrow, no disk.

A key that is no column makes its row a failure, or is left out and its name is kept (`extra_keys: drop`), or adds a
column (`add`). Added columns are not numbered, since workers cannot agree on numbers without talking: a row keeps what
it adds by name, as one dict in the text of `table.nested`, and which columns there are is a join over all rows.
Source: FORMAT.md, "Outcomes".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import orjson

from r3po.table.nested import NestedError, encode, encode_key
from r3po.table.values import BadRowError, Nested, _is_unicode, _shown, plain_item, plain_value, variant_of
from r3po.text import count_of, shorten

MOST_ADDED = 5_000
"""Most columns that keys may add to a job: with more, there is rather a key a file."""

MOST_DROPPED = 100
"""Keys that were left out of which a commit has the names."""

MOST_KEPT = 1_000
"""Keys that were left out of which an outcome has the names."""

MOST_TOLD = 10
"""Keys and columns that one notice names."""

KEYS_HELP = " (taken with {})"
MIXED_HELP = " (taken with mixed: json)"


@dataclass(frozen=True, slots=True)
class RowRules:
    """What the config says of rows that are not like the first one."""

    missing: Literal["fail", "null"] = "fail"
    """`missing_keys`."""
    extra: Literal["fail", "drop", "add"] = "fail"
    """`extra_keys`."""
    mixed: Literal["fail", "json"] = "fail"
    """`mixed`."""

    @property
    def adds(self) -> bool:
        """Whether keys add columns."""
        return self.extra == "add"

    def to_json(self) -> dict[str, str]:
        """Return what the bytes of parts depend on, where it is not the default."""
        said = {"extra_keys": self.extra if self.adds else "", "mixed": self.mixed if self.mixed == "json" else ""}
        return {key: value for key, value in said.items() if value}


FAIL = RowRules()
"""All rows have to be like the first one."""


class RaggedRow(tuple[Any, ...]):
    """The values of a row in column order, and what its other keys came to."""

    added: str | None
    """A dict of the values that add columns, as `added_text` gives it; None: there is none."""
    dropped: tuple[str, ...]
    """The keys that were left out."""

    def __new__(cls, values: tuple[Any, ...], added: str | None, dropped: tuple[str, ...]) -> RaggedRow:
        row = super().__new__(cls, values)
        row.added, row.dropped = added, dropped
        return row


def check_key(key: Any) -> str:
    """Return a key of a row as plain text.

    Raises:
        BadRowError: it cannot be a column's name.
    """
    if not isinstance(key, str):
        raise BadRowError(f"the key {key!r} is not text; column names are text")
    name = str.__str__(key)
    if not _is_unicode(name):
        raise BadRowError(f"the key {key!r} is not valid Unicode text")
    return name


def added_text(added: dict[Any, Any]) -> str:
    """Return the values that add columns as outcomes keep them; their order stays.

    Raises:
        BadRowError: a key is no name of a column, or no column can hold its value.
    """
    if len(added) > MOST_ADDED:
        raise BadRowError(f"the row has {len(added):,} keys that are no column; it may add {MOST_ADDED:,}")
    if set(map(type, added)) == {str} and set(map(type, added.values())) <= _OF_JSON:
        with suppress(NestedError):  # the way below says which value it is
            return encode(added, plain_item)
    items = []
    for key, value in added.items():
        name = check_key(key)
        items.append(f"{orjson.dumps(encode_key(name)).decode()}:{_value_text(plain_value(value, name), name)}")
    return f"{{{','.join(items)}}}"


def dropped_names(keys: Iterable[Any]) -> tuple[str, ...]:
    """Return the names by which keys are told that were left out: the first `MOST_KEPT`, each shortened."""
    texts = (str.__str__(key) if isinstance(key, str) else _shown(key) for key in islice(keys, MOST_KEPT))
    return tuple(shorten(text.encode("utf-8", "backslashreplace").decode()) for text in texts)


def names_text(names: Iterable[str]) -> str | None:
    """Return names as outcomes keep them; None: there are none."""
    listed = list(dict.fromkeys(names))
    return json.dumps(listed, ensure_ascii=False) if listed else None


def most_dropped(n_files: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the `MOST_DROPPED` keys that were left out of the most files."""
    return sorted(n_files.items(), key=lambda item: (-item[1], item[0]))[:MOST_DROPPED]


def told_dropped(n_files: Mapping[str, int]) -> str:
    """Return in words which keys were left out, and of how many files."""
    most = [f'"{shorten(name)}" ({count_of(n, "file")})' for name, n in most_dropped(n_files)[:MOST_TOLD]]
    return f"keys that are no column were left out: {_and_more(most, len(n_files))}"


def told_columns(names: Sequence[str]) -> str:
    """Return the beginning of a sentence about columns, with a verb: they hold."""
    shown = _and_more([f'"{shorten(name)}"' for name in names[:MOST_TOLD]], len(names))
    return f"column {shown} holds" if len(names) == 1 else f"columns {shown} hold"


# Private functions

_OF_JSON = {int, float, str, bool, type(None), list, dict}
"""Types of values that are kept together as fast as one."""


def _and_more(shown: list[str], n: int) -> str:
    return ", ".join(shown) + (f", and {n - len(shown):,} more" if n > len(shown) else "")


def _value_text(value: Any, name: str) -> str:
    if type(value) is Nested:
        return value.text
    if variant_of(value) == "int" and not -(1 << 63) <= value < 1 << 63:
        raise BadRowError(f"column {name!r}: the int {_shown(value)} does not fit 64 bit")
    if isinstance(value, str) and not _is_unicode(value):
        raise BadRowError(f"column {name!r}: {_shown(value)} is not valid Unicode text")
    try:
        return encode(value, plain_item)
    except NestedError as error:
        raise BadRowError(f"column {name!r}: {error}") from error
