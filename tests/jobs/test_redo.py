"""A redo is a new beginning, and as long as it is under way it can be given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import checker
import r3po
from jobs import Job, make_job
from jobs import r3po as r3po_command

TENFOLD_UNTIL_20 = """\
import json
import os
import signal


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n >= 20:
        os.kill(os.getpid(), signal.SIGINT)
    return {"n": n, "twice": 20 * n}
"""
"""Other rows than before; the run is interrupted at the file 020."""


@pytest.fixture
def grown(tmp_path: Path) -> Job:
    """A finished job whose files came in two builds, and of which one has gone again."""
    job = make_job(tmp_path / "job", 0, shard_size=2)
    job.add_files(10, 20, 30, 40)
    assert job.run("--quiet").code == 0
    job.add_files(5, 15, 25)
    (job.source / "030.json").unlink()
    assert job.run("--quiet").code == 0
    return job


def numbers(job: Job) -> list[int]:
    return [int(row["n"]) for row in job.rows()]


def cut_short(job: Job) -> None:
    """Begin a redo with another function, which stops after some shards."""
    before = (job.folder / "double.py").read_text()
    job.write_function(TENFOLD_UNTIL_20)
    assert job.run("--redo", "--quiet").code == 130
    job.write_function(before)


def test_what_is_added_comes_last_and_a_redo_puts_it_in_its_place(grown: Job, tmp_path: Path) -> None:
    assert numbers(grown) == [10, 20, 40, 5, 15, 25], "rows keep their parts"
    ended = grown.run("--redo")
    assert ended.code == 0
    assert "begins the table again, in the order of the files" in " ".join(ended.err.split())
    fresh = make_job(tmp_path / "fresh", 0, shard_size=2)
    fresh.add_files(5, 10, 15, 20, 25, 40)
    assert fresh.run("--quiet").code == 0
    assert grown.published() == fresh.published()
    assert checker.check_job(grown.working_dir, grown.output, path_column=None, is_swept=False) == []
    assert r3po.verify_jobs(grown.config).findings == ()


def test_a_redo_takes_the_shard_size_of_today(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 7, shard_size=2)
    assert job.run("--quiet").code == 0
    job.write_config(shard_size=5)
    assert job.run("--redo", "--quiet").code == 0
    assert sorted(part.name for part in job.output.glob("csv/part-*")) == ["part-00000.csv", "part-00001.csv"]
    assert numbers(job) == list(range(7))


def test_a_redo_in_the_same_order_leaves_each_part_until_its_new_one_is_there(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 0, shard_size=2)
    job.add_files(5, 10, 20, 30)
    assert job.run("--quiet").code == 0
    cut_short(job)
    assert [row["twice"] for row in job.rows()] == ["100", "200", "40", "60"]


def test_a_redo_in_another_order_shows_no_row_of_before_beside_new_ones(grown: Job) -> None:
    cut_short(grown)
    assert [(row["n"], row["twice"]) for row in grown.rows()] == [("5", "100"), ("10", "200")]
    assert grown.status()["done"] + grown.status()["pending"] == 6
    assert r3po.verify_jobs(grown.config).counts == {"pending": 1}


def test_a_redo_that_is_given_up_costs_no_call_of_f(grown: Job) -> None:
    before = grown.published()
    cut_short(grown)
    ended = r3po_command("reset", "--redo", cwd=grown.folder)
    assert (ended.code, ended.out) == (
        0,
        "6 rows of before the redo count again; r3po run makes what is left of parts.\n",
    )
    assert grown.status()["done"] == 6
    grown.write_function("def double(filepath):\n    raise AssertionError(filepath)\n")
    result = r3po.run_jobs(grown.config, engine="serial", progress=False)
    assert (result.done, result.failed, result.rows) == (6, 0, 6)
    assert grown.published() == before
    assert r3po.verify_jobs(grown.config).findings == ()
    assert not (grown.working_dir / "former.json").exists()


def test_a_redo_of_a_redo_is_given_up_to_what_was_there_before_both(grown: Job) -> None:
    before = grown.published()
    cut_short(grown)
    grown.write_function(TENFOLD_UNTIL_20.replace("20 * n", "30 * n"))
    assert grown.run("--redo", "--restart", "--quiet").code == 130
    assert r3po.reset_redo(grown.config) == 6
    grown.write_function("def double(filepath):\n    raise AssertionError(filepath)\n")
    assert grown.run("--quiet").code == 0
    assert grown.published() == before


def test_rows_that_were_in_no_part_yet_are_made_again_where_the_redo_has_made_theirs(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 0, shard_size=3, batch_seconds=0.0001)
    job.add_files(1, 2, 20, 30)
    before = (job.folder / "double.py").read_text()
    job.write_function(TENFOLD_UNTIL_20)
    assert job.run("--quiet").code == 130
    job.write_function(before)
    n_done = job.status()["done"]
    assert 2 <= n_done < 4
    job.write_function(TENFOLD_UNTIL_20.replace(">= 20", ">= 30"))
    assert job.run("--redo", "--quiet").code == 130
    assert r3po.reset_redo(job.config) < n_done
    job.write_function(before)
    assert job.run("--quiet").code == 0
    assert [row["twice"] for row in job.rows()] == ["2", "4", "40", "60"]


@pytest.mark.parametrize("prepare", [lambda job: None, lambda job: job.run("--redo", "--quiet")])
def test_without_a_redo_under_way_there_is_nothing_to_give_up(prepare: Callable[[Job], object], grown: Job) -> None:
    prepare(grown)
    before = grown.published()
    ended = r3po_command("reset", "--redo", cwd=grown.folder)
    assert (ended.code, "no redo is under way" in ended.err) == (2, True)
    assert grown.published() == before


def test_what_was_set_aside_goes_with_reset_all(grown: Job) -> None:
    cut_short(grown)
    assert r3po.reset_all_tracking(grown.config) == 2
    assert {path.name for path in grown.working_dir.iterdir()} <= {"lock", "lock.holder.json"}


def test_deaths_under_the_old_order_are_no_deaths_of_the_files_that_have_the_places_now(grown: Job) -> None:
    suspects = grown.working_dir / "suspects.json"
    suspects.write_text(json.dumps({"format": 1, "kind": "suspects"}))
    assert grown.run("--redo", "--quiet").code == 0
    assert not suspects.exists()


def test_a_worker_that_is_left_records_nothing_after_the_redo_was_given_up(
    grown: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(grown)
    ended: list[str] = []
    monkeypatch.setattr("r3po.run.undo_redo.end_left_workers", lambda runs, own: ended.append(runs.name))
    r3po.reset_redo(grown.config)
    assert ended == ["runs"]


def test_a_file_that_goes_during_a_redo_with_on_deleted_keep_is_told(grown: Job) -> None:
    grown.settings["on_deleted"] = "keep"
    grown.write_config()
    assert grown.run("--quiet").code == 0
    cut_short(grown)
    (grown.source / "040.json").unlink()
    ended = grown.run("--quiet")
    assert (ended.code, "1 file is gone that a redo under way had not done again" in ended.err) == (2, True)
    assert grown.run("--quiet", "--accept-deletions").code == 0
    assert numbers(grown) == [5, 10, 15, 20, 25]
