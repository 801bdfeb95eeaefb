"""Machines that join, say nothing, are lost and come back, on virtual time and without a Ray."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from r3po import events
from r3po.engines import machines
from r3po.engines.agent import Arrival, Autopsy, Look, Visit
from r3po.engines.machines import LOST_S, NOBODY_S, Machines
from r3po.engines.nodes import NodeInfo
from r3po.errors import RunStoppedError
from r3po.function.find import FunctionSpec
from r3po.function.travel import Baggage
from r3po.state.folders import JobFolders
from r3po.work import Death
from r3po.worker.beacon import Phase, Sighting
from r3po.worker.messages import WorkerSetup

SPEC = FunctionSpec("f.py:f", "file", "/job/f.py", "f", (), "0" * 16)
HOME, ONE, TWO = (NodeInfo(name, name, f"10.0.0.{n}", {"CPU": 2.0}) for n, name in enumerate(("home", "one", "two")))


@dataclass
class FakeRay:
    """Keeps what agents are asked until the test answers it."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """Machine, question and reference, in order."""
    answers: dict[Any, Any] = field(default_factory=dict)
    options: dict[Any, dict[str, Any]] = field(default_factory=dict)
    """What else they were told, by reference."""
    killed: list[str] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)
    exceptions = ray.exceptions

    def remote(self, cls: type) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda: self._agent(options)))

    def _agent(self, options: dict[str, Any]) -> Any:
        return FakeAgent(self, options["scheduling_strategy"].node_id)

    def get(self, ref: Any) -> Any:
        answer = self.answers[ref]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, agent: Any) -> None:
        self.killed.append(agent.machine)

    def wait(self, refs: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref in self.answers], []


class FakeAgent:
    def __init__(self, ray: FakeRay, machine: str) -> None:
        self.ray, self.machine = ray, machine

    def __getattr__(self, question: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> Any:
            ref = next(self.ray.numbers)
            self.ray.asked.append((self.machine, question, ref))
            self.ray.options[ref] = options
            return ref

        return SimpleNamespace(remote=ask)


@dataclass
class Cluster:
    ray: FakeRay
    folder: Path
    nodes: list[NodeInfo]
    n_workers: int | None = None
    is_listening: bool = True
    now: float = 1000.0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        folders = JobFolders(self.folder, self.folder)
        setup = WorkerSetup(folders, "/in", SPEC, "path", "stat", 1.0, self.folder / "stop", self.folder)
        visit = Visit(SPEC, Baggage(), (), {})
        self.machines = Machines(
            setup, lambda: visit, self.n_workers, {}, "home", lambda: self.nodes, self._tell, lambda: self.now
        )
        self.machines.begin()
        if self.is_listening:
            self.machines.tick()

    def _tell(self, event: events.Event) -> None:
        assert isinstance(event, events.Notice)
        self.told.append(event.text)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.machines.tick()

    def answer(self, machine: str, question: str, value: Any) -> None:
        """Answer the last question of this kind."""
        ref = next(ref for name, asked, ref in reversed(self.ray.asked) if (name, asked) == (machine, question))
        self.ray.answers[ref] = value
        self.machines.take(ref)

    def join(self, machine: str) -> None:
        self.answer(machine, "arrive", Arrival(machine, folder=f"/tmp/{machine}", function=SPEC))

    def n_asked(self, machine: str, question: str) -> int:
        return sum((name, asked) == (machine, question) for name, asked, _ in self.ray.asked)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    fake = FakeRay()
    monkeypatch.setattr(machines, "ray", fake)
    monkeypatch.setattr(machines, "on_machine", lambda one: {"scheduling_strategy": one})
    return Cluster(fake, tmp_path, [HOME, ONE, TWO])


def seen_in(place: int) -> Sighting:
    return Sighting(1, Phase.READING, 0, place, 1, 1, None)


def test_workers_can_be_at_home_at_once_and_elsewhere_once_an_agent_is_there(cluster: Cluster) -> None:
    assert cluster.machines.capacity == 2
    cluster.join("one")
    assert cluster.machines.capacity == 4
    cluster.join("two")
    assert cluster.machines.capacity == 6
    names = [cluster.machines.place(worker).name for worker in range(6)]
    assert names[0] == "home"
    assert sorted(names) == ["home", "home", "one", "one", "two", "two"]
    setup = cluster.machines.place(6).setup
    assert setup is not None
    assert cluster.told == ["one joined: 2 workers", "two joined: 2 workers"]


def test_there_are_no_more_workers_than_were_asked_for(cluster: Cluster) -> None:
    few = Cluster(cluster.ray, cluster.folder, cluster.nodes, n_workers=3)
    few.join("one")
    few.join("two")
    assert few.machines.capacity == 3


def test_a_worker_elsewhere_has_the_folders_of_its_machine(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.machines.place(0)
    machine = next(m for m in (cluster.machines.place(n) for n in range(1, 4)) if m.name == "one")
    assert machine.setup is not None
    assert (machine.setup.is_home, machine.setup.segments) == (False, None)
    assert machine.setup.workers_folder == Path("/tmp/one/workers")


def test_a_machine_without_a_word_is_lost_with_its_workers_and_joins_again(cluster: Cluster) -> None:
    cluster.join("one")
    at = {worker: cluster.machines.place(worker).name for worker in range(4)}
    cluster.pass_time(1)
    cluster.answer("one", "look", Look({worker: seen_in(7) for worker in at if at[worker] == "one"}, []))
    cluster.pass_time(LOST_S)
    assert cluster.machines.take_losses() == []
    cluster.pass_time(1)
    lost = cluster.machines.take_losses()
    assert [loss.worker for loss in lost] == [worker for worker in at if at[worker] == "one"]
    assert all(cluster.machines.sighting(loss.worker) is None for loss in lost), "no file is to blame"
    assert {cluster.machines.death_of(loss.worker).is_machine for loss in lost} == {True}
    assert cluster.machines.capacity == 2
    assert "one was lost: no word from it for 30 s; what its workers had in hand goes to others" in cluster.told
    cluster.pass_time(5)
    assert cluster.n_asked("one", "arrive") == 2
    cluster.join("one")
    assert cluster.machines.capacity == 4


def test_a_late_word_of_a_machine_that_is_lost_changes_nothing(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.pass_time(1)
    (late,) = [ref for name, question, ref in cluster.ray.asked if (name, question) == ("one", "look")]
    cluster.pass_time(LOST_S + 1)
    cluster.ray.answers[late] = Look({}, [])
    cluster.machines.take(late)
    assert cluster.machines.capacity == 2


def test_a_driver_that_slept_takes_no_machine_for_lost(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.pass_time(1)
    cluster.now += 3600
    cluster.machines.tick()
    assert cluster.machines.capacity == 4
    cluster.pass_time(LOST_S + 1)
    assert cluster.machines.capacity == 2


def test_no_agent_is_started_before_somebody_listens_to_it(cluster: Cluster) -> None:
    cluster.ray.asked.clear()
    early = Cluster(cluster.ray, cluster.folder, cluster.nodes, n_workers=6, is_listening=False)
    assert (early.machines.capacity, cluster.ray.asked) == (2, []), "and home has its share alone"


def test_a_machine_that_leaves_the_cluster_is_lost_within_seconds(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.nodes.remove(ONE)
    cluster.pass_time(6)
    assert cluster.machines.capacity == 2
    assert "one was lost: it has left the cluster" in cluster.told


def test_a_machine_whose_agent_ends_is_lost(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.pass_time(1)
    cluster.answer("one", "look", ray.exceptions.ActorDiedError())
    assert "one was lost: its agent ended" in cluster.told
    assert cluster.machines.capacity == 2


def test_a_machine_that_cannot_be_used_is_named_once_and_left_alone(cluster: Cluster) -> None:
    cluster.answer("one", "arrive", Arrival("one", "it does not see the source: there is no /in/a", "mount it"))
    cluster.pass_time(60)
    assert [text for text in cluster.told if text.startswith("one")] == [
        "one is not used: it does not see the source: there is no /in/a"
    ]
    assert cluster.n_asked("one", "arrive") == 1


def test_a_machine_that_was_invited_and_does_not_answer_is_told_once_and_joins_when_it_does(cluster: Cluster) -> None:
    cluster.pass_time(2 * LOST_S)
    assert [text for text in cluster.told if text.startswith("one")] == [
        "one has not answered for 30 s, and has no workers yet"
    ]
    cluster.join("one")
    assert cluster.machines.capacity == 4
    assert cluster.n_asked("one", "arrive") == 1


def test_a_worker_that_dies_elsewhere_is_told_with_what_its_agent_knows(cluster: Cluster) -> None:
    cluster.join("one")
    worker = next(n for n in range(4) if cluster.machines.place(n).name == "one")
    cluster.machines.ask("autopsy", worker, is_memory=False)
    assert cluster.machines.take_losses() == []
    death = Death("SIGSEGV", True, "stack")
    cluster.answer("one", "autopsy", Autopsy(death, seen_in(3), [(worker, "last words\n")]))
    assert [loss.worker for loss in cluster.machines.take_losses()] == [worker]
    assert cluster.machines.sighting(worker) == seen_in(3)
    assert cluster.machines.death_of(worker) == death
    assert (cluster.folder / f"{worker:05d}.out").read_text() == "last words\n"


def test_an_answer_says_what_a_worker_does_before_the_next_look_does(cluster: Cluster) -> None:
    cluster.join("one")
    worker = next(n for n in range(4) if cluster.machines.place(n).name == "one")
    cluster.pass_time(0.5)
    cluster.machines.note_answer(worker, 9)
    cluster.answer("one", "look", Look({worker: seen_in(3)}, []))  # from before the answer
    seen = cluster.machines.sighting(worker)
    assert seen is not None
    assert (seen.counter, seen.phase) == (9, Phase.IDLE)
    cluster.pass_time(0.5)
    later = dataclasses.replace(seen_in(4), counter=11)
    cluster.answer("one", "look", Look({worker: later}, []))
    assert cluster.machines.sighting(worker) == later


def test_what_f_prints_elsewhere_is_kept_at_home(cluster: Cluster) -> None:
    cluster.join("one")
    for text in ("one\n", "two\n"):
        cluster.pass_time(1)
        cluster.answer("one", "look", Look({}, [(5, text)]))
    assert (cluster.folder / "00005.out").read_text() == "one\ntwo\n"


def test_home_without_cpus_has_one_worker_that_only_stages(cluster: Cluster) -> None:
    bare = Cluster(cluster.ray, cluster.folder, [NodeInfo("home", "home", "10.0.0.0", {}), ONE])
    assert bare.machines.capacity == 1
    assert bare.machines.place(0).n_calling == 0
    bare.join("one")
    assert bare.machines.capacity == 3
    assert {bare.machines.place(n).name for n in (1, 2)} == {"one"}


def test_a_run_without_any_machine_that_calls_f_stops_after_a_while(cluster: Cluster) -> None:
    bare = Cluster(cluster.ray, cluster.folder, [NodeInfo("home", "home", "10.0.0.0", {}), ONE])
    bare.pass_time(NOBODY_S)
    with pytest.raises(RunStoppedError, match="no machine"):
        bare.pass_time(1)


def test_the_workers_of_a_machine_are_told_to_stop(cluster: Cluster) -> None:
    cluster.join("one")
    cluster.pass_time(0.5)
    cluster.answer("one", "look", Look({}, []))
    (cluster.folder / "stop").touch()
    cluster.pass_time(0.5)
    looks = [ref for name, question, ref in cluster.ray.asked if (name, question) == ("one", "look")]
    assert [cluster.ray.options[ref] for ref in looks] == [{"is_stopping": False}, {"is_stopping": True}]
