"""The walk, its order and what it passes over; hashing files that are whole, odd, or still written."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import r3po
from r3po.config.selection import Selection, folder_names
from r3po.errors import SourceError
from r3po.file_version import FileVersion
from r3po.source import hashing
from r3po.source import walk as scan
from r3po.source.folders import WalkCounts
from r3po.source.hashing import BLOCK_BYTES, RACY_NS, ChangingFileError, hash_file, hash_files, open_regular
from r3po.source.walk import count_suffixes, walk, walk_blocks, walk_key
from r3po.storage.names import absolute_path

ODD_NAMES = [
    b"A",
    b"Z",
    b"a",
    b"a b",
    b"a-b",  # "-" is less than "/", and "0" is greater
    b"a0",
    b"aa",
    b"\x80",  # not UTF-8; as a surrogate it would come after every name below, but for the last two
    "\u00e9".encode(),
    "e\u0301".encode(),
    "\uffee".encode(),  # as a code point less than the next, greater than any surrogate
    "\U0001f600".encode(),
    b"\xff",
    b"new\nline",
    b'quote"',
    b"-dash",
]
"""Names of which byte order, code point order and order of whole paths differ."""


def make(folder: Path, *names: str | bytes) -> None:
    """Make empty files; names are relative, and a slash at the end makes a folder."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if not path.endswith(b"/"):
                open(path, "xb").close()
        except OSError as error:
            if error.errno == errno.EILSEQ:
                pytest.skip("this file system takes UTF-8 names only")
            raise


def paths(source: Path, suffix: Selection | str = ".json", **options: Any) -> list[str]:
    return [path for path, _ in walk(source, suffix, **options)]


def plain_walk(folder: bytes, prefix: bytes = b"") -> Iterator[bytes]:
    """The same order, said in another way."""
    names = sorted(os.listdir(folder))
    below = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    yield from (prefix + name for name in names if name not in below)
    for name in below:
        yield from plain_walk(os.path.join(folder, name), prefix + name + b"/")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail what waits for longer."""

    def fail(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# The order


def test_files_come_before_subfolders_and_names_in_byte_order(tmp_path: Path) -> None:
    make(tmp_path, "b.json", "Z.json", "a/z.json", "a/B/1.json", "a/b/1.json", "a-b/1.json", "a0/1.json", "c/")
    below = ["a/z.json", "a/B/1.json", "a/b/1.json", "a-b/1.json", "a0/1.json"]
    assert paths(tmp_path) == ["Z.json", "b.json", *below]


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_the_walk_is_the_order_of_its_key_and_of_bytes(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(40):
        folders = [chosen.choice(ODD_NAMES) for _ in range(chosen.randrange(4))]
        path = b"/".join([*(f + b".d" for f in folders), chosen.choice(ODD_NAMES)])
        if not os.path.exists(os.path.join(os.fsencode(tmp_path), path)):
            make(tmp_path, path)
    found = paths(tmp_path, "")
    assert [os.fsencode(path) for path in found] == list(plain_walk(os.fsencode(tmp_path)))
    assert len(found) > 20
    shuffled = chosen.sample(found, len(found))
    assert sorted(shuffled, key=walk_key) == found


# What is taken, and what is passed over


@pytest.mark.parametrize(
    ("names", "suffix", "found", "counted"),
    [
        ([], ".json", [], WalkCounts()),
        (["a.json", "a.txt", "b/json", "a.json.gz"], ".json", ["a.json"], WalkCounts(other=3)),
        (["a.json", "b", "c/d.txt"], "", ["a.json", "b", "c/d.txt"], WalkCounts()),
        (
            ["a.json", ".b.json", ".c/d.json", "e/.json", "f/g.json"],
            ".json",
            ["a.json", "f/g.json"],
            WalkCounts(hidden=3),
        ),
        (["x.json/1.json", "x.json/2.txt"], ".json", ["x.json/1.json"], WalkCounts(other=1)),
    ],
)
def test_names_are_taken_by_their_end_and_the_others_counted(
    tmp_path: Path, names: list[str], suffix: str, found: list[str], counted: WalkCounts
) -> None:
    make(tmp_path, *names)
    counts = WalkCounts()
    assert paths(tmp_path, suffix, counts=counts) == found
    assert counts == counted


def test_files_are_taken_with_size_and_mtime_and_links_to_them_with_those_of_the_target(tmp_path: Path) -> None:
    make(tmp_path, "real/")
    (tmp_path / "elsewhere.txt").write_bytes(b"123")
    os.utime(tmp_path / "elsewhere.txt", ns=(1, 1_700_000_000_123_456_789))
    (tmp_path / "real" / "b.json").symlink_to(tmp_path / "elsewhere.txt")
    (tmp_path / "real" / "a.json").symlink_to("b.json")
    (tmp_path / "real" / "c.json").write_bytes(b"12345")
    (tmp_path / "source").symlink_to("real")  # so may the source be
    status = [(tmp_path / name).stat() for name in ("elsewhere.txt", "real/c.json")]
    target, file = (FileVersion(found.st_size, found.st_mtime_ns) for found in status)
    assert target.mtime_ns != file.mtime_ns
    assert list(walk(tmp_path / "source", ".json")) == [("a.json", target), ("b.json", target), ("c.json", file)]


def test_what_is_neither_file_nor_folder_is_passed_over_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "source/a/1.json", "elsewhere/2.json")
    source = tmp_path / "source"
    links = {"folder": "../elsewhere", "folder.json": "../elsewhere", "a/loop": "..", "nowhere.json": "nowhere"}
    links |= {"itself.json": "itself.json", "itself": "itself", "through.json": "a/1.json/below"}
    for name, target in links.items():
        (source / name).symlink_to(target)
    for name in ("fifo.json", "fifo"):
        os.mkfifo(source / name)
    counts = WalkCounts()
    with within(10):
        assert paths(source, counts=counts) == ["a/1.json"]
    assert (counts.linked_folders, counts.irregular + counts.other, counts.hidden) == (3, 6, 0)
    assert counts.irregular >= 4, "what has the name of a source file is no other file"


def test_skipped_folders_are_never_entered_whatever_they_are_called(tmp_path: Path) -> None:
    make(tmp_path, "source/a.json", "source/work/shards/1.json", "source/b/out/2.json", "source/b/3.json")
    skip = [tmp_path / "source" / "work", tmp_path / "source" / "b" / "out"]
    (tmp_path / "link").symlink_to(skip[0])
    for others in (skip, [tmp_path / "link", tmp_path / "source" / "b" / ".." / "b" / "out", tmp_path / "no such"]):
        assert paths(tmp_path / "source", skip=others) == ["a.json", "b/3.json"]


# Folders that cannot be read


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[str], Iterator[str]]]:
    """By the name of a folder: what happens while it is listed; it gets the path and the names, and yields names."""
    doings: dict[str, Any] = {}
    real = os.scandir

    @contextmanager
    def scandir(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(path) as entries:
            listed = list(entries)
        doing = doings.get(os.path.basename(str(path).rstrip("/")))
        yield iter(listed) if doing is None else doing(path, listed)

    monkeypatch.setattr(os, "scandir", scandir)
    return doings


@pytest.mark.parametrize("name", [b"c", b"caf\xe9"])
@pytest.mark.parametrize("after", [None, 0, 1])
def test_an_unreadable_folder_ends_the_walk(
    tmp_path: Path, listing: dict[str, Any], after: int | None, name: bytes
) -> None:
    """Its files must not be taken for deleted ones."""
    make(tmp_path, "a.json", b"b/%s/1.json" % name, b"b/%s/2.json" % name, "d/e.json")

    def tear(path: str, listed: list[Any]) -> Iterator[Any]:
        yield from listed[:after]
        raise PermissionError(errno.EACCES, "Permission denied")

    def refuse(path: str, listed: list[Any]) -> Iterator[Any]:
        raise PermissionError(errno.EACCES, "Permission denied")

    listing[os.fsdecode(name)] = refuse if after is None else tear
    with pytest.raises(SourceError) as caught:
        paths(tmp_path)
    where = f"{tmp_path}/b/{os.fsdecode(name)}".replace("\udce9", r"\xe9")
    assert caught.value.where == where
    assert str(caught.value).splitlines()[0] == f"{where}: cannot be read: Permission denied; nothing was changed"


def test_a_folder_without_permission_and_a_source_that_is_no_folder_end_the_walk(tmp_path: Path) -> None:
    make(tmp_path, "file", "a/b.json")
    for source in ("file", "missing"):
        with pytest.raises(SourceError, match=f"{source}: cannot be read"):
            paths(tmp_path / source)
    (tmp_path / "a").chmod(0)
    try:
        if os.access(tmp_path / "a", os.R_OK):
            pytest.skip("root reads every folder")
        with pytest.raises(SourceError, match="Permission denied"):
            paths(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


@pytest.mark.parametrize("n_files", [3, 30])
def test_what_is_deleted_during_the_walk_is_not_there(tmp_path: Path, listing: dict[str, Any], n_files: int) -> None:
    """Between reading a folder and the look at its files; a folder that is there can be read."""
    make(tmp_path, "a.json", "b.json", "c.json", *(f"folder/{n}.json" for n in range(n_files)))

    def remove_one(path: str, listed: list[Any]) -> Iterator[Any]:
        (tmp_path / "b.json").unlink()
        return iter(listed)

    def remove_all(path: str, listed: list[Any]) -> Iterator[Any]:
        shutil.rmtree(path)
        return iter(listed)

    listing |= {tmp_path.name: remove_one, "folder": remove_all}
    assert paths(tmp_path) == ["a.json", "c.json"]


# Helpers


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Folders of 1 to 13 files, of which some are links, and one whose name is no UTF-8."""
    for folder in range(13):
        make(tmp_path, *(f"f{folder:02}/{n}.json" for n in range(folder + 1)))
        (tmp_path / f"f{folder:02}" / "link.json").symlink_to("0.json")
    make(tmp_path, b"caf\xe9/1.json")
    return tmp_path


def test_a_long_walk_with_helpers_finds_the_same_in_the_same_order(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONG_WALK_FILES", 10)
    monkeypatch.setattr(scan, "_TASK_FILES", 4)
    alone = [file for block in walk_blocks(many, ".json") for file in block]
    helped = [file for block in walk_blocks(many, ".json", processes=2) for file in block]
    assert helped == alone
    assert len(alone) == sum(range(1, 14)) + 14


def test_without_processes_to_use_a_walk_has_no_helpers(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONG_WALK_FILES", 0)
    monkeypatch.setattr("r3po.source.parallel.map_in_order", None)
    for processes in (0, 1):
        assert len([file for block in walk_blocks(many, ".json", processes=processes) for file in block]) == 105


@pytest.fixture
def helped_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers' work is done in this process."""

    def map_here(function: Any, tasks: Any, processes: int) -> Any:
        yield from map(function, tasks)

    monkeypatch.setattr("r3po.source.parallel.map_in_order", map_here)
    monkeypatch.setattr(scan, "LONG_WALK_FILES", 0)


@pytest.mark.usefixtures("helped_here")
def test_what_changes_before_a_helper_looks_is_passed_over_but_not_what_cannot_be_looked_at(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, counts = scan._stat_listings, WalkCounts()

    def look(task: Any) -> Any:
        if (many / "f12/3.json").exists():
            (many / "f12/3.json").unlink()
            (many / "f12/5.json").unlink()
            os.mkfifo(many / "f12/5.json")
        return real(task)

    monkeypatch.setattr(scan, "_stat_listings", look)
    found = [path for block in walk_blocks(many, ".json", counts=counts, processes=2) for path, *_ in block]
    assert [path for path in found if path.startswith("f12/")] == [
        f"f12/{name}.json" for name in sorted([*"0124", *"6789", "10", "11", "12", "link"])
    ]
    assert counts.irregular == 1

    def look_at_a_loop(task: Any) -> Any:
        with suppress(FileExistsError):
            (many / "f03" / "2.json").unlink(missing_ok=True)
            (many / "f03" / "2.json").symlink_to("2.json")
        return real(task)

    monkeypatch.setattr(scan, "_stat_listings", look_at_a_loop)
    with pytest.raises(SourceError, match="f03: cannot be read"):
        list(walk_blocks(many, ".json", processes=2))


# Which files: ends, letter case, globs


def listed(monkeypatch: pytest.MonkeyPatch, source: Path) -> list[str]:
    """Return, as it grows, which folders are listed from now on, relative to the source."""
    found: list[str] = []
    real = os.scandir

    def scandir(path: str) -> Any:
        found.append(os.path.relpath(path, source))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return found


def test_several_ends_are_taken_and_the_empty_one_takes_every_file(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.jpg", "c.txt", "d.PNG", ".e.png", "f/g.jpg")
    counts = WalkCounts()
    assert paths(tmp_path, Selection((".png", ".jpg")), counts=counts) == ["a.png", "b.jpg", "f/g.jpg"]
    assert (counts.other, counts.hidden, dict(counts.other_case)) == (2, 1, {".PNG": 1})
    assert paths(tmp_path, Selection(("",))) == ["a.png", "b.jpg", "c.txt", "d.PNG", "f/g.jpg"]


def test_letter_case_is_ignored_where_that_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.PNG", "c.Png", "d.txt", "Tmp/e.png", "F/tmp.png")
    counts = WalkCounts()
    which = Selection((".PNG",), ignore_case=True, exclude=("tmp", "f/TMP.*"))
    assert paths(tmp_path, which, counts=counts) == ["a.png", "b.PNG", "c.Png"]
    assert (counts.other, counts.other_case, counts.excluded, counts.excluded_folders) == (1, {}, 1, 1)


def test_globs_choose_files_and_a_folder_in_which_none_can_be_chosen_is_never_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.json", "2023/1.json", "2024/1.json", "2024/tmp/2.json", "2024/x/tmp/y/3.json", "2024/x/4.json")
    make(tmp_path, "tmp.json", "2024/x/old.json")
    seen = listed(monkeypatch, tmp_path)
    counts = WalkCounts()
    which = Selection((".json",), include=("2024/**",), exclude=("**/tmp", "**/old.*"))
    assert paths(tmp_path, which, counts=counts) == ["2024/1.json", "2024/x/4.json"]
    assert seen == [".", "2024", "2024/x"]
    assert (counts.excluded, counts.excluded_folders) == (3, 3)
    assert paths(tmp_path, Selection((".json",), exclude=("20*/**", "*/tmp/**"))) == ["a.json", "tmp.json"]
    assert paths(tmp_path, Selection((".json",), include=("*.json",))) == ["a.json", "tmp.json"]


# Several folders


def test_several_folders_are_walked_in_one_order_and_paths_begin_with_them(tmp_path: Path) -> None:
    make(tmp_path, "home/b/data/1.json", "home/a-b/2.json", "data/3.json", "home/a/b/x/4.json", "home/a/b/5.json")
    folders = ("../data", str(tmp_path / "home" / "b"), "a/b", "a-b")
    absolute = str(tmp_path / "home" / "b" / "data" / "1.json")
    expected = [absolute, "../data/3.json", "a/b/5.json", "a/b/x/4.json", "a-b/2.json"]
    names = folder_names(folders)
    assert names == folder_names(folders[::-1]) == (folders[1], folders[0], "a/b", "a-b")
    found = paths(tmp_path / "home", Selection((".json",), folders=names))
    assert found == expected == sorted(expected, key=walk_key)
    assert all(os.path.isfile(absolute_path(str(tmp_path / "home"), path)) for path in found)


def test_the_name_of_a_folder_is_as_it_is_written_but_for_what_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", "/mnt/disk")
    written = ["./a//b/", "${DISK}/x", "c/../d", ".", "//mnt/e"]
    assert set(folder_names(written)) == {"a/b", "/mnt/disk/x", "d", ".", "/mnt/e"}
    assert folder_names("a") == ("",)


def test_what_leads_out_of_the_root_is_found_by_its_name_as_folders_of_a_config_are() -> None:
    """Not through a link that the root may be."""
    found = [absolute_path("/a/b", path) for path in ("c/d", "../c/d", "./c", "/e/f", "../../g")]
    assert found == ["/a/b/c/d", "/a/c/d", "/a/b/c", "/e/f", "/g"]
    assert absolute_path("/", "a/b") == "/a/b"


def test_globs_are_relative_to_each_folder(tmp_path: Path) -> None:
    make(tmp_path, "a/tmp/1.json", "a/2.json", "b/tmp/3.json", "b/x/4.json", "a/x/5.json")
    which = Selection((".json",), folders=("a", "b"), include=("x/*", "*"), exclude=("tmp",))
    assert paths(tmp_path, which) == ["a/2.json", "a/x/5.json", "b/x/4.json"]


# Links to folders


def test_links_to_folders_are_entered_where_that_is_asked_for_and_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "out/1.json", "out/deep/2.json", "other/3.json", "source/real/4.json", "source/.store/5.json")
    source = tmp_path / "source"
    links = {
        "a": "../out",
        "again": "../out/deep",
        "first": "real",
        "real/loop": "..",
        "real/up": "../..",
        "z": ".store",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    (tmp_path / "out" / "itself").symlink_to(".")
    counts = WalkCounts()
    with within(10):
        found = paths(source, Selection((".json",), follow_links=True), counts=counts)
    # real/up holds the source, which is walked already, and `out`, which is walked as `a`.
    assert found == ["a/1.json", "a/deep/2.json", "real/4.json", "real/up/other/3.json", "z/5.json"]
    assert paths(source) == ["real/4.json"]
    assert counts.linked_folders >= 4
    skip = [tmp_path / "other", tmp_path / "out" / "deep"]
    assert "z/5.json" in paths(source, Selection((".json",), follow_links=True), skip=skip)
    assert not any(
        "other" in path or "deep" in path for path in paths(source, Selection((".json",), follow_links=True), skip=skip)
    )


def test_a_link_into_an_excluded_folder_or_another_folder_of_the_list_is_walked_once(tmp_path: Path) -> None:
    make(tmp_path, "a/store/x/1.json", "b/2.json")
    (tmp_path / "a" / "x").symlink_to("store/x")
    (tmp_path / "a" / "y").symlink_to("../b")
    which = Selection((".json",), folders=("a", "b"), exclude=("store",), follow_links=True)
    assert paths(tmp_path, which) == ["a/x/1.json", "b/2.json"]


# Folders that are passed over because they cannot be read


def test_unreadable_subfolders_are_passed_over_where_that_is_asked_for(tmp_path: Path, listing: dict[str, Any]) -> None:
    make(tmp_path, "a.json", "b/1.json", "c/2.json", "c/d/3.json", "e/4.json")

    def tear(path: str, listed: list[Any]) -> Iterator[Any]:
        yield listed[0]
        raise PermissionError(errno.EACCES, "Permission denied")

    listing["c"] = tear
    counts = WalkCounts()
    for which in (".json", Selection((".json",), ignore_case=True)):
        assert paths(tmp_path, which, counts=counts, skip_unreadable=True) == ["a.json", "b/1.json", "e/4.json"]
        assert counts.unreadable == {"c/": "Permission denied"}
        with pytest.raises(SourceError, match=r"/c: cannot be read.*\n.*on_unreadable: skip"):
            paths(tmp_path, which)
    listing[tmp_path.name] = tear
    with pytest.raises(SourceError) as caught:
        paths(tmp_path, skip_unreadable=True)
    assert "on_unreadable" not in str(caught.value), "the source itself is never passed over"


@pytest.mark.usefixtures("helped_here")
def test_a_folder_whose_files_cannot_be_looked_at_is_passed_over_too(many: Path) -> None:
    (many / "f03" / "2.json").unlink()
    (many / "f03" / "2.json").symlink_to("2.json")
    real = scan.read_folder
    counts = WalkCounts()

    def read(*arguments: Any) -> Any:
        names, subfolders = real(*arguments)
        return names + ["2.json"] * (arguments[-1] == "f03/"), subfolders

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "read_folder", read)
        found = [
            path
            for block in walk_blocks(many, ".json", processes=2, counts=counts, skip_unreadable=True)
            for path, *_ in block
        ]
    assert counts.unreadable.keys() == {"f03/"} and len(found) == 105 - 5


# The hint when no file matches


def test_suffixes_are_counted_most_first_up_to_a_limit(tmp_path: Path) -> None:
    make(tmp_path, *(f"{n}.txt" for n in range(9)), "a/3.txt", "1.json", "2.json", "1.lz4", "README", ".hidden")
    assert list(count_suffixes(tmp_path).items()) == [(".txt", 10), (".json", 2), (".lz4", 1), ("README", 1)]
    assert sum(count_suffixes(tmp_path, limit=4).values()) <= 5


# Hashing one file


def hashed(content: bytes, path: Path) -> FileVersion:
    mtime_ns = path.stat().st_mtime_ns
    is_racy = mtime_ns > time.time_ns() - RACY_NS
    return FileVersion(len(content), mtime_ns, hashlib.blake2b(content, digest_size=16).digest(), is_racy)


@pytest.mark.parametrize("size", [0, 1, 300, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
def test_a_hash_is_blake2b_of_the_whole_content(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    assert hash_file(str(path)) == hash_file(str(tmp_path / "link")) == hashed(content, path)
    with pytest.raises(FileNotFoundError):
        hash_file(str(tmp_path / "missing"))


@pytest.mark.parametrize("make_it", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_regular_file_is_refused_at_once_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_it: Callable[[Path], None]
) -> None:
    make_it(tmp_path / "file")
    opened: list[int] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(real(*args)) or opened[-1])
    for open_it in (hash_file, open_regular):
        with within(10), pytest.raises(OSError, match="not a regular file") as caught:
            open_it(str(tmp_path / "file"))
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(tmp_path / "file"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[-1])
    assert len(opened) == 2


class Writer:
    """Somebody who writes a file so many times, each time that it was read to its end: stands in for os.read."""

    def __init__(self, path: Path, write: Callable[[Path, int], object], times: int) -> None:
        self._real, self._path, self._write, self._left = os.read, path, write, times
        self.descriptors: list[int] = []

    def __call__(self, descriptor: int, n: int) -> bytes:
        self.descriptors.append(descriptor)
        data = self._real(descriptor, n)
        if not data and self._left:
            self._left -= 1
            self._write(self._path, self._left)
        return data


def append(path: Path, left: int) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def rewrite(path: Path, left: int) -> None:
    """Other content, the same size, another mtime."""
    path.write_bytes(bytes([left % 256]) * 8)
    os.utime(path, ns=(left, 1_000_000_000 + left))


def truncate(path: Path, left: int) -> None:
    """A little shorter each time; the mtime stays."""
    mtime_ns = path.stat().st_mtime_ns
    os.truncate(path, max(0, path.stat().st_size - 1))
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("write", [append, rewrite, truncate])
def test_a_file_that_changed_is_hashed_as_it_is_now_and_one_that_changes_each_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, int], object], times: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8)
    writer = Writer(path, write, times)
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", writer)
        if times == 1:
            found = hash_file(str(path))
        else:
            with pytest.raises(ChangingFileError, match="keeps changing") as caught:
                hash_file(str(path))
            assert caught.value.filename == str(path)
    assert times > 1 or found == hashed(path.read_bytes(), path)
    for descriptor in set(writer.descriptors):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_file_that_grew_and_shrank_while_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and mtime are what they were; but more bytes were read than it holds."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8)
    mtime_ns = path.stat().st_mtime_ns
    real = os.read
    reads: list[bytes] = []

    def read(descriptor: int, n: int) -> bytes:
        reads.append(real(descriptor, n))
        if len(reads) == 1:
            append(path, 0)
        if len(reads) == 2:
            os.truncate(path, 8)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return reads[-1]

    monkeypatch.setattr(os, "read", read)
    found = hash_file(str(path))
    monkeypatch.undo()
    assert reads[:3] == [b"x" * 8, b"more", b""]
    assert found == hashed(b"x" * 8, path)


# Hashing many files


def test_many_files_are_hashed_in_order_and_errors_stay_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_CHUNK_FILES", 3)  # more chunks than may wait at a time
    files = [tmp_path / f"{i:02}" for i in range(40)]
    for i, file in enumerate(files):
        file.write_bytes(b"x" * i * 1000)
    files[5].unlink()
    files[6].unlink()
    os.mkfifo(files[6])
    found = list(hash_files(map(str, files), 2))
    assert len(found) == 40
    assert list(hash_files([], 1)) == []
    missing, fifo = found[5:7]
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == str(files[5])
    assert isinstance(fifo, OSError)
    assert fifo.errno == errno.EINVAL
    for i in [*range(5), *range(7, 40)]:
        assert found[i] == hashed(files[i].read_bytes(), files[i])


def test_files_are_asked_for_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of paths come from a walk; they are not collected first."""
    monkeypatch.setattr(hashing, "_CHUNK_FILES", 1)
    (tmp_path / "file").touch()
    asked: list[str] = []

    def some_paths() -> Iterator[str]:
        for _ in range(100):
            asked.append(str(tmp_path / "file"))
            yield asked[-1]

    found = hash_files(some_paths(), 1)
    next(found)
    assert len(asked) < 10
    found.close()  # type: ignore[attr-defined]


def test_the_error_of_a_changing_file_survives_the_way_out_of_its_process() -> None:
    error = pickle.loads(pickle.dumps(ChangingFileError(errno.EAGAIN, "the file keeps changing", "a.json")))
    assert type(error) is ChangingFileError
    assert (error.errno, error.strerror, error.filename) == (errno.EAGAIN, "the file keeps changing", "a.json")


SCRIPT = """\
import os

from r3po.source.hashing import hash_files

print("the script runs", flush=True)
print(len(list(hash_files(["file"] * 2000, 3))), flush=True)
"""


def test_the_users_script_is_not_executed_again(tmp_path: Path) -> None:
    """It has no `if __name__ == "__main__"`: why should it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "file").write_bytes(b"content")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(r3po.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "the script runs\n2000\n"
    assert done.stderr == ""
    assert done.returncode == 0
