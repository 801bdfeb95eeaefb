"""Names are bytes on disk and text on a screen; these functions go from one to the other."""

from __future__ import annotations

import base64
import os
import unicodedata
from typing import Any


def show_name(path: str) -> str:
    r"""Return a file name as text for people and for CSV: bytes that are not UTF-8 appear as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def show_text(text: str) -> str:
    """Return text whose control characters, newlines apart, cannot steer a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    # Control characters, halves of surrogates, line separators, and what turns the direction of writing.
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character != "\n"
    return unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def absolute_path(root: str, path: str) -> str:
    """Return the absolute path of a file, or of a folder, that is known relative to `root`.

    One that begins with a dot or a slash is of a list of folders (`config.selection`): no other does, since names that
    begin with a dot are passed over.
    """
    if path[:1] in ("/", "."):
        return os.path.normpath(os.path.join(root, path))
    return f"{root.rstrip('/')}/{path}"  # os.path.join takes a microsecond more, each file


def name_to_json(path: str) -> dict[str, str]:
    """Return the JSON fields of a file name: `path`, and `path_b64` with its bytes where they are not UTF-8."""
    shown = show_name(path)
    if shown == path:
        return {"path": path}
    return {"path": shown, "path_b64": base64.b64encode(os.fsencode(path)).decode("ascii")}


def name_from_json(data: dict[str, Any]) -> str:
    """Return the file name that `name_to_json` wrote, byte for byte."""
    if "path_b64" in data:
        return os.fsdecode(base64.b64decode(data["path_b64"]))
    path: str = data["path"]
    return path
