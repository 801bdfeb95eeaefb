"""What tells one version of the user's function from another: 16 hex characters, the fingerprint.

It owns the fingerprint, following imports from module to module, and where a callable is written. What one file says is
source_tree's to tell. It never runs or imports the user's code.

The fingerprint covers the name of the function and all code of its module and of the modules in the same folder or
package that this one imports, directly or through others, without comments, docstrings, positions and the main block.
An import from anywhere else counts as its statement alone, and so does every import of a function that is installed. So
the fingerprint is the same for a function found by name and for the callable itself, in every process and on every
version of Python. A callable that is not written at the top level of a file (a closure, a partial, a notebook's
function) also counts its instructions, which belong to one version of Python, and the values it holds. Of an object of
a class of the user's that is its plain attributes: a list or dict may be a cache, or weights of any size.
"""

from __future__ import annotations

import ast
import datetime
import dis
import functools
import hashlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath

from r3po.function.source_tree import SourceModule, bound_name, iter_imports, normalise, plain, read_module

MAIN_NAMES = frozenset({"__main__", "__mp_main__"})  # what the script itself is called as a module

_PLAIN = (type(None), int, float, complex, str, bytes)
_HELD: dict[type, tuple[str, ...]] = {
    functools.partial: ("func", "args", "keywords"),
    types.MethodType: ("__func__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    types.ModuleType: ("__name__",),
}
"""Attributes that tell an object of a type from others of its type."""

_STANDARD_LIBRARY = Path(os.__file__).resolve().parent


def fingerprint_source(path: Path, name: str) -> str:
    """Return the fingerprint of what `name` (dots allowed) is at the top level of the file at `path`.

    Raises:
        UNREADABLE: the file cannot be read, or is not Python. Trouble in a module that it imports is none: such a
            module counts by its bytes.
    """
    path = path.resolve()
    try:
        module, name = _find_definition(SourceModule(path), name)
        return _digest(["source", name, _describe_modules(module)])
    except RecursionError:  # an expression of a thousand terms: the bytes will do
        return _digest(["bytes", name, _digest_bytes(path)])


def fingerprint_callable(func: Callable[..., object]) -> str:
    """Return the fingerprint of `func`: by its file where it is written at the top level of one, else by value."""
    home, reference = _find_home(func), find_reference(func)
    if home:
        return fingerprint_source(*home)
    if reference and reference[0].__name__ not in MAIN_NAMES and not isinstance(undecorated(func), types.FunctionType):
        return fingerprint_name(reference[0].__name__, reference[1])
    try:
        return _digest(_Values().describe(func))
    except RecursionError:
        return _digest(_describe_name(func))


def fingerprint_with(fingerprint: str, values: Iterable[tuple[str, object]]) -> str:
    """Return the fingerprint of a function for which the caller has set these values, by name."""
    described = [[name, _Values().describe(value)] for name, value in values]
    return _digest([fingerprint, *sorted(described, key=json.dumps)]) if described else fingerprint


def find_written(func: object) -> SourceModule | None:
    """Return the module in which a function is written, as a tree; None: it has no file that can be read."""
    home = _find_home(func)
    code = getattr(undecorated(func), "__code__", None)
    path = home[0] if home else _existing_source(code.co_filename) if isinstance(code, types.CodeType) else None
    return read_module(path.resolve() if path else None)


def fingerprint_name(module: str, name: str) -> str:
    """Return the fingerprint of a function that has a name and nothing else to go by, like one written in C."""
    return _digest(["named", module, name])


def find_reference(func: object) -> tuple[types.ModuleType, str] | None:
    """Return the loaded module and the name in it by which `func` can be had again, if there are such."""
    module = sys.modules.get(_text_attribute(func, "__module__"))
    name = _text_attribute(func, "__qualname__")
    if module is None or not name:
        return None
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    # Each look at a classmethod binds it again.
    is_same = found is func or (isinstance(func, types.MethodType) and type(found) is type(func) and found == func)
    return (module, name) if is_same else None


def find_source_file(module: types.ModuleType) -> Path | None:
    """Return the .py file that `module` was loaded from, if there is one."""
    return _existing_source(_text_attribute(module, "__file__"))


def is_same_file(one: object, other: object) -> bool:
    """Whether both are paths, and lead to one file that is there."""
    paths = [path for path in (one, other) if isinstance(path, str | Path) and os.path.exists(path)]
    return len(paths) == 2 and os.path.samefile(*paths)


def is_at(file: object, path: Path) -> bool:
    """Whether a module's `__file__` is `path`: by its name first, so that few of a thousand modules need the disk."""
    return str(file).endswith(path.name) and is_same_file(file, path)


def find_packages(path: Path) -> list[Path]:
    """Return the folders that make the file at `path` part of a package, innermost first."""
    packages = []
    folder = path.parent
    while folder.name.isidentifier() and (folder / "__init__.py").is_file():
        packages.append(folder)
        folder = folder.parent
    return packages


def is_library(folder: Path) -> bool:
    """Whether `folder` belongs to Python or to installed packages, which every worker has of its own."""
    folder = folder.resolve()
    installed = {"site-packages", "dist-packages"} & set(folder.parts)
    return bool(installed) or folder.is_relative_to(_STANDARD_LIBRARY)


# Private functions: following imports through the modules of a folder


class _Tree:
    """The modules that count as the user's own: those in the folder of a file, or in its package.

    Only the place of the file decides, not the name it was imported by or the search path of the moment.
    """

    def __init__(self, path: Path) -> None:
        packages = find_packages(path)
        self._top = packages[-1] if packages else path.parent
        self._bases = [path.parent, self._top.parent]
        self._is_closed = is_library(path.parent)  # else a large package would be read whole at each start

    def find(self, importer: Path, level: int, names: tuple[str, ...]) -> list[Path]:
        """Return the files of the tree that `names`, imported by the file `importer` with `level` dots, may run."""
        if self._is_closed:
            return []
        bases = [importer.parents[min(level, len(importer.parents)) - 1]] if level else self._bases
        steps = range(0 if level else 1, len(names) + 1)
        places = [base.joinpath(*names[:step]) for base in bases for step in steps]
        files = [file for place in places for file in (place / "__init__.py", Path(f"{place}.py"))]
        return [file for file in files if os.path.isfile(file) and file.is_relative_to(self._top)]


def reach_modules(root: SourceModule) -> dict[Path, SourceModule | None]:
    """Return `root` and the modules of its folder or package that it imports, directly or through others.

    Returns:
        Each by its file; None: it cannot be read.
    """
    tree, todo = _Tree(root.path), [root.path]
    found: dict[Path, SourceModule | None] = {}
    while todo:
        path = todo.pop()
        if path not in found:
            module = found[path] = root if path == root.path else read_module(path)
            for level, names in {*iter_imports(module.code)} if module else ():
                todo += tree.find(path, level, names)
    return found


def _describe_modules(root: SourceModule) -> object:
    """Return the code of `root` and of the modules of its tree that it reaches, each by place and digest."""
    digests = {path: _digest_module(m) if m else _digest_bytes(path) for path, m in reach_modules(root).items()}
    places = {path: os.path.relpath(path, root.path.parent) for path in digests} | {root.path: ""}
    return sorted([places[path], digest] for path, digest in digests.items())


def _digest_module(module: SourceModule) -> str:
    try:
        return _digest(normalise(module.code))
    except RecursionError:
        return _digest_bytes(module.path)


def _digest_bytes(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def _find_definition(module: SourceModule, name: str) -> tuple[SourceModule, str]:
    """Follow `count = other` and `from helper import count` to where the function is written."""
    seen = set()
    while (module.path, name) not in seen:
        seen.add((module.path, name))
        first, dot, rest = name.partition(".")
        bindings = module.bindings.get(first, [])
        step = _step_to_definition(module, bindings[0], first) if len(bindings) == 1 else None
        if step:
            module, name = step[0], step[1] + dot + rest
    return module, name


def _step_to_definition(module: SourceModule, binding: ast.AST, name: str) -> tuple[SourceModule, str] | None:
    match binding:
        case ast.Assign(targets=[ast.Name()], value=ast.Name(id=other)) if other in module.bindings:
            return module, other
        case ast.ImportFrom():
            original = next(alias.name for alias in binding.names if bound_name(alias) == name)
            names = next(names for _, names in iter_imports([binding]) if names[-1] == original)
            for file in _Tree(module.path).find(module.path, binding.level, names):
                source = read_module(file)
                if source and original in source.bindings:
                    return source, original
    return None


# Private functions: callables that are at hand


def _find_home(func: object) -> tuple[Path, str] | None:
    """Return the file, and the name at its top level, where `func` is written, unless it carries values of its own."""
    reference = find_reference(func)
    if reference:
        path, inner = find_source_file(reference[0]), undecorated(func)
        # A shell after `python -i count.py` may have another function by the same name.
        is_elsewhere = isinstance(inner, types.FunctionType) and not is_same_file(inner.__code__.co_filename, path)
        return None if is_elsewhere else _home_at(path, reference[1])
    if isinstance(func, types.FunctionType) and not (func.__closure__ or func.__defaults__ or func.__kwdefaults__):
        path = _existing_source(func.__code__.co_filename)
        names = [name for name, value in func.__globals__.items() if value is func]  # of a lambda
        return _home_at(path, names[0]) if names else None
    return None


def _home_at(path: Path | None, name: str) -> tuple[Path, str] | None:
    module = read_module(path)
    return (module.path, name) if module and name.partition(".")[0] in module.bindings else None


def _existing_source(file: str) -> Path | None:
    return Path(os.path.abspath(file)) if file.endswith(".py") and os.path.isfile(file) else None


def undecorated(func: object) -> object:
    """Return what decorators that keep `__wrapped__` were put around; `inspect.unwrap` trusts any object's answer."""
    seen: set[int] = set()
    while id(func) not in seen:
        seen.add(id(func))
        func = _own_attributes(func).get("__wrapped__", func)
    return func


def _own_attributes(owner: object) -> Mapping[str, object]:
    found = getattr(owner, "__dict__", None)
    return found if isinstance(found, dict | types.MappingProxyType) else {}


def _text_attribute(owner: object, name: str) -> str:
    value = getattr(owner, name, None)
    return value if isinstance(value, str) else ""


class _Values:
    """Describes a callable by what it holds, for one that is not written at the top level of a file.

    Never by `repr`, which may show an address in memory: what is not plain data counts by its type.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, object]] = {}  # with the object: an id is its own only while it lives

    def describe(self, value: object) -> object:
        """Return nested lists that are the same in every process for the same value."""
        if isinstance(value, _PLAIN):
            return plain(value)
        if isinstance(value, PurePath):
            return ["path", ascii(str(value))]
        if isinstance(value, datetime.date | datetime.time):
            return [type(value).__name__, value.isoformat()]
        if isinstance(value, tuple):
            return ["tuple", *map(self.describe, value)]
        if isinstance(value, set | frozenset):
            return ["set", *sorted(json.dumps(_describe_member(member)) for member in value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)][0]]
        self._seen[id(value)] = (len(self._seen), value)
        return self._describe_object(value)

    def _describe_object(self, value: object) -> object:
        if isinstance(value, list):
            return ["list", *map(self.describe, value)]
        if isinstance(value, dict):
            return ["dict", *sorted(([self.describe(k), self.describe(v)] for k, v in value.items()), key=json.dumps)]
        if isinstance(value, types.FunctionType):
            return self._describe_function(value)
        if isinstance(value, type):
            return self._describe_class(value)
        for kind, names in _HELD.items():
            if isinstance(value, kind):
                return [kind.__name__, *(self.describe(getattr(value, name)) for name in names)]
        if isinstance(value, types.BuiltinFunctionType):
            return [*_describe_name(value), self.describe(value.__self__)]
        wrapped = _own_attributes(value).get("__wrapped__")  # functools.cache and its like
        described = ["instance", self.describe(type(value)), self.describe(wrapped)]
        state = self._describe_state(value)
        return [*described, state] if state else described

    def _describe_state(self, value: object) -> list[object]:
        """Describe the plain attributes of an object of the user's; a list or dict may be a cache, or of any size."""
        file = getattr(sys.modules.get(type(value).__module__), "__file__", None)
        if type(value).__module__ not in MAIN_NAMES and (file is None or _is_library_file(file)):
            return []
        slots = [name for cls in type(value).__mro__ for name in _slots_of(cls)]
        own = {name: getattr(value, name) for name in slots if hasattr(value, name)} | dict(_own_attributes(value))
        is_told = (*_PLAIN, PurePath, datetime.date, datetime.time, types.FunctionType, type)
        return [[name, self.describe(held)] for name, held in sorted(own.items()) if isinstance(held, is_told)]

    def _describe_function(self, func: types.FunctionType) -> object:
        home, code = _find_home(func), func.__code__
        if _is_library_file(code.co_filename):
            body: object = _describe_name(func)
        elif home:
            return ["source", fingerprint_source(*home)]
        elif module := read_module(_existing_source(code.co_filename)):
            body = [_describe_modules(module), self._describe_code(code, {})]
        else:
            body = self._describe_code(code, func.__globals__)
        cells = [self._describe_cell(cell) for cell in func.__closure__ or ()]
        return ["function", body, cells, self.describe(func.__defaults__), self.describe(func.__kwdefaults__)]

    def _describe_cell(self, cell: types.CellType) -> object:
        try:
            return self.describe(cell.cell_contents)
        except ValueError:  # nothing was assigned yet
            return "empty"

    def _describe_code(self, code: types.CodeType, names: Mapping[str, object]) -> object:
        """Describe instructions by what they mean, since the numbers in them shift with a docstring."""
        described: list[object] = []
        for step in dis.get_instructions(code):
            inner = isinstance(step.argval, types.CodeType)
            described += [step.opname, self._describe_code(step.argval, names) if inner else self.describe(step.argval)]
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in names:
                described.append(self.describe(names[step.argval]))
        return described

    def _describe_class(self, cls: type) -> object:
        home, module = _find_home(cls), sys.modules.get(cls.__module__)
        file = getattr(module, "__file__", None)
        if cls.__module__ not in MAIN_NAMES and (file is None or _is_library_file(file)):
            return _describe_name(cls)
        if home:
            return ["source", fingerprint_source(*home)]
        members = [(name, member) for name, member in sorted(vars(cls).items()) if _is_written(name, member)]
        bases = [self.describe(base) for base in cls.__bases__]
        return ["class", cls.__qualname__, bases, [[name, self.describe(member)] for name, member in members]]


def _slots_of(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def _describe_member(member: object) -> object:
    if isinstance(member, tuple):
        return [*map(_describe_member, member)]
    return plain(member) if isinstance(member, _PLAIN) else _describe_name(type(member))


def _describe_name(named: object) -> list[object]:
    return ["named", _text_attribute(named, "__module__"), _text_attribute(named, "__qualname__")]


def _is_written(name: str, member: object) -> bool:
    """Whether a member of a class was written by its author, and not added by Python."""
    is_method = isinstance(member, types.FunctionType | staticmethod | classmethod | property)
    return is_method or not (name.startswith("__") and name.endswith("__"))


def _is_library_file(file: str) -> bool:
    return os.path.exists(file) and is_library(Path(file).parent)
