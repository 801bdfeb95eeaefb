"""What is imported for a test is forgotten after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def fresh_imports() -> Iterator[None]:
    path, modules, no_bytecode = sys.path[:], dict(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a file that is changed within a second would keep its old bytecode
    yield
    sys.path[:], sys.dont_write_bytecode = path, no_bytecode
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
