"""Joins a Ray that is there, within a limit of time, and leaves it again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray._private import ray_constants, services

from r3po.engines.ray_address import ALONE_HINT, HEAD_HINT, check_reachable, find_running
from r3po.engines.ray_lines import ray_lines_to
from r3po.engines.ray_node import hide_messages
from r3po.errors import RunStoppedError
from r3po.text import first_line

log = logging.getLogger(__name__)

ASK_S = 8.0
"""Seconds for what the head of a Ray is asked before it is joined."""

JOIN_S = 60.0
"""Seconds for joining a Ray that has answered: half a second, if the machines are idle."""

LEAVE_S = 10.0
"""Seconds for leaving a Ray, which may have gone."""

_TOKEN_HINT = (
    "give that Ray's token in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token\n"
    "(whoever started it sees it with  ray get-auth-token); RAY_AUTH_MODE must not say disabled"
)

_OF_ALL = {
    # `uv run` would upload the working directory to each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # At its end Ray waits 5 s for a GCS that may be gone, to tell it of tasks that are of no use any more.
    "RAY_task_events_shutdown_flush_timeout_ms": "200",
}
"""What Ray reads in the environment of a run, whichever Ray it joins."""


class JoinTimeout(TimeoutError):
    """Ray has not come back from its `init`."""


class JoinedRay:
    """A Ray that others have started; it is left as it was found.

    Args:
        address: `auto`, or host:port of its head.
        log_file: where Ray's own messages go; they stay off the screen.
    """

    def __init__(self, address: str, log_file: Path) -> None:
        self._address, self._log_file = address, log_file
        self._until_end = contextlib.ExitStack()

    def start(self) -> str:
        """Join it.

        Returns:
            Its address, host:port.

        Raises:
            RunStoppedError: there is no such Ray, or it is none for this process.
        """
        address = find_running(os.environ) if self._address == "auto" else self._address
        check_reachable(address)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_logging_only_to(self._log_file, "ray._private"))
            with ray_lines_to(self._log_file):
                stack.enter_context(_fitting_token(address))
                check_fit(address)
                try:
                    with _in_environment(_OF_ALL):
                        _join(address, self._log_file, JOIN_S)
                except Exception as error:
                    leave()
                    raise _refusal(address, error, self._log_file) from error
            stack.callback(leave)
            stack.enter_context(_logging_only_to(self._log_file, "ray"))
            self._until_end = stack.pop_all()
        return address

    def end(self) -> None:
        """Leave it."""
        self._until_end.close()


@contextlib.contextmanager
def join_private(address: str, variables: Mapping[str, str], log_file: Path, limit_s: float) -> Iterator[None]:
    """Be joined to a private Ray of this machine inside the block.

    Args:
        variables: what Ray is to read in the environment, whatever that says.

    Raises:
        JoinTimeout: it takes longer than `limit_s`.
        Exception: whatever Ray's `init` raises.
    """
    with settings_for_ray(variables), _logging_only_to(log_file, "ray._private"):
        try:
            with _in_environment(variables), _on_loopback():
                _join(address, log_file, limit_s)
            with _logging_only_to(log_file, "ray"):  # now: `ray.init` takes it away
                yield
        finally:
            leave()


def leave() -> None:
    """Leave Ray; if that takes for ever, it is left to the end of this process."""
    with contextlib.suppress(JoinTimeout):
        within(LEAVE_S, ray.shutdown)


def within(limit_s: float, act: Callable[[], Any]) -> None:
    """Do something of Ray's in a thread of its own: what waits in C++ cannot be interrupted, only left behind.

    Raises:
        JoinTimeout: it takes longer than `limit_s` seconds.
        BaseException: what it raises.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="r3po-ray-join", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise JoinTimeout(f"nothing has come of it for {limit_s:.0f} s")
    if raised:
        raise raised[0]


@contextlib.contextmanager
def settings_for_ray(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside this block Ray has read these variables, though it was imported before; then the environment's own."""
    with _in_environment(variables):
        _read_environment()
    uses_uv = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = variables.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") not in ("0", "false")
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = uses_uv
        _read_environment()


def check_fit(address: str) -> None:
    """Ask the head of a Ray whether this process may and can join; Ray's own `init` tells only that it failed.

    Raises:
        RunStoppedError: it cannot.
    """
    metadata, nodes = _ask(address)
    own = {"ray_version": ray.__version__, "python_version": ".".join(map(str, sys.version_info[:3]))}
    different = [
        f"{name.partition('_')[0].capitalize()} {metadata[name]}" for name in own if metadata[name] != own[name]
    ]
    if different and not _may_differ(metadata, own):
        raise RunStoppedError(
            f"the Ray at {address} was started with {' and '.join(different)}; here are "
            f"Ray {own['ray_version']} and Python {own['python_version']}",
            hint="install the same here, or submit the run to that Ray with  ray job submit",
        )
    if not any(map(_is_here, {node.node_manager_address for node in nodes})) and not _has_raylet(nodes):
        raise RunStoppedError(
            f"this machine is no part of the Ray at {address}",
            hint="make it one with  ray start , or submit the run to that Ray with  ray job submit",
        )


# Private functions


def _ask(address: str) -> tuple[dict[str, str], list[Any]]:
    """Return what a Ray says of its versions, and its machines that are there."""
    answer: list[Any] = []

    def ask() -> None:
        client = _gcs_client(address)
        text = client.internal_kv_get(b"CLUSTER_METADATA", namespace=ray_constants.KV_NAMESPACE_CLUSTER, timeout=ASK_S)
        answer[:] = (
            json.loads(text),
            [node for node in client.get_all_node_info(timeout=ASK_S).values() if not node.state],
        )

    try:
        within(ASK_S, ask)
    except Exception as error:
        raise _refusal(address, error, None) from error
    return answer[0], answer[1]


def _gcs_client(address: str) -> Any:
    return sys.modules["ray._raylet"].GcsClient(address=address)


def _refusal(address: str, error: Exception, log_file: Path | None) -> RunStoppedError:
    if isinstance(error, ray.exceptions.AuthenticationError):
        return RunStoppedError(
            f"the Ray at {address} does not take the token of this process",
            hint=_TOKEN_HINT,
        )
    evidence = None if log_file is None else f"Ray's own messages are in {log_file}"
    if isinstance(error, TimeoutError) and log_file is None:
        what = "what answers there is not the head of a Ray, or is too busy"
    else:
        what = first_line(str(error)) or type(error).__name__
    return RunStoppedError(
        f"cannot join the Ray at {address}: {what}", evidence=evidence, hint=f"{HEAD_HINT}\n{ALONE_HINT}"
    )


@contextlib.contextmanager
def _fitting_token(address: str) -> Iterator[None]:
    """Inside this block Ray has read the user's token, if that Ray wants one and the user does not say how.

    Ray itself looks for a token by default only where it has found the Ray by itself.
    """
    with settings_for_ray(_OF_ALL):
        mode = os.environ.get("RAY_AUTH_MODE", "").lower()
        wants = mode == "token" or _wants_token(address)
        if wants and not _has_token():  # with which Ray's C++ code would end this process
            raise RunStoppedError(f"the Ray at {address} wants a token, and there is none", hint=_TOKEN_HINT)
        if not wants or mode:
            yield
            return
    with settings_for_ray({**_OF_ALL, "RAY_AUTH_MODE": "token"}), _in_environment({"RAY_AUTH_MODE": "token"}):
        yield


def _wants_token(address: str) -> bool:
    try:
        within(ASK_S, lambda: _gcs_client(address))
    except ray.exceptions.AuthenticationError:
        return True
    except Exception as error:
        log.info("cannot ask %s: %s", address, error)
    return False


def _has_token() -> bool:
    loader: Any = sys.modules["ray._raylet"].AuthenticationTokenLoader.instance()
    has_one: bool = loader.has_token(ignore_auth_mode=True)
    return has_one


def _may_differ(metadata: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether Ray itself lets these versions of Python work together: the variable says so."""
    level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
    pythons = [text["python_version"].split(".")[:2] for text in (metadata, own)]
    return level == "minor" and metadata["ray_version"] == own["ray_version"] and pythons[0] == pythons[1]


def _is_here(host: str) -> bool:
    """Whether this machine has an address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((host, 0))
    except OSError:
        return False
    return True


def _has_raylet(nodes: list[Any]) -> bool:
    """Whether a process of this machine is one of a Ray's. Ray's own way to find it looks at all processes."""
    find: Any = services.find_node_ids
    return bool(set(find()) & {node.node_id.hex() for node in nodes})


def _join(address: str, log_file: Path, limit_s: float) -> None:
    def init() -> None:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )

    with ray_lines_to(log_file), _own_sigterm():
        within(limit_s, init)
    hide_messages()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Have Python's handler of SIGTERM called alone after this block, in which Ray's C++ puts one of its own before it.

    That one prints a stack, and sets an alarm that aborts the process 3 s later: a stop takes longer than that.
    Source: `absl::InstallFailureSignalHandler`, which Ray calls when it joins.
    """
    is_main = threading.current_thread() is threading.main_thread()
    has_alarm = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGALRM) if is_main else ():
            handler = signal.getsignal(number)
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)
        if is_main and not has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _read_environment() -> None:
    """Have Ray read the environment, which it does at its import alone."""
    raylet: Any = sys.modules["ray._raylet"]
    raylet.Config.initialize("")
    loader = raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    with contextlib.suppress(ray.exceptions.AuthenticationError):  # one is wanted, and there is none
        loader.has_token()  # reads it


@contextlib.contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside this block the environment says so; after it is as before, whatever Ray has set meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for what it is: it would look for this machine's address in the network instead."""
    switch = "ENABLE_RAY_CLUSTER"
    before = getattr(ray_constants, switch)
    setattr(ray_constants, switch, False)
    try:
        yield
    finally:
        setattr(ray_constants, switch, before)


@contextlib.contextmanager
def _logging_only_to(file: Path, name: str) -> Iterator[None]:
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
