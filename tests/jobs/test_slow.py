"""`r3po slow`: the slowest files and how the seconds of all files spread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import make_job, r3po
from r3po import slow_files
from r3po.errors import ConfigError

SLEEPS = """
import json
import time

def double(path):
    with open(path) as file:
        n = json.load(file)["n"]
    time.sleep(n / 100)
    if n == 4:
        raise ValueError("four")
    return {"n": n}
"""


def test_slow_names_the_slowest_files_rows_and_failures_alike(tmp_path: Path) -> None:
    job = make_job(tmp_path, 6, SLEEPS, shard_size=2)
    assert r3po("run", "--engine", "serial", cwd=tmp_path).code == 1
    found = json.loads(r3po("slow", "-n", "3", "--json", cwd=tmp_path).out)
    assert found["files"] == 6
    order = [one["path"] for one in found["slowest"]]
    numbers = [json.loads((job.source / path).read_text())["n"] for path in order]
    assert numbers == [5, 4, 3]
    assert [one["error_type"] for one in found["slowest"]] == ["", "ValueError", ""]
    assert found["p50"] < found["p95"] <= found["p99"] <= found["slowest"][0]["seconds"]
    assert found["slowest_percent_files"] == 1
    assert found["slowest_percent_share"] == pytest.approx(found["slowest"][0]["seconds"] / found["seconds"], rel=0.01)
    assert slow_files(job.config, 3).to_json() == found

    ended = r3po("slow", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.count("failed: ValueError") == 1
    assert "p50" in ended.out and "The slowest file took" in ended.out


def test_slow_says_so_where_nothing_is_done(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2)
    ended = r3po("slow", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "No file is done yet: r3po run\n")
    assert slow_files(job.config).slowest == ()
    with pytest.raises(ConfigError, match="at least 1"):
        slow_files(job.config, 0)


def test_the_slowest_percent_is_counted_exactly_where_seconds_are_equal() -> None:
    import pyarrow as pa

    from r3po.table.seconds import SecondsTally

    tally = SecondsTally(2)
    for shard in range(3):
        n = 100
        seconds = pa.array([1.0] * n, pa.float32())
        columns = {"seconds": seconds, "place": pa.array(range(n), pa.int32()), "is_row": pa.array([True] * n)}
        tally.add(shard, pa.table({**columns, "error_type": pa.nulls(n, pa.string())}), pa.array(range(n)))
    spread = tally.spread()
    assert (spread.n_files, spread.n_slowest, spread.slowest_share) == (300, 3, 0.01)
    assert [(one.shard, one.place) for one in tally.slowest()] == [(0, 0), (0, 1)]
