"""A Ray pool over several machines: what comes in together and what overtakes, without a Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from r3po.engines import machines, ray_connection, ray_pool
from r3po.engines.agent import Agent, Arrival, Autopsy, Look
from r3po.engines.machines import NOBODY_S
from r3po.engines.needs import Needs
from r3po.engines.nodes import NodeInfo
from r3po.engines.pool import Answer, Call
from r3po.engines.ray_pool import RayPool
from r3po.engines.worker_processes import WorkerProcesses
from r3po.errors import FunctionError
from r3po.function.find import FunctionSpec
from r3po.function.travel import Baggage
from r3po.run.workers import Lost, WorkerManager
from r3po.state.folders import JobFolders
from r3po.work import Batch, Death
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.messages import WorkerSetup

SPEC = FunctionSpec("f.py:f", "file", "/job/f.py", "f", (), "0" * 16)
HOME, ONE = (NodeInfo(name, name, f"10.0.0.{n}", {"CPU": 2.0}) for n, name in enumerate(("home", "one")))
BARE = NodeInfo("home", "home", "10.0.0.0", {})
FULL_DISK = OSError(28, "No space left on device")


class FakeActor:
    def __init__(self, fake: FakeRay, machine: str, is_agent: bool, worker: int) -> None:
        self.fake, self.machine, self.is_agent, self.worker = fake, machine, is_agent, worker

    def __getattr__(self, method: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> int:
            ref = self.fake.n_asked = self.fake.n_asked + 1
            what = (self.machine, method) if self.is_agent else (self.worker, arguments[0].method)
            self.fake.open.setdefault(what, []).append((ref, arguments, options))
            return ref

        return SimpleNamespace(remote=ask)


class FakeRay:
    """Keeps what actors are asked until the test answers it."""

    exceptions = ray.exceptions

    def __init__(self) -> None:
        self.n_asked = 0
        self.open: dict[Any, list[Any]] = {}
        """By machine and question, or worker and method: reference, arguments and options of what was asked."""
        self.answers: dict[int, Any] = {}
        self.killed: list[FakeActor] = []

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "home")

    def remote(self, cls: type) -> Any:
        def options(**options: Any) -> Any:
            def make(*arguments: Any) -> FakeActor:
                worker = arguments[1] if cls is not Agent else -1
                return FakeActor(self, options["scheduling_strategy"].node_id, cls is Agent, worker)

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def get(self, ref: int) -> Any:
        answer = self.answers[ref]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)

    def wait(self, refs: list[int], **_: Any) -> tuple[list[int], list[int]]:
        return [ref for ref in refs if ref in self.answers], []


class Cluster:
    """A pool that is joined to a cluster of these machines, and a clock that is set."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, *nodes: NodeInfo) -> None:
        self.ray, self.now, self.nodes, self.told = FakeRay(), 1000.0, list(nodes), []  # type: ignore[var-annotated]
        patch.setattr(machines, "ray", self.ray)
        for module in (ray_connection, ray_pool):
            patch.setattr(module, "ray", self.ray)
            patch.setattr(module, "find_nodes", lambda: list(self.nodes))
        for module in (machines, ray_pool):
            patch.setattr(module, "on_machine", lambda one: {"scheduling_strategy": one})
        patch.setattr(ray_pool, "resources", lambda name: {"CPU": 4.0})
        patch.setattr(ray_pool, "pack", lambda spec: Baggage())
        patch.setattr(ray_connection, "answers", lambda: True)
        made = ray_pool.Machines
        patch.setattr(ray_pool, "Machines", lambda *arguments: made(*arguments, clock=lambda: self.now))
        setup = WorkerSetup(JobFolders(folder, folder), "/in", SPEC, "path", "stat", 1.0, folder / "stop", folder)
        self.pool = RayPool(folder / "log", folder / "note", Needs(is_auto=True), self.told.append)
        n_workers = self.pool.start(setup, sum(int(node.amounts.get("CPU", 0)) for node in nodes))
        self.manager = WorkerManager(self.pool, n_workers, 2.0, lambda: self.now)

    def wait(self, seconds: float = 0.1) -> list[Any]:
        self.now += seconds
        return list(self.manager.wait(0))

    def answer(self, who: Any, method: str, value: Any) -> None:
        """Answer the oldest open question of this kind."""
        ref, arguments, _ = self.ray.open[who, method].pop(0)
        if not isinstance(who, str) and not isinstance(value, ray.exceptions.RayError):
            error = value if isinstance(value, Exception) else None
            value = Answer(who, arguments[0], None if error else value, error, counter=1)
        self.ray.answers[ref] = value

    def join(self, machine: str = "one") -> None:
        self.answer(machine, "arrive", Arrival(machine, folder=f"/tmp/{machine}", function=SPEC))
        self.wait()
        self.wait()

    def load(self, *workers: int) -> None:
        for worker in workers:
            self.answer(worker, "load", "f1")
        for answer in self.wait():
            self.manager.loaded(answer.worker)

    def give(self, worker: int, *numbers: int) -> None:
        for number in numbers:
            batch = Batch(number, number, ((0, 10),))
            self.manager.submit(self.manager.handles[worker], batch, Call("run_batch", (batch,)))

    @property
    def at(self) -> dict[str, list[int]]:
        """The workers by machine."""
        found: dict[str, list[int]] = {}
        for handle in self.manager.handles.values():
            found.setdefault(handle.role.machine, []).append(handle.number)
        return found


def seen_in(place: int, counter: int = 5) -> Sighting:
    return Sighting(counter, Phase.CALLING, 0, place, 1, 1, None)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_a_machine_where_all_workers_fail_to_load_at_once_is_refused_once(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    cluster.wait()
    cluster.join()
    for worker in cluster.at["one"]:
        cluster.answer(worker, "load", FunctionError("no numpy"))
    found = cluster.wait()
    assert [one.death.is_machine for one in found if isinstance(one, Lost)] == [True, True]
    assert len([one for one in cluster.told if "not used" in one.text]) == 1
    assert list(cluster.at) == ["home"]


def test_answers_of_a_worker_come_in_the_order_of_its_calls(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    cluster.wait()
    cluster.join()
    worker = cluster.at["one"][0]
    cluster.load(worker)
    cluster.give(worker, 1, 2)
    first, second = cluster.ray.open[worker, "run_batch"]
    cluster.ray.answers[second[0]] = Answer(worker, second[1][0], "second")  # the first is large, and on its way
    found = cluster.wait()
    cluster.ray.answers[first[0]] = Answer(worker, first[1][0], "first")
    found += cluster.wait()
    found += cluster.wait()
    assert [answer.value for answer in found] == ["first", "second"]


def test_a_walk_may_take_long_where_home_calls_nothing(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, BARE, ONE)
    cluster.wait(NOBODY_S + 1)  # the first time that anybody listens
    cluster.join()
    assert cluster.pool.capacity() == 3


def test_a_full_disk_of_another_machine_does_not_stop_the_run(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    cluster.wait()
    cluster.join()
    one, two = cluster.at["one"]
    cluster.load(two)
    cluster.answer(one, "load", FULL_DISK)
    found = cluster.wait()
    assert all(isinstance(message, Lost) for message in found), "nothing of it is an error of home's disk"
    assert list(cluster.at) == ["home"]


def test_a_machine_that_comes_back_gets_workers_whatever_was_to_be_replaced(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(ONE, amounts={"CPU": 1.0})
    cluster = Cluster(patch, tmp_path, BARE, small)
    cluster.wait()
    cluster.join()
    for number in range(4):  # f crashes, and each time there is a longer pause before the next worker
        (worker,) = cluster.at["one"]
        cluster.load(worker)
        cluster.give(worker, worker)
        cluster.answer(worker, "run_batch", ray.exceptions.ActorDiedError())
        cluster.wait()
        cluster.answer("one", "autopsy", Autopsy(Death("SIGSEGV", True), seen_in(1), []))
        cluster.wait()
        if number < 3:
            cluster.wait(3)
            cluster.wait()
    cluster.answer("one", "look", ray.exceptions.ActorDiedError())  # while a replacement is due
    for _ in range(10):
        cluster.wait(1)
    cluster.join()
    for _ in range(10):
        cluster.wait(1)
    assert sorted(cluster.at) == ["home", "one"], "else nobody ever calls f"
    assert len(cluster.at["home"]) == 1


def test_memory_is_of_a_machine_and_nobody_elsewhere_shares_it(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, BARE, dataclasses.replace(ONE, amounts={"CPU": 1.0}))
    cluster.wait()
    cluster.join()
    cluster.load(0, 1)
    cluster.give(0, 1)  # home stages
    cluster.give(1, 2)
    cluster.answer(1, "run_batch", ray.exceptions.OutOfMemoryError("memory"))
    cluster.wait()
    cluster.answer("one", "autopsy", Autopsy(Death("out of memory", True, is_memory=True), seen_in(1), []))
    (lost,) = cluster.wait()
    assert (lost.was_alone, lost.n_workers) == (True, None)
    cluster.wait()
    assert sorted(cluster.at) == ["home", "one"]


def test_a_machine_that_goes_takes_no_worker_of_another_with_it(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, dataclasses.replace(HOME, amounts={"CPU": 1.0}), ONE)
    cluster.wait()
    cluster.join()
    one, two = cluster.at["one"]
    cluster.load(0, one, two)
    cluster.manager._memory_lost_at = cluster.now
    cluster.manager.n_wanted = 2  # of three, as after a death for memory
    cluster.answer("one", "look", ray.exceptions.ActorDiedError())
    cluster.wait()
    cluster.wait()
    assert (cluster.at, cluster.manager.n_wanted) == ({"home": [0]}, 1)


@pytest.mark.parametrize(
    ("error", "is_unreachable"),
    [(ray.exceptions.ActorDiedError(), False), (ray.exceptions.ActorUnavailableError("cut", None), True)],
)
def test_an_agent_is_told_if_a_worker_may_only_have_been_out_of_reach(
    error: Exception, is_unreachable: bool, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    cluster.wait()
    cluster.join()
    worker = cluster.at["one"][0]
    cluster.load(worker)
    cluster.give(worker, 1)
    cluster.answer(worker, "run_batch", error)
    cluster.wait()
    ((_, arguments, options),) = cluster.ray.open["one", "autopsy"]
    assert (arguments, options) == ((worker,), {"is_memory": False, "is_unreachable": is_unreachable})


@pytest.mark.parametrize("is_unreachable", [False, True])
def test_no_file_is_to_blame_for_a_worker_that_was_out_of_reach(is_unreachable: bool, tmp_path: Path) -> None:
    agent: Any = SimpleNamespace(
        _processes=WorkerProcesses(tmp_path), _workers=tmp_path, _outputs=SimpleNamespace(look=lambda: []), _heard_at=0
    )
    found = Agent.autopsy(agent, 3, is_memory=False, is_unreachable=is_unreachable)
    assert found.death.is_machine is is_unreachable
    killed = Agent.autopsy(agent, 3, is_memory=True, is_unreachable=is_unreachable)
    assert (killed.death.is_memory, killed.death.is_machine) == (True, False), "what is known is told"


def test_a_machine_that_no_agent_comes_to_is_named(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    for _ in range(3):
        cluster.wait()
        cluster.answer("one", "arrive", ray.exceptions.RayError("it failed\nOSError: no space\n"))
        cluster.wait(6)
        cluster.wait(6)
    for _ in range(20):
        cluster.wait(1)
    assert [one.text for one in cluster.told] == ["one is not used: OSError: no space"]
    assert not cluster.ray.open["one", "arrive"]


@pytest.mark.parametrize(("silent_s", "n_ended"), [(0, 1), (20, 0)])
def test_a_machine_that_slept_has_all_the_time_again(
    silent_s: int, n_ended: int, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(patch, tmp_path, HOME, ONE)
    cluster.wait()
    cluster.join()
    worker = cluster.at["one"][0]
    cluster.load(worker)
    cluster.give(worker, 1)
    cluster.wait(0.6)

    def look(times: int) -> None:
        for _ in range(times):
            cluster.answer("one", "look", Look({worker: seen_in(3)}, []))
            cluster.wait(0.6)
            cluster.wait(0.6)

    look(2)
    for _ in range(silent_s):
        cluster.wait(1)
    look(4)
    assert len(cluster.ray.open.get(("one", "end"), [])) == n_ended
