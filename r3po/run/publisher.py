"""What the holder of the lock decides: the job's columns, and the commits of shards.

Workers prepare, the publisher decides; nobody else writes columns or commits. One a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from r3po.state.commits import Commit, commit_shard, withdraw_parts
from r3po.state.job import Job
from r3po.state.manifest import ShardRef, read_columns, read_former_columns, write_columns
from r3po.state.segments import Segment
from r3po.storage.json_files import damaged
from r3po.table import schema as schemas
from r3po.table.added import check_added
from r3po.table.columns import Columns
from r3po.table.outcomes import Schema
from r3po.worker.staging import Staged, StageOrder, stage_shard

MOST_WIDENED = 32
"""How many times per run the first part may be rewritten with wider types; the driver does it itself."""


@dataclass(slots=True)
class Publisher:
    """Gives stage orders, and commits what comes of them.

    Args:
        fingerprint: of today's function, for the predicate.
        version: of r3po, for the parts' metadata.
        next_attempt: gives a new attempt id, unique in the job.
        in_force: the job on disk, where `job` is planned only: a redo takes its place with its first row. None: it is.
    """

    job: Job
    fingerprint: str
    version: str
    next_attempt: Callable[[], str]
    in_force: Job | None = None
    columns: Columns | None = field(init=False)
    """The job's columns, once a row has set them."""
    schema: Schema | None = None
    """The join of the types that the committed shards need, and maybe of those that they needed before this run."""
    _is_published: bool = False
    _n_widened: int = 0

    def __post_init__(self) -> None:
        known = read_columns(self.job.config.working_dir, self.job.built)
        self.columns = None if known is None else self.job.config.column_settings.of(known[0])
        self._learn(self.job.commits.values())

    @property
    def part_schema(self) -> Schema | None:
        """The types that all parts have at the end."""
        return None if self.schema is None or self.columns is None else schemas.part_schema(self.schema, self.columns)

    def put_in_force(self) -> None:
        """Put a redo in force that was planned only; before, nothing of the job has changed."""
        if self.in_force is not None:
            self.in_force.put_in_force(self.job.built)
            self.job, self.in_force = self.in_force, None

    def set_columns(self, columns: Columns, path: str) -> None:
        """Fix the job's columns durably, as the row of the file `path` has them; a redo is in force from then on.

        Parts of before a redo that have other columns are withdrawn: beside the new ones they would be no table.
        """
        self.put_in_force()
        former = read_former_columns(self.job.config.working_dir, self.job.built)
        if former is not None and former.to_json() != columns.to_json():
            for shard, commit in self.job.commits.items():
                if not self._is_current(commit) and any(part.staged for part in commit.parts):
                    self._begin_publishing()
                    self.job.commits[shard] = withdraw_parts(self.job.folders, commit)
            self.job.folders.output.settle()
        write_columns(self.job.config.working_dir, self.job.built, columns, path, self.fingerprint)
        self.columns = columns

    def forget_replaced(self) -> None:
        """Let the types be what the rows that are committed now need; those that they replaced may have needed more."""
        self.schema = None
        self._learn(self.job.commits.values())

    def check_added(self) -> None:
        """Refuse more columns that rows add than a table can bear. Raises RunStoppedError."""
        if self.schema is not None and self.columns is not None and self.columns.rules.adds:
            check_added(schemas.added_columns(self.schema, self.columns))

    def stage_order(self, ref: ShardRef, segments: Iterable[Segment] = ()) -> StageOrder:
        """Return the order to stage a shard as it stands now; without segments, only its parts are made again."""
        job = self.job
        return StageOrder(
            folders=job.folders,
            job_id=job.built.job_id,
            job_name=job.built.job_name,
            version=self.version,
            ref=ref,
            build=job.built.build,
            attempt=self.next_attempt(),
            previous=job.commits.get(ref.shard),
            segments=tuple(segments),
            rules=job.rules(self.fingerprint),
            columns=self.columns,
            settings=job.part_settings,
            schema=self.schema,
        )

    def stage(self, ref: ShardRef, segments: Iterable[Segment] = ()) -> Commit:
        """Stage a shard that lacks nothing, in this process, and commit it. Raises like `commit`."""
        return self.commit(ref, stage_shard(self.stage_order(ref, segments)))

    def commit(self, ref: ShardRef, staged: Staged) -> Commit:
        """Decide a staged shard and publish its parts.

        Raises:
            DamagedStateError: the shard lacks an outcome, since a segment was damaged after it was listed.
            OSError: the disk refused; what was decided is completed by the next run.
            RunStoppedError: the rows of the shards that are there add too many columns.
        """
        commit = staged.commit
        if commit is None:
            raise damaged(self.job.folders.segments, "was damaged while it was read; run again")
        n_outcomes = commit.tally.n_done + commit.tally.n_failed
        if commit.shard != ref.shard or not ref.n_present <= n_outcomes <= ref.n_files:
            raise AssertionError(f"shard {ref.shard}: {n_outcomes} outcomes for {ref.n_present} files")
        self._learn([commit])
        self.check_added()
        self._begin_publishing()
        first = self._first_part()
        if first is None or commit.shard <= first.shard:
            commit = self._widened(commit)
        elif self._is_current(first) and first.schema != self.part_schema:
            widened = self._widened(first)
            if widened is not first:  # else the segments that its shard has got since would go with the old commit
                self._commit(widened)
        self._commit(commit)
        return commit

    # Private methods

    def _commit(self, commit: Commit) -> None:
        previous = self.job.commits.get(commit.shard)
        if previous is not None and not self._is_current(previous):
            previous = None  # its outcomes can be brought back until the redo has come to its end
        commit_shard(self.job.folders, commit, previous)
        self.job.commits[commit.shard] = replace(
            commit, own_schema=schemas.shared(commit.own_schema), schema=schemas.shared(commit.schema)
        )
        self.job.broken_shards.discard(commit.shard)

    def _first_part(self) -> Commit | None:
        """Return the commit of the first part that is there; the lowest shards are done first, so it is soon found."""
        commits = (self.job.commits.get(ref.shard) for ref in self.job.built.shards)
        return next((commit for commit in commits if commit and any(part.staged for part in commit.parts)), None)

    def _widened(self, first: Commit) -> Commit:
        """Return the commit of what is or comes to be the first part, with types that hold the values of all others.

        pandas, pyarrow and DuckDB take the types of a folder from its first part: as long as these are the widest, all
        parts load together while the run goes on. The other parts follow at its end.
        """
        is_wide = not first.tally.n_rows or first.schema == self.part_schema
        if is_wide or self._n_widened >= MOST_WIDENED:
            return first
        self._n_widened += 1
        ref = next(ref for ref in self.job.built.shards if ref.shard == first.shard)
        # From its own outcomes, which are durable, whether it is decided already or not.
        staged = stage_shard(replace(self.stage_order(ref), previous=first))
        if staged.commit is None:
            return first
        self.job.folders.output.unstage(first.parts)
        return staged.commit

    def _begin_publishing(self) -> None:
        if not self._is_published:
            self.job.folders.output.set_success(())
            self._is_published = True

    def _is_current(self, commit: Commit) -> bool:
        """Whether a commit's rows have the columns of today, not those of before a redo."""
        return commit.first_build >= self.job.built.redo_since

    def _learn(self, commits: Iterable[Commit]) -> None:
        # A shard without rows may have seen other columns.
        known = {c.shard: c.own_schema for c in commits if c.tally.n_rows and self._is_current(c)}
        if self.schema is not None:
            known[-1] = self.schema  # before all others: its columns keep their order
        self.schema = schemas.join_commits(known) if known else None
