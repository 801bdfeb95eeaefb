"""docs/architecture.md names places in the code: each is there. The packages say what they own."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import r3po

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`((?:\w+/)*\w+\.py)(?::([\w.]+))?`", PAGE)))


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_every_place_that_the_page_names_is_there(path: str, name: str) -> None:
    found = [base / path for base in (ROOT / "r3po", ROOT) if (base / path).is_file()]
    assert found, path
    target: object = importlib.import_module(f"r3po.{path.removesuffix('.py').replace('/', '.')}") if name else None
    for part in name.split(".") if name else ():
        target = getattr(target, part)


def test_the_page_names_every_package_and_module_of_the_ground() -> None:
    drawn = PAGE.split("## The packages")[1].split("## The journey")[0]
    for module in pkgutil.iter_modules(r3po.__path__):
        if module.name != "__main__":
            assert f"{module.name}/" in drawn or f"{module.name}.py" in drawn, module.name


@pytest.mark.parametrize("package", sorted(m.name for m in pkgutil.iter_modules(r3po.__path__) if m.ispkg))
def test_a_package_opens_with_what_it_owns_and_must_not_and_holds_nothing_else(package: str) -> None:
    (statement,) = ast.parse((ROOT / "r3po" / package / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    said = " ".join(str(statement.value.value).split())
    assert "Owns" in said and "must n" in said
