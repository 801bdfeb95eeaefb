"""What Ray says of the machines of a cluster: their names, what they have, for how many workers each has room."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from r3po.engines.needs import Amounts, room_for


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What Ray says of a machine."""

    node_id: str
    host: str
    address: str
    amounts: Amounts
    """What it has, whoever uses it now."""


def find_nodes() -> list[NodeInfo]:
    """Return the machines of the Ray that this process is joined to."""
    asked: Any = ray.nodes
    nodes: list[Mapping[str, Any]] = asked()
    return [
        NodeInfo(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"])
        for node in nodes
        if node["Alive"]
    ]


def name_of(node: NodeInfo, nodes: Collection[NodeInfo], taken: Collection[str]) -> str:
    """Return a machine's name for people: its host name, or its address if another one is called the same.

    Args:
        nodes: all machines.
        taken: names that are in use already, maybe by what was this machine before Ray on it started again.
    """
    hosts = [one.host for one in nodes]
    name = node.host if hosts.count(node.host) == 1 else node.address
    return f"{name} ({node.node_id[:6]})" if name in taken else name


def room_on(node: NodeInfo, nodes: Collection[NodeInfo], each: Amounts, n_workers: int | None) -> int:
    """Return for how many workers that call f a machine has room.

    Args:
        nodes: all machines.
        each: what a worker needs; empty: a CPU, or a part of one where more workers were asked for than there are.
        n_workers: how many were asked for; None: as many as there is room for.
    """
    if any(each.values()):
        return int(room_for(each, node.amounts))
    n_cpus = node.amounts.get("CPU", 0)
    n_all = max(1.0, sum(one.amounts.get("CPU", 0) for one in nodes))
    if n_workers is None or n_workers <= n_all:
        return int(n_cpus)
    return math.ceil(n_cpus * n_workers / n_all)
