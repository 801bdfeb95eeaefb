"""Durable files, JSON with a digest, the job's folders and lock, and names that are bytes.

Every file that r3po leaves behind goes through `NewFile`: written under another name in the target's folder, fsynced,
renamed, the folder fsynced. The module variables `_fsync`, `_replace`, `_unlink` and `_create` are the seams at which
the tests stop the world; nothing else in r3po renames, removes or syncs.

Source of the rules: FORMAT.md, "Whole or not at all".
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock
import orjson

from r3po.errors import DamagedStateError, FolderError, LockedError, NewerFormatError, RunStoppedError

TEMPORARY_SUFFIX = ".tmp"
"""Ends the name of every file that is not finished; `remove_temporaries` sweeps them."""

LEAST_BYTES = 32 << 20
LEAST_FILES = 200
"""What must be free on the disks of working_dir and output_path before anything is started."""

_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{32}\.tmp")

# The seams. Tests replace them to fail, to stop, or to count; see tests/test_crash_points.py.
_create = os.open
_fsync = os.fsync
_replace = os.replace
_unlink = os.unlink


@dataclass(frozen=True, slots=True)
class JobFolders:
    """Where a job keeps what; FORMAT.md draws the tree."""

    working_dir: Path
    output_path: Path

    @property
    def manifest(self) -> Path:
        return self.working_dir / "manifest.json"

    @property
    def shards(self) -> Path:
        return self.working_dir / "shards"

    @property
    def segments(self) -> Path:
        return self.working_dir / "segments"

    @property
    def commits(self) -> Path:
        return self.working_dir / "commits"

    @property
    def outcomes(self) -> Path:
        return self.working_dir / "outcomes"

    @property
    def runs(self) -> Path:
        return self.working_dir / "runs"

    @property
    def suspects(self) -> Path:
        return self.working_dir / "suspects.json"

    @property
    def reset_marker(self) -> Path:
        """There while the job is being forgotten."""
        return self.working_dir / "reset"

    @property
    def claim(self) -> Path:
        return self.output_path / ".r3po.json"

    @property
    def staging(self) -> Path:
        return self.output_path / ".staging"

    @property
    def failures(self) -> Path:
        return self.output_path / "failures" / "failures.csv"

    def data(self, kind: str) -> Path:
        """The folder of the parts of one kind: `csv` or `parquet`."""
        return self.output_path / kind

    def success(self, kind: str) -> Path:
        return self.data(kind) / "_SUCCESS"

    def make(self) -> None:
        """Make all folders that a run writes to. Raises FolderError."""
        make_folder(self.working_dir)
        make_folder(self.output_path)
        for folder in (self.shards, self.segments, self.commits, self.outcomes, self.runs):
            make_folder(folder)
        make_folder(self.staging)
        make_folder(self.failures.parent)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A finished file as another file names it."""

    name: str
    """Relative to the folder that the naming file says."""
    size_bytes: int
    sha256: str
    """Hexadecimal, 64 characters, of the whole content."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "size_bytes": self.size_bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["name"], data["size_bytes"], data["sha256"])


class NewFile:
    """A file in the making: a writable binary stream that appears in `folder` whole, by `finish`, or not at all.

    The digest is taken while writing, so nothing is read back. It has what pyarrow asks of a file object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        descriptor = _create(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._stream = os.fdopen(descriptor, "wb", buffering=256 * 1024)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._stream.write(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Do nothing: only `finish` makes a file durable."""

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def close(self) -> None:
        """Do nothing, so that a writer that closes its sink leaves the file to `finish`."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest()

    def written(self) -> Path:
        """Return where everything that was written can be read; it is gone with the `with` block, unless mapped."""
        self._stream.flush()
        return self._temporary

    def finish(self, name: str) -> FileRecord:
        """Make the file durable under `name`, replacing what has that name, and return its record.

        Raises:
            OSError: the disk refused; the temporary file is removed. `name` has the old content, or all of the new.
        """
        self._stream.flush()
        # One fsync a descriptor, ever: after a failed one the kernel may call the lost pages clean.
        _fsync(self._stream.fileno())
        self._stream.close()
        _replace(self._temporary, self._folder / name)
        sync_folder(self._folder)
        return FileRecord(name, self._size, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(self._folder)  # a failed write does not say where
        # Closing may flush, and fail again on a full disk; the first error is already on its way to the caller.
        with contextlib.suppress(OSError):
            self._stream.close()
        # After `finish` this name is gone; before it, the file was never there.
        remove_if_there(self._temporary)


def write_whole(path: Path, data: bytes) -> FileRecord:
    """Make `data` the durable content of `path`, or leave `path` as it was."""
    with NewFile(path.parent) as new:
        new.write(data)
        return new.finish(path.name)


def make_empty(path: Path) -> None:
    """Make an empty file durably. It is whole at once, so no temporary appears beside it, even for a moment."""
    os.close(_create(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: without it a rename can be undone by a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(staged: Path, final: Path) -> None:
    """Rename a durable file over `final`; the caller syncs the folder, once for several files."""
    _replace(staged, final)


def remove_if_there(path: Path) -> bool:
    """Remove one file; a missing one is no error. Returns whether there was one."""
    try:
        _unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_durably(path: Path) -> bool:
    """Remove one file so that a power cut does not bring it back. Returns whether there was one."""
    was_there = remove_if_there(path)
    if was_there:
        sync_folder(path.parent)
    return was_there


def make_data_folder(folder: Path) -> None:
    """Make a data folder durably, unless it is there."""
    if not folder.is_dir():
        folder.mkdir()
        sync_folder(folder.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all it holds; a missing one is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file which `NewFile` did not finish."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> int:
    """Remove what a killed process left unfinished directly in `folder`. Returns how many files."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        stale = [e.path for e in entries if is_temporary(e.name)]
    return sum(remove_if_there(Path(path)) for path in stale)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents durably, and see that files can be made in it.

    Raises:
        FolderError: it cannot be made, is no folder, or is not writable.
        RunStoppedError: its disk is full.
    """
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync_folder(path.parent)  # a new folder's name is only durable with its parent
        probe = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.unlink(probe)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"cannot write here: {error.strerror}"
            raise RunStoppedError(what, where=folder, hint="make room there, then run again") from error
        raise FolderError(
            f"cannot write here: {error.strerror}",
            where=folder,
            hint="give this job another folder in its config, or mend the permissions",
        ) from error


def check_space(folder: Path) -> None:
    """See that there is room to begin with; how much a job will need is not known.

    Raises:
        RunStoppedError: the disk of `folder` is all but full, in bytes or in files.
    """
    space = os.statvfs(folder)
    free_bytes, free_files = space.f_bavail * space.f_frsize, space.f_favail
    what = ""
    if free_bytes < LEAST_BYTES:
        what = f"only {free_bytes / 2**20:.1f} MiB are free on this disk; {LEAST_BYTES >> 20} MiB are the least"
    elif space.f_files and free_files < LEAST_FILES:  # some file systems do not count
        what = f"only {free_files} more files can be made on this disk; {LEAST_FILES} are the least"
    if what:
        raise RunStoppedError(what, where=folder, hint="make room there, then run again; what was done is saved")


def digest_file(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the hexadecimal sha256 of a file. Raises OSError."""
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return stream.tell(), digest.hexdigest()


def has_size(path: Path, size_bytes: int) -> bool:
    """Whether `path` is there and holds `size_bytes` bytes."""
    try:
        return os.stat(path).st_size == size_bytes
    except OSError:
        return False


# JSON files of the job


def write_json(path: Path, content: dict[str, Any]) -> FileRecord:
    """Write `content` whole, with a digest of itself under the key `digest`."""
    return write_whole(path, _dump({**content, "digest": _digest_of(content)}) + b"\n")


def read_json(path: Path, *, kind: str, newest_format: int) -> dict[str, Any]:
    """Return what `write_json` wrote there, without the digest.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedStateError: it is not what was written (no JSON, another digest, another kind of file), or too old.
        NewerFormatError: its `format` is newer than `newest_format`.
    """
    try:
        content = orjson.loads(path.read_bytes())
    except (IsADirectoryError, PermissionError) as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise damaged(path, f"is damaged: no valid JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise damaged(path, "is damaged: not a file of r3po")
    if content["format"] > newest_format:
        raise NewerFormatError(
            f"format {content['format']} is newer than this r3po reads ({newest_format})",
            where=path,
            hint="upgrade r3po, or give this job another working_dir",
        )
    if content["format"] < newest_format:
        raise DamagedStateError(
            f"format {content['format']} is of a r3po before 0.3.0, and is not read any more ({newest_format} is)",
            where=path,
            hint="make the job anew: r3po reset --all, then r3po run",
        )
    digest = content.pop("digest", None)
    if digest != _digest_of(content):
        raise damaged(path, f"is damaged: its digest does not fit its content; it is not the {kind} that r3po wrote")
    if content.get("kind") != kind:
        raise damaged(path, f"is damaged: it holds a {content.get('kind')!r}, not a {kind!r}")
    return content


def _dump(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(_dump(content) + b"\n").hexdigest()


def damaged(path: Path, what: str) -> DamagedStateError:
    """Return the error for a file of the job's state that cannot be trusted."""
    return DamagedStateError(
        what, where=path, hint="put the file back from a copy, or make the job anew: r3po reset --all"
    )


# Names: bytes on disk, text on screen


def show_name(path: str) -> str:
    r"""Return a file name as text for people and for CSV: bytes that are not UTF-8 appear as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def show_text(text: str) -> str:
    """Return text whose control characters, newlines apart, cannot steer a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    # Control characters, halves of surrogates, line separators, and what turns the direction of writing.
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character != "\n"
    return unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def name_to_json(path: str) -> dict[str, str]:
    """Return the JSON fields of a file name: `path`, and `path_b64` with its bytes where they are not UTF-8."""
    shown = show_name(path)
    if shown == path:
        return {"path": path}
    return {"path": shown, "path_b64": base64.b64encode(os.fsencode(path)).decode("ascii")}


def name_from_json(data: dict[str, Any]) -> str:
    """Return the file name that `name_to_json` wrote, byte for byte."""
    if "path_b64" in data:
        return os.fsdecode(base64.b64decode(data["path_b64"]))
    path: str = data["path"]
    return path


# The lock


_HOLDER = "lock.holder.json"


class JobLock:
    """The right to change a job; one process at a time holds it, and the kernel frees it when that process dies."""

    def __init__(self, working_dir: Path) -> None:
        self._working_dir = working_dir
        # No soft fallback: a lock that is a mere file survives its holder's death.
        self._lock = filelock.FileLock(working_dir / "lock", timeout=0, fallback_to_soft=False)
        self._holder = working_dir / _HOLDER

    def __enter__(self) -> Self:
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise LockedError(
                f"working_dir is in use by another run{self._describe_holder()}",
                hint="wait for it, or give this job another working_dir",
            ) from error
        except OSError as error:
            raise FolderError(
                f"cannot lock here: {error.strerror or error}",
                where=self._working_dir,
                hint="working_dir needs a file system with locks (flock)",
            ) from error
        self._write_holder()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _write_holder(self) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
            "started": time.time(),
        }
        # A note for people, not state: neither durable nor needed.
        with contextlib.suppress(OSError):
            self._holder.write_text(json.dumps(holder), encoding="utf-8")

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text(encoding="utf-8"))
            since = ago(time.time() - holder["started"])
            return f': pid {holder["pid"]} on {holder["host"]}, started {since} ago, "{holder["command"]}"'
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def running_pid(working_dir: Path) -> int | None:
    """Return the pid of the run that is going on in this folder on this machine, or None.

    For people only: the lock itself is not touched, since trying it could turn away a run that starts this moment.
    """
    try:
        holder = json.loads((working_dir / _HOLDER).read_text(encoding="utf-8"))
        if holder["host"] != socket.gethostname():
            return None
        os.kill(holder["pid"], 0)
        return int(holder["pid"])
    except PermissionError:
        return int(holder["pid"])  # somebody else's process
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_names(folder: Path) -> Iterator[str]:
    """Yield the names in `folder`, sorted; none if it is not there, or no folder."""
    try:
        yield from sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return


def ago(seconds: float) -> str:
    """Return a time span for people, in its largest unit."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {unit}s" if unit == "day" and n > 1 else f"{n} {unit}"
    return f"{max(0, int(seconds))} s"
