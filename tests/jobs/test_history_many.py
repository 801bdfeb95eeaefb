"""A job with `rows: many` that is run again and again on files that change, against what each file says.

Hypothesis draws histories: files come, change and go, runs are killed at their durable steps and between blocks of
rows, or stopped by a limit. f does the same for the same file, so a run that came to its end has one table, whatever
was before it: of each file all rows, or one failure. No two contents have a row in common, so each row tells which
content of its file it is from.

R3PO_HISTORY_EXAMPLES=500 draws so many other histories.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import event, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from test_history import Here, Killed, Killer, history_settings
from test_many_rows import ManyJob

import r3po
from r3po.run import walk_and_start
from r3po.state.segments import SegmentWriter
from r3po.storage import durable as storage
from r3po.worker import many_rows

pytestmark = pytest.mark.slow

FUNCTION = """\
from pathlib import Path

from rows_of_a_file import give


def f(paths):
    if not isinstance(paths, str):
        return list(map(f, paths))
    path = Path(paths)
    with open(path.parents[1] / "calls.log", "a") as log:
        log.write(path.name + "\\n")
    return give(paths)
"""

KINDS = ("list", "generator", "one", "raises", "foreign", "odd", "large", "none")
"""What f does with a file: it gives rows, raises after them or after rows with other keys, gives one row of another
type or one that is found to be too large when its block is written, or returns None."""


MOST_STEPS = 600
"""Durable steps and blocks of rows of a run: three times as many as any needs."""


@dataclass(frozen=True)
class Content:
    """What a file says."""

    text: str
    numbers: tuple[int, ...] | None
    """Of its rows; None: it fails."""


def content(kind: str, n: int, first: int) -> Content:
    """Return a content with about so many rows, numbered from the first."""
    numbers = tuple(range(first, first + n))
    rows = [{"n": number} for number in numbers]
    bad: dict[str, Any] = {"raises": "", "odd": "x", "large": 1 << 70}
    if kind == "one":
        return Content(repr({"n": first}), (first,))
    if kind == "none":
        return Content(f"None  # {first}", None)
    if kind == "foreign":
        return Content(f"until({n + 1}, {{'m': 'text', 'n': 0}})  # {first}", None)
    if kind == "raises":
        return Content(f"until({n}, {{'n': {first}}})", None)
    if kind in bad:
        behind = [{"n": first + n}] * (n % 3)
        return Content(f"gen({[*rows, {'n': bad[kind]}, *behind]})  # {first}", None)
    return Content(f"gen({rows})  # {first}" if kind == "generator" else f"{rows}  # {first}", numbers)


class BlockKiller(Killer):
    """Ends everything between the blocks of rows, too."""

    def __enter__(self) -> None:
        super().__enter__()
        self._patch.setattr(SegmentWriter, "write_rows", self._seam(SegmentWriter.write_rows))


Rows = dict[str, tuple[int, ...]]
"""Numbers of the rows by file, in the order of the table."""


class HistoryOfMany(RuleBasedStateMachine):
    """One job, from its first file on."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.job = ManyJob(self.root / "job", function=f"{self.folder}/rows.py:f", source_column="file", row_column="i")
        self.files: dict[str, Content] = {}
        self.ever: dict[str, set[tuple[int, ...]]] = {}
        """Rows that each file has ever had."""
        self.known: dict[str, Content] | None = {}
        """The files as the last whole run saw them; None: a run was cut short since."""
        self.last_name: str | None = ""
        """Files behind this one have places behind all others; None: the order of places is not known."""
        self.clock = 1_000_000_000
        self.n_fresh = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # The source and the config

    @initialize(
        kinds=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7)), min_size=1, max_size=6),
        types=st.sampled_from([None, {"n": "int64"}]),
        batch_files=st.sampled_from([None, None, 3]),
    )
    def begin(self, kinds: list[tuple[str, int]], types: dict[str, str] | None, batch_files: int | None) -> None:
        self.job.keys |= {} if types is None else {"columns": types}
        if batch_files is not None:
            self.job.keys["batch_files"] = batch_files
        for n, (kind, n_rows) in enumerate([*kinds, ("list", 3)]):
            self.write(2 * n, kind, n_rows)

    @rule(n=st.integers(0, 15), kind=st.sampled_from(KINDS), n_rows=st.integers(0, 7))
    def write(self, n: int, kind: str, n_rows: int) -> None:
        self.clock += 1
        name = f"{n:03}.txt"
        self.save(name, content(kind, n_rows, 100 * (self.clock - 1_000_000_000)))

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 15))
    def touch(self, n: int) -> None:
        self.clock += 1
        name = sorted(self.files)[n % len(self.files)]
        self.save(name, self.files[name])

    def save(self, name: str, what: Content) -> None:
        path = self.job.source / name
        path.write_text(what.text)
        os.utime(path, (self.clock, self.clock))
        if name not in self.ever and self.last_name is not None:
            self.last_name = name if name > self.last_name else None
        self.files[name] = what
        self.ever.setdefault(name, set()).add(what.numbers or ())

    @precondition(lambda self: len(self.files) > 1)
    @rule(n=st.integers(0, 15))
    def delete(self, n: int) -> None:
        name = sorted(self.files)[n % len(self.files)]
        del self.files[name]
        (self.job.source / name).unlink()

    @rule(part_rows=st.sampled_from([None, 1, 2, 5]), batch_seconds=st.sampled_from([0.0001, 10]))
    def change_config(self, part_rows: int | None, batch_seconds: float) -> None:
        self.job.keys |= {"part_rows": part_rows, "batch_seconds": batch_seconds}
        if part_rows is None:
            del self.job.keys["part_rows"]

    # Runs

    OPTIONS = st.sampled_from([{}, {}, {"retry_failed": True}, {"redo": True}, {"redo": True, "restart": True}])

    @rule(options=OPTIONS)
    def run(self, options: dict[str, bool]) -> None:
        self.carry_out(**options)

    @rule()
    def run_again(self) -> None:
        self.carry_out()

    @rule()
    def redo_like_a_fresh_job(self) -> None:
        if self.carry_out(redo=True, restart=True):
            self.last_name = max(self.files)
            fresh = ManyJob(self.root / f"fresh{self.n_fresh}", **self.job.keys)
            self.n_fresh += 1
            shutil.copytree(self.job.source, fresh.source, dirs_exist_ok=True)
            fresh.run(None)
            assert fresh.rows() == self.job.rows()
            assert fresh.parts() == self.job.parts()
            assert fresh.failed() == self.job.failed()

    @rule(options=OPTIONS, kill_at=st.one_of(st.integers(1, 40), st.integers(20, 160)), resume=st.booleans())
    def run_killed(self, options: dict[str, bool], kill_at: int, resume: bool) -> None:
        self.carry_out(kill_at, **options)
        if resume:
            self.carry_out()

    @rule(limit=st.integers(1, 5), options=OPTIONS)
    def run_with_limit(self, limit: int, options: dict[str, bool]) -> None:
        self.carry_out(limit=limit, **options)

    def carry_out(self, kill_at: int = 0, limit: int | None = None, **options: bool) -> bool:
        """Run, and check what is there. Returns whether the run came to its end."""
        known, self.known = self.known, None
        result = None
        try:
            with BlockKiller(kill_at or MOST_STEPS):
                result = self.job.run(None, accept_deletions=True, limit=limit, **options)
        except Killed:
            assert kill_at, "a run does the same over and over"
            end = "killed"
        except (r3po.FunctionError, r3po.RunStoppedError) as error:
            end = f"refused: {error}".split("\n")[0]
        else:
            end = "limit reached" if result.pending else "whole"
        calls = self.calls()
        note(f"    called on {calls}, {end}")
        if end.startswith("refused"):
            assert calls and not any(self.files[name].numbers for name in calls), end
        event(f"run: {end[:7]}")
        if result is None or result.pending:
            assert result is None or not any(self.job.folder.glob("out/*/_SUCCESS"))
            self.check_unfinished()
            return False
        if known is not None:
            self.check_calls(known, calls, options)
        self.check_whole(result)
        self.known = dict(self.files)
        return True

    def calls(self) -> list[str]:
        """Return the files that f was called on since the last look."""
        log = self.job.folder / "calls.log"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def check_calls(self, known: dict[str, Content], calls: list[str], options: dict[str, bool]) -> None:
        """See that f was called on what changed, and on what it was to be called on."""
        due = {name for name, what in self.files.items() if known.get(name) != what}
        if options.get("retry_failed"):
            due |= {name for name, what in self.files.items() if what.numbers is None}
        assert set(calls) == (set(self.files) if options.get("redo") else due)

    def check_whole(self, result: r3po.RunResult) -> None:
        rows = self.job.rows()  # verify and the checker find nothing
        wanted = {name: what.numbers for name, what in self.files.items() if what.numbers}
        failed = sorted(name[:3] for name, what in self.files.items() if what.numbers is None)
        assert self.by_file(rows) == wanted
        if self.last_name is not None:
            assert list(self.by_file(rows)) == sorted(wanted)
        assert sorted(self.job.failed()) == failed
        counts = (result.files, result.done, result.failed, result.pending, result.rows)
        assert counts == (len(self.files), len(self.files) - len(failed), len(failed), 0, len(rows))
        self.check_parts()

    def check_unfinished(self) -> None:
        """See that each file has either all rows that it ever had at one time, or none."""
        out = self.job.folder / "out"
        rows = []
        for path in sorted((out / "csv").glob("part-*")):
            with open(path, newline="") as file:
                rows += [{**row, "i": int(row["i"]), "n": int(row["n"])} for row in csv.DictReader(file)]
        assert all(numbers in self.ever[name] for name, numbers in self.by_file(rows).items())

    def by_file(self, rows: list[dict[str, Any]]) -> Rows:
        """Return the rows of each file, which lie together and are numbered."""
        found: Rows = {}
        for name, group in groupby(rows, key=lambda row: row["file"]):
            its = list(group)
            assert name not in found, f"rows of {name} lie apart"
            assert [row["i"] for row in its] == list(range(len(its)))
            found[name] = tuple(row["n"] for row in its)
        return found

    def check_parts(self) -> None:
        """See that every part of a shard but its last is full."""
        paths = sorted((self.job.folder / "out" / "parquet").glob("part-*"))
        most = self.job.keys.get("part_rows")
        for _, parts in groupby(paths, key=lambda path: path.name[:10]):
            sizes = [pq.read_metadata(path).num_rows for path in parts]
            assert len(sizes) == 1 or most is not None
            assert most is None or (set(sizes[:-1]) <= {most} and 0 < sizes[-1] <= most), sizes


# A dead process closes no file; one that only plays dead leaves the segment open that it was writing.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_every_history_of_many_rows_gives_each_file_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)
    monkeypatch.setattr(many_rows, "BLOCK_ROWS", 2)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(walk_and_start, "threading", SimpleNamespace(Thread=Here, Event=threading.Event))
    with tempfile.TemporaryDirectory(prefix="r3po-test-", dir=place) as folder:
        (Path(folder) / "rows.py").write_text(FUNCTION)
        HistoryOfMany.folder = Path(folder)
        run_state_machine_as_test(
            HistoryOfMany,
            settings=history_settings(10, 12),
        )
