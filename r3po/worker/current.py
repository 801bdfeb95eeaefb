"""Which file f has, for f itself: `r3po.current_file()`.

In `input: path` an object of a store lies in a temporary file; its own name is known here.
"""

from __future__ import annotations

from r3po.storage.names import show_name

_files: list[str] = []


def current_file() -> str:
    """Return the path, relative to `source_path`, of the file that f is called with: as `source_column` has it.

    Of a call with many files it is the first. It is known in the thread and process that r3po calls f in.

    Raises:
        RuntimeError: r3po has called no f here.
    """
    return current_files()[0]


def current_files() -> list[str]:
    """Return the paths of all files of the call (`batch_files`), in the order of f's list.

    Raises:
        RuntimeError: r3po has called no f here.
    """
    if not _files:
        raise RuntimeError("r3po has called no f here; current_file() is for f itself, in its own thread")
    return list(map(show_name, _files))


def set_current(*paths: str) -> None:
    """Say which files f is about to be called with."""
    _files[:] = paths
