"""Whether f can be made and called as the config says, as far as its definition tells without being run."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterable
from inspect import Parameter, Signature
from pathlib import Path
from typing import NamedTuple

from r3po.errors import FunctionError
from r3po.function.find import FunctionSpec, search_module
from r3po.function.made import CALL_HINT, callable_in_class, is_made
from r3po.function.messages import suggest
from r3po.function.source_tree import read_module
from r3po.text import count_of

_CALLS = {"path": ("f(filepath)", 1), "bytes": ("f(filepath, data)", 2)}

_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class _Taken(NamedTuple):
    """What f takes; None: that cannot be told."""

    when_made: Signature | None = None
    """Of a class or a factory."""
    when_called: Signature | None = None
    is_made: bool = False
    is_callable: bool = True


def check_arguments(spec: FunctionSpec, input_: str) -> None:
    """Make sure that f takes what `function_args` and `input` give it; what cannot be told is taken on trust.

    Args:
        input_: `path` or `bytes`, as the config has it.

    Raises:
        FunctionError: it needs more arguments than it gets, or takes fewer; or a class has no `__call__`.
    """
    taken = _taken_by_value(spec.value, spec) if spec.value is not None else _taken_by_source(spec)
    if taken.when_made is not None:
        _check_making(taken.when_made, spec)
    if not taken.is_callable:
        what = f"the objects of {spec.label} cannot be called"
        raise FunctionError(what, hint=CALL_HINT.format(spec.name.rpartition(".")[2]))
    if taken.when_called is not None:
        _check_call(taken.when_called, spec, input_, is_made=taken.is_made)


def may_be_made(spec: FunctionSpec) -> bool:
    """Whether f may be what a class or a factory makes, so that there may be something to close."""
    if spec.value is not None or spec.is_factory:
        return is_made(spec.value, spec)
    module = read_module(_source_file(spec))
    bindings = module.bindings.get(spec.name, []) if module is not None else []
    return not bindings or not all(isinstance(binding, ast.FunctionDef) for binding in bindings)


# Private functions: what is wrong


def _check_making(signature: Signature, spec: FunctionSpec) -> None:
    _check_names(signature, spec)
    if missing := _missing(signature.parameters.values(), spec):
        hint = f"add  function_args: {{{missing[0]}: ...}}  to the config"
        if not spec.is_factory and missing[0] in ("path", "filepath", "file", "filename"):
            hint = CALL_HINT.format(spec.name.rpartition(".")[2])
        raise FunctionError(f'{spec.label} needs "{missing[0]}", which function_args does not give', hint=hint)


def _check_names(signature: Signature, spec: FunctionSpec) -> None:
    parameters = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters if p.kind in _BY_NAME]
    for name in spec.arguments:
        if name not in names:
            hint = suggest(name, names) or (f"it takes {', '.join(names)}" if names else "it takes none by name")
            raise FunctionError(f'{spec.label} takes no argument "{name}", which function_args gives', hint=hint)


def _check_call(signature: Signature, spec: FunctionSpec, input_: str, *, is_made: bool) -> None:
    """Look at the arguments of one call: those by position are the file's, those by name are `function_args`."""
    parameters = list(signature.parameters.values())
    if not is_made:
        if spec.arguments:
            _check_names(signature, spec)
            _check_order(parameters, spec, input_)
        parameters = [p for p in parameters if p.name not in spec.arguments]
    if missing := _missing([p for p in parameters if p.kind is p.KEYWORD_ONLY], spec):
        hint = f"add  function_args: {{{missing[0]}: ...}}  to the config"
        what = f'{spec.label} needs "{missing[0]}", which function_args does not give'
        raise FunctionError(what, hint="let it have a default" if is_made else hint)
    _check_number(parameters, spec, input_, is_made=is_made)


def _check_order(parameters: list[Parameter], spec: FunctionSpec, input_: str) -> None:
    call, n_given = _CALLS[input_]
    clash = [p.name for p in parameters[:n_given] if p.kind in _BY_PLACE and p.name in spec.arguments]
    if clash:
        what = f'{spec.label} is called as {call}, and takes that as "{clash[0]}", which function_args gives, too'
        raise FunctionError(what, hint="let it take the file first, and after it what function_args gives")


def _check_number(parameters: list[Parameter], spec: FunctionSpec, input_: str, *, is_made: bool) -> None:
    call, n_given = _CALLS[input_]
    plain = [p for p in parameters if p.kind in _BY_PLACE]
    least = sum(p.default is p.empty for p in plain)
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(plain)
    if least <= n_given <= most:
        return
    n_taken = f"{least} to {most:.0f} arguments" if least != most else count_of(least, "argument")
    fits = next((other for other, (_, n) in _CALLS.items() if least <= n <= most), None)
    hint = f"write  input: {fits}  in the config" if fits else f"let it take {n_given}"
    if least > n_given and not is_made:
        hint += f"; or give the rest by  function_args: {{{plain[n_given].name}: ...}}"
    name = f"{spec.label}.__call__" if is_made else spec.label
    raise FunctionError(f"{name} takes {n_taken}, but `input: {input_}` calls {call}", hint=hint)


def _missing(parameters: Iterable[Parameter], spec: FunctionSpec) -> list[str]:
    """Return the names of those that must be given, and are not in `function_args`."""
    is_open = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in is_open]
    return [name for name in needed if name not in spec.arguments]


# Private functions: of a callable that is at hand


def _taken_by_value(value: object, spec: FunctionSpec) -> _Taken:
    if not is_made(value, spec):
        return _Taken(None, _signature(value))
    assert isinstance(value, type), "a factory is named as text"
    call = value.__call__ if callable_in_class(value) else None
    is_callable = call is not None or hasattr(value, "__enter__")
    return _Taken(_signature(value), _without_first(_signature(call)), True, is_callable)


def _signature(value: object) -> Signature | None:
    try:
        return inspect.signature(value) if callable(value) else None
    except (TypeError, ValueError):
        return None


def _without_first(signature: Signature | None) -> Signature | None:
    if signature is None:
        return None
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _BY_PLACE:
        return signature
    return signature.replace(parameters=parameters[1:])


# Private functions: of the source


def _taken_by_source(spec: FunctionSpec) -> _Taken:
    module = read_module(_source_file(spec))
    match module.bindings.get(spec.name, []) if module is not None else []:
        case [ast.FunctionDef(decorator_list=[], args=arguments)]:
            signature = _signature_of(arguments)
            return _Taken(signature, None, True) if spec.is_factory else _Taken(None, signature)
        case [ast.ClassDef(decorator_list=[], keywords=[]) as written]:
            return _taken_by_class(written, spec)
    return _Taken()


def _source_file(spec: FunctionSpec) -> Path | None:
    if spec.kind == "file":
        return Path(spec.target)
    found = search_module(spec.target, list(spec.sys_path))[0]
    origin = (found.origin if found is not None else None) or ""
    return Path(origin) if origin.endswith(".py") else None


def _taken_by_class(written: ast.ClassDef, spec: FunctionSpec) -> _Taken:
    """Return what a class takes by its own text; of one that has bases these may say the rest."""
    members = {node.name: node for node in written.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    others = {name.id for node in written.body for name in ast.walk(node) if isinstance(name, ast.Name)}
    is_whole = not written.bases and "__call__" not in others
    made: Signature | None = Signature() if is_whole and "__new__" not in members else None
    if "__init__" in members and "__new__" not in members:
        made = _signature_of_method(members["__init__"])
    called = _signature_of_method(members["__call__"]) if "__call__" in members else None
    is_callable = not is_whole or spec.is_factory or bool({"__call__", "__enter__"} & members.keys())
    return _Taken(made, None if spec.is_factory else called, True, is_callable)


def _signature_of_method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature | None:
    return None if node.decorator_list else _without_first(_signature_of(node.args))


def _signature_of(written: ast.arguments) -> Signature:
    """Return the signature that a definition has; a default is there or not, whatever it is."""
    by_place = [*written.posonlyargs, *written.args]
    n_needed = len(by_place) - len(written.defaults)
    parameters = []
    for number, one in enumerate(by_place):
        kind = Parameter.POSITIONAL_ONLY if number < len(written.posonlyargs) else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(one.arg, kind, default=Parameter.empty if number < n_needed else None))
    if written.vararg:
        parameters.append(Parameter(written.vararg.arg, Parameter.VAR_POSITIONAL))
    for one, default in zip(written.kwonlyargs, written.kw_defaults, strict=True):
        parameters.append(Parameter(one.arg, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is None else 0))
    if written.kwarg:
        parameters.append(Parameter(written.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(parameters)
