"""The table follows the source: after each run it is what a fresh run over today's files would give.

Small jobs on the serial engine; `calls` tells which files f was called on.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet
import pytest

import checker
import r3po
from jobs import r3po as r3po_command
from r3po.config.settings import load_config
from r3po.inspect.status import read_status
from r3po.source import new_manifest
from r3po.source.build import preview_build
from r3po.state.manifest import read_manifest
from r3po.storage import durable as storage

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job

LATER = 1_700_000_000


@pytest.fixture
def job(new_job: NewJob) -> Job:
    """Six files in two shards of three, 0.json to 5.json; 0.json fails. All are done, and f's calls are forgotten."""
    job = new_job()
    for n in range(6):
        job.add(f"{n}.json", **({"error": "bad"} if n == 0 else {"value": n}))
    job.run()
    job.forget_calls()
    return job


def names(job: Job) -> list[str]:
    """Return the files that have a row, in row order."""
    return [row["path"] for row in job.rows()]


def values(job: Job) -> list[str]:
    return [row["value"] for row in job.rows()]


def mtimes(job: Job) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (job.output / "csv").glob("part-*")}


def types_of_value(job: Job) -> list[str]:
    parts = sorted((job.output / "parquet").glob("part-*"))
    return [str(pyarrow.parquet.read_schema(part).field("value").type) for part in parts]


def touch(job: Job, *files: str) -> None:
    for name in files:
        os.utime(job.source / name, (LATER, LATER))


def delete(job: Job, *numbers: int) -> None:
    for n in numbers:
        (job.source / f"{n}.json").unlink()


def other_function(job: Job, more: str = "") -> str:
    """Return an f with other columns."""
    other = job.function.with_name("tiny_function_other.py")
    other.write_text(f"def describe(path):\n    return {{'path': path.rsplit('/', 1)[1]{more}}}\n")
    return f"{other}:describe"


def is_second_commit() -> Callable[[Path], bool]:
    n_commits = iter(range(100))
    return lambda path: "commits" in path.parts and next(n_commits) == 1


def preview(job: Job, **options: Any) -> dict[str, int]:
    found = preview_build(load_config(job.config), options.get("fingerprint"), lambda event: None)
    return {name: n for name, n in found.items() if n}


# Changed, touched, gone, returned


def test_a_changed_file_is_told_by_its_hash_done_again_and_keeps_its_place(job: Job) -> None:
    before = mtimes(job)
    job.add("4.json", value=9)  # of the same size
    touch(job, "3.json", "4.json")
    result = job.run()
    assert job.calls() == ["4.json"]
    assert (result.done, result.failed, result.pending) == (5, 1, 0)
    assert values(job) == ["1", "2", "3", "9", "5"]
    after = mtimes(job)
    assert after["part-00000.csv"] == before["part-00000.csv"], "the other shard is left alone"
    assert after["part-00001.csv"] != before["part-00001.csv"]
    assert job.findings(check_source=True) == []


def test_a_touched_file_costs_a_hash_once_and_no_part(job: Job) -> None:
    parts = mtimes(job)
    touch(job, "3.json", "0.json")
    assert preview(job) == {"touched": 2, "unchanged": 4, "failed": 1}
    job.run()
    assert job.calls() == []
    assert mtimes(job) == parts
    assert job.findings(check_source=True) == []
    assert preview(job) == {"unchanged": 6, "failed": 1}


def test_touched_files_are_hashed_by_processes_where_they_are_many(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_manifest, "FEW_FILES", 2)
    job.add("1.json", value=8)
    touch(job, "1.json", "2.json", "3.json", "5.json")
    job.run()
    assert job.calls() == ["1.json"]
    assert preview(job) == {"unchanged": 6, "failed": 1}


def test_without_hashes_another_mtime_is_another_file(new_job: NewJob) -> None:
    job = new_job()
    job.configure(hash="stat")
    job.add("a.json", value=1)
    job.run()
    job.forget_calls()
    touch(job, "a.json")
    job.run()
    assert job.calls() == ["a.json"]


def test_a_deleted_file_loses_its_row_or_its_failure(job: Job) -> None:
    delete(job, 0, 4)
    assert preview(job) == {"deleted": 2, "unchanged": 4, "failed": 1}
    result = job.run()
    assert (result.files, result.done, result.failed) == (4, 4, 0)
    assert job.calls() == []
    assert names(job) == ["1.json", "2.json", "3.json", "5.json"]
    assert job.failed() == {}
    assert job.findings(check_source=True) == []
    idle = job.run()
    assert (idle.files, idle.done) == (4, 4)
    assert preview(job) == {"unchanged": 4}


def test_a_kept_row_stays_but_not_a_failure(job: Job) -> None:
    job.configure(on_deleted="keep")
    delete(job, 0, 4)
    result = job.run()
    assert (result.files, result.done, result.failed, result.rows) == (5, 5, 0, 5)
    assert names(job) == ["1.json", "2.json", "3.json", "4.json", "5.json"]
    assert job.failed() == {}
    assert job.findings() == []
    # Dropped later, and not brought back by a change of mind.
    job.configure(on_deleted="drop")
    assert job.run().done == 4
    assert names(job) == ["1.json", "2.json", "3.json", "5.json"]
    job.configure(on_deleted="keep")
    assert job.run().done == 4
    assert job.calls() == []
    assert job.findings() == []


@pytest.mark.parametrize("on_deleted", ["drop", "keep"])
def test_a_returning_file_has_its_old_place_and_is_done_again_if_its_content_is_another(
    job: Job, on_deleted: str
) -> None:
    job.configure(on_deleted=on_deleted)
    for value, calls in ((4, ["4.json"] if on_deleted == "drop" else []), (777, ["4.json"])):
        delete(job, 4)
        job.run()
        job.forget_calls()
        job.add("4.json", value=value)
        assert value != 4 or preview(job)["returned"] == 1
        job.run()
        assert job.calls() == calls
        assert values(job) == ["1", "2", "3", str(value), "5"]
        assert job.findings(check_source=True) == []


def test_a_shard_whose_files_are_all_gone_has_no_part_until_they_return(job: Job) -> None:
    delete(job, 3, 4, 5)
    job.run()
    assert mtimes(job).keys() == {"part-00000.csv"}
    assert job.findings() == []
    for n in (3, 4, 5):
        job.add(f"{n}.json", value=n)
    job.run()
    assert job.calls() == ["3.json", "4.json", "5.json"]
    assert names(job) == [f"{n}.json" for n in range(1, 6)]


def test_new_files_fill_the_last_shard_although_a_place_in_it_is_free(job: Job) -> None:
    delete(job, 5)
    job.add("6.json", value=6)
    job.run()
    assert job.calls() == ["6.json"]
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    assert [(ref.n_files, ref.n_deleted) for ref in manifest.shards] == [(3, 0), (3, 1), (1, 0)]
    assert (manifest.n_places, manifest.count_job_files) == (7, 6)


def test_many_builds_of_new_files_are_compared_as_one_sorted_list(job: Job) -> None:
    (job.source / "sub").mkdir()
    for n in (9, 7, 11, 10):
        job.add(f"{n}.json", value=n)
        job.add(f"sub/{n}.json", value=n)
        job.run()
    job.forget_calls()
    assert preview(job) == {"unchanged": 14, "failed": 1}
    delete(job, 7)
    (job.source / "sub" / "11.json").unlink()
    job.add("sub/9.json", value=99)
    assert preview(job) == {"deleted": 2, "changed": 1, "unchanged": 11, "failed": 1}
    job.run()
    assert values(job) == [*"12345", "9", "99", "7", "11", "10", "10"]
    assert checker.check_job(job.state, job.output, check_source=True) == []


def test_types_become_narrow_again_in_the_run_that_replaces_what_was_wide(job: Job) -> None:
    job.add("4.json", value=4.5)
    touch(job, "4.json")
    job.run()
    assert types_of_value(job) == ["double", "double"]
    job.add("4.json", value=44)
    job.run()
    assert types_of_value(job) == ["int64", "int64"]
    before = mtimes(job)
    job.run()
    assert mtimes(job) == before


def test_a_changed_file_begins_its_attempts_anew(job: Job) -> None:
    job.run(retry_failed=True)
    assert job.failed() == {"0.json": 2}
    job.add("0.json", error="worse")
    job.run()
    assert job.failed() == {"0.json": 1}
    job.run(retry_failed=True)
    assert job.failed() == {"0.json": 2}


def test_a_file_that_changes_before_it_is_committed_is_done_again(new_job: NewJob) -> None:
    job = new_job()
    for n in range(3):
        job.add(f"{n}.json", value=n)

    def interrupt(path: Path, flags: int, mode: int) -> int:
        if "outcomes" in path.parts:
            raise KeyboardInterrupt
        return os.open(path, flags, mode)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(r3po.RunStoppedError) as caught:
        patch.setattr(storage, "_create", interrupt)
        job.run()
    assert caught.value.hint == "run it again to go on"
    assert len(job.calls()) == 3
    job.forget_calls()
    job.add("1.json", value=111)
    job.run()
    assert job.calls() == ["1.json"]
    assert values(job) == ["0", "111", "2"]


# Guards


def test_more_than_half_gone_changes_nothing_unless_it_is_accepted(job: Job) -> None:
    delete(job, 0, 1, 2, 3)
    before = job.published()
    with pytest.raises(r3po.SourceError, match="4 of 6 files of this job are gone") as caught:
        job.run()
    assert "is the disk mounted?" in str(caught.value) and "accept_deletions=True" in str(caught.value)
    assert job.published() == before
    assert read_status(load_config(job.config))["files"] == 6
    with pytest.raises(r3po.SourceError, match="4 of 6"):
        r3po.build_jobs(job.config)
    assert job.run(accept_deletions=True).done == 2
    assert names(job) == ["4.json", "5.json"]
    assert job.run().done == 2, "half of what is left would have to go"


def test_even_all_files_may_go_if_that_is_accepted_and_their_columns_bind_no_other(job: Job) -> None:
    delete(job, *range(6))
    with pytest.raises(r3po.SourceError, match="6 of 6"):
        job.run()
    result = job.run(accept_deletions=True)
    assert (result.files, result.rows) == (0, 0)
    assert job.findings() == []
    with pytest.raises(r3po.SourceError, match="no file"):
        job.run()
    other = other_function(job)
    assert job.run(build=False, function=other).files == 0
    job.add("6.json", value=6)
    job.run(function=other)
    assert job.rows() == [{"path": "6.json"}]
    job.configure(columns={"path": "string"})
    assert job.run(function=other).rows == 1
    assert job.findings() == []
    assert r3po.verify_jobs(job.config).is_good


def test_columns_are_set_anew_by_the_run_in_which_the_last_rows_are_replaced(job: Job) -> None:
    for n in range(6):
        job.add(f"{n}.json", value=70 + n)
    result = job.run(function=other_function(job))
    assert (result.done, result.failed) == (6, 0)
    assert job.rows() == [{"path": f"{n}.json"} for n in range(6)]
    assert job.findings(check_source=True) == []


def test_a_moved_source_is_a_build_under_the_guards(job: Job) -> None:
    elsewhere = job.root / "elsewhere"
    elsewhere.mkdir()
    job.configure(source_path="elsewhere")
    with pytest.raises(r3po.SourceError, match="6 of 6"):
        job.run()
    shutil.copytree(job.source, elsewhere, dirs_exist_ok=True)
    job.source = elsewhere
    job.add("2.json", value=22)
    with pytest.raises(r3po.StateError, match="source_path"):
        job.run(build=False)
    job.run()
    assert job.calls() == ["2.json"]
    assert job.findings(check_source=True) == []


def test_another_suffix_is_a_build_under_the_guards(job: Job) -> None:
    (job.source / "note.txt").write_text('{"value": 1}')
    job.configure(source_file_part=".txt")
    with pytest.raises(r3po.SourceError, match=r'(?s)6 of 6 .*source_file_part is "\.txt" and was "\.json"') as caught:
        job.run()
    assert "disk" not in str(caught.value)
    job.run(accept_deletions=True)
    assert job.calls() == ["note.txt"]


# A dry run


def test_a_dry_run_says_what_a_run_would_do_and_changes_nothing(job: Job) -> None:
    job.add("6.json", value=6)
    job.add("4.json", value=44)
    touch(job, "3.json")
    delete(job, 5)
    before = {str(path): path.stat().st_mtime_ns for path in job.root.rglob("*")}
    expected = {"new": 1, "changed": 1, "touched": 1, "deleted": 1, "unchanged": 3}
    assert preview(job) == {**expected, "failed": 1}
    assert preview(job, fingerprint="0" * 16) == {**expected, "to_retry": 1}
    assert {str(path): path.stat().st_mtime_ns for path in job.root.rglob("*")} == before


def test_a_dry_run_tells_what_became_of_the_files_apart_from_what_came_of_them(job: Job) -> None:
    delete(job, 5)
    shown = r3po_command("build", "--dry-run", cwd=job.root).out
    found, _, known = shown.partition("Among the files that were listed before\n")
    assert re.findall(r"(\w+) +(\d+)", found.partition("A run would find")[2]) == [
        ("new", "0"), ("changed", "0"), ("deleted", "1"), ("unchanged", "5"),
    ]  # fmt: skip
    assert re.findall(r"(\w+) +(\d+)", known) in ([("retry", "1")], [("failed", "1")])


def test_a_dry_run_before_the_first_build_makes_no_folder(new_job: NewJob) -> None:
    job = new_job()
    job.add("a.json", value=1)
    assert preview(job) == {"new": 1}
    assert not job.state.exists() and not job.output.exists()


# Redo, and other code


def test_a_redo_makes_every_row_again_and_sets_columns_anew(job: Job) -> None:
    result = job.run(function=other_function(job, ", 'is_new': True"), redo=True)
    assert (result.done, result.failed) == (6, 0)
    assert job.rows() == [{"path": f"{n}.json", "is_new": "true"} for n in range(6)]
    assert job.findings() == []
    assert len(list(job.state.glob("columns.*"))) == 1


@pytest.mark.parametrize("how", [{}, {"redo": True}, {"redo": True, "restart": True}], ids=["plain", "redo", "restart"])
def test_a_redo_that_was_killed_goes_on(job: Job, how: dict[str, Any]) -> None:
    job.run_until(is_second_commit(), redo=True)
    assert names(job) == [f"{n}.json" for n in range(1, 6)], "parts with the same columns stay until they are replaced"
    assert len(job.calls()) == 6
    job.forget_calls()
    result = job.run(**how)
    assert (result.done, result.failed) == (5, 1)
    assert len(job.calls()) == (6 if "restart" in how else 0)
    assert job.findings() == []
    job.forget_calls()
    job.run(redo=True)
    assert len(job.calls()) == 6, "the one before has come to its end"


def test_parts_with_other_columns_are_withdrawn_when_a_redo_sets_its_own(job: Job) -> None:
    def is_of_the_redo(path: Path) -> bool:
        columns = "".join(path.read_text() for path in job.state.glob("columns.*"))
        return "commits" in path.parts and "is_new" in columns

    other = other_function(job, ", 'is_new': True")
    job.run_until(is_of_the_redo, function=other, redo=True)
    assert mtimes(job) == {}
    job.run(function=other)
    assert len(names(job)) == 6
    assert job.findings() == []


def test_a_redo_does_not_drop_kept_rows_unasked(job: Job) -> None:
    job.configure(on_deleted="keep")
    delete(job, 4)
    with pytest.raises(r3po.SourceError, match="1 row is of a deleted file") as caught:
        job.run(redo=True)
    assert "accept_deletions=True" in str(caught.value)
    assert job.run().done == 5
    assert job.calls() == []
    assert job.run(redo=True, accept_deletions=True).done == 4
    assert job.findings() == []


def test_a_refused_run_leaves_failures_to_be_tried_when_it_is_asked_again(job: Job) -> None:
    before = (job.state / "manifest.json").read_bytes()
    hidden = job.root / "hidden"
    job.source.rename(hidden)
    job.source.mkdir()
    with pytest.raises(r3po.SourceError, match="6 of 6"):
        job.run(retry_failed=True)
    job.source.rmdir()
    hidden.rename(job.source)
    job.configure(columns={"value": "string"})
    with pytest.raises(r3po.ConfigError):
        job.run(retry_failed=True)
    assert (job.state / "manifest.json").read_bytes() == before
    job.configure(columns=None)
    job.run()
    assert job.calls() == []


def test_a_refused_redo_does_not_even_list_what_it_found(job: Job) -> None:
    job.configure(on_deleted="keep")
    delete(job, 4)
    job.run()
    before = (job.state / "manifest.json").read_bytes()
    job.add("6.json", value=6)
    with pytest.raises(r3po.SourceError, match="1 row is of a deleted file"):
        job.run(redo=True)
    assert (job.state / "manifest.json").read_bytes() == before


def test_columns_are_looked_at_although_a_redo_was_due_before_the_walk(job: Job) -> None:
    job.configure(on_function_change="redo")
    delete(job, 0, 1, 2, 3)
    job.run(accept_deletions=True)
    job.configure(on_function_change="warn")
    job.add("6.json", value=6)
    job.run(function=job.mended_function)
    job.configure(on_function_change="redo", columns={"value": "string"})
    job.forget_calls()
    delete(job, 6)
    with pytest.raises(r3po.ConfigError, match="do not go together"):
        job.run()
    assert job.calls() == []


def test_a_restart_is_of_a_redo(job: Job) -> None:
    with pytest.raises(r3po.ConfigError, match="--restart"):
        job.run(restart=True)


@pytest.mark.parametrize("policy", ["warn", "stop", "redo"])
def test_what_becomes_of_rows_of_other_code_is_a_setting(job: Job, policy: str) -> None:
    job.configure(on_function_change=policy)
    options = {"function": job.mended_function}
    if policy == "stop":
        with pytest.raises(r3po.StateError, match=r"describe changed after 5 rows were made; on_function_change: stop"):
            job.run(**options)
        assert job.calls() == []
        return
    result = job.run(**options)
    assert (result.done, result.failed) == (6, 0)
    assert len(job.calls()) == (1 if policy == "warn" else 6)
    status = read_status(load_config(job.config))
    assert sorted(status["functions"].values()) == ([1, 5] if policy == "warn" else [6])
    job.forget_calls()
    job.run(**options)
    assert job.calls() == []
