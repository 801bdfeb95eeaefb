"""The guard of a private Ray: what it says and does when the driver at the other end of its stdin is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from r3po.engines import ray_guard as guard
from r3po.engines.ray_guard import DIED_AT_START, DONE, ENDED, STARTED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "r3po-ray-test"
    folder.mkdir()
    return folder


def guarded(folder: Path, words: bytes) -> str:
    """Return what the guard says to stderr after the driver said `words` and closed the pipe."""
    command = [sys.executable, "-I", "-S", guard.__file__, str(folder)]
    done = subprocess.run(command, input=words, stderr=subprocess.PIPE, check=True, timeout=60)
    return done.stderr.decode()


def test_a_driver_that_ends_while_ray_starts_is_spoken_for(folder: Path) -> None:
    assert guarded(folder, b"") == DIED_AT_START
    assert not folder.exists()


@pytest.mark.parametrize("words", [STARTED, STARTED + ENDED, ENDED], ids=["killed later", "Ray died", "no start"])
def test_a_driver_that_speaks_for_itself_is_only_cleaned_up_after(folder: Path, words: bytes) -> None:
    assert guarded(folder, words) == ""
    assert not folder.exists()


@pytest.mark.parametrize("words", [STARTED + DONE, DONE])
def test_a_ray_that_ended_well_is_left_alone(folder: Path, words: bytes) -> None:
    assert guarded(folder, words) == ""
    assert folder.exists()
