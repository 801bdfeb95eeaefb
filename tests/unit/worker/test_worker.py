"""What happens inside a worker: real files, a real function file, real segments."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import r3po.source.read as reading
import r3po.worker.call
import r3po.worker.shard_lines as shard_lines
import r3po.worker.worker as worker_module
from r3po.errors import DamagedStateError, FunctionError
from r3po.file_version import UNKNOWN_VERSION, UNSEEN, FileVersion
from r3po.function.find import FunctionSpec
from r3po.state.folders import JobFolders
from r3po.state.manifest import ShardRef
from r3po.state.segments import Segment, read_segment
from r3po.state.shard_files import Entries, write_shard_file
from r3po.storage.durable import list_names
from r3po.storage.names import show_name
from r3po.table.columns import Columns, columns_of
from r3po.table.outcomes import Failure
from r3po.table.predicate import CountingRules
from r3po.work import Batch, Span
from r3po.worker.beacon import Phase, read_beacon
from r3po.worker.failures import TEXT_LIMIT, EnvironmentalFailure
from r3po.worker.messages import BatchDone, Listed, ShardContext, WorkerSetup
from r3po.worker.staging import StageOrder
from r3po.worker.worker import Worker

JOB_ID = "0123456789abcdef0123456789abcdef"
FINGERPRINT = "f" * 16
SIZE_OF = """\
import os

def f(path):
    with open(path, "rb") as file:
        return {"name": os.path.basename(path), "size": len(file.read())}
"""
RETURNS = "CALLS = []\ndef f(path, data=None):\n    CALLS.append(path)\n    return {'x': 1}"
SIZE_COLUMNS = columns_of({"name": "x", "size": 1})
ONE = columns_of({"x": 1})
MIB = 1 << 20


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    path, modules, no_bytecode = sys.path[:], dict(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    yield
    sys.path[:], sys.dont_write_bytecode = path, no_bytecode
    for name in set(sys.modules) - set(modules):
        if name.startswith(("userf", "_r3po_user")):
            del sys.modules[name]


class Job:
    """A source folder, a function file and one shard, which lists the files in the order of `files`.

    Args:
        settings: what the `WorkerSetup` says besides.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        files: dict[str, bytes],
        *,
        columns: Columns | None = ONE,
        age_s: int = 1000,
        **settings: Any,
    ) -> None:
        self.source = folder / "source"
        self.columns = columns
        self.folders = JobFolders(folder / "work", folder / "out")
        self.folders.make()
        self.stop_file = folder / "stop"
        self.function_file = folder / "userf.py"
        self.function_file.write_text(source, encoding="utf-8")
        self.ref = self.add_shard(3, files, age_s=age_s)
        function = FunctionSpec("userf.py:f", "file", str(self.function_file), "f", (str(folder),), FINGERPRINT)
        places = {"stop_file": self.stop_file, "workers_folder": folder / "workers"}
        settings = {"input": "path", "hash": "content", "batch_seconds": 30.0, **places, **settings}
        self.setup = WorkerSetup(self.folders, str(self.source), function, **settings)
        self.worker = Worker(pickled(self.setup))
        self.worker.load()
        self._n_attempts = 0

    def add_shard(self, shard: int, files: dict[str, bytes], age_s: int = 1000) -> ShardRef:
        entries = Entries()
        for name, content in files.items():
            path = Path(os.path.join(self.source, name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            mtime_ns = os.stat(path).st_mtime_ns - age_s * 10**9
            os.utime(path, ns=(mtime_ns, mtime_ns))
            entries.append(name, len(content), mtime_ns, 1)
        return write_shard_file(self.folders.shards, shard, 1, entries)

    @property
    def module(self) -> ModuleType:
        """The user's module as the worker imported it."""
        return sys.modules["userf"]

    def path(self, name: str) -> Path:
        return self.source / name

    def offer(
        self, *places: Span, ref: ShardRef | None = None, is_last_try: bool = False
    ) -> tuple[Batch, ShardContext]:
        self._n_attempts += 1
        ref = ref or self.ref
        places = places or ((0, ref.n_files),)
        context = ShardContext(JOB_ID, ref, 4, f"w{self._n_attempts}", self.columns)
        return Batch(self._n_attempts, ref.shard, places, is_last_try=is_last_try), context

    def run(self, *places: Span, is_last_try: bool = False) -> BatchDone:
        return pickled(self.worker.run_batch(*pickled(self.offer(*places, is_last_try=is_last_try))))

    def run_twice(self) -> list[dict[str, Any]]:
        """Return the outcomes of a batch and of the last try of what it put off, by place."""
        done = self.run()
        assert done.deferred and done.returned == ()
        last = self.run(*((place, place + 1) for place in done.deferred), is_last_try=True)
        assert (last.deferred, last.returned) == ((), ())
        found = [*(self.outcomes(done) if done.segment else []), *self.outcomes(last)]
        return sorted(found, key=lambda line: int(line["place"]))

    def outcomes(self, done: BatchDone) -> list[dict[str, Any]]:
        """Return a batch's outcomes as dicts, read from its segment."""
        assert done.segment is not None
        read = read_segment(self.folders.segments, done.segment)
        assert read is not None
        found: list[dict[str, Any]] = read.table.to_pylist()
        assert (done.n_done, done.n_failed) == (done.segment.n_done, done.segment.n_failed)
        assert done.n_failed == sum(not line["is_row"] for line in found)
        assert done.n_done + done.n_failed == len(found)
        return found

    def only_outcome(self) -> dict[str, Any]:
        (found,) = self.outcomes(self.run())
        return found

    def only_failure(self) -> Failure:
        found = self.only_outcome()
        assert not found["is_row"]
        return Failure(*(found[name] for name in Failure._fields))

    def n_segments(self) -> int:
        return sum(len(list(list_names(self.folders.segments / name))) for name in list_names(self.folders.segments))


def pickled(value: Any) -> Any:
    """Return what comes out at the other end, in another process."""
    found = pickle.loads(pickle.dumps(value))
    assert found == value
    return found


def blake(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def line_of(source: str, text: str) -> int:
    """Return the number of the line of `source` that holds `text`."""
    (number,) = [i for i, line in enumerate(source.splitlines(), 1) if text in line]
    return number


# Rows


@pytest.mark.parametrize(("age_s", "is_racy"), [(1000, False), (0, True)])
def test_rows_are_durable_with_what_f_saw_of_each_file(tmp_path: Path, age_s: int, is_racy: bool) -> None:
    files = {"b.txt": b"12345", "a/c d.txt": b"", "é🍐.txt": b"x" * 70_000}
    job = Job(tmp_path, SIZE_OF, files, columns=SIZE_COLUMNS, age_s=age_s)
    done = job.run()
    assert (done.n_done, done.n_failed, done.returned, done.failures) == (3, 0, (), ())
    assert done.seconds > 0
    segment = done.segment
    assert segment == Segment(3, 4, JOB_ID[:8], "w1", 3, 0, segment.digest if segment else "")
    for place, ((name, content), line) in enumerate(zip(files.items(), job.outcomes(done), strict=True)):
        assert (line["place"], line["is_row"], line["build"], line["attempt"]) == (place, True, 4, "w1")
        assert (line["fingerprint"], line["tries"], line["racy"]) == (FINGERPRINT, 1, is_racy)
        assert (line["0.text"], line["1.int"]) == (os.path.basename(name), len(content))
        assert (line["size"], line["hash"]) == (len(content), blake(content))
        assert line["mtime_ns"] == os.stat(job.path(name)).st_mtime_ns
        assert 0 <= line["seconds"] < 10


def test_f_gets_the_absolute_path_as_text(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    return {'x': path}", {"sub/a b.txt": b""}, columns=columns_of({"x": ""}))
    for source_path in (str(job.source), f"{job.source}/"):
        job.worker = Worker(replace(job.setup, source_path=source_path))
        job.worker.load()
        assert job.only_outcome()["0.text"] == f"{job.source}/sub/a b.txt"


def test_only_the_places_of_the_offer_are_done(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {f"{i}.txt": b"x" * i for i in range(10)}, columns=SIZE_COLUMNS)
    found = job.outcomes(job.run((1, 3), (6, 7), (9, 10)))
    assert [(line["place"], line["0.text"]) for line in found] == [(n, f"{n}.txt") for n in (1, 2, 6, 9)]


@pytest.mark.parametrize(("limit", "n_kept"), [(3, 3), (2, 1), (0, 1)])
def test_a_worker_goes_from_shard_to_shard_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, n_kept: int
) -> None:
    monkeypatch.setattr(shard_lines, "KEPT_LINES", limit)
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS)
    other = job.add_shard(12, {"b": b"12", "c": b"123"})
    for ref, names in ((job.ref, ["a"]), (other, ["b", "c"]), (job.ref, ["a"])):
        done = job.worker.run_batch(*job.offer(ref=ref))
        assert done.segment is not None and done.segment.shard == ref.shard
        assert [line["0.text"] for line in job.outcomes(done)] == names
    assert sum(map(len, job.worker._lines._lines.values())) == n_kept


@pytest.mark.parametrize("input", ["path", "bytes"])
def test_the_hash_is_blake2b_128_of_the_very_content_that_f_gets_whatever_its_size(tmp_path: Path, input: str) -> None:
    source = "from pathlib import Path\ndef f(path, data=None):\n    assert type(data) is bytes\n    return {'x': data}"
    if input == "path":
        source = source.replace("assert type(data) is bytes", "data = Path(path).read_bytes()")
    files = {f"{size}": os.urandom(size) for size in (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5)}
    job = Job(tmp_path, source, files, columns=columns_of({"x": b""}), input=input)
    for content, line in zip(files.values(), job.outcomes(job.run()), strict=True):
        assert (line["hash"], line["size"]) == (blake(content), len(content))
        assert line["0.bytes"] == content


def test_an_outcome_has_a_look_although_nobody_had_looked_at_the_file(tmp_path: Path) -> None:
    """What has an outcome must be known for changed when it is there again, or another file."""
    job = Job(tmp_path, SIZE_OF, {"a": b"123"}, columns=SIZE_COLUMNS)
    ref = write_shard_file(job.folders.shards, 3, 1, Entries.listed([("a", UNSEEN, UNSEEN, "")], 1))
    path, worker, died = job.path("a"), job.worker, Failure("WorkerDied", "", "", "")
    done = [worker.record_failure(*job.offer(ref=ref), died, *known) for known in ((), (FileVersion(7, 8),))]
    path.unlink()
    done.append(worker.run_batch(*job.offer(ref=ref, is_last_try=True)))
    os.mkfifo(path)
    done.append(worker.run_batch(*job.offer(ref=ref)))
    lines = [line for one in done for line in job.outcomes(one)]
    assert [line["error_type"] for line in lines] == ["WorkerDied", "WorkerDied", "FileNotFoundError", "OSError"]
    seen = [FileVersion(line["size"], line["mtime_ns"], line["hash"]) for line in lines]
    assert seen == [UNKNOWN_VERSION, FileVersion(7, 8), UNKNOWN_VERSION, FileVersion(0, path.stat().st_mtime_ns)]


def test_a_look_that_nobody_had_is_taken_before_the_failure_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced while it cannot be read: what is recorded must not be the new one's look."""
    job = Job(tmp_path, SIZE_OF, {"a": b"123"}, columns=SIZE_COLUMNS)
    ref = write_shard_file(job.folders.shards, 3, 1, Entries.listed([("a", UNSEEN, UNSEEN, "")], 1))
    sizes: list[int] = []

    def cannot(name: str, listed: Listed) -> reading.FileInUse:
        path = job.source / name
        sizes.append(path.stat().st_size)
        with open(path, "ab") as file:
            file.write(b"x")
        raise MemoryError

    monkeypatch.setattr(job.worker._files, "use", cannot)
    (line,) = job.outcomes(job.worker.run_batch(*job.offer(ref=ref)))
    assert sizes == [3, 4]
    assert (line["size"], line["error_type"]) == (4, "MemoryError")
    assert (job.source / "a").stat().st_size == 5


def test_names_that_are_not_utf_8_or_hold_a_newline_are_files_like_any_other(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9"), "new\nline", "quote'\"", "-dash", "x" * 255]
    source = "def f(path):\n    if path.endswith('\\udce9'): raise ValueError(path)\n    return {'x': len(path)}"
    try:
        job = Job(tmp_path, source, {name: b"" for name in names})
    except OSError:
        pytest.skip("this file system has no such names")
    done = job.run()
    assert [line["is_row"] for line in job.outcomes(done)] == [False, True, True, True, True]
    ((shown, failure),) = done.failures
    assert shown == show_name(names[0]) == r"caf\xe9"
    assert failure.message == f"{job.source}/caf\\udce9"


# Failures


EXCEPTIONS = {
    "value": ('raise ValueError("broke")', "ValueError", "broke"),
    "empty message": ("raise ValueError", "ValueError", ""),
    "exit": ("raise SystemExit(0)", "SystemExit", "0"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    "generator exit": ('raise GeneratorExit("out")', "GeneratorExit", "out"),
    "base": ('raise BaseException("base")', "BaseException", "base"),
    "stop iteration": ("raise StopIteration(1)", "StopIteration", "1"),
    "memory": ('raise MemoryError("no room")', "MemoryError", "no room"),
    "unprintable": ("raise Mute(RuntimeError)", "Mute", "(no message: its __str__ raised RuntimeError)"),
    "unprintable, exits": ("raise Mute(SystemExit)", "Mute", "(no message: its __str__ raised SystemExit)"),
    "no text": ("raise NoText", "NoText", "(no message: its __str__ raised TypeError)"),
    "unpicklable": ("raise Unpicklable(1, 2)", "Unpicklable", "1 and 2"),
    "surrogate": (r'raise ValueError("a\ud800b")', "ValueError", r"a\ud800b"),
    "nul and newline": (r'raise ValueError("a\x00\nb")', "ValueError", "a\x00\nb"),
    "cause": ("cause()", "ValueError", "with a cause"),
    "group": ('raise ExceptionGroup("two", [ValueError("one")])', "ExceptionGroup", "two (1 sub-exception)"),
    "os error": ('open("/nowhere")', "FileNotFoundError", "[Errno 2] No such file or directory: '/nowhere'"),
    "in a library": ('json.loads("2 3")', "JSONDecodeError", "Extra data: line 1 column 3 (char 2)"),
    "deep": ("deeper()", "RecursionError", None),
    "huge": ('raise ValueError("start" + "x" * 10_000_000 + "end")', "ValueError", None),
}
"""What f does, and the type and message of the failure."""
RAISING = """\
import os, json, threading

class Mute(Exception):
    def __str__(self):
        raise self.args[0]("no text")
    __repr__ = __str__

class NoText(Exception):
    def __str__(self):
        return 5

class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.lock = threading.Lock()
    def __reduce__(self):
        raise TypeError("never")

def deeper():
    return deeper()

def cause():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("with a cause") from error

def f(path):
    kind = os.path.basename(path)
"""
RAISING += "".join(f"    if kind == {kind!r}: {statement}\n" for kind, (statement, _, _) in EXCEPTIONS.items())
RAISING += "    return {'x': 1}\n"


def test_every_exception_is_the_failure_of_its_own_file(tmp_path: Path) -> None:
    names = [name for kind in EXCEPTIONS for name in (kind, f"fine {kind}")]
    job = Job(tmp_path, RAISING, {name: name.encode() for name in names})
    done = job.run()
    assert (done.n_done, done.n_failed, done.returned) == (len(EXCEPTIONS), len(EXCEPTIONS), ())
    told = [(path, failure.error_type) for path, failure in done.failures]
    assert told == [(kind, error_type) for kind, (_, error_type, _) in EXCEPTIONS.items()]
    found = dict(zip(names, job.outcomes(done), strict=True))
    for kind, (_, error_type, message) in EXCEPTIONS.items():
        assert found[f"fine {kind}"]["is_row"]
        line = found[kind]
        assert (line["error_type"], message or line["message"]) == (error_type, line["message"])
        # What f saw of the file is known of a failed file, too.
        assert (line["hash"], line["size"]) == (blake(kind.encode()), len(kind.encode()))
        assert line["where"].startswith("userf.py:")
        assert len(line["traceback"]) < 2 * TEXT_LIMIT
    message, trace = found["huge"]["message"], found["huge"]["traceback"]
    assert all(len(text) < TEXT_LIMIT + 100 and "characters left out" in text for text in (message, trace))
    assert message.startswith("startxxx") and message.endswith("xxxend")
    assert trace.startswith("Traceback") and trace.endswith("xxxend\n")


def test_at_most_a_hundred_failures_are_told_and_all_are_recorded(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    raise ValueError(path)", {f"{i:03d}": b"" for i in range(130)})
    done = job.run()
    assert [path for path, _ in done.failures] == [f"{i:03d}" for i in range(100)]
    assert len(job.outcomes(done)) == 130


def test_where_is_the_innermost_line_of_the_user_s_own_code(tmp_path: Path) -> None:
    job = Job(tmp_path, RAISING, {kind: b"" for kind in ("value", "in a library", "cause")})
    value, library, cause = job.outcomes(job.run())
    line = line_of(RAISING, "kind == 'value'")
    assert value["where"] == f"userf.py:{line} in f"
    assert library["where"] == f"userf.py:{line_of(RAISING, 'json.loads')} in f"
    assert cause["where"] == f"userf.py:{line_of(RAISING, 'with a cause')} in cause"
    first, second, *_, last = value["traceback"].splitlines()
    assert first == "Traceback (most recent call last):"
    assert second == f'  File "{job.function_file}", line {line}, in f'
    assert last == "ValueError: broke"
    assert "worker.py" not in value["traceback"]
    assert "json/decoder.py" in library["traceback"] and "KeyError: 'key'" in cause["traceback"]


def test_where_may_be_a_module_beside_the_function(tmp_path: Path) -> None:
    (tmp_path / "userf_helper.py").write_text("def weigh(path):\n\n    return 1 / 0\n")
    job = Job(tmp_path, "import userf_helper\ndef f(path):\n    return userf_helper.weigh(path)", {"a": b""})
    assert job.only_failure().where == "userf_helper.py:3 in weigh"


def test_a_function_of_the_wrong_arity_fails_with_a_message_and_no_place(tmp_path: Path) -> None:
    failure = Job(tmp_path, "def f():\n    return {}", {"a": b""}).only_failure()
    assert (failure.error_type, failure.where) == ("TypeError", "")
    assert "takes 0 positional arguments but 1 was given" in failure.message


def test_an_exception_by_which_ray_ends_the_worker_is_not_f_s_failure(tmp_path: Path) -> None:
    source = """\
def f(path):
    if path.endswith("1"):
        error = SystemExit(0)
        error.ray_terminate_msg = "the raylet is gone"
        raise error
    return {"x": 1}
"""
    job = Job(tmp_path, source, {"0": b"", "1": b"", "2": b""})
    with pytest.raises(SystemExit) as caught:
        job.run()
    assert caught.value.ray_terminate_msg == "the raylet is gone"  # type: ignore[attr-defined]
    assert job.n_segments() == 0
    seen = read_beacon(tmp_path / "workers", 0)
    assert seen is not None and (seen.is_in_file, seen.place) == (True, 1), "the next run knows where it was"


# What is no row


ONE_OR_MANY = "r3po needs one dict a file; for many rows a file: rows: many"

KEYS_DIFFER = "the row's keys differ from the job's columns, which its first row set: "
NO_ROWS = {
    "None": ("NoDict", "f returned a NoneType; r3po needs one dict a file"),
    "[{'x': 1}]": ("NoDict", f"f returned a list; {ONE_OR_MANY}"),
    "'x'": ("NoDict", "f returned a str; r3po needs one dict a file"),
    "(n for n in ())": (
        "NoDict",
        f"f returned a generator; {ONE_OR_MANY}",
    ),
    "{}": ("BadRow", f"{KEYS_DIFFER}missing 'x' (taken with missing_keys: null)"),
    "{'y': 1, 'x': 1}": ("BadRow", f"{KEYS_DIFFER}not a column of this job: 'y' (taken with extra_keys: drop or add)"),
    "{'\\udcff': 1}": (
        "BadRow",
        f"{KEYS_DIFFER}missing 'x'; not a column of this job: '\\udcff' "
        "(taken with missing_keys: null and extra_keys: drop or add)",
    ),
    "{'x': 'text'}": ("BadRow", "column 'x': expected number, found text 'text' (taken with mixed: json)"),
    "{'x': 1 << 64}": ("BadRow", "column 'x': the int 18446744073709551616 does not fit 64 bit"),
    "{'x': object()}": ("BadRow", "column 'x': a value of type object cannot be stored"),
}


def test_what_is_no_row_is_a_failure_that_says_why_and_shifts_no_row_beside_it(tmp_path: Path) -> None:
    returned = [text for n, no_row in enumerate(NO_ROWS) for text in (no_row, f"{{'x': {n}}}")]
    source = f"def f(path):\n    return [{', '.join(f'lambda: {text}' for text in returned)}][int(path[-2:])]()"
    job = Job(tmp_path, source, {f"{n:02}": b"x" * n for n in range(len(returned))})
    found = job.outcomes(job.run())
    assert [(line["place"], line["size"]) for line in found] == [(n, n) for n in range(len(returned))]
    failures = [Failure(*(line[name] for name in Failure._fields)) for line in found[::2]]
    assert failures == [Failure(error_type, message, "", "") for error_type, message in NO_ROWS.values()]
    assert [(line["is_row"], line["0.int"]) for line in found[1::2]] == [(True, n) for n in range(len(NO_ROWS))]


@pytest.mark.parametrize(
    ("first", "returned", "error_type"),
    [
        ("1", "Row(x=1)", "ZeroDivisionError"),
        ("1", "{'x': Odd(1)}", "BadRow"),
        ("1", "{'x': 1 << 64}", "BadRow"),
        ("datetime.now(timezone.utc)", "{'x': datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))}", "BadRow"),
    ],
)
def test_what_raises_or_does_not_fit_when_it_is_looked_at_fails_its_own_file_only(
    tmp_path: Path, first: str, returned: str, error_type: str
) -> None:
    source = f"""\
from datetime import datetime, timedelta, timezone

class Row(dict):
    def keys(self):
        raise ZeroDivisionError("no keys")
    __iter__ = keys

class Odd(int):
    def __int__(self):
        raise ValueError("not today")

def f(path):
    return {returned} if path.endswith("1") else {{"x": {first}}}
"""
    job = Job(tmp_path, source, {"0": b"", "1": b"", "2": b""})
    job.columns = columns_of(job.module.f("0"))
    assert [line["error_type"] for line in job.outcomes(job.run())] == [None, error_type, None]


def test_rows_before_the_columns_are_known_are_failures(tmp_path: Path) -> None:
    assert Job(tmp_path, RETURNS, {"a": b""}, columns=None).only_failure().error_type == "BadRow"


# Files that are not as the manifest says


def test_a_file_that_is_deleted_before_or_by_f_is_a_failure(tmp_path: Path) -> None:
    source = SIZE_OF.replace("    with", "    if 'removed' in path: os.remove(path); open(path)\n    with")
    job = Job(tmp_path, source, {"a": b"1", "b": b"2", "removed": b"3", "z": b"4"}, columns=SIZE_COLUMNS)
    entry = os.stat(job.path("b"))
    job.path("b").unlink()
    found = job.run_twice()
    assert [(line["is_row"], line["error_type"]) for line in found[::3]] == [(True, None)] * 2
    assert [(line["is_row"], line["error_type"]) for line in found[1:3]] == [(False, "FileNotFoundError")] * 2
    assert (found[1]["where"], found[1]["hash"]) == ("", None)
    assert found[1]["message"] == f"[Errno 2] No such file or directory: '{job.path('b')}'"
    # Nothing was seen of it, so the manifest's word stands.
    assert (found[1]["size"], found[1]["mtime_ns"]) == (1, entry.st_mtime_ns)


@pytest.fixture
def deadline() -> Iterator[None]:
    """End a test that hangs: opening a FIFO waits for its writer."""

    def ring(*_: object) -> None:
        pytest.fail("the worker hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


BECOME: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link loop": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to(os.devnull),
}


@pytest.mark.parametrize(("input", "hash"), [("path", "content"), ("bytes", "content"), ("path", "stat")])
@pytest.mark.usefixtures("deadline")
def test_what_is_no_regular_file_any_more_is_a_failure_and_f_is_not_called(
    tmp_path: Path, input: str, hash: str
) -> None:
    """If f opened the FIFO, the worker would hang."""
    job = Job(tmp_path, RETURNS, {**dict.fromkeys(BECOME, b"1"), "still a file": b"2"}, input=input, hash=hash)
    for name, become in BECOME.items():
        job.path(name).unlink()
        become(job.path(name))
    *found, last = job.run_twice()
    assert last["is_row"] and [str(job.path("still a file"))] == job.module.CALLS
    for name, line in zip(BECOME, found, strict=True):
        assert line["error_type"] == ("FileNotFoundError" if name == "a dangling link" else "OSError")
        assert str(job.path(name)) in line["message"]


def test_a_file_that_may_not_be_read_is_a_failure(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS)
    job.path("a").chmod(0)
    if os.access(job.path("a"), os.R_OK):
        pytest.skip("this user may read everything")
    (line,) = job.run_twice()
    assert (line["is_row"], line["error_type"]) == (False, "PermissionError")


@pytest.mark.parametrize("hash", ["content", "stat"])
def test_a_file_that_is_too_large_for_memory_is_a_failure(
    tmp_path: Path, hash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_whole = reading._read_whole

    def read(descriptor: int, size: int) -> bytes:
        if size == 5:
            raise MemoryError
        return read_whole(descriptor, size)

    monkeypatch.setattr(reading, "_read_whole", read)
    job = Job(tmp_path, RETURNS, {"a": b"1", "large": b"12345", "z": b"22"}, input="bytes", hash=hash)
    done = job.run()
    found = job.outcomes(done)
    assert (done.deferred, [line["is_row"] for line in found]) == ((), [True, False, True])
    assert (found[1]["error_type"], found[1]["size"], found[1]["hash"]) == ("MemoryError", 5, None)
    assert [str(job.path("a")), str(job.path("z"))] == job.module.CALLS


@pytest.mark.parametrize("hash", ["content", "stat"])
def test_a_file_that_changed_since_the_build_is_read_as_it_is_now(tmp_path: Path, hash: str) -> None:
    source = SIZE_OF.replace("def f(path):", "CALLS = []\ndef f(path):\n    CALLS.append(path)")
    job = Job(tmp_path, source, {"a": b"1"}, columns=SIZE_COLUMNS, hash=hash)
    job.path("a").write_bytes(b"longer now")
    line = job.only_outcome()
    assert (line["1.int"], line["size"]) == (10, 10)
    assert line["hash"] == (blake(b"longer now") if hash == "content" else None)
    assert line["mtime_ns"] == os.stat(job.path("a")).st_mtime_ns
    assert len(job.module.CALLS) == 1


CHANGING = """\
import os

TIMES = {times}
CALLS = []

def change(path):
    {change}

def f(path, data=None):
    CALLS.append(path)
    with open(path, "rb") as file:
        content = file.read()
    if len(CALLS) <= TIMES:
        change(path)
    if {fails}:
        raise ValueError("broke")
    return {{"x": len(content) if data is None else len(data)}}
"""
APPEND = "file = open(path, 'ab'); file.write(b'+'); file.close()"
TOUCH = "now = os.stat(path).st_mtime_ns + 5_000_000; os.utime(path, ns=(now, now))"
GROW_UNSEEN = f"old = os.stat(path).st_mtime_ns; {APPEND}; os.utime(path, ns=(old, old))"
REPLACE = "os.rename(path, path + '.old'); file = open(path, 'wb'); file.write(b'other'); file.close()"


def changing(times: int, change: str = APPEND, fails: str = "False") -> str:
    return CHANGING.format(times=times, change=change, fails=fails)


@pytest.mark.parametrize("hash", ["content", "stat"])
@pytest.mark.parametrize("input", ["path", "bytes"])
@pytest.mark.parametrize(
    ("change", "content"),
    [(APPEND, b"123+"), (GROW_UNSEEN, b"123+"), (TOUCH, b"123"), (REPLACE, b"other")],
    ids=["grow", "grow, same mtime", "touch", "replace"],
)
def test_a_file_that_changes_during_f_is_called_again_and_its_row_is_of_the_last_content(
    tmp_path: Path, change: str, content: bytes, input: str, hash: str
) -> None:
    job = Job(tmp_path, changing(1, change), {"a": b"123"}, input=input, hash=hash)
    line = job.only_outcome()
    assert len(job.module.CALLS) == 2
    assert (line["is_row"], line["0.int"], line["size"]) == (True, len(content), len(content))
    assert line["mtime_ns"] == os.stat(job.path("a")).st_mtime_ns
    assert line["hash"] == (blake(content) if hash == "content" else None)


@pytest.mark.parametrize(
    ("times", "fails", "outcome"),
    [
        (1, "True", ("ValueError", "broke", None)),
        (1, "len(CALLS) == 2", ("ValueError", "broke", None)),
        (1, "len(CALLS) == 1", (None, None, 4)),
        (2, "False", ("FileChanged", "the file changed while it was read, twice", None)),
    ],
)
def test_what_counts_of_a_file_that_changed_is_its_second_call_unless_it_changed_again(
    tmp_path: Path, times: int, fails: str, outcome: tuple[str | None, str | None, int | None]
) -> None:
    job = Job(tmp_path, changing(times, fails=fails), {"a": b"123"})
    line = job.only_outcome()
    assert (line["error_type"], line["message"], line.get("0.int")) == outcome
    assert (line["size"], line["hash"], len(job.module.CALLS)) == (4, blake(b"123+"), 2)


# hash: stat


class Opened:
    """Notes which files this process opens; one hook a process, since Python cannot take it away again."""

    names: list[str] | None = None

    @classmethod
    def hear(cls, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and cls.names is not None:
            cls.names.append(str(args[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    if not hasattr(Opened, "is_installed"):
        sys.addaudithook(Opened.hear)
        Opened.is_installed = True  # type: ignore[attr-defined]
    Opened.names = names = []
    yield names
    Opened.names = None


@pytest.mark.parametrize(("input", "hash"), [("path", "stat"), ("bytes", "stat"), ("path", "content")])
def test_each_file_is_opened_once_and_with_hash_stat_none_is_unless_f_wants_its_content(
    tmp_path: Path, opened: list[str], input: str, hash: str
) -> None:
    source = "def f(path, data=None):\n    return {'x': len(data or '')}"
    job = Job(tmp_path, source, {"a": b"1", "b": b"22"}, hash=hash, input=input)
    paths = [job.path(name) for name in "ab"]
    opened.clear()
    found = job.outcomes(job.run())
    assert opened  # the segment, at least
    is_opened = (input, hash) != ("path", "stat")
    assert [name for name in opened if name.startswith(str(job.source))] == [str(p) for p in paths if is_opened]
    assert [line["hash"] for line in found] == [blake(p.read_bytes()) if hash == "content" else None for p in paths]
    assert [(line["size"], line["mtime_ns"]) for line in found] == [
        (n, os.stat(paths[n - 1]).st_mtime_ns) for n in (1, 2)
    ]
    assert [line["0.int"] for line in found] == ([1, 2] if input == "bytes" else [0, 0])


# The end of a batch

SLEEPY = "import time\ndef f(path):\n    time.sleep({seconds})\n    {more}\n    return {{'x': 1}}"


def test_a_batch_ends_after_batch_seconds_and_what_it_gives_back_can_be_offered_again(tmp_path: Path) -> None:
    source = SLEEPY.format(seconds=0.05, more="")
    job = Job(tmp_path, source, {f"{i:02d}": b"" for i in range(14)}, batch_seconds=0.1)
    done = job.run((0, 5), (7, 14))
    places = [line["place"] for line in job.outcomes(done)]
    assert 1 <= len(places) <= 4  # 0.1 s, and up to 0.1 s until the next look at the clock
    assert done.seconds >= 0.1
    assert done.returned == ((len(places), 5), (7, 14))
    while done.returned:
        done = job.run(*done.returned)
        places += [line["place"] for line in job.outcomes(done)]
    assert places == [*range(5), *range(7, 14)]


def test_a_slow_file_is_finished_and_the_next_one_not_begun(tmp_path: Path) -> None:
    job = Job(tmp_path, SLEEPY.format(seconds=0.15, more=""), {"a": b"", "b": b"", "c": b""}, batch_seconds=0.01)
    done = job.run()
    assert (done.n_done, done.returned) == (1, ((1, 3),))
    assert [line["seconds"] >= 0.15 for line in job.outcomes(done)] == [True]


@pytest.mark.parametrize("is_asked_otherwise", [False, True])
def test_a_stop_ends_a_batch_after_the_file_at_hand(tmp_path: Path, is_asked_otherwise: bool) -> None:
    """It is a file; an engine in the driver's own process may ask in its own way."""
    more = f"if path.endswith('2'): open({str(tmp_path / 'stop')!r}, 'w').close()"
    job = Job(tmp_path, SLEEPY.format(seconds=0.11, more=more), {str(i): b"" for i in range(6)})
    if is_asked_otherwise:
        answers = iter([False, False, True])
        job.worker = Worker(job.setup, should_stop=lambda: next(answers))
        job.worker.load()
    done = job.run()
    n_done = 2 if is_asked_otherwise else 3
    assert (done.n_done, done.returned) == (n_done, ((n_done, 6),))
    assert [line["place"] for line in job.outcomes(done)] == list(range(n_done))


def test_a_stop_before_the_first_file_records_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path, RETURNS, {str(i): b"" for i in range(6)})
    job.stop_file.touch()
    nothing_done = BatchDone(None, 0, 0, ((0, 2), (4, 6)), 0.0)
    assert job.run((0, 2), (4, 6)) == nothing_done
    probed = job.worker.probe(*job.offer((0, 2), (4, 6)))
    assert (probed.columns, probed.stopped, probed.n_failed) == (None, True, 0)
    assert job.worker.record_probe(None) == nothing_done
    assert (job.n_segments(), job.module.CALLS) == (0, [])


@pytest.mark.parametrize(
    ("body", "first"),
    [
        ("return {'x': 'x' * 1000}", ""),
        ("return {'x': b'x' * 1000}", b""),
        ("return {'x': ['x' * 1000]}", []),
        ("return {'x': {'k': 'x' * 1000}}", {}),
        ("return {'x': 'x' * 1000}", None),
        ("raise ValueError('x' * 1000)", ""),
    ],
)
def test_a_batch_ends_when_its_rows_or_failures_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, first: Any
) -> None:
    monkeypatch.setattr(worker_module, "BATCH_BYTES", 5000)
    files = {f"{i:02d}": b"" for i in range(20)}
    done = Job(tmp_path, f"def f(path):\n    {body}", files, columns=columns_of({"x": first})).run()
    n_done = 3 if done.n_failed else 5  # a failure has its message in its traceback, too
    assert (done.n_done + done.n_failed, done.returned) == (n_done, ((n_done, 20),))


# The probe


def probe_source(*returned: str) -> str:
    """Return a function whose file number i gives what returned[i] says."""
    cases = "".join(f"    if path.endswith({str(i)!r}): {text}\n" for i, text in enumerate(returned))
    return f"CALLS = []\ndef f(path):\n    CALLS.append(path[-1])\n{cases}"


def probe_job(folder: Path, *returned: str) -> Job:
    return Job(folder, probe_source(*returned), {str(i): b"" for i in range(len(returned))}, columns=None)


def test_the_first_row_that_can_be_stored_ends_the_probe_and_sets_the_columns(tmp_path: Path) -> None:
    no_rows = ["raise ValueError('a')", "return None", "return {'x': 1 << 70, 'y': 1}", "return {'x': '\\ud800'}"]
    job = probe_job(tmp_path, *no_rows, "return {'z': 1, 'a': None}", "return {'z': 2}")
    probed = job.worker.probe(*job.offer())
    assert probed.columns == columns_of({"z": 1, "a": None})
    assert (probed.first_row_path, probed.n_failed, probed.stopped) == ("4", 4, False)
    assert probed.not_a_dict == ("1", "NoneType", "None")
    assert job.module.CALLS == ["0", "1", "2", "3", "4"]
    assert job.n_segments() == 0  # nothing before the columns are durable

    done = job.worker.record_probe(probed.columns)
    assert (done.n_done, done.n_failed, done.returned) == (1, 4, ((5, 6),))
    found = job.outcomes(done)
    assert [line["place"] for line in found] == list(range(5))
    assert [line["error_type"] for line in found] == ["ValueError", "NoDict", "BadRow", "BadRow", None]
    assert (found[4]["is_row"], found[4]["0.int"]) == (True, 1)
    assert len(job.module.CALLS) == 5


def test_a_probe_without_a_row_records_failures_only(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "raise ValueError('a')", "return {}", "return {1: 2}", "return {'\\ud800': 1}")
    probed = job.worker.probe(*job.offer())
    assert (probed.columns, probed.n_failed, probed.not_a_dict, probed.stopped) == (None, 4, None, False)
    done = job.worker.record_probe(None)
    assert (done.n_done, done.n_failed, done.returned) == (0, 4, ())
    assert [line["error_type"] for line in job.outcomes(done)] == ["ValueError", "BadRow", "BadRow", "BadRow"]


def test_the_first_thing_that_is_no_dict_is_told_in_short(tmp_path: Path) -> None:
    source = """\
class Thing:
    def __repr__(self):
        raise RuntimeError

def f(path):
    return Thing() if path.endswith("0") else ["x" * 100_000]
"""
    job = Job(tmp_path, source, {"0": b"", "1": b""}, columns=None)
    assert job.worker.probe(*job.offer()).not_a_dict == ("0", "Thing", "<a Thing>")
    path, type_name, shown = job.worker.probe(*job.offer((1, 2))).not_a_dict or ("", "", "")
    assert (path, type_name) == ("1", "list")
    assert shown.startswith("['xxx") and len(shown) < 250


def test_a_probe_that_is_stopped_on_its_way_keeps_what_it_did(tmp_path: Path) -> None:
    touch = f"open({str(tmp_path / 'stop')!r}, 'w').close(); raise ValueError"
    job = probe_job(tmp_path, "return 5", touch, "return {'a': 3}", "return {'a': 4}")
    probed = job.worker.probe(*job.offer((0, 2), (3, 4)))
    assert (probed.columns, probed.stopped, probed.n_failed) == (None, True, 2)
    done = job.worker.record_probe(None)
    assert (done.n_failed, done.returned) == (2, ((3, 4),))


# The environment


TROUBLED = """\
import errno, os
BAD = {bad}
CALLS = []

def f(path):
    n = int(os.path.basename(path))
    CALLS.append(n)
    if n in BAD:
        number = getattr(errno, BAD[n])
        raise OSError(number, os.strerror(number), path)
    return {{"x": n}}
"""


def troubled_job(folder: Path, n_files: int, bad: Iterable[int], others: dict[int, str] | None = None) -> Job:
    """Return a job whose bad files fail by the environment, and others by the errors that are named."""
    files = {f"{n:03d}": b"" for n in range(n_files)}
    return Job(folder, TROUBLED.format(bad={**dict.fromkeys(bad, "EIO"), **(others or {})}), files)


def test_what_fails_by_its_environment_is_put_off_and_nothing_of_it_recorded(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 6, [1], {4: "ETIMEDOUT", 5: "ENOENT"})
    done = job.run()
    assert (done.n_done, done.n_failed) == (3, 1), "what f itself does not find is its failure at once"
    assert [(path, failure.error_type) for path, failure in done.failures] == [("005", "FileNotFoundError")]
    assert (done.deferred, done.n_deferred_first, done.n_deferred_last, done.returned) == ((1, 4), 0, 0, ())
    found = [(line["place"], line["0.int"], line["hash"]) for line in job.outcomes(done)]
    assert found == [(n, n if n < 5 else None, blake(b"")) for n in (0, 2, 3, 5)]
    assert done.deferral is not None
    path, failure = done.deferral
    assert (path, failure.error_type) == ("004", "TimeoutError")


def test_a_last_try_records_what_fails_by_its_environment_and_a_row_like_any_other(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 6, [1, 4])
    assert job.run().deferred == (1, 4)
    done = job.run((1, 2), (4, 6), is_last_try=True)
    assert (done.n_done, done.n_failed, done.deferred, done.deferral) == (1, 2, (), None)
    assert [line["error_type"] for line in job.outcomes(done)] == ["OSError", "OSError", None]
    job.module.BAD.clear()
    found = job.outcomes(job.run((1, 2), (4, 5), is_last_try=True))
    assert [(line["place"], line["is_row"], line["tries"]) for line in found] == [(1, True, 1), (4, True, 1)]


@pytest.mark.parametrize(
    ("places", "bad", "own", "n_outcomes", "n_deferred", "n_first", "n_last", "returned"),
    [
        ([(0, 120)], range(10, 120), {}, 10, 50, 0, 50, ((60, 120),)),
        ([(0, 80)], range(80), {}, 0, 50, 50, 50, ((50, 80),)),
        ([(0, 1), (60, 109), (5, 6)], range(10, 120), {}, 2, 49, 0, 0, ()),
        ([(0, 120)], [n for n in range(120) if n % 40], {}, 3, 117, 0, 39, ()),
        ([(0, 90)], range(90), {45: "ENOENT"}, 1, 89, 45, 44, ()),
    ],
    ids=["fifty", "fifty from the first file on", "49", "rows between", "a failure of f's own between"],
)
def test_fifty_in_a_row_end_the_batch_and_an_outcome_between_begins_the_count_anew(
    tmp_path: Path,
    places: list[Span],
    bad: Iterable[int],
    own: dict[int, str],
    n_outcomes: int,
    n_deferred: int,
    n_first: int,
    n_last: int,
    returned: tuple[Span, ...],
) -> None:
    job = troubled_job(tmp_path, 120, bad, own)
    done = job.run(*places)
    assert (done.n_done, done.n_failed) == (n_outcomes - len(own), len(own))
    assert (done.segment is None, job.n_segments()) == ((True, 0) if not n_outcomes else (False, 1))
    assert (len(done.deferred), done.n_deferred_first, done.n_deferred_last) == (n_deferred, n_first, n_last)
    assert done.returned == returned
    assert len(job.module.CALLS) == n_outcomes + n_deferred
    assert set(done.deferred) == set(job.module.CALLS) & set(bad) - set(own)


def test_a_disk_that_went_away_ends_the_batch_without_a_failure(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {f"{n:03d}": b"x" for n in range(80)}, columns=SIZE_COLUMNS)
    job.source.rename(tmp_path / "deleted")
    done = job.run()
    assert (done.n_failed, len(done.deferred), done.returned) == (0, 50, ((50, 80),))


def test_a_probe_puts_off_what_fails_by_its_environment_and_goes_on(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 5, [0, 1])
    probed = job.worker.probe(*job.offer())
    assert (probed.columns, probed.first_row_path, probed.n_failed) == (ONE, "002", 0)
    done = job.worker.record_probe(probed.columns)
    assert (done.n_done, done.deferred, done.n_deferred_last, done.returned) == (1, (0, 1), 0, ((3, 5),))
    assert done.n_deferred_first == 2


# The time limit

LATE = """\
import os, time

def f(path):
    if "late" in path:
        wait(path)
    return {"x": 1}

def wait(path):
    while True:
        time.sleep(0.01)
"""


def test_a_file_that_takes_too_long_has_failed_and_its_worker_is_spent(tmp_path: Path) -> None:
    job = Job(tmp_path, LATE, {"a": b"", "late": b"12", "z": b""}, timeout_s=0.1)
    done = job.run()
    assert (done.n_done, done.n_failed, done.returned, done.is_spent) == (1, 1, ((2, 3),), True)
    row, late = job.outcomes(done)
    assert (row["is_row"], late["error_type"], late["size"]) == (True, "Timeout", 2)
    assert late["message"] == "f took longer than timeout_seconds: 0.1"
    assert late["where"] == f"userf.py:{line_of(LATE, '        time.sleep')} in wait"
    assert late["traceback"].startswith(f'  File "{job.function_file}", line 5, in f\n')
    assert "timelimit.py" not in late["traceback"] and "TimedOut" not in late["traceback"]
    assert 0.1 <= late["seconds"] < 10


def test_a_batch_in_time_is_not_spent_though_f_has_a_time_out_of_its_own(tmp_path: Path) -> None:
    source = LATE.replace("def f(path):\n", "def f(path):\n    if 'own' in path: raise TimeoutError('mine')\n")
    done = Job(tmp_path, source, {"a": b"", "own": b"", "z": b""}, timeout_s=30.0).run()
    assert (done.n_done, done.is_spent, done.failures[0][1].error_type) == (2, False, "TimeoutError")


@pytest.mark.parametrize("change", ["os.unlink(path)", APPEND], ids=["removed", "changed"])
def test_f_is_not_called_again_once_it_took_too_long(tmp_path: Path, change: str) -> None:
    source = LATE.replace("def f(path):\n", f"CALLS = []\n\ndef f(path):\n    CALLS.append(path)\n    {change}\n")
    job = Job(tmp_path, source, {"late": b"12", "z": b""}, timeout_s=0.1)
    done = job.run()
    assert (done.n_failed, done.deferred, done.returned, done.is_spent) == (1, (), ((1, 2),), True)
    assert done.failures[0][1].error_type == "Timeout"
    assert [str(job.path("late"))] == job.module.CALLS


def test_a_worker_is_spent_although_nothing_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = EnvironmentalFailure("OSError", "EIO", "", "")
    monkeypatch.setattr(r3po.worker.call, "timeout_failure", lambda *_: disk)
    done = Job(tmp_path, LATE, {"late": b"12", "z": b""}, timeout_s=0.1).run()
    assert (done.segment, done.deferred, done.returned, done.is_spent) == (None, (0,), ((1, 2),), True)


def test_a_probe_ends_at_a_file_that_takes_too_long(tmp_path: Path) -> None:
    job = Job(tmp_path, LATE, {"a late": b"", "b": b""}, timeout_s=0.1, columns=None)
    probed = job.worker.probe(*job.offer())
    assert (probed.columns, probed.n_failed, probed.not_a_dict, probed.stopped) == (None, 1, None, False)
    done = job.worker.record_probe(None)
    assert (done.n_failed, done.returned, done.is_spent) == (1, ((1, 2),), True)


# The beacon

SPY = """\
from pathlib import Path
from r3po.worker.beacon import read_beacon

def f(path):
    seen = read_beacon(Path({folder!r}), 0)
    return {{"x": f"{{seen.phase.name}} {{seen.shard}} {{seen.place}}"}}
"""


@pytest.mark.parametrize(("timeout_s", "phase"), [(None, "READING"), (30.0, "CALLING")])
def test_the_beacon_says_which_file_f_is_in(tmp_path: Path, timeout_s: float | None, phase: str) -> None:
    source = SPY.format(folder=str(tmp_path / "workers"))
    job = Job(tmp_path, source, {"a": b"", "b": b""}, columns=columns_of({"x": ""}), timeout_s=timeout_s)
    assert [line["0.text"] for line in job.outcomes(job.run())] == [f"{phase} 3 0", f"{phase} 3 1"]
    seen = read_beacon(tmp_path / "workers", 0)
    assert seen is not None and seen.phase is Phase.IDLE


@pytest.mark.parametrize("body", ["return {'x': 1}", "raise ValueError"])
def test_after_a_call_under_a_time_limit_the_file_is_no_longer_in_f(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver would end the worker over what comes after the call."""
    job = Job(tmp_path, f"def f(path):\n    {body}", {"a": b""}, timeout_s=30.0)
    phases, still_holds = [], reading.FileInUse.still_holds

    def spy(file: reading.FileInUse) -> bool:
        seen = read_beacon(tmp_path / "workers", 0)
        assert seen is not None
        phases.append((seen.phase, seen.shard, seen.place))
        return still_holds(file)

    monkeypatch.setattr(reading.FileInUse, "still_holds", spy)
    job.run()
    assert phases == [(Phase.READING, 3, 0)]


def test_after_an_error_and_a_close_nothing_is_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = probe_job(tmp_path, "return {'a': 1}")
    monkeypatch.setattr(job.worker._lines, "read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.run()
    job.worker.close()
    seen = read_beacon(tmp_path / "workers", 0)
    assert seen is not None and seen.phase is Phase.IDLE


# Charges


def test_a_charge_records_the_failure_without_calling_f(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "return {'x': 1}", "return {'x': 2}")
    mtime_ns = os.stat(job.path("1")).st_mtime_ns
    job.path("1").write_bytes(b"new")
    died = Failure("WorkerDied", "SIGSEGV: the process died in this file, alone, twice", "f.py:3 in f", "a stack")
    done = job.worker.record_failure(*job.offer((1, 2)), died)
    assert (done.n_done, done.n_failed, done.returned, done.failures) == (0, 1, (), (("1", died),))
    (line,) = job.outcomes(done)
    assert (line["place"], line["size"], line["hash"], line["racy"]) == (1, 0, None, False)
    assert line["mtime_ns"] == mtime_ns, "as the manifest has it: what killed may be the content of before"
    assert Failure(*(line[name] for name in Failure._fields)) == died
    assert job.module.CALLS == []


@pytest.mark.parametrize("hash", ["content", "stat"])
@pytest.mark.parametrize("input", ["path", "bytes"])
def test_a_file_that_is_charged_is_neither_opened_nor_looked_at(
    tmp_path: Path, input: str, hash: str, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read it may be what ended its worker; it may be gone, or become something that hangs."""
    job = Job(tmp_path, SIZE_OF, {"a": b"1", "b": b"22"}, columns=SIZE_COLUMNS, input=input, hash=hash)
    phases: list[Phase] = []
    monkeypatch.setattr(job.worker.beacon, "mark", lambda phase, *_: phases.append(phase))
    stat: Callable[..., os.stat_result] = os.stat
    looked_at: list[str] = []
    monkeypatch.setattr(os, "stat", lambda path, **how: (looked_at.append(os.fsdecode(path)), stat(path, **how))[1])
    opened.clear()
    done = job.worker.record_failure(*job.offer((1, 2)), Failure("WorkerDied", "SIGBUS", "", ""))
    assert not any(name.startswith(str(job.source)) for name in looked_at)
    assert opened and not any(name.startswith(str(job.source)) for name in opened)
    assert not {Phase.READING, Phase.CALLING} & set(phases), "nor is this worker in it"
    assert (done.n_failed, done.deferred) == (1, ())
    assert [(line["size"], line["hash"]) for line in job.outcomes(done)] == [(2, None)]


# What f does to its process


def test_a_child_that_f_forked_and_that_returns_leaves_the_outcome_to_its_parent(tmp_path: Path) -> None:
    source = """\
import os

def f(path):
    child = os.fork()
    if not child:
        if "raises" in path:
            raise ValueError("in the child")
        return {"x": 2}
    return {"x": os.waitpid(child, 0)[1]}
"""
    job = Job(tmp_path, source, {"a": b"", "raises": b""})
    parent = os.getpid()
    done = job.run()
    assert os.getpid() == parent, "a child came out of f"
    assert [line["0.int"] for line in job.outcomes(done)] == [0, 0]
    assert job.n_segments() == 1


# Around the batch


def test_a_function_that_cannot_be_imported_is_said_by_load(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    return {}", {"a": b""})
    del sys.modules["userf"]
    job.function_file.write_text("raise OSError('at import')")
    with pytest.raises(FunctionError, match=r"userf\.py raised OSError"):
        Worker(job.setup).load()


def test_a_shard_file_that_is_not_the_manifest_s_ends_the_batch_before_f(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "return {'a': 1}")
    path = job.folders.shards / job.ref.file.name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DamagedStateError, match="digest"):
        job.run()
    assert job.module.CALLS == []


def test_a_disk_that_refuses_the_segment_is_no_failure_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS)
    with monkeypatch.context() as patch:
        patch.setattr("r3po.storage.durable._fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            job.run()
    assert job.n_segments() == 0
    assert job.run().n_done == 1  # the worker is as good as before


def test_what_f_does_to_its_process_does_not_reach_the_segment(tmp_path: Path) -> None:
    source = "import os\ndef f(path):\n    os.chdir('/')\n    os.umask(0o777)\n    return {'x': os.path.getsize(path)}"
    folder, umask = os.getcwd(), os.umask(0o022)
    try:
        job = Job(tmp_path, source, {"a": b"123", "b": b"1"})
        done = [job.run((0, 1)), job.run((1, 2))]
    finally:
        os.chdir(folder)
        os.umask(umask)
    assert [line["0.int"] for one in done for line in job.outcomes(one)] == [3, 1]
    made = list(job.folders.segments.rglob("*"))
    assert [path.stat().st_mode & 0o777 for path in made if path.is_file()] == [0o644, 0o644]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o755}, "their folder, too"


def test_a_worker_stages_what_it_made(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"b": b"22", "a": b"1"}, columns=SIZE_COLUMNS)
    segments = [done.segment for done in (job.run((1, 2)), job.run((0, 1)))]
    order = StageOrder(
        folders=job.folders,
        job_id=JOB_ID,
        job_name="sizes",
        version="0.3.0",
        ref=job.ref,
        build=4,
        attempt="s1",
        previous=None,
        segments=tuple(segment for segment in segments if segment),
        rules=CountingRules(0, 0),
        columns=SIZE_COLUMNS,
        settings={"csv": True, "parquet": False},
        schema=None,
    )
    commit = job.worker.stage(order).commit
    assert commit is not None
    part = commit.parts[0].staged
    assert part is not None
    assert (job.folders.output.staging / part.name).read_bytes() == b'name,size\n"b",2\n"a",1\n'
