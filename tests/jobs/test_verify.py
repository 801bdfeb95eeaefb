"""`verify` finds every damage, one at a time, says what mends it, and is content afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import r3po as package
from jobs import Ended, kill_tree, r3po, running, snapshot
from r3po import FolderError, VerifyResult, verify_jobs
from r3po.config.settings import load_config
from r3po.errors import ConfigError, NewerFormatError, SourceError
from r3po.inspect import verify as jobverify
from r3po.state.commits import read_commits
from r3po.state.job import job_folders
from r3po.state.manifest import FORMAT, read_manifest, write_manifest
from r3po.state.shard_files import Entries, read_shard_file, write_shard_file
from r3po.storage.json_files import read_json, write_json
from r3po.table import parts

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job

LONG_AGO = 1_600_000_000
"""As in conftest: nobody takes the source files for young ones."""

KINDS_FUNCTION = """\
import datetime as dt
import json
import os
from decimal import Decimal

UTC = dt.timezone.utc
VALUES = {
    "int": [1, -(1 << 63), None, 0, (1 << 53) + 1],
    "float": [1.5, float("nan"), float("-inf"), -0.0, 1e300],
    "mixed": [1, 2.5, None, 3, 1 << 60],
    "text": ["", None, 'say "hi",\\nthen\\r\\ngo', "ü\\u2028\\x00", " x "],
    "bool": [True, False, None, True, False],
    "bytes": [b"", b"\\x00\\xff", None, b"abc", b"q"],
    "date": [dt.date(1, 1, 1), dt.date(9999, 12, 31), None, dt.date(2020, 2, 29), dt.date(1970, 1, 1)],
    "moment": [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999), None, None, dt.datetime(9, 1, 1)],
    "utc": [dt.datetime(2020, 1, 1, tzinfo=UTC), dt.datetime(1900, 1, 1, 1, 1, 1, 1, tzinfo=UTC), None, None, None],
    "time": [dt.time(0), dt.time(23, 59, 59, 999999), None, dt.time(1, 2, 3), dt.time(4, 5, 6, 7)],
    "decimal": [Decimal("1.50"), Decimal("-1E+3"), None, Decimal("0"), Decimal("0.001")],
    "list": [[1, 2.5], [], None, [3], [None]],
    "dict": [{"a": 1}, {"b": [{"c": "x,\\n"}]}, None, {"a": 2.5, "b": []}, {}],
    "odd": [None, [1], {"a": 1}, ["x"], []],
    "nothing": [None] * 5,
}


def describe(filepath):
    i = int(os.path.basename(filepath)[:-5])
    if i % 7 == 6:
        raise ValueError('bad, "very"\\nbad')
    return {"path": os.path.basename(filepath), **{name: values[i % 5] for name, values in VALUES.items()}}


def describe_one(filepath):
    with open(filepath) as file:
        kind = json.load(file)["kind"]
    return {"only": VALUES[kind][int(os.path.basename(filepath)[:-5]) % 5]}
"""


def kinds_job(new_job: NewJob, function: str, n_files: int = 12, **wanted: Any) -> Job:
    job = new_job()
    path = job.root.parent / "tiny_function_kinds.py"
    path.write_text(KINDS_FUNCTION)
    job.configure(function=f"{path}:{function}", shard_size=5)
    for i in range(n_files):
        job.add(f"{i:03}.json", **wanted)
    return job


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all jobs of this file: a finished job is copied rather than run, and its paths must stay."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path_factory.mktemp("jobs")
    with tempfile.TemporaryDirectory(prefix="r3po-test-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def jobs_folder(one_folder: Path) -> Path:
    shutil.rmtree(one_folder / "now", ignore_errors=True)
    (one_folder / "now").mkdir()
    return one_folder / "now"


def small_job(new_job: NewJob, **settings: Any) -> Job:
    """Return a finished job of three shards: eight files, of which two failed."""
    job = new_job()
    copy = job.root.parent.parent / f"copy {json.dumps(settings).encode().hex()}"
    if not copy.exists():
        job.configure(**settings)
        for i in range(8):
            job.add(f"{i}.json", **({"error": f"bad {i}"} if i in (1, 7) else {"value": i}))
        job.run()
        shutil.copytree(job.root, copy)
    shutil.rmtree(job.root)
    shutil.copytree(copy, job.root)
    job.configure(**settings)
    return job


def verify(job: Job, *, source: bool = False) -> VerifyResult:
    """Verify, and see that nothing was changed by it."""
    before = snapshot(job.root)
    result = verify_jobs(job.config, source=source)
    assert snapshot(job.root) == before
    return result


def said(result: VerifyResult) -> list[str]:
    return [f"{f.kind} {f.where}: {f.what} ({f.hint})" for f in result.findings]


def assert_good(job: Job, *, source: bool = False) -> VerifyResult:
    result = verify(job, source=source)
    assert said(result) == [] and result.is_good and result.counts == {}
    return result


# Good jobs


def test_a_good_job_is_found_good_and_counted(new_job: NewJob) -> None:
    job = small_job(new_job)
    result = assert_good(job, source=True)
    assert (result.files, result.rows, result.failed, result.pending, result.parts) == (8, 6, 2, 0, 6)
    assert result.size_bytes == sum(len(data) for name, data in job.published().items() if "part-" in name)
    assert result.source_files == 8 and result.notes == ()
    assert job.findings() == []


@pytest.mark.parametrize("settings", [{}, {"parquet": False}, {"csv": False}, {"hash": "stat"}], ids=str)
def test_every_kind_of_value_is_compared_and_found_equal(new_job: NewJob, settings: dict[str, Any]) -> None:
    job = kinds_job(new_job, "describe")
    job.configure(**settings)
    result = job.run()
    assert (result.done, result.failed) == (11, 1)
    assert assert_good(job, source=True).parts == 3 * (1 if "csv" in settings or "parquet" in settings else 2)


@pytest.mark.parametrize("kind", ["text", "bytes", "nothing"])
def test_a_table_of_one_column_is_found_good_where_its_lines_could_be_empty(new_job: NewJob, kind: str) -> None:
    job = kinds_job(new_job, "describe_one", kind=kind)
    assert job.run().done == 12
    assert_good(job)


# A part that another pyarrow made


def write_as_another_arrow(job: Job, table: pa.Table) -> None:
    """Replace the Parquet part of shard 0 by one with other bytes, and let its commit name it."""
    path = parquet_part(job)
    metadata = pq.read_schema(path).metadata
    pq.write_table(table.replace_schema_metadata(metadata), path, use_dictionary=False, compression="gzip")
    commit = read_json(job.state / "commits" / "00000.json", kind="commit", newest_format=FORMAT)
    (part,) = (part for part in commit["parts"] if part["kind"] == "parquet")
    data = path.read_bytes()
    part["staged"] |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(job.state / "commits" / "00000.json", commit)


def test_a_part_of_another_arrow_is_compared_by_its_rows(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = kinds_job(new_job, "describe")
    job.run()
    rows = pq.read_table(parquet_part(job))
    write_as_another_arrow(job, rows)
    assert [f.kind for f in verify(job).findings] == ["values"]  # by its bytes, as long as it seems to be ours
    monkeypatch.setattr(parts, "PARQUET_MAKER", "parquet-cpp-arrow version 1.0.0")
    assert_good(job)
    write_as_another_arrow(job, rows.set_column(1, "int", pa.array([1, 2, None, 0, 3], pa.int64())))
    assert [f.what for f in verify(job).findings] == ["its rows are not what the outcomes give"]


def test_columns_with_odd_names_are_compared(new_job: NewJob) -> None:
    job = new_job()
    path = job.root.parent / "tiny_function_odd.py"
    path.write_text("def odd(filepath):\n    return {'a,b': 1, '\"': 2, '': 3, 'x\\ny': 4}\n")
    job.configure(function=f"{path}:odd")
    job.add("a.json")
    job.run()
    assert_good(job)


def test_a_job_in_which_every_file_failed_is_good(new_job: NewJob) -> None:
    job = new_job()
    for i in range(4):
        job.add(f"{i}.json", error="bad")
    job.run()
    result = assert_good(job)
    assert (result.rows, result.failed, result.parts) == (0, 4, 0)


def test_a_job_that_grew_was_retried_and_is_mended_stays_good(new_job: NewJob) -> None:
    job = small_job(new_job)
    for i in range(5):
        job.add(f"2{i}.json", value=i + 0.5)
    job.run()
    assert_good(job)
    job.mend()
    job.run(retry_failed=True)
    assert assert_good(job, source=True).failed == 0


def test_state_and_output_may_be_one_folder(new_job: NewJob) -> None:
    assert_good(small_job(new_job, output_path="state"))


def test_values_that_differ_although_the_digests_hold_are_a_finding(new_job: NewJob) -> None:
    """A part that was written wrong from the beginning: its digest is right."""
    job = small_job(new_job)
    write_part_as_committed(job, "csv", b'"0.json",0', b'"0.json",9')
    result = verify(job)
    (finding,) = result.findings
    assert (finding.kind, finding.what) == ("values", "from line 2 on it is not what the outcomes give")
    assert finding.where == str(job.output / "csv" / "part-00000.csv")


# Unfinished jobs


def test_files_without_an_outcome_are_to_do_and_a_run_does_them(new_job: NewJob) -> None:
    job = new_job()
    for i in range(4):
        job.add(f"{i}.json", value=i)
    package.build_jobs(job.config)
    result = verify(job, source=True)
    assert said(result) == ["pending tiny: 4 of 4 files are to do (r3po run)"]
    job.run()
    assert_good(job)


def test_failures_that_are_tried_again_are_to_do(new_job: NewJob) -> None:
    job = small_job(new_job)
    package.reset_all_errors(job.config)
    result = verify(job)
    assert (result.rows, result.failed, result.pending) == (6, 0, 2)
    assert set(result.counts) == {"pending", "success"}
    job.run()
    assert_good(job)


def test_a_damaged_segment_of_a_killed_run_is_found_and_its_files_are_done_again(new_job: NewJob) -> None:
    job = new_job()
    for i in range(3):
        job.add(f"{i}.json", value=i, **({"wait_for": "gate"} if i == 2 else {}))
    with running("run", "--engine", "serial", cwd=job.root) as process:
        process.wait_until(lambda: "2.json" in job.calls(), "the run waits at the last file")
        kill_tree(process.pid)
        process.process.wait(30)
    assert (verify(job).rows, verify(job).pending) == (2, 1)
    segment = sorted((job.state / "segments" / "00000").iterdir())[0]
    flip(segment)
    result = verify(job)
    assert said(result) == [
        f"segment {segment}: is damaged; its files are done again (r3po run)",
        f"pending tiny: {result.pending} of 3 files are to do (r3po run)",
    ]
    assert result.pending > 1
    (job.root / "gate").touch()
    job.run()
    assert_good(job)


def test_where_nothing_was_built_there_is_no_job(new_job: NewJob) -> None:
    job = new_job()
    with pytest.raises(FolderError, match="there is no job here yet"):
        verify_jobs(job.config)


def test_another_job_in_the_folder_is_refused(new_job: NewJob) -> None:
    job = small_job(new_job)
    job.configure(job_name="other")
    with pytest.raises(FolderError, match="another job"):
        verify_jobs(job.config)


def test_a_newer_format_is_refused(new_job: NewJob) -> None:
    job = small_job(new_job)
    path = job.state / "manifest.json"
    write_json(path, {**read_json(path, kind="manifest", newest_format=FORMAT), "format": 9})
    with pytest.raises(NewerFormatError):
        verify_jobs(job.config)


# Damage, one at a time


def flip(path: Path, at: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def outcomes(job: Job, shard: int = 0) -> Path:
    return only(job.state / "outcomes", f"{shard:05d}.*.arrow")


def shard_file(job: Job, shard: int = 0) -> Path:
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    return job.state / "shards" / manifest.shards[shard].file.name


def csv_part(job: Job, shard: int = 0) -> Path:
    return job.output / "csv" / f"part-{shard:05d}.csv"


def parquet_part(job: Job, shard: int = 0) -> Path:
    return job.output / "parquet" / f"part-{shard:05d}.parquet"


def rewrite(path: Path, kind: str, **changes: Any) -> None:
    """Write a JSON file of the job with other fields and a digest that fits."""
    write_json(path, {**read_json(path, kind=kind, newest_format=FORMAT), **changes})


def write_part_as_committed(job: Job, kind: str, old: bytes, new: bytes) -> None:
    """Change a part, and let its commit name what it is now."""
    path = job.output / kind / f"part-00000.{kind}"
    edit(path, old, new)
    commit = read_json(job.state / "commits" / "00000.json", kind="commit", newest_format=FORMAT)
    for part in commit["parts"]:
        if part["kind"] == kind:
            data = path.read_bytes()
            part["staged"] |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(job.state / "commits" / "00000.json", commit)


def double_a_path(job: Job) -> None:
    """Let the manifest have one file twice, in files whose digests fit."""
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    folder = job.state / "shards"
    ref = manifest.shards[1]
    entries: Entries = read_shard_file(folder, ref)
    entries.paths[0] = "0.json"
    refs = (manifest.shards[0], write_shard_file(folder, 1, 1, entries), *manifest.shards[2:])
    write_manifest(job.state / "manifest.json", manifest.replace(shards=refs))


def drop_hashes(job: Job) -> None:
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    folder = job.state / "shards"
    entries = read_shard_file(folder, manifest.shards[0])
    entries.hashes[0] = None
    refs = (write_shard_file(folder, 0, 1, entries), *manifest.shards[1:])
    write_manifest(job.state / "manifest.json", manifest.replace(shards=refs))
    commit = job.state / "commits" / "00000.json"
    rewrite(commit, "commit", entries=refs[0].to_json())


def change_manifest(**changes: Any) -> Callable[[Job], None]:
    def change(job: Job) -> None:
        path = job.state / "manifest.json"
        manifest = read_manifest(path)
        assert manifest is not None
        write_manifest(path, manifest.replace(**changes))

    return change


def change_ref(**changes: Any) -> Callable[[Job], None]:
    def change(job: Job) -> None:
        path = job.state / "manifest.json"
        manifest = read_manifest(path)
        assert manifest is not None
        refs = (replace(manifest.shards[0], **changes), *manifest.shards[1:])
        write_manifest(path, manifest.replace(shards=refs))

    return change


def double_an_outcome(job: Job) -> None:
    """Write an outcomes file with one place twice, and let the commit name it."""
    path = outcomes(job)
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    table = pa.concat_tables([table, table.slice(0, 1)])
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    record = {"name": path.name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewrite(job.state / "commits" / "00000.json", "commit", outcomes=record)


def edit_parquet(job: Job) -> None:
    path = parquet_part(job)
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "value", pa.array([0, 3], pa.int64())), path)


def other_types(job: Job) -> None:
    path = parquet_part(job)
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "value", table["value"].cast(pa.float64())), path)


def drop_a_row(job: Job) -> None:
    path = csv_part(job)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


Damage = Callable[["Job"], object]

RESTORED: dict[str, tuple[Damage, str]] = {
    "manifest flipped": (lambda job: flip(job.state / "manifest.json"), r"manifest .*manifest.json: is damaged"),
    "manifest gone": (
        lambda job: (job.state / "manifest.json").unlink(),
        r"manifest .*: is missing, but there are com",
    ),
    "manifest with a path twice": (double_a_path, r"manifest .*: 1 files are there twice: 0.json"),
    "manifest with other runs": (change_manifest(sorted_spans=(0, 9)), r"manifest .*: its sorted_spans are not"),
    "manifest out of order": (change_manifest(build=0), r"manifest .*: its redo_since is 1, but its build is 0"),
    "shard file flipped": (lambda job: flip(shard_file(job)), r"shard_file .*jsonl: is damaged"),
    "shard file gone": (lambda job: shard_file(job).unlink(), r"shard_file .*jsonl: is missing"),
    "shard file miscounted": (change_ref(n_files=4), r"shard_file .*: its n_files is 3, but it is named with 4"),
    "shard file of other bytes": (change_ref(size_bytes=4), r"shard_file .*: its size_bytes is \d+, but .* with 4"),
    "shard file of another build": (change_ref(last_build=0), r"shard_file .*: its last_build is 1, but .* with 0"),
    "a row without a hash": (drop_hashes, r"shard_file .*: 1 file have a row, but no hash: 0.json"),
    "commit flipped": (lambda job: flip(job.state / "commits" / "00001.json"), r"commit .*00001.json: is damaged"),
    "commit renamed": (
        lambda job: (job.state / "commits" / "00001.json").rename(job.state / "commits" / "00009.json"),
        r"commit .*00009.json: is damaged: it is the commit of shard 1",
    ),
    "commits swapped": (
        lambda job: swap(job.state / "commits" / "00000.json", job.state / "commits" / "00001.json"),
        r"commit .*00001.json: is damaged: it is the commit of shard 0",
    ),
    "commit miscounted": (
        lambda job: rewrite(job.state / "commits" / "00000.json", "commit", n_rows=5),
        r"commit .*: its n_rows is 5, but by functions they are 2",
    ),
    "commit of a later build": (
        lambda job: rewrite(job.state / "commits" / "00000.json", "commit", build=5),
        r"commit .*: its build is 5, the manifest's is 1",
    ),
    "outcomes flipped": (lambda job: flip(outcomes(job)), r"outcomes .*arrow: is damaged"),
    "outcomes cut": (lambda job: cut(outcomes(job)), r"outcomes .*arrow: is damaged"),
    "outcomes gone": (lambda job: outcomes(job).unlink(), r"outcomes .*arrow: is missing"),
    "outcomes swapped": (lambda job: swap(outcomes(job), outcomes(job, 1)), r"outcomes .*00001.*arrow: is damaged"),
    "an outcome twice": (double_an_outcome, r"outcomes .*: 1 file have more than one outcome in it: places 0"),
    "columns flipped": (lambda job: flip(job.state / "columns.b1.json"), r"columns .*: is damaged"),
    "columns gone": (lambda job: (job.state / "columns.b1.json").unlink(), r"columns .*: is missing or another job's"),
}
"""Damage that nothing but a copy mends; all of it to state."""


@pytest.mark.parametrize("name", RESTORED)
def test_damaged_state_is_found_and_a_copy_mends_it(new_job: NewJob, name: str) -> None:
    damage, expected = RESTORED[name]
    job = small_job(new_job)
    shutil.copytree(job.state, job.root / "copy")
    damage(job)
    result = verify(job)
    found = [text for text in said(result) if re.match(expected, text)]
    assert len(found) == 1, said(result)
    assert "a copy" in found[0] and "r3po reset --all" in found[0]
    shutil.rmtree(job.state)
    (job.root / "copy").rename(job.state)
    assert_good(job)


RUN_MENDS: dict[str, tuple[Damage, str]] = {
    "csv part gone": (lambda job: csv_part(job).unlink(), r"part .*part-00000.csv: is missing"),
    "parquet part gone": (lambda job: parquet_part(job).unlink(), r"part .*part-00000.parquet: is missing"),
    "csv part cut": (lambda job: cut(csv_part(job)), r"part .*csv: has [\d,]+ bytes, its commit says \d+"),
    "parquet part cut": (lambda job: cut(parquet_part(job)), r"part .*parquet: has [\d,]+ bytes, its commit says"),
    "a row of csv gone": (drop_a_row, r"values .*csv: from line 3 on it is not"),
    "parquet edited": (edit_parquet, r"values .*parquet: from byte [\d,]+ on it is not"),
    "parquet of other types": (
        other_types,
        r"values .*parquet: (from byte|it goes on)",
    ),
    "failures.csv gone": (
        lambda job: (job.output / "failures" / "failures.csv").unlink(),
        r"failures .*failures.csv: is missing",
    ),
    "_SUCCESS gone": (
        lambda job: (job.output / "csv" / "_SUCCESS").unlink(),
        r"success .*csv/_SUCCESS: is missing, but every file has its outcome",
    ),
    "csv switched off": (
        lambda job: job.configure(csv=False),
        r"settings .*00000.json: its parts were made with other csv and parquet settings",
    ),
    "another output_path": (
        lambda job: job.configure(output_path="elsewhere"),
        r"settings .*elsewhere: the parts are in another folder so far: .*output",
    ),
}
"""Damage that `r3po run` mends by itself."""


@pytest.mark.parametrize("name", RUN_MENDS)
def test_damage_that_a_run_mends_is_found_and_mended(new_job: NewJob, name: str) -> None:
    damage, expected = RUN_MENDS[name]
    job = small_job(new_job)
    damage(job)
    result = verify(job)
    found = [text for text in said(result) if re.match(expected, text)]
    assert len(found) >= 1, said(result)
    assert found[0].endswith("(r3po run)")
    job.run()
    assert_good(job)


REMOVAL_MENDS: dict[str, tuple[Damage, str]] = {
    "csv value edited": (
        lambda job: edit(csv_part(job), b'"0.json",0', b'"0.json",9'),
        r"part .*part-00000.csv: is not the file that was written",
    ),
    "csv byte flipped": (lambda job: flip(csv_part(job), 3), r"part .*csv: is not the file that was written"),
    "parquet byte flipped": (lambda job: flip(parquet_part(job), 30), r"part .*parquet: is not the file that was"),
    "csv parts swapped": (
        lambda job: swap(csv_part(job, 0), csv_part(job, 1)),
        r"values .*part-00000.csv: from line 2 on",
    ),
    "failures.csv edited": (
        lambda job: edit(job.output / "failures" / "failures.csv", b"bad 7", b"bad 8"),
        r"failures .*: the failure number 2 in it is not what the outcomes say",
    ),
    "failures.csv longer": (
        lambda job: edit(job.output / "failures" / "failures.csv", b"7.json", b"7.json") or add_a_failure(job),
        r"failures .*: has more failures than the outcomes",
    ),
    "failures.csv of another header": (
        lambda job: edit(job.output / "failures" / "failures.csv", b"path", b"file"),
        r"failures .*: its header is not what the outcomes say",
    ),
    "_SUCCESS with content": (
        lambda job: (job.output / "csv" / "_SUCCESS").write_text("yes"),
        r"success .*csv/_SUCCESS: is not empty",
    ),
    "a foreign part": (
        lambda job: shutil.copy(csv_part(job), job.output / "csv" / "part-00077.csv"),
        r"foreign .*csv/part-00077.csv: no commit names it",
    ),
    "a foreign file": (
        lambda job: (job.output / "parquet" / ".notes").write_text("x"),
        r"foreign .*parquet/.notes: no commit names it",
    ),
    "a foreign file beside failures.csv": (
        lambda job: (job.output / "failures" / "copy.csv").write_text("x"),
        r"foreign .*failures/copy.csv: r3po did not write it",
    ),
    "a foreign file among commits": (
        lambda job: (job.state / "commits" / "README").write_text("x"),
        r"foreign .*commits/README: is no commit",
    ),
    "a foreign file among segments": (
        lambda job: (job.state / "segments" / "x").write_text("x"),
        r"foreign .*segments/x: is no segment",
    ),
    "damaged suspects": (
        lambda job: (job.state / "suspects.json").write_text("{"),
        r"suspects .*suspects.json: is damaged",
    ),
}
"""Damage that is mended by removing (or moving) the file that is named, and `r3po run`."""


def add_a_failure(job: Job) -> None:
    with open(job.output / "failures" / "failures.csv", "a") as file:
        file.write("9.json,ValueError,bad,,1\n")


@pytest.mark.parametrize("name", REMOVAL_MENDS)
def test_damage_is_mended_by_removing_the_file_and_a_run(new_job: NewJob, name: str) -> None:
    damage, expected = REMOVAL_MENDS[name]
    job = small_job(new_job)
    damage(job)
    result = verify(job)
    found = [finding for finding, text in zip(result.findings, said(result), strict=True) if re.match(expected, text)]
    assert len(found) >= 1, said(result)
    for finding in result.findings:
        if finding.hint != "r3po run":
            assert "remove it" in finding.hint or "move it elsewhere" in finding.hint
            Path(finding.where).unlink(missing_ok=True)
    job.run()
    assert_good(job)


def essential_files(job: Job) -> list[Path]:
    """Return every file of a finished job that says something, all but the lock, the runs and old shard files."""
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    in_force = {ref.file.name for ref in manifest.shards}
    files = [path for root in (job.state, job.output) for path in sorted(root.rglob("*")) if path.is_file()]
    return [
        path
        for path in files
        if not path.name.startswith("lock")
        and "runs" not in path.parts
        and not (path.parent.name == "shards" and path.name not in in_force)
    ]


ANYWHERE: dict[str, Callable[[bytes], bytes | None]] = {
    "the first byte": lambda data: bytes([data[0] ^ 1]) + data[1:] if data else None,
    "a byte in the middle": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :] if data else None
    ),
    "the last byte": lambda data: data[:-1] + bytes([data[-1] ^ 2]) if data else None,
    "two bytes less": lambda data: data[:-2] if data else None,  # one could be the newline after JSON
    "one byte more": lambda data: data + b"x",
    "nothing in it": lambda data: b"" if data else None,
}


@pytest.mark.parametrize("name", ANYWHERE)
def test_no_file_can_change_without_a_finding(new_job: NewJob, name: str) -> None:
    job = small_job(new_job)
    files = essential_files(job)
    assert len(files) > 18
    for path in files:
        before = path.read_bytes()
        after = ANYWHERE[name](before)
        if after is None:
            continue
        path.write_bytes(after)
        result = verify_jobs(job.config)
        assert not result.is_good and all(finding.hint for finding in result.findings), path
        path.write_bytes(before)
    assert_good(job)


def test_no_file_can_go_without_a_finding(new_job: NewJob) -> None:
    job = small_job(new_job)
    for path in essential_files(job):
        path.rename(job.root / "away")
        result = verify_jobs(job.config)
        assert not result.is_good and all(finding.hint for finding in result.findings), path
        (job.root / "away").rename(path)
    assert_good(job)


def test_a_commit_that_is_gone_leaves_files_to_do_and_parts_to_move(new_job: NewJob) -> None:
    job = small_job(new_job)
    (job.state / "commits" / "00001.json").unlink()
    result = verify(job)
    assert result.counts == {"pending": 1, "foreign": 2, "success": 2} and result.pending == 3
    for finding in result.findings:
        if finding.kind == "foreign":
            assert finding.hint == "move it elsewhere, then: r3po run"
            Path(finding.where).unlink()
    job.run()
    assert_good(job)


def test_an_edited_value_is_named_by_its_line(new_job: NewJob) -> None:
    job = small_job(new_job)
    edit(csv_part(job, 1), b'"4.json",4', b'"4.json",5')
    values = [finding for finding in verify(job).findings if finding.kind == "values"]
    assert [f.what for f in values] == ["from line 3 on it is not what the outcomes give"]


@pytest.mark.parametrize("file", [shard_file, outcomes, lambda job: job.state / "commits" / "00001.json", csv_part])
def test_a_file_that_the_disk_does_not_give_is_a_finding_like_another(
    new_job: NewJob, file: Callable[[Job], Path]
) -> None:
    job = small_job(new_job)
    (job.output / "parquet" / "_SUCCESS").unlink()
    path = file(job)
    path.unlink()
    path.mkdir()  # so that reading it is refused, even to root
    result = verify(job)
    assert str(path) in {finding.where for finding in result.findings}, said(result)
    assert all(finding.hint for finding in result.findings)


def test_all_findings_are_reported_not_only_the_first(new_job: NewJob) -> None:
    job = small_job(new_job)
    flip(outcomes(job))
    csv_part(job, 1).unlink()
    (job.output / "parquet" / "_SUCCESS").unlink()
    (job.output / "csv" / "x").touch()
    flip(job.state / "commits" / "00002.json")
    assert set(verify(job).counts) == {"outcomes", "part", "foreign", "commit"}


# The end and the claim


def test_a_stale_success_is_found(new_job: NewJob) -> None:
    job = small_job(new_job)
    job.add("9.json", value=9)
    package.build_jobs(job.config)
    result = verify(job)
    assert result.counts == {"pending": 1, "success": 2}
    assert {finding.hint for finding in result.findings} == {"r3po run"}
    job.run()
    assert_good(job)


def test_a_success_of_a_kind_that_is_off_is_found(new_job: NewJob) -> None:
    job = small_job(new_job, csv=False)
    (job.output / "csv").mkdir()
    (job.output / "csv" / "_SUCCESS").touch()
    (finding,) = verify(job).findings
    assert (finding.kind, finding.hint) == ("success", "remove it")
    Path(finding.where).unlink()
    assert_good(job)


@pytest.mark.parametrize("damage", [Path.unlink, flip], ids=["deleted", "flipped"])
def test_a_lost_claim_is_found_and_its_remedy_works(new_job: NewJob, damage: Callable[[Path], None]) -> None:
    job = small_job(new_job)
    damage(job.output / ".r3po.json")
    (finding,) = verify(job).findings
    assert finding.kind == "claim" and "move the folders csv and parquet elsewhere" in finding.hint
    (job.output / ".r3po.json").unlink(missing_ok=True)
    for kind in ("csv", "parquet"):
        (job.output / kind).rename(job.root / f"old_{kind}")
    job.run()
    assert_good(job)
    assert (job.root / "old_csv" / "part-00000.csv").read_bytes() == csv_part(job).read_bytes()


def test_another_job_s_claim_is_found(new_job: NewJob) -> None:
    job = small_job(new_job)
    other = new_job("other")
    other.add("a.json", value=1)
    other.run()
    shutil.copy(other.output / ".r3po.json", job.output / ".r3po.json")
    (finding,) = verify(job).findings
    assert finding.kind == "claim" and "another output_path" in finding.hint


def test_a_part_that_is_decided_but_not_renamed_is_found_and_a_run_publishes_it(new_job: NewJob) -> None:
    job = small_job(new_job)
    folders = job_folders(load_config(job.config))
    manifest = read_manifest(folders.manifest)
    assert manifest is not None
    commit = read_commits(folders, manifest.job_id)[0]
    for part in commit.parts:
        assert part.staged is not None
        (folders.output.data(part.kind) / part.name).rename(folders.output.staging / part.staged.name)
    result = verify(job)
    assert result.counts == {"part": 2}
    assert all("is decided, but not published" in f.what and f.hint == "r3po run" for f in result.findings)
    job.run()
    assert_good(job)


def test_a_reset_that_was_killed_is_found(new_job: NewJob) -> None:
    job = small_job(new_job)
    write_json(job.state / "reset", {"format": FORMAT, "kind": "reset", "job_id": None})
    assert "reset" in verify(job).counts


def test_what_a_killed_run_left_is_a_note_and_the_next_run_removes_it(new_job: NewJob) -> None:
    job = small_job(new_job)
    for folder in (job.state, job.state / "commits", job.state / "outcomes", job.output / "failures"):
        (folder / f".{'0' * 32}.tmp").touch()
    (job.output / ".staging" / "part-00000.csv.x.tmp").touch()
    (job.state / "outcomes" / "00000.b1.x-1.arrow").touch()
    result = assert_good(job)
    assert len(result.notes) == 5
    job.run()
    assert assert_good(job).notes == ()


# The source


def test_the_source_is_compared_file_by_file(new_job: NewJob) -> None:
    job = small_job(new_job)
    (job.source / "0.json").unlink()
    (job.source / "3.json").write_text('{"value": 9}')
    os.utime(job.source / "3.json", (LONG_AGO, LONG_AGO))
    job.add("11.json", value=1)
    assert_good(job)
    result = verify(job, source=True)
    assert sorted((Path(f.where).name, f.what) for f in result.findings) == [
        ("0.json", "is gone"),
        ("11.json", "is new: the manifest does not have it"),
        ("3.json", "its content is not what f saw"),
    ]
    assert result.source_files == 8


def test_a_touched_file_of_the_same_content_is_no_finding(new_job: NewJob) -> None:
    job = small_job(new_job)
    (job.source / "3.json").touch()
    assert_good(job, source=True)


def test_without_hashes_size_and_mtime_are_compared(new_job: NewJob) -> None:
    job = small_job(new_job, hash="stat")
    assert_good(job, source=True)
    (job.source / "3.json").touch()
    (finding,) = verify(job, source=True).findings
    assert finding.what == "its size or mtime is not what f saw"


def test_the_source_of_a_job_that_grew_is_compared_in_walk_order(new_job: NewJob) -> None:
    job = small_job(new_job)
    for name in ("0a.json", "00.json", "9.json"):
        job.add(name, value=1)
    job.run()
    (job.source / "sub").mkdir()
    job.add("sub/x.json", value=1)
    job.run()
    assert assert_good(job, source=True).source_files == 12


def test_a_source_that_is_away_is_an_error(new_job: NewJob) -> None:
    job = small_job(new_job)
    job.source.rename(job.root / "away")
    assert_good(job)
    with pytest.raises(SourceError, match="source folder not found"):
        verify_jobs(job.config, source=True)


# While a run is going on


def test_a_run_that_is_going_on_is_said_and_does_no_harm(new_job: NewJob) -> None:
    job = small_job(new_job)
    for i in range(4):
        job.add(f"9{i}.json", value=i, **({"wait_for": "gate"} if i == 3 else {}))
    with running("run", "--engine", "serial", cwd=job.root) as process:
        process.wait_until(lambda: "93.json" in job.calls(), "the run waits at the last file")
        for _ in range(3):
            result = verify_jobs(job.config)
            assert set(result.counts) <= {"pending", "success"}, said(result)
            assert any(note.startswith(f"a run is going on: pid {process.pid}") for note in result.notes)
        (job.root / "gate").touch()
        assert process.end(60).code == 1
    assert_good(job)


def test_what_a_run_decides_in_the_middle_is_looked_at_again(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run replaces a shard's commit, outcomes and parts after verify has read the commits."""
    job = small_job(new_job)
    job.mend()
    real, calls = jobverify.check_shard, 0

    def check_shard(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            job.run(retry_failed=True)
        return real(*args)

    monkeypatch.setattr(jobverify, "check_shard", check_shard)
    result = verify_jobs(job.config)
    assert said(result) == [] and result.failed == 0 and calls > 3


def test_a_run_that_ends_in_the_middle_makes_verify_look_at_all_again(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(new_job)
    package.reset_all_errors(job.config)
    assert verify(job).pending == 2
    real, calls = jobverify.check_shard, 0

    def check_shard(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            job.run()
        return real(*args)

    monkeypatch.setattr(jobverify, "check_shard", check_shard)
    result = verify_jobs(job.config)
    assert said(result) == [] and result.pending == 0


def test_a_run_gets_time_to_publish_what_it_has_decided(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(new_job)
    folders = job_folders(load_config(job.config))
    manifest = read_manifest(folders.manifest)
    assert manifest is not None
    part = read_commits(folders, manifest.job_id)[1].parts[0]
    assert part.staged is not None
    staged = folders.output.staging / part.staged.name
    csv_part(job, 1).rename(staged)
    monkeypatch.setattr(jobverify, "running_pid", lambda folder: os.getpid())
    monkeypatch.setattr(jobverify.time, "sleep", lambda seconds: staged.rename(csv_part(job, 1)))
    assert said(verify_jobs(job.config)) == []


# The command


def test_the_command_says_good_and_ends_with_0(new_job: NewJob) -> None:
    job = small_job(new_job)
    ended = r3po("verify", cwd=job.root)
    size = verify_jobs(job.config).size_bytes
    assert ended == Ended(0, f"Good:       8 files: 6 rows, 2 failed, 0 to do; 6 parts, {size:,} bytes\n", "")


def test_the_command_lists_findings_with_their_remedies_and_ends_with_1(new_job: NewJob) -> None:
    job = small_job(new_job)
    edit(csv_part(job), b'"0.json",0', b'"0.json",9')
    parquet_part(job, 1).unlink()
    ended = r3po("verify", cwd=job.root)
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    assert lines[:7] == [
        "3 findings in tiny: 2 part, 1 values",
        "part        output/csv/part-00000.csv: is not the file that was written: its sha256 is not the one that its"
        " commit names",
        "hint:       remove it, then: r3po run",
        "part        output/parquet/part-00001.parquet: is missing",
        "hint:       r3po run",
        "values      output/csv/part-00000.csv: from line 2 on it is not what the outcomes give",
        "hint:       remove it, then: r3po run",
    ]


def test_the_command_shows_the_first_of_many_and_counts_the_rest(new_job: NewJob) -> None:
    job = small_job(new_job)
    for i in range(1200):
        (job.output / "csv" / f"x{i}").touch()
    ended = r3po("verify", cwd=job.root)
    assert ended.out.count("no commit names it") == 10
    assert "foreign     and 1,190 more: r3po verify --json" in ended.out
    found = r3po("verify", "--json", cwd=job.root).json()
    assert found["counts"] == {"foreign": 1200} and len(found["findings"]) == 1000


def test_json_has_the_same_fields_and_is_stable(new_job: NewJob) -> None:
    job = small_job(new_job)
    csv_part(job).unlink()
    ended = r3po("verify", "--source", "--json", cwd=job.root)
    assert ended.code == 1
    found = ended.json()
    finding = {"kind": "part", "where": str(csv_part(job)), "what": "is missing", "hint": "r3po run"}
    assert found == {
        "schema_version": 1,
        "job_name": "tiny",
        "files": 8,
        "rows": 6,
        "failed": 2,
        "pending": 0,
        "parts": 5,
        "size_bytes": found["size_bytes"],
        "findings": [finding],
        "counts": {"part": 1},
        "notes": [],
        "source_files": 8,
    }


def test_the_command_ends_with_2_where_there_is_no_job(new_job: NewJob, tmp_path: Path) -> None:
    job = new_job()
    ended = r3po("verify", cwd=job.root)
    assert ended.code == 2 and "there is no job here yet" in ended.err and "r3po run" in ended.err
    assert r3po("verify", "missing.yaml", cwd=job.root).code == 2
    with pytest.raises(ConfigError):
        verify_jobs(tmp_path / "missing.yaml")


def test_verify_loads_neither_ray_nor_pandas(new_job: NewJob) -> None:
    from jobs import run_python

    job = small_job(new_job)
    code = (
        "import sys; sys.argv = ['r3po', 'verify']\n"
        "from r3po.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0 and not {'ray', 'pandas'} & set(sys.modules)\n"
    )
    assert run_python("-c", code, cwd=job.root).code == 0
