"""The files that f is given in place of objects: their names, and that none stays, whatever f does beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from r3po.source.object_file import ObjectFile, ObjectFiles, local_path


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(lambda n_bytes: tmp_path)


def written(file: ObjectFile, data: bytes = b"x") -> Path:
    with file:
        file.write(data)
    assert Path(file.path).read_bytes() == data
    return Path(file.path)


def test_objects_of_one_folder_follow_each_other_in_one_folder(files: ObjectFiles, tmp_path: Path) -> None:
    seen = []
    for path in ("a/1.json", "a/2.json", "b/1.json", "1.json", "2.json", "a/b/1.json"):
        file = files.make_next(path, 1)
        seen.append(str(written(file).relative_to(tmp_path)))
        assert [each.name for each in tmp_path.rglob("*.json")] == [os.path.basename(path)]
        files.give_back(file)
    assert seen == ["1/a/1.json", "1/a/2.json", "2/b/1.json", "3/1.json", "3/2.json", "4/a/b/1.json"]
    files.close()
    assert list(tmp_path.iterdir()) == []


def leave_a_file(path: Path) -> None:
    path.with_name("2.json").write_text("of f")


def leave_a_folder(path: Path) -> None:
    (path.parent / "2.json").mkdir()
    (path.parent / "2.json" / "x").touch()


def leave_one_above(path: Path) -> None:
    (path.parent.parent / "x").touch()


def remove_the_file(path: Path) -> None:
    path.unlink()


def remove_the_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def put_another_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "do",
    [
        leave_a_file,
        leave_a_folder,
        leave_one_above,
        remove_the_file,
        remove_the_folder,
        put_another_in_its_place,
    ],
)
def test_what_f_leaves_is_not_there_for_the_next(
    do: Callable[[Path], None], files: ObjectFiles, tmp_path: Path
) -> None:
    file = files.make_next("a/1.json", 1)
    do(written(file))
    files.give_back(file)
    file = files.make_next("a/2.json", 1)
    path = written(file, b"second")
    assert list(path.parent.iterdir()) == [path]
    files.give_back(file)
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_several_are_in_use_at_once(files: ObjectFiles, tmp_path: Path) -> None:
    in_use = [files.make_next(f"a/{n}.json", 1) for n in range(3)]
    for n, file in enumerate(in_use):
        written(file, b"%d" % n)
    files.give_back(in_use[0])
    again = files.make_next("a/0.json", 1)
    assert written(again).parent == Path(in_use[0].path).parent
    for n in (1, 2):
        assert Path(in_use[n].path).read_bytes() == b"%d" % n
    for file in (again, *in_use[1:]):
        files.give_back(file)
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_place_does_not_follow(tmp_path: Path) -> None:
    for name in ("memory", "disk"):
        (tmp_path / name).mkdir()
    files = ObjectFiles(lambda n_bytes: tmp_path / ("memory" if n_bytes < 10 else "disk"))
    for n_bytes, place in ((1, "memory"), (20, "disk"), (1, "memory")):
        file = files.make_next("1.json", n_bytes)
        assert written(file).is_relative_to(tmp_path / place)
        files.give_back(file)


def test_a_file_that_cannot_be_written_leaves_nothing(files: ObjectFiles, tmp_path: Path) -> None:
    with pytest.raises(OSError), files.make("a/1.json", 1) as file:
        raise OSError("the disk is full")
    assert list(tmp_path.iterdir()) == [] and not Path(file.path).exists()


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("a/b.json", "a/b.json"),
        ("a//b", "a/%/b"),
        ("../a/./b", "%2E%2E/a/%2E/b"),
        ("a\0b", "a%00b"),
    ],
)
def test_a_key_becomes_a_path_that_a_disk_takes(path: str, local: str) -> None:
    assert local_path(path) == local


def test_a_name_that_is_too_long_is_shortened_and_stays_its_own() -> None:
    one, other = (local_path("a/" + "x" * 300 + name + ".json") for name in ("1", "2"))
    assert one != other and one.startswith("a/" + "x" * 200) and one.endswith(".json")
    assert len(one.rpartition("/")[2]) == 255


def test_nothing_is_made_where_the_folder_of_all_is_gone(tmp_path: Path) -> None:
    files = ObjectFiles(lambda n_bytes: tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        files.make("a/1.json", 1)
    assert list(tmp_path.iterdir()) == []
