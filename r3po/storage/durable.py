"""Durable files: there whole or not at all, whatever is killed, and after a power cut.

Every file that r3po leaves behind goes through `NewFile`: written under another name in the target's folder, fsynced,
renamed, the folder fsynced. The module variables `_fsync`, `_replace`, `_unlink` and `_create` are the seams at which
the tests stop the world; nothing else in r3po renames, removes or syncs.

Source of the rules: FORMAT.md, "Whole or not at all".
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from r3po.errors import FolderError, RunStoppedError

TEMPORARY_SUFFIX = ".tmp"
"""Ends the name of every file that is not finished; `remove_temporaries` sweeps them."""

LEAST_BYTES = 32 << 20
LEAST_FILES = 200
"""What must be free on the disks of working_dir and output_path before anything is started."""

_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{32}\.tmp")

# The seams. Tests replace them to fail, to stop, or to count; see tests/jobs/test_crash_points.py.
_create = os.open
_fsync = os.fsync
_replace = os.replace
_unlink = os.unlink


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


class _Sink:
    """A writable binary stream that knows the digest of what was written. It has what pyarrow asks of a file object."""

    _stream: IO[bytes]

    def __init__(self) -> None:
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
        """Do nothing: only `finish` ends a file."""

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


class MemoryFile(_Sink):
    """A file in the making that never comes to a disk of this machine: `content` has it."""

    def __init__(self) -> None:
        super().__init__()
        self._memory = self._stream = io.BytesIO()

    @property
    def content(self) -> bytes:
        """All that was written."""
        return self._memory.getvalue()


class NewFile(_Sink):
    """A file in the making: a writable binary stream that appears in `folder` whole, by `finish`, or not at all.

    The digest is taken while writing, so nothing is read back.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._temporary = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        descriptor = _create(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._stream = os.fdopen(descriptor, "wb", buffering=256 * 1024)

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
            hint="give this job another folder in its config, or fix the permissions",
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


def list_names(folder: Path) -> Iterator[str]:
    """Yield the names in `folder`, sorted; none if it is not there, or no folder."""
    try:
        yield from sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
