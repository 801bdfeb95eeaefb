"""Words for people: lines that wrap."""

from __future__ import annotations

import pytest

from r3po.text import failure_lines, wrap_lines


@pytest.mark.parametrize(
    ("text", "wrapped"),
    [
        ("short", "short"),
        ("", ""),
        ("hint:  one two three four five six", "hint:  one two three four five\n       six"),
        ("  Last   one two three four five six", "  Last   one two three four\n         five six"),
        ("Columns   one two three four five", "Columns   one two three four\n          five"),
        ("a/path/that/is/longer/than/one/line and more", "a/path/that/is/longer/than/one/line\nand more"),
        ("the first line is long and wraps\n\nsecond", "the first line is long and\nwraps\n\nsecond"),
        ("these are words with a well-known-one", "these are words with a\nwell-known-one"),
    ],
)
def test_lines_wrap_at_blanks_and_further_ones_are_indented(text: str, wrapped: str) -> None:
    assert wrap_lines(text, 30) == wrapped


def test_a_failure_of_too_many_lines_ends_with_dots_and_its_path_is_shortened_in_the_middle() -> None:
    failure = f"{'folder/' * 10}a.json  KeyError: one two three four five six seven eight nine ten"
    whole = failure_lines("last  ", failure, 40)
    short = failure_lines("last  ", failure, 40, most=2)
    assert max(map(len, whole + short)) <= 40
    assert whole[0].startswith("last  folder/") and "..." in whole[0] and whole[0].endswith("a.json")
    assert " ".join(" ".join(whole[1:]).split()) == "KeyError: one two three four five six seven eight nine ten"
    assert short[0] == whole[0] and len(short) == 2
    assert short[1] == "      KeyError: one two three four ..."
    assert failure_lines("last  ", "a.json  KeyError: 'n'", 40, most=1) == ["last  a.json  KeyError: 'n'"]
