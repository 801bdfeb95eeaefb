"""A store that fails while it is listed: the run stops with one error, and nothing is taken for deleted."""

from __future__ import annotations

import errno
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

import r3po
from r3po.errors import RunStoppedError
from r3po.source import object_list
from r3po.storage import objects
from r3po.storage.objects import ObjectStore
from r3po.storage.store_errors import StoreUnavailable


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    memory = MemoryStore()
    monkeypatch.setattr(objects, "make_client", lambda *_: memory)
    for n in range(4):
        memory.put(f"raw/{n}.json", b"{}")
    return {
        "job_name": "gone",
        "processes": 1,
        "source_path": "gs://files/raw",
        "source_file_part": ".json",
        "working_dir": str(tmp_path / "work"),
        "output_path": str(tmp_path / "out"),
        "engine": "serial",
        "input": "bytes",
    }


def f(path: str, data: bytes) -> dict[str, Any]:
    return {"n": len(data)}


@pytest.mark.parametrize("call", [r3po.run_jobs, lambda config, f: r3po.build_jobs(config)], ids=["run", "build"])
def test_a_listing_that_breaks_off_is_one_error_and_deletes_nothing(
    call: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert r3po.run_jobs(config, f).done == 4

    def broken(store: ObjectStore, **_: Any) -> Generator[Any]:
        yield from ()
        raise StoreUnavailable(errno.EIO, "the store failed to list it: HTTP 503 SlowDown", str(store.url))

    with monkeypatch.context() as patch:
        patch.setattr(object_list, "list_store", broken)
        with pytest.raises(RunStoppedError) as caught:
            call(config, f)
    assert str(caught.value).startswith("gs://files/raw/: the store failed to list it: HTTP 503 SlowDown")
    assert "run again once the store answers" in str(caught.value)
    assert "disk" not in str(caught.value)
    assert r3po.run_jobs(config, f).done == 4
