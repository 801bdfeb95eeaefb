"""The manifest, its shard files with whatever names the files have, and the columns."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from itertools import accumulate, combinations_with_replacement
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r3po.config.selection import Selection
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
    "a},{b.json",
    '"},{"',
    "},{},{",
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
        selection=Selection((".json",)),
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


def test_which_files_are_chosen_comes_back_and_says_only_what_is_not_usual(tmp_path: Path) -> None:
    folders = ("../a", os.fsdecode(b"/mnt/caf\xe9"))
    chosen = Selection((".a", ".b"), folders, True, ("x/**",), ("**/y",), True)
    for selection in (chosen, Selection(("",))):
        write_manifest(tmp_path / "manifest.json", some_manifest().replace(selection=selection))
        manifest = read_manifest(tmp_path / "manifest.json")
        assert manifest is not None and manifest.selection == selection
    assert Selection(("",)).to_json() == {"source_file_part": ""}
    assert chosen.to_json() == {
        "source_file_part": [".a", ".b"],
        "source_folders": [{"path": "../a"}, {"path": r"/mnt/caf\xe9", "path_b64": "L21udC9jYWbp"}],
        "ignore_case": True,
        "include": ["x/**"],
        "exclude": ["**/y"],
        "follow_links": True,
    }


@pytest.mark.parametrize("source", ODD_PATHS)
def test_a_manifest_comes_back_as_it_was_written_whatever_the_name_of_its_source(tmp_path: Path, source: str) -> None:
    shards = [ShardRef(i, FileRecord(f"0000{i}.b1.x.jsonl", 80, "0" * 64), 12 + i, 1 + i, 1000 + i) for i in range(2)]
    manifest = some_manifest(*shards).replace(source_path=f"/data/{source}")
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path / "manifest.json") == manifest
    assert (manifest.count_job_files, manifest.size_bytes) == (25, 2001)


def test_a_manifest_says_what_people_look_for(tmp_path: Path) -> None:
    file = FileRecord("00000.b1.x.jsonl", 80, "0" * 64)
    manifest = some_manifest(ShardRef(0, file, 12, 1, 1000))
    write_manifest(tmp_path / "manifest.json", manifest)
    told = orjson.loads((tmp_path / "manifest.json").read_bytes())
    told.pop("digest")
    as_they_are = ("job_id", "job_name", "build", "redo_since", "retry_since", "hash")
    shard = {"shard": 0, "file": file.to_json(), "n_files": 12, "last_build": 1, "size_bytes": 1000, "n_deleted": 0}
    assert told == {
        "format": 3,
        "kind": "manifest",
        **{key: getattr(manifest, key) for key in as_they_are},
        "source": {"path": "/data/produce_log"},
        "source_file_part": ".json",
        "output": {"path": "/data/out"},
        "hash_algorithm": "blake2b-128",
        "count_all_files": 30,
        "count_job_files": 12,
        "size_bytes": 1000,
        "sorted_spans": [0, 12],
        "is_redoing": False,
        "layout_since": 1,
        "void_builds": [],
        "shards": [shard],
    }


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", DamagedStateError, r"manifest\.json: is damaged"),
        (b"{}", DamagedStateError, r"manifest\.json: is damaged"),
        (b"\0" * 100, DamagedStateError, r"manifest\.json: is damaged"),
        (
            {"format": 1, "kind": "manifest"},
            DamagedStateError,
            r"format 1 is of a r3po before[\s\S]*reset_all_tracking",
        ),
        ({"format": 4, "kind": "manifest"}, NewerFormatError, "format 4 is newer"),
        (
            {"format": FORMAT, "kind": "columns", "job_id": "", "columns": []},
            DamagedStateError,
            "it holds a 'columns', not a 'manifest'",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_manifest_of_ours_is_refused_and_not_taken_for_a_missing_one(
    tmp_path: Path, content: Any, error: type[Exception], said: str
) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content) if isinstance(content, bytes) else write_json(path, content)
    with pytest.raises(error, match=said):
        read_manifest(path)


def test_there_is_no_manifest_before_the_first_build_and_every_job_has_an_id_of_its_own(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "manifest.json") is None
    assert read_manifest(tmp_path / "no folder" / "manifest.json") is None
    ids = {new_job_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(job_id) == 32 and int(job_id, 16) >= 0 for job_id in ids)


# Shard files


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
            st.binary(min_size=1) | st.sampled_from(ODD_PATHS).map(os.fsencode),
            st.integers(0, 2**63 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.integers(1, 2**31 - 1),
            st.none() | st.binary(min_size=16, max_size=16),
            st.booleans(),
        ),
        min_size=1,
    )
)
@example([(os.fsencode(path), 1, 2, 3, None, False) for path in ODD_PATHS])
def test_entries_have_a_line_each_and_keep_every_value(
    lines: list[tuple[bytes, int, int, int, bytes | None, bool]],
) -> None:
    entries = Entries()
    for path, size, mtime_ns, build, hash_, racy in lines:
        entries.append(os.fsdecode(path), size, mtime_ns, build, hash_=hash_, racy=racy)
    with tempfile.TemporaryDirectory() as folder:
        ref = write_shard_file(Path(folder), 0, 1, entries)
        assert read_shard_file(Path(folder), ref) == entries
        assert (Path(folder) / ref.file.name).read_bytes().count(b"\n") == len(lines)
    assert len(entries) == ref.n_files == len(lines)


def test_a_flipped_bit_in_a_shard_file_is_refused(tmp_path: Path, flips: Any) -> None:
    ref = write_entries(tmp_path, 0, "a", os.fsdecode(b"\xff"))
    for _ in flips(tmp_path / ref.file.name):
        with pytest.raises(DamagedStateError):
            read_shard_file(tmp_path, ref)
    assert len(read_shard_file(tmp_path, ref)) == 2


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-1],
        lambda content: content.partition(b"\n")[2],
        lambda content: b"",
        lambda content: content + b"\n",
    ],
    ids=["cut", "a line less", "empty", "longer"],
)
def test_a_damaged_shard_file_is_refused_by_name(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    ref, other = write_entries(tmp_path, 0, "a", "b"), write_entries(tmp_path, 0, "b", "a")
    assert other.file.name != ref.file.name, "other entries never get the name of a file that is in force"
    path = tmp_path / ref.file.name
    for content in (harm(path.read_bytes()), (tmp_path / other.file.name).read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DamagedStateError, match="its digest is not the one that the manifest names") as caught:
            read_shard_file(tmp_path, ref)
        assert caught.value.where == path
    path.unlink()
    with pytest.raises(DamagedStateError, match=f"^{path}: is missing"):
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


def test_entries_are_counted_over_all_shards(tmp_path: Path, three_shards: tuple[ShardRef, ...]) -> None:
    for start, stop in combinations_with_replacement(range(7), 2):
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


def test_columns_come_back_as_they_were_written_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    manifest = some_manifest()
    columns = columns_of({"name": "x", 'n, "m"': 1, "share": 0.5, "tags": [1], "none": None})
    write_columns(tmp_path, manifest, columns, os.fsdecode(b"\xff.json"), "f1")
    assert read_columns(tmp_path, manifest) == (columns, "f1")
    path = columns_path(tmp_path, manifest)
    assert orjson.loads(path.read_bytes())["from"] == {"path": r"\xff.json", "path_b64": "/y5qc29u"}
    path.write_bytes(path.read_bytes().replace(b'"number"', b'"text"'))
    with pytest.raises(DamagedStateError):
        read_columns(tmp_path, manifest)


def test_columns_are_of_one_job_until_a_redo_sets_them_anew(tmp_path: Path) -> None:
    manifest = some_manifest()
    assert read_columns(tmp_path, manifest) is None, "there are none before the first row"
    write_columns(tmp_path, manifest, columns_of({"a": 1}), "a.json", "f1")
    assert read_columns(tmp_path, some_manifest()) is None, "it is another job"
    again = manifest.replace(build=4, redo_since=4)
    assert read_columns(tmp_path, again) is None
    write_columns(tmp_path, again, columns_of({"b": 1}), "a.json", "f1")
    assert read_columns(tmp_path, again) == (columns_of({"b": 1}), "f1")
    assert read_columns(tmp_path, manifest) == (columns_of({"a": 1}), "f1")
