"""What happens inside a worker: real files, a real function file, real segments."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import r3po.source.read as reading
import r3po.worker.call
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
from r3po.worker.messages import BatchDone, ShardContext, WorkerSetup
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
SIZE_COLUMNS = columns_of({"name": "x", "size": 1})
ONE = columns_of({"x": 1})


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
    """A source folder, a function file and one shard, which lists the files in the order of `files`."""

    def __init__(
        self,
        folder: Path,
        source: str,
        files: dict[str, bytes],
        *,
        columns: Columns | None = ONE,
        input: str = "path",
        hash: str = "content",
        batch_seconds: float = 30.0,
        age_s: int = 1000,
        timeout_s: float | None = None,
    ) -> None:
        self.source = folder / "source"
        self.columns = columns
        self.folders = JobFolders(folder / "work", folder / "out")
        self.folders.make()
        self.stop_file = folder / "stop"
        self.function_file = folder / "userf.py"
        self.function_file.write_text(source, encoding="utf-8")
        self.ref = self.add_shard(3, files, age_s=age_s)
        self.setup = WorkerSetup(
            folders=self.folders,
            source_path=str(self.source),
            function=FunctionSpec("userf.py:f", "file", str(self.function_file), "f", (str(folder),), FINGERPRINT),
            input=input,
            hash=hash,
            batch_seconds=batch_seconds,
            stop_file=self.stop_file,
            workers_folder=folder / "workers",
            timeout_s=timeout_s,
        )
        self.worker = Worker(self.setup)
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
        return self.worker.run_batch(*self.offer(*places, is_last_try=is_last_try))

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
        table = read_segment(self.folders.segments, done.segment)
        assert table is not None
        found: list[dict[str, Any]] = table.to_pylist()
        assert (done.n_rows, done.n_failed) == (done.segment.n_rows, done.segment.n_failed)
        assert done.n_failed == sum(not line["is_row"] for line in found)
        assert done.n_rows + done.n_failed == len(found)
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


def blake(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def line_of(source: str, text: str) -> int:
    """Return the number of the line of `source` that holds `text`."""
    (number,) = [i for i, line in enumerate(source.splitlines(), 1) if text in line]
    return number


# Rows


def test_rows_are_durable_with_what_f_saw_of_each_file(tmp_path: Path) -> None:
    files = {"b.txt": b"12345", "a/c d.txt": b"", "é🍐.txt": b"x" * 70_000}
    job = Job(tmp_path, SIZE_OF, files, columns=SIZE_COLUMNS)
    done = job.run()
    assert (done.n_rows, done.n_failed, done.returned, done.failures) == (3, 0, (), ())
    assert done.seconds > 0
    segment = done.segment
    assert segment == Segment(3, 4, JOB_ID[:8], "w1", 3, 0, segment.digest if segment else "")
    for place, ((name, content), line) in enumerate(zip(files.items(), job.outcomes(done), strict=True)):
        assert (line["place"], line["is_row"], line["build"], line["attempt"]) == (place, True, 4, "w1")
        assert (line["fingerprint"], line["tries"], line["racy"]) == (FINGERPRINT, 1, False)
        assert (line["0.text"], line["1.int"]) == (os.path.basename(name), len(content))
        assert (line["size"], line["hash"]) == (len(content), blake(content))
        assert line["mtime_ns"] == os.stat(job.path(name)).st_mtime_ns
        assert 0 <= line["seconds"] < 10


def test_f_gets_the_absolute_path_as_text(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    return {'x': path}", {"sub/a b.txt": b""}, columns=columns_of({"x": ""}))
    for source_path in (str(job.source), f"{job.source}/"):
        job.worker = Worker(WorkerSetup(**{**fields_of(job.setup), "source_path": source_path}))
        job.worker.load()
        assert job.only_outcome()["0.text"] == f"{job.source}/sub/a b.txt"


def fields_of(setup: WorkerSetup) -> dict[str, Any]:
    return {name: getattr(setup, name) for name in setup.__dataclass_fields__}


def test_only_the_places_of_the_offer_are_done(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {f"{i}.txt": b"x" * i for i in range(10)}, columns=SIZE_COLUMNS)
    found = job.outcomes(job.run((1, 3), (6, 7), (9, 10)))
    assert [(line["place"], line["0.text"]) for line in found] == [
        (1, "1.txt"),
        (2, "2.txt"),
        (6, "6.txt"),
        (9, "9.txt"),
    ]


@pytest.mark.parametrize(("limit", "n_kept"), [(3, 3), (2, 1), (0, 1)])
def test_a_worker_goes_from_shard_to_shard_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, n_kept: int
) -> None:
    monkeypatch.setattr(worker_module, "KEPT_LINES", limit)
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS)
    other = job.add_shard(12, {"b": b"12", "c": b"123"})
    for ref, names in ((job.ref, ["a"]), (other, ["b", "c"]), (job.ref, ["a"])):
        done = job.worker.run_batch(*job.offer(ref=ref))
        assert done.segment is not None and done.segment.shard == ref.shard
        assert [line["0.text"] for line in job.outcomes(done)] == names
    assert sum(map(len, job.worker._lines.values())) == n_kept


def test_with_input_bytes_f_gets_the_very_content_that_is_hashed(tmp_path: Path) -> None:
    source = "def f(path, data):\n    assert type(data) is bytes\n    return {'x': data}"
    files = {"empty": b"", "small": b"\x00\xff", "large": os.urandom((1 << 20) + 17)}
    job = Job(tmp_path, source, files, columns=columns_of({"x": b""}), input="bytes")
    for content, line in zip(files.values(), job.outcomes(job.run()), strict=True):
        assert (line["0.bytes"], line["hash"], line["size"]) == (content, blake(content), len(content))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5])
def test_the_hash_is_blake2b_128_of_the_content_whatever_its_size(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    job = Job(tmp_path, SIZE_OF, {"a.bin": content}, columns=SIZE_COLUMNS)
    line = job.only_outcome()
    assert (line["hash"], line["size"], line["1.int"]) == (blake(content), size, size)


def test_a_young_file_is_marked_racy(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS, age_s=0)
    assert job.only_outcome()["racy"] is True


@pytest.mark.parametrize("what", ["deleted", "a FIFO", "charged", "charged, known"])
def test_an_outcome_has_a_look_although_nobody_had_looked_at_the_file(tmp_path: Path, what: str) -> None:
    """What has an outcome must be known for changed when it is there again, or another file."""
    job = Job(tmp_path, SIZE_OF, {"a": b"123"}, columns=SIZE_COLUMNS)
    ref = write_shard_file(job.folders.shards, 3, 1, Entries.listed([("a", UNSEEN, UNSEEN)], 1))
    offer, path = job.offer(ref=ref, is_last_try=True), job.source / "a"
    failure = Failure("WorkerDied", "", "", "")
    seen = UNKNOWN_VERSION
    match what:
        case "deleted":
            path.unlink()
            done = job.worker.run_batch(*offer)
        case "a FIFO":
            path.unlink()
            os.mkfifo(path)
            seen = FileVersion(0, path.stat().st_mtime_ns)
            done = job.worker.run_batch(*offer)
        case "charged":
            done = job.worker.record_failure(*offer, failure)
        case _:
            seen = FileVersion(7, 8)
            done = job.worker.record_failure(*offer, failure, seen)
    (line,) = job.outcomes(done)
    assert FileVersion(line["size"], line["mtime_ns"], line["hash"]) == seen
    assert line["error_type"]


def test_a_look_that_nobody_had_is_taken_before_the_failure_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced while it cannot be read: what is recorded must not be the new one's look."""
    job = Job(tmp_path, SIZE_OF, {"a": b"123"}, columns=SIZE_COLUMNS)
    ref = write_shard_file(job.folders.shards, 3, 1, Entries.listed([("a", UNSEEN, UNSEEN)], 1))
    sizes: list[int] = []

    def cannot(path: str, **_: bool) -> reading.FileInUse:
        sizes.append(os.stat(path).st_size)
        with open(path, "ab") as file:
            file.write(b"x")
        raise MemoryError

    monkeypatch.setattr(worker_module, "read_file", cannot)
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


KINDS = """\
import os, json, threading

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Unprintable2(Exception):
    def __str__(self):
        raise SystemExit(3)
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

def deeper(depth):
    return deeper(depth + 1)

def cause():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("with a cause") from error

def f(path):
    kind = os.path.basename(path)
    if kind == "value": raise ValueError("broke")
    if kind == "empty message": raise ValueError
    if kind == "exit": raise SystemExit(0)
    if kind == "interrupt": raise KeyboardInterrupt
    if kind == "generator exit": raise GeneratorExit("out")
    if kind == "base": raise BaseException("base")
    if kind == "stop iteration": raise StopIteration(1)
    if kind == "memory": raise MemoryError("no room")
    if kind == "unprintable": raise Unprintable()
    if kind == "unprintable, exits": raise Unprintable2()
    if kind == "no text": raise NoText()
    if kind == "unpicklable": raise Unpicklable(1, 2)
    if kind == "huge": raise ValueError("start" + "x" * 10_000_000 + "end")
    if kind == "surrogate": raise ValueError("a\\ud800b")
    if kind == "nul and newline": raise ValueError("a\\x00\\nb")
    if kind == "deep": deeper(0)
    if kind == "cause": cause()
    if kind == "group": raise ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    if kind == "os error": raise PermissionError(13, "Permission denied", "elsewhere")
    if kind == "in a library": json.loads("{")
    return {"x": 1}
"""
KIND_FAILURES = {
    "value": ("ValueError", "broke"),
    "empty message": ("ValueError", ""),
    "exit": ("SystemExit", "0"),
    "interrupt": ("KeyboardInterrupt", ""),
    "generator exit": ("GeneratorExit", "out"),
    "base": ("BaseException", "base"),
    "stop iteration": ("StopIteration", "1"),
    "memory": ("MemoryError", "no room"),
    "unprintable": ("Unprintable", "(no message: its __str__ raised RuntimeError)"),
    "unprintable, exits": ("Unprintable2", "(no message: its __str__ raised SystemExit)"),
    "no text": ("NoText", "(no message: its __str__ raised TypeError)"),
    "unpicklable": ("Unpicklable", "1 and 2"),
    "surrogate": ("ValueError", r"a\ud800b"),
    "nul and newline": ("ValueError", "a\x00\nb"),
    "cause": ("ValueError", "with a cause"),
    "group": ("ExceptionGroup", "two (2 sub-exceptions)"),
    "os error": ("PermissionError", "[Errno 13] Permission denied: 'elsewhere'"),
    "in a library": (
        "JSONDecodeError",
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
}


def test_every_exception_is_the_failure_of_its_own_file(tmp_path: Path) -> None:
    kinds = [*KIND_FAILURES, "huge", "deep"]
    names = [name for kind in kinds for name in (kind, f"fine {kind}")]
    job = Job(tmp_path, KINDS, {name: name.encode() for name in names})
    done = job.run()
    assert (done.n_rows, done.n_failed, done.returned) == (len(kinds), len(kinds), ())
    found = dict(zip(names, job.outcomes(done), strict=True))
    assert all(found[f"fine {kind}"]["is_row"] for kind in kinds)
    assert {kind: (found[kind]["error_type"], found[kind]["message"]) for kind in KIND_FAILURES} == KIND_FAILURES
    assert found["deep"]["error_type"] == "RecursionError"
    for kind in kinds:
        # What f saw of the file is known of a failed file, too.
        assert (found[kind]["hash"], found[kind]["size"]) == (blake(kind.encode()), len(kind.encode()))
        assert found[kind]["where"].startswith("userf.py:")
        assert len(found[kind]["traceback"]) < 2 * TEXT_LIMIT


def test_what_is_told_of_failures_survives_pickle(tmp_path: Path) -> None:
    job = Job(tmp_path, KINDS, {kind: b"" for kind in KIND_FAILURES})
    done = job.run()
    assert pickle.loads(pickle.dumps(done)) == done
    assert [(path, failure.error_type) for path, failure in done.failures] == [
        (kind, error_type) for kind, (error_type, _) in KIND_FAILURES.items()
    ]


def test_a_message_of_ten_megabytes_is_capped_to_its_beginning_and_end(tmp_path: Path) -> None:
    failure = Job(tmp_path, KINDS, {"huge": b""}).only_failure()
    for text in (failure.message, failure.traceback):
        assert len(text) < TEXT_LIMIT + 100
        assert "characters left out" in text
    assert failure.message.startswith("startxxx") and failure.message.endswith("xxxend")
    assert failure.traceback.startswith("Traceback") and failure.traceback.endswith("xxxend\n")


def test_at_most_a_hundred_failures_are_told_and_all_are_recorded(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    raise ValueError(path)", {f"{i:03d}": b"" for i in range(130)})
    done = job.run()
    assert [path for path, _ in done.failures] == [f"{i:03d}" for i in range(100)]
    assert len(job.outcomes(done)) == 130


def test_where_and_traceback_name_the_user_s_file_and_line(tmp_path: Path) -> None:
    job = Job(tmp_path, KINDS, {"value": b""})
    failure = job.only_failure()
    line = line_of(KINDS, 'kind == "value"')
    assert failure.where == f"userf.py:{line} in f"
    first, second, *_, last = failure.traceback.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second == f'  File "{job.function_file}", line {line}, in f'
    assert last == "ValueError: broke"
    assert "worker.py" not in failure.traceback


def test_where_is_the_innermost_line_of_the_user_s_own_code(tmp_path: Path) -> None:
    failure = Job(tmp_path / "1", KINDS, {"in a library": b""}).only_failure()
    assert failure.where == f"userf.py:{line_of(KINDS, 'json.loads')} in f"
    assert "json/decoder.py" in failure.traceback


def test_where_may_be_a_module_beside_the_function(tmp_path: Path) -> None:
    (tmp_path / "userf_helper.py").write_text("def weigh(path):\n\n    return 1 / 0\n")
    job = Job(tmp_path, "import userf_helper\ndef f(path):\n    return userf_helper.weigh(path)", {"a": b""})
    assert job.only_failure().where == "userf_helper.py:3 in weigh"


def test_a_cause_is_in_the_traceback(tmp_path: Path) -> None:
    failure = Job(tmp_path, KINDS, {"cause": b""}).only_failure()
    assert "KeyError: 'key'" in failure.traceback
    assert failure.where == f"userf.py:{line_of(KINDS, 'with a cause')} in cause"


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


@pytest.mark.parametrize(
    ("returned", "error_type", "message"),
    [
        ("None", "NoDict", "f returned a NoneType; r3po needs one dict a file"),
        ("[{'x': 1}]", "NoDict", "f returned a list; r3po needs one dict a file"),
        ("'x'", "NoDict", "f returned a str; r3po needs one dict a file"),
        ("(yield)", "NoDict", "f returned a generator; r3po needs one dict a file"),
        ("{}", "BadRow", "the row's keys differ from the job's columns, which its first row set: missing 'x'"),
        (
            "{'y': 1, 'x': 1}",
            "BadRow",
            "the row's keys differ from the job's columns, which its first row set: not a column of this job: 'y'",
        ),
        (
            "{'\\udcff': 1}",
            "BadRow",
            "the row's keys differ from the job's columns, which its first row set: "
            "missing 'x'; not a column of this job: '\\udcff'",
        ),
        ("{'x': 'text'}", "BadRow", "column 'x': expected number, found text 'text'"),
        ("{'x': 1 << 64}", "BadRow", "column 'x': the int 18446744073709551616 does not fit 64 bit"),
        ("{'x': object()}", "BadRow", "column 'x': a value of type object cannot be stored"),
    ],
)
def test_what_is_no_row_is_a_failure_that_says_why(
    tmp_path: Path, returned: str, error_type: str, message: str
) -> None:
    source = f"def f(path):\n    if path.endswith('1'):\n        return {returned}\n    return {{'x': 0}}"
    if "yield" in returned:
        source = "def f(path):\n    yield\n"
    failure = Job(tmp_path, source, {"1": b""}).only_failure()
    assert failure == Failure(error_type, message, "", "")


def test_a_bad_row_among_good_ones_shifts_nothing(tmp_path: Path) -> None:
    source = "def f(path):\n    n = int(path[-1])\n    return {'x': 'bad' if n in (1, 4) else n} if n != 3 else None"
    job = Job(tmp_path, source, {str(i): b"x" * i for i in range(6)})
    found = job.outcomes(job.run())
    assert [(line["place"], line["size"], line["0.int"]) for line in found] == [
        (0, 0, 0),
        (1, 1, None),
        (2, 2, 2),
        (3, 3, None),
        (4, 4, None),
        (5, 5, 5),
    ]
    assert [line["error_type"] for line in found] == [None, "BadRow", None, "NoDict", "BadRow", None]


def test_a_mapping_that_cannot_be_read_is_its_file_s_failure(tmp_path: Path) -> None:
    source = """\
class Row(dict):
    def keys(self):
        raise ZeroDivisionError("no keys")
    __iter__ = keys

def f(path):
    return Row(x=1) if path.endswith("0") else {"x": 1}
"""
    found = (job := Job(tmp_path, source, {"0": b"", "1": b""})).outcomes(job.run())
    assert [(line["is_row"], line["error_type"]) for line in found] == [(False, "ZeroDivisionError"), (True, None)]


@pytest.mark.parametrize(
    ("first", "returned"),
    [
        ("1", "Odd(1)"),
        (
            "datetime.now(timezone.utc)",
            "datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))",
        ),
    ],
)
def test_a_value_that_raises_when_it_is_looked_at_fails_its_own_file_only(
    tmp_path: Path, first: str, returned: str
) -> None:
    source = f"""\
from datetime import datetime, timedelta, timezone

class Odd(int):
    def __int__(self):
        raise ValueError("not today")

def f(path):
    return {{"x": {returned} if path.endswith("1") else {first}}}
"""
    job = Job(tmp_path, source, {"0": b"", "1": b"", "2": b""})
    job.columns = columns_of(job.module.f("0"))
    assert [line["is_row"] for line in job.outcomes(job.run())][::2] == [True, True]


def test_rows_before_the_columns_are_known_are_failures(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    return {'x': 1}", {"a": b""}, columns=None)
    assert job.only_failure().error_type == "BadRow"


# Files that are not as the manifest says


def test_a_deleted_file_is_a_failure(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1", "b": b"2", "c": b"3"}, columns=SIZE_COLUMNS)
    entry = os.stat(job.path("b"))
    job.path("b").unlink()
    found = job.run_twice()
    assert [line["is_row"] for line in found] == [True, False, True]
    assert (found[1]["error_type"], found[1]["where"], found[1]["hash"]) == ("FileNotFoundError", "", None)
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


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def become_link_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def become_device(path: Path) -> None:
    path.unlink()
    path.symlink_to(os.devnull)


@pytest.mark.parametrize(
    ("become", "error_type"),
    [
        (become_fifo, "OSError"),
        (become_folder, "OSError"),
        (become_dangling_link, "FileNotFoundError"),
        (become_link_loop, "OSError"),
        (become_device, "OSError"),
    ],
)
@pytest.mark.parametrize("input", ["path", "bytes"])
@pytest.mark.usefixtures("deadline")
def test_what_is_no_regular_file_any_more_is_a_failure_and_f_is_not_called(
    tmp_path: Path, become: Callable[[Path], None], error_type: str, input: str
) -> None:
    source = "CALLS = []\ndef f(path, data=None):\n    CALLS.append(path)\n    return {'x': 1}"
    job = Job(tmp_path, source, {"a": b"1", "b": b"2"}, input=input)
    become(job.path("a"))
    found = job.run_twice() if error_type == "FileNotFoundError" else job.outcomes(job.run())
    assert [(line["is_row"], line["error_type"]) for line in found] == [(False, error_type), (True, None)]
    assert str(job.path("a")) in found[0]["message"]
    assert [str(job.path("b"))] == job.module.CALLS


@pytest.mark.parametrize("become", [become_fifo, become_folder, become_device])
def test_with_hash_stat_what_is_no_regular_file_any_more_is_a_failure_too(
    tmp_path: Path, become: Callable[[Path], None]
) -> None:
    """If f opened the FIFO, the worker would hang."""
    job = Job(tmp_path, "def f(path):\n    return {'x': 1}", {"a": b"1"}, hash="stat")
    become(job.path("a"))
    assert job.only_outcome()["error_type"] == "OSError"


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
    source = "CALLS = []\ndef f(path, data):\n    CALLS.append(path)\n    return {'x': len(data)}"
    job = Job(tmp_path, source, {"a": b"1", "large": b"12345", "z": b"22"}, input="bytes", hash=hash)
    done = job.run()
    found = job.outcomes(done)
    assert (done.deferred, [line["is_row"] for line in found]) == ((), [True, False, True])
    assert (found[1]["error_type"], found[1]["size"], found[1]["hash"]) == ("MemoryError", 5, None)
    assert [str(job.path("a")), str(job.path("z"))] == job.module.CALLS


def test_a_file_that_f_removes_is_a_failure(tmp_path: Path) -> None:
    job = Job(tmp_path, "import os\ndef f(path):\n    os.remove(path)\n    return {'x': 1}", {"a": b"1"})
    (line,) = job.run_twice()
    assert (line["is_row"], line["error_type"], line.get("0.int")) == (False, "FileNotFoundError", None)


def test_a_file_that_changed_since_the_build_is_read_as_it_is_now(tmp_path: Path) -> None:
    source = SIZE_OF.replace("def f(path):", "CALLS = []\ndef f(path):\n    CALLS.append(path)")
    job = Job(tmp_path, source, {"a": b"1"}, columns=SIZE_COLUMNS)
    job.path("a").write_bytes(b"longer now")
    line = job.only_outcome()
    assert (line["1.int"], line["size"], line["hash"]) == (10, 10, blake(b"longer now"))
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


def changing(times: int, change: str = APPEND, fails: bool = False) -> str:
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


@pytest.mark.parametrize("hash", ["content", "stat"])
@pytest.mark.parametrize("change", [APPEND, TOUCH], ids=["grow", "touch"])
def test_a_file_that_changes_during_both_calls_is_a_failure(tmp_path: Path, change: str, hash: str) -> None:
    job = Job(tmp_path, changing(99, change), {"a": b"123"}, hash=hash)
    failure = job.only_failure()
    assert failure == Failure("FileChanged", "the file changed while it was read, twice", "", "")
    assert len(job.module.CALLS) == 2


def test_the_failure_of_a_file_that_changed_is_that_of_the_second_call(tmp_path: Path) -> None:
    job = Job(tmp_path, changing(1, fails=True), {"a": b"123"})
    line = job.only_outcome()
    assert (line["error_type"], line["size"], line["hash"]) == ("ValueError", 4, blake(b"123+"))
    assert len(job.module.CALLS) == 2


def test_a_second_call_that_gives_a_row_takes_the_first_failure_back(tmp_path: Path) -> None:
    source = changing(1).replace("if False:", "if len(CALLS) == 1:")
    line = Job(tmp_path, source, {"a": b"123"}).only_outcome()
    assert (line["is_row"], line["error_type"], line["0.int"]) == (True, None, 4)


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


def test_with_hash_stat_no_source_file_is_opened_and_no_hash_recorded(tmp_path: Path, opened: list[str]) -> None:
    job = Job(tmp_path, "def f(path):\n    return {'x': 1}", {"a": b"1", "b": b"22"}, hash="stat")
    opened.clear()
    found = job.outcomes(job.run())
    assert opened  # the segment, at least
    assert [name for name in opened if name.startswith(str(job.source))] == []
    assert [(line["hash"], line["size"]) for line in found] == [(None, 1), (None, 2)]
    assert [line["mtime_ns"] for line in found] == [os.stat(job.path(name)).st_mtime_ns for name in "ab"]


def test_with_hash_content_each_file_is_opened_once(tmp_path: Path, opened: list[str]) -> None:
    job = Job(tmp_path, "def f(path):\n    return {'x': 1}", {"a": b"1", "b": b"22"})
    opened.clear()
    job.run()
    assert [name for name in opened if name.startswith(str(job.source))] == [str(job.path("a")), str(job.path("b"))]


def test_with_hash_stat_and_input_bytes_f_gets_the_content_and_no_hash_is_recorded(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path, data):\n    return {'x': len(data)}", {"a": b"123"}, hash="stat", input="bytes")
    line = job.only_outcome()
    assert (line["0.int"], line["hash"], line["size"]) == (3, None, 3)


def test_with_hash_stat_a_stale_entry_is_noticed(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS, hash="stat")
    job.path("a").write_bytes(b"longer now")
    line = job.only_outcome()
    assert (line["1.int"], line["size"], line["hash"]) == (10, 10, None)
    assert line["mtime_ns"] == os.stat(job.path("a")).st_mtime_ns


# The end of a batch

SLEEPY = "import time\ndef f(path):\n    time.sleep({seconds})\n    {more}\n    return {{'x': 1}}"


def test_a_batch_ends_after_batch_seconds_and_gives_the_rest_back(tmp_path: Path) -> None:
    source = SLEEPY.format(seconds=0.03, more="")
    job = Job(tmp_path, source, {f"{i:02d}": b"" for i in range(60)}, batch_seconds=0.25)
    done = job.run((0, 20), (30, 60))
    n_done = len(job.outcomes(done))
    assert 1 <= n_done <= 13  # 0.25 s, and up to 0.1 s until the next look at the clock
    assert done.seconds >= 0.25
    assert done.returned == ((n_done, 20), (30, 60))


def test_a_slow_file_is_finished_and_the_next_one_not_begun(tmp_path: Path) -> None:
    job = Job(tmp_path, SLEEPY.format(seconds=0.15, more=""), {"a": b"", "b": b"", "c": b""}, batch_seconds=0.01)
    done = job.run()
    assert (done.n_rows, done.returned) == (1, ((1, 3),))
    assert [line["seconds"] >= 0.15 for line in job.outcomes(done)] == [True]


def test_what_was_given_back_can_be_offered_again_until_all_is_done(tmp_path: Path) -> None:
    source = SLEEPY.format(seconds=0.04, more="")
    job = Job(tmp_path, source, {f"{i:02d}": b"" for i in range(10)}, batch_seconds=0.1)
    places, left = [], ((0, 10),)
    while left:
        done = job.run(*left)
        places += [line["place"] for line in job.outcomes(done)]
        left = done.returned
    assert places == list(range(10))


def test_the_stop_file_ends_a_batch_after_the_file_at_hand(tmp_path: Path) -> None:
    more = f"if path.endswith('2'): open({str(tmp_path / 'stop')!r}, 'w').close()"
    job = Job(tmp_path, SLEEPY.format(seconds=0.11, more=more), {str(i): b"" for i in range(6)})
    done = job.run()
    assert (done.n_rows, done.returned) == (3, ((3, 6),))
    assert [line["place"] for line in job.outcomes(done)] == [0, 1, 2]


def test_a_stop_before_the_first_file_records_nothing(tmp_path: Path) -> None:
    source = "CALLS = []\ndef f(path):\n    CALLS.append(path)\n    return {'x': 1}"
    job = Job(tmp_path, source, {str(i): b"" for i in range(6)})
    job.stop_file.touch()
    assert job.run((0, 2), (4, 6)) == BatchDone(None, 0, 0, ((0, 2), (4, 6)), 0.0)
    assert job.n_segments() == 0
    assert job.module.CALLS == []


def test_an_engine_in_the_driver_s_own_process_may_ask_in_its_own_way(tmp_path: Path) -> None:
    job = Job(tmp_path, SLEEPY.format(seconds=0.11, more=""), {str(i): b"" for i in range(6)})
    answers = iter([False, False, True])
    job.worker = Worker(job.setup, should_stop=lambda: next(answers))
    job.worker.load()
    assert job.run().returned == ((2, 6),)


@pytest.mark.parametrize(
    ("value", "first"),
    [
        ("'x' * 1000", ""),
        ("b'x' * 1000", b""),
        ("['x' * 1000]", []),
        ("{'k': 'x' * 1000}", {}),
        ("'x' * 1000", None),
    ],
)
def test_a_batch_ends_when_its_rows_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, first: Any
) -> None:
    monkeypatch.setattr(worker_module, "BATCH_BYTES", 5000)
    source = f"def f(path):\n    return {{'x': {value}}}"
    job = Job(tmp_path, source, {f"{i:02d}": b"" for i in range(20)}, columns=columns_of({"x": first}))
    done = job.run()
    assert done.n_rows == 5
    assert done.returned == ((5, 20),)


def test_a_batch_ends_when_its_failures_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "BATCH_BYTES", 200_000)
    job = Job(tmp_path, "def f(path):\n    raise ValueError('x' * 20_000)", {f"{i:03d}": b"" for i in range(200)})
    done = job.run()
    assert 5 <= done.n_failed <= 25
    assert done.returned == ((done.n_failed, 200),)


# The probe


def probe_source(*returned: str) -> str:
    """Return a function whose file number i gives what returned[i] says."""
    cases = "".join(f"    if path.endswith({str(i)!r}): {text}\n" for i, text in enumerate(returned))
    return f"CALLS = []\ndef f(path):\n    CALLS.append(path[-1])\n{cases}"


def probe_job(folder: Path, *returned: str) -> Job:
    return Job(folder, probe_source(*returned), {str(i): b"" for i in range(len(returned))}, columns=None)


def test_the_first_row_ends_the_probe_and_sets_the_columns(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "raise ValueError('a')", "return None", "return {'z': 1, 'a': None}", "return {'z': 2}")
    probed = job.worker.probe(*job.offer())
    assert probed.columns == columns_of({"z": 1, "a": None})
    assert (probed.first_row_path, probed.n_failed, probed.stopped) == ("2", 2, False)
    assert probed.not_a_dict == ("1", "NoneType", "None")
    assert job.module.CALLS == ["0", "1", "2"]
    assert job.n_segments() == 0  # nothing before the columns are durable

    done = job.worker.record_probe(probed.columns)
    assert (done.n_rows, done.n_failed, done.returned) == (1, 2, ((3, 4),))
    found = job.outcomes(done)
    assert [(line["place"], line["is_row"], line["error_type"]) for line in found] == [
        (0, False, "ValueError"),
        (1, False, "NoDict"),
        (2, True, None),
    ]
    assert found[2]["0.int"] == 1
    assert job.module.CALLS == ["0", "1", "2"]


def test_a_probe_without_a_row_records_failures_only(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "raise ValueError('a')", "return {}", "return {1: 2}", "return {'\\ud800': 1}")
    probed = job.worker.probe(*job.offer())
    assert (probed.columns, probed.n_failed, probed.not_a_dict, probed.stopped) == (None, 4, None, False)
    done = job.worker.record_probe(None)
    assert (done.n_rows, done.n_failed, done.returned) == (0, 4, ())
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


def test_a_stopped_probe_says_so_and_gives_everything_back(tmp_path: Path) -> None:
    job = probe_job(tmp_path, "return {'a': 1}", "return {'a': 2}", "return {'a': 3}")
    job.stop_file.touch()
    probed = job.worker.probe(*job.offer())
    assert (probed.columns, probed.stopped, probed.n_failed) == (None, True, 0)
    assert job.worker.record_probe(None) == BatchDone(None, 0, 0, ((0, 3),), 0.0)
    assert job.n_segments() == 0


def test_a_probe_that_is_stopped_on_its_way_keeps_what_it_did(tmp_path: Path) -> None:
    touch = f"open({str(tmp_path / 'stop')!r}, 'w').close(); raise ValueError"
    job = probe_job(tmp_path, "return 5", touch, "return {'a': 3}", "return {'a': 4}")
    probed = job.worker.probe(*job.offer((0, 2), (3, 4)))
    assert (probed.columns, probed.stopped, probed.n_failed) == (None, True, 2)
    done = job.worker.record_probe(None)
    assert (done.n_failed, done.returned) == (2, ((3, 4),))


@pytest.mark.parametrize("value", ["1 << 70", "'\\ud800'"])
def test_a_first_row_that_cannot_be_stored_sets_no_columns(tmp_path: Path, value: str) -> None:
    job = probe_job(tmp_path, f"return {{'x': {value}, 'extra': 1}}", "return {'x': 1}")
    probed = job.worker.probe(*job.offer())
    assert probed.columns == columns_of({"x": 1})
    assert probed.first_row_path == "1"


# The environment

TROUBLED = """\
import errno, os
BAD = {bad}
CALLS = []

def f(path):
    n = int(os.path.basename(path))
    CALLS.append(n)
    if n in BAD:
        raise OSError(errno.{name}, os.strerror(errno.{name}), path)
    return {{"x": n}}
"""


def troubled_job(folder: Path, n_files: int, bad: object, name: str = "EIO") -> Job:
    files = {f"{n:03d}": b"" for n in range(n_files)}
    return Job(folder, TROUBLED.format(bad=bad, name=name), files)


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ENOSPC", "EMFILE", "ENOMEM", "ETIMEDOUT"])
def test_what_fails_by_its_environment_is_put_off_and_nothing_of_it_recorded(tmp_path: Path, name: str) -> None:
    job = troubled_job(tmp_path, 6, [1, 4], name)
    done = job.run()
    assert (done.n_rows, done.n_failed, done.failures) == (4, 0, ())
    assert (done.deferred, done.n_deferred_first, done.n_deferred_last, done.returned) == ((1, 4), 0, 0, ())
    assert [(line["place"], line["0.int"], line["hash"]) for line in job.outcomes(done)] == [
        (n, n, blake(b"")) for n in (0, 2, 3, 5)
    ]
    assert done.deferral is not None
    path, failure = done.deferral
    assert (path, failure.error_type) == ("004", type(OSError(getattr(errno, name), "")).__name__)
    assert pickle.loads(pickle.dumps(done)) == done


def test_a_last_try_records_what_fails_by_its_environment(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 6, [1, 4])
    done = job.run((1, 2), (4, 6), is_last_try=True)
    assert (done.n_rows, done.n_failed, done.deferred, done.deferral) == (1, 2, (), None)
    assert [line["error_type"] for line in job.outcomes(done)] == ["OSError", "OSError", None]


def test_a_last_try_that_succeeds_is_a_row_like_any_other(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 6, [1, 4])
    assert job.run().deferred == (1, 4)
    job.module.BAD.clear()
    found = job.outcomes(job.run((1, 2), (4, 5), is_last_try=True))
    assert [(line["place"], line["is_row"], line["tries"]) for line in found] == [(1, True, 1), (4, True, 1)]


@pytest.mark.parametrize("name", ["ENOENT", "EACCES", "EISDIR"])
def test_a_file_that_f_itself_does_not_find_is_a_failure_at_once(tmp_path: Path, name: str) -> None:
    done = troubled_job(tmp_path, 3, [1], name).run()
    assert (done.n_rows, done.n_failed, done.deferred) == (2, 1, ())


def test_fifty_in_a_row_end_the_batch_and_49_do_not(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 120, "range(10, 200)")
    done = job.run()
    assert (done.n_rows, done.deferred, done.n_deferred_last) == (10, tuple(range(10, 60)), 50)
    assert done.returned == ((60, 120),)
    assert list(range(60)) == job.module.CALLS
    done = job.run((0, 1), (60, 109), (5, 6))
    assert (done.n_rows, len(done.deferred), done.n_deferred_last, done.returned) == (2, 49, 0, ())


def test_fifty_in_a_row_from_the_first_file_on_leave_no_segment(tmp_path: Path) -> None:
    job = troubled_job(tmp_path, 80, "range(80)")
    done = job.run()
    assert (done.segment, len(done.deferred), done.n_deferred_last, done.returned) == (None, 50, 50, ((50, 80),))
    assert done.n_deferred_first == 50
    assert job.n_segments() == 0


def test_rows_between_them_begin_the_count_anew(tmp_path: Path) -> None:
    done = troubled_job(tmp_path, 120, "[n for n in range(120) if n % 40]").run()
    assert (done.n_rows, len(done.deferred), done.n_deferred_last, done.returned) == (3, 117, 39, ())


def test_failures_of_f_s_own_between_them_begin_it_anew_too(tmp_path: Path) -> None:
    source = TROUBLED.format(bad="range(90)", name="EIO").replace(
        "    if n in BAD", "    1 / (n - 45)\n    if n in BAD"
    )
    done = Job(tmp_path, source, {f"{n:03d}": b"" for n in range(90)}).run()
    assert (done.n_failed, len(done.deferred), done.n_deferred_last, done.returned) == (1, 89, 44, ())
    assert done.n_deferred_first == 45


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
    assert (done.n_rows, done.deferred, done.n_deferred_last, done.returned) == (1, (0, 1), 0, ((3, 5),))
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
    assert (done.n_rows, done.n_failed, done.returned, done.is_spent) == (1, 1, ((2, 3),), True)
    row, late = job.outcomes(done)
    assert (row["is_row"], late["error_type"], late["size"]) == (True, "Timeout", 2)
    assert late["message"] == "f took longer than timeout_seconds: 0.1"
    assert late["where"] == f"userf.py:{line_of(LATE, '        time.sleep')} in wait"
    assert late["traceback"].startswith(f'  File "{job.function_file}", line 5, in f\n')
    assert "timelimit.py" not in late["traceback"] and "TimedOut" not in late["traceback"]
    assert 0.1 <= late["seconds"] < 10


def test_a_batch_in_time_is_not_spent(tmp_path: Path) -> None:
    done = Job(tmp_path, LATE, {"a": b"", "b": b""}, timeout_s=30.0).run()
    assert (done.n_rows, done.is_spent) == (2, False)


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


def test_f_s_own_time_out_is_f_s_own_failure(tmp_path: Path) -> None:
    job = Job(tmp_path, "def f(path):\n    raise TimeoutError('mine')", {"a": b""}, timeout_s=30.0)
    done = job.run()
    assert (done.is_spent, done.failures[0][1].error_type) == (False, "TimeoutError")


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
    monkeypatch.setattr(job.worker, "_read_lines", lambda _: 1 / 0)
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
    assert (done.n_rows, done.n_failed, done.returned, done.failures) == (0, 1, (), (("1", died),))
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
    """To read it may be what ended its worker."""
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
    assert [(line["size"], line["hash"]) for line in job.outcomes(done)] == [(2, None)]


def test_of_a_file_that_went_before_its_charge_the_manifest_s_word_stands(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"123"}, columns=SIZE_COLUMNS)
    mtime_ns = os.stat(job.path("a")).st_mtime_ns
    job.path("a").unlink()
    (line,) = job.outcomes(job.worker.record_failure(*job.offer(), Failure("Timeout", "too long", "", "")))
    assert (line["size"], line["mtime_ns"], line["hash"], line["error_type"]) == (3, mtime_ns, None, "Timeout")


@pytest.mark.parametrize("input", ["path", "bytes"])
@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("become", [become_fifo, become_folder, become_dangling_link])
def test_a_charge_of_a_file_that_is_gone_is_recorded_all_the_same(
    tmp_path: Path, become: Callable[[Path], None], input: str
) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS, input=input)
    become(job.path("a"))
    died = Failure("WorkerDied", "SIGSEGV", "", "")
    done = job.worker.record_failure(*job.offer(), died)
    assert (done.n_failed, done.deferred, done.failures) == (1, (), (("a", died),))


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
    assert job.run().n_rows == 1  # the worker is as good as before


def test_what_f_does_to_its_process_does_not_reach_the_segment(tmp_path: Path) -> None:
    source = "import os\ndef f(path):\n    os.chdir('/')\n    os.umask(0o077)\n    return {'x': os.path.getsize(path)}"
    job = Job(tmp_path, source, {"a": b"123", "b": b"1"})
    folder, umask = os.getcwd(), os.umask(0o022)
    try:
        assert [line["0.int"] for line in job.outcomes(job.run())] == [3, 1]
    finally:
        os.chdir(folder)
        os.umask(umask)


@pytest.mark.parametrize("umask", ["0o077", "0o777"])
def test_a_segment_can_be_read_whatever_umask_f_leaves(tmp_path: Path, umask: str) -> None:
    source = f"import os\ndef f(path):\n    os.umask({umask})\n    return {{'x': 1}}"
    before = os.umask(0o022)
    try:
        job = Job(tmp_path, source, {"a": b"", "b": b""})
        segments = [done.segment for done in (job.run((0, 1)), job.run((1, 2)))]
    finally:
        os.umask(before)
    made = list(job.folders.segments.rglob("*"))
    modes = {path.stat().st_mode & 0o777 for path in made if path.is_file()}
    assert (len(segments), modes) == (2, {0o644})
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


def test_setup_offer_and_answer_survive_pickle(tmp_path: Path) -> None:
    job = Job(tmp_path, SIZE_OF, {"a": b"1"}, columns=SIZE_COLUMNS)
    offer = job.offer()
    assert pickle.loads(pickle.dumps((job.setup, offer))) == (job.setup, offer)
    done = job.worker.run_batch(*offer)
    assert pickle.loads(pickle.dumps(done)) == done
