"""The files of the user's function on their way to a machine that may not have them.

It owns which files these are: the module of f, and those of its folder or package that it imports, directly or through
others: the same that the fingerprint covers. Whatever else lies there stays: data, other modules, installed packages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from r3po.function.find import FunctionSpec, search_module
from r3po.function.fingerprint import find_packages, find_written, is_library, reach_modules
from r3po.function.source_tree import SourceModule, read_module


@dataclass(frozen=True, slots=True)
class Baggage:
    """Files of a function, with their content."""

    root: str = ""
    """The folder that all of them lie in, absolute."""
    files: tuple[tuple[str, bytes], ...] = ()
    """Path, relative to `root`, and content."""


def pack(spec: FunctionSpec) -> Baggage:
    """Return the files that a function needs; none where it is installed, or is in no file."""
    module = _module_of(spec)
    if module is None or is_library(module.path.parent):
        return Baggage()
    paths = set(reach_modules(module))
    packages = find_packages(module.path)
    paths |= {folder / "__init__.py" for folder in packages}
    root = packages[-1].parent if packages else Path(os.path.commonpath([path.parent for path in paths]))
    return Baggage(str(root), tuple((os.path.relpath(path, root), path.read_bytes()) for path in sorted(paths)))


def unpack(spec: FunctionSpec, baggage: Baggage, folder: Path) -> FunctionSpec:
    """Return the function as this machine has it: where it lay, if it is there just so, else in `folder`.

    Raises:
        OSError: it cannot be written.
    """
    if all(_holds(Path(baggage.root, name), content) for name, content in baggage.files):
        return spec
    for name, content in baggage.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    target = spec.target
    if spec.kind == "file":
        target = _moved(os.path.realpath(spec.target), baggage.root, folder) or spec.target
    return replace(spec, target=target, sys_path=tuple(_search_path(spec.sys_path, baggage.root, folder)))


# Private functions


def _module_of(spec: FunctionSpec) -> SourceModule | None:
    """Return the module that a function is written in, if it has a file that can be read."""
    if spec.kind == "value":
        return find_written(spec.value)
    if spec.kind == "file":
        return read_module(Path(spec.target).resolve())
    found = search_module(spec.target, list(spec.sys_path))[0]
    origin = found.origin or "" if found is not None else ""
    return read_module(Path(origin).resolve()) if origin.endswith(".py") else None


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _search_path(folders: Iterable[str], root: str, folder: Path) -> list[str]:
    """Return a search path on which what lay in `root` is found in `folder`; other folders may be there, too."""
    moved = {place: _moved(os.path.realpath(place), root, folder) for place in folders}
    found = [inside for inside in moved.values() if inside is not None]
    return list(dict.fromkeys([*found, *([] if found else [str(folder)]), *moved]))


def _moved(path: str, root: str, folder: Path) -> str | None:
    """Return where a path in `root`, or `root` itself, has come to in `folder`; None: it lies elsewhere."""
    return str(folder / os.path.relpath(path, root)) if Path(path).is_relative_to(root) else None
