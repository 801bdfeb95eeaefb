"""Folders as a config names them: variables filled in, which one holds another, what was meant by a missing one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from r3po.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([^}]*)\}?")


def variables_in(written: str) -> list[str]:
    """Return the names of the variables that `expand` fills in."""
    return _VARIABLE.findall(written)


def expand(written: str) -> str:
    """Return the path with `${VAR}` and a leading `~` filled in; an empty VAR would turn `${VAR}/x` into `/x`."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise ValueError(f"the variable {name} is {'empty' if name in os.environ else 'not set'}; export it first")
        return os.environ[name]

    expanded = os.path.expanduser(_VARIABLE.sub(value_of, written))
    if expanded.startswith("~"):
        raise ValueError("there is no such user's home; ./~ starts a folder of that name")
    return expanded


def check_current_folder() -> None:
    """Make sure that there is a current folder: relative names, Ray and f need one.

    Raises:
        ConfigError: it was removed.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError("the current folder was removed", hint="cd to a folder that is there, then again") from error


def holds(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies in it, once links are followed; neither has to exist."""
    real_outer, real_inner = Path(os.path.realpath(outer)), Path(os.path.realpath(inner))
    chain = [real_inner, *real_inner.parents]
    identity = _identity(real_outer)
    # By inode, too: a disk that ignores case has two names for one folder, and so has a bind mount.
    return real_outer in chain or (identity is not None and identity in map(_identity, chain))


def find_nested(folders: Sequence[Path]) -> tuple[int, int] | None:
    """Return the positions of two folders of which the first is the second or lies in it, by name or once links are
    followed; None: there are none.
    """
    known: dict[object, int] = {}
    for at, folder in enumerate(folders):
        for name in (folder, Path(os.path.realpath(folder)), _identity(folder)):
            if name is not None and known.setdefault(name, at) != at:
                return at, known[name]
    for at, folder in enumerate(folders):
        parents = {*folder.parents, *Path(os.path.realpath(folder)).parents}
        outer = next((known[name] for path in parents for name in (path, _identity(path)) if name in known), at)
        if outer != at:
            return at, outer
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def hint_of_missing(source: Path) -> str:
    missing = source  # the topmost folder that is not there
    while not os.path.lexists(missing.parent):
        missing = missing.parent
    if missing.is_symlink():
        return f'"{missing}" is a link to "{os.readlink(missing)}", which is not there'
    siblings = [entry.name for entry in scan(missing.parent) if os.path.isdir(entry)]
    likely = get_close_matches(missing.name, siblings, n=1)
    return f'did you mean "{likely[0]}"?' if likely else f'there is no folder "{missing.name}" in {missing.parent}'


def scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []  # only hints are made of this
