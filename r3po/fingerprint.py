"""What tells one version of the user's function from another: 16 hex characters, the fingerprint.

It owns reading Python source as a tree, and the fingerprint. It never runs or imports the user's code.

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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

Chain = tuple[str, ...]  # a name and the attributes asked of it: ("helper", "count") for helper.count
MAIN_NAMES = frozenset({"__main__", "__mp_main__"})  # what the script itself is called as a module
UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)  # all that parsing a file may raise

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_BRANCHES = (ast.If, ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match, ast.match_case)
_BLOCKS = (*_LOOPS, *_BRANCHES, ast.With, ast.AsyncWith)
_SKIPPED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_STANDARD_LIBRARY = Path(os.__file__).resolve().parent


class Import(NamedTuple):
    """One name that an import statement binds, and where it comes from."""

    level: int  # leading dots of a relative import
    module: Chain
    attributes: Chain  # what is taken from the module: ("count",), or nothing for the module itself
    text: str


class Binding(NamedTuple):
    """A top-level statement that binds or alters a name."""

    node: ast.AST
    heads: tuple[ast.AST, ...]  # of the blocks it stands in: the test of an `if`, the items of a `with`
    source: Import | None = None
    alters: bool = False  # TABLE["x"] = 1, TABLE.update(...), or a function that says `global TABLE`


class SourceModule:
    """A Python file as a tree, with what its top level binds.

    Raises:
        UNREADABLE: the file cannot be read, or is not Python.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = _parse(path)
        self.bindings: dict[str, list[Binding]] = {}
        self.stars: list[Import] = []
        for statement in self.tree.body:
            for node, heads in _iter_simple(statement, ()):
                self._add(node, heads)

    def _add(self, node: ast.AST, heads: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, source in _iter_imports(node):
                self._bind(name, Binding(node, heads, source))
            self.stars += _star_imports(node)
            return
        bound = set(_iter_bound_names(node))
        for name in sorted(bound):
            self._bind(name, Binding(node, heads))
        for name in sorted(set(_iter_altered_names(node)) - bound):
            self._bind(name, Binding(node, heads, alters=True))

    def _bind(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, []).append(binding)


def fingerprint_source(path: Path, name: str) -> str:
    """Return the fingerprint of what `name` (dots allowed) is at the top level of the file at `path`.

    Raises:
        UNREADABLE: the file cannot be read, or is not Python. Trouble in a module that it imports is none: such a
            module counts by its bytes.
    """
    path = path.resolve()
    try:
        module, chain = _find_definition(SourceModule(path), tuple(name.split(".")))
        walk = _Walk(module)
        walk.reach(chain)
        return _digest(["source", ".".join(chain), walk.result()])
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
    file = getattr(module, "__file__", None)
    return _existing_source(file) if isinstance(file, str) else None


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
    return bool(installed) or folder == _STANDARD_LIBRARY or _STANDARD_LIBRARY in folder.parents


# Private functions: reading a tree


def _parse(path: Path) -> ast.Module:
    source = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python tells of an odd "\d" when the module is imported
        return ast.parse(source, filename=str(path))


def _iter_simple(node: ast.AST, heads: tuple[ast.AST, ...]) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Yield the statements within `node` that are no blocks, and the heads of blocks, with the heads around each."""
    if not isinstance(node, _BLOCKS):
        yield node, heads
        return
    children = list(ast.iter_child_nodes(node))
    own = [child for child in children if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)]
    yield from ((head, (*heads, *own)) for head in own)
    for child in children:
        if child not in own:
            yield from _iter_simple(child, (*heads, *own))


def _iter_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    for alias in node.names:
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.Import):
            bound = alias.asname or alias.name.partition(".")[0]
            module = alias.name if alias.asname else bound
            yield bound, Import(0, tuple(module.split(".")), (), f"import {alias.name}{renamed}")
        elif alias.name != "*":
            source = Import(
                node.level, _module_chain(node), (alias.name,), f"{_from(node)} import {alias.name}{renamed}"
            )
            yield alias.asname or alias.name, source


def _star_imports(node: ast.Import | ast.ImportFrom) -> list[Import]:
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return [Import(node.level, _module_chain(node), (), f"{_from(node)} import *")]
    return []


def _module_chain(node: ast.ImportFrom) -> Chain:
    return tuple(node.module.split(".")) if node.module else ()


def _from(node: ast.ImportFrom) -> str:
    return f"from {'.' * node.level}{node.module or ''}"


def _iter_bound_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that `node` binds in the scope it stands in, except by import."""
    if isinstance(node, _DEFINITIONS):
        yield node.name
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, _COMPREHENSIONS):
        yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        return
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest
    for child in ast.iter_child_nodes(node):
        yield from _iter_bound_names(child)


def _iter_altered_names(node: ast.AST) -> Iterator[str]:
    """Yield the names whose value a top-level statement alters, or lets a function bind."""
    if isinstance(node, _DEFINITIONS):
        for inner in ast.walk(node):
            yield from inner.names if isinstance(inner, ast.Global) else ()
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield from _chain_of(node.value.func)[:1] if isinstance(node.value.func, ast.Attribute) else ()
    elif isinstance(node, ast.Assign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            while isinstance(target, ast.Subscript | ast.Attribute):
                target = target.value
            yield from _chain_of(target)


def _chain_of(node: ast.AST) -> Chain:
    """Return ("a", "b") for the expression a.b, and () for one that is not a name with attributes."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return (node.id, *attributes) if isinstance(node, ast.Name) else ()


class _References(ast.NodeVisitor):
    """The names that a piece of code takes from its module, and the imports within it."""

    def __init__(self, nodes: Iterable[ast.AST], hidden: frozenset[str] = frozenset()) -> None:
        self.chains: set[Chain] = set()
        self.imports: dict[str, list[Import]] = {}
        self._hidden = hidden  # bound by a function or comprehension around
        for node in nodes:
            self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._add((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = _chain_of(node)
        self._add(chain) if chain else self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.chains |= {(name,) for name in node.names}

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, source in _iter_imports(node):
            self.imports.setdefault(name, []).append(source)

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside = [*node.decorator_list, node.args, node.returns, *getattr(node, "type_params", [])]
        self._visit_scope([part for part in outside if part is not None], node.body, node.args)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_scope([node.args], [node.body], node.args)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.visit(node.generators[0].iter)
        targets = {name for part in node.generators for name in _iter_bound_names(part.target)}
        self._visit_hiding(targets, ast.iter_child_nodes(node))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def _visit_scope(self, outside: Iterable[ast.AST], body: Sequence[ast.AST], args: ast.arguments) -> None:
        self._visit_hiding(set(), outside)
        local = {arg.arg for arg in ast.walk(args) if isinstance(arg, ast.arg)}
        local |= {name for node in body for name in _iter_bound_names(node)}
        self._visit_hiding(local - set(_iter_global_names(body)), body)

    def _visit_hiding(self, names: set[str], nodes: Iterable[ast.AST]) -> None:
        before, self._hidden = self._hidden, self._hidden | names
        for node in nodes:
            self.visit(node)
        self._hidden = before

    def _add(self, chain: Chain) -> None:
        if chain[0] not in self._hidden:
            self.chains.add(chain)


def _iter_global_names(body: Iterable[ast.AST]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Global):
            yield from node.names
        elif not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            yield from _iter_global_names(ast.iter_child_nodes(node))


def _normalise(node: object) -> object:
    """Return the tree as nested lists that no comment, docstring, layout or version of Python alters."""
    if isinstance(node, list):
        return [_normalise(item) for item in node if not _is_bare_text(item)]
    if not isinstance(node, ast.AST):
        return _plain(node)
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends the format of f"{x:{width}}" with an empty text
        return ["JoinedStr", *(_normalise(part) for part in node.values if getattr(part, "value", None) != "")]
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in _SKIPPED_FIELDS]
    return [type(node).__name__, *([name, _normalise(v)] for name, v in sorted(fields) if v is not None and v != [])]


def _is_bare_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _plain(value: object) -> list[str]:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return [type(value).__name__, f"{value:x}" if is_integer else ascii(value)]  # a long int refuses to be decimal


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


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
            return self._descend(self._find_relative(importer, source.level), source.module)
        return self._descend(self._find_absolute(source.module[0]), source.module[1:])

    def _find_relative(self, importer: Path, level: int) -> _Place | None:
        folder = importer.parents[min(level, len(importer.parents)) - 1]
        top = self._folders[-1]
        return _folder_place(folder) if folder == top or top in folder.parents else None

    def _find_absolute(self, name: str) -> _Place | None:
        beside = _find_child(self._folders[0], name)
        around = next((_folder_place(folder) for folder in self._folders if folder.name == name), None)
        return (around or beside) if self._is_package else (beside or around)

    def _descend(self, place: _Place | None, names: Chain) -> _Place | None:
        for name in names:
            place = _find_child(place.folder, name) if place and place.folder else None
        return place


def _find_child(folder: Path, name: str) -> _Place | None:
    if (folder / name / "__init__.py").is_file():
        return _folder_place(folder / name)
    if (folder / f"{name}.py").is_file():
        return _Place(folder / f"{name}.py")
    return _Place(None, folder / name) if (folder / name).is_dir() else None


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

    def reach(self, chain: Chain) -> None:
        """Take in what `chain` is at the top level of the root module."""
        self._todo.append((self._root, chain))
        self._finish()

    def reach_node(self, node: ast.AST, hidden: frozenset[str]) -> None:
        """Take in a function of the root module that stands within another one, which binds the `hidden` names."""
        self._entries["", "<node>"] = _normalise(node)
        self._refer(self._root, [node], hidden)
        self._finish()

    def result(self) -> object:
        return sorted(self._entries.items())

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

    def _finish(self) -> None:
        while self._todo:
            module, chain = self._todo.pop()
            if (module.path, chain) not in self._seen:
                self._seen.add((module.path, chain))
                self._take(module, chain) if chain else self._take_whole(module)

    def _take(self, module: SourceModule, chain: Chain) -> None:
        bindings = module.bindings.get(chain[0], [])
        if all(binding.alters for binding in bindings):
            self._take_starred(module, chain)
        for binding in bindings:
            if binding.source:
                self._follow(module, binding.source, chain[1:])
        if bindings and self._key(module, chain[0]) not in self._entries:
            counted = _without_library_calls(bindings)
            self._entries[self._key(module, chain[0])] = [_describe_binding(binding) for binding in counted]
            for binding in counted:
                self._refer(module, binding.heads if binding.source else (*binding.heads, binding.node))

    def _take_starred(self, module: SourceModule, chain: Chain) -> None:
        for star in module.stars:
            found = self.locate(module, star, ())
            if found is None:
                self._entries[self._key(module, star.text)] = star.text
            elif chain[0] in found[0].bindings or found[0].stars:
                self._todo.append((found[0], chain))

    def _take_whole(self, module: SourceModule) -> None:
        statements = [statement for statement in module.tree.body if not _is_main_block(statement)]
        self._entries[self._key(module, "")] = _normalise(statements)
        self._refer(module, statements)

    def _refer(self, module: SourceModule, nodes: Iterable[ast.AST], hidden: frozenset[str] = frozenset()) -> None:
        references = _References(nodes, hidden)
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
            try:
                self._modules[path] = SourceModule(path)
            except UNREADABLE:
                self._modules[path] = None
                self._entries[self._label(path), "<bytes>"] = _digest_bytes(path)
        return self._modules[path]

    def _key(self, module: SourceModule, name: str) -> tuple[str, str]:
        return self._label(module.path), name

    def _label(self, path: Path) -> str:
        return "" if path == self._root.path else Path(os.path.relpath(path, self._root.path.parent)).as_posix()


def _without_library_calls(bindings: list[Binding]) -> list[Binding]:
    """Leave out statements like `logging.basicConfig()`: they alter what is imported, not the user's own values."""
    is_import = any(b.source for b in bindings) and all(b.source or b.alters for b in bindings)
    return [binding for binding in bindings if not (is_import and binding.alters)]


def _describe_binding(binding: Binding) -> object:
    heads = [_normalise(head) for head in binding.heads]
    return [*heads, binding.source.text if binding.source else _normalise(binding.node)]


def _is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(inner, ast.Name) and inner.id == "__name__" for inner in ast.walk(node.test)
    )


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
        chain = _chain_of(binding.node.value)
        return (module, chain + rest) if chain and chain[0] in module.bindings else None
    return None


# Private functions: callables that are at hand


def _find_home(func: object) -> tuple[Path, str] | None:
    """Return the file, and the name at its top level, where `func` is written, unless it carries values of its own."""
    reference = find_reference(func)
    if reference:
        path, name = find_source_file(reference[0]), reference[1]
        plain = _undecorated(func)
        # A shell after `python -i count.py` may have another function by the same name.
        is_elsewhere = isinstance(plain, types.FunctionType) and path and not _is_same_file(plain, path)
        return (path, name) if path and not is_elsewhere and _binds(path, name) else None
    if isinstance(func, types.FunctionType) and not (func.__closure__ or func.__defaults__ or func.__kwdefaults__):
        return _find_home_of_code(func.__code__)
    return None


def _find_home_of_code(code: types.CodeType) -> tuple[Path, str] | None:
    path = _existing_source(code.co_filename)
    if path is None:
        return None
    if "<" not in code.co_qualname:
        return (path, code.co_qualname) if _binds(path, code.co_qualname) else None
    located = _find_node(code)
    if located:
        for name, bindings in located[0].bindings.items():
            if any(isinstance(b.node, ast.Assign) and b.node.value is located[1] for b in bindings):
                return path, name
    return None


def _find_node(code: types.CodeType) -> tuple[SourceModule, ast.AST] | None:
    """Return the definition or lambda that `code` was compiled from, where the file leaves no doubt."""
    path = _existing_source(code.co_filename)
    module = _read_module(path) if path else None
    if module is None:
        return None
    nodes: Sequence[ast.AST] = [node for node in ast.walk(module.tree) if _is_node_of(node, code)]
    if len(nodes) > 1:  # several lambdas in one line
        nodes = [node for node in nodes if isinstance(node, ast.Lambda) and _holds_code(node.body, code)]
        nodes = nodes[-1:]  # the innermost, since a tree is walked from its top
    return (module, nodes[0]) if len(nodes) == 1 else None


def _is_node_of(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if not isinstance(node, _FUNCTIONS) or node.name != code.co_name:
        return False
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) == code.co_firstlineno


def _holds_code(body: ast.expr, code: types.CodeType) -> bool:
    """Whether all instructions of `code` lie within `body`; of two lambdas, one within the other, both may hold it."""
    spans = [((p[0], p[2]), (p[1], p[3])) for p in code.co_positions()]
    told = [(first, last) for first, last in spans if None not in (*first, *last) and first != last]
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    return bool(told) and all(start <= first and last <= end for first, last in told)


def _binds(path: Path, name: str) -> bool:
    module = _read_module(path)
    return module is not None and name.partition(".")[0] in module.bindings


def _read_module(path: Path) -> SourceModule | None:
    try:
        return SourceModule(path)
    except UNREADABLE:
        return None


def _existing_source(file: str) -> Path | None:
    return Path(os.path.abspath(file)) if file.endswith(".py") and os.path.isfile(file) else None


def _is_same_file(func: types.FunctionType, path: Path) -> bool:
    file = func.__code__.co_filename
    return os.path.exists(file) and os.path.samefile(file, path)


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
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []  # an id is an object's own only while the object lives

    def describe(self, value: object) -> object:
        """Return nested lists that are the same in every process for the same value."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return _plain(value)
        if isinstance(value, PurePath):
            return ["path", ascii(str(value))]
        if isinstance(value, tuple):
            return ["tuple", *map(self.describe, value)]
        if isinstance(value, set | frozenset):
            return ["set", *sorted(json.dumps(_describe_member(member)) for member in value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
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
            walk = _Walk(located[0])
            walk.reach_node(located[1], frozenset(func.__code__.co_freevars))
            body = walk.result()
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
        return [_describe_member(inner) for inner in member]
    is_plain = member is None or isinstance(member, bool | int | float | complex | str | bytes)
    return _plain(member) if is_plain else _describe_name(type(member))


def _describe_name(named: object) -> list[object]:
    return ["named", _text_attribute(named, "__module__"), _text_attribute(named, "__qualname__")]


def _is_written(name: str, member: object) -> bool:
    """Whether a member of a class was written by its author, and not added by Python."""
    is_method = isinstance(member, types.FunctionType | staticmethod | classmethod | property)
    return is_method or not (name.startswith("__") and name.endswith("__"))


def _is_library_file(file: str) -> bool:
    return os.path.exists(file) and is_library(Path(file).parent)
