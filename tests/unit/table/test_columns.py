"""What a row may be, and how its values are kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import json
import math
import types
import zoneinfo
from collections import ChainMap, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3po.errors import StopNow, TimedOut
from r3po.table.columns import Column, Columns, RowCollector, check_value, columns_of, is_row
from r3po.table.nested import decode
from r3po.table.user_objects import ends_worker, text_of, type_name
from r3po.table.values import NULL, VARIANTS, BadRowError, Nested, family_of, plain_value, variant_of

SOME = settings(derandomize=True, max_examples=150, deadline=None)

NOON = dt.datetime(2020, 5, 17, 12, 30, 15, 250_000)
CEST = dt.timezone(dt.timedelta(hours=2))


class Colour(enum.IntEnum):
    RED = 1


class Fruit(enum.StrEnum):
    PEAR = "pear"


class Name(str):
    """A str that shows itself as something else."""

    def __str__(self) -> str:
        return "shown"


class Metres(float):
    pass


class Blob(bytes):
    pass


class Moment(dt.datetime):
    pass


class Day(dt.date):
    pass


class Price(Decimal):
    pass


Point = namedtuple("Point", "x y")

VALUES: list[tuple[Any, str, str, Any]] = [
    # value, family, variant, the plain value
    (1, "number", "int", 1),
    (-(1 << 63), "number", "int", -(1 << 63)),
    (1.5, "number", "float", 1.5),
    (math.inf, "number", "float", math.inf),
    ("a", "text", "text", "a"),
    ("", "text", "text", ""),
    ("\x00\r\n€😀", "text", "text", "\x00\r\n€😀"),
    (True, "bool", "bool", True),
    (b"\xff\x00", "bytes", "bytes", b"\xff\x00"),
    (bytearray(b"ab"), "bytes", "bytes", b"ab"),
    (dt.date(2020, 5, 17), "date", "date", dt.date(2020, 5, 17)),
    (NOON, "timestamp", "timestamp", NOON),
    (NOON.replace(tzinfo=CEST), "timestamp_utc", "timestamp_utc", NOON.replace(hour=10, tzinfo=dt.UTC)),
    (dt.time(1, 2, 3, 4), "time", "time", dt.time(1, 2, 3, 4)),
    (Decimal("1.50"), "decimal", "decimal", Decimal("1.50")),
    ([1, "a", None, {"b": 2.5}], "list", "list", Nested('[1,"a",null,{"b":2.5}]', "list")),
    ((1, 2), "list", "list", Nested("[1,2]", "list")),
    (Point(1, 2), "list", "list", Nested("[1,2]", "list")),
    ([], "list", "list", Nested("[]", "list")),
    ({"b": 1, "a": [True]}, "dict", "dict", Nested('{"b":1,"a":[true]}', "dict")),
    ({}, "dict", "dict", Nested("{}", "dict")),
    (OrderedDict(b=1, a=2), "dict", "dict", Nested('{"b":1,"a":2}', "dict")),
    (types.MappingProxyType({"a": 1}), "dict", "dict", Nested('{"a":1}', "dict")),
    # subclasses lose what makes them special, never their value
    (Colour.RED, "number", "int", 1),
    (Metres(2.5), "number", "float", 2.5),
    (Fruit.PEAR, "text", "text", "pear"),
    (Name("true name"), "text", "text", "true name"),
    (Blob(b"x"), "bytes", "bytes", b"x"),
    (Moment(2020, 5, 17, 12, 30, 15, 250_000), "timestamp", "timestamp", NOON),
    (Day(2020, 5, 17), "date", "date", dt.date(2020, 5, 17)),
    (Price("1.5"), "decimal", "decimal", Decimal("1.5")),
]


# Families and variants


@pytest.mark.parametrize(("value", "family", "variant", "plain"), VALUES, ids=repr)
def test_every_value_has_one_family_one_variant_and_one_plain_form(
    value: Any, family: str, variant: str, plain: Any
) -> None:
    found = plain_value(value, "x")
    assert (found, type(found)) == (plain, type(plain))
    assert variant_of(found) == variant
    assert family_of(variant) == family
    assert variant in VARIANTS
    assert columns_of({"x": value}).items == (Column("x", family),)
    assert check_value(value, Column("x", family)) == plain
    assert check_value(value, Column("x", NULL)) == plain


def test_only_int_and_float_share_a_family() -> None:
    families = [family_of(variant) for variant in VARIANTS]
    assert sorted(v for v, f in zip(VARIANTS, families, strict=True) if families.count(f) > 1) == ["float", "int"]


@pytest.mark.parametrize("value", [value for value, *_ in VALUES], ids=repr)
@pytest.mark.parametrize("family", [*sorted({family for _, family, *_ in VALUES})])
def test_a_value_of_another_family_is_refused_with_column_expected_and_found(value: Any, family: str) -> None:
    own = columns_of({"x": value}).items[0].family
    if own == family:
        assert check_value(value, Column("x", family)) is not None
        return
    with pytest.raises(BadRowError, match=rf"^column 'x': expected {family}, found {own} "):
        check_value(value, Column("x", family))


def test_a_refused_value_is_shown_whole_if_short_and_cut_if_long() -> None:
    with pytest.raises(BadRowError) as caught:
        check_value([1, 2], Column("kg", "number"))
    assert str(caught.value) == "column 'kg': expected number, found list '[1,2]'"
    with pytest.raises(BadRowError) as caught:
        check_value("x" * 1_000_000, Column("kg", "number"))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("family", [NULL, "number", "text", "bool", "list", "dict", "timestamp_utc"])
def test_none_is_at_home_in_every_column(family: str) -> None:
    assert check_value(None, Column("x", family)) is None


def test_nan_is_a_float_like_any_other() -> None:
    assert math.isnan(check_value(math.nan, Column("x", "number")))


@pytest.mark.parametrize("family", ["number", NULL])
@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, 10**400])
def test_an_int_beyond_64_bit_is_refused(family: str, value: int) -> None:
    with pytest.raises(BadRowError, match=r"^column 'n': the int .* does not fit 64 bit$") as caught:
        check_value(value, Column("n", family))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("family", ["text", NULL])
def test_a_lone_surrogate_is_refused_and_shown_escaped(family: str) -> None:
    with pytest.raises(BadRowError) as caught:
        check_value("a\ud800", Column("name", family))
    assert str(caught.value) == r"column 'name': 'a\ud800' is not valid Unicode text"


@pytest.mark.parametrize(
    "value",
    [
        1j,
        {1, 2},
        frozenset(),
        object(),
        dt.timedelta(1),
        Fraction(1, 2),
        range(3),
        len,
        int,
        iter([1]),
        memoryview(b"a"),
        NotImplemented,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("family", ["number", NULL])
def test_a_value_of_an_unknown_type_is_refused_with_column_and_type(value: Any, family: str) -> None:
    message = f"column 'x': a value of type {type(value).__name__} cannot be stored"
    with pytest.raises(BadRowError) as caught:
        check_value(value, Column("x", family))
    assert str(caught.value) == message
    with pytest.raises(BadRowError) as caught:
        columns_of({"x": value})
    assert str(caught.value) == message


def test_a_time_of_day_with_a_zone_is_refused() -> None:
    with pytest.raises(BadRowError, match="time of day with a zone"):
        check_value(dt.time(1, tzinfo=dt.UTC), Column("x", "time"))


def test_the_hour_that_comes_twice_in_autumn_keeps_its_side() -> None:
    try:
        berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone data here")
    both = [plain_value(dt.datetime(2020, 10, 25, 2, 30, tzinfo=berlin, fold=fold), "x") for fold in (0, 1)]
    assert [value.isoformat() for value in both] == ["2020-10-25T00:30:00+00:00", "2020-10-25T01:30:00+00:00"]


@pytest.mark.parametrize(
    "value",
    [dt.datetime(1, 1, 1, tzinfo=CEST), dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(dt.timedelta(hours=-2)))],
    ids=repr,
)
def test_a_moment_that_is_no_year_in_utc_is_refused(value: dt.datetime) -> None:
    with pytest.raises(BadRowError):
        check_value(value, Column("x", "timestamp_utc"))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(int):
    """An int that cannot be read."""

    error: BaseException = ValueError("not today")

    def __int__(self) -> int:
        raise self.error


def odd(error: BaseException) -> Odd:
    value = Odd(3)
    value.error = error
    return value


def test_a_value_whose_own_methods_raise_is_refused() -> None:
    with pytest.raises(BadRowError) as caught:
        check_value(Odd(3), Column("x", "number"))
    assert str(caught.value) == "column 'x': a value of type Odd cannot be read: ValueError: not today"


@pytest.mark.parametrize("error", [Unprintable(), ValueError("\ud800"), ValueError("x" * 1_000_000)], ids=type)
def test_what_a_value_s_own_methods_raise_may_be_anything(error: Exception) -> None:
    with pytest.raises(BadRowError) as caught:
        check_value(odd(error), Column("x", "number"))
    assert len(str(caught.value).encode()) < 300


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


class OddMeta(type):
    __hash__ = None  # type: ignore[assignment]
    __name__ = property(lambda cls: raise_(SystemExit(5)))  # type: ignore[assignment]


class OddClass(metaclass=OddMeta):
    pass


class Faceless:
    __class__ = property(lambda self: raise_(SystemExit(5)))  # type: ignore[assignment]


class Biting(str):
    """A text that ends the program when it is used."""

    def __len__(self) -> int:
        raise SystemExit(5)

    __getitem__ = __format__ = encode = replace = __len__  # type: ignore[assignment]


QUITTERS = [SystemExit(5), KeyboardInterrupt(), GeneratorExit(), Claiming(5)]
ENDINGS = [StopNow, TimedOut, rays_own]


@pytest.mark.parametrize("error", QUITTERS, ids=type_name)
def test_a_value_that_quits_is_refused_like_one_that_raises(error: BaseException) -> None:
    with pytest.raises(BadRowError, match=f"a value of type Odd cannot be read: {type_name(error)}"):
        check_value(odd(error), Column("x", "number"))
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
    for value, name in ((OddClass(), "OddClass"), (Faceless(), "Faceless"), ([OddClass()], "list")):
        with pytest.raises(BadRowError, match=f"(a value of type|this) {name} "):
            plain_value(value, "x")
        assert not is_row(value)
    assert type(type_name(type(Biting("Named"), (), {})())) is str


@pytest.mark.parametrize("instead", ["", "no {} here"])
def test_text_of_what_cannot_be_shown_is_plain_text(instead: str) -> None:
    shown = text_of(lambda _: Biting("shown"), None, instead)
    assert (type(shown), shown) == (str, "shown")


@pytest.mark.parametrize("family", ["number", "text", NULL])
def test_an_int_of_more_digits_than_python_shows_is_refused(family: str) -> None:
    with pytest.raises(BadRowError, match=r"^column 'n': .* (int|number) -0x[0-9a-f]{97}\.\.\.") as caught:
        check_value(-(10**5000), Column("n", family))
    assert len(str(caught.value)) < 200


def test_a_time_zone_without_an_offset_is_none() -> None:
    class Nowhere(dt.tzinfo):
        def utcoffset(self, _: dt.datetime | None) -> None:
            return None

    found = plain_value(NOON.replace(tzinfo=Nowhere()), "x")
    assert (found, found.tzinfo, variant_of(found)) == (NOON, None, "timestamp")


def test_subclasses_of_bytes_and_times_are_unwrapped_whatever_they_say_they_are() -> None:
    class Bytes(bytes):
        def __bytes__(self) -> bytes:
            return self

    class Time(dt.time):
        pass

    for value, plain in ((Bytes(b"ab"), b"ab"), (Time(1, 2, 3, 4), dt.time(1, 2, 3, 4))):
        found = plain_value(value, "x")
        assert (type(found), found) == (type(plain), plain)


# Lists and dicts


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([{1}], "set"),
        ({"a": dt.timedelta(1)}, "timedelta"),
        ([dt.time(1, tzinfo=dt.UTC)], "zone"),
        ({"a": [{1: "a"}]}, "the key 1 in it is not text"),
        ({1: "a"}, "the key 1 in it is not text"),
        ([(1 << 63)], "64"),
        ([1 << 70], "64"),
        (["\ud800"], "UTF-8|surrogate"),
        ([object()], "object"),
    ],
    ids=["set", "timedelta", "zoned time", "nested int key", "int key", "uint64", "big int", "surrogate", "object"],
)
def test_a_list_or_dict_of_what_json_does_not_know_is_refused(value: Any, why: str) -> None:
    kind = type(value).__name__
    with pytest.raises(BadRowError, match=rf"^column 'x': (this {kind} cannot be stored: .*|a time of day .*)({why})"):
        plain_value(value, "x")


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadRowError, match=r"^column 'x': this list cannot be stored"):
        plain_value(loop, "x")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@SOME
@given(st.lists(JSON) | st.dictionaries(st.text(), JSON))
def test_lists_and_dicts_of_json_values_are_kept_exactly(value: Any) -> None:
    frozen = plain_value(value, "x")
    assert type(frozen) is Nested
    assert decode(frozen.text) == value
    assert list(decode(frozen.text)) == list(value)  # a dict's order, too
    assert plain_value(frozen, "x") is frozen


# The first row


def test_the_first_row_sets_names_order_and_families() -> None:
    columns = columns_of({"z": 1, "a": None, "m": "x", "über,\n": [1]})
    assert columns == Columns(
        (Column("z", "number"), Column("a", NULL), Column("m", "text"), Column("über,\n", "list"))
    )
    assert columns.names == ("z", "a", "m", "über,\n")
    assert Columns.from_json(json.loads(json.dumps(columns.to_json()))) == columns


def test_a_row_without_a_key_sets_no_columns() -> None:
    with pytest.raises(BadRowError, match="empty dict"):
        columns_of({})


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5], ids=repr)
def test_a_key_that_is_not_text_sets_no_columns(key: Any) -> None:
    with pytest.raises(BadRowError) as caught:
        columns_of({"a": 1, key: 2})
    assert str(caught.value) == f"the key {key!r} is not text; column names are text"


def test_a_key_with_a_lone_surrogate_sets_no_columns() -> None:
    with pytest.raises(BadRowError, match=r"the key 'a\\udcff' is not valid Unicode text"):
        columns_of({"a\udcff": 1})


@pytest.mark.parametrize("value", [1 << 63, "\ud800", object(), [object()]], ids=["int", "text", "object", "list"])
def test_a_row_that_cannot_be_stored_sets_no_columns(value: Any) -> None:
    with pytest.raises(BadRowError, match=r"^column 'b': "):
        columns_of({"a": 1, "b": value})


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ({}, True),
        (OrderedDict(), True),
        (defaultdict(int), True),
        (UserDict(), True),
        (types.MappingProxyType({}), True),
        (None, False),
        ([("a", 1)], False),
        ("a", False),
        (Point(1, 2), False),
        (dict, False),
    ],
    ids=repr,
)
def test_only_a_mapping_can_be_a_row(returned: object, expected: bool) -> None:
    assert is_row(returned) is expected


def test_column_names_are_plain_text_whatever_class_the_keys_are_of() -> None:
    (column,) = columns_of({Fruit.PEAR: 1}).items
    assert (type(column.name), column.name) == (str, "pear")
    assert RowCollector(columns_of({Fruit.PEAR: 1})).take({Fruit.PEAR: 2}) == (2,)


# Taking rows


def collector(**first: Any) -> RowCollector:
    return RowCollector(columns_of(first))


def test_values_come_in_column_order_whatever_the_order_of_the_keys() -> None:
    assert collector(a=1, b="x", c=2.5).take({"c": 1, "a": 2, "b": "y"}) == (2, "y", 1)


def test_a_row_of_a_single_column_is_a_tuple_too() -> None:
    assert collector(a=1).take({"a": 7}) == (7,)
    assert collector(a="x").take({"a": "text"}) == ("text",)
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
    ids=lambda row: type(row).__name__,
)
def test_every_kind_of_mapping_is_a_row(row: Any) -> None:
    assert collector(a=5, b="y").take(row) == (1, "x")


def test_a_defaultdict_does_not_invent_missing_keys() -> None:
    row = defaultdict(int, a=1)
    with pytest.raises(BadRowError, match="missing 'b'"):
        collector(a=1, b=2).take(row)
    assert dict(row) == {"a": 1}


HEADLINE = "the row's keys differ from the job's columns, which its first row set: "


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1}, "missing 'b'"),
        ({}, "missing 'a', 'b'"),
        ({"a": 1, "b": 2, "c": 3}, "not a column of this job: 'c'"),
        ({"a": 1, "B": 2}, "missing 'b'; not a column of this job: 'B'"),
        ({"a": 1, "b": 2, 3: 4}, "not a column of this job: 3"),
        ({1: 1, None: 2}, "missing 'a', 'b'; not a column of this job: 1, None"),
    ],
    ids=repr,
)
def test_other_keys_are_refused_with_what_is_missing_and_what_is_too_much(row: dict[Any, Any], message: str) -> None:
    taker = collector(a=1, b=2)
    with pytest.raises(BadRowError) as caught:
        taker.take(row)
    assert str(caught.value) == HEADLINE + message
    assert taker.take({"a": 1, "b": 2}) == (1, 2)


def test_a_row_of_thousands_of_other_keys_makes_a_short_message() -> None:
    with pytest.raises(BadRowError) as caught:
        collector(a=1).take({f"column {i}": i for i in range(5000)})
    assert len(str(caught.value)) < 300


def test_what_f_changes_after_it_returned_does_not_reach_the_row() -> None:
    rows: list[Any] = [[1, [2]], {"k": [1]}, bytearray(b"ab"), [3]]
    taker = collector(numbers=[0], inner={}, raw=b"", later=None)
    taken = taker.take(dict(zip(taker.columns.names, rows, strict=True)))
    rows[0][1].append(99)
    rows[1]["k"].clear()
    rows[2][:] = b"zzzz"
    rows[3][0] = "changed"
    assert taken == (Nested("[1,[2]]", "list"), Nested('{"k":[1]}', "dict"), b"ab", Nested("[3]", "list"))


def test_a_list_that_cannot_be_kept_is_refused_at_once() -> None:
    with pytest.raises(BadRowError, match=r"^column 'a': this list cannot be stored: "):
        collector(a=[]).take({"a": [object()]})


@pytest.mark.parametrize(
    ("first", "value", "least"),
    [
        ("", "x" * 1000, 1000),
        (b"", b"x" * 1000, 1000),
        ([], ["x" * 1000], 1000),
        ({}, {"a": "x" * 1000}, 1000),
        (1, 5, 8),
        (None, "x" * 1000, 1000),
        ("", Name("x" * 1000), 1000),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_the_size_of_rows_grows_with_what_they_hold(first: Any, value: Any, least: int) -> None:
    taker = collector(a=first)
    taker.take({"a": value})
    once = taker.size_bytes
    taker.take({"a": value})
    assert least <= once <= least + 100
    assert taker.size_bytes == 2 * once


# numpy, which r3po does not need but must not stumble over


def test_numpy_scalars_become_what_they_hold() -> None:
    np = pytest.importorskip("numpy")
    cases = [
        (np.int8(-3), -3, "int"),
        (np.int64(1 << 40), 1 << 40, "int"),
        (np.uint64(7), 7, "int"),
        (np.float64(1.5), 1.5, "float"),
        (np.float32(0.5), 0.5, "float"),
        (np.float16(2), 2.0, "float"),
        (np.bool_(True), True, "bool"),
        (np.str_("é"), "é", "text"),
        (np.bytes_(b"ab"), b"ab", "bytes"),
        (np.datetime64("2020-05-17"), dt.date(2020, 5, 17), "date"),
        (np.datetime64("2020-05-17T12:30:15.250000"), NOON, "timestamp"),
        (np.datetime64("2020-05-17T12:30", "s"), dt.datetime(2020, 5, 17, 12, 30), "timestamp"),
        (np.array(5), 5, "int"),
    ]
    for value, expected, variant in cases:
        found = plain_value(value, "x")
        assert (found, type(found), variant_of(found)) == (expected, type(expected), variant), repr(value)
    assert plain_value(np.datetime64("NaT"), "x") is None
    assert math.isnan(plain_value(np.float64("nan"), "x"))


def test_numpy_arrays_are_lists() -> None:
    np = pytest.importorskip("numpy")
    assert plain_value(np.array([[1, 2], [3, 4]]), "x") == Nested("[[1,2],[3,4]]", "list")
    assert plain_value(np.array([0.5]), "x") == Nested("[0.5]", "list")
    assert plain_value(np.array([]), "x") == Nested("[]", "list")
    assert plain_value([np.int32(1), np.float32(0.5), np.bool_(False), np.array([2])], "x").text == "[1,0.5,false,[2]]"
    assert plain_value({"a": np.array([1.0])}, "x").text == '{"a":[1.0]}'


def test_a_numpy_array_that_f_goes_on_using_is_frozen() -> None:
    np = pytest.importorskip("numpy")
    array = np.zeros(3, dtype=int)
    taken = collector(a=array).take({"a": array})
    array[:] = 9
    assert taken == (Nested("[0,0,0]", "list"),)


def test_numpy_values_that_no_column_can_hold_are_refused() -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(BadRowError, match="complex"):
        plain_value(np.complex128(1j), "x")
    with pytest.raises(BadRowError, match="timedelta"):
        plain_value(np.timedelta64(5, "s"), "x")
    with pytest.raises(BadRowError, match="does not fit 64 bit"):
        check_value(np.uint64((1 << 64) - 1), Column("x", "number"))


def test_a_numpy_long_double_is_a_float_or_refused() -> None:
    np = pytest.importorskip("numpy")
    with contextlib.suppress(BadRowError):
        assert variant_of(plain_value(np.longdouble(1.5), "x")) == "float"


def test_a_numpy_moment_in_nanoseconds_is_not_taken_for_a_number() -> None:
    np = pytest.importorskip("numpy")
    found = plain_value(np.datetime64("2020-05-17T12:30:15.250000000"), "x")
    assert (found, variant_of(found)) == (NOON, "timestamp")


@pytest.mark.parametrize(
    "text", ["20000-01-01", "-0001-01-01", "20000", "20000-01-01T00", "290000-01-01T00:00:00.000001"]
)
def test_a_numpy_moment_of_no_year_is_refused_rather_than_taken_for_a_number(text: str) -> None:
    np = pytest.importorskip("numpy")
    for value in (np.datetime64(text), np.datetime64(1 << 62, "s"), np.datetime64(1 << 61, "Y")):
        with pytest.raises(BadRowError, match="the years 1 to 9999 can"):
            plain_value(value, "x")
    assert plain_value(np.datetime64("NaT", "ns"), "x") is None


def test_a_numpy_duration_in_nanoseconds_is_refused_like_any_other() -> None:
    np = pytest.importorskip("numpy")
    with pytest.raises(BadRowError):
        plain_value(np.timedelta64(5, "ns"), "x")


def test_numpy_nanoseconds_in_a_list_are_moments() -> None:
    np = pytest.importorskip("numpy")
    moment = np.datetime64("2020-05-17T12:30:15.250000999")
    kept = '{"$":["timestamp","2020-05-17T12:30:15.250000"]}'
    for value in ([moment], np.array([moment]), np.array([[moment]])[0]):
        assert plain_value(value, "x").text == f"[{kept}]"
    assert plain_value({"a": moment}, "x").text == f'{{"a":{kept}}}'
    assert plain_value([np.array([moment])], "x").text == f"[[{kept}]]"
    days = np.array(["2020-01-01", "NaT"], "datetime64[D]")
    assert plain_value(days, "x").text == '[{"$":["date","2020-01-01"]},null]'


def test_numpy_durations_and_moments_of_no_year_are_refused_in_a_list_too() -> None:
    np = pytest.importorskip("numpy")
    late = np.datetime64("20000-01-01")
    for item in (np.timedelta64(5, "ns"), np.array([5], "timedelta64[ns]"), np.array([late]), late):
        for value in (item, [item], {"a": item}):
            with pytest.raises(BadRowError, match="cannot be stored"):
                plain_value(value, "x")


def test_pandas_moments_are_python_s() -> None:
    pd = pytest.importorskip("pandas")
    assert plain_value(pd.Timestamp(NOON), "x") == NOON
    assert type(plain_value(pd.Timestamp(NOON), "x")) is dt.datetime
    assert plain_value(pd.Timestamp(NOON, tz=CEST), "x") == NOON.replace(tzinfo=CEST)
    assert plain_value(pd.NaT, "x") is None
