"""The machines of a Ray cluster as the driver sees them: which there are, which have workers, which were lost.

Home is the driver's own machine, where workers have the job's folders. On each other one an `Agent` looks after the
workers; a machine without a word of its agent for `LOST_S` is lost with all its workers, whatever Ray makes of it, and
joins again like a new one. Nothing here waits for a machine.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from r3po.engines.agent import Agent, Arrival, Autopsy, Look, Visit, stop_file, workers_folder
from r3po.engines.needs import Amounts
from r3po.engines.nodes import NodeInfo, name_of, room_on
from r3po.engines.pool import WorkerLost
from r3po.errors import RunStoppedError
from r3po.events import Notice, Observer
from r3po.text import count_of, first_line
from r3po.work import Death
from r3po.worker.beacon import Phase, Sighting, worker_file
from r3po.worker.messages import WorkerSetup

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""Seconds between two looks at the workers of a machine."""

LOST_S = 30.0
"""Seconds without a word of a machine after which it is lost. Ray itself waits for a minute, or for ever."""

FIND_S = 5.0
"""Seconds between two looks at which machines there are."""

AWAY_S = 5.0
"""Seconds between two looks after which this process itself was stopped, or its machine slept."""

NOBODY_S = 60.0
"""Seconds without any worker that calls f after which a run stops."""

ARRIVALS = 3
"""How often an agent is sent to a machine where none comes to work."""

NO_RETRIES = {"max_restarts": 0, "max_task_retries": 0}
"""Options of all our actors: r3po owns retries."""

LEAVE_S = 5.0
"""Seconds that the agents have at the end to tidy up."""


@dataclass(eq=False)
class Machine:
    """A machine of the cluster that may have workers."""

    node_id: str
    name: str
    """For people: host name, or address."""
    is_home: bool
    setup: WorkerSetup | None
    """Of its workers; None: it has not joined yet."""
    n_calling: int = 0
    """How many workers that call f it has room for."""
    agent: Any = None
    workers: set[int] = field(default_factory=set)
    sightings: dict[int, Sighting] = field(default_factory=dict)
    heard_at: float = 0.0
    """When its agent last said something."""
    look_due: float | None = 0.0
    """When it is to be looked at next; None: a look is on its way."""
    is_late: bool = False
    """Whether it was invited long ago, did not come, and that was told."""


class Machines:
    """Keeps the machines of a joined Ray, their agents, and which worker is where.

    Args:
        setup: of the workers at home.
        visit: makes what agents get; called once the first is invited.
        n_workers: how many workers in all, if there is room; None: as many as there is room for.
        each: what a worker needs; empty: a CPU.
        find: returns the machines that there are.
        observer: told of machines that join, are lost, or cannot be used.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        visit: Callable[[], Visit],
        n_workers: int | None,
        each: Amounts,
        home_id: str,
        find: Callable[[], list[NodeInfo]],
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup, self._visit, self._n_workers, self._each = setup, cache(visit), n_workers, each
        self._home_id, self._find, self._observer, self._clock = home_id, find, observer, clock
        self._machines: dict[str, Machine] = {}
        self._refused: dict[str, str] = {}
        """Names of the machines that cannot be used, by node id."""
        self._n_failed: Counter[str] = Counter()
        """How often in a row no agent came to a machine, by node id."""
        self._where: dict[int, Machine] = {}
        self._refs: dict[Any, tuple[Machine, int]] = {}
        """What agents were asked: the machine, and the worker if it is of one."""
        self._dead: dict[int, tuple[Death, Sighting | None]] = {}
        self._losses: list[WorkerLost] = []
        self._found_at = -math.inf
        self._ticked_at = clock()
        self._calling_at = clock()
        """When a machine was last there that calls f."""

    # What workers there are

    @property
    def capacity(self) -> int:
        """How many workers there can be on the machines that have joined."""
        n_calling = self._n_calling
        return (n_calling if self._n_workers is None else min(self._n_workers, n_calling)) + self._n_staging

    @property
    def _n_calling(self) -> int:
        return sum(machine.n_calling for machine in self._joined)

    @property
    def _n_staging(self) -> int:
        """Workers that call f on no file: one at home, if no other worker is there. Only home has the segments."""
        return sum(machine.is_home and not machine.n_calling for machine in self._joined)

    @property
    def _joined(self) -> list[Machine]:
        return [machine for machine in self._machines.values() if machine.setup is not None]

    @property
    def others(self) -> list[Machine]:
        """The machines that have joined, without home."""
        return [machine for machine in self._joined if not machine.is_home]

    def place(self, worker: int) -> Machine:
        """Return the machine that a new worker is for: home, if it has none; else the one with most room for its size.

        It comes to its machine even if there is no room any more: then it waits.
        """

        def fill(machine: Machine) -> float:
            if machine.is_home and not machine.workers:
                return -1.0
            return (len(machine.workers) + 1) / machine.n_calling if machine.n_calling else math.inf

        machine = min(self._joined, key=fill)
        machine.workers.add(worker)
        self._where[worker] = machine
        return machine

    def machine_of(self, worker: int) -> Machine | None:
        """Return where a worker is, or was; None: it was never placed."""
        return self._where.get(worker)

    def forget(self, worker: int) -> None:
        """Take note that a worker is no more."""
        machine = self._where.get(worker)
        if machine is not None:
            machine.workers.discard(worker)
            machine.sightings.pop(worker, None)

    # What goes on there

    def sighting(self, worker: int) -> Sighting | None:
        """Return what a worker elsewhere was last seen doing."""
        if worker in self._dead:
            return self._dead[worker][1]
        machine = self._where.get(worker)
        return None if machine is None else machine.sightings.get(worker)

    def silence_of(self, worker: int) -> float:
        """Return for how many seconds nothing was heard of the machine of a worker."""
        return self._clock() - self._where[worker].heard_at

    def note_answer(self, worker: int, counter: int) -> None:
        """Take note that a worker elsewhere has answered a call: it does nothing until it begins the next."""
        self._note_sighting(self._where[worker], worker, Sighting(counter, Phase.IDLE, -1, -1, 0, 0, None))

    def death_of(self, worker: int) -> Death:
        """Return how a worker elsewhere died that was told as lost, and forget it."""
        death, _ = self._dead.pop(worker)
        self.forget(worker)
        return death

    def ask(self, question: str, worker: int, **arguments: Any) -> None:
        """Let the agent of a worker's machine do something; only an `autopsy` is waited for."""
        machine = self._where[worker]
        ref = getattr(machine.agent, question).remote(worker, **arguments)
        if question == "autopsy":
            self._refs[ref] = (machine, worker)

    def refuse(self, machine: Machine, trouble: str, hint: str = "") -> None:
        """Use a machine no more: its workers are lost, and it does not join again."""
        if self._machines.get(machine.node_id) is not machine:
            return  # another of its workers had the same trouble, or it is lost
        self._refused[machine.node_id] = machine.name
        self._observer(Notice(f"{machine.name} is not used: {trouble}", hint=hint, is_warning=True))
        self._drop(machine, f"{machine.name} cannot be used")

    # The loop

    @property
    def refs(self) -> list[Any]:
        """What `take` waits for."""
        return list(self._refs)

    def begin(self) -> None:
        """Take up home alone. The others are found once `tick` is called, from when on it has to go on: agents wait."""
        self._find_machines(is_inviting=False)

    def tick(self) -> None:
        """Find machines, ask their agents how it stands, and give up those that say nothing."""
        now = self._clock()
        away_s = now - self._ticked_at
        self._ticked_at = now
        if away_s > AWAY_S:  # this process was stopped, its machine slept, or it walked: nobody could be heard
            self._calling_at += away_s
            for machine in self._machines.values():
                machine.heard_at += away_s
        if now - self._found_at >= FIND_S:
            self._found_at = now
            self._find_machines()
        if self._n_calling:
            self._calling_at = now
        elif now - self._calling_at > NOBODY_S:
            raise RunStoppedError(
                f"no machine has called f for {NOBODY_S:.0f} s: none is there that can",
                hint="your state is safe; run again once the cluster has machines with CPUs",
            )
        is_stopping = bool(self.others) and self._setup.stop_file.exists()
        for machine in list(self._machines.values()):
            if machine.is_home:
                continue
            if machine.setup is not None and machine.look_due is not None and machine.look_due <= now:
                machine.look_due = None
                self._refs[machine.agent.look.remote(is_stopping=is_stopping)] = (machine, -1)
            if now - machine.heard_at > LOST_S:
                self._note_silence(machine)

    def take(self, ref: Any) -> None:
        """Take what an agent answered."""
        machine, worker = self._refs.pop(ref)
        if self._machines.get(machine.node_id) is not machine:
            return  # it is lost already
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._fail(machine, error)
            return
        machine.heard_at = self._clock()
        match answer:
            case Arrival():
                self._join(machine, answer)
            case Look():
                for one, seen in answer.sightings.items():
                    self._note_sighting(machine, one, seen)
                machine.look_due = machine.heard_at + LOOK_S
                self._keep(answer.printed)
            case Autopsy():
                self._keep(answer.printed)
                self._dead[worker] = (answer.death, answer.last)
                self._losses.append(WorkerLost(worker, answer.death.cause))

    def take_losses(self) -> list[WorkerLost]:
        """Return the workers that were lost since the last time."""
        losses, self._losses = self._losses, []
        return losses

    def close(self) -> None:
        """Let all agents tidy up and go."""
        leaving = {machine.agent.leave.remote(): machine for machine in self.others}
        done, _ = ray.wait(list(leaving), num_returns=len(leaving), timeout=LEAVE_S) if leaving else ([], [])
        for ref in done:
            try:
                self._keep(ray.get(ref))
            except ray.exceptions.RayError as error:
                log.info("%s: %s", leaving[ref].name, error)
        for machine in self._machines.values():
            _kill(machine.agent)
        self._machines.clear()

    # Private methods

    def _find_machines(self, *, is_inviting: bool = True) -> None:
        nodes = {node.node_id: node for node in self._find()}
        for machine in list(self._machines.values()):
            if machine.node_id not in nodes and not machine.is_home:
                self._lose(machine, "it has left the cluster")
        for node in nodes.values():
            if node.node_id in self._machines or node.node_id in self._refused:
                continue
            is_home = node.node_id == self._home_id
            name = name_of(node, nodes.values(), {machine.name for machine in self._machines.values()})
            n_calling = room_on(node, nodes.values(), self._each, self._n_workers)
            machine = Machine(node.node_id, name, is_home, self._setup if is_home else None, n_calling)
            if is_home:
                self._machines[node.node_id] = machine
            elif n_calling and is_inviting:
                self._machines[node.node_id] = machine
                self._invite(machine)

    def _invite(self, machine: Machine) -> None:
        actor: Any = ray.remote(Agent)
        machine.agent = actor.options(num_cpus=0, **on_machine(machine), **NO_RETRIES).remote()
        machine.heard_at = self._clock()
        self._refs[machine.agent.arrive.remote(self._visit())] = (machine, -1)

    def _join(self, machine: Machine, arrival: Arrival) -> None:
        if arrival.trouble or arrival.function is None:
            self.refuse(machine, arrival.trouble, arrival.hint)
            return
        self._n_failed.pop(machine.node_id, None)
        folder = Path(arrival.folder)
        machine.setup = dataclasses.replace(
            self._setup,
            is_home=False,
            function=arrival.function,
            workers_folder=workers_folder(folder),
            stop_file=stop_file(folder),
        )
        n_workers = count_of(machine.n_calling, "worker")
        self._observer(Notice(f"{machine.name} joined: {n_workers}"))

    def _note_sighting(self, machine: Machine, worker: int, seen: Sighting) -> None:
        before = machine.sightings.get(worker)
        if worker in machine.workers and (before is None or seen.counter >= before.counter):  # answers overtake looks
            machine.sightings[worker] = seen

    def _fail(self, machine: Machine, error: Exception) -> None:
        """Take note that an agent cannot be asked any more."""
        text = str(error)
        if machine.setup is None and "ModuleNotFoundError" in text:
            what = first_line(next(line for line in text.splitlines() if "ModuleNotFoundError" in line))
            self.refuse(machine, what, "install r3po there, the same version as here")
            return
        log.info("the agent of %s: %s", machine.name, error)
        if machine.setup is None:
            self._n_failed[machine.node_id] += 1
            if self._n_failed[machine.node_id] >= ARRIVALS:
                self.refuse(machine, text.strip().rpartition("\n")[2], "see the logs of Ray on that machine")
                return
        self._lose(machine, "its agent ended")

    def _note_silence(self, machine: Machine) -> None:
        if machine.setup is not None:
            self._lose(machine, f"no word from it for {LOST_S:.0f} s")
        elif not machine.is_late:  # Ray may still be about to start a process there
            machine.is_late = True
            hint = "it joins once it answers; if it never does, see the logs of Ray on that machine"
            text = f"{machine.name} has not answered for {LOST_S:.0f} s, and has no workers yet"
            self._observer(Notice(text, hint=hint, is_warning=True))

    def _lose(self, machine: Machine, why: str) -> None:
        if machine.setup is not None:
            files = "; what its workers had in hand goes to others" if machine.workers else ""
            self._observer(Notice(f"{machine.name} was lost: {why}{files}", is_warning=True))
        self._drop(machine, f"{machine.name} was lost: {why}")

    def _drop(self, machine: Machine, cause: str) -> None:
        del self._machines[machine.node_id]
        _kill(machine.agent)
        for worker in sorted(machine.workers):
            self._dead[worker] = (Death(cause, is_machine=True), None)
            self._losses.append(WorkerLost(worker, cause))

    def _keep(self, printed: Iterable[tuple[int, str]]) -> None:
        """Add what f printed elsewhere to the logs at home."""
        for worker, text in printed:
            try:
                with open(worker_file(self._setup.workers_folder, worker, "out"), "ab") as file:
                    file.write(text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                log.info("what worker %d printed is not kept: %s", worker, error)


def on_machine(machine: Machine) -> dict[str, Any]:
    """Return the options of an actor that is to be on a machine and nowhere else."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(machine.node_id, soft=False)}


# Private functions


def _kill(actor: Any) -> None:
    if actor is not None:
        try:
            ray.kill(actor)
        except ray.exceptions.RayError as error:
            log.info("an agent: %s", error)
