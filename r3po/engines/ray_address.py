"""Which Ray a run uses: its own, or one that is there. Decided, and tried by a connection, without Ray itself."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from r3po.config.key_types import check_address, split_address
from r3po.engines.ray_guard import TEMPORARY_PREFIX
from r3po.errors import ConfigError, RunStoppedError
from r3po.worker.processes import command_of

REACH_S = 5.0
"""Seconds for a connection to the head of a Ray."""

HEAD_HINT = "is it running, and is that the address of its head (port 6379, unless told otherwise)?"

ALONE_HINT = "or take it out of the config (ray_address, --address): the run then has a Ray of its own"

_VARIABLE = "RAY_ADDRESS"

_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets for a job that was submitted to it, beside `RAY_ADDRESS`."""


@dataclass(frozen=True)
class Choice:
    """Which Ray it is to be."""

    address: str | None
    """`auto` or host:port; None: a private one."""
    notice: str = ""
    """What the user should know of it."""


def choose(configured: str | None, environment: Mapping[str, str]) -> Choice:
    """Return which Ray a run is to use.

    `RAY_ADDRESS` in the environment may be of another time or another project: it is only followed where Ray itself has
    set it for the job that this is, or where the config says `auto`, as Ray's own programs do.

    Raises:
        ConfigError: the address that is to be followed is none.
    """
    named = environment.get(_VARIABLE, "")
    if configured == "auto" and named not in ("", "auto"):
        return Choice(_from_environment(named))
    if configured is not None:
        return Choice(None if configured == "local" else configured)
    if named and _SUBMITTED in environment:
        return Choice(_from_environment(named))
    if named not in ("", "local"):
        return Choice(None, f"RAY_ADDRESS is {named}, and is not followed: --address auto does")
    return Choice(None)


def find_running(environment: Mapping[str, str]) -> str:
    """Return the address of the Ray that runs on this machine: the one that was started last, or the only one.

    Raises:
        RunStoppedError: there is none, or there are several.
    """
    latest = _latest(environment)
    if latest is not None and _is_reachable(latest):
        return latest
    found = sorted(set(_iter_running()))
    if not found:
        raise RunStoppedError(
            "no Ray is running on this machine, which ray_address: auto would join",
            hint=f"start one with  ray start , or name it: --address HOST:PORT;\n{ALONE_HINT}",
        )
    if len(found) > 1:
        raise RunStoppedError(
            f"{len(found)} Rays are running on this machine, and auto does not say which to join",
            evidence="\n".join(found),
            hint=f"name it: --address {found[0]}",
        )
    return found[0]


def check_reachable(address: str) -> None:
    """Try a connection: Ray itself would wait for two minutes.

    Raises:
        RunStoppedError: nobody answers there.
    """
    try:
        socket.create_connection(split_address(address), timeout=REACH_S).close()
    except OSError as error:
        reason = f"within {REACH_S:.0f} s" if isinstance(error, TimeoutError) else f"({error.strerror or error})"
        raise RunStoppedError(
            f"no Ray answers at {address} {reason}",
            hint=f"{HEAD_HINT}\n{ALONE_HINT}",
        ) from error


# Private functions


def _from_environment(named: str) -> str | None:
    if named == "local":
        return None
    try:
        return check_address(named)
    except ValueError as error:
        raise ConfigError(f"RAY_ADDRESS is {named}", hint=f"it {error}") from None


def _latest(environment: Mapping[str, str]) -> str | None:
    """Return what `ray start` has noted last, by Ray's own rule of where."""
    folder = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or tempfile.gettempdir()
    with contextlib.suppress(OSError, ValueError):
        return check_address((Path(folder) / "ray" / "ray_current_cluster").read_text().strip())
    return None


def _iter_running() -> Iterator[str]:
    """Give the addresses that the raylets of this machine belong to, but for the private ones of other runs."""
    flag = "--gcs-address="
    for pid in map(int, filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else [])):
        words = command_of(pid)
        if words and words[0].endswith("/raylet") and not any(TEMPORARY_PREFIX in word for word in words):
            yield from (word.removeprefix(flag) for word in words if word.startswith(flag))


def _is_reachable(address: str) -> bool:
    try:
        check_reachable(address)
    except RunStoppedError:
        return False
    return True
