"""A job that is run again and again on a source that changes, against a model of what its table and its price must be.

Hypothesis draws histories: files come, change, go and return, f and the config change, runs are killed. A `State` says
what a job knows; the functions under "The model" say what a run makes of it, from FORMAT.md and docs/ and nothing
of r3po. After a kill nobody knows how far the job came: `History.states` are all that may be, and what the next run
shows leaves those that fit. Some must.

R3PO_HISTORY_EXAMPLES=5000 draws so many other histories.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from obstore.store import LocalStore

import checker
import compare_parts
import r3po
from r3po import jobbuilder, jobrunner
from r3po.config.settings import Config, load_config
from r3po.function.find import FunctionSpec, find_function
from r3po.inspect import verify as jobverify
from r3po.inspect.status import read_status
from r3po.run import session, undo_redo, walk_and_start
from r3po.source import sources
from r3po.source import walk as scan
from r3po.source.hashing import hash_file
from r3po.state import reset as jobreset
from r3po.state.job import open_job
from r3po.storage import durable as storage
from r3po.storage import objects

pytestmark = pytest.mark.slow

N_EXAMPLES = int(os.environ.get("R3PO_HISTORY_EXAMPLES", "0"))


def history_settings(n_examples: int, n_steps: int) -> settings:
    """Return how many histories are drawn, and how long: always the same, unless the environment asks for more."""
    return settings(
        max_examples=N_EXAMPLES or n_examples,
        stateful_step_count=n_steps,
        derandomize=not N_EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


SEAMS = ("_create", "_fsync", "_replace", "_unlink")

PATHS = ("m.t", "b.t", "B.t", "\u00e9.t", "sub/a.t", "sub/z.t", "sub/deep/k.t", "sub-x/a.t", "a/x.t", "z.t")
"""Names that sort anywhere: before and after others, in folders, in a folder whose name begins like another's."""

FUNCTION = """\
def f(filepath):
    root, path = filepath.split("/source/", 1)
    with open(root + "/calls.log", "a", encoding="utf-8") as log:
        log.write(path + "\\n")
    with open(filepath, encoding="utf-8") as file:
        text = file.read()
    if text.startswith("x"):
        {bad}
    value = None if text == "none" else float(text) if "." in text else int(text)
    return {good}
"""

CODES = {
    "plain": ("raise ValueError(text)", '{"path": path, "value": value}'),
    "larger": ("raise ValueError(text)", '{"path": path, "value": value and value + 1000}'),
    "mended": ('return {"path": path, "value": -1}', '{"path": path, "value": value}'),
    "renamed": ("raise ValueError(text)", '{"path": path, "name": text}'),
}
"""What the versions of f do with a bad file, and with a good one."""

COLUMNS: tuple[tuple[tuple[str, str], ...] | None, ...] = (
    None,
    (("value", "float64"), ("path", "string")),
    (("path", "string"), ("value", "int64")),
    (("value", "int8"),),
    (("name", "string"), ("path", "string")),
)

EXCLUDED: dict[str | None, Callable[[str], bool]] = {
    None: lambda path: False,
    '["sub", "sub/**/k.t"]': lambda path: path.startswith("sub/"),
    '["**/a.t", "?.T"]': lambda path: path.endswith("/a.t"),
    '["*/*"]': lambda path: "/" in path,
}
"""Globs that the config may have, and which of `PATHS` they leave out."""

FAMILIES = {"int8": "number", "int64": "number", "float64": "number", "string": "text"}
ARROW = {"float64": "double"}


# The model


@dataclass(frozen=True, slots=True)
class Look:
    """A file of the source."""

    text: str
    mtime: int


@dataclass(frozen=True, slots=True)
class Outcome:
    code: str
    """The version of f that gave it."""
    values: tuple[tuple[str, Any], ...] | None
    """The row; None: it failed."""
    look: Look
    """Of the file that f saw."""
    has_hash: bool
    error_type: str = ""
    tries: int = 1
    is_open: bool = False
    """A failure that is to be tried again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A place."""

    path: str
    shard: int
    look: Look
    has_hash: bool = False
    is_gone: bool = False
    outcomes: tuple[Outcome, ...] = ()
    """That may count, the latest last; a commit leaves one."""


@dataclass(frozen=True, slots=True)
class State:
    """What a job knows."""

    entries: tuple[Entry, ...] = ()
    columns: tuple[tuple[tuple[str, str], ...], str] | None = None
    """Names and families, and the version of f that set them."""
    is_redoing: bool = False
    former: State | None = None
    """What a redo that is under way can be given up for; None: not known."""

    def with_entries(self, change: Callable[[Entry], Entry]) -> State:
        return replace(self, entries=tuple(map(change, self.entries)))


@dataclass(frozen=True, slots=True)
class Run:
    """What a user says: config, f and options."""

    source: dict[str, Look]
    code: str
    keeps: bool = False
    shard_size: int = 3
    redoes: bool = False
    """on_function_change: redo"""
    hashes: bool = True
    columns: tuple[tuple[str, str], ...] | None = None
    source_column: str | None = None
    build: bool = True
    retry_failed: bool = False
    redo: bool = False
    restart: bool = False
    accept_deletions: bool = False
    is_whole: bool = False
    """Every outcome is in a commit."""


class Refused(Exception):
    """The run must end with this error, and change nothing."""


def walk_key(path: str) -> Any:
    """Files before subfolders, names in byte order."""
    *folders, name = path.encode().split(b"/")
    return [(1, folder) for folder in folders] + [(0, name)]


def counting(entry: Entry, keeps: bool, code: str | None = None) -> Outcome | None:
    """Return the outcome that counts; under a version of f, only its own failures do."""
    for outcome in reversed(entry.outcomes):
        is_row = outcome.values is not None
        if entry.is_gone and not (keeps and is_row):
            continue
        if is_row or not (outcome.is_open or (code is not None and outcome.code != code)):
            return outcome
    return None


def rows_of(state: State, keeps: bool) -> list[tuple[Entry, Outcome]]:
    found = [(entry, counting(entry, keeps)) for entry in state.entries]
    return [(entry, outcome) for entry, outcome in found if outcome is not None and outcome.values is not None]


def failures_of(state: State, keeps: bool) -> list[tuple[Entry, Outcome]]:
    found = [(entry, counting(entry, keeps)) for entry in state.entries]
    return [(entry, outcome) for entry, outcome in found if outcome is not None and outcome.values is None]


def to_do(state: State, run: Run) -> list[Entry]:
    return [entry for entry in state.entries if not entry.is_gone and counting(entry, run.keeps, run.code) is None]


def returned(code: str, path: str, text: str) -> dict[str, Any] | None:
    """Return what f returns; None: it raises."""
    if text.startswith("x"):
        return {"path": path, "value": -1} if code == "mended" else None
    if code == "renamed":
        return {"path": path, "name": text}
    value: float | None = None if text == "none" else float(text) if "." in text else int(text)
    return {"path": path, "value": value and value + 1000 if code == "larger" else value}


def family(value: Any) -> str:
    return "null" if value is None else "text" if isinstance(value, str) else "number"


def fits(value: Any, column_type: str) -> bool:
    if value is None:
        return True
    if column_type == "int8":
        return isinstance(value, int) and -128 <= value <= 127
    return isinstance(value, {"int64": int, "float64": (int, float), "string": str}[column_type])


def attempt(state: State, run: Run, path: str) -> tuple[State, Outcome]:
    """Return what one call comes to, and the state with the columns that it may have set."""
    look = run.source[path]
    row = returned(run.code, path, look.text)
    if row is None:
        return state, Outcome(run.code, None, look, run.hashes, "ValueError")
    bad = state, Outcome(run.code, None, look, run.hashes, "BadRow")
    column_types = dict(run.columns or ())
    if state.columns is None:
        names = tuple((name, family(value)) for name, value in row.items())
        if run.columns is not None:
            names = tuple((name, FAMILIES[column_type]) for name, column_type in run.columns)
        elif run.source_column in row:
            return bad
    else:
        names = state.columns[0]
    if dict(names).keys() != row.keys():
        return bad
    for name, expected in names:
        value = row[name]
        is_kin = value is None or expected in ("null", family(value))
        if not is_kin or (name in column_types and not fits(value, column_types[name])):
            return bad
    set_by = state.columns or (names, run.code)
    return replace(state, columns=set_by), Outcome(run.code, tuple(row.items()), look, run.hashes)


def build(state: State, run: Run, *, reads_all: bool = False) -> State:
    """Return the state after a build.

    Args:
        reads_all: it is `r3po build`, which hashes what is new.
    """
    reads_all = reads_all and run.hashes
    present = [entry for entry in state.entries if not entry.is_gone]
    n_deleted = sum(entry.path not in run.source for entry in present)
    if not present and not run.source:
        raise Refused("no file")
    if n_deleted * 2 > len(present) and not run.accept_deletions:
        raise Refused("of this job are gone")
    lost = [e for e in present if e.path not in run.source and counting(e, run.keeps) is None]
    if lost and state.is_redoing and run.keeps and not run.accept_deletions:
        raise Refused("had not done again")

    def settle(entry: Entry) -> Entry:
        look = run.source.get(entry.path)
        if look is None:
            return replace(entry, is_gone=True)
        if look == entry.look and not entry.is_gone:
            return entry
        is_anew = entry.is_gone and not run.keeps
        if run.hashes and entry.has_hash:
            is_same = look.text == entry.look.text
        else:
            is_same = look == entry.look and not reads_all
        if is_same and not is_anew:
            return replace(entry, look=look, is_gone=False)
        return Entry(entry.path, entry.shard, look, has_hash=reads_all)

    state = state.with_entries(settle)
    entries, known = list(state.entries), {entry.path for entry in state.entries}
    shard = max((entry.shard for entry in entries), default=-1)
    room = run.shard_size - sum(entry.shard == shard for entry in entries) if entries else 0
    for path in sorted(run.source.keys() - known, key=walk_key):
        if room <= 0:
            shard, room = shard + 1, run.shard_size
        entries.append(Entry(path, shard, run.source[path], has_hash=reads_all))
        room -= 1
    return replace(state, entries=tuple(entries))


def reopen(state: State, *, is_redo: bool = False) -> State:
    """Return the state in which failures are to be tried again, or everything is."""
    if is_redo:
        return replace(state.with_entries(lambda e: replace(e, outcomes=())), columns=None, is_redoing=True)
    return state.with_entries(
        lambda e: replace(e, outcomes=tuple(replace(o, is_open=o.values is None) for o in e.outcomes))
    )


def in_row_order(state: State, run: Run) -> State:
    """Return the state with the places that a first build would give to the files that are there."""
    present = sorted((entry for entry in state.entries if not entry.is_gone), key=lambda entry: walk_key(entry.path))
    if not present:
        return state
    return replace(state, entries=tuple(replace(e, shard=n // run.shard_size) for n, e in enumerate(present)))


def count_older(state: State, run: Run) -> int:
    return sum(outcome.code != run.code for _, outcome in rows_of(state, run.keeps))


def is_redo_due(state: State, run: Run) -> bool:
    if not state.entries or not (run.redo or run.redoes):
        return False
    return bool(count_older(state, run)) or (run.redo and (run.restart or not state.is_redoing))


def check_columns(state: State, run: Run) -> None:
    if state.columns is None:
        return
    names, column_types = dict(state.columns[0]), dict(run.columns or ())
    shown = [
        (name, value) for _, o in rows_of(state, run.keeps) for name, value in o.values or () if name in column_types
    ]
    is_unfit = any(not fits(value, column_types[name]) for name, value in shown)
    if run.source_column in names or not column_types.keys() <= names.keys() or is_unfit:
        raise Refused("do not go together")


def has_stale_columns(state: State, run: Run) -> bool:
    """Whether other code or another config set the columns, and no row has them."""
    if state.columns is None or rows_of(state, run.keeps):
        return False
    names, code = state.columns
    if code != run.code:
        return True
    if run.columns is None:
        return run.source_column in dict(names)
    return names != tuple((name, FAMILIES[column_type]) for name, column_type in run.columns)


def prepare(state: State, run: Run) -> Iterator[State]:
    """Yield the states up to the first call of f."""
    yield state
    if not state.is_redoing:
        state = replace(state, former=replace(state, former=None) if run.is_whole and state.entries else None)
    if not state.entries and not run.build:
        raise Refused("no manifest")
    if has_stale_columns(state, run):
        state = reopen(state, is_redo=True)
        yield state
    elif run.retry_failed and failures_of(state, run.keeps):
        state = reopen(state)
        yield state
    is_checked = not is_redo_due(state, run)
    if is_checked:
        check_columns(state, run)
    if run.build:
        state = build(state, run)
        yield state
    if is_redo_due(state, run):
        is_kept = any(entry.is_gone for entry, _ in rows_of(state, run.keeps))
        if is_kept and not run.accept_deletions:
            raise Refused("cannot make them again")
        state = in_row_order(reopen(state, is_redo=True), run)
        yield state
    elif has_stale_columns(state, run):
        state = reopen(state, is_redo=True)
        yield state
    elif not is_checked:
        check_columns(state, run)


def record(state: State, run: Run, calls: Iterable[str]) -> Iterator[State]:
    """Yield the states as the files that f was called on, in that order, get their outcomes."""
    before = state
    for path in calls:
        if path in run.source:
            state, outcome = attempt(state, run, path)
        else:
            look = next(entry.look for entry in state.entries if entry.path == path)
            outcome = Outcome(run.code, None, look, False, "FileNotFoundError")
        if before.columns is None and state.columns is not None:
            before = replace(before, columns=state.columns)
            yield before  # the columns are durable before the outcomes that came up to then
        state = state.with_entries(
            lambda e, path=path, outcome=outcome: replace(e, outcomes=(*e.outcomes, outcome)) if e.path == path else e
        )
        yield state


def commit(state: State, run: Run, shard: int) -> State:
    """Return the state once a shard is committed: one outcome a place, and what f saw of the files."""

    def settle(entry: Entry) -> Entry:
        if entry.shard != shard:
            return entry
        outcome = counting(entry, run.keeps, run.code)
        if outcome is None:
            return replace(entry, outcomes=())
        outcome = replace(outcome, tries=sum(o.tries for o in entry.outcomes))
        entry, look = replace(entry, outcomes=(outcome,)), outcome.look
        if outcome.has_hash:
            is_known = entry.has_hash and entry.look.text == look.text
            return replace(entry, look=entry.look if is_known else look, has_hash=True)
        return replace(entry, look=look, has_hash=entry.has_hash and entry.look == look)

    return state.with_entries(settle)


def shards_of(state: State) -> range:
    return range(max((entry.shard for entry in state.entries), default=-1) + 1)


def may_be(state: State, run: Run, calls: list[str]) -> Iterator[State]:
    """Yield what a killed run may have made of a job: it came as far as these calls, or not so far."""
    ready = state
    try:
        for ready in prepare(state, run):
            yield ready
    except Refused:
        return
    if not set(calls) <= {entry.path for entry in to_do(ready, run)}:
        return
    for now in (ready, *record(ready, run, calls)):
        pending = {entry.shard for entry in to_do(now, run)}
        whole = [shard for shard in shards_of(now) if shard not in pending and commit(now, run, shard) != now]
        for chosen in product((False, True), repeat=len(whole)):
            made = now
            for shard, is_committed in zip(whole, chosen, strict=True):
                made = commit(made, run, shard) if is_committed else made
            yield made
            if not pending and all(chosen):
                yield replace(made, is_redoing=False, former=None)


def must_be(state: State, run: Run, calls: list[str]) -> State | None:
    """Return what a run that came to its end has made of a job; None: it would have called f on other files.

    Raises:
        Refused: it must have ended with that error.
    """
    *_, ready = prepare(state, run)
    paths = {entry.path for entry in to_do(ready, run)}
    missing = [path for path in paths if path not in run.source]  # after a build there are none
    if len(calls) != len(set(calls)) or set(calls) | set(missing) != paths:
        return None
    *_, made = ready, *record(ready, run, [*calls, *missing])
    for shard in shards_of(made):
        made = commit(made, run, shard)
    return replace(made, is_redoing=False, former=None)


@dataclass(frozen=True)
class Shown:
    """What everybody can see of a finished job."""

    parts: dict[int, list[tuple[Any, ...]]]
    """By shard, the rows as they are shown."""
    columns: tuple[tuple[str, str], ...]
    """Names and types; none where there is no part."""
    failures: list[tuple[str, str, int]]
    """Path, kind, attempts."""
    n_files: int
    n_present: int
    by_code: list[int]
    """How many rows each version of f made, ascending."""


def shown(state: State, run: Run) -> Shown:
    rows, failures = rows_of(state, run.keeps), failures_of(state, run.keeps)
    columns: list[tuple[str, str]] = []
    if rows:
        assert state.columns is not None
        if run.columns is not None:
            columns = [(name, ARROW.get(column_type, column_type)) for name, column_type in run.columns]
        else:
            columns = [(name, join([dict(o.values or ())[name] for _, o in rows])) for name, _ in state.columns[0]]
        if run.source_column is not None:
            columns.insert(0, (run.source_column, "string"))
    parts: dict[int, list[tuple[Any, ...]]] = {}
    for entry, outcome in rows:
        values = {**dict(outcome.values or ()), run.source_column: entry.path}
        parts.setdefault(entry.shard, []).append(tuple(values[name] for name, _ in columns))
    return Shown(
        parts,
        tuple(columns),
        [(entry.path, outcome.error_type, outcome.tries) for entry, outcome in failures],
        len(rows) + len(failures),
        sum(not entry.is_gone for entry in state.entries),
        sorted(Counter(outcome.code for _, outcome in rows).values()),
    )


def join(values: list[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return "null"
    return "string" if str in kinds else "double" if float in kinds else "int64"


# What is there


def read_csv_parts(folder: Path, columns: tuple[tuple[str, str], ...]) -> dict[int, list[tuple[Any, ...]]]:
    read: dict[str, Callable[[str], Any]] = {"int64": int, "int8": int, "double": float, "string": str, "null": str}
    found = {}
    for part in sorted(folder.glob("part-*.csv")):
        with open(part, newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        number = int(part.stem[5:])
        if header != [name for name, _ in columns]:
            found[number] = [tuple(header)]
            continue
        kinds = [read[kind] for _, kind in columns]
        try:
            found[number] = [
                tuple(kind(cell) if cell else None for kind, cell in zip(kinds, line, strict=True)) for line in lines
            ]
        except ValueError:
            found[number] = [tuple(line) for line in lines]
    return found


def read_parquet_parts(folder: Path) -> tuple[dict[int, list[tuple[Any, ...]]], set[tuple[tuple[str, str], ...]]]:
    found, schemas = {}, set()
    for part in sorted(folder.glob("part-*.parquet")):
        table = pyarrow.parquet.ParquetFile(part).read()
        schemas.add(tuple((field.name, str(field.type)) for field in table.schema))
        found[int(part.stem[5:])] = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found, schemas


def read_failures(path: Path) -> list[tuple[str, str, int]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [(line["path"], line["error_type"], int(line["attempts"])) for line in csv.DictReader(file)]


def stamps(*folders: Path) -> dict[str, tuple[int, int]]:
    """Return which files are there, with what changes if one is written again."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if "runs" not in path.parts}


# The histories


class Killed(BaseException):
    """The process is dead: no Exception, nobody may handle it."""


class Killer:
    """Takes the place of the disk's durable steps; at one of them everything ends, and so do all that follow."""

    def __init__(self, kill_at: int) -> None:
        self.n_left = kill_at
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for name in SEAMS:
            self._patch.setattr(storage, name, self._seam(getattr(storage, name)))

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _seam(self, carry_out: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            self.n_left -= 1
            if self.n_left <= 0:
                raise Killed
            return carry_out(*args)

        return step


class History(RuleBasedStateMachine):
    """One job, from its first file on."""

    folder: Path
    """Holds the versions of f, and the jobs."""
    is_on_disk = True
    """Where the files are."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.folder))
        self.source, self.state, self.output = (self.root / name for name in ("source", "state", "output"))
        self.source.mkdir()
        self.files: dict[str, Look] = {}
        self.deleted: dict[str, Look] = {}
        self.clock = 1_000_000_000
        self.code = "plain"
        self.keys: dict[str, Any] = {
            "shard_size": 3,
            "csv": True,
            "parquet": True,
            "columns": None,
            "source_column": None,
            "on_deleted": "drop",
            "on_function_change": "warn",
            "hash": "content",
            "exclude": None,
        }
        self.states: set[State] = {State()}
        self.is_settled = False
        """The last run came to its end, and nothing has changed since."""
        self.is_clean = False
        """It came to its end, or there was none."""
        self.is_whole = True
        """What the job knows is committed: a redo that is begun now can be given up without a loss."""
        self.was_stat = False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # The source

    @initialize(texts=st.lists(st.integers(10, 99), min_size=2, max_size=6), bad=st.booleans(), keeps=st.booleans())
    def begin(self, texts: list[int], bad: bool, keeps: bool) -> None:
        self.keys["on_deleted"] = "keep" if keeps else "drop"
        for path, n in zip(PATHS[1::2] + PATHS[::2], texts, strict=False):
            self.write(path, str(n))
        if bad:
            self.write(next(iter(self.files)), "x1")

    def write(self, path: str, text: str, mtime: int | None = None) -> None:
        if mtime is None:
            self.clock += 1
        target = self.source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self.files[path] = Look(text, mtime or self.clock)
        self.deleted.pop(path, None)
        os.utime(target, (self.files[path].mtime,) * 2)
        self.is_settled = False

    def pick(self, n: int, among: Iterable[str]) -> str:
        paths = sorted(among)
        return paths[n % len(paths)]

    @precondition(lambda self: len(self.files) < 8)
    @rule(
        ns=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        n=st.integers(10, 99),
        what=st.sampled_from(["", ".5", "x"]),
    )
    def add_files(self, ns: list[int], n: int, what: str) -> None:
        for index in ns:
            new = PATHS[index]
            if new not in self.files:
                self.write(new, f"x{n}" if what == "x" else f"{n}{what}")

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 7), to=st.sampled_from(["same size", "longer", "float", "none", "bad"]))
    def change_file(self, n: int, to: str) -> None:
        path = self.pick(n, self.files)
        old = self.files[path].text
        number = self.clock % 90 + 10
        texts = {"longer": f"{number + 300}", "float": f"{number}.5", "none": "none", "bad": f"x{number}"}
        text = texts.get(to) or ("x" + old[1:-1] + "y" if "x" in old else f"{number:0{len(old)}}"[-len(old) :])
        if text == old or text == "x":
            text = "11" if old != "11" else "22"
        self.write(path, text)

    @precondition(lambda self: any(look.text[0] == "x" for look in self.files.values()))
    @rule(n=st.integers(0, 7))
    def mend_file(self, n: int) -> None:
        self.write(self.pick(n, (path for path, look in self.files.items() if look.text[0] == "x")), str(50 + n))

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 7))
    def touch_file(self, n: int) -> None:
        path = self.pick(n, self.files)
        self.write(path, self.files[path].text)

    @precondition(lambda self: self.files)
    @rule(ns=st.lists(st.integers(0, 7), min_size=1, max_size=5))
    def delete_files(self, ns: list[int]) -> None:
        for n in ns if len(ns) > 3 else ns[:1]:
            if len(self.files) > (ns[0] != 0):  # rarely all: nothing but an error comes of that
                path = self.pick(n, self.files)
                self.deleted[path] = self.files.pop(path)
                (self.source / path).unlink()
        self.is_settled = False

    @precondition(lambda self: self.deleted)
    @rule(n=st.integers(0, 7), is_same=st.booleans())
    def bring_back(self, n: int, is_same: bool) -> None:
        path = self.pick(n, self.deleted)
        look = self.deleted[path]
        if is_same:
            self.write(path, look.text, look.mtime)
        else:
            self.write(path, "33" if look.text != "33" else "44")

    # What the user says

    @rule(code=st.sampled_from(sorted(CODES)))
    def change_f(self, code: str) -> None:
        self.is_settled = self.is_settled and self.code == code
        self.code = code

    @rule(
        change=st.one_of(
            *(st.fixed_dictionaries({"columns": st.just(columns)}) for columns in COLUMNS),
            st.sampled_from([{"csv": True, "parquet": False}, {"csv": False, "parquet": True}, {"csv": True}]),
            st.fixed_dictionaries({"parquet": st.just(True)}),
            st.fixed_dictionaries({"source_column": st.sampled_from([None, "from", "file", "value"])}),
            st.fixed_dictionaries({"on_deleted": st.sampled_from(["drop", "keep"])}),
            st.fixed_dictionaries({"on_deleted": st.sampled_from(["drop", "keep"])}),
            st.fixed_dictionaries({"shard_size": st.integers(2, 3)}),
            st.fixed_dictionaries({"on_function_change": st.sampled_from(["warn", "redo"])}),
            st.fixed_dictionaries({"hash": st.sampled_from(["content", "stat"])}),
            st.fixed_dictionaries({"exclude": st.sampled_from(list(EXCLUDED))}),
        )
    )
    def change_config(self, change: dict[str, Any]) -> None:
        keys = {**self.keys, **change}
        if keys["source_column"] in dict(keys["columns"] or ()):
            keys["source_column"] = None  # the config itself would be refused
        self.is_settled = self.is_settled and self.keys == keys
        self.keys = keys

    def configure(self) -> Path:
        def said(value: Any) -> str:
            if isinstance(value, tuple):
                return "{" + ", ".join(f"{name}: {column_type}" for name, column_type in value) + "}"
            return value if isinstance(value, str) else str(value).lower()

        lines = [f"{key}: {said(value)}" for key, value in self.keys.items() if value is not None]
        fixed = "job_name: t\nprocesses: 1\nsource_path: source\nsource_file_part: .t\nworking_dir: state\n"
        path = self.root / "config.yaml"
        path.write_text(fixed + "output_path: output\n" + "\n".join(lines) + "\n")
        return path

    def asked(self, **options: bool) -> Run:
        self.was_stat = self.was_stat or self.keys["hash"] == "stat"
        is_excluded = EXCLUDED[self.keys["exclude"] if options.get("build", True) else None]
        return Run(
            source={path: look for path, look in self.files.items() if not is_excluded(path)},
            code=self.code,
            keeps=self.keys["on_deleted"] == "keep",
            shard_size=self.keys["shard_size"],
            redoes=self.keys["on_function_change"] == "redo",
            hashes=self.keys["hash"] == "content",
            columns=self.keys["columns"],
            source_column=self.keys["source_column"],
            is_whole=self.is_whole,
            **options,
        )

    # What r3po does

    def calls(self) -> list[str]:
        log = self.root / "calls.log"
        if not log.exists():
            return []
        found = log.read_text(encoding="utf-8").splitlines()
        log.unlink()
        return found

    OPTIONS = st.sampled_from(
        [
            {"retry_failed": True},
            {"redo": True},
            {"redo": True, "restart": True},
            {"redo": True, "accept_deletions": True},
            {"accept_deletions": True},
            {"accept_deletions": True, "retry_failed": True},
        ]
    )

    @rule()
    def run(self) -> None:
        self.carry_out()

    @rule()
    def run_again(self) -> None:
        self.carry_out()

    @rule(options=OPTIONS)
    def run_with_options(self, options: dict[str, bool]) -> None:
        self.carry_out(**options)

    @rule(retry=st.booleans())
    def run_without_build(self, retry: bool) -> None:
        self.carry_out(build=False, retry_failed=retry)

    @rule(
        options=st.one_of(st.just({}), OPTIONS),
        kill_at=st.one_of(st.integers(1, 30), st.integers(20, 160)),
        resume=st.booleans(),
    )
    def run_killed(self, options: dict[str, bool], kill_at: int, resume: bool) -> None:
        self.carry_out(kill_at, **options)
        if resume:
            self.carry_out(accept_deletions=options.get("accept_deletions", False))

    @rule(limit=st.integers(1, 6), options=st.one_of(st.just({}), OPTIONS))
    def run_with_limit(self, limit: int, options: dict[str, bool]) -> None:
        self.carry_out(limit=limit, **options)

    def carry_out(self, kill_at: int = 0, limit: int | None = None, **options: bool) -> None:
        config, run = self.configure(), self.asked(**options)
        before = stamps(self.output)
        result, error = None, ""
        try:
            with Killer(kill_at or sys.maxsize):
                result = r3po.run_jobs(
                    config,
                    engine="serial",
                    progress=False,
                    function=f"{self.folder}/{self.code}.py:f",
                    limit=limit,
                    **options,
                )
        except Killed:
            error = "killed"
        except (r3po.SourceError, r3po.ConfigError, r3po.StateError) as refusal:
            error = str(refusal)
        except r3po.FunctionError as refusal:
            assert "the redo was not begun" in str(refusal)
            self.check_without_a_row(run, before)
            return
        calls = self.calls()
        note(f"    calls {calls}, {error or result}")
        if error == "killed":
            event("run: killed")
            self.states = {made for state in self.states for made in may_be(state, run, calls)}
            self.is_settled = self.is_clean = self.is_whole = False
            self.check_killed(config)
        elif error:
            event("run: refused")
            assert not calls
            if self.is_clean:
                assert stamps(self.output) == before, "refused, and the output was changed"
            self.refuse(run, error)
        elif limit is not None and result is not None and result.pending:
            event("run: limit reached")
            assert len(calls) == limit
            made = {made for state in self.states for made in may_be(state, run, calls)}
            self.states = {state for state in made if len(to_do(state, run)) == result.pending}
            self.is_settled = self.is_clean = self.is_whole = False
            assert not any(self.output.glob("*/_SUCCESS"))
            self.check_killed(config)
        else:
            event("run: whole")
            self.check_whole(config, run, result, calls)
            self.is_settled = self.is_clean = run.build
            self.is_whole = True

    def check_without_a_row(self, run: Run, before: object) -> None:
        """A redo whose first files gave no row: nothing has changed, whatever the other files would have given."""
        event("run: a redo without a row")
        calls = self.calls()
        assert calls and all(attempt(State(), run, path)[1].values is None for path in calls)
        assert any(rows_of(state, run.keeps) for state in self.states), "there was a row to lose"
        if self.is_clean:
            assert stamps(self.output) == before

    def refuse(self, run: Run, error: str) -> None:
        left, expected = set(), []
        for state in self.states:
            try:
                expected.append(must_be(state, run, []))
            except Refused as refused:
                expected.append(refused)
                if str(refused) in error:
                    event(f"refused: {refused}")
                    left.add(state)
        assert left, f"{error}\nexpected {expected}"
        self.states = left

    def check_killed(self, config: Path) -> None:
        assert self.states
        with open_job(load_cached(config, config.read_text())):
            pass  # a start completes what was decided
        if (self.state / "manifest.json").exists():
            found = checker.check_job(self.state, self.output, is_finished=False)
            # What a worker did not finish goes with the commit of its shard.
            assert [line for line in found if "/segments/" not in line] == []
        if any(self.output.glob("*/part-*")) and self.keys["csv"] and self.keys["columns"] is None:
            paths = []
            for part in self.output.glob("csv/part-*"):
                with open(part, newline="", encoding="utf-8") as file:
                    paths += [line.get("path") for line in csv.DictReader(file)]
            assert None in paths or len(paths) == len(set(paths)), "two rows of one file"

    def check_whole(self, config: Path, run: Run, result: Any, calls: list[str]) -> None:
        expected: list[Any] = []
        found = None
        left = set()
        for state in self.states:
            try:
                made = must_be(state, run, calls)
            except Refused as refused:
                expected.append(refused)
                continue
            if made is None:
                *_, ready = prepare(state, run)
                expected.append([entry.path for entry in to_do(ready, run)])
                continue
            wanted = shown(made, run)
            found = self.look(config, wanted)
            if found == wanted:
                left.add(made)
            expected.append(wanted)
        assert left, f"called on {calls}, and found {found}\nexpected " + "\n or ".join(map(str, expected))
        status = read_status(load_cached(config, config.read_text()))
        # Two states may show the same table: what the job knows besides is in the status.
        known = status["files"], sorted(status["functions"].values())
        self.states = left = {s for s in left if (shown(s, run).n_present, shown(s, run).by_code) == known}
        assert left, status
        wanted = shown(next(iter(left)), run)
        n_rows = sum(map(len, wanted.parts.values()))
        counts = (result.files, result.done, result.failed, result.pending, result.rows)
        assert counts == (wanted.n_files, n_rows, len(wanted.failures), 0, n_rows)
        assert [status[name] for name in ("done", "failed", "pending")] == [
            n_rows,
            len(wanted.failures),
            0,
        ]
        self.check_disk(config, run)

    def check_disk(self, config: Path, run: Run) -> None:
        shown = ["path"] if self.keys["columns"] is None or "path" in dict(self.keys["columns"]) else []
        column = self.keys["source_column"] or next(iter(shown), None)
        check_source = run.build and self.is_on_disk
        found = checker.check_job(self.state, self.output, path_column=column, check_source=check_source)
        # Files that were done under `hash: stat` have none.
        assert [line for line in found if not (self.was_stat and "no hash of" in line)] == []
        if self.keys["csv"] and self.keys["parquet"]:
            assert compare_parts.compare_parts(self.output) == []
        verified = r3po.verify_jobs(config)
        assert verified.is_good, verified.findings

    def look(self, config: Path, wanted: Shown) -> Shown:
        """Return what is shown, with `wanted` for what is not looked at here."""
        parts, columns = {}, wanted.columns
        by_csv = read_csv_parts(self.output / "csv", wanted.columns) if self.keys["csv"] else None
        if self.keys["parquet"]:
            parts, schemas = read_parquet_parts(self.output / "parquet")
            assert len(schemas) <= 1, schemas
            columns = next(iter(schemas), ())
            if by_csv not in (None, parts):
                parts = {-1: [("CSV has", by_csv, "Parquet", parts)]}
        else:
            assert by_csv is not None
            parts = by_csv
        failures = read_failures(self.output / "failures" / "failures.csv")
        return replace(wanted, parts=parts, columns=columns, failures=failures)

    @precondition(lambda self: self.is_settled and self.files)
    @rule()
    def an_idle_run_changes_nothing(self) -> None:
        before = stamps(self.output, self.state / "commits", self.state / "outcomes")
        manifest = (self.state / "manifest.json").read_bytes()
        r3po.run_jobs(self.configure(), engine="serial", progress=False, function=f"{self.folder}/{self.code}.py:f")
        assert self.calls() == []
        assert stamps(self.output, self.state / "commits", self.state / "outcomes") == before
        assert (self.state / "manifest.json").read_bytes() == manifest

    @rule(accept=st.booleans(), kill_at=st.one_of(st.just(0), st.integers(1, 20)))
    def build_only(self, accept: bool, kill_at: int) -> None:
        config, run = self.configure(), self.asked(accept_deletions=accept)
        is_settled, self.is_settled = self.is_settled, False
        error = ""
        try:
            with Killer(kill_at or sys.maxsize):
                r3po.build_jobs(config, accept_deletions=accept)
        except Killed:
            error = "killed"
        except r3po.SourceError as refusal:
            error = str(refusal)
        assert not self.calls()
        made: set[State] = set()
        for state in self.states:
            try:
                built = build(state, run, reads_all=True)
            except Refused as refused:
                if str(refused) in error or error == "killed":
                    made.add(state)
                continue
            made |= {state, built} if error == "killed" else {built} if not error else set()
        assert made, error
        self.states = made
        if error == "killed":
            self.is_clean = False
            event("build: killed")
        else:
            event("build: refused" if error else "build: whole")
            self.is_settled = is_settled

    @precondition(lambda self: any(o.values is None for s in self.states for e in s.entries for o in e.outcomes))
    @rule()
    def reset_errors(self) -> None:
        n = r3po.reset_all_errors(self.configure())
        keeps = self.keys["on_deleted"] == "keep"
        left = {state for state in self.states if len(failures_of(state, keeps)) == n}
        assert left, n
        self.states = {reopen(state) for state in left} if n else left
        self.is_settled = self.is_settled and not n

    @precondition(lambda self: self.is_whole and self.files)
    @rule(redo_until=st.integers(25, 110), kill_at=st.one_of(st.just(0), st.integers(1, 40)))
    def begin_redo_and_give_it_up(self, redo_until: int, kill_at: int) -> None:
        self.carry_out(redo_until, redo=True, accept_deletions=True)
        redoing = [state for state in self.states if state.is_redoing]
        if redoing and all(state.former for state in redoing):
            self.give_up_redo(kill_at)

    def give_up_redo(self, kill_at: int) -> None:
        config, keeps = self.configure(), self.keys["on_deleted"] == "keep"
        redoing = {state for state in self.states if state.is_redoing}
        n, error = -1, ""
        try:
            with Killer(kill_at or sys.maxsize):
                n = r3po.reset_redo(config)
        except Killed:
            error = "killed"
        except r3po.StateError as refusal:
            error = str(refusal)
        assert not self.calls()
        before = {state.former for state in redoing if state.former is not None}
        self.is_settled = self.is_clean = False
        if error == "killed":
            event("redo: killed while it was given up")
            self.states |= before
            self.is_whole = False
            self.check_killed(config)
        elif error:
            event("redo: none is under way")
            self.states -= redoing
            assert self.states, error
        else:
            event("redo: given up")
            self.states = {state for state in before if len(rows_of(state, keeps)) == n}
            self.is_whole = True
            assert self.states, n
            assert r3po.verify_jobs(config).counts.keys() <= {"pending", "settings", "success", "failures"}


SERVER = "storage_options: {endpoint: http://a-server-that-lists-in-no-order}"


class BucketHistory(History):
    """One job whose files are in a bucket: a store of obstore on the disk, whose tags are of inode, mtime and size."""

    is_on_disk = False

    def configure(self) -> Path:
        self.keys["hash"] = "content"  # by its tag alone a file that is back as it was is another one
        path = super().configure()
        source = f"source_path: gs://disk{self.source}\ninput: bytes\n{SERVER}\n"
        path.write_text(path.read_text().replace("source_path: source\n", source))
        return path


FUNCTION_OF_BUCKET = (
    FUNCTION.replace("def f(filepath):", "def f(filepath, data):")
    .replace(
        """    with open(filepath, encoding="utf-8") as file:
        text = file.read()
""",
        "    text = data.decode()\n",
    )
    .replace("filepath.split", 'filepath.removeprefix("gs://disk").split')
)


@pytest.mark.parametrize("walk", ["short", "long", "bucket"])
def test_every_history_gives_the_table_of_a_fresh_run(
    walk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long first walk only lists files: f's own looks are all that tells whether they changed since."""
    if walk == "long":
        monkeypatch.setattr(scan, "LONG_WALK_FILES", 0)
        monkeypatch.setattr("r3po.source.parallel.map_in_order", map_here)
    if walk == "bucket":
        monkeypatch.setattr(objects, "make_client", lambda *_: LocalStore("/"))
        monkeypatch.setitem(globals(), "walk_key", str.encode)
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    monkeypatch.setattr(storage, "_fsync", lambda descriptor: None)
    # `r3po build` hashes in this process, and the walk is not waited for beside a start that takes no time.
    monkeypatch.setattr(sources, "hash_files", hash_here)
    monkeypatch.setattr(walk_and_start, "threading", SimpleNamespace(Thread=Here, Event=threading.Event))
    monkeypatch.setattr(sys, "path", sys.path[:])
    # Reading a config and finding f in its file would take more than half of the time.
    monkeypatch.setattr(session, "find_function", lambda text, base_dir: find_cached(text))
    for module in (jobbuilder, jobrunner):
        monkeypatch.setattr(module, "load_config", lambda path, **_: load_cached(path, Path(path).read_text()))
    for module in (jobreset, jobverify, undo_redo):
        monkeypatch.setattr(module, "load_known", lambda path: load_cached(path, Path(path).read_text()))
    with tempfile.TemporaryDirectory(prefix="r3po-test-", dir=place) as folder:
        for code, (bad, good) in CODES.items():
            function = FUNCTION_OF_BUCKET if walk == "bucket" else FUNCTION
            (Path(folder) / f"{code}.py").write_text(function.format(bad=bad, good=good))
        History.folder = Path(folder)
        run_state_machine_as_test(
            BucketHistory if walk == "bucket" else History,
            settings=history_settings(15, 20),
        )


@cache
def find_cached(text: str) -> FunctionSpec:
    return find_function(text, Path("/"))


@lru_cache(maxsize=8)
def load_cached(path: Path, text: str) -> Config:
    return load_config(path)


def hash_here(paths: Iterable[str], processes: int) -> Iterator[Any]:
    yield from map(hash_file, paths)


def map_here(function: Callable[[Any], Any], tasks: Iterable[Any], processes: int) -> Iterator[Any]:
    yield from map(function, tasks)


class Here:
    """A thread that is over as soon as it was started."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self._target = target

    def start(self) -> None:
        self._target()

    def join(self, timeout: float | None = None) -> None:
        pass

    def is_alive(self) -> bool:
        return False
