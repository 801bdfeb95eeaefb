"""The files of a batch, of a disk and of a store: the same is seen of both, each in its own way."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from r3po.file_version import UNKNOWN_VERSION
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore
from r3po.worker.files import DiskFiles, Files, StoreFiles, files_of
from r3po.worker.messages import Listed

CONTENTS = {f"{n // 3}/{n}.json": b'{"n": %d}' % n for n in range(9)}

UNKNOWN: Listed = (UNKNOWN_VERSION.size, UNKNOWN_VERSION.mtime_ns, None, False, "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source on a disk; copies of objects go beside it."""
    monkeypatch.setattr("r3po.source.object_folders.IN_MEMORY", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    for path, content in CONTENTS.items():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / path).write_bytes(content)
    return tmp_path / "source"


def store_of(folder: Path) -> ObjectStore:
    store = ObjectStore(ObjectUrl("s3", "bucket", "raw/"), client=MemoryStore())
    for path in CONTENTS:
        store.write("raw/" + path, (folder / path).read_bytes())
    return store


@pytest.mark.parametrize("wants_data", [False, True])
@pytest.mark.parametrize("wants_hash", [False, True])
def test_f_is_given_the_same_of_a_disk_and_of_a_store(folder: Path, wants_data: bool, wants_hash: bool) -> None:
    store = store_of(folder)
    looks = {path: store.look("raw/" + path) for path in CONTENTS}
    listed: dict[str, Listed] = {
        path: (info.size, info.mtime_ns, None, False, info.tag) for path, info in looks.items()
    }
    for where in (None, store):
        files: Files = files_of(str(folder), where, wants_data=wants_data, wants_hash=wants_hash)
        files.begin(list(CONTENTS), listed.values())
        for path, content in CONTENTS.items():
            file = files.use(path, listed[path])
            assert file.path.endswith("/" + path)
            assert file.data == (content if wants_data else None)
            assert wants_data or Path(file.path).read_bytes() == content
            assert file.size == len(content)
            assert file.hash == (blake2b(content, digest_size=16).digest() if wants_hash else None)
            assert file.tag == ("" if where is None else listed[path][4])
            assert file.still_holds()
            file.close()
        files.close()
        assert not list((folder.parent / "copies").iterdir()), "nothing stays"


def test_an_object_is_given_by_its_url_where_f_takes_the_content(folder: Path) -> None:
    files = files_of("", store_of(folder), wants_data=True, wants_hash=False)
    files.begin(["0/1.json"], [UNKNOWN])
    assert files.use("0/1.json", UNKNOWN).path == "s3://bucket/raw/0/1.json"
    files.close()


def test_what_was_only_listed_is_looked_at_on_a_disk_alone(folder: Path) -> None:
    on_disk = DiskFiles(str(folder), wants_data=False, wants_hash=False)
    status = os.stat(folder / "0/1.json")
    assert on_disk.look_at("0/1.json") == (status.st_size, status.st_mtime_ns, None, False, "")
    assert on_disk.look_at("0/gone.json") == UNKNOWN
    assert StoreFiles(store_of(folder), wants_data=False, wants_hash=False).look_at("0/1.json") == UNKNOWN


def test_a_file_that_is_gone_is_its_own_error(folder: Path) -> None:
    store = store_of(folder)
    store.delete("raw/0/1.json")
    (folder / "0/1.json").unlink()
    for where in (None, store):
        files = files_of(str(folder), where, wants_data=False, wants_hash=False)
        files.begin(["0/1.json", "0/2.json"], [UNKNOWN, UNKNOWN])
        with pytest.raises(FileNotFoundError):
            files.use("0/1.json", UNKNOWN)
        files.use("0/2.json", UNKNOWN).close()
        files.close()
    assert not list((folder.parent / "copies").iterdir())
