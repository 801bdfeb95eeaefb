"""Where a job keeps what: the names of all its files and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r3po.state.output_folder import OutputFolder
from r3po.storage.durable import make_folder


@dataclass(frozen=True, slots=True)
class JobFolders:
    """Where a job keeps what; FORMAT.md draws the tree."""

    working_dir: Path
    output_path: Path

    @property
    def manifest(self) -> Path:
        return self.working_dir / "manifest.json"

    @property
    def shards(self) -> Path:
        return self.working_dir / "shards"

    @property
    def segments(self) -> Path:
        return self.working_dir / "segments"

    @property
    def commits(self) -> Path:
        return self.working_dir / "commits"

    @property
    def outcomes(self) -> Path:
        return self.working_dir / "outcomes"

    @property
    def runs(self) -> Path:
        return self.working_dir / "runs"

    @property
    def suspects(self) -> Path:
        return self.working_dir / "suspects.json"

    @property
    def reset_marker(self) -> Path:
        """There while the job is being forgotten."""
        return self.working_dir / "reset"

    @property
    def output(self) -> OutputFolder:
        return OutputFolder(self.output_path, self.working_dir)

    # These five are `output`'s, under the names that readers still use.

    @property
    def claim(self) -> Path:
        return self.output.claim

    @property
    def staging(self) -> Path:
        return self.output.staging

    @property
    def failures(self) -> Path:
        return self.output.failures

    def data(self, kind: str) -> Path:
        return self.output.data(kind)

    def success(self, kind: str) -> Path:
        return self.output.success(kind)

    def make(self) -> None:
        """Make all folders that a run writes to. Raises FolderError."""
        make_folder(self.working_dir)
        self.output.make()
        for folder in (self.shards, self.segments, self.commits, self.outcomes, self.runs):
            make_folder(folder)
