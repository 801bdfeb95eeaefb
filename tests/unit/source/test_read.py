"""A file around a call of f: what may happen to the file meanwhile, and to our descriptor."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from r3po.file_version import FileVersion
from r3po.source.hashing import BLOCK_BYTES
from r3po.source.read import FileInUse, read_file, use_file

OLD_NS = 1_700_000_000_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_bytes(b"12345")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    return path


@pytest.fixture(params=["opened", "by path"])
def in_use(request: pytest.FixtureRequest, file: Path) -> Iterator[FileInUse]:
    is_opened = request.param == "opened"
    taken = read_file(str(file), wants_data=False, wants_hash=True) if is_opened else use_file(str(file))
    yield taken
    taken.close()


def descriptors(of: Path | None = None) -> set[int]:
    """Return what this process has open, or only what it has open of one file."""
    found = set()
    for number in range(256):
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            if of is None or os.path.samestat(status, os.stat(of)):
                found.add(number)
    return found


@pytest.mark.parametrize("wants_data", [True, False])
@pytest.mark.parametrize("wants_hash", [True, False])
@pytest.mark.parametrize("size", [0, 5, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_a_file_is_read_for_what_is_wanted(tmp_path: Path, size: int, wants_data: bool, wants_hash: bool) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    in_use = read_file(str(tmp_path / "a"), wants_data=wants_data, wants_hash=wants_hash)
    in_use.close()
    assert in_use.version.is_like(FileVersion(size, os.stat(tmp_path / "a").st_mtime_ns))
    assert in_use.data == (data if wants_data else None)
    if wants_hash:
        assert in_use.version.hash == hashlib.blake2b(data, digest_size=16).digest()
        assert in_use.version.is_racy


def replace_with(file: Path, content: bytes, mtime_ns: int) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(content)
    os.utime(other, ns=(mtime_ns, mtime_ns))
    other.rename(file)


def write_within_the_same_mtime(file: Path) -> None:
    """Another size: the mtime alone would not tell."""
    file.write_bytes(b"123456")
    os.utime(file, ns=(OLD_NS, OLD_NS))


@pytest.mark.parametrize(
    ("happens", "holds"),
    [
        (lambda file: None, True),
        (lambda file: file.chmod(0o600), True),
        (lambda file: os.link(file, file.with_name("other")), True),
        (lambda file: replace_with(file, b"12345", OLD_NS), True),  # as good as the same: so says the next build, too
        (lambda file: os.utime(file), False),
        (lambda file: file.write_bytes(b"54321"), False),
        (write_within_the_same_mtime, False),
        (lambda file: replace_with(file, b"54321", OLD_NS + 1), False),
        (lambda file: replace_with(file, b"543210", OLD_NS), False),
    ],
)
def test_a_version_holds_while_size_and_mtime_of_what_the_path_names_stay(
    in_use: FileInUse, file: Path, happens: Callable[[Path], object], holds: bool
) -> None:
    happens(file)
    assert in_use.still_holds() is holds


@pytest.mark.parametrize("error", [FileNotFoundError, OSError])
def test_a_file_that_goes_or_becomes_a_fifo_is_an_error(in_use: FileInUse, file: Path, error: type[OSError]) -> None:
    file.unlink()
    if error is OSError:
        os.mkfifo(file)
    with pytest.raises(error):
        in_use.still_holds()


def test_a_descriptor_that_f_closed_is_not_closed_again_and_the_path_is_asked_instead(file: Path) -> None:
    """Whatever has its number by then is f's own."""
    in_use = read_file(str(file), wants_data=True, wants_hash=True)
    (ours,) = descriptors(of=file)
    os.close(ours)
    assert in_use.still_holds()
    theirs = os.open(file.parent, os.O_RDONLY)
    try:
        assert theirs == ours
        assert in_use.still_holds()
        file.write_bytes(b"123")
        assert not in_use.still_holds()
        in_use.close()
        assert theirs in descriptors()
    finally:
        os.close(theirs)
    in_use.close()


def test_nothing_stays_open(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    read_file(str(file), wants_data=True, wants_hash=True).close()
    monkeypatch.setattr("r3po.source.read._read_whole", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_file(str(file), wants_data=True, wants_hash=True)
    with pytest.raises(OSError):
        read_file(str(tmp_path), wants_data=True, wants_hash=True)
    assert descriptors() == before
