"""The temporary folder of an agent: one that is used is left alone, one whose agent was killed goes with the next."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from r3po.engines.agent import FOLDER_PREFIX, take_agent_folder


def folders(place: Path) -> set[Path]:
    return set(place.glob(f"{FOLDER_PREFIX}*"))


def test_a_folder_whose_agent_was_killed_goes_with_the_next_agent_and_others_stay(tmp_path: Path) -> None:
    used, held = take_agent_folder([str(tmp_path)])
    left, gone = take_agent_folder([str(tmp_path)])
    (left / "workers").mkdir()
    gone.release()
    being_made = tmp_path / f"{FOLDER_PREFIX}being_made"
    being_made.mkdir()
    new, lock = take_agent_folder([str(tmp_path)])
    assert folders(tmp_path) == {used, being_made, new}
    for one in (held, lock):
        one.release()


def test_a_place_that_takes_no_folder_is_passed_over(tmp_path: Path) -> None:
    folder, lock = take_agent_folder([str(tmp_path / "missing"), str(tmp_path)])
    assert folder.parent == tmp_path
    lock.release()


def test_a_machine_that_cannot_use_the_store_is_told_why_and_keeps_nothing(tmp_path: Path) -> None:
    code = """
from r3po.engines.agent import Agent, Visit
from r3po.errors import StoreError
from r3po.function.travel import Baggage
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore

class Store(ObjectStore):
    def check_listing(self):
        raise StoreError("no credentials for S3 were found", hint="type: aws configure")

arrival = Agent().arrive(Visit(None, Baggage(), (), {}, Store(ObjectUrl.parse("s3://files"))))
print(arrival.trouble, arrival.hint, sep="|")
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    expected = "it cannot use the store: no credentials for S3 were found|type: aws configure\n"
    assert done.stdout == expected, done.stderr
    assert folders(tmp_path) == set()
