"""A first function for files of one kind, as text: it works on the file that was looked at, and is there to be changed.

It imports the standard library, and what is installed beside r3po, alone.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import unicodedata
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from r3po.begin.first_look import MOST_SAMPLE_BYTES

MOST_KEYS = 20
"""Most keys of a JSON file that become columns."""

_OPENERS: dict[str, tuple[str, Callable[..., Any]]] = {
    ".gz": ("gzip", gzip.open),
    ".bz2": ("bz2", bz2.open),
    ".xz": ("lzma", lzma.open),
}
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
_TABLES = (".csv", ".tsv")
_LINES = (".jsonl", ".ndjson")
_TEXT_SAMPLE_BYTES = 64 * 1024

_FRAME = '''\
"""The function that r3po calls on every file: one file in, one row out. Make it yours.

The path of the file need not be in the row: source_column: file in the config adds it as a column.
"""

{imports}


def f(filepath):
    """Return one row for one file: a dict of column names and values."""
{body}
'''


class _Kind(NamedTuple):
    """How a file is opened, and what is known of it."""

    suffix: str
    """Without that of a compression."""
    module: str
    """That decompresses it; empty: none."""
    content: bytes | None
    """Its beginning, decompressed; None: none was opened."""

    def opened(self, *more: str) -> str:
        """Return the call that opens it as text."""
        has_mark = (self.content or b"").startswith(b"\xef\xbb\xbf")
        options = ", ".join([f'encoding="utf-8{"-sig" if has_mark else ""}"', *more])
        return f'{self.module}.open(filepath, "rt", {options})' if self.module else f"open(filepath, {options})"


def function_text(suffix: str, sample: Path | None) -> str:
    """Return the text of a function file for files whose names end with `suffix`.

    Args:
        suffix: such as `.json`, `.csv.gz`; any letter case.
        sample: one of them, which is opened; None: what the suffix says is all that is known.
    """
    kind = _kind_of(suffix.lower(), sample)
    imports, body = _written_for(kind)
    indented = "\n".join(f"    {line}" if line else "" for line in body)
    return _FRAME.format(imports="\n".join(imports), body=indented)


# Private functions


def _kind_of(suffix: str, sample: Path | None) -> _Kind:
    inner, _, last = suffix.rpartition(".")
    module, opener = _OPENERS.get(f".{last}", ("", open))
    content = None
    if sample is not None:
        try:
            with opener(sample, "rb") as file:
                content = file.read(MOST_SAMPLE_BYTES + 1)
        except (OSError, EOFError, lzma.LZMAError):
            module = ""  # not what its suffix says, or nothing that we may read
    return _Kind(inner if module else suffix, module, content)


# Complex by count: one case a kind of file.
def _written_for(kind: _Kind) -> tuple[list[str], list[str]]:
    """Return the imports and the lines of the function."""
    first = [kind.module] if kind.module else []
    content = _json_of(kind)
    if kind.suffix in _IMAGES:
        return _image(kind)
    if kind.suffix == ".parquet" and not kind.module:
        return ["import pyarrow.parquet as pq"], [
            "metadata = pq.read_metadata(filepath)",
            'return {"n_rows": metadata.num_rows, "n_columns": metadata.num_columns}',
        ]
    if kind.suffix in _LINES:
        return _imports("json", *first), [
            f"with {kind.opened()} as file:",
            "    records = [json.loads(line) for line in file if line.strip()]",
            'return {"n_records": len(records)}',
        ]
    if content is not _NO_JSON:
        return _imports("json", *first), [
            f"with {kind.opened()} as file:",
            "    content = json.load(file)",
            *_row_of(content),
        ]
    if kind.suffix in _TABLES and _text_of(kind) is not None:
        return _imports("csv", *first), _table(kind)
    if kind.content is not None and _text_of(kind) is not None:
        return _imports(*first) or _NO_IMPORTS, [
            f"with {kind.opened(_REPLACED)} as file:",
            "    text = file.read()",
            'return {"n_lines": len(text.splitlines()), "n_words": len(text.split()), "n_characters": len(text)}',
        ]
    return _bytes(kind)


_NO_JSON = object()
_REPLACED = 'errors="replace"'
_NO_IMPORTS = ["# import what you need here"]


def _imports(*modules: str) -> list[str]:
    return [f"import {module}" for module in sorted(modules)]


def _json_of(kind: _Kind) -> Any:
    """Return what a JSON file holds; `_NO_JSON`: it is none."""
    text = _text_of(kind)
    if kind.content is None or text is None or len(kind.content) > MOST_SAMPLE_BYTES:
        return None if kind.suffix == ".json" else _NO_JSON
    if not text.lstrip().startswith(("{", "[")):
        return _NO_JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NO_JSON


def _row_of(content: Any) -> list[str]:
    if not isinstance(content, dict):
        return ['return {"n_entries": len(content)}']
    columns: dict[str, str] = {}
    for key, value in content.items():
        if not key or any(unicodedata.category(char) == "Cs" for char in key):
            continue
        if isinstance(value, list | dict):
            columns.setdefault(f"n_{key}", f"len(content.get({_quoted(key)}) or ())")
        else:
            columns.setdefault(key, f"content.get({_quoted(key)})")
    if not columns:
        return ['return {"n_entries": len(content)}']
    lines = [f"    {_quoted(name)}: {value}," for name, value in list(columns.items())[:MOST_KEYS]]
    more = [f"    # and {len(columns) - MOST_KEYS} more keys"] if len(columns) > MOST_KEYS else []
    return ["return {", *lines, *more, "}"]


def _quoted(text: str) -> str:
    """Return the text as Python would have it: what JSON escapes is escaped alike."""
    return json.dumps(text, ensure_ascii=False)


def _table(kind: _Kind) -> list[str]:
    header = (_text_of(kind) or "").partition("\n")[0]
    delimiter = max((",", ";", "\t", "|"), key=header.count)
    opened = kind.opened('newline=""', _REPLACED)
    option = "" if delimiter == "," or delimiter not in header else f", delimiter={json.dumps(delimiter)}"
    return [
        f"with {opened} as file:",
        f"    reader = csv.reader(file{option})",
        "    header = next(reader, [])",
        "    n_rows = sum(1 for _ in reader)",
        'return {"n_rows": n_rows, "n_columns": len(header), "columns": ", ".join(header)}',
    ]


def _image(kind: _Kind) -> tuple[list[str], list[str]]:
    if find_spec("PIL") is None or kind.module:
        imports, body = _bytes(kind)
        return imports, ["# With Pillow (pip install pillow): Image.open(filepath) knows width and height.", *body]
    return ["from PIL import Image"], [
        "with Image.open(filepath) as image:",
        '    return {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format}',
    ]


def _bytes(kind: _Kind) -> tuple[list[str], list[str]]:
    opened = f"{kind.module}.open(filepath)" if kind.module else 'open(filepath, "rb")'
    return _imports("hashlib", *([kind.module] if kind.module else [])), [
        f"with {opened} as file:",
        "    content = file.read()",
        'return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}',
    ]


def _text_of(kind: _Kind) -> str | None:
    """Return the content as text; empty where none was opened, None where it is no text."""
    content = kind.content or b""
    if b"\0" in content[:_TEXT_SAMPLE_BYTES]:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The beginning of a larger file may end within a character.
        return content[: error.start].decode("utf-8-sig") if error.start > MOST_SAMPLE_BYTES - 4 else None
