"""What a run is asked for, and what it came to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r3po.config.settings import Config
from r3po.storage.durable import list_names

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RunResult:
    """What a run came to. The same fields as `r3po run --json`."""

    run_id: str
    job_name: str
    files: int
    """Files of the manifest: done + failed + pending."""
    done: int
    """Files with a row."""
    failed: int
    pending: int
    rows: int
    """Rows in the published parts."""
    seconds: float
    output: str
    """The output folder, absolute."""
    notices: tuple[str, ...] = ()
    """What was said of the run, each once: what was found, what is odd, and what to do about it."""
    config: Config = field(repr=False, compare=False, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}
        return {"schema_version": 1, **fields}

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table, in row order. Needs pandas: `pip install 'r3po[pandas]'`.

        Raises:
            ImportError: pandas is not installed.
            FileNotFoundError: no row was made yet.
        """
        import pandas as pd

        kind = "parquet" if self.config.parquet is not None else "csv"
        folder = self.config.output_path / kind
        parts = [folder / name for name in list_names(folder) if name.startswith("part-")]
        if not parts:
            raise FileNotFoundError(f"no part in {folder}")
        read = pd.read_parquet if kind == "parquet" else pd.read_csv
        frame: pandas.DataFrame = pd.concat([read(part) for part in parts], ignore_index=True)
        return frame

    def failures(self) -> list[dict[str, Any]]:
        """Return every failed file, as `r3po errors --json` does."""
        from r3po.state.failed_files import read_failures

        return list(read_failures(self.config))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How this run differs from the config; none of it is kept."""

    build: bool = True
    retry_failed: bool = False
    redo: bool = False
    restart: bool = False
    accept_deletions: bool = False
    engine: str = "ray"
    show_output: bool = False
