from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from r3po.config.settings import (
    MAX_TIMEOUT_S,
    Config,
    MaxErrors,
    ParquetOptions,
    check_source,
    load_config,
    parse_max_errors,
)
from r3po.errors import ConfigError, SourceError

SIX = {
    "job_name": "count_produce",
    "processes": "2",
    "source_path": "produce_log",
    "source_file_part": ".json",
    "working_dir": "working_dir",
    "output_path": "output_dir",
}
HINT = 'hint:  README, "Config", lists every key'


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
    assert config == Config.model_construct(
        path=tmp_path / "config.yaml",
        job_name="count_produce",
        processes=2,
        source_path=tmp_path / "produce_log",
        source_file_part=".json",
        working_dir=tmp_path / "working_dir",
        output_path=tmp_path / "output_dir",
        function=None,
        input="path",
        csv=True,
        parquet=ParquetOptions(compression="zstd", level=3),
        shard_size=10_000,
        batch_seconds=1.0,
        hash="content",
        timeout_seconds=None,
        max_errors=None,
        on_function_change="warn",
        on_deleted="drop",
        lines=config.lines,
        source_written="produce_log",
    )


def test_the_optional_keys_are_taken_as_written(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "function: count_fruits.py:count_fruits",
        "input: bytes",
        "csv: false",
        "parquet: {compression: gzip, level: 9}",
        "shard_size: 100",
        "batch_seconds: 2",
        "hash: stat",
    )
    assert config.function == "count_fruits.py:count_fruits"
    assert (config.input, config.csv, config.hash) == ("bytes", False, "stat")
    assert config.parquet == ParquetOptions(compression="gzip", level=9)
    assert (config.shard_size, config.batch_seconds) == (100, 2.0)


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("true", ParquetOptions(compression="zstd", level=3)),
        ("false", None),
        ("{}", ParquetOptions(compression="zstd", level=3)),
        ("{level: 19}", ParquetOptions(compression="zstd", level=19)),
        ("{compression: gzip}", ParquetOptions(compression="gzip", level=6)),
        ("{compression: brotli, level: 0}", ParquetOptions(compression="brotli", level=0)),
        ("{compression: lz4}", ParquetOptions(compression="lz4", level=1)),
        ("{compression: snappy}", ParquetOptions(compression="snappy", level=None)),
        ("{compression: none, level: null}", ParquetOptions(compression="none", level=None)),
    ],
)
def test_parquet_is_a_switch_or_a_codec(tmp_path: Path, written: str, options: ParquetOptions | None) -> None:
    assert load(tmp_path, f"parquet: {written}").parquet == options


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


@pytest.mark.parametrize("written", ["null", "~"])
@pytest.mark.parametrize("key", ["timeout_seconds", "max_errors"])
def test_null_leaves_a_limit_out(tmp_path: Path, key: str, written: str) -> None:
    assert getattr(load(tmp_path, f"{key}: {written}"), key) is None


@pytest.mark.parametrize(("written", "seconds"), [("30", 30.0), ("0.5", 0.5), (f"{MAX_TIMEOUT_S}", MAX_TIMEOUT_S)])
def test_timeout_seconds_is_a_number(tmp_path: Path, written: str, seconds: float) -> None:
    assert load(tmp_path, f"timeout_seconds: {written}").timeout_seconds == seconds


@pytest.mark.parametrize("written", ["0", "-1", "true", "'30'", "ten", ".inf", ".nan", f"{MAX_TIMEOUT_S + 1}", "[1]"])
def test_what_is_no_timeout_is_refused(tmp_path: Path, written: str) -> None:
    assert problem_of(tmp_path, f"timeout_seconds: {written}").startswith("line 7   timeout_seconds: ")


def test_a_command_line_may_give_max_errors_in_place_of_the_file_s(tmp_path: Path) -> None:
    config = load(tmp_path, "max_errors: 5")
    assert config.with_overrides().max_errors == MaxErrors(count=5)
    assert config.with_overrides(max_errors="2%").max_errors == MaxErrors(percent=2.0)
    assert config.with_overrides(max_errors=0).max_errors == MaxErrors(count=0)
    assert config.with_overrides(max_errors="none").max_errors == MaxErrors()
    with pytest.raises(ConfigError, match="max_errors is many") as caught:
        config.with_overrides(max_errors="many")
    assert caught.value.hint == "it must be a number of files such as 100, a share such as 1%, or none"


def test_every_parquet_codec_and_its_levels_can_be_written(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"fruits": [1, 2, 3]})
    written = ["snappy", "none"]
    written += [f"{codec}, level: {level}" for codec, level in [("zstd", 1), ("zstd", 22), ("gzip", 1), ("gzip", 9)]]
    written += [f"{codec}, level: {level}" for codec, level in [("brotli", 0), ("brotli", 11), ("lz4", 1), ("lz4", 12)]]
    for options in (load(tmp_path, f"parquet: {{compression: {one}}}").parquet for one in written):
        assert options is not None
        parquet.write_table(table, tmp_path / "part", compression=options.compression, compression_level=options.level)


def test_auto_is_the_cores_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert load(tmp_path, processes="auto").processes == 3


def test_auto_counts_all_cores_where_a_process_has_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert load(tmp_path, processes="auto").processes == 1


def test_lines_tell_where_each_key_is(tmp_path: Path) -> None:
    config = load_config(write_text(tmp_path, "# my job\n\n" + write_config(tmp_path, "csv: true").read_text()))
    assert config.lines == dict(zip([*SIX, "csv"], range(3, 10), strict=True))


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    config = load_config(file)
    assert (config.job_name, config.lines["output_path"]) == ("count_produce", 6)


def test_a_suffix_needs_no_dot_and_a_name_may_be_in_any_script(tmp_path: Path) -> None:
    config = load(tmp_path, source_file_part="_log", job_name="Größe 果物")
    assert (config.source_file_part, config.job_name) == ("_log", "Größe 果物")


def test_the_file_is_never_written_to(tmp_path: Path) -> None:
    file = write_config(tmp_path, "count_all_files: 6")
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    load_config(file)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
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


def test_a_config_can_be_compared_and_sent_to_another_process(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert pickle.loads(pickle.dumps(config)) == config == load(tmp_path)


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    config = load(tmp_path, "function: a.py:f")
    assert config.with_overrides() == config
    changed = config.with_overrides(processes=7, function="b.py:g")
    assert (changed.processes, changed.function) == (7, "b.py:g")
    assert (changed.lines, changed.notices) == (config.lines, config.notices)


def test_overrides_are_held_to_the_same_limits(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(ConfigError) as caught:
        config.with_overrides(processes=0)
    assert str(caught.value) == "processes is 0\nhint:  give a whole number from 1 to 4096"
    with pytest.raises(ConfigError, match="function is empty"):
        config.with_overrides(function=" ")


def test_importing_the_config_loads_neither_ray_nor_pyarrow() -> None:
    code = "import sys, r3po.config.settings; print(sorted({'ray', 'pyarrow', 'pandas', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Folders


def test_folders_start_at_the_config_file_and_not_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    write_config(tmp_path / "jobs", source_path="../data/./log", output_path="/var/out")
    monkeypatch.chdir(tmp_path)
    config = load_config("jobs/config.yaml")
    assert config.path == tmp_path / "jobs" / "config.yaml"
    assert config.base_dir == tmp_path / "jobs"
    assert config.source_path == tmp_path / "data" / "log"
    assert config.working_dir == tmp_path / "jobs" / "working_dir"
    assert config.output_path == Path("/var/out")


def test_home_and_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAY", "monday")
    monkeypatch.setenv("DISK", "~/disk")
    config = load(tmp_path, source_path="~/log/${DAY}", working_dir="${DISK}/work", output_path="$DAY")
    assert config.source_path == tmp_path / "home" / "log" / "monday"
    assert config.working_dir == tmp_path / "home" / "disk" / "work"
    assert config.output_path == tmp_path / "$DAY"


def test_links_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "produce_log").symlink_to("real")
    assert load(tmp_path).source_path == tmp_path / "produce_log"


def test_working_dir_and_output_path_may_be_one_folder(tmp_path: Path) -> None:
    config = load(tmp_path, working_dir="job", output_path="job")
    assert config.working_dir == config.output_path == tmp_path / "job"


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


def test_the_home_of_nobody_is_a_problem(tmp_path: Path) -> None:
    assert problem_of(tmp_path, working_dir="~no-such-user-here/w") == (
        "line 5   working_dir: ~no-such-user-here/w   there is no such user's home; ./~ starts a folder of that name"
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"working_dir": "produce_log/w"},
            "line 5   working_dir: produce_log/w   lies inside source_path (line 3): "
            "its files would be taken for input; choose a folder outside",
        ),
        (
            {"output_path": "./produce_log/"},
            "line 6   output_path: ./produce_log/   is source_path (line 3): "
            "its files would be taken for input; choose a folder outside",
        ),
        (
            {"output_path": "."},
            "line 6   output_path: .   holds source_path (line 3): "
            "r3po would write beside your data; choose a folder outside",
        ),
        (
            {"source_path": "w/log", "working_dir": "w"},
            "line 5   working_dir: w   holds source_path (line 3): "
            "r3po would write beside your data; choose a folder outside",
        ),
    ],
)
def test_the_source_is_kept_apart_from_what_r3po_writes(
    tmp_path: Path, changed: dict[str, str | None], expected: str
) -> None:
    assert problem_of(tmp_path, **changed) == expected


def test_a_folder_that_only_begins_like_the_source_is_another_folder(tmp_path: Path) -> None:
    assert load(tmp_path, output_path="produce_log_out").output_path == tmp_path / "produce_log_out"


def test_a_link_does_not_hide_that_the_output_lies_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "produce_log" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").symlink_to("produce_log/deep")
    assert problem_of(tmp_path, output_path="elsewhere/out").startswith(
        "line 6   output_path: elsewhere/out   lies inside source_path (line 3): "
    )


def test_a_source_that_is_a_link_is_compared_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real" / "log").mkdir(parents=True)
    (tmp_path / "produce_log").symlink_to("real/log")
    assert problem_of(tmp_path, output_path="real").startswith(
        "line 6   output_path: real   holds source_path (line 3): "
    )


def test_two_names_of_one_folder_are_told_by_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Log").mkdir()
    (tmp_path / "log").symlink_to("Log")
    # As on a disk that ignores case: two names, and no link to follow.
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    assert problem_of(tmp_path, source_path="Log", output_path="log/out").startswith(
        "line 6   output_path: log/out   lies inside source_path (line 3): "
    )


# Problems with keys: all at once


def test_three_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """\
job_name: count_produce
# workers
proceses: 4
source_path: produce_log
shard_size: -1
source_file_part: .json
working_dir: working_dir
output_path: output_dir
hash: md5
"""
    assert error_of(write_text(tmp_path, text)) == (
        "config.yaml has 3 problems\n"
        '  line 3   proceses: 4      unknown key; did you mean "processes"?\n'
        "  line 5   shard_size: -1   must be greater than 0\n"
        "  line 9   hash: md5        must be content or stat\n"
        'hint:  README, "Config", lists every key'
    )


def test_problems_of_every_kind_are_sorted_by_line_and_missing_keys_come_last(tmp_path: Path) -> None:
    text = """\
parquet:
  compression: zstd
  level: 40
csv: "true"
job_name: 2020
job_name: again
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
        "  line 7    source_path: ${NO_SUCH_VARIABLE}/log   the variable NO_SUCH_VARIABLE is not set; export it first\n"
        "  line 8    1: one                                 the key is not text; keys are names such as job_name\n"
        "  line 10   working_dir:                           has no value; must be text\n"
        "  missing   processes                              required, such as  processes: 2\n"
        "  missing   source_file_part                       required, such as  source_file_part: .json\n"
        'hint:  README, "Config", lists every key'
    )


def test_an_empty_mapping_lacks_all_six_keys(tmp_path: Path) -> None:
    assert error_of(write_text(tmp_path, "{}\n")) == (
        "config.yaml has 6 problems\n"
        "  missing   job_name           required, such as  job_name: count_produce\n"
        "  missing   processes          required, such as  processes: 2\n"
        "  missing   source_path        required, such as  source_path: produce_log\n"
        "  missing   source_file_part   required, such as  source_file_part: .json\n"
        "  missing   working_dir        required, such as  working_dir: working_dir\n"
        "  missing   output_path        required, such as  output_path: output_dir\n"
        'hint:  README, "Config", lists every key'
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"job_name": "no"}, 'line 1   job_name: no   must be text; quote it: "no"'),
        ({"job_name": "2026-11-22"}, 'line 1   job_name: 2026-11-22   must be text; quote it: "2026-11-22"'),
        ({"job_name": "2026-13-45"}, 'line 1   job_name: 2026-13-45   must be text; quote it: "2026-13-45"'),
        ({"job_name": "!x y"}, 'line 1   job_name: !x y   must be text; quote it: "!x y"'),
        ({"job_name": "[a]"}, "line 1   job_name: [a]   must be text"),
        ({"job_name": "null"}, "line 1   job_name: null   has no value; must be text"),
        ({"job_name": '" "'}, 'line 1   job_name: " "   must not be empty'),
        (
            {"job_name": r'"a\nb"'},
            r'line 1   job_name: "a\nb"   must not hold line breaks, tabs or other control characters',
        ),
        (
            {"job_name": r'"\ud800"'},
            r'line 1   job_name: "\ud800"   must not hold line breaks, tabs or other control characters',
        ),
        ({"processes": '"4"'}, 'line 2   processes: "4"   must be a whole number, or auto, without quotes'),
        ({"processes": "all"}, "line 2   processes: all   must be a whole number, or auto"),
        ({"processes": "yes"}, "line 2   processes: yes   must be a whole number, or auto"),
        ({"processes": "2.0"}, "line 2   processes: 2.0   must be a whole number, or auto"),
        ({"processes": "0"}, "line 2   processes: 0   must be greater than 0"),
        ({"processes": "4097"}, "line 2   processes: 4097   must be at most 4,096"),
        ({"working_dir": "~"}, 'line 5   working_dir: ~   must be text; quote it: "~"'),
        ({"working_dir": '""'}, 'line 5   working_dir: ""   must not be empty'),
        ({"source_file_part": ".5"}, 'line 4   source_file_part: .5   must be text; quote it: ".5"'),
        (
            {"source_file_part": "x/.json"},
            "line 4   source_file_part: x/.json   must be the end of file names, without a /",
        ),
    ],
)
def test_a_wrong_required_key_is_told_in_plain_words(
    tmp_path: Path, changed: dict[str, str | None], expected: str
) -> None:
    assert problem_of(tmp_path, **changed) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("function: 5", 'must be text; quote it: "5"'),
        ("input: row", "must be path or bytes"),
        ("csv: 1", "must be true or false"),
        ("csv:", "has no value; must be true or false"),
        ("parquet: zstd", "must be true, false or {compression: zstd, level: 3}"),
        ("parquet: [zstd]", "must be true, false or {compression: zstd, level: 3}"),
        ("shard_size: true", "must be a whole number"),
        ("shard_size: 0", "must be greater than 0"),
        ("shard_size: 10000001", "must be at most 10,000,000"),
        ("batch_seconds: fast", "must be a number"),
        ("batch_seconds: 0", "must be greater than 0"),
        ("batch_seconds: .nan", "must be at most 3,600"),
        ("batch_seconds: .inf", "must be at most 3,600"),
        ("batch_seconds: 3600.5", "must be at most 3,600"),
        ("hash: true", "must be content or stat"),
        ("hash:", "has no value; must be content or stat"),
        ("Shard_Size: 5", 'unknown key; did you mean "shard_size"?'),
        ("colour: red", "unknown key"),
        ("<<: {csv: true}", "the key is not text; keys are names such as job_name"),
        ("yes: 1", "the key is not text; keys are names such as job_name"),
        ("[a, b]: 1", "the key is not text; keys are names such as job_name"),
    ],
)
def test_a_wrong_optional_key_is_told_in_plain_words(tmp_path: Path, line: str, reason: str) -> None:
    assert problem_of(tmp_path, line) == f"line 7   {line}   {reason}"


@pytest.mark.parametrize(
    "key",
    ["ray_address"],
)
def test_a_key_that_resembles_none_is_not_taken_for_another(tmp_path: Path, key: str) -> None:
    assert problem_of(tmp_path, f"{key}: 1") == f"line 7   {key}: 1   unknown key"


@pytest.mark.parametrize(
    ("line", "shown", "reason"),
    [
        (
            "  compression: zip",
            "compression: zip",
            "must be zstd, snappy, gzip, brotli, lz4 or none",
        ),
        ("  level: high", "level: high", "must be a whole number"),
        ("  levl: 3", "levl: 3", 'unknown key; did you mean "level"?'),
        ("  2: 3", "2: 3", "the key is not text; keys are names such as job_name"),
    ],
)
def test_what_is_wrong_inside_parquet_is_told_with_its_own_line(
    tmp_path: Path, line: str, shown: str, reason: str
) -> None:
    assert problem_of(tmp_path, "parquet:", line) == f"line 8   {shown}   {reason}"


def test_a_level_that_the_codec_does_not_have_is_a_problem(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "parquet: {compression: snappy, level: 3}") == (
        "line 7   level: 3   snappy has no levels; take this out"
    )
    assert problem_of(tmp_path, "parquet: {compression: gzip, level: 0}") == (
        "line 7   level: 0   must be from 1 to 9 for gzip"
    )


def test_keys_given_twice_are_refused_also_inside_parquet(tmp_path: Path) -> None:
    assert error_of(write_config(tmp_path, "parquet:", "  level: 3", "  level: 4", "processes: 8")) == (
        "config.yaml has 2 problems\n"
        "  line 9    level: 4       level is given twice; line 8 has it, too\n"
        "  line 10   processes: 8   processes is given twice; line 2 has it, too\n"
        'hint:  README, "Config", lists every key'
    )


def test_csv_and_parquet_may_not_both_be_off(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "parquet: false", "csv: false") == (
        "line 8   csv: false   csv and parquet are both off, nothing would be written; set one to true"
    )


def test_a_long_value_is_shown_shortened(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "remark: " + "long " * 30) == (
        "line 7   remark: long long long long long long...   unknown key"
    )


def test_an_alias_is_read_like_the_value_it_stands_for(tmp_path: Path) -> None:
    config = load(tmp_path, "function: *name", job_name="&name job.py:f")
    assert config.function == "job.py:f"
    assert problem_of(tmp_path, "input: *name", job_name="&name job.py:f") == "line 7   input:   must be path or bytes"


# Files that are no config


def test_a_missing_file_is_told_with_its_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path / "config.yaml") == (
        f"config.yaml not found in {tmp_path}\nhint:  name the config, such as: r3po run my.yaml"
    )


def test_a_missing_file_brings_up_the_configs_beside_it(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").touch()
    (tmp_path / "small.yml").touch()
    (tmp_path / "notes.txt").touch()
    assert error_of(tmp_path / "config.yaml") == (
        f'config.yaml not found in {tmp_path}\nhint:  did you mean "big.yaml" or "small.yml"?'
    )
    (tmp_path / "confg.yaml").touch()
    assert error_of(tmp_path / "config.yaml") == (
        f'config.yaml not found in {tmp_path}\nhint:  did you mean "confg.yaml"?'
    )


def test_a_missing_folder_is_told_as_such(tmp_path: Path) -> None:
    assert error_of(tmp_path / "jobs" / "config.yaml") == (
        f"config.yaml not found: there is no folder {tmp_path}/jobs\nhint:  look at the path"
    )


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"{tmp_path} is a folder, not a config\nhint:  name the config file in it"
    write_config(tmp_path)
    assert error_of(tmp_path) == (
        f'{tmp_path} is a folder, not a config\nhint:  did you mean "{tmp_path}/config.yaml"?'
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_as_such(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    file.chmod(0)
    assert error_of(file) == (
        f"config.yaml cannot be read: Permission denied\nhint:  look at the permissions of {file}"
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n", "---\n"])
def test_an_empty_file_is_told_what_it_needs(tmp_path: Path, text: str) -> None:
    assert error_of(write_text(tmp_path, text)) == (
        "config.yaml is empty\n"
        "hint:  it needs job_name, processes, source_path, source_file_part, working_dir, output_path\n"
        '       README, "Config", lists every key'
    )


@pytest.mark.parametrize("text", ["processes 4\n", "[processes]\n"])
def test_a_file_without_keys_is_told_how_a_line_looks(tmp_path: Path, text: str) -> None:
    assert error_of(write_text(tmp_path, text)) == (
        "config.yaml holds no keys\n"
        f"  line 1   {text}"
        'hint:  each line is "key: value", with a space after the colon\n'
        '       README, "Config", lists every key'
    )


def test_a_file_that_is_not_utf_8_is_told_the_line(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    file.write_bytes(file.read_bytes() + "function: größe.py:f\n".encode("latin-1"))
    assert error_of(file) == "config.yaml is not UTF-8 text (line 7)\nhint:  save it as UTF-8"


SHAPE_HINT = 'hint:  each line is "key: value", with a space after the colon; quote values that hold other signs'


@pytest.mark.parametrize(
    ("text", "evidence", "hint"),
    [
        (
            "job_name: a\nprocesses 4\nsource_path: x\n",
            "line 2   processes 4   could not find expected ':', while scanning a simple key",
            SHAPE_HINT,
        ),
        ("job_name: a: b\n", "line 1   job_name: a: b   mapping values are not allowed here", SHAPE_HINT),
        (
            "job_name: a\nsource_file_part: '.json\nprocesses: 2\n",
            "line 2   source_file_part: '.json   found unexpected end of stream, while scanning a quoted scalar",
            SHAPE_HINT,
        ),
        (
            "source_file_part: *.json\n",
            "line 1   source_file_part: *.json   "
            "expected alphabetic or numeric character, but found '.', while scanning an alias",
            SHAPE_HINT,
        ),
        (
            "parquet:\n\tlevel: 3\n",
            "line 2   level: 3   found character '\\t' that cannot start any token, while scanning for the next token",
            "hint:  indent with spaces, not with tabs",
        ),
        (
            "job_name: a\x1b[31m\n",
            "line 1   job_name: a[31m   holds the character U+001B",
            "hint:  take the character out",
        ),
        ("[" * 5000, "it is nested too deeply", HINT),
        ("parquet: &p {parquet: *p}\n", "it is nested too deeply", HINT),
    ],
)
def test_what_is_no_yaml_is_told_with_line_and_remedy(tmp_path: Path, text: str, evidence: str, hint: str) -> None:
    assert error_of(write_text(tmp_path, text)) == f"config.yaml is not valid YAML\n  {evidence}\n{hint}"


def test_yaml_cannot_make_python_objects(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "function: !!python/object/apply:os.getcwd []").endswith(
        'must be text; quote it: "!!python/object/apply:os.getcwd []"'
    )


# The source folder


def source_error_of(config: Config) -> str:
    with pytest.raises(SourceError) as caught:
        check_source(config)
    return str(caught.value)


def test_a_config_is_loaded_while_its_source_is_away(tmp_path: Path) -> None:
    assert load(tmp_path, source_path="/mnt/unplugged").source_path == Path("/mnt/unplugged")


def test_a_source_that_is_a_folder_or_a_link_to_one_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    check_source(load(tmp_path, source_path="real"))
    check_source(load(tmp_path, source_path="link"))


def test_a_missing_source_brings_up_the_folder_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "produce_log").mkdir()
    (tmp_path / "produce_lg").touch()
    assert source_error_of(load(tmp_path, source_path="produce_lgo")) == (
        f"source folder not found: {tmp_path}/produce_lgo   (config.yaml line 3; relative to that file)\n"
        'hint:  did you mean "produce_log"?'
    )


def test_a_missing_source_is_told_from_where_its_path_ends(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    written = f"{tmp_path}/dta/2026/log"
    assert source_error_of(load(tmp_path, source_path=written)) == (
        f'source folder not found: {written}   (config.yaml line 3)\nhint:  did you mean "data"?'
    )
    written = f"{tmp_path}/data/2026/log"
    assert source_error_of(load(tmp_path, source_path=written)) == (
        f"source folder not found: {written}   (config.yaml line 3)\n"
        f'hint:  there is no folder "2026" in {tmp_path}/data'
    )


def test_a_source_that_is_a_link_to_nowhere_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "produce_log").symlink_to("/mnt/unplugged")
    assert source_error_of(load(tmp_path)) == (
        f"source folder not found: {tmp_path}/produce_log   (config.yaml line 3; relative to that file)\n"
        f'hint:  "{tmp_path}/produce_log" is a link to "/mnt/unplugged", which is not there'
    )


def test_a_source_that_is_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "produce_log").touch()
    assert source_error_of(load(tmp_path)) == (
        f"source_path is no folder: {tmp_path}/produce_log   (config.yaml line 3; relative to that file)\n"
        f'hint:  name the folder that holds it: "{tmp_path}"'
    )


def test_a_source_that_cannot_be_reached_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "produce_log").symlink_to("produce_log")
    assert source_error_of(load(tmp_path)) == (
        f"source folder cannot be reached: {tmp_path}/produce_log   (config.yaml line 3; relative to that file)\n"
        f"  {os.strerror(errno.ELOOP)}\n"
        "hint:  look at its permissions and its disk"
    )


# Columns


def test_columns_are_taken_in_their_order(tmp_path: Path) -> None:
    config = load(tmp_path, 'columns: {b: int8, a: "decimal(10,2)", t: list<list<date>>}\nsource_column: file')
    assert config.columns is not None
    assert [(name, str(column_type)) for name, column_type in config.columns.items()] == [
        ("b", "int8"),
        ("a", "decimal(10,2)"),
        ("t", "list<list<date>>"),
    ]
    assert config.source_column == "file"
    assert config.column_settings.to_json() == {
        "columns": [["b", "int8"], ["a", "decimal(10,2)"], ["t", "list<list<date>>"]],
        "source_column": "file",
    }
    assert load(tmp_path, "columns: null\nsource_column: null").column_settings.to_json() == {}


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("str", '"str" is no type; did you mean "string"?'),
        ("INT64", '"INT64" is no type; did you mean "int64"?'),
        ("double", '"double" is no type; did you mean "float64"?'),
        ("timestmp", '"timestmp" is no type; did you mean "timestamp"?'),
        ("decimal", '"decimal" is no type; did you mean "decimal(10,2)"?'),
        ('"decimal(39,0)"', "a decimal has 1 to 38 digits in all, not 39"),
        ('"decimal(3,9)"', "a decimal of 3 digits cannot have 9 of them behind the point"),
        ("list<dict>", "list<dict> is no column type; write list, and its items are as they come"),
        ("list<map>", '"map" is no type; there are int8 to int64, uint8 to uint64, float32,'),
        ("5", 'must be a type such as int64, string or "decimal(10,2)"'),
    ],
)
def test_a_type_that_there_is_not_is_refused_with_its_line(tmp_path: Path, written: str, reason: str) -> None:
    assert reason in problem_of(tmp_path, f"columns:\n  name: {written}")
    assert problem_of(tmp_path, f"columns:\n  name: {written}").startswith("line 8 ")


def test_all_problems_of_columns_are_told_at_once(tmp_path: Path) -> None:
    text = "source_column: b\ncolumns:\n  a: strng\n  b: int8\n  a: int8\n  c: int128"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    lines = str(caught.value.evidence).splitlines()
    assert [line.split("   ")[0] for line in lines] == ["line 7", "line 9", "line 11", "line 12"]
    assert "columns (line 8) has that name, too" in lines[0]
    assert 'did you mean "string"' in lines[1]
    assert "a is given twice; line 9 has it, too" in lines[2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("columns: {}", "names no column"),
        ("columns: [a]", "must be a mapping such as {fruits: int64, name: string}, or null"),
        ("source_column: ''", "must not be empty"),
        ("source_column: 5", 'must be text; quote it: "5"'),
    ],
)
def test_what_is_no_column_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    assert reason in problem_of(tmp_path, line)
