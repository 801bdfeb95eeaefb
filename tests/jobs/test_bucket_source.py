"""Jobs whose files are in a bucket, here in memory: what is new, changed, gone and back, and what is read for it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

import r3po
from r3po.config.settings import load_config
from r3po.errors import ConfigError, RunStoppedError, SourceError
from r3po.file_version import FileVersion
from r3po.source import object_folders, object_list
from r3po.source.object_folders import ObjectFolders, sweep_object_folders
from r3po.storage import objects
from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.store_errors import StoreUnavailable


class Bucket:
    """A bucket in memory, and which of its objects were read."""

    def __init__(self) -> None:
        self.client = MemoryStore()
        self.read: list[str] = []

    def put(self, path: str, content: str) -> None:
        self.client.put(f"raw/{path}", content.encode())

    def delete(self, path: str) -> None:
        self.client.delete(f"raw/{path}")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    found = Bucket()
    plain = ObjectStore._read

    def read(self: ObjectStore, key: str, tag: str | None) -> tuple[bytes, ObjectInfo]:
        found.read.append(key.removeprefix("raw/"))
        return plain(self, key, tag)

    monkeypatch.setattr(objects, "make_client", lambda *_: found.client)
    monkeypatch.setattr(ObjectStore, "_read", read)
    yield found


@pytest.fixture
def config(bucket: Bucket, tmp_path: Path) -> dict[str, Any]:
    for n in range(10):
        bucket.put(f"{n % 2}/{n}.json", f'{{"n": {n}}}')
    return {
        "job_name": "bucket",
        "processes": 1,
        "source_path": "gs://files/raw",
        "source_file_part": ".json",
        "working_dir": str(tmp_path / "work"),
        "output_path": str(tmp_path / "out"),
        "engine": "serial",
        "input": "bytes",
        "source_column": "file",
    }


PATHS = sorted(f"{n % 2}/{n}.json" for n in range(10))


def f(path: str, data: bytes) -> dict[str, Any]:
    return {"n": json.loads(data)["n"]}


def table(config: dict[str, Any], function: Any = f, **options: Any) -> dict[str, int]:
    """Run the job, and return the numbers by path."""
    frame = r3po.run_jobs(config, function, **options).to_pandas()
    return dict(zip(frame["file"], map(int, frame["n"]), strict=True))


def test_what_is_new_changed_gone_and_back_is_found_by_listing(config: dict[str, Any], bucket: Bucket) -> None:
    assert list(table(config)) == PATHS
    bucket.read.clear()
    assert list(table(config)) == PATHS
    assert bucket.read == []
    bucket.put("0/2.json", '{"n": 1002}')
    bucket.put("0/new.json", '{"n": 77}')
    bucket.delete("1/3.json")
    found = table(config)
    assert set(bucket.read) == {"0/2.json", "0/new.json"}
    assert found == {path: int(path[2]) for path in PATHS if path != "1/3.json"} | {"0/2.json": 1002, "0/new.json": 77}
    bucket.read.clear()
    bucket.put("1/3.json", '{"n": 3}')
    assert table(config)["1/3.json"] == 3
    assert set(bucket.read) == {"1/3.json"}
    assert r3po.verify_jobs(config, source=True).findings == ()


def test_an_object_that_is_put_again_with_the_same_content_keeps_its_row(
    config: dict[str, Any], bucket: Bucket
) -> None:
    calls: list[str] = []

    def counting(path: str, data: bytes) -> dict[str, Any]:
        calls.append(r3po.current_file())
        return f(path, data)

    table(config, counting)
    calls.clear()
    bucket.put("0/2.json", '{"n": 2}')  # another tag, since this store counts
    table(config, counting)
    assert calls == []
    assert "0/2.json" in bucket.read
    bucket.read.clear()
    table(config, counting)
    assert bucket.read == []


def test_with_hash_stat_a_build_reads_nothing_but_the_listing(config: dict[str, Any], bucket: Bucket) -> None:
    r3po.build_jobs({**config, "hash": "stat"})
    bucket.put("0/2.json", '{"n": 2222}')
    r3po.build_jobs({**config, "hash": "stat"})
    assert bucket.read == []
    r3po.build_jobs(config)
    assert r3po.job_status(config).pending == 10


def test_more_deletions_than_half_are_asked_about(config: dict[str, Any], bucket: Bucket) -> None:
    table(config)
    for path in PATHS[:6]:
        bucket.delete(path)
    with pytest.raises(SourceError, match=r"6 of 10 files of this job are gone from gs://files/raw/") as caught:
        table(config)
    assert "is it the right bucket?" in str(caught.value)
    assert list(table(config, accept_deletions=True)) == PATHS[6:]


@pytest.mark.parametrize("call", [r3po.run_jobs, lambda config, f: r3po.build_jobs(config)], ids=["run", "build"])
def test_a_listing_that_breaks_off_is_one_error_and_deletes_nothing(
    call: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert r3po.run_jobs(config, f).done == 10

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
    assert r3po.run_jobs(config, f).done == 10


def test_globs_and_several_ends_of_names_choose_objects(config: dict[str, Any], bucket: Bucket) -> None:
    bucket.put("0/x.txt", '{"n": 50}')
    bucket.put("0/deep/y.json", '{"n": 60}')
    bucket.put("0/.hidden.json", '{"n": 70}')
    chosen = {**config, "source_file_part": [".json", ".txt"], "include": ["0/**"], "exclude": ["**/deep"]}
    assert set(table(chosen)) == {*(path for path in PATHS if path[0] == "0"), "0/x.txt"}


@pytest.mark.parametrize("given", ["bytes", "path"])
@pytest.mark.parametrize("batch_files", [None, 3])
@pytest.mark.parametrize("rows", ["one", "many"])
def test_f_gets_objects_in_every_way(
    given: str, batch_files: int | None, rows: str, config: dict[str, Any], bucket: Bucket
) -> None:
    seen: list[str] = []

    def one(path: str, data: bytes | None) -> Any:
        content = Path(path).read_bytes() if data is None else data
        assert path.startswith("gs://files/raw/") == (data is not None)
        row = {"n": json.loads(content)["n"]}
        return row if rows == "one" else [row, row]

    def function(paths: Any, data: Any = None) -> Any:
        seen.extend(r3po.current_files())
        if batch_files is None:
            return one(paths, data)
        return [one(path, content) for path, content in zip(paths, data or [None] * len(paths), strict=True)]

    keys = {**config, "input": given, "batch_files": batch_files, "rows": rows}
    result = r3po.run_jobs(keys, function if given == "bytes" else lambda paths: function(paths))
    assert (result.done, result.failed) == (10, 0)
    frame = result.to_pandas()
    assert list(frame["file"].unique()) == PATHS
    assert [int(n) for n in frame["n"]] == [int(path[2]) for path in PATHS for _ in range(1 if rows == "one" else 2)]
    assert sorted(seen) == PATHS


def test_the_parts_are_those_of_the_same_files_on_a_disk(config: dict[str, Any], tmp_path: Path) -> None:
    for path in PATHS:
        file = tmp_path / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"n": {path[2]}}}')
    here = {"working_dir": str(tmp_path / "work-2"), "output_path": str(tmp_path / "out-2")}
    table(config)
    table({**config, "source_path": str(tmp_path / "files"), **here})
    parts = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("part-*")}
    assert parts == {path.name: path.read_bytes() for path in (tmp_path / "out-2").rglob("part-*")}


def test_a_redo_has_the_rows_in_the_order_of_keys(config: dict[str, Any], bucket: Bucket) -> None:
    table(config)
    bucket.put("0/1.json", '{"n": 1}')
    bucket.put("0-/a.json", '{"n": 0}')
    assert list(table(config)) == [*PATHS, "0-/a.json", "0/1.json"]
    assert list(table(config, redo=True)) == sorted([*PATHS, "0-/a.json", "0/1.json"])


def test_a_job_does_not_move_between_a_bucket_and_a_disk(config: dict[str, Any], tmp_path: Path) -> None:
    table(config)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.json").write_text('{"n": 1}')
    with pytest.raises(SourceError, match="are on a store, and source_path is on a disk now"):
        table({**config, "source_path": str(tmp_path / "files")}, accept_deletions=True)
    assert list(table(config)) == PATHS
    other = {"working_dir": str(tmp_path / "work-2"), "output_path": str(tmp_path / "out-2")}
    table({**config, "source_path": str(tmp_path / "files"), **other})
    with pytest.raises(SourceError, match="are on a disk, and source_path is on a store now"):
        table({**config, **other}, accept_deletions=True)


def test_an_object_that_is_back_with_its_tag_has_its_row_again(
    config: dict[str, Any], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_tag", lambda meta: f'"{meta["size"]}"')  # of the content, as S3's are
    counted = ObjectStore._read
    monkeypatch.setattr(ObjectStore, "_read", lambda self, key, tag: counted(self, key, None))  # it knows its own only
    for kept, n_read in (("keep", 0), ("drop", 1)):
        keys = {**config, "on_deleted": kept}
        table(keys)
        bucket.delete("1/3.json")
        assert ("1/3.json" in table(keys)) == (kept == "keep")
        bucket.read.clear()
        bucket.put("1/3.json", '{"n": 3}')
        assert table(keys)["1/3.json"] == 3
        assert len(bucket.read) >= n_read
        assert r3po.verify_jobs(keys, source=True).findings == ()


def test_try_slow_and_errors_name_objects_by_their_path(config: dict[str, Any], bucket: Bucket) -> None:
    bucket.put("0/bad.json", "no json")
    tried = r3po.try_files(config, f, files=["gs://files/raw/1/3.json", "0/bad.json"])
    assert tried.rows == [{"file": "1/3.json", "n": 3}]
    assert [failure["path"] for failure in tried.failures] == ["0/bad.json"]
    with pytest.raises(SourceError, match=r"no such file: 9/none\.json"):
        r3po.try_files(config, f, files=["9/none.json"])
    assert len(r3po.try_files(config, f, 5).files) == 5
    result = r3po.run_jobs(config, f)
    assert [failure["path"] for failure in result.failures()] == ["0/bad.json"]
    assert {file["path"] for file in r3po.slow_files(config, n=20).slowest} == {*PATHS, "0/bad.json"}


def test_a_store_without_tags_is_compared_by_mtime(
    config: dict[str, Any], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_tag", lambda meta: "")
    assert list(table(config)) == PATHS
    bucket.read.clear()
    assert list(table(config)) == PATHS
    assert bucket.read == []
    bucket.put("0/2.json", '{"n": 9}')  # of the same size
    assert table(config)["0/2.json"] == 9


# Where copies lie


def test_what_a_killed_worker_left_is_swept_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_folders, "IN_MEMORY", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os, sys, tempfile\n"
        "from r3po.source import object_folders\n"
        f"object_folders.IN_MEMORY = {str(tmp_path)!r}\n"
        "folders = object_folders.ObjectFolders()\n"
        "(folders.folder_for(1) / 'copy').write_text('x')\n"
        "(folders.folder_for(1 << 40) / 'copy').write_text('x')\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, timeout=60)
    left = set(tmp_path.glob("r3po-objects-*"))
    assert len(left) == 2
    used = ObjectFolders()
    mine = used.folder_for(1)
    sweep_object_folders()
    assert set(tmp_path.glob("r3po-objects-*")) == {mine}
    used.remove()
    assert not list(tmp_path.glob("r3po-objects-*"))


def test_where_memory_fills_up_copies_go_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(object_folders, "IN_MEMORY", str(memory))
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    folders = ObjectFolders()
    assert folders.folder_for(1000).parent == memory
    assert folders.folder_for(1 << 30).parent == disk
    monkeypatch.setattr(object_folders, "FREE_BYTES", 1 << 60)
    assert folders.folder_for(1000).parent == disk
    folders.remove()
    assert not [*memory.iterdir(), *disk.iterdir()]
    with pytest.raises(FileNotFoundError):
        folders.folder_for(1000)  # asked by a thread that is late
    assert not [*memory.iterdir(), *disk.iterdir()]


def test_copies_lie_where_they_are_swept_also_if_f_works_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folders = ObjectFolders()
    assert tempfile.tempdir is None, "f may yet say where its own are to be"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rmdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "of f"))
    assert folders.folder_for(1 << 40).parent == tmp_path
    folders.remove()


@pytest.mark.parametrize(
    ("one", "other", "is_like"),
    [
        (FileVersion(3, 1), FileVersion(3, 1), True),
        (FileVersion(3, 1), FileVersion(3, 2), False),
        (FileVersion(3, 1, tag="a"), FileVersion(3, 2, tag="a"), True),
        (FileVersion(3, 1, tag="a"), FileVersion(3, 1, tag="b"), False),
        (FileVersion(3, 1, tag="a"), FileVersion(4, 1, tag="a"), False),
        (FileVersion(3, 1, tag="a"), FileVersion(3, 1), False),
    ],
)
def test_objects_are_alike_by_size_and_tag(one: FileVersion, other: FileVersion, is_like: bool) -> None:
    assert one.is_like(other) == other.is_like(one) == is_like


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("s3://b/raw", "s3://b/raw/out", "lies inside source_path"),
        ("s3://b/raw", "s3://b/raw", "is source_path"),
        ("s3://b/raw/2024", "s3://b/raw", "holds source_path"),
        ("s3://b", "s3://b/out", "lies inside source_path"),
    ],
)
def test_a_table_inside_its_source_or_around_it_is_refused(source: str, output: str, reason: str) -> None:
    keys = {"source_file_part": ".json", "working_dir": "work"}
    with pytest.raises(ConfigError, match=reason):
        load_config({**keys, "source_path": source, "output_path": output}, "x")
    for apart in ("s3://b/raw-2", "s3://other/raw", "gs://b/raw"):
        load_config({**keys, "source_path": "s3://b/raw", "output_path": apart}, "x")


def test_nobody_is_told_of_a_file_outside_of_f() -> None:
    code = "import r3po\ntry:\n    r3po.current_file()\nexcept RuntimeError as error:\n    print(error)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("r3po has called no f here")
