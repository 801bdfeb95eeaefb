"""Who ends what is left when the process at the other end of its pipe is gone: a guard, and the keeper of a Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import HAS_PROC, wait_until
from r3po.engines import ray_guard
from r3po.engines.ray_guard import DONE
from r3po.engines.ray_keeper import DIED_AT_START, DIED_WITH_RAY, END, JOINED, Settings, command_of
from r3po.storage.temporary import take_folder
from r3po.worker.processes import children_of, name_and_state

needs_proc = pytest.mark.skipif(not HAS_PROC, reason="finds processes by /proc")


@pytest.mark.parametrize(("word", "is_left"), [(b"", False), (DONE, True)], ids=["killed", "ended well"])
def test_the_guard_removes_the_folder_of_a_process_that_did_not(word: bytes, is_left: bool, tmp_path: Path) -> None:
    folder = tmp_path / "r3po-ray-test"
    folder.mkdir()
    command = [sys.executable, "-I", "-S", ray_guard.__file__, str(folder)]
    ended = subprocess.run(command, input=word, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr, folder.exists()) == (0, b"", is_left)


def test_the_guard_removes_what_nobody_holds_the_lock_of_any_more(tmp_path: Path) -> None:
    used, lock = take_folder("r3po-objects-", [str(tmp_path)])
    for name in ("r3po-objects-left", "r3po-objects-being-made", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "r3po-objects-left" / "copy").touch()
    for name in ("r3po-objects-left", "elsewhere"):
        (tmp_path / name / "lock").touch()
    (tmp_path / "agent").mkdir()
    command = [sys.executable, "-I", "-S", ray_guard.__file__, str(tmp_path / "agent"), str(tmp_path / "r3po-objects-")]
    subprocess.run(command, input=b"", capture_output=True, timeout=60, check=True)  # until its pipes are closed
    assert {path.name for path in tmp_path.iterdir()} == {used.name, "r3po-objects-being-made", "elsewhere"}
    lock.release()


# The second step of a keeper, with a child that stands for a raylet

RAYLET = """\
import os, subprocess, sys, time
folder = sys.argv[1]
open("/proc/self/comm", "w").write("raylet")
subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:  # what nobody is the parent of any more
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(600)
os.wait()
open(folder + "/there", "w").close()
time.sleep(600)
"""

BEFORE = """\
import dataclasses, json, os, subprocess, sys
from r3po.engines import ray_keeper
settings = ray_keeper.Settings(**json.loads(sys.argv[1]))
ray_keeper._adopt_orphans()
raylet = subprocess.Popen([sys.executable, "-c", sys.argv[2], settings.folder])
print(raylet.pid, flush=True)
os.set_inheritable(settings.screen, True)
settings = dataclasses.replace(settings, vital={str(raylet.pid): "raylet"})
command = ray_keeper.command_of(settings, "-I", "-S")
os.execv(command[0], command)
"""
"""What the first step does to become the second, without Ray."""


@contextlib.contextmanager
def keeper(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A keeper and the process id of what it takes for a raylet."""
    settings = Settings(str(folder), os.getpid(), 2, 1, 0, 0)
    command = [sys.executable, "-c", BEFORE, command_of(settings)[-1], RAYLET]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        raylet = int(process.stdout.readline())
        try:
            wait_until((folder / "there").exists, "the raylet and its children are there")
            yield process, raylet
        finally:
            process.kill()


def end_of(process: subprocess.Popen[bytes], words: bytes) -> str:
    """Say so much, close the pipe, and return what the keeper wrote to the driver's stderr."""
    return process.communicate(words, timeout=60)[1].decode()


@needs_proc
@pytest.mark.parametrize(
    ("words", "said"),
    [(b"", DIED_AT_START), (END, ""), (JOINED, ""), (JOINED + END, "")],
    ids=["died while Ray started", "did not want it", "killed later", "ended well"],
)
def test_the_keeper_ends_all_below_it_and_speaks_for_a_driver_that_died_at_the_start(
    words: bytes, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    with keeper(folder) as (process, _):
        wait_until(lambda: len(children_of(process.pid)) == 2, "an orphan came to the keeper")
        below = [*children_of(process.pid), *(pid for child in children_of(process.pid) for pid in children_of(child))]
        assert len(below) == 3
        assert (end_of(process, words), process.returncode) == (said, 0)
        assert [pid for pid in below if name_and_state(pid)[1]] == []
    assert not folder.exists()


@needs_proc
def test_the_keeper_says_which_part_of_ray_took_the_driver_along(tmp_path: Path) -> None:
    with keeper(tmp_path) as (process, raylet):
        os.kill(raylet, signal.SIGKILL)
        wait_until(lambda: not name_and_state(raylet)[1], "the keeper has noticed")
        assert end_of(process, JOINED) == DIED_WITH_RAY.format(name="raylet")
