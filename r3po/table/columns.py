"""The job's columns, and what a value of a row may be. Plain Python: no Arrow, no disk.

A column has a *family* for life (number, text, ...), set by the first row; a value of another family is the failure of
its file. Within a family a value has a *variant*, its own exact type (int or float); outcomes keep the variant of every
value, so that the join of a column's types can be made again at any time.

    family      variants
    number      int (64 bit), float
    text        text
    bool        bool
    bytes       bytes
    date        date
    timestamp   timestamp (no zone), timestamp_utc (any zone, kept as UTC) are two families of one variant each
    time        time
    decimal     decimal
    list, dict  list (tuples, arrays), dict: of any of these
    null        any: the first row had None there, or the type is json

What a row with other keys, or values of several families, come to is a `RowRules`.

`columns:` gives names, order and types instead, and `source_column` adds a column that is no value of the row: what the
config says is a `ColumnSettings`. What is on disk (names, order, families) never changes for it; what parts show does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, Self

from r3po.table.column_types import ColumnType
from r3po.table.ragged import (
    FAIL,
    KEYS_HELP,
    MIXED_HELP,
    RaggedRow,
    RowRules,
    added_text,
    check_key,
    dropped_names,
)
from r3po.table.user_objects import ends_worker
from r3po.table.values import (
    _EXACT,
    NULL,
    BadRowError,
    Nested,
    _as_given_type,
    _is_unicode,
    _shown,
    family_of,
    plain_value,
    variant_of,
)
from r3po.text import shorten

PART_BYTES = 1 << 30
"""About the most bytes of a part, where the config says nothing else."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    family: str
    column_type: ColumnType | None = None
    """The type that `columns:` gives it."""
    is_mixed: bool = False
    """Values of any family are taken (`mixed: json`)."""

    @property
    def taken(self) -> str:
        """The family whose values are taken; `NULL`: of any."""
        return NULL if self.is_mixed else self.family

    @property
    def kind(self) -> str:
        """What its values are, for people."""
        if self.column_type is not None:
            return str(self.column_type)
        return "any" if self.is_mixed else self.family


@dataclass(frozen=True)
class Columns:
    """Names and families of the job's columns, in order; and what the parts show of them."""

    items: tuple[Column, ...]
    shown: tuple[int, ...] | None = None
    """Numbers of the columns that parts show, in their order. None: all, as they are."""
    source: str | None = None
    """The column before all these, for each row's path."""
    rules: RowRules = FAIL
    number: str | None = None
    """The column behind `source`, and before all others, for the number of each row within its file."""

    @property
    def own_names(self) -> list[tuple[str, str]]:
        """Key and name of the columns that are no values of rows."""
        return _own_names(self.source, self.number)

    @property
    def in_parts(self) -> Sequence[int]:
        """Numbers of the columns that parts show, in their order."""
        return range(len(self.items)) if self.shown is None else self.shown

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.items)

    def to_json(self) -> list[dict[str, str]]:
        # Without types: these are the config's, which may change.
        return [{"name": column.name, "family": column.family} for column in self.items]

    @classmethod
    def from_json(cls, data: list[dict[str, str]]) -> Self:
        return cls(tuple(Column(item["name"], item["family"]) for item in data))


@dataclass(frozen=True, slots=True)
class ColumnSettings:
    """What the config says of the columns."""

    column_types: tuple[tuple[str, ColumnType], ...] | None = None
    """`columns:`; None: the first row sets them."""
    source: str | None = None
    """`source_column`."""
    rules: RowRules = FAIL
    """`missing_keys`, `extra_keys` and `mixed`."""
    number: str | None = None
    """`row_column`."""

    @property
    def own_names(self) -> list[tuple[str, str]]:
        """Key and name of the columns that are no values of rows."""
        return _own_names(self.source, self.number)

    def first(self, row: dict[str, Any]) -> Columns:
        """Return the columns that a job with this first row has.

        Raises:
            BadRowError: the row is none.
        """
        if self.column_types is None:
            columns = self.of(columns_of(row))
            _refuse_own_names(columns, columns.names)
            return columns
        columns = self.of(Columns(tuple(Column(name, column_type.family) for name, column_type in self.column_types)))
        values = RowCollector(columns).take(row)
        for value, column in zip(values, columns.items, strict=True):
            check_value(value, column)
        return columns

    def would_set(self, columns: Columns) -> bool:
        """Whether a first row could have set these columns under this config."""
        if self.column_types is None:
            return not any(name in columns.names for _, name in self.own_names)
        return [(name, column_type.family) for name, column_type in self.column_types] == [
            (c.name, c.family) for c in columns.items
        ]

    def of(self, columns: Columns) -> Columns:
        """Return the job's columns with the types and the order that parts are to have.

        Every name of `column_types` is one of them. Where keys may add columns, all columns are shown.
        """
        column_types = dict(self.column_types or ())
        items = tuple(self._as_taken(column, column_types.get(column.name)) for column in columns.items)
        if self.column_types is None:
            return Columns(items, None, self.source, self.rules, self.number)
        shown = [columns.names.index(name) for name in column_types]
        if self.rules.adds:
            shown += [i for i, name in enumerate(columns.names) if name not in column_types]
        return Columns(items, tuple(shown), self.source, self.rules, self.number)

    def _as_taken(self, column: Column, column_type: ColumnType | None) -> Column:
        is_mixed = self.rules.mixed == "json" and column_type is None
        return Column(column.name, column.family, column_type, is_mixed)

    def to_json(self) -> dict[str, Any]:
        """Return what the bytes of parts depend on, as a commit records it; nothing where nothing is said."""
        said: dict[str, Any] = {}
        if self.column_types is not None:
            said["columns"] = [[name, str(column_type)] for name, column_type in self.column_types]
        if self.source is not None:
            said["source_column"] = self.source
        if self.number is not None:
            said["row_column"] = self.number
        return said | self.rules.to_json()


def columns_of(row: dict[str, Any]) -> Columns:
    """Return the columns that a first row sets: its keys in its order, the family of each value.

    Raises:
        BadRowError: a key is not text, a value cannot be stored, or there is no key at all.
    """
    if not row:
        raise BadRowError("f returned an empty dict; a row needs at least one column")
    for name in row:
        check_key(name)
    plain = {str.__str__(name): value for name, value in row.items()}  # without the classes that texts may be of
    columns = tuple(Column(name, _family_of_value(name, value)) for name, value in plain.items())
    for column in columns:
        check_value(plain[column.name], column)
    return Columns(columns)


def is_row(returned: object) -> bool:
    """Whether f returned a dict at all; its keys and values are looked at later."""
    try:
        return isinstance(returned, Mapping)
    except BaseException as error:  # what it says of its class may be anything
        if ends_worker(error):
            raise
        return False


_KEPT_AS_THEY_ARE = frozenset([*_EXACT, type(None)])
"""Types whose values nobody can change."""


class RowCollector:
    """Takes rows one by one and gives back columns: the cheap half of checking happens here, per row.

    Values that f could still change after it returned (lists, dicts, arrays) are frozen at once.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.size_bytes = 0
        """A rough measure of what the rows hold; enough to bound memory."""
        self._names = frozenset(columns.names)
        self._take = _taker(columns.names)
        self._sized = [i for i, c in enumerate(columns.items) if c.taken in ("text", "bytes", NULL)]
        self._fixed_bytes = 16 * len(columns.items)

    def take(self, returned: Any) -> tuple[Any, ...]:
        """Return the row's values in column order; a `RaggedRow` if the row has keys that are no column.

        Raises:
            BadRowError: it has other keys than the job's columns, and the rules do not say what to do with them.
        """
        row = returned if type(returned) is dict else dict(returned)
        more = None
        if row.keys() == self._names:
            values = self._take(row)
        else:
            values, more = self._take_ragged(row)
        self.size_bytes += self._fixed_bytes
        if not _KEPT_AS_THEY_ARE.issuperset(map(type, values)):
            values = self._freeze(values)
        for i in self._sized:
            value = values[i]
            if isinstance(value, (str, bytes)):
                self.size_bytes += len(value)
        return values if more is None else RaggedRow(values, *more)

    def _take_ragged(self, row: dict[Any, Any]) -> tuple[tuple[Any, ...], tuple[str | None, tuple[str, ...]] | None]:
        """Return the values of a row with other keys than the columns, and what a `RaggedRow` says of the others."""
        columns, rules = self.columns, self.columns.rules
        if not row and rules.missing == "null":
            raise BadRowError("f returned an empty dict; a row needs at least one column")
        extra = [key for key in row if key not in self._names]
        if (extra and rules.extra == "fail") or (rules.missing == "fail" and len(row) - len(extra) < len(self._names)):
            raise BadRowError(_describe_keys(columns, row))
        values = tuple(map(row.get, columns.names))
        if not extra:
            return values, None
        if not rules.adds:
            dropped = dropped_names(extra)
            self.size_bytes += sum(map(len, dropped))
            return values, (None, dropped)
        _refuse_own_names(columns, extra)
        added = added_text({key: row[key] for key in extra})
        self.size_bytes += len(added)
        return values, (added, ())

    def _freeze(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        frozen = list(values)
        for i, value in enumerate(values):
            if value is not None and type(value) not in _EXACT:
                frozen[i] = value = plain_value(value, self.columns.names[i])
                if type(value) is Nested:
                    self.size_bytes += len(value.text)
        return tuple(frozen)


# Private functions


def _own_names(source: str | None, number: str | None) -> list[tuple[str, str]]:
    return [(key, name) for key, name in (("source_column", source), ("row_column", number)) if name is not None]


def _refuse_own_names(columns: Columns, names: Collection[Any]) -> None:
    """Raise BadRowError if one of these keys of a row is the name of a column that r3po adds."""
    for key, name in columns.own_names:
        if name in names:
            raise BadRowError(f"f returned a column {name!r}, which is {key}, too; rename either")


def _family_of_value(name: str, value: Any) -> str:
    value = plain_value(value, name)
    return NULL if value is None else family_of(variant_of(value))


def _taker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        only = names[0]
        return lambda row: (row[only],)
    return itemgetter(*names)


def _describe_keys(columns: Columns, row: dict[Any, Any]) -> str:
    names = columns.names
    by = "which its first row set" if columns.shown is None else "which the config's `columns` and its first row set"
    if columns.shown is not None and len(columns.shown) == len(names):
        by = "which the config's `columns` set"
    missing = [repr(name) for name in names if name not in row]
    extra = [repr(key) for key in row if key not in names]
    parts, help_ = [], []
    if missing and columns.rules.missing == "fail":
        parts.append(f"missing {shorten(', '.join(missing))}")
        help_.append("missing_keys: null")
    if extra and columns.rules.extra == "fail":
        parts.append(f"not a column of this job: {shorten(', '.join(extra))}")
        help_.append("extra_keys: drop or add")
    differ = f"the row's keys differ from the job's columns, {by}: {'; '.join(parts)}"
    return differ + KEYS_HELP.format(" and ".join(help_))


def check_value(value: Any, column: Column) -> Any:
    """Return a value as `column` keeps it, or raise.

    Raises:
        BadRowError: the value is of another family or does not fit the type that the config gives, is an int beyond 64
            bit, or text that is no Unicode.
    """
    value = plain_value(value, column.name)
    if value is None:
        return None
    if column.column_type is not None:
        value = _as_given_type(value, column.name, column.column_type)
    variant = variant_of(value)
    if column.column_type is None and column.taken not in (NULL, family_of(variant)):
        found = f"{family_of(variant)} {_shown(value.text if type(value) is Nested else value)}"
        raise BadRowError(f"column {column.name!r}: expected {column.family}, found {found}{MIXED_HELP}")
    if variant == "int" and not -(1 << 63) <= value < 1 << 63:
        raise BadRowError(f"column {column.name!r}: the int {_shown(value)} does not fit 64 bit")
    if variant == "text" and not _is_unicode(value):
        raise BadRowError(f"column {column.name!r}: {_shown(value)} is not valid Unicode text")
    return value
