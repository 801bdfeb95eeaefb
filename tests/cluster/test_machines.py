"""The machines of these tests are apart, can be hit one by one, and leave nothing: with plain Ray, without r3po."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import alive, comes_true, wait_until
from machines import PREFIX, Machine, Machines, Program, sweep, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

ACTORS = """
import json, logging, os, socket, sys, time
import ray

address, *folders = sys.argv[1:]
ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)


@ray.remote(num_cpus=1, max_restarts=0)
class Neighbour:
    def look(self):
        return {
            "name": socket.gethostname(),
            "seen": [sorted(os.listdir(folder)) for folder in folders],
            "places": [os.environ["HOME"], os.environ["TMPDIR"]],
            "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
        }


actors = {}
for node in ray.nodes():
    if node["Alive"]:
        pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actors[node["NodeManagerAddress"]] = Neighbour.options(scheduling_strategy=pin).remote()
print(json.dumps(ray.get([actors[ip].look.remote() for ip in sorted(actors)])), flush=True)
"""

ASK = """
pid_file, stop = folders[0] + "/ask", folders[0] + "/stop"
while not os.path.exists(stop):
    started = time.monotonic()
    for ip, actor in sorted(actors.items()):
        try:
            ray.get(actor.look.remote(), timeout=60)
            print(ip, "answers", round(time.monotonic() - started, 1), flush=True)
        except ray.exceptions.RayError as error:
            print(ip, type(error).__name__, round(time.monotonic() - started, 1), flush=True)
    time.sleep(0.2)
"""
"""Go on to ask each actor, until there is a file `stop`."""


def test_each_machine_is_on_its_own(machines: Machines) -> None:
    (machines.home_folder / "secret").touch()
    (machines.shared / "common").touch()
    for machine in machines:
        (machine.disk / "tmp" / f"of_{machine.name}").touch()
    folders = (machines.home_folder, machines.shared, machines.local / "tmp", machines.folder / "disks")
    looks = json.loads(machines.home.python(ACTORS, machines.address, *map(str, folders)))
    assert [look["name"] for look in looks] == ["m1", "m2", "m3"]
    at_home, *elsewhere = [look["seen"][0] for look in looks]
    assert "secret" in at_home and elsewhere == [[], []]
    assert ["common" in look["seen"][1] for look in looks] == [True] * 3
    assert [f"of_m{number}" in look["seen"][2] for number, look in enumerate(looks, 1)] == [True] * 3
    assert [look["seen"][3] for look in looks] == [[]] * 3
    assert {tuple(look["places"]) for look in looks} == {
        (str(machines.local / "home"), str(machines.local / "tmp")),
    }
    assert all(look["processes"] < 40 for look in looks)
    for machine in machines:
        (machine.disk / "tmp" / f"of_{machine.name}").unlink()
    (machines.home_folder / "secret").unlink()
    (machines.shared / "common").unlink()


def asking(machines: Machines) -> Program:
    """Start a program that asks an actor on each machine, again and again."""
    for name in ("ask", "stop"):
        (machines.shared / name).unlink(missing_ok=True)
    program = machines.home.start(sys.executable, "-c", ACTORS + ASK, machines.address, str(machines.shared))
    program.wait_until(lambda: "10.99.0.3 answers" in program.out, "all answer")
    return program


def stop_asking(machines: Machines, program: Program) -> None:
    (machines.shared / "stop").touch()
    assert program.end(90).code == 0, program.err


def test_a_cut_link_keeps_answers_back_until_it_is_mended(machines: Machines) -> None:
    program = asking(machines)
    with machines[1].link_cut():
        time.sleep(5)
    n_lines = len(program.out.splitlines())
    program.wait_until(lambda: "10.99.0.3" in "".join(program.out.splitlines()[n_lines + 3 :]), "all answer again")
    stop_asking(machines, program)
    answers = [line.split() for line in program.out.splitlines()[1:]]
    assert {words[1] for words in answers} == {"answers"}
    assert max(float(words[2]) for words in answers) > 4, "nothing came through"
    assert len(machines.node_addresses()) == 3


def test_a_killed_raylet_ends_what_runs_there_and_is_started_again(machines: Machines) -> None:
    before = machines.files()
    program = asking(machines)
    assert [pid for pid in machines[2].of_role("worker")], "the actor is seen"
    assert machines.left(before).keys() == {"m1", "m2", "m3"}
    machines[2].kill("raylet")
    program.wait_until(lambda: "10.99.0.3 Actor" in program.out, "its actor is lost")
    assert "10.99.0.2 Actor" not in program.out
    stop_asking(machines, program)
    machines.mend()
    assert sorted(machines.node_addresses()) == ["10.99.0.1", "10.99.0.2", "10.99.0.3"]
    machines.assert_nothing_left(before)


def test_a_machine_without_power_says_nothing_and_comes_back_empty(machines: Machines) -> None:
    program = asking(machines)
    machine, processes = machines[1], list(machines[1].processes())
    (machine.disk / "tmp" / "lost").touch()
    machine.switch_off()
    assert alive(processes) == []
    n_lines = len(program.out.splitlines())
    time.sleep(3)
    assert len(program.out.splitlines()) <= n_lines + 1, "whoever asks it waits"
    program.kill()
    machine.restart_ray()
    assert machine.files() == set()
    machines.wait_for_nodes(3)


def test_a_machine_joins_later_and_a_slow_link_is_slow(machines: Machines) -> None:
    def seconds_of(machine: Machine) -> float:
        """Return how long 200 KB take from this machine's network to home."""
        ended = machines.home.run(sys.executable, "-c", _RECEIVE.replace("SENDER", machine.ip), timeout_s=60)
        assert ended.code == 0, ended.err
        return float(ended.out)

    machine = machines[1]
    server = machine.start(sys.executable, "-c", _SERVE)
    server.wait_until(lambda: "ready" in server.out, "it listens")
    assert seconds_of(machine) < 1
    machine.slow_link("800kbit")
    assert 1 < seconds_of(machine) < 20
    machine.slow_link(None)
    assert seconds_of(machine) < 1
    server.kill()


_SERVE = """
import socket
listener = socket.create_server(("", 5000))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(bytes(200_000))
    connection.close()
"""

_RECEIVE = """
import socket, time
started = time.monotonic()
with socket.create_connection(("SENDER", 5000)) as connection:
    while connection.recv(65536):
        pass
print(time.monotonic() - started)
"""


def test_machines_of_a_killed_process_are_gone_and_their_folder_with_the_next_start() -> None:
    code = "import sys, signal; sys.path[:0] = [sys.argv[1]]\nfrom machines import Machines\n"
    code += "with Machines(2) as machines:\n    machines.home.start('sleep', '1000')\n"
    code += "    print(machines.folder, *(m.holder.pid for m in machines), flush=True)\n    signal.pause()"
    harness = str(Path(__file__).parents[1] / "harness")
    owner = subprocess.Popen([sys.executable, "-c", code, harness], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder, *pids = owner.stdout.readline().split()
    assert Path(folder).name.startswith(f"{PREFIX}{owner.pid}-")
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(10)
    owner.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its machines are gone", 10)
    assert comes_true(lambda: not [name for name in os.listdir("/proc") if _is_in(name, folder)], 10)
    sweep()
    assert not Path(folder).exists()


def _is_in(pid: str, folder: str) -> bool:
    """Return whether a process has its HOME in a folder."""
    try:
        return pid.isdigit() and f"HOME={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
