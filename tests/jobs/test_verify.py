"""`verify` finds every damage, one at a time, says what mends it, and is content afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import setitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import r3po as package
from jobs import Ended, r3po, run_python, snapshot, wait_until
from r3po import FolderError, VerifyResult, verify_jobs
from r3po.config.settings import load_config
from r3po.errors import ConfigError, NewerFormatError, SourceError
from r3po.inspect import verify as jobverify
from r3po.state.commits import read_commits
from r3po.state.job import job_folders
from r3po.state.manifest import FORMAT, Manifest, read_manifest, write_manifest
from r3po.state.shard_files import Entries, ShardRef, read_shard_file, write_shard_file
from r3po.storage.json_files import read_json, write_json
from r3po.table import parts

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job

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


def odd(filepath):
    return {"a,b": 1, '"': 2, "": 3, "x\\ny": 4}
"""


def kinds_job(new_job: NewJob, function: str, **wanted: Any) -> Job:
    job = new_job()
    path = job.root.parent / "tiny_function_kinds.py"
    path.write_text(KINDS_FUNCTION)
    job.configure(function=f"{path}:{function}", shard_size=5)
    for i in range(12):
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
    """Return a finished job of three shards: eight files, of which two failed. It was swept, too."""
    job = new_job()
    copy = job.root.parent.parent / f"copy {json.dumps(settings).encode().hex()}"
    if not copy.exists():
        job.configure(**settings)
        for i in range(8):
            job.add(f"{i}.json", **({"error": f"bad {i}"} if i in (1, 7) else {"value": i}))
        job.run()
        job.run()
        shutil.copytree(job.root, copy)
    shutil.rmtree(job.root)
    shutil.copytree(copy, job.root)
    job.configure(**settings)
    return job


@pytest.fixture
def job(new_job: NewJob) -> Job:
    return small_job(new_job)


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


def test_a_good_job_is_found_good_and_counted(job: Job) -> None:
    result = assert_good(job, source=True)
    assert (result.files, result.rows, result.failed, result.pending, result.parts) == (8, 6, 2, 0, 6)
    assert result.size_bytes == sum(len(data) for name, data in job.published().items() if "part-" in name)
    assert result.source_files == 8 and result.notes == ()
    assert job.findings() == []
    size = f"{result.size_bytes:,}"
    good = Ended(0, f"Good:       8 files: 6 rows, 2 failed, 0 to do; 6 parts, {size} bytes\n", "")
    assert r3po("verify", cwd=job.root) == good


@pytest.mark.parametrize("settings", [{}, {"parquet": False}, {"csv": False}, {"hash": "stat"}], ids=str)
def test_every_kind_of_value_is_compared_and_found_equal(new_job: NewJob, settings: dict[str, Any]) -> None:
    job = kinds_job(new_job, "describe")
    job.configure(**settings)
    result = job.run()
    assert (result.done, result.failed) == (11, 1)
    assert assert_good(job, source=True).parts == 3 * (1 if "csv" in settings or "parquet" in settings else 2)


@pytest.mark.parametrize(
    ("function", "wanted", "n_rows"),
    [
        ("describe_one", {"kind": "text"}, 12),  # lines of CSV could be empty
        ("describe_one", {"kind": "bytes"}, 12),
        ("describe_one", {"kind": "nothing"}, 12),
        ("odd", {}, 12),
        ("describe_one", {"kind": "no such kind"}, 0),
    ],
    ids=["text", "bytes", "nothing", "odd names", "all failed"],
)
def test_an_odd_table_is_found_good(new_job: NewJob, function: str, wanted: dict[str, Any], n_rows: int) -> None:
    job = kinds_job(new_job, function, **wanted)
    assert job.run().done == n_rows
    result = assert_good(job)
    assert (result.rows, result.failed, result.parts) == (n_rows, 12 - n_rows, 6 if n_rows else 0)


@pytest.mark.parametrize("settings", [{}, {"output_path": "state"}], ids=["apart", "state and output in one folder"])
def test_a_job_that_grew_was_retried_and_is_mended_stays_good(new_job: NewJob, settings: dict[str, Any]) -> None:
    """The source is compared in walk order, also where later builds added files in between."""
    job = small_job(new_job, **settings)
    for names in (("0a", "00", "9", "21", "22"), ("sub/x",)):
        (job.source / "sub").mkdir(exist_ok=True)
        for name in names:
            job.add(f"{name}.json", value=1.5)
        job.run()
        assert_good(job, source=True)
    job.mend()
    job.run(retry_failed=True)
    result = assert_good(job, source=True)
    assert (result.failed, result.source_files) == (0, 14)


# Parts that were made otherwise


def test_rows_from_before_hashes_were_taken_need_none(new_job: NewJob) -> None:
    job = small_job(new_job, hash="stat")
    job.configure(hash="content")
    job.add("new.json", value=7)
    job.run()
    assert package.verify_jobs(job.config).findings == ()


def test_a_part_of_another_arrow_is_compared_by_its_rows(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = kinds_job(new_job, "describe")
    job.run()
    path = at(job, PARQUET)
    rows = pq.read_table(path)

    def write_as_another_arrow(table: pa.Table) -> None:
        """Replace the part by one with other bytes, and let its commit name it."""
        metadata = pq.read_schema(path).metadata
        pq.write_table(table.replace_schema_metadata(metadata), path, use_dictionary=False, compression="gzip")
        name_in_commit(job, path)

    write_as_another_arrow(rows)
    assert [f.kind for f in verify(job).findings] == ["values"]  # by its bytes, as long as it seems to be ours
    monkeypatch.setattr(parts, "PARQUET_MAKER", "parquet-cpp-arrow version 1.0.0")
    assert_good(job)
    write_as_another_arrow(rows.set_column(1, "int", pa.array([1, 2, None, 0, 3], pa.int64())))
    assert [f.what for f in verify(job).findings] == ["its rows are not what the outcomes give"]


def test_values_that_differ_although_the_digests_hold_are_a_finding(job: Job) -> None:
    """A part that was written wrong from the beginning: its digest is right."""
    edit(at(job, CSV), b'"0.json",0', b'"0.json",9')
    name_in_commit(job, at(job, CSV))
    (finding,) = verify(job).findings
    assert (finding.kind, finding.what) == ("values", "from line 2 on it is not what the outcomes give")
    assert finding.where == str(at(job, CSV))


# Unfinished jobs


def test_files_without_an_outcome_are_to_do_and_a_run_does_them(new_job: NewJob) -> None:
    job = new_job()
    with pytest.raises(FolderError, match="there is no job here yet"):
        verify_jobs(job.config)
    for i in range(4):
        job.add(f"{i}.json", value=i)
    package.build_jobs(job.config)
    result = verify(job, source=True)
    assert said(result) == ["pending tiny: 4 of 4 files are to do (r3po run)"]
    job.run()
    assert_good(job)


def test_failures_that_are_tried_again_and_new_files_are_to_do_and_a_success_is_stale(job: Job) -> None:
    package.reset_all_errors(job.config)
    result = verify(job)
    assert (result.rows, result.failed, result.pending) == (6, 0, 2)
    job.add("9.json", value=9)
    package.build_jobs(job.config)
    result = verify(job)
    assert (result.rows, result.failed, result.pending) == (6, 0, 3)
    assert result.counts == {"pending": 1, "success": 2}
    assert {finding.hint for finding in result.findings} == {"r3po run"}
    job.run()
    assert_good(job)


def test_a_damaged_segment_of_a_killed_run_is_found_and_its_files_are_done_again(new_job: NewJob) -> None:
    job = new_job()
    for i in range(3):
        job.add(f"{i}.json", value=i)
    job.run_until(lambda path: "segments" in path.parts and "2.json" in job.calls())
    assert (verify(job).rows, verify(job).pending) == (2, 1)
    segment = sorted((job.state / "segments" / "00000").iterdir())[0]
    flip(segment)
    result = verify(job)
    assert said(result) == [
        f"segment {segment}: is damaged; its files are done again (r3po run)",
        f"pending tiny: {result.pending} of 3 files are to do (r3po run)",
    ]
    assert result.pending > 1
    job.run()
    assert_good(job)


def test_another_job_and_a_newer_format_are_refused(job: Job) -> None:
    job.configure(job_name="other")
    with pytest.raises(FolderError, match="another job"):
        verify_jobs(job.config)
    job.configure(job_name="tiny")
    rewrite(at(job, MANIFEST), "manifest", format=9)
    with pytest.raises(NewerFormatError):
        verify_jobs(job.config)


# Damage, one at a time

MANIFEST, COMMIT, NEXT_COMMIT = "state/manifest.json", "state/commits/00000.json", "state/commits/00001.json"
SHARD_FILE, OUTCOMES, NEXT_OUTCOMES = "state/shards/00000.*", "state/outcomes/00000.*", "state/outcomes/00001.*"
COLUMNS, FAILURES, SUCCESS = "state/columns.b1.json", "output/failures/failures.csv", "output/csv/_SUCCESS"
CSV, PARQUET = "output/csv/part-00000.csv", "output/parquet/part-00000.parquet"
NEXT_CSV, NEXT_PARQUET = "output/csv/part-00001.csv", "output/parquet/part-00001.parquet"

Damage = Callable[["Job"], object]


def at(job: Job, name: str) -> Path:
    """Return the one file of a job that has this name, from the job's folder on."""
    (path,) = job.root.glob(name)
    return path


def to(name: str, harm: Callable[..., object], *args: Any) -> Damage:
    return lambda job: harm(at(job, name), *args)


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


def swap(one: str, other: str) -> Damage:
    def damage(job: Job) -> None:
        data = at(job, one).read_bytes()
        at(job, one).write_bytes(at(job, other).read_bytes())
        at(job, other).write_bytes(data)

    return damage


def write(name: str, text: str) -> Damage:
    return lambda job: (job.root / name).write_text(text)


def rewrite(path: Path, kind: str, **changes: Any) -> None:
    """Write a JSON file of the job with other fields and a digest that fits."""
    write_json(path, {**read_json(path, kind=kind, newest_format=FORMAT), **changes})


def name_in_commit(job: Job, path: Path) -> None:
    """Let the commit of shard 0 name its part or its outcomes as they are now."""
    data = path.read_bytes()
    now = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    commit = read_json(at(job, COMMIT), kind="commit", newest_format=FORMAT)
    for part in commit["parts"]:
        if part["kind"] == path.suffix[1:]:
            part["staged"] |= now
    if path == at(job, OUTCOMES):
        commit["outcomes"] |= now
    write_json(at(job, COMMIT), commit)


def manifest_of(job: Job) -> Manifest:
    manifest = read_manifest(at(job, MANIFEST))
    assert manifest is not None
    return manifest


def change_manifest(**changes: Any) -> Damage:
    return lambda job: write_manifest(at(job, MANIFEST), manifest_of(job).replace(**changes))


def change_ref(job: Job, shard: int, change: Callable[[ShardRef], ShardRef]) -> None:
    refs = list(manifest_of(job).shards)
    refs[shard] = change(refs[shard])
    change_manifest(shards=tuple(refs))(job)


def replace_ref(**changes: Any) -> Damage:
    return lambda job: change_ref(job, 0, lambda ref: replace(ref, **changes))


def change_entries(job: Job, shard: int, change: Callable[[Entries], object]) -> None:
    """Write a shard file with other entries, and let the manifest name it."""
    folder = job.state / "shards"

    def rewritten(ref: ShardRef) -> ShardRef:
        entries = read_shard_file(folder, ref)
        change(entries)
        return write_shard_file(folder, shard, 1, entries)

    change_ref(job, shard, rewritten)


def double_a_path(job: Job) -> None:
    """Let the manifest have one file twice, in files whose digests fit."""
    change_entries(job, 1, lambda entries: setitem(entries.paths, 0, "0.json"))


def drop_hashes(job: Job) -> None:
    change_entries(job, 0, lambda entries: setitem(entries.hashes, 0, None))
    rewrite(at(job, COMMIT), "commit", entries=manifest_of(job).shards[0].to_json())


def double_an_outcome(job: Job) -> None:
    """Write an outcomes file with one place twice, and let the commit name it."""
    path = at(job, OUTCOMES)
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(pa.concat_tables([table, table.slice(0, 1)]))
    name_in_commit(job, path)


def write_values(change: Callable[[pa.ChunkedArray], Any]) -> Damage:
    """Write a Parquet part with other values."""

    def damage(job: Job) -> None:
        table = pq.read_table(at(job, PARQUET))
        pq.write_table(table.set_column(1, "value", change(table["value"])), at(job, PARQUET))

    return damage


def drop_a_row(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def add_a_failure(path: Path) -> None:
    with open(path, "a") as file:
        file.write("9.json,ValueError,bad,,1\n")


RESTORED: dict[str, tuple[Damage, str]] = {
    "manifest flipped": (to(MANIFEST, flip), r"manifest .*manifest.json: is damaged"),
    "manifest gone": (to(MANIFEST, Path.unlink), r"manifest .*: is missing, but there are com"),
    "manifest with a path twice": (double_a_path, r"manifest .*: 1 files are there twice: 0.json"),
    "manifest with other runs": (change_manifest(sorted_spans=(0, 9)), r"manifest .*: its sorted_spans are not"),
    "manifest out of order": (change_manifest(build=0), r"manifest .*: its redo_since is 1, but its build is 0"),
    "shard file flipped": (to(SHARD_FILE, flip), r"shard_file .*jsonl: is damaged"),
    "shard file gone": (to(SHARD_FILE, Path.unlink), r"shard_file .*jsonl: is missing"),
    "shard file miscounted": (replace_ref(n_files=4), r"shard_file .*: its n_files is 3, but it is named with 4"),
    "shard file of other bytes": (replace_ref(size_bytes=4), r"shard_file .*: its size_bytes is \d+, but .* with 4"),
    "shard file of another build": (replace_ref(last_build=0), r"shard_file .*: its last_build is 1, but .* with 0"),
    "a row without a hash": (drop_hashes, r"shard_file .*: 1 file has another size, mtime or hash there than f saw: 0"),
    "commit flipped": (to(NEXT_COMMIT, flip), r"commit .*00001.json: is damaged"),
    "commit renamed": (
        lambda job: at(job, NEXT_COMMIT).rename(job.state / "commits" / "00009.json"),
        r"commit .*00009.json: is damaged: it is the commit of shard 1",
    ),
    "commits swapped": (swap(COMMIT, NEXT_COMMIT), r"commit .*00001.json: is damaged: it is the commit of shard 0"),
    "commit miscounted": (
        lambda job: rewrite(at(job, COMMIT), "commit", n_done=5),
        r"commit .*: its n_done is 5, but by functions they are 2",
    ),
    "commit of a later build": (
        lambda job: rewrite(at(job, COMMIT), "commit", build=5),
        r"commit .*: its build is 5, the manifest's is 1",
    ),
    "outcomes flipped": (to(OUTCOMES, flip), r"outcomes .*arrow: is damaged"),
    "outcomes cut": (to(OUTCOMES, cut), r"outcomes .*arrow: is damaged"),
    "outcomes gone": (to(OUTCOMES, Path.unlink), r"outcomes .*arrow: is missing"),
    "outcomes swapped": (swap(OUTCOMES, NEXT_OUTCOMES), r"outcomes .*00001.*arrow: is damaged"),
    "an outcome twice": (double_an_outcome, r"outcomes .*: 1 file have more than one outcome in it: places 0"),
    "columns flipped": (to(COLUMNS, flip), r"columns .*: is damaged"),
    "columns gone": (to(COLUMNS, Path.unlink), r"columns .*: is missing or another job's"),
}
"""Damage that nothing but a copy mends; all of it to state."""

RUN_MENDS: dict[str, tuple[Damage, str]] = {
    "csv part gone": (to(CSV, Path.unlink), r"part .*part-00000.csv: is missing"),
    "parquet part gone": (to(PARQUET, Path.unlink), r"part .*part-00000.parquet: is missing"),
    "csv part cut": (to(CSV, cut), r"part .*csv: has [\d,]+ bytes, its commit says \d+"),
    "parquet part cut": (to(PARQUET, cut), r"part .*parquet: has [\d,]+ bytes, its commit says"),
    "a row of csv gone": (to(CSV, drop_a_row), r"values .*csv: from line 3 on it is not"),
    "parquet edited": (
        write_values(lambda _: pa.array([0, 3], pa.int64())),
        r"values .*parquet: from byte [\d,]+ on it is not",
    ),
    "parquet of other types": (
        write_values(lambda values: values.cast(pa.float64())),
        r"values .*parquet: (from byte|it goes on)",
    ),
    "failures.csv gone": (to(FAILURES, Path.unlink), r"failures .*failures.csv: is missing"),
    "_SUCCESS gone": (to(SUCCESS, Path.unlink), r"success .*csv/_SUCCESS: is missing, but every file has its outcome"),
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

REMOVAL_MENDS: dict[str, tuple[Damage, str]] = {
    "csv byte flipped": (to(CSV, flip, 3), r"part .*csv: is not the file that was written"),
    "parquet byte flipped": (to(PARQUET, flip, 30), r"part .*parquet: is not the file that was"),
    "csv parts swapped": (swap(CSV, NEXT_CSV), r"values .*part-00000.csv: from line 2 on"),
    "failures.csv edited": (
        to(FAILURES, edit, b"bad 7", b"bad 8"),
        r"failures .*: the failure number 2 in it is not what the outcomes say",
    ),
    "failures.csv longer": (to(FAILURES, add_a_failure), r"failures .*: has more failures than the outcomes"),
    "failures.csv of another header": (
        to(FAILURES, edit, b"path", b"file"),
        r"failures .*: its header is not what the outcomes say",
    ),
    "_SUCCESS with content": (write(SUCCESS, "yes"), r"success .*csv/_SUCCESS: is not empty"),
    "a foreign part": (
        lambda job: shutil.copy(at(job, CSV), job.output / "csv" / "part-00077.csv"),
        r"foreign .*csv/part-00077.csv: no commit names it",
    ),
    "a foreign file": (write("output/parquet/.notes", "x"), r"foreign .*parquet/.notes: no commit names it"),
    "a foreign file beside failures.csv": (
        write("output/failures/copy.csv", "x"),
        r"foreign .*failures/copy.csv: r3po did not write it",
    ),
    "a foreign file among commits": (write("state/commits/README", "x"), r"foreign .*commits/README: is no commit"),
    "a foreign file among segments": (write("state/segments/x", "x"), r"foreign .*segments/x: is no segment"),
    "damaged suspects": (write("state/suspects.json", "{"), r"suspects .*suspects.json: is damaged"),
}
"""Damage that is mended by removing (or moving) the file that is named, and `r3po run`."""


@pytest.mark.parametrize("name", [*RESTORED, *RUN_MENDS, *REMOVAL_MENDS])
def test_damage_is_found_and_what_is_said_mends_it(job: Job, name: str) -> None:
    damage, expected = (RESTORED | RUN_MENDS | REMOVAL_MENDS)[name]
    shutil.copytree(job.state, job.root / "copy")
    damage(job)
    result = verify(job)
    found = [text for text in said(result) if re.match(expected, text)]
    assert found, said(result)
    if name in RESTORED:
        assert len(found) == 1 and "a copy" in found[0] and "r3po reset --all" in found[0]
        shutil.rmtree(job.state)
        (job.root / "copy").rename(job.state)
        assert_good(job)
        return
    assert found[0].endswith("(r3po run)") or name in REMOVAL_MENDS
    for finding in result.findings:
        if finding.hint != "r3po run" and name in REMOVAL_MENDS:
            assert "remove it" in finding.hint or "move it elsewhere" in finding.hint
            Path(finding.where).unlink(missing_ok=True)
    job.run()
    assert_good(job)


ANYWHERE: dict[str, Callable[[bytes], bytes]] = {
    "the first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a byte in the middle": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
    ),
    "the last byte": lambda data: data[:-1] + bytes([data[-1] ^ 2]),
    "two bytes less": lambda data: data[:-2],  # one could be the newline after JSON
    "one byte more": lambda data: data + b"x",
    "nothing in it": lambda data: b"",
}


@pytest.mark.parametrize("name", [*ANYWHERE, "all of it"])
def test_no_file_can_change_or_go_without_a_finding(job: Job, name: str) -> None:
    """Every file of a finished job says something, all but the lock and the runs."""
    every = [path for root in (job.state, job.output) for path in sorted(root.rglob("*")) if path.is_file()]
    files = [path for path in every if not path.name.startswith("lock") and "runs" not in path.parts]
    assert len(files) > 18
    for path in files:
        before = path.read_bytes()
        if name == "all of it":
            path.unlink()
        elif before or name == "one byte more":
            path.write_bytes(ANYWHERE[name](before))
        else:
            continue
        result = verify_jobs(job.config)
        assert not result.is_good and all(finding.hint for finding in result.findings), path
        path.write_bytes(before)
    assert_good(job)


def test_a_commit_that_is_gone_leaves_files_to_do_and_parts_to_move(job: Job) -> None:
    at(job, NEXT_COMMIT).unlink()
    result = verify(job)
    assert result.counts == {"pending": 1, "foreign": 2, "success": 2} and result.pending == 3
    for finding in result.findings:
        if finding.kind == "foreign":
            assert finding.hint == "move it elsewhere, then: r3po run"
            Path(finding.where).unlink()
    job.run()
    assert_good(job)


@pytest.mark.parametrize("name", [SHARD_FILE, OUTCOMES, NEXT_COMMIT, CSV])
def test_a_file_that_the_disk_does_not_give_is_a_finding_like_another(job: Job, name: str) -> None:
    (job.output / "parquet" / "_SUCCESS").unlink()
    path = at(job, name)
    path.unlink()
    path.mkdir()  # so that reading it is refused, even to root
    result = verify(job)
    assert str(path) in {finding.where for finding in result.findings}, said(result)
    assert all(finding.hint for finding in result.findings)


def test_all_findings_are_reported_not_only_the_first(job: Job) -> None:
    flip(at(job, OUTCOMES))
    at(job, NEXT_CSV).unlink()
    (job.output / "parquet" / "_SUCCESS").unlink()
    (job.output / "csv" / "x").touch()
    flip(job.state / "commits" / "00002.json")
    assert set(verify(job).counts) == {"outcomes", "part", "foreign", "commit"}


# The end and the claim


def test_a_success_of_a_kind_that_is_off_is_found(new_job: NewJob) -> None:
    job = small_job(new_job, csv=False)
    (job.output / "csv").mkdir()
    (job.output / "csv" / "_SUCCESS").touch()
    (finding,) = verify(job).findings
    assert (finding.kind, finding.hint) == ("success", "remove it")
    Path(finding.where).unlink()
    assert_good(job)


def test_a_lost_claim_is_found_and_its_remedy_works(job: Job, new_job: NewJob) -> None:
    other = new_job("other")
    other.add("a.json", value=1)
    other.run()
    claim = job.output / ".r3po.json"
    for damage, said in (
        (lambda: shutil.copy(other.output / ".r3po.json", claim), "another output_path"),
        (lambda: flip(claim), "move the folders csv and parquet elsewhere"),
        (lambda: claim.unlink(), "move the folders csv and parquet elsewhere"),
    ):
        damage()
        (finding,) = verify(job).findings
        assert finding.kind == "claim" and said in finding.hint
    for kind in ("csv", "parquet"):
        (job.output / kind).rename(job.root / f"old_{kind}")
    job.run()
    assert_good(job)
    assert (job.root / "old_csv" / "part-00000.csv").read_bytes() == at(job, CSV).read_bytes()


def unpublish(job: Job, shard: int) -> list[tuple[Path, Path]]:
    """Bring the parts of a shard back to where they are decided, but not renamed; return from where, and to where."""
    folders = job_folders(load_config(job.config))
    moved = []
    for part in read_commits(folders, manifest_of(job).job_id)[shard].parts:
        assert part.staged is not None
        moved.append((folders.output.data(part.kind) / part.name, folders.output.staging / part.staged.name))
        moved[-1][0].rename(moved[-1][1])
    return moved


def test_a_part_that_is_decided_but_not_renamed_is_found_and_a_run_publishes_it(job: Job) -> None:
    unpublish(job, 0)
    result = verify(job)
    assert result.counts == {"part": 2}
    assert all("is decided, but not published" in f.what and f.hint == "r3po run" for f in result.findings)
    job.run()
    assert_good(job)


def test_a_reset_that_was_killed_is_found(job: Job) -> None:
    write_json(job.state / "reset", {"format": FORMAT, "kind": "reset", "job_id": None})
    assert "reset" in verify(job).counts


def test_what_a_killed_run_left_is_a_note_and_the_next_run_removes_it(job: Job) -> None:
    for folder in (job.state, job.state / "commits", job.state / "outcomes", job.output / "failures"):
        (folder / f".{'0' * 32}.tmp").touch()
    (job.output / ".staging" / "part-00000.csv.x.tmp").touch()
    (job.state / "outcomes" / "00000.b1.x-1.arrow").touch()
    result = assert_good(job)
    assert len(result.notes) == 5
    job.run()
    assert assert_good(job).notes == ()


# The source


def test_the_source_is_compared_file_by_file(job: Job) -> None:
    (job.source / "5.json").touch()  # the content is the same, so it is no finding
    (job.source / "0.json").unlink()
    job.add("3.json", value=9)
    job.add("11.json", value=1)
    assert_good(job)
    result = verify(job, source=True)
    assert sorted((Path(f.where).name, f.what) for f in result.findings) == [
        ("0.json", "is gone"),
        ("11.json", "is new: the manifest does not have it"),
        ("3.json", "its content is not what f saw"),
    ]
    assert result.source_files == 8
    job.source.rename(job.root / "away")
    assert_good(job)
    with pytest.raises(SourceError, match="source folder not found"):
        verify_jobs(job.config, source=True)


def test_without_hashes_size_and_mtime_are_compared(new_job: NewJob) -> None:
    job = small_job(new_job, hash="stat")
    assert_good(job, source=True)
    (job.source / "3.json").touch()
    (finding,) = verify(job, source=True).findings
    assert finding.what == "its size or mtime is not what f saw"


# While a run is going on


def test_a_run_that_is_going_on_is_said_and_does_no_harm(job: Job) -> None:
    for i in range(4):
        job.add(f"9{i}.json", value=i, **({"wait_for": "gate"} if i == 3 else {}))
    thread = threading.Thread(target=job.run)
    thread.start()
    try:
        wait_until(lambda: "93.json" in job.calls(), "the run waits at the last file")
        for _ in range(3):
            result = verify_jobs(job.config)
            assert result.is_good, said(result)
            assert any("files are to do: the run that is going on does them" in note for note in result.notes)
            assert any(note.startswith(f"a run is going on: pid {os.getpid()}") for note in result.notes)
    finally:
        (job.root / "gate").touch()
        thread.join(60)
    assert_good(job)


@pytest.mark.parametrize("n_checked", [0, 2], ids=["after the commits were read", "when it is nearly done"])
def test_what_a_run_decides_in_the_middle_is_looked_at_again(
    job: Job, monkeypatch: pytest.MonkeyPatch, n_checked: int
) -> None:
    """The run replaces commits, outcomes and parts, and verify has read some of them."""
    job.mend()
    if n_checked:
        package.reset_all_errors(job.config)
        assert verify(job).pending == 2
    real, calls = jobverify.check_shard, iter(range(100))

    def check_shard(*args: Any, **options: Any) -> Any:
        if next(calls) == n_checked:
            job.run(retry_failed=True)
        return real(*args, **options)

    monkeypatch.setattr(jobverify, "check_shard", check_shard)
    result = verify_jobs(job.config)
    assert said(result) == [] and (result.failed, result.pending) == (0, 0)
    assert next(calls) > 3


def test_a_run_gets_time_to_publish_what_it_has_decided(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = unpublish(job, 1)
    monkeypatch.setattr(jobverify, "running_pid", lambda folder: os.getpid())
    monkeypatch.setattr(jobverify.time, "sleep", lambda seconds: [staged.rename(part) for part, staged in moved])
    assert said(verify_jobs(job.config)) == []


# The command


def test_the_command_lists_findings_with_their_remedies_and_json_has_the_same_fields(job: Job) -> None:
    edit(at(job, CSV), b'"0.json",0', b'"0.json",9')
    at(job, NEXT_PARQUET).unlink()
    ended = r3po("verify", cwd=job.root)
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines()[:7] == [
        "3 findings in tiny: 2 part, 1 values",
        "part        output/csv/part-00000.csv: is not the file that was written: its sha256 is not the one that its"
        " commit names",
        "hint:       remove it, then: r3po run",
        "part        output/parquet/part-00001.parquet: is missing",
        "hint:       r3po run",
        "values      output/csv/part-00000.csv: from line 2 on it is not what the outcomes give",
        "hint:       remove it, then: r3po run",
    ]
    ended = r3po("verify", "--source", "--json", cwd=job.root)
    assert ended.code == 1
    found = ended.json()
    numbers = {"files": 8, "done": 6, "rows": 6, "failed": 2, "pending": 0, "parts": 5, "source_files": 8}
    counts = {"counts": {"part": 2, "values": 1}, "size_bytes": found["size_bytes"]}
    findings = found.pop("findings")
    assert found == {"schema_version": 1, "job_name": "tiny", "notes": [], **numbers, **counts}
    missing = {"kind": "part", "where": str(job.root / NEXT_PARQUET), "what": "is missing", "hint": "r3po run"}
    assert len(findings) == 3 and missing in findings


def test_the_command_shows_the_first_of_many_and_counts_the_rest(job: Job) -> None:
    for i in range(1200):
        (job.output / "csv" / f"x{i}").touch()
    ended = r3po("verify", cwd=job.root)
    assert ended.out.count("no commit names it") == 10
    assert "foreign     and 1,190 more: r3po verify --json" in ended.out
    found = r3po("verify", "--json", cwd=job.root).json()
    assert found["counts"] == {"foreign": 1200} and len(found["findings"]) == 1000


def test_the_command_ends_with_2_where_there_is_no_job(new_job: NewJob, tmp_path: Path) -> None:
    job = new_job()
    ended = r3po("verify", cwd=job.root)
    assert ended.code == 2 and "there is no job here yet" in ended.err and "r3po run" in ended.err
    assert r3po("verify", "missing.yaml", cwd=job.root).code == 2
    with pytest.raises(ConfigError):
        verify_jobs(tmp_path / "missing.yaml")


def test_verify_loads_neither_ray_nor_pandas(job: Job) -> None:
    code = (
        "import sys; sys.argv = ['r3po', 'verify']\n"
        "from r3po.cli.app import run_command\n"
        "assert run_command() == 0 and not {'ray', 'pandas'} & set(sys.modules)\n"
        "assert 'pyarrow' in sys.modules\n"
    )
    assert run_python("-c", code, cwd=job.root).code == 0
