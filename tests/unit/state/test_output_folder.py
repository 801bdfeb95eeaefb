"""The output folder: whose it is, and what must not be in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from r3po.errors import FolderError
from r3po.state.output_folder import KINDS, OutputFolder, Part, part_name
from r3po.storage.durable import list_names

JOB_ID = "0123456789abcdef0123456789abcdef"
OTHER_JOB = "f" * 32


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    output = OutputFolder(tmp_path / "out", tmp_path / "work")
    output.make()
    return output


def publish(output: OutputFolder, shard: int = 42) -> list[Part]:
    """Stage and publish the parts of a shard."""
    parts = []
    for kind in KINDS:
        with output.new_part() as new:
            new.write(kind.encode())
            parts.append(output.finish_part(new, part_name(shard, kind), kind, "run-000001"))
    assert sorted(list_names(output.staging)) == [f"{part.name}.run-000001.tmp" for part in parts]
    assert all(output.publish(part) for part in parts)
    return parts


def test_data_folders_hold_parts_and_nothing_else(output: OutputFolder) -> None:
    output.publish(Part("csv", "part-00041.csv", None))
    assert sorted(list_names(output.path)) == [".staging", "failures"]
    publish(output)
    assert list(output.list_files()) == [("csv", "part-00042.csv"), ("parquet", "part-00042.parquet")]
    assert list(list_names(output.staging)) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("csv", "part-00043.csv"), ("csv", "part-00042.parquet"), ("csv", ".hidden"), ("parquet", "_metadata")],
)
def test_a_stranger_in_a_data_folder_is_refused_by_name(output: OutputFolder, kind: str, name: str) -> None:
    parts = publish(output)
    output.set_success(KINDS)
    output.refuse_strangers(parts)
    stranger = output.data(kind) / name
    stranger.touch()
    with pytest.raises(FolderError, match="is not a part of this job") as caught:
        output.refuse_strangers(parts)
    assert caught.value.where == stranger


def test_success_is_there_when_failures_and_all_kinds_are(output: OutputFolder) -> None:
    assert not output.has_success(())
    output.write_failures([b"path\n"])
    assert output.has_success(())
    output.set_success(["csv"])
    assert output.has_success(["csv"]) and not output.has_success(KINDS)
    output.set_success(())
    assert not output.has_success(["csv"])


def test_what_is_forgotten_leaves_what_others_made(output: OutputFolder) -> None:
    publish(output)
    output.write_claim(JOB_ID, "count_produce")
    output.set_success(KINDS)
    output.write_failures([])
    foreign = output.data("csv") / "mine.csv"
    foreign.touch()
    assert output.forget([41, 42]) == 2
    assert [path for path in output.path.rglob("*") if path.is_file()] == [foreign]
    assert list(list_names(output.path)) == ["csv"]


# The claim


def test_an_output_folder_is_claimed_once_and_refused_to_another_job(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "out", tmp_path / os.fsdecode(b"caf\xe9"))
    output.make()
    output.check_claim(JOB_ID)
    for _ in range(2):
        output.write_claim(JOB_ID, "count_produce")
        output.check_claim(JOB_ID)
        assert output.claimed_by() == JOB_ID
    with pytest.raises(FolderError, match="belongs to another job"):
        output.write_claim(OTHER_JOB, "other")
    assert output.claimed_by() == JOB_ID
    with pytest.raises(FolderError) as caught:
        output.check_claim(OTHER_JOB)
    assert str(caught.value).splitlines()[0] == (
        f'{output.path}: output_path belongs to another job: "count_produce", working_dir {tmp_path}/caf\\xe9'
    )
    with pytest.raises(FolderError, match="state is gone"):
        output.check_claim(None)
    elsewhere = OutputFolder(output.path, output.working_dir / "another")
    with pytest.raises(FolderError, match="belongs to another job"):
        elsewhere.check_claim(None)
    assert (output.claimed_by(from_here=True), elsewhere.claimed_by(from_here=True)) == (JOB_ID, None)


@pytest.mark.parametrize("job_id", [JOB_ID, None])
@pytest.mark.parametrize("name", ["csv/part-00042.csv", "csv/data.csv", "parquet/_SUCCESS"])
def test_data_that_no_job_claims_are_refused(output: OutputFolder, job_id: str | None, name: str) -> None:
    (output.path / "notes.txt").touch()
    output.check_claim(job_id)
    (output.path / name).parent.mkdir()
    (output.path / name).touch()
    with pytest.raises(FolderError, match=f"holds files that no job of r3po claims: {name}"):
        output.check_claim(job_id)


def test_a_part_that_a_commit_of_ours_names_is_ours_without_a_claim(output: OutputFolder) -> None:
    """The folder was removed while a run published into it, and only the last part is there."""
    parts = publish(output)
    kept, lost = (output.data(part.kind) / part.name for part in parts)
    lost.unlink()
    output.check_claim(JOB_ID, parts)
    with pytest.raises(FolderError, match="no job of r3po claims"):
        output.check_claim(JOB_ID)
    kept.write_bytes(b"cs?")
    with pytest.raises(FolderError, match="no job of r3po claims"):
        output.check_claim(JOB_ID, parts)
