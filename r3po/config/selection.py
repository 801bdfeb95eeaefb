"""Which files a job is of: folders, ends of names and globs, as the config has them and the manifest keeps them.

How a file is identified: by its path relative to the root of its source. One folder is that root itself. A list of
folders has the config's folder for its root, and each path begins with its folder as the list has it, normalized:
`data/2024/a.json`, `../more/a.json`, `/mnt/disk/a.json`. So a path depends neither on the other folders of the list nor
on their order, and folders of one last name differ. Source: FORMAT.md, "Which file is which".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from r3po.config.folders import expand
from r3po.storage.names import absolute_path, name_from_json, name_to_json, show_name

ONE_FOLDER = ("",)
"""The folders of a source that is not a list: its root."""

_CHECKED = ("source_file_part", "ignore_case", "include", "exclude", "follow_links")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files below the root are the job's."""

    endings: tuple[str, ...]
    """Of file names; the empty one fits every name."""
    folders: tuple[str, ...] = ONE_FOLDER
    """Relative to the root, or absolute; each path begins with one of them."""
    ignore_case: bool = False
    """Of `endings` and of the globs."""
    include: tuple[str, ...] = ()
    """Globs, relative to the folder; a file has to fit one of them, if there are any."""
    exclude: tuple[str, ...] = ()
    follow_links: bool = False

    @property
    def is_list(self) -> bool:
        """Whether the source is a list of folders, with which each path begins."""
        return self.folders != ONE_FOLDER

    @property
    def shown_endings(self) -> str:
        """The ends of names as a shell would have them: `.json`, `{.jpg,.png}`."""
        return self.endings[0] if len(self.endings) == 1 else f"{{{','.join(self.endings)}}}"

    def differences(self, other: Selection) -> dict[str, tuple[str, str]]:
        """Return the keys of the config that chose other files, each with what it is here and in `other`."""
        mine, theirs = self._said(), other._said()
        return {key: (said, theirs[key]) for key, said in mine.items() if said != theirs[key]}

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the manifest. What is as in a config without these keys is left out."""
        fields: dict[str, Any] = {"source_file_part": self.endings[0] if len(self.endings) == 1 else list(self.endings)}
        if self.is_list:
            fields["source_folders"] = [name_to_json(folder) for folder in self.folders]
        for key in _CHECKED[1:]:
            if value := getattr(self, key):
                fields[key] = list(value) if isinstance(value, tuple) else value
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the selection of which a manifest has the fields, among others."""
        part = fields["source_file_part"]
        return cls(
            endings=(part,) if isinstance(part, str) else tuple(part),
            folders=tuple(map(name_from_json, fields["source_folders"])) if "source_folders" in fields else ONE_FOLDER,
            ignore_case=fields.get("ignore_case", False),
            include=tuple(fields.get("include", ())),
            exclude=tuple(fields.get("exclude", ())),
            follow_links=fields.get("follow_links", False),
        )

    # Private methods

    def _said(self) -> dict[str, str]:
        """Return each key as people would write it, in one order."""
        return {
            "source_file_part": _listed(self.endings),
            "ignore_case": str(self.ignore_case).lower(),
            "include": _listed(self.include),
            "exclude": _listed(self.exclude),
            "follow_links": str(self.follow_links).lower(),
        }


def folder_names(written: str | Sequence[str]) -> tuple[str, ...]:
    """Return the folders of a `Selection` whose source is written so in the config, in walk order."""
    if isinstance(written, str):
        return ONE_FOLDER
    return tuple(
        sorted((_normalized(expand(folder)) for folder in written), key=lambda name: os.fsencode(name).split(b"/"))
    )


def folder_paths(root: Path, folders: Sequence[str]) -> list[Path]:
    """Return the absolute paths of the folders of a `Selection`."""
    return [Path(absolute_path(str(root), folder)) for folder in folders]


# Private functions


def _normalized(folder: str) -> str:
    name = os.path.normpath(folder)
    return name[1:] if name.startswith("//") else name  # POSIX keeps two slashes


def _listed(texts: tuple[str, ...]) -> str:
    if not texts:
        return "not set"
    shown = sorted(f'"{show_name(text)}"' for text in texts)
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"
