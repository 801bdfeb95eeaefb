"""The manifest, its shard files with whatever names the files have, and the columns."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from itertools import accumulate, product
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3po.errors import DamagedStateError, NewerFormatError
from r3po.file_version import UNSEEN
from r3po.file_version import FileVersion as V
from r3po.state import shard_files
from r3po.state.manifest import (
    FORMAT,
    Manifest,
    ShardRef,
    columns_path,
    new_job_id,
    read_columns,
    read_manifest,
    write_columns,
    write_manifest,
)
from r3po.state.shard_files import Entries, iter_entries, read_shard_file, write_shard_file
from r3po.storage.durable import FileRecord
from r3po.storage.json_files import write_json
from r3po.table.columns import columns_of

HASH, OTHER = b"h" * 16, b"o" * 16

ODD_PATHS = [
    "plain.json",
    "two\nlines.json",
    'a "quote", a comma, a \\ and a tab\t.json',
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}/\N{GRINNING FACE}.json",
    "line\N{LINE SEPARATOR}separator.json",
    os.fsdecode(b"caf\xe9/\xff\xfe.json"),
    r"not bytes \xff.json",
    "\x01\x7f.json",
    "-",
]


def some_manifest(*shards: ShardRef) -> Manifest:
    return Manifest(
        job_id=new_job_id(),
        job_name="count_produce",
        build=3,
        redo_since=1,
        retry_since=2,
        source_path="/data/produce_log",
        output_path="/data/out",
        source_file_part=".json",
        hash="content",
        count_all_files=30,
        sorted_spans=(0, 12),
        shards=shards,
    )


def some_entries(*paths: str, build: int = 1) -> Entries:
    entries = Entries()
    for i, path in enumerate(paths):
        entries.append(path, 100 + i, 1_732_269_600_000_000_000 + i, build, hash_=HASH, racy=i % 2 == 1)
    return entries


def write_entries(folder: Path, shard: int, *paths: str, build: int = 1) -> ShardRef:
    return write_shard_file(folder, shard, build, some_entries(*paths, build=build))


# The manifest


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    shards = [ShardRef(i, FileRecord(f"0000{i}.b1.x.jsonl", 80, "0" * 64), 12 + i, 1 + i, 1000 + i) for i in range(2)]
    manifest = some_manifest(*shards)
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path / "manifest.json") == manifest
    assert (manifest.count_job_files, manifest.size_bytes) == (25, 2001)


@pytest.mark.parametrize("source", ODD_PATHS)
def test_a_manifest_keeps_the_source_whatever_its_name(tmp_path: Path, source: str) -> None:
    manifest = some_manifest().replace(source_path=f"/data/{source}")
    write_manifest(tmp_path / "manifest.json", manifest)
    found = read_manifest(tmp_path / "manifest.json")
    assert found is not None
    assert found.source_path == f"/data/{source}"


def test_a_manifest_says_what_people_look_for(tmp_path: Path) -> None:
    manifest = some_manifest(ShardRef(0, FileRecord("00000.b1.x.jsonl", 80, "0" * 64), 12, 1, 1000))
    write_manifest(tmp_path / "manifest.json", manifest)
    told = orjson.loads((tmp_path / "manifest.json").read_bytes())
    told.pop("digest")
    assert told == {
        "format": 3,
        "kind": "manifest",
        "job_id": manifest.job_id,
        "job_name": "count_produce",
        "build": 3,
        "redo_since": 1,
        "retry_since": 2,
        "source": {"path": "/data/produce_log"},
        "source_file_part": ".json",
        "output": {"path": "/data/out"},
        "hash": "content",
        "hash_algorithm": "blake2b-128",
        "count_all_files": 30,
        "count_job_files": 12,
        "size_bytes": 1000,
        "sorted_spans": [0, 12],
        "is_redoing": False,
        "shards": [
            {
                "shard": 0,
                "file": {"name": "00000.b1.x.jsonl", "size_bytes": 80, "sha256": "0" * 64},
                "n_files": 12,
                "last_build": 1,
                "size_bytes": 1000,
                "n_deleted": 0,
            }
        ],
    }


def test_a_manifest_of_a_format_before_the_release_is_refused_with_the_way_on(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": 1, "kind": "manifest"})
    with pytest.raises(DamagedStateError, match="format 1 is of a r3po before") as caught:
        read_manifest(tmp_path / "manifest.json")
    assert "r3po reset --all" in str(caught.value)


def test_there_is_no_manifest_before_the_first_build(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "manifest.json") is None
    assert read_manifest(tmp_path / "no folder" / "manifest.json") is None


def test_a_damaged_manifest_is_not_a_missing_one(tmp_path: Path) -> None:
    for content in (b"", b"{}", b"\0" * 100):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(DamagedStateError, match=r"manifest\.json: is damaged"):
            read_manifest(tmp_path / "manifest.json")


def test_a_manifest_of_a_newer_r3po_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": 4, "kind": "manifest"})
    with pytest.raises(NewerFormatError, match="format 4 is newer"):
        read_manifest(tmp_path / "manifest.json")


def test_another_file_under_the_name_of_the_manifest_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": FORMAT, "kind": "columns", "job_id": "", "columns": []})
    with pytest.raises(DamagedStateError, match="it holds a 'columns', not a 'manifest'"):
        read_manifest(tmp_path / "manifest.json")


def test_every_job_has_an_id_of_its_own() -> None:
    ids = {new_job_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(job_id) == 32 and int(job_id, 16) >= 0 for job_id in ids)


# Shard files


@pytest.mark.parametrize("names", [["a},{b.json"], ['"},{"'], ["},{},{"], ODD_PATHS])
def test_entries_have_a_line_each_and_come_back_whatever_their_names_are(tmp_path: Path, names: list[str]) -> None:
    entries = some_entries("before.json", *names, "x/behind.json")
    ref = write_shard_file(tmp_path, 0, 1, entries)
    assert (tmp_path / ref.file.name).read_bytes().count(b"\n") == len(entries)
    assert read_shard_file(tmp_path, ref) == entries


def test_a_line_of_a_shard_file_is_as_documented(tmp_path: Path) -> None:
    """FORMAT.md, "Shard files"."""
    entries = Entries()
    entries.append("2024/a.json", 312, 1732269600000000000, 1, hash_=bytes(16))
    entries.append(os.fsdecode(b"\xff"), 0, -1, 2, racy=True)
    ref = write_shard_file(tmp_path, 0, 2, entries)
    assert (tmp_path / ref.file.name).read_text() == (
        '{"path":"2024/a.json","size":312,"mtime_ns":1732269600000000000,'
        '"hash":"00000000000000000000000000000000","build":1}\n'
        r'{"path":"\\xff","size":0,"mtime_ns":-1,"hash":null,"build":2,"racy":true,"path_b64":"/w=="}' + "\n"
    )


def test_a_shard_is_named_with_its_digest_and_its_counts(tmp_path: Path) -> None:
    entries = some_entries("a", "b", build=2)
    entries.append("c", 1000, 0, 5)
    ref = write_shard_file(tmp_path, 42, 6, entries)
    content = (tmp_path / ref.file.name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    assert ref.file == FileRecord(f"00042.b6.{sha256[:12]}.jsonl", len(content), sha256)
    assert (ref.shard, ref.n_files, ref.last_build, ref.size_bytes) == (42, 3, 5, 1201)
    assert os.listdir(tmp_path) == [ref.file.name]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1),
            st.integers(0, 2**63 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(1, 2**31 - 1),
            st.none() | st.binary(min_size=16, max_size=16),
            st.booleans(),
        ),
        min_size=1,
    )
)
def test_entries_keep_every_value(lines: list[tuple[bytes, int, int, int, bytes | None, bool]]) -> None:
    entries = Entries()
    for path, size, mtime_ns, build, hash_, racy in lines:
        entries.append(os.fsdecode(path), size, mtime_ns, build, hash_=hash_, racy=racy)
    with tempfile.TemporaryDirectory() as folder:
        ref = write_shard_file(Path(folder), 0, 1, entries)
        assert read_shard_file(Path(folder), ref) == entries
    assert len(entries) == ref.n_files == len(lines)


def test_a_flipped_bit_in_a_shard_file_is_refused(tmp_path: Path) -> None:
    ref = write_entries(tmp_path, 0, "a", os.fsdecode(b"\xff"))
    path = tmp_path / ref.file.name
    good = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position, bit in product(range(len(good)), range(8)):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            file.seek(0)
            file.write(bad)
            with pytest.raises(DamagedStateError):
                read_shard_file(tmp_path, ref)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def become_another(path: Path) -> None:
    other = write_entries(path.parent, 0, "b", "a")
    assert other.file.name != path.name, "other entries never get the name of a file that is in force"
    (path.parent / other.file.name).rename(path)


@pytest.mark.parametrize("harm", [cut, cut_a_line, empty, lengthen, become_another])
def test_a_damaged_shard_file_is_refused_by_name(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    ref = write_entries(tmp_path, 0, "a", "b")
    harm(tmp_path / ref.file.name)
    with pytest.raises(DamagedStateError, match="its digest is not the one that the manifest names") as caught:
        read_shard_file(tmp_path, ref)
    assert caught.value.where == tmp_path / ref.file.name


def test_a_missing_shard_file_is_refused_by_name(tmp_path: Path) -> None:
    ref = write_entries(tmp_path, 3, "a")
    (tmp_path / ref.file.name).unlink()
    with pytest.raises(DamagedStateError, match=f"^{tmp_path}/{ref.file.name}: is missing"):
        read_shard_file(tmp_path, ref)


# What f saw


@pytest.mark.parametrize(
    ("known", "seen", "then"),
    [
        (V(100, 7, HASH), V(100, 7, HASH), V(100, 7, HASH)),
        (V(UNSEEN, UNSEEN), V(100, 7, HASH, True), V(100, 7, HASH, True)),
        (V(100, 7), V(100, 7, HASH), V(100, 7, HASH)),
        (V(100, 7, HASH), V(101, 7, OTHER), V(101, 7, OTHER)),
        (V(100, 7, HASH), V(100, 8, OTHER), V(100, 8, OTHER)),
        (V(100, 7, HASH), V(100, 7, OTHER, True), V(100, 7, OTHER, True)),
        # Without a hash, the known one stands while size and mtime are the same.
        (V(100, 7, HASH), V(100, 7), V(100, 7, HASH)),
        (V(100, 7, HASH), V(100, 8), V(100, 8)),
        # Of a content that is known the entry has the later size and mtime: it was touched since f saw it.
        (V(100, 9, HASH), V(100, 7, HASH, True), V(100, 9, HASH)),
        (V(100, 9, HASH, True), V(100, 7, HASH), V(100, 9, HASH, True)),
        # Seen twice: racy is what was racy both times.
        (V(100, 7, HASH, True), V(100, 7, HASH), V(100, 7, HASH)),
        (V(100, 7, HASH, True), V(100, 7, HASH, True), V(100, 7, HASH, True)),
        (V(100, 7, HASH), V(100, 7, HASH, True), V(100, 7, HASH)),
    ],
)
def test_an_entry_adopts_the_version_that_f_saw(known: V, seen: V, then: V) -> None:
    entries = some_entries("a", "b", "c")
    expected = some_entries("a", "b", "c")
    entries.set_version(1, known)
    expected.set_version(1, then)
    assert entries.adopt_all([0, 1], [entries.version_at(0), seen]) is (known != then)
    assert entries == expected


# Entries of several shards


@pytest.fixture
def three_shards(tmp_path: Path) -> tuple[ShardRef, ...]:
    """Files a b c | d | e f."""
    return tuple(write_entries(tmp_path, i, *names) for i, names in enumerate(["abc", "d", "ef"]))


@pytest.mark.parametrize(("start", "stop"), [(a, b) for a in range(7) for b in range(a, 7)])
def test_entries_are_counted_over_all_shards(
    tmp_path: Path, three_shards: tuple[ShardRef, ...], start: int, stop: int
) -> None:
    pieces = list(iter_entries(tmp_path, three_shards, start, stop))
    assert "".join(path for _, _, entries in pieces for path in entries.paths) == "abcdef"[start:stop]
    for shard, first, entries in pieces:
        assert entries.paths == list(["abc", "d", "ef"][shard][first : first + len(entries)])


def test_a_large_shard_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "_PIECE_BYTES", 200)
    ref = write_entries(tmp_path, 0, *"abcdefghij")
    pieces = list(iter_entries(tmp_path, (ref,), 3, 9))
    assert len(pieces) > 2
    assert [first for _, first, _ in pieces] == list(accumulate((len(e) for _, _, e in pieces[:-1]), initial=3))
    assert [path for _, _, entries in pieces for path in entries.paths] == list("defghi")


def test_only_the_shard_files_that_are_needed_are_read(tmp_path: Path, three_shards: tuple[ShardRef, ...]) -> None:
    for ref in (three_shards[0], three_shards[2]):
        (tmp_path / ref.file.name).unlink()
    assert [entries.paths for _, _, entries in iter_entries(tmp_path, three_shards, 3, 4)] == [["d"]]
    with pytest.raises(DamagedStateError, match="is missing"):
        list(iter_entries(tmp_path, three_shards, 3, 5))


# Columns


def test_columns_come_back_as_they_were_written(tmp_path: Path) -> None:
    manifest = some_manifest()
    columns = columns_of({"name": "x", 'n, "m"': 1, "share": 0.5, "tags": [1], "none": None})
    write_columns(tmp_path, manifest, columns, os.fsdecode(b"\xff.json"), "f1")
    assert read_columns(tmp_path, manifest) == (columns, "f1")
    assert orjson.loads(columns_path(tmp_path, manifest).read_bytes())["from"] == {
        "path": r"\xff.json",
        "path_b64": "/y5qc29u",
    }


def test_there_are_no_columns_before_the_first_row(tmp_path: Path) -> None:
    assert read_columns(tmp_path, some_manifest()) is None


def test_the_columns_of_another_job_are_none(tmp_path: Path) -> None:
    write_columns(tmp_path, some_manifest(), columns_of({"a": 1}), "a.json", "f1")
    assert read_columns(tmp_path, some_manifest()) is None


def test_a_redo_sets_columns_anew(tmp_path: Path) -> None:
    manifest = some_manifest()
    write_columns(tmp_path, manifest, columns_of({"a": 1}), "a.json", "f1")
    again = manifest.replace(build=4, redo_since=4)
    assert read_columns(tmp_path, again) is None
    write_columns(tmp_path, again, columns_of({"b": 1}), "a.json", "f1")
    assert read_columns(tmp_path, again) == (columns_of({"b": 1}), "f1")
    assert read_columns(tmp_path, manifest) == (columns_of({"a": 1}), "f1")


def test_damaged_columns_are_refused(tmp_path: Path) -> None:
    manifest = some_manifest()
    write_columns(tmp_path, manifest, columns_of({"a": 1}), "a.json", "f1")
    path = columns_path(tmp_path, manifest)
    path.write_bytes(path.read_bytes().replace(b'"number"', b'"text"'))
    with pytest.raises(DamagedStateError):
        read_columns(tmp_path, manifest)
