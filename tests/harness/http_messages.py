"""Messages of HTTP/1.1 as the bytes that came, for who hands them on."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple


class Message(NamedTuple):
    """A request or an answer, as it came.

    Attributes:
        head: up to the empty line, and with it.
        body: with the marks of its chunks.
        is_chunked: whether it has some.
        is_last: whether only the end of the connection ends it.
    """

    head: bytes
    body: bytes
    is_chunked: bool = False
    is_last: bool = False

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.head[9:12])


def read_request(client: socket.socket, incoming: BinaryIO) -> Message | None:
    """Return the next request of a connection; None: there is no other, or not all of it."""
    found = _read_head(incoming)
    if found is None:
        return None
    head, fields = found
    if fields.get(b"expect", b"").lower() == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = _read_chunks(incoming)
        return None if body is None else Message(head, body, is_chunked=True)
    body = _read_exactly(incoming, int(fields.get(b"content-length", 0)))
    return None if body is None else Message(head, body)


def read_answer(incoming: BinaryIO, method: str) -> Message | None:
    """Return the answer to a request of that method; None: there is none, or not all of it."""
    found = _read_head(incoming)
    if found is None:
        return None
    head, fields = found
    status = int(head[9:12])
    if method == "HEAD" or status < 200 or status in (204, 304):
        return Message(head, b"")
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = _read_chunks(incoming)
        return None if body is None else Message(head, body, is_chunked=True)
    if b"content-length" in fields:
        body = _read_exactly(incoming, int(fields[b"content-length"]))
        return None if body is None else Message(head, body)
    return Message(head, incoming.read(), is_last=True)


def without_marks(chunks: bytes) -> bytes:
    """Return what the chunks of a body hold."""
    pieces: list[bytes] = []
    while True:
        mark, _, chunks = chunks.partition(b"\r\n")
        n_bytes = int(mark.partition(b";")[0], 16)
        if n_bytes == 0:
            return b"".join(pieces)
        pieces.append(chunks[:n_bytes])
        chunks = chunks[n_bytes + 2 :]


# Private functions


def _read_head(incoming: BinaryIO) -> tuple[bytes, Mapping[bytes, bytes]] | None:
    lines = []
    while (line := incoming.readline()) != b"\r\n":
        if not line:
            return None
        lines.append(line)
    fields = (field.partition(b":") for field in lines[1:])
    return b"".join([*lines, b"\r\n"]), {name.lower(): value.strip() for name, _, value in fields}


def _read_exactly(incoming: BinaryIO, n_bytes: int) -> bytes | None:
    body = incoming.read(n_bytes) if n_bytes else b""
    return body if len(body) == n_bytes else None


def _read_chunks(incoming: BinaryIO) -> bytes | None:
    pieces: list[bytes] = []
    while True:
        mark = incoming.readline()
        if not mark:
            return None
        n_bytes = int(mark.partition(b";")[0], 16)
        piece = _read_exactly(incoming, n_bytes + 2)
        if piece is None:
            return None
        pieces += [mark, piece]
        if n_bytes == 0:
            return b"".join(pieces)
