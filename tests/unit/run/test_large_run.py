"""What a batch costs the driver must not depend on how many workers there are, nor a shard on how many files it has."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from large_run import SHARD_SIZE, LargeRun, new_state
from r3po.engines.pool import Role
from r3po.run import loop, suspects, trials, watch
from r3po.run.beacon_watch import WATCH_S
from r3po.run.roster import Roster, WorkerHandle
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.run.workforce import pace
from r3po.work import Batch, Stage, Work
from roster_check import check_roster

FEW, MANY = 100, 10_000
"""Workers."""

MOST_TIMES = 5
"""So many times as much a batch may cost with many workers: memory is slower, and the machine of the tests may be busy.
A look at each of them at each batch would be 50 times as much."""


@pytest.fixture
def new_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(n_workers: int, n_shards: int, **options: Any) -> LargeRun:
        run = LargeRun(n_workers, n_shards, **options)
        for module in (loop, trials, watch):
            monkeypatch.setattr(module, "time", run.pool)
        return run

    return make


def test_a_batch_costs_the_driver_as_much_with_10_000_workers_as_with_100(new_run: Any) -> None:
    few, many = new_run(FEW, 200), new_run(MANY, 200)
    few.go(2000)
    many.go(2000)
    costs = [(cost_of(many), cost_of(few)) for _ in range(3)]  # by turns, the machine is as busy for both
    assert min(cost for cost, _ in costs) < MOST_TIMES * min(cost for _, cost in costs), costs


def cost_of(run: LargeRun, n_batches: int = 1000) -> float:
    """Return the driver's seconds for a batch."""
    n_batches, seconds = run.go(n_batches)
    return seconds / n_batches


def test_towards_the_end_a_batch_costs_no_more(new_run: Any) -> None:
    """Then most workers have one batch in hand, and none is given a second one."""
    few, many = (new_run(n, 8, files_a_second=2.0, shard_size=n) for n in (FEW, MANY))
    for run in (few, many):
        run.go(1)
        assert run.scheduler._backlog.is_ending(run.scheduler.n_pending)
    costs = [(cost_of(many, 300), cost_of(few, 50)) for _ in range(3)]
    assert min(cost for cost, _ in costs) < MOST_TIMES * min(cost for _, cost in costs), costs


def test_each_beacon_is_looked_at_once_in_a_while_and_never_all_at_once(new_run: Any) -> None:
    run = new_run(300, 100)
    run.go(600)
    began, n_before, n_waits = run.pool.now, run.pool.n_sightings, run.pool.n_waits
    run.go(1500)
    n_looks = (run.pool.n_sightings - n_before) / len(run.manager.handles)
    assert n_looks == pytest.approx((run.pool.now - began) / WATCH_S, abs=1.0)
    assert (run.pool.n_sightings - n_before) / (run.pool.n_waits - n_waits) < 5


def test_a_job_with_more_workers_than_work_comes_to_its_end(new_run: Any) -> None:
    run = new_run(1000, 3, shard_size=3000)
    run.go()
    assert run.scheduler.is_finished and run.pool.n_stages == 3
    assert (run.loop.counts.n_done, run.loop.counts.n_pending) == (9000, 0)


def test_only_workers_that_can_stage_do(new_run: Any) -> None:
    run = new_run(50, 5, files_a_second=200.0, shard_size=3000)
    submit, staged = run.manager.submit, []
    for number, handle in run.manager.handles.items():
        handle.role = Role(can_stage=number in (7, 8))

    def note(handle: WorkerHandle, work: Work, call: Any) -> None:
        if isinstance(work, Stage):
            staged.append(handle.number)
        submit(handle, work, call)

    run.manager.submit = note
    run.go()
    assert run.scheduler.is_finished and len(staged) == 5 and set(staged) <= {7, 8}


def test_many_shards_take_little_memory_beside_what_is_known_of_them() -> None:
    states = [new_state(shard) for shard in range(5000)]
    tracemalloc.start()
    try:
        scheduler = Scheduler(((state.ref.shard, state.pending) for state in states), 1000, 1.0)
        n_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert scheduler.n_pending == 5000 * SHARD_SIZE
    assert n_bytes / len(states) < 400, "bytes a shard"


def test_what_killed_runs_left_of_10_000_workers_is_taken_up_in_one_pass() -> None:
    """Not once a shard: with 100,000 shards that would take minutes."""
    looks = Counted(Suspect(shard, shard % 7, is_apart=True) for shard in range(10_000))
    scheduler = Scheduler(((shard, ((0, 10),)) for shard in range(10_000)), 10, 1.0, looks)
    assert looks.n_looks == scheduler.suspects.n_waiting == 10_000
    trial = scheduler.next_work(is_fresh=True)
    assert isinstance(trial, Batch) and (trial.shard, trial.places) == (0, ((0, 1),))


def test_trials_in_company_cost_the_book_of_suspects_nothing(
    new_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run of many workers leaves as many suspects; the book of all of them is not written for each."""
    written: list[int] = []
    write_json = suspects.write_json

    def note(path: Path, content: dict[str, Any]) -> None:
        written.append(len(content["files"]))
        write_json(path, content)

    monkeypatch.setattr(suspects, "write_json", note)
    mistrusted = [Suspect(0, place, n_runs=1, is_apart=True) for place in range(0, 3000, 5)]
    run = new_run(500, 1, shard_size=3000, suspects=mistrusted, book_path=tmp_path / "suspects.json")
    run.go()
    assert run.scheduler.is_finished and run.loop.counts.n_done == 3000
    n_alone = max(written) - min(n for n in written if n)
    assert 0 < n_alone < 300 and len(written) <= 2 * n_alone + 4, "the others had company after some seconds"
    assert not (tmp_path / "suspects.json").exists()


class Counted(list[Suspect]):
    n_looks = 0

    def __iter__(self) -> Any:
        for suspect in super().__iter__():
            self.n_looks += 1
            yield suspect


def test_a_roster_has_each_worker_where_its_handle_says_whatever_happens_to_it() -> None:
    rng = random.Random(5)
    roster, number = Roster(), 0
    for _ in range(3000):
        handle = rng.choice(list(roster.handles.values())) if roster.handles else None
        match rng.choice(["add", "remove", "ready", "leaving", "give", "give", "take"]):
            case "add":
                roster.add(WorkerHandle(number, role=Role(can_stage=rng.random() < 0.5)))
                number += 1
            case "remove" if handle is not None and rng.random() < 0.5:
                assert roster.remove(handle.number) is handle
            case "ready" if handle is not None:
                roster.set_ready(handle)
            case "leaving" if handle is not None and rng.random() < 0.2:
                roster.set_leaving(handle)
            case "give" if handle is not None and not handle.has_trial and len(handle.in_hand) < 2:
                kind = "batch" if handle.in_hand or rng.random() < 0.7 else "trial"
                roster.give(handle, Batch(0, 0, ((0, 1),), kind), is_fresh=False)
            case "take" if handle is not None and handle.in_hand:
                first = handle.in_hand[0]
                assert roster.take(handle) is first
        check_roster(roster)


@pytest.mark.parametrize(
    ("asked", "n_workers", "seconds"),
    [(1.0, 8, 1.0), (1.0, 500, 1.0), (1.0, 1000, 2.0), (1.0, 10_000, 20.0), (30.0, 10_000, 30.0), (0.1, 8, 0.1)],
)
def test_batches_take_longer_where_one_driver_could_not_answer_all_workers(
    asked: float, n_workers: int, seconds: float
) -> None:
    assert pace(asked, n_workers) == seconds
