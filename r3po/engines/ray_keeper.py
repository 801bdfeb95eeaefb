"""Keeps a private Ray: a process that starts its head, and ends all of it once the driver says so, or is gone.

Ray's processes are the keeper's children and not the driver's. They outlive no death of the driver, whichever of its
threads started the run, and what a worker has started is found here even when that worker is gone.

It works in two steps. The first imports Ray and starts the head. Then the process replaces its own program by the
second, which waits for the driver's end: the children stay its children, and Ray's modules leave the memory. The driver
is at the other end of two pipes: its words come in, and one answer, a line of JSON with the address of the head or with
what went wrong, goes out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from r3po.engines.ray_guard import end_users_of
from r3po.worker.processes import children_of, descendants_of, name_and_state

JOINED = b"joined\n"
"""What a driver says once it has joined; if it dies from then on, its own death speaks for itself."""

END = b"end\n"
"""What a driver says that is done with its Ray, or does not want it."""

DIED_AT_START = (
    "error: this run ended while Ray was starting; its raylet, or r3po itself, was killed\n"
    "hint:  your state is safe; run again to go on\n"
)

DIED_WITH_RAY = (
    "error: Ray is gone: its {name} ended, and r3po with it\nhint:  your state is safe; run again to go on\n"
)

VITAL = ("raylet", "gcs_server")
"""Processes without which Ray is no Ray."""

LOOK_S = 0.5

END_S = 10.0
"""Seconds within which killed processes are gone, if nothing holds them in the kernel."""

GRACE_S = 5.0
"""Seconds for Ray's processes to end each other where nobody else can find them all."""

_MOST_FILES = 65536
"""Files that Ray's processes may have open, where the limit can be raised that far."""

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Settings:
    """What the keeper is to know, as it is written on its command line."""

    folder: str
    """Ray's temporary one, which the driver has made."""
    driver: int
    """Process id."""
    screen: int
    """Descriptor of the driver's stderr; -1: there is none."""
    num_cpus: int
    num_gpus: int | None
    """None: as many as Ray finds."""
    object_store_bytes: int
    commands: int = 0
    """Descriptor from which the driver's words are read."""
    vital: dict[str, str] = field(default_factory=dict)
    """Names of the head's processes by their ids, once it has started."""


def command_of(settings: Settings, *flags: str) -> list[str]:
    """Return the command line of a keeper."""
    root = str(Path(__file__).resolve().parents[2])
    program = f"import sys; sys.path.append({root!r}); from r3po.engines import ray_keeper; ray_keeper.main()"
    return [sys.executable, *flags, "-c", program, json.dumps(asdict(settings))]


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    if settings.vital:
        _keep(settings)
    else:
        _start(settings)


# The first step


def _start(settings: Settings) -> None:
    _adopt_orphans()
    answers, settings = os.dup(1), replace(settings, commands=os.dup(0))
    # Ray's processes are to have neither the pipes nor the driver's stderr: who reads that would wait for them.
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    if settings.screen >= 0:
        os.set_inheritable(settings.screen, False)
    lock = threading.Lock()
    threading.Thread(target=_watch_start, args=(settings, answers, lock), daemon=True).start()
    try:
        head = _start_head(settings)
        vital = {str(info.process.pid): kind for kind in VITAL for info in head.all_processes[kind]}
        answer = {"address": head.gcs_address, "vital": vital}
    except BaseException as error:
        lock.acquire()  # for good, as below
        _fail(settings, answers, f"{type(error).__name__}: {error}")
    lock.acquire()  # for good: nobody else may end this process now, or read what the next step is to read
    _tell(answers, answer)
    os.close(answers)
    settings = replace(settings, vital=vital)
    if not head.kernel_fate_share:
        _keep(settings)  # Ray has a process of its own that would take the exec for our end
        return
    for number in (settings.commands, *([settings.screen] if settings.screen >= 0 else [])):
        os.set_inheritable(number, True)
    command = command_of(settings, "-I", "-S")
    os.execv(command[0], command)


def _start_head(settings: Settings) -> Any:
    """Start what a Ray of one machine cannot do without: no dashboard, autoscaler or reader of the workers' logs.

    Each of these is one more Python process, and starts as long as all of ours.
    """
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Head(Node):
        def start_api_server(self, **_: Any) -> None:
            """Nobody looks at it."""

    _raise_file_limit()
    make_params: Any = RayParams
    params = make_params(
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        object_store_memory=settings.object_store_bytes,
        temp_dir=settings.folder,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
    )
    return Head(params, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True)


def _raise_file_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch_start(settings: Settings, answers: int, lock: threading.Lock) -> None:
    """End everything if the driver says so or dies while Ray starts, and where a process of the head has died."""
    while True:
        ready, _, _ = select.select([settings.commands], [], [], LOOK_S)
        is_orphan, dead = os.getppid() != settings.driver, _dead_vital()
        if ready or is_orphan or dead:
            break
    lock.acquire()  # for good: this process ends here
    if is_orphan or (ready and not os.read(settings.commands, len(END))):
        _say(settings.screen, DIED_AT_START)
    _fail(settings, answers, f"its {dead} ended")


def _dead_vital() -> str:
    """Return the name of a process of the head that has died and that nobody has noticed."""
    for pid in children_of(os.getpid()):
        name, state = name_and_state(pid)
        if state == "Z" and name in VITAL:
            return name
    return ""


def _fail(settings: Settings, answers: int, what: str) -> NoReturn:
    _tell(answers, {"failed": what})
    _end_all(settings)
    os._exit(1)


def _tell(answers: int, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the driver is gone
        os.write(answers, json.dumps(answer).encode() + b"\n")


# The second step


def _keep(settings: Settings) -> None:
    """Wait for the driver's word, or its end."""
    words, dead = b"", ""
    while END not in words:
        ready, _, _ = select.select([settings.commands], [], [], LOOK_S)
        for pid in _reap():
            dead = dead or settings.vital.get(str(pid), "")
        word = os.read(settings.commands, 64) if ready else b""
        words += word
        if (ready and not word) or os.getppid() != settings.driver:
            if dead or JOINED not in words:
                _say(settings.screen, DIED_WITH_RAY.format(name=dead) if dead else DIED_AT_START)
            break
    if settings.screen >= 0:
        os.close(settings.screen)  # whoever reads it must not wait for us
    _end_all(settings)


def _say(screen: int, text: str) -> None:
    if screen < 0:
        return
    is_terminal = os.isatty(screen)  # where a live line hides the cursor
    with contextlib.suppress(OSError):
        os.write(screen, (f"\n\x1b[?25h{text}" if is_terminal else text).encode())


def _end_all(settings: Settings) -> None:
    """End Ray, its workers, and whatever they have started; then remove the folder."""
    deadline = time.monotonic() + END_S
    if os.path.isdir("/proc"):
        while (left := descendants_of(os.getpid())) and time.monotonic() < deadline:
            _kill(left)
            _reap()
            time.sleep(0.01)
        end_users_of(settings.folder, settings.driver)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)  # a raylet that is asked ends its workers
        while time.monotonic() < deadline - (END_S - GRACE_S) and _has_children():
            time.sleep(0.05)
        _kill([int(pid) for pid in settings.vital])
    shutil.rmtree(settings.folder, ignore_errors=True)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _reap() -> list[int]:
    """Return the children that have ended since."""
    ended: list[int] = []
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.append(pid)
    return ended


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _adopt_orphans() -> None:
    """Become the parent of whatever is below and loses its own, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
