"""Files that are whole or not there, JSON that notices a flipped bit, names that are bytes, and the lock."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import filelock
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import r3po
from r3po.errors import DamagedStateError, FolderError, LockedError, NewerFormatError
from r3po.state.folders import JobFolders
from r3po.storage import durable as storage
from r3po.storage.durable import FileRecord, NewFile, write_whole
from r3po.storage.json_files import read_json, write_json
from r3po.storage.lock import JobLock, ago, running_pid
from r3po.storage.names import name_from_json, name_to_json, show_name, show_text

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(r3po.__file__).parent.parent)}
DISK_ERROR = OSError(errno.EIO, "Input/output error")


class Calls:
    """Stands at the seams, notes what passes in order, and lets it through unless it is to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: str = "") -> None:
        self.made: list[str] = []
        self.synced: list[int] = []
        self.sizes: list[int] = []
        self._fail = fail
        for name in ("_create", "_fsync", "_replace", "_unlink"):
            monkeypatch.setattr(storage, name, self._through(name, getattr(storage, name)))

    def _through(self, name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            what = name.removeprefix("_")
            if name == "_fsync":
                status = os.fstat(args[0])
                what += " folder" if stat.S_ISDIR(status.st_mode) else " file"
                self.synced.append(status.st_ino)
                self.sizes.append(status.st_size)
            self.made.append(what)
            if what == self._fail:
                raise DISK_ERROR
            return real(*args)

        return call


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of which an older version exists."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


# NewFile


def test_a_new_file_is_hidden_beside_its_target_until_it_is_finished(tmp_path: Path) -> None:
    with NewFile(tmp_path) as new, NewFile(tmp_path):
        new.write(b"one ")
        names = os.listdir(tmp_path)
        assert len(names) == 2
        assert all(name.startswith(".") and name.endswith(".tmp") for name in names)
        new.write(b"two")
        new.finish("file")
        assert (tmp_path / "file").read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["file"]


def test_digest_and_size_are_those_of_the_content(tmp_path: Path) -> None:
    pieces = [b"", b"abc", bytearray(300_000), memoryview(b"0123456789")[2:5], memoryview(bytes(16)).cast("d")]
    with NewFile(tmp_path) as new:
        assert [new.write(piece) for piece in pieces] == [0, 3, 300_000, 3, 16]
        assert new.tell() == 300_022
        digest_so_far = new.sha256
        record = new.finish("file")
    content = (tmp_path / "file").read_bytes()
    assert content == b"abc" + bytes(300_000) + b"234" + bytes(16)
    assert record == FileRecord("file", len(content), hashlib.sha256(content).hexdigest())
    assert digest_so_far == record.sha256
    assert storage.digest_file(tmp_path / "file") == (record.size_bytes, record.sha256)
    assert FileRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_file_is_synced_then_renamed_then_its_folder_is_synced(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert calls.sizes[0] == 3, "everything is in the file when it is synced"
    assert calls.made[:4] == ["create", "fsync file", "replace", "fsync folder"]
    assert calls.made[4:] in ([], ["unlink"])  # a look for the temporary name, which is gone by now
    assert calls.synced == [target.stat().st_ino, target.parent.stat().st_ino]


@pytest.mark.parametrize("error", [None, ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_file_that_is_not_finished_leaves_the_old_one_and_no_temporary(
    target: Path, error: BaseException | None
) -> None:
    with pytest.raises(type(error)) if error else nullcontext(), NewFile(target.parent) as new:
        new.write(b"half")
        if error:
            raise error
    assert new.closed
    assert os.listdir(target.parent) == ["file"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("fail", ["fsync file", "replace", "fsync folder"])
def test_a_refusing_disk_leaves_a_whole_file_and_no_temporary(
    target: Path, monkeypatch: pytest.MonkeyPatch, fail: str
) -> None:
    """After a failed fsync the kernel may call the lost pages clean: a second one would lie."""
    calls = Calls(monkeypatch, fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(target, b"new")
    assert calls.made.count("fsync file") == 1
    assert calls.made.count("fsync folder") == (fail == "fsync folder")
    assert os.listdir(target.parent) == ["file"]
    assert target.read_bytes() in ((b"old", b"new") if fail == "fsync folder" else (b"old",))


@pytest.mark.parametrize("size_bytes", [1, 1_000_000])
def test_a_full_disk_leaves_the_old_file_and_no_temporary(
    target: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def create_on_full_disk(path: Path, flags: int, mode: int) -> int:
        os.close(os.open(path, flags, mode))
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(storage, "_create", create_on_full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, b"x" * size_bytes)
    assert os.listdir(target.parent) == ["file"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("seam", "content", "n_left"),
    [("_fsync", b"old", 1), ("_replace", b"old", 1), ("sync_folder", b"new" * 100_000, 0)],
)
def test_a_killed_process_leaves_the_old_file_or_the_new_one_and_what_can_be_swept(
    target: Path, seam: str, content: bytes, n_left: int
) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from r3po.storage import durable as storage\n"
        f"storage.{seam} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write_whole(Path(sys.argv[1]), b'new' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], env=ENVIRONMENT)
    assert done.returncode == -9
    assert target.read_bytes() == content
    assert storage.remove_temporaries(target.parent) == n_left
    assert os.listdir(target.parent) == ["file"]


# The small durable steps


def test_folders_are_synced_and_closed_and_so_is_the_parent_of_a_new_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fsync", descriptors.append)
        storage.sync_folder(tmp_path)
    [descriptor] = descriptors
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    calls = Calls(monkeypatch)
    for _ in range(2):
        storage.make_data_folder(tmp_path / "csv")
        assert calls.synced == [tmp_path.stat().st_ino]


def test_removing_says_whether_there_was_a_file_and_syncs_the_folder_then(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    assert storage.remove_durably(target) is True
    assert calls.made == ["unlink", "fsync folder"]
    assert calls.synced == [target.parent.stat().st_ino]
    assert storage.remove_durably(target) is False
    assert calls.made[2:] == ["unlink"]
    target.touch()
    assert storage.remove_if_there(target) is True
    assert storage.remove_if_there(target) is False
    assert storage.remove_if_there(target.parent / "no folder" / "file") is False
    assert len(calls.synced) == 1


def test_remove_temporaries_takes_nothing_else(tmp_path: Path) -> None:
    others = [".hidden", "a.tmp", ".mine.tmp", "part-00001.csv", ".a.tmp.csv"]
    for name in [*others, f".{'1f' * 16}.tmp", f".{'2f' * 16}.tmp"]:
        (tmp_path / name).touch()
    assert storage.remove_temporaries(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    assert storage.remove_temporaries(tmp_path / "no folder") == 0


def test_remove_tree_removes_all_below_and_minds_no_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_bytes(b"123")
    assert [storage.has_size(tmp_path / "tree" / "below" / "file", n) for n in (2, 3)] == [False, True]
    for _ in range(2):
        storage.remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []
    assert not storage.has_size(tmp_path / "tree", 0)


def test_list_names_is_sorted_and_empty_for_a_missing_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "C", ".d"):
        (tmp_path / name).touch()
    assert list(storage.list_names(tmp_path)) == [".d", "C", "a", "b"]
    assert list(storage.list_names(tmp_path / "no folder")) == []
    assert list(storage.list_names(tmp_path / "a")) == [], "it is no folder"


def test_make_folder_makes_parents_leaves_no_probe_and_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    for _ in range(2):
        storage.make_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FolderError, match="cannot write here") as caught:
            storage.make_folder(folder)
        assert caught.value.where == folder


def test_the_folders_of_a_job_are_made_and_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    JobFolders(tmp_path / "work", tmp_path / "out").make()
    assert list(storage.list_names(tmp_path / "work")) == ["commits", "outcomes", "runs", "segments", "shards"]
    assert list(storage.list_names(tmp_path / "out")) == [".staging", "failures"]
    parents = {tmp_path, tmp_path / "work", tmp_path / "out"}
    assert {folder.stat().st_ino for folder in parents} <= set(calls.synced)


# JSON with a digest

CONTENT = {
    "format": 1,
    "kind": "manifest",
    "job_id": "0123456789abcdef",
    "count": 1_000_000,
    "share": 0.5,
    "is_on": True,
    "nothing": None,
    "path": {"path": 'a "quoted"\nname\\ \N{SNOWMAN}'},
    "shards": [{"shard": 0, "n_files": 12}, {"shard": 1, "n_files": 7}],
}


def read(path: Path) -> dict[str, Any]:
    return read_json(path, kind="manifest", newest_format=1)


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = write_json(tmp_path / "a.json", CONTENT)
    assert read(tmp_path / "a.json") == CONTENT
    assert (record.size_bytes, record.sha256) == storage.digest_file(tmp_path / "a.json")
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_is_for_people_and_for_whoever_checks_a_job_without_r3po(tmp_path: Path) -> None:
    """FORMAT.md says that the digest is that of the file without it."""
    write_json(tmp_path / "a.json", {"format": 1, "kind": "manifest"})
    digest = hashlib.sha256(b'{\n  "format": 1,\n  "kind": "manifest"\n}\n').hexdigest()
    expected = f'{{\n  "format": 1,\n  "kind": "manifest",\n  "digest": "{digest}"\n}}\n'
    assert (tmp_path / "a.json").read_text() == expected


def test_a_flipped_bit_in_json_is_never_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    good = path.read_bytes()
    n_refused = n_same = 0
    with open(path, "r+b", buffering=0) as file:
        for position, bit in product(range(len(good)), range(8)):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            file.seek(0)
            file.write(bad)
            try:
                # repr, since 1 == 1.0 == True
                assert repr(read(path)) == repr(CONTENT), (position, bit)
                n_same += 1
            except (DamagedStateError, NewerFormatError) as error:
                assert error.where == path
                n_refused += 1
    assert n_refused + n_same == 8 * len(good)
    assert n_refused > 0.95 * 8 * len(good)


def test_truncated_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    good = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for size in range(len(good) - 2, -1, -1):  # the last byte is the newline after the closing brace
            for torn in (
                good[:size],
                good[:size].ljust(len(good), b"\0"),
            ):  # so does a power cut leave an unsynced file
                file.truncate(0)
                os.pwrite(file.fileno(), torn, 0)
                with pytest.raises(DamagedStateError):
                    read(path)


def test_json_that_is_not_ours_is_refused_with_a_way_on(tmp_path: Path) -> None:
    texts = [
        "[]",
        "null",
        "1",
        '"a"',
        "{",
        "{}",
        '{"format": "1"}',
        '{"kind": "manifest"}',
        "\x00",
        json.dumps(CONTENT),
    ]
    for text in texts:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DamagedStateError) as caught:
            read(tmp_path / "a.json")
        first, hint = str(caught.value).splitlines()
        assert first.startswith(f"{tmp_path}/a.json: is damaged: ")
        assert ("no valid JSON" in first) == (text in ("{", "\x00"))
        assert hint == "hint:  put the file back from a copy, or make the job again: reset_all_tracking(config)"
    write_json(tmp_path / "a.json", CONTENT | {"kind": "commit"})
    with pytest.raises(DamagedStateError, match="it holds a 'commit', not a 'manifest'"):
        read(tmp_path / "a.json")


def test_json_of_a_newer_format_says_so_whatever_else_is_in_it(tmp_path: Path) -> None:
    """Nobody knows how a newer r3po makes its digests."""
    (tmp_path / "a.json").write_text('{"format": 3, "shape": "new"}')
    with pytest.raises(NewerFormatError) as caught:
        read(tmp_path / "a.json")
    assert str(caught.value) == (
        f"{tmp_path}/a.json: format 3 is newer than this r3po reads (1)\n"
        "hint:  upgrade r3po, or give this job another working_dir"
    )


# Names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE}".encode(), "\u00e9 \U0001f600"),
        (b"caf\xe9/\xff\xfe.json", r"caf\xe9/\xff\xfe.json"),
        (rb"a literal \xff", r"a literal \xff"),
        (b"two\nlines", "two\nlines"),
        ("plain, \u00e9, \u679c\u7269, \U0001f600", "plain, \u00e9, \u679c\u7269, \U0001f600"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\r\x07", r"\x1b[31mred\r\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_names_are_shown_as_text_and_text_cannot_steer_the_terminal(name: bytes | str, shown: str) -> None:
    assert (show_name(os.fsdecode(name)) if isinstance(name, bytes) else show_text(name)) == shown


@settings(deadline=None)
@given(st.binary())
@example("caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE}".encode() + b"\xff\n")
def test_names_keep_every_byte_in_json_and_are_plain_where_they_are_utf_8(name: bytes) -> None:
    path = os.fsdecode(name)
    back = name_from_json(orjson.loads(orjson.dumps({**name_to_json(path), "size": 1})))
    assert back == path
    assert os.fsencode(back) == name
    assert name_to_json(r"a \xff") == {"path": r"a \xff"}
    assert name_to_json(os.fsdecode(b"a \xff")) == {"path": r"a \xff", "path_b64": "YSD/"}


# The lock

HOLDER = """\
import sys
from pathlib import Path
from r3po.storage.lock import JobLock

with JobLock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def lock_held_elsewhere(working_dir: Path, script: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin is closed, or until it is killed."""
    script.write_text(HOLDER)
    command = [sys.executable, str(script), str(working_dir), "two words"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_the_second_process_is_told_who_holds_the_lock_until_the_holder_is_killed(
    working_dir: Path, tmp_path: Path
) -> None:
    with lock_held_elsewhere(working_dir, tmp_path / "holder.py") as process:
        with pytest.raises(LockedError) as caught, JobLock(working_dir):
            pass
        assert running_pid(working_dir) == process.pid
        process.kill()
        process.wait()
        assert running_pid(working_dir) is None
        with JobLock(working_dir):
            assert running_pid(working_dir) == os.getpid()
    message = str(caught.value)
    assert f"working_dir is in use by another run: pid {process.pid} on " in message
    assert f"s ago, \"holder.py {working_dir} 'two words'\"" in message
    assert caught.value.exit_code == 4


def test_a_second_lock_in_the_same_process_is_refused(working_dir: Path) -> None:
    with JobLock(working_dir):
        for _ in range(2):
            with pytest.raises(LockedError, match=f"pid {os.getpid()} on "), JobLock(working_dir):
                pass


def test_the_lock_is_free_afterwards_whatever_happened_and_leaves_no_note_of_a_holder(working_dir: Path) -> None:
    for error in (None, KeyboardInterrupt(), None):
        with pytest.raises(KeyboardInterrupt) if error else nullcontext(), JobLock(working_dir):
            if error:
                raise error
        assert running_pid(working_dir) is None
        assert not (working_dir / "lock.holder.json").exists()


def test_asking_who_runs_makes_no_file_and_takes_no_lock(working_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a look at the lock could turn away a run that starts this moment")

    monkeypatch.setattr(filelock, "FileLock", refuse)
    assert running_pid(working_dir) is None
    assert os.listdir(working_dir) == []


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"pid": 1, "host": "a", "command": "b", "started": "x"}'])
def test_a_torn_note_of_the_holder_does_not_hide_the_lock(working_dir: Path, note: str) -> None:
    with JobLock(working_dir):
        (working_dir / "lock.holder.json").write_text(note)
        assert running_pid(working_dir) is None
        with pytest.raises(LockedError, match=r"in use by another run\nhint: "), JobLock(working_dir):
            pass


def test_a_holder_on_another_machine_is_not_looked_for_on_this_one(working_dir: Path) -> None:
    note = {"pid": os.getpid(), "host": "another machine", "command": "r3po run", "started": 0}
    (working_dir / "lock.holder.json").write_text(json.dumps(note))
    assert running_pid(working_dir) is None


def test_a_folder_that_cannot_be_locked_is_refused_and_a_note_that_cannot_be_written_does_not_stop_the_run(
    working_dir: Path,
) -> None:
    """The note is for people, neither durable nor needed; a full disk is to be told of where it matters."""
    (working_dir / "lock.holder.json").mkdir()
    with JobLock(working_dir):
        pass
    (working_dir / "lock").unlink(missing_ok=True)
    (working_dir / "lock").mkdir()
    with pytest.raises(FolderError, match="cannot lock here"), JobLock(working_dir):
        pass


def test_time_spans_are_told_in_their_largest_unit() -> None:
    spans = [-5.0, 59.9, 60, 3599, 3600, 86_399, 86_400, 172_800]
    assert [ago(seconds) for seconds in spans] == ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 day", "2 days"]
