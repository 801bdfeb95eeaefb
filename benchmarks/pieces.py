"""The hot pieces one by one, for pytest-benchmark: `make bench-pieces` compares them with the saved baseline.

Each piece works on 2,000 small files, so its milliseconds halved are microseconds a file. Run on a machine that does
nothing else; a baseline of another machine says nothing: save one's own with `--benchmark-save=NAME` first.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import functions
import r3po.source.read_ahead as readahead
import r3po.table.outcomes as tables
from generate import write_tree
from r3po.config.settings import load_config
from r3po.function.find import find_function
from r3po.source.build import apply_build, plan_build
from r3po.source.hashing import hash_file
from r3po.source.new_manifest import BuildProgress
from r3po.source.walk import walk_blocks
from r3po.state.job import Job, job_folders, open_job
from r3po.state.segments import Segment, SegmentWriter
from r3po.table.columns import Columns
from r3po.work import Batch
from r3po.worker.messages import ShardContext, WorkerSetup
from r3po.worker.staging import StageOrder, stage_shard
from r3po.worker.worker import Worker

N_FILES = 2_000
FUNCTIONS = Path(__file__).resolve().parent / "functions.py"
KINDS = {
    "content": {"function": "count_produce"},
    "stat": {"function": "count_produce", "hash": "stat"},
    "bytes": {"function": "count_produce_bytes", "input": "bytes"},
}


@dataclass
class Bench:
    """A job of one shard, a worker, and what the driver would hand to it."""

    job: Job
    worker: Worker
    setup: WorkerSetup
    columns: Columns

    def offer(self, start: int = 0, columns: Columns | None = None) -> tuple[Batch, ShardContext]:
        built = self.job.built
        context = ShardContext(built.job_id, built.shards[0], built.build, os.urandom(8).hex(), columns)
        return Batch(0, 0, ((start, N_FILES),)), context


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder / "logs", N_FILES, per_folder=700)
    return folder / "logs"


def opened(kind: str, tree: Path, folder: Path) -> Iterator[Bench]:
    keys = {
        "job_name": kind,
        "processes": 1,
        "source_path": str(tree),
        "source_file_part": ".json",
        "working_dir": "working_dir",
        "output_path": "output_dir",
        **KINDS[kind],
        "function": f"{FUNCTIONS}:{KINDS[kind]['function']}",
    }
    file = folder / "config.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    config = load_config(str(file))
    (folder / "workers").mkdir()
    setup = WorkerSetup(
        folders=job_folders(config),
        source_path=str(tree),
        function=find_function(str(keys["function"]), folder),
        input=config.input,
        hash=config.hash,
        batch_seconds=3600.0,
        stop_file=folder / "stop",
        workers_folder=folder / "workers",
    )
    with open_job(config) as job:
        apply_build(job, plan_build(job, BuildProgress()))  # as a run does it: hashing is left to the workers
        worker = Worker(setup)
        worker.load()
        bench = Bench(job, worker, setup, Columns(()))
        columns = worker.probe(*bench.offer()).columns
        assert columns is not None
        yield replace(bench, columns=columns)
        worker.close()


@pytest.fixture(params=[*KINDS, "content, nothing ahead"])
def bench(
    request: pytest.FixtureRequest, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    kind, _, is_without = request.param.partition(", ")
    if is_without:
        monkeypatch.setattr(readahead, "IS_POSSIBLE", False)
    yield from opened(kind, tree, tmp_path)


@pytest.fixture
def content(tree: Path, tmp_path: Path) -> Iterator[Bench]:
    yield from opened("content", tree, tmp_path)


def test_walk(benchmark: Any, tree: Path) -> None:
    assert benchmark(lambda: sum(map(len, walk_blocks(tree, ".json")))) == N_FILES


def test_hash(benchmark: Any, tree: Path) -> None:
    paths = [str(tree / found[0]) for block in walk_blocks(tree, ".json") for found in block]
    assert len(benchmark(lambda: [hash_file(path) for path in paths])) == N_FILES


@pytest.mark.parametrize("name", ["count_produce", "count_produce_orjson"])
def test_bare_loop(benchmark: Any, tree: Path, name: str) -> None:
    """What a batch is measured against: the function on every file, and CSV."""
    paths = [str(tree / found[0]) for block in walk_blocks(tree, ".json") for found in block]
    function = getattr(functions, name)

    def loop() -> int:
        writer = csv.writer(io.StringIO())
        for path in paths:
            writer.writerow(function(path).values())
        return len(paths)

    assert benchmark(loop) == N_FILES


def test_batch(benchmark: Any, bench: Bench) -> None:
    """Read, call f, hash, collect, write the segment."""
    done = benchmark(lambda: bench.worker.run_batch(*bench.offer(columns=bench.columns)))
    assert done.n_done == N_FILES


def test_segment(benchmark: Any, content: Bench) -> None:
    """From rows in memory to a durable segment."""
    batch = tables.OutcomeBatch()
    for place in range(N_FILES):
        batch.places.append(place)
        batch.rows.append((place, place * 2, place * 3))
        batch.sizes.append(300)
        batch.mtimes_ns.append(place)
        batch.hashes.append(b"0123456789abcdef")
        batch.racy.append(False)
        batch.seconds.append(1e-5)

    def write() -> Segment:
        with SegmentWriter(content.setup.folders.segments, 0) as writer:
            return writer.finish(
                tables.outcome_table(batch, content.columns),
                build=1,
                job_id=content.job.built.job_id,
                attempt=os.urandom(8).hex(),
                fingerprint="f",
                n_failed=0,
            )

    assert benchmark(write).n_done == N_FILES


def test_stage(benchmark: Any, content: Bench) -> None:
    """From a segment to outcomes, CSV and Parquet, all durable."""
    done = content.worker.run_batch(*content.offer(columns=content.columns))
    assert done.segment is not None
    job = content.job
    order = StageOrder(
        folders=job.folders,
        job_id=job.built.job_id,
        job_name=job.built.job_name,
        version="0",
        ref=job.built.shards[0],
        build=job.built.build,
        attempt="staged",
        previous=None,
        segments=(done.segment,),
        rules=job.rules(),
        columns=content.columns,
        settings=job.part_settings,
        schema=None,
    )
    staged = benchmark(lambda: stage_shard(replace(order, attempt=os.urandom(8).hex())))
    assert staged.commit is not None
    assert staged.commit.tally.n_rows == N_FILES
