"""The config: what a good file gives, and what is said of every way to get it wrong."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from r3po.config.keys import MAX_TIMEOUT_S, MaxErrors, ParquetOptions, parse_max_errors
from r3po.config.selection import Selection
from r3po.config.settings import Config, check_source, load_config
from r3po.errors import ConfigError, SourceError

SIX = {
    "job_name": "count_produce",
    "processes": "2",
    "source_path": "produce_log",
    "source_file_part": ".json",
    "working_dir": "working_dir",
    "output_path": "output_dir",
}
HINT = "hint:  r3po config --keys lists every key"


def write_config(folder: Path, *more: str, **changed: str | None) -> Path:
    """Write the six keys as lines 1 to 6, with some changed or (None) left out, then more lines."""
    keys = {key: value for key, value in (SIX | changed).items() if value is not None}
    return write_text(folder, "".join(f"{line}\n" for line in [*(f"{k}: {v}" for k, v in keys.items()), *more]))


def write_text(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, *more: str, **changed: str | None) -> Config:
    return load_config(write_config(folder, *more, **changed))


def error_of(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    return str(caught.value)


def problem_of(folder: Path, *more: str, **changed: str | None) -> str:
    """Return the one problem of a config, without headline and hint."""
    headline, problem, hint = error_of(write_config(folder, *more, **changed)).split("\n")
    assert (headline, hint) == ("config.yaml has 1 problem", HINT)
    return problem.strip()


# What a good file gives


def test_the_six_keys_of_2020_are_enough(tmp_path: Path) -> None:
    config = load(tmp_path)
    folders = {key: tmp_path / SIX[key] for key in ("source_path", "working_dir", "output_path")}
    written = {**SIX, **folders, "processes": 2, "path": tmp_path / "config.yaml", "source_written": "produce_log"}
    defaults = {"function": None, "input": "path", "csv": True, "parquet": ParquetOptions(compression="zstd", level=3)}
    defaults |= {"shard_size": 10_000, "batch_seconds": 1.0, "hash": "content", "timeout_seconds": None}
    defaults |= {"max_errors": None, "on_function_change": "warn", "on_deleted": "drop"}
    assert config == Config.model_construct(**written, **defaults, lines=config.lines)
    assert pickle.loads(pickle.dumps(config)) == config == load(tmp_path)


def codec(compression: str, level: int | None) -> ParquetOptions:
    return ParquetOptions(compression=compression, level=level)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("function: count_fruits.py:count_fruits", "count_fruits.py:count_fruits"),
        ("input: bytes", "bytes"),
        ("csv: false", False),
        ("shard_size: 100", 100),
        ("batch_seconds: 2", 2.0),
        ("hash: stat", "stat"),
        ("timeout_seconds: 30", 30.0),
        ("timeout_seconds: 0.5", 0.5),
        (f"timeout_seconds: {MAX_TIMEOUT_S}", float(MAX_TIMEOUT_S)),
        ("timeout_seconds: null", None),
        ("timeout_seconds: ~", None),
        ("max_errors: null", None),
        ("max_errors: ~", None),
        ("parquet: true", codec("zstd", 3)),
        ("parquet: false", None),
        ("parquet: {}", codec("zstd", 3)),
        ("parquet: {level: 19}", codec("zstd", 19)),
        ("parquet: {compression: gzip}", codec("gzip", 6)),
        ("parquet: {compression: gzip, level: 9}", codec("gzip", 9)),
        ("parquet: {compression: brotli, level: 0}", codec("brotli", 0)),
        ("parquet: {compression: lz4}", codec("lz4", 1)),
        ("parquet: {compression: snappy}", codec("snappy", None)),
        ("parquet: {compression: none, level: null}", codec("none", None)),
    ],
)
def test_an_optional_key_is_taken_as_written(tmp_path: Path, line: str, value: object) -> None:
    found = getattr(load(tmp_path, line), line.partition(":")[0])
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("written", "limit", "shown"),
    [
        ("100", MaxErrors(count=100), "100"),
        ("0", MaxErrors(count=0), "0"),
        ("'7'", MaxErrors(count=7), "7"),
        ("1%", MaxErrors(percent=1.0), "1%"),
        ("0.25 %", MaxErrors(percent=0.25), "0.25%"),
        ("100%", MaxErrors(percent=100.0), "100%"),
        ("none", MaxErrors(), "none"),
        ("None", MaxErrors(), "none"),
    ],
)
def test_max_errors_is_a_number_a_share_or_none(tmp_path: Path, written: str, limit: MaxErrors, shown: str) -> None:
    config = load(tmp_path, f"max_errors: {written}")
    assert config.max_errors == limit == parse_max_errors(shown)
    assert str(limit) == shown
    assert limit.is_off is (shown == "none")


@pytest.mark.parametrize(
    "value", [-1, "-1", "101%", "-1%", "nan%", "inf%", "1.5", 1.5, "ten", "", "%", True, False, [1], {}, "1 2"]
)
def test_what_is_no_max_errors_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a number of files such as 100, a share such as 1%, or none"):
        parse_max_errors(value)


def test_every_parquet_codec_and_its_levels_can_be_written(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"fruits": [1, 2, 3]})
    written = ["snappy", "none"]
    written += [f"{codec}, level: {level}" for codec, level in [("zstd", 1), ("zstd", 22), ("gzip", 1), ("gzip", 9)]]
    written += [f"{codec}, level: {level}" for codec, level in [("brotli", 0), ("brotli", 11), ("lz4", 1), ("lz4", 12)]]
    for options in (load(tmp_path, f"parquet: {{compression: {one}}}").parquet for one in written):
        assert options is not None
        parquet.write_table(table, tmp_path / "part", compression=options.compression, compression_level=options.level)


def test_auto_is_the_cores_this_process_may_use_or_all_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert load(tmp_path, processes="auto").processes == 3
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert load(tmp_path, processes="auto").processes == 1


def test_a_file_of_windows_is_read_with_the_lines_of_its_keys_and_never_written_to(tmp_path: Path) -> None:
    """With a byte order mark; the suffix needs no dot, and the name may be in any script."""
    file = write_config(tmp_path, "csv: true", "count_all_files: 6", source_file_part="_log", job_name="Größe 果物")
    content = b"\xef\xbb\xbf# my job\r\n\r\n" + file.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(content)
    before = file.stat().st_mtime_ns
    config = load_config(file)
    assert config.lines == dict(zip([*SIX, "csv", "count_all_files"], range(3, 11), strict=True))
    assert (config.source_file_part, config.job_name) == ("_log", "Größe 果物")
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, before)
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_the_counts_of_2020_are_read_past_with_one_notice(tmp_path: Path) -> None:
    config = load(tmp_path, "count_all_files: 6", "count_job_files: [what, ever]")
    assert config.notices == (
        "config.yaml: count_all_files (line 7) and count_job_files (line 8) are not read any more: "
        "the counts are in the manifest now; the lines can go",
    )
    assert load(tmp_path, "count_job_files: null").notices == (
        "config.yaml: count_job_files (line 7) is not read any more: the counts are in the manifest now; "
        "the line can go",
    )
    assert load(tmp_path).notices == ()


def test_a_command_line_replaces_what_the_file_says_within_the_same_limits(tmp_path: Path) -> None:
    config = load(tmp_path, "function: a.py:f", "max_errors: 5")
    assert config.with_overrides() == config
    changed = config.with_overrides(processes=7, function="b.py:g", max_errors="2%")
    assert (changed.processes, changed.function, changed.max_errors) == (7, "b.py:g", MaxErrors(percent=2.0))
    assert (changed.lines, changed.notices) == (config.lines, config.notices)
    assert config.with_overrides(max_errors=0).max_errors == MaxErrors(count=0)
    assert config.with_overrides(max_errors="none").max_errors == MaxErrors()
    for given, what, hint in (
        ({"processes": 0}, "processes is 0", "give a whole number from 1 to 4096"),
        ({"function": " "}, "function is empty", ""),
        ({"max_errors": "many"}, "max_errors is many", "it must be a number of files such as 100, a share such as 1%"),
        ({"address": "auto", "engine": "serial"}, "address names a Ray, and the engine is serial", 'engine="ray" uses'),
    ):
        with pytest.raises(ConfigError) as caught:
            config.with_overrides(**given)
        assert str(caught.value).startswith(f"{what}\nhint:  {hint}")


def test_importing_the_config_loads_neither_ray_nor_pyarrow() -> None:
    code = "import sys, r3po.config.settings; print(sorted({'ray', 'pyarrow', 'pandas', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Folders


def test_folders_start_at_the_config_file_and_not_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links stay as they are written, and the two folders of ours may be one."""
    (tmp_path / "jobs" / "real").mkdir(parents=True)
    (tmp_path / "jobs" / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "jobs", source_path="../data/./log", output_path="/var/out")
    config = load_config("jobs/config.yaml")
    assert config.path == tmp_path / "jobs" / "config.yaml"
    assert config.base_dir == tmp_path / "jobs"
    assert config.source_path == tmp_path / "data" / "log"
    assert config.working_dir == tmp_path / "jobs" / "working_dir"
    assert config.output_path == Path("/var/out")
    config = load(tmp_path / "jobs", source_path="link", working_dir="job", output_path="job")
    assert config.source_path == tmp_path / "jobs" / "link"
    assert config.working_dir == config.output_path == tmp_path / "jobs" / "job"


def test_home_and_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAY", "monday")
    monkeypatch.setenv("DISK", "~/disk")
    config = load(tmp_path, source_path="~/log/${DAY}", working_dir="${DISK}/work", output_path="$DAY")
    assert config.source_path == tmp_path / "home" / "log" / "monday"
    assert config.working_dir == tmp_path / "home" / "disk" / "work"
    assert config.output_path == tmp_path / "$DAY"


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISK", raising=False)
    monkeypatch.setenv("NOTHING", "")
    assert problem_of(tmp_path, source_path="${DISK}/log") == (
        "line 3   source_path: ${DISK}/log   the variable DISK is not set; export it first"
    )
    # Taken as it is, this would be /log.
    assert problem_of(tmp_path, source_path="${NOTHING}/log") == (
        "line 3   source_path: ${NOTHING}/log   the variable NOTHING is empty; export it first"
    )


def test_no_link_hides_how_the_output_lies_to_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "log" / "deep").mkdir(parents=True)
    (tmp_path / "produce_log").symlink_to("real/log")
    (tmp_path / "elsewhere").symlink_to("produce_log/deep")
    assert "elsewhere/out   lies inside source_path (line 3): " in problem_of(tmp_path, output_path="elsewhere/out")
    assert "real   holds source_path (line 3): " in problem_of(tmp_path, output_path="real")
    begins_like_it = "produce_log_out"
    assert load(tmp_path, output_path=begins_like_it).output_path == tmp_path / begins_like_it
    # As on a disk that ignores case: two names of one inode, and no link to follow.
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    told = problem_of(tmp_path, source_path="real/log", output_path="produce_log/out")
    assert "produce_log/out   lies inside source_path (line 3): " in told


# Problems with keys: all at once


def test_problems_of_every_kind_are_told_at_once_by_line_and_missing_keys_come_last(tmp_path: Path) -> None:
    text = """\
parquet:
  compression: zstd
  level: 40
csv: "true"
job_name: 2020
job_name: again
# workers
proceses: 4
source_path: ${NO_SUCH_VARIABLE}/log
1: one
output_path: working_dir
working_dir:
"""
    assert error_of(write_text(tmp_path, text)) == (
        "config.yaml has 9 problems\n"
        "  line 3    level: 40                              must be from 1 to 22 for zstd\n"
        '  line 4    csv: "true"                            must be true or false, without quotes\n'
        '  line 5    job_name: 2020                         must be text; quote it: "2020"\n'
        "  line 6    job_name: again                        job_name is given twice; line 5 has it, too\n"
        '  line 8    proceses: 4                            unknown key; did you mean "processes"?\n'
        "  line 9    source_path: ${NO_SUCH_VARIABLE}/log   the variable NO_SUCH_VARIABLE is not set; export it first\n"
        "  line 10   1: one                                 the key is not text; keys are names such as job_name\n"
        "  line 12   working_dir:                           has no value; must be text\n"
        "  missing   source_file_part                       required, such as  source_file_part: .json\n"
        "hint:  r3po config --keys lists every key"
    )


def test_an_empty_mapping_lacks_all_six_keys(tmp_path: Path) -> None:
    headline, *missing, hint = error_of(write_text(tmp_path, "{}\n")).split("\n")
    assert (headline, hint) == ("config.yaml has 6 problems", HINT)
    told = SIX | {"working_dir": "working_dir", "output_path": "output_dir"}
    assert [line.split(maxsplit=4) for line in missing] == [
        ["missing", key, "required,", "such", f"as  {key}: {value}"] for key, value in told.items()
    ]


WRITTEN = "its files would be taken for input; choose a folder outside"
WRITES = "holds source_path (line 3): r3po would write beside your data; choose a folder outside"
TYPES = "int8 to int64, uint8 to uint64, float32, float64, string, bool, binary, date, timestamp, timestamp_utc, time"
TYPES += ", decimal(10,2), list, dict"
UNQUOTED = ["job_name: no", "job_name: 2026-11-22", "job_name: 2026-13-45", "job_name: !x y", "source_file_part: .5"]
UNQUOTED += ["working_dir: ~", "function: 5", "source_column: 5"]
PROBLEMS = {
    'must be text; quote it: "{value}"': UNQUOTED,
    "must be text": ["job_name: [a]", "job_name: {a: 1}", "working_dir: {a: {b: c}}"],
    "has no value; must be text": ["job_name: null"],
    "must not be empty": ['job_name: " "', 'working_dir: ""', "source_column: ''"],
    "must not hold line breaks, tabs or other control characters": [r'job_name: "a\nb"', r'job_name: "\ud800"'],
    "must be a whole number, or auto, without quotes": ['processes: "4"'],
    "must be a whole number, or auto": ["processes: all", "processes: yes", "processes: 2.0"],
    "must be a whole number": ["shard_size: true", "parquet:\n  level: high"],
    "must be a number": ["batch_seconds: fast"],
    "must be greater than 0": ["processes: 0", "shard_size: 0", "batch_seconds: 0"],
    "must be at most 4,096": ["processes: 4097"],
    "must be at most 10,000,000": ["shard_size: 10000001"],
    "must be at most 3,600": ["batch_seconds: .nan", "batch_seconds: .inf", "batch_seconds: 3600.5"],
    "must be the end of file names, without a /": ["source_file_part: x/.json"],
    "there is no such user's home; ./~ starts a folder of that name": ["working_dir: ~no-such-user-here/w"],
    f"lies inside source_path (line 3): {WRITTEN}": ["working_dir: produce_log/w"],
    f"is source_path (line 3): {WRITTEN}": ["output_path: ./produce_log/"],
    WRITES: ["working_dir: .", "output_path: ."],
    "must be path or bytes": ["input: row"],
    "must be true or false": ["csv: 1"],
    "has no value; must be true or false": ["csv:"],
    "must be content or stat": ["hash: true"],
    "has no value; must be content or stat": ["hash:"],
    "must be true, false or {{compression: zstd, level: 3}}": ["parquet: zstd", "parquet: [zstd]"],
    "must be zstd, snappy, gzip, brotli, lz4 or none": ["parquet:\n  compression: zip"],
    "snappy has no levels; take this out": ["parquet: {compression: snappy,\n  level: 3}"],
    "must be from 1 to 9 for gzip": ["parquet: {compression: gzip,\n  level: 0}"],
    "names no column; take the key out, or name one: {{fruits: int64}}": ["columns: {}"],
    "must be a mapping such as {{fruits: int64, name: string}}, or null": ["columns: [a]"],
    'unknown key; did you mean "shard_size"?': ["Shard_Size: 5"],
    'unknown key; did you mean "level"?': ["parquet:\n  levl: 3"],
    "unknown key": ["colour: red", "cluster: 1"],  # which resemble none
    "the key is not text; keys are names such as job_name": [
        "<<: {csv: true}",
        "yes: 1",
        "[a, b]: 1",
        "parquet:\n  2: 3",
    ],
    '"{value}" is no type; did you mean "string"?': ["columns:\n  name: str"],
    '"{value}" is no type; did you mean "int64"?': ["columns:\n  name: INT64"],
    '"{value}" is no type; did you mean "float64"?': ["columns:\n  name: double"],
    '"{value}" is no type; did you mean "timestamp"?': ["columns:\n  name: timestmp"],
    '"{value}" is no type; did you mean "decimal(10,2)"?': ["columns:\n  name: decimal"],
    f'"set" is no type; there are {TYPES}, json (any value), or list<T> or map<string, T> of one of these': [
        "columns:\n  name: list<set>"
    ],
    "{value} is no column type; write list, and its items are as they come": ["columns:\n  name: list<dict>"],
    "a decimal has 1 to 38 digits in all, not 39": ['columns:\n  name: "decimal(39,0)"'],
    "a decimal of 3 digits cannot have 9 of them behind the point": ['columns:\n  name: "decimal(3,9)"'],
    'must be a type such as int64, string or "decimal(10,2)"': ["columns:\n  name: 5"],
    "": [f"timeout_seconds: {n}" for n in ("0", "-1", "true", "'30'", "ten", ".inf", ".nan", "[1]", MAX_TIMEOUT_S + 1)],
}
"""What is said, and the lines of which it is said; the last line is the one at fault."""


@pytest.mark.parametrize(("line", "reason"), [(line, reason) for reason, lines in PROBLEMS.items() for line in lines])
def test_a_wrong_key_is_told_in_plain_words_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    key, _, value = line.partition(": ")
    place = [*SIX].index(key) + 1 if key in SIX else 7 + line.count("\n")
    told = problem_of(tmp_path, **{key: value}) if key in SIX else problem_of(tmp_path, line)
    shown = line.splitlines()[-1].strip().removesuffix("}" if "\n" in line else "")
    expected = f"line {place}   {shown}   {reason.format(value=value)}"
    assert told == expected if reason else told.startswith(expected)


def test_keys_given_twice_are_refused_also_inside_parquet(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "parquet:", "  level: 3", "  level: 4") == (
        "line 9   level: 4   level is given twice; line 8 has it, too"
    )


def test_csv_and_parquet_may_not_both_be_off_and_a_long_value_is_shown_shortened(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "parquet: false", "csv: false") == (
        "line 8   csv: false   csv and parquet are both off, nothing would be written; set one to true"
    )
    assert problem_of(tmp_path, "remark: " + "long " * 30) == (
        "line 7   remark: long long long long long long...   unknown key"
    )


def test_an_alias_is_read_like_the_value_it_stands_for_but_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    config = load(tmp_path, "function: *name", job_name="&name job.py:f")
    assert config.function == "job.py:f"
    assert problem_of(tmp_path, "input: *name", job_name="&name job.py:f") == "line 7   input:   must be path or bytes"
    python_object = "!!python/object/apply:os.getcwd []"
    assert problem_of(tmp_path, f"function: {python_object}").endswith(f'must be text; quote it: "{python_object}"')


# Files that are no config


def test_a_missing_file_and_a_folder_are_told_with_the_configs_that_may_be_meant(tmp_path: Path) -> None:
    def hint(file: Path, what: str) -> str:
        headline, hint = error_of(file).split("\n")
        assert headline == what
        return hint.removeprefix("hint:  ")

    missing = tmp_path / "config.yaml", f"config.yaml not found in {tmp_path}"
    folder = tmp_path, f"{tmp_path} is a folder, not a config"
    assert hint(*missing) == 'r3po init begins a job here; or name the config, such as: run_jobs("my.yaml")'
    assert hint(*folder) == "name the config file in it"
    for name in ("big.yaml", "small.yml", "notes.txt"):
        (tmp_path / name).touch()
    assert hint(*missing) == 'did you mean "big.yaml" or "small.yml"?'
    (tmp_path / "confg.yaml").touch()
    assert hint(*missing) == 'did you mean "confg.yaml"?'
    write_config(tmp_path)
    assert hint(*folder) == f'did you mean "{tmp_path}/config.yaml"?'
    what = f"config.yaml not found: there is no folder {tmp_path}/jobs"
    assert hint(tmp_path / "jobs" / "config.yaml", what) == "look at the path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_as_such(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    file.chmod(0)
    assert error_of(file) == (
        f"config.yaml cannot be read: Permission denied\nhint:  look at the permissions of {file}"
    )


LINE_SHAPE = 'each line is "key: value", with a space after the colon'


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "---\n", "processes 4\n", "[processes]\n"])
def test_a_file_without_keys_is_told_what_it_needs(tmp_path: Path, text: str) -> None:
    what, hint = f"holds no keys\n  line 1   {text.strip()}", LINE_SHAPE
    if "processes" not in text:
        what, hint = "is empty", f"it needs {', '.join(SIX)}"
    assert error_of(write_text(tmp_path, text)) == (
        f"config.yaml {what}\nhint:  {hint}\n       r3po config --keys lists every key"
    )


def test_a_file_that_is_not_utf_8_is_told_the_line(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    file.write_bytes(file.read_bytes() + "function: größe.py:f\n".encode("latin-1"))
    assert error_of(file) == "config.yaml is not UTF-8 text (line 7)\nhint:  save it as UTF-8"


NOT_YAML = {
    "job_name: a\nprocesses 4\nsource_path: x\n": (2, "could not find expected ':', while scanning a simple key"),
    "job_name: a: b\n": (1, "mapping values are not allowed here"),
    "job_name: a\nsource_file_part: '.json\nprocesses: 2\n": (
        2,
        "found unexpected end of stream, while scanning a quoted scalar",
    ),
    "source_file_part: *.json\n": (1, "what begins with * needs quotes"),
    "exclude:\n  - **/tmp\n": (2, "what begins with * needs quotes"),
    'exclude: ["a", *b]\n': (1, "what begins with * needs quotes"),
    "source_path: @home\n": (1, "what begins with @ needs quotes"),
    "parquet:\n\tlevel: 3\n": (
        2,
        "found character '\\t' that cannot start any token, while scanning for the next token",
    ),
    "job_name: a\x1b[31m\n": (1, "holds the character U+001B"),
}
REMEDIES = {
    "\t": "indent with spaces, not with tabs",
    "\x1b": "take the character out",
    "*.json": 'quote it: "*.json"',
    "**/tmp": 'quote it: "**/tmp"',
    "*b]": 'quote it: "*b"',
    "@home": 'quote it: "@home"',
}


@pytest.mark.parametrize("text", NOT_YAML)
def test_what_is_no_yaml_is_told_with_line_and_remedy(tmp_path: Path, text: str) -> None:
    n, problem = NOT_YAML[text]
    shown = text.splitlines()[n - 1].strip().replace("\x1b", "")
    hint = next((told for char, told in REMEDIES.items() if char in text), None)
    assert error_of(write_text(tmp_path, text)) == (
        f"config.yaml is not valid YAML\n  line {n}   {shown}   {problem}\n"
        f"hint:  {hint or f'{LINE_SHAPE}; quote values that hold other signs'}"
    )


@pytest.mark.parametrize("text", ["[" * 1000, "parquet: &p {parquet: *p}\n"])
def test_what_is_nested_too_deeply_is_told_as_such(tmp_path: Path, text: str) -> None:
    assert error_of(write_text(tmp_path, text)) == f"config.yaml is not valid YAML\n  it is nested too deeply\n{HINT}"


# The source folder


@pytest.fixture
def somewhere(tmp_path: Path) -> Path:
    """Where sources may lie: a folder, and links to it, to nowhere and to itself."""
    (tmp_path / "data").mkdir()
    (tmp_path / "dat.json").touch()
    for name, target in (("good", "data"), ("away", "/mnt/unplugged"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    return tmp_path


def test_a_source_is_looked_at_when_it_is_needed_and_may_be_a_link_to_a_folder(somewhere: Path) -> None:
    for written in ("data", "good"):
        check_source(load(somewhere, source_path=written))
    assert load(somewhere, source_path="/mnt/unplugged").source_path == Path("/mnt/unplugged")


RELATIVE = "(config.yaml line 3; relative to that file)"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("dta", f'source folder not found: HERE/dta   {RELATIVE}\nhint:  did you mean "data"?'),
        (
            "HERE/dta/2026/log",
            'source folder not found: HERE/dta/2026/log   (config.yaml line 3)\nhint:  did you mean "data"?',
        ),
        (
            "HERE/data/2026/log",
            "source folder not found: HERE/data/2026/log   (config.yaml line 3)\n"
            'hint:  there is no folder "2026" in HERE/data',
        ),
        (
            "away",
            f"source folder not found: HERE/away   {RELATIVE}\n"
            'hint:  "HERE/away" is a link to "/mnt/unplugged", which is not there',
        ),
        (
            "dat.json",
            f'source_path is no folder: HERE/dat.json   {RELATIVE}\nhint:  name the folder that holds it: "HERE"',
        ),
        (
            "loop",
            f"source folder cannot be reached: HERE/loop   {RELATIVE}\n  {os.strerror(errno.ELOOP)}\n"
            "hint:  look at its permissions and its disk",
        ),
    ],
)
def test_a_source_that_is_no_folder_is_told_as_what_it_is(somewhere: Path, written: str, expected: str) -> None:
    config = load(somewhere, source_path=written.replace("HERE", str(somewhere)))
    with pytest.raises(SourceError) as caught:
        check_source(config)
    assert str(caught.value) == expected.replace("HERE", str(somewhere))


# Which files


def test_which_files_may_be_a_text_or_a_list(tmp_path: Path) -> None:
    assert load(tmp_path).selection == Selection((".json",))
    for written, part in (("[.a, .b, .a]", (".a", ".b")), ("[.a]", ".a"), ('""', ""), ("all", ""), ("[.a, all]", "")):
        config = load(tmp_path, source_file_part=written)
        assert config.source_file_part == part
        assert config.selection.endings == ((part,) if isinstance(part, str) else part)
    more = ["include: [./a/**, b, b/]", "exclude: '**/tmp'", "ignore_case: true", "follow_links: true"]
    config = load(tmp_path, *more, "on_unreadable: skip")
    assert config.selection == Selection((".json",), ("",), True, ("a/**", "b"), ("**/tmp",), True)
    assert config.on_unreadable == "skip"
    assert load(tmp_path, "include: null\nexclude:").selection == Selection((".json",))


def test_several_folders_have_names_below_the_folder_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    config = load(tmp_path, source_path=f"[./b/, {tmp_path}/x/../c, ../d]")
    assert (config.source_path, config.source_folders) == (tmp_path, (f"{tmp_path}/c", "../d", "b"))
    assert config.source_paths == [tmp_path / "c", tmp_path.parent / "d", tmp_path / "b"]
    assert load(tmp_path, source_path="[b]").source_folders == ("b",)
    assert load(tmp_path, source_path="b").source_folders == ("",)
    with pytest.raises(SourceError, match=rf"source folder not found: {tmp_path}/c   \(config.yaml line 3\)"):
        check_source(config)
    keys = {**SIX, "processes": 2, "source_path": [Path("b"), tmp_path / "c"], "include": (Path("x/*"),)}
    here = load_config(keys)
    assert (here.source_path, here.source_folders) == (Path.cwd(), (f"{tmp_path}/c", "b"))
    assert here.include == ("x/*",)


@pytest.mark.parametrize(
    ("key", "written", "expected"),
    [
        ("source_path", "[]", "is empty; take the key out, or name one"),
        ("source_path", "[a, 1]", 'must be a list of folders, each a text; quote it: "1"'),
        ("source_path", "{a: b}", "must be text"),
        ("source_path", "[a, s3://b]", "is a list: its folders are of a disk; a bucket is named alone"),
        ("source_path", '[a, ""]', '"" must not be empty'),
        ("source_path", "[a, b, ./a]", '"./a" is "a", or lies in it: each file must be of one folder; take "./a" out'),
        (
            "source_path",
            "[a/b/c, a]",
            '"a/b/c" is "a", or lies in it: each file must be of one folder; take "a/b/c" out',
        ),
        ("source_path", "[real, link/x]", '"link/x" is "real", or lies in it: each file must be of one folder; take'),
        (
            "source_path",
            "[real, real/away]",
            '"real/away" is "real", or lies in it: each file must be of one folder; t',
        ),
        ("source_file_part", "[]", "is empty; take the key out, or name one"),
        ("source_file_part", "[.a, a/.b]", "must be the end of file names, without a /"),
        ("source_file_part", "[.a, 2020]", 'must be a list of ends of names, each a text; quote it: "2020"'),
        ("include", "[/a]", '"/a" must be relative to source_path, without a / in front'),
        ("include", "[../a]", '"../a" must be folders and a name, with one / between them'),
        ("exclude", "a//b", '"a//b" must be folders and a name, with one / between them'),
        ("exclude", "[a/**.x]", '"a/**.x": ** stands for folders and has a / on each side; write **/*.x'),
        ("exclude", "2020", 'must be a list of globs such as ["**/tmp"]'),
        ("on_unreadable", "ignore", "must be stop or skip"),
        ("job_name", "{a: b}", "must be text"),
        ("ignore_case", '"true"', "must be true or false, without quotes"),
    ],
)
def test_what_is_no_choice_of_files_is_told(tmp_path: Path, key: str, written: str, expected: str) -> None:
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "away").symlink_to("../elsewhere")
    more, changed = ([], {key: written}) if key in SIX else ([f"{key}: {written}"], {})
    assert expected in problem_of(tmp_path, *more, **changed)


def test_our_folders_lie_outside_each_folder_of_the_source(tmp_path: Path) -> None:
    told = problem_of(tmp_path, source_path="[a, b]", output_path="b/out")
    assert "b/out   lies inside source_path (line 3): " in told
    assert load(tmp_path, source_path="[a, b]", output_path="c").output_path == tmp_path / "c"


# Columns


def test_columns_are_taken_in_their_order(tmp_path: Path) -> None:
    config = load(tmp_path, 'columns: {b: int8, a: "decimal(10,2)", t: list<list<date>>}\nsource_column: file')
    named = [["b", "int8"], ["a", "decimal(10,2)"], ["t", "list<list<date>>"]]
    assert config.columns is not None
    assert [[name, str(column_type)] for name, column_type in config.columns.items()] == named
    assert config.source_column == "file"
    assert config.column_settings.to_json() == {"columns": named, "source_column": "file"}
    assert load(tmp_path, "columns: null\nsource_column: null").column_settings.to_json() == {}


def test_all_problems_of_columns_are_told_at_once(tmp_path: Path) -> None:
    text = "source_column: b\ncolumns:\n  a: strng\n  b: int8\n  a: int8\n  c: int128"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    lines = str(caught.value.evidence).splitlines()
    assert [line.split("   ")[0] for line in lines] == ["line 7", "line 9", "line 11", "line 12"]
    assert "columns (line 8) has that name, too" in lines[0]
    assert 'did you mean "string"' in lines[1]
    assert "a is given twice; line 9 has it, too" in lines[2]
