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

from r3po.config.settings import Config, ConfigSource, check_source
from r3po.errors import DamagedStateError, FolderError
from r3po.inspect.findings import UNREADABLE, Finding, Findings
from r3po.inspect.verify_job import JobCheck, shown_columns
from r3po.inspect.verify_paths import WalkOrder, doubled_files
from r3po.inspect.verify_shard import MOVE, RESTORE, RUN, ShardReport, check_shard
from r3po.inspect.verify_source import check_source_files
from r3po.state.commits import Commit, read_commit
from r3po.state.job import Job, check_identity, job_folders
from r3po.state.known import load_known
from r3po.state.manifest import Manifest, read_manifest
from r3po.state.segments import Segment, list_segments
from r3po.storage.durable import is_temporary, list_names
from r3po.storage.lock import running_pid

Tell = Callable[[int, int], None]

READ_TRIES = 5
"""How often something is looked at again because a run decided something in the middle of it."""

SETTLE_S = 0.1
"""Seconds that a run gets to complete a step in whose middle it was looked at."""


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_jobs` found. The same fields as `r3po verify --json`."""

    job_name: str
    files: int
    """Files of the manifest."""
    done: int
    """Files that f is done with."""
    rows: int
    """Rows of these files."""
    failed: int
    pending: int
    parts: int
    """CSV and Parquet files that are there."""
    size_bytes: int
    """Bytes of the parts."""
    findings: tuple[Finding, ...]
    """What is wrong: kind, where, what, and hint, which fixes it. The first 1,000 of each kind."""
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


def verify_jobs(config: ConfigSource, source: bool = False) -> VerifyResult:
    """Check all that a job left on disk, and return what is wrong with it and what fixes that.

    Equal to `r3po verify CONFIG`. No Ray is started, f is not needed, and nothing is changed; a run may be going on.

    Args:
        source: walk the source, too, and hash every file again; read the parts of a table in a bucket.

    Raises:
        R3poError: of the kinds ConfigError, SourceError, FolderError (no job, or another one) or NewerFormatError.
    """
    return verify_job(load_known(config), source=source)


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
        self.folders.output.look_again()
        self.damaged_commits.clear()
        manifest = self._read_manifest(found)
        if manifest is None:
            return
        check_identity(self.config, manifest)
        if self.job.manifest is not None and manifest.job_id != self.job.built.job_id:
            raise DamagedStateError(
                "the job was made again while it was checked", where=self.folders.manifest, hint="r3po verify, again"
            )
        self.job = Job(self.config, self.folders, manifest, dict(self._iter_commits(manifest, found)))

    def _read_manifest(self, found: Findings) -> Manifest | None:
        if self.folders.reset_marker.exists():
            found.add("reset", self.folders.reset_marker, "a reset of this job was killed", "r3po reset --all")
        if self.folders.undo_marker.exists():
            found.add("reset", self.folders.undo_marker, "a reset --redo of this job was killed", RUN)
            return None  # the state is between two, until that is completed
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
                if not manifest.is_of_now(commit.build):
                    found.note(f"{path}: of before a redo; the next run removes it")
                elif commit.shard not in shards:
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
            for name in ("n_done", "n_rows", "n_failed", "n_pending", "n_parts", "size_bytes"):
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
            columns, reads_parts = shown_columns(self.job), self.source or isinstance(self.config.output_path, Path)
            report = check_shard(self.job, ref, segments.get(ref.shard, ()), columns, reads_parts=reads_parts)
            if f"{ref.shard:05d}.json" in self.damaged_commits:
                report.n_pending = 0  # nobody knows
            found.extend(report.findings)
            reports.append(report)

        self._settled(check)
        return reports[-1]

    def _check_job(self, found: Findings) -> None:
        earlier = self.findings.counts.keys()
        JobCheck(self.job, found, self.totals, earlier, self.damaged_commits, self._is_running).run()

    # Private methods: the source, and the answer

    def _check_source(self) -> None:
        if {"manifest", "shard_file"} & self.findings.counts.keys():
            what = "was not looked at: the manifest has to be fixed first"
            self.findings.add("source", str(self.config.source_path), what, "see the other findings")
            return
        self.source_files = check_source_files(self.job, self.findings)

    def _result(self) -> VerifyResult:
        totals, manifest = self.totals, self.job.manifest
        return VerifyResult(
            job_name=self.config.job_name,
            files=0 if manifest is None else manifest.count_job_files,
            done=totals.n_done,
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
