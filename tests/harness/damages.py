"""What may become of a file on a disk that fails, or under an editor: the one list of damages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]


def truncated(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randrange(1, len(content))]


def flipped(content: bytes, drawn: random.Random) -> bytes:
    changed = bytearray(content)
    for bit in drawn.sample(range(8 * len(content)), drawn.choice((1, 1, 2, 8))):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def torn(content: bytes, drawn: random.Random) -> bytes:
    """Leave a stretch of zeros, as a disk does that lost a block."""
    start = drawn.randrange(len(content))
    stop = min(len(content), start + drawn.choice((1, 16, 512)))
    return content[:start] + bytes(stop - start) + content[stop:]


DAMAGES: dict[str, Damage] = {
    "truncated": truncated,
    "flipped": flipped,
    "torn": torn,
    "garbage": lambda content, drawn: drawn.randbytes(drawn.choice((1, 100, len(content)))),
    "longer": lambda content, drawn: content + drawn.randbytes(drawn.choice((1, 8, 5000))),
    "zeros": lambda content, drawn: bytes(len(content)),
    "emptied": lambda content, drawn: b"",
}
"""Of any file."""

JSON_DAMAGES: dict[str, Damage] = {
    "another kind of file": lambda content, drawn: b'{"hello": "world"}',
    "a list": lambda content, drawn: b"[]",
    "edited": lambda content, drawn: content.replace(b': "', b': "x', 1),
    "a newer format": lambda content, drawn: json.dumps({**json.loads(content), "format": 999}).encode(),
}
"""Of a file of JSON with its digest."""
