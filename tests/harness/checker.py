"""Reads what r3po left on disk and says what is wrong with it. Standard library only, and no code shared with r3po.

    python tests/harness/checker.py CONFIG_FOLDER --working-dir W --output O

prints one finding a line and exits with 1 if there is one. It checks a finished job; `--unfinished` leaves out what
only holds at the end, `--swept` also reports what a run may leave for the next start to remove.

It does not look into Parquet and Arrow files: their digests and the counts that name them are all it knows.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

FORMAT = 3
KINDS = ("csv", "parquet")
STATE_NAMES = {"manifest.json", "shards", "segments", "commits", "outcomes", "runs", "lock", "lock.holder.json"}
OUTPUT_NAMES = {*KINDS, "failures", ".r3po.json", ".staging"}
FAILURES_HEADER = ["path", "error_type", "message", "where", "attempts"]


def check_job(working_dir: Path, output_path: Path, **options: Any) -> list[str]:
    """Return what is wrong with a job, one finding a line; an empty list is a good job.

    Args:
        options: `is_finished`, `is_swept`, `path_column`, `has_many_rows`, `check_source` and `in_bucket` of `_Check`.
    """
    check = _Check(working_dir, output_path, **options)
    check.run()
    return check.findings


@dataclass
class _Check:
    state: Path
    output: Path
    is_finished: bool = True
    """The job has come to its end; else only that nothing is wrong so far, right after a start."""
    is_swept: bool = False
    """The last run found nothing to do, so that not even the shard files of the build before are left."""
    path_column: str | None = None
    """Column of the CSV parts that holds each row's path: then rows and failures are matched by name."""
    has_many_rows: bool = False
    """A file may have any number of rows, which lie together: `path_column` says only whose they are."""
    check_source: bool = False
    """The source files still are what f read; compare them with the hashes of the manifest."""
    in_bucket: bool = False
    """The table is in a bucket, of which `output` is a copy: parts are staged in `state`, which notes what was put."""
    findings: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    entries: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    commits: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, list[str]] = field(default_factory=dict)
    """Paths of the rows of each shard, where the table has a column for them."""

    def run(self) -> None:
        found = self._read_json(self.state / "manifest.json", "manifest")
        if found is None:
            return
        self.manifest = found
        self._check_shards()
        self._check_commits()
        self._check_outcomes()
        self._check_parts()
        self._check_claim()
        self._check_leftovers()
        if self.is_finished:
            self._check_finished()

    def _expect(self, is_right: bool, path: Path | str, what: str) -> None:
        if not is_right:
            self.findings.append(f"{path}: {what}")

    def _read_json(self, path: Path, kind: str) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_bytes())
            digest = content.pop("digest")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            self._expect(False, path, f"cannot be read: {error!r}")
            return None
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        self._expect(digest == hashlib.sha256(text.encode()).hexdigest(), path, "its digest does not fit")
        self._expect((content["format"], content["kind"]) == (FORMAT, kind), path, "another format or kind")
        return content

    def _read_csv(self, path: Path) -> list[list[str]]:
        csv.field_size_limit(sys.maxsize)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                return list(csv.reader(file)) or [[]]
        except (OSError, ValueError, csv.Error) as error:
            self._expect(False, path, f"cannot be read: {error!r}")
            return [[]]

    def _check_record(self, folder: Path, record: dict[str, Any]) -> None:
        path = folder / record["name"]
        self._expect(path.is_file(), path, "is named, but is not there")
        if path.is_file():
            data = path.read_bytes()
            self._expect(len(data) == record["size_bytes"], path, f"{len(data)} bytes, named {record['size_bytes']}")
            self._expect(hashlib.sha256(data).hexdigest() == record["sha256"], path, "another sha256 than named")

    # The manifest and its files

    def _check_shards(self) -> None:
        path, refs = self.state / "manifest.json", self.manifest["shards"]
        self._expect([ref["shard"] for ref in refs] == list(range(len(refs))), path, "shards are not 0, 1, 2 ...")
        for ref in refs:
            self.entries[ref["shard"]] = self._read_entries(ref)
        every = [entry for entries in self.entries.values() for entry in entries]
        n_present = sum(not entry.get("deleted", False) for entry in every)
        self._expect(self.manifest["count_job_files"] == n_present, path, f"count_job_files is not {n_present}")
        doubled = [name for name, n in Counter(_key(entry) for entry in every).items() if n > 1]
        self._expect(not doubled, path, f"files that are there twice: {doubled[:5]}")
        if "source_folders" in self.manifest:
            named = [folder["path"].rstrip("/") + "/" for folder in self.manifest["source_folders"]]
            lost = [
                entry["path"] for entry in every if not entry["path"].startswith(tuple(named)) and _is_present(entry)
            ]
            self._expect(not lost, path, f"files of no folder of the source: {lost[:5]}")
        if self.check_source:
            for entry in every:
                if not entry.get("deleted", False):
                    self._check_source_file(entry)

    def _read_entries(self, ref: dict[str, Any]) -> list[dict[str, Any]]:
        folder = self.state / "shards"
        path = folder / ref["file"]["name"]
        self._check_record(folder, ref["file"])
        if not path.is_file():
            return []
        entries = [json.loads(line) for line in path.read_bytes().splitlines()]
        self._expect(len(entries) == ref["n_files"], path, f"{len(entries)} files, named {ref['n_files']}")
        builds = [entry["build"] for entry in entries]
        self._expect(max(builds) == ref["last_build"], path, "last_build is not its highest build")
        self._expect(max(builds) <= self.manifest["build"], path, "newer than the manifest's build")
        present = [entry for entry in entries if not entry.get("deleted", False)]
        self._expect(len(entries) - len(present) == ref["n_deleted"], path, "another n_deleted")
        self._expect(sum(max(0, entry["size"]) for entry in present) == ref["size_bytes"], path, "another size_bytes")
        return entries

    def _check_source_file(self, entry: dict[str, Any]) -> None:
        path = Path(self.manifest["source"]["path"]) / entry["path"]
        if entry["hash"] is not None:
            data = path.read_bytes()
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            self._expect((len(data), digest) == (entry["size"], entry["hash"]), path, "is not what the manifest says")

    # Decisions

    def _check_commits(self) -> None:
        refs = {ref["shard"]: ref for ref in self.manifest["shards"]}
        for path in _files(self.state / "commits"):
            is_commit = re.fullmatch(r"\d{5,}\.json", path.name) is not None
            self._expect(is_commit, path, "is no commit")
            commit = self._read_json(path, "commit") if is_commit else None
            if commit is None:
                continue
            self.commits[commit["shard"]] = commit
            self._expect(path.name == f"{commit['shard']:05d}.json", path, f"holds shard {commit['shard']}")
            self._expect(commit["job_id"] == self.manifest["job_id"], path, "of another job")
            self._expect(commit["build"] <= self.manifest["build"], path, "newer than the manifest")
            self._expect(commit["shard"] in refs, path, "of a shard that the manifest does not have")
            if commit["shard"] in refs and self.is_finished:
                self._check_commit_of(path, commit, refs[commit["shard"]])
            self._check_tally(path, commit)

    def _check_commit_of(self, path: Path, commit: dict[str, Any], ref: dict[str, Any]) -> None:
        known = (commit["made_from"], commit["entries"]["file"]["sha256"])
        self._expect(ref["file"]["sha256"] in known, path, "made from another shard file than the manifest's")
        n = commit["n_done"] + commit["n_failed"]
        most = ref["n_files"] if commit["keeps_deleted"] else ref["n_files"] - ref["n_deleted"]
        self._expect(ref["n_files"] - ref["n_deleted"] <= n <= most, path, f"{n} outcomes for {most} files")

    def _check_tally(self, path: Path, commit: dict[str, Any]) -> None:
        for total, by in (("n_done", "done_by_fingerprint"), ("n_failed", "failures_by_fingerprint")):
            self._expect(sum(commit[by].values()) == commit[total], path, f"{by} does not add up to {total}")
        has_failures = commit["first_failure_build"] is not None
        self._expect(has_failures == bool(commit["n_failed"]), path, "first_failure_build does not fit n_failed")
        is_old = self.is_finished and commit["first_build"] < self.manifest["redo_since"]
        self._expect(not is_old, path, "older than redo_since")

    def _check_outcomes(self) -> None:
        folder = self.state / "outcomes"
        for commit in self.commits.values():
            self._check_record(folder, commit["outcomes"])
        named = {commit["outcomes"]["name"] for commit in self.commits.values()} | self._former_outcomes()
        for path in _files(folder):
            self._expect(path.name in named, path, "no commit names it")

    def _former_outcomes(self) -> set[str]:
        """Return the names of the outcomes that a redo under way set aside; each must be there."""
        path = self.state / "former.json"
        former = self._read_json(path, "former") if path.exists() else None
        self._expect(former is None or self.manifest["is_redoing"], path, "is there without a redo")
        outcomes = [commit["outcomes"] for commit in former["commits"]] if former else []
        for record in outcomes:
            self._check_record(self.state / "outcomes", record)
        return {record["name"] for record in outcomes}

    # The output

    def _check_parts(self) -> None:
        named: dict[str, set[str]] = {kind: {"_SUCCESS"} for kind in KINDS}
        for commit in self.commits.values():
            self._check_part_names(commit)
            for kind, parts in _staged_parts(commit).items():
                named[kind] |= {part["name"] for part in parts}
                found = [self._check_part(self.output / kind / part["name"], commit, part["staged"]) for part in parts]
                if kind == "csv":
                    self._check_rows(self.output / kind, commit, found)
        for kind in KINDS:
            for path in _files(self.output / kind):
                self._expect(path.name in named[kind], path, "no commit names it")
                if path.name == "_SUCCESS":
                    self._expect(path.stat().st_size == 0, path, "is not empty")

    def _check_part_names(self, commit: dict[str, Any]) -> None:
        """One part has the name of its shard; several have numbers behind it, the same for all kinds."""
        where, shard = self.state / "commits" / f"{commit['shard']:05d}.json", f"part-{commit['shard']:05d}"
        names = [part["name"] for part in commit["parts"]]
        self._expect(len(names) == len(set(names)), where, "names a part twice")
        by_kind = _staged_parts(commit)
        for kind, parts in by_kind.items():
            stems = [f"{shard}-{number:05d}" for number in range(len(parts))] if len(parts) > 1 else [shard]
            expected = [f"{stem}.{kind}" for stem in stems]
            self._expect(not parts or [part["name"] for part in parts] == expected, where, f"{kind} is no {expected}")
        counts = {len(parts) for kind, parts in by_kind.items() if commit["part_settings"][kind]}
        self._expect(len(counts) < 2, where, "another number of parts of CSV than of Parquet")

    def _check_part(self, path: Path, commit: dict[str, Any], staged: dict[str, Any]) -> list[list[str]]:
        """Return the rows of a CSV part."""
        self._check_record(path.parent, {**staged, "name": path.name})
        self._expect(commit["n_rows"] > 0, path, "a part without rows")
        self._expect(bool(commit["part_settings"][path.parent.name]), path, "of a kind that is off")
        if path.is_file() and path.suffix == ".csv":
            return self._rows_of_csv(path, commit)
        if path.is_file():
            data = path.read_bytes()
            self._expect(data[:4] == data[-4:] == b"PAR1", path, "is no Parquet file")
        return []

    def _rows_of_csv(self, path: Path, commit: dict[str, Any]) -> list[list[str]]:
        header, *rows = self._read_csv(path)
        self._expect(header == list(commit["columns"]), path, f"its header is {header}")
        self._expect(bool(rows), path, "a part without rows")
        self._expect(all(len(row) == len(header) for row in rows), path, "rows of different lengths")
        return rows

    def _check_rows(self, folder: Path, commit: dict[str, Any], found: list[list[list[str]]]) -> None:
        """Compare the rows of all CSV parts of a shard with its commit."""
        if not found:
            return
        rows, path = [row for part in found for row in part], folder / f"part-{commit['shard']:05d}"
        self._expect(len(rows) == commit["n_rows"], path, f"{len(rows)} rows, its commit says {commit['n_rows']}")
        header = list(commit["columns"])
        if self.path_column in header:
            index = header.index(self.path_column)
            self.rows[commit["shard"]] = [row[index] for row in rows if len(row) > index]

    def _check_claim(self) -> None:
        path = self.output / ".r3po.json"
        claim = self._read_json(path, "claim")
        self._expect(claim is None or claim["job_id"] == self.manifest["job_id"], path, "another job's")

    # What must not be there

    def _check_leftovers(self) -> None:
        for path in _walk(self.state, self.output):
            # The folders of segments go with their commits.
            is_in_use = not self.is_finished and path.parent.parent == self.state / "segments"
            self._expect(not _is_temporary(path) or is_in_use, path, "a temporary file is left")
        staging = (self.state if self.in_bucket else self.output) / ".staging"
        for folder in (staging, *([self.state / "segments"] if self.is_finished else [])):
            for path in _files(folder):
                self._expect(_is_temporary(path), path, "is left")
        state_names = STATE_NAMES | ({"published", ".staging"} if self.in_bucket else set())
        for root, names in ((self.state, state_names), (self.output, OUTPUT_NAMES)):
            for path in _files(root):
                is_columns = root == self.state and re.fullmatch(r"columns\.b\d+\.json", path.name)
                is_former = root == self.state and path.name == "former.json" and self.manifest["is_redoing"]
                is_known = path.name in names or is_former or is_columns or _is_temporary(path)
                self._expect(bool(is_known), path, "does not belong here")
        if self.in_bucket and self.is_finished:
            parts = {part["name"] for commit in self.commits.values() for part in commit["parts"] if part["staged"]}
            noted = {path.name.removesuffix(".json") for path in _files(self.state / "published")}
            for name in noted ^ {*parts, "failures.csv"}:
                self._expect(False, self.state / "published" / name, "is noted or there, but not both")
        for path in _files(self.output / "failures"):
            self._expect(path.name == "failures.csv" or _is_temporary(path), path, "does not belong here")
        named = {ref["file"]["name"] for ref in self.manifest["shards"]}
        for path in _files(self.state / "shards") if self.is_swept else ():
            self._expect(path.name in named or _is_temporary(path), path, "the manifest does not name it")

    # What holds at the end

    def _check_finished(self) -> None:
        for shard in self.entries.keys() - self.commits.keys():
            self._expect(False, self.state / "commits", f"shard {shard} has none")
        settings = [commit["part_settings"] for commit in self.commits.values()]
        self._expect(all(one == settings[0] for one in settings), self.output, "parts of different settings")
        for kind in KINDS:
            is_on = any(one[kind] for one in settings)
            path = self.output / kind / "_SUCCESS"
            self._expect(path.exists() == is_on, path, "is missing" if is_on else "is there")
        self._check_columns()
        self._check_failures()

    def _check_columns(self) -> None:
        with_rows = [commit for commit in self.commits.values() if commit["n_rows"]]
        if not with_rows:
            return
        schemas = {json.dumps(commit["columns"]) for commit in with_rows}
        self._expect(len(schemas) == 1, self.output, f"parts of different types: {sorted(schemas)}")
        path = self.state / f"columns.b{max(1, self.manifest['redo_since'])}.json"
        columns = self._read_json(path, "columns")
        if columns is not None:
            names = [column["name"] for column in columns["columns"]]
            said = with_rows[0]["part_settings"]
            shown = [name for name, _ in said.get("columns", ())] or names
            adds = said.get("extra_keys") == "add"
            shown += [name for name in names if name not in shown] if adds else []
            self._expect(columns["job_id"] == self.manifest["job_id"], path, "another job's")
            self._expect(set(shown) <= set(names), path, "lacks columns that the parts show")
            shown = [*(said[key] for key in ("source_column", "row_column") if key in said), *shown]
            found = list(with_rows[0]["columns"])
            found = found[: len(shown)] if adds else found  # behind these are those that rows add
            self._expect(shown == found, path, "other columns than the parts'")

    def _check_failures(self) -> None:
        path = self.output / "failures" / "failures.csv"
        self._expect(path.is_file(), path, "is missing")
        if not path.is_file():
            return
        header, *lines = self._read_csv(path)
        self._expect(header == FAILURES_HEADER, path, f"its header is {header}")
        self._expect(all(len(line) == len(header) for line in lines), path, "lines of different lengths")
        has_attempts = all(re.fullmatch("[1-9][0-9]*", line[-1]) for line in lines if line)
        self._expect(has_attempts, path, "a failure without an attempt")
        failed = [line[0] for line in lines if line]
        self._expect(len(failed) == len(set(failed)), path, "a file is there twice")
        left = set(failed)
        in_row_order = []
        for shard, entries in sorted(self.entries.items()):
            here = [entry["path"] for entry in entries if entry["path"] in left]
            in_row_order += here
            n_failed = self.commits.get(shard, {}).get("n_failed", 0)
            self._expect(len(here) == n_failed, path, f"{len(here)} of shard {shard}, its commit says {n_failed}")
            gone = {entry["path"] for entry in entries if entry.get("deleted", False)}
            done = [entry for entry in entries if entry["path"] not in left | gone]
            unread = [entry["path"] for entry in done if entry["hash"] is None]
            self._expect(self.manifest["hash"] != "content" or not unread, path, f"no hash of {unread[:5]}")
            self._expect(not left & gone, path, "names a gone file")
            if self.path_column is not None:
                keeps_deleted = self.commits.get(shard, {}).get("keeps_deleted", False)
                self._check_names(shard, [entry["path"] for entry in done], gone if keeps_deleted else set())
        self._expect(failed == in_row_order, path, "not in row order, or with files that the manifest does not have")

    def _check_names(self, shard: int, expected: list[str], kept: set[str]) -> None:
        """Compare a part's rows with the files that have one; rows of `kept` files may be among them."""
        if any(commit["part_settings"]["csv"] for commit in self.commits.values()):
            found = [name for name in self.rows.get(shard, []) if name not in kept]
            if self.has_many_rows:
                found = [name for name, _ in groupby(found)]
                expected = [name for name in expected if name in found]
            self._expect(found == expected, f"shard {shard}", f"rows of {found}, expected {expected}")


# Private functions


def _staged_parts(commit: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the parts that a shard has, in their order."""
    return {kind: [p for p in commit["parts"] if p["kind"] == kind and p["staged"] is not None] for kind in KINDS}


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _is_present(entry: dict[str, Any]) -> bool:
    return not entry.get("deleted", False)


def _key(entry: dict[str, Any]) -> str:
    return entry.get("path_b64") or entry["path"]


def _files(folder: Path) -> list[Path]:
    """Return everything in a folder, hidden names and folders included; nothing if there is no folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _walk(*roots: Path) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(root):
            yield from (Path(folder, name) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check what r3po left on disk.")
    parser.add_argument("config_folder", type=Path, help="the folders below are relative to this one")
    parser.add_argument("--working-dir", type=Path, default=Path("working_dir"))
    parser.add_argument("--output", type=Path, default=Path("output_dir"))
    parser.add_argument("--path-column", help="column of the table that holds each row's path")
    parser.add_argument("--many", action="store_true", help="a file may have any number of rows")
    parser.add_argument("--unfinished", action="store_true", help="the job has not come to its end yet")
    parser.add_argument("--swept", action="store_true", help="the last run found nothing to do")
    parser.add_argument("--source", action="store_true", help="compare the source files with the manifest, too")
    given = parser.parse_args()
    findings = check_job(
        given.config_folder / given.working_dir,
        given.config_folder / given.output,
        is_finished=not given.unfinished,
        is_swept=given.swept,
        path_column=given.path_column,
        has_many_rows=given.many,
        check_source=given.source,
    )
    print("\n".join(findings) or "good: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
