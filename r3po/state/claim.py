"""The claim of an output, `.r3po.json`: it says whose the table is, wherever that is.

Source: FORMAT.md, "`.r3po.json`".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r3po.errors import DamagedStateError, FolderError
from r3po.state.manifest import FORMAT
from r3po.storage.names import name_from_json, name_to_json

if TYPE_CHECKING:
    from r3po.state.output_folder import Part

SUCCESS = "_SUCCESS"
"""Beside the parts of a kind, once all are there."""


def claim_content(job_id: str, job_name: str, working_dir: Path) -> dict[str, Any]:
    """Return what a claim says."""
    content = {"format": FORMAT, "kind": "claim", "job_id": job_id, "job_name": job_name}
    return {**content, "working_dir": name_to_json(str(working_dir))}


class Claimed(ABC):
    """An output that a job claims before it writes there."""

    __slots__ = ()

    working_dir: Path

    stranger_hint = "move it elsewhere, then run again"
    """What to do with something in a data folder that is no part of the job."""

    @property
    @abstractmethod
    def where(self) -> Path | str:
        """Where the output is, for people."""

    @abstractmethod
    def read_claim(self) -> dict[str, Any]:
        """Return what the claim says.

        Raises:
            FileNotFoundError, NotADirectoryError: there is none.
            DamagedStateError: it is not what was written.
        """

    @abstractmethod
    def list_files(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and name of everything in the data folders, `_SUCCESS` included."""

    @abstractmethod
    def where_of(self, kind: str, name: str) -> Path | str:
        """Return where a part, or what else is beside it, lies."""

    @abstractmethod
    def refuse_unclaimed(self, parts: Iterable[Part]) -> None:
        """See that nothing is there but these parts of ours. Raises FolderError."""

    def claimed_by(self, *, from_here: bool = False) -> str | None:
        """Return the id of the job that claims the output, or None if no claim can be read.

        Args:
            from_here: return only the id of a job in this very working folder.
        """
        try:
            claim = self.read_claim()
        except (FileNotFoundError, NotADirectoryError, DamagedStateError):
            return None
        job_id: str = claim["job_id"]
        return None if from_here and not self._is_from_here(claim) else job_id

    def check_claim(self, job_id: str | None, parts: Iterable[Part] = ()) -> None:
        """See that the output is this job's, or nobody's yet (`job_id` None: any job's is a stranger).

        Args:
            parts: of this job. They are ours also where the claim is gone: a folder that was removed while a run
                published into it holds the last part and nothing else.

        Raises:
            FolderError: another job writes there, or files lie there that r3po did not write.
        """
        try:
            claim = self.read_claim()
        except FileNotFoundError:
            self.refuse_unclaimed(parts)
            return
        if job_id is None and self._is_from_here(claim):
            raise FolderError(
                f'holds the table of a job "{claim["job_name"]}" whose state is gone from {self.working_dir}',
                where=self.where,
                hint="put working_dir back, or remove this folder to begin again",
            )
        if claim["job_id"] != job_id:
            raise FolderError(
                f'output_path belongs to another job: "{claim["job_name"]}", '
                f"working_dir {claim['working_dir']['path']}",
                where=self.where,
                hint="give this job another output_path, or remove that folder if you do not need its table any more",
            )

    def refuse_strangers(self, parts: Iterable[Part]) -> None:
        """See that the data folders hold nothing but `parts`. Raises FolderError."""
        ours = {(part.kind, part.name) for part in parts}
        for kind, name in self.list_files():
            if name != SUCCESS and (kind, name) not in ours:
                raise FolderError(
                    "is not a part of this job; a data folder holds parts and nothing else",
                    where=self.where_of(kind, name),
                    hint=self.stranger_hint,
                )

    # Private methods

    def _is_from_here(self, claim: dict[str, Any]) -> bool:
        return name_from_json(claim["working_dir"]) == str(self.working_dir)
