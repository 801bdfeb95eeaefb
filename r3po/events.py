"""What happened, as plain data. Packages emit events; bars, logs and tests listen. Nothing here writes anywhere.

Times are seconds, sizes bytes, paths relative to the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class JobOpened:
    """The config was read and the job is ours."""

    job_name: str
    config_path: str
    function: str
    """As people know it: `count_fruits.py:count_fruits`; empty for a build."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know once; the run goes on."""

    text: str
    hint: str = ""
    is_warning: bool = False

    @property
    def words(self) -> str:
        """Text and hint, for one line."""
        return f"{self.text} ({self.hint})" if self.hint else self.text


@dataclass(frozen=True, slots=True)
class ScanProgressed:
    """The walk goes on."""

    n_files: int


@dataclass(frozen=True, slots=True)
class ScanFinished:
    """The walk is done and the manifest is in force."""

    source: str
    suffix: str
    n_files: int
    size_bytes: int | None
    """Bytes of the files; None: a long first walk has only listed most of them."""
    n_new: int
    n_changed: int = 0
    n_touched: int = 0
    """Another mtime, the same content."""
    n_deleted: int = 0
    n_returned: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)
    """What the walk did not take, by reason; only reasons that occurred."""


@dataclass(frozen=True, slots=True)
class ProcessingPlanned:
    """What is there and what is to do, before the first batch."""

    n_files: int
    n_done: int
    n_failed: int
    """Failures that stand; those that are tried again count as pending."""
    n_pending: int
    n_shards: int
    is_resumed: bool
    limit: int | None = None
    """The most of the pending files that this run does; None: all."""


@dataclass(frozen=True, slots=True)
class WorkersStarting:
    """The workers are being started; with Ray that takes some seconds."""

    n_workers: int
    engine: str
    """`ray`, `processes` or `serial`."""


@dataclass(frozen=True, slots=True)
class WorkersStarted:
    n_workers: int
    engine: str
    """`Ray, local`, `Ray, joined`, `processes` or `serial`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class ColumnsSet:
    columns: tuple[tuple[str, str], ...]
    """Name and family of each column."""
    path: str
    """The file whose row set them."""


@dataclass(frozen=True, slots=True)
class BatchFinished:
    n_done: int
    n_failed: int
    last_failure: str
    """`path  error`, or empty."""
    seconds: float = 0.0
    waited: float = 0.0
    """Of `seconds`, those that f waited for the store with its files."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process of a worker died, or was ended; another takes its place and its files."""

    cause: str
    """`SIGSEGV`, `exit code 7`, `out of memory`, `over timeout_seconds`."""
    path: str
    """The file it was in; empty: none, or not known."""
    n_workers: int | None
    """How many there are for the next minutes, if there is one fewer; None: as many as before."""
    is_of_several: bool = False
    """The file is the first of several that f was given at once; these go into smaller calls."""

    @property
    def words(self) -> str:
        """What happened, for one line."""
        where = f" in {self.path}" + (" or a file that f had with it" if self.is_of_several else "")
        return f"a worker was lost{where if self.path else ''}: {self.cause}"


LONG_S = 5.0
"""A file that runs for so long is named."""


@dataclass(frozen=True, slots=True)
class LongestRunning:
    """The file that has been running for longest now."""

    path: str
    """Empty if there is none, or none for `LONG_S`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class OutputSeen:
    """f printed something; told only if somebody asked for it."""

    worker: int
    text: str


@dataclass(frozen=True, slots=True)
class ShardCommitted:
    shard: int
    n_done: int
    n_failed: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A signal asked the run to stop; batches in flight are finishing."""

    signal_name: str
    limit_s: float | None
    """How long the files in hand are waited for; None: until they are done."""
    is_starting: bool = False
    """No file is in hand yet: the start of the workers is waited for."""


@dataclass(frozen=True, slots=True)
class PartsRepaired:
    """Parts that were missing or had another size were made again from the outcomes."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineShare:
    """What one machine of a cluster did in a run."""

    name: str
    n_files: int
    """That have an outcome by its workers."""
    files_per_second: float
    """From its first batch to its last."""
    n_lost: int
    """Workers of it that died, were ended, or were lost with it."""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The end of a run, however it ended."""

    n_files: int
    n_done: int
    n_failed: int
    n_pending: int
    seconds: float
    worked: bool
    """False for an idle run: nothing was pending."""
    output: str
    parts: dict[str, int]
    """How many parts by data folder (`csv`, `parquet`)."""
    n_rows: int
    read_options: Mapping[str, str] = field(default_factory=dict)
    """What pandas needs as its `storage_options` beside the URL of the output."""
    has_large_ints: bool = False
    """There are ints beyond 2^53, which pandas rounds where None is beside them."""
    is_stopped: bool = False
    is_limited: bool = False
    """It did as many files as it was to do, and left others."""
    go_on: str = ""
    """What to type to go on; only of a limited run."""
    machines: tuple[MachineShare, ...] = ()
    """By name; empty where there is only one."""


Event = (
    JobOpened
    | Notice
    | ScanProgressed
    | ScanFinished
    | ProcessingPlanned
    | WorkersStarting
    | WorkersStarted
    | ColumnsSet
    | BatchFinished
    | WorkerLost
    | LongestRunning
    | OutputSeen
    | ShardCommitted
    | StopRequested
    | PartsRepaired
    | RunFinished
)

Observer = Callable[[Event], None]
