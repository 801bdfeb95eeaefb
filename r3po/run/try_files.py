"""f tried on a few files, in this process: what a run would make of them, and how long all files would take.

Nothing is written, no lock is taken, no worker is started. f is called and its rows are checked by what workers use.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from r3po.config.settings import Config, ConfigSource, load_config
from r3po.errors import R3poError, SourceError, StopNow
from r3po.file_version import UNKNOWN_VERSION
from r3po.function.arguments import check_arguments
from r3po.function.find import FunctionSpec, describe_callable, name_of_job, with_arguments
from r3po.function.load import load_function
from r3po.function.made import make_function
from r3po.run.leavers import CLOSE_S
from r3po.run.session import find_configured
from r3po.source.sample import Sample, sample_files
from r3po.source.sources import source_of
from r3po.state.job import Job, job_folders
from r3po.state.manifest import read_columns, read_manifest
from r3po.storage.names import show_name
from r3po.storage.objects import ObjectStore
from r3po.table.columns import Columns, RowCollector
from r3po.table.outcomes import Failure, OutcomeBatch, Table
from r3po.table.preview import Blocks, Preview, preview_parts
from r3po.table.ragged import told_dropped
from r3po.worker.beacon import Phase
from r3po.worker.call import Caller
from r3po.worker.call_many import call_file, call_many, calls_of, smaller_calls
from r3po.worker.current import set_current
from r3po.worker.failures import failure_of
from r3po.worker.files import InUse, files_of
from r3po.worker.forks import shed_handlers_in_children
from r3po.worker.many_rows import ManyRows
from r3po.worker.messages import Listed
from r3po.worker.rows import append_outcome, first_row, note_file, take_row

if TYPE_CHECKING:
    import pandas

LEAST_SPREAD = 1.25
"""The range of an estimate goes at least this factor up and down: a machine is not equally fast at all times."""

LEAST_SHARE = {"csv": 1.0, "parquet": 0.25}
"""How much of what a few rows take in bytes, counted up, a large part takes at least, nearly always. Parquet keeps once
what comes again, and a few rows do not show that: parts of 10,000 rows took 0.3 to 1 of what 20 of the rows said."""

Debugger = Callable[[BaseException, TracebackType | None], None]


@dataclass(frozen=True)
class Estimate:
    """What the whole job would be like, as guessed from the files that were tried."""

    files: int
    """Of the source."""
    is_all_counted: bool
    """False: there are more; the walk was ended after some seconds."""
    processes: int
    low_seconds: float
    high_seconds: float
    from_files: int
    """How many files the guess is made from."""
    parts: int
    low_part_bytes: dict[str, int]
    """Bytes of a whole part, by kind: `csv`, `parquet`."""
    high_part_bytes: dict[str, int]


@dataclass(frozen=True)
class TryResult:
    """What `try_files` found. The same fields as `r3po try --json`."""

    job_name: str
    files: tuple[dict[str, Any], ...]
    """Each file that was tried: path, seconds, is_row."""
    rows: list[dict[str, Any]]
    """As the parts would have them."""
    columns: dict[str, str]
    """The types that the parts would have if there were no other rows, by name."""
    failures: tuple[dict[str, Any], ...]
    """path, error_type, message, where, traceback, seconds."""
    notices: tuple[str, ...]
    estimate: Estimate | None
    """None: fewer than two files were tried, or files outside the source."""
    table: Table = field(repr=False, compare=False, kw_only=True)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as pandas has them. Needs pandas: `pip install 'r3po[pandas]'`."""
        from r3po.table.frames import to_frame

        return to_frame(self.table, None)

    def to_json(self) -> dict[str, Any]:
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "table"}
        estimate = None if self.estimate is None else dataclasses.asdict(self.estimate)
        return {"schema_version": 1, **found, "estimate": estimate}


def try_files(
    config: ConfigSource,
    f: Callable[..., Any] | None = None,
    n: int = 20,
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    seed: int = 0,
) -> TryResult:
    """Call f on a few files in this process, and return what a run would make of them. Equal to `r3po try`.

    Nothing is kept: no working_dir is made, and a run may be going on. What f prints, and what it itself writes, stays.

    Args:
        config: the config file, or a mapping of its keys.
        f: the function; without it, the config's `function`.
        n: how many files to try: a sample over sizes and folders of the source.
        files: try these instead: paths from the current folder, or relative to `source_path`; or URLs below that.
        seed: another one draws another sample.

    Raises:
        R3poError: the config, the function or the source cannot be used.
        KeyboardInterrupt: at Ctrl-C, at once.
    """
    loaded = load_config(config, job_name=name_of_job(f))
    spec = describe_callable(f) if f is not None else find_configured(loaded)
    return try_function(loaded, spec, n, files=files, seed=seed)


def try_function(
    config: Config,
    spec: FunctionSpec,
    n: int,
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    seed: int = 0,
    debug: Debugger | None = None,
    compares: bool = True,
) -> TryResult:
    """See `try_files`.

    Args:
        compares: say where the rows have other columns than those of the job; it is the job's function.
        debug: called with each exception of f and its traceback, while its frames are there.
    """
    spec = with_arguments(spec, config.function_args)
    check_arguments(spec, config.input)
    source = source_of(config)
    if files:
        find = _find if config.source_url is None else _find_object
        found, sample = [find(config, os.fspath(file)) for file in files], None
    else:
        source.check()
        sample = sample_files(config, n, seed)
        found = [(path, path, _listed(size)) for path, size in zip(sample.paths, sample.sizes, strict=True)]
    trial = _Trial(config, spec, debug)
    with _interruptible():
        trial.load()
        try:
            trial.call_all(found)
        finally:
            trial.close()
    return trial.result(sample, compares=compares)


# Private


_File = tuple[str, str, Listed]
"""A file: its path for people, its path in the source or from the root of the disk, and what is known of it."""

_Called = tuple[float, Any, Failure | None]
"""Seconds of a file, and what f returned for it, or why there is nothing."""


class _NoMarks:
    """A beacon that nobody reads."""

    def advance(self, phase: Phase) -> None:
        """Do nothing."""


class _Trial:
    """Calls f on one file after the other, and keeps the outcomes."""

    def __init__(self, config: Config, spec: FunctionSpec, debug: Debugger | None) -> None:
        self._config, self._spec = config, spec
        self._caller = Caller(config.timeout_seconds, _NoMarks(), debug)
        self._caller_of_many = Caller(config.timeout_seconds, _NoMarks())  # what it raises is seen again, alone
        self._calling = self._caller
        """The caller of the call that is going on."""
        store = None if config.source_url is None else ObjectStore(config.source_url, config.store_options)
        wants_data = config.input == "bytes"
        self._files = files_of(str(config.source_path), store, wants_data=wants_data, wants_hash=False)
        self._batch = OutcomeBatch()
        self._columns: Columns | None = None
        self._collector: RowCollector | None = None
        self._blocks = Blocks()
        self._rows: ManyRows | None = None
        if config.rows == "many":
            self._batch.has_blocks = True
            self._rows = ManyRows(self._blocks, None, config.column_settings, self._uninterrupted)
        self._paths: list[str] = []
        self._trouble = ""
        """What went wrong when f was closed."""

    def load(self) -> None:
        function = load_function(self._spec)
        self._caller.function, self._caller.close = make_function(function, self._spec, str(self._config.base_dir))
        self._caller_of_many.function = self._caller.function

    def close(self) -> None:
        self._files.close()
        self._trouble = self._caller.finish(CLOSE_S)

    def call_all(self, files: Sequence[_File]) -> None:
        """Call f on files: on one, or on many at a time."""
        self._files.begin([path for _, path, _ in files], [listed for *_, listed in files])
        if self._config.batch_files is None:
            for file in files:
                self._keep(file[0], *self._call_on(file))
            return
        waiting = calls_of(files, self._config.batch_files)
        while waiting:
            some = waiting.pop()
            called = self._call_on_many(some)
            if not called:  # as a run does, until it is seen who is to blame
                waiting += smaller_calls(some)
            for (shown, *_), one in zip(some, called, strict=False):
                self._keep(shown, *one)

    def _call_on(self, one: _File) -> _Called:
        returned: Any = None
        self._calling = self._caller
        started = time.perf_counter()
        try:
            file = self._files.use(*one[1:])
            try:
                takes_many = self._config.batch_files is not None
                arguments = (file.path,) if file.data is None else (file.path, file.data)
                set_current(one[1])
                returned, failure = call_file(self._caller, *arguments, rows=self._rows, takes_many=takes_many)
            finally:
                file.close()
        except (OSError, MemoryError) as error:
            failure = failure_of(error, None)
        return time.perf_counter() - started, returned, failure

    def _call_on_many(self, some: list[_File]) -> list[_Called]:
        """Return what came of one call; nothing if it failed, or a file cannot be read."""
        if len(some) == 1:
            return [self._call_on(some[0])]
        self._calling = self._caller_of_many
        started = time.perf_counter()
        files: list[InUse] = []
        try:
            for one in some:
                files.append(self._files.use(*one[1:]))
                files[-1].let_go()
            arguments: list[list[Any]] = [[file.path for file in files]]
            if self._config.input == "bytes":
                arguments.append([file.data for file in files])
            set_current(*(path for _, path, _ in some))
            items, failure = call_many(self._caller_of_many, *arguments, rows=self._rows)
        except (OSError, MemoryError):
            return []
        finally:
            for file in files:
                file.close()
        seconds = (time.perf_counter() - started) / len(some)
        return [(seconds, item, None) for item in items] if failure is None else []

    def _uninterrupted(self) -> AbstractContextManager[None]:
        return self._calling.uninterrupted()

    def _keep(self, shown: str, seconds: float, returned: Any, failure: Failure | None) -> None:
        note_file(self._batch, len(self._paths), UNKNOWN_VERSION, seconds)
        self._paths.append(shown)
        append_outcome(self._batch, *self._row_of(returned, failure))

    def _row_of(self, returned: Any, failure: Failure | None) -> tuple[tuple[Any, ...] | None, Failure | None]:
        if self._rows is not None:
            return self._rows.accept(returned, failure)
        if failure is not None:
            return None, failure
        if self._collector is not None:
            return take_row(returned, self._collector)
        first, failure = first_row(returned, None, self._config.column_settings)
        if first is None:
            return None, failure
        self._columns, values = first
        self._collector = RowCollector(self._columns)
        return values, None

    def result(self, sample: Sample | None, *, compares: bool) -> TryResult:
        config, batch = self._config, self._batch
        paths = [show_name(path) for path in self._paths]
        settings = Job(config, job_folders(config), None, {}).part_settings
        if self._rows is not None:
            self._rows.finish(batch)
            self._columns = self._rows.columns
        preview = preview_parts(batch, self._columns, paths, settings, self._blocks.all)
        files = zip(paths, batch.seconds, batch.rows, strict=True)
        return TryResult(
            job_name=config.job_name,
            files=tuple({"path": p, "seconds": round(s, 6), "is_row": row is not None} for p, s, row in files),
            rows=preview.rows(),
            columns=preview.columns,
            failures=tuple(
                {"path": paths[i], **failure._asdict(), "seconds": round(batch.seconds[i], 6)}
                for i, failure in sorted(batch.failures.items())
            ),
            notices=(
                *([f"closing {self._spec.label} went wrong: {self._trouble}"] if self._trouble else []),
                *(f"{mixed}; it is text" for mixed in preview.mixed),
                *((told_dropped(preview.dropped),) if preview.dropped else ()),
                *(_other_columns(config, self._columns) if compares else ()),
            ),
            estimate=None if sample is None else _estimate(config, batch.seconds, sample, preview),
            table=preview.table,
        )


def _other_columns(config: Config, columns: Columns | None) -> Iterator[str]:
    """Say where a job that is there has rows with other columns: a run would fail files for these."""
    with suppress(R3poError, OSError):
        manifest = read_manifest(job_folders(config).manifest)
        known = None if manifest is None else read_columns(config.working_dir, manifest)
        if known is None or columns is None:
            return
        new, gone = set(columns.names) - set(known[0].names), set(known[0].names) - set(columns.names)
        new = new if columns.rules.extra == "fail" else set()
        gone = gone if columns.rules.missing == "fail" else set()
        if not (new or gone):
            return
        parts = [f"{what} {', '.join(sorted(names))}" for what, names in (("without", new), ("with", gone)) if names]
        yield f"the job's rows are {' and '.join(parts)}: such a file fails in a run, until r3po run --redo"


def _listed(size: int) -> Listed:
    return size, 0, None, False, ""


def _find(config: Config, file: str) -> _File:
    """Return a file that is named from the current folder, or else from the source."""
    source = config.source_folder
    for path in (Path(os.path.abspath(file)), source / file):
        if path.is_file():
            return str(path.relative_to(source)) if path.is_relative_to(source) else file, str(path), _listed(0)
    raise _no_such_file(file, f"name it from here, or relative to {show_name(str(source))}")


def _find_object(config: Config, file: str) -> _File:
    """Return an object that is named by its URL, or from the source."""
    url = config.source_url
    assert url is not None
    path = file.removeprefix(f"{url.root}/{url.prefix}")
    try:
        info = ObjectStore(url, config.store_options).look(url.key_of(path))
    except FileNotFoundError:
        raise _no_such_file(file, f"name it by its URL, or relative to {url}") from None
    return path, path, _listed(info.size)


def _no_such_file(file: str, hint: str) -> SourceError:
    return SourceError(f"no such file: {show_name(file)}", hint=f"{hint}; r3po try without a name takes a sample")


def _estimate(config: Config, seconds: Sequence[float], sample: Sample, preview: Preview) -> Estimate | None:
    """Return what all files would take: the mean of the sample with two of its standard errors up and down."""
    # The first call often loads what the others use.
    n_first = config.batch_files or 1
    measured = list(seconds[n_first:]) if len(seconds) > n_first + 1 else list(seconds)
    if len(measured) < 2:
        return None
    n_files = max(sample.n_files, 0 if sample.is_whole else _count_known(config))
    mean = statistics.fmean(measured)
    error = 2 * statistics.stdev(measured) / math.sqrt(len(measured))
    low, high = max(mean / 3, min(mean - error, mean / LEAST_SPREAD)), max(mean + error, mean * LEAST_SPREAD)
    share = n_files / min(config.processes, n_files)
    rows = min(config.shard_size, n_files)
    return Estimate(
        files=n_files,
        is_all_counted=sample.is_whole or n_files > sample.n_files,
        processes=config.processes,
        low_seconds=round(low * share, 3),
        high_seconds=round(high * share, 3),
        from_files=len(measured),
        parts=-(-n_files // config.shard_size),
        low_part_bytes={kind: round(size * rows * LEAST_SHARE[kind]) for kind, size in preview.row_bytes.items()},
        high_part_bytes={kind: round(size * rows) for kind, size in preview.row_bytes.items()},
    )


def _count_known(config: Config) -> int:
    """Return how many files the job's manifest has, if there is one."""
    with suppress(R3poError, OSError):
        manifest = read_manifest(job_folders(config).manifest)
        return 0 if manifest is None else manifest.count_job_files
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what is going on in this block, f too, instead of being an exception of f's."""
    shed_handlers_in_children()
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except StopNow:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: object) -> None:
    raise StopNow
