"""Reading objects ahead of f: in order, within the window, and without anything left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from r3po.errors import StoreError
from r3po.file_version import FileVersion
from r3po.source.object_ahead import ObjectInUse, ObjectsAhead, Wanted
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectInfo, ObjectStore
from store_proxy import Cut, Delay, FaultyProxy, Status

URL = ObjectUrl("gs", "files", "raw/")


class Watched(ObjectStore):
    """A store in memory that counts what is in flight, and does to a read what a test says."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(URL, client=MemoryStore())
        self.n_now = self.n_most = self.n_begun = 0
        self.before: Callable[[str], None] = lambda key: None
        self._counting = threading.Lock()
        for path, content in contents.items():
            self.write("raw/" + path, content)

    def read(self, key: str, **given: Any) -> tuple[bytes, ObjectInfo]:
        with self._counting:
            self.n_now += 1
            self.n_begun += 1
            self.n_most = max(self.n_most, self.n_now)
        try:
            self.before(key)
            return super().read(key, **given)
        finally:
            with self._counting:
                self.n_now -= 1

    def wanted(self, *paths: str) -> list[Wanted]:
        looks = {path: self.look("raw/" + path) for path in paths}
        return [Wanted(path, info.size, info.tag) for path, info in looks.items()]


CONTENTS = {f"{n // 10}/{n:03}.txt": b"%d" % n * 10 for n in range(100)}


def take_all(ahead: ObjectsAhead, wanted: list[Wanted]) -> list[ObjectInUse]:
    ahead.begin(wanted)
    return [ahead.take(each) for each in wanted]


def version(store: Watched, path: str, content: bytes) -> FileVersion:
    info = store.look("raw/" + path)
    return FileVersion(info.size, info.mtime_ns, blake2b(content, digest_size=16).digest(), tag=info.tag)


def test_objects_come_in_order_as_bytes() -> None:
    store = Watched(CONTENTS)
    store.before = lambda key: time.sleep(0.003 if key.endswith("0.txt") else 0)
    with ObjectsAhead(store) as ahead:
        found = take_all(ahead, store.wanted(*CONTENTS))
        again = take_all(ahead, store.wanted("3/030.txt"))
    assert {each.path: each.data for each in found} == {f"gs://files/raw/{p}": c for p, c in CONTENTS.items()}
    assert [each.path for each in found] == [f"gs://files/raw/{path}" for path in CONTENTS]
    assert [each.data for each in again] == [CONTENTS["3/030.txt"]]
    assert found[7].version == version(store, "0/007.txt", CONTENTS["0/007.txt"]) and found[7].still_holds()
    assert 1 < store.n_most <= 16


def test_without_hash_stat_no_hash_is_taken() -> None:
    store = Watched({"a": b"a"})
    with ObjectsAhead(store, wants_hash=False) as ahead:
        assert ahead.take(store.wanted("a")[0]).hash is None


def test_no_more_is_read_than_the_window_has_room_for() -> None:
    store = Watched({f"{n}": b"x" * 100 for n in range(50)})
    wanted = store.wanted(*(str(n) for n in range(50)))
    with ObjectsAhead(store, n_requests=8, most_requests=8, n_bytes=1000) as ahead:
        ahead.begin(wanted)
        wait_until(lambda: store.n_now == 0 and store.n_begun == 10)
        ahead.take(wanted[0])  # which is held as long as f has it
        ahead.take(wanted[1])
        wait_until(lambda: store.n_now == 0 and store.n_begun == 11)
    assert store.n_most <= 8


def test_an_object_larger_than_the_window_comes_alone() -> None:
    store = Watched({"a": b"x" * 10, "b": b"y" * 5000, "c": b"z"})
    with ObjectsAhead(store, n_bytes=1000) as ahead:
        found = take_all(ahead, store.wanted("a", "b", "c"))
    assert [each.data for each in found] == [b"x" * 10, b"y" * 5000, b"z"]
    assert store.n_most == 1


def test_more_is_asked_for_at_once_where_f_waits_for_a_store_that_is_far_away() -> None:
    store = Watched({f"{n:04}": b"x" for n in range(600)})
    store.before = lambda key: time.sleep(0.05)
    wanted = store.wanted(*(f"{n:04}" for n in range(600)))
    with ObjectsAhead(store, n_requests=4, most_requests=32) as ahead:
        take_all(ahead, wanted)
    assert 16 <= store.n_most <= 32


def test_where_f_takes_its_time_no_more_is_asked_for() -> None:
    store = Watched({f"{n:04}": b"x" for n in range(60)})
    wanted = store.wanted(*(f"{n:04}" for n in range(60)))
    with ObjectsAhead(store, n_requests=4, most_requests=32) as ahead:
        ahead.begin(wanted)
        for each in wanted:
            ahead.take(each)
            time.sleep(0.01)
    assert store.n_most <= 4


def test_what_a_batch_did_not_come_to_is_not_read_again_by_the_next() -> None:
    store = Watched(CONTENTS)
    wanted = store.wanted(*CONTENTS)
    with ObjectsAhead(store, n_requests=4) as ahead:
        ahead.begin(wanted[:20])
        assert ahead.take(wanted[0]).data == CONTENTS[wanted[0].path]
        wait_until(lambda: store.n_now == 0 and store.n_begun == 17)
        found = take_all(ahead, wanted[1:20])
        assert [each.data for each in found] == [CONTENTS[each.path] for each in wanted[1:20]]
    assert store.n_begun == 20


def test_objects_may_be_passed_over_and_asked_for_out_of_turn() -> None:
    store = Watched(CONTENTS)
    wanted = store.wanted(*CONTENTS)
    with ObjectsAhead(store, n_requests=4) as ahead:
        ahead.begin(wanted[:20])
        assert ahead.take(wanted[3]).data == CONTENTS[wanted[3].path]
        assert ahead.take(wanted[50]).data == CONTENTS[wanted[50].path]
        assert ahead.take(wanted[1]).data == CONTENTS[wanted[1].path]
        assert ahead.take(wanted[4]).data == CONTENTS[wanted[4].path]


def test_each_object_is_a_file_of_its_own_name_until_it_is_closed(tmp_path: Path) -> None:
    store = Watched(CONTENTS)
    wanted = store.wanted(*CONTENTS)
    with ObjectsAhead(store, folder_for=lambda size: tmp_path) as ahead:
        ahead.begin(wanted)
        for each in wanted:
            found = ahead.take(each)
            assert found.data is None and found.path.endswith("/" + each.path)
            assert Path(found.path).read_bytes() == CONTENTS[each.path]
            assert found.version == version(store, each.path, CONTENTS[each.path])
            Path(found.path).with_name("of f").touch()
            found.close()
            assert not Path(found.path).parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_is_given_up_leaves_no_file_and_no_thread(tmp_path: Path) -> None:
    store = Watched(CONTENTS)
    wanted = store.wanted(*CONTENTS)
    n_threads = threading.active_count()
    with ObjectsAhead(store, folder_for=lambda size: tmp_path) as ahead:
        ahead.begin(wanted)
        ahead.take(wanted[0]).close()
    wait_until(lambda: list(tmp_path.iterdir()) == [])
    wait_until(lambda: threading.active_count() <= n_threads)


def test_an_object_that_was_replaced_is_read_as_it_is_now() -> None:
    store = Watched({"a": b"old", "b": b"b"})
    wanted = store.wanted("a", "b")
    store.write("raw/a", b"newer")
    with ObjectsAhead(store) as ahead:
        first, second = take_all(ahead, wanted)
    assert first.data == b"newer"
    assert first.version == version(store, "a", b"newer")
    assert second.data == b"b"


def test_an_object_that_never_holds_still_and_one_that_is_gone_are_their_own_failures(tmp_path: Path) -> None:
    store = Watched({"a": b"a", "b": b"b", "c": b"c"})
    wanted = store.wanted("a", "b", "c")
    store.delete("raw/b")
    store.before = lambda key: (
        str(store.write(key, b"%d" % time.perf_counter_ns())) and None if key == "raw/a" else None
    )
    for folder_for in (None, lambda size: tmp_path):
        with ObjectsAhead(store, folder_for=folder_for) as ahead:
            ahead.begin(wanted)
            with pytest.raises(OSError, match="replaced 3 times"):
                ahead.take(wanted[0])
            with pytest.raises(FileNotFoundError):
                ahead.take(wanted[1])
            last = ahead.take(wanted[2])
            assert (last.data or Path(last.path).read_bytes()) == b"c"
            last.close()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_used_any_more_is_nobody_s_failure() -> None:
    store = Watched({"a": b"a", "b": b"b"})

    def expire(key: str) -> None:
        raise StoreError("the credentials have expired")

    wanted = store.wanted("a", "b")
    store.before = expire
    with ObjectsAhead(store) as ahead, pytest.raises(StoreError, match="expired"):
        take_all(ahead, wanted)


def test_waiting_for_the_store_is_measured() -> None:
    store = Watched({"a": b"a"})
    store.before = lambda key: time.sleep(0.1)
    with ObjectsAhead(store) as ahead:
        take_all(ahead, store.wanted("a"))
        assert 0.09 < ahead.waited_s < 5


@pytest.mark.long
def test_a_real_server_that_fails_now_and_then_gives_all_objects(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}/raw"))
    contents = {f"{n % 7}/{n:03}.bin": bytes([n]) * n * 50 for n in range(200)}
    wanted = [Wanted(path, len(data), store.write("raw/" + path, data)) for path, data in contents.items()]
    counted = iter(range(10_000))
    faults = [Status(503), Cut(), Cut(100), Status(429)]
    proxy.choose = lambda method, path: faults[n // 9 % 4] if (n := next(counted)) % 9 == 0 else None
    with ObjectsAhead(store) as ahead:
        assert [each.data for each in take_all(ahead, wanted)] == list(contents.values())
    with ObjectsAhead(store, folder_for=lambda size: tmp_path) as ahead:
        found = take_all(ahead, wanted)
        assert [Path(each.path).read_bytes() for each in found] == list(contents.values())


@pytest.mark.long
def test_what_a_store_does_not_give_is_a_failure_of_the_environment(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r3po.storage import obstore_clients
    from r3po.storage.s3_client import Patience

    monkeypatch.setattr(obstore_clients, "IN_RUN", Patience(2, 5.0))
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}/raw"))
    wanted = [Wanted(name, 1, store.write(f"raw/{name}", b"x")) for name in ("a", "b")]
    proxy.choose = lambda method, path: Status(503) if path.endswith("/a") else None
    with ObjectsAhead(store) as ahead:
        ahead.begin(wanted)
        with pytest.raises(OSError) as caught:
            ahead.take(wanted[0])
        assert caught.value.errno == errno.EIO
        assert ahead.take(wanted[1]).data == b"x"


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.long
def test_a_process_ends_at_once_with_requests_in_flight(bucket: str, proxy: FaultyProxy) -> None:
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}/raw"))
    for n in range(20):
        store.write(f"raw/{n}", b"x")
    code = f"""
from r3po.source.object_ahead import ObjectsAhead, Wanted
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore
ahead = ObjectsAhead(ObjectStore(ObjectUrl.parse("s3://{bucket}/raw")))
wanted = [Wanted(str(n), 1, "") for n in range(20)]
ahead.begin(wanted)
print(ahead.take(wanted[0]).data)
"""
    proxy.choose = lambda method, path: None if path.endswith("/0") else Delay(30)
    for _ in range(4):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "b'x'\n", "")
