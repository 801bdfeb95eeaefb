"""How r3po words numbers and long text for people."""

from __future__ import annotations

import re
import textwrap
import unicodedata


def count_of(n: int, one: str, many: str | None = None) -> str:
    """Return the number with its noun: `1 file`, `6,000 files`. `many` is the plural where `one` + s is not."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def counts_text(counts: dict[str, int]) -> str:
    """Return how many of what, in a row: `1 linked folder, 2 hidden`; each is named as several are."""
    return ", ".join(f"{n:,} {_one_of(what) if n == 1 else what}" for what, n in counts.items())


def _one_of(what: str) -> str:
    if what.startswith("not ") and what.endswith(" files"):
        return f"not a {what.removeprefix('not ').removesuffix('s')}"
    if what.startswith("end with "):
        return f"ends {what.removeprefix('end ')}"
    return re.sub(r"\bfolders\b", "folder", what)


def size_text(size_bytes: float) -> str:
    """Return a number of bytes in the unit that fits: `512 bytes`, `1.5 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < (1024 if unit == "bytes" else 1023.95):
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def is_control(char: str) -> bool:
    """Whether a character breaks lines, controls a terminal, or is half of one: no text for people has it."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def shorten(text: str, limit: int = 100) -> str:
    """Return text of at most `limit` characters as it is, and of a longer one the beginning and `...`."""
    return text if len(text) <= limit else text[:limit] + "..."


def first_line(text: str) -> str:
    """Return the text up to its first line break; the empty text has an empty first line."""
    return next(iter(text.splitlines()), "")


def shorten_path(path: str, limit: int) -> str:
    """Return a path of at most `limit` characters as it is, and of a longer one the beginning, `...` and the end."""
    if len(path) <= limit:
        return path
    end = (limit - 3) * 2 // 3
    return f"{path[: limit - 3 - end]}...{path[-end:]}"


def duration(seconds: float) -> str:
    """Return a time span: `5.1 s`, `1:28`, `2:05:00`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(int(max(seconds, 60)), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def percent_of(n: int, of: int) -> float:
    """Return a share in percent with one decimal, rounded down: 100 % means all. Of nothing it is 0."""
    return int(1000 * n / max(1, of)) / 10


def wrap_words(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Return text in lines of at most `width` characters, as far as its words allow; no word is broken.

    Args:
        first: what the first line begins with.
        rest: what all others do.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def failure_lines(title: str, failure: str, width: int, *, most: int | None = None) -> list[str]:
    """Return `path  error` in lines that break at spaces; the path is shortened in its middle, the error is not cut.

    Args:
        title: what the first line begins with; the others are indented as far.
        width: characters of a line.
        most: lines of the answer at most, with `...` where that is not all; None: as many as it needs.
    """
    path, gap, error = failure.partition("  ")
    shown = shorten_path(path, max(20, width - len(title)))
    lines = wrap_words(f"{shown}{gap}{error}", width, first=title, rest=" " * len(title))
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    # The word at the end gives way to the dots, and the one before it if need be; a single word is cut.
    while len(last) > width - 4 and " " in last.strip():
        last = last.rstrip().rpartition(" ")[0]
    return [*lines[: most - 1], f"{last[: width - 4].rstrip()} ..."]


_LABEL = re.compile(r" *(?:(?:error|hint|warning|note): +|[A-Za-z_]+:? {2,})?")
"""What a line of ours begins with: its further lines are indented as far."""


def wrap_lines(text: str, width: int) -> str:
    """Return text whose lines have at most `width` characters, as far as its words allow; no word is broken."""
    return "\n".join(_wrap(line, width) if len(line) > width else line for line in text.split("\n"))


def _wrap(line: str, width: int) -> str:
    label = _LABEL.match(line)
    indent = " " * min(len(label[0]) if label else 0, width // 3)
    # Each blank is a place to break at, and several in a row are kept where they are not broken at.
    return "\n".join(wrap_words(line.replace("\t", " "), width, rest=indent))
