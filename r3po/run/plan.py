"""What a run is going to do, decided before anything on disk changes: the next manifest, and how each shard stands.

It reads, and it may let a walk write shard files that no manifest names yet. Until the plan is put in force the run may
be refused, and then nothing has changed. FORMAT.md, "A run, step by step", 2 to 3a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from r3po.config.settings import Config
from r3po.errors import SourceError, StateError
from r3po.events import Notice
from r3po.function.find import FunctionSpec
from r3po.run.check_columns import check_columns
from r3po.run.result import RunOptions
from r3po.source.build import BuildResult
from r3po.source.row_order import in_row_order, is_in_row_order
from r3po.source.sources import source_of
from r3po.state.job import Job, tidy_path
from r3po.state.manifest import Manifest, read_columns
from r3po.state.shards import ShardState
from r3po.text import count_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do."""

    manifest: Manifest
    """The manifest to put in force; the very object that is in force if there is nothing new to say."""
    states: dict[int, ShardState]
    """How each shard stands by that manifest and today's function, by shard."""
    notices: tuple[Notice, ...]
    """What the user should know of it."""
    is_costly: bool = False
    """It is a redo, and there are rows which it replaces."""
    has_new_places: bool = False
    """Files have other shards and places than in the manifest that was in force."""


Walk = Callable[[Job, bool], BuildResult]
"""Walks the source for a job, given whether it is known already that there is work for workers."""


def plan_run(job: Job, spec: FunctionSpec, options: RunOptions, walk: Walk) -> Plan:
    """Return what a run of `job` is going to do; the job itself stays as it is on disk.

    Args:
        walk: called once, unless `options.build` is False.

    Raises:
        StateError: there is nothing to go by, or rows of other code are there and `on_function_change` is `stop`.
        ConfigError: rows that are there do not fit the columns that the config wants.
        SourceError: too many files were deleted, or rows that are kept would be lost.
    """
    draft = _Draft(job, spec, options)
    draft.reopen()
    draft.build(walk)
    draft.redo()
    before, after = job.manifest, draft.job.built
    return Plan(
        after,
        draft.states,
        tuple(draft.notices),
        is_costly=draft.has_rows and before is not None and after.redo_since > before.redo_since,
        has_new_places=before is not None and after.layout_since > before.layout_since,
    )


def command_of(config: Config) -> str:
    """Return what to type to run a job again."""
    if not config.is_file:
        return "run_jobs"
    return "r3po run" if config.path.name == "config.yaml" else f"r3po run {tidy_path(config.path)}"


def undo_of(config: Config) -> str:
    """Return what to type to give up a redo that is under way."""
    return command_of(config).replace("r3po run", "r3po reset --redo") if config.is_file else "reset_redo"


# Private


def _is_of_source(manifest: Manifest, config: Config) -> bool:
    """Whether the paths of a manifest lead to its files in the source that the config names."""
    now = str(config.source_path), config.selection.is_list
    return (manifest.source_path, manifest.selection.is_list) == now


class _Draft:
    """A plan in the making, over a copy of the job that has the planned manifest."""

    def __init__(self, job: Job, spec: FunctionSpec, options: RunOptions) -> None:
        self.job, self._spec, self._options = job, spec, options
        self._config = job.config
        self.states: dict[int, ShardState] = {}
        self.notices: list[Notice] = []
        self.has_rows = False
        """Rows count by the manifest in force."""
        self._is_checked = True
        """The rows that are there fit the columns that the config wants, or there are none."""

    def reopen(self) -> None:
        """Decide which failures are tried again: what is tried again gets the next build."""
        if self.job.manifest is None:
            if not self._options.build:
                raise StateError("there is no manifest yet", hint="r3po build makes it; or run without --no-build")
            return
        self.states = self.job.resolve(None)
        self.has_rows = any(state.n_done for state in self.states.values())
        self._judge_older_code()
        if self._has_stale_columns():
            # A kill came between the columns and their first row, and f or the config changed since: they set them.
            self._raise_build(redo=True)
        elif any(state.n_failed for state in self.states.values()):
            self._reopen_failures()
        self._is_checked = not self._is_redo_due()
        if self._is_checked:
            check_columns(self.job)

    def build(self, walk: Walk) -> None:
        """Take over what the walk finds: new, changed and deleted files."""
        if self._options.build:
            built = walk(self.job, self._is_redo_due() or any(state.pending for state in self.states.values()))
            if built.is_changed:
                self._take(built.manifest)
        elif not _is_of_source(self.job.built, self._config):
            raise StateError("source_path is another one than that of the manifest", hint="run without --no-build")

    def redo(self) -> None:
        """Let no outcome count any more, if all rows are to be made again or none has the job's columns."""
        if self._is_redo_due():
            self._check_kept_rows()
            self._raise_build(redo=True)
            self._put_files_in_order()
        elif self._has_stale_columns():
            self._raise_build(redo=True)  # the last rows went, or are to be made again
        elif not self._is_checked:
            check_columns(self.job)  # what was to be made again is deleted by now

    # Private methods

    def _take(self, manifest: Manifest) -> None:
        self.job = self.job.with_manifest(manifest)
        self.states = self.job.resolve(self._spec.fingerprint)

    def _raise_build(self, *, retry: bool = False, redo: bool = False) -> None:
        self._take(self.job.raised(retry=retry, redo=redo))

    def _put_files_in_order(self) -> None:
        """Let the redo begin as a first run would: rows in the order of the walk, nothing of files that are gone."""
        manifest, size = self.job.built, self._config.shard_size
        if is_in_row_order(manifest, size) or not manifest.count_job_files:
            return
        self._take(in_row_order(self.job.folders.shards, manifest, size, source_of(self._config).order))
        if self.has_rows:
            words = "files were added or deleted since the first run: "
            words += "this redo begins the table again, in the order of the files"
            hint = f"{undo_of(self._config)} brings the rows of before back, until the redo has come to its end"
            self.notices.append(Notice(words, hint=hint))

    def _reopen_failures(self) -> None:
        n_pending = sum(state.n_pending for state in self.states.values())
        if self._options.retry_failed:
            self._raise_build(retry=True)
            return
        self.states = self.job.resolve(self._spec.fingerprint)
        if sum(state.n_pending for state in self.states.values()) > n_pending:
            # Failures of other code are tried again: their new outcomes must outrank the old ones for everybody.
            self.job = self.job.with_manifest(self.job.raised())

    def _has_stale_columns(self) -> bool:
        """Whether the job's columns are of other code, or of another config, and no row has them."""
        known = None if self.job.manifest is None else read_columns(self._config.working_dir, self.job.built)
        if known is None or any(state.n_rows for state in self.states.values()):
            return False
        return known[1] != self._spec.fingerprint or not self._config.column_settings.would_set(known[0])

    def _count_older(self) -> int:
        """Return how many rows that count were made by other code than today's."""
        counted = [item for state in self.states.values() for item in state.done_by_fingerprint.items()]
        return sum(n for fingerprint, n in counted if fingerprint != self._spec.fingerprint)

    def _is_redo_due(self) -> bool:
        """Whether all rows are to be made again, and that was not begun yet."""
        if not self.states or not (self._options.redo or self._config.on_function_change == "redo"):
            return False
        if self._count_older():
            return True  # a redo that was begun under other code, too
        return self._options.redo and (self._options.restart or not self.job.built.is_redoing)

    def _judge_older_code(self) -> None:
        """Do what `on_function_change` says about rows that other code made."""
        n_older = self._count_older()
        if not n_older or self._options.redo:
            return
        rows = count_of(n_older, "row was", "rows were")
        what = f"{self._spec.label} changed after {rows} made"
        redo = f"{command_of(self._config)} --redo makes all rows with the new code"
        match self._config.on_function_change:
            case "stop":
                raise StateError(
                    f"{what}; on_function_change: stop",
                    hint=f"{redo}\non_function_change: warn keeps the rows as they are",
                )
            case "redo":
                self.notices.append(Notice(f"{what}; all are made again (on_function_change: redo)"))
            case "warn":
                n_failed = sum(state.n_failed for state in self.states.values())
                files = "the failed file is" if n_failed == 1 else f"the {n_failed:,} failed files are"
                again = f", {files} tried again" if n_failed else ""
                self.notices.append(Notice(f"{what}; they stay as they are{again}", hint=redo, is_warning=True))

    def _check_kept_rows(self) -> None:
        """Refuse a redo that would lose rows which `on_deleted: keep` kept, unless that was asked for."""
        rules = self.job.rules()
        n_kept = sum(shard.count_kept_rows(rules) for shard in self.job.iter_shards())
        if n_kept and not self._options.accept_deletions:
            rows = count_of(n_kept, "row is of a deleted file", "rows are of deleted files")
            raise SourceError(
                f"{rows}; a redo cannot make them again, and nothing was changed",
                hint=f"{command_of(self._config)} --redo --accept-deletions drops them",
            )
