"""Bad input gets a clear error and loses nothing.

Every message is `error:`, what and where, with a hint; the exit code tells the kind; no traceback of r3po is shown.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from damages import DAMAGES, JSON_DAMAGES
from jobs import DOUBLE, PICKY, Ended, Job, doubled, make_job, r3po, run_python, snapshot

RUN, BUILD = ("run", "--engine", "serial"), ("build",)
READING = (("status",), ("errors",), ("reset", "--errors"))
RAISES = "def double(filepath):\n    raise RuntimeError('always')\n"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path / "job")


def assert_refused(ended: Ended, *said: str, code: int = 2) -> None:
    """Check that r3po said no, in its one shape, and on stderr alone."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert [line for line in ended.err.splitlines() if line.startswith("error: ")], ended.err
    for text in said:
        assert text in ended.err
    assert "Traceback" not in ended.err


def nothing_recorded(job: Job) -> bool:
    """Whether no outcome of any file is on disk."""
    segments = list(job.working_dir.glob("segments/*/*"))
    return not segments and not any(list(job.working_dir.glob(f"{name}/*")) for name in ("commits", "outcomes"))


# The config


def test_all_problems_of_a_config_come_at_once_with_their_lines(job: Job) -> None:
    job.config.write_text(
        "job_name: doubles\n"
        "proceses: 4\n"
        "source_path: source\n"
        "source_file_part: .json\n"
        "working_dir: work\n"
        "output_path: out\n"
        "shard_size: -1\n"
        "hash: md5\n"
    )
    before = snapshot(job.folder)
    for command in (RUN, BUILD, *READING):
        ended = r3po(*command, cwd=job.folder)
        assert_refused(ended, "error: config.yaml has 3 problems", "line 2", "line 7", "line 8", "hint:")
        assert 'did you mean "processes"?' in ended.err
    assert snapshot(job.folder) == before


def test_a_config_that_is_not_there_or_is_no_config(job: Job) -> None:
    assert_refused(r3po("run", "confg.yaml", cwd=job.folder), "confg.yaml", 'did you mean "config.yaml"?')
    for text in ("", "[1, 2", "job_name: a\njob_name: b\n", "- a\n- b\n", "\x00"):
        job.config.write_text(text)
        before = snapshot(job.folder)
        assert_refused(job.run(), "config.yaml")
        assert snapshot(job.folder) == before


def test_the_config_of_2020_with_its_counts_is_accepted_with_one_notice(job: Job) -> None:
    job.write_config(count_all_files=6, count_job_files=6)
    before = job.config.read_bytes()
    ended = job.run()
    assert ended.code == 0
    assert ended.err.count("count_all_files") == 1
    assert job.config.read_bytes() == before
    assert job.rows() == doubled(*range(6))


# The source


def test_a_missing_source_folder_is_named_with_what_was_meant_and_one_that_is_a_file(job: Job) -> None:
    job.write_config(source_path="sorce")
    before = snapshot(job.folder)
    for command in (RUN, BUILD):
        ended = r3po(*command, cwd=job.folder)
        assert_refused(ended, f"source folder not found: {job.folder / 'sorce'}", "config.yaml line 3")
        assert 'hint:  did you mean "source"?' in ended.err
    assert snapshot(job.folder) == before
    job.write_config(source_path="source/000.json")
    before = snapshot(job.folder)
    assert_refused(job.run(), "source/000.json", "hint:")
    assert snapshot(job.folder) == before


def test_no_matching_file_says_what_the_files_end_with_or_that_there_is_none(job: Job) -> None:
    (job.source / "notes.txt").touch()
    job.write_config(source_file_part=".jsn")
    for command in (RUN, BUILD):
        ended = r3po(*command, cwd=job.folder)
        assert_refused(ended, f'no file under {job.source} ends with ".jsn"')
        assert '6 files end with ".json"' in ended.err
        assert '1 file ends with ".txt"' in ended.err
    shutil.rmtree(job.source)
    job.source.mkdir()
    assert_refused(job.run(), 'ends with ".jsn"', "hint:  the folder is empty")
    assert not (job.working_dir / "manifest.json").exists()
    assert nothing_recorded(job)
    assert job.parts() == {}


# Folders in the wrong place


IN_THE_SOURCE = ("source_path (line 3)", "choose a folder outside")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("working_dir", "source/work", IN_THE_SOURCE),
        ("output_path", "source/out", IN_THE_SOURCE),
        ("working_dir", "source", IN_THE_SOURCE),
        ("output_path", "source", IN_THE_SOURCE),
        ("output_path", ".", IN_THE_SOURCE),
        ("working_dir", ".", IN_THE_SOURCE),
        ("output_path", "..", IN_THE_SOURCE),
        ("output_path", "link/out", ("source_path (line 3)",)),
        ("working_dir", "out/csv", ("out/csv", "hint:")),
        ("working_dir", "out/parquet/work", ("out/parquet/work", "hint:")),
        ("output_path", "work/segments", ("work/segments", "hint:")),
    ],
)
def test_folders_may_not_lie_in_each_other(job: Job, key: str, value: str, said: tuple[str, ...]) -> None:
    """With the source in no way, and one of the two not where the other keeps its files."""
    (job.folder / "link").symlink_to(job.source)
    job.write_config(**{key: value})
    before = snapshot(job.folder)
    for command in (RUN, BUILD):
        assert_refused(r3po(*command, cwd=job.folder), key, *said)
    assert snapshot(job.folder) == before


@pytest.mark.parametrize("key", ["working_dir", "output_path"])
def test_a_folder_that_cannot_be_made_is_named(job: Job, key: str) -> None:
    (job.folder / "plain.txt").write_text("a file")
    for below in ("", "below"):
        job.write_config(**{key: f"plain.txt/{below}"})
        for command in (RUN, BUILD):
            ended = r3po(*command, cwd=job.folder)
            assert_refused(ended, f"{job.folder / 'plain.txt' / below}: cannot write here", "hint:")
    assert not (job.working_dir / "manifest.json").exists()
    assert (job.folder / "plain.txt").read_text() == "a file"


def test_a_folder_that_is_not_writable_is_named_and_nothing_is_lost(job: Job) -> None:
    for folder in (job.working_dir, job.output):
        folder.mkdir()
        with read_only(folder):
            assert_refused(job.run(), f"{folder}: cannot write here", "hint:")
    r3po("build", cwd=job.folder)
    with read_only(job.working_dir / "segments"):  # which stops the run in its middle
        ended = job.run()
    assert ended.code in (2, 3)
    assert_refused(ended, "cannot write", str(job.working_dir / "segments"), code=ended.code)
    assert job.failures() == [], "a disk that refuses is nobody's failure"
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder that nobody, root included, can write to; skip where that does not work."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
        pytest.skip("root can write everywhere, and chattr +i does not work here")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


# Another job


@pytest.fixture
def two_jobs(tmp_path: Path) -> tuple[Job, Job]:
    """A job that has run, and one that has not, side by side."""
    first, second = make_job(tmp_path / "first"), make_job(tmp_path / "second", job_name="others")
    first.run()
    return first, second


def test_another_jobs_output_folder_is_left_alone(two_jobs: tuple[Job, Job]) -> None:
    first, second = two_jobs
    for has_run in (False, True):
        second.write_config(output_path="../first/out")
        before = snapshot(first.folder)
        for command in (RUN, BUILD, *([("reset", "--all", "--yes")] if has_run else [])):
            ended = r3po(*command, cwd=second.folder)
            assert_refused(ended, f"{first.output}: output_path belongs to another job", '"doubles"', "hint:")
            assert str(first.working_dir) in ended.err
        assert snapshot(first.folder) == before
        assert (second.working_dir / "manifest.json").exists() == has_run
        second.write_config()
        assert second.run().code == 0


def test_another_jobs_working_folder_is_left_alone(two_jobs: tuple[Job, Job]) -> None:
    first, second = two_jobs
    second.write_config(working_dir="../first/work")
    before = snapshot(first.folder)
    for command in (RUN, BUILD, *READING, ("reset", "--all", "--yes")):
        ended = r3po(*command, cwd=second.folder)
        assert_refused(ended, f"{first.working_dir}: ", '"doubles"', '"others"', "hint:")
    assert snapshot(first.folder) == before


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_that_r3po_did_not_write_are_neither_overwritten_nor_mixed_in(job: Job, kind: str) -> None:
    stranger = job.output / kind / f"part-00000.{kind}"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("mine")
    assert_refused(job.run(), f"{kind}/part-00000.{kind}", str(job.output), "hint:")
    assert stranger.read_text() == "mine"
    stranger.unlink()
    assert job.run().code == 0


# Damaged and newer state

OF_JSON = ("zeros", *JSON_DAMAGES)
"""What else may become of a file is in test_resume.py."""


@pytest.mark.parametrize(
    ("name", "damages", "commands"),
    [
        ("work/manifest.json", OF_JSON, (RUN, BUILD, *READING)),
        ("work/commits/00000.json", OF_JSON, (RUN, BUILD, *READING)),
        ("out/.r3po.json", OF_JSON, (RUN, BUILD)),
        ("work/columns*.json", OF_JSON, (RUN,)),
        ("work/shards/*", ("truncated", "emptied", "missing"), (RUN,)),
        ("work/outcomes/*", ("zeros", "missing"), (RUN, ("errors",))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_and_newer_state_is_refused_by_name(
    tmp_path: Path, name: str, damages: tuple[str, ...], commands: tuple[tuple[str, ...], ...]
) -> None:
    job = make_job(tmp_path / "job", function=PICKY.format(bad=[2]))
    r3po(*(BUILD if "shards" in name else RUN), cwd=job.folder)
    job.write_function(DOUBLE)  # what failed is pending again, and its shard must be read
    (file,) = job.folder.glob(name)
    good = file.read_bytes()
    watched = job.folder if BUILD in commands else job.output
    for damage in damages:
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes((DAMAGES | JSON_DAMAGES)[damage](good, random.Random(1)))
            assert file.read_bytes() != good
        before = snapshot(watched)
        for command in commands:
            ended = r3po(*command, cwd=job.folder)
            assert_refused(ended, f"error: {file}: ", "hint:")
            assert ("newer" if "newer" in damage else damage if damage == "missing" else "damaged") in ended.err
        assert snapshot(watched) == before
        file.write_bytes(good)
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


def test_a_manifest_that_is_gone_is_not_taken_for_a_new_job_and_one_that_cannot_be_read_is_no_bug(job: Job) -> None:
    job.run()
    path = job.working_dir / "manifest.json"
    manifest = path.read_bytes()
    path.unlink()
    before = snapshot(job.folder)
    for command in (RUN, BUILD):
        assert_refused(r3po(*command, cwd=job.folder), str(job.folder), "hint:")
    assert snapshot(job.folder) == before
    path.mkdir()  # root may read every file, but not a folder
    for command in (RUN, BUILD, *READING):
        assert_refused(r3po(*command, cwd=job.folder), str(path))
    path.rmdir()
    path.write_bytes(manifest)
    assert "Nothing to do" in job.run().err


@pytest.mark.parametrize("name", ["manifest.json", "commits/00000.json"])
def test_reset_all_is_the_way_out_of_damaged_state(job: Job, name: str) -> None:
    job.run()
    (job.working_dir / name).write_text("{")
    ended = job.run()
    assert "r3po reset --all" in ended.err
    assert r3po("reset", "--all", "--yes", cwd=job.folder).code == 0
    again = job.run()
    assert again.code == 0, again.err
    assert job.rows() == doubled(*range(6))


# The function


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("double.py:doubel", ['double.py has no function "doubel"', 'hint:  did you mean "double"?']),
        ("dubble.py:double", ["function file not found: ", "dubble.py", 'hint:  did you mean "double.py"?']),
        ("nowhere/double.py:double", ["function file not found: ", "nowhere"]),
        ("no_such_module:double", ['there is no module "no_such_module"']),
        ("json.no_such_part:double", ['json has no module "no_such_part"']),
        ("double.py", ["names no function", "double.py:double"]),
        ("double.py:json", ["json"]),
        ("double.py:LIMIT", ['"LIMIT" in double.py is not callable']),
        ("double.py:later", ["async"]),
        ("double.py:", ["double.py:"]),
    ],
)
def test_a_function_that_is_not_there_is_refused_before_anything_starts(
    job: Job, function: str, said: list[str]
) -> None:
    job.write_function(DOUBLE + "\n\nLIMIT = 5\n\n\nasync def later(filepath):\n    return {}\n")
    job.write_config(function=function)
    before = snapshot(job.folder)
    ended = job.run()
    assert_refused(ended, *said)
    if function != "double.py:json":  # a module under a name: only the import tells what it is
        assert snapshot(job.folder) == before
    assert nothing_recorded(job)


RAISES_IN_SETUP = "def setup():\n    raise ValueError('no key file')\n\n\nsetup()\n\n"


@pytest.mark.parametrize(
    ("text", "said", "unsaid"),
    [
        ("def double(filepath):\n    return {'n': 1\n", ["has a syntax error", ":2", "return {'n': 1"], []),
        (
            "import no_such_library\n\n" + DOUBLE,
            ["error: double.py failed to import no_such_library", "double.py:1  import no_such_library"],
            ["there is no module"],  # which would be said of a module that is missing itself
        ),
        (
            RAISES_IN_SETUP + DOUBLE,
            ["error: double.py raised ValueError while it was imported: no key file", "in setup"],
            ["userfunc.py", "importlib"],
        ),
        (DOUBLE + "\n\nraise SystemExit(3)\n", ["sys.exit(3)", '__name__ == "__main__"'], []),
    ],
    ids=["a syntax error", "imports what is not there", "raises", "exits"],
)
def test_a_module_that_cannot_be_imported_is_shown_with_the_users_lines_only(
    job: Job, text: str, said: list[str], unsaid: list[str]
) -> None:
    job.write_function(text)
    ended = job.run()
    assert_refused(ended, "double.py", *said)
    assert [word for word in unsaid if word in ended.err] == []
    assert nothing_recorded(job)
    job.write_function(DOUBLE)
    assert job.run().code == 0


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ("[1, 2]", "error: double returned a list for "),
        ("None", "error: double returned None for "),
        ("7", "error: double returned an int for "),
    ],
)
def test_a_function_that_never_returns_a_dict_records_nothing(job: Job, returns: str, said: str) -> None:
    job.write_function(f"def double(filepath):\n    return {returns}\n")
    ended = job.run()
    assert_refused(ended, said, "000.json", "r3po needs one dict a file", "hint:  return ")
    if returns != "None":
        assert f"returned  {returns}" in ended.err
    assert nothing_recorded(job)
    assert job.parts() == {}
    assert job.status()["pending"] == 6
    (job.folder / "listing.py").write_text("def listing(filepath):\n    return []\n")
    assert_refused(job.run("--function", "listing.py:listing"), "error: listing returned a list for ")
    job.write_function(DOUBLE)
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


def test_a_list_after_exceptions_still_tells_that_a_dict_is_needed(job: Job) -> None:
    job.write_function(PICKY.format(bad="range(4)").replace('return {"n": n, "twice": 2 * n}', "return [n]"))
    assert_refused(job.run(), "error: double returned a list for ", "004.json")
    assert nothing_recorded(job)


def test_a_list_or_none_for_one_file_is_that_files_failure_and_so_is_an_exception_for_the_first(job: Job) -> None:
    odd = "    if n == 3:\n        return [n]\n    if n == 4:\n        return None\n    return"
    job.write_function(PICKY.format(bad=[0]).replace("    return", odd))
    assert job.run().code == 1
    first, *failures = job.failures()
    assert (first["path"], first["error_type"]) == ("000.json", "ValueError")
    assert [failure["path"] for failure in failures] == ["003.json", "004.json"]
    for failure, returned in zip(failures, ("list", "None"), strict=True):
        assert returned in failure["message"] and "dict" in failure["message"]
    assert job.rows() == doubled(1, 2, 5)


@pytest.mark.parametrize("first_row", [10, 99])
def test_the_first_row_may_come_late(tmp_path: Path, first_row: int) -> None:
    job = make_job(tmp_path, 105, PICKY.format(bad=f"range({first_row})"))
    assert job.run().code == 1
    assert len(job.failures()) == first_row
    assert job.rows() == doubled(*range(first_row, 105))


def test_all_files_may_fail_when_they_are_few(job: Job) -> None:
    job.write_function(RAISES)
    ended = job.run()
    assert ended.code == 1
    assert "6 files, 6 failed" in ended.err
    assert job.rows() == []
    assert job.parts().keys() == {"csv/_SUCCESS", "parquet/_SUCCESS"}, "a shard without rows has no part"
    idle = job.run()
    assert idle.code == 1
    assert "Nothing to do: 0 of 6 files have a row, 6 failed (r3po errors; r3po run --retry-failed)." in idle.err


def test_a_hundred_failures_of_one_kind_stop_the_run_with_one_traceback_and_the_next_goes_on(tmp_path: Path) -> None:
    job = make_job(tmp_path, 120, RAISES)
    ended = job.run("--json")
    assert ended.code == 3
    assert "error: the first 100 files all failed with RuntimeError: always; the rest was not tried" in ended.err
    assert ended.err.count("Traceback") == 1
    assert ended.err.count("raise RuntimeError('always')") == 1
    assert "worker.py" not in ended.err
    assert "hint:" in ended.err
    counts = ended.json()
    assert (counts["files"], counts["done"], counts["failed"], counts["pending"]) == (120, 0, 100, 20)
    assert len(job.failures()) == 100
    assert job.run().code == 1, "the other 20 are too few to stop for"
    assert (job.status()["failed"], job.status()["pending"]) == (120, 0)
    assert {failure["attempts"] for failure in job.failures()} == {1}
    job.write_function(DOUBLE)
    assert job.run().code == 0
    assert job.rows() == doubled(*range(120))


def test_a_hundred_failures_of_two_kinds_do_not_stop_the_run(tmp_path: Path) -> None:
    text = (
        "def double(filepath):\n    if filepath.endswith('7.json'):\n        return {}[7]\n" + RAISES.split("\n", 1)[1]
    )
    job = make_job(tmp_path, 120, text)
    ended = job.run()
    assert ended.code == 1
    assert len(job.failures()) == 120


def test_nothing_of_ours_is_on_the_screen_of_a_real_process(job: Job) -> None:
    """The other tests call the command line under pytest; logging and warnings reach only a real screen."""
    job.write_function(PICKY.format(bad=[2]))
    manifest = job.working_dir / "manifest.json"
    code = (
        "import sys, r3po.cli.app\nsys.argv = ['r3po', 'run', '--engine', 'serial']\n"
        f"assert r3po.cli.app.run_command() == 1\nopen({str(manifest)!r}, 'w').write('{{')\n"
        "sys.exit(r3po.cli.app.run_command())"
    )
    ended = run_python("-c", code, cwd=job.folder)
    assert_refused(ended, "6 files, 1 failed", f"error: {manifest}: is damaged")
    assert "WARNING" not in ended.err
