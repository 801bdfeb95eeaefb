"""Words for people: lines that wrap."""

from __future__ import annotations

import pytest

from r3po.text import wrap_lines


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
