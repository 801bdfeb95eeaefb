"""What a Ray that this process has joined or started says of itself, by functions that are not public."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Any

import ray
import ray.exceptions

log = logging.getLogger(__name__)


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
