"""When a run is to stop: each rule with its exact limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import make_job
from r3po.config.keys import MaxErrors
from r3po.engines.pool import Answer, Call
from r3po.errors import FunctionError, RunStoppedError
from r3po.run import budgets
from r3po.run.budgets import COSTLY, COSTLY_GUARD, GUARD, PERCENT_AFTER, ErrorBudget, LossBudget
from r3po.run.loop import Counts, RunLoop
from r3po.run.orders import Orders
from r3po.run.roster import Standing, WorkerHandle
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.run.trials import Trials
from r3po.run.watch import Watch
from r3po.run.workers import Lost
from r3po.table.outcomes import Failure
from r3po.work import Death, Work
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.messages import FAILURES_TOLD, BatchDone
from r3po.worker.open_batch import ENVIRONMENTAL_RUN
from r3po.worker.shard_lines import ShardLines

BROKE = Failure("ValueError", "broke\nin two", "count.py:3 in f", "Traceback ...")
NO_DISK = Failure("OSError", "[Errno 5] Input/output error", "count.py:2 in f", "")


def batch(n_done: int = 0, n_failed: int = 0, failure: Failure = BROKE) -> BatchDone:
    told = tuple((f"{n:03}.json", failure) for n in range(min(n_failed, FAILURES_TOLD)))
    return BatchDone(None, n_done, n_failed, (), 1.0, told)


def put_off(
    n: int, n_first: int | None = None, n_last: int | None = None, n_done: int = 0, failure: Failure = NO_DISK
) -> BatchDone:
    """A batch in which `n` files failed by their environment, so many before its first and after its last outcome."""
    first, last = (n if some is None else some for some in (n_first, n_last))
    deferral = ("d/last.json", failure)
    return BatchDone(None, n_done, 0, (), 1.0, (), tuple(range(n)), first, last, deferral)


def died(error_type: str, cause: str = "SIGSEGV", where: str = "") -> BatchDone:
    return batch(n_failed=1, failure=Failure(error_type, cause, where, ""))


def taken(batches: Iterable[BatchDone], limit: MaxErrors | None = None, *, is_guarded: bool = False) -> ErrorBudget:
    """Return the budget of a run that has not been stopped by these."""
    budget = ErrorBudget(limit, is_guarded=is_guarded)
    for done in batches:
        budget.take(done)
    return budget


def stopped(
    batches: Sequence[BatchDone], limit: MaxErrors | None = None, *, is_guarded: bool = False
) -> RunStoppedError:
    """Return the error by which the last batch stops a run, and no earlier one."""
    budget = taken(batches[:-1], limit, is_guarded=is_guarded)
    with pytest.raises(RunStoppedError) as caught:
        budget.take(batches[-1])
    assert caught.value.exit_code == 3
    return caught.value


# The first files


def test_the_limits_are_those_of_the_readme() -> None:
    assert (GUARD, COSTLY_GUARD, PERCENT_AFTER, ENVIRONMENTAL_RUN) == (100, 10, 100, 50)
    assert set(COSTLY) == {"WorkerDied", "OutOfMemory", "Timeout"}
    assert FAILURES_TOLD >= GUARD, "else the guard would not see them all"


@pytest.mark.parametrize(
    "batches",
    [
        [batch(n_failed=100)],
        [batch(n_failed=10), batch(n_failed=90)],
        [batch(n_failed=1)] * 100,
        [batch(), batch(n_failed=99), put_off(3), batch(), batch(n_failed=1)],
    ],
    ids=["at once", "in two batches", "one by one", "among batches without an outcome"],
)
@pytest.mark.parametrize("limit", [None, MaxErrors(count=5000)])
def test_a_hundred_first_failures_of_one_kind_stop_a_run(batches: list[BatchDone], limit: MaxErrors | None) -> None:
    error = stopped(batches, limit, is_guarded=True)
    assert "the first 100 files all failed with ValueError: broke;" in str(error)
    assert error.evidence is not None and error.evidence.endswith("\nTraceback ...")
    assert error.hint is not None and "--max-errors none" in error.hint


def test_their_messages_may_differ() -> None:
    batches = [batch(n_failed=1, failure=BROKE._replace(message=f"broke {n}")) for n in range(100)]
    assert "broke 0" in str(stopped(batches, is_guarded=True))


@pytest.mark.parametrize("error_type", sorted(COSTLY))
def test_ten_first_failures_that_cost_a_worker_each_stop_a_run_wherever_they_struck(error_type: str) -> None:
    error = stopped([died(error_type, f"cause {n}", f"count.py:{n} in f") for n in range(10)], is_guarded=True)
    assert f"the first 10 files all failed with {error_type}: cause 0; the rest was not tried" in str(error)


@pytest.mark.parametrize(
    "proof",
    [
        batch(n_done=1),
        batch(n_done=1, n_failed=3),
        batch(n_failed=1, failure=BROKE._replace(error_type="KeyError")),
        batch(n_failed=1, failure=BROKE._replace(where="count.py:4 in f")),
        died("Timeout"),
    ],
    ids=["a row", "a row among failures", "another type", "another line", "a costly one"],
)
@pytest.mark.parametrize("first", [[batch(n_failed=98)], [died("WorkerDied")] * 9], ids=["usual", "costly"])
def test_a_row_or_a_failure_of_another_kind_ends_the_guard_for_good(first: list[BatchDone], proof: BatchDone) -> None:
    taken([*first, proof, batch(n_failed=500), *[died("WorkerDied")] * 20], is_guarded=True)


def test_a_function_that_has_proved_itself_is_not_guarded() -> None:
    taken([batch(n_failed=5000)])


@pytest.mark.parametrize("n_done", [0, 1])
def test_whoever_has_a_row_in_the_job_is_not_guarded_be_it_of_another_function(
    tmp_path: Path, n_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first failures of such a run are rather those of its files."""
    monkeypatch.setattr(budgets, "GUARD", 20)
    job = make_job(tmp_path, n_done)
    assert job.run().code in (0, 1, 2, 3)
    job.write_function("def double(filepath):\n    raise ValueError('broke')\n")
    job.add_files(*range(n_done, n_done + 30))
    ended = job.run()
    assert (ended.code, "the rest was not tried" in ended.err) == ((1, False) if n_done else (3, True))
    assert job.status()["failed"] == 30 if n_done else job.status()["failed"] >= 20


# max_errors


@pytest.mark.parametrize("count", [0, 1, 100])
def test_one_failure_more_than_max_errors_stops_a_run(count: int) -> None:
    batches = [batch(n_done=7), *[batch(n_done=1, n_failed=1)] * count, batch(n_done=3), batch(n_failed=1)]
    error = stopped(batches, MaxErrors(count=count))
    assert f"{count + 1} of {11 + 2 * count} files of this run failed; max_errors is {count}" in str(error)
    assert error.evidence == "the latest  000.json  ValueError: broke"


def test_a_share_is_looked_at_once_a_hundred_files_have_finished() -> None:
    error = stopped([batch(n_done=1, n_failed=98), batch(n_failed=1)], MaxErrors(percent=10))
    assert "99 of 100 files of this run failed; max_errors is 10%" in str(error)


@pytest.mark.parametrize(("percent", "n_allowed"), [(0, 0), (1, 10), (0.5, 5), (2.5, 25), (100, 1000)])
def test_a_share_that_is_reached_is_allowed_and_one_file_more_is_not(percent: float, n_allowed: int) -> None:
    allowed = [batch(n_done=1000 - n_allowed), batch(n_failed=n_allowed)]
    taken(allowed, MaxErrors(percent=percent))
    if percent < 100:
        stopped([*allowed, batch(n_failed=max(1, n_allowed))], MaxErrors(percent=percent))


def test_a_share_falls_as_rows_come_in_and_a_batch_without_failures_never_stops_a_run() -> None:
    taken([batch(n_done=49, n_failed=50), batch(n_done=10_000), batch(n_failed=50)], MaxErrors(percent=1))
    taken([batch(n_failed=99), batch(n_done=1)], MaxErrors(percent=1))


# The environment


@pytest.mark.parametrize(
    ("batches", "n"),
    [
        ([put_off(50)], 50),
        ([put_off(49), put_off(1)], 50),
        ([put_off(1)] * 50, 50),
        ([put_off(49), batch(), batch(), put_off(1)], 50),
        ([put_off(49), batch(n_done=1), put_off(49), put_off(1)], 50),
        ([put_off(49), batch(n_failed=1), put_off(49), put_off(1)], 50),
        ([put_off(30), put_off(45, n_first=19, n_last=20, n_done=2), put_off(29), put_off(1)], 50),
        ([put_off(30), put_off(20, n_first=20, n_last=0, n_done=1)], 50),
        ([put_off(30), put_off(27, n_first=20, n_last=7, n_done=1)], 50),
        ([put_off(60, n_first=3, n_last=51, n_done=1)], 51),
    ],
    ids=[
        "at once",
        "in two batches",
        "one by one",
        "batches in which nothing was tried change nothing",
        "a row begins it anew",
        "a failure begins it anew",
        "of a batch with outcomes those after the last one begin the next row",
        "those before the first outcome of a batch end the row of before",
        "the same, with some after the last one",
        "after the last outcome of one batch",
    ],
)
def test_fifty_files_in_a_row_that_fail_by_their_environment_stop_a_run(batches: list[BatchDone], n: int) -> None:
    error = stopped(batches)
    assert str(error).startswith(
        f"{n} files in a row could not be processed, and it looks like the machine rather than"
    )
    assert "they are not recorded as failed" in str(error)
    assert error.evidence == "d/last.json  OSError: [Errno 5] Input/output error\ncount.py:2 in f"


def test_fifty_objects_in_a_row_that_the_store_fails_to_give_are_the_store_s_affair() -> None:
    said = "[Errno 5] the store failed to read it: nobody takes the connection"
    error = stopped([put_off(50, failure=Failure("StoreUnavailable", said, "", ""))])
    assert "it looks like the store rather than the files; they are not recorded as failed" in str(error)
    assert error.hint is not None and error.hint.startswith("what was done is saved; run again once the store answers")


def test_those_between_two_outcomes_of_one_batch_are_in_no_row() -> None:
    taken([put_off(30), put_off(1000, n_first=19, n_last=0, n_done=25), put_off(49)])


# none


@pytest.mark.parametrize("is_guarded", [True, False])
def test_none_switches_all_of_it_off(is_guarded: bool) -> None:
    taken([batch(n_failed=1000), put_off(1000), batch(n_failed=1000)], MaxErrors(), is_guarded=is_guarded)


# The loop that asks it


@dataclass
class FakeCrew:
    """Members that have work in hand and want no more; what comes in is said at one look."""

    messages: list[Answer | Lost]
    handles: dict[int, WorkerHandle] = field(default_factory=lambda: {n: WorkerHandle(n) for n in range(2)})
    is_gone: bool = False
    n_wanted: int = 2

    @property
    def is_busy(self) -> bool:
        return any(handle.in_hand for handle in self.handles.values())

    def iter_free(self, standings: Iterable[Standing]) -> Iterator[Standing]:
        return iter(())

    def next_free(self, standing: Standing) -> None:
        pass

    def loaded(self, worker: int) -> None:
        pass

    def settle(self, worker: int) -> Work:
        return self.handles[worker].in_hand.pop(0)

    def need_fresh(self) -> None:
        pass

    def release(self, worker: int) -> None:
        pass

    def wait(self, timeout_s: float) -> list[Answer | Lost]:
        if not self.messages:
            raise RunStoppedError("Ray is gone")
        found, self.messages = self.messages, []
        return found


def loop_of(
    manager: FakeCrew,
    limit: MaxErrors | None = None,
    scheduler: Scheduler | None = None,
    *,
    written: list[Any] | None = None,
) -> RunLoop:
    """Return a loop whose workers have a batch of four files each in hand."""
    if scheduler is None:
        scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0)
        for handle in manager.handles.values():
            work = scheduler.next_work(4)
            assert work is not None
            handle.in_hand.append(work)
    book: Any = SimpleNamespace(write=lambda *args: written.append(args) if written is not None else None)
    outputs: Any = SimpleNamespace(look=list)
    publisher: Any = SimpleNamespace(columns="some")
    return RunLoop(
        publisher,
        manager,
        ErrorBudget(limit, is_guarded=False),
        Trials(scheduler, book),
        scheduler,
        lambda event: None,
        SimpleNamespace(is_requested=False, is_urgent=False, tell_workers=lambda: None),
        "f",
        Counts(0, 0, 8),
        Watch({}, Path(), manager, outputs, lambda event: None, "f"),
        Orders(publisher, {}, ShardLines(Path())),
    )


def test_what_came_in_with_a_failure_too_many_is_kept() -> None:
    run = Call("run_batch")
    loop = loop_of(FakeCrew([Answer(0, run, batch(n_failed=4)), Answer(1, run, batch(2, 2))]), MaxErrors(count=0))
    with pytest.raises(RunStoppedError, match="4 of 4 files of this run failed"):  # of two reasons the first is told
        loop.run()
    assert (loop.counts.n_done, loop.counts.n_failed, loop.counts.n_pending) == (2, 6, 0)
    assert loop.scheduler.n_in_flight == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_a_replacement_that_cannot_load_f_stops_a_run_that_has_begun(is_first: bool) -> None:
    error = FunctionError("userf.py has no f", evidence="line 3", hint="write one")
    messages: list[Answer | Lost] = [Answer(1, Call("load"), error=error)]
    if not is_first:
        messages.insert(0, Answer(0, Call("load")))
    loop = loop_of(FakeCrew(messages))
    for handle in loop.manager.handles.values():
        handle.in_hand.clear()
    with pytest.raises(FunctionError if is_first else RunStoppedError) as caught:
        loop.run()
    assert caught.value.exit_code == (2 if is_first else 3)
    assert "userf.py has no f" in str(caught.value) and caught.value.evidence == "line 3"


@pytest.mark.parametrize(("is_memory", "n_deaths"), [(False, 1), (True, 3)])
def test_one_death_for_memory_at_the_import_proves_nothing(is_memory: bool, n_deaths: int) -> None:
    """Others had their share of the memory; a signal or an exit code is the import's own."""
    death = Death("out of memory" if is_memory else "SIGSEGV", True, is_memory=is_memory)
    said = Sighting(counter=1, phase=Phase.LOADING, shard=-1, place=-1, pid=1, pid_started=1, exit_code=None)
    losses = [Lost(WorkerHandle(number), death, said, was_alone=False) for number in range(2, 2 + n_deaths)]
    budget_of_losses = LossBudget("f")
    for lost in losses[:-1]:
        budget_of_losses.take(lost)
    with pytest.raises(FunctionError, match="ends the process"):
        budget_of_losses.take(losses[-1])


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_was_alone_when_ray_went_is_remembered_as_such(is_gone: bool) -> None:
    mistrusted, written = Suspect(0, 1, is_apart=True), []
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0, [mistrusted])
    trial = scheduler.next_work(is_fresh=True)
    assert trial is not None
    manager = FakeCrew([], is_gone=is_gone)
    with pytest.raises(RunStoppedError):
        loop_of(manager, scheduler=scheduler, written=written).run()
    assert written[-1] == ([mistrusted], mistrusted if is_gone else None)
