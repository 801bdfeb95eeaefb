"""What driver and worker say to each other; plain data that survives pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from r3po.function.find import FunctionSpec
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment
from r3po.storage.objects import ObjectStore
from r3po.table.columns import Columns, ColumnSettings
from r3po.table.outcomes import Failure
from r3po.work import Span

Listed = tuple[int, int, None, bool, str]
"""What the shard file says of a file that f is to see, as `FileVersion` takes it, but for the hash."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What every batch of a run has in common."""

    folders: JobFolders
    source_path: str
    """Absolute; f gets this, a slash and the file's path. Of a store the URL."""
    function: FunctionSpec
    input: str
    """`path`: f(filepath); `bytes`: f(filepath, data)."""
    hash: str
    """`content` or `stat`."""
    batch_seconds: float
    stop_file: Path
    """Once this exists, the run is to stop: finish the file at hand, keep what is done."""
    workers_folder: Path
    """Where each worker keeps its beacon."""
    timeout_s: float | None = None
    """Seconds that one call of f may take; None: as long as it likes."""
    batch_files: int | None = None
    """f takes lists, of so many files at most; None: one file."""
    store: ObjectStore | None = None
    """Where the files are; None: on a disk."""
    column_settings: ColumnSettings = field(default_factory=ColumnSettings)
    """What the config says of the columns."""
    has_many_rows: bool = False
    """What f returns for a file is any number of rows."""
    is_home: bool = True
    """The worker is on the driver's machine, and has the job's folders; else it answers with what is to be written."""
    current_folder: str = ""
    """Of a worker's own process: the config's folder. Empty: as it is."""

    @property
    def segments(self) -> Path | None:
        """Where workers write segments; None: they keep them in memory, for the driver."""
        return self.folders.segments if self.is_home else None

    @property
    def arguments(self) -> tuple[str, ...]:
        """`sys.argv` in a worker's own process: the function's file, or its module, as if that were the program."""
        spec = self.function
        return (spec.target or spec.label.rpartition(":")[0],)


@dataclass(frozen=True, slots=True)
class ShardContext:
    """What a worker needs to know of a shard to work on places of it."""

    job_id: str
    ref: ShardRef
    build: int
    attempt: str
    """The name of the segment; unique in the job."""
    columns: Columns | None
    """None until a row has set them: then only failures can be recorded."""
    lines: tuple[bytes, ...] | None = None
    """Lines of the shard file for the places of the work, where the worker cannot read it."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A worker's answer to a batch. What it names is durable, or comes with it."""

    segment: Segment | None
    """None: nothing was done."""
    n_done: int
    n_failed: int
    returned: tuple[Span, ...]
    """Places that were not tried."""
    seconds: float
    """Seconds from the first file of the batch to the durable segment."""
    failures: tuple[tuple[str, Failure], ...] = ()
    """Path and reason of the first failures of the batch, at most `FAILURES_TOLD`."""
    deferred: tuple[int, ...] = ()
    """Places that failed by their environment; nothing of them is recorded."""
    n_deferred_first: int = 0
    """How many of these came before the first outcome of the batch."""
    n_deferred_last: int = 0
    """How many came after the last one."""
    deferral: tuple[str, Failure] | None = None
    """Path and reason of the last of them."""
    is_spent: bool = False
    """The worker's process is not to be trusted any more: f was ended in the middle."""
    vanished: str = ""
    """Path of the first file of the batch that was gone once f had returned: f moves or removes it. Empty: none."""
    doubted: tuple[Span, ...] = ()
    """Places of calls of f with many files that failed: nothing of them is recorded, they go into smaller calls."""
    call_files: int = 0
    """The most files of a call that is made of these."""
    content: bytes | None = None
    """Of the segment, which the driver is to store; None: it is durable."""
    waited_s: float = 0.0
    """Of `seconds`, those that f was kept waiting for the store."""

    @property
    def last_failure(self) -> str:
        """Path and error of the last failure that is told, for people; empty without one."""
        if not self.failures:
            return ""
        path, failure = self.failures[-1]
        return failure.line(path)


FAILURES_TOLD = 100


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of calling f before the columns are known. Nothing is recorded yet; see `Worker.record_probe`."""

    columns: Columns | None
    """As the first row sets them; None if no file gave a row."""
    first_row_path: str
    n_failed: int
    not_a_dict: tuple[str, str, str] | None
    """Path, type and repr of the first thing that f returned instead of a dict."""
    stopped: bool
    """The run was to stop before the probe came to a row."""
    last_failure: str = ""
    """Path and error of the last file that failed, for people; empty: none did."""
    n_done: int = 0
    """Files that f is done with."""
    takes_many: bool = False
    """f gets lists of files."""
    no_list: tuple[str, str] | None = None
    """Path of the first file, alone in its call, for which f returned no list as `batch_files` needs it, and why."""
