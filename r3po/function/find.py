"""The user's function `f(filepath) -> dict`: finding it, and loading it in a worker.

It owns the two ways to name a function (`file.py:name`, `package.module:name`; with `()` behind it the name is that of
a factory, which a worker calls to have f), the search path that goes with it, and
every message about a function that is not there or cannot be imported. To find one never runs the user's code, so the
driver can refuse a wrong name before anything is started; only `load_function` imports it. What a function returns is
not looked at here, and pickling one that has no importable name is the caller's.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from r3po.errors import FunctionError
from r3po.function.caller_globals import CallerGlobal, find_caller_globals
from r3po.function.fingerprint import (
    MAIN_NAMES,
    find_packages,
    find_reference,
    find_source_file,
    fingerprint_callable,
    fingerprint_name,
    fingerprint_source,
    fingerprint_with,
    is_library,
    is_same_file,
)
from r3po.function.messages import async_error, brief, list_names, no_name_error, suggest, syntax_error
from r3po.function.source_tree import COMPREHENSIONS, UNREADABLE, SourceModule, iter_imports, read_module

_PACKAGE = Path(__file__).parents[1]
_IMPORTED_LATE = ("numpy", "pandas", "pyarrow", "ray", "r3po")
"""What a worker may import only once f's folder is on its search path."""

_TWO_FORMS = "write file.py:name, or package.module:name"
_FACTORY = "()"  # behind the name of a function that makes f
_LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, *COMPREHENSIONS)
_SETTERS = frozenset({"globals", "exec", "setattr"})  # a module that uses one may bind names that no reader finds


@dataclass(frozen=True)
class FunctionSpec:
    """Which function to call, and all that a worker needs to have it; plain data unless `value` is set."""

    label: str  # for people: count_fruits.py:count_fruits
    kind: Literal["file", "module", "value"]
    target: str  # of a file: its absolute path; of a module: its dotted name; of a value: nothing
    name: str  # the attribute of the module, dots allowed; of a value: its qualified name
    sys_path: tuple[str, ...]  # absolute folders that a worker needs on sys.path, in this order
    fingerprint: str  # 16 hex characters, see fingerprint.py
    value: Callable[..., object] | None = None  # the function itself, of kind "value" only
    caller_globals: tuple[CallerGlobal, ...] = ()  # what the caller has set in its modules
    is_factory: bool = False  # it is called once a worker, and what it returns is f
    arguments: Mapping[str, Any] = field(default_factory=dict)  # `function_args`, given by name


def find_function(text: str, base_dir: Path) -> FunctionSpec:
    """Return the function that the config or the command line names, without running any of the user's code.

    Args:
        text: `file.py:name`, absolute, from `~` or relative to `base_dir`; or `package.module:name`, looked for in
            `base_dir`, the current folder and on `sys.path`. With `()` behind it: of a function that makes f.
        base_dir: the folder of the config.

    Raises:
        FunctionError: the text is neither form; there is no such file, module or name; the name is bound to something
            that cannot be called, or to an async function; the file is not Python. A name is taken on trust where the
            module has `from x import *`, a `__getattr__`, or no source.
    """
    base_dir = Path(os.path.abspath(base_dir))
    written = text.strip()
    place, name = _split(written.removesuffix(_FACTORY), base_dir)
    find = _find_in_file if _is_file_name(place) else _find_in_module
    spec = find(place, name, base_dir)
    if not written.endswith(_FACTORY):
        return spec
    fingerprint = fingerprint_with(spec.fingerprint, [(_FACTORY, True)])
    return replace(spec, label=spec.label + _FACTORY, is_factory=True, fingerprint=fingerprint)


def with_arguments(spec: FunctionSpec, arguments: Mapping[str, Any] | None) -> FunctionSpec:
    """Return the function with `function_args`; with other values it counts as another one."""
    if not arguments:
        return spec
    fingerprint = fingerprint_with(spec.fingerprint, [("function_args", dict(arguments))])
    return replace(spec, arguments=dict(arguments), fingerprint=fingerprint)


def name_of_job(f: object) -> str | None:
    """Return what a job is called that is given no name: as its function or class, where that has a plain name."""
    if isinstance(f, functools.partial):
        return name_of_job(f.func)
    name = getattr(f, "__name__", "" if f is None else type(f).__name__)
    return name if isinstance(name, str) and name.isidentifier() else None


def describe_callable(f: Callable[..., object]) -> FunctionSpec:
    """Return how a worker can have `f`: by name where it is imported from a module, else by value.

    Raises:
        FunctionError: `f` cannot be called, or is an async function.
    """
    if not callable(f):
        is_text = isinstance(f, str) and ":" in f
        hint = f"pass the function itself, or write function: {f} in the config" if is_text else None
        raise FunctionError(f"f must be a function that takes a file's path, not {brief(f)}", hint=hint)
    name = _name_of(f)
    if inspect.iscoroutinefunction(f):
        raise async_error(name, None)
    reference = find_reference(f)
    place = _find_importable(reference[0]) if reference else None
    given = find_caller_globals(f)
    # A list or dict may be a cache of f's: it goes along, but makes no other function of it.
    told = [(f"{one.module}.{one.name}", one.value) for one in given if not isinstance(one.value, (list, dict, set))]
    fingerprint = fingerprint_with(fingerprint_callable(f), told)
    if place is None:
        label = f"{_script_name(f)}:{name}"
        return FunctionSpec(label, "value", "", name, _driver_path(), fingerprint, f, given)
    kind, target, label = place
    near = _file_folders(Path(target)) if kind == "file" else []
    if near:
        _refuse_shadows(Path(target), near)
    folders = _search_path(near)
    return FunctionSpec(f"{label}:{name}", kind, target, name, folders, fingerprint, None, given)


def fingerprint_of_file(spec: FunctionSpec) -> str | None:
    """Return the fingerprint of a function by its file as it is now; None: it has none, or it cannot be read."""
    if spec.kind != "file":
        return None
    try:
        return fingerprint_source(Path(spec.target), spec.name)
    except UNREADABLE:
        return None


# Private functions: what the text says


def _split(text: str, base_dir: Path) -> tuple[str, str]:
    place, colon, name = text.rpartition(":")
    if not colon:
        raise FunctionError(f'function "{text}" names no function', hint=_hint_without_name(text, base_dir))
    if place.endswith(":"):
        raise FunctionError(f'function "{text}" has two colons', hint=f'did you mean "{place.rstrip(":")}:{name}"?')
    is_name = all(part.isidentifier() for part in name.split("."))
    is_place = _is_file_name(place) or all(part.isidentifier() for part in place.split("."))
    if not (is_name and is_place):
        is_call = "(" in name and is_place
        hint = f'write "{place}:{name.partition("(")[0]}()", and what it takes in  function_args: {{name: value}}'
        raise FunctionError(f'function "{text}" cannot be read', hint=hint if is_call else _TWO_FORMS)
    return place, name


def _is_file_name(place: str) -> bool:
    return place.endswith(".py") or "/" in place or place.startswith("~")


def _hint_without_name(text: str, base_dir: Path) -> str:
    module = read_module(_absolute(text, base_dir)) if text.endswith(".py") else None
    meant = " or ".join(f'"{text}:{name}"' for name in _function_names(module)[:3]) if module else ""
    return f"{_TWO_FORMS}\ndid you mean {meant}?" if meant else _TWO_FORMS


def _absolute(place: str, base_dir: Path) -> Path:
    return Path(os.path.abspath(base_dir / os.path.expanduser(place)))


# Private functions: finding by name


def _find_in_file(place: str, name: str, base_dir: Path) -> FunctionSpec:
    path = _absolute(place, base_dir)
    if not os.path.isfile(path) or path.suffix != ".py":
        raise _no_file_error(path)
    module = _read_source(path, place)
    _check_name(module, name, place)
    near = [*_file_folders(path, module), str(base_dir)]
    _refuse_shadows(path, near)
    folders = _search_path(near)
    return FunctionSpec(f"{place}:{name}", "file", str(path), name, folders, fingerprint_source(path, name))


def _find_in_module(target: str, name: str, base_dir: Path) -> FunctionSpec:
    near = [str(base_dir), os.getcwd()]
    found = _find_module(target, near)
    origin = found.origin or ""
    is_source = origin.endswith(".py") and os.path.isfile(origin)
    if is_source:
        _check_name(_read_source(Path(origin), target), name, target)
    folders = [] if is_source and is_library(Path(origin).parent) else near
    fingerprint = fingerprint_source(Path(origin), name) if is_source else fingerprint_name(target, name)
    return FunctionSpec(f"{target}:{name}", "module", target, name, _search_path(folders), fingerprint)


def _find_module(target: str, near: list[str]) -> ModuleSpec:
    """Return where the module `target` is, without importing the packages that it lies in."""
    found, missing, folders = search_module(target, near)
    if found is None:
        package, dot, last = missing.rpartition(".")
        names = [info.name for info in pkgutil.iter_modules(folders if package else near, package + dot)]
        places = f"{near[0]}, the current folder or the installed packages"
        what = f'{package} has no module "{last}"' if package else f'there is no module "{last}" in {places}'
        raise FunctionError(what, hint=suggest(missing, names) or _TWO_FORMS)
    if not found.has_location and found.origin is None:
        raise FunctionError(f'"{target}" is a folder of modules, not a module', hint=_TWO_FORMS)
    return found


def search_module(target: str, near: list[str]) -> tuple[ModuleSpec | None, str, list[str]]:
    """Return the module's spec; or None, the first part of the dotted name that is not there, and where it is not."""
    importlib.invalidate_caches()
    found, folders, done = None, [*near, *sys.path], ""
    for part in target.split("."):
        # Each part by its bare name: importlib would look up, or import, the package of a dotted one.
        found = PathFinder.find_spec(part, folders)
        if found is None and not done:  # no folder holds it: built in, or installed as editable
            found = next(filter(None, (finder.find_spec(part, None) for finder in sys.meta_path)), None)
        done = f"{done}.{part}" if done else part
        if found is None:
            break
        folders = list(found.submodule_search_locations or [])
    return found, done, folders


def _no_file_error(path: Path) -> FunctionError:
    if os.path.exists(path):
        return FunctionError(f"{path} is not a Python file (.py)", hint=_TWO_FORMS)
    if not os.path.isdir(path.parent):
        return FunctionError(f"function file not found: {path}", hint=f"there is no folder {path.parent}")
    names = sorted(file.name for file in path.parent.glob("*.py"))
    return FunctionError(f"function file not found: {path}", hint=suggest(path.name, names))


# Private functions: checking a name without importing


def _read_source(path: Path, shown: str) -> SourceModule:
    try:
        return SourceModule(path)
    except SyntaxError as error:
        raise syntax_error(error, shown) from error
    except OSError as error:
        raise FunctionError(f"{shown} cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise FunctionError(f"{shown} is not Python: {brief(error)}") from error


def _check_name(module: SourceModule, name: str, shown: str) -> None:
    first, _, rest = name.partition(".")
    statements = module.bindings.get(first, [])
    if _is_open(module, first):
        return
    if not statements:
        raise no_name_error(name, shown, _function_names(module))
    if not rest and all(isinstance(statement, ast.AsyncFunctionDef) for statement in statements):
        raise async_error(name, shown, _evidence_line(module, statements[-1], shown))
    if not rest and all(_is_literal(statement) for statement in statements):
        evidence, hint = _evidence_line(module, statements[-1], shown), list_names(_function_names(module))
        raise FunctionError(f'"{name}" in {shown} is not callable', evidence=evidence, hint=hint)


def _is_open(module: SourceModule, name: str) -> bool:
    """Whether the module may come to have `name` in a way that its top level does not show."""
    nodes = list(ast.walk(module.tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    declared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    return name in declared or bool({"*", "__getattr__"} & module.bindings.keys() or used & _SETTERS)


def _is_literal(node: ast.AST) -> bool:
    match node:
        case ast.Assign(targets=[ast.Name(), *_], value=value) | ast.AnnAssign(value=value):
            return isinstance(value, _LITERALS)
    return False


def _function_names(module: SourceModule) -> list[str]:
    definitions = ast.FunctionDef | ast.ClassDef
    names = [name for name, found in module.bindings.items() if isinstance(found[-1], definitions)]
    return [name for name in names if not name.startswith("_")]


def _evidence_line(module: SourceModule, node: ast.AST, shown: str) -> str:
    line = getattr(node, "lineno", 1)
    text = module.path.read_bytes().splitlines()[line - 1 : line]
    return f"{shown}:{line}  {b''.join(text).decode(errors='replace').strip()}"


def _refuse_shadows(path: Path, folders: Iterable[str]) -> None:
    """Refuse a file that workers would import in place of a library of the same name.

    Args:
        path: of f's file, whose name may be that of any library.
        folders: which go in front of the workers' search path for f; nothing there may have the name of a library that
            r3po or Ray imports.
    """
    installed = [folder for folder in sys.path if os.path.basename(folder) in ("site-packages", "dist-packages")]
    places = [(path.stem, path)]
    for folder in folders:
        for name in _IMPORTED_LATE:
            places += [(name, Path(folder) / f"{name}.py"), (name, Path(folder) / name / "__init__.py")]
    for name, place in places:
        if not place.is_file() or is_same_file(str(place), str(_PACKAGE / "__init__.py")):
            continue
        if name == _PACKAGE.name or PathFinder.find_spec(name, installed) is not None:
            what = f"{place} has the name of the library {name}, and would be imported in its place"
            raise FunctionError(what, hint="give the file another name")


# Private functions: describing a callable


def _find_importable(module: ModuleType) -> tuple[Literal["file", "module"], str, str] | None:
    """Return kind, target and shown name by which another process can import `module`, if it can."""
    name = module.__name__
    if name in MAIN_NAMES:  # never again in a worker: the script would start the job once more
        return None
    path = find_source_file(module)
    found, file = search_module(name, [])[0], getattr(module, "__file__", None)
    is_found = found is not None and (file is None or found.origin == file or is_same_file(found.origin, file))
    if path and (not is_found or ("." not in name and path.name != "__init__.py" and not is_library(path.parent))):
        return "file", str(path), path.name
    return ("module", name, name) if is_found else None


def _name_of(f: object) -> str:
    name = getattr(f, "__qualname__", None)
    if isinstance(name, str):
        return name
    return f"partial({_name_of(f.func)})" if isinstance(f, functools.partial) else type(f).__qualname__


def _script_name(f: object) -> str:
    module = getattr(f, "__module__", None) or type(f).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return os.path.basename(file) if isinstance(file, str) else str(module)


# Private functions: the search path of a worker


def _search_path(first: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *_driver_path()]))


def _driver_path() -> tuple[str, ...]:
    """Return what this process can import from, without what every Python has by itself."""
    scripts = os.path.dirname(sys.executable)  # on sys.path of every console script
    folders = dict.fromkeys(os.path.abspath(entry) for entry in sys.path)
    return tuple(f for f in folders if f != scripts and os.path.isdir(f) and not is_library(Path(f)))


def _file_folders(path: Path, module: SourceModule | None = None) -> list[str]:
    """Return the folders from which a file, and the modules it imports, can be imported."""
    packages = find_packages(path)
    beside = [str(path.parent), *([str(path.resolve().parent)] if path.is_symlink() else [])]
    if not packages:
        return beside
    root = str(packages[-1].parent)
    # In a package, only where the file asks for it: its other modules may have names like random.py.
    return [root, *beside] if module and _imports_sibling(module) else [root]


def _imports_sibling(module: SourceModule) -> bool:
    first = {names[0] for level, names in iter_imports([module.tree]) if not level} - sys.stdlib_module_names
    return any((module.path.parent / f"{name}.py").is_file() for name in first)
