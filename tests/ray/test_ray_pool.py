"""Workers: one suite for all pools, then what processes can get wrong, that die, are killed, are left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import r3po
from jobs import (
    DOUBLE,
    GATED,
    HAS_PROC,
    Job,
    alive,
    all_pids,
    as_new_process,
    command_of,
    doubled,
    environment,
    make_job,
    running,
    tree_of,
    wait_until,
)
from r3po.config.settings import load_config
from r3po.engines.pool import Answer, Call, Pool, WorkerLost
from r3po.engines.processes import ProcessesPool
from r3po.engines.serial import SerialPool
from r3po.errors import DamagedStateError, FunctionError
from r3po.function.find import find_function
from r3po.jobbuilder import build_jobs
from r3po.state.job import job_folders
from r3po.state.manifest import Manifest
from r3po.state.segments import read_segment
from r3po.table.columns import Column, Columns
from r3po.work import Batch
from r3po.worker.messages import BatchDone, ShardContext, WorkerSetup


@dataclass
class Bench:
    """A job that was built, and the parts from which the driver makes its calls."""

    job: Job
    manifest: Manifest
    setup: WorkerSetup

    def offer(
        self, start: int, stop: int, columns: Columns | None = None, attempt: str = "a"
    ) -> tuple[Batch, ShardContext]:
        manifest = self.manifest
        context = ShardContext(manifest.job_id, manifest.shards[0], manifest.build, attempt, columns)
        return Batch(0, 0, ((start, stop),)), context


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with as_new_process(tmp_path):
        yield make_bench(tmp_path)


def make_bench(folder: Path, function: str = DOUBLE, n_files: int = 20) -> Bench:
    job = make_job(folder, n_files, function, batch_seconds=60.0)
    manifest = build_jobs(job.config)
    config = load_config(job.config)
    setup = WorkerSetup(
        folders=job_folders(config),
        source_path=str(config.source_path),
        function=find_function("double.py:double", job.folder),
        input=config.input,
        hash=config.hash,
        batch_seconds=config.batch_seconds,
        stop_file=job.folder / "stop",
        workers_folder=job.folder / "workers",
    )
    (job.folder / "workers").mkdir()
    return Bench(job, manifest, setup)


@pytest.fixture
def pool(engine: str, tmp_path: Path) -> Iterator[Pool]:
    if engine == "serial":
        made: Pool = SerialPool()
    elif engine == "processes":
        made = ProcessesPool()
    else:
        from r3po.engines.ray_pool import RayPool

        made = RayPool(tmp_path / "ray.log", tmp_path / "ray_folder")
    yield made
    made.close()


with_processes = pytest.mark.parametrize(
    "engine", ["processes", pytest.param("ray", marks=pytest.mark.ray)], indirect=True
)


def wait_for(pool: Pool, n: int) -> list[Answer | WorkerLost]:
    """Return the next `n` messages of a pool."""
    got: list[Answer | WorkerLost] = []

    def are_there() -> bool:
        got.extend(pool.wait(0.1))
        return len(got) >= n

    wait_until(are_there, f"{n} messages of the pool")
    assert len(got) == n
    return got


def answer_of(pool: Pool, call: Call, worker: int = 0) -> Answer:
    pool.submit(worker, call)
    (message,) = wait_for(pool, 1)
    assert isinstance(message, Answer)
    assert (message.worker, message.call.method) == (worker, call.method)
    return message


def load(pool: Pool, bench: Bench, n_workers: int = 1) -> list[Answer]:
    """Start workers, and return what they answer first."""
    pool.start(bench.setup, n_workers)
    loaded = wait_for(pool, n_workers)
    assert all(isinstance(message, Answer) and message.call == Call("load") for message in loaded)
    return loaded


def set_columns(pool: Pool, bench: Bench) -> Columns:
    """Let the first worker do place 0, and return the columns which that sets."""
    columns = answer_of(pool, Call("probe", bench.offer(0, 1))).value.columns
    answer_of(pool, Call("record_probe", (columns,)))
    assert isinstance(columns, Columns)
    return columns


# One suite for all pools


def test_a_worker_loads_probes_and_carries_out_its_calls_in_order(pool: Pool, bench: Bench) -> None:
    assert load(pool, bench) == [Answer(worker=0, call=Call("load"), value=bench.setup.function.fingerprint)]
    assert pool.wait(0.05) == [], "then it has nothing to say"
    kinds: dict[type, str] = {SerialPool: "serial", ProcessesPool: "processes"}
    assert pool.description == kinds.get(type(pool), "Ray, joined")

    probed = answer_of(pool, Call("probe", bench.offer(0, 20))).value
    columns = probed.columns
    assert [column.name for column in columns.items] == ["n", "twice"]
    assert probed.first_row_path == "000.json"
    assert list(bench.setup.folders.segments.iterdir()) == [], "nothing is recorded before the columns are"
    done = answer_of(pool, Call("record_probe", (columns,))).value
    assert (done.n_done, done.n_failed, done.returned) == (1, 0, ((1, 20),)), "it stops at the first row"

    attempts = [f"attempt{n}" for n in range(1, 9)]
    for n, attempt in enumerate(attempts, start=1):
        pool.submit(0, Call("run_batch", bench.offer(n, n + 1, columns, attempt)))
    answers = wait_for(pool, len(attempts))
    assert [a.value.segment.attempt for a in answers if isinstance(a, Answer)] == attempts

    done = answer_of(pool, Call("run_batch", bench.offer(9, 20, columns))).value
    assert isinstance(done, BatchDone)
    assert (done.n_done, done.n_failed, done.returned) == (11, 0, ())
    assert done.segment is not None
    found = read_segment(bench.setup.folders.segments, done.segment)
    assert found is not None
    assert len(found.table) == 11, "what is answered is durable"
    assert done.seconds > 0


def test_what_goes_wrong_in_a_call_is_its_answer_and_the_worker_goes_on(pool: Pool, bench: Bench) -> None:
    (shard_file,) = bench.setup.folders.shards.iterdir()
    good = shard_file.read_bytes()
    shard_file.write_bytes(good[:-10])
    load(pool, bench)
    columns = Columns((Column("n", "number"), Column("twice", "number")))
    error = answer_of(pool, Call("run_batch", bench.offer(1, 5, columns))).error
    assert isinstance(error, DamagedStateError)
    assert str(shard_file) in str(error)
    shard_file.write_bytes(good)
    assert answer_of(pool, Call("run_batch", bench.offer(1, 5, columns))).value.n_done == 4

    segments = bench.setup.folders.segments
    shutil.rmtree(segments)
    segments.write_text("a file where the folder should be")
    answer = answer_of(pool, Call("run_batch", bench.offer(5, 10, columns)))
    assert isinstance(answer.error, OSError)
    assert answer.value is None

    for n in range(10, 15):
        pool.submit(0, Call("run_batch", bench.offer(n, n + 1, columns)))
    pool.close()
    assert pool.wait(0.05) == [], "a closed pool drops what was queued"
    pool.close()


def test_a_worker_that_is_told_to_stop_gives_everything_back(pool: Pool, bench: Bench) -> None:
    load(pool, bench)
    columns = set_columns(pool, bench)
    bench.setup.stop_file.touch()
    done = answer_of(pool, Call("run_batch", bench.offer(1, 20, columns))).value
    assert (done.segment, done.n_done, done.returned) == (None, 0, ((1, 20),))


# Pools with processes


@with_processes
def test_two_workers_are_two_processes_and_end_with_the_pool(engine: str, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 40, batch_seconds=0.01)
        job.write_function(
            "import os, time\n\n\ndef double(filepath):\n"
            "    folder = os.path.dirname(os.path.dirname(filepath)) + '/pids/'\n"
            "    os.makedirs(folder, exist_ok=True)\n"
            "    open(folder + str(os.getpid()), 'w').close()\n"
            "    while len(os.listdir(folder)) < 2 and '001' in filepath:\n"
            "        time.sleep(0.01)\n"
            "    return {'pid': os.getpid()}\n"
        )
        result = r3po.run_jobs(job.config, engine=engine, progress=False)
    assert (result.done, result.failed) == (40, 0)
    pids = {int(row["pid"]) for row in job.rows()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    wait_until(lambda: not [pid for pid in pids if is_there(pid)], "both workers have ended", 10)
    if engine == "ray":
        import ray

        assert ray.is_initialized(), "a Ray that was there before r3po is not stopped"


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not HAS_PROC or bool(alive(tree_of(pid)[:1]))


@with_processes
def test_a_worker_that_dies_or_is_ended_is_lost_and_others_go_on(pool: Pool, tmp_path: Path) -> None:
    text = GATED.format(at=7, pause=0).replace("    if n >=", "    n == 6 and os._exit(1)\n    if n >=")
    with as_new_process(tmp_path):
        bench = make_bench(tmp_path, text)
        load(pool, bench, 2)
        columns = set_columns(pool, bench)
        pool.submit(0, Call("run_batch", bench.offer(4, 7, columns)))
        (lost,) = wait_for(pool, 1)
        assert isinstance(lost, WorkerLost)
        assert (lost.worker, bool(lost.reason)) == (0, True)
        assert answer_of(pool, Call("run_batch", bench.offer(1, 5, columns)), worker=1).value.n_done == 4

        pool.submit(1, Call("run_batch", bench.offer(7, 10, columns)))
        wait_until(lambda: list(bench.job.folder.glob("at_the_gate.*")), "f is in its file")
        (pid,) = (int(path.suffix[1:]) for path in bench.job.folder.glob("at_the_gate.*"))
        pool.end(1)
        pool.dismiss(1)
        wait_until(lambda: not is_there(pid), "the worker has ended", 10)
        assert all(isinstance(message, WorkerLost) for message in pool.wait(0.1)), "told as lost, or not at all"
        pool.submit(1, Call("run_batch", bench.offer(1, 2, columns)))  # nobody is there, and nobody minds
        pool.add_worker(2)
        loaded = [message for message in wait_for(pool, 1) if isinstance(message, Answer)]
        assert [(message.worker, message.error) for message in loaded] == [(2, None)]
        assert answer_of(pool, Call("run_batch", bench.offer(1, 5, columns)), worker=2).value.n_done == 4


@with_processes
def test_a_worker_without_a_folder_for_log_and_beacon_says_so(pool: Pool, bench: Bench) -> None:
    bench.setup.workers_folder.rmdir()
    (loaded,) = load(pool, bench)
    assert isinstance(loaded.error, FileNotFoundError), "no dead worker"
    assert str(bench.setup.workers_folder) in str(loaded.error)


MIXED = """\
import json


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n % 17 == 5:
        raise ValueError(f"{n}: \\r\\n no, \\"thanks\\"")
    half = n // 2 if n % 2 == 0 else n / 2
    return {"n": n, "half": half, "text": f'a, "b"\\r\\n{n}', "nothing": None if n % 3 else n, "list": [n, {"n": n}]}
"""


@pytest.mark.ray
def test_a_list_of_folders_gives_one_table_on_ray(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 3, source_path=["source", "more"], source_column="file", input="bytes", processes=1)
        job.write_function("import json\n\n\ndef double(path, data):\n    return {'n': json.loads(data)['n']}\n")
        (tmp_path / "more" / "deep").mkdir(parents=True)
        for name in ("000.json", "deep/001.json"):
            (tmp_path / "more" / name).write_text('{"n": 10}')
        result = r3po.run_jobs(job.config, progress=False)
    assert (result.done, result.failed) == (5, 0)
    rows = [("more/000.json", 10), ("more/deep/001.json", 10), *((f"source/{n:03}.json", n) for n in range(3))]
    assert list(result.to_pandas().itertuples(index=False, name=None)) == rows
    assert job.findings() == []


HEAD = """\
import os, sys, time
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False,
         _temp_dir=sys.argv[1])
processes = ray._private.worker._global_node.all_processes
print(ray.get_runtime_context().gcs_address, processes["gcs_server"][0].process.pid, flush=True)
sys.stdin.read()
"""

JOINING = """\
import os, signal, sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
from r3po import RunStoppedError, run_jobs
os.kill(int(sys.argv[2]), signal.SIGSTOP)
began = time.monotonic()
try:
    run_jobs("config.yaml", progress=False)
except RunStoppedError as error:
    print(error)
print(time.monotonic() - began < 60)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.ray
@pytest.mark.long
def test_a_joined_ray_whose_head_hangs_is_told_with_one_error_within_a_minute(tmp_path: Path, temporary: Path) -> None:
    make_job(tmp_path, 3)
    begun = environment() | {"RAY_AUTH_MODE": "disabled"}
    head = [sys.executable, "-c", HEAD, str(temporary)]
    with subprocess.Popen(head, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=begun) as ray_head:
        assert ray_head.stdout is not None
        address, pid = ray_head.stdout.readline().split()
        try:
            call = [sys.executable, "-c", JOINING, address, pid]
            ended = subprocess.run(
                call, cwd=tmp_path, env=begun, capture_output=True, text=True, timeout=300, check=False
            )
        finally:
            os.kill(int(pid), signal.SIGCONT)
    lines = ended.stdout.splitlines()[-3:]
    assert lines[0] == "Ray is gone: its head does not answer", ended.stderr
    assert "ray.init(...)), then run again" in lines[1]
    assert lines[2] == "True"


@with_processes
def test_a_run_with_workers_gives_the_bytes_of_a_serial_run(engine: str, tmp_path: Path) -> None:
    jobs = {}
    for this in (engine, "serial"):
        with as_new_process(tmp_path):
            jobs[this] = make_job(tmp_path / this, 203, MIXED, shard_size=30, batch_seconds=0.02)
            result = r3po.run_jobs(jobs[this].config, engine=this, progress=False)
            assert (result.done, result.failed, result.pending) == (191, 12, 0)
    made = jobs[engine].published()
    assert len(made) == 2 * 7 + 2 + 1
    assert made == jobs["serial"].published()


def test_a_module_beside_the_function_and_a_callable_by_value_reach_the_workers(engine: str, tmp_path: Path) -> None:
    """The function lies neither beside the config nor in the current folder, and its module is imported late."""
    scripts, elsewhere = tmp_path / "scripts", tmp_path / "elsewhere"
    scripts.mkdir()
    elsewhere.mkdir()
    (scripts / "beside_the_function.py").write_text("def twice(n):\n    return 2 * n\n")
    text = DOUBLE.replace("    return", "    from beside_the_function import twice\n\n    return")
    (scripts / "count.py").write_text(text.replace("2 * n", "twice(n)"))
    factor = 2

    def closure(filepath: str) -> dict[str, Any]:
        import json

        with open(filepath) as file:
            n = json.load(file)["n"]
        return {"n": n, "twice": factor * n}

    with as_new_process(elsewhere):
        for name, given in (("file", {"function": str(scripts / "count.py:double")}), ("value", {"f": closure})):
            job = make_job(tmp_path / name, processes=1)
            result = r3po.run_jobs(job.config, engine=engine, progress=False, **given)
            assert (result.done, result.failed) == (6, 0)
            assert job.rows() == doubled(*range(6))


def test_errors_of_a_worker_are_raised_in_the_driver_as_they_are(engine: str, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, function="def double(filepath):\n    return [filepath]\n", processes=1)
        with pytest.raises(FunctionError, match="returned a list for") as no_dict:
            r3po.run_jobs(job.config, engine=engine, progress=False)
        assert no_dict.value.exit_code == 2
        for line, said in (
            ("raise OSError('no key file')", "raised OSError while it was imported: no key file"),
            ("import no_such_library", "failed to import no_such_library"),
        ):
            job.write_function(f"{line}\n\n{DOUBLE}")
            with pytest.raises(FunctionError, match=said) as no_import:
                r3po.run_jobs(job.config, engine=engine, progress=False)
            assert "double.py" in (no_import.value.evidence or "")
            assert line in (no_import.value.evidence or "")
        assert no_import.value.hint is not None
        job.write_function(DOUBLE)
        assert r3po.run_jobs(job.config, engine="serial", progress=False).done == 6


# r3po's own Ray, of a process of its own


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.skipif(not HAS_PROC, reason="finds the children of a process by /proc")
@pytest.mark.parametrize("is_twice", [False, pytest.param(True, marks=pytest.mark.faults)], ids=["once", "twice"])
def test_ctrl_c_ends_a_run_on_ray_with_nothing_left(is_twice: bool, tmp_path: Path, temporary: Path) -> None:
    """As a terminal does it: the whole process group gets the signal, Ray and the workers, too. The first one waits for
    the files at hand, the second does not."""
    job = make_job(tmp_path, 400, GATED.format(at=300, pause=0.002), shard_size=25, batch_seconds=0.05)
    with running("run", "--json", cwd=job.folder, TMPDIR=str(temporary)) as process:
        process.wait_until(
            lambda: any((job.working_dir / "commits").glob("*.json")) and job.is_at_the_gate(n_workers=2),
            "a shard is committed, and both workers stand at the gate",
        )
        tree = tree_of(process.pid)
        assert len(tree) >= 5, "the driver, two of Ray's own processes, two workers"
        os.killpg(process.pid, signal.SIGINT)
        process.wait_until(lambda: "Stopping" in process.err, "it says that it stops", 5)
        if is_twice:
            os.kill(process.pid, signal.SIGINT)
        else:
            job.open_gate()
        ended = process.end(15)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"
    assert "Stopped after" in ended.err
    for chatter in ("Traceback", "ray.exceptions", "RayError", "(raylet)", "(pid=", "ActorDiedError:"):
        assert chatter not in ended.err
    wait_until(lambda: not alive(tree), "every process of the tree has ended", 10)
    of_its_ray = str(temporary)
    wait_until(lambda: not any(of_its_ray in " ".join(command_of(pid)) for pid in all_pids()), "its Ray has ended", 10)
    assert list(temporary.iterdir()) == []
    counts, status = ended.json(), job.status()
    assert (counts["files"], counts["failed"]) == (400, 0)
    assert counts["pending"] > 0
    assert (status["done"], status["pending"]) == (counts["done"], counts["pending"])
    job.open_gate()
    assert job.run().code == 0
    assert job.rows() == doubled(*range(400))


DEADLY = """\
import ctypes
import itertools
import json
import os
import signal

HERE = os.path.dirname(os.path.abspath(__file__))


def double(filepath):
    print("at", filepath)
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n == 21:
        os._exit(7)
    if n == 33:
        read_nothing()
    if n == 45 and not os.path.exists(os.path.join(HERE, "killed")):
        open(os.path.join(HERE, "killed"), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if n == 50:
        all(itertools.repeat(1))
    return {"n": n, "twice": 2 * n}


def read_nothing():
    ctypes.string_at(0)
"""
"""Number 21 always exits, 33 always crashes, 45 is in a worker that is killed once, and 50 hangs where Python's own
handlers never run: it is ended by the driver. Where it is nobody asks on a Ray that r3po only joined."""


@with_processes
@pytest.mark.faults
def test_workers_that_die_are_replaced_and_only_their_deadly_files_fail(engine: str, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 60, DEADLY, shard_size=20, timeout_seconds=1.0)
        result = r3po.run_jobs(job.config, engine=engine, progress=False)
        exits, crashes, hangs = result.failures()
    assert (result.done, result.failed, result.pending) == (57, 3, 0)
    assert (job.folder / "killed").exists()
    assert (exits["path"], exits["error_type"]) == ("021.json", "WorkerDied")
    assert exits["message"] == "exit code 7: the process died in this file, alone, twice"
    assert (crashes["path"], crashes["error_type"]) == ("033.json", "WorkerDied")
    assert crashes["message"] == "SIGSEGV: the process died in this file, alone, twice"
    line = DEADLY.splitlines().index("    ctypes.string_at(0)") + 1
    assert crashes["where"] == f"double.py:{line} in read_nothing"
    assert "Segmentation fault" in crashes["traceback"]
    assert f'File "{job.folder}/double.py", line {line} in read_nothing' in crashes["traceback"]
    assert (hangs["path"], hangs["error_type"]) == ("050.json", "Timeout")
    assert hangs["message"] == "f took longer than timeout_seconds: 1"
    assert job.rows() == doubled(*(n for n in range(60) if n not in (21, 33, 50)))
    assert not (job.working_dir / "suspects.json").exists(), "all of them have an outcome"
    (run,) = job.working_dir.glob("runs/*")
    happened = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    lost = {(event["path"], event["cause"]) for event in happened if event["event"] == "WorkerLost"}
    assert lost >= {("021.json", "exit code 7"), ("033.json", "SIGSEGV"), ("050.json", "over timeout_seconds")}
    assert {path for path, _ in lost} == {"021.json", "033.json", "045.json", "050.json"}
    kept = list((run / "workers").iterdir())
    assert {path.suffix for path in kept} == {".out"}, "what f printed is kept, and nothing else"
    assert "021.json" in "".join(path.read_text() for path in kept)
    said = [notice for notice in result.notices if notice.startswith("what f printed is in ")]
    assert len(said) == 1 and f"{run.name}/workers/*.out" in said[0]
    job.write_function(DOUBLE)
    assert job.run().code == 0
    assert job.rows() == doubled(*range(60))
