"""Listing: every key as it is, in the byte order of whole keys."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from r3po.errors import StoreError
from r3po.storage import s3_list, sorted_runs
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.s3_client import Answer, S3Access, S3Client
from r3po.storage.s3_list import key_order, list_objects
from r3po.storage.sorted_runs import SortedRuns
from seaweed import Seaweed
from store_proxy import Cut, FaultyProxy, Short, Status

ODD = [
    "a",
    "a-b/x",
    "a/",
    "a/b",
    "a/b/c",
    "a b",
    "a+b",
    "a%2Fb",
    "a%20b",
    "a&b=<c>\"'",
    "a?x#y",
    "a\\b",
    "a//b",
    "a/./b",
    "a/../b",
    "a\n",
    "a\r\n b",
    "a\x01b",
    "a\x7f",
    "a\u0085",
    "a\u2028",
    "\u00e9",
    "e\u0301",
    "\U0001f600/x",
    "\ufffd",
    "~",
    "*",
    " ",
    "a ",
    ".hidden",
    "0" * 900,
]


class Written(S3Client):
    """A server written out here: it has the keys that it is given, in the order in which they are given."""

    def __init__(self, url: ObjectUrl, keys: list[str], page: int = 3, *, is_aws: bool = True) -> None:
        super().__init__(url, StoreOptions(), S3Access(url, StoreOptions(anonymous=True)))
        self.access.is_aws = is_aws
        self.keys, self.page = keys, page
        self.queries: list[dict[str, str]] = []

    def request(
        self, verb: object, method: str, key: str = "", query: object = None, *_: object, **__: object
    ) -> Answer:  # type: ignore[override]
        from urllib.parse import quote_plus
        from xml.sax.saxutils import escape

        assert isinstance(query, dict)
        self.queries.append(query)
        prefix, delimiter = query["prefix"], query.get("delimiter")
        found: list[tuple[str, bool]] = []
        for each in self.keys:
            if each.startswith(prefix):
                rest = each[len(prefix) :]
                item = (prefix + rest.split("/")[0] + "/", True) if delimiter and "/" in rest else (each, False)
                if item not in found:
                    found.append(item)
        begun, _, after = query.get("continuation-token", f"0 {query.get('start-after', '')}").partition(" ")
        if after:
            found = [item for item in found if key_order(item[0]) > key_order(after)]
        start = int(begun)
        shown = found[start : start + self.page]
        lines = [
            f"<CommonPrefixes><Prefix>{quote_plus(name)}</Prefix></CommonPrefixes>"
            if is_folder
            else f"<Contents><Key>{escape(quote_plus(name))}</Key><Size>{len(name)}</Size><ETag>&quot;{len(name)}&quot;"
            "</ETag><LastModified>2026-01-31T10:20:30.250Z</LastModified></Contents>"
            for name, is_folder in shown
        ]
        end = start + self.page
        token = f"<NextContinuationToken>{end} {escape(after)}</NextContinuationToken>" if end < len(found) else ""
        body = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>'
            f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{token}{''.join(lines)}</ListBucketResult>"
        )
        return Answer(200, {}, body.encode())


def keys_of(client: S3Client, url: ObjectUrl, start_after: str = "") -> list[str]:
    return [info.key for page in list_objects(client, url, start_after=start_after) for info in page]


URL = ObjectUrl("s3", "files", "")


def test_every_key_is_listed_as_it_is_with_size_tag_and_time() -> None:
    keys = sorted(ODD, key=key_order)
    client = Written(URL, keys)
    found = [info for page in list_objects(client, URL) for info in page]
    assert [info.key for info in found] == keys
    assert found[0] == ObjectInfo(keys[0], len(keys[0]), f'"{len(keys[0])}"', 1_769_854_830_250_000_000)
    assert any("delimiter" in query for query in client.queries)
    assert keys_of(client, ObjectUrl("s3", "files", "a/")) == [key for key in keys if key.startswith("a/")]
    assert keys_of(client, ObjectUrl("s3", "files", "none/")) == []
    assert keys_of(client, URL, start_after="a/b") == [key for key in keys if key_order(key) > b"a/b"]


def test_the_fast_reading_of_an_answer_says_what_the_whole_one_says_or_nothing() -> None:
    keys = sorted(ODD, key=key_order)
    client = Written(URL, keys, page=20)
    body = client.request("list", "GET", query={"prefix": ""}).body
    whole, fast = s3_list._read_page(client, body), s3_list._read_plain(body)
    assert fast is not None
    assert fast[0] == whole[0] and len(fast[0]) == 20
    assert fast[1].token == whole[1].token is not None
    for other in (
        body.replace(b"<Contents>", b"<Contents >"),
        body.replace(b"<EncodingType>url</EncodingType>", b""),
        body.replace(b"<Key>a", b"<Key>a&amp;", 1),
        body[:-10],
    ):
        assert s3_list._read_plain(other) is None


def test_folders_that_are_listed_at_the_same_time_come_in_the_order_of_whole_keys() -> None:
    folders = ["a", "a-b", "a.b", "a0", "\u00e9", "\U0001f600"]
    keys = sorted([f"{folder}/{n:02}" for folder in folders for n in range(20)] + folders, key=key_order)
    assert keys_of(Written(URL, keys), URL) == keys


def test_a_server_with_an_order_of_its_own_is_sorted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sorted_runs, "RUN_ITEMS", 50)
    keys = [f"{a}{b}/{n}" for a in ("x", "y") for b in ("", "-z", ".") for n in range(40)]
    random.Random(1).shuffle(keys)
    client = Written(URL, keys, is_aws=False)
    assert keys_of(client, URL) == sorted(keys)
    assert keys_of(client, URL, start_after="x/5") == sorted(key for key in keys if key > "x/5")


def test_a_store_that_breaks_its_promise_is_not_believed() -> None:
    with pytest.raises(StoreError, match="out of order"):
        keys_of(Written(URL, ["b", "a"]), URL)


def test_an_answer_that_is_no_listing_is_told() -> None:
    client = Written(URL, [])
    for body in (
        b"<html><body>hello</body></html>",
        b"hello",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ):
        client.request = lambda *_, body=body, **__: Answer(200, {}, body)  # type: ignore[method-assign, misc]
        with pytest.raises(StoreError, match="no listing of S3"):
            keys_of(client, URL)


def test_a_listing_that_is_not_read_to_its_end_ends_its_threads() -> None:
    import threading

    keys = [f"{folder:02}/{n:03}" for folder in range(10) for n in range(100)]
    before = threading.active_count()
    pages = list_objects(Written(URL, keys), URL)
    assert next(pages)
    pages.close()
    end = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sorted_runs_keep_the_first_of_two_and_write_what_is_in_order_as_one_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sorted_runs, "RUN_ITEMS", 10)
    with SortedRuns(tmp_path) as runs:
        for start in range(0, 100, 5):
            runs.add([(b"%03d" % n, (n, "first")) for n in range(start, start + 5)])
        assert len(runs._runs) == 1
        runs.add([(b"%03d" % n, (n, "second")) for n in range(50, 60)])
        assert len(runs._runs) == 2
        found = [item for block in runs.blocks() for item in block]
    assert found == [(n, "first") for n in range(100)]


# On a real server.


@pytest.mark.long
def test_the_odd_keys_of_a_real_server_are_listed_and_read(bucket: str, seaweed: Seaweed) -> None:
    url = ObjectUrl.parse(f"s3://{bucket}")
    store = ObjectStore(url)
    taken = []
    for key in ODD:
        try:
            seaweed.put(bucket, f"{key}", key.encode())
        except AssertionError:
            continue
        taken.append(key)
    found = [info for page in list_objects(store.s3, url) for info in page]
    keys = [info.key for info in found]
    assert keys == sorted(keys, key=key_order)
    # It takes `a//b` for `a/b`, and a file for no folder: what it lists is what can be read.
    assert len(keys) > 20 and {"a b", "a+b", "a%2Fb", "a%20b", "\u00e9", "e\u0301", "a\n"} <= set(keys)
    for info in found:
        if not info.key.endswith("/"):
            data, seen = store.read(info.key, tag=info.tag, size=info.size)
            assert seen.tag == info.tag, info
            assert len(data) == info.size


@pytest.mark.long
def test_a_listing_goes_on_through_faults_and_is_whole(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = ObjectUrl.parse(f"s3://{bucket}/raw")
    store = ObjectStore(url)
    keys = sorted(f"raw/{folder}/{n}" for folder in ("a", "a-b", "c") for n in range(12))
    for key in keys:
        store.write(key, b"x")
    monkeypatch.setattr(s3_list, "PAGE_KEYS", 5)
    assert keys_of(store.s3, url) == keys
    counted = iter(range(1000))
    faults = [Status(503), Status(429), Cut(), Cut(200), Status(500)]
    proxy.choose = lambda method, path: faults[n // 3 % 5] if (n := next(counted)) % 3 == 0 else None
    assert keys_of(store.s3, url) == keys
    proxy.choose = lambda method, path: Short(200)
    with pytest.raises((StoreError, OSError)):
        keys_of(store.s3, url)
