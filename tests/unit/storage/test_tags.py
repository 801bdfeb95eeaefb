"""Tags of objects, and what names an object that is replaced, where clouds differ."""

from __future__ import annotations

from typing import Any

import pytest

from fake_obstore import FakeObstore
from r3po.storage import objects
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore, Only
from r3po.storage.store_errors import TagDiffers


class Google(FakeObstore):
    """It names what is replaced by its version, and refuses a PUT that does not."""

    def head(self, client: Any, key: str) -> dict[str, Any]:
        return super().head(client, key) | {"version": "7"}

    def put(self, client: Any, key: str, data: Any, mode: Any = None, **options: Any) -> dict[str, Any]:
        assert not isinstance(mode, dict) or mode["version"] == "7"
        return super().put(client, key, data, mode, **options)


class Azure(FakeObstore):
    """Its listing has no quotes around a tag, its answers have."""

    def list(self, client: Any, prefix: str | None, **options: Any) -> list[list[dict[str, Any]]]:
        pages = super().list(client, prefix, **options)
        return [[meta | {"e_tag": meta["e_tag"].strip('"')} for meta in page] for page in pages]


def store_of(fake: FakeObstore, url: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    store = ObjectStore(ObjectUrl.parse(url))
    monkeypatch.setattr(objects, "obstore_of", lambda url: fake)
    monkeypatch.setattr(store, "_client", lambda use="read": None)
    return store


def test_googles_store_is_told_which_version_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(Google(), "gs://bucket/table", monkeypatch)
    tag = store.write("table/part", b"first", Only())
    second = store.write("table/part", b"second", Only(tag))
    for other in (tag, second.upper()):
        with pytest.raises(TagDiffers):
            store.write("table/part", b"third", Only(other))
    with pytest.raises(TagDiffers):
        store.write("table/none", b"third", Only(tag))
    store.check_writing("table/probe")


def test_a_tag_is_the_same_in_a_listing_and_in_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(Azure(), "az://container/table", monkeypatch)
    tag = store.write("table/csv/part", b"rows", Only())
    store.write("other/part", b"rows")
    assert [(info.key, info.tag) for page in store.list_pages(below="csv/") for info in page] == [
        ("table/csv/part", tag)
    ]
