"""What the processes of `engines.processes` say to each other, over sockets: bytes with their length before them.

The driver's end never blocks: a worker that dies in the middle of a message, or does not read, holds nobody up.
"""

from __future__ import annotations

import socket
import struct

ORDER = struct.Struct("<cq")
"""`START`, with a socket, or `END`; the number of a worker."""

START, END = b"s", b"e"

ENDED = struct.Struct("<qq")
"""The number of a worker that has ended, and its status as `waitpid` gives it; `READY`: all is imported."""

READY = -1

ENVIRONMENT = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""What the process gets besides: a thread in it would keep it from forking workers. They do not have it."""

_LENGTH = struct.Struct("<Q")

_READ_BYTES = 1 << 18


def send_frame(connection: socket.socket, content: bytes) -> None:
    """Send a message, and wait until all of it is on its way."""
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive_frame(connection: socket.socket) -> bytes:
    """Wait for a message. Raises EOFError if the other side is gone."""
    return bytes(_receive(connection, *_LENGTH.unpack(_receive(connection, _LENGTH.size))))


class Channel:
    """The driver's end of a worker's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        self._unsent, self._received = bytearray(), bytearray()
        self.is_over = False
        """Nothing more will come."""

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` is to be called once the socket takes more."""
        return bool(self._unsent)

    def send(self, content: bytes) -> None:
        """Send a message; what the socket does not take at once is kept for `flush`."""
        self._unsent += _LENGTH.pack(len(content)) + content
        self.flush()

    def flush(self) -> None:
        """Send what was kept, as far as the socket takes it; to a worker that is gone nothing is sent."""
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()

    def receive(self) -> list[bytes]:
        """Return the messages that have come completely."""
        try:
            while content := self._connection.recv(_READ_BYTES):
                self._received += content
            self.is_over = True
        except BlockingIOError:
            pass
        except OSError:  # reset: the worker died with something unread
            self.is_over = True
        found = []
        while len(self._received) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                break
            found.append(bytes(self._received[_LENGTH.size : end]))
            del self._received[:end]
        return found

    def close(self) -> None:
        self._connection.close()


# Private functions


def _receive(connection: socket.socket, n_bytes: int) -> bytearray:
    content = bytearray(n_bytes)
    view, n_there = memoryview(content), 0
    while n_there < n_bytes:
        n_more = connection.recv_into(view[n_there:])
        if not n_more:
            raise EOFError
        n_there += n_more
    return content
