"""Several machines on this one: each has its own network, processes, shared memory, host name, folders and raylet.

A machine is a process (`sleep`) in namespaces of its own: network, mounts, processes, IPC, host name. A further one
holds the switch that all are wired to. All of them, and whatever runs on them, end with the process that made them,
however it ends: the kernel sees to that. What may be left is a folder, which the next start removes.

    with Machines(3) as machines:
        machines.start_ray()
        driver = machines.home.start(sys.executable, "-m", "r3po", "run", "--address", machines.address, cwd=folder)
        machines[1].kill("worker")
        machines[2].cut_link()

What a machine sees of the disk: everything, but

- `machines.home_folder` only the first machine sees: the others find an empty folder there,
- `machines.local` is the same path everywhere, and another folder on each: its HOME, its TMPDIR, its Ray's files,
- `/dev/shm` is its own,
- `machines.shared` is what they share: for the source.

From outside, `machine.seen(path)` is a path as this machine sees it. It needs Linux, root, and `ip` of iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jobs import HAS_PROC, Ended, Pid, alive, all_pids, comes_true, command_of, environment, send, stat_of, wait_until

PREFIX = "r3m-"
"""Begins the name of each folder of machines; the id of the process that owns them follows."""

PLACES = ("/dev/shm", "/tmp")
"""Where they may lie: in memory, if there is so much that thousands of files do not fill it."""

_CGROUPS = Path("/sys/fs/cgroup/memory")

PORT = 6379

STORE_MB = 80
"""Ray's object store on each machine; Ray takes no less."""

TOOLS = ("ip", "tc", "nsenter", "unshare", "setpriv", "mount", "sh", "sleep")

RAY_ROLES = ("raylet", "gcs_server", "ray agent", "ray")
"""What belongs to a Ray on which nothing runs."""

RAY_START_S = 120

RAY_STARTS = 3
"""Ray gives up a raylet that does not answer within half a minute, as on a machine that is busy."""

GONE_S = 10.0
"""So long after a run nothing of it is left on any machine."""


@functools.cache
def why_not() -> str | None:
    """Return why no machines can be made here; None where they can."""
    if sys.platform != "linux" or not HAS_PROC:
        return "machines are made of namespaces of Linux"
    if os.geteuid():
        return "machines are made of namespaces, which only root may make"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=path) is None]:
        return f"machines need {', '.join(missing)}: apt-get install iproute2 util-linux"
    try:
        holder = _Holder(())
    except OSError as error:
        return f"no namespaces can be made here: {error}"
    try:
        made = holder.net("ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b", check=False)
    finally:
        holder.end()
    return f"no virtual network can be made here: {made.stderr.strip()}" if made.returncode else None


_ENDED_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Begins the command of what the kernel ends with the thread that starts it."""

_NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--propagation", "private", "--mount-proc")
_NAMESPACES += ("--fork", "--kill-child=KILL")


class _Holder:
    """A process that holds namespaces of its own, and is the first process (`init`) in them."""

    def __init__(self, before: tuple[str, ...], setup: str = "true", *values: str) -> None:
        """Make them; `before` begins the command, `setup` is done inside by a shell, which finds `values` as $1, $2 ...

        Raises:
            OSError: they cannot be made.
        """
        # A dead parent's children report to init, which must not keep them as zombies.
        inside = f"set -e; {setup}; echo ready; exec env --ignore-signal=CHLD sleep infinity"
        self._outer = subprocess.Popen(
            (*before, *_ENDED_WITH_US, *_NAMESPACES, "sh", "-c", inside, "sh", *values),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )
        assert self._outer.stdout is not None and self._outer.stderr is not None
        if self._outer.stdout.readline() != b"ready\n":
            said = self._outer.stderr.read().decode(errors="replace").strip()
            self._forget()
            raise OSError(said)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        self.pid = int(children[0])
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        self.in_network = ("nsenter", f"--net=/proc/{self.pid}/ns/net")
        """Begins the command of what runs in its network alone."""

    def net(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine's own files and processes in the other's network."""
        done = subprocess.run((*self.in_network, *command), capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done

    @property
    def is_alive(self) -> bool:
        return self._outer.poll() is None

    def end(self) -> None:
        """SIGKILL it, and with it all that runs in its namespaces."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._outer.wait(30)
        self._forget()

    def _forget(self) -> None:
        self._outer.kill()
        self._outer.wait(30)
        for pipe in (self._outer.stdout, self._outer.stderr):
            assert pipe is not None
            pipe.close()


@dataclass
class Program:
    """A program on a machine that goes on while the test looks; its stdout and stderr go to files."""

    outer: subprocess.Popen[bytes]
    """nsenter, which waits for it and takes its exit code on."""
    out_file: Path
    err_file: Path

    @property
    def out(self) -> str:
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_file.read_text(errors="replace")

    @functools.cached_property
    def pid(self) -> Pid:
        """The program itself, as seen from outside."""
        children: list[str] = []

        def is_there() -> bool:
            assert self.outer.poll() is None, f"ended at once with {self.outer.returncode}: {self.err}"
            children[:] = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
            return bool(children)

        wait_until(is_there, "the program is there", 30)
        stat = stat_of(int(children[0]))
        assert stat is not None
        return (int(children[0]), stat[19])

    def poll(self) -> int | None:
        return self.outer.poll()

    def send(self, number: signal.Signals) -> None:
        send(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.outer.wait(30)

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 90) -> None:
        """Wait for a condition; the program must be alive until then."""

        def is_so() -> bool:
            if condition():
                return True
            assert self.poll() is None, f"ended with {self.outer.returncode} before: {what}\n{self.err}{self.out}"
            return False

        wait_until(is_so, f"{what}\n{self.err[-3000:]}", timeout_s)

    def end(self, timeout_s: float = 180) -> Ended:
        """Wait for its end, and return how it ended."""
        try:
            return Ended(self.outer.wait(timeout_s), self.out, self.err)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end within {timeout_s:.0f} s\n{self.err[-3000:]}") from None


class Machine:
    """One of them. It is there from the start; its raylet after `start_ray`."""

    def __init__(self, machines: Machines, number: int, num_cpus: int, memory_mb: int | None, **changed: str) -> None:
        self.machines, self.number, self.num_cpus = machines, number, num_cpus
        self.name, self.ip = f"m{number}", f"10.99.0.{number}"
        self.disk = machines.folder / "disks" / self.name
        """What the machine has at `machines.local`, seen from outside."""
        self.environment = changed
        """What is other in the environment of all its programs, its raylet among them."""
        self._wire, self._n_programs, self._memory_mb = f"w{number}", 0, memory_mb
        self._cgroup: Path | None = None
        self._holder: _Holder | None = None
        self.switch_on()

    # The machine itself

    def switch_on(self) -> None:
        """Begin with nothing running, an empty disk and a whole link. Only on a thread that stays."""
        self._end()
        shutil.rmtree(self.disk, ignore_errors=True)
        for folder in ("home", "tmp"):
            (self.disk / folder).mkdir(parents=True)
        self._cgroup = self._make_cgroup() if self._memory_mb else None
        machines = self.machines
        # All of it may lie in the shared memory of this process, which is not the machine's own.
        setup = 'hostname "$1"; exec 3<"$6"; mount -t tmpfs -o size=400m none /dev/shm'
        setup += (
            '; mkdir -p "$6"; mount --no-canonicalize --bind /proc/self/fd/3 "$6"; exec 3<&-; mount --bind "$2" "$3"'
        )
        if machines.hides_home and self.number > 1:
            setup += '; mount -t tmpfs -o ro,size=4k none "$4"'
        setup += '; mount -t tmpfs -o ro,size=4k none "$5"'
        if self._cgroup:
            setup += '; mount --bind "$7" /sys/fs/cgroup/memory'
        disks, cgroup = machines.folder / "disks", self._cgroup or ""
        paths = (self.disk, machines.local, machines.home_folder, disks, machines.folder, cgroup)
        self._holder = _Holder(self._in_cgroup, setup, self.name, *map(str, paths))
        self._plug_in()

    def switch_off(self) -> None:
        """Lose power: the others hear nothing any more, not even that connections end. Nothing of it is left."""
        self.cut_link()
        self._end()

    def crash(self) -> None:
        """End all its processes at once; the others hear of it, since the kernel closes their connections."""
        self._end()

    def _end(self) -> None:
        if self._holder is not None:
            self._holder.end()
            self._holder = None
            self.machines.switch.net("ip", "link", "del", self._wire, check=False)
        if self._cgroup is not None:
            cgroup, self._cgroup = self._cgroup, None
            comes_true(lambda: _is_removed(cgroup), 10, 0.1)

    @property
    def is_on(self) -> bool:
        return self._holder is not None and self._holder.is_alive

    @property
    def holder(self) -> _Holder:
        assert self._holder is not None, f"{self.name} is switched off"
        return self._holder

    def seen(self, path: Path | str) -> Path:
        """Return where this process finds what the machine has at a path."""
        return Path(f"/proc/{self.holder.pid}/root{path}")

    # Programs

    def start(self, *command: str, cwd: Path | None = None, **changed: str | None) -> Program:
        """Start a program on the machine; with None, a variable is missing from its environment."""
        self._n_programs += 1
        logs = self.machines.folder / "programs"
        out_file, err_file = (logs / f"{self.name}-{self._n_programs:03}.{kind}.txt" for kind in ("out", "err"))
        home, temporary = self.machines.local / "home", self.machines.local / "tmp"
        given: dict[str, str | None] = {"HOME": str(home), "TMPDIR": str(temporary), "RAY_TMPDIR": None}
        given |= {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": None}
        given |= self.environment
        given |= changed
        enter = ("nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--uts", "--ipc", "--pid")
        with open(out_file, "wb") as out, open(err_file, "wb") as err:
            outer = subprocess.Popen(
                (*self._in_cgroup, *enter, f"--wdns={cwd or home}", *command),
                env=environment(**given),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Program(outer, out_file, err_file)

    def run(self, *command: str, cwd: Path | None = None, timeout_s: float = 120, **changed: str | None) -> Ended:
        """Run a program on the machine to its end."""
        program = self.start(*command, cwd=cwd, **changed)
        try:
            return program.end(timeout_s)
        finally:
            if program.poll() is None:
                program.kill()

    def python(self, code: str, *arguments: str, timeout_s: float = 120) -> str:
        """Run Python on the machine, and return what it prints."""
        ended = self.run(sys.executable, "-c", code, *arguments, timeout_s=timeout_s)
        assert ended.code == 0, ended.err
        return ended.out

    # Its Ray

    def start_ray(self) -> None:
        """Start a raylet as people do; on the first machine the head, with which the others have to find it."""
        words = [f"--node-ip-address={self.ip}", f"--num-cpus={self.num_cpus}", "--disable-usage-stats"]
        words += [f"--object-store-memory={STORE_MB << 20}", f"--temp-dir={self.machines.local / 'ray'}"]
        if self is self.machines.head:
            words += ["--head", f"--port={PORT}", "--include-dashboard=false"]
        else:
            words += [f"--address={self.machines.address}", f'--resources={{"away": {self.num_cpus}}}']
        for _ in range(RAY_STARTS):
            ended = self.run(str(Path(sys.executable).with_name("ray")), "start", *words, timeout_s=RAY_START_S)
            if ended.code == 0:
                return
            self.kill_everything()  # what it has started by then lives on
        raise AssertionError(f"{self.name}: {ended.said}")

    def restart_ray(self) -> None:
        """End whatever still runs on the machine, and join again; a machine that is off is switched on."""
        if self.is_on:
            self.kill_everything()
            shutil.rmtree(self.disk / "ray", ignore_errors=True)
            for left in (self.disk / "tmp").glob("r3po-agent-*"):  # as at boot: nobody is there who could do it
                shutil.rmtree(left, ignore_errors=True)
        else:
            self.switch_on()
        self.start_ray()

    # Its processes

    def processes(self) -> dict[Pid, str]:
        """Return what runs on it now, and its role: raylet, gcs_server, ray agent, ray (whatever else is Ray's),
        worker, agent (r3po's actors), r3po, other."""
        if self._holder is None:
            return {}
        found: dict[Pid, str] = {}
        for pid in all_pids():
            with contextlib.suppress(OSError):
                if pid != self._holder.pid and os.readlink(f"/proc/{pid}/ns/pid") == self._holder.namespace:
                    stat = stat_of(pid)
                    if stat and stat[0] != "Z":
                        found[(pid, stat[19])] = role_of(command_of(pid))
        return found

    def of_role(self, role: str) -> list[Pid]:
        return [pid for pid, of in self.processes().items() if of == role]

    def kill(self, role: str, n: int | None = None, rng: random.Random | None = None) -> list[Pid]:
        """SIGKILL all processes of a role, or `n` of them; return which."""
        targets = self.of_role(role)
        if n is not None:
            targets = (rng or random.Random(1)).sample(targets, min(n, len(targets)))
        for pid in targets:
            send(pid, signal.SIGKILL)
        return targets

    def kill_everything(self) -> None:
        while targets := alive(list(self.processes())):
            for pid in targets:
                send(pid, signal.SIGKILL)

    # Its link

    def cut_link(self) -> None:
        """From now on nothing comes through, in either direction, and nobody is told."""
        self.machines.switch.net("ip", "link", "set", self._wire, "nomaster")

    def mend_link(self) -> None:
        self.machines.switch.net("ip", "link", "set", self._wire, "master", "br0")

    @contextmanager
    def link_cut(self) -> Iterator[None]:
        self.cut_link()
        try:
            yield
        finally:
            self.mend_link()

    def slow_link(self, rate: str | None = "1mbit") -> None:
        """Let so much through in each direction, and queue what does not fit for up to 2 s; None: as it was."""
        self.machines.switch.net("tc", "qdisc", "del", "dev", self._wire, "root", check=False)
        self.holder.net("tc", "qdisc", "del", "dev", "eth0", "root", check=False)
        if rate is not None:
            shape = ("root", "tbf", "rate", rate, "burst", "16kbit", "latency", "2s")
            self.machines.switch.net("tc", "qdisc", "add", "dev", self._wire, *shape)
            self.holder.net("tc", "qdisc", "add", "dev", "eth0", *shape)

    def listen(self) -> socket.socket:
        """Return a socket of this process that listens at the machine's address: all machines reach it."""
        found: list[socket.socket] = []

        def listen() -> None:
            with open(f"/proc/{self.holder.pid}/ns/net") as network:
                assert ctypes.CDLL(None).setns(network.fileno(), 0) == 0
            found.append(socket.create_server((self.ip, 0), backlog=256))

        # A thread may enter another network by itself; the socket stays there when the thread is over.
        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        return found[0]

    # What it does not see

    @contextmanager
    def hidden(self, folder: Path) -> Iterator[None]:
        """Let the machine see an empty folder there, as where a mount is missing."""
        enter = ("nsenter", "--target", str(self.holder.pid), "--mount", "--pid")
        subprocess.run((*enter, "mount", "-t", "tmpfs", "-o", "ro,size=4k", "none", str(folder)), check=True)
        try:
            yield
        finally:
            subprocess.run((*enter, "umount", "--lazy", str(folder)), check=False)

    # What is left on it

    def files(self) -> set[str]:
        """Return what lies in its HOME, its TMPDIR and its shared memory, without what is Ray's own."""
        if self._holder is None:
            return set()
        found = {
            f"{place}/{path.relative_to(root)}"
            for place, root in (
                ("~", self.disk / "home"),
                ("TMPDIR", self.disk / "tmp"),
                ("shm", self.seen("/dev/shm")),
            )
            for path in root.rglob("*")
        }
        return {name for name in found if not name.startswith(("shm/plasma", f"shm/{PREFIX}", "~/.ray", "~/.cache"))}

    def left(self, files_before: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
        """Return the processes that are not a resting Ray's, and the files that were not there before."""
        running = [f"{role} {pid[0]} {' '.join(command_of(pid[0]))[:120]}" for pid, role in self.processes().items()
                   if role not in RAY_ROLES]  # fmt: skip
        return sorted(running) + sorted(self.files() - files_before)

    # Private methods

    @property
    def _in_cgroup(self) -> tuple[str, ...]:
        if self._cgroup is None:
            return ()
        return ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self._cgroup))

    def _make_cgroup(self) -> Path | None:
        """Limit the machine's memory, where the kernel has memory cgroups of version 1 and lets us make them."""
        cgroup = _CGROUPS / f"{self.machines.folder.name}-{self.name}"
        try:
            cgroup.mkdir()
        except OSError:
            return None
        (cgroup / "memory.limit_in_bytes").write_text(f"{self._memory_mb}M")
        return cgroup

    @property
    def has_limited_memory(self) -> bool:
        return self._cgroup is not None

    def _plug_in(self) -> None:
        switch, holder = self.machines.switch, self.holder
        switch.net(
            *("ip", "link", "add", "name", self._wire, "type", "veth"),
            *("peer", "name", "eth0", "netns", f"/proc/{holder.pid}/ns/net"),
        )
        switch.net("ip", "link", "set", self._wire, "up", "master", "br0")
        holder.net("ip", "link", "set", "lo", "up")
        holder.net("ip", "address", "add", f"{self.ip}/24", "dev", "eth0")
        holder.net("ip", "link", "set", "eth0", "up")
        # Nobody is there; but a machine finds its own address by the way to the world.
        holder.net("ip", "route", "add", "default", "via", "10.99.0.254")


class Machines:
    """`n` machines on one switch, the first of which is home; a context, at whose end nothing of them is left.

    Args:
        n: how many.
        num_cpus: of each machine's raylet.
        hides_home: whether only the first sees `home_folder`.
        memory_mb: how much memory each machine but the first has; None for no limit.
    """

    def __init__(self, n: int, *, num_cpus: int = 2, hides_home: bool = True, memory_mb: int | None = None) -> None:
        self.num_cpus, self.hides_home, self.memory_mb = num_cpus, hides_home, memory_mb
        self._n = n
        self._all: list[Machine] = []
        self._timers: list[threading.Timer] = []
        self._watch: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        sweep()
        self.folder = _new_folder()
        self.shared, self.home_folder, self.local = (self.folder / name for name in ("shared", "home", "local"))
        for folder in (self.shared, self.home_folder, self.local, self.folder / "disks", self.folder / "programs"):
            folder.mkdir()
        try:
            self.switch = _Holder(())
            self.switch.net("ip", "link", "add", "name", "br0", "type", "bridge")
            self.switch.net("ip", "link", "set", "br0", "up")
            for _ in range(self._n):
                self.add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        self._stop_watching()
        for machine in self._all:
            machine.crash()
        if hasattr(self, "switch"):
            self.switch.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, number: int) -> Machine:
        return self._all[number]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def home(self) -> Machine:
        """The first: the driver runs there."""
        return self._all[0]

    @property
    def head(self) -> Machine:
        """The first: Ray's head is there, too."""
        return self._all[0]

    @property
    def away(self) -> list[Machine]:
        return self._all[1:]

    @property
    def address(self) -> str:
        return f"{self.head.ip}:{PORT}"

    def add(self, **changed: str) -> Machine:
        """Add a machine, whose Ray is not started; what is `changed` in its environment, all its programs get."""
        number = len(self._all) + 1
        memory_mb = self.memory_mb if number > 1 else None
        machine = Machine(self, number, self.num_cpus, memory_mb, **changed)
        self._all.append(machine)
        return machine

    def start_ray(self) -> None:
        """Start the head, then all others at once; return when all have joined."""
        self.head.start_ray()
        with ThreadPoolExecutor(max(1, len(self.away))) as threads:
            list(threads.map(Machine.start_ray, self.away))
        self.wait_for_nodes(len(self._all))

    def mend(self) -> None:
        """Bring every machine back to where it was after `start_ray`: only what was hit is started again."""
        for machine in self._all:
            if machine.is_on:
                machine.mend_link()
                machine.slow_link(None)
        if not self.head.of_role("raylet") or not self.head.of_role("gcs_server"):
            self._stop_watching()
            self.head.restart_ray()
            hit = self.away
        else:
            known = set(self.node_addresses())
            hit = [machine for machine in self.away if not machine.of_role("raylet") or machine.ip not in known]
        for machine in hit:
            if not machine.is_on:
                machine.switch_on()
        with ThreadPoolExecutor(max(1, len(hit))) as threads:
            list(threads.map(Machine.restart_ray, hit))
        self.wait_for_nodes(len(self._all))

    def node_addresses(self) -> list[str]:
        """Return the addresses of the machines that Ray takes for alive now."""
        file, asked_at = self.folder / "nodes.json", time.monotonic()
        if self._watch is None or self._watch.poll() is not None:
            # In home's network, but none of its processes: it is not to be counted among them, nor to be killed.
            self._watch = subprocess.Popen(
                (*_ENDED_WITH_US, *self.head.holder.in_network, sys.executable, "-c", _WATCH, self.address, str(file)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
            )

        def seen() -> list[str] | None:
            with contextlib.suppress(FileNotFoundError):
                seen_at, addresses = json.loads(file.read_text())
                if seen_at > asked_at:
                    return list(addresses)
            return None

        wait_until(lambda: seen() is not None, f"Ray at {self.address} tells its machines", 60)
        return seen() or []

    def wait_for_nodes(self, n: int, timeout_s: float = 90) -> None:
        """Wait until Ray takes exactly `n` machines for alive."""
        wait_until(lambda: len(self.node_addresses()) == n, f"Ray has {n} machines", timeout_s)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something in some seconds, unless all is over by then."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def files(self) -> dict[str, set[str]]:
        return {machine.name: machine.files() for machine in self._all}

    def left(self, files_before: dict[str, set[str]]) -> dict[str, list[str]]:
        """Return what is left on each machine now: processes, and files that were not there before."""
        found = {machine.name: machine.left(files_before.get(machine.name, set())) for machine in self._all}
        return {name: left for name, left in found.items() if left}

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait(30)
            self._watch = None

    def assert_nothing_left(self, files_before: dict[str, set[str]], within_s: float = GONE_S) -> None:
        comes_true(lambda: not self.left(files_before), within_s, 0.25)
        left = self.left(files_before)
        assert left == {}, f"left after {within_s:.0f} s: {left}"


def sweep() -> None:
    """Remove what machines of a killed process left: folders, memory cgroups. Their processes ended with it."""
    for folder in [found for place in (*PLACES, _CGROUPS) for found in Path(place).glob(f"{PREFIX}*")]:
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            if folder.parent == _CGROUPS:
                _is_removed(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def role_of(command: list[str]) -> str:
    """Return what a process is, by its command line; Ray names its workers after what they run."""
    program = command[0].strip() if command else ""
    if program.startswith("ray::"):
        actor = program.removeprefix("ray::").partition(".")[0]
        if actor in ("DashboardAgent", "RuntimeEnvAgent"):
            return "ray agent"
        if actor in ("IDLE", "IDLE_SpillWorker", "IDLE_RestoreWorker"):
            return "ray"
        return "agent" if "agent" in actor.lower() else "worker"
    if any(word.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for word in command):
        return "ray agent"
    name = os.path.basename(program)
    if name in ("raylet", "gcs_server"):
        return name
    if any("/ray/" in word and word.endswith(".py") for word in command):
        return "ray"
    return "r3po" if "r3po" in " ".join(command) else "other"


# Private functions


def _new_folder() -> Path:
    """Make a folder with a short path, since Ray's sockets lie in it."""
    has_memory = os.access(PLACES[0], os.W_OK) and shutil.disk_usage(PLACES[0]).free > 2 << 30
    place = PLACES[0] if has_memory else PLACES[1]
    for number in itertools.count(1):
        folder = Path(place, f"{PREFIX}{os.getpid()}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755)
            return folder
    raise AssertionError("there is a free name")


_WATCH = """
import json, os, sys, time
from ray._raylet import GcsClient

address, file = sys.argv[1:]
client = None
while True:
    asked_at = time.monotonic()
    try:
        client = client or GcsClient(address)
        nodes = client.get_all_node_info(timeout=5).values()
        with open(file + ".new", "w") as out:
            json.dump([asked_at, [node.node_manager_address for node in nodes if node.state == 0]], out)
        os.replace(file + ".new", file)
    except Exception:
        client = None
    time.sleep(0.3)
"""
"""Write who is alive, by Ray's own list, without joining it; and go on when Ray is another one."""


def _is_removed(cgroup: Path) -> bool:
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


def main() -> None:
    """Make machines, and tell how to enter them, until Ctrl-C: to try something by hand."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with Machines(n) as machines:
        started = time.monotonic()
        machines.start_ray()
        print(f"{n} machines, Ray at {machines.address} (ready in {time.monotonic() - started:.1f} s)")
        print(f"shared {machines.shared}, home {machines.home_folder}, each machine's own {machines.local}")
        for machine in machines:
            print(f"{machine.name}  {machine.ip}  nsenter -t {machine.holder.pid} -n -m -u -i -p bash")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
