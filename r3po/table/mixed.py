"""Why a column is text: where its values, at whatever depth of lists and dicts, have no type in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import pyarrow as pa

from r3po.table.lattice import MIXED, join_types
from r3po.table.outcomes import Schema, gather, variants_in
from r3po.table.rows import Rows
from r3po.table.schema import plain_values
from r3po.table.values import family_of, variant_of
from r3po.text import shorten_path

MOST_PATH = 60
"""Characters of a file's path that are said."""


class Mixture(NamedTuple):
    """Two values of one place in a column that no type holds."""

    inside: str
    """The place: `size.width`, or `tags[]` for what is in a list."""
    kinds: tuple[str, str]
    files: tuple[str, str]
    """The first file of each kind."""


def find_mixture(name: str, values: Iterable[tuple[str, Any]]) -> Mixture | None:
    """Return the first two values of a column that have no type in common; None: too many keys, levels or digits.

    Args:
        name: of the column.
        values: each with its file; lists and dicts are plain ones.
    """
    first: dict[str, tuple[str, str]] = {}
    for file, value in values:
        for inside, kind in _kinds_in(name, value):
            known, known_file = first.setdefault(inside, (kind, file))
            if known != kind:
                return Mixture(inside, (known, kind), (known_file, file))
    return None


def describe_mixed(name: str, found: Mixture | None) -> str:
    """Say for people what is mixed in a column."""
    if found is None:
        return f'column "{name}" holds values of different kinds, or too many keys'
    (first, second), files = found.kinds, [shorten_path(file, MOST_PATH) for file in found.files]
    where = f"{first} and {second} in {files[1]}"
    if found.files[0] != found.files[1]:
        where = f"{first} in {files[0]} and {second} in {files[1]}"
    inside = "" if found.inside == name else f"{found.inside} is "
    return f'column "{name}" holds values of different kinds: {inside}{where}'


def mixing_shards(schemas: Sequence[Schema], i: int) -> tuple[int, ...]:
    """Return which of the shards' schemas mix column number `i`: one by itself, two together, or none of its own."""
    types = [schema.field(i).type for schema in schemas]
    joined = pa.null()
    for number, of_shard in enumerate(types):
        if of_shard == MIXED:
            return (number,)
        joined = join_types(joined, of_shard)
        if joined == MIXED:
            others = (other for other in range(number) if join_types(types[other], of_shard) == MIXED)
            return next(((other, number) for other in others), ())
    return ()


def iter_values(rows: Rows, i: int) -> Iterator[tuple[int, Any]]:
    """Yield place and plain value of the rows that have one in column number `i`, in their order."""
    for start, stop in rows.groups():
        places, group = rows.places(start, stop).to_pylist(), rows.at(start, stop)
        found: list[tuple[int, Any]] = []
        for variant in variants_in(rows.table, i):
            values = gather(rows.table[f"{i}.{variant}"], group)
            plain = enumerate(plain_values(values, variant))
            found += [(number, value) for number, value in plain if value is not None]
        yield from ((places[number], value) for number, value in sorted(found, key=itemgetter(0)))


# Private functions


def _kinds_in(inside: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what each value in a value is, with its place."""
    if type(value) is list:
        yield inside, "list"
        for item in value:
            yield from _kinds_in(f"{inside}[]", item)
    elif type(value) is dict:
        yield inside, "dict"
        for key, item in value.items():
            yield from _kinds_in(f"{inside}.{key}", item)
    elif value is not None:
        yield inside, family_of(variant_of(value))
