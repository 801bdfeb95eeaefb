"""Where f takes many files at once: how large its calls are, and who is to blame when a worker ends in one."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import KNOWN_DEATHS, Suspect
from r3po.work import Batch, Death, RecordFailure, Span, Stage, count_places, files_of_smaller_call, iter_places

SEGFAULT = Death("SIGSEGV", is_known=True)
TOO_LONG = Death("time", is_known=True)


def scheduler_of(n_files: int, batch_files: int, n_workers: int = 1, **options: object) -> Scheduler:
    return Scheduler([(0, [(0, n_files)])], n_workers, 1.0, batch_files=batch_files, **options)  # type: ignore[arg-type]


def next_batch(scheduler: Scheduler, limit: int | None = None, *, is_fresh: bool = False) -> Batch:
    work = scheduler.next_work(limit, is_fresh=is_fresh)
    assert isinstance(work, Batch)
    return work


def take_batches(scheduler: Scheduler) -> list[tuple[tuple[Span, ...], int]]:
    """Take all batches that there are, and return places and size of calls of each."""
    found = []
    while isinstance(work := scheduler.next_work(), Batch):
        found.append((work.places, work.call_files))
    return found


# How large


@pytest.mark.parametrize("batch_files", [1, 2, 7, 64])
@pytest.mark.parametrize("seconds_a_file", [0.001, 0.05, 30.0])
def test_a_batch_has_whole_calls_but_for_the_last(seconds_a_file: float, batch_files: int) -> None:
    n_files = 4_003
    scheduler = scheduler_of(n_files, batch_files, n_workers=3)
    sizes = []
    while scheduler.n_pending:
        work = next_batch(scheduler)
        sizes.append(count_places(work.places))
        scheduler.batch_done(work, [], sizes[-1] * seconds_a_file)
    assert sum(sizes) == n_files
    assert [size for size in sizes[:-1] if size % batch_files] == []
    target = max(1, 1.0 / seconds_a_file)
    assert max(sizes[1 : len(sizes) // 2]) <= target + batch_files


def test_a_probe_has_at_least_one_whole_call() -> None:
    assert next_batch(scheduler_of(100, 64), 10).places == ((0, 64),)
    assert next_batch(scheduler_of(100, 4), 10).places == ((0, 12),)


# Who is to blame


def test_a_call_that_ended_its_worker_goes_into_quarters_and_nobody_is_a_suspect() -> None:
    scheduler = scheduler_of(200, 64)
    scheduler.lost_call(next_batch(scheduler, 100), (64, 128))
    assert scheduler.suspects.all == []
    assert scheduler.n_pending == 200
    quarters = [(((start, start + 16),), 16) for start in range(64, 128, 16)]
    assert take_batches(scheduler) == [*quarters, *(((span,), 0) for span in ((0, 64), (128, 192), (192, 200)))]


def test_what_a_worker_gives_back_of_calls_that_failed_goes_into_smaller_ones() -> None:
    scheduler = scheduler_of(64, 16)
    work = next_batch(scheduler, 64)
    scheduler.batch_done(work, [(48, 64)], 1.0, doubted=[(16, 32)], call_files=4)
    doubted = next_batch(scheduler, 16)
    assert (doubted.places, doubted.call_files) == (((16, 32),), 4)
    scheduler.hand_back(doubted)
    assert next_batch(scheduler, 16).call_files == 4, "also when it comes back"
    assert (next_batch(scheduler).places, scheduler.n_pending) == (((48, 64),), 0)


def test_of_places_with_gaps_those_between_the_ends_of_the_call_are_in_doubt() -> None:
    scheduler = Scheduler([(0, [(0, 3), (10, 12), (20, 30)])], 1, 1.0, batch_files=4)
    work = next_batch(scheduler, 15)
    assert work.places == ((0, 3), (10, 12), (20, 30))
    scheduler.lost_call(work, (2, 22))
    singles = [next_batch(scheduler) for _ in range(5)]
    assert [work.places for work in singles] == [((place, place + 1),) for place in (2, 10, 11, 20, 21)]
    assert {(work.call_files, work.limit) for work in singles} == {(1, 1)}


def test_trials_and_last_tries_are_calls_with_one_file() -> None:
    scheduler = Scheduler([(0, [(0, 10)])], 1, 1.0, [Suspect(0, 3)], batch_files=4)
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.places, trial.call_files) == ("trial", ((3, 4),), 1)
    scheduler.batch_done(trial, [], 1.0)
    scheduler.batch_done(next_batch(scheduler, 9), [], 1.0, deferred=range(4, 10))
    last = next_batch(scheduler)
    assert (last.kind, last.call_files) == ("last try", 1)


# Of a killed run


def test_calls_that_a_killed_run_was_in_come_first_with_each_file_by_itself() -> None:
    pending = [(0, [(0, 40)]), (1, [(5, 30)])]
    suspects = [Suspect(1, 8)]
    scheduler = Scheduler(pending, 1, 1.0, suspects, batch_files=8, in_doubt=[(1, (0, 10)), (7, (0, 8))])
    assert scheduler.n_pending == 65
    first = next_batch(scheduler, 20)
    assert (first.shard, first.places, first.call_files) == (1, ((5, 8), (9, 10)), 1)
    assert next_batch(scheduler, 8).call_files == 0
    trial = next_batch(scheduler, is_fresh=True)
    assert (trial.kind, trial.shard, trial.places) == ("trial", 1, ((8, 9),))


def test_where_f_takes_one_file_nothing_is_in_doubt() -> None:
    scheduler = Scheduler([(0, [(0, 40)])], 1, 1.0, in_doubt=[(0, (8, 16))])
    assert next_batch(scheduler, 40).places == ((0, 40),)


# Whoever they are


class Machine:
    """One worker, which makes the calls of a batch in order; some files raise, end it, or hang in it."""

    def __init__(self, n_files: int, batch_files: int, odd: dict[int, str]) -> None:
        self.scheduler, self._batch_files, self._odd = scheduler_of(n_files, batch_files), batch_files, odd
        self.outcomes: dict[int, str] = {}
        self.n_deaths = 0

    def run(self) -> None:
        for _ in range(10_000):
            work = self.scheduler.next_work(is_fresh=True)
            match work:
                case None:
                    assert self.scheduler.is_finished
                    return
                case Stage():
                    self.scheduler.stage_done(work)
                case RecordFailure():
                    self.outcomes[work.place] = "dies" if work.n_deaths else "hangs"
                    assert work.n_deaths in (0, KNOWN_DEATHS)
                    self.scheduler.failure_recorded(work)
                case Batch():
                    self._do(work)
        raise AssertionError("it does not come to an end")

    def _do(self, work: Batch) -> None:
        places = list(iter_places(work.places))
        size = work.call_files or self._batch_files
        waiting = [places[start : start + size] for start in range(0, len(places), size)][::-1]
        found: dict[int, str] = {}
        while waiting:
            call = waiting.pop()
            kind = next((self._odd[place] for place in call if place in self._odd), "row")
            if kind in ("dies", "hangs"):
                self._lose(work, call, kind)
                return  # nothing of the batch was recorded
            if kind == "row" or len(call) == 1:
                assert not found.keys() & set(call)
                found |= dict.fromkeys(call, kind)
            else:
                size = files_of_smaller_call(len(call))
                waiting += [call[start : start + size] for start in range(0, len(call), size)][::-1]
        assert not self.outcomes.keys() & found.keys(), "no file has two outcomes"
        self.outcomes |= found
        self.scheduler.batch_done(work, [], 1.0)

    def _lose(self, work: Batch, call: list[int], kind: str) -> None:
        self.n_deaths += 1
        if len(call) > 1:
            self.scheduler.lost_call(work, (min(call), max(call) + 1))
        elif kind == "hangs":
            self.scheduler.overran(work, call[0], TOO_LONG)
        else:
            self.scheduler.lost(work, call[0], SEGFAULT)


def expected(n_files: int, odd: dict[int, str]) -> dict[int, str]:
    return {place: odd.get(place, "row") for place in range(n_files)}


@pytest.mark.parametrize("batch_files", [2, 3, 4, 5, 8])
def test_any_two_culprits_of_any_kind_fail_and_all_others_have_rows(batch_files: int) -> None:
    n_files = 11
    for places in combinations(range(n_files), 2):
        for kinds in product(("raises", "dies", "hangs"), repeat=2):
            odd = dict(zip(places, kinds, strict=True))
            machine = Machine(n_files, batch_files, odd)
            machine.run()
            assert machine.outcomes == expected(n_files, odd)


@pytest.mark.parametrize("kind", ["raises", "dies", "hangs"])
def test_a_culprit_among_64_costs_few_workers(kind: str) -> None:
    for place in range(64):
        machine = Machine(64, 64, {place: kind})
        machine.run()
        assert machine.outcomes == expected(64, {place: kind})
        assert machine.n_deaths == {"raises": 0, "dies": 3 + 1 + KNOWN_DEATHS, "hangs": 3 + 1}[kind]


def test_all_of_them_may_die() -> None:
    odd = dict.fromkeys(range(20), "dies")
    machine = Machine(20, 8, odd)
    machine.run()
    assert machine.outcomes == odd
