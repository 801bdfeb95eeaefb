"""Reading ahead: when it begins, what the kernel is told of, when it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import r3po.source.read_ahead as readahead
from r3po.source.read_ahead import BURST, WINDOW, ReadAhead

pytestmark = pytest.mark.skipif(not readahead.IS_POSSIBLE, reason="this system cannot be asked what is in memory")

PATHS = [f"/nowhere/{i:03}" for i in range(1000)]


class Kernel:
    """Notes what it is told of; `in_memory` are there already."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.in_memory: set[str] = set()

    def __call__(self, path: str, told_bytes: int) -> bool:
        self.asked.append(path)
        return path in self.in_memory


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(readahead, "_is_in_memory_or_told", kernel)
    return kernel


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`waited`: seconds that this process waited."""
    clock = SimpleNamespace(waited=0.0)
    monkeypatch.setattr(readahead, "_waited", lambda: clock.waited)
    return clock


def waiting(clock: SimpleNamespace, paths: list[str], n_done: int = 10) -> ReadAhead:
    """Return one that has seen its process wait."""
    ahead = ReadAhead()
    ahead.begin(iter(paths))
    clock.waited += 1.0
    ahead.look(n_done)
    assert ahead.is_on
    return ahead


def test_it_tells_of_what_comes_next_and_then_of_as_many_as_were_done(kernel: Kernel, clock: SimpleNamespace) -> None:
    ahead = waiting(clock, PATHS)
    for _ in range(BURST - 1):
        ahead.advance()
    assert kernel.asked == PATHS[10 : 10 + WINDOW]
    ahead.advance()
    assert kernel.asked == PATHS[10 : 10 + WINDOW + BURST]


def test_it_goes_on_with_the_next_batch_and_not_beyond_its_end(kernel: Kernel, clock: SimpleNamespace) -> None:
    ahead = waiting(clock, PATHS[:20])
    assert kernel.asked == PATHS[10:20]
    ahead.begin(iter(PATHS[20:30]))
    for _ in range(2 * BURST):
        ahead.advance()
    assert kernel.asked == PATHS[10:30]


def test_a_process_that_works_reads_nothing_ahead(kernel: Kernel, clock: SimpleNamespace) -> None:
    ahead = ReadAhead()
    ahead.begin(iter(PATHS))
    for n_done in (10, 10, 20):
        clock.waited += readahead.WAITS_S * 9
        ahead.look(n_done)
    assert not ahead.is_on
    assert not kernel.asked


def test_it_begins_in_the_middle_of_a_batch_where_f_has_come_to(kernel: Kernel, clock: SimpleNamespace) -> None:
    ahead = ReadAhead()
    ahead.begin(iter(PATHS))
    ahead.look(100)
    clock.waited += 1.0
    ahead.look(200)
    assert kernel.asked == PATHS[200 : 200 + WINDOW]


def test_it_ends_where_files_are_in_memory_and_is_not_tried_again_for_a_while(
    kernel: Kernel, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.in_memory = set(PATHS[50:])
    ahead = waiting(clock, PATHS)
    for _ in range(2 * BURST):
        ahead.advance()
    assert not ahead.is_on
    assert kernel.asked == PATHS[10 : 50 + WINDOW]
    clock.waited += 1.0
    ahead.look(200)
    assert not ahead.is_on
    monkeypatch.setattr(ahead, "_not_before", 0.0)
    kernel.in_memory.clear()
    clock.waited += 1.0
    ahead.look(300)
    assert ahead.is_on
    assert kernel.asked[-WINDOW:] == PATHS[300 : 300 + WINDOW]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """What the kernel is advised of, since it is not in memory."""
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *advice: told.append(advice))
    return told


def refuse(number: int) -> Any:
    def preadv(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return preadv


def test_the_kernel_is_told_of_what_is_not_in_memory_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").touch()
    for name in ("file", "empty"):
        assert readahead._is_in_memory_or_told(str(tmp_path / name), 4096)
    assert not told
    monkeypatch.setattr(os, "preadv", refuse(errno.EAGAIN))
    assert readahead._is_in_memory_or_told(str(tmp_path / "file"), 4096) is False
    assert told == [(0, 4096, os.POSIX_FADV_WILLNEED)]


def test_where_nobody_says_what_is_in_memory_nothing_is_read_ahead(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    monkeypatch.setattr(os, "preadv", refuse(errno.EOPNOTSUPP))
    (tmp_path / "file").write_bytes(b"x")
    ahead = ReadAhead()
    for n_done in (1, 2):
        ahead.begin(iter([str(tmp_path / "file")] * 10))
        clock.waited += 1.0
        ahead.look(n_done)
        assert not ahead.is_on
    assert not told


def test_what_cannot_be_read_is_left_to_f(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc") else []
    assert readahead._is_in_memory_or_told(str(tmp_path / "deleted"), 4096)
    assert readahead._is_in_memory_or_told(str(tmp_path / "loop"), 4096)
    for name in ("folder", "fifo"):
        readahead._is_in_memory_or_told(str(tmp_path / name), 4096)
    assert before == (os.listdir("/proc/self/fd") if os.path.isdir("/proc") else [])
