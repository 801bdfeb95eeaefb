"""Whether everything that a job left on disk is there, is what was written, and agrees with the rest.

It needs no Ray, no f and no lock, and changes nothing. It goes on after a finding, so that all are reported. A run may
be going on: what is found wrong is looked at again if the run decided something meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3po.config.settings import Config, check_source, load_config
from r3po.errors import DamagedStateError, FolderError
from r3po.inspect.findings import UNREADABLE, Finding, Findings
from r3po.inspect.verify_paths import WalkOrder, doubled_files
from r3po.inspect.verify_shard import MOVE, REMOVE, RESTORE, RUN, ShardReport, check_shard
from r3po.inspect.verify_source import check_source_files
from r3po.state.commits import Commit, read_commit
from r3po.state.failed_files import iter_failure_lines
from r3po.state.job import Job, check_identity, job_folders
from r3po.state.manifest import FORMAT, Manifest, columns_path, read_columns, read_manifest
from r3po.state.output_folder import KINDS, part_name
from r3po.state.segments import Segment, list_segments
from r3po.storage.durable import is_temporary, list_names
from r3po.storage.json_files import read_json
from r3po.storage.lock import running_pid
from r3po.storage.names import name_from_json, show_name
from r3po.table import schema as schemas
from r3po.table.columns import Columns

Tell = Callable[[int, int], None]

READ_TRIES = 5
"""How often something is looked at again because a run decided something in the middle of it."""

SETTLE_S = 0.1
"""What a run gets to complete a step in the middle of which it was looked at."""

_OTHER_OUTPUT = "give this job another output_path, then: r3po run"

_UNKNOWN = {"commit", "outcomes", "shard_file"}
"""Kinds of findings with which nobody knows what is to do."""


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_jobs` found. The same fields as `r3po verify --json`."""

    job_name: str
    files: int
    """Files of the manifest."""
    rows: int
    """Files with a row."""
    failed: int
    pending: int
    parts: int
    """CSV and Parquet files that are there."""
    size_bytes: int
    """Of the parts."""
    findings: tuple[Finding, ...]
    """What is wrong: kind, where, what, and hint, which is what mends it. The first 1,000 of each kind."""
    counts: dict[str, int]
    """All findings, by kind."""
    notes: tuple[str, ...]
    """What is not wrong: what a killed run left for the next one to remove, or that a run is going on."""
    source_files: int | None
    """Files of the source that were looked at; None: not asked for."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return {"schema_version": 1, **fields, "findings": findings, "notes": list(self.notes)}


def verify_jobs(config: str | os.PathLike[str], source: bool = False) -> VerifyResult:
    """Check all that a job left on disk, and return what is wrong with it and what mends that.

    Equal to `r3po verify CONFIG`. No Ray is started, f is not needed, and nothing is changed; a run may be going on.

    Args:
        source: walk the source, too, and hash every file again.

    Raises:
        R3poError: of the kinds ConfigError, SourceError, FolderError (no job, or another one) or NewerFormatError.
    """
    return verify_job(load_config(config), source=source)


def verify_job(config: Config, *, source: bool = False, tell: Tell = lambda n_files, of: None) -> VerifyResult:
    """See `verify_jobs`; `tell` is called with the number of files checked, and of all, after each shard."""
    if source:
        check_source(config)
    for _ in range(READ_TRIES):
        check = _Verify(config, source=source, tell=tell)
        result = check.run()
        if result.is_good or not check.is_overtaken:
            break
    return result


class _Verify:
    def __init__(self, config: Config, *, source: bool, tell: Tell) -> None:
        self.config, self.source, self.tell = config, source, tell
        self.folders = job_folders(config)
        self.findings = Findings()
        self.job = Job(config, self.folders, None, {})
        self.totals = ShardReport(Findings(), is_committed=True)
        self.source_files: int | None = None
        self.damaged_commits: set[str] = set()
        """Their file names."""
        self.seen_first: object = None
        self.seen: object = None
        """How manifest and commits looked when they were read last."""

    def run(self) -> VerifyResult:
        pid = running_pid(self.folders.working_dir)
        if pid is not None:
            self.findings.note(f"a run is going on: pid {pid}; what it has not done yet is to do")
        self.findings.extend(self._settled(self._read_job))
        self.seen_first = self.seen
        if self.job.manifest is not None:
            self._check_shards()
            self.findings.extend(self._settled(self._check_job))
            if self.source:
                self._check_source()
        return self._result()

    @property
    def is_overtaken(self) -> bool:
        """Whether a run changed the job in the middle of `run`, and has ended by now: what was found is of the past."""
        return not self._is_running and self._look() != self.seen_first

    # Private methods: a run may be going on

    def _settled(self, check: Callable[[Findings], None]) -> Findings:
        """Return what `check` finds; once more as long as the job was changed while it looked."""
        found = Findings()
        for _ in range(READ_TRIES):
            found = Findings()
            check(found)
            if not found.counts:
                break
            if self._is_running:
                time.sleep(SETTLE_S)
            elif self._look() == self.seen:
                break
            self._read_job(Findings())
        return found

    @property
    def _is_running(self) -> bool:
        return running_pid(self.folders.working_dir) is not None

    def _look(self) -> object:
        return [_identity(path) for path in (self.folders.manifest, self.folders.commits)]

    def _read_job(self, found: Findings) -> None:
        self.seen = self._look()
        self.damaged_commits.clear()
        manifest = self._read_manifest(found)
        if manifest is None:
            return
        check_identity(self.config, manifest)
        if self.job.manifest is not None and manifest.job_id != self.job.built.job_id:
            raise DamagedStateError(
                "the job was made anew while it was checked", where=self.folders.manifest, hint="r3po verify, again"
            )
        self.job = Job(self.config, self.folders, manifest, dict(self._iter_commits(manifest, found)))

    def _read_manifest(self, found: Findings) -> Manifest | None:
        if self.folders.reset_marker.exists():
            found.add("reset", self.folders.reset_marker, "a reset of this job was killed", "r3po reset --all")
        try:
            manifest = read_manifest(self.folders.manifest)
        except UNREADABLE as error:
            found.add_error("manifest", error)
            return None
        if manifest is None and not found.counts:
            if not any(name.endswith(".json") for name in list_names(self.folders.commits)):
                raise FolderError("there is no job here yet", where=self.folders.working_dir, hint="r3po run makes it")
            found.add("manifest", self.folders.manifest, "is missing, but there are commits", RESTORE)
        return manifest

    def _iter_commits(self, manifest: Manifest, found: Findings) -> Iterator[tuple[int, Commit]]:
        shards = {ref.shard for ref in manifest.shards}
        for name in list_names(self.folders.commits):
            path = self.folders.commits / name
            if is_temporary(name):
                found.note(f"{path}: a temporary file; the next run removes it")
            elif not name.endswith(".json"):
                found.add("foreign", path, "is no commit", MOVE)
            else:
                try:
                    commit = read_commit(self.folders, name, manifest.job_id)
                except FileNotFoundError:
                    continue  # a run replaced it, or a reset is going on
                except UNREADABLE as error:
                    found.add_error("commit", error)
                    self.damaged_commits.add(name)
                    continue
                if commit.shard not in shards:
                    found.add("commit", path, f"the manifest has no shard {commit.shard}", RESTORE)
                else:
                    yield commit.shard, commit

    # Private methods: the shards, one by one

    def _check_shards(self) -> None:
        order = WalkOrder(self.job.built)
        segments = list_segments(self.folders.segments, self.job.built.job_id)
        n_files = 0
        for number in range(len(self.job.built.shards)):
            report = self._check_shard(number, segments)
            self.findings.extend(report.findings)
            order.add(report.entries, self.job.built.shards[number].n_files)
            for name in ("n_rows", "n_failed", "n_pending", "n_parts", "size_bytes"):
                setattr(self.totals, name, getattr(self.totals, name) + getattr(report, name))
            self.totals.is_committed &= report.is_committed
            n_files += self.job.built.shards[number].n_files
            self.tell(n_files, self.job.built.count_job_files)
        for what in (*order.problems(), *doubled_files(self.job, order)):
            self.findings.add("manifest", self.folders.manifest, what, RESTORE)

    def _check_shard(self, number: int, segments: dict[int, list[Segment]]) -> ShardReport:
        reports: list[ShardReport] = []

        def check(found: Findings) -> None:
            ref = self.job.built.shards[number]
            report = check_shard(self.job, ref, segments.get(ref.shard, ()), self._columns)
            if f"{ref.shard:05d}.json" in self.damaged_commits:
                report.n_pending = 0  # nobody knows
            found.extend(report.findings)
            reports.append(report)

        self._settled(check)
        return reports[-1]

    # Private methods: the job

    def _check_job(self, found: Findings) -> None:
        self._check_shard_numbers(found)
        self._check_pending(found)
        self._check_suspects(found)
        self._check_columns(found)
        self._check_types(found)
        self._check_state_folders(found)
        if self.job.built.output_path != str(self.folders.output_path):
            where, old = self.folders.output_path, show_name(self.job.built.output_path)
            found.add("settings", where, f"the parts are in another folder so far: {old}", RUN)
            return
        self._check_claim(found)
        self._check_output_folders(found)
        self._check_end(found)

    def _check_shard_numbers(self, found: Findings) -> None:
        manifest = self.job.built
        numbers = [ref.shard for ref in manifest.shards]
        if numbers != list(range(len(numbers))):
            found.add("manifest", self.folders.manifest, "its shards are not 0, 1, 2 ...", RESTORE)
        for name, build in (
            ("redo_since", manifest.redo_since),
            ("retry_since", manifest.retry_since),
            ("last_build of a shard", max((ref.last_build for ref in manifest.shards), default=0)),
        ):
            if build > manifest.build:
                what = f"its {name} is {build}, but its build is {manifest.build}"
                found.add("manifest", self.folders.manifest, what, RESTORE)

    def _check_pending(self, found: Findings) -> None:
        n_pending, n_files = self.totals.n_pending, self.job.built.count_job_files
        if n_pending:
            hint = "the run that is going on does them" if self._is_running else RUN
            found.add("pending", self.config.job_name, f"{n_pending:,} of {n_files:,} files are to do", hint)
        elif not self.totals.is_committed and not _UNKNOWN & self.findings.counts.keys():
            found.add("pending", self.config.job_name, "all files are tried, but parts are to do", RUN)

    def _check_suspects(self, found: Findings) -> None:
        try:
            read_json(self.folders.suspects, kind="suspects", newest_format=FORMAT)
        except FileNotFoundError:
            pass
        except DamagedStateError as error:
            what, hint = str(error.args[0]), "remove it: which files have killed is found out anew"
            found.add("suspects", self.folders.suspects, what, hint)

    @property
    def _columns(self) -> Columns | None:
        """The columns of the parts as the config has them; None: they are not known, or not as the config says."""
        try:
            known = read_columns(self.folders.working_dir, self.job.built)
        except UNREADABLE:
            return None
        is_known = known is not None and {name for name, _ in self.config.column_settings.column_types or ()} <= set(
            known[0].names
        )
        return self.config.column_settings.of(known[0]) if known is not None and is_known else None

    def _check_columns(self, found: Findings) -> None:
        path = columns_path(self.folders.working_dir, self.job.built)
        try:
            columns = read_columns(self.folders.working_dir, self.job.built)
        except UNREADABLE as error:
            found.add_error("columns", error)
            return
        for shard, commit in self.job.commits.items():
            if not commit.tally.n_rows or commit.first_build < self.job.built.redo_since:
                continue
            if columns is None:
                found.add("columns", path, "is missing or another job's, but there are rows", RESTORE)
                return
            names = list(columns[0].names)
            if names != commit.own_schema.names:
                what = f"the columns of shard {shard} are {commit.own_schema.names}, but here they are {names}"
                found.add("columns", path, what, RESTORE)

    def _check_types(self, found: Findings) -> None:
        """See that all parts of a finished job have the types that all its rows need."""
        commits = [commit for commit in self.job.commits.values() if commit.tally.n_rows]
        columns = self._columns
        if not commits or not self._is_finished or columns is None or "columns" in found.counts:
            return
        needed = schemas.part_schema(schemas.join_schemas([commit.own_schema for commit in commits]), columns)
        for commit in commits:
            if commit.schema != needed:
                where = self.folders.commits / f"{commit.shard:05d}.json"
                found.add("settings", where, "its parts have other types than the job's rows need by now", RUN)

    @property
    def _is_finished(self) -> bool:
        """Whether every shard is committed, so that there has to be an end."""
        return not self.totals.n_pending and len(self.job.commits) == len(self.job.built.shards)

    def _check_state_folders(self, found: Findings) -> None:
        commits = self.job.commits.values()
        named = {ref.file.name for ref in self.job.built.shards} | {commit.entries.file.name for commit in commits}
        # Every run leaves the shard files of before f read the files; they are no news.
        named |= {name for name in list_names(self.folders.shards) if name.endswith(".jsonl")}
        self._note_unnamed(found, self.folders.shards, named)
        self._note_unnamed(found, self.folders.outcomes, {commit.outcomes.name for commit in commits})
        columns = columns_path(self.folders.working_dir, self.job.built).name
        for name in list_names(self.folders.working_dir):
            if is_temporary(name) or (name.startswith("columns.b") and name != columns):
                found.note(f"{self.folders.working_dir / name}: nothing names it; the next run removes it")
        shards = {f"{ref.shard:05d}" for ref in self.job.built.shards}
        for name in list_names(self.folders.segments):
            folder = self.folders.segments / name
            for inner in list_names(folder) if folder.is_dir() else [""]:
                if is_temporary(inner):
                    found.note(f"{folder / inner}: a temporary file; the next run removes it")
                elif name not in shards or Segment.parse(inner) is None:
                    found.add("foreign", folder / inner, "is no segment of this job", "move it elsewhere")

    def _note_unnamed(self, found: Findings, folder: Path, named: set[str]) -> None:
        unnamed = [name for name in list_names(folder) if name not in named]
        if unnamed and running_pid(self.folders.working_dir) is None:
            shown = ", ".join(unnamed[:3]) + (" ..." if len(unnamed) > 3 else "")
            found.note(f"{folder}: nothing names what a killed run left there ({shown}); the next run removes it")

    # Private methods: the output

    def _check_claim(self, found: Findings) -> None:
        path = self.folders.claim
        hint = "move the folders csv and parquet elsewhere, then: r3po run"
        try:
            claim = read_json(path, kind="claim", newest_format=FORMAT)
        except FileNotFoundError:
            found.add("claim", path, "is missing: nothing says whose the output folder is", hint)
        except DamagedStateError as error:
            found.add("claim", path, str(error.args[0]), f"remove it; {hint}")
        except OSError as error:
            found.add_error("claim", error)
        else:
            if claim["job_id"] != self.job.built.job_id:
                found.add("claim", path, f'another job claims this folder: "{claim["job_name"]}"', _OTHER_OUTPUT)
            elif name_from_json(claim["working_dir"]) != str(self.folders.working_dir):
                found.note(f"{path}: it names the working_dir of before it was moved")

    def _check_output_folders(self, found: Findings) -> None:
        parts = [(part, commit) for commit in self.job.commits.values() for part in commit.parts]
        on_disk = {name.removesuffix(".json") for name in list_names(self.folders.commits)}
        for kind in KINDS:
            named = {part.name for part, _ in parts if part.kind == kind} | {"_SUCCESS"}
            # The part of a commit that cannot be read is no stranger, nor is one that a run published just now.
            named |= {part_name(int(shard), kind) for shard in on_disk if shard.isdecimal()}
            for name in list_names(self.folders.data(kind)):
                if name not in named:
                    found.add("foreign", self.folders.data(kind) / name, "no commit names it", MOVE)
        staged = {part.staged.name for part, _ in parts if part.staged}
        self._note_unnamed(found, self.folders.staging, staged)
        for name in list_names(self.folders.failures.parent):
            if is_temporary(name):
                found.note(f"{self.folders.failures.parent / name}: a temporary file; the next run removes it")
            elif name != self.folders.failures.name:
                found.add("foreign", self.folders.failures.parent / name, "r3po did not write it", "move it elsewhere")

    def _check_end(self, found: Findings) -> None:
        if self.damaged_commits or self._is_running:
            return  # nobody knows whether the job is finished
        for kind in KINDS:
            path = self.folders.success(kind)
            if path.exists() and path.stat().st_size:
                found.add("success", path, "is not empty", REMOVE)
            if path.exists() and not self.job.part_settings[kind]:
                found.add("success", path, f"is there, but the config makes no {kind}", "remove it")
            elif path.exists() and not self._is_finished:
                found.add("success", path, "is there, but the job is not finished", RUN)
            elif not path.exists() and self.job.part_settings[kind] and self._is_finished:
                found.add("success", path, "is missing, but every file has its outcome", RUN)
        if self._is_finished:
            self._check_failures(found)

    def _check_failures(self, found: Findings) -> None:
        """Compare failures.csv, line by line, with what the outcomes say."""
        path = self.folders.failures
        if not path.exists():
            found.add("failures", path, "is missing", RUN)
            return
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(iter_failure_lines(self.job)):
                    if file.read(len(line)) != line:
                        what = f"the failure number {number:,} in it" if number else "its header"
                        found.add("failures", path, f"{what} is not what the outcomes say", REMOVE)
                        return
                if file.read(1):
                    found.add("failures", path, "has more failures than the outcomes", REMOVE)
        except UNREADABLE:
            pass  # outcomes that cannot be read are a finding already

    # Private methods: the source, and the answer

    def _check_source(self) -> None:
        if {"manifest", "shard_file"} & self.findings.counts.keys():
            what = "was not looked at: the manifest has to be mended first"
            self.findings.add("source", self.config.source_path, what, "see the other findings")
            return
        self.source_files = check_source_files(self.job, self.findings)

    def _result(self) -> VerifyResult:
        totals, manifest = self.totals, self.job.manifest
        return VerifyResult(
            job_name=self.config.job_name,
            files=0 if manifest is None else manifest.count_job_files,
            rows=totals.n_rows,
            failed=totals.n_failed,
            pending=totals.n_pending,
            parts=totals.n_parts,
            size_bytes=totals.size_bytes,
            findings=tuple(self.findings),
            counts=self.findings.counts,
            notes=tuple(self.findings.notes),
            source_files=self.source_files,
        )


# Private functions


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is replaced, or a name in a folder."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
