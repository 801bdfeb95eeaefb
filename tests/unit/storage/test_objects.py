"""Objects on a real S3 server, and behind a proxy that loses, cuts and refuses."""

from __future__ import annotations

import errno
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3po.errors import StoreError
from r3po.storage import objects
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectInfo, ObjectStore, Only
from r3po.storage.s3_client import Patience
from r3po.storage.store_errors import TagDiffers
from seaweed import USERS, Seaweed, credentials
from store_proxy import Cut, Delay, FaultyProxy, Lost, Short, Status

pytestmark = pytest.mark.long

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def store(bucket: str) -> ObjectStore:
    return ObjectStore(ObjectUrl.parse(f"s3://{bucket}/raw"))


def streamed(store: ObjectStore, key: str, **given: Any) -> tuple[bytes, ObjectInfo]:
    blocks: list[bytes] = []
    info = store.stream(key, lambda block: blocks.append(bytes(block)), **given)
    return b"".join(blocks), info


def test_what_is_written_is_read_with_its_tag(store: ObjectStore, tmp_path: Path) -> None:
    tag = store.write("raw/a b%20+é.bin", CONTENT)
    data, info = store.read("raw/a b%20+é.bin", tag=tag, size=len(CONTENT))
    assert data == CONTENT
    assert info == store.look("raw/a b%20+é.bin")
    assert (info.key, info.size, info.tag) == ("raw/a b%20+é.bin", len(CONTENT), tag)
    assert abs(info.mtime_ns / 1e9 - time.time()) < 60
    assert streamed(store, "raw/a b%20+é.bin", tag=tag, size=len(CONTENT)) == (CONTENT, info)
    store.delete("raw/a b%20+é.bin")
    store.delete("raw/a b%20+é.bin")
    with pytest.raises(FileNotFoundError):
        store.look("raw/a b%20+é.bin")
    with pytest.raises(FileNotFoundError):
        store.read("raw/a b%20+é.bin")


def test_an_object_that_was_replaced_is_told_apart(store: ObjectStore, tmp_path: Path) -> None:
    tag = store.write("key", b"old")
    store.write("key", b"new")
    with pytest.raises(TagDiffers):
        store.read("key", tag=tag)
    with pytest.raises(TagDiffers):
        streamed(store, "key", tag=tag)


def test_only_one_writer_finds_no_object_or_the_one_that_it_knows(store: ObjectStore) -> None:
    tag = store.write("key", b"first", Only())
    with pytest.raises(TagDiffers):
        store.write("key", b"second", Only())
    store.write("key", b"third", Only(tag))
    with pytest.raises(TagDiffers):
        store.write("key", b"fourth", Only(tag))
    with pytest.raises(TagDiffers):
        store.write("another", b"fifth", Only(tag))
    assert store.read("key")[0] == b"third"


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_file_is_written_in_pieces_if_it_is_large(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(objects, "ONE_PUT_BYTES", 10_000)
    content = CONTENT[:1] * size
    (tmp_path / "part").write_bytes(content)
    tag = store.write("part", tmp_path / "part", Only())
    assert store.read("part")[0] == content
    with pytest.raises(TagDiffers):
        store.write("part", content + b"other", Only())
    store.write("part", content + b"more", Only(tag))
    assert store.look("part").size == size + 4


@pytest.mark.parametrize("fault", [Status(400), Status(403), Cut()])
def test_pieces_of_an_object_that_failed_are_not_left_in_the_bucket(
    store: ObjectStore,
    proxy: FaultyProxy,
    seaweed: Seaweed,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    fault: Status | Cut,
) -> None:
    monkeypatch.setattr(objects, "ONE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(objects, "PIECE_BYTES", 5 << 20)
    proxy.choose = lambda method, path: fault if method == "PUT" and "partNumber=2" in path else None
    with pytest.raises((StoreError, OSError)):
        store.write("part", bytes(12 << 20))
    assert any(method == "PUT" and "partNumber=2" in path for method, path in proxy.requests)
    assert b"<Upload>" not in seaweed.request("GET", f"/{store.url.bucket}?uploads=")
    with pytest.raises(FileNotFoundError):
        store.look("part")


class Careless(ObjectStore):
    """A store that does not keep some conditions."""

    ignores: tuple[bool, ...] = ()

    def write(self, key: str, content: bytes | Path, only: Only | None = None) -> str:
        is_ignored = only is not None and (only.tag is None) in self.ignores and self.n_written
        self.n_written += 1
        return super().write(key, content, None if is_ignored else only)

    n_written = 0


@pytest.mark.parametrize("ignores", [(True,), (False,), (True, False)])
def test_a_store_that_keeps_no_conditions_is_refused(store: ObjectStore, ignores: tuple[bool, ...]) -> None:
    store.check_writing("raw/.probe")
    careless = Careless(store.url)
    careless.ignores = ignores
    with pytest.raises(StoreError, match="does not keep conditions"):
        careless.check_writing("raw/.probe")
    with pytest.raises(FileNotFoundError):
        store.look("raw/.probe")


def test_keys_come_from_a_profile_and_a_public_bucket_needs_none(
    bucket: str, seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ObjectUrl.parse(f"s3://{bucket}")
    ObjectStore(url).write("key", CONTENT)
    key, secret, _ = USERS["reader"]
    (tmp_path / "config").write_text(f"[profile mine]\nregion = eu-west-1\nendpoint_url = {seaweed.endpoint}\n")
    (tmp_path / "keys").write_text(f"[mine]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    for name in (*credentials(), "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    store = ObjectStore(url, StoreOptions(profile="mine"))
    assert store.s3.access.region == "eu-west-1"
    assert store.read("key")[0] == CONTENT
    store.check_listing()
    with pytest.raises(StoreError, match="do not allow to write"):
        store.write("key", b"")
    anonymous = ObjectStore(url, StoreOptions(endpoint=seaweed.endpoint, anonymous=True))
    with pytest.raises(StoreError, match="do not allow to list"):
        anonymous.check_listing()
    with pytest.raises(PermissionError):
        anonymous.read("key")


@pytest.mark.parametrize("key", ["raw//a", "/a", "raw/a\n", "raw/\x01", "raw/a\u200e"])
def test_a_key_that_obstore_cannot_say_is_read_all_the_same(
    store: ObjectStore, seaweed: Seaweed, tmp_path: Path, key: str
) -> None:
    try:
        seaweed.put(store.url.bucket, key, CONTENT)
    except AssertionError:
        pytest.skip("the server takes no such key")
    data, info = store.read(key)
    assert data == CONTENT
    assert streamed(store, key, tag=info.tag, size=info.size) == (CONTENT, info)
    assert store.look(key).size == len(CONTENT)
    with pytest.raises(TagDiffers):
        store.read(key, tag='"another"')


def test_a_slash_more_or_less_is_another_key(store: ObjectStore, proxy: FaultyProxy) -> None:
    """This server takes them for one; others do not, and obstore would never ask for it."""
    proxy.choose = lambda method, path: Status(404)
    for key in ("/raw", "raw/", "raw//x"):
        with pytest.raises(FileNotFoundError):
            store.read(key)
        assert proxy.requests[-1] == ("GET", f"/{store.url.bucket}/{key}")


# What fails for now.


@pytest.mark.parametrize("fault", [Status(500), Status(503), Status(429), Cut(), Cut(1000), Lost()])
def test_a_fault_that_passes_is_not_seen(
    store: ObjectStore, proxy: FaultyProxy, tmp_path: Path, fault: Status | Cut | Lost
) -> None:
    tag = store.write("key", CONTENT)
    proxy.faults = [fault]
    assert store.read("key", tag=tag)[0] == CONTENT
    proxy.faults = [fault]
    assert streamed(store, "key", tag=tag)[0] == CONTENT
    proxy.faults = [fault]
    tag = store.write("key", CONTENT + b"more", Only(tag))
    assert store.read("key", tag=tag)[0] == CONTENT + b"more"
    assert not proxy.faults


@pytest.mark.parametrize("fault", [Status(503), Status(429), Cut(), Cut(1000)])
def test_a_fault_that_stays_is_one_of_the_environment(
    store: ObjectStore, proxy: FaultyProxy, tmp_path: Path, impatient: None, fault: Status | Cut
) -> None:
    store.write("key", CONTENT)
    proxy.choose = lambda method, path: fault
    for read in (lambda: store.read("key"), lambda: streamed(store, "key"), lambda: store.look("key")):
        try:
            read()
        except OSError as error:
            assert error.errno == errno.EIO, error
            assert error.filename == "key"
        else:
            assert fault == Cut(1000)  # a look has no body to cut
    assert not (tmp_path / "it").exists()


def test_a_body_that_is_too_short_is_not_taken(store: ObjectStore, proxy: FaultyProxy, tmp_path: Path) -> None:
    tag = store.write("key", CONTENT)
    proxy.choose = lambda method, path: Short(100)
    for read in (
        lambda: store.read("key", tag=tag, size=len(CONTENT)),
        lambda: streamed(store, "key", tag=tag, size=len(CONTENT)),
    ):
        with pytest.raises(OSError, match="gave 100 of 10,240 bytes") as caught:
            read()
        assert caught.value.errno == errno.EIO


def test_an_object_that_is_replaced_in_the_middle_of_its_reading_is_not_mixed(
    store: ObjectStore, proxy: FaultyProxy, seaweed: Seaweed
) -> None:
    tag = store.write("key", CONTENT)

    def replace_it(method: str, path: str) -> Cut | None:
        if len(reads) == 0:
            reads.append(path)
            return Cut(1000)
        seaweed.put(store.url.bucket, "key", CONTENT[::-1])
        return None

    reads: list[str] = []
    proxy.choose = replace_it
    with pytest.raises((TagDiffers, OSError)):
        store.read("key", tag=tag, size=len(CONTENT))


# What is wrong with the store, or with the way to it: one error, within 20 seconds.


def test_each_wrong_setting_is_one_error_with_what_to_do(
    bucket: str, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(url: str, act: Callable[[ObjectStore], object], options: StoreOptions | None = None) -> str:
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            act(ObjectStore(ObjectUrl.parse(url), options))
        assert time.monotonic() - began < 20
        assert caught.value.hint and caught.value.evidence
        shown = "".join(traceback.format_exception(caught.value))
        for _, secret, _ in USERS.values():
            assert secret not in shown
        assert "Authorization" not in shown and "Signature=" not in shown
        return str(caught.value)

    def listing(store: ObjectStore) -> None:
        store.check_listing()

    assert "no such bucket" in told("s3://nobody-has-this", listing)
    assert "no such bucket" in told("s3://nobody-has-this", lambda store: store.read("key"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert "the secret does not belong" in told(f"s3://{bucket}", listing)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "does not know the access key" in told(f"s3://{bucket}", lambda store: store.read("key"))
    for name, value in credentials("blind").items():
        monkeypatch.setenv(name, value)
    assert "s3:ListBucket" in told(f"s3://{bucket}", listing)
    for name, value in credentials("reader").items():
        monkeypatch.setenv(name, value)
    ObjectStore(ObjectUrl.parse(f"s3://{bucket}")).check_listing()
    assert "s3:PutObject" in told(f"s3://{bucket}", lambda store: store.write("key", b""))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    refused = StoreOptions(endpoint=f"http://127.0.0.1:{port}")
    assert "nobody takes the connection" in told(f"s3://{bucket}", listing, refused)
    unknown = StoreOptions(endpoint="http://no-such-host.invalid")
    assert "the host's name is not known" in told(f"s3://{bucket}", listing, unknown)
    no_tls = StoreOptions(endpoint=seaweed.endpoint.replace("http:", "https:"))
    assert "no trusted TLS connection" in told(f"s3://{bucket}", listing, no_tls)
    assert "no trusted TLS connection" in told(f"s3://{bucket}", lambda store: store.read("key"), no_tls)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    assert "proxy" in told(f"s3://{bucket}", listing, StoreOptions(endpoint="http://no-such-host.invalid"))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Status(503, b"<Error><Code>SlowDown</Code></Error>"), "the store fails"),
        (Status(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), "clock"),
        (Status(301, b"", (("x-amz-bucket-region", "eu-west-3"),)), "region: eu-west-3"),
        (Cut(), "the connection broke off"),
        (Delay(30), "no answer in time"),
    ],
)
def test_a_store_that_fails_at_the_start_is_told_within_20_seconds(
    store: ObjectStore, proxy: FaultyProxy, fault: Status | Cut | Delay, says: str
) -> None:
    proxy.choose = lambda method, path: fault
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        store.check_listing()
    assert time.monotonic() - began < 20
    assert says in str(caught.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up after two tries."""
    from r3po.storage import obstore_clients

    monkeypatch.setattr(obstore_clients, "IN_RUN", Patience(2, 5.0))
