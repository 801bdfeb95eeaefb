"""Where a job keeps what: the names of all its files and folders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r3po.state.output_folder import OutputFolder
from r3po.storage.durable import make_folder, remove_tree
from r3po.storage.names import name_from_json, name_to_json
from r3po.storage.object_urls import ObjectUrl, StoreOptions, is_url

if TYPE_CHECKING:
    from r3po.state.output_store import OutputStore


class _Below:
    """A file or folder of this name in the working folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folders: JobFolders, owner: type) -> Path:
        return folders.working_dir / self._name


@dataclass(frozen=True)
class JobFolders:
    """Where a job keeps what; FORMAT.md draws the tree."""

    working_dir: Path
    output_path: Path | ObjectUrl
    store_options: StoreOptions = field(default_factory=StoreOptions)

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
    published = _Below("published")

    @cached_property
    def output(self) -> OutputFolder | OutputStore:
        """Where the table is, on a disk or in a bucket. One for all who share these folders: it knows what is there."""
        if isinstance(self.output_path, ObjectUrl):
            from r3po.state.output_store import OutputStore  # what it imports takes time, and few need it

            return OutputStore(self.output_path, self.working_dir, self.store_options)
        return OutputFolder(self.output_path, self.working_dir)

    def output_to_json(self) -> dict[str, Any]:
        """Return what names the output in a marker, which may have to be found when the config names another one."""
        store = {name: value for name, value in asdict(self.store_options).items() if value}
        return {"output": name_to_json(str(self.output_path)), **({"store": store} if store else {})}

    def at_output(self, marker: dict[str, Any]) -> JobFolders:
        """Return the same folders with the output that a marker names."""
        output = name_from_json(marker["output"])
        place = ObjectUrl.parse(output) if is_url(output) else Path(output)
        return JobFolders(self.working_dir, place, StoreOptions.from_mapping(marker.get("store", {})))

    def make(self) -> None:
        """Make all folders that a run writes to. Raises FolderError."""
        make_folder(self.working_dir)
        self.output.make()
        for folder in (self.shards, self.segments, self.commits, self.outcomes, self.runs):
            make_folder(folder)

    def forget_bucket(self) -> None:
        """Remove what `working_dir` has of a bucket that the table is not in any more."""
        for folder in (self.published, self.working_dir / ".staging"):
            if folder != self.output.staging:
                remove_tree(folder)
