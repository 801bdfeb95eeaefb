"""A tiny job in a temporary folder, for tests that run r3po whole."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import checker
import r3po
from jobs import short_folder
from r3po.storage import durable as storage

FUNCTION = '''\
import json
import os
import time

IS_MENDED = False


def describe(filepath):
    """Say in calls.log that it was called, then do what the file says."""
    folder, name = os.path.split(filepath)
    root = os.path.dirname(folder)
    with open(os.path.join(root, "calls.log"), "ab", buffering=0) as log:
        log.write(name.encode() + b"\\n")
    with open(filepath) as file:
        wanted = json.load(file)
    while "wait_for" in wanted and not os.path.exists(os.path.join(root, wanted["wait_for"])):
        time.sleep(0.01)
    is_mended = IS_MENDED or os.path.exists(os.path.join(root, "mended"))
    if "error" in wanted and not is_mended:
        raise ValueError(wanted["error"])
    return {"path": name, "value": wanted.get("value"), "other": wanted.get("other", 0), "text": "plain"}
'''

LONG_AGO = 1_600_000_000
"""Time of the source files, in seconds: nobody takes them for files that may change within their mtime."""


class Job:
    """A job of its own in `root`: config, source, state, output, and the log of the calls of f."""

    def __init__(self, root: Path, function: Path) -> None:
        self.root, self.function = root, function
        self.config, self.source = root / "config.yaml", root / "source"
        self.state, self.output = root / "state", root / "output"
        self.calls_log = root / "calls.log"
        self.settings: dict[str, Any] = {
            "job_name": "tiny",
            "processes": 1,
            "source_path": "source",
            "source_file_part": ".json",
            "working_dir": "state",
            "output_path": "output",
            "function": f"{function}:describe",
            "shard_size": 3,
            "batch_seconds": 0.0001,  # one file a batch, once the speed of f is known
        }
        self.source.mkdir(parents=True)
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the config; what is given here stays."""
        self.settings |= settings
        self.config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in self.settings.items()))

    def add(self, name: str, **wanted: Any) -> None:
        """Add a source file (`value`, `other`), one that fails (`error`), or one that waits for a file (`wait_for`)."""
        path = self.source / name
        path.write_text(json.dumps(wanted))
        os.utime(path, (LONG_AGO, LONG_AGO))

    def mend(self) -> None:
        """Let the files that fail give a row from now on, although the code of f stays the same."""
        (self.root / "mended").touch()

    @property
    def mended_function(self) -> str:
        return f"{mended_function(self.function)}:describe"

    def run(self, **options: Any) -> r3po.RunResult:
        return r3po.run_jobs(self.config, engine="serial", progress=False, **options)

    def run_until(self, is_last: Callable[[Path], object], **options: Any) -> None:
        """Run, and die as the first file that fits is begun; its temporary name lies in the file's folder."""

        class Died(BaseException):
            pass

        def create(path: Path, flags: int, mode: int) -> int:
            if is_last(path):
                raise Died
            return os.open(path, flags, mode)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
            patch.setattr(storage, "_create", create)
            self.run(**options)

    def calls(self) -> list[str]:
        """Return the file names that f was called with since the last `forget_calls`."""
        return self.calls_log.read_text().splitlines() if self.calls_log.exists() else []

    def forget_calls(self) -> None:
        self.calls_log.unlink(missing_ok=True)

    def published(self) -> dict[str, bytes]:
        """Return what users read, by relative path: every file of the data folders, and failures.csv."""
        folders = [self.output / name for name in ("csv", "parquet", "failures")]
        files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
        return {str(path.relative_to(self.output)): path.read_bytes() for path in files}

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of all CSV parts, in row order."""
        parts = sorted((self.output / "csv").glob("part-*.csv"))
        return [row for part in parts for row in csv.DictReader(part.read_text().splitlines())]

    def failed(self) -> dict[str, int]:
        """Return path and attempts of the files in failures.csv."""
        with open(self.output / "failures" / "failures.csv", newline="") as file:
            return {line["path"]: int(line["attempts"]) for line in csv.DictReader(file)}

    def findings(self, **options: Any) -> list[str]:
        """Return what the independent checker finds."""
        return checker.check_job(self.state, self.output, path_column="path", **options)


def mended_function(function: Path) -> Path:
    """Return the file beside a job's function that holds the same with other code: it fails on nothing."""
    return function.with_name("tiny_function_mended.py")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all tests of a file that only need some Ray; r3po uses it and does not stop it."""
    import ray

    from r3po.engines.ray_node import use_settings

    use_settings()

    with short_folder() as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short temporary folder for one test's own Ray."""
    with short_folder() as folder:
        yield folder


NewJob = Callable[..., Job]


@pytest.fixture
def jobs_folder(tmp_path: Path) -> Iterator[Path]:
    """Where `new_job` makes them: in memory where there is such a place, since a run syncs a hundred times."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="r3po-test-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def new_job(jobs_folder: Path) -> Iterator[NewJob]:
    """Make jobs: `new_job()` in the folder `job`, or under another name beside it. All share one function file."""
    path, modules = sys.path[:], set(sys.modules)
    function = jobs_folder / "tiny_function.py"
    function.write_text(FUNCTION)
    mended_function(function).write_text(FUNCTION.replace("IS_MENDED = False", "IS_MENDED = True"))

    def make(name: str = "job") -> Job:
        return Job(jobs_folder / name, function)

    yield make
    # r3po imports the function in this very process.
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "tiny_function" in name:
            del sys.modules[name]
