"""Globs over paths: the same files as the standard library finds; folders that need not be entered."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

from r3po.source.globs import Globs

TREE = ("a.json", "b.txt", "a/a.json", "a/b/c.json", "a/b/b/c.txt", "ab/x.json", "b/a.json", "b/a/[x].json", "B/a.JSON")

PATTERNS = (
    *("*", "*.json", "?.txt", "[ab].*", "[!a].*", "a", "a/*", "a/**", "a/**/*", "**", "**/*", "**/*.json", "**/a.json"),
    *("**/b/**", "**/b/*", "a/**/c.*", "**/a/**/c.txt", "a/**/**/c.json", "**/[[]x].json", "*/*", "*b/*", "**/a"),
    *("no/**", "a/b", "a.json/*"),
)


def matches(globs: Globs, path: str) -> bool:
    states = globs.start
    for name in path.split("/"):
        states = globs.enter(states, name)
    return globs.is_match(states)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_matches_what_the_standard_library_finds(tmp_path: Path, pattern: str) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {path for path in glob.glob(pattern, root_dir=tmp_path, recursive=True) if os.path.isfile(tmp_path / path)}
    globs = Globs([pattern])
    assert {path for path in TREE if matches(globs, path)} == found


def test_one_of_several_is_enough_and_letter_case_counts_unless_it_is_ignored() -> None:
    globs = Globs(["x/*.json", "**/y"])
    assert [matches(globs, path) for path in ("x/1.json", "z/y", "x/1.txt", "y/1.json")] == [True, True, False, False]
    assert not matches(globs, "X/1.JSON") and matches(Globs(["x/*.json"], ignore_case=True), "X/1.JSON")
    assert not Globs([]) and not matches(Globs([]), "x")


def test_what_is_below_a_folder_is_known_before_it_is_entered() -> None:
    globs = Globs(["2024/*/x.json", "log/**"])

    def leads_on(path: str) -> bool:
        states = globs.start
        for name in path.split("/"):
            states = globs.enter(states, name)
        return globs.leads_on(states)

    assert [leads_on(path) for path in ("2024", "2024/01", "log", "log/a/b")] == [True] * 4
    assert [leads_on(path) for path in ("2023", "2024/01/x.json", "2024/01/x.json/y", "a/log")] == [False] * 4
    assert globs.is_match(globs.enter(globs.start, "log")), "a folder that is excluded as a whole is not entered"


def test_names_that_are_no_text_are_matched_too() -> None:
    name = os.fsdecode(b"caf\xe9.json")
    assert matches(Globs(["caf?.json"]), name) and matches(Globs(["*"]), "two\nlines")
