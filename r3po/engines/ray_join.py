"""Joins a Ray that is there, within a limit of time, and leaves it again."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from r3po.engines.ray_lines import ray_lines_to
from r3po.engines.ray_node import hide_messages

LEAVE_S = 10.0
"""Seconds for leaving a Ray, which may have gone."""


class JoinTimeout(TimeoutError):
    """Ray has not come back from its `init`."""


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
        _within(LEAVE_S, ray.shutdown)


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


# Private functions


def _join(address: str, log_file: Path, limit_s: float) -> None:
    def init() -> None:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )

    with ray_lines_to(log_file):
        _within(limit_s, init)
    hide_messages()


def _within(limit_s: float, act: Callable[[], Any]) -> None:
    """Do something of Ray's in a thread of its own: what waits in C++ cannot be interrupted, only left behind."""
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


def _read_environment() -> None:
    """Have Ray read the environment, which it does at its import alone."""
    raylet: Any = sys.modules["ray._raylet"]
    raylet.Config.initialize("")
    loader = raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    loader.has_token()  # reads it


@contextlib.contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
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
