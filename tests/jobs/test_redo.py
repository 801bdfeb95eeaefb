"""A redo is a new beginning, and as long as it is under way it can be given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import checker
import r3po
from jobs import Job, make_job, run_process
from jobs import r3po as r3po_command
from r3po.state import job as state_of_jobs

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


def test_a_redo_goes_on_where_what_it_set_aside_is_damaged_but_is_not_given_up(grown: Job) -> None:
    cut_short(grown)
    former = grown.working_dir / "former.json"
    former.write_bytes(former.read_bytes().replace(b'"build"', b'"built"', 1))
    (finding,) = (found for found in r3po.verify_jobs(grown.config).findings if found.kind == "former")
    assert "r3po run goes on with the redo" in finding.hint
    kept = {path.name for path in (grown.working_dir / "outcomes").iterdir()}
    with pytest.raises(r3po.DamagedStateError, match="its digest does not fit"):
        r3po.reset_redo(grown.config)
    assert kept <= {path.name for path in (grown.working_dir / "outcomes").iterdir()}
    result = r3po.run_jobs(grown.config, engine="serial", progress=False)
    assert (result.done, result.failed) == (6, 0)
    assert not former.exists()
    assert r3po.verify_jobs(grown.config).findings == ()
    assert grown.findings() == []


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


# What must hold whatever comes between


def test_inputs_that_are_replaced_under_a_new_function_leave_a_job_that_opens(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 0, shard_size=2)
    job.add_files(1, 2, 3, 4)
    assert job.run("--quiet").code == 0
    for n in (1, 2, 3, 4):
        (job.source / f"{n:03}.json").unlink()
    job.add_files(11, 12, 13)
    job.write_function(TENFOLD_UNTIL_20)
    assert job.run("--quiet", "--accept-deletions").code == 0
    assert r3po.verify_jobs(job.config).findings == ()
    assert job.run("--quiet").code == 0
    assert numbers(job) == [11, 12, 13]


def test_a_redo_that_gives_no_row_decides_nothing_about_shards_whose_files_are_gone(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 5, shard_size=2)
    assert job.run("--quiet").code == 0
    for n in (0, 1):
        (job.source / f"{n:03}.json").unlink()
    for n in (2, 3, 4):
        (job.source / f"{n:03}.json").write_text('{"n": "changed"}')
    job.write_function("def double(filepath):\n    raise ValueError(filepath)\n")
    before = job.published()
    ended = job.run("--quiet", "--accept-deletions")
    assert (ended.code, "the redo was not begun" in ended.err) == (2, True)
    assert job.published() == before
    assert r3po.verify_jobs(job.config).counts == {}


def test_what_a_late_worker_records_of_a_redo_that_was_given_up_never_counts(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 0, shard_size=4, batch_seconds=0.0001)
    job.add_files(2, 3, 4, 5)
    assert job.run("--quiet").code == 0
    job.add_files(1, 20)
    before = (job.folder / "double.py").read_text()
    cut_short(job)
    late = {path: path.read_bytes() for path in job.working_dir.glob("segments/*/*.arrow")}
    assert late
    r3po.reset_redo(job.config)
    for path, content in late.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    job.write_function(before)
    assert job.run("--quiet").code == 0
    assert [(row["n"], row["twice"]) for row in job.rows()] == [(str(n), str(2 * n)) for n in (2, 3, 4, 5, 1, 20)]
    assert not any(path.exists() for path in late), "and they are swept"


def test_an_undo_that_was_killed_spares_an_output_folder_that_is_another_jobs(
    grown: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_job(tmp_path / "other", 6, job_name="other")
    assert other.run("--quiet").code == 0
    before = other.published()
    cut_short(grown)
    with monkeypatch.context() as patch:
        patch.setattr("r3po.state.former.remove_segments_of", killed)
        with pytest.raises(KeyboardInterrupt):
            r3po.reset_redo(grown.config)
    (verified,) = r3po.verify_jobs(grown.config).findings
    assert (verified.kind, verified.hint) == ("reset", "r3po run")
    grown.write_config(output_path=str(other.output))
    with pytest.raises(r3po.FolderError, match="another job"):
        r3po.run_jobs(grown.config, engine="serial", progress=False)
    assert other.published() == before
    grown.write_config()
    assert r3po.run_jobs(grown.config, engine="serial", progress=False).rows == 6
    assert [row["twice"] for row in grown.rows()] == ["20", "40", "80", "10", "30", "50"]


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_output_folder_that_is_used_again_holds_nothing_of_before_a_redo_elsewhere(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 8, shard_size=2)
    assert job.run("--quiet").code == 0
    job.write_config(output_path="elsewhere", shard_size=4)
    assert job.run("--quiet", "--redo").code == 0
    job.write_config(shard_size=4)
    assert job.run("--quiet").code == 0
    assert sorted(path.name for path in job.output.glob("csv/part-*")) == ["part-00000.csv", "part-00001.csv"]
    assert r3po.verify_jobs(job.config).findings == ()


def test_who_reads_while_a_redo_begins_takes_no_file_for_another(grown: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    grown.write_function(
        "import json, pathlib\n\n\ndef double(filepath):\n    n = json.loads(pathlib.Path(filepath).read_text())['n']\n"
        "    if n == 15:\n        raise ValueError(n)\n    return {'n': n, 'twice': n}\n"
    )
    read, n_reads = state_of_jobs.read_commits, 0

    def read_after_a_redo(*arguments: object) -> object:
        nonlocal n_reads
        n_reads += 1
        if n_reads == 1:
            assert grown.run("--quiet", "--redo").code == 1
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(state_of_jobs, "read_commits", read_after_a_redo)
    assert [failure["path"] for failure in grown.failures()] == ["015.json"]


@pytest.mark.faults
def test_a_file_that_ends_the_run_is_found_in_a_redo_in_another_order(grown: Job) -> None:
    grown.write_function(
        "import json, os\n\n\ndef double(filepath):\n    n = json.load(open(filepath))['n']\n"
        "    if n == 5:\n        os._exit(7)\n    return {'n': n, 'twice': n}\n"
    )
    codes = []
    while not codes or (codes[-1] == 7 and len(codes) < 8):
        codes.append(run_process("run", "--engine", "serial", "--quiet", "--redo", cwd=grown.folder).code)
    assert codes[-1] == 1
    assert [failure["path"] for failure in grown.failures()] == ["005.json"]
    assert numbers(grown) == [10, 15, 20, 25, 40]
