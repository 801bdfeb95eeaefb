"""Python source as a tree: what a file binds at its top level, and what a piece of code takes from its module.

It owns reading one file, the scopes and imports within it, and the form of a tree that no comment, docstring, layout or
version of Python alters. It never runs code, and never looks at a second file: where an import leads is fingerprint's.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

Chain = tuple[str, ...]  # a name and the attributes asked of it: ("helper", "count") for helper.count
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)  # all that parsing a file may raise

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BRANCHES = (ast.If, ast.Try, ast.TryStar, ast.ExceptHandler, ast.Match, ast.match_case)
_BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, *_BRANCHES)


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python tells of an odd "\d" when the module is imported
            self.tree = ast.parse(path.read_bytes(), filename=str(path))
        self.bindings: dict[str, list[Binding]] = {}
        for statement in self.tree.body:
            for node, heads in _iter_simple(statement, ()):
                for name, binding in _iter_bindings(node, heads):
                    self.bindings.setdefault(name, []).append(binding)
        self.stars = [binding.source for binding in self.bindings.pop("*", []) if binding.source]


class References(ast.NodeVisitor):
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
        chain = chain_of(node)
        self._add(chain) if chain else self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> None:
        self.chains |= {(name,) for name in node.names}

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name, source in iter_imports(node):
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


def read_module(path: Path | None) -> SourceModule | None:
    """Return the file at `path` as a tree, or None if there is none that can be read."""
    try:
        return SourceModule(path) if path else None
    except UNREADABLE:
        return None


def iter_imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    """Yield each name that the statement binds, "*" for all that a module has, and where it comes from."""
    for alias in node.names:
        name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        if isinstance(node, ast.Import):
            bound = alias.asname or alias.name.partition(".")[0]
            module = alias.name if alias.asname else bound
            yield bound, Import(0, tuple(module.split(".")), (), f"import {name}")
        else:
            chain = tuple(node.module.split(".")) if node.module else ()
            attributes = () if alias.name == "*" else (alias.name,)
            text = f"from {'.' * node.level}{node.module or ''} import {name}"
            yield alias.asname or alias.name, Import(node.level, chain, attributes, text)


def chain_of(node: ast.AST) -> Chain:
    """Return ("a", "b") for the expression a.b, and () for one that is not a name with attributes."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return (node.id, *attributes) if isinstance(node, ast.Name) else ()


def normalise(node: object) -> object:
    """Return the tree as nested lists that no comment, docstring, layout or version of Python alters."""
    if isinstance(node, list):
        return [normalise(item) for item in node if not _is_bare_text(item)]
    if not isinstance(node, ast.AST):
        return plain(node)
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends the format of f"{x:{width}}" with an empty text
        return ["JoinedStr", *(normalise(part) for part in node.values if getattr(part, "value", None) != "")]
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind")]
    return [type(node).__name__, *([name, normalise(v)] for name, v in sorted(fields) if v is not None and v != [])]


def plain(value: object) -> list[str]:
    """Return a constant as its type and its text."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return [type(value).__name__, f"{value:x}" if is_integer else ascii(value)]  # a long int refuses to be decimal


# Private functions: what a statement binds


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


def _iter_bindings(node: ast.AST, heads: tuple[ast.AST, ...]) -> Iterator[tuple[str, Binding]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((name, Binding(node, heads, source)) for name, source in iter_imports(node))
        return
    bound = set(_iter_bound_names(node))
    yield from ((name, Binding(node, heads)) for name in sorted(bound))
    yield from ((name, Binding(node, heads, alters=True)) for name in sorted(set(_iter_altered_names(node)) - bound))


def _iter_bound_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that `node` binds in the scope it stands in, except by import."""
    if isinstance(node, _DEFINITIONS):
        yield node.name
        return
    if isinstance(node, COMPREHENSIONS):
        yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        return
    if isinstance(node, ast.Lambda) or (isinstance(node, ast.AnnAssign) and node.value is None):
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
        yield from chain_of(node.value.func)[:1] if isinstance(node.value.func, ast.Attribute) else ()
    elif isinstance(node, ast.Assign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            while isinstance(target, ast.Subscript | ast.Attribute):
                target = target.value
            yield from chain_of(target)


def _iter_global_names(body: Iterable[ast.AST]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Global):
            yield from node.names
        elif not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            yield from _iter_global_names(ast.iter_child_nodes(node))


def _is_bare_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
