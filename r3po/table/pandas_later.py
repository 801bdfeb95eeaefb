"""pandas is imported once f imports it, and not before.

pyarrow imports it at its first conversion, wherever it is installed: that takes a worker half a second, and 60 MB.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import pyarrow as pa

_NAME = "pandas"


def leave_pandas_to_f() -> None:
    """Let pyarrow do without pandas until somebody in this process imports it; from then on it knows it as ever."""
    if _NAME in sys.modules or not hasattr(pa.lib, "_pandas_api") or any(type(it) is _Finder for it in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    with suppress(Exception):
        pa.scalar(0)
    finder.is_hiding = False


# Private


class _Finder(MetaPathFinder):
    """Finds no pandas, or finds it as the others do, and has pyarrow hear of it once it is imported."""

    is_hiding = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _NAME:
            return None
        if self.is_hiding:
            raise ModuleNotFoundError("pandas is left to f", name=name)
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _tell_after(spec.loader)
        return spec


def _tell_after(loader: Any) -> None:
    execute = loader.exec_module

    def execute_and_tell(module: Any) -> None:
        execute(module)
        with suppress(Exception):  # pyarrow may find it too old
            pa.lib._pandas_api.pd  # noqa: B018 - looks again

    loader.exec_module = execute_and_tell
