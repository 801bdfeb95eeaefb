"""Which files a job is of: ends, globs, several folders, links, folders that cannot be listed; what a change means."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import r3po
from jobs import Job, make_job, snapshot
from jobs import r3po as call
from r3po import RunResult, build_jobs, run_jobs, verify_jobs
from r3po.source.walk import walk_key

SAY = """\
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def double(filepath):
    with open(os.path.join(HERE, "calls.log"), "a") as log:
        log.write(os.path.relpath(filepath, HERE) + "\\n")
    with open(filepath) as file:
        return {"said": file.read()}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Files in source/ and in other/, of several kinds, each saying its path; nothing was run."""
    made = make_job(tmp_path, 0, SAY, source_column="file")
    add(made, "source/a.json", "source/b.JSON", "source/c.txt", "source/2023/d.json", "source/2024/e.json")
    add(made, "source/2024/tmp/f.json", "other/g.json", "other/2024/h.json")
    return made


def add(job: Job, *paths: str) -> None:
    for path in paths:
        file = job.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        os.utime(file, (1_600_000_000, 1_600_000_000))


def run(job: Job, **keys: Any) -> RunResult:
    """Run with some keys other than before; None leaves one out. Options of the run have capital letters."""
    options = {key.lower(): keys.pop(key) for key in list(keys) if key.isupper()}
    job.settings |= keys
    job.write_config()
    return run_jobs(job.config, engine="serial", progress=False, **options)


def called(job: Job) -> list[str]:
    """Return the files that f was called with since this was asked last, relative to the job's folder."""
    log = job.folder / "calls.log"
    found = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def rows(job: Job) -> dict[str, str]:
    """Return what each row says, by the path of its file."""
    found = job.rows()
    assert len({row["file"] for row in found}) == len(found)
    return {row["file"]: row["said"] for row in found}


def refused(job: Job, **keys: Any) -> str:
    """Return why a run is refused, which changes nothing."""
    before = job.parts()
    manifest = job.working_dir / "manifest.json"
    said = manifest.read_bytes() if manifest.exists() else None
    with pytest.raises(r3po.SourceError) as caught:
        run(job, **keys)
    assert (manifest.read_bytes() if manifest.exists() else None) == said
    assert job.parts() == before and called(job) == []
    return str(caught.value)


# Ends of names


def test_several_ends_and_every_file(job: Job) -> None:
    run(job, source_file_part=[".txt", "d.json"])
    assert [*rows(job)] == ["c.txt", "2023/d.json"]
    run(job, source_file_part="")
    everything = ["a.json", "b.JSON", "c.txt", "2023/d.json", "2024/e.json", "2024/tmp/f.json"]
    assert sorted(rows(job)) == sorted(everything)
    manifest = (job.working_dir / "manifest.json").read_bytes()
    run(job, source_file_part="all")
    assert (job.working_dir / "manifest.json").read_bytes() == manifest
    assert len(called(job)) == 6 and verify_jobs(job.config, source=True).is_good


def test_names_that_nearly_match_are_told_on_all_doors_and_ignore_case_takes_them(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    told = "1 file ends with .JSON, which is not source_file_part (ignore_case: true takes such names, too)"
    assert told in run(job).notices
    ended = call("run", "--engine", "serial", cwd=job.folder)
    assert " ".join(ended.err.split()).count("1 file ends with .JSON") == 1 and "ignore_case: true" in ended.err
    result = run(job, ignore_case=True)
    assert not result.notices or told not in result.notices
    assert "b.JSON" in rows(job)
    with pytest.raises(r3po.SourceError, match=r"(?s)ends with \"\.json\".*ignore_case: true"):
        shutil.rmtree(job.working_dir)
        shutil.rmtree(job.output)
        run(job, ignore_case=False, include=["*.txt", "*.JSON"])


# Globs


def test_only_some_ends_without_a_folder(job: Job) -> None:
    result = run(job, source_file_part=[".json", ".txt"], exclude=["**/tmp", "2023"])
    assert [*rows(job)] == ["a.json", "c.txt", "2024/e.json"]
    assert (result.files, verify_jobs(job.config, source=True).is_good) == (3, True)
    run(job, include="2024/**", exclude=None, ACCEPT_DELETIONS=True)
    assert [*rows(job)] == ["2024/e.json", "2024/tmp/f.json"]
    assert called(job) == ["source/a.json", "source/c.txt", "source/2024/e.json", "source/2024/tmp/f.json"]
    assert job.findings(check_source=True) == []


def test_what_is_chosen_no_longer_goes_through_the_guard_of_deleted_files_by_the_name_of_its_key(job: Job) -> None:
    run(job)
    called(job)
    told = refused(job, include=["2023/*"])
    assert "3 of 4 files of this job are gone" in told and "the new include; nothing was changed" in told
    assert 'include is "2023/*" and was not set; if that is meant, run_jobs(config, accept_deletions=True)' in told
    assert "disk" not in told
    assert 'exclude is ["20*", "a*"] and was not set' in refused(job, include=None, exclude=["a*", "20*"])
    result = run(job, exclude=["a*"])  # the fewer half goes without a question, and is told
    assert [*rows(job)] == ["2023/d.json", "2024/e.json", "2024/tmp/f.json"]
    assert any('exclude is "a*" and was not set; files that are not chosen any more' in told for told in result.notices)
    assert not any("exclude is" in told for told in run(job).notices)
    run(job, exclude=None)
    assert called(job) == ["source/a.json"] and len(rows(job)) == 4
    shutil.move(job.source, job.folder / "away")
    job.source.mkdir()
    assert "is the disk mounted?" in refused(job)


def test_a_change_that_leaves_out_nothing_is_told_once(job: Job) -> None:
    run(job)
    assert any("exclude is" in told for told in run(job, exclude=["**/none"]).notices)
    assert not any("exclude is" in told for told in run(job).notices)


def test_no_file_that_fits_says_how_globs_begin(job: Job) -> None:
    told = refused(job, include=["e.json"])
    assert 'ends with ".json" and fits include and exclude' in told
    assert "**/ before a name finds it in every folder" in told


def test_a_glob_of_a_name_alone_that_fits_nothing_is_told(job: Job) -> None:
    told = '"tmp" of include and exclude fits nothing (globs begin at source_path: **/tmp finds it in every folder)'
    assert told in run(job, exclude=["tmp", "**/nothing", "2023"]).notices
    assert not any("fits nothing" in told for told in run(job, exclude=["**/tmp"], include=["a.*", "**"]).notices)


def test_a_manifest_without_the_new_keys_is_as_it_always_was(job: Job) -> None:
    run(job)
    said = json.loads((job.working_dir / "manifest.json").read_text())
    assert said["source_file_part"] == ".json"
    assert not {"source_folders", "include", "exclude", "ignore_case", "follow_links"} & said.keys()


# Several folders


def test_rows_of_several_folders_name_theirs_and_the_list_may_change(job: Job) -> None:
    """A folder that comes or goes leaves the others' rows as they are, whatever the order of the list."""
    run(job, source_path=["source", "./other/"], exclude=["2023"])
    first = {"other/g.json", "other/2024/h.json", "source/a.json", "source/2024/e.json", "source/2024/tmp/f.json"}
    assert rows(job) == {path: path for path in first}
    assert [*rows(job)] == sorted(first, key=walk_key)
    assert sorted(called(job)) == sorted(first)
    assert verify_jobs(job.config, source=True).is_good
    assert job.findings(check_source=True) == []
    add(job, "more/2024/h.json", "more/other/g.json")
    run(job, source_path=["more", "other", "source"])
    assert rows(job) == {path: path for path in first | {"more/2024/h.json", "more/other/g.json"}}
    assert sorted(called(job)) == ["more/2024/h.json", "more/other/g.json"]
    before = snapshot(job.output)
    run(job, source_path=["source", "other", "more"])
    assert snapshot(job.output) == before and called(job) == []
    result = run(job, source_path=["source", "other"])
    assert any('source_path does not name "more" any more' in told for told in result.notices)
    assert rows(job) == {path: path for path in first}
    told = refused(job, source_path=["other"])
    assert "3 of 5 files" in told and 'source_path does not name "source" any more; if that is meant' in told
    run(job, source_path=["other"], ACCEPT_DELETIONS=True)
    assert sorted(rows(job)) == ["other/2024/h.json", "other/g.json"] and called(job) == []
    assert verify_jobs(job.config, source=True).is_good
    assert job.findings(check_source=True) == []


def test_folders_of_one_last_name_and_folders_elsewhere_differ(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = job.folder / "jobs"
    inner.mkdir()
    for name in ("config.yaml", "double.py"):
        (inner / name).write_text((job.folder / name).read_text())
    monkeypatch.setenv("OTHER", str(job.folder / "other"))
    job.config = inner / "config.yaml"
    run(job, source_path=["../source/2024", "${OTHER}/2024"], working_dir="../work", output_path="../out")
    assert rows(job) == {
        f"{job.folder}/other/2024/h.json": "other/2024/h.json",
        "../source/2024/e.json": "source/2024/e.json",
        "../source/2024/tmp/f.json": "source/2024/tmp/f.json",
    }
    assert verify_jobs(job.config, source=True).is_good
    assert job.findings(check_source=True) == []


def test_a_folder_under_another_name_is_told_as_that(job: Job) -> None:
    run(job, source_path=["source", "other"])
    called(job)
    told = refused(job, source_path=["other", str(job.source)])
    assert f'source_path does not name "source" but "{job.source}", so that all files of it are new' in told


def test_a_source_that_becomes_a_list_goes_through_the_guard(job: Job) -> None:
    run(job)
    called(job)
    told = refused(job, source_path=["source", "other"])
    assert (
        "4 of 4 files" in told
        and "source_path is a list now, so that paths begin with their folder and all files are new" in told
    )
    with pytest.raises(r3po.StateError, match="source_path is another one"):
        run(job, BUILD=False)
    run(job, ACCEPT_DELETIONS=True)
    assert len(rows(job)) == 6 and rows(job)["source/a.json"] == "source/a.json"


def test_without_a_build_a_list_is_not_taken_for_the_one_folder_that_its_paths_begin_at(job: Job) -> None:
    for name in ("config.yaml", "double.py"):
        (job.source / name).write_text((job.folder / name).read_text())
    job.config = job.source / "config.yaml"
    run(job, source_path=".", working_dir="../work", output_path="../out")
    with pytest.raises(r3po.StateError, match="source_path is another one"):
        run(job, source_path=["."], BUILD=False)
    run(job, source_path=["."], ACCEPT_DELETIONS=True)
    assert "./2023/d.json" in rows(job) and job.findings(check_source=True) == []


def test_errors_and_status_name_files_of_a_list(job: Job) -> None:
    job.write_function("def double(filepath):\n    raise ValueError(filepath)\n")
    run(job, source_path=["source/2023", "other"], MAX_ERRORS="none")
    ended = call("errors", "--full", "source/2023/d.json", cwd=job.folder)
    assert (ended.code, "ValueError" in ended.out, str(job.folder / "source/2023/d.json") in ended.out) == (
        0,
        True,
        True,
    )
    shown = call("status", cwd=job.folder).out
    assert "source     other/**.json\n           source/2023/**.json\n" in shown
    whole = call("errors", "--full", str(job.folder / "source/2023/d.json"), "--json", cwd=job.folder)
    assert whole.json()["path"] == "source/2023/d.json"
    (job.folder / "other/g.json").write_text("changed")
    found = verify_jobs(job.config, source=True).findings
    assert [(finding.kind, finding.where) for finding in found] == [("source", f"{job.folder}/other/g.json")]


def test_a_folder_of_a_list_that_is_missing_is_named(job: Job) -> None:
    with pytest.raises(r3po.SourceError, match=rf"source folder not found: {job.folder}/sorce .*(?s:.)*\"source\""):
        run(job, source_path=["other", "sorce"])


# Links to folders


def test_links_to_folders_are_followed_where_the_config_says_so(job: Job) -> None:
    (job.source / "link").symlink_to("../other")
    (job.source / "loop").symlink_to(".")
    assert run(job).files == 4
    assert run(job, follow_links=True).files == 6
    assert {"link/g.json": "other/g.json", "link/2024/h.json": "other/2024/h.json"}.items() <= rows(job).items()
    assert verify_jobs(job.config, source=True).is_good
    result = run(job, follow_links=False)
    assert result.files == 4 and any("follow_links is false and was true" in told for told in result.notices)


# Folders that cannot be listed


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The names of folders that cannot be listed."""
    names: set[str] = set()
    real = os.scandir

    def scandir(path: str) -> Any:
        if os.path.basename(os.fspath(path).rstrip("/")) in names:
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        yield names


def test_files_in_folders_that_cannot_be_listed_stay_as_they_are(
    job: Job, unreadable: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(job)
    called(job)
    unreadable |= {"2023", "2024"}
    assert "on_unreadable: skip" in refused(job)
    (job.source / "a.json").unlink()
    add(job, "source/new.json")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "r3po"):
        result = run(job, on_unreadable="skip")
    told = f"2 folders cannot be listed, the first is {job.source}/2023: Permission denied"
    assert any(said.startswith(told) for said in result.notices)
    assert sum(told in record.getMessage() for record in caplog.records) == 1
    assert sorted(rows(job)) == ["2023/d.json", "2024/e.json", "2024/tmp/f.json", "new.json"]
    assert called(job) == ["source/new.json"]
    ended = call("run", "--engine", "serial", cwd=job.folder)
    assert told.split(",", maxsplit=1)[0] in ended.err and "2 folders that cannot be listed" in ended.err
    verified = verify_jobs(job.config, source=True)
    assert verified.is_good and any("3 files of the job were not looked at" in note for note in verified.notes)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "r3po"):
        build_jobs(job.config)
    assert sum(told in record.getMessage() for record in caplog.records) == 1
    unreadable.clear()
    (job.source / "2023" / "d.json").unlink()
    result = run(job)
    assert sorted(rows(job)) == ["2024/e.json", "2024/tmp/f.json", "new.json"] and called(job) == []
    assert not any("cannot be listed" in said for said in result.notices)


def test_a_file_that_was_deleted_before_its_folder_could_not_be_listed_is_still_deleted(
    job: Job, unreadable: set[str]
) -> None:
    run(job)
    (job.source / "2024" / "e.json").unlink()
    run(job, on_unreadable="skip")
    unreadable.add("2024")
    run(job)
    assert sorted(rows(job)) == ["2023/d.json", "2024/tmp/f.json", "a.json"]
    assert job.status()["files"] == 3
