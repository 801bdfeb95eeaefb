"""Odd names, odd kinds of files, files that change under a job, and sources of odd sizes.

Each file of the source ends as one row or one failure, or is passed over as docs/files.md says; nothing hangs; no name
steers the terminal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs import Ended, Job, make_job, r3po, run_program
from odd_names import NAMES

FUNCTION = """\
import os

HERE = os.fsencode(os.path.dirname(os.path.abspath(__file__)))


def double(filepath):
    name = os.path.relpath(os.fsencode(filepath), os.path.join(HERE, b"source"))
    with open(filepath, "rb") as file:
        content = file.read(100)
    if content == b"bad":
        raise ValueError(f"no good: {filepath}")
    return {"name": name.hex(), "size": os.path.getsize(filepath), "content": content.decode()}
"""
"""A row knows its file by the name's bytes, in hexadecimal."""

DEADLINE_S = 60
"""A run that takes longer hangs."""


@pytest.fixture(autouse=True)
def alarm_rings_if_a_test_hangs() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"not within {DEADLINE_S} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def job(jobs_folder: Path) -> Job:
    """A job without a file."""
    return make_job(jobs_folder / "job", 0, FUNCTION)


def add(job: Job, name: bytes, content: bytes = b"good") -> None:
    """Add a source file, and the folders that lead to it, however long its path is."""
    *folders, last = name.split(b"/")
    descriptor = os.open(job.source, os.O_RDONLY)
    try:
        for folder in folders:
            if folder not in map(os.fsencode, os.listdir(descriptor)):
                os.mkdir(folder, dir_fd=descriptor)
            inner = os.open(folder, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        with os.fdopen(os.open(last, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=descriptor), "wb") as file:
            file.write(content)
    finally:
        os.close(descriptor)


def names_of_rows(job: Job) -> list[bytes]:
    return [bytes.fromhex(row["name"]) for row in job.rows()]


def assert_refused(ended: Ended, *said: str) -> None:
    assert ended.code == 2, ended.err
    assert "\nerror:" in "\n" + ended.err
    assert "Traceback" not in ended.err
    for text in said:
        assert text in ended.err


def assert_printable(text: str) -> None:
    """No character but a newline does anything to a terminal, and all of them are text."""
    text.encode()
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(c) in turning}
    assert not odd - {"\n"}, f"{odd} in {text!r}"


# Names


def test_files_of_any_name_have_their_rows_in_byte_order_and_their_failures(job: Job) -> None:
    bad = [b"zz" + name[-200:].replace(b"/", b"_") for name in NAMES.values()]
    for name in NAMES.values():
        add(job, name)
    for name in bad:
        add(job, name, b"bad")
    ended = job.run()
    assert ended.code == 1, ended.err
    assert names_of_rows(job) == sorted(NAMES.values(), key=lambda name: (b"/" in name, name))
    assert len(job.failures()) == len(bad)
    assert job.findings() == []
    assert_printable(ended.err)
    for arguments in ((), ("--paths",), ("--json",)):
        shown = r3po("errors", *arguments, cwd=job.folder)
        assert shown.code == 0
        assert_printable(shown.out)
    assert len(r3po("errors", "--paths", cwd=job.folder).out.splitlines()) == len(bad)
    assert "Nothing to do" in job.run().err


@pytest.mark.parametrize(
    "name", [b"/".join([b"d" * 200] * 24) + b"/x.json", b"/".join([b"d" * 200] * 19) + b"/" + b"n" * 250 + b".json"]
)
def test_a_path_that_is_longer_than_the_system_allows_is_refused_by_name(name: bytes, job: Job) -> None:
    """Its file cannot be given to f; to leave it out in silence would be worse."""
    add(job, b"a.json")
    add(job, name)
    ended = job.run()
    assert_refused(ended, "File name too long", "d" * 200, "hint:")
    assert not (job.working_dir / "manifest.json").exists()
    shutil.rmtree(job.source / ("d" * 200))
    assert job.run().code == 0


# Kinds of files


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # only root makes devices, and not everywhere
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # like /dev/zero, which has no end


HIDDEN = [b".json", b"..json", b".../x.json", b".hidden/x.json"]
NO_FILES: list[Callable[[Path], object]] = [
    lambda path: path.symlink_to(path.name),  # a link to itself
    lambda path: path.symlink_to(path.with_name("ring.json")),  # one of a ring of links
    lambda path: path.with_name("ring.json").symlink_to(path.with_name("odd 1.json")),
    lambda path: path.symlink_to("nowhere"),
    os.mkfifo,
    make_socket,
    make_device,
    lambda path: path.symlink_to("/dev/zero"),
]
LINKED_FOLDERS = [".", "..", "/usr"]


def test_what_is_no_file_is_passed_over_and_counted_and_all_else_is_walked(job: Job) -> None:
    for name in (*HIDDEN, b"a.json", b"x.json/y.json/z.json"):
        add(job, name)
    before = len(os.listdir(job.source))
    for n, make in enumerate(NO_FILES):
        make(job.source / f"odd {n}.json")
    n_odd = len(os.listdir(job.source)) - before
    assert n_odd >= len(NO_FILES) - 1
    for n, folder in enumerate(LINKED_FOLDERS):
        (job.source / f"folder {n}.json").symlink_to(folder)
    (job.folder / "elsewhere.txt").write_bytes(b"good")
    (job.source / "link.json").symlink_to("../elsewhere.txt")
    (job.source / "link of link.json").symlink_to("link.json")
    for command in (("build",), ("run", "--engine", "serial")):
        ended = r3po(*command, cwd=job.folder)
        assert ended.code == 0, ended.err
        for said in (f"{len(HIDDEN)} hidden", f"{n_odd} not regular files", f"{len(LINKED_FOLDERS)} linked folders"):
            assert said in ended.err.partition("passed over: ")[2].splitlines()[0]
    assert names_of_rows(job) == [b"a.json", b"link of link.json", b"link.json", b"x.json/y.json/z.json"]
    assert {row["content"] for row in job.rows()} == {"good"}
    assert job.findings() == []


# Between build and run


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_socket(path: Path) -> None:
    path.unlink()
    make_socket(path)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (lambda path: path.unlink(), "FileNotFoundError"),
    "its folder deleted": (lambda path: shutil.rmtree(path.parent), "FileNotFoundError"),
    "its folder a file": (lambda path: (shutil.rmtree(path.parent), path.parent.touch()), "NotADirectoryError"),
    "a FIFO": (become_fifo, "not a regular file"),
    "a socket": (become_socket, "OSError"),
    "a folder": (become_folder, "not a regular file"),
    "a device": (lambda path: become_link(path, "/dev/zero"), "not a regular file"),
    "a dangling link": (lambda path: become_link(path, "nowhere"), "FileNotFoundError"),
    "a link to itself": (lambda path: become_link(path, path.name), "OSError"),
}


@pytest.mark.parametrize("hash_", ["content", "stat"])
def test_a_file_that_is_none_any_more_is_a_failure_and_nothing_waits_for_it(hash_: str, job: Job) -> None:
    job.write_config(hash=hash_)
    add(job, b"a.json")
    for harm in HARMS:
        add(job, f"{harm}/b.json".encode())
    assert r3po("build", cwd=job.folder).code == 0
    for harm, (make, _) in HARMS.items():
        make(job.source / harm / "b.json")
    ended = job.run("--no-build", "--max-errors", "none")
    assert ended.code == 1, ended.err
    failures = {failure["path"]: f"{failure['error_type']}: {failure['message']}" for failure in job.failures()}
    assert failures.keys() == {f"{harm}/b.json" for harm in HARMS}
    assert [harm for harm, (_, said) in HARMS.items() if said not in failures[f"{harm}/b.json"]] == []
    assert names_of_rows(job) == [b"a.json"]
    assert job.findings() == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda path: path.write_bytes(b"else"),
    "grown": lambda path: path.write_bytes(b"something else"),
    "truncated": lambda path: os.truncate(path, 2),
    "emptied": lambda path: os.truncate(path, 0),
    "replaced": lambda path: (path.with_name("new").write_bytes(b"new"), path.with_name("new").replace(path)),
    "made a link": lambda path: become_link(path, "a.json"),
}


@pytest.mark.parametrize("arguments", [(), ("--no-build",)], ids=["build", "no build"])
def test_a_file_that_changed_before_it_was_read_is_read_as_it_is(arguments: tuple[str, ...], job: Job) -> None:
    for name in ("a", *CHANGES):
        add(job, f"{name}.json".encode())
    r3po("build", cwd=job.folder)
    for name, change in CHANGES.items():
        change(job.source / f"{name}.json")
    expected = {path.name: path.read_text() for path in job.source.glob("*.json")}
    assert job.run(*arguments).code == 0
    assert {bytes.fromhex(row["name"]).decode(): row["content"] for row in job.rows()} == expected
    assert job.findings(check_source=True) == []
    assert "Nothing to do" in job.run().err


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[Callable[..., Ended]]:
    """Give a way to run r3po that may not read `path`: root may read all, until it drops that right."""
    drop: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root can read everything, and there is no setpriv")
        rights = "-dac_override,-dac_read_search"
        drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
        if subprocess.run([*drop, "true"], capture_output=True, check=False).returncode:
            pytest.skip("root can read everything, and setpriv does not work here")

    def run(*arguments: str, cwd: Path) -> Ended:
        return run_program(*drop, sys.executable, "-m", "r3po", *arguments, cwd=cwd)

    path.chmod(0)
    try:
        yield run
    finally:
        path.chmod(0o755)


@pytest.mark.parametrize("is_built", [False, True])
def test_a_file_that_may_not_be_read_is_a_failure_until_it_may(is_built: bool, job: Job) -> None:
    for name in (b"a.json", b"b.json"):
        add(job, name)
    if is_built:
        r3po("build", cwd=job.folder)
    with unreadable(job.source / "b.json") as run:
        if not is_built:
            assert run("build", cwd=job.folder).code == 0
        ended = run("run", "--engine", "serial", cwd=job.folder)
    assert ended.code == 1, ended.err
    (failure,) = job.failures()
    assert (failure["path"], failure["error_type"]) == ("b.json", "PermissionError")
    assert job.run("--retry-failed").code == 0
    assert names_of_rows(job) == [b"a.json", b"b.json"]
    assert job.findings() == []


def test_a_folder_that_may_not_be_read_is_refused_by_name(job: Job) -> None:
    add(job, b"a.json")
    add(job, b"closed/b.json")
    with unreadable(job.source / "closed") as run:
        ended = run("run", "--engine", "serial", cwd=job.folder)
    assert_refused(ended, str(job.source / "closed"), "Permission denied", "hint:")
    assert job.run().code == 0
    assert names_of_rows(job) == [b"a.json", b"closed/b.json"]


# Sizes


@pytest.mark.parametrize("input_", ["path", "bytes"])
def test_empty_files_are_files(input_: str, job: Job) -> None:
    job.write_config(input=input_)
    job.write_function(FUNCTION.replace("def double(filepath)", "def double(filepath, data=b'')"))
    for n in range(3):
        add(job, b"%d.json" % n, b"")
    assert job.run().code == 0
    assert [(row["size"], row["content"]) for row in job.rows()] == [("0", "")] * 3
    assert job.findings(check_source=True) == []


def test_a_file_of_five_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    """By `hash: stat`, which opens nothing: five sparse gigabytes are still five to read. Not in memory: sparse there
    may be full here."""
    job = make_job(tmp_path / "job", 0, FUNCTION, hash="stat")
    add(job, b"a.json")
    add(job, b"b.json", b"")
    os.truncate(job.source / "b.json", 5 << 30)
    ended = job.run()
    assert ended.code == 0, ended.err
    assert "5.0 GiB" in ended.err
    assert [row["size"] for row in job.rows()] == ["4", str(5 << 30)]
    assert job.findings() == []


def test_a_folder_of_twenty_thousand_files(job: Job) -> None:
    job.write_function("import os\n\n\ndef double(filepath):\n    return {'name': os.path.basename(filepath)}\n")
    names = [f"{n:06}.json" for n in range(20_000)]
    for name in names:
        (job.source / name).touch()
    assert job.run().code == 0
    assert [row["name"] for row in job.rows()] == names
    assert job.findings(path_column="name") == []
    assert "Nothing to do" in job.run().err
