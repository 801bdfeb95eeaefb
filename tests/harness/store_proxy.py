"""A proxy before an S3 server of this machine, which does to requests what may happen to them on the way.

    with FaultyProxy(server.port) as proxy:
        proxy.faults = [SLOW_DOWN, Cut()]                                   # of the next two requests
        proxy.choose = Rules(Rule(Cut(), share=0.02), Rule(Lost(), times=3, method="PUT"))  # of those after them
        ...
        assert proxy.counts[Lost()] == 3

Everything else goes through byte for byte, so the signatures of clients hold: they sign the proxy's address, and the
server believes the Host that it is told.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import BinaryIO, NamedTuple, Self
from urllib.parse import unquote

from http_messages import Message, read_answer, read_request, without_marks

MIDDLE = -1
"""In place of a number of bytes: half of the body."""


@dataclass(frozen=True)
class Status:
    """Answer with this status in place of the server."""

    code: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cut:
    """Close the connection: before the server is asked, or after so many bytes of the answer's body, of which all were
    promised."""

    after_bytes: int | None = None


@dataclass(frozen=True)
class Short:
    """Give only the first bytes of the answer's body, and say that these are all."""

    n_bytes: int


@dataclass(frozen=True)
class Delay:
    """Wait before the server is asked."""

    seconds: float


@dataclass(frozen=True)
class Torn:
    """Hand half of the request on, and close the connections to both sides."""


@dataclass(frozen=True)
class Lost:
    """Let the server do what it is asked, and close the connection without its answer."""


@dataclass(frozen=True)
class OldListing:
    """Answer a request for a listing as the same one was answered first; one that is new is asked."""


Fault = Status | Cut | Short | Delay | Torn | Lost | OldListing


def s3_error(code: int, name: str) -> Status:
    """Return the answer by which an S3 server says no."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{name}</Code><Message>{name}</Message></Error>'
    return Status(code, body.encode(), (("Content-Type", "application/xml"),))


TOO_MANY = s3_error(429, "TooManyRequests")
INTERNAL = s3_error(500, "InternalError")
SLOW_DOWN = s3_error(503, "SlowDown")


@dataclass(frozen=True)
class Rule:
    """Which requests have a fault.

    Attributes:
        fault: what happens to them.
        share: of those that fit: how many of them, drawn at random.
        times: how often at most; None: without end.
        method: of the requests that fit; None: of any.
        where: whether a path with its query fits.
    """

    fault: Fault
    _: KW_ONLY
    share: float = 1.0
    times: int | None = None
    method: str | None = None
    where: Callable[[str], bool] = lambda path: True


class Rules:
    """Chooses the fault of each request: that of the first rule which fits and is drawn."""

    def __init__(self, *rules: Rule, seed: int = 0) -> None:
        self._rules = rules
        self._left = [rule.times for rule in rules]
        self._random = random.Random(seed)

    def __call__(self, method: str, path: str) -> Fault | None:
        for n, rule in enumerate(self._rules):
            left = self._left[n]
            if rule.method not in (None, method) or left == 0 or not rule.where(path):
                continue
            if self._random.random() < rule.share:
                self._left[n] = left - 1 if left is not None else None
                return rule.fault
        return None


def key_of(path: str) -> str:
    """Return the key that a request's path names; of a listing, and of the bucket itself, the empty one."""
    return unquote(path.partition("?")[0][1:].partition("/")[2])


class Served(NamedTuple):
    """A request that is over.

    Attributes:
        method: of the request.
        path: with its query, as it came.
        status: of the server's answer, or of the one in its place; None: there was none.
        fault: what was done to it.
    """

    method: str
    path: str
    status: int | None
    fault: Fault | None


class FaultyProxy:
    """A server that hands requests on to another one on this machine, and does what it is told to some.

    Attributes:
        endpoint: its URL.
        faults: of the next requests, in order; None lets one pass.
        choose: asked with method and path for each request while `faults` is empty. See `Rules`.
        requests: method and path of each request so far, as they came.
        served: what became of them, as they ended.
        counts: how often it did what.
    """

    def __init__(self, port: int, listener: socket.socket | None = None) -> None:
        """Listen on a port of this machine, or on a socket that listens already."""
        self.faults: list[Fault | None] = []
        self.choose: Callable[[str, str], Fault | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.served: list[Served] = []
        self.counts: Counter[Fault] = Counter()
        self._server_port = port
        self._first_listings: dict[str, Message] = {}
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = _Listener(self._serve_client, listener or socket.create_server(("127.0.0.1", 0), backlog=256))
        host, self.port = self._listener.socket.getsockname()
        self.endpoint = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connections of all clients, whatever they wait for."""
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def forget_listings(self) -> None:
        """Let the next listings be those that `OldListing` answers."""
        with self._lock:
            self._first_listings.clear()

    # Private methods

    def _serve_client(self, client: socket.socket) -> None:
        """Serve the requests of one connection, one after the other."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._clients.add(client)
        try:
            with _Upstream(self._server_port) as upstream, client.makefile("rb") as incoming:
                while (request := read_request(client, incoming)) is not None:
                    if not self._serve(request, client, upstream):
                        break
        except OSError:
            pass  # somebody hung up
        finally:
            with self._lock:
                self._clients.discard(client)

    def _serve(self, request: Message, client: socket.socket, upstream: _Upstream) -> bool:
        """Answer one request; return whether the connection stays open."""
        method, path, _ = request.head.decode("latin-1").split(" ", 2)
        fault = self._fault_of(method, path)
        answer = None
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
        if isinstance(fault, Status):
            answer = _answer_of(fault, method)
        elif isinstance(fault, Torn):
            upstream.tear(request)
        elif fault != Cut():
            old = self._first_listings.get(path) if isinstance(fault, OldListing) else None
            answer = old or upstream.ask(request, method)
            if answer and answer.status == 200 and method == "GET" and "list-type=2" in path:
                self._first_listings.setdefault(path, answer)
        self.served.append(Served(method, path, answer.status if answer else None, fault))
        if answer is None or isinstance(fault, Lost):
            return False
        client.sendall(_altered(answer, fault))
        return not isinstance(fault, Cut) and not answer.is_last

    def _fault_of(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            fault = self.faults.pop(0) if self.faults else self.choose(method, path)
            if fault is not None:
                self.counts[fault] += 1
            return fault


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, serve: Callable[[socket.socket], None], listener: socket.socket) -> None:
        self._serve = serve
        super().__init__(listener.getsockname(), socketserver.BaseRequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self._serve(request)


class _Upstream:
    """The connection to the server that belongs to one of a client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._incoming: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def ask(self, request: Message, method: str) -> Message | None:
        """Return the server's answer; None: it gave none, or not all of it."""
        try:
            connection, incoming = self._open()
            connection.sendall(request.head + request.body)
            while (answer := read_answer(incoming, method)) is not None and answer.status < 200:
                pass  # it goes on: the client was told so already
        except OSError:
            answer = None
        if answer is None or answer.is_last:
            self._close()
        return answer

    def tear(self, request: Message) -> None:
        """Give the server half of a request's body, or half of its head if it has no body."""
        half = request.head + request.body[: len(request.body) // 2]
        connection, _ = self._open()
        connection.sendall(half if request.body else request.head[: len(request.head) // 2])
        self._close()

    # Private methods

    def _open(self) -> tuple[socket.socket, BinaryIO]:
        if self._socket is not None and _has_ended(self._socket):
            self._close()
        if self._socket is None or self._incoming is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._incoming = self._socket.makefile("rb")
        return self._socket, self._incoming

    def _close(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._incoming = None


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed an idle connection."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


# Private functions


def _answer_of(status: Status, method: str) -> Message:
    body = b"" if method == "HEAD" or status.code in (204, 304) else status.body
    fields = [*status.headers, ("Content-Length", str(len(body)))]
    lines = [f"HTTP/1.1 {status.code} {status.code}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return Message("\r\n".join(lines).encode("latin-1"), body)


def _altered(answer: Message, fault: Fault | None) -> bytes:
    """Return what the client gets of an answer."""
    if isinstance(fault, Cut) and fault.after_bytes is not None:
        return answer.head + answer.body[: _number(fault.after_bytes, answer.body)]
    if isinstance(fault, Short) and answer.body:
        body = without_marks(answer.body) if answer.is_chunked else answer.body
        body = body[: _number(fault.n_bytes, body)]
        length = rb"(?im)^(content-length|transfer-encoding):[^\r\n]*"
        return re.sub(length, b"Content-Length: %d" % len(body), answer.head) + body
    return answer.head + answer.body


def _number(n_bytes: int, body: bytes) -> int:
    return len(body) // 2 if n_bytes == MIDDLE else n_bytes
