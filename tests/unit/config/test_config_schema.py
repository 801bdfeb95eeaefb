"""The JSON schema: what editors are told of a config is what r3po takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import test_settings
import yaml
from hypothesis import given
from hypothesis import strategies as st

from r3po.config.keys import Keys
from r3po.config.schema import config_schema, schema_text
from r3po.config.settings import load_config
from r3po.errors import ConfigError

ROOT = Path(__file__).parents[3]
SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SIX = {**test_settings.SIX, "processes": 2}


def lines_of(test: Any) -> list[Any]:
    """Return the first argument of each case of a test."""
    return [case[0] for mark in test.pytestmark if mark.name == "parametrize" for case in mark.args[1]]


GOOD = lines_of(test_settings.test_an_optional_key_is_taken_as_written)
GOOD += [f"max_errors: {value}" for value in lines_of(test_settings.test_max_errors_is_a_number_a_share_or_none)]
GOOD += ["processes: auto", "count_all_files: 6\ncount_job_files: [what, ever]", "columns: null", "columns: {a: bool}"]
GOOD += ['columns: {a: "decimal(10,2)", b: list<list<int8>>, c: " list< date > "}']

TOLD_BY_R3PO_ALONE = (
    "must not hold line breaks",
    "must not be empty",
    "there is no such user's home",
    "lies inside source_path",
    "is source_path",
    "holds source_path",
    "must be the end of file names",
    "snappy has no levels; take this out",
    "must be from 1 to 9 for gzip",
    "{value} is no column type; write list",
    '"set" is no type',
    "a decimal",
    "must be at most 3,600",  # .nan and .inf, which JSON does not have
)
"""Reasons that are no matter of types."""

IN_R3PO_ALONE = (
    "processes: 2.0",
    "timeout_seconds: .nan",
    "parquet:\n  2: 3",
    "<<: {csv: true}",
    "yes: 1",
    "[a, b]: 1",
)
"""In JSON 2.0 is a whole number; and keys that are no plain text."""

BAD = [
    line
    for reason, lines in test_settings.PROBLEMS.items()
    if not reason.startswith(TOLD_BY_R3PO_ALONE)
    for line in lines
]


def values_of(text: str) -> Any:
    try:
        return {**SIX, **yaml.safe_load(text)}
    except (yaml.YAMLError, ValueError, TypeError):
        pytest.skip("not what YAML can read by itself")


def test_it_is_a_schema_of_draft_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(schema_text()) == SCHEMA
    assert "title" not in json.dumps(SCHEMA["properties"])


@pytest.mark.parametrize("line", GOOD)
def test_what_r3po_takes_it_takes(tmp_path: Path, line: str) -> None:
    key = line.partition(":")[0]
    if key in SIX:
        test_settings.load(tmp_path, **{key: line.partition(": ")[2]})
    else:
        test_settings.load(tmp_path, line)
    VALIDATOR.validate(values_of(line))


@pytest.mark.parametrize("line", [line for line in BAD if line not in IN_R3PO_ALONE])
def test_a_wrong_type_or_an_unknown_key_it_refuses(line: str) -> None:
    assert not VALIDATOR.is_valid(values_of(line))


@pytest.mark.parametrize("file", sorted(ROOT.glob("sample/*.yaml")), ids=lambda file: file.name)
def test_it_takes_the_configs_that_come_with_r3po(file: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(file.read_text()))


def test_each_key_must_be_there_that_r3po_needs_and_is_described() -> None:
    for key in SIX:
        assert not VALIDATOR.is_valid({name: value for name, value in SIX.items() if name != key}), key
    for key, field in Keys.model_fields.items():
        assert SCHEMA["properties"][key]["description"] == field.description


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5000),
    st.floats(allow_nan=False, allow_infinity=False, width=16),
    st.sampled_from(
        ["path", "bytes", "content", "stat", "warn", "drop", "auto", "all", "none", "1%", "5", "a.py:f", ""]
    ),
    st.lists(st.sampled_from(["a", "**/b", "c"]), max_size=2),
    st.dictionaries(st.sampled_from(["level", "compression", "x"]), st.sampled_from(["int8", "zstd", 3, None])),
)


@given(st.dictionaries(st.sampled_from([*Keys.model_fields, "colour"]), VALUES, max_size=3))
def test_no_config_is_refused_by_it_that_r3po_takes(values: dict[str, Any]) -> None:
    config = {**SIX, **values}
    try:
        load_config(config)
    except ConfigError:
        return
    VALIDATOR.validate(config)
