"""What a Ray on this machine consists of: its processes, its folder, its switches that are not public."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
import ray.exceptions
from ray._private import ray_constants

from r3po.engines.ray_guard import TEMPORARY_PREFIX
from r3po.errors import RunStoppedError
from r3po.worker.processes import descendants_of, start_of

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"

_LOOPBACK_S = 5.0
"""Seconds that a connection from this machine to itself may take."""

_SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path; Ray's own part takes about 65 of them."""


_SETTINGS = {
    # Nobody else on this machine may use our Ray; and a token that is given keeps it from writing one to ~/.ray.
    "RAY_AUTH_MODE": "token",
    # `uv run` would upload the working directory to each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # At its end Ray waits 5 s for a GCS that may be gone, to tell it of tasks that are of no use any more.
    "RAY_task_events_shutdown_flush_timeout_ms": "200",
}
"""Environment of a private Ray, where the user has not said something else."""


def use_settings() -> None:
    """Have Ray start with our settings, in whatever order it and r3po were imported: it reads them at its import."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    raylet: Any = sys.modules["ray._raylet"]
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] not in ("0", "false")


def hide_messages() -> None:
    """Keep the raylet's messages off the screen: `log_to_driver=False` leaves them there."""
    internals = sys.modules["ray._private.worker"]
    if hasattr(internals, "_worker_logs_enabled"):
        setattr(internals, "_worker_logs_enabled", False)  # noqa: B010 - not in Ray's types


def global_node() -> Any:
    return getattr(sys.modules["ray._private.worker"], "_global_node", None)


def resources(name: str) -> dict[str, float]:
    asked: Any = getattr(ray, name)
    found: dict[str, float] = asked()
    return found


def find_dead() -> list[str] | None:
    node = global_node()
    return None if node is None else [kind for kind, _ in node.dead_processes()]


def answers() -> bool:
    """Whether the head of a Ray elsewhere can be reached. `ray.nodes` and its like would wait for it for ever."""
    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        sys.modules["ray._private.worker"].global_worker.gcs_client.internal_kv_get(b"r3po", None, timeout=5)
    except (OSError, ray.exceptions.RayError):
        return False
    except Exception as error:  # these are not Ray's public functions
        log.info("cannot ask Ray whether it is there: %s", error)
    return True


def check_loopback() -> None:
    """Make sure that processes of this machine reach each other, which a Ray that starts waits for.

    Raises:
        RunStoppedError: they do not.
    """
    try:
        with socket.create_server((_LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=_LOOPBACK_S).close()
    except OSError as error:
        raise RunStoppedError(
            f"Ray cannot start: processes of this machine do not reach each other on {_LOOPBACK} "
            f"({error.strerror or error})",
            hint="let the firewall or the VPN pass what goes from this machine to itself (is its interface lo up?);\n"
            "or run without Ray: r3po run --engine serial",
        ) from error


@contextlib.contextmanager
def environment_for_start(n_threads: int) -> Iterator[None]:
    """What Ray's processes are to inherit, where the user has not chosen.

    So many threads for a worker's libraries: each worker has a core, or what it asks for, and not all cores. And
    docstrings, which Ray itself needs: with `PYTHONOPTIMIZE=2` it does not start.
    """
    given = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
    if given.get("PYTHONOPTIMIZE", "0") not in ("", "0"):
        os.environ["PYTHONOPTIMIZE"] = "1"
    try:
        yield
    finally:
        for name in ("OMP_NUM_THREADS", "PYTHONOPTIMIZE"):
            if name in given:
                os.environ[name] = given[name]
            else:
                os.environ.pop(name, None)


@contextlib.contextmanager
def logging_only_to(file: Path, name: str) -> Iterator[None]:
    """Let what Ray's Python code logs under `name` go to `file` alone."""
    logger = logging.getLogger(name)
    handlers, propagates = logger.handlers[:], logger.propagate
    ours = logging.FileHandler(file, delay=True)
    logger.handlers[:], logger.propagate = [ours], False
    try:
        yield
    finally:
        ours.close()
        logger.handlers[:], logger.propagate = handlers, propagates


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts use this machine's loopback alone, as it does on macOS and Windows.

    It would take the address that leads to the internet, and wait for ever where a VPN or a firewall keeps packets
    from that one; and nobody else need reach it.
    """
    name, switch = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "ENABLE_RAY_CLUSTER"
    before, given = getattr(ray_constants, switch), os.environ.get(name)
    setattr(ray_constants, switch, False)
    os.environ[name] = "0"
    try:
        yield
    finally:
        setattr(ray_constants, switch, before)
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Keep our handler of SIGTERM while Ray starts: Ray's own would leave in the middle, by `sys.exit`."""
    utils = sys.modules["ray._private.utils"]
    name = "set_sigterm_handler"
    theirs = getattr(utils, name, None)
    if theirs is None:
        yield
        return
    setattr(utils, name, lambda handler: None)
    try:
        yield
    finally:
        setattr(utils, name, theirs)


def started_by_raylet(node: Any) -> list[tuple[int, int]]:
    """Return id and start of the workers, the agents, and whatever these have started."""
    infos = [] if node is None else node.all_processes.get("raylet", [])
    return [(pid, start_of(pid)) for info in infos for pid in descendants_of(info.process.pid)]


@contextlib.contextmanager
def no_grace(node: Any) -> Iterator[None]:
    """Let Ray's processes end at once: it would give each a second to leave by itself, and nothing in them is kept.

    Only where `end_users_of` can find the workers, which a raylet that is killed leaves behind.
    """
    end = getattr(node, "kill_all_processes", None)
    if end is None or not os.path.isdir("/proc"):
        yield
        return
    node.kill_all_processes = lambda **_: end(check_alive=False, allow_graceful=False)
    try:
        yield
    finally:
        del node.kill_all_processes


def make_temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    if len(os.fsencode(folder)) > _SOCKET_PATH_LIMIT - 70 and Path("/tmp").is_dir():
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir="/tmp"))
    return folder
