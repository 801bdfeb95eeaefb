"""Globals of the user's modules that the caller has set: `helper.FACTOR = 100` in a script, before it runs the job.

A worker imports `helper` afresh, and would compute with what its file says. So what differs from the file goes with the
function, as it does with a plain loop and with a pool that forks. Only names that a module binds once, to a literal,
can be told apart; a name that the module declares `global` somewhere is its own state.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from r3po.errors import FunctionError
from r3po.function.fingerprint import MAIN_NAMES, find_written, is_at, reach_modules, undecorated
from r3po.function.messages import brief
from r3po.function.source_tree import SourceModule


class CallerGlobal(NamedTuple):
    """A global that the caller has set."""

    file: str
    """Absolute path of its module."""
    module: str
    """The name by which the caller has imported it."""
    name: str
    value: object


def find_caller_globals(f: Callable[..., object]) -> tuple[CallerGlobal, ...]:
    """Return the globals of f's modules that are not what their files say.

    These modules are f's own and those of its folder or package that it imports, as far as they are loaded.

    Raises:
        FunctionError: one of them cannot be sent to the workers.
    """
    written = find_written(f)
    if written is None:
        return ()
    loaded = list(_iter_loaded(f))
    found: list[CallerGlobal] = []
    for path, source in reach_modules(written).items():
        if source is not None:
            name, values = next(((n, v) for n, v in loaded if is_at(v.get("__file__"), path)), ("", {}))
            found += _iter_changed(source, name, values)
    for one in found:
        try:
            pickle.dumps(one.value)
        except Exception as error:
            raise FunctionError(
                f"{one.module}.{one.name} was set to {brief(one.value)} by the caller, and cannot be sent to workers",
                hint=f"set {one.name} in {Path(one.file).name} itself, where each worker does it",
            ) from error
    return tuple(found)


def set_caller_globals(found: tuple[CallerGlobal, ...]) -> None:
    """Give the modules of this process the values that the caller's have."""
    for one in found:
        loaded = [sys.modules.get(one.module), *sys.modules.values()]
        module = next((m for m in loaded if is_at(getattr(m, "__file__", None), Path(one.file))), None)
        if module is None:
            with contextlib.suppress(ImportError):
                module = importlib.import_module(one.module)
        if module is not None:
            setattr(module, one.name, one.value)


# Private functions


def _iter_loaded(f: object) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the name and the globals of the modules that are loaded; f's own first, which may be loaded no more."""
    own = getattr(undecorated(f), "__globals__", None)
    if isinstance(own, dict) and own.get("__name__") not in MAIN_NAMES:
        yield str(own.get("__name__")), own
    for name, module in list(sys.modules.items()):
        if name not in MAIN_NAMES:
            yield name, vars(module) if hasattr(module, "__dict__") else {}


def _iter_changed(source: SourceModule, name: str, values: dict[str, object]) -> Iterator[CallerGlobal]:
    declared = {n for node in ast.walk(source.tree) if isinstance(node, ast.Global) for n in node.names}
    for bound, statements in source.bindings.items():
        if bound in declared or len(statements) != 1 or bound not in values:
            continue
        match statements[0]:
            case (
                ast.Assign(targets=[ast.Name()], value=ast.expr() as written)
                | ast.AnnAssign(value=ast.expr() as written)
            ):
                with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    literal, value = ast.literal_eval(written), values[bound]
                    if type(value) is not type(literal) or not _is_equal(value, literal):
                        yield CallerGlobal(str(source.path), name, bound, value)


def _is_equal(value: object, literal: object) -> bool:
    return repr(value) == repr(literal)  # of plain data; NaN is equal to itself, and True is not 1
