"""Which places next: simulated jobs on virtual time, with workers that are slow, early, or lost."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from r3po.scheduler import FIRST_OFFER, GROWTH, BatchTicket, Run, Scheduler, StageTicket, Ticket

Place = tuple[int, int]
"""Shard and place."""

QUEUE_DEPTH = 2
"""Tickets that a worker has at most, as in a real run."""


def places_of(shard: int, runs: Iterable[Run]) -> list[Place]:
    return [(shard, place) for start, stop in runs for place in range(start, stop)]


def runs_of(places: Sequence[int]) -> list[Run]:
    """Return ascending places as runs."""
    runs: list[Run] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


def count(runs: Iterable[Run]) -> int:
    return sum(stop - start for start, stop in runs)


def rest_of(runs: Iterable[Run], n_done: int) -> list[Run]:
    """Return what is left of runs after their first `n_done` places."""
    rest = []
    for start, stop in runs:
        n_here = min(n_done, stop - start)
        n_done -= n_here
        if start + n_here < stop:
            rest.append((start + n_here, stop))
    return rest


# The simulation


class Model:
    """The job as a dict says it, next to the scheduler: every ticket and every answer is held against it."""

    def __init__(self, pending: Sequence[tuple[int, Sequence[Run]]], n_workers: int, batch_seconds: float) -> None:
        self.scheduler = Scheduler(pending, n_workers, batch_seconds)
        self.n_workers = n_workers
        self.state: dict[Place, str] = {}
        self.times_done: dict[Place, int] = {}
        self.to_stage = {shard for shard, _ in pending}
        """Shards that are not staged yet."""
        self.in_staging: set[int] = set()
        self.open_tickets: set[int] = set()
        self.all_tickets: set[int] = set()
        self.n_staged: dict[int, int] = dict.fromkeys(self.to_stage, 0)
        self.n_incomplete: dict[int, int] = dict.fromkeys(self.to_stage, 0)
        self.is_speed_known = False
        for shard, runs in pending:
            for place in places_of(shard, runs):
                self.state[place] = "pending"
                self.times_done[place] = 0
        self.places_of_shard: dict[int, set[Place]] = {shard: set() for shard in self.to_stage}
        for place in self.state:
            self.places_of_shard[place[0]].add(place)
        self.n_pending = len(self.state)
        self.check()

    def check(self) -> None:
        assert self.scheduler.n_pending == self.n_pending
        assert self.scheduler.n_in_flight == len(self.open_tickets)
        assert self.scheduler.is_finished == (not self.to_stage)

    def move(self, places: Iterable[Place], before: str, after: str) -> None:
        for place in places:
            assert self.state[place] == before, f"{place} is {self.state[place]}, not {before}"
            self.state[place] = after
            self.n_pending += (after == "pending") - (before == "pending")
            self.times_done[place] += after == "done"

    def next_ticket(self, limit: int | None = None) -> Ticket | None:
        n_pending = self.n_pending
        ticket = self.scheduler.next_ticket(limit)
        if ticket is None:
            assert self.n_pending == 0, "places are pending, but nothing is handed out"
        else:
            assert ticket.number not in self.all_tickets
            self.all_tickets.add(ticket.number)
            self.open_tickets.add(ticket.number)
            if isinstance(ticket, StageTicket):
                self.check_stage(ticket)
            else:
                self.check_offer(ticket, n_pending, limit)
        self.check()
        return ticket

    def check_stage(self, ticket: StageTicket) -> None:
        shard = ticket.shard
        assert shard in self.to_stage and shard not in self.in_staging
        assert all(self.state[place] == "done" for place in self.places_of_shard[shard])
        self.in_staging.add(shard)

    def check_offer(self, ticket: BatchTicket, n_pending: int, limit: int | None) -> None:
        assert all(start < stop for start, stop in ticket.places)
        offered = places_of(ticket.shard, ticket.places)
        pending_shards = {shard for shard, _ in self.pending_places()}
        self.move(offered, "pending", "in flight")
        assert ticket.shard == min(pending_shards)
        if limit is not None:
            assert 1 <= len(offered) <= limit
            return
        # No worker gets more than its fair share of what is left.
        assert 1 <= len(offered) <= math.ceil(n_pending / self.n_workers)
        assert self.is_speed_known or len(offered) <= FIRST_OFFER

    def pending_places(self) -> list[Place]:
        return [place for place, state in self.state.items() if state == "pending"]

    def batch_done(self, ticket: BatchTicket, returned: Sequence[Run], seconds: float) -> None:
        back = set(places_of(ticket.shard, returned))
        done = [place for place in places_of(ticket.shard, ticket.places) if place not in back]
        self.open_tickets.remove(ticket.number)
        self.move(done, "in flight", "done")
        self.move(back, "in flight", "pending")
        self.scheduler.batch_done(ticket, returned, seconds)
        self.is_speed_known |= bool(done) and seconds > 0
        self.check()

    def hand_back(self, ticket: Ticket) -> None:
        self.open_tickets.remove(ticket.number)
        if isinstance(ticket, StageTicket):
            self.in_staging.remove(ticket.shard)
        else:
            self.move(places_of(ticket.shard, ticket.places), "in flight", "pending")
        self.scheduler.hand_back(ticket)
        self.check()

    def stage_done(self, ticket: StageTicket) -> None:
        self.open_tickets.remove(ticket.number)
        self.in_staging.remove(ticket.shard)
        self.to_stage.remove(ticket.shard)
        self.n_staged[ticket.shard] += 1
        self.scheduler.stage_done(ticket)
        self.check()

    def stage_incomplete(self, ticket: StageTicket, missing: Sequence[Run]) -> None:
        self.open_tickets.remove(ticket.number)
        self.in_staging.remove(ticket.shard)
        self.n_incomplete[ticket.shard] += 1
        lost = places_of(ticket.shard, missing)
        self.move(lost, "done", "pending")
        for place in lost:
            self.times_done[place] -= 1
        self.scheduler.stage_incomplete(ticket, missing)
        self.check()

    def check_end(self) -> None:
        assert self.scheduler.is_finished
        assert all(n == 1 for n in self.times_done.values())
        assert all(n == 1 for n in self.n_staged.values())
        assert self.scheduler.next_ticket() is None


class Unchecked:
    """The same without a look at each place, for large jobs."""

    def __init__(self, pending: Sequence[tuple[int, Sequence[Run]]], n_workers: int, batch_seconds: float) -> None:
        self.scheduler = Scheduler(pending, n_workers, batch_seconds)
        self.next_ticket = self.scheduler.next_ticket
        self.batch_done = self.scheduler.batch_done
        self.stage_done = self.scheduler.stage_done


@dataclass
class SimWorker:
    number: int
    seconds_a_file: float
    life: int = 0
    """Rises when the worker is lost: what its former self would have answered does not come."""
    tickets: deque[Ticket] = field(default_factory=deque)


@dataclass
class Chances:
    lost: float = 0.0
    """That a worker dies with a ticket instead of answering it."""
    early: float = 0.0
    """That a batch ends before its time: large rows, a slow file."""
    incomplete: float = 0.0
    """That staging finds a damaged segment."""


class Simulation:
    """Workers on virtual time. Each carries out its tickets in order and may be lost with all of them."""

    def __init__(
        self,
        pending: Sequence[tuple[int, Sequence[Run]]],
        speeds: Sequence[float],
        batch_seconds: float = 1.0,
        chances: Chances | None = None,
        seed: int = 0,
        model: Callable[..., Any] = Model,
    ) -> None:
        self.rng = random.Random(seed)
        self.chances = chances or Chances()
        self.batch_seconds = batch_seconds
        self.model = model(pending, len(speeds), batch_seconds)
        self.workers = [SimWorker(i, speed) for i, speed in enumerate(speeds)]
        self.answers: list[tuple[float, int, int, int]] = []
        """A heap: when, order, worker, its life."""
        self.now = 0.0
        self.n_events = 0
        self.idle_since = [0.0] * len(speeds)
        self.offers: list[int] = []

    def run(self) -> Any:
        self.hand_out()
        while not self.model.scheduler.is_finished:
            assert self.answers, "the job is not finished, and nobody is at work"
            self.n_events += 1
            assert self.n_events < 100_000, "the job does not come to an end"
            self.now, _, number, life = heapq.heappop(self.answers)
            worker = self.workers[number]
            if worker.life == life:
                self.answer(worker)
            self.hand_out()
        return self.model

    def hand_out(self) -> None:
        for depth in range(1, QUEUE_DEPTH + 1):
            for worker in self.workers:
                if len(worker.tickets) < depth:
                    ticket = self.model.next_ticket()
                    if ticket is None:
                        return
                    worker.tickets.append(ticket)
                    if isinstance(ticket, BatchTicket):
                        self.offers.append(count(ticket.places))
                    if len(worker.tickets) == 1:
                        self.begin(worker)

    def begin(self, worker: SimWorker) -> None:
        ticket = worker.tickets[0]
        took = 0.01 if isinstance(ticket, StageTicket) else self.n_fitting(worker, ticket) * worker.seconds_a_file
        heapq.heappush(self.answers, (self.now + took, self.n_events * 100 + worker.number, worker.number, worker.life))

    def n_fitting(self, worker: SimWorker, ticket: BatchTicket) -> int:
        return min(count(ticket.places), max(1, math.ceil(self.batch_seconds / worker.seconds_a_file)))

    def answer(self, worker: SimWorker) -> None:
        if self.rng.random() < self.chances.lost:
            worker.life += 1
            for ticket in worker.tickets:
                self.model.hand_back(ticket)
            worker.tickets.clear()
            return
        ticket = worker.tickets.popleft()
        if isinstance(ticket, StageTicket):
            self.answer_stage(ticket)
        else:
            self.answer_batch(worker, ticket)
        self.idle_since[worker.number] = self.now
        if worker.tickets:
            self.begin(worker)

    def answer_stage(self, ticket: StageTicket) -> None:
        if self.rng.random() < self.chances.incomplete:
            places = sorted(place for _, place in self.model.places_of_shard[ticket.shard])
            if places and self.model.n_incomplete[ticket.shard] < 3:
                missing = sorted(self.rng.sample(places, self.rng.randint(1, len(places))))
                self.model.stage_incomplete(ticket, runs_of(missing))
                return
        self.model.stage_done(ticket)

    def answer_batch(self, worker: SimWorker, ticket: BatchTicket) -> None:
        n_done = self.n_fitting(worker, ticket)
        if self.rng.random() < self.chances.early:
            n_done = self.rng.randint(0, n_done)
        self.model.batch_done(ticket, rest_of(ticket.places, n_done), n_done * worker.seconds_a_file)


def random_pending(rng: random.Random) -> list[tuple[int, list[Run]]]:
    """Return what a run finds pending, the first or one after a stop: whole shards, shards with gaps, complete ones."""
    pending = []
    for shard in sorted(rng.sample(range(40), rng.randint(1, 8))):
        n_files = rng.choice([1, 2, 7, 30, 120])
        kind = rng.choice(["new", "new", "gaps", "complete"])
        if kind == "new":
            runs = [(0, n_files)]
        elif kind == "gaps":
            runs = runs_of(sorted(rng.sample(range(n_files), rng.randint(0, n_files))))
        else:
            runs = []
        pending.append((shard, runs))
    return pending


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_every_place_is_done_once_and_every_shard_staged_once(seed: int) -> None:
    rng = random.Random(seed)
    simulation = Simulation(
        random_pending(rng),
        speeds=[rng.choice([0.0005, 0.01, 0.2, 3.0]) for _ in range(rng.randint(1, 5))],
        batch_seconds=rng.choice([0.05, 1.0, 10.0]),
        chances=Chances(
            lost=rng.choice([0, 0, 0.05, 0.3]),
            early=rng.choice([0, 0.1, 0.7]),
            incomplete=rng.choice([0, 0.3]),
        ),
        seed=seed,
    )
    n_pending = simulation.model.n_pending
    model = simulation.run()
    model.check_end()
    assert len(model.times_done) == n_pending
    if not simulation.chances.incomplete:
        assert set(model.n_incomplete.values()) <= {0}


def test_the_simulation_itself_meets_all_that_it_is_meant_to_try() -> None:
    """Else the test above could pass because nothing ever happens."""
    happened = {"lost": 0, "returned": 0, "incomplete": 0, "many runs": 0}

    class Watched(Model):
        def hand_back(self, ticket: Ticket) -> None:
            happened["lost"] += 1
            super().hand_back(ticket)

        def batch_done(self, ticket: BatchTicket, returned: Sequence[Run], seconds: float) -> None:
            happened["returned"] += bool(returned)
            happened["many runs"] += len(ticket.places) > 1
            super().batch_done(ticket, returned, seconds)

        def stage_incomplete(self, ticket: StageTicket, missing: Sequence[Run]) -> None:
            happened["incomplete"] += 1
            super().stage_incomplete(ticket, missing)

    for seed in range(10):
        rng = random.Random(seed)
        Simulation(random_pending(rng), [0.01, 0.2], 1.0, Chances(0.1, 0.5, 0.3), seed, Watched).run().check_end()
    assert min(happened.values()) > 5


# One rule at a time


def drain(scheduler: Scheduler, limit: int = 4) -> list[Ticket]:
    """Take all that there is to do now, in batches of up to `limit` files."""
    tickets = []
    while (ticket := scheduler.next_ticket(limit)) is not None:
        tickets.append(ticket)
    return tickets


def test_nothing_to_do_is_finished_at_once() -> None:
    scheduler = Scheduler([], 4, 1.0)
    assert scheduler.is_finished
    assert scheduler.next_ticket() is None
    assert (scheduler.n_pending, scheduler.n_in_flight) == (0, 0)


def test_a_shard_without_pending_places_only_needs_staging() -> None:
    scheduler = Scheduler([(3, []), (5, [(0, 2)])], 1, 1.0)
    assert not scheduler.is_finished
    first, second = drain(scheduler)
    assert first == StageTicket(first.number, 3)
    assert second == BatchTicket(second.number, 5, ((0, 2),))


def test_staging_comes_before_batches() -> None:
    scheduler = Scheduler([(0, [(0, 4)]), (1, [(0, 4)])], 1, 1.0)
    batch = scheduler.next_ticket(limit=4)
    assert isinstance(batch, BatchTicket)
    scheduler.batch_done(batch, [], 1.0)
    stage = scheduler.next_ticket()
    assert isinstance(stage, StageTicket) and stage.shard == 0


def test_a_shard_is_staged_only_after_its_last_batch_came_back() -> None:
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0)
    one, two = drain(scheduler)
    assert isinstance(one, BatchTicket) and isinstance(two, BatchTicket)
    scheduler.batch_done(two, [], 1.0)
    assert scheduler.next_ticket() is None
    assert not scheduler.is_finished
    scheduler.batch_done(one, [], 1.0)
    (stage,) = drain(scheduler)
    assert isinstance(stage, StageTicket)
    assert not scheduler.is_finished
    scheduler.stage_done(stage)
    assert scheduler.is_finished


def test_an_offer_is_of_one_shard_even_where_it_could_hold_more() -> None:
    scheduler = Scheduler([(0, [(0, 2)]), (1, [(0, 2)])], 1, 1.0)
    assert [(t.shard, t.places) for t in drain(scheduler) if isinstance(t, BatchTicket)] == [
        (0, ((0, 2),)),
        (1, ((0, 2),)),
    ]


def test_an_offer_takes_several_runs_and_cuts_the_last() -> None:
    scheduler = Scheduler([(0, [(1, 2), (5, 7), (9, 12)])], 1, 1.0)
    places = [ticket.places for ticket in drain(scheduler) if isinstance(ticket, BatchTicket)]
    assert places == [((1, 2), (5, 7), (9, 10)), ((10, 12),)]


def test_a_limit_replaces_the_measured_size() -> None:
    scheduler = Scheduler([(0, [(0, 100)])], 1, 1.0)
    ticket = scheduler.next_ticket(limit=10)
    assert isinstance(ticket, BatchTicket) and ticket.places == ((0, 10),)
    assert scheduler.n_pending == 90


def test_what_comes_back_is_offered_again_first_and_in_order() -> None:
    scheduler = Scheduler([(0, [(0, 20)])], 1, 1.0)
    ticket = scheduler.next_ticket(limit=10)
    assert isinstance(ticket, BatchTicket)
    scheduler.batch_done(ticket, [(2, 4), (7, 10)], 1.0)
    again = scheduler.next_ticket(limit=8)
    assert isinstance(again, BatchTicket) and again.places == ((2, 4), (7, 10), (10, 13))


def test_an_answer_without_a_single_file_does_not_spoil_the_measured_speed() -> None:
    scheduler = Scheduler([(0, [(0, 10_000)])], 1, 1.0)
    sizes = []
    for n_answered in (None, 0, None, 0, None):
        ticket = scheduler.next_ticket()
        assert isinstance(ticket, BatchTicket)
        (start, stop) = ticket.places[0]
        sizes.append(stop - start)
        if n_answered == 0:
            scheduler.batch_done(ticket, ticket.places, 0.5)
        else:
            scheduler.batch_done(ticket, [], (stop - start) / 10)
    assert sizes == [FIRST_OFFER, 10, 10, 10, 10]


def test_everything_of_a_lost_worker_is_handed_out_again() -> None:
    scheduler = Scheduler([(0, [(0, 6)]), (1, [])], 1, 1.0)
    tickets = drain(scheduler)
    assert scheduler.n_pending == 0
    for ticket in tickets:
        scheduler.hand_back(ticket)
    assert (scheduler.n_pending, scheduler.n_in_flight) == (6, 0)
    again = drain(scheduler)
    assert [(type(t), t.shard) for t in again] == [(StageTicket, 1), (BatchTicket, 0), (BatchTicket, 0)]
    offered = [place for t in again if isinstance(t, BatchTicket) for _, place in places_of(0, t.places)]
    assert sorted(offered) == list(range(6))


def test_a_ticket_cannot_be_settled_twice() -> None:
    scheduler = Scheduler([(0, [(0, 2)])], 1, 1.0)
    (ticket,) = drain(scheduler)
    assert isinstance(ticket, BatchTicket)
    scheduler.hand_back(ticket)
    with pytest.raises(KeyError):
        scheduler.batch_done(ticket, [], 1.0)


def test_places_that_staging_misses_are_done_before_it_is_tried_again() -> None:
    scheduler = Scheduler([(0, [(0, 4)])], 1, 1.0)
    (batch,) = drain(scheduler)
    assert isinstance(batch, BatchTicket)
    scheduler.batch_done(batch, [], 1.0)
    (stage,) = drain(scheduler)
    assert isinstance(stage, StageTicket)
    scheduler.stage_incomplete(stage, [(1, 3)])
    assert scheduler.n_pending == 2
    found = []
    while not scheduler.is_finished:
        ticket = scheduler.next_ticket()
        if isinstance(ticket, StageTicket):
            scheduler.stage_done(ticket)
            found.append("stage")
        else:
            assert ticket is not None
            found += [place for _, place in places_of(0, ticket.places)]
            scheduler.batch_done(ticket, [], 1.0)
    assert found == [1, 2, "stage"]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_lowest_shard_comes_first_whatever_the_order_of_the_answers(order: list[int]) -> None:
    scheduler = Scheduler([(0, [(0, 4)]), (1, [(0, 4)]), (2, [(0, 4)])], 2, 1.0)
    tickets = [scheduler.next_ticket(limit=4), scheduler.next_ticket(limit=4)]
    for i in order:
        ticket = tickets[i]
        assert isinstance(ticket, BatchTicket) and ticket.shard == i
        scheduler.batch_done(ticket, [(2, 4)], 1.0)
    assert [ticket.shard for ticket in drain(scheduler, limit=2)] == [0, 1, 2, 2]


# How large an offer is


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("batch_seconds", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("seconds_a_file", [0.0001, 0.003, 0.17, 0.9, 30.0])
def test_offers_come_to_take_batch_seconds_each(n_workers: int, batch_seconds: float, seconds_a_file: float) -> None:
    n_files = int(60 * n_workers * max(1, batch_seconds / seconds_a_file))
    simulation = Simulation([(0, [(0, n_files)])], [seconds_a_file] * n_workers, batch_seconds, model=Unchecked)
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
    simulation = Simulation([(0, [(0, 1_000_000)])], [0.00001], model=Unchecked)
    simulation.run()
    assert simulation.offers[0] == FIRST_OFFER
    largest = FIRST_OFFER
    for n in simulation.offers[1:]:
        assert n <= GROWTH * largest
        largest = max(largest, n)
    assert largest >= 90_000


def test_a_job_that_gets_slower_gets_smaller_offers_and_a_faster_one_larger() -> None:
    scheduler = Scheduler([(0, [(0, 1_000_000)])], 1, 1.0)
    for seconds_a_file in (0.001, 0.5, 0.01):
        for _ in range(20):
            ticket = scheduler.next_ticket()
            assert isinstance(ticket, BatchTicket)
            n_done = min(count(ticket.places), int(1.0 / seconds_a_file))
            scheduler.batch_done(ticket, rest_of(ticket.places, n_done), n_done * seconds_a_file)
        assert abs(count(ticket.places) - 1.0 / seconds_a_file) <= 2


@pytest.mark.parametrize("n_workers", [2, 8])
def test_offers_shrink_towards_the_end_so_that_nobody_waits_for_a_long_batch(n_workers: int) -> None:
    simulation = Simulation([(0, [(0, 40_000)])], [0.001] * n_workers, batch_seconds=5.0, model=Unchecked)
    simulation.run()
    tail = simulation.offers[-20:]
    assert max(simulation.offers) > 100
    assert tail == sorted(tail, reverse=True) and tail[-1] == 1
    # All workers are busy to the end: the last one ends soon after the first.
    assert max(simulation.idle_since) - min(simulation.idle_since) < 0.1


def test_a_slow_worker_does_not_hold_the_job_up_by_more_than_its_two_batches() -> None:
    n_files, speeds = 20_000, [0.001, 0.001, 0.001, 0.01]
    simulation = Simulation([(0, [(0, n_files)])], speeds, batch_seconds=1.0, model=Unchecked)
    simulation.run()
    best = n_files / sum(1 / speed for speed in speeds)
    assert simulation.now < best + QUEUE_DEPTH * 1.0


def test_no_workers_at_all_count_as_one() -> None:
    assert len(drain(Scheduler([(0, [(0, 4)])], 0, 1.0))) == 1
