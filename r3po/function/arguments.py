"""Whether f can be called as `input` says, as far as its definition tells without being run."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from pathlib import Path

from r3po.errors import FunctionError
from r3po.function.find import FunctionSpec
from r3po.function.source_tree import read_module
from r3po.text import count_of

_CALLS = {"path": ("f(filepath)", 1), "bytes": ("f(filepath, data)", 2)}


def check_arguments(spec: FunctionSpec, input_: str) -> None:
    """Make sure that f takes what `input` gives it; where that cannot be told, it is taken on trust.

    Args:
        input_: `path` or `bytes`, as the config has it.

    Raises:
        FunctionError: it needs more arguments than it gets, or takes fewer.
    """
    accepted = _accepted_by_value(spec.value) if spec.value is not None else _accepted_by_source(spec)
    call, n_given = _CALLS[input_]
    if accepted is None or accepted[0] <= n_given <= accepted[1]:
        return
    least, most = accepted
    n_taken = f"{least} to {most:.0f} arguments" if least != most else count_of(least, "argument")
    fits = next((other for other, (_, n) in _CALLS.items() if least <= n <= most), None)
    raise FunctionError(
        f"{spec.label} takes {n_taken}, but `input: {input_}` calls {call}",
        hint=f"write  input: {fits}  in the config" if fits else f"let it take {n_given}",
    )


# Private functions


def _accepted_by_value(value: Callable[..., object]) -> tuple[int, float] | None:
    """Return the least and the most positional arguments that a callable takes; None: it does not say."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    has_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return sum(p.default is p.empty for p in plain), math.inf if has_rest else len(plain)


def _accepted_by_source(spec: FunctionSpec) -> tuple[int, float] | None:
    module = read_module(Path(spec.target)) if spec.kind == "file" else None
    statements = module.bindings.get(spec.name, []) if module is not None else []
    match statements:
        case [ast.FunctionDef(decorator_list=[], args=arguments)]:
            plain = [*arguments.posonlyargs, *arguments.args]
            return len(plain) - len(arguments.defaults), math.inf if arguments.vararg else len(plain)
    return None
