"""The functions that the benchmarks call on every file."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import orjson

SLOW = ".slow.json"


def count_produce(filepath: str) -> dict[str, int]:
    """Return the sum of each group of produce in one log, as the sample does."""
    with open(filepath, encoding="utf-8") as file:
        produce = json.load(file)["produce"]
    return {group: sum(items.values()) for group, items in produce.items()}


def count_produce_orjson(filepath: str) -> dict[str, int]:
    """Return the same by orjson, as a path's function that cares for speed."""
    with open(filepath, "rb") as file:
        produce = orjson.loads(file.read())["produce"]
    return {group: sum(items.values()) for group, items in produce.items()}


def count_produce_bytes(filepath: str, data: bytes) -> dict[str, int]:
    """Return the same from the file's bytes (`input: bytes`)."""
    produce = orjson.loads(data)["produce"]
    return {group: sum(items.values()) for group, items in produce.items()}


def wait_20_ms(filepath: str) -> dict[str, float]:
    """Return when it began, having waited for 20 ms: a call of some service. A log with SLOW in its name takes 5 s."""
    began = time.time()
    time.sleep(5.0 if filepath.endswith(SLOW) else 0.02)
    return {"began": began, "ended": time.time(), "pid": os.getpid()}


def describe_json(filepath: str) -> dict[str, str | int]:
    """Return what one JSON file holds, whatever it is: one flat row of numbers and text, never null."""
    with open(filepath, "rb") as file:
        data = file.read()
    document = json.loads(data)
    n_nodes = n_keys = n_strings = n_characters = deepest = 0
    longest = ""
    nodes: list[tuple[Any, int]] = [(document, 1)]
    while nodes:
        node, depth = nodes.pop()
        n_nodes += 1
        deepest = max(deepest, depth)
        if isinstance(node, dict):
            n_keys += len(node)
            nodes += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            nodes += [(child, depth + 1) for child in node]
        elif isinstance(node, str):
            n_strings += 1
            n_characters += len(node)
            longest = max(longest, node, key=len)
    folder, name = os.path.split(filepath)
    return {
        "folder": os.path.basename(folder),
        "name": name,
        "size_bytes": len(data),
        "top_keys": " ".join(document) if isinstance(document, dict) else "",
        "nodes": n_nodes,
        "keys": n_keys,
        "depth": deepest,
        "strings": n_strings,
        "characters": n_characters,
        "longest": longest,
    }
