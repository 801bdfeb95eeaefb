"""`r3po init`: what it writes runs at once, fits the files that it looked at, and is written over nothing."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs import Ended, environment, r3po, read_csv, run_program
from r3po.begin import first_look, init
from r3po.begin.first_look import look_at, suffix_of
from r3po.cli import first_commands
from r3po.config.explain import key_meanings
from r3po.config.settings import load_config

WRITTEN = {"config.yaml", "function.py", ".r3po-schema.json"}


def begin(folder: Path, *arguments: str) -> Ended:
    ended = r3po("init", *arguments, cwd=folder)
    assert ended.code == 0, ended.err
    return ended


def refused(folder: Path, *arguments: str) -> str:
    """Return what is said, after a look at whether something was written."""
    before = sorted(folder.rglob("*"))
    ended = r3po("init", *arguments, cwd=folder)
    assert (ended.code, ended.out) == (2, ""), ended.said
    assert sorted(folder.rglob("*")) == before
    assert "error: " in ended.err and "hint: " in ended.err and "Traceback" not in ended.err
    return ended.err


def rows_of(job: Path) -> list[dict[str, str]]:
    """Run a job, and return its table."""
    ended = r3po("run", "--engine", "serial", cwd=job)
    assert ended.code == 0, ended.said
    return read_csv(job / "output_dir" / "csv" / "part-00000.csv")


# What is written


def test_the_job_that_is_begun_runs_at_once(tmp_path: Path) -> None:
    ended = begin(tmp_path, "my job")
    assert ended.out.splitlines()[-3:] == ["Next:  cd 'my job'", "       r3po try", "       r3po run"]
    assert {path.name for path in (tmp_path / "my job").iterdir()} == WRITTEN | {"files"}
    assert [row["day"] for row in rows_of(tmp_path / "my job")] == ["monday", "tuesday", "wednesday"]


def test_it_begins_in_the_current_folder_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    told = begin(tmp_path, "--json").json()
    assert set(told["files"]) == WRITTEN | {"files/"}
    assert (told["folder"], told["found"], told["settings"]["job_name"]) == (str(tmp_path), None, tmp_path.name)
    assert begin(tmp_path, "deep/er").out.endswith("r3po run\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_every_key_is_in_the_config_explained_and_each_can_be_switched_on(tmp_path: Path) -> None:
    begin(tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    words = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert all(len(line) <= 80 for line in text.splitlines()[2:])
    plain = load_config(tmp_path / "config.yaml")
    for known in key_meanings():
        assert known.meaning in words
        is_set = f"\n{known.key}: " in text
        assert is_set is (known.is_required or known.key == "function")
        if not is_set:
            assert text.count(f"\n#{known.key}: {known.example}\n") == 1
            needed = "rows: many\n" if known.key == "row_column" else ""
            (tmp_path / "one.yaml").write_text(needed + text.replace(f"\n#{known.key}: ", f"\n{known.key}: "))
            changed = load_config(tmp_path / "one.yaml")
            assert (getattr(changed, known.key) == getattr(plain, known.key)) is (known.default == known.example)


def test_editors_find_the_schema_by_the_first_line_of_the_config(tmp_path: Path) -> None:
    begin(tmp_path)
    config = (tmp_path / "config.yaml").read_text()
    schema_file = tmp_path / config.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert r3po("config", "--schema", cwd=tmp_path).out == schema_file.read_text()
    validator = jsonschema.Draft202012Validator(json.loads(schema_file.read_text()))
    validator.validate(yaml.safe_load(config))
    assert not validator.is_valid(yaml.safe_load(config + "colour: red\n"))


# Nothing is written over


@pytest.mark.parametrize("name", ["config.yaml", "function.py", "files", ".r3po-schema.json"])
def test_nothing_is_written_where_one_of_the_files_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert f"error: {name} is there already; nothing was written" in refused(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert f"error: {tmp_path}: {name} is there already" in refused(tmp_path, str(tmp_path)).replace("\n", " ")


def test_a_second_begin_names_all_that_is_there_and_a_link_that_leads_nowhere_counts(tmp_path: Path) -> None:
    begin(tmp_path, "x")
    assert "x: config.yaml, function.py and files are there already; nothing was written" in refused(tmp_path, "x")
    (tmp_path / "config.yaml").symlink_to("nowhere")
    assert "config.yaml is there already" in refused(tmp_path)
    (tmp_path / "file").touch()
    assert "error: file is no folder" in refused(tmp_path, "file")


def test_what_was_written_is_taken_back_when_the_disk_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    make_file = init._make_file

    def refuse(file: Path, text: str, made: list[Path]) -> None:
        make_file(file, text, made)
        if file.name == "config.yaml":
            raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(init, "_make_file", refuse)
    ended = r3po("init", cwd=tmp_path)
    assert ended.code == 2 and "No space left on device" in ended.err
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_config_that_appears_meanwhile_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_check_free", lambda *_, **__: (tmp_path / "config.yaml").write_text("mine"))
    assert r3po("init", cwd=tmp_path).code == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"config.yaml": "mine"}


# For a folder of files

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000003000000020800000000b81f39c6"
    "0000000b49444154789c636080000000080001b75873950000000049454e44ae426082"
)
FILES: dict[str, tuple[bytes, dict[str, str]]] = {
    "a.json": (
        b'{"id": 7, "tags": ["x", "y"], "by": {"name": "Ann"}, "odd \\"key\\"": "it\'s", "": 1, "n": null}',
        {"id": "7", "n_tags": "2", "n_by": "1", 'odd "key"': "it's", "n": ""},
    ),
    "list.json": (b"[1, 2, 3]", {"n_entries": "3"}),
    "empty.json": (b"{}", {"n_entries": "0"}),
    "mark.json": (b"\xef\xbb\xbf" + '{"größe": 1}'.encode(), {"größe": "1"}),
    "map.geojson": (b'{"type": "Feature"}', {"type": "Feature"}),
    "many.json": (json.dumps({f"k{n}": n for n in range(30)}).encode(), {f"k{n}": str(n) for n in range(20)}),
    "a.json.gz": (gzip.compress(b'{"id": 7}'), {"id": "7"}),
    "wrong.json": (b"{not json", {"n_lines": "1", "n_words": "2", "n_characters": "9"}),
    "a.jsonl": (b'{"a": 1}\n{"a": 2}\n\n', {"n_records": "2"}),
    "a.csv": (b'name,n\n"x\ny",1\n', {"n_rows": "1", "n_columns": "2", "columns": "name, n"}),
    "semicolon.csv": (b"a;b;c\r\n1,5;2;3\r\n", {"n_rows": "1", "n_columns": "3", "columns": "a, b, c"}),
    "a.tsv": (b"a\tb\n1\t2\n", {"n_rows": "1", "n_columns": "2", "columns": "a, b"}),
    "a.csv.bz2": (bz2.compress(b"a,b\n"), {"n_rows": "0", "n_columns": "2", "columns": "a, b"}),
    "a.txt": ("zwölf Boxkämpfer\njagen".encode(), {"n_lines": "2", "n_words": "3", "n_characters": "22"}),
    "a.py": (b"x = 1\n", {"n_lines": "1", "n_words": "3", "n_characters": "6"}),
    "a.bin": (PNG, {"size_bytes": "68"}),
    "a.dat.gz": (
        gzip.compress(b"\0"),
        {"size_bytes": "1"},
    ),
    "not.gz": (b"\0not", {"size_bytes": "4"}),
    "latin.txt": ("größe".encode("latin-1"), {"size_bytes": "5"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_function_fits_the_file_that_was_looked_at(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    assert f"Looked into {name}" in begin(tmp_path, "job", "--from", "data").out
    (row,) = rows_of(tmp_path / "job")
    assert row.keys() == expected.keys() | ({"sha256"} if "size_bytes" in expected else set())
    for column, value in expected.items():
        assert column == "sha256" or row[column] == value


def test_parquet_and_images_are_read_by_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "tables").mkdir()
    parquet.write_table(pyarrow.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), tmp_path / "tables" / "t.parquet")
    begin(tmp_path, "t", "--from", "tables")
    assert rows_of(tmp_path / "t") == [{"n_rows": "3", "n_columns": "2"}]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "i.PNG").write_bytes(PNG)
    monkeypatch.setattr("r3po.begin.templates.find_spec", lambda name: None)
    begin(tmp_path, "i", "--from", "images")
    assert rows_of(tmp_path / "i")[0]["size_bytes"] == "68"
    monkeypatch.setattr("r3po.begin.templates.find_spec", lambda name: object())
    begin(tmp_path, "p", "--from", "images")
    text = (tmp_path / "p" / "function.py").read_text()
    compile(text, "function.py", "exec")
    assert "from PIL import Image" in text


def test_the_commonest_suffix_is_taken_and_all_are_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "deep" / "er").mkdir(parents=True)
    for name in ("a.csv", "deep/b.csv", "deep/er/c.csv", "x.txt", "y.txt", "Z.CSV", "README", ".hidden", "log.1"):
        (data / name).write_text("n\n1\n")
    (data / "link").symlink_to("deep")
    (data / "gone.csv").symlink_to("nowhere")
    out = begin(tmp_path, "--from", "data").out
    assert out.splitlines()[:7] == [
        f"Found in {first_commands.shorten_path(str(data), 60)}: 8 files",
        "  .csv                 3 files     12 bytes   taken: source_file_part",
        "  (no suffix)          2 files      8 bytes",
        "  .txt                 2 files      8 bytes",
        "  .CSV                  1 file      4 bytes   taken: source_file_part",
        "  passed over: 1 hidden, 1 linked folder, 1 not a regular file",
        "To take others, too: source_file_part: [.csv, .CSV, .txt] in config.yaml, and an f for them",
    ]
    assert "Looked into a.csv" in out
    config = load_config(tmp_path / "config.yaml")
    assert (config.job_name, config.selection.endings) == ("data", (".csv", ".CSV"))
    assert "source_path: data\n" in (tmp_path / "config.yaml").read_text()
    assert len(rows_of(tmp_path)) == 4


def test_suffixes_that_one_function_fits_are_taken_together_if_many_files_have_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for suffix, n in ((".png", 21), (".jpg", 20), (".gif", 2), (".txt", 1), (".json", 5)):
        for i in range(n):
            (tmp_path / "data" / f"{i}{suffix}").write_bytes(b'{"a": 1}' if suffix == ".json" else PNG)
    out = begin(tmp_path, "--from", "data").out
    assert "\nsource_file_part: [.png, .jpg]\n" in (tmp_path / "config.yaml").read_text()
    assert [line.split()[0] for line in out.splitlines() if line.endswith("taken: source_file_part")] == [
        ".png",
        ".jpg",
    ]
    assert "To take others, too: source_file_part: [.png, .jpg, .json] in config.yaml" in out
    assert len(rows_of(tmp_path)) == 41


def test_more_suffixes_than_are_shown_are_counted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for n in range(14):
        (tmp_path / "data" / f"x.{chr(97 + n)}").write_text("x")
    told = begin(tmp_path, "--from", "data", "--json").json()
    assert (told["found"]["files"], len(told["found"]["suffixes"])) == (14, 14)
    assert "  and 4 more suffixes" in begin(tmp_path, "y", "--from", "data").out


def test_the_source_is_named_as_it_was_typed(tmp_path: Path) -> None:
    data = tmp_path / "~data #1: é"
    data.mkdir()
    (data / "a.json").write_text("{}")
    begin(tmp_path, "jobs/one", "--from", data.name)
    begin(tmp_path, "jobs/two", "--from", str(data))
    begin(tmp_path, "--from", data.name)
    for job, written in (("jobs/one", f"../../{data.name}"), ("jobs/two", str(data)), (".", f"./{data.name}")):
        config = load_config(tmp_path / job / "config.yaml")
        assert (config.source_path, config.source_written, config.job_name) == (data, written, data.name)


@pytest.mark.parametrize("name", ["output_dir", "working_dir"])
def test_a_source_named_like_a_folder_of_the_job_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.json").write_text("{}")
    begin(tmp_path, "--from", name)
    assert r3po("run", "--engine", "serial", cwd=tmp_path).code == 0
    assert os.listdir(tmp_path / name) == ["a.json"]


def test_names_that_are_not_utf8_are_files_like_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    try:
        (data / os.fsdecode(b"\xff.json")).write_text('{"a": 1}')
        (data / os.fsdecode(b"b.\xff\xfe")).write_text("x")
    except OSError:
        pytest.skip("this disk takes no such names")
    out = begin(tmp_path, "job", "--from", "data").out
    assert "Looked into \\xff.json" in out and "  (no suffix)" in out
    assert rows_of(tmp_path / "job") == [{"a": "1"}]
    os.rename(data, tmp_path / os.fsdecode(b"d\xff"))
    assert "it is not plain UTF-8 text" in refused(tmp_path, "other", "--from", os.fsdecode(b"d\xff"))


def test_a_huge_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data" / "a.json", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "data" / "b.json").touch()
    out = begin(tmp_path, "--from", "data").out
    assert "  .json                2 files      1.0 TiB   taken" in out
    assert "No file was looked into: each is empty or large." in out
    assert '{"n_entries": len(content)}' in (tmp_path / "function.py").read_text()
    (tmp_path / "data" / "c.json").write_text('{"small": 1}')
    begin(tmp_path, "job", "--from", "data")
    assert '"small"' in (tmp_path / "job" / "function.py").read_text()


def test_a_look_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        (tmp_path / f"d{n:02}").mkdir()
        (tmp_path / f"d{n:02}" / "a.json").write_text("{}")
    look = look_at(tmp_path, most_files=15)
    assert (look.n_files, look.stopped_at) == (15, "15 files")
    assert look_at(tmp_path, most_files=30).stopped_at == ""
    clock = iter(range(1000))
    monkeypatch.setattr(first_look.time, "monotonic", lambda: next(clock))
    look = look_at(tmp_path, most_seconds=10)
    assert (look.n_files, look.stopped_at) == (10, "10 seconds")
    monkeypatch.undo()
    monkeypatch.setattr(init, "look_at", lambda folder: look)
    assert (
        "10 files (stopped after 10 seconds; there is more)"
        in begin(tmp_path.parent, "job", "--from", tmp_path.name).out
    )
    shutil.rmtree(tmp_path.parent / "job")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.json", ".json"),
        ("a.b.json", ".json"),
        ("a.tar.gz", ".tar.gz"),
        ("a.gz", ".gz"),
        ("A.JPG", ".JPG"),
        ("a.mp3", ".mp3"),
        ("log.1", ""),
        ("README", ""),
        ("end.", ""),
        ("a.b c", ""),
        ("a.averylongsuffix", ""),
        ("a.2-beta", ".2-beta"),
    ],
)
def test_a_suffix_is_what_people_call_one(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


# What cannot be begun


def test_a_source_without_files_is_refused_with_what_was_passed_over(tmp_path: Path) -> None:
    assert "there is no folder " in refused(tmp_path, "--from", "data")
    (tmp_path / "dta").mkdir()
    assert 'hint:  did you mean "dta"?' in refused(tmp_path, "--from", "data")
    assert "there is no file in " in refused(tmp_path, "--from", "dta")
    (tmp_path / "dta" / ".git").mkdir()
    (tmp_path / "dta" / ".a.json").touch()
    (tmp_path / "dta" / "pipe").symlink_to("nowhere")
    told = refused(tmp_path, "--from", "dta")
    assert "hint:  names that begin with a dot are hidden, and passed over; name a folder" in told
    assert "passed over: 2 hidden, 1 not a regular file" in told
    (tmp_path / "file.json").touch()
    assert "file.json is no folder" in refused(tmp_path, "--from", "file.json")


def test_files_without_a_suffix_are_all_taken(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("README", "log.1"):
        (tmp_path / "data" / name).write_text("two words")
    assert "(no suffix)          2 files     18 bytes   taken" in begin(tmp_path, "--from", "data").out
    assert [row["n_words"] for row in rows_of(tmp_path)] == ["2", "2"]


def test_a_folder_that_may_not_be_read_is_refused_and_a_subfolder_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "closed").mkdir(parents=True)
    (tmp_path / "data" / "a.json").write_text("{}")
    scandir = os.scandir
    closed = {tmp_path / "data" / "closed"}

    def refuse(path: Any) -> Any:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(first_look.os, "scandir", refuse)
    assert "passed over: 1 not readable" in begin(tmp_path, "job", "--from", "data").out
    closed.add(tmp_path / "data")
    assert "Permission denied" in refused(tmp_path, "other", "--from", "data")


@pytest.mark.parametrize(("job", "source"), [(".", "."), ("job", "."), (".", ".."), ("data/job", "data")])
def test_a_job_in_its_own_source_is_refused_with_a_command_that_works(tmp_path: Path, job: str, source: str) -> None:
    here = tmp_path / "data" if source.startswith(".") else tmp_path
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").write_text("{}")
    told = refused(here, job, "--from", source)
    assert "would lie in its own source" in told
    command = told.split("such as: r3po init ")[1].split()
    begin(here, *command)
    (made,) = tmp_path.parent.glob(f"{tmp_path.name}_job") if source == ".." else [tmp_path / "data_job"]
    assert len(rows_of(made)) == 1


def test_a_name_that_a_config_takes_for_a_variable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "${HOME}").mkdir()
    (tmp_path / "${HOME}" / "a.json").write_text("{}")
    assert "${...} stands for a variable there" in refused(tmp_path, "--from", "${HOME}")


def test_a_url_is_told_what_to_do_with(tmp_path: Path) -> None:
    told = refused(tmp_path, "--from", "s3://files/raw")
    assert "--from looks at a folder of a disk" in told
    assert "source_path: s3://files/raw" in told
    assert list(tmp_path.iterdir()) == []


# r3po config on the terminal


def test_config_shows_each_key_with_its_value_where_it_is_from_and_its_meaning(tmp_path: Path) -> None:
    begin(tmp_path)
    out = r3po("config", cwd=tmp_path).out
    assert out.splitlines()[:4] == [
        str(tmp_path / "config.yaml"),
        "",
        f"job_name: {tmp_path.name}   (line 5)",
        "    names the job in messages and in the Parquet metadata",
    ]
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    line = 1 + lines.index("source_path: files")
    assert f"source_path: {tmp_path / 'files'}   (line {line}: files)" in " ".join(out.split("\n      "))
    assert "hash: content   (default)" in out
    told = r3po("config", "--json", cwd=tmp_path).json()
    assert told["config"] == str(tmp_path / "config.yaml")
    assert [key["key"] for key in told["keys"]] == [known.key for known in key_meanings()]


def test_config_says_the_problems_of_a_wrong_config_and_its_hint_shows_every_key(tmp_path: Path) -> None:
    begin(tmp_path)
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text() + "colour: red\n")
    told, run = r3po("config", cwd=tmp_path), r3po("run", cwd=tmp_path)
    assert (told.code, told.err) == (2, run.err)
    hint = told.err.split("hint:  ")[1].removesuffix(" lists every key\n").split()
    assert hint == ["r3po", "config", "--keys"]
    shown = r3po(*hint[1:], cwd=tmp_path.parent)
    assert shown.code == 0 and all(f"\n{known.key}: {known.default}" in shown.out for known in key_meanings())
    told = r3po("config", "--keys", "--json", cwd=tmp_path).json()
    assert told["keys"][0]["required"] is True
    assert r3po("config", "--keys", "--schema", cwd=tmp_path).code == 2


# Completion in shells


def test_the_shell_completes_commands_and_options_and_leaves_files_to_itself(tmp_path: Path) -> None:
    proposed = {
        "r3po ini": ["init"],
        "r3po run --ret": ["--retry-failed"],
        "r3po run conf": [],
        "r3po init ": [],
    }
    code = (
        "import os, sys; sys.argv[0] = 'r3po'\n"
        "from r3po.cli.app import run_command\n"
        f"for typed in {list(proposed)}:\n"
        "    os.environ |= {'COMP_WORDS': typed, 'COMP_CWORD': str(len(typed.split(' ')) - 1)}\n"
        "    run_command()\n"
        "    print('.', flush=True)\n"
    )
    ended = run_program(sys.executable, "-c", code, cwd=tmp_path, _R3PO_COMPLETE="complete_bash")
    assert [text.split() for text in ended.out.split(".")[:-1]] == list(proposed.values()), ended.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_proposes_files_where_r3po_proposes_nothing(tmp_path: Path) -> None:
    script = (
        'eval "$(r3po --show-completion)"; complete -p r3po; '
        'COMP_WORDS=(r3po sta); COMP_CWORD=1; _r3po_completion r3po; echo "${COMPREPLY[*]}"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(PATH=path), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["complete -o default -F _r3po_completion r3po", "status"], done.stderr
