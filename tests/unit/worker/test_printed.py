"""What f prints: kept to a limit, told once, and never a reason to fail."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import environment
from r3po.worker import printed as outputs
from r3po.worker.beacon import worker_file
from r3po.worker.printed import Outputs, _LogStream

NOTE = "\n... more output is left out\n"


def log_of(folder: Path, worker: int = 0) -> Path:
    return worker_file(folder, worker, "out")


def append(folder: Path, text: str, worker: int = 0) -> None:
    with open(log_of(folder, worker), "a", encoding="utf-8") as log:
        log.write(text)


def look(outputs: Outputs) -> dict[int, str]:
    """Return the text of one look, by worker; no worker comes twice."""
    found = list(outputs.look())
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "LOG_BYTES", 100)
    monkeypatch.setattr(outputs, "ALL_LOGS_BYTES", 250)


# The driver's side


def test_every_byte_is_told_once_and_in_order(tmp_path: Path) -> None:
    tail, told = Outputs(tmp_path, is_shown=True), ["", ""]
    for n in range(20):
        append(tmp_path, f"line {n} é\n", worker=0)
        if n % 3 == 0:
            append(tmp_path, f"other {n}\n", worker=1)
        for worker, text in look(tail).items():
            told[worker] += text
    assert look(tail) == {}
    assert told == [log_of(tmp_path, worker).read_text(encoding="utf-8") for worker in (0, 1)]


@pytest.mark.parametrize("character", ["é", "🍐"])
def test_a_character_that_a_look_cuts_is_shown_whole(tmp_path: Path, character: str) -> None:
    tail, told = Outputs(tmp_path, is_shown=True), ""
    for byte in f"a{character}b\n".encode():
        for worker in (0, 1):  # each has its own half
            with open(log_of(tmp_path, worker), "ab") as log:
                log.write(bytes([byte]))
        seen = look(tail)
        assert seen.get(0) == seen.get(1) != ""
        told += seen.get(0, "")
    assert told == f"a{character}b\n"


def test_bytes_that_are_no_text_are_shown_all_the_same(tmp_path: Path) -> None:
    tail, told = Outputs(tmp_path, is_shown=True), ""
    for piece in (b"a\xff", b"\xc3", b"b\xe9\n"):
        with open(log_of(tmp_path), "ab") as log:
            log.write(piece)
        told += look(tail).get(0, "")
    assert told == "a\\xff\\xc3b\\xe9\n"


@pytest.mark.usefixtures("small")
def test_a_character_that_the_limit_cuts_does_not_swallow_the_note(tmp_path: Path) -> None:
    append(tmp_path, "x" * 99 + "é" * 10)
    assert look(Outputs(tmp_path, is_shown=True)) == {0: "x" * 99 + "\\xc3" + NOTE}


def test_where_the_logs_are_is_known_only_if_there_is_something_in_them_that_was_not_shown(tmp_path: Path) -> None:
    append(tmp_path, "")
    assert Outputs(tmp_path, is_shown=False).unseen() is None
    append(tmp_path, "text", worker=1)
    assert Outputs(tmp_path, is_shown=False).unseen() == tmp_path
    assert Outputs(tmp_path, is_shown=True).unseen() is None
    assert Outputs(tmp_path / "gone", is_shown=False).unseen() is None


def test_a_folder_without_logs_or_with_other_files_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.out").write_text("no worker")
    worker_file(tmp_path, 0, "crash").write_text("no output")
    assert look(Outputs(tmp_path, is_shown=True)) == {}
    assert look(Outputs(tmp_path / "nowhere", is_shown=True)) == {}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("is_shown", [True, False])
def test_a_long_log_is_cut_to_its_beginning_with_one_note_and_told_if_somebody_asked(
    tmp_path: Path, is_shown: bool
) -> None:
    tail, told, whole = Outputs(tmp_path, is_shown=is_shown), "", ""
    for n in range(50):
        line = f"{n:08d}.\n"
        append(tmp_path, line)
        told, whole = told + look(tail).get(0, ""), whole + line
        if n == 9:
            assert log_of(tmp_path).read_text() == whole, "of exactly the limit it is left as it is"
    kept = log_of(tmp_path).read_text()
    assert kept == whole[:100] + NOTE
    assert told == (kept if is_shown else "")


@pytest.mark.usefixtures("small")
def test_all_logs_together_have_a_limit_too(tmp_path: Path) -> None:
    for worker in range(6):
        append(tmp_path, "x" * 90, worker)
    tail = Outputs(tmp_path, is_shown=True)
    for _ in range(2):
        look(tail)
    sizes = [log_of(tmp_path, worker).stat().st_size for worker in range(6)]
    assert sizes == [90, 90, 70 + len(NOTE), len(NOTE), len(NOTE), len(NOTE)]


@pytest.mark.usefixtures("small")
def test_a_worker_that_goes_on_after_the_cut_appends_behind_the_note(tmp_path: Path) -> None:
    tail = Outputs(tmp_path, is_shown=False)
    log = os.open(log_of(tmp_path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(log, b"x" * 300)
        look(tail)
        os.write(log, b"more")
        assert log_of(tmp_path).read_bytes() == b"x" * 100 + NOTE.encode() + b"more"
    finally:
        os.close(log)
    look(tail)
    assert log_of(tmp_path).read_bytes() == b"x" * 100 + NOTE.encode()


# The worker's side

PREFACE = """\
import os, subprocess, sys
from pathlib import Path
from r3po.worker.printed import redirect_output, restore_streams
redirect_output(Path(sys.argv[1]), 0)
"""


def print_in_worker(folder: Path, source: str) -> str:
    """Run some code in a process whose output goes to its log, and return that."""
    command = [sys.executable, "-W", "error", "-c", PREFACE + source, str(folder)]
    done = subprocess.run(command, env=environment(), input=b"for nobody", capture_output=True, timeout=60, check=False)
    written = log_of(folder).read_text(encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), written
    return written


def test_whoever_writes_it_goes_to_the_log_in_its_order_and_there_is_nothing_to_read(tmp_path: Path) -> None:
    source = """\
print("python")
print("error", file=sys.stderr)
os.write(1, b"descriptor\\n")
subprocess.run(["echo", "child"], check=True)
os.system("echo shell >&2")
print("é\\udce9\\ud800")  # what no encoding has
print(os.read(0, 10))
try:
    input()
except EOFError:
    print("end", end="", flush=True)
"""
    written = "python\nerror\ndescriptor\nchild\nshell\né\\udce9\\ud800\nb''\nend"
    assert print_in_worker(tmp_path, source) == written


def test_closed_and_replaced_streams_and_descriptors_are_given_back_and_those_in_order_are_kept(tmp_path: Path) -> None:
    source = """\
from io import StringIO
from r3po.worker.printed import _LogStream

def print_again():
    restore_streams()
    assert all(isinstance(stream, _LogStream) for stream in (sys.stdout, sys.stderr))
    print("again")
    print("error", file=sys.stderr)
    os.write(2, b"descriptor\\n")
    subprocess.run(["echo", "child"], check=True)

made = sys.stdout, sys.stderr
print_again()
assert (sys.stdout, sys.stderr) == made
sys.stdout.close(); sys.stderr.close()
print_again()
sys.stdout = sys.stderr = StringIO()
print_again()
sys.stdout = sys.stderr = None
print_again()
os.close(1); os.close(2)
print_again()
os.dup2(0, 1); os.dup2(0, 2)
print_again()
"""
    assert print_in_worker(tmp_path, source) == "again\nerror\ndescriptor\nchild\n" * 6


class Refusing(io.RawIOBase):
    """A disk that is full."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it is full at the end, too
def test_a_full_disk_does_not_make_print_raise() -> None:
    stream = _LogStream(Refusing())
    for text in ("line\n", "x" * 100_000, "y\n" * 10_000):
        print(text, file=stream, flush=True)
        print(text, file=stream)
    stream.detach()
