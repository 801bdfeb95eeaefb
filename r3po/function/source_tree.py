"""Python source as a tree: what one file binds and imports, and a form of it that only a change of code alters.

It owns reading one file. It never runs code, and never looks at a second file: where an import leads is fingerprint's.
"""

from __future__ import annotations

import ast
import functools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)  # all that parsing a file may raise

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds others
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class SourceModule:
    """A Python file as a tree, with the names that its top level binds.

    Raises:
        UNREADABLE: the file cannot be read, or is not Python.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python tells of an odd "\d" when the module is imported
            self.tree = ast.parse(path.read_bytes(), filename=str(path))
        self.bindings: dict[str, list[ast.AST]] = {}
        """The statements that bind each name, in order; "*" for `from x import *`."""
        for name, statement in _iter_bindings(self.tree):
            self.bindings.setdefault(name, []).append(statement)

    @property
    def code(self) -> list[ast.stmt]:
        """The statements that run when the file is imported: without the block of `if __name__ == "__main__":`."""
        return [kept for node in self.tree.body for kept in _without_main_block(node)]


def read_module(path: Path | None) -> SourceModule | None:
    """Return the file at `path` as a tree, or None if there is none that can be read."""
    try:
        return SourceModule(path) if path else None
    except UNREADABLE:
        return None


def iter_imports(statements: Iterable[ast.AST]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield, for each name imported anywhere in `statements`, the leading dots and the parts of its dotted path.

    The last part of `from a.b import c` is c: a module or a name within one. It is "*" for all names.
    """
    todo = [*statements]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((0, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            yield from ((node.level, (*module, alias.name)) for alias in node.names)
        else:
            todo += [inner for block in _BLOCKS for inner in getattr(node, block, [])]


def bound_name(alias: ast.alias) -> str:
    """Return the name that one part of an import statement binds."""
    return alias.asname or alias.name.partition(".")[0]


def normalise(node: object) -> str:
    """Return the tree as a text that no comment, docstring, layout or version of Python alters."""
    if isinstance(node, list):
        return f"[{','.join([normalise(item) for item in node if not _is_bare_text(item)])}]"
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str) else ":".join(plain(node))
    fields = [(name, getattr(node, name, None)) for name in _field_names(node._fields)]
    if isinstance(node, ast.Constant):
        fields = [("value", plain(node.value))]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends the format of f"{x:{width}}" with an empty text
        fields = [("values", [part for part in node.values if getattr(part, "value", None) != ""])]
    return f"{type(node).__name__}({','.join([f'{n}={normalise(v)}' for n, v in fields if v is not None and v != []])})"


def plain(value: object) -> list[str]:
    """Return a constant as its type and its text."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return [type(value).__name__, f"{value:x}" if is_integer else ascii(value)]  # a long int refuses to be decimal


# Private functions


def _iter_bindings(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that the top level and the blocks in it bind, each with its statement, in order."""
    todo: list[tuple[ast.AST, ast.AST]] = [(node, node) for node in reversed(tree.body)]
    while todo:
        node, statement = todo.pop()
        yield from ((name, statement) for name in _names_bound_by(node))
        is_declaration = isinstance(node, ast.AnnAssign) and node.value is None
        if not (is_declaration or isinstance(node, (*_DEFINITIONS, ast.Lambda, *COMPREHENSIONS))):
            inner = reversed(list(ast.iter_child_nodes(node)))
            todo += [(child, child if isinstance(child, ast.stmt) else statement) for child in inner]


def _names_bound_by(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [bound_name(alias) for alias in node.names]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
    return []


def _without_main_block(node: ast.stmt) -> list[ast.stmt]:
    match node:
        case ast.If(test=ast.Compare(ast.Name("__name__"), [ast.Eq()], [ast.Constant("__main__")])):
            return node.orelse
    return [node]


@functools.cache
def _field_names(fields: tuple[str, ...]) -> list[str]:
    return sorted({*fields} - {"ctx", "kind"})


def _is_bare_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
