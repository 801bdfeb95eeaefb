"""What source, `working_dir` and `output_path` may be to each other: none lies in another, on a disk or in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r3po.config.folders import expand, find_nested, holds
from r3po.config.selection import folder_paths
from r3po.config.yaml_file import Entry, Problem
from r3po.storage.object_urls import ObjectUrl

FOLDERS = ("source_path", "working_dir", "output_path")
"""Keys that name them."""


def check_places(places: dict[str, Any], entries: dict[str, Entry], problems: list[Problem]) -> None:
    """Note what is wrong with the source and the folders to each other.

    Args:
        places: what is right of them by itself, by key.
        entries: what the config says.
        problems: takes what is found.
    """
    if "source_path" not in places:
        return
    written = entries["source_path"].value
    sources: list[Path | ObjectUrl] = [places["source_path"]]
    if not isinstance(written, str):
        paths = folder_paths(places["source_path"], tuple(map(expand, written)))
        sources = [*paths]
        if nested := find_nested(paths):
            inner, outer = (f'"{written[at]}"' for at in nested)
            reason = f"{inner} is {outer}, or lies in it: each file must be of one folder; take {inner} out"
            problems.append(entries["source_path"].problem(reason))
    named = f"source_path{entries['source_path'].place}"
    for key in [key for key in FOLDERS[1:] if key in places]:
        relations = (_relation(source, places[key], named) for source in sources)
        if relation := next(filter(None, relations), None):
            problems.append(entries[key].problem(relation))


def _relation(source: Path | ObjectUrl, folder: Path | ObjectUrl, named: str) -> str | None:
    """Say what is wrong with a folder of ours, if it lies in one of the source or around it."""
    if isinstance(source, Path) and isinstance(folder, Path):
        is_inside, is_around = holds(source, folder), holds(folder, source)
    elif isinstance(source, ObjectUrl) and isinstance(folder, ObjectUrl):
        is_inside, is_around = source.holds(folder), folder.holds(source)
    else:
        return None
    if not (is_inside or is_around):
        return None
    relation = "is" if is_inside and is_around else "lies inside" if is_inside else "holds"
    why = "its files would be taken for input" if is_inside else "r3po would write beside your data"
    return f"{relation} {named}: {why}; choose a folder outside"
