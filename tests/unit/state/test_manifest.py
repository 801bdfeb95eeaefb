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

HASH = hashlib.blake2b(b"content", digest_size=16).digest()

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


def test_entries_come_back_whatever_the_names_are(tmp_path: Path) -> None:
    entries = some_entries(*ODD_PATHS)
    ref = write_shard_file(tmp_path, 42, 7, entries)
    assert read_shard_file(tmp_path, ref) == entries
    assert [os.fsencode(path) for path in read_shard_file(tmp_path, ref).paths] == [*map(os.fsencode, ODD_PATHS)]


def test_a_shard_file_has_one_line_a_file(tmp_path: Path) -> None:
    ref = write_entries(tmp_path, 42, *ODD_PATHS)
    lines = (tmp_path / ref.file.name).read_bytes().split(b"\n")
    assert [orjson.loads(line)["size"] for line in lines[:-1]] == [100 + i for i in range(len(ODD_PATHS))]
    assert lines[-1] == b""


@pytest.mark.parametrize("name", ["a},{b.json", '"},{"', "},{},{"])
def test_a_name_that_looks_like_two_entries_has_one_line(tmp_path: Path, name: str) -> None:
    entries = Entries()
    for path in ("before.json", name, "x/behind.json"):
        entries.append(path, 1, 2, 3, hash_=b"h" * 16)
    ref = write_shard_file(tmp_path, 0, 1, entries)
    assert len((tmp_path / ref.file.name).read_bytes().splitlines()) == 3
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


def test_other_entries_never_get_the_name_of_a_file_that_is_in_force(tmp_path: Path) -> None:
    first = write_entries(tmp_path, 0, "a")
    second = write_entries(tmp_path, 0, "b")
    assert read_shard_file(tmp_path, first).paths == ["a"]
    assert read_shard_file(tmp_path, second).paths == ["b"]


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


@pytest.mark.parametrize("harm", [cut, cut_a_line, empty, lengthen])
def test_a_damaged_shard_file_is_refused_by_name(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    ref = write_entries(tmp_path, 0, "a", "b")
    harm(tmp_path / ref.file.name)
    with pytest.raises(DamagedStateError, match="its digest is not the one that the manifest names") as caught:
        read_shard_file(tmp_path, ref)
    assert caught.value.where == tmp_path / ref.file.name


def test_swapped_shard_files_are_refused_by_name(tmp_path: Path) -> None:
    first, second = write_entries(tmp_path, 0, "a"), write_entries(tmp_path, 1, "b")
    (tmp_path / first.file.name).rename(tmp_path / "aside")
    (tmp_path / second.file.name).rename(tmp_path / first.file.name)
    (tmp_path / "aside").rename(tmp_path / second.file.name)
    for ref in (first, second):
        with pytest.raises(DamagedStateError) as caught:
            read_shard_file(tmp_path, ref)
        assert caught.value.where == tmp_path / ref.file.name


def test_a_missing_shard_file_is_refused_by_name(tmp_path: Path) -> None:
    ref = write_entries(tmp_path, 3, "a")
    (tmp_path / ref.file.name).unlink()
    with pytest.raises(DamagedStateError) as caught:
        read_shard_file(tmp_path, ref)
    assert str(caught.value).splitlines()[0] == f"{tmp_path}/{ref.file.name}: is missing"


# What f saw


def test_adopting_what_is_known_changes_nothing() -> None:
    entries = some_entries("a", "b")
    before = some_entries("a", "b")
    assert entries.adopt(0, entries.sizes[0], entries.mtimes_ns[0], HASH, False) is False
    assert entries.adopt(1, entries.sizes[1], entries.mtimes_ns[1], HASH, True) is False
    assert entries == before


@pytest.mark.parametrize(
    ("size", "mtime_ns", "hash_", "racy"),
    [(101, 7, bytes(16), False), (100, 8, bytes(16), False), (100, 7, bytes(16), True)],
)
def test_adopting_takes_over_what_f_saw(size: int, mtime_ns: int, hash_: bytes, racy: bool) -> None:
    entries = Entries()
    entries.append("a", 100, 7, 4, hash_=HASH)
    entries.append("b", 100, 7, 4, hash_=HASH)
    assert entries.adopt(0, size, mtime_ns, hash_, racy) is True
    flags = [racy, False], [False, False]
    assert entries == Entries(["a", "b"], [size, 100], [mtime_ns, 7], [hash_, HASH], [4, 4], *flags)


@pytest.mark.parametrize("racy", [False, True])
def test_of_a_content_that_is_known_the_entry_has_the_later_look(racy: bool) -> None:
    entries = Entries()
    entries.append("touched since f saw it", 100, 9, 4, hash_=HASH)
    entries.append("seen twice", 100, 7, 4, hash_=HASH, racy=True)
    assert entries.adopt(0, 100, 7, HASH, racy) is False
    assert entries.adopt(1, 100, 7, HASH, racy) is not racy
    assert (entries.mtimes_ns, entries.racy) == ([9, 7], [False, racy])


def test_a_hash_is_kept_while_size_and_mtime_are_the_same() -> None:
    entries = some_entries("a")
    size, mtime_ns = entries.sizes[0], entries.mtimes_ns[0]
    assert entries.adopt(0, size, mtime_ns, None, False) is False
    assert entries.hashes == [HASH]
    assert entries.adopt(0, size, mtime_ns + 1, None, False) is True
    assert entries.hashes == [None]


def test_the_first_hash_is_adopted() -> None:
    entries = Entries()
    entries.append("a", 100, 7, 1)
    assert entries.adopt(0, 100, 7, HASH, False) is True
    assert entries.hashes == [HASH]


LOOKS = st.tuples(st.sampled_from([1, 2]), st.sampled_from([7, 8]), st.sampled_from([None, HASH]), st.booleans())


@given(
    kind=st.sampled_from(["unseen", "listed", "any"]),
    seen=st.lists(LOOKS, min_size=1, max_size=4),
    known=st.lists(st.one_of(LOOKS, st.just((UNSEEN, UNSEEN, None, False))), min_size=4, max_size=4),
)
def test_a_whole_shard_is_adopted_as_one_file_after_the_other(
    kind: str, seen: list[tuple[int, int, bytes | None, bool]], known: list[tuple[int, int, bytes | None, bool]]
) -> None:
    if kind == "unseen":
        known = [(UNSEEN, UNSEEN, None, False)] * 4
    elif kind == "listed":
        known = [(size, mtime_ns, None, racy) for size, mtime_ns, _, racy in seen]
    whole, one_by_one = Entries(), Entries()
    for n, (size, mtime_ns, hash_, racy) in enumerate(known[: len(seen)]):
        for entries in (whole, one_by_one):
            entries.append(f"{n}", size, mtime_ns, 1, hash_=hash_, racy=racy)
    one_by_one.append("another", 1, 7, 1)  # so that what is seen is never the whole
    is_changed = [one_by_one.adopt_all([place], [file]) for place, file in enumerate(seen)]
    assert whole.adopt_all(range(len(seen)), seen) is any(is_changed)
    assert whole == one_by_one.between(0, len(seen))


# Entries of several shards


@pytest.fixture
def three_shards(tmp_path: Path) -> tuple[ShardRef, ...]:
    """Files a b c | d | e f."""
    return tuple(write_entries(tmp_path, i, *names) for i, names in enumerate(["abc", "d", "ef"]))


@pytest.mark.parametrize(("start", "stop"), [(a, b) for a in range(7) for b in range(a, 7)])
def test_entries_are_counted_over_all_shards(
    tmp_path: Path, three_shards: tuple[ShardRef, ...], start: int, stop: int
) -> None:
    found = [path for _, _, entries in iter_entries(tmp_path, three_shards, start, stop) for path in entries.paths]
    assert "".join(found) == "abcdef"[start:stop]


def test_entries_know_their_place(tmp_path: Path, three_shards: tuple[ShardRef, ...]) -> None:
    pieces = [(shard, first, len(entries)) for shard, first, entries in iter_entries(tmp_path, three_shards, 1, 6)]
    assert pieces == [(0, 1, 2), (1, 0, 1), (2, 0, 2)]


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
