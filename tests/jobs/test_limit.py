"""`r3po run --limit N`: the first pending files are done really, the others are left to a later run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs import PICKY, doubled, make_job, r3po
from r3po import run_jobs
from r3po.errors import ConfigError
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.work import Batch, Stage


def test_a_limited_run_does_the_first_files_and_the_next_run_the_others(tmp_path: Path) -> None:
    job = make_job(tmp_path, 7, shard_size=3)
    ended = r3po("run", "--engine", "serial", "--limit", "4", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["done"], result["failed"], result["pending"], result["rows"]) == (4, 0, 3, 3)
    *_, note, hint, reached, go_on = ended.err.splitlines()
    assert note == "note: a part is written when all files of its shard are done (shard_size: 3)"
    assert hint == "hint:  r3po try shows rows at once"
    assert re.fullmatch(r"Limit reached after \S+ s\. 4 files have their rows, 0 failed, 3 are to do\.", reached)
    assert go_on == "Continue with: r3po run --engine serial"
    assert ended.err.count("imit") == 1, "once is enough"
    assert "stopped at --limit: 3 files are left; r3po run --engine serial goes on" in result["notices"]
    assert not list(job.output.glob("*/_SUCCESS"))
    assert (job.output / "csv" / "part-00000.csv").exists()
    status = json.loads(r3po("status", "--json", cwd=tmp_path).out)
    assert (status["done"], status["pending"]) == (4, 3)

    assert r3po("run", "--engine", "serial", cwd=tmp_path).code == 0
    assert job.rows() == doubled(*range(7))
    assert list(job.output.glob("csv/_SUCCESS"))


def test_a_limit_that_is_not_reached_changes_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, 3)
    result = run_jobs(job.config, engine="serial", progress=False, limit=3)
    assert (result.done, result.pending) == (3, 0)
    assert list(job.output.glob("csv/_SUCCESS"))


def test_failed_files_count_and_a_limited_retry_leaves_the_others_for_later(tmp_path: Path) -> None:
    job = make_job(tmp_path, 6, PICKY.format(bad=[1, 2, 3, 4]))
    assert r3po("run", "--engine", "serial", "--limit", "3", cwd=tmp_path).code == 1
    assert r3po("run", "--engine", "serial", cwd=tmp_path).code == 1
    ended = r3po("run", "--engine", "serial", "--retry-failed", "--limit", "2", "--json", cwd=tmp_path)
    assert ended.code == 1
    assert (json.loads(ended.out)["failed"], json.loads(ended.out)["pending"]) == (2, 2)
    assert not list(job.output.glob("*/_SUCCESS"))
    result = run_jobs(job.config, engine="serial", progress=False)
    assert (result.done, result.failed, result.pending) == (2, 4, 0)
    attempts = {failure["path"]: failure["attempts"] for failure in result.failures()}
    assert set(attempts.values()) == {2}


def test_a_limited_redo_goes_on_with_the_next_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, 4)
    run_jobs(job.config, engine="serial", progress=False)
    result = run_jobs(job.config, engine="serial", progress=False, redo=True, limit=1)
    assert (result.done, result.pending) == (1, 3)
    result = run_jobs(job.config, engine="serial", progress=False)
    assert (result.done, result.pending) == (4, 0)
    assert job.rows() == doubled(*range(4))


def test_a_finished_job_with_new_files_has_no_proof_of_its_end_any_more(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2)
    run_jobs(job.config, engine="serial", progress=False)
    job.add_files(2, 3)
    run_jobs(job.config, engine="serial", progress=False, limit=1)
    assert not list(job.output.glob("*/_SUCCESS"))


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2)
    with pytest.raises(ConfigError, match="at least 1"):
        run_jobs(job.config, engine="serial", progress=False, limit=0)


def drained(scheduler: Scheduler) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the spans that were handed out, each of a batch that succeeded, and the shards that were staged."""
    spans, staged = [], []
    while not scheduler.is_finished:
        work = scheduler.next_work(is_fresh=True)
        assert work is not None
        if isinstance(work, Stage):
            staged.append(work.shard)
            scheduler.stage_done(work)
        else:
            assert isinstance(work, Batch)
            spans += [(work.shard, place) for start, stop in work.places for place in range(start, stop)]
            scheduler.batch_done(work, (), 0.1)
    return spans, staged


@pytest.mark.parametrize("limit", range(1, 12))
def test_the_scheduler_takes_up_as_many_places_as_the_limit_says_and_stages_whole_shards_alone(limit: int) -> None:
    pending = [(0, [(1, 3), (5, 6)]), (2, []), (3, [(0, 4)]), (5, [(7, 9)])]
    places = [(shard, p) for shard, spans in pending for start, stop in spans for p in range(start, stop)]
    scheduler = Scheduler(pending, 2, 1.0, limit=limit)
    assert scheduler.n_left_out == max(0, len(places) - limit)
    spans, staged = drained(scheduler)
    assert sorted(spans) == places[:limit]
    whole = [shard for shard, own in pending if set((shard, p) for s, e in own for p in range(s, e)) <= set(spans)]
    assert sorted(staged) == whole


def test_a_suspect_beyond_the_limit_is_not_tried_and_not_forgotten() -> None:
    near, far = Suspect(0, 1, n_runs=1), Suspect(0, 8, n_deaths=1, is_apart=True)
    scheduler = Scheduler([(0, [(0, 10)])], 1, 1.0, [far, near], limit=3)
    spans, staged = drained(scheduler)
    assert (sorted(spans), staged) == ([(0, 0), (0, 1), (0, 2)], [])
    scheduler.suspects.release_first_offenders()
    assert scheduler.suspects.all == [far] and far.is_apart
