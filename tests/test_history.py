"""A job is run again and again while its source, its function and its config change; a plain dict is the model.

Each example is a history of up to 20 steps on the serial engine; nothing is really synced. After each run that comes
to its end the table, the failures and the calls of f are those of the model; a run may be killed at any durable step.

    R3PO_HISTORY_EXAMPLES=5000    draws as many histories, others each time
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import checker
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from test_crash_points import Killed, World

import r3po
from r3po import jobbuilder, jobrunner, runloop, sourcecheck, worker
from r3po.config import load_config
from r3po.jobstatus import read_status
from r3po.manifest import read_manifest, read_shard_file
from r3po.scan import hash_files

FUNCTIONS = """\
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def read(filepath):
    path = os.path.relpath(filepath, os.path.join(HERE, "source"))
    with open(os.path.join(HERE, "calls.log"), "ab", buffering=0) as log:
        log.write(path.encode() + b"\\n")
    with open(filepath) as file:
        value = json.load(file)
    if value is None:
        raise ValueError("nothing in it")
    return path, value


def one(filepath):
    path, value = read(filepath)
    return {"path": path, "value": value, "by": "one"}


def two(filepath):
    path, value = read(filepath)
    return {"path": path, "value": value, "by": "two"}


def more(filepath):
    path, value = read(filepath)
    return {"path": path, "value": value, "by": "more", "more": True}
"""
SAME_COLUMNS = {"one": "few", "two": "few", "more": "many"}
"""Which columns the rows of a function have."""

NAMES = ["a.json", "b.json", "m/c.json", "m/d.json", "m/n/e.json", "z.json", "m.json", "\u00e9.json"]

FIRST_MTIME = 1_600_000_000

Value = int | None
"""What a file holds; None: f fails on it."""


@dataclass
class Entry:
    """What the model knows of a file that the job has met."""

    value: Value
    mtime: int
    is_gone: bool = False
    is_due: bool = True
    """It has no outcome that counts."""
    is_maybe_done: bool = False
    """It is due, but a run that was killed may have come to it."""
    row: tuple[Value, str] | None = None
    """Value and function."""
    failed_by: str | None = None

    def forget(self) -> None:
        self.is_due, self.is_maybe_done, self.row, self.failed_by = True, False, None, None

    @property
    def look(self) -> tuple[int, bool]:
        return self.mtime, self.is_gone


@dataclass
class Model:
    """The job as it has to be."""

    entries: dict[str, Entry] = field(default_factory=dict)
    columns: str | None = None
    """`few` or `many`, once a row has set them."""
    keeps: bool = False

    def after_build(self, source: dict[str, tuple[Value, int]]) -> dict[str, Entry]:
        """Return the entries as a build makes them from this source."""
        entries = {path: Entry(**vars(entry)) for path, entry in self.entries.items()}
        for path, (value, mtime) in source.items():
            entry = entries.get(path)
            if entry is None:
                entries[path] = Entry(value, mtime)
                continue
            if entry.value != value or (entry.is_gone and not self.keeps):
                entry.forget()
            entry.value, entry.mtime, entry.is_gone = value, mtime, False
        for path in entries.keys() - source.keys():
            entries[path].is_gone = True
        return entries

    def settle_gone(self) -> None:
        """Drop what does not count of files that are gone, as the end of a run does."""
        for entry in self.entries.values():
            if entry.is_gone and not (self.keeps and entry.row is not None):
                entry.forget()

    @property
    def n_present(self) -> int:
        return sum(not entry.is_gone for entry in self.entries.values())

    @property
    def kept_rows(self) -> list[str]:
        return [path for path, entry in self.entries.items() if entry.is_gone and self.keeps and entry.row is not None]

    def redo(self) -> None:
        self.columns = None
        for entry in self.entries.values():
            entry.forget()

    def retry(self) -> None:
        for entry in self.entries.values():
            if entry.failed_by is not None:
                entry.forget()

    def open_failures_of_others(self, function: str) -> None:
        for entry in self.entries.values():
            if entry.failed_by not in (None, function):
                entry.forget()

    def due(self) -> set[str]:
        return {path for path, entry in self.entries.items() if entry.is_due and not entry.is_gone}

    def process(self, function: str) -> None:
        """Let every due file have its outcome."""
        due = [self.entries[path] for path in self.due()]
        if self.columns is None and any(entry.value is not None for entry in due):
            self.columns = SAME_COLUMNS[function]
        for entry in due:
            entry.is_due = entry.is_maybe_done = False
            if entry.value is None or SAME_COLUMNS[function] != self.columns:
                entry.failed_by = function
            else:
                entry.row = (entry.value, function)


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(prefix="r3po-history-", dir=memory))
        (self.root / "source").mkdir()
        (self.root / "functions_of_history.py").write_text(FUNCTIONS)
        self.source: dict[str, tuple[Value, int]] = {}
        self.removed: dict[str, tuple[Value, int]] = {}
        self.model = Model()
        self.function = "one"
        self.clock = FIRST_MTIME
        self.is_redoing = False
        self.maybe_kept: dict[str, tuple[Value, str]] = {}
        self.was_maybe_done: set[str] = set()
        self.settings: dict[str, Any] = {"shard_size": 2, "csv": True, "parquet": True, "source_column": None}
        self.configure()

    # The source

    @initialize(values=st.lists(st.integers(0, 99), min_size=1, max_size=4))
    def begin(self, values: list[int]) -> None:
        for path, value in zip(NAMES, values, strict=False):
            self.write(path, value)

    @rule(path=st.sampled_from(NAMES), value=st.integers(0, 99) | st.none())
    def add_or_change(self, path: str, value: Value) -> None:
        self.removed.pop(path, None)
        self.write(path, value)

    @rule(path=st.sampled_from(NAMES))
    def touch(self, path: str) -> None:
        if path in self.source:
            self.write(path, self.source[path][0])

    @rule(path=st.sampled_from(NAMES))
    def delete(self, path: str) -> None:
        if path in self.source:
            (self.root / "source" / path).unlink()
            self.removed[path] = self.source.pop(path)

    @rule(path=st.sampled_from(NAMES))
    def bring_back(self, path: str) -> None:
        if path in self.removed:
            self.write(path, *self.removed.pop(path))

    # What is not the source

    @precondition(lambda self: self.is_certain)
    @rule(function=st.sampled_from(sorted(SAME_COLUMNS)))
    def change_function(self, function: str) -> None:
        # Under a redo of other columns nobody knows which run will set them.
        if not self.is_redoing:
            self.function = function

    @rule(keeps=st.booleans())
    def change_on_deleted(self, keeps: bool) -> None:
        # What a build of before made of a returned file depends on it, so a run settles the change.
        self.settings["on_deleted"] = "keep" if keeps else "drop"
        self.model.keeps = keeps
        self.configure()
        self.run()

    @rule(csv=st.booleans(), size=st.integers(2, 3), source=st.sampled_from([None, "file", "other"]))
    def change_output(self, csv: bool, size: int, source: str | None) -> None:
        self.settings |= {"csv": csv, "shard_size": size, "source_column": source}
        self.configure()

    @precondition(lambda self: self.model.columns == "few" and self.function != "more" and self.is_certain)
    @rule(order=st.permutations(["path", "by", "value"]), type_=st.sampled_from(["int64", "float64"]))
    def pin_columns(self, order: list[str], type_: str) -> None:
        types = {"path": "string", "by": "string", "value": type_}
        self.settings["columns"] = {name: types[name] for name in order}
        self.configure()
        self.run()
        self.settings["columns"] = None
        self.configure()

    # Runs that come to their end

    @rule()
    def run(self) -> None:
        self.complete("run")

    @rule()
    def run_retrying(self) -> None:
        self.complete("retry", retry_failed=True)

    @rule(restart=st.booleans())
    def run_redoing(self, restart: bool) -> None:
        self.complete("redo", redo=True, restart=restart)

    @rule()
    def build(self) -> None:
        if self.is_refused(lambda: r3po.build_jobs(self.config, accept_deletions=True), accepts=True):
            return
        self.model.entries = self.model.after_build(self.source)

    @rule()
    def run_without_accepting(self) -> None:
        event("run without --accept-deletions")
        if not self.is_refused(lambda: self.r3po_run(), accepts=False):
            self.settle("run")
            self.check()

    @precondition(lambda self: self.is_certain and not self.is_redoing)
    @rule()
    def run_idly(self) -> None:
        self.run()
        if not self.source and not self.model.entries:
            return
        before = {path: path.stat().st_mtime_ns for path in (self.root / "out").rglob("part-*")}
        calls = self.calls()
        if self.source:
            self.r3po_run(accept_deletions=True)
        assert self.calls() == calls
        assert {path: path.stat().st_mtime_ns for path in (self.root / "out").rglob("part-*")} == before

    # Runs that are killed

    @rule(
        what=st.sampled_from(["run", "run", "retry", "redo", "build"]),
        step=st.integers(1, 60),
        is_after=st.booleans(),
        cuts_power=st.booleans(),
    )
    def be_killed(self, what: str, step: int, is_after: bool, cuts_power: bool) -> None:
        before = read_manifest(self.root / "work" / "manifest.json")
        world = World(step, is_after=is_after)
        options = {"retry": {"retry_failed": True}, "redo": {"redo": True}}.get(what, {})
        try:
            with world:
                if what == "build":
                    r3po.build_jobs(self.config, accept_deletions=True)
                else:
                    self.r3po_run(accept_deletions=True, **options)
        except Killed:
            event(f"{what} killed")
        except r3po.SourceError:
            assert not self.source
            return
        else:
            event(f"{what} came to its end before it was killed")
        if world.is_dead and cuts_power:
            world.cut_power()
        self.look_what_was_done(before, what)

    def look_what_was_done(self, before: Any, what: str) -> None:
        """Let the model follow what a run that was killed has put in force: its build, its retry, its redo."""
        after = read_manifest(self.root / "work" / "manifest.json")
        if after is None:
            return
        built = self.model.after_build(self.source)
        found = self.looks_on_disk(after)
        if found == {path: entry.look for path, entry in built.items()}:
            self.model.entries = built
        else:
            expected = {path: entry.look for path, entry in self.model.entries.items()}
            assert found == expected, "a build is in force whole or not at all"
        if before is not None and after.retry_since != before.retry_since and after.redo_since == before.redo_since:
            self.model.retry()
        if before is not None and after.redo_since != before.redo_since:
            self.model.redo()
        self.is_redoing = after.is_redoing
        self.model.open_failures_of_others(self.function)
        for path in self.model.due():
            self.model.entries[path].is_maybe_done |= what != "build"

    def looks_on_disk(self, manifest: Any) -> dict[str, tuple[int, bool]]:
        found = {}
        for ref in manifest.shards:
            entries = read_shard_file(self.root / "work" / "shards", ref)
            for path, mtime_ns, gone in zip(entries.paths, entries.mtimes_ns, entries.gone, strict=True):
                found[path] = (mtime_ns // 10**9, gone)
        return found

    # What all of them need

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def is_certain(self) -> bool:
        """Whether the model knows which files have an outcome."""
        return not any(entry.is_maybe_done for entry in self.model.entries.values())

    def configure(self) -> None:
        given = {
            "job_name": "history",
            "processes": 1,
            "source_path": "source",
            "source_file_part": ".json",
            "working_dir": "work",
            "output_path": "out",
            "batch_seconds": 0.0001,
            **{key: value for key, value in self.settings.items() if value is not None},
        }
        self.config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in given.items()))

    def write(self, path: str, value: Value, mtime: int | None = None) -> None:
        target = self.root / "source" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(value))
        self.clock += 1
        mtime = self.clock if mtime is None else mtime
        os.utime(target, (mtime, mtime))
        self.source[path] = value, mtime

    def r3po_run(self, **options: Any) -> r3po.RunResult:
        function = f"{self.root}/functions_of_history.py:{self.function}"
        return r3po.run_jobs(self.config, engine="serial", progress=False, function=function, **options)

    def calls(self) -> list[str]:
        log = self.root / "calls.log"
        return log.read_text().splitlines() if log.exists() else []

    def is_refused(self, do: Any, *, accepts: bool) -> bool:
        """Do something; return whether it was refused, which it has to be exactly if the model says so."""
        model = self.model
        n_gone = sum(1 for path, e in model.entries.items() if not e.is_gone and path not in self.source)
        is_due = not self.source and not model.n_present
        is_due = is_due or (not accepts and n_gone * 2 > model.n_present)
        if self.is_redoing and not accepts and model.keeps:
            # Rows that a redo has not made again would be dropped; whether there are any is not the model's to know.
            return True
        try:
            do()
        except r3po.SourceError:
            assert is_due
            return True
        assert not is_due
        return False

    def complete(self, what: str, **options: Any) -> None:
        event(what)
        calls = len(self.calls())
        if self.is_refused(lambda: self.r3po_run(accept_deletions=True, **options), accepts=True):
            return
        called = self.calls()[calls:]
        due = self.settle(what, restart=bool(options.get("restart")))
        assert len(called) == len(set(called))
        assert set(called) <= due
        assert set(called) >= {path for path in due if path not in self.was_maybe_done}
        self.check()

    def settle(self, what: str, *, restart: bool = False) -> set[str]:
        """Let the model do what a run that came to its end has done. Returns the files that were due."""
        model = self.model
        model.entries = model.after_build(self.source)
        if what == "redo" and (restart or not self.is_redoing or self.has_rows_of_others()):
            model.redo()
        elif what == "retry":
            model.retry()
        model.open_failures_of_others(self.function)
        if not any(entry.row for entry in model.entries.values()) and not any(
            entry.is_maybe_done for entry in model.entries.values()
        ):
            model.columns = None  # nobody has a row, so the first one sets them anew
        # A run that was killed may have come to a file that went since: then there is a row to keep.
        self.maybe_kept = {
            path: (entry.value, self.function)
            for path, entry in model.entries.items()
            if entry.is_gone and entry.is_maybe_done and model.keeps and entry.value is not None
        }
        due = model.due()
        self.was_maybe_done = {path for path in due if model.entries[path].is_maybe_done}
        model.process(self.function)
        model.settle_gone()
        self.is_redoing = False
        return due

    def has_rows_of_others(self) -> bool:
        return any(entry.row is not None and entry.row[1] != self.function for entry in self.model.entries.values())

    def check(self) -> None:
        """Hold what is on disk against the model."""
        there = self.tables()[0]
        for path, row in self.maybe_kept.items():
            if path in there:
                self.model.entries[path].is_due, self.model.entries[path].row = False, row
        rows = {path: entry.row for path, entry in self.model.entries.items() if entry.row is not None}
        failed = {path for path, entry in self.model.entries.items() if entry.failed_by is not None}
        for found in self.tables():
            assert {path: (int(float(row["value"])), row["by"]) for path, row in found.items()} == rows
            source = self.settings["source_column"]
            assert source is None or all(row[source] == path for path, row in found.items())
        with open(self.root / "out" / "failures" / "failures.csv", newline="") as file:
            assert {line["path"] for line in csv.DictReader(file)} == failed
        status = read_status(load_config(self.config))
        assert (status["done"], status["failed"], status["pending"]) == (len(rows), len(failed), 0)
        is_plain = self.settings["source_column"] is None
        column = "path" if self.settings["csv"] and is_plain else None
        assert checker.check_job(self.root / "work", self.root / "out", path_column=column, check_source=True) == []

    def tables(self) -> list[dict[str, dict[str, Any]]]:
        """Return the rows by path, of each kind of parts that there is."""
        found: list[list[dict[str, Any]]] = []
        if self.settings["csv"]:
            found.append([])
            for part in sorted((self.root / "out" / "csv").glob("part-*.csv")):
                with open(part, newline="", encoding="utf-8") as file:
                    found[-1] += list(csv.DictReader(file))
        found.append([])
        for part in sorted((self.root / "out" / "parquet").glob("part-*.parquet")):
            found[-1] += pq.read_table(part).to_pylist()
        tables = [{row["path"]: row for row in rows} for rows in found]
        assert [len(table) for table in tables] == [len(rows) for rows in found], "a file has two rows"
        return tables

    def teardown(self) -> None:
        try:
            if self.source or self.model.entries:
                self.run()
                if self.source:
                    assert r3po.verify_jobs(self.config, source=True).findings == ()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)
            sys.modules.pop("functions_of_history", None)
            sys.path[:] = [path for path in sys.path if not path.startswith(str(self.root))]


EXAMPLES = int(os.environ.get("R3PO_HISTORY_EXAMPLES", "0"))


@pytest.mark.skipif(not EXAMPLES, reason="the model is not finished: R3PO_HISTORY_EXAMPLES=50 draws 50 histories")
def test_the_table_follows_every_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STOP_CHECK_S", 3600)
    monkeypatch.setattr(runloop, "DRAIN_S", 0.1)
    monkeypatch.setattr(jobrunner, "find_function", cache(jobrunner.find_function))
    monkeypatch.setattr(r3po.storage, "_fsync", lambda descriptor: None)
    # In this process: to start others takes longer than all the rest of a step.
    for room in (jobbuilder, sourcecheck):
        monkeypatch.setattr(room, "hash_files", lambda paths, processes: hash_files(paths, 0))
    monkeypatch.setattr(logging.getLogger("r3po.jobrunner"), "disabled", True)
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=EXAMPLES or 200,
            stateful_step_count=20,
            derandomize=not EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
