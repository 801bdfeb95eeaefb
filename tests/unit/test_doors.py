"""What a hint says in a terminal, a caller in Python is told as a call."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import r3po
from r3po.doors import ARGUMENTS, CALLS, in_python
from r3po.errors import ConfigError

ROOT = Path(r3po.__file__).parent


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("r3po run", "run_jobs(config)"),
        ("r3po run --redo makes all rows again", "run_jobs(config, redo=True) makes all rows again"),
        ("r3po run big.yaml --redo --accept-deletions", 'run_jobs("big.yaml", redo=True, accept_deletions=True)'),
        ("run_jobs --redo makes all rows", "run_jobs(config, redo=True) makes all rows"),
        ("(unchanged: --retry-failed)", "(unchanged: retry_failed=True)"),
        ("r3po run --engine serial", 'run_jobs(config, engine="serial")'),
        ("--max-errors none goes on", 'max_errors="none" goes on'),
        ("r3po run --max-errors 10, or 5%", "run_jobs(config, max_errors=10), or 5%"),
        ("give fewer with --processes", "give fewer with processes"),
        ("r3po build makes it; or without --no-build", "build_jobs(config) makes it; or without build=False"),
        ("r3po reset --all, then r3po run", "reset_all_tracking(config), then run_jobs(config)"),
        ("r3po errors --full PATH", "result.failures()"),
        ("r3po verify --source", "verify_jobs(config, source=True)"),
        ("r3po run --function a.py:f", 'run_jobs(config, function="a.py:f")'),
        ("r3po build --dry-run", "r3po build --dry-run"),
        ("r3po runs; run_jobs(config); --redone", "r3po runs; run_jobs(config); --redone"),
        ("is the disk mounted?", "is the disk mounted?"),
    ],
)
def test_a_command_becomes_a_call(typed: str, called: str) -> None:
    assert in_python(typed) == called


def test_every_call_is_a_public_name_and_every_argument_is_its() -> None:
    names = set(r3po.__all__)
    known = {name for call in CALLS.values() if call.split("(")[0] in names for name in _arguments_of(call)}
    given = {argument.split("=")[0] for argument in ARGUMENTS.values()}
    assert given <= known
    assert {call.split("(")[0] for call in CALLS.values()} - names == {"result.failures"}


def _arguments_of(call: str) -> list[str]:
    return list(inspect.signature(getattr(r3po, call.split("(")[0])).parameters)


def hints() -> Iterator[tuple[str, str]]:
    """Yield all that is given as a `hint` in the code, as far as it is written there."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name == "cli" or path.name in ("init.py", "first_look.py"):
            continue  # these errors are a terminal's: Python has no call for the command
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                texts = [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant) and type(c.value) is str]
                yield f"{path.name}:{node.value.lineno}", "".join(texts)


def test_no_hint_of_the_library_leaves_a_command_or_an_option_to_python() -> None:
    found = list(hints())
    assert len(found) > 30
    for where, hint in found:
        assert not re.search(r"r3po (?!init|config)[a-z]|--(?!json)[a-z]", in_python(hint)), (
            f"{where}: {in_python(hint)}"
        )


def test_an_error_says_its_hint_in_the_words_of_each_door() -> None:
    error = ConfigError("no", hint="r3po run --redo")
    assert str(error) == "no\nhint:  run_jobs(config, redo=True)"
    assert error.for_terminal() == "no\nhint:  r3po run --redo"
