"""Files that workers died in, remembered from run to run: a file that takes the whole run with it must not do so again.

`suspects.json` holds them with the deaths that were counted; the beacons that a killed run left name the files it was
in. Neither decides what an outcome is: a suspect that is forgotten is done like any other file.
Source: FORMAT.md, "Suspects".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from r3po.engines.worker_processes import end_left_workers, forget_left_workers, iter_left_workers
from r3po.errors import R3poError
from r3po.file_version import FileVersion
from r3po.run.suspect_list import Suspect
from r3po.storage.durable import remove_durably
from r3po.storage.json_files import read_json, write_json
from r3po.work import Death, Span

log = logging.getLogger(__name__)

FORMAT = 1


class SuspectBook:
    """The suspects of a job on disk.

    Args:
        path: of `suspects.json`.
        job_id: what another job left there is ignored.
        fingerprint: of today's f: deaths under other code count for nothing.
        stat_place: returns the version of the file of a shard and place: deaths with other content do not count.
        layout_since: the build since which files have their places: what is known of another order is ignored.
    """

    def __init__(
        self,
        path: Path,
        job_id: str,
        fingerprint: str,
        stat_place: Callable[[int, int], FileVersion],
        layout_since: int = 1,
    ) -> None:
        self._path, self._fingerprint, self._stat_place = path, fingerprint, stat_place
        self._layout = {"job_id": job_id, "layout_since": layout_since}
        self._versions: dict[tuple[int, int], FileVersion] = {}
        self._written: tuple[object, ...] | None = None
        self.in_doubt: list[tuple[int, Span]] = []
        """Shard and places of calls of several files that runs were killed in, as far as they may not be done."""

    def forget(self, runs: Path, own_run: str) -> None:
        """Mistrust no file any more: what is known of them is of places that have other files from now on.

        The workers of killed runs must have been ended.
        """
        self.in_doubt = []
        self.write(())
        forget_left_workers(runs, own_run)

    def recall(self, runs: Path, own_run: str) -> list[Suspect]:
        """Return the files to mistrust: those of the book, and those that killed runs were in, alone in a call.

        Of the others is known from now on that they are `in_doubt`.
        Their beacons are removed once the book has them, and workers that are left of them are ended: the caller holds
        the job's lock.

        Args:
            runs: the folder of all runs.
            own_run: the name of this one, whose beacons are not looked at.
        """
        end_left_workers(runs, own_run)
        suspects, alone = self._read()
        for left in iter_left_workers(runs, own_run):
            if left.call is not None:
                self.in_doubt.append((left.shard, left.call))
                continue
            suspect = suspects.setdefault((left.shard, left.place), Suspect(left.shard, left.place))
            suspect.is_apart = True
            suspect.n_runs += 1
            if suspect.key == alone:
                suspect.n_deaths += 1
                suspect.n_known += left.death.is_known
                suspect.death = left.death
        self.in_doubt = sorted(set(self.in_doubt))
        found = _in_turn(suspects.values())
        self.write(found)
        forget_left_workers(runs, own_run)
        return found

    def write(self, suspects: Iterable[Suspect], alone: Suspect | None = None) -> None:
        """Make the book durable, if it says something else than before; with nothing to say there is none.

        Args:
            alone: the file that is about to run while no other worker is busy: if the run dies now, it is of this file.
        """
        files = [
            {
                "shard": suspect.shard,
                "place": suspect.place,
                **_looks(self.version_of(suspect.key)),
                "deaths": suspect.n_deaths,
                "known": suspect.n_known,
                "runs": suspect.n_runs,
                "cause": suspect.death.cause,
                "is_memory": suspect.death.is_memory,
                "is_apart": suspect.is_apart,
            }
            for suspect in suspects
        ]
        calls = [[shard, *call] for shard, call in self.in_doubt]
        state = (tuple(tuple(file.values()) for file in files), None if alone is None else alone.key, str(calls))
        if state == self._written:
            return
        if files or calls:
            write_json(
                self._path,
                {
                    "format": FORMAT,
                    "kind": "suspects",
                    **self._layout,
                    "fingerprint": self._fingerprint,
                    "files": files,
                    "alone": None if alone is None else [alone.shard, alone.place],
                    **({"calls": calls} if calls else {}),
                },
            )
        else:
            remove_durably(self._path)
        self._written = state

    def version_of(self, key: tuple[int, int]) -> FileVersion:
        """Return the version that a file (shard and place) had when it was first mistrusted."""
        if key not in self._versions:
            self._versions[key] = self._stat_place(*key)
        return self._versions[key]

    # Private methods

    def _read(self) -> tuple[dict[tuple[int, int], Suspect], tuple[int, int] | None]:
        try:
            content = read_json(self._path, kind="suspects", newest_format=FORMAT)
        except FileNotFoundError:
            return {}, None
        except R3poError as error:
            log.info("%s; it is ignored", error.headline)  # it only saves time
            return {}, None
        if any(content.get(name, 1) != value for name, value in self._layout.items()):
            return {}, None
        self.in_doubt = [(shard, (start, stop)) for shard, start, stop in content.get("calls", ())]
        is_same = content["fingerprint"] == self._fingerprint
        found, counted = {}, set()
        for file in content["files"]:
            suspect = Suspect(file["shard"], file["place"], is_apart=file["is_apart"])
            if is_same and _looks(self.version_of(suspect.key)).items() <= file.items():
                suspect.n_runs = file["runs"]
                suspect.n_deaths, suspect.n_known = file["deaths"], file["known"]
                suspect.death = Death(file["cause"], suspect.n_known > 0, is_memory=file["is_memory"])
                counted.add(suspect.key)
            found[suspect.key] = suspect
        alone = content["alone"] and tuple(content["alone"])
        return found, alone if alone in counted else None


def _looks(version: FileVersion) -> dict[str, int | str]:
    """Return what the book says of how a file looks."""
    return {"size": version.size, "mtime_ns": version.mtime_ns, **({"tag": version.tag} if version.tag else {})}


def _in_turn(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Return suspects in another order after each run that died: none is always behind one that takes long."""
    found = sorted(suspects, key=lambda suspect: suspect.key)
    first = max([0, *(suspect.n_runs - 1 for suspect in found)]) % max(1, len(found))
    return found[first:] + found[:first]
