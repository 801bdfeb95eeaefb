"""What a run is asked for, and what it came to."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from r3po.config.settings import Config
from r3po.events import MachineShare

if TYPE_CHECKING:
    import pandas
    import polars

    from r3po.state.failure_groups import FailureGroup
    from r3po.table.outcomes import Table


@dataclass(frozen=True)
class RunResult:
    """What a run came to. The same fields as `r3po run --json`."""

    run_id: str
    job_name: str
    files: int
    """Files of the manifest: done + failed + pending."""
    done: int
    """Files that f is done with."""
    failed: int
    pending: int
    rows: int
    """Rows in the published parts."""
    seconds: float
    output: str
    """The output folder, absolute, or its URL."""
    notices: tuple[str, ...] = ()
    """What was said of the run, each once: what was found, what is odd, and what to do about it."""
    machines: tuple[MachineShare, ...] = field(default=(), repr=False)
    """What each machine did, by name; empty where there is only one."""
    config: Config = field(repr=False, compare=False, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}
        fields["machines"] = tuple(dataclasses.asdict(machine) for machine in self.machines)
        return {"schema_version": 1, **fields}

    def to_pandas(self, dtype_backend: str | None = None) -> pandas.DataFrame:
        """Return the table, in row order; exact from Parquet parts. Needs pandas: `pip install 'r3po[pandas]'`.

        Args:
            dtype_backend: `numpy_nullable` or `pyarrow`, as in pandas. None: pandas' usual types, but `Int64` for a
                column that holds None beside ints beyond 2^53, which pandas would round.

        Raises:
            ImportError: pandas is not installed.
            FileNotFoundError: no row was made yet.
        """
        import pandas

        from r3po.table.frames import to_frame

        if self.config.parquet is not None:
            return to_frame(self.to_arrow(), dtype_backend)
        options: dict[str, Any] = {} if dtype_backend is None else {"dtype_backend": dtype_backend}
        with self._parts() as parts:
            frames: list[pandas.DataFrame] = [pandas.read_csv(part, **options) for part in parts]
        return pandas.concat(frames, ignore_index=True)

    def to_arrow(self) -> Table:
        """Return the table, in row order, as Arrow has it: from the Parquet parts, or from CSV if there are no others.

        Raises:
            FileNotFoundError: no row was made yet.
        """
        from r3po.table.frames import read_parts

        with self._parts() as parts:
            return read_parts(parts)

    def to_polars(self) -> polars.DataFrame:
        """Return the table, in row order, as polars has it. Raises ImportError without polars, or like `to_arrow`."""
        import polars

        frame: Any = polars.from_arrow(self.to_arrow())
        return cast("polars.DataFrame", frame)

    def failures(self) -> list[dict[str, Any]]:
        """Return every failed file, as `r3po errors --json` does."""
        from r3po.state.failed_files import read_failures
        from r3po.state.failure_groups import with_groups

        return with_groups(read_failures(self.config))

    def failure_groups(self, by: str = "all") -> list[FailureGroup]:
        """Return the failed files put together by their cause, the largest group first, as `r3po errors` shows them.

        Args:
            by: what one cause is: `place`, `type` or `message` alone; `all`: the three together.

        Raises:
            ValueError: `by` is none of these.
        """
        from r3po.state.failed_files import read_failures
        from r3po.state.failure_groups import WAYS, group_failures

        if by not in WAYS:
            raise ValueError(f"by={by!r} is no way to group failures; there are {', '.join(WAYS)}")
        return group_failures(read_failures(self.config), by)

    @contextlib.contextmanager
    def _parts(self) -> Iterator[list[Path]]:
        """Give the files of the parts, in order; of a table in a bucket copies, gone after the block."""
        from r3po.state.job import job_folders

        kind = "parquet" if self.config.parquet is not None else "csv"
        output = job_folders(self.config).output
        names = [name for of, name in output.list_files() if of == kind and name.startswith("part-")]
        if not names:
            raise FileNotFoundError(f"no part in {output.where_of(kind, '')}")
        with output.readable((kind, name) for name in names) as paths:
            yield paths


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How this run differs from the config; none of it is kept."""

    build: bool = True
    retry_failed: bool = False
    redo: bool = False
    restart: bool = False
    accept_deletions: bool = False
    show_output: bool = False
    limit: int | None = None
    """The most files to do, the first pending ones in row order; None: all."""
    command: str = ""
    """What to type to go on, for people; empty: `r3po run` with the config."""
