"""Who is mistrusted from run to run: what the book says, and what the beacons of killed runs say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import DOUBLE, HAS_PROC, doubled, environment, make_job, run_process, wait_until
from r3po.engines.worker_processes import forget_workers
from r3po.file_version import FileVersion
from r3po.run import suspects as suspects_module
from r3po.run.suspect_list import Suspect
from r3po.run.suspects import SuspectBook
from r3po.work import Death
from r3po.worker.beacon import Beacon, Phase, list_workers, read_beacon, worker_file

JOB, CODE, OWN = "a" * 32, "f" * 16, "run-now"
Looks = dict[tuple[int, int], tuple[int, int]]
"""Size and mtime_ns of a shard's place."""
FATAL = 'Fatal Python error: Segmentation fault\n\nStack (most recent call first):\n  File "/f.py", line 3 in f\n'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of all runs, with that of this one."""
    (tmp_path / "runs" / OWN / "workers").mkdir(parents=True)
    return tmp_path / "runs"


def book(runs: Path, job_id: str = JOB, fingerprint: str = CODE, looks: Looks | None = None) -> SuspectBook:
    """Return a book; files that `looks` does not tell of look as they always did."""

    def stat_place(shard: int, place: int) -> FileVersion:
        return FileVersion(*(looks or {}).get((shard, place), (place + 1, 10**18 + shard)))

    return SuspectBook(runs.parent / "suspects.json", job_id, fingerprint, stat_place)


def recall(runs: Path, job_id: str = JOB, fingerprint: str = CODE, looks: Looks | None = None) -> list[Suspect]:
    """Return what a run that begins now is told."""
    return book(runs, job_id, fingerprint, looks).recall(runs, OWN)


def leave_beacon(
    runs: Path, shard: int, place: int, phase: Phase = Phase.CALLING, worker: int = 0, run: str = "run-killed"
) -> Path:
    """Leave the beacon of a killed run, whose process is gone; return the folder of its workers."""
    folder = runs / run / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    beacon = Beacon(folder, worker)
    beacon.mark(phase, shard, place)
    beacon.close()
    path = worker_file(folder, worker, "beacon")
    content = bytearray(path.read_bytes())
    content[40:56] = (2**22 + 1 + worker).to_bytes(8, sys.byteorder) + (12_345).to_bytes(8, sys.byteorder)
    path.write_bytes(content)
    return folder


def keys(suspects: list[Suspect]) -> list[tuple[int, int]]:
    return [suspect.key for suspect in suspects]


def suspect(shard: int, place: int, n_deaths: int = 0, n_known: int = 0, *, is_apart: bool = False) -> Suspect:
    death = Death("SIGSEGV" if n_known else "killed, or exited", n_known > 0)
    return Suspect(shard, place, n_deaths, n_known, is_apart, death)


# The book


def test_what_was_written_is_recalled(runs: Path) -> None:
    memory = Suspect(1, 2, 1, 1, True, Death("out of memory", True, is_memory=True))
    often = Suspect(5, 0, is_apart=True, n_runs=3)
    late = Suspect(5, 1, death=Death("time"))  # to be charged, with no deaths
    written = [suspect(0, 7, 1, 1, is_apart=True), suspect(3, 1, 2), suspect(4, 4), memory, often, late]
    written.sort(key=lambda one: one.key)
    written = written[2:] + written[:2]  # as they are recalled after three runs that died
    book(runs).write(written)
    assert recall(runs) == written
    assert recall(runs) == written, "to recall is not to forget"


def test_deaths_in_an_object_count_as_long_as_it_has_its_tag(runs: Path) -> None:
    def book_of(tag: str) -> SuspectBook:
        return SuspectBook(
            runs.parent / "suspects.json", JOB, CODE, lambda shard, place: FileVersion(3, 10**18, tag=tag)
        )

    book_of('"one"').write([suspect(0, 7, 1, 1)])
    assert [one.n_deaths for one in book_of('"one"').recall(runs, OWN)] == [1]
    assert [one.n_deaths for one in book_of('"two"').recall(runs, OWN)] == [0]


def test_the_book_is_written_only_when_it_says_something_else(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, write_json = [], suspects_module.write_json
    monkeypatch.setattr(suspects_module, "write_json", lambda *args: (writes.append(args), write_json(*args)))
    made, one = book(runs), suspect(0, 7)
    for _ in range(3):
        made.write([one])
    assert len(writes) == 1
    one.n_deaths += 1  # the very object that it was given before
    made.write([one])
    made.write([one], one)
    made.write([one])
    assert len(writes) == 4
    made.write([])
    assert os.listdir(runs.parent) == ["runs"], "with nobody to mistrust there is no book"
    assert made.recall(runs, OWN) == [] and len(writes) == 4


def test_the_file_that_runs_alone_is_named(runs: Path) -> None:
    book(runs).write([suspect(0, 7), suspect(0, 8)], alone=suspect(0, 8))
    content = json.loads((runs.parent / "suspects.json").read_text())
    assert content["alone"] == [0, 8]
    assert (content["kind"], content["format"]) == ("suspects", 1)


def test_deaths_under_other_code_count_for_nothing(runs: Path) -> None:
    often = suspect(0, 7, 2, 1, is_apart=True)
    often.n_runs = 4
    book(runs).write([often], alone=suspect(0, 7))
    leave_beacon(runs, 0, 7)
    (found,) = recall(runs, fingerprint="0" * 16)
    assert (found.key, found.n_deaths, found.n_known, found.is_apart) == ((0, 7), 0, 0, True)
    assert found.n_runs == 1, "that which has just died; of the others the code is not known"


@pytest.mark.parametrize("look", [(8, 2), (9, 1), (0, 0)])
def test_deaths_of_a_file_that_looks_different_now_count_for_nothing(runs: Path, look: tuple[int, int]) -> None:
    seven, eight = suspect(0, 7, 2, 1, is_apart=True), suspect(0, 8, 2, 1)
    seven.n_runs = eight.n_runs = 3
    looks = {(0, 7): (8, 1)}
    book(runs, looks=looks).write([seven, eight])
    assert recall(runs, looks=looks) == [seven, eight]
    found = recall(runs, looks={(0, 7): look})
    assert found == [Suspect(0, 7, is_apart=True), eight], "it is mistrusted, and the other one as before"
    assert recall(runs, looks={(0, 7): look}) == found
    assert recall(runs, looks=looks) == found, "what is forgotten does not come back with the old content"


def test_the_book_keeps_what_a_file_looked_like_when_it_was_first_mistrusted(runs: Path) -> None:
    """What it looks like when it dies again may be another content."""
    looks = {(0, 7): (8, 1)}
    made = book(runs, looks=looks)
    made.write([suspect(0, 7)])
    looks[0, 7] = (9, 2)
    made.write([suspect(0, 7, 1, 1)])
    (file,) = json.loads((runs.parent / "suspects.json").read_text())["files"]
    assert (file["size"], file["mtime_ns"], file["deaths"]) == (8, 1, 1)
    assert [one.n_deaths for one in recall(runs, looks=looks)] == [0]


@pytest.mark.parametrize(
    "harm", ["", "{}", "[]", "\0" * 100, "no JSON", '{"format": 99}', '{"format": 1}', "one byte changed"]
)
def test_a_damaged_book_is_ignored_and_removed_and_another_job_s_says_nothing(runs: Path, harm: str) -> None:
    book(runs).write([suspect(0, 7, 2, 1)])
    path = runs.parent / "suspects.json"
    text = path.read_text()
    assert '"deaths": 2' in text
    path.write_text(text.replace('"deaths": 2', '"deaths": 3') if harm == "one byte changed" else harm)
    assert recall(runs) == []
    assert os.listdir(runs.parent) == ["runs"]
    book(runs).write([suspect(0, 7, 2, 1)])
    assert recall(runs, job_id="b" * 32) == []


@pytest.mark.parametrize("seam", ["_create", "_fsync", "_replace"])
def test_a_write_that_is_cut_leaves_a_book_that_can_be_read(
    runs: Path, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    made = book(runs)
    made.write([suspect(0, 7)])
    with monkeypatch.context() as patch:
        patch.setattr(f"r3po.storage.durable.{seam}", cut)
        with pytest.raises(KeyboardInterrupt):
            made.write([suspect(0, 7), suspect(0, 8)])
    assert keys(recall(runs)) == [(0, 7)]
    made.write([suspect(0, 7), suspect(0, 8)])
    assert keys(recall(runs)) == [(0, 7), (0, 8)], "it does not believe that it has written that already"


# Beacons of killed runs


def test_the_files_of_a_killed_run_are_suspects_and_its_beacons_go(runs: Path) -> None:
    folder = leave_beacon(runs, 0, 7, Phase.CALLING, worker=0)
    leave_beacon(runs, 2, 9, Phase.READING, worker=1)
    leave_beacon(runs, 5, 1, Phase.READING, worker=0, run="run-before")
    worker_file(folder, 0, "crash").write_text(FATAL)
    found = recall(runs)
    assert sorted(keys(found)) == [(0, 7), (2, 9), (5, 1)]
    assert all((one.is_apart, one.n_deaths) == (True, 0) for one in found), "who was to blame is not known"
    assert (list_workers(folder), os.listdir(folder)) == ([], [])
    assert recall(runs) == found, "the book has them now"


def test_the_runs_that_died_while_a_file_was_in_flight_are_counted(runs: Path) -> None:
    for n_runs in range(1, 4):
        leave_beacon(runs, 0, 7, run=f"run-{n_runs}")
        leave_beacon(runs, 0, n_runs + 10, worker=1, run=f"run-{n_runs}")
        found = {one.place: (one.n_runs, one.n_deaths) for one in recall(runs)}
        assert found == {7: (n_runs, 0)} | {n + 10: (1, 0) for n in range(1, n_runs + 1)}
    content = json.loads((runs.parent / "suspects.json").read_text())
    assert [file["runs"] for file in content["files"]] == [1, 1, 3, 1], "the third run begins with the third"


def test_after_each_run_that_died_suspects_come_in_another_order(runs: Path) -> None:
    for n_runs in range(1, 5):
        for worker, place in enumerate((8, 7, 9)):
            leave_beacon(runs, 0, place, worker=worker, run=f"run-{n_runs}")
        first = (n_runs - 1) % 3
        in_turn = [(0, 7), (0, 8), (0, 9)][first:] + [(0, 7), (0, 8), (0, 9)][:first]
        assert keys(recall(runs)) == in_turn
        assert keys(recall(runs)) == in_turn, "a run that did not die changes nothing"


def test_a_worker_that_was_in_no_file_or_whose_beacon_is_noise_leaves_no_suspect(runs: Path) -> None:
    for worker, phase in enumerate((Phase.IDLE, Phase.LOADING, Phase.RECORDING, Phase.STAGING)):
        folder = leave_beacon(runs, 0, worker, phase, worker)
    worker_file(folder, 4, "beacon").write_bytes(bytes(64))
    worker_file(folder, 5, "beacon").write_bytes(b"short")
    worker_file(folder, 0, "out").write_text("words")
    own = leave_beacon(runs, 0, 7, run=OWN)
    assert recall(runs) == []
    assert os.listdir(folder) == ["00000.out"], "what f printed is kept"
    assert list_workers(own) == [0], "beacons of this very run are not looked at"


KILLED = Death("killed, and the run with it")


@pytest.mark.parametrize(
    ("phase", "crash", "found"),
    [
        (Phase.CALLING, "", Suspect(0, 7, 2, 1, True, KILLED, n_runs=2)),
        (Phase.READING, FATAL, Suspect(0, 7, 2, 2, True, Death("SIGSEGV", True, FATAL), n_runs=2)),
        (Phase.RECORDING, "", replace(suspect(0, 7, 1, 1, is_apart=True), n_runs=1)),
        (Phase.IDLE, "", replace(suspect(0, 7, 1, 1, is_apart=True), n_runs=1)),
    ],
    ids=["in it", "with a crash file", "after it", "not in it"],
)
def test_whoever_was_alone_when_the_run_died_has_died_once_more_if_its_beacon_says_so(
    runs: Path, phase: Phase, crash: str, found: Suspect
) -> None:
    seven, eight = replace(suspect(0, 7, 1, 1, is_apart=True), n_runs=1), suspect(0, 8)
    book(runs).write([seven, eight], alone=seven)
    worker_file(leave_beacon(runs, 0, 7, phase), 0, "crash").write_text(crash)
    assert sorted(recall(runs), key=lambda one: one.key) == [found, eight]
    assert sum(one.n_deaths for one in recall(runs)) == found.n_deaths, "it is not counted twice"


def test_a_lone_one_that_was_mended_has_not_died(runs: Path) -> None:
    book(runs, looks={(0, 7): (3, 5)}).write([suspect(0, 7, 1, 1, is_apart=True)], alone=suspect(0, 7))
    worker_file(leave_beacon(runs, 0, 7), 0, "crash").write_text(FATAL)
    (found,) = recall(runs, looks={(0, 7): (4, 6)})
    assert (found.n_deaths, found.n_known, found.is_apart) == (0, 0, True)


def test_a_run_that_dies_while_it_recalls_loses_no_suspect(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the book and the removal of the beacons; the death of the lone one is then counted once."""
    book(runs).write([suspect(0, 7)], alone=suspect(0, 7))
    leave_beacon(runs, 0, 7)
    leave_beacon(runs, 0, 9, worker=1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("r3po.engines.worker_processes.remove_worker_files", die)
        with pytest.raises(KeyboardInterrupt):
            recall(runs)
    found = recall(runs)
    assert [(one.key, one.n_deaths) for one in found] == [((0, 9), 0), ((0, 7), 1)]


@pytest.mark.skipif(not HAS_PROC, reason="which process that was is known from /proc only")
def test_a_worker_that_outlived_its_run_is_ended(runs: Path) -> None:
    source = "import sys, time\nfrom pathlib import Path\nfrom r3po.worker.beacon import Beacon, Phase\n"
    source += "Beacon(Path(sys.argv[1]), 0).mark(Phase.CALLING, 0, 7)\ntime.sleep(1000)\n"
    folder = runs / "run-killed" / "workers"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", source, str(folder)]
    with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
        try:
            wait_until(lambda: (seen := read_beacon(folder, 0)) and seen.place == 7, "it is in its file")
            assert keys(recall(runs)) == [(0, 7)]
            assert process.wait(30) == -signal.SIGKILL
        finally:
            process.kill()


def test_an_orderly_end_leaves_nobody_to_mistrust(runs: Path) -> None:
    folder = leave_beacon(runs, 0, 7)
    forget_workers(folder)
    assert not folder.exists()
    leave_beacon(runs, 0, 7)
    worker_file(folder, 0, "out").write_text("words")
    forget_workers(folder)
    assert os.listdir(folder) == ["00000.out"]
    assert recall(runs) == []


# Calls with many files


def leave_call(runs: Path, shard: int, place: int, n_more: int, worker: int = 0, run: str = "run-killed") -> None:
    folder = runs / run / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    beacon = Beacon(folder, worker)
    beacon.mark(Phase.CALLING, shard, place, n_more)
    beacon.close()
    path = worker_file(folder, worker, "beacon")
    content = bytearray(path.read_bytes())
    content[40:56] = (2**22 + 1 + worker).to_bytes(8, sys.byteorder) + (12_345).to_bytes(8, sys.byteorder)
    path.write_bytes(content)


def test_of_a_call_with_many_files_that_a_killed_run_was_in_none_is_a_suspect(runs: Path) -> None:
    leave_call(runs, 0, 7, 63)
    leave_call(runs, 2, 0, 3, worker=1)
    leave_beacon(runs, 0, 3, worker=2)
    made = book(runs)
    assert keys(made.recall(runs, OWN)) == [(0, 3)]
    assert made.in_doubt == [(0, (7, 71)), (2, (0, 4))]
    assert list_workers(runs / "run-killed" / "workers") == []
    again = book(runs)
    assert keys(again.recall(runs, OWN)) == [(0, 3)] and again.in_doubt == made.in_doubt, "the book has them now"


def test_calls_are_in_doubt_until_all_is_done_and_of_other_places_they_say_nothing(runs: Path) -> None:
    leave_call(runs, 0, 7, 63)
    leave_call(runs, 0, 7, 63, worker=1)
    made = book(runs)
    assert (made.recall(runs, OWN), made.in_doubt) == ([], [(0, (7, 71))])
    other = book(runs, job_id="b" * 32)
    assert (other.recall(runs, OWN), other.in_doubt) == ([], [])
    leave_call(runs, 0, 7, 63)
    made = book(runs)
    made.recall(runs, OWN)
    made.write([suspect(0, 1)])
    assert json.loads((runs.parent / "suspects.json").read_text())["calls"] == [[0, 7, 71]]
    made.in_doubt = []
    made.write([])
    assert os.listdir(runs.parent) == ["runs"]
    leave_call(runs, 0, 7, 63)
    made = book(runs)
    made.forget(runs, OWN)
    assert (made.recall(runs, OWN), made.in_doubt, os.listdir(runs.parent)) == ([], [], ["runs"])


# The serial engine, which is one process with the run


@pytest.mark.faults
def test_a_file_that_ends_the_whole_run_is_a_failure_in_the_end(tmp_path: Path) -> None:
    end = "if n == 3:\n        os.kill(os.getpid(), signal.SIGSEGV)"
    job = make_job(tmp_path, 6, "import os, signal\n\n" + DOUBLE.replace("    return", f"    {end}\n    return"))
    codes = [run_process("run", "--engine", "serial", cwd=tmp_path).code for _ in range(4)]
    assert codes == [-signal.SIGSEGV] * 3 + [1], "first among the others, then alone"
    (failure,) = job.failures()
    assert (failure["path"], failure["error_type"]) == ("003.json", "WorkerDied")
    assert failure["message"] == "SIGSEGV: the process died in this file, alone, twice"
    assert job.rows() == doubled(0, 1, 2, 4, 5)
    assert not (job.working_dir / "suspects.json").exists()
