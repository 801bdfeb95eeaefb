"""What each key means, and what a config makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_settings import load, write_config

from r3po.config.explain import NOT_SET, REQUIRED, Setting, explain_config, in_yaml, key_meanings
from r3po.config.keys import Keys
from r3po.errors import ConfigError


def explained(folder: Path, *more: str, **changed: str | None) -> dict[str, Setting]:
    return {setting.key: setting for setting in explain_config(write_config(folder, *more, **changed))}


@pytest.mark.parametrize("known", key_meanings(), ids=lambda known: known.key)
def test_every_key_has_a_meaning_and_a_default_or_an_example(tmp_path: Path, known: Any) -> None:
    assert len(known.meaning) > 10, f"{known.key} has no description in config/keys.py"
    assert known.default, known.key
    assert known.example, f"{known.key} has neither a default nor an example in config/keys.py"
    if not known.is_required:
        needed = "rows: many\n" if known.key == "row_column" else ""
        load(tmp_path, f"{needed}{known.key}: {known.example}")


@pytest.mark.parametrize("known", [known for known in key_meanings() if known.default not in (REQUIRED, NOT_SET)])
def test_a_default_that_is_written_down_is_the_default(tmp_path: Path, known: Any) -> None:
    assert getattr(load(tmp_path, f"{known.key}: {known.default}"), known.key) == Keys.model_fields[known.key].default


def test_each_value_comes_from_a_line_or_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    found = explained(
        tmp_path,
        "parquet: false",
        "max_errors: 1%",
        "columns: {a: int8, b: list<date>}",
        processes="auto",
        source_path="${DATA}/log",
    )
    assert list(found) == list(Keys.model_fields)
    source, work, processes = found["source_path"], found["working_dir"], found["processes"]
    assert (source.value, source.line, source.written, source.variables) == ("/data/log", 3, "${DATA}/log", ("DATA",))
    assert (work.value, work.line, work.written) == (str(tmp_path / "working_dir"), 5, "working_dir")
    assert (type(processes.value), processes.written) == (int, "auto")
    assert (found["parquet"].value, found["parquet"].shown) == (False, "false")
    assert (found["max_errors"].value, found["max_errors"].line) == ("1%", 8)
    assert found["columns"].value == {"a": "int8", "b": "list<date>"}
    assert found["columns"].shown == "{a: int8, b: list<date>}"
    for key in ("csv", "hash", "timeout_seconds"):
        assert (found[key].line, found[key].written) == (None, None)
    assert (found["csv"].shown, found["timeout_seconds"].shown) == ("true", NOT_SET)
    assert found["csv"].to_json() == {
        "key": "csv",
        "value": True,
        "from": "default",
        "line": None,
        "written": None,
        "variables": [],
        "default": "true",
        "meaning": "write CSV parts",
    }


def test_a_wrong_config_is_told_as_a_run_would(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 2 problems"):
        explained(tmp_path, "colour: red", processes="0")


@given(st.text(max_size=20))
def test_a_text_in_yaml_is_that_text_also_within_brackets(text: str) -> None:
    shown = in_yaml({"all": [text, {text: text}]})
    assert "\n" not in shown
    assert yaml.safe_load(f"key: {in_yaml(text)}") == {"key": text}
    assert yaml.safe_load(f"key: {shown}") == {"key": {"all": [text, {text: text}]}}
