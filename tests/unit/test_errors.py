"""What r3po raises: one root, an exit code each, a text of one shape, and whole on its way out of a worker."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import r3po
from r3po import errors

KINDS: dict[str, int] = {
    "R3poError": 2,
    "ConfigError": 2,
    "SourceError": 2,
    "FunctionError": 2,
    "FolderError": 2,
    "StoreError": 2,
    "StateError": 2,
    "DamagedStateError": 2,
    "NewerFormatError": 2,
    "LockedError": 4,
    "RunStoppedError": 3,
}
"""Every kind with its exit code."""


def kinds() -> dict[str, type[errors.R3poError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, Exception)}


def test_every_kind_has_the_exit_code_of_the_table() -> None:
    assert {name: kind.exit_code for name, kind in kinds().items()} == KINDS


def test_every_kind_has_one_root_and_is_public() -> None:
    for name, kind in kinds().items():
        assert issubclass(kind, errors.R3poError)
        assert getattr(r3po, name) is kind
        assert name in r3po.__all__


def test_the_module_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    for name, code in KINDS.items():
        line = next(line for line in errors.__doc__.splitlines() if line.split("─")[-1].split()[:1] == [name])
        assert name == "R3poError" or str(code) in line


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_survives_pickle_with_its_attributes(name: str) -> None:
    error = kinds()[name]("it broke", where=Path("out/x.json"), evidence="line 1\nline 2", hint="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kinds()[name]
    assert (again.where, again.evidence, again.hint) == (Path("out/x.json"), "line 1\nline 2", "mend it")
    assert again.args == ("it broke",)
    assert again.exit_code == KINDS[name]
    assert str(again) == str(error)


def test_a_stopped_run_keeps_its_exit_code_and_result_through_pickle() -> None:
    error = errors.RunStoppedError("stopped", hint="go on", exit_code=130, result={"done": 5})
    again = pickle.loads(pickle.dumps(error))
    assert (again.exit_code, again.result, again.hint) == (130, {"done": 5}, "go on")


def test_an_error_is_where_and_what_then_evidence_then_the_hint() -> None:
    error = errors.StateError(
        "format 3 is newer than this r3po reads (2)",
        where=Path("out/manifest.json"),
        evidence="format: 3\nwritten by: 0.9",
        hint="upgrade r3po\nor rebuild the job",
    )
    assert str(error) == (
        "out/manifest.json: format 3 is newer than this r3po reads (2)\n"
        "  format: 3\n"
        "  written by: 0.9\n"
        "hint:  upgrade r3po\n"
        "       or rebuild the job"
    )


def test_an_error_with_nothing_but_what_is_one_line() -> None:
    assert str(errors.ConfigError("config.yaml is empty")) == "config.yaml is empty"
