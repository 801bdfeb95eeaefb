"""A table in a bucket: whose it is, what must not be in it, and what threads put there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import fake_obstore
from fake_obstore import FakeObstore
from r3po.errors import FolderError, RunStoppedError, StoreError
from r3po.state.output_folder import KINDS, Part, part_name
from r3po.state.output_store import OutputStore
from r3po.storage import own_objects
from r3po.storage.object_urls import ObjectUrl, StoreOptions

JOB_ID = "0123456789abcdef0123456789abcdef"
OTHER_JOB = "f" * 32
URL = ObjectUrl.parse("s3://bucket/table")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeObstore:
    fake = FakeObstore()
    fake_obstore.use(fake, monkeypatch, inline=False)
    return fake


@pytest.fixture
def output(store: FakeObstore, tmp_path: Path) -> OutputStore:
    return new_output(tmp_path / "work")


def new_output(working_dir: Path) -> OutputStore:
    """Return the output as a new run has it."""
    output = OutputStore(URL, working_dir, StoreOptions())
    output.make()
    return output


def stage(output: OutputStore, content: bytes = b"rows", attempt: str = "run-000001") -> list[Part]:
    """Stage the parts of a shard."""
    parts = []
    for kind in KINDS:
        with output.new_part() as new:
            new.write(content + kind.encode())
            parts.append(output.finish_part(new, part_name(42, kind), kind, attempt))
    return parts


def publish(output: OutputStore, content: bytes = b"rows", attempt: str = "run-000001") -> list[Part]:
    parts = stage(output, content, attempt)
    assert all(output.publish(part) for part in parts)
    assert output.settle() == 0
    return parts


def test_parts_appear_under_their_names_and_are_not_staged_any_more(output: OutputStore, store: FakeObstore) -> None:
    publish(output)
    assert store.content == {
        "table/csv/part-00042.csv": b"rowscsv",
        "table/parquet/part-00042.parquet": b"rowsparquet",
    }
    assert list(output.list_files()) == [("csv", "part-00042.csv"), ("parquet", "part-00042.parquet")]
    assert output.part_numbers() == {42}
    assert not list(output.staging.iterdir())


def test_a_new_start_knows_by_the_listing_what_is_published(output: OutputStore, store: FakeObstore) -> None:
    parts = publish(output)
    again = new_output(output.working_dir)
    assert all(again.publish(part) for part in parts)
    store.content["table/csv/part-00042.csv"] = b"rowscsw"  # the same size
    again = new_output(output.working_dir)
    assert [again.publish(part) for part in parts] == [False, True]


def test_what_is_staged_with_the_content_that_is_there_is_not_put_again(
    output: OutputStore, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(output)
    monkeypatch.setattr(store, "put", None)
    publish(output, attempt="run-000002")
    assert not list(output.staging.iterdir())


def test_changes_of_one_part_are_made_in_their_order(
    output: OutputStore, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, may_go_on = store.put, threading.Event()

    def wait_first(client: Any, key: str, data: bytes, mode: Any = None, **options: Any) -> Any:
        if data.startswith(b"first"):
            assert may_go_on.wait(30)
        return put(client, key, data, mode, **options)

    monkeypatch.setattr(store, "put", wait_first)
    for content, attempt in ((b"first", "run-000001"), (b"second", "run-000002")):
        for part in stage(output, content, attempt):
            output.publish(part)
    output.unstage(stage(output, b"third", "run-000003"))
    assert output.settle(timeout_s=0.01) == 2
    may_go_on.set()
    assert output.settle() == 0
    assert store.content["table/csv/part-00042.csv"] == b"secondcsv"
    assert not list(output.staging.iterdir())


def test_a_part_that_cannot_be_put_ends_the_run_and_stays_staged(
    output: OutputStore, store: FakeObstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise store.exceptions.PermissionDeniedError("status code: 403: <Code>AccessDenied</Code>")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", refuse)
        parts = stage(output)
        output.publish(parts[0])
        with pytest.raises(RunStoppedError, match="do not allow to write") as caught:
            output.settle()
        assert caught.value.where == "s3://bucket/table/csv/part-00042.csv"
        with pytest.raises(RunStoppedError):
            output.publish(parts[1])
        output.close()
    again = new_output(output.working_dir)
    assert all(again.publish(part) for part in parts)
    again.sweep(parts)
    assert store.content["table/csv/part-00042.csv"] == b"rowscsv"


def test_what_somebody_else_wrote_meanwhile_is_replaced(output: OutputStore, store: FakeObstore) -> None:
    assert not list(output.list_files())
    store.content["table/csv/part-00042.csv"] = b"of a process that is dead by now"
    publish(output)
    assert store.content["table/csv/part-00042.csv"] == b"rowscsv"


def test_success_is_refused_where_somebody_else_changed_the_table(output: OutputStore, store: FakeObstore) -> None:
    publish(output)
    output.write_failures([b"path\n"])
    output.set_success(KINDS)
    assert output.has_success(KINDS)
    output.set_success(())
    assert not output.has_success(["csv"])
    output.write_failures([b"path\n"])
    for key, content in (("csv/part-00042.csv", b"other"), ("csv/part-00043.csv", b"rows"), ("csv/mine", b"")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(store.content, f"table/{key}", content)
            with pytest.raises(RunStoppedError, match="somebody else changed the table") as caught:
                output.set_success(KINDS)
        assert caught.value.where == f"s3://bucket/table/{key}"
    output.set_success(["csv"])
    assert [key for key in store.content if "_SUCCESS" in key] == ["table/csv/_SUCCESS"]


def test_a_stranger_is_refused_by_its_url(output: OutputStore, store: FakeObstore) -> None:
    parts = publish(output)
    output.refuse_strangers(parts)
    store.content |= {"table/csv/": b"", "table/elsewhere": b"", "table/csv/sub/x": b""}
    again = new_output(output.working_dir)
    with pytest.raises(FolderError, match="is not a part of this job") as caught:
        again.refuse_strangers(parts)
    assert caught.value.where == "s3://bucket/table/csv/sub/x"
    assert caught.value.hint is not None and "a run that was killed did" in caught.value.hint


def test_what_is_forgotten_leaves_what_others_made(output: OutputStore, store: FakeObstore) -> None:
    publish(output)
    output.write_claim(JOB_ID, "count_produce")
    output.write_failures([])
    output.set_success(KINDS)
    store.content |= {"table/csv/mine.csv": b"mine", f"table/failures/.{'0' * 32}.tmp": b"probe"}
    again = new_output(output.working_dir)
    assert again.forget([41, 42]) == 2
    assert store.content == {"table/csv/mine.csv": b"mine"}
    assert not list(output.working_dir.iterdir())


# The claim


def test_a_table_is_claimed_once_and_refused_to_another_job(output: OutputStore, tmp_path: Path) -> None:
    output.check_claim(JOB_ID)
    output.write_claim(JOB_ID, "count_produce")
    output.check_claim(JOB_ID)
    assert output.claimed_by() == JOB_ID
    other = new_output(tmp_path / "other")
    with pytest.raises(FolderError, match=r'^s3://bucket/table: output_path belongs to another job: "count_produce"'):
        other.check_claim(OTHER_JOB)
    with pytest.raises(FolderError, match="state is gone"):
        output.check_claim(None)


def test_of_two_jobs_that_claim_at_once_one_is_refused(
    output: OutputStore, store: FakeObstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, put = new_output(tmp_path / "other"), store.put

    def let_the_other_be_first(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(store, "put", put)
        other.write_claim(OTHER_JOB, "other")
        return put(*args, **options)

    monkeypatch.setattr(store, "put", let_the_other_be_first)
    with pytest.raises(FolderError, match='belongs to another job: "other"'):
        output.write_claim(JOB_ID, "count_produce")
    assert output.claimed_by() == OTHER_JOB


def test_data_that_no_job_claims_are_refused_unless_they_are_ours(output: OutputStore, store: FakeObstore) -> None:
    parts = publish(output)
    output.check_claim(JOB_ID, parts)
    with pytest.raises(FolderError, match=r"holds files that no job of r3po claims: csv/part-00042.csv"):
        output.check_claim(JOB_ID)
    store.content["table/csv/part-00042.csv"] = b"rowscsw"
    with pytest.raises(FolderError, match="no job of r3po claims"):
        new_output(output.working_dir).check_claim(JOB_ID, parts)


def test_a_store_without_conditions_is_refused(
    store: FakeObstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store.put
    monkeypatch.setattr(store, "put", lambda client, key, data, mode=None, **options: put(client, key, data))
    with pytest.raises(StoreError, match="does not keep conditions"):
        new_output(tmp_path / "work")
    assert not store.content


def test_whoever_publishes_waits_while_many_parts_wait(output: OutputStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_objects, "MOST_WAITING", 3)
    monkeypatch.setattr(own_objects, "N_THREADS", 1)
    for shard in range(20):
        with output.new_part() as new:
            part = output.finish_part(new, part_name(shard, "csv"), "csv", "run-000001")
        output.publish(part)
        assert output.settle(timeout_s=0) <= 3
    assert output.settle() == 0
    assert len(list(output.list_files())) == 20
