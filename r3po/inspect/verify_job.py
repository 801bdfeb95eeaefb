"""A job checked as a whole, its shards apart: the state, the claim, the output folder and the end of the last run."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from r3po.errors import DamagedStateError
from r3po.inspect.findings import UNREADABLE, Findings
from r3po.inspect.verify_shard import MOVE, REMOVE, RESTORE, RUN, ShardReport
from r3po.state.failed_files import iter_failure_lines
from r3po.state.folders import JobFolders
from r3po.state.former import read_former
from r3po.state.job import Job
from r3po.state.manifest import FORMAT, columns_path, read_columns
from r3po.state.output_folder import KINDS, shard_of
from r3po.state.segments import Segment
from r3po.storage.durable import is_temporary, list_names
from r3po.storage.json_files import read_json
from r3po.storage.lock import running_pid
from r3po.storage.names import name_from_json, show_name
from r3po.table import schema as schemas
from r3po.table.columns import Columns

_OTHER_OUTPUT = "give this job another output_path, then: r3po run"

_UNKNOWN = {"commit", "outcomes", "shard_file"}
"""Kinds of findings that leave unknown what is done and what is to do."""


def shown_columns(job: Job) -> Columns | None:
    """Return the columns of the parts as the config has them; None: they are unknown, or not as the config says."""
    wanted = job.config.column_settings
    try:
        known = read_columns(job.folders.working_dir, job.built)
    except UNREADABLE:
        return None
    if known is None or not {name for name, _ in wanted.column_types or ()} <= set(known[0].names):
        return None
    return wanted.of(known[0])


@dataclass(slots=True)
class JobCheck:
    """Checks everything that is there once a job.

    Args:
        found: takes what is wrong.
        totals: of all shards.
        earlier: the kinds of what was found of the shards.
        damaged_commits: file names of commits that cannot be read.
        is_running: whether a run is going on.
    """

    job: Job
    found: Findings
    totals: ShardReport
    earlier: Set[str]
    damaged_commits: Set[str]
    is_running: bool

    @property
    def folders(self) -> JobFolders:
        return self.job.folders

    def run(self) -> None:
        self._check_shard_numbers()
        self._check_pending()
        self._check_suspects()
        self._check_columns()
        self._check_types()
        self._check_state_folders()
        if self.job.built.output_path != str(self.folders.output_path):
            where, old = self.folders.output.where, show_name(self.job.built.output_path)
            self.found.add("settings", where, f"the parts are in another folder so far: {old}", RUN)
            return
        self._check_claim()
        self._check_output_folders()
        self._check_end()

    # Private methods: the state

    def _check_shard_numbers(self) -> None:
        manifest = self.job.built
        numbers = [ref.shard for ref in manifest.shards]
        if numbers != list(range(len(numbers))):
            self.found.add("manifest", self.folders.manifest, "its shards are not 0, 1, 2 ...", RESTORE)
        for name, build in (
            ("redo_since", manifest.redo_since),
            ("retry_since", manifest.retry_since),
            ("last_build of a shard", max((ref.last_build for ref in manifest.shards), default=0)),
        ):
            if build > manifest.build:
                what = f"its {name} is {build}, but its build is {manifest.build}"
                self.found.add("manifest", self.folders.manifest, what, RESTORE)

    def _check_pending(self) -> None:
        n_pending, n_files = self.totals.n_pending, self.job.built.count_job_files
        what = f"{n_pending:,} of {n_files:,} files are to do"
        if self.is_running:
            if n_pending:
                self.found.note(f"{what}: the run that is going on does them")
        elif n_pending:
            self.found.add("pending", self.job.config.job_name, what, RUN)
        elif not self.totals.is_committed and not _UNKNOWN & self.earlier:
            self.found.add("pending", self.job.config.job_name, "all files are tried, but parts are to do", RUN)

    def _check_suspects(self) -> None:
        try:
            read_json(self.folders.suspects, kind="suspects", newest_format=FORMAT)
        except FileNotFoundError:
            pass
        except DamagedStateError as error:
            what, hint = str(error.args[0]), "remove it: which files have killed is found out again"
            self.found.add("suspects", self.folders.suspects, what, hint)

    def _check_columns(self) -> None:
        path = columns_path(self.folders.working_dir, self.job.built)
        try:
            columns = read_columns(self.folders.working_dir, self.job.built)
        except UNREADABLE as error:
            self.found.add_error("columns", error)
            return
        for shard, commit in self.job.commits.items():
            if not commit.tally.n_rows or commit.first_build < self.job.built.redo_since:
                continue
            if columns is None:
                self.found.add("columns", path, "is missing or another job's, but there are rows", RESTORE)
                return
            names = list(columns[0].names)
            own = commit.own_schema.names[: len(names)]  # behind these are columns that rows add
            if names != own:
                what = f"the columns of shard {shard} are {own}, but here they are {names}"
                self.found.add("columns", path, what, RESTORE)

    def _check_types(self) -> None:
        """See that all parts of a finished job have the types that all its rows need."""
        commits = [commit for commit in self.job.commits.values() if commit.tally.n_rows]
        columns = shown_columns(self.job)
        if not commits or not self._is_finished or columns is None or "columns" in self.found.counts:
            return
        needed = schemas.part_schema(
            schemas.join_commits({commit.shard: commit.own_schema for commit in commits}), columns
        )
        for commit in commits:
            if commit.schema != needed:
                where = self.folders.commits / f"{commit.shard:05d}.json"
                self.found.add("settings", where, "its parts have other types than the job's rows need by now", RUN)

    @property
    def _is_finished(self) -> bool:
        """Whether every shard is committed, so that there has to be an end."""
        return not self.totals.n_pending and len(self.job.commits) == len(self.job.built.shards)

    def _check_state_folders(self) -> None:
        commits = self.job.commits.values()
        built = self.job.built
        named = {ref.file.name for ref in self.job.built.shards} | {commit.entries.file.name for commit in commits}
        # Every run leaves the shard files of before f read the files; they are no news.
        named |= {name for name in list_names(self.folders.shards) if name.endswith(".jsonl")}
        self._note_unnamed(self.folders.shards, named)
        self._note_unnamed(
            self.folders.outcomes, {commit.outcomes.name for commit in commits} | self._former_outcomes()
        )
        columns = columns_path(self.folders.working_dir, built).name
        for name in list_names(self.folders.working_dir):
            is_old = name.startswith("columns.b") and name != columns and not built.is_redoing
            if is_temporary(name) or is_old:
                self.found.note(f"{self.folders.working_dir / name}: nothing names it; the next run removes it")
        self._check_segments({f"{ref.shard:05d}" for ref in built.shards})

    def _former_outcomes(self) -> set[str]:
        try:
            former = read_former(self.folders)
        except UNREADABLE as error:
            self.found.add_error("former", error)
            return set(list_names(self.folders.outcomes))
        return set() if former is None else former.outcome_names

    def _check_segments(self, shards: set[str]) -> None:
        for name in list_names(self.folders.segments):
            folder = self.folders.segments / name
            for inner in list_names(folder) if folder.is_dir() else [""]:
                if is_temporary(inner):
                    self.found.note(f"{folder / inner}: a temporary file; the next run removes it")
                    continue
                segment = Segment.parse(inner)
                is_former = segment is not None and not self.job.built.is_of_now(
                    segment.build
                )  # goes at the redo's end
                if segment is None or (name not in shards and not is_former):
                    self.found.add("foreign", folder / inner, "is no segment of this job", "move it elsewhere")

    def _note_unnamed(self, folder: Path, named: set[str]) -> None:
        unnamed = [name for name in list_names(folder) if name not in named]
        if unnamed and running_pid(self.folders.working_dir) is None:
            shown = ", ".join(unnamed[:3]) + (" ..." if len(unnamed) > 3 else "")
            self.found.note(f"{folder}: nothing names what a killed run left there ({shown}); the next run removes it")

    # Private methods: the output

    def _check_claim(self) -> None:
        path = self.folders.output.claim
        hint = "move the folders csv and parquet elsewhere, then: r3po run"
        try:
            claim = self.folders.output.read_claim()
        except FileNotFoundError:
            self.found.add("claim", path, "is missing: nothing says whose the output folder is", hint)
        except DamagedStateError as error:
            self.found.add("claim", path, str(error.args[0]), f"remove it; {hint}")
        except OSError as error:
            self.found.add_error("claim", error)
        else:
            if claim["job_id"] != self.job.built.job_id:
                self.found.add("claim", path, f'another job claims this folder: "{claim["job_name"]}"', _OTHER_OUTPUT)
            elif name_from_json(claim["working_dir"]) != str(self.folders.working_dir):
                self.found.note(f"{path}: it names the working_dir of before it was moved")

    def _check_output_folders(self) -> None:
        parts = [(part, commit) for commit in self.job.commits.values() for part in commit.parts]
        names = [name.removesuffix(".json") for name in list_names(self.folders.commits)]
        on_disk = {int(name) for name in names if name.isdecimal()}
        if not self.is_running:
            on_disk -= self.job.commits.keys()
        output = self.folders.output
        named = {(part.kind, part.name) for part, _ in parts} | {(kind, "_SUCCESS") for kind in KINDS}
        # The part of a commit that cannot be read is no stranger, nor is one that a run published just now.
        for kind, name in output.list_files():
            if (kind, name) not in named and shard_of(name) not in on_disk:
                self.found.add("foreign", output.where_of(kind, name), "no commit names it", MOVE)
        staged = {part.staged.name for part, _ in parts if part.staged}
        self._note_unnamed(output.staging, staged)
        for name in output.list_failures():
            where = output.where_of("failures", name)
            if is_temporary(name):
                self.found.note(f"{where}: a temporary file; the next run removes it")
            elif where != output.failures:
                self.found.add("foreign", where, "r3po did not write it", "move it elsewhere")

    def _check_end(self) -> None:
        if self.damaged_commits or self.is_running:
            return  # nobody knows whether the job is finished
        for kind in KINDS:
            where, size = self.folders.output.where_of(kind, "_SUCCESS"), self.folders.output.success_size(kind)
            is_due = bool(self.job.part_settings[kind])
            if size:
                self.found.add("success", where, "is not empty", REMOVE)
            if size is not None and not is_due:
                self.found.add("success", where, f"is there, but the config makes no {kind}", "remove it")
            elif size is not None and not self._is_finished:
                self.found.add("success", where, "is there, but the job is not finished", RUN)
            elif size is None and is_due and self._is_finished:
                self.found.add("success", where, "is missing, but every file has its outcome", RUN)
        if self._is_finished:
            self._check_failures()

    def _check_failures(self) -> None:
        """Compare failures.csv, line by line, with what the outcomes say."""
        path = self.folders.output.failures
        try:
            opened = self.folders.output.open_failures()
        except FileNotFoundError:
            self.found.add("failures", path, "is missing", RUN)
            return
        try:
            with opened as file:
                for number, line in enumerate(iter_failure_lines(self.job)):
                    if file.read(len(line)) != line:
                        what = f"the failure number {number:,} in it" if number else "its header"
                        self.found.add("failures", path, f"{what} is not what the outcomes say", REMOVE)
                        return
                if file.read(1):
                    self.found.add("failures", path, "has more failures than the outcomes", REMOVE)
        except UNREADABLE:
            pass  # outcomes that cannot be read are a finding already
