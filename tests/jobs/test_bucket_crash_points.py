"""A job whose table is in a bucket may die before and after every request: the next run makes the same table.

The steps are those of `test_crash_points`, and every PUT and DELETE besides. Requests that were on their way when the
process died may come late.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from test_crash_points import (
    OPERATIONS,
    REDO,
    Arena,
    Operation,
    Step,
    World,
    assert_none,
    both,
    finish_few_files,
    run,
    wider_function,
)

import fake_obstore
from bucket_jobs import BucketJob
from fake_obstore import FakeObstore
from jobs import NewJob
from jobs import TinyJob as Job
from r3po import StateError, reset_redo
from r3po.run import loop as runloop
from r3po.run import session
from r3po.worker import many_rows, worker

pytestmark = pytest.mark.faults

REQUESTS = ("put", "delete")

CHOSEN = (
    "first run",
    "first run with many rows a file",
    "run that finds other numbers of rows",
    "run that finds changes",
    "run without csv",
    "redo with other columns",
    "reset",
    "reset, twice",
)


def move_from(place: str) -> Callable[[Job], None]:
    """Finish a job whose table is elsewhere, and name the bucket then."""

    def prepare(job: Job) -> None:
        here = job.settings["output_path"]
        job.configure(output_path=place.format(job.folder.name))
        finish_few_files(job)
        job.configure(output_path=here)

    return prepare


def begin_redo(job: Job) -> None:
    """Finish a job, and begin a redo that is killed once it has published its first shard."""
    finish_few_files(job)
    assert isinstance(job, BucketJob)
    part = f"{job.prefix}csv/part-00000.csv"
    before = job.store.content[part]
    job.run_until(
        lambda path: job.store.content.get(part) not in (before, None),
        redo=True,
        function=wider_function(job),
    )


def add_a_file_between(job: Job) -> None:
    """A redo puts it in its place, so that all parts go."""
    finish_few_files(job)
    job.add("0-more.json", value=7)
    job.run()


def give_redo_up(job: Job) -> None:
    with suppress(StateError):  # there is none under way any more
        reset_redo(job.config)


MOVES = {
    "redo in another order": Operation(add_a_file_between, REDO, REDO, withdraws=True, is_looked_into=True),
    "move from a disk": Operation(move_from("output"), run, run),
    "move from another bucket": Operation(move_from("s3://bucket/before-{}"), run, run),
    "redo that is given up": Operation(begin_redo, give_redo_up, both(give_redo_up, run), finish_few_files),
}


class BucketWorld(World):
    """A world whose steps are requests, too."""

    store: ClassVar[FakeObstore]
    late: Callable[[], object] | None = None
    """The request before which the process died."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._real = {name: getattr(self.store, name) for name in REQUESTS}
        for name in REQUESTS:
            self._patch.setattr(self.store, name, self._request(name))
        return self

    def put(self, *request: Any) -> Any:
        return self._ask("put", *request)

    def delete(self, *request: Any) -> Any:
        return self._ask("delete", *request)

    def _request(self, name: str) -> Callable[..., Any]:
        seam = self._seam(name)

        def ask(client: Any, key: str, *content: Any, **options: Any) -> Any:
            answer = seam(client, key, content, options)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask

    def _ask(self, name: str, client: Any, key: str, content: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            return self._real[name](client, key, *content, **options)
        except self.store.exceptions.BaseError as error:
            return error  # a refusal is an answer like others

    def _step(self, name: str, args: tuple[Any, ...]) -> Step:
        if name not in REQUESTS:
            self.late = None
            return super()._step(name, args)
        self.late = partial(self._ask, name, *args)
        return Step(name, Path(args[1]))


class BucketArena(Arena):
    """An arena with a bucket, which is brought back with the job."""

    new_world = BucketWorld

    def __init__(self, job: BucketJob, other: BucketJob, operation: Operation) -> None:
        self._content: dict[str, bytes] | None = None
        super().__init__(job, other, operation)

    def restore(self) -> None:
        super().restore()
        store = self._store
        if self._content is None:
            self._content = dict(store.content)
        store.content.clear()
        store.content.update(self._content)

    @property
    def _store(self) -> FakeObstore:
        assert isinstance(self.job, BucketJob)
        return self.job.store

    def _look(self) -> object:
        return super()._look(), sorted((key, content) for key, content in self._store.content.items())


NewArena = Callable[[str], BucketArena]


@pytest.fixture
def new_arena(
    new_job: NewJob, jobs_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> NewArena:
    caplog.set_level("ERROR", "r3po")
    monkeypatch.setattr(many_rows, "BLOCK_ROWS", 2)
    monkeypatch.setattr(worker, "STOP_CHECK_S", 3600)
    monkeypatch.setattr(runloop, "DRAIN_S", 0.1)
    monkeypatch.setattr(session, "find_function", cache(session.find_function))
    store = FakeObstore()
    fake_obstore.use(store, monkeypatch)
    monkeypatch.setattr(BucketWorld, "store", store, raising=False)

    def make(name: str) -> BucketArena:
        function = jobs_folder / "tiny_function.py"
        jobs = [BucketJob(jobs_folder / folder, function, store, f"{folder}/") for folder in ("arena", "undisturbed")]
        return BucketArena(jobs[0], jobs[1], (OPERATIONS | MOVES)[name])

    return make


@pytest.mark.parametrize("name", [*CHOSEN, *MOVES])
def test_a_kill_at_any_request_is_healed_by_the_next_run(name: str, new_arena: NewArena) -> None:
    arena = new_arena(name)
    assert any(step.seam in REQUESTS for step in arena.steps)

    def problems() -> Iterator[str]:
        for n, world in enumerate(arena.deaths()):
            for problem in arena.problems(world, is_idle_after=n % 10 == 0):
                yield f"killed {arena.say(world)}: {problem}"
            if not world.is_dead:
                yield f"never came to: {arena.say(world)}"

    assert_none(problems())


@pytest.mark.parametrize("name", [*CHOSEN, *MOVES])
def test_a_power_cut_undoes_nothing_that_is_in_the_bucket(name: str, new_arena: NewArena) -> None:
    arena = new_arena(name)
    worlds = [BucketWorld(n, is_after=True) for n, step in enumerate(arena.steps, 1) if step.seam in REQUESTS]
    worlds += [BucketWorld(n) for n, step in enumerate(arena.steps, 1) if step.is_sync_of_folder]
    assert_none(
        f"cut {arena.say(world)}: {problem}" for world in worlds for problem in arena.problems(world, is_power_cut=True)
    )


def with_late_request(world: BucketWorld, moment: int) -> BucketWorld:
    """Return the world of the next run, before whose step of this number the request of the dead one comes after all.

    Its own condition is all that it knows.
    """
    steps = count(1)

    def look() -> None:
        if next(steps) == 2 * moment and world.late is not None:
            world.late()

    return BucketWorld(look=look)


@pytest.mark.parametrize("name", ["first run", "run that finds other numbers of rows", "redo with other columns"])
def test_a_request_of_a_dead_process_that_comes_late_changes_no_row(name: str, new_arena: NewArena) -> None:
    """A DELETE has no condition: the run that it comes into sees it at its end, and the next one mends the table."""
    arena = new_arena(name)
    arena.operation = replace(arena.operation, is_looked_into=False)
    drawn = random.Random(name)
    requests = [n for n, step in enumerate(arena.steps, 1) if step.seam in REQUESTS]

    def problems() -> Iterator[str]:
        for kill_at in requests:
            for moment in (drawn.randint(1, len(arena.steps)) for _ in range(3)):
                dead = BucketWorld(kill_at)
                later = with_late_request(dead, moment)
                for problem in arena.problems(dead, later):
                    yield f"killed {arena.say(dead)}, its request came before step {moment} of the next run: {problem}"

    assert_none(problems())


def test_a_request_that_comes_after_the_next_run_changes_nothing(new_arena: NewArena) -> None:
    arena = new_arena("first run")
    for kill_at, step in enumerate(arena.steps, 1):
        if step.seam != "put" or str(step.target).endswith(".tmp"):
            continue  # the probe of a start is swept by the next one
        dead = BucketWorld(kill_at)
        assert_none(arena.problems(dead))
        assert dead.late is not None
        dead.late()
        assert_none(arena.job.findings())
        assert arena.job.published("csv", "parquet") == {
            name: content for name, content in arena.expected.items() if not name.startswith("failures/")
        }


def test_a_request_whose_answer_is_lost_is_as_good_as_one_that_is_answered(
    new_arena: NewArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again, and is told that the condition does not hold any more."""
    arena = new_arena("run that finds changes")
    store = BucketWorld.store
    put = store.put

    def lose_the_answer(client: Any, key: str, data: bytes, mode: Any = None, **options: Any) -> Any:
        put(client, key, data, mode, **options)
        return put(client, key, data, mode, **options)

    monkeypatch.setattr(store, "put", lose_the_answer)
    assert_none(arena.problems())
