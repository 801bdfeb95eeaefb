"""Plain processes: what goes over their sockets, how they are started and ended, and what they cannot give."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest

import r3po
from jobs import HAS_PROC, as_new_process, comes_true, doubled, make_job, run_python, stat_of
from r3po import ConfigError, RunStoppedError
from r3po.engines.frames import Channel, receive_frame, send_frame
from r3po.engines.needs import Needs
from r3po.engines.pool import WorkerLost
from r3po.engines.processes import STARTER_ENDED, ProcessesPool
from r3po.engines.worker_processes import WorkerProcesses
from r3po.run.roster import WorkerHandle
from r3po.run.trials import _counts
from r3po.run.workers import Lost


def test_messages_arrive_whole_whatever_their_size_and_half_a_message_holds_nobody_up() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    for content in (b"", b"short", bytes(50_000)):
        send_frame(theirs, content)
    assert channel.receive() == [b"", b"short", bytes(50_000)]
    theirs.sendall(b"\x09\0\0\0\0\0\0\0half")
    assert channel.receive() == []
    theirs.sendall(b" more")
    assert channel.receive() == [b"half more"]
    theirs.sendall(b"\x09\0\0\0\0\0\0\0half")
    theirs.close()
    assert channel.receive() == []
    assert channel.is_over
    channel.send(b"to nobody")
    assert not channel.has_unsent
    channel.close()


def test_what_a_worker_does_not_read_is_kept_for_it() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    large = os.urandom(5_000_000)
    channel.send(large)
    assert channel.has_unsent
    theirs.settimeout(10)
    got = bytearray()
    while channel.has_unsent:
        got += theirs.recv(1 << 16)
        channel.flush()
    theirs.close()
    assert large.startswith(bytes(got[8:]))
    channel.close()
    with pytest.raises(EOFError):
        left, right = socket.socketpair()
        right.close()
        with left:
            receive_frame(left)


COUNT = """\
import json
import os
import random
import time

try:
    import numpy
except ImportError:
    numpy = None


def double(filepath):
    drawn = [random.random()] + ([float(numpy.random.rand())] if numpy else [])
    with open(os.path.join(os.path.dirname(__file__), f"drawn.{os.getpid()}"), "w") as file:
        file.write(str(drawn))
    folder = os.path.dirname(__file__)
    while "001" in filepath and sum(name.startswith("drawn.") for name in os.listdir(folder)) < 2:
        time.sleep(0.01)
    status = open("/proc/self/status").read() if os.path.exists("/proc/self/status") else ""
    with open(filepath) as file:
        n = json.load(file)["n"]
    threads = int((status.partition("Threads:")[2].split() or [0])[0])
    leads, changed = os.getpgrp() == os.getpid(), "JE_ARROW_MALLOC_CONF" in os.environ
    return {"n": n, "twice": 2 * n, "leads": leads, "changed": changed, "threads": threads}
"""


@pytest.mark.skipif(not HAS_PROC, reason="forks on Linux alone")
@pytest.mark.parametrize("n_threads", ["1", "2"])
def test_workers_lead_their_groups_and_draw_other_numbers(
    n_threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads in a library each worker is a fresh Python."""
    monkeypatch.setenv("OMP_NUM_THREADS", n_threads)
    job = make_job(tmp_path, 40, COUNT, batch_seconds=0.01)
    with as_new_process(tmp_path):
        result = r3po.run_jobs(job.config, engine="processes", progress=False)
    rows = job.rows()
    assert result.done == 40
    assert [(row["n"], row["twice"]) for row in rows] == [(row["n"], row["twice"]) for row in doubled(*range(40))]
    assert {(row["leads"], row["changed"]) for row in rows} == {("true", "false")}
    if n_threads == "1":
        assert {row["threads"] for row in rows} == {"1"}, "what f forks has no thread to wait for"
    drawn = [path.read_text() for path in tmp_path.glob("drawn.*")]
    assert len(drawn) == len(set(drawn)) == 2


def test_what_ray_alone_can_give_is_refused_before_anything_starts(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3, worker={"num_gpus": 1}, engine="processes")
    with as_new_process(tmp_path), pytest.raises(ConfigError, match="cannot give a worker 1 GPU") as refused:
        r3po.run_jobs(job.config, progress=False)
    assert refused.value.hint is not None
    assert "r3po run --engine ray" in refused.value.hint
    assert not job.working_dir.exists()
    Needs({"CPU": 1, "GPU": 0, "memory": 1 << 20}).refuse_without_ray()
    assert Needs({"memory": 1 << 20}).fit_machine(2) == 2
    with pytest.raises(ConfigError, match="not fit on this machine"):
        Needs({"memory": 1 << 60}).fit_machine(2)


def test_the_engine_of_the_config_is_used_and_the_option_comes_first(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3, engine="serial")
    ended = job.run()
    assert (ended.code, "Serial " in ended.err) == (0, True)
    ended = job.run("--redo", "--engine", "processes")
    assert (ended.code, "Processes 2 workers" in ended.err) == (0, True)
    ended = job.run("--engine", "proceses")
    assert ended.code == 2
    assert "unknown engine 'proceses'" in ended.err
    assert "ray, processes, serial" in ended.err


def test_a_starter_that_cannot_import_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('no such thing here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = make_job(tmp_path / "job", 3)
    expected = "workers do not start: ImportError: no such thing here"
    with as_new_process(tmp_path), pytest.raises(RunStoppedError, match=expected):
        r3po.run_jobs(job.config, engine="processes", progress=False)


@pytest.mark.skipif(not HAS_PROC, reason="finds processes by /proc")
def test_a_starter_ends_with_its_driver_however_that_dies(tmp_path: Path) -> None:
    """In the middle of its imports, too."""
    for pause in ("0", "1"):
        ended = run_python(
            "-c",
            "import os, signal, sys, time\n"
            "from r3po.engines.starter import Starter\n"
            "starter = Starter()\n"
            "print(starter._process.pid, flush=True)\n"
            f"time.sleep({pause})\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n",
            cwd=tmp_path,
        )
        assert ended.code == -signal.SIGKILL
        pid = int(ended.out)
        assert comes_true(partial(is_over, pid), 10)


def is_over(pid: int) -> bool:
    return (stat_of(pid) or ["Z"])[0] == "Z"


PANDAS = """\
import sys

import pyarrow as pa
from r3po.table.outcomes import complete_imports
from r3po.table.pandas_later import leave_pandas_to_f

leave_pandas_to_f()
complete_imports()
print("pandas" in sys.modules)
import pandas
print(pa.array(pandas.Series([1.0, None])).null_count, pa.table({"n": [1]}).to_pandas()["n"].tolist())
"""


def test_pandas_is_imported_once_f_imports_it_and_pyarrow_knows_it_then(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    ended = run_python("-c", PANDAS, cwd=tmp_path)
    assert ended.out.split("\n")[:2] == ["False", "1 [1]"], ended.err


@pytest.mark.parametrize("was_alone", [True, False])
@pytest.mark.parametrize("reason", [STARTER_ENDED, "SIGKILL"])
def test_who_ended_with_all_others_is_to_blame_only_if_it_was_alone(
    reason: str, was_alone: bool, tmp_path: Path
) -> None:
    pool = ProcessesPool()
    pool._processes = WorkerProcesses(tmp_path)
    death = pool.death_of(WorkerLost(0, reason))
    assert death.is_shared is (reason == STARTER_ENDED)
    assert _counts(Lost(WorkerHandle(0), death, None, was_alone)) is (was_alone or not death.is_shared)
