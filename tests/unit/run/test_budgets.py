"""When a run is to stop: each rule with its exact limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import make_job
from r3po.config.settings import MaxErrors
from r3po.engines.pool import Answer, Call
from r3po.errors import FunctionError, RunStoppedError
from r3po.run.budgets import COSTLY, COSTLY_GUARD, GUARD, PERCENT_AFTER, ErrorBudget, LossBudget
from r3po.run.loop import Counts, RunLoop
from r3po.run.scheduler import Scheduler
from r3po.run.suspect_list import Suspect
from r3po.run.trials import Trials
from r3po.run.watch import Watch
from r3po.run.workers import Lost, WorkerHandle
from r3po.table.outcomes import Failure
from r3po.work import Death
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.messages import FAILURES_TOLD, BatchDone
from r3po.worker.open_batch import ENVIRONMENTAL_RUN

NONE = MaxErrors()
BROKE = Failure("ValueError", "broke\nin two", "count.py:3 in f", "Traceback ...")
NO_DISK = Failure("OSError", "[Errno 5] Input/output error", "count.py:2 in f", "")


def batch(n_rows: int = 0, n_failed: int = 0, failure: Failure = BROKE) -> BatchDone:
    told = tuple((f"{n:03}.json", failure) for n in range(min(n_failed, FAILURES_TOLD)))
    return BatchDone(None, n_rows, n_failed, (), 1.0, told)


def put_off(n: int, n_first: int | None = None, n_last: int | None = None, n_rows: int = 0) -> BatchDone:
    """A batch in which `n` files failed by their environment, so many before its first and after its last outcome."""
    first, last = (n if some is None else some for some in (n_first, n_last))
    deferral = ("d/last.json", NO_DISK)
    return BatchDone(None, n_rows, 0, (), 1.0, (), tuple(range(n)), first, last, deferral)


def budget(limit: MaxErrors | None = None, *, is_guarded: bool = False) -> ErrorBudget:
    return ErrorBudget(limit, is_guarded=is_guarded)


def take_all(budget: ErrorBudget, *batches: BatchDone) -> None:
    for done in batches:
        budget.take(done)


def stopped(budget: ErrorBudget, done: BatchDone) -> RunStoppedError:
    with pytest.raises(RunStoppedError) as caught:
        budget.take(done)
    return caught.value


# The first files


def test_the_limits_are_those_of_the_readme() -> None:
    assert (GUARD, COSTLY_GUARD, PERCENT_AFTER, ENVIRONMENTAL_RUN) == (100, 10, 100, 50)
    assert set(COSTLY) == {"WorkerDied", "OutOfMemory", "Timeout"}
    assert FAILURES_TOLD >= GUARD, "else the guard would not see them all"


@pytest.mark.parametrize("sizes", [[100], [10, 90], [1] * 100, [99, 1]])
def test_a_hundred_first_failures_of_one_kind_stop_a_run(sizes: list[int]) -> None:
    guarded = budget(is_guarded=True)
    *earlier, last = sizes
    take_all(guarded, *(batch(n_failed=n) for n in earlier))
    error = stopped(guarded, batch(n_failed=last))
    assert error.exit_code == 3
    assert "the first 100 files all failed with ValueError: broke;" in str(error)
    assert error.evidence is not None and error.evidence.endswith("\nTraceback ...")
    assert error.hint is not None and "--max-errors none" in error.hint


def test_ninety_nine_first_failures_do_not_stop_a_run() -> None:
    take_all(budget(is_guarded=True), batch(n_failed=99), batch())


@pytest.mark.parametrize("error_type", sorted(COSTLY))
def test_ten_first_failures_that_cost_a_worker_each_stop_a_run_and_nine_do_not(error_type: str) -> None:
    guarded, failure = budget(is_guarded=True), Failure(error_type, "SIGSEGV", "", "")
    take_all(guarded, *[batch(n_failed=1, failure=failure)] * 9)
    error = stopped(guarded, batch(n_failed=1, failure=failure))
    assert f"the first 10 files all failed with {error_type}: SIGSEGV; the rest was not tried" in str(error)


@pytest.mark.parametrize("error_type", sorted(COSTLY))
def test_for_those_it_does_not_matter_where_they_struck(error_type: str) -> None:
    guarded = budget(is_guarded=True)
    failures = [Failure(error_type, f"cause {n}", f"count.py:{n} in f", "") for n in range(10)]
    take_all(guarded, *(batch(n_failed=1, failure=failure) for failure in failures[:9]))
    stopped(guarded, batch(n_failed=1, failure=failures[9]))


def test_those_of_another_type_end_the_guard_all_the_same() -> None:
    guarded = budget(is_guarded=True)
    died, late = Failure("WorkerDied", "SIGSEGV", "", ""), Failure("Timeout", "too long", "", "")
    take_all(guarded, *[batch(n_failed=1, failure=died)] * 9, batch(n_failed=1, failure=late))
    take_all(guarded, *[batch(n_failed=1, failure=died)] * 20)


@pytest.mark.parametrize(
    "proof",
    [
        batch(n_rows=1),
        batch(n_rows=1, n_failed=3),
        batch(n_failed=1, failure=BROKE._replace(error_type="KeyError")),
        batch(n_failed=1, failure=BROKE._replace(where="count.py:4 in f")),
    ],
    ids=["a row", "a row among failures", "another type", "another line"],
)
def test_a_row_or_a_failure_of_another_kind_ends_the_guard_for_good(proof: BatchDone) -> None:
    guarded = budget(is_guarded=True)
    take_all(guarded, batch(n_failed=98), proof, batch(n_failed=500))


def test_messages_may_differ() -> None:
    guarded = budget(is_guarded=True)
    take_all(guarded, *(batch(n_failed=1, failure=BROKE._replace(message=f"broke {n}")) for n in range(99)))
    assert "broke 0" in str(stopped(guarded, batch(n_failed=1)))


def test_a_function_that_has_proved_itself_is_not_guarded() -> None:
    take_all(budget(is_guarded=False), batch(n_failed=5000))


@pytest.mark.parametrize("n_rows", [0, 1])
def test_whoever_has_a_row_in_the_job_is_not_guarded_be_it_of_another_function(tmp_path: Path, n_rows: int) -> None:
    """The first failures of such a run are rather those of its files."""
    job = make_job(tmp_path, n_rows)
    assert job.run().code in (0, 1, 2, 3)
    job.write_function("def double(filepath):\n    raise ValueError('broke')\n")
    job.add_files(*range(n_rows, n_rows + GUARD + 20))
    ended = job.run()
    assert (ended.code, "the rest was not tried" in ended.err) == ((1, False) if n_rows else (3, True))
    assert job.status()["failed"] == GUARD + 20 if n_rows else job.status()["failed"] >= GUARD


def test_batches_without_an_outcome_neither_end_the_guard_nor_count() -> None:
    guarded = budget(is_guarded=True)
    take_all(guarded, batch(), batch(n_failed=99), put_off(3), batch())
    stopped(guarded, batch(n_failed=1))


# max_errors


@pytest.mark.parametrize("count", [0, 1, 100])
def test_one_failure_more_than_max_errors_stops_a_run(count: int) -> None:
    limited = budget(MaxErrors(count=count))
    take_all(limited, batch(n_rows=7), *[batch(n_rows=1, n_failed=1)] * count, batch(n_rows=3))
    error = stopped(limited, batch(n_failed=1))
    assert f"{count + 1} of {11 + 2 * count} files of this run failed; max_errors is {count}" in str(error)
    assert error.evidence == "the latest  000.json  ValueError: broke"
    assert error.exit_code == 3


def test_a_share_is_looked_at_once_a_hundred_files_have_finished() -> None:
    limited = budget(MaxErrors(percent=10))
    take_all(limited, batch(n_rows=1, n_failed=98))
    error = stopped(limited, batch(n_failed=1))
    assert "99 of 100 files of this run failed; max_errors is 10%" in str(error)


@pytest.mark.parametrize(("percent", "n_allowed"), [(0, 0), (1, 10), (0.5, 5), (2.5, 25), (100, 1000)])
def test_a_share_that_is_reached_is_allowed_and_one_file_more_is_not(percent: float, n_allowed: int) -> None:
    limited = budget(MaxErrors(percent=percent))
    take_all(limited, batch(n_rows=1000 - n_allowed), batch(n_failed=n_allowed))
    if percent < 100:
        stopped(limited, batch(n_failed=max(1, n_allowed)))


def test_a_share_falls_as_rows_come_in() -> None:
    limited = budget(MaxErrors(percent=1))
    take_all(limited, batch(n_rows=49, n_failed=50), batch(n_rows=10_000), batch(n_failed=50))


def test_a_batch_without_failures_never_stops_a_run() -> None:
    take_all(budget(MaxErrors(percent=1)), batch(n_failed=99), batch(n_rows=1))


def test_a_count_does_not_end_the_guard_of_the_first_files() -> None:
    stopped(budget(MaxErrors(count=5000), is_guarded=True), batch(n_failed=100))


# The environment


@pytest.mark.parametrize("sizes", [[50], [49, 1], [10] * 5, [1] * 50])
def test_fifty_files_in_a_row_that_fail_by_their_environment_stop_a_run(sizes: list[int]) -> None:
    counted = budget()
    *earlier, last = sizes
    take_all(counted, *(put_off(n) for n in earlier))
    error = stopped(counted, put_off(last))
    assert str(error).startswith("50 files in a row could not be processed, and it looks like the machine rather than")
    assert "they are not recorded as failed" in str(error)
    assert error.evidence == "d/last.json  OSError: [Errno 5] Input/output error\ncount.py:2 in f"
    assert error.exit_code == 3


def test_forty_nine_in_a_row_do_not_stop_a_run() -> None:
    take_all(budget(), *[put_off(49), batch(n_rows=1)] * 5)


@pytest.mark.parametrize("outcome", [batch(n_rows=1), batch(n_failed=1)], ids=["row", "failure"])
def test_an_outcome_between_them_begins_the_row_anew(outcome: BatchDone) -> None:
    counted = budget()
    take_all(counted, put_off(49), outcome, put_off(49))
    stopped(counted, put_off(1))


def test_of_a_batch_with_outcomes_only_those_after_the_last_one_begin_the_next_row() -> None:
    counted = budget()
    take_all(counted, put_off(30), put_off(45, n_first=19, n_last=20, n_rows=2), put_off(29))
    stopped(counted, put_off(1))


@pytest.mark.parametrize("n_last", [0, 7])
def test_those_before_the_first_outcome_of_a_batch_end_the_row_of_before(n_last: int) -> None:
    counted = budget()
    counted.take(put_off(30))
    error = stopped(counted, put_off(20 + n_last, n_first=20, n_last=n_last, n_rows=1))
    assert str(error).startswith("50 files in a row")


def test_fifty_after_the_last_outcome_of_one_batch_stop_a_run() -> None:
    error = stopped(budget(), put_off(60, n_first=3, n_last=51, n_rows=1))
    assert str(error).startswith("51 files in a row")


def test_those_between_two_outcomes_of_one_batch_are_in_no_row() -> None:
    take_all(budget(), put_off(30), put_off(1000, n_first=19, n_last=0, n_rows=25), put_off(49))


def test_batches_in_which_nothing_was_tried_change_nothing() -> None:
    counted = budget()
    take_all(counted, put_off(49), batch(), batch())
    stopped(counted, put_off(1))


# none


@pytest.mark.parametrize("is_guarded", [True, False])
def test_none_switches_all_of_it_off(is_guarded: bool) -> None:
    batches: Iterable[BatchDone] = [batch(n_failed=1000), put_off(1000), batch(n_failed=1000)]
    take_all(budget(NONE, is_guarded=is_guarded), *batches)


# The loop that asks it


@dataclass
class FakeCrew:
    """Members that have work in hand and want no more; what comes in is said at one look."""

    messages: list[Answer | Lost]
    handles: dict[int, WorkerHandle] = field(
        default_factory=lambda: {number: WorkerHandle(number) for number in range(2)}
    )
    is_gone: bool = False

    @property
    def is_busy(self) -> bool:
        return any(handle.in_hand for handle in self.handles.values())

    def iter_free(self, depth: int) -> list[WorkerHandle]:
        return []

    def need_fresh(self) -> None:
        pass

    def release(self, worker: int) -> None:
        pass

    def wait(self, timeout_s: float) -> list[Answer | Lost]:
        assert self.messages, "the loop goes on"
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
    parts: Any = SimpleNamespace(
        publisher=SimpleNamespace(columns="some"),
        stop=SimpleNamespace(is_requested=False, is_urgent=False, tell_workers=lambda: None),
        outputs=SimpleNamespace(look=list),
        manager=manager,
    )
    return RunLoop(
        parts.publisher,
        {},
        parts.manager,
        budget(limit),
        Trials(scheduler, book),
        scheduler,
        lambda event: None,
        parts.stop,
        "f",
        Counts(0, 0, 8),
        Watch({}, Path(), parts.manager, parts.outputs, lambda event: None, "f"),
    )


def test_what_came_in_with_a_failure_too_many_is_kept() -> None:
    run = Call("run_batch")
    loop = loop_of(FakeCrew([Answer(0, run, batch(n_failed=4)), Answer(1, run, batch(n_rows=4))]), MaxErrors(count=0))
    with pytest.raises(RunStoppedError, match="4 of 4 files of this run failed"):
        loop.run()
    assert (loop.counts.n_done, loop.counts.n_failed, loop.counts.n_pending) == (4, 4, 0)
    assert loop.scheduler.n_in_flight == 0


def test_of_two_reasons_to_stop_the_first_is_told() -> None:
    run = Call("run_batch")
    loop = loop_of(FakeCrew([Answer(0, run, batch(n_failed=1)), Answer(1, run, batch(n_failed=2))]), MaxErrors(count=0))
    with pytest.raises(RunStoppedError, match="1 of 1 files of this run failed"):
        loop.run()
    assert loop.counts.n_failed == 3


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
def test_a_file_that_was_alone_when_ray_went_is_remembered_as_such(
    is_gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistrusted, written = Suspect(0, 1, is_apart=True), []
    scheduler = Scheduler([(0, [(0, 8)])], 2, 1.0, [mistrusted])
    trial = scheduler.next_work(is_fresh=True)
    assert trial is not None
    manager = FakeCrew([], is_gone=is_gone)
    loop = loop_of(manager, scheduler=scheduler, written=written)

    def wait(_: float) -> list[Answer | Lost]:
        raise RunStoppedError("Ray is gone")

    monkeypatch.setattr(manager, "wait", wait)
    with pytest.raises(RunStoppedError):
        loop.run()
    assert written[-1] == ([mistrusted], mistrusted if is_gone else None)
