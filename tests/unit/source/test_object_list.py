"""Which objects of a bucket are the job's, and in which order they come."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from r3po.config.selection import Selection
from r3po.errors import StoreError
from r3po.source.folders import WalkCounts
from r3po.source.object_list import KeyChooser, list_blocks
from r3po.source.walk import walk
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore
from seaweed import Seaweed

URL = ObjectUrl("gs", "files", "raw/")


def store_with(*keys: str) -> ObjectStore:
    """Return a store in memory in which each object has its key for content."""
    store = ObjectStore(URL, client=MemoryStore())
    for key in keys:
        store.write(key, key.encode())
    return store


def paths_of(
    store: ObjectStore, which: Selection, counts: WalkCounts | None = None, start_after: str = ""
) -> list[str]:
    blocks = list_blocks(store, which, counts=counts, start_after=start_after)
    return [path for block in blocks for path, _, _, _ in block]


def test_objects_come_in_the_order_of_whole_keys_with_size_time_and_tag() -> None:
    store = store_with("raw/a.json", "raw/a/b.json", "raw/a-b/c.json", "raw/z.json", "other/x.json", "rawer.json")
    (block,) = list_blocks(store, Selection((".json",)))
    assert [path for path, _, _, _ in block] == ["a-b/c.json", "a.json", "a/b.json", "z.json"]
    for path, size, mtime_ns, tag in block:
        info = store.look("raw/" + path)
        assert (size, mtime_ns, tag) == (info.size, info.mtime_ns, info.tag)
    assert paths_of(store, Selection((".json",)), start_after="a.json") == ["a/b.json", "z.json"]


def test_what_is_passed_over_is_counted() -> None:
    counts = WalkCounts()
    store = store_with("raw/a.json", "raw/.b.json", "raw/.c/d.json", "raw/e.JSON", "raw/f.txt", "raw/g/h.json")
    assert paths_of(store, Selection((".json",), exclude=("g",)), counts) == ["a.json"]
    assert (counts.hidden, counts.other, counts.excluded) == (2, 2, 1)
    assert counts.other_case == {".JSON": 1}
    chooser = KeyChooser(Selection(("",)), counts)
    assert not chooser.takes("folder/", 0) and counts.irregular == 0
    assert not chooser.takes("folder/", 5) and counts.irregular == 1
    assert not chooser.takes("", 0)
    assert chooser.takes("a//b", 1)


@pytest.mark.parametrize(
    "which",
    [
        Selection((".json", ".txt")),
        Selection((".json",), ignore_case=True),
        Selection(("",), include=("a/**", "*.txt")),
        Selection(("",), include=("**/b.json",), exclude=("a/c",)),
        Selection(("",), include=("a",)),
        Selection(("",), exclude=("**/*.txt", "a/c/**")),
        Selection(("",), exclude=("A",), ignore_case=True),
    ],
)
def test_a_selection_takes_the_objects_whose_files_it_takes_on_a_disk(tmp_path: Path, which: Selection) -> None:
    keys = ["a/b.json", "a/c/b.json", "a/c/d/e.txt", "b.json", "B.JSON", "c.txt", "a-b/b.json", "z/.x/y.json", ".h.txt"]
    for key in keys:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text(key)
    on_disk = sorted(path for path, _ in walk(tmp_path, which))
    assert paths_of(store_with(*(f"raw/{key}" for key in keys)), which) == on_disk


def test_globs_that_fit_nothing_are_noted() -> None:
    counts = WalkCounts()
    assert paths_of(store_with("raw/a.json"), Selection(("",), exclude=("b", "a.json")), counts) == []
    assert counts.unmatched == ["b"]


@pytest.mark.long
def test_a_bucket_is_listed_and_one_that_is_not_there_is_an_error(bucket: str, seaweed: Seaweed) -> None:
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}/raw"))
    for key in ("raw/b/x.json", "raw/a.json", "raw/b-c/y.json", "other.json"):
        store.write(key, b"{}")
    assert paths_of(store, Selection((".json",))) == ["a.json", "b-c/y.json", "b/x.json"]
    with pytest.raises(StoreError, match="no such bucket"):
        paths_of(ObjectStore(ObjectUrl.parse("s3://nobody-has-this/raw")), Selection(("",)))
