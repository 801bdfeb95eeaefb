"""Which places next: one rule at a time, and jobs on virtual time with workers that are slow or fast."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from r3po.run.backlog import FIRST_BATCH, GROWTH, LAST_TRIES, SHORTEST_S, TAIL
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import DEATHS, KNOWN_DEATHS, Suspect
from r3po.work import Batch, Death, RecordFailure, Span, Stage, Work

Place = tuple[int, int]
"""Shard and place."""

QUEUE_DEPTH = 2
"""Tickets that a worker has at most, as in a real run."""


SEGFAULT = Death("SIGSEGV", is_known=True)
KILLED = Death("killed, or exited")
OUT_OF_MEMORY = Death("out of memory", is_known=True, is_memory=True)
TOO_LONG = Death("time", is_known=True)


def places_of(shard: int, runs: Iterable[Span]) -> list[Place]:
    return [(shard, place) for start, stop in runs for place in range(start, stop)]


def count(runs: Iterable[Span]) -> int:
    return sum(stop - start for start, stop in runs)


def rest_of(runs: Iterable[Span], n_done: int) -> list[Span]:
    """Return what is left of runs after their first `n_done` places."""
    rest = []
    for start, stop in runs:
        n_here = min(n_done, stop - start)
        n_done -= n_here
        if start + n_here < stop:
            rest.append((start + n_here, stop))
    return rest


# The simulation


@dataclass
class SimWorker:
    seconds_a_file: float
    in_hand: deque[Work] = field(default_factory=deque)
    ends_at: float = 0.0
    """When it is through with the first of them, or has been."""


class Simulation:
    """Workers on virtual time; each does what it has in hand in order. That they die is tried in `tests/faults`."""

    def __init__(
        self,
        pending: Sequence[tuple[int, Sequence[Span]]],
        speeds: Sequence[float],
        batch_seconds: float = 1.0,
        slow: dict[int, float] | None = None,
    ) -> None:
        self.slow = slow or {}
        """Seconds of some places, of whatever shard; the others take what their worker takes."""
        self.batch_seconds = batch_seconds
        self.scheduler = Scheduler(pending, len(speeds), batch_seconds)
        self.workers = [SimWorker(speed) for speed in speeds]
        self.now = 0.0
        self.offers: list[int] = []

    def run(self) -> None:
        self.hand_out()
        for _ in range(100_000):
            if self.scheduler.is_finished:
                return
            busy = [worker for worker in self.workers if worker.in_hand]
            assert busy, "the job is not finished, and nobody is at work"
            first = min(busy, key=lambda worker: worker.ends_at)
            self.now = first.ends_at
            self.answer(first)
            self.hand_out()
        raise AssertionError("the job does not come to an end")

    def hand_out(self) -> None:
        for depth in range(1, QUEUE_DEPTH + 1):
            for worker in self.workers:
                if len(worker.in_hand) < depth:
                    work = self.scheduler.next_work(is_ahead=bool(worker.in_hand))
                    if work is None:
                        return
                    worker.in_hand.append(work)
                    if isinstance(work, Batch):
                        self.offers.append(count(work.places))
                    if len(worker.in_hand) == 1:
                        self.begin(worker)

    def begin(self, worker: SimWorker) -> None:
        work = worker.in_hand[0]
        worker.ends_at = self.now + (0.01 if isinstance(work, Stage) else self.seconds_of(worker, work)[1])

    def seconds_of(self, worker: SimWorker, work: Batch) -> tuple[int, float]:
        """Return how many files fit into a batch, and how long they take."""
        if not self.slow:
            n_files = min(count(work.places), max(1, math.ceil(self.batch_seconds / worker.seconds_a_file)))
            return n_files, n_files * worker.seconds_a_file
        n_files, took = 0, 0.0
        for _, place in places_of(work.shard, work.places):
            n_files, took = n_files + 1, took + self.slow.get(place, worker.seconds_a_file)
            if took >= self.batch_seconds:
                break
        return n_files, took

    def answer(self, worker: SimWorker) -> None:
        work = worker.in_hand.popleft()
        if isinstance(work, Stage):
            self.scheduler.stage_done(work)
        else:
            n_done, took = self.seconds_of(worker, work)
            self.scheduler.batch_done(work, rest_of(work.places, n_done), took)
        if worker.in_hand:
            self.begin(worker)


# One rule at a time


def next_batch(scheduler: Scheduler, limit: int | None = None, *, is_fresh: bool = False) -> Batch:
    work = scheduler.next_work(limit, is_fresh=is_fresh)
    assert isinstance(work, Batch)
    return work


def next_stage(scheduler: Scheduler) -> Stage:
    work = scheduler.next_work()
    assert isinstance(work, Stage)
    return work


def next_charge(scheduler: Scheduler) -> RecordFailure:
    work = scheduler.next_work()
    assert isinstance(work, RecordFailure)
    return work


def drain(scheduler: Scheduler, limit: int = 4) -> list[Work]:
    """Take all that there is to do now, in batches of up to `limit` files."""
    in_hand = []
    while (work := scheduler.next_work(limit)) is not None:
        in_hand.append(work)
    return in_hand


def take_all(scheduler: Scheduler) -> list[Work]:
    """Do all that there is to do, on fresh workers and without a fault, and return the in_hand."""
    in_hand = []
    while not scheduler.is_finished:
        work = scheduler.next_work(is_fresh=True)
        assert work is not None, "there is work, and nobody gets it"
        in_hand.append(work)
        match work:
            case Stage():
                scheduler.stage_done(work)
            case RecordFailure():
                scheduler.failure_recorded(work)
            case Batch():
                scheduler.batch_done(work, [], 1.0)
    assert (scheduler.n_pending, scheduler.n_in_flight) == (0, 0)
    return in_hand


def batches_of(in_hand: Iterable[Work]) -> list[list[Span]]:
    return [list(work.places) for work in in_hand if isinstance(work, Batch)]


def staged_of(in_hand: Iterable[Work]) -> list[int]:
    return [work.shard for work in in_hand if isinstance(work, Stage)]


def keys_of(scheduler: Scheduler) -> list[Place]:
    return [suspect.key for suspect in scheduler.suspects.all]


def test_nothing_to_do_is_finished_at_once_and_no_workers_count_as_one() -> None:
    scheduler = Scheduler([], 4, 1.0)
    assert scheduler.is_finished
    assert scheduler.next_work() is None
    assert (scheduler.n_pending, scheduler.n_in_flight) == (0, 0)
    assert len(drain(Scheduler([(0, [(0, 4)])], 0, 1.0))) == 1


def test_a_shard_is_staged_after_its_last_batch_came_back_and_before_other_batches() -> None:
    scheduler = Scheduler([(0, [(0, 8)]), (1, [(0, 4)])], 2, 1.0)
    one, two = next_batch(scheduler, 4), next_batch(scheduler, 4)
    scheduler.batch_done(two, [], 1.0)
    other = next_batch(scheduler, 2)
    assert other.shard == 1
    scheduler.batch_done(one, [], 1.0)
    stage = next_stage(scheduler)
    assert stage.shard == 0
    scheduler.batch_done(next_batch(scheduler, 2), [], 1.0)
    scheduler.batch_done(other, [], 1.0)
    scheduler.stage_done(next_stage(scheduler))
    assert scheduler.next_work() is None
    assert not scheduler.is_finished
    scheduler.stage_done(stage)
    assert scheduler.is_finished


def test_a_worker_that_cannot_stage_gets_a_batch_and_the_shard_waits_for_one_that_can() -> None:
    scheduler = Scheduler([(0, []), (1, [(0, 10)])], 2, 1.0)
    away = scheduler.next_work(can_stage=False)
    assert isinstance(away, Batch) and away.shard == 1
    home = scheduler.next_work()
    assert isinstance(home, Stage) and home.shard == 0
    scheduler.hand_back(home)
    scheduler.batch_done(away, [], 1.0)
    while isinstance(away := scheduler.next_work(can_stage=False), Batch):
        scheduler.batch_done(away, [], 1.0)
    assert away is None and not scheduler.is_finished, "both shards wait for a worker at home"
    staged = [scheduler.next_work(), scheduler.next_work()]
    assert [work.shard for work in staged if isinstance(work, Stage)] == [0, 1]


def test_an_offer_takes_several_runs_up_to_its_limit_and_is_of_one_shard() -> None:
    scheduler = Scheduler([(0, [(1, 2), (5, 7), (9, 12)]), (1, [(0, 2)])], 1, 1.0)
    first = next_batch(scheduler, 4)
    assert (first.shard, first.places, scheduler.n_pending) == (0, ((1, 2), (5, 7), (9, 10)), 4)
    others = [(work.shard, work.places) for work in drain(scheduler) if isinstance(work, Batch)]
    assert others == [(0, ((10, 12),)), (1, ((0, 2),))]


def test_what_comes_back_is_offered_again_first_and_in_order() -> None:
    scheduler = Scheduler([(0, [(0, 20)])], 1, 1.0)
    scheduler.batch_done(next_batch(scheduler, 10), [(2, 4), (7, 10)], 1.0)
    assert next_batch(scheduler, 8).places == ((2, 4), (7, 10), (10, 13))


def test_an_answer_without_a_single_file_does_not_spoil_the_measured_speed() -> None:
    scheduler = Scheduler([(0, [(0, 10_000)])], 1, 1.0)
    sizes = []
    for is_answered in (True, False, True, False, True):
        work = next_batch(scheduler)
        sizes.append(count(work.places))
        scheduler.batch_done(work, () if is_answered else work.places, sizes[-1] / 10 if is_answered else 0.5)
    assert sizes == [FIRST_BATCH, 10, 10, 10, 10]


def test_everything_of_a_lost_worker_is_handed_out_again_once() -> None:
    scheduler = Scheduler([(0, [(0, 6)]), (1, [])], 1, 1.0)
    stage, *batches = drain(scheduler)
    assert scheduler.n_pending == 0
    scheduler.lost(stage, None, SEGFAULT)
    for work in batches:
        scheduler.hand_back(work)
    assert (scheduler.n_pending, scheduler.n_in_flight, scheduler.suspects.all) == (6, 0, [])
    again = drain(scheduler)
    assert [(type(t), t.shard) for t in again] == [(Stage, 1), (Batch, 0), (Batch, 0)]
    offered = [place for t in again if isinstance(t, Batch) for _, place in places_of(0, t.places)]
    assert sorted(offered) == list(range(6))
    with pytest.raises(KeyError):
        scheduler.batch_done(batches[0], [], 1.0)


def test_places_that_staging_misses_are_done_before_it_is_tried_again() -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 1, 1.0)
    scheduler.batch_done(next_batch(scheduler, 4), [], 1.0)
    scheduler.stage_incomplete(next_stage(scheduler), [(1, 3)])
    assert scheduler.n_pending == 2
    in_hand = take_all(scheduler)
    assert [place for runs in batches_of(in_hand) for _, place in places_of(0, runs)] == [1, 2]
    assert staged_of(in_hand) == [0] and isinstance(in_hand[-1], Stage)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_lowest_shard_comes_first_whatever_the_order_of_the_answers(order: list[int]) -> None:
    scheduler = Scheduler([(0, [(0, 4)]), (1, [(0, 4)]), (2, [(0, 4)])], 2, 1.0)
    in_hand = [next_batch(scheduler, 4), next_batch(scheduler, 4)]
    for i in order:
        assert in_hand[i].shard == i
        scheduler.batch_done(in_hand[i], [(2, 4)], 1.0)
    assert [work.shard for work in drain(scheduler, limit=2)] == [0, 1, 2, 2]


# How large an offer is


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("batch_seconds", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("seconds_a_file", [0.0001, 0.003, 0.17, 0.9, 30.0])
def test_offers_come_to_take_batch_seconds_each(n_workers: int, batch_seconds: float, seconds_a_file: float) -> None:
    n_files = int(60 * n_workers * max(1, batch_seconds / seconds_a_file))
    simulation = Simulation([(0, [(0, n_files)])], [seconds_a_file] * n_workers, batch_seconds)
    simulation.run()
    target = max(1.0, batch_seconds / seconds_a_file)
    settled = simulation.offers[len(simulation.offers) // 4 : len(simulation.offers) // 2]
    assert settled
    assert all(abs(n - target) <= 1 for n in settled)


def test_a_few_slow_files_are_shared_by_all_workers_from_the_start() -> None:
    simulation = Simulation([(0, [(0, 4)])], [600.0] * 4)
    simulation.run()
    assert simulation.now < 700


def test_the_first_offers_are_small_and_grow_by_a_bounded_factor() -> None:
    simulation = Simulation([(0, [(0, 1_000_000)])], [0.00001])
    simulation.run()
    assert simulation.offers[0] == FIRST_BATCH
    largest = FIRST_BATCH
    for n in simulation.offers[1:]:
        assert n <= GROWTH * largest
        largest = max(largest, n)
    assert largest >= 90_000


def test_a_job_that_gets_slower_gets_smaller_offers_and_a_faster_one_larger() -> None:
    scheduler = Scheduler([(0, [(0, 1_000_000)])], 1, 1.0)
    for seconds_a_file in (0.001, 0.5, 0.01):
        for _ in range(20):
            work = next_batch(scheduler)
            n_done = min(count(work.places), int(1.0 / seconds_a_file))
            scheduler.batch_done(work, rest_of(work.places, n_done), n_done * seconds_a_file)
        assert abs(count(work.places) - 1.0 / seconds_a_file) <= 2


@pytest.mark.parametrize("n_workers", [2, 8])
def test_offers_shrink_towards_the_end_so_that_nobody_waits_for_a_long_batch(n_workers: int) -> None:
    simulation = Simulation([(0, [(0, 40_000)])], [0.001] * n_workers, batch_seconds=5.0)
    simulation.run()
    tail = simulation.offers[-20:]
    assert max(simulation.offers) > 100
    assert tail == sorted(tail, reverse=True) and tail[-1] == 1
    assert sum(n < SHORTEST_S / 0.001 for n in simulation.offers) < 10 * n_workers, "a batch has a price, too"
    # All workers are busy to the end: the last one ends soon after the first.
    ends = [worker.ends_at for worker in simulation.workers]
    assert max(ends) - min(ends) < 0.1


def test_nothing_waits_behind_a_slow_file_at_the_end() -> None:
    """Sixteen workers, 20 ms a file, and one of 5 s among the last: it ends the job, not what waits for its worker."""
    n_files, n_workers = 16_000, 16
    lost = []
    for slow in range(12_000, n_files, 350):
        simulation = Simulation([(0, [(0, n_files)])], [0.02] * n_workers, slow={slow: 5.0})
        simulation.run()
        lost.append(simulation.now - max((n_files * 0.02 + 5.0) / n_workers, slow * 0.02 / n_workers + 5.0))
    assert max(lost) < 1.0 and sum(lost) / len(lost) < 0.1


def test_a_worker_has_a_ticket_ahead_until_the_end_is_near() -> None:
    scheduler = Scheduler([(0, [(0, 10_000)])], 2, 1.0)
    work: Work | None = next_batch(scheduler)
    while work is not None:  # a hundred files a second, so the full offer is of a hundred
        assert isinstance(work, Batch)
        scheduler.batch_done(work, [], 0.01 * count(work.places))
        work = scheduler.next_work(is_ahead=True)
    assert TAIL * 2 * 100 - 100 <= scheduler.n_pending < TAIL * 2 * 100
    assert scheduler.next_work() is not None


def test_a_slow_worker_does_not_hold_the_job_up_by_more_than_its_two_batches() -> None:
    n_files, speeds = 20_000, [0.001, 0.001, 0.001, 0.01]
    simulation = Simulation([(0, [(0, n_files)])], speeds, batch_seconds=1.0)
    simulation.run()
    best = n_files / sum(1 / speed for speed in speeds)
    assert simulation.now < best + QUEUE_DEPTH * 1.0


# When workers die


def die_alone(scheduler: Scheduler, death: Death, **counts: bool) -> Batch:
    """Begin the next trial and let its worker die of it."""
    trial = next_batch(scheduler, is_fresh=True)
    assert trial.kind == "trial"
    scheduler.lost(trial, trial.places[0][0], death, **counts)
    return trial


def scheduler_with_suspect(n_files: int = 8, death: Death = SEGFAULT) -> Scheduler:
    """Return one shard, handed out and lost in its place 2, which is a suspect now."""
    scheduler = Scheduler([(0, [(0, n_files)])], 1, 1.0)
    scheduler.lost(next_batch(scheduler, n_files), 2, death)
    return scheduler


def test_a_suspect_goes_only_to_a_fresh_worker_and_alone_and_with_an_outcome_is_one_no_more() -> None:
    scheduler = scheduler_with_suspect()
    assert scheduler.has_suspects
    others = drain(scheduler, limit=8)
    assert [place for runs in batches_of(others) for _, place in places_of(0, runs)] == [0, 1, 3, 4, 5, 6, 7]
    assert scheduler.n_pending == 1
    assert scheduler.next_work() is None
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.places) == ("trial", ((2, 3),))
    assert not scheduler.has_suspects and scheduler.n_pending == 0
    assert keys_of(scheduler) == [(0, 2)]
    scheduler.batch_done(trial, [], 1.0)
    assert scheduler.suspects.all == []
    for work in others:
        scheduler.hand_back(work)
    assert staged_of(take_all(scheduler)) == [0]


@pytest.mark.parametrize("deaths", [[SEGFAULT] * KNOWN_DEATHS, [KILLED] * DEATHS, [KILLED, SEGFAULT, KILLED]])
def test_so_many_deaths_alone_are_a_charge_and_the_first_in_a_batch_does_not_count(deaths: list[Death]) -> None:
    scheduler = scheduler_with_suspect(death=deaths[0])
    assert [suspect.n_deaths for suspect in scheduler.suspects.all] == [0]
    for n, death in enumerate(deaths):
        assert scheduler.has_suspects, f"{n} deaths are not enough"
        die_alone(scheduler, death)
    assert not scheduler.has_suspects
    charge = next_charge(scheduler)
    assert (charge.shard, charge.place, charge.n_deaths, charge.death) == (0, 2, len(deaths), deaths[-1])
    scheduler.failure_recorded(charge)
    in_hand = take_all(scheduler)
    assert staged_of(in_hand) == [0]
    assert not any(isinstance(work, RecordFailure) for work in in_hand)


@pytest.mark.parametrize(
    ("n_files", "place", "suspects"),
    [(4, 1, [(0, 1)]), (4, None, []), (1, None, [(0, 0)])],
    ids=["in a file", "between two files", "of a batch of one file"],
)
def test_who_died_in_a_file_or_with_a_batch_of_one_leaves_a_suspect_and_a_queued_ticket_none(
    n_files: int, place: int | None, suspects: list[Place]
) -> None:
    scheduler = Scheduler([(0, [(0, 9)])], 1, 1.0)
    begun, queued, single = next_batch(scheduler, n_files), next_batch(scheduler, 4), next_batch(scheduler, 1)
    scheduler.hand_back(queued)
    scheduler.hand_back(single)
    scheduler.lost(begun, place, SEGFAULT)
    assert (keys_of(scheduler), scheduler.n_pending) == (suspects, 9)


def test_the_rest_of_a_lost_batch_comes_back_in_batches_half_as_large_until_the_culprit_is_alone() -> None:
    """The culprit is the last file, and its worker dies later, between two files: it is never seen in one."""
    scheduler = Scheduler([(0, [(0, 16)])], 1, 100.0)
    sizes = []
    while not scheduler.has_suspects and len(sizes) < 100:
        work = next_batch(scheduler, 16)
        sizes.append(count(work.places))
        if (0, 15) in places_of(0, work.places):
            scheduler.lost(work, None, KILLED)
        else:
            scheduler.batch_done(work, [], 1.0)
    assert sizes == [16, 8, 8, 4, 4, 2, 2, 1, 1]
    assert keys_of(scheduler) == [(0, 15)]


def test_the_rest_of_a_batch_is_without_the_file_that_its_worker_died_in() -> None:
    scheduler = Scheduler([(0, [(0, 9), (20, 22)])], 1, 100.0)
    scheduler.lost(next_batch(scheduler, 11), 4, SEGFAULT)
    assert scheduler.n_pending == 11
    assert batches_of(drain(scheduler, limit=100)) == [[(0, 4), (5, 7)], [(7, 9), (20, 22)]]


@pytest.mark.parametrize(
    ("way", "done"),
    [
        (lambda scheduler, doubt: scheduler.hand_back(doubt), set()),
        (lambda scheduler, doubt: scheduler.batch_done(doubt, doubt.places, 1.0), set()),
        (lambda scheduler, doubt: scheduler.batch_done(doubt, [(2, 4), (5, 8)], 1.0), {0, 1, 4}),
        (lambda scheduler, doubt: scheduler.overran(doubt, 3, TOO_LONG), {3}),
    ],
    ids=["handed back", "nothing done", "some of it done", "a file of it took too long"],
)
def test_what_comes_back_of_a_lost_batch_is_never_in_a_larger_one_than_before(
    way: Callable[[Scheduler, Batch], None], done: set[int]
) -> None:
    scheduler = Scheduler([(0, [(0, 16), (100, 200)])], 1, 100.0)
    scheduler.lost(next_batch(scheduler, 16), None, KILLED)
    doubt = next_batch(scheduler, 100)
    assert (doubt.places, doubt.limit) == (((0, 8),), 8)
    way(scheduler, doubt)
    batches = batches_of(drain(scheduler, limit=100))
    found = [{place for _, place in places_of(0, runs)} for runs in batches]
    doubted = [places for places in found if min(places) < 16]
    assert set().union(*doubted) == set(range(16)) - done, "nothing of it is mixed with what was never lost"
    assert all(len(places) <= 8 for places in doubted)


def test_a_trial_that_its_worker_did_not_come_to_waits_for_another() -> None:
    scheduler = scheduler_with_suspect()
    die_alone(scheduler, KILLED)
    give_back: Callable[[Batch], None]
    for give_back in (lambda trial: scheduler.batch_done(trial, trial.places, 0.0), scheduler.hand_back) * 5:
        give_back(next_batch(scheduler, is_fresh=True))
        assert [(s.key, s.n_deaths) for s in scheduler.suspects.all] == [((0, 2), 1)]
        assert scheduler.n_pending == 8
    assert staged_of(take_all(scheduler)) == [0]


# Trials apart


def test_a_trial_apart_waits_until_nobody_works_and_nobody_gets_anything_until_it_is_over() -> None:
    scheduler = Scheduler([(0, [(0, 8)]), (1, [(0, 4)]), (2, [])], 2, 1.0)
    stage, one, two, other = drain(scheduler, 4)
    assert isinstance(two, Batch) and isinstance(other, Batch)
    scheduler.lost(one, 1, OUT_OF_MEMORY)
    scheduler.hand_back(stage)
    for work in (two, other):
        assert scheduler.suspects.is_apart and scheduler.suspects.trial_apart is None
        assert scheduler.next_work(is_fresh=True) is None
        scheduler.batch_done(work, [], 1.0)
    assert scheduler.next_work() is None
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.places) == ("trial", ((1, 2),))
    assert scheduler.suspects.trial_apart is not None and scheduler.suspects.trial_apart.key == (0, 1)
    assert scheduler.suspects.is_apart
    assert scheduler.next_work() is None and scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(trial, [], 1.0)
    assert not scheduler.suspects.is_apart and scheduler.suspects.trial_apart is None
    assert {next_stage(scheduler).shard, next_stage(scheduler).shard} == {1, 2}


def test_trials_apart_come_one_after_the_other_as_they_are_given_and_before_all_else() -> None:
    apart = [(1, 0), (0, 5), (0, 3)]
    mistrusted = [Suspect(0, 1), *(Suspect(*key, is_apart=True) for key in apart)]
    scheduler = Scheduler([(0, [(0, 8)]), (1, [(0, 4)])], 3, 1.0, mistrusted)
    found = []
    while scheduler.suspects.is_apart:
        trial = next_batch(scheduler, is_fresh=True)
        assert scheduler.next_work(is_fresh=True) is None
        found += places_of(trial.shard, trial.places)
        scheduler.batch_done(trial, [], 1.0)
    assert found == apart
    assert next_batch(scheduler, is_fresh=True).places == ((1, 2),)


def test_what_is_due_is_recorded_while_a_trial_apart_waits_but_not_while_it_runs() -> None:
    mistrusted = [Suspect(0, 1, n_deaths=DEATHS), Suspect(0, 2, is_apart=True)]
    scheduler = Scheduler([(0, [(0, 4)])], 2, 1.0, mistrusted)
    charge = next_charge(scheduler)
    assert charge.place == 1
    assert scheduler.next_work(is_fresh=True) is None, "a trial apart has no company, be it that"
    scheduler.hand_back(charge)
    charge = scheduler.next_work(is_fresh=True)
    assert isinstance(charge, RecordFailure), "it comes before the trial"
    scheduler.failure_recorded(charge)
    assert scheduler.next_work() is None
    assert next_batch(scheduler, is_fresh=True).places == ((2, 3),)


def test_what_becomes_due_while_a_trial_apart_runs_waits_for_its_end() -> None:
    """Nothing else is in flight then, so nothing can; if it did, the trial would still be without company."""
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0)
    slow = next_batch(scheduler, 4)
    scheduler.lost(next_batch(scheduler, 1), 4, SEGFAULT)
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, scheduler.suspects.trial_apart) == ("trial", None)
    scheduler.suspects.all[0].is_apart = True
    scheduler.overran(slow, 0, TOO_LONG)
    assert scheduler.next_work() is None and scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(trial, [], 1.0)
    assert next_charge(scheduler).place == 0


@pytest.mark.parametrize(
    ("n_deaths", "n_runs", "is_kept"), [(0, 0, False), (0, 1, False), (0, 2, False), (1, 0, True), (1, 2, True)]
)
@pytest.mark.parametrize("is_on_trial", [True, False])
def test_only_who_died_alone_is_not_released_however_many_runs_died(
    n_deaths: int, n_runs: int, is_kept: bool, is_on_trial: bool
) -> None:
    suspect = Suspect(0, 1, n_deaths, is_apart=True, n_runs=n_runs)
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0, [suspect])
    if is_on_trial:
        next_batch(scheduler, is_fresh=True)
    assert scheduler.next_work() is None
    scheduler.suspects.release_first_offenders()
    assert (scheduler.suspects.is_apart, suspect.is_apart) == (is_kept, is_kept)
    assert scheduler.suspects.trial_apart is (suspect if is_kept and is_on_trial else None)
    assert (scheduler.next_work() is None) is is_kept


def test_only_files_with_no_deaths_are_released_to_have_company() -> None:
    mistrusted = [Suspect(0, 1, is_apart=True), Suspect(0, 2, n_deaths=1, is_apart=True)]
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0, mistrusted)
    scheduler.suspects.release_first_offenders()
    assert {suspect.place: suspect.is_apart for suspect in scheduler.suspects.all} == {1: False, 2: True}
    trial = next_batch(scheduler, is_fresh=True)
    assert trial.places == ((2, 3),)
    assert scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(trial, [], 1.0)
    assert next_batch(scheduler, is_fresh=True).places == ((1, 2),)
    assert next_batch(scheduler, is_fresh=True).kind == "batch"


# What does not count


def test_memory_deaths_that_do_not_count_are_repeated_without_a_count() -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 2, 1.0)
    scheduler.lost(next_batch(scheduler, 4), 1, OUT_OF_MEMORY, counts=False)
    for _ in range(2 * DEATHS):
        die_alone(scheduler, OUT_OF_MEMORY, counts=False)
        assert [(suspect.key, suspect.n_deaths) for suspect in scheduler.suspects.all] == [((0, 1), 0)]
        assert scheduler.n_pending == 4
    for _ in range(KNOWN_DEATHS):
        die_alone(scheduler, OUT_OF_MEMORY)
    charge = next_charge(scheduler)
    assert (charge.place, charge.n_deaths, charge.death) == (1, KNOWN_DEATHS, OUT_OF_MEMORY)


def test_of_several_that_ended_at_once_each_is_tried_alone() -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 2, 1.0)
    scheduler.lost(next_batch(scheduler, 4), 1, Death("killed", is_shared=True))
    assert scheduler.suspects.is_apart


@pytest.mark.parametrize("is_on_trial", [False, True])
def test_a_file_that_took_too_long_is_charged_with_no_deaths_and_the_rest_is_done_again(is_on_trial: bool) -> None:
    mistrusted = [Suspect(0, 2, is_apart=True)] if is_on_trial else []
    scheduler = Scheduler([(0, [(0, 8)])], 1, 1.0, mistrusted)
    scheduler.overran(next_batch(scheduler, 6, is_fresh=is_on_trial), 2, TOO_LONG)
    assert (scheduler.suspects.all, scheduler.n_pending) == ([Suspect(0, 2, death=TOO_LONG)], 7)
    assert not scheduler.has_suspects and not scheduler.suspects.is_apart, "it needs no trial"
    charge = next_charge(scheduler)
    assert (charge.place, charge.n_deaths, charge.death) == (2, 0, TOO_LONG)
    scheduler.failure_recorded(charge)
    assert scheduler.suspects.all == []
    in_hand = take_all(scheduler)
    found = [place for runs in batches_of(in_hand) for _, place in places_of(0, runs)]
    assert (sorted(found), staged_of(in_hand)) == ([0, 1, 3, 4, 5, 6, 7], [0])


# What is tried once more


def test_deferred_places_are_tried_last() -> None:
    scheduler = Scheduler([(0, [(0, 6)]), (1, [(0, 2)])], 1, 1.0)
    scheduler.batch_done(next_batch(scheduler, 4), [], 1.0, deferred=[1, 2])
    assert scheduler.n_pending == 6
    batches = [work for work in take_all(scheduler) if isinstance(work, Batch)]
    found = [(work.shard, place, work.kind) for work in batches for _, place in places_of(0, work.places)]
    # As late as their shard can wait: it has nothing else by then.
    assert found[:4] == [(0, 4, "batch"), (0, 5, "batch"), (0, 1, "last try"), (0, 2, "last try")]
    assert found[4:] == [(1, 0, "batch"), (1, 1, "batch")]


@pytest.mark.parametrize("n_done", [1, 3])
def test_at_most_as_many_deferred_places_are_tried_as_files_came_to_an_outcome(n_done: int) -> None:
    scheduler = Scheduler([(0, [(0, 20)]), (1, [(0, 20)])], 1, 1.0)
    first, other = next_batch(scheduler, 20), next_batch(scheduler, 10)
    scheduler.batch_done(first, [], 1.0, deferred=list(range(20)))
    assert (scheduler.n_pending, next_batch(scheduler, 5).kind) == (30, "batch")
    scheduler.batch_done(other, [(n_done, 10)], 1.0)
    last_try = next_batch(scheduler, 5)
    assert (last_try.kind, last_try.shard, count(last_try.places)) == ("last try", 0, n_done)
    assert next_batch(scheduler, 5).kind == "batch"
    scheduler.batch_done(last_try, [], 1.0)
    assert next_batch(scheduler, 5).kind == "batch", "a last try does not earn another"


def test_outcomes_of_before_the_first_deferred_place_do_not_let_it_be_tried_again() -> None:
    scheduler = Scheduler([(0, [(0, 10)]), (1, [(0, 40)])], 1, 1.0)
    scheduler.batch_done(next_batch(scheduler, 5), [], 1.0)
    scheduler.batch_done(next_batch(scheduler, 5), [], 1.0, deferred=[6, 7, 8, 9])
    assert next_batch(scheduler, 5).kind == "batch"


def test_a_batch_without_an_outcome_takes_the_credit_away() -> None:
    scheduler = Scheduler([(0, [(0, 4)]), (1, [(0, 20)])], 1, 1.0)
    first = next_batch(scheduler, 4)
    good, bad = next_batch(scheduler, 5), next_batch(scheduler, 2)
    scheduler.batch_done(good, [], 1.0)
    scheduler.batch_done(first, [], 1.0, deferred=[0, 1, 2, 3])
    scheduler.batch_done(bad, [], 1.0, deferred=[5, 6])
    assert next_batch(scheduler, 5).kind == "batch"


def test_all_deferred_places_are_tried_when_nothing_else_is_left() -> None:
    scheduler = Scheduler([(0, [(0, 25)])], 1, 1.0)
    first = next_batch(scheduler, 25)
    scheduler.batch_done(first, [], 1.0, deferred=list(range(25)))
    assert not scheduler.is_finished
    sizes = []
    while scheduler.n_pending:
        work = next_batch(scheduler)
        assert work.kind == "last try"
        sizes.append(count(work.places))
        scheduler.batch_done(work, [], 1.0)
    assert sizes == [LAST_TRIES, LAST_TRIES, 5]
    assert staged_of(take_all(scheduler)) == [0]


def test_a_last_try_that_comes_back_is_a_last_try_again() -> None:
    scheduler = Scheduler([(0, [(0, 3)])], 1, 1.0)
    first = next_batch(scheduler, 3)
    assert not first.is_last_try
    scheduler.batch_done(first, [], 1.0, deferred=[0, 1, 2])
    scheduler.batch_done(next_batch(scheduler), [(1, 3)], 1.0)
    assert scheduler.n_pending == 2
    scheduler.hand_back(next_batch(scheduler))
    assert scheduler.n_pending == 2
    again = next_batch(scheduler)
    assert (again.kind, again.is_last_try) == ("last try", True)


@pytest.mark.parametrize("is_apart", [True, False])
def test_a_suspect_whose_trial_fails_by_the_environment_stays_one_and_has_its_last_try_alone(is_apart: bool) -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 1, 1.0, [Suspect(0, 1, n_deaths=1, n_known=1, is_apart=is_apart)])
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.is_last_try) == ("trial", False)
    scheduler.batch_done(trial, [], 1.0, deferred=[1])
    assert [(one.key, one.n_deaths, one.is_last_try) for one in scheduler.suspects.all] == [((0, 1), 1, True)]
    assert (scheduler.suspects.is_apart, scheduler.has_suspects, scheduler.n_pending) == (False, False, 4)
    others = next_batch(scheduler, 4, is_fresh=True)
    assert (others.kind, others.places) == ("batch", ((0, 1), (2, 4))), "it waits for the disk to work again"
    assert scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(others, [], 1.0)
    for _ in range(2):
        trial = next_batch(scheduler, is_fresh=True)
        assert (trial.kind, trial.places, trial.is_last_try) == ("trial", ((1, 2),), True)
        scheduler.batch_done(trial, trial.places, 0.0)  # it was not come to
    trial = next_batch(scheduler, is_fresh=True)
    scheduler.hand_back(trial)
    trial = die_alone(scheduler, KILLED)
    assert trial.is_last_try
    assert [(one.n_deaths, one.is_last_try) for one in scheduler.suspects.all] == [(2, True)]
    trial = next_batch(scheduler, is_fresh=True)
    assert trial.is_last_try
    scheduler.batch_done(trial, [], 1.0)
    assert [type(work) for work in take_all(scheduler)] == [Stage]


def test_a_suspect_s_last_try_costs_one_of_the_files_that_came_to_an_outcome() -> None:
    scheduler = Scheduler([(0, [(0, 20)])], 1, 1.0, [Suspect(0, 1), Suspect(0, 2)])
    for place in (1, 2):
        scheduler.batch_done(next_batch(scheduler, is_fresh=True), [], 1.0, deferred=[place])
    for place in (1, 2):
        assert not scheduler.has_suspects
        batch = next_batch(scheduler, 1, is_fresh=True)
        assert batch.kind == "batch"
        scheduler.batch_done(batch, [], 1.0)
        assert scheduler.has_suspects
        trial = next_batch(scheduler, is_fresh=True)
        assert (trial.kind, trial.places, trial.is_last_try) == ("trial", ((place, place + 1),), True)
        assert next_batch(scheduler, 1, is_fresh=True).kind == "batch"
        scheduler.batch_done(trial, [], 1.0)
    assert scheduler.suspects.all == []


def test_a_suspect_s_last_try_waits_while_another_suspect_has_not_been_tried() -> None:
    scheduler = Scheduler([(0, [(0, 2)])], 2, 1.0, [Suspect(0, 0), Suspect(0, 1)])
    scheduler.batch_done(next_batch(scheduler, is_fresh=True), [], 1.0, deferred=[0])
    second = next_batch(scheduler, is_fresh=True)
    assert second.places == ((1, 2),)
    assert scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(second, [], 1.0, deferred=[1])
    last = [next_batch(scheduler, is_fresh=True)]
    assert scheduler.next_work(is_fresh=True) is None, "one after the other: nothing shows that the disk works"
    scheduler.batch_done(last[0], [], 1.0)
    last.append(next_batch(scheduler, is_fresh=True))
    assert [(trial.places, trial.is_last_try) for trial in last] == [(((0, 1),), True), (((1, 2),), True)]


def test_a_trial_that_is_a_last_try_earns_no_other() -> None:
    scheduler = Scheduler([(0, [(0, 20)]), (1, [(0, 40)])], 1, 1.0, [Suspect(1, 0)])
    trial, first = next_batch(scheduler, is_fresh=True), next_batch(scheduler, 20)
    scheduler.batch_done(trial, [], 1.0, deferred=[0])
    scheduler.batch_done(first, [], 1.0, deferred=list(range(20)))
    assert not scheduler.has_suspects
    scheduler.batch_done(next_batch(scheduler, 1), [], 1.0)
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.is_last_try) == ("trial", True)
    scheduler.batch_done(trial, [], 1.0)
    assert next_batch(scheduler, 5).kind == "batch"


# Suspects of an earlier run


def test_suspects_of_an_earlier_run_are_taken_out_of_the_pending_places() -> None:
    scheduler = Scheduler([(0, [(0, 4)]), (1, [(3, 6), (8, 9)])], 1, 1.0, [Suspect(0, 0), Suspect(1, 4), Suspect(1, 8)])
    assert scheduler.n_pending == 8
    assert batches_of(drain(scheduler, limit=100)) == [[(1, 4)], [(3, 4), (5, 6)]]
    trials = [next_batch(scheduler, is_fresh=True) for _ in range(3)]
    assert [(t.shard, t.places) for t in trials] == [(0, ((0, 1),)), (1, ((4, 5),)), (1, ((8, 9),))]
    assert scheduler.n_pending == 0


def test_suspects_that_are_not_pending_are_ignored() -> None:
    mistrusted = [Suspect(0, 4), Suspect(0, 9, n_deaths=DEATHS), Suspect(1, 0, is_apart=True), Suspect(7, 0)]
    scheduler = Scheduler([(0, [(0, 4)]), (1, [])], 1, 1.0, mistrusted)
    assert (scheduler.suspects.all, scheduler.suspects.is_apart, scheduler.n_pending) == ([], False, 4)
    assert len(batches_of(take_all(scheduler))) > 0


@pytest.mark.parametrize(
    ("n_deaths", "n_known", "n_missing"), [(DEATHS, 0, 0), (KNOWN_DEATHS, KNOWN_DEATHS, 0), (2, 1, 1)]
)
def test_a_suspect_that_died_often_enough_is_charged_at_once_else_it_needs_only_the_rest(
    n_deaths: int, n_known: int, n_missing: int
) -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 1, 1.0, [Suspect(0, 1, n_deaths, n_known, is_apart=True, death=KILLED)])
    for _ in range(n_missing):
        die_alone(scheduler, KILLED)
    assert (scheduler.has_suspects, scheduler.suspects.is_apart, scheduler.n_pending) == (False, False, 3)
    charge = next_charge(scheduler)
    assert (charge.place, charge.n_deaths) == (1, n_deaths + n_missing)


def test_a_file_that_is_to_be_charged_is_mistrusted_until_its_failure_is_durable() -> None:
    """What the run remembers are the suspects: if it is killed now, the deaths must not be forgotten."""
    mistrusted = [Suspect(0, 1, n_deaths=DEATHS, is_apart=True), Suspect(0, 2, is_apart=True)]
    scheduler = Scheduler([(0, [(0, 4)])], 1, 1.0, mistrusted)

    def remembered() -> dict[int, int]:
        return {suspect.place: suspect.n_deaths for suspect in scheduler.suspects.all}

    give_back: Callable[[RecordFailure], None]
    for give_back in (lambda charge: scheduler.lost(charge, None, KILLED), scheduler.hand_back):
        charge = next_charge(scheduler)
        assert charge.place == 1
        assert remembered() == {1: DEATHS, 2: 0}, "while it is being recorded"
        give_back(charge)
        assert remembered() == {1: DEATHS, 2: 0}, "while it is to be recorded again"
        assert scheduler.n_pending == 3
    charge = next_charge(scheduler)
    assert charge.n_deaths == DEATHS
    scheduler.failure_recorded(charge)
    assert remembered() == {2: 0}


# The end


def test_the_job_is_not_finished_while_anything_waits() -> None:
    """Each time there is one thing left, of another kind: it waits, or it is in hand and comes back."""
    pending = [(0, [(0, 2)])]
    batch, doubt, deferred, stage = (Scheduler(pending, 1, 1.0) for _ in range(4))
    doubt.lost(next_batch(doubt, 2), None, KILLED)
    deferred.batch_done(next_batch(deferred, 2), [], 1.0, deferred=[0, 1])
    stage.batch_done(next_batch(stage, 2), [], 1.0)
    trial = Scheduler([(0, [(0, 1)])], 1, 1.0, [Suspect(0, 0)])
    charge = Scheduler([(0, [(0, 1)])], 1, 1.0, [Suspect(0, 0, n_deaths=DEATHS)])
    for scheduler in (batch, doubt, deferred, stage, trial, charge):
        assert not scheduler.is_finished
        work = scheduler.next_work(2, is_fresh=True)
        assert work is not None and not scheduler.is_finished
        scheduler.hand_back(work)
        assert not scheduler.is_finished
        assert staged_of(take_all(scheduler)) == [0]


@pytest.mark.parametrize("last", ["batch", "trial", "charge"])
def test_a_shard_is_staged_once_after_the_last_of_its_places(last: str) -> None:
    scheduler = Scheduler([(0, [(0, 5)])], 1, 1.0, [Suspect(0, 0), Suspect(0, 1, n_deaths=DEATHS)])
    charge, trial = next_charge(scheduler), next_batch(scheduler, is_fresh=True)
    assert trial.kind == "trial"
    batch = next_batch(scheduler, 2)
    scheduler.batch_done(next_batch(scheduler, 1), [], 1.0, deferred=[4])
    steps: dict[str, Callable[[], None]] = {
        "batch": lambda: scheduler.batch_done(batch, [], 1.0),
        "trial": lambda: scheduler.batch_done(trial, [], 1.0),
        "charge": lambda: scheduler.failure_recorded(charge),
    }
    for name in sorted(steps, key=lambda name: name == last):
        assert drain(scheduler) == [], "the place that was deferred waits for the last of its shard"
        steps[name]()
    (last_try,) = drain(scheduler)
    assert isinstance(last_try, Batch) and (last_try.kind, last_try.places) == ("last try", ((4, 5),))
    assert scheduler.next_work(is_fresh=True) is None
    scheduler.batch_done(last_try, [], 1.0)
    assert staged_of(drain(scheduler)) == [0]
    assert scheduler.next_work(is_fresh=True) is None


def test_a_last_try_that_everybody_waits_for_does_not_wait_for_them() -> None:
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0, [Suspect(0, 1)])
    scheduler.batch_done(next_batch(scheduler, is_fresh=True), (), 0.1, deferred=[1])
    scheduler.batch_done(next_batch(scheduler, 1), (), 0.1)
    last = next_batch(scheduler, is_fresh=True)
    assert last.is_last_try
    scheduler.lost(last, 1, OUT_OF_MEMORY, counts=False)
    again = next_batch(scheduler, is_fresh=True)
    assert again.is_last_try and again.places == ((1, 2),)
