"""Loading the user's function in this process: the import, and what goes wrong in the user's module."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from r3po.errors import FunctionError, R3poError, StopNow
from r3po.function.caller_globals import set_caller_globals
from r3po.function.find import FunctionSpec, search_module
from r3po.function.fingerprint import MAIN_NAMES, find_packages, is_library, is_same_file
from r3po.function.messages import MAIN_GUARD, async_error, brief, message, no_name_error, syntax_error
from r3po.text import first_line

_EVIDENCE_LINES = 30  # lines of a user's traceback that are kept


def load_function(spec: FunctionSpec) -> Callable[..., object]:
    """Return the function, imported in this process. Puts the folders it needs in front of `sys.path`.

    Raises:
        FunctionError: there is no such file, module or name here; the module fails while it is imported (`evidence`
            holds the user's traceback); the name is not a function.
    """
    extend_sys_path(spec.sys_path)
    if spec.value is not None:
        set_caller_globals(spec.caller_globals)
        return spec.value
    if spec.kind == "file" and not os.path.isfile(spec.target):
        hint = "on a cluster, the function must be on storage that all nodes share"
        raise FunctionError(f"function file not found: {spec.target}", hint=hint)
    if _loaded.get(spec.target, spec.fingerprint) != spec.fingerprint:
        _forget_modules(spec.target)
    try:
        module = _import_file(Path(spec.target)) if spec.kind == "file" else importlib.import_module(spec.target)
    except (KeyboardInterrupt, StopNow):
        raise
    except BaseException as error:  # a script may also leave by SystemExit
        raise _import_failure(spec, error) from error
    _loaded[spec.target] = spec.fingerprint
    set_caller_globals(spec.caller_globals)
    return _get_function(module, spec)


def extend_sys_path(folders: Iterable[str]) -> None:
    """Put the missing `folders` in front of `sys.path`, as importing or unpickling the function needs them."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]


_loaded: dict[str, str] = {}
"""The fingerprint under which a file or module was loaded in this process: a changed one is imported again."""


def _forget_modules(target: str) -> None:
    """Let the modules in the folder of `target` be imported again; a function from an old one keeps it."""
    file = target if target.endswith(".py") else getattr(sys.modules.get(target), "__file__", None)
    if not file:
        return
    folder = Path(file).resolve().parent
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if name in MAIN_NAMES or not source or not Path(source).resolve().is_relative_to(folder) or is_library(folder):
            continue
        del sys.modules[name]
        # Python takes bytecode for current whose source has the same size and the same second.
        with contextlib.suppress(OSError, ValueError, NotImplementedError):
            os.unlink(importlib.util.cache_from_source(source))
    importlib.invalidate_caches()


def _import_file(path: Path) -> ModuleType:
    names = _module_names(path)
    for name in ["__main__", *names]:
        loaded = sys.modules.get(name)
        if loaded and is_same_file(getattr(loaded, "__file__", None), path):
            return loaded
    package_name = _package_name(path)
    if package_name:
        return importlib.import_module(package_name)
    return _execute_file(path, next((name for name in names if name not in sys.modules), names[-1]))


def _module_names(path: Path) -> list[str]:
    """Return the names a file may be imported as: its own, unless that means another module, else one of ours."""
    stem = path.stem
    private = f"_r3po_user_{stem}"
    digest = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
    is_usable = stem.isidentifier() and stem not in sys.stdlib_module_names
    return [*([stem] if is_usable else []), private, f"{private}_{digest}"]


def _package_name(path: Path) -> str | None:
    """Return the dotted name of a file in a package, which its relative imports need, if that name leads to it."""
    packages = find_packages(path)
    if not packages:
        return None
    names = [folder.name for folder in reversed(packages)]
    top = sys.modules.get(names[0])
    if top and not is_same_file(getattr(top, "__file__", None), packages[-1] / "__init__.py"):
        return None
    name = ".".join(names if path.name == "__init__.py" else [*names, path.stem])
    found = search_module(name, [])[0]
    return name if found and is_same_file(found.origin, path) else None


def _execute_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _get_function(module: ModuleType, spec: FunctionSpec) -> Callable[..., object]:
    shown = spec.label.rpartition(":")[0]
    found: object = module
    for part in spec.name.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise no_name_error(spec.name, shown, names)
        found = getattr(found, part)
    if not callable(found):
        raise FunctionError(f'"{spec.name}" in {shown} is not callable: it is {brief(found)}')
    if inspect.iscoroutinefunction(found):
        raise async_error(spec.name, shown)
    return found


def _import_failure(spec: FunctionSpec, error: BaseException) -> FunctionError:
    shown, frames = spec.label.rpartition(":")[0], _user_frames(error)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not frames and spec.kind == "module" and f"{spec.target}.".startswith(f"{missing}."):
        return FunctionError(f'there is no module "{missing}"', evidence=f"for function {spec.label}")
    if missing:
        what = f"{shown} failed to import {missing}"
        return FunctionError(what, evidence=_frame_lines(frames, spec), hint=f"is it installed for {sys.executable}?")
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return syntax_error(error, _short(error.filename, spec))
    if isinstance(error, SystemExit):
        what = f"{shown} called sys.exit({brief(error.code)}) while it was imported"
        return FunctionError(what, evidence=_frame_lines(frames, spec), hint=MAIN_GUARD)
    hint = MAIN_GUARD if isinstance(error, R3poError) else None
    return user_error(error, f"{shown} {{}} while it was imported", hint)


def user_error(error: BaseException, what: str, hint: str | None = None) -> FunctionError:
    """Return the error for an exception of the user's code outside any file, with its traceback.

    Args:
        what: the headline, where `{}` stands for `raised ...`.
    """
    lines = "".join(traceback.format_list(_user_frames(error))).splitlines()[-_EVIDENCE_LINES:]
    evidence = "\n".join([*lines, f"{type(error).__name__}: {message(error)}"])
    headline = f"{what.format(f'raised {type(error).__name__}')}: {first_line(message(error))}"
    return FunctionError(headline, evidence=evidence, hint=hint)


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return where the user's modules were when `error` was raised, without r3po's own lines and importlib's."""
    machinery = (str(Path(__file__).parents[1]) + os.sep, str(importlib.__file__), "<frozen ")
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(machinery)]


def _frame_lines(frames: list[traceback.FrameSummary], spec: FunctionSpec) -> str:
    lines = [f"{_short(frame.filename, spec)}:{frame.lineno}  {frame.line or ''}".rstrip() for frame in frames]
    return "\n".join(lines[-_EVIDENCE_LINES:])


def _short(file: str, spec: FunctionSpec) -> str:
    """Return a file's name as people know it: from the folder of the function where it lies in there."""
    folder = next(iter(spec.sys_path), "")
    return os.path.relpath(file, folder) if folder and file.startswith(folder + os.sep) else file
