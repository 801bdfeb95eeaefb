"""The workers as the driver sees them, with a pool that is only told of, real beacons, and a clock that is set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from r3po.engines import worker_processes
from r3po.engines.pool import Answer, Call, OneMachine, WorkerLost
from r3po.engines.worker_processes import OOM_S, WorkerProcesses
from r3po.run.beacon_watch import GAP_S, GRACE_S, SILENT_S, WATCH_S
from r3po.run.roster import Standing, WorkerHandle
from r3po.run.workers import (
    PAUSES_S,
    RECOVER_S,
    START_S,
    Lost,
    WorkerManager,
)
from r3po.work import Batch, Death, Stage
from r3po.worker.beacon import Beacon, Phase, Sighting, list_workers, read_beacon, worker_file
from r3po.worker.messages import WorkerSetup

TIMEOUT_S = 20.0
LOAD, RUN = Call("load"), Call("run_batch")
TRIAL = Batch(1, 2, ((3, 4),), "trial")


@dataclass
class FakePool(OneMachine):
    """Says what it was told to say, and notes what it was asked for."""

    processes: WorkerProcesses
    can_replace: bool = True
    is_gone: bool = False
    description: str = "fake"
    messages: deque[list[Answer | WorkerLost]] = field(default_factory=deque)
    submitted: list[tuple[int, Call]] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    killed: list[tuple[int, bool]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def start(self, setup: WorkerSetup, n_workers: int) -> None:
        raise AssertionError("the manager gets a pool that was started")

    def add_worker(self, worker: int) -> None:
        self.added.append(worker)

    def sighting(self, worker: int) -> Sighting | None:
        return self.processes.sighting(worker)

    def end(self, worker: int) -> None:
        self.killed.append((worker, True))

    def dismiss(self, worker: int) -> None:
        self.killed.append((worker, False))
        self.processes.forget(worker)

    def death_of(self, lost: WorkerLost) -> Death:
        return self.processes.death_of(lost.worker, is_memory=lost.is_memory)

    def submit(self, worker: int, call: Call) -> None:
        self.submitted.append((worker, call))

    def wait(self, timeout_s: float) -> list[Answer | WorkerLost]:
        self.waits.append(timeout_s)
        return self.messages.popleft() if self.messages else []

    def shortage(self) -> str:
        return "no CPU"

    def close(self) -> None:
        pass


@dataclass
class Scene:
    """A manager at work."""

    folder: Path
    pool: FakePool
    manager: WorkerManager
    now: list[float]
    n_kernel_kills: int = 0
    """For memory, as the machine counts them."""
    beacons: dict[int, Beacon] = field(default_factory=dict)

    def pass_time(self, seconds: float, step: float = 0.5) -> list[Answer | Lost]:
        """Let the driver look every half second for so long."""
        found: list[Answer | Lost] = []
        for _ in range(round(seconds / step)):
            self.now[0] += step
            found += self.manager.wait(0.1)
        return found

    def say(self, *messages: Answer | WorkerLost) -> list[Answer | Lost]:
        """Let the pool say something at once, and return what the manager makes of it."""
        self.pool.messages.append(list(messages))
        return self.manager.wait(0.1)

    def lose(self, worker: int, *, is_memory: bool = False) -> Lost:
        (lost,) = self.say(WorkerLost(worker, "ActorDiedError", is_memory))
        assert isinstance(lost, Lost)
        return lost

    def mark(self, worker: int, phase: Phase, place: int = 5) -> None:
        if worker not in self.beacons:
            self.beacons[worker] = Beacon(self.folder, worker)
        self.beacons[worker].mark(phase, 2, place)

    def give(self, *workers: int, number: int = 0) -> Batch:
        work = Batch(number, 2, ((0, 10),))
        for worker in workers:
            self.manager.submit(self.manager.handles[worker], work, RUN)
        return work

    def ready(self, *workers: int) -> None:
        for worker in workers:
            self.manager.loaded(worker)

    def settle_all(self, worker: int) -> None:
        while self.manager.handles[worker].in_hand:
            self.manager.settle(worker)

    def is_fresh(self, worker: int) -> bool:
        """Whether a trial may be held on it."""
        return worker in self.manager._roster._free.get(Standing(0, True, True), ())

    def free(self, depth: int) -> list[int]:
        """Return the workers that may be given work while they have fewer than `depth` pieces in hand."""
        groups = self.manager._roster._free.items()
        return sorted(worker for standing, group in groups if standing.n_in_hand < depth for worker in group)

    def leaving(self) -> list[int]:
        return [handle.number for handle in self.manager.handles.values() if handle.is_leaving]


NewStage = Callable[..., Scene]


@pytest.fixture
def new_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewStage]:
    stages: list[Scene] = []
    # Other tests' neighbours may be killed meanwhile.
    monkeypatch.setattr(worker_processes, "count_oom_kills", lambda: stages[-1].n_kernel_kills if stages else 7)

    def make(n_workers: int = 3, timeout_s: float | None = TIMEOUT_S, can_replace: bool = True) -> Scene:
        now = [1000.0]
        pool = FakePool(WorkerProcesses(tmp_path, lambda: now[0]), can_replace)
        stage = Scene(tmp_path, pool, WorkerManager(pool, n_workers, timeout_s, lambda: now[0]), now, n_kernel_kills=7)
        stage.ready(*range(n_workers))
        for worker in range(n_workers):
            stage.mark(worker, Phase.IDLE, -1)
        stages.append(stage)
        return stage

    yield make
    for stage in stages:
        for beacon in stage.beacons.values():
            beacon.close()


@pytest.fixture
def stage(new_stage: NewStage) -> Scene:
    return new_stage()


# What comes in


def test_answers_come_before_deaths(stage: Scene) -> None:
    stage.give(0, 1, 2)
    found = stage.say(WorkerLost(2, "died"), WorkerLost(0, "died"), Answer(1, RUN), Answer(0, RUN))
    assert [type(message) for message in found] == [Answer, Answer, Lost]
    assert found[:2] == [Answer(1, RUN), Answer(0, RUN)]
    assert isinstance(found[2], Lost) and found[2].handle.number == 2
    # That of a worker which has answered comes with the next look: the answer finds its handle as it was.
    (lost,) = stage.manager.wait(0.1)
    assert isinstance(lost, Lost) and lost.handle.number == 0
    assert stage.pool.waits == [0.1, 0], "and what is known need not be waited for"
    assert stage.manager.wait(0.1) == [], "once"


def test_whoever_has_answered_before_it_died_is_a_member_until_its_death_is_told(stage: Scene) -> None:
    first, second = stage.give(0, number=7), stage.give(0, number=8)
    stage.mark(0, Phase.CALLING, 4)
    stage.say(Answer(0, RUN), WorkerLost(0, "died"))
    handle = stage.manager.handles[0]
    assert handle.in_hand == [first, second] and list_workers(stage.folder) == [0, 1, 2]
    assert stage.manager.living == [1, 2], "but nobody waits for it"
    stage.manager.settle(0)
    given = stage.give(0, number=9)  # nobody knows yet
    assert stage.say(Answer(0, RUN)) == [Answer(0, RUN)], "it is held back as long as there are answers"
    (lost,) = stage.say(WorkerLost(0, "died"))
    assert isinstance(lost, Lost) and lost.handle is handle and lost.file == (2, 4)
    assert handle.in_hand == [second, given]
    assert 0 not in stage.manager.handles and list_workers(stage.folder) == [1, 2]
    assert stage.manager.n_lost == 1


def test_whoever_has_answered_and_was_let_go_is_not_told_of(stage: Scene) -> None:
    stage.give(0)
    assert stage.say(Answer(0, RUN), WorkerLost(0, "died")) == [Answer(0, RUN)]
    handle = stage.manager.handles[0]
    stage.settle_all(0)
    stage.manager.dismiss(handle)
    assert stage.manager.wait(0.1) == []
    stage.pass_time(1)
    assert (stage.pool.added, stage.manager.n_lost) == ([3], 0)


def test_a_death_is_told_once_and_words_of_the_dead_and_of_who_was_let_go_are_not_heard(stage: Scene) -> None:
    assert len(stage.say(WorkerLost(0, "died"), WorkerLost(0, "died"))) == 1
    assert stage.say(WorkerLost(0, "died"), Answer(0, RUN)) == []
    stage.manager.dismiss(stage.manager.handles[1])
    assert stage.say(Answer(1, RUN), WorkerLost(1, "killed")) == []
    assert 1 not in stage.manager.handles


def test_a_lost_worker_leaves_its_tickets_and_its_last_words(stage: Scene) -> None:
    in_hand = [stage.give(0, number=7), stage.give(0, number=8)]
    stage.mark(0, Phase.CALLING, 4)
    worker_file(stage.folder, 0, "crash").write_text("Fatal Python error: Segmentation fault\n\nStack ...\n")
    lost = stage.lose(0)
    assert lost.handle.in_hand == in_hand
    assert lost.file == (2, 4)
    assert lost.death == Death("SIGSEGV", True, "Fatal Python error: Segmentation fault\n\nStack ...\n")
    assert list_workers(stage.folder) == [1, 2], "they are read once"
    stage.beacons[1].note_exit(7)
    assert stage.lose(1).death == Death("exit code 7", True)


@pytest.mark.parametrize("phase", Phase)
def test_a_worker_that_did_anything_since_it_was_given_a_ticket_has_begun(stage: Scene, phase: Phase) -> None:
    stage.give(0, 1)
    stage.give(0, 1)
    stage.mark(0, phase)
    lost = stage.lose(0)
    assert (lost.has_begun, stage.lose(1).has_begun) == (True, False)
    is_in_file = phase in (Phase.READING, Phase.CALLING)
    assert lost.file == ((2, 5) if is_in_file else None), "between two files none is named"


def test_what_counts_is_the_moment_when_it_had_nothing_in_hand(stage: Scene) -> None:
    """It has answered the first work since; whether it has begun the second is not known."""
    handle = stage.manager.handles[0]
    stage.give(0)
    stage.give(0)
    stage.mark(0, Phase.RECORDING)
    stage.mark(0, Phase.IDLE, -1)
    stage.manager.settle(0)
    stage.give(0)
    assert Lost(handle, Death("killed"), read_beacon(stage.folder, 0), False).has_begun
    stage.settle_all(0)
    stage.give(0)
    assert not stage.lose(0).has_begun, "it was idle when it was given this one"


def test_a_worker_whose_beacon_came_late_or_never_may_have_begun(stage: Scene) -> None:
    stage.lose(0)
    stage.pass_time(1)
    stage.give(3)
    stage.mark(3, Phase.IDLE, -1)
    assert stage.lose(3).has_begun
    stage.pass_time(1)
    stage.give(4)
    lost = stage.lose(4)
    assert (lost.has_begun, lost.last, lost.file) == (True, None, None)
    assert lost.death == Death("killed, or exited")


@pytest.mark.parametrize(
    ("busy", "dead", "alone"),
    [
        ((0,), (0,), [0]),
        ((0, 1), (0,), []),
        ((0, 1, 2), (0,), []),
        ((0, 1), (0, 1), []),
        ((0,), (0, 1), [0]),
        ((0, 1, 2), (0, 1), []),
        ((2,), (0, 1), []),
        ((), (0, 1), [0, 1]),
    ],
)
def test_whoever_had_nobody_beside_it_was_alone_and_of_two_by_the_same_look_each_had_the_other(
    stage: Scene, busy: tuple[int, ...], dead: tuple[int, ...], alone: list[int]
) -> None:
    stage.give(*busy)
    found = [lost for lost in stage.say(*(WorkerLost(n, "died") for n in dead)) if isinstance(lost, Lost)]
    assert [lost.handle.number for lost in found if lost.was_alone] == alone


# Memory


def test_of_two_memory_deaths_in_one_look_neither_was_alone(stage: Scene) -> None:
    stage.give(0, 1)
    messages = stage.say(*(WorkerLost(worker, "ActorDiedError", is_memory=True) for worker in (0, 1)))
    assert [(lost.was_alone, lost.n_workers) for lost in messages if isinstance(lost, Lost)] == [(False, 2), (False, 1)]


def test_a_worker_lost_for_memory_among_others_is_not_replaced_for_a_while(stage: Scene) -> None:
    stage.give(0, 1, 2)
    assert stage.lose(0, is_memory=True).death == Death("out of memory", True, is_memory=True)
    assert stage.manager.n_wanted == 2
    stage.pass_time(60)
    assert stage.pool.added == []
    stage.lose(1, is_memory=True)
    stage.lose(2)
    assert stage.manager.n_wanted == 1
    stage.pass_time(20)
    assert stage.pool.added == [3]
    stage.pass_time(2 * RECOVER_S, step=4)
    assert (stage.manager.n_wanted, stage.pool.added) == (3, [3, 4, 5]), "one after the other they come back"


def test_a_worker_that_died_for_memory_alone_is_replaced_and_one_is_always_wanted(stage: Scene) -> None:
    stage.give(0)
    stage.lose(0, is_memory=True)
    assert stage.manager.n_wanted == 3
    stage.pass_time(1)
    assert stage.pool.added == [3]
    stage.give(1, 2)
    stage.manager.n_wanted = 1
    stage.lose(1, is_memory=True)
    assert stage.manager.n_wanted == 1


def test_what_the_kernel_killed_for_memory_is_counted(new_stage: NewStage) -> None:
    stage = new_stage(n_workers=5)
    assert not stage.lose(0).death.is_memory, "kills of before the run are no matter"
    stage.n_kernel_kills += 1
    assert stage.lose(1).death.is_memory
    stage.now[0] += OOM_S
    assert not stage.lose(2).death.is_memory, "one kill is not a death of later on"
    stage.n_kernel_kills += 1
    assert stage.lose(3).death.is_memory
    worker_file(stage.folder, 4, "crash").write_text("Fatal Python error: Aborted\n")
    assert not stage.lose(4, is_memory=True).death.is_memory, "a fatal signal is no matter of memory"


def test_what_idle_workers_hold_in_memory_is_freed_for_a_trial(stage: Scene) -> None:
    stage.give(0, 1, 2)
    stage.say(*(Answer(worker, RUN) for worker in range(3)))
    for worker in range(3):
        stage.settle_all(worker)
    trial = stage.manager.handles[1]
    trial.is_fresh = True
    stage.give(1)
    stage.manager.free_memory(trial)
    assert [worker for worker, _ in stage.pool.killed] == [0, 2]
    stage.pass_time(0.5)
    assert sorted(stage.manager.handles) == [1, *stage.pool.added], (
        "they are replaced: nobody works, but soon they will"
    )
    assert stage.manager.n_lost == 0


@pytest.mark.parametrize(("seconds", "is_memory"), [(0.5, True), (OOM_S - 0.5, True), (OOM_S, False), (60.0, False)])
def test_a_kill_of_the_kernel_that_was_seen_at_a_look_is_soon_forgotten(
    stage: Scene, seconds: float, is_memory: bool
) -> None:
    """Else somebody else's process, killed in the morning, is the reason for a death in the evening."""
    stage.n_kernel_kills += 1
    stage.pass_time(WATCH_S)
    stage.pass_time(seconds)
    assert stage.lose(0).death.is_memory is is_memory


# Replacements


def pause_after_loss(stage: Scene, worker: int) -> float:
    """Lose a worker, and return how long it takes until another is started."""
    n_added, before = len(stage.pool.added), stage.now[0]
    stage.lose(worker)
    while len(stage.pool.added) == n_added:
        stage.manager.wait(0.1)
        stage.now[0] += 0.125
    return stage.now[0] - before - 0.125


def test_pauses_before_replacements_grow_with_losses_in_a_row(stage: Scene) -> None:
    pauses = [pause_after_loss(stage, max(stage.manager.handles)) for _ in range(8)]
    assert pauses == [*PAUSES_S[1:], *[PAUSES_S[-1]] * 3]
    assert stage.pool.added == list(range(3, 11)), "a number is never used again"


def test_an_answer_ends_the_row_of_losses_but_not_that_f_is_loaded(stage: Scene) -> None:
    stage.manager.dismiss(stage.manager.handles[2])
    stage.pass_time(1)
    assert [pause_after_loss(stage, worker) for worker in (0, 4, 5)] == list(PAUSES_S[1:4])
    stage.manager.handles[6].ended_for = "time"
    assert pause_after_loss(stage, 6) == PAUSES_S[3], "those that we ended are not in the row"
    stage.say(Answer(1, LOAD))
    assert pause_after_loss(stage, 7) == PAUSES_S[4]
    stage.say(Answer(1, RUN))
    assert pause_after_loss(stage, 8) == PAUSES_S[1]


def test_a_replacement_is_neither_ready_nor_given_work_before_it_has_loaded_f(stage: Scene) -> None:
    stage.lose(0)
    stage.pass_time(1)
    assert stage.free(1) == [1, 2]
    stage.ready(3)
    assert stage.free(1) == [1, 2, 3]


def test_a_pool_that_cannot_replace_is_not_asked_to(new_stage: NewStage) -> None:
    stage = new_stage(n_workers=1, can_replace=False)
    (handle,) = stage.manager.handles.values()
    stage.give(0)
    stage.settle_all(0)
    assert stage.is_fresh(0), "its only worker is as fresh as it gets"
    stage.manager.dismiss(handle)
    stage.manager.need_fresh()
    stage.pass_time(5)
    assert (handle.is_leaving, stage.pool.killed, stage.pool.added) == (False, [], [])


# Who gets work


def test_a_worker_is_free_up_to_the_depth_of_its_queue_and_with_a_trial_not_at_all(stage: Scene) -> None:
    stage.give(0)
    assert (stage.free(1), stage.free(2)) == ([1, 2], [0, 1, 2])
    stage.give(0)
    assert stage.free(2) == [1, 2]
    assert stage.manager.is_busy
    stage.manager.submit(stage.manager.handles[1], TRIAL, RUN)
    assert stage.free(2) == [2]


def test_a_worker_is_fresh_until_it_was_given_a_file(stage: Scene) -> None:
    assert stage.is_fresh(0)
    stage.manager.submit(stage.manager.handles[0], Stage(1, 2), Call("stage"))
    assert not stage.is_fresh(0), "it has something in hand"
    stage.settle_all(0)
    assert stage.is_fresh(0), "f has not run in it"
    stage.give(0)
    stage.settle_all(0)
    assert not stage.is_fresh(0)


def test_a_further_call_of_a_ticket_goes_to_its_worker_unless_that_is_gone(stage: Scene) -> None:
    stage.manager.submit_more(1, RUN)
    stage.lose(1)
    stage.manager.submit_more(1, RUN)
    assert stage.pool.submitted == [(1, RUN)]


def test_a_worker_that_is_to_leave_finishes_what_it_has_and_is_replaced_once(stage: Scene) -> None:
    handle = stage.manager.handles[0]
    stage.give(0)
    stage.manager.dismiss(handle)
    stage.manager.release(0)
    assert (stage.free(2), stage.pool.killed) == ([1, 2], [])
    stage.settle_all(0)
    stage.manager.release(0)
    stage.manager.release(0)
    assert stage.pool.killed == [(0, False)]
    assert sorted(stage.manager.handles) == list_workers(stage.folder) == [1, 2]
    stage.pass_time(1)
    assert stage.pool.added == [3]
    stage.give(1)
    stage.manager.dismiss(stage.manager.handles[1])
    stage.lose(1)  # it dies before that
    stage.manager.release(1)
    stage.pass_time(1)
    assert stage.pool.added == [3, 4]


# A fresh worker for a trial


def test_where_none_is_fresh_the_least_busy_worker_is_let_go(stage: Scene) -> None:
    stage.give(0, 1, 2)
    stage.give(0, 2)
    stage.manager.need_fresh()
    stage.manager.need_fresh()
    assert stage.leaving() == [1]


def test_nobody_is_let_go_while_a_fresh_one_is_there_or_on_its_way_and_not_too_late(stage: Scene) -> None:
    def leaving() -> list[int]:
        stage.manager.need_fresh()
        return stage.leaving()

    stage.give(0, 1)
    assert leaving() == [], "2 is fresh"
    stage.give(2)
    stage.lose(0)
    assert leaving() == [], "a replacement is due"
    stage.pass_time(1)
    assert stage.pool.added == [3]
    assert leaving() == [], "it loads f"
    late = stage.manager.handles[3]
    stage.now[0] = late.started_at + START_S - 0.5
    assert leaving() == []
    stage.now[0] = late.started_at + START_S
    assert leaving() == [1], "whoever does not come to load f is not waited for"


def test_whoever_holds_a_trial_is_not_let_go_for_the_next(new_stage: NewStage) -> None:
    stage = new_stage(n_workers=1)
    stage.manager.submit(stage.manager.handles[0], TRIAL, RUN)
    stage.manager.need_fresh()
    assert stage.leaving() == []


# Deadlines


def begin(stage: Scene, phase: Phase, worker: int = 0) -> WorkerHandle:
    """Let a worker begin with something, and the driver see it."""
    stage.give(worker)
    stage.mark(worker, phase)
    stage.pass_time(WATCH_S)
    return stage.manager.handles[worker]


def test_a_worker_that_stays_in_f_is_ended_after_the_limit_and_the_grace(stage: Scene) -> None:
    handle = begin(stage, Phase.CALLING)
    stage.pass_time(TIMEOUT_S + GRACE_S)
    assert stage.pool.killed == []
    stage.pass_time(WATCH_S)
    assert stage.pool.killed == [(0, True)], "it is asked what it is doing"
    assert handle.ended_for == "time"
    stage.pass_time(60)
    assert len(stage.pool.killed) == 1
    lost = stage.lose(0)
    assert lost.is_overrun and lost.file == (2, 5)
    assert (lost.death.cause, lost.death.is_known) == ("time", True)


@pytest.mark.parametrize(
    ("phase", "timeout_s"),
    [*((phase, TIMEOUT_S) for phase in Phase if phase not in (Phase.CALLING, Phase.IDLE)), (Phase.CALLING, None)],
)
def test_only_f_has_a_time_limit_and_without_timeout_seconds_it_has_none(
    new_stage: NewStage, phase: Phase, timeout_s: float | None
) -> None:
    stage = new_stage(timeout_s=timeout_s)
    begin(stage, phase)
    stage.pass_time(100 * TIMEOUT_S, step=4)
    assert stage.pool.killed == []


def test_the_next_file_has_the_whole_time_again_and_an_answer_at_the_last_moment_is_not_late(stage: Scene) -> None:
    begin(stage, Phase.CALLING)
    for _ in range(3):
        stage.pass_time(TIMEOUT_S)
        stage.mark(0, Phase.CALLING)  # the same place: another call
    stage.pass_time(WATCH_S + TIMEOUT_S + GRACE_S)
    stage.now[0] += 0.5
    stage.say(Answer(0, RUN))
    assert stage.pool.killed == []


def test_a_file_that_came_after_the_late_one_is_not_to_blame(stage: Scene) -> None:
    begin(stage, Phase.CALLING)
    stage.pass_time(TIMEOUT_S + GRACE_S + WATCH_S)
    assert stage.pool.killed == [(0, True)]
    stage.mark(0, Phase.READING, 6)  # it was through after all, between our look and our kill
    assert not stage.lose(0).is_overrun


def test_a_worker_hangs_although_the_others_answer_all_the_time(stage: Scene) -> None:
    """A large machine has an answer at every wait."""
    begin(stage, Phase.CALLING)
    for _ in range(round((TIMEOUT_S + GRACE_S + 1) / 0.1)):
        stage.now[0] += 0.1
        stage.say(Answer(1, RUN), Answer(2, RUN))
    assert stage.pool.killed == [(0, True)]


@pytest.mark.parametrize("gap_s", [GAP_S - 1, 3600.0])  # a short pause; the lid was closed
def test_after_a_gap_of_the_driver_deadlines_begin_anew(stage: Scene, gap_s: float) -> None:
    begin(stage, Phase.CALLING)
    stage.pass_time(TIMEOUT_S)
    stage.pass_time(gap_s, step=gap_s)
    stage.pass_time(TIMEOUT_S + GRACE_S - (gap_s if gap_s < GAP_S else 0))
    assert (stage.pool.killed == []) is (gap_s > GAP_S)
    stage.pass_time(WATCH_S)
    assert stage.pool.killed == [(0, True)]


def test_a_worker_that_has_calls_and_never_begins_is_ended(stage: Scene) -> None:
    stage.pass_time(5 * SILENT_S, step=4)
    stage.give(0)  # from now on, however long it was idle before
    stage.pass_time(SILENT_S)
    assert stage.pool.killed == []
    stage.pass_time(WATCH_S)
    assert (stage.pool.killed, stage.manager.handles[0].ended_for) == ([(0, True)], "silence")
    lost = stage.lose(0)
    assert (lost.file, lost.is_overrun, lost.death.is_known) == (None, False, False)


def test_a_worker_that_has_just_done_something_has_its_time_from_then(stage: Scene) -> None:
    handle = begin(stage, Phase.CALLING)
    stage.give(0)
    stage.pass_time(TIMEOUT_S)
    stage.mark(0, Phase.IDLE, -1)
    stage.pass_time(WATCH_S)
    stage.manager.settle(0)
    stage.pass_time(SILENT_S)
    assert stage.pool.killed == []
    stage.pass_time(WATCH_S)
    assert (stage.pool.killed, handle.ended_for) == ([(0, True)], "silence")


def test_a_worker_without_calls_or_without_a_beacon_may_be_silent_for_ever(stage: Scene) -> None:
    stage.lose(0)
    stage.pass_time(1)
    stage.give(3)
    stage.pass_time(10 * SILENT_S, step=4)
    assert stage.pool.killed == []


# The longest running file


def test_the_file_that_has_been_running_for_longest_is_known(stage: Scene) -> None:
    assert stage.manager.beacons.longest() is None
    for worker, place in ((0, 10), (1, 11)):
        stage.give(worker)
        stage.mark(worker, Phase.READING, place)
        stage.pass_time(4)
    assert stage.manager.beacons.longest() == (2, 10, 7.5)
    stage.mark(0, Phase.RECORDING, -1)
    stage.pass_time(1)
    assert stage.manager.beacons.longest() == (2, 11, 4.5)
    stage.lose(1)
    assert stage.manager.beacons.longest() is None


def test_whether_there_can_be_workers_and_what_they_wait_for_is_the_pool_s_to_say(stage: Scene) -> None:
    assert not stage.manager.is_gone
    stage.pool.is_gone = True
    assert stage.manager.is_gone
    assert stage.manager.shortage() == "no CPU"
