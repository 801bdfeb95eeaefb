"""What tells one version of the user's function from another: 16 hex characters, the fingerprint.

It owns the fingerprint, following names from module to module, and where a callable is written. What one file says is
sourcetree's to tell. It never runs or imports the user's code.

The fingerprint covers the function, what it reaches by name at the top level of its own module (functions, classes,
constants, decorators), and what these import from modules in the same folder or package, all without comments,
docstrings and positions. An import from anywhere else counts as its statement alone. So it is the same for a function
found by name and for the callable itself, in every process and on every version of Python. A callable that is not
written at the top level of a file (a closure, a partial, a notebook's function) also counts the values it holds; what
has no source counts by its instructions, and these belong to one version of Python.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from r3po.function.source_tree import (
    Binding,
    Chain,
    Import,
    References,
    SourceModule,
    chain_of,
    normalise,
    plain,
    read_module,
)

MAIN_NAMES = frozenset({"__main__", "__mp_main__"})  # what the script itself is called as a module

_PLAIN = (type(None), int, float, complex, str, bytes)
_STANDARD_LIBRARY = Path(os.__file__).resolve().parent


def fingerprint_source(path: Path, name: str) -> str:
    """Return the fingerprint of what `name` (dots allowed) is at the top level of the file at `path`.

    Raises:
        UNREADABLE: the file cannot be read, or is not Python. Trouble in a module that it imports is none: such a
            module counts by its bytes.
    """
    path = path.resolve()
    try:
        module, chain = _find_definition(SourceModule(path), tuple(name.split(".")))
        return _digest(["source", ".".join(chain), _Walk(module).reach(chain)])
    except RecursionError:  # an expression of a thousand terms: the bytes will do
        return _digest(["bytes", name, hashlib.blake2b(path.read_bytes()).hexdigest()])


def fingerprint_callable(func: Callable[..., object]) -> str:
    """Return the fingerprint of `func`; that of `fingerprint_source` where it is written at the top level of a file."""
    home, reference = _find_home(func), find_reference(func)
    if home:
        return fingerprint_source(*home)
    if reference and reference[0].__name__ not in MAIN_NAMES and not isinstance(_undecorated(func), types.FunctionType):
        return fingerprint_name(reference[0].__name__, reference[1])
    try:
        return _digest(_Values().describe(func))
    except RecursionError:
        return _digest(_describe_name(func))


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
    # A classmethod is bound anew at each look.
    is_same = found is func or (isinstance(func, types.MethodType) and type(found) is type(func) and found == func)
    return (module, name) if is_same else None


def find_source_file(module: types.ModuleType) -> Path | None:
    """Return the .py file that `module` was loaded from, if there is one."""
    return _existing_source(_text_attribute(module, "__file__"))


def is_same_file(one: object, other: object) -> bool:
    """Whether both are paths, and lead to one file that is there."""
    paths = [path for path in (one, other) if isinstance(path, str | Path) and os.path.exists(path)]
    return len(paths) == 2 and os.path.samefile(*paths)


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


# Private functions: following names through the modules of a folder


class _Place(NamedTuple):
    """What an import finds: a module, a package, or a folder of modules."""

    file: Path | None
    folder: Path | None = None


class _Tree:
    """The modules that count as the user's own: those in the folder of a file, or in its package.

    Only the place of the file decides, not the name it was imported by or the search path of the moment.
    """

    def __init__(self, path: Path) -> None:
        packages = find_packages(path)
        self._is_package = bool(packages)
        self._folders = packages or [path.parent]
        self._is_closed = not packages and is_library(path.parent)  # else all of site-packages would count

    def find(self, importer: Path, source: Import) -> _Place | None:
        """Return what `source` names when the file `importer` imports it, if that is in the tree."""
        if self._is_closed:
            return None
        if source.level:
            folder = importer.parents[min(source.level, len(importer.parents)) - 1]
            place = _folder_place(folder) if folder.is_relative_to(self._folders[-1]) else None
            names = source.module
        else:
            place, names = self._find_absolute(source.module[0]), source.module[1:]
        for name in names:
            place = _find_child(place.folder, name) if place and place.folder else None
        return place

    def _find_absolute(self, name: str) -> _Place | None:
        beside = _find_child(self._folders[0], name)
        around = next((_folder_place(folder) for folder in self._folders if folder.name == name), None)
        return (around or beside) if self._is_package else (beside or around)


def _find_child(folder: Path, name: str) -> _Place | None:
    place, module = _folder_place(folder / name), folder / f"{name}.py"
    if place.file is None and module.is_file():
        return _Place(module)
    return place if (folder / name).is_dir() else None


def _folder_place(folder: Path) -> _Place:
    file = folder / "__init__.py"
    return _Place(file if file.is_file() else None, folder)


class _Walk:
    """All that one piece of code reaches: definitions, by file and name."""

    def __init__(self, root: SourceModule) -> None:
        self._root = root
        self._tree = _Tree(root.path)
        self._modules: dict[Path, SourceModule | None] = {root.path: root}
        self._entries: dict[tuple[str, str], object] = {}
        self._todo: list[tuple[SourceModule, Chain]] = []
        self._seen: set[tuple[Path, Chain]] = set()

    def reach(self, chain: Chain) -> object:
        """Return what `chain` is at the top level of the root module, and all that it reaches, as nested lists."""
        self._todo.append((self._root, chain))
        return self._finish()

    def reach_node(self, node: ast.AST, hidden: frozenset[str]) -> object:
        """Return the same of a function that stands within another one, which binds the `hidden` names."""
        self._entries["", "<node>"] = normalise(node)
        self._refer(self._root, [node], hidden)
        return self._finish()

    def locate(self, importer: SourceModule, source: Import, attributes: Chain) -> tuple[SourceModule, Chain] | None:
        """Return the module of the tree in which `attributes` of an import lead on, and those that are left."""
        place = self._tree.find(importer.path, source)
        chain = source.attributes + attributes
        while place:
            module = self._read(place.file) if place.file else None
            child = _find_child(place.folder, chain[0]) if place.folder and chain else None
            is_bound = module is not None and chain[:1] and chain[0] in module.bindings
            is_own = module is not None and module.path == importer.path  # `from . import count` in an __init__.py
            if child is None or (is_bound and not is_own):
                return (module, chain) if module else None
            place, chain = child, chain[1:]
        return None

    def _finish(self) -> object:
        while self._todo:
            module, chain = self._todo.pop()
            if (module.path, chain) not in self._seen:
                self._seen.add((module.path, chain))
                self._take(module, chain) if chain else self._take_whole(module)
        return sorted(self._entries.items())

    def _take(self, module: SourceModule, chain: Chain) -> None:
        bindings = module.bindings.get(chain[0], [])
        if all(binding.alters for binding in bindings):
            self._take_starred(module, chain)
        for binding in bindings:
            if binding.source:
                self._follow(module, binding.source, chain[1:])
        key = self._key(module.path, chain[0])
        if bindings and key not in self._entries:
            counted = _without_library_calls(bindings)
            self._entries[key] = [_describe_binding(binding) for binding in counted]
            for binding in counted:
                self._refer(module, binding.heads if binding.source else (*binding.heads, binding.node))

    def _take_starred(self, module: SourceModule, chain: Chain) -> None:
        for star in module.stars:
            found = self.locate(module, star, ())
            if found is None:
                self._entries[self._key(module.path, star.text)] = star.text
            elif chain[0] in found[0].bindings or found[0].stars:
                self._todo.append((found[0], chain))

    def _take_whole(self, module: SourceModule) -> None:
        statements = [statement for statement in module.tree.body if not _is_main_block(statement)]
        self._entries[self._key(module.path, "")] = normalise(statements)
        self._refer(module, statements)

    def _refer(self, module: SourceModule, nodes: Iterable[ast.AST], hidden: frozenset[str] = frozenset()) -> None:
        references = References(nodes, hidden)
        for chain in references.chains:
            self._todo.append((module, chain))
            for source in references.imports.get(chain[0], ()):
                self._follow(module, source, chain[1:])

    def _follow(self, module: SourceModule, source: Import, attributes: Chain) -> None:
        found = self.locate(module, source, attributes)
        if found:
            self._todo.append(found)
            if found[1] and found[1][0] not in found[0].bindings:
                self._todo.append((found[0], ("__getattr__",)))

    def _read(self, path: Path) -> SourceModule | None:
        if path not in self._modules:
            self._modules[path] = read_module(path)
            if self._modules[path] is None:
                self._entries[self._key(path, "<bytes>")] = _digest_bytes(path)
        return self._modules[path]

    def _key(self, path: Path, name: str) -> tuple[str, str]:
        place = "" if path == self._root.path else os.path.relpath(path, self._root.path.parent)
        return place, name


def _without_library_calls(bindings: list[Binding]) -> list[Binding]:
    """Leave out statements like `logging.basicConfig()`: they alter what is imported, not the user's own values."""
    is_import = any(b.source for b in bindings) and all(b.source or b.alters for b in bindings)
    return [binding for binding in bindings if not (is_import and binding.alters)]


def _describe_binding(binding: Binding) -> object:
    heads = [normalise(head) for head in binding.heads]
    return [*heads, binding.source.text if binding.source else normalise(binding.node)]


def _is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(inner, ast.Name) and inner.id == "__name__" for inner in ast.walk(node.test)
    )


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def _digest_bytes(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def _find_definition(module: SourceModule, chain: Chain) -> tuple[SourceModule, Chain]:
    """Follow `count = other` and `from helper import count` to where the function is written."""
    seen = set()
    while (module.path, chain) not in seen:
        seen.add((module.path, chain))
        bindings = module.bindings.get(chain[0], [])
        step = _step_to_definition(module, bindings[0], chain[1:]) if len(bindings) == 1 else None
        if step is None or not step[1]:
            break
        module, chain = step
    return module, chain


def _step_to_definition(module: SourceModule, binding: Binding, rest: Chain) -> tuple[SourceModule, Chain] | None:
    if binding.source:
        return _Walk(module).locate(module, binding.source, rest)
    if isinstance(binding.node, ast.Assign) and isinstance(binding.node.targets[0], ast.Name):
        chain = chain_of(binding.node.value)
        return (module, chain + rest) if chain and chain[0] in module.bindings else None
    return None


# Private functions: callables that are at hand


def _find_home(func: object) -> tuple[Path, str] | None:
    """Return the file, and the name at its top level, where `func` is written, unless it carries values of its own."""
    reference = find_reference(func)
    if reference:
        path, inner = find_source_file(reference[0]), _undecorated(func)
        # A shell after `python -i count.py` may have another function by the same name.
        is_elsewhere = isinstance(inner, types.FunctionType) and not is_same_file(inner.__code__.co_filename, path)
        return None if is_elsewhere else _home_at(path, reference[1])
    if isinstance(func, types.FunctionType) and not (func.__closure__ or func.__defaults__ or func.__kwdefaults__):
        return _find_home_of_code(func.__code__)
    return None


def _find_home_of_code(code: types.CodeType) -> tuple[Path, str] | None:
    if "<" not in code.co_qualname:
        return _home_at(_existing_source(code.co_filename), code.co_qualname)
    module, node = _find_node(code) or (None, None)
    for name, bindings in module.bindings.items() if module else ():
        if module and any(isinstance(b.node, ast.Assign) and b.node.value is node for b in bindings):
            return module.path, name
    return None


def _home_at(path: Path | None, name: str) -> tuple[Path, str] | None:
    module = read_module(path)
    return (module.path, name) if module and name.partition(".")[0] in module.bindings else None


def _find_node(code: types.CodeType) -> tuple[SourceModule, ast.AST] | None:
    """Return the definition or lambda that `code` was compiled from, where the file leaves no doubt."""
    module = read_module(_existing_source(code.co_filename))
    if module is None:
        return None
    nodes = [node for node in ast.walk(module.tree) if _is_node_of(node, code)]
    if len(nodes) > 1:  # several lambdas in one line
        nodes = [node for node in nodes if isinstance(node, ast.Lambda) and _holds_code(node.body, code)]
        nodes = nodes[-1:]  # the innermost, since a tree is walked from its top
    return (module, nodes[0]) if len(nodes) == 1 else None


def _is_node_of(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != code.co_name:
        return False
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) == code.co_firstlineno


def _holds_code(body: ast.expr, code: types.CodeType) -> bool:
    """Whether all instructions of `code` lie within `body`; of two lambdas, one within the other, both may hold it."""
    spans = [((p[0], p[2]), (p[1], p[3])) for p in code.co_positions()]
    told = [(first, last) for first, last in spans if None not in (*first, *last) and first != last]
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    return bool(told) and all(start <= first and last <= end for first, last in told)


def _existing_source(file: str) -> Path | None:
    return Path(os.path.abspath(file)) if file.endswith(".py") and os.path.isfile(file) else None


def _undecorated(func: object) -> object:
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
        if isinstance(value, functools.partial):
            return ["partial", *map(self.describe, (value.func, value.args, value.keywords))]
        if isinstance(value, types.MethodType):
            return ["method", self.describe(value.__func__), self.describe(value.__self__)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self.describe(value.__func__)]
        if isinstance(value, property):
            return ["property", *map(self.describe, (value.fget, value.fset, value.fdel))]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, types.BuiltinFunctionType):
            return [*_describe_name(value), self.describe(value.__self__)]
        wrapped = _own_attributes(value).get("__wrapped__")  # functools.cache and its like
        return ["instance", self.describe(type(value)), self.describe(wrapped)]

    def _describe_function(self, func: types.FunctionType) -> object:
        home, located = _find_home(func), _find_node(func.__code__)
        if _is_library_file(func.__code__.co_filename):
            body: object = _describe_name(func)
        elif home:
            return ["source", fingerprint_source(*home)]
        elif located:
            body = _Walk(located[0]).reach_node(located[1], frozenset(func.__code__.co_freevars))
        else:
            body = self._describe_code(func.__code__, func.__globals__)
        cells = [self._describe_cell(cell) for cell in func.__closure__ or ()]
        return ["function", body, cells, self.describe(func.__defaults__), self.describe(func.__kwdefaults__)]

    def _describe_cell(self, cell: types.CellType) -> object:
        try:
            return self.describe(cell.cell_contents)
        except ValueError:  # nothing was assigned yet
            return "empty"

    def _describe_code(self, code: types.CodeType, names: dict[str, object]) -> object:
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
