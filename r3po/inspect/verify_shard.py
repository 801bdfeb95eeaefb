"""One shard checked whole: its entries, its commit, its outcomes and its parts, against each other.

It reads and never writes. What has to have an outcome, and which outcomes are published, is said by `state.shards`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import r3po.table.outcomes as tables
import r3po.table.parts as parts
from r3po.inspect.findings import UNREADABLE, Findings
from r3po.inspect.verify_parts import differing_parts
from r3po.state.commits import Commit
from r3po.state.job import Job
from r3po.state.manifest import ShardRef
from r3po.state.output_folder import KINDS, Part, shard_of
from r3po.state.segments import Segment
from r3po.state.shard_files import Entries, read_shard_file, ref_of
from r3po.state.shards import Shard, ShardState, newer_segments
from r3po.storage.names import show_name
from r3po.table import predicate
from r3po.table.added import added_names
from r3po.table.columns import Columns
from r3po.table.outcomes import Indices, Table
from r3po.table.predicate import CountingRules
from r3po.table.rows import Outcomes
from r3po.text import count_of

RUN = "r3po run"
RESTORE = "put the file back from a copy, or make the job again: r3po reset --all"
REMOVE = "remove it, then: r3po run"
MOVE = "move it elsewhere, then: r3po run"

_AS_COMMITTED = CountingRules(redo_since=0, retry_since=0)
"""Everything that a commit published, even what is to be done again by now."""


@dataclass(slots=True)
class ShardReport:
    """What was found of one shard."""

    findings: Findings
    entries: Entries | None = None
    """None: they cannot be read."""
    n_done: int = 0
    n_rows: int = 0
    n_failed: int = 0
    n_pending: int = 0
    n_parts: int = 0
    size_bytes: int = 0
    """Bytes of the parts."""
    is_committed: bool = False
    """Whether a commit says all there is to say."""


def check_shard(
    job: Job, ref: ShardRef, segments: Sequence[Segment], columns: Columns | None, *, reads_parts: bool = True
) -> ShardReport:
    """Return how a shard stands, and all that is wrong with it.

    Args:
        columns: of the parts, as the config has them by now; None: they are not known.
        reads_parts: compare what is in the parts with the outcomes, too.
    """
    check = _ShardCheck(job, ref, segments, columns, reads_parts=reads_parts)
    check.run()
    return check.report


class _ShardCheck:
    def __init__(
        self, job: Job, ref: ShardRef, segments: Sequence[Segment], columns: Columns | None, *, reads_parts: bool
    ) -> None:
        self.job, self.ref, self.segments, self.columns, self.reads_parts = job, ref, segments, columns, reads_parts
        self.commit = job.commits.get(ref.shard)
        self.folders = job.folders
        self.findings = Findings()
        self.report = ShardReport(self.findings)

    def run(self) -> None:
        self.report.entries = self._read_entries(self.ref)
        commit = self.commit
        if commit is not None:
            self._check_commit(commit)
            published = self._read_published(commit)
            if published is not None:
                self._check_outcomes(commit, *published)
            self._check_parts(commit, published)
        self._check_standing()

    # Private methods: the state

    def _read_entries(self, ref: ShardRef) -> Entries | None:
        try:
            entries = read_shard_file(self.folders.shards, ref)
        except UNREADABLE as error:
            self.findings.add_error("shard_file", error)
            return None
        found = ref_of(ref.shard, ref.file, entries)
        for field in dataclasses.fields(ref):
            named, counted = getattr(ref, field.name), getattr(found, field.name)
            if named != counted:
                what = f"its {field.name} is {counted}, but it is named with {named}"
                self.findings.add("shard_file", self.folders.shards / ref.file.name, what, RESTORE)
        return entries

    def _check_commit(self, commit: Commit) -> None:
        for what in self._commit_problems(commit):
            self.findings.add("commit", self._commit_path, what, RESTORE)
        if commit.part_settings != self.job.part_settings:
            what = "its parts were made with other csv and parquet settings than the config has now"
            self.findings.add("settings", self._commit_path, what, RUN)

    def _commit_problems(self, commit: Commit) -> list[str]:
        tally, build = commit.tally, self.job.built.build
        problems = []
        if commit.build > build:
            problems.append(f"its build is {commit.build}, the manifest's is {build}")
        for name, n, by in (
            ("n_done", tally.n_done, tally.done_by_fingerprint),
            ("n_failed", tally.n_failed, tally.failures_by_fingerprint),
        ):
            if sum(by.values()) != n:
                problems.append(f"its {name} is {n}, but by functions they are {sum(by.values())}")
        for kind in KINDS:
            named = [part for part in commit.parts if part.kind == kind]
            is_due = bool(commit.part_settings[kind] and tally.n_rows)
            is_ours = all(shard_of(part.name) == commit.shard for part in named)
            if not named or not is_ours or is_due != any(part.staged is not None for part in named):
                problems.append(f"its {kind} part is not what {tally.n_rows:,} rows and its settings give")
        return problems

    def _read_published(self, commit: Commit) -> tuple[Outcomes, Indices] | None:
        """Return the outcomes of a commit, and the indices of those that it published."""
        try:
            rules = dataclasses.replace(_AS_COMMITTED, keeps_deleted=commit.keeps_deleted)
            state, outcomes, indices = Shard(self.folders, commit.entries, commit, ()).read(rules, with_values=True)
        except UNREADABLE as error:
            where = error.filename if isinstance(error, OSError) else error.where
            is_entries = str(where) == str(self.folders.shards / commit.entries.file.name)
            if not is_entries or self.report.entries is not None:
                self.findings.add_error("shard_file" if is_entries else "outcomes", error)
            return None
        if state.n_pending:
            what = f"{count_of(state.n_pending, 'file')} of the shard have no outcome in it"
            self.findings.add("outcomes", self._outcomes_path, what, RESTORE)
        return outcomes, indices

    def _check_outcomes(self, commit: Commit, outcomes: Outcomes, indices: Indices) -> None:
        table = outcomes.table
        doubled = predicate.doubled_places(table)
        if doubled:
            what = f"{count_of(len(doubled), 'file')} have more than one outcome in it: places {_list(doubled)}"
            self.findings.add("outcomes", self._outcomes_path, what, RESTORE)
        counted = tables.tally(table, indices)
        for field in dataclasses.fields(counted):
            found, named = getattr(counted, field.name), getattr(commit.tally, field.name)
            if found != named:
                what = f"its {field.name} is {found}, its commit says {named}"
                self.findings.add("outcomes", self._outcomes_path, what, RESTORE)
        if tables.dropped_keys(table, indices) != commit.dropped:
            what = "the keys that it says were left out are not those that its commit says"
            self.findings.add("outcomes", self._outcomes_path, what, RESTORE)
        is_current = commit.first_build >= self.job.built.redo_since
        if self.columns is not None and is_current and commit.tally.n_rows:
            added = added_names(outcomes.choose_rows(indices))
            if added != commit.own_schema.names[len(self.columns.items) :]:
                what = f"its rows add the columns {added}, but its commit says others"
                self.findings.add("outcomes", self._outcomes_path, what, RESTORE)
        is_adopted = commit.entries == self.ref
        entries = self.report.entries if is_adopted else self._read_entries(commit.entries)
        if entries is not None:
            self._check_seen(commit, entries, table, indices)

    def _check_seen(self, commit: Commit, entries: Entries, table: Table, indices: Indices) -> None:
        """See that the adopted entries say what f saw of the files."""
        seen = zip(tables.places_of(table, indices), tables.seen_files(table, indices), strict=True)
        other = [show_name(entries.paths[place]) for place, version in seen if entries.adopt(place, version)]
        if other:
            files = count_of(len(other), "file has", "files have")
            what = f"{files} another size, mtime or hash there than f saw: {_list(other)}"
            self.findings.add("shard_file", self.folders.shards / commit.entries.file.name, what, RESTORE)

    def _check_standing(self) -> None:
        """See how many files are done, failed and to do, by the predicate of the runs."""
        commit, report = self.commit, self.report
        try:
            newer = newer_segments(commit, self.segments)
            state = Shard(self.folders, self.ref, commit, newer).resolve(self.job.rules())
        except UNREADABLE as error:
            if not self.findings.counts:
                self.findings.add_error("outcomes", error)
            if commit is not None:
                tally = commit.tally
                report.n_done, report.n_rows, report.n_failed = tally.n_done, tally.n_rows, tally.n_failed
            return
        report.n_done, report.n_failed, report.n_pending = state.n_done, state.n_failed, state.n_pending
        report.n_rows = state.n_rows
        report.is_committed = state.is_committed
        self._check_segments(state)

    def _check_segments(self, state: ShardState) -> None:
        newer = newer_segments(self.commit, self.segments)
        folder = self.folders.segments / f"{self.ref.shard:05d}"
        for segment in newer:
            if segment not in state.segments:
                self.findings.add("segment", folder / segment.name, "is damaged; its files are done again", RUN)
        n_left = len(self.segments) - len(newer)
        if n_left:
            self.findings.note(f"{folder}: {n_left:,} segments that its commit has already; the next run removes them")

    # Private methods: the parts

    def _check_parts(self, commit: Commit, published: tuple[Outcomes, Indices] | None) -> None:
        output = self.folders.output
        there: list[Part] = []
        hints: dict[str, str] = {}
        for part in commit.parts:
            look = output.look_at(part)
            if look.problem:
                hints[part.name] = REMOVE if look.is_damaged else RUN
                self.findings.add("part", output.where_of(part.kind, part.name), look.problem, hints[part.name])
            if part.staged is not None and look.size_bytes is not None:
                there.append(part)
                self.report.size_bytes += look.size_bytes
        self.report.n_parts = len(there)
        shown = None if published is None or not there or not self.reads_parts else self._shown(commit, *published)
        if shown is None:
            return
        with output.readable((part.kind, part.name) for part in there) as paths:
            readable = dict(zip(there, paths, strict=True))
            for kind, name, what in differing_parts(readable, commit, self.job.built.job_name, shown):
                self.findings.add("values", output.where_of(kind, name), what, hints.get(name, REMOVE))

    def _shown(self, commit: Commit, outcomes: Outcomes, indices: Indices) -> parts.ShownRows | None:
        """Return the rows as the parts have to show them; None where the config says something else by now."""
        columns = self.columns
        if columns is None or commit.part_settings != self.job.part_settings:
            return None
        paths: list[str] = []
        if columns.source is not None:
            try:
                paths = [show_name(path) for path in read_shard_file(self.folders.shards, commit.entries).paths]
            except UNREADABLE:
                return None  # which is told already
        return parts.ShownRows(outcomes.choose_rows(indices), columns, paths)

    # Private methods: where

    @property
    def _commit_path(self) -> Path:
        return self.folders.commits / f"{self.ref.shard:05d}.json"

    @property
    def _outcomes_path(self) -> Path:
        assert self.commit is not None, "outcomes are found by their commit"
        return self.folders.outcomes / self.commit.outcomes.name


# Private functions


def _list(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items[:3])) + (" ..." if len(items) > 3 else "")
