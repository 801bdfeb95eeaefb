"""The shape of the code: lines, functions, classes and what stands out among them. It shows, and judges nothing.

python tools/shape.py [FOLDER ...]
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN = 5
"""Largest of each kind that are named."""

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.match_case, ast.comprehension)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Piece(NamedTuple):
    """A module, class or function."""

    size: int
    """Lines, or cyclomatic complexity."""
    where: str


def main(folders: list[str]) -> None:
    modules: list[Piece] = []
    classes: list[Piece] = []
    functions: list[Piece] = []
    complexities: list[Piece] = []
    for path in sorted(file for folder in folders for file in Path(folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        modules.append(Piece(text.count("\n"), str(path)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                classes.append(Piece(_lines_of(node), f"{path}:{node.lineno} {node.name}"))
            elif isinstance(node, _FUNCTIONS):
                where = f"{path}:{node.lineno} {node.name}"
                functions.append(Piece(_lines_of(node), where))
                complexities.append(Piece(_complexity(node), where))
    lengths = sorted(function.size for function in functions)
    p90 = statistics.quantiles(lengths, n=10)[-1]
    print(f"{len(modules)} modules, {sum(module.size for module in modules):,} lines")
    print(f"{len(functions)} functions, median {statistics.median(lengths):g} lines, p90 {p90:g}, max {lengths[-1]}")
    for title, pieces in (
        ("largest modules", modules),
        ("largest classes", classes),
        ("longest functions", functions),
        ("most complex functions", complexities),
    ):
        print(f"{title}:", ", ".join(f"{piece.where} {piece.size}" for piece in sorted(pieces, reverse=True)[:SHOWN]))


def _lines_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a definition below its first one, docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno


def _complexity(node: ast.AST) -> int:
    """Return the cyclomatic complexity of a function, without those of functions and classes within it."""
    return 1 + sum(_branches(child) for child in _own_nodes(node))


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, _BRANCHES))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            yield child
            yield from _own_nodes(child)


if __name__ == "__main__":
    main(sys.argv[1:] or ["r3po"])
