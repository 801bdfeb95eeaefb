"""Jobs whose f is called on another machine, which shares nothing with the driver but the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from away import TwoMachines
from jobs import DOUBLE, PICKY, Job, make_job
from r3po.state import segments
from r3po.state.segments import Segment
from r3po.storage import durable

MANY = """\
import json


def spread(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n == 5:
        raise ValueError("five")
    return [{"n": n, "i": i} for i in range(n % 4)]
"""


def run_here(job: Job, **keys: Any) -> dict[str, Any]:
    ended = job.run("--json")
    assert ended.code in (0, 1), ended.err
    return ended.json()


def assert_goes_on(job: Job) -> None:
    """The next run comes to its end, with each of the 40 files in its row."""
    assert job.run().code == 0
    assert [row["n"] for row in job.rows()] == [str(n) for n in range(40)]
    assert job.findings() == []


@pytest.mark.parametrize(
    ("function", "keys"),
    [
        (DOUBLE, {}),
        (PICKY.format(bad=[3, 11]), {"input": "path", "hash": "stat"}),
        (MANY.replace("spread", "double"), {"rows": "many"}),
    ],
    ids=["rows", "failures", "many rows"],
)
def test_the_parts_are_those_of_a_run_at_home(
    function: str,
    keys: dict[str, Any],
    tmp_path: Path,
    two_machines: list[TwoMachines],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = make_job(tmp_path / "away", 40, function, shard_size=15, batch_seconds=0.01, **keys)
    found = run_here(away)
    assert {method for worker, method in two_machines[0].calls if worker == 0} == {"load", "stage"}
    assert {"probe", "run_batch"} <= {method for worker, method in two_machines[0].calls if worker == 1}
    assert [share["name"] for share in found["machines"]] == ["away"]
    assert found["machines"][0]["n_files"] == 40
    monkeypatch.undo()
    home = make_job(tmp_path / "home", 40, function, shard_size=15, batch_seconds=0.01, **keys)
    assert run_here(home)["machines"] == []
    assert away.parts() == home.parts()
    assert away.findings() == []


def test_an_answer_that_cannot_be_stored_counts_nowhere(
    tmp_path: Path, two_machines: list[TwoMachines], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, 40, DOUBLE, shard_size=100, batch_seconds=0.001)
    store, stored = segments.store_segment, []

    def refuse_the_third(folder: Path, segment: Segment, content: bytes) -> None:
        stored.append(segment.name)
        if len(stored) == 3:
            raise OSError(28, "No space left on device")
        store(folder, segment, content)

    with monkeypatch.context() as patch:
        patch.setattr("r3po.run.loop.store_segment", refuse_the_third)
        ended = job.run()
    assert ended.code == 3
    assert "No space left" in ended.err
    assert 0 < job.status()["pending"] < 40
    assert_goes_on(job)


def test_a_driver_that_is_killed_while_it_stores_an_answer_loses_that_batch_alone(
    tmp_path: Path, two_machines: list[TwoMachines], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    job = make_job(tmp_path, 40, DOUBLE, shard_size=100, batch_seconds=0.001)
    replace, n_replaced = durable._replace, 0

    def die(old: Any, new: Any) -> None:
        nonlocal n_replaced
        if str(new).endswith(".arrow"):
            n_replaced += 1
            if n_replaced == 4:
                raise Killed
        replace(old, new)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(durable, "_replace", die)
        job.run()
    assert_goes_on(job)


def test_a_damaged_answer_is_done_again(
    tmp_path: Path, two_machines: list[TwoMachines], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, 40, DOUBLE, shard_size=100, batch_seconds=0.001)
    store, stored = segments.store_segment, []

    def garble_the_second(folder: Path, segment: Segment, content: bytes) -> None:
        stored.append(segment.name)
        store(folder, segment, content[:-1] + b"?" if len(stored) == 2 else content)

    monkeypatch.setattr("r3po.run.loop.store_segment", garble_the_second)
    found = run_here(job)
    assert (found["done"], found["rows"]) == (40, 40)
    assert any("lost their outcome" in notice for notice in found["notices"])
    assert job.findings() == []
