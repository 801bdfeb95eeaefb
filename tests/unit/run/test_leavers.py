"""Workers that leave in order, with a pool that is only told of and a clock that is set."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost
from r3po.errors import FunctionError, RunStoppedError
from r3po.events import Event, Notice
from r3po.run.budgets import LossBudget
from r3po.run.leavers import CLOSE_S, GRACE_S, MAKING_S, STOPPED_CLOSE_S, Leavers
from r3po.run.roster import WorkerHandle
from r3po.run.workers import Lost, WorkerManager
from r3po.work import Batch, Death
from r3po.worker.beacon import Phase, Sighting


def seen_in(phase: Phase) -> Sighting:
    return Sighting(counter=1, phase=phase, shard=0, place=0, pid=1, pid_started=1, exit_code=None)


@dataclass
class FakePool(OneMachine):
    """Notes what it was asked for; time passes while somebody waits."""

    phases: dict[int, Phase] = field(default_factory=dict)
    messages: deque[list[Answer | WorkerLost]] = field(default_factory=deque)
    submitted: list[tuple[int, Call]] = field(default_factory=list)
    dismissed: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    now: float = 100.0
    can_replace: bool = True
    is_gone: bool = False
    breaks: bool = False

    def sighting(self, worker: int) -> Sighting | None:
        return seen_in(self.phases[worker]) if worker in self.phases else None

    def submit(self, worker: int, call: Call) -> None:
        self.submitted.append((worker, call))

    def dismiss(self, worker: int) -> None:
        self.dismissed.append(worker)

    def add_worker(self, worker: int) -> None:
        self.added.append(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        return Death("SIGSEGV", True)

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        if self.breaks:
            raise RunStoppedError("Ray is gone")
        self.now += timeout_s
        return self.messages.popleft() if self.messages else []


@dataclass
class Bench:
    pool: FakePool
    leavers: Leavers
    told: list[Event]
    stop: Any = field(default_factory=lambda: SimpleNamespace(is_requested=False, is_urgent=False))

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, Notice)]


@pytest.fixture
def bench() -> Bench:
    pool, told = FakePool(), []  # type: ignore[var-annotated]
    return Bench(pool, Leavers(pool, "m.py:Model", told.append, lambda: pool.now), told)  # type: ignore[arg-type]


def closed(worker: int, trouble: str = "") -> Answer:
    return Answer(worker, Call("finish", (CLOSE_S,)), trouble)


def test_each_worker_that_has_made_f_closes_it_and_is_waited_for(bench: Bench) -> None:
    bench.pool.phases = {0: Phase.IDLE, 1: Phase.LOADING, 2: Phase.CALLING, 3: Phase.READING, 4: Phase.IDLE}
    bench.pool.messages += [[], [closed(4), closed(0)]]
    bench.leavers.leave_all(range(6), bench.stop)
    assert bench.pool.submitted == [(0, Call("finish", (CLOSE_S,))), (4, Call("finish", (CLOSE_S,)))]
    assert sorted(bench.pool.dismissed) == [0, 4] and not bench.leavers.is_busy and bench.told == []


def test_the_wait_has_an_end_and_that_is_told(bench: Bench) -> None:
    bench.pool.phases = {0: Phase.IDLE}
    bench.leavers.leave_all([0], bench.stop)
    assert bench.pool.now == pytest.approx(100 + CLOSE_S + GRACE_S, abs=0.2)
    assert bench.texts == ["closing m.py:Model went wrong: it did not end, and its worker was killed"]


def test_a_worker_that_is_still_making_f_is_given_a_moment(bench: Bench) -> None:
    bench.pool.phases = {0: Phase.MAKING}
    bench.leavers.leave_all([0], bench.stop)
    assert bench.pool.now == pytest.approx(100 + MAKING_S, abs=0.2) and bench.told == []


def test_after_a_stop_there_is_less_time_also_if_it_comes_meanwhile(bench: Bench) -> None:
    bench.pool.phases = {0: Phase.IDLE}
    bench.leavers.add(7)  # it was leaving already
    bench.stop.is_requested = True
    bench.leavers.leave_all([0], bench.stop)
    assert bench.pool.submitted[-1] == (0, Call("finish", (STOPPED_CLOSE_S,)))
    assert bench.pool.now == pytest.approx(100 + STOPPED_CLOSE_S, abs=0.2)


def test_a_second_signal_ends_the_wait_and_a_ray_that_is_gone_is_not_asked(bench: Bench) -> None:
    bench.pool.phases = {0: Phase.IDLE}
    bench.stop.is_urgent = True
    bench.leavers.leave_all([0], bench.stop)
    assert bench.pool.now == 100
    bench.stop.is_urgent, bench.pool.breaks = False, True
    bench.leavers.leave_all([0], bench.stop)
    bench.pool.is_gone, bench.pool.submitted = True, []
    bench.leavers.leave_all([0], bench.stop)
    assert bench.pool.submitted == [] and bench.told == []


def test_what_went_wrong_is_told_once_for_all_workers(bench: Bench) -> None:
    bench.pool.phases = dict.fromkeys(range(4), Phase.IDLE)
    bug = Answer(2, Call("finish"), error=RuntimeError("odd"))
    bench.pool.messages += [[closed(0, "OSError: full"), closed(1, "OSError: full"), bug, WorkerLost(3, "died")]]
    bench.leavers.leave_all(range(4), bench.stop)
    assert [text.removeprefix("closing m.py:Model went wrong: ") for text in bench.texts] == [
        "OSError: full",
        "odd",
        "the process ended: SIGSEGV",
    ]


def test_a_worker_is_replaced_once_f_is_closed_in_it(bench: Bench) -> None:
    manager = WorkerManager(bench.pool, 1, None, lambda: bench.pool.now, bench.leavers)  # type: ignore[arg-type]
    handle = manager.handles[0]
    handle.is_fresh = False
    manager.loaded(0)
    manager.dismiss(handle)
    manager.need_fresh()
    assert bench.pool.submitted == [(0, Call("finish", (CLOSE_S,)))] and manager.handles == {}
    manager.wait(0.1)
    assert bench.pool.dismissed == bench.pool.added == []
    bench.pool.messages.append([closed(0)])
    manager.wait(0.1)
    manager.wait(0.1)
    assert bench.pool.dismissed == [0] and bench.pool.added == [1] and list(manager.handles) == [1]


def test_a_trial_waits_for_a_worker_that_makes_f_however_long_that_takes(bench: Bench) -> None:
    manager = WorkerManager(bench.pool, 2, None, lambda: bench.pool.now, bench.leavers)  # type: ignore[arg-type]
    manager.handles[0].is_fresh = False
    manager.loaded(0)
    bench.pool.phases = {0: Phase.IDLE, 1: Phase.MAKING}
    bench.pool.now += 600
    manager.wait(1.0)
    manager.need_fresh()
    assert bench.pool.submitted == [] and manager.is_making
    bench.pool.phases[1] = Phase.LOADING  # this one may never come to it
    bench.pool.now += 600
    manager.wait(1.0)
    bench.pool.phases.pop(1)
    manager.handles[1].seen = None
    manager.need_fresh()
    assert [worker for worker, _ in bench.pool.submitted] == [0] and not manager.is_making


def test_a_death_while_f_is_made_is_the_functions_and_that_of_no_file() -> None:
    handle, death = WorkerHandle(0), Death("exit code 7", True)
    lost = Lost(handle, death, seen_in(Phase.MAKING), was_alone=True)
    with pytest.raises(FunctionError, match="making Model ends the process: exit code 7"):
        LossBudget("Model").take(lost)
    assert lost.file is None
    budget = LossBudget("Model")
    budget.loaded()  # another worker could make it: that one is replaced, and only a few in a row end the run
    budget.take(lost)
    budget.take(lost)
    with pytest.raises(RunStoppedError, match="workers die while they start"):
        budget.take(lost)
    assert not [work for work in handle.in_hand if isinstance(work, Batch)]
