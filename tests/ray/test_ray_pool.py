"""Workers: one suite for both pools, then what only Ray can get wrong: processes that die, are killed, are left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
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
    Pid,
    Running,
    alive,
    as_new_process,
    commands_with,
    doubled,
    kill_tree,
    make_job,
    run_process,
    running,
    tree_of,
    wait_until,
)
from r3po.config.settings import load_config
from r3po.engines.pool import Answer, Call, Pool, WorkerLost
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

on_ray = [pytest.mark.ray]


@pytest.fixture(params=["serial", pytest.param("ray", marks=on_ray)])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    name: str = request.param
    return name


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
    made = make_pool(engine, tmp_path)
    try:
        yield made
    finally:
        made.close()


def make_pool(engine: str, folder: Path) -> Pool:
    if engine == "serial":
        return SerialPool()
    from r3po.engines.ray_pool import RayPool

    return RayPool(folder / "ray.log", folder / "ray_folder")


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


def started(pool: Pool, bench: Bench) -> Columns:
    """Start one worker, let it do place 0, and return the columns which that sets."""
    pool.start(bench.setup, 1)
    (loaded,) = wait_for(pool, 1)
    assert isinstance(loaded, Answer)
    assert (loaded.call.method, loaded.error) == ("load", None)
    columns = answer_of(pool, Call("probe", bench.offer(0, 1))).value.columns
    answer_of(pool, Call("record_probe", (columns,)))
    assert isinstance(columns, Columns)
    return columns


# One suite for both pools


def test_a_worker_answers_load_first_and_then_has_nothing_to_say(pool: Pool, bench: Bench) -> None:
    pool.start(bench.setup, 1)
    (loaded,) = wait_for(pool, 1)
    assert loaded == Answer(worker=0, call=Call("load"), value=bench.setup.function.fingerprint)
    assert pool.wait(0.05) == []
    assert pool.description == ("serial" if isinstance(pool, SerialPool) else "Ray, joined")


def test_a_batch_is_answered_with_what_is_durable(pool: Pool, bench: Bench) -> None:
    columns = started(pool, bench)
    done = answer_of(pool, Call("run_batch", bench.offer(1, 20, columns))).value
    assert isinstance(done, BatchDone)
    assert (done.n_rows, done.n_failed, done.returned) == (19, 0, ())
    assert done.segment is not None
    table = read_segment(bench.setup.folders.segments, done.segment)
    assert table is not None
    assert len(table) == 19
    assert done.seconds > 0


def test_calls_to_one_worker_are_carried_out_in_order(pool: Pool, bench: Bench) -> None:
    columns = started(pool, bench)
    attempts = [f"attempt{n}" for n in range(1, 9)]
    for n, attempt in enumerate(attempts, start=1):
        pool.submit(0, Call("run_batch", bench.offer(n, n + 1, columns, attempt)))
    answers = wait_for(pool, len(attempts))
    assert [a.value.segment.attempt for a in answers if isinstance(a, Answer)] == attempts


def test_a_probe_stops_at_the_first_row_and_gives_the_rest_back(pool: Pool, bench: Bench) -> None:
    pool.start(bench.setup, 1)
    wait_for(pool, 1)
    probed = answer_of(pool, Call("probe", bench.offer(0, 20))).value
    assert [column.name for column in probed.columns.items] == ["n", "twice"]
    assert probed.first_row_path == "000.json"
    assert list(bench.setup.folders.segments.iterdir()) == [], "nothing is recorded before the columns are"
    done = answer_of(pool, Call("record_probe", (probed.columns,))).value
    assert (done.n_rows, done.n_failed, done.returned) == (1, 0, ((1, 20),))


def test_a_worker_that_is_told_to_stop_gives_everything_back(pool: Pool, bench: Bench) -> None:
    columns = started(pool, bench)
    bench.setup.stop_file.touch()
    done = answer_of(pool, Call("run_batch", bench.offer(1, 20, columns))).value
    assert (done.segment, done.n_rows, done.returned) == (None, 0, ((1, 20),))


def test_a_function_that_cannot_be_imported_is_an_answer_with_its_evidence(pool: Pool, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        bench = make_bench(tmp_path, "import no_such_library\n\n" + DOUBLE)
        pool.start(bench.setup, 1)
        (loaded,) = wait_for(pool, 1)
    assert isinstance(loaded, Answer)
    assert isinstance(loaded.error, FunctionError)
    assert "failed to import no_such_library" in str(loaded.error)
    assert loaded.error.evidence == "double.py:1  import no_such_library"
    assert loaded.error.hint is not None


def test_damaged_state_is_an_answer_and_the_worker_goes_on(pool: Pool, bench: Bench) -> None:
    (shard_file,) = bench.setup.folders.shards.iterdir()
    good = shard_file.read_bytes()
    shard_file.write_bytes(good[:-10])
    pool.start(bench.setup, 1)
    wait_for(pool, 1)
    columns = Columns((Column("n", "number"), Column("twice", "number")))
    error = answer_of(pool, Call("run_batch", bench.offer(1, 5, columns))).error
    assert isinstance(error, DamagedStateError)
    assert str(shard_file) in str(error)
    shard_file.write_bytes(good)
    assert answer_of(pool, Call("run_batch", bench.offer(1, 5, columns))).value.n_rows == 4


def test_a_disk_that_refuses_is_an_answer(pool: Pool, bench: Bench) -> None:
    columns = started(pool, bench)
    segments = bench.setup.folders.segments
    shutil.rmtree(segments)
    segments.write_text("a file where the folder should be")
    answer = answer_of(pool, Call("run_batch", bench.offer(1, 5, columns)))
    assert isinstance(answer.error, OSError)
    assert answer.value is None


def test_whatever_f_raises_is_a_failure_of_its_file(pool: Pool, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        bench = make_bench(tmp_path, NASTY)
        columns = started(pool, bench)
        done = answer_of(pool, Call("run_batch", bench.offer(1, 20, columns))).value
    assert (done.n_rows, done.n_failed, done.returned) == (19 - len(NASTY_TYPES), len(NASTY_TYPES), ())
    assert [failure.error_type for _, failure in done.failures] == NASTY_TYPES


def test_a_closed_pool_drops_what_was_queued_and_may_be_closed_again(pool: Pool, bench: Bench) -> None:
    columns = started(pool, bench)
    for n in range(1, 5):
        pool.submit(0, Call("run_batch", bench.offer(n, n + 1, columns)))
    pool.close()
    assert pool.wait(0.05) == []
    pool.close()


NASTY = """\
import json
import sys


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.held = lambda: b


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n == 3:
        sys.exit(0)
    if n == 4:
        raise KeyboardInterrupt
    if n == 5:
        raise GeneratorExit
    if n == 6:
        raise Unpicklable(1, 2)
    if n == 7:
        raise Mute
    if n == 8:
        raise ValueError("x" * 10_000_000)
    if n == 9:
        return double(filepath) if n else None
    return {"n": n, "twice": 2 * n}
"""
"""Nine kinds of trouble; 9.json is an endless recursion."""

NASTY_TYPES = [
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "Unpicklable",
    "Mute",
    "ValueError",
    "RecursionError",
]


# Only Ray


@pytest.mark.ray
def test_two_workers_are_two_processes_and_end_with_the_pool(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 2)
        job.write_function(
            "import os, time\n\n\ndef double(filepath):\n"
            "    folder = os.path.dirname(os.path.dirname(filepath)) + '/pids/'\n"
            "    os.makedirs(folder, exist_ok=True)\n"
            "    open(folder + str(os.getpid()), 'w').close()\n"
            "    while len(os.listdir(folder)) < 2 and '001' in filepath:\n"
            "        time.sleep(0.01)\n"
            "    return {'pid': os.getpid()}\n"
        )
        job.add_files(*range(2, 40))
        job.write_config(batch_seconds=0.01)
        result = r3po.run_jobs(job.config, progress=False)
    assert (result.done, result.failed) == (40, 0)
    pids = {int(row["pid"]) for row in job.rows()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    wait_until(lambda: not [pid for pid in pids if is_there(pid)], "both workers have ended", 10)
    import ray

    assert ray.is_initialized(), "a Ray that was there before r3po is not stopped"


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not HAS_PROC or bool(alive([(pid, found[0][1])]) if (found := tree_of(pid)) else False)


@pytest.mark.ray
def test_a_worker_that_dies_is_told_and_the_other_goes_on(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        bench = make_bench(
            tmp_path, "import os\n\n" + DOUBLE.replace("    return", "    n == 7 and os._exit(1)\n    return")
        )
        pool = make_pool("ray", tmp_path)
        try:
            pool.start(bench.setup, 2)
            wait_for(pool, 2)
            columns = answer_of(pool, Call("probe", bench.offer(0, 1))).value.columns
            answer_of(pool, Call("record_probe", (columns,)))
            pool.submit(0, Call("run_batch", bench.offer(5, 10, columns)))
            (lost,) = wait_for(pool, 1)
            assert isinstance(lost, WorkerLost)
            assert (lost.worker, bool(lost.reason)) == (0, True)
            assert answer_of(pool, Call("run_batch", bench.offer(1, 5, columns)), worker=1).value.n_rows == 4
        finally:
            pool.close()


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
def test_a_worker_without_a_folder_for_log_and_beacon_says_so(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        bench = make_bench(tmp_path)
        bench.setup.workers_folder.rmdir()
        pool = make_pool("ray", tmp_path)
        try:
            pool.start(bench.setup, 1)
            (loaded,) = wait_for(pool, 1)
        finally:
            pool.close()
    assert isinstance(loaded, Answer), "no dead worker"
    assert isinstance(loaded.error, FileNotFoundError)
    assert str(bench.setup.workers_folder) in str(loaded.error)


def test_a_run_on_ray_gives_the_bytes_of_a_serial_run(cluster: None, tmp_path: Path) -> None:
    jobs = {}
    for engine in ("ray", "serial"):
        with as_new_process(tmp_path):
            jobs[engine] = make_job(tmp_path / engine, 203, MIXED, shard_size=30, batch_seconds=0.02)
            result = r3po.run_jobs(jobs[engine].config, engine=engine, progress=False)
            assert (result.done, result.failed, result.pending) == (191, 12, 0)
    on_ray, serial = jobs["ray"].parts(), jobs["serial"].parts()
    assert len(on_ray) == 2 * 7 + 2
    assert on_ray == serial
    failed = [job.output / "failures" / "failures.csv" for job in jobs.values()]
    assert failed[0].read_bytes() == failed[1].read_bytes()


def test_a_run_goes_on_after_everything_that_f_can_raise(engine: str, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 20, NASTY)
        result = r3po.run_jobs(job.config, engine=engine, progress=False)
        failures = result.failures()
    assert (result.done, result.failed, result.pending) == (20 - len(NASTY_TYPES), len(NASTY_TYPES), 0)
    assert [failure["error_type"] for failure in failures] == NASTY_TYPES
    assert [failure["path"] for failure in failures] == [f"{n:03}.json" for n in range(3, 10)]
    assert all(failure["where"].startswith("double.py:") for failure in failures)
    assert all("Traceback" in failure["traceback"] for failure in failures)
    assert all(len(failure["message"]) < 20_000 for failure in failures)
    assert job.rows() == doubled(0, 1, 2, *range(10, 20))


def test_a_module_beside_the_function_is_found_by_the_workers(engine: str, tmp_path: Path) -> None:
    """The function lies neither beside the config nor in the current folder, and its module is imported late."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "beside_the_function.py").write_text("def twice(n):\n    return 2 * n\n")
    text = DOUBLE.replace("    return", "    from beside_the_function import twice\n\n    return")
    (scripts / "count.py").write_text(text.replace("2 * n", "twice(n)"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with as_new_process(elsewhere):
        job = make_job(tmp_path / "job")
        result = r3po.run_jobs(job.config, function=str(scripts / "count.py:double"), engine=engine, progress=False)
    assert (result.done, result.failed) == (6, 0)
    assert job.rows() == doubled(*range(6))


def test_a_callable_of_this_process_reaches_the_workers_by_value(engine: str, tmp_path: Path) -> None:
    factor = 2

    def closure(filepath: str) -> dict[str, Any]:
        import json

        with open(filepath) as file:
            n = json.load(file)["n"]
        return {"n": n, "twice": factor * n}

    with as_new_process(tmp_path):
        job = make_job(tmp_path)
        result = r3po.run_jobs(job.config, closure, engine=engine, progress=False)
    assert (result.done, result.failed) == (6, 0)
    assert job.rows() == doubled(*range(6))


@pytest.mark.ray
def test_errors_of_a_worker_are_raised_in_the_driver_as_they_are(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, function="def double(filepath):\n    return [filepath]\n")
        with pytest.raises(FunctionError, match="returned a list for") as no_dict:
            r3po.run_jobs(job.config, progress=False)
        assert no_dict.value.exit_code == 2
        job.write_function("raise OSError('no key file')\n\n" + DOUBLE)
        with pytest.raises(FunctionError, match="raised OSError while it was imported: no key file") as no_import:
            r3po.run_jobs(job.config, progress=False)
        assert no_import.value.evidence is not None
        assert "double.py" in no_import.value.evidence
        job.write_function(DOUBLE)
        assert r3po.run_jobs(job.config, engine="serial", progress=False).done == 6


# r3po's own Ray: started, stopped and killed as a process of its own


def own_ray(test: Callable[..., None]) -> Any:
    marked = pytest.mark.skipif(not HAS_PROC, reason="finds the children of a process by /proc")(test)
    return pytest.mark.ray(pytest.mark.slow(marked))


def left_over(temporary: Path) -> list[str]:
    return sorted(path.name for path in temporary.glob("r3po-ray-*"))


def assert_clean_end(tree: list[Pid], temporary: Path) -> None:
    """Check that ten seconds after a run nothing of it is left."""
    wait_until(lambda: not alive(tree), "every process of the tree has ended", 10)
    wait_until(lambda: not commands_with(str(temporary)), "no process of its Ray is left", 10)
    assert left_over(temporary) == []


def assert_no_chatter(text: str) -> None:
    for chatter in ("Traceback", "ray.exceptions", "RayError", "(raylet)", "(pid=", "ActorDiedError:"):
        assert chatter not in text


def gated_job(folder: Path) -> Job:
    """400 files in shards of 25; from number 300 on they wait at the gate."""
    return make_job(folder, 400, GATED.format(at=300, pause=0.002), shard_size=25, batch_seconds=0.05)


def wait_for_the_middle(job: Job, process: Running) -> list[Pid]:
    """Wait until something is committed and both workers stand at the gate; return the process tree."""
    process.wait_until(
        lambda: any((job.working_dir / "commits").glob("*.json")) and job.is_at_the_gate(n_workers=2),
        "a shard is committed, and both workers stand at the gate",
    )
    tree = tree_of(process.pid)
    assert len(tree) >= 5, "the driver, two of Ray's own processes, two workers"
    return tree


@own_ray
def test_a_process_tree_that_is_killed_leaves_a_job_that_goes_on(tmp_path: Path, temporary: Path) -> None:
    job, calm = gated_job(tmp_path / "killed"), gated_job(tmp_path / "calm")
    with running("run", cwd=job.folder, TMPDIR=str(temporary)) as process:
        wait_for_the_middle(job, process)
        killed = kill_tree(process.pid)
        assert process.process.wait(30) == -signal.SIGKILL
    wait_until(lambda: not alive(killed), "the whole tree is dead")
    assert len(left_over(temporary)) == 1
    status = job.status()
    assert (status["files"], status["failed"]) == (400, 0)
    assert 25 <= status["done"] < 400
    assert not (job.output / "csv" / "_SUCCESS").exists()

    job.open_gate()
    ended = run_process("run", cwd=job.folder, TMPDIR=str(temporary))
    assert ended.code == 0, ended.err
    assert f"Resume    {status['done']} of 400 files done" in ended.err
    assert_no_chatter(ended.err)
    assert left_over(temporary) == [], "the next start removes what the killed run left"

    assert job.rows() == doubled(*range(400))
    calm.open_gate()
    assert calm.run().code == 0
    assert job.parts() == calm.parts()
    assert len(job.parts()) == 2 * 16 + 2


@own_ray
def test_ctrl_c_ends_a_run_on_ray_with_nothing_left(tmp_path: Path, temporary: Path) -> None:
    """As a terminal does it: the whole process group gets the signal, Ray and the workers, too."""
    job = gated_job(tmp_path)
    with running("run", "--json", cwd=job.folder, TMPDIR=str(temporary)) as process:
        tree = wait_for_the_middle(job, process)
        os.killpg(process.pid, signal.SIGINT)
        process.wait_until(lambda: "Stopping" in process.err, "it says that it stops", 5)
        job.open_gate()
        ended = process.end(15)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"
    assert "Stopped after" in ended.err
    assert_no_chatter(ended.err)
    assert_clean_end(tree, temporary)
    counts = ended.json()
    assert (counts["files"], counts["failed"]) == (400, 0)
    assert counts["pending"] > 0
    status = job.status()
    assert (status["done"], status["pending"]) == (counts["done"], counts["pending"])
    assert job.run().code == 0
    assert job.rows() == doubled(*range(400))


@own_ray
def test_a_second_ctrl_c_ends_a_run_on_ray_although_f_hangs(tmp_path: Path, temporary: Path) -> None:
    job = gated_job(tmp_path)
    with running("run", cwd=job.folder, TMPDIR=str(temporary)) as process:
        tree = wait_for_the_middle(job, process)
        os.kill(process.pid, signal.SIGINT)
        process.wait_until(lambda: "Stopping" in process.err, "it says that it stops", 5)
        os.kill(process.pid, signal.SIGINT)
        ended = process.end(15)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"
    assert_no_chatter(ended.err)
    assert_clean_end(tree, temporary)
    assert job.failures() == []
    job.open_gate()
    assert job.run().code == 0
    assert job.rows() == doubled(*range(400))


DEADLY = """\
import ctypes
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
    return {"n": n, "twice": 2 * n}


def read_nothing():
    ctypes.string_at(0)
"""
"""Number 21 always exits, 33 always crashes, and 45 is in a worker that is killed once."""


def assert_deadly_ones_are_told(job: Job, failures: list[dict[str, Any]]) -> None:
    exits, crashes = failures
    assert exits["path"] == "021.json"
    assert exits["error_type"] == crashes["error_type"] == "WorkerDied"
    assert exits["message"] == "exit code 7: the process died in this file, alone, twice"
    assert crashes["path"] == "033.json"
    assert crashes["message"] == "SIGSEGV: the process died in this file, alone, twice"
    line = DEADLY.splitlines().index("    ctypes.string_at(0)") + 1
    assert crashes["where"] == f"double.py:{line} in read_nothing"
    assert "Segmentation fault" in crashes["traceback"]
    assert f'File "{job.folder}/double.py", line {line} in read_nothing' in crashes["traceback"]
    assert job.rows() == doubled(*(n for n in range(60) if n not in (21, 33)))
    assert not (job.working_dir / "suspects.json").exists(), "all of them have an outcome"


@pytest.mark.ray
def test_workers_that_die_are_replaced_and_only_their_deadly_files_fail(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        job = make_job(tmp_path, 60, DEADLY, shard_size=20)
        job.write_config(shard_size=20)
        result = r3po.run_jobs(job.config, progress=False)
        failures = result.failures()
    assert (result.done, result.failed, result.pending) == (58, 2, 0)
    assert (job.folder / "killed").exists()
    assert_deadly_ones_are_told(job, failures)
    (workers,) = job.working_dir.glob("runs/*/workers")
    kept = [path.suffix for path in workers.iterdir()]
    assert kept and set(kept) == {".out"}, "what f printed is kept, and nothing else"
    assert "021.json" in "".join(path.read_text() for path in workers.iterdir())


@pytest.mark.ray
def test_a_worker_that_was_ended_is_told_as_lost_or_not_at_all(cluster: None, tmp_path: Path) -> None:
    with as_new_process(tmp_path):
        bench = make_bench(tmp_path, GATED.format(at=7, pause=0))
        pool = make_pool("ray", tmp_path)
        try:
            columns = started(pool, bench)
            pool.submit(0, Call("run_batch", bench.offer(7, 10, columns)))
            wait_until(lambda: list(bench.job.folder.glob("at_the_gate.*")), "f is in its file")
            (pid,) = (int(path.suffix[1:]) for path in bench.job.folder.glob("at_the_gate.*"))
            pool.end(0)
            pool.dismiss(0)
            wait_until(lambda: not is_there(pid), "the worker has ended", 10)
            assert all(isinstance(message, WorkerLost) for message in pool.wait(0.1))
            pool.submit(0, Call("run_batch", bench.offer(1, 2, columns)))  # nobody is there, and nobody minds
            pool.add_worker(1)
            loaded = [message for message in wait_for(pool, 1) if isinstance(message, Answer)]
            assert [(message.worker, message.error) for message in loaded] == [(1, None)]
            assert answer_of(pool, Call("run_batch", bench.offer(1, 7, columns)), worker=1).value.n_rows == 6
        finally:
            pool.close()


@own_ray
def test_a_run_on_its_own_ray_outlives_deadly_and_hanging_files(tmp_path: Path, temporary: Path) -> None:
    """A file that hangs where Python's own handlers never run is ended by the driver, who asks where it is first."""
    text = DEADLY.replace("import ctypes", "import ctypes\nimport itertools")
    text = text.replace("    return {", "    if n == 50:\n        all(itertools.repeat(1))\n    return {")
    job = make_job(tmp_path, 60, shard_size=20)
    job.write_config(shard_size=20, timeout_seconds=1.0)
    job.write_function(text)
    ended = run_process("run", "--json", cwd=job.folder, TMPDIR=str(temporary))
    assert ended.code == 1, ended.err
    assert_no_chatter(ended.err)
    assert_clean_end([], temporary)
    (log,) = job.working_dir.glob("runs/*/events.jsonl")
    happened = [json.loads(line) for line in log.read_text().splitlines()]
    lost = {(event["path"], event["cause"]) for event in happened if event["event"] == "WorkerLost"}
    assert lost >= {("021.json", "exit code 7"), ("033.json", "SIGSEGV"), ("050.json", "over timeout_seconds")}
    assert {path for path, _ in lost} == {"021.json", "033.json", "045.json", "050.json"}
    assert "note: a worker was lost in 021.json: exit code 7" in ended.err
    failures = job.failures()
    assert [failure["path"] for failure in failures] == ["021.json", "033.json", "050.json"]
    hanging = failures[2]
    line = text.splitlines().index("        all(itertools.repeat(1))") + 1
    assert (hanging["error_type"], hanging["where"]) == ("Timeout", f"double.py:{line} in double")
    assert hanging["message"] == "f took longer than timeout_seconds: 1"
    assert f'double.py", line {line} in double' in hanging["traceback"]
    job.write_function(DOUBLE)
    assert job.run().code == 0
    assert job.rows() == doubled(*range(60))
