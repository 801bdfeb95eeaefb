"""Files that machines were lost in: by itself that says nothing, and again and again it does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from r3po.run.roster import WorkerHandle
from r3po.run.scheduler import Scheduler
from r3po.run.trials import MACHINE_LOSSES, Trials
from r3po.run.workers import Lost
from r3po.work import Batch, Death, RecordFailure
from r3po.worker.beacon import Phase, Sighting

GONE = Death("m2 was lost: it has left the cluster", is_machine=True)


def new_trials(n_files: int = 4) -> tuple[Scheduler, Trials]:
    scheduler = Scheduler([(0, [(0, n_files)])], 2, 1.0)
    book: Any = SimpleNamespace(write=lambda *_: None, in_doubt=[])
    return scheduler, Trials(scheduler, book)


def lose(trials: Trials, work: Batch, place: int, *, was_alone: bool = False) -> None:
    seen = Sighting(1, Phase.READING, 0, place, 0, 0, None)
    trials.take_loss(Lost(WorkerHandle(0, in_hand=[work], seen=seen), GONE, None, was_alone))


def next_batch(scheduler: Scheduler) -> Batch:
    work = scheduler.next_work(4, is_fresh=True)
    assert isinstance(work, Batch)
    return work


def test_a_machine_that_is_lost_blames_no_file() -> None:
    scheduler, trials = new_trials()
    for _ in range(MACHINE_LOSSES - 1):
        lose(trials, next_batch(scheduler), 0)
    for place in range(1, 4):  # and others count for themselves
        lose(trials, next_batch(scheduler), place)
    assert scheduler.suspects.all == []
    assert scheduler.n_pending == 4


def test_a_file_that_takes_one_machine_after_the_other_with_it_fails_in_the_end() -> None:
    scheduler, trials = new_trials()
    for _ in range(MACHINE_LOSSES):
        lose(trials, next_batch(scheduler), 2)
    assert [suspect.key for suspect in scheduler.suspects.all] == [(0, 2)]
    n_trials = 0
    while not isinstance(work := scheduler.next_work(is_fresh=True), RecordFailure):
        assert isinstance(work, Batch)
        if work.kind == "trial":
            n_trials += 1
            assert work.places == ((2, 3),)
            lose(trials, work, 2, was_alone=True)
        else:
            scheduler.batch_done(work, (), 1.0)
    assert n_trials == 3
    assert (work.place, work.n_deaths) == (2, 3)
