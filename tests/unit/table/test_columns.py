"""What a row may be, and how its values are kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import types
import zoneinfo
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from r3po.errors import StopNow, TimedOut
from r3po.table.columns import Column, Columns, RowCollector, check_value, columns_of, is_row
from r3po.table.user_objects import ends_worker, text_of, type_name
from r3po.table.values import NULL, VARIANTS, BadRowError, Nested, family_of, plain_value, variant_of
from value_table import REFUSED, VALUES, Faceless, Fruit, Name, Odd, Point, Value, raising

PLAIN = {"int": int, "float": float, "text": str, "bool": bool, "bytes": bytes, "date": dt.date, "time": dt.time}
PLAIN |= {"timestamp": dt.datetime, "timestamp_utc": dt.datetime, "decimal": Decimal, "list": Nested, "dict": Nested}
STORED = {name: value for name, value in VALUES.items() if value.variant}
FAMILIES = sorted({family_of(value.variant) for value in STORED.values()})


# Families and variants


@pytest.mark.parametrize("value", STORED.values(), ids=STORED)
def test_every_value_is_plain_of_one_variant_and_at_home_in_one_family(value: Value) -> None:
    found, family = plain_value(value.make(), "x"), family_of(value.variant)
    assert type(found) is PLAIN[value.variant]
    assert variant_of(found) == value.variant
    assert value.variant in VARIANTS
    assert columns_of({"x": value.make()}).items == (Column("x", family),)
    for other in FAMILIES:
        if other == family:
            assert repr(check_value(value.make(), Column("x", family))) == repr(found)
            continue
        with pytest.raises(BadRowError, match=rf"^column 'x': expected {other}, found {family} "):
            check_value(value.make(), Column("x", other))


def test_none_is_at_home_in_every_column() -> None:
    assert [check_value(None, Column("x", family)) for family in (NULL, *FAMILIES)] == [None] * (1 + len(FAMILIES))


def test_only_int_and_float_share_a_family() -> None:
    families = [family_of(variant) for variant in VARIANTS]
    assert sorted(v for v, f in zip(VARIANTS, families, strict=True) if families.count(f) > 1) == ["float", "int"]


def test_a_refused_value_is_shown_whole_if_short_and_cut_if_long() -> None:
    with pytest.raises(BadRowError) as caught:
        check_value([1, 2], Column("kg", "number"))
    assert str(caught.value) == "column 'kg': expected number, found list '[1,2]' (taken with mixed: json)"
    with pytest.raises(BadRowError) as caught:
        check_value("x" * 1_000_000, Column("kg", "number"))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_value_is_refused_by_every_column_with_a_short_reason(name: str) -> None:
    make, why = REFUSED[name]
    for family in ("number", "text", "list", "timestamp", NULL):
        with pytest.raises(BadRowError, match=r"^column 'x': ") as caught:
            check_value(make(), Column("x", family))
        assert len(str(caught.value).encode()) < 300
    assert why in str(caught.value)
    with pytest.raises(BadRowError, match=r"^column 'b': ") as caught:
        columns_of({"a": 1, "b": make()})
    assert why in str(caught.value)


def test_the_hour_that_comes_twice_in_autumn_keeps_its_side() -> None:
    try:
        berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone data here")
    both = [plain_value(dt.datetime(2020, 10, 25, 2, 30, tzinfo=berlin, fold=fold), "x") for fold in (0, 1)]
    assert [value.isoformat() for value in both] == ["2020-10-25T00:30:00+00:00", "2020-10-25T01:30:00+00:00"]


def raise_(error: BaseException) -> Any:
    raise error


def rays_own() -> SystemExit:
    error = SystemExit(0)
    error.ray_terminate_msg = "the raylet is gone"  # type: ignore[attr-defined]
    return error


class Claiming(SystemExit):
    """Has whatever it is asked for, and says that it is a StopNow."""

    __class__ = StopNow  # type: ignore[assignment]

    def __getattr__(self, name: str) -> None:
        return None


class Biting(str):
    """A text that ends the program when it is used."""

    def __len__(self) -> int:
        raise SystemExit(5)

    __getitem__ = __format__ = encode = replace = __len__  # type: ignore[assignment]


QUITTERS = [SystemExit(5), KeyboardInterrupt(), GeneratorExit(), Claiming(5)]
ENDINGS = [StopNow, TimedOut, rays_own]


@pytest.mark.parametrize("error", QUITTERS, ids=type_name)
def test_a_value_that_quits_is_refused_like_one_that_raises(error: BaseException) -> None:
    with pytest.raises(BadRowError, match=f"a value of type Biter cannot be read: {type_name(error)}"):
        check_value(raising(error), Column("x", "number"))
    assert text_of(lambda _: raise_(error), None, "raised {}, {}") == "raised {0}, {0}".format(type_name(error))


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_the_worker_passes_whoever_looks_at_values(ending: Callable[[], BaseException]) -> None:
    class Ending:
        __class__ = property(lambda self: raise_(ending()))  # type: ignore[assignment]

    for look in (is_row, lambda value: plain_value(value, "x"), lambda value: text_of(raise_, ending(), "")):
        with pytest.raises((StopNow, TimedOut, SystemExit)) as caught:
            look(Ending())
        assert ends_worker(caught.value)


def test_a_value_of_an_odd_class_is_refused_by_the_name_that_its_class_has() -> None:
    for value, name in ((Odd(), "Odd"), (Faceless(), "Faceless"), ([Odd()], "list")):
        with pytest.raises(BadRowError, match=f"(a value of type|this) {name} "):
            plain_value(value, "x")
        assert not is_row(value)
    assert type(type_name(type(Biting("Named"), (), {})())) is str
    for instead in ("", "no {} here"):
        shown = text_of(lambda _: Biting("shown"), None, instead)
        assert (type(shown), shown) == (str, "shown")


# The first row


def test_the_first_row_sets_names_order_and_families() -> None:
    columns = columns_of({"z": 1, "a": None, "m": "x", "über,\n": [1]})
    assert columns == Columns(
        (Column("z", "number"), Column("a", NULL), Column("m", "text"), Column("über,\n", "list"))
    )
    assert columns.names == ("z", "a", "m", "über,\n")
    assert Columns.from_json(json.loads(json.dumps(columns.to_json()))) == columns


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5, "a\udcff"], ids=repr)
def test_a_key_that_is_not_text_sets_no_columns_and_no_key_neither(key: Any) -> None:
    why = "valid Unicode text" if isinstance(key, str) else "text; column names are text"
    with pytest.raises(BadRowError) as caught:
        columns_of({"a": 1, key: 2})
    assert str(caught.value) == f"the key {key!r} is not {why}"
    with pytest.raises(BadRowError, match="empty dict"):
        columns_of({})


@pytest.mark.parametrize("returned", [None, [("a", 1)], "a", Point(1, 2), dict], ids=repr)
def test_only_a_mapping_can_be_a_row(returned: object) -> None:
    assert is_row({}) and not is_row(returned)


def test_column_names_are_plain_text_whatever_class_the_keys_are_of() -> None:
    (column,) = columns_of({Fruit.PEAR: 1}).items
    assert (type(column.name), column.name) == (str, "pear")
    assert RowCollector(columns_of({Fruit.PEAR: 1})).take({Fruit.PEAR: 2}) == (2,)


# Taking rows


def collector(**first: Any) -> RowCollector:
    return RowCollector(columns_of(first))


def test_values_come_in_column_order_whatever_the_order_of_the_keys() -> None:
    assert collector(a=1, b="x", c=2.5).take({"c": 1, "a": 2, "b": "y"}) == (2, "y", 1)
    assert collector(a="x").take({"a": "text"}) == ("text",), "a single column makes a tuple, too"
    assert collector(a=1).take({"a": None}) == (None,)


@pytest.mark.parametrize(
    "row",
    [
        OrderedDict(b="x", a=1),
        defaultdict(list, a=1, b="x"),
        UserDict(a=1, b="x"),
        types.MappingProxyType({"a": 1, "b": "x"}),
        ChainMap({"a": 1}, {"a": 2, "b": "x"}),
    ],
    ids=type_name,
)
def test_every_kind_of_mapping_is_a_row_and_invents_no_missing_key(row: Any) -> None:
    assert is_row(row)
    assert collector(a=5, b="y").take(row) == (1, "x")
    with pytest.raises(BadRowError, match="missing 'c'"):
        collector(a=5, b="y", c=1).take(row)
    assert dict(row) == {"a": 1, "b": "x"}


NULL_KEYS, EXTRA_KEYS = "missing_keys: null", "extra_keys: drop or add"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1}, f"missing 'b' (taken with {NULL_KEYS})"),
        ({}, f"missing 'a', 'b' (taken with {NULL_KEYS})"),
        ({"a": 1, "b": 2, "c": 3}, f"not a column of this job: 'c' (taken with {EXTRA_KEYS})"),
        ({"a": 1, "B": 2}, f"missing 'b'; not a column of this job: 'B' (taken with {NULL_KEYS} and {EXTRA_KEYS})"),
        ({"a": 1, "b": 2, 3: 4}, f"not a column of this job: 3 (taken with {EXTRA_KEYS})"),
        (
            {1: 1, None: 2},
            f"missing 'a', 'b'; not a column of this job: 1, None (taken with {NULL_KEYS} and {EXTRA_KEYS})",
        ),
    ],
    ids=repr,
)
def test_other_keys_are_refused_with_what_is_missing_and_what_is_too_much(row: dict[Any, Any], message: str) -> None:
    taker = collector(a=1, b=2)
    with pytest.raises(BadRowError) as caught:
        taker.take(row)
    assert str(caught.value) == f"the row's keys differ from the job's columns, which its first row set: {message}"
    assert taker.take({"a": 1, "b": 2}) == (1, 2)
    with pytest.raises(BadRowError) as caught:
        taker.take({f"column {i}": i for i in range(5000)})
    assert len(str(caught.value)) < 360


def test_what_f_changes_after_it_returned_does_not_reach_the_row() -> None:
    rows: list[Any] = [[1, [2]], {"k": [1]}, bytearray(b"ab"), [3], np.zeros(3, dtype=int)]
    taker = collector(numbers=[0], inner={}, raw=b"", later=None, array=[0])
    taken = taker.take(dict(zip(taker.columns.names, rows, strict=True)))
    rows[0][1].append(99)
    rows[1]["k"].clear()
    rows[2][:] = b"zzzz"
    rows[3][0] = "changed"
    rows[4][:] = 9
    texts = [item if isinstance(item, bytes) else item.text for item in taken]
    assert texts == ["[1,[2]]", '{"k":[1]}', b"ab", "[3]", "[0,0,0]"]


@pytest.mark.parametrize(
    "value",
    ["x" * 1000, b"x" * 1000, ["x" * 1000], {"a": "x" * 1000}, Name("x" * 1000), 5],
    ids=type_name,
)
def test_the_size_of_rows_grows_with_what_they_hold(value: Any) -> None:
    least = 8 if value == 5 else 1000
    for first in (type(value)(), None):
        taker = collector(a=first)
        taker.take({"a": value})
        once = taker.size_bytes
        taker.take({"a": value})
        assert least <= once <= least + 100
        assert taker.size_bytes == 2 * once


def test_a_numpy_long_double_is_a_float_or_refused() -> None:
    with contextlib.suppress(BadRowError):
        assert variant_of(plain_value(np.longdouble(1.5), "x")) == "float"
