"""Where a job keeps what: the names of all its files and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r3po.state.output_folder import OutputFolder
from r3po.storage.durable import make_folder


class _Below:
    """A file or folder of this name in the working folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folders: JobFolders, owner: type) -> Path:
        return folders.working_dir / self._name


@dataclass(frozen=True, slots=True)
class JobFolders:
    """Where a job keeps what; FORMAT.md draws the tree."""

    working_dir: Path
    output_path: Path

    manifest = _Below("manifest.json")
    shards = _Below("shards")
    segments = _Below("segments")
    commits = _Below("commits")
    outcomes = _Below("outcomes")
    runs = _Below("runs")
    suspects = _Below("suspects.json")
    reset_marker = _Below("reset")
    former = _Below("former.json")
    undo_marker = _Below("undo")

    @property
    def output(self) -> OutputFolder:
        return OutputFolder(self.output_path, self.working_dir)

    def make(self) -> None:
        """Make all folders that a run writes to. Raises FolderError."""
        make_folder(self.working_dir)
        self.output.make()
        for folder in (self.shards, self.segments, self.commits, self.outcomes, self.runs):
            make_folder(folder)
