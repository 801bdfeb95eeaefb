"""The guard of a private Ray: what it says and does when the driver at the other end of its stdin is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from r3po.engines import ray_guard as guard
from r3po.engines.ray_guard import DIED_AT_START, DONE, ENDED, STARTED

CASES = {
    "died while Ray started": (b"", DIED_AT_START, False),  # somebody has to speak for it
    "killed later": (STARTED, "", False),
    "Ray died": (STARTED + ENDED, "", False),
    "no start": (ENDED, "", False),
    "ended well": (STARTED + DONE, "", True),
    "ended well at once": (DONE, "", True),
}


@pytest.fixture(scope="module")
def guards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bool]]:
    """What the guards said to stderr, and whether the folder is there, after the driver spoke and closed the pipe."""
    started = {}
    for name, (words, _, _) in CASES.items():  # all at once: each waits a while for its Ray
        folder = tmp_path_factory.mktemp("r3po-ray-test")
        command = [sys.executable, "-I", "-S", guard.__file__, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(words)
        process.stdin.close()
        process.stdin = None
        started[name] = process, folder
    said = {name: process.communicate(timeout=60)[1].decode() for name, (process, _) in started.items()}
    assert [process.returncode for process, _ in started.values()] == [0] * len(CASES)
    return {name: (said[name], folder.exists()) for name, (_, folder) in started.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_guard_speaks_and_cleans_up_for_a_driver_that_did_not(
    guards: dict[str, tuple[str, bool]], name: str
) -> None:
    assert guards[name] == CASES[name][1:]
