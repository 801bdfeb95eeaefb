"""A table in a bucket of a real S3 server: made, made again, moved, removed, read by others, and refused."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pandas
import polars
import pyarrow.dataset
import pyarrow.fs
import pytest

from jobs import PICKY, Job, kill_tree, make_job, r3po, run_process, running
from r3po import run_jobs
from r3po.config.settings import load_config
from r3po.state.job import job_folders
from r3po.storage import objects
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore
from seaweed import USERS, Seaweed
from store_proxy import SLOW_DOWN, Cut, FaultyProxy, Lost, Rule, Rules, s3_error

pytestmark = pytest.mark.long


FUNCTION = PICKY.format(bad=[4])


@pytest.fixture
def job(tmp_path: Path, bucket: str) -> Job:
    """Six files, of which one fails, in two shards; the table is in the bucket."""
    return make_job(tmp_path, function=FUNCTION, output_path=f"s3://{bucket}/a b/table", shard_size=3)


@pytest.fixture
def store(job: Job) -> ObjectStore:
    return ObjectStore(ObjectUrl.parse(job.settings["output_path"]))


def content_of(store: ObjectStore) -> dict[str, bytes]:
    """Return what is below the URL, by path, but for the claim."""
    keys = [info.key for page in store.list_pages() for info in page]
    found = {key.removeprefix(store.url.prefix): store.read(key)[0] for key in keys}
    return {path: content for path, content in found.items() if path != ".r3po.json"}


def test_the_table_is_the_same_as_on_a_disk(job: Job, store: ObjectStore, tmp_path: Path) -> None:
    ended = job.run()
    assert ended.code == 1, ended.err
    url = job.settings["output_path"]
    assert f'pd.read_parquet("{url}/parquet")' in ended.err
    assert f"{url}/failures/failures.csv   1 failed file" in ended.err
    found = content_of(store)
    assert json.loads(store.read(store.url.key_of(".r3po.json"))[0])["job_name"] == "doubles"
    job.write_config(output_path="on_disk", working_dir="work_on_disk")
    job.run()
    on_disk = {
        str(path.relative_to(tmp_path / "on_disk")): path.read_bytes()
        for path in (tmp_path / "on_disk").rglob("*")
        if path.is_file() and path.name != ".r3po.json"
    }
    assert found == on_disk
    assert not list((job.working_dir / ".staging").iterdir())
    assert len(list((job.working_dir / "published").iterdir())) == 5  # of the parts, and of failures.csv


def test_what_others_read_by_the_url_that_the_summary_prints(job: Job, bucket: str, seaweed: Seaweed) -> None:
    result = run_jobs(job.config, engine="serial", progress=False)
    assert result.output == job.settings["output_path"]
    rows = [{"n": n, "twice": 2 * n} for n in (0, 1, 2, 3, 5)]
    assert result.to_pandas().to_dict("records") == result.to_arrow().to_pylist() == rows
    access, secret, _ = USERS["admin"]
    s3 = pyarrow.fs.S3FileSystem(
        access_key=access, secret_key=secret, endpoint_override=seaweed.endpoint, scheme="http", region="us-east-1"
    )
    folder = result.output.removeprefix("s3://")
    assert pyarrow.dataset.dataset(f"{folder}/parquet", filesystem=s3).to_table().to_pylist() == rows
    assert pandas.read_parquet(f"{folder}/parquet", filesystem=s3).to_dict("records") == rows
    where = {"endpoint_url": seaweed.endpoint, "aws_allow_http": "true", "aws_region": "us-east-1"}
    options = where | {"aws_access_key_id": access, "aws_secret_access_key": secret}
    assert polars.read_parquet(f"{result.output}/parquet/*.parquet", storage_options=options).to_dicts() == rows
    assert polars.read_csv(f"{result.output}/csv/*.csv", storage_options=options).to_dicts() == rows


def test_the_summary_names_the_endpoint_of_the_config(
    job: Job, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    job.write_config(storage_options={"endpoint": seaweed.endpoint, "region": "us-east-1"})
    ended = job.run()
    url = f"{job.settings['output_path']}/parquet"
    options = f'{{"endpoint_url": "{seaweed.endpoint}"}}'
    assert f'  Read   pd.read_parquet("{url}", storage_options={options})\n' in ended.err


def test_a_new_start_reads_no_part_and_writes_none(job: Job, store: ObjectStore, proxy: FaultyProxy) -> None:
    job.run()
    before = content_of(store)
    proxy.requests.clear()
    ended = job.run()
    assert "Nothing to do" in ended.err
    changed = [(method, path) for method, path in proxy.requests if method in ("PUT", "DELETE") and ".tmp" not in path]
    assert changed == []
    assert not [path for method, path in proxy.requests if method == "GET" and "/part-" in path]
    assert content_of(store) == before


def test_a_redo_replaces_the_parts(job: Job, store: ObjectStore) -> None:
    job.run()
    job.write_function(FUNCTION.replace("2 * n", "3 * n"))
    assert job.run("--redo").code == 1
    assert content_of(store)["csv/part-00000.csv"] == b"n,twice\n0,0\n1,3\n2,6\n"
    assert r3po("verify", "--source", cwd=job.folder).code == 0


def test_a_reset_leaves_nothing_but_what_others_put_there(job: Job, store: ObjectStore) -> None:
    store.write("a b/table/notes.txt", b"mine")
    job.run()
    ended = r3po("reset", "--all", "--yes", cwd=job.folder)
    assert ended.code == 0, ended.err
    assert content_of(store) == {"notes.txt": b"mine"}
    assert not (job.working_dir / "published").exists()
    assert not (job.working_dir / ".staging").exists()


def test_a_table_moves_from_a_disk_to_a_bucket_to_another_and_back(job: Job, seaweed: Seaweed, bucket: str) -> None:
    seaweed.make_bucket(f"{bucket}-2")
    job.output = job.folder / "out"
    tables = []
    for place in ("out", f"s3://{bucket}/one", f"s3://{bucket}-2/two", "out", f"s3://{bucket}/one"):
        job.write_config(output_path=place)
        ended = job.run()
        assert ended.code == 1, ended.err
        assert r3po("verify", "--source", cwd=job.folder).code == 0
        if place == "out":
            tables.append(job.published())
            assert not (job.working_dir / "published").exists()
        else:
            found = content_of(ObjectStore(ObjectUrl.parse(place)))
            tables.append(found)
    assert tables[1:] == tables[:1] * 4


def test_verify_tells_what_is_not_as_it_was_put(job: Job, store: ObjectStore) -> None:
    job.run()
    assert r3po("verify", cwd=job.folder).code == 0
    part = "a b/table/csv/part-00000.csv"
    content = store.read(part)[0]
    store.write(part, content.replace(b"2", b"3"))
    store.delete("a b/table/parquet/part-00001.parquet")
    store.write("a b/table/csv/mine.csv", b"mine")
    ended = r3po("verify", "--json", cwd=job.folder)
    found = {(each["kind"], each["where"], each["what"]) for each in ended.json()["findings"]}
    url = job.settings["output_path"]
    assert found == {
        ("part", f"{url}/csv/part-00000.csv", "is not the object that was put: the store gave that another tag"),
        ("part", f"{url}/parquet/part-00001.parquet", "is missing"),
        ("foreign", f"{url}/csv/mine.csv", "no commit names it"),
    }
    refused = job.run()
    assert (refused.code, "is not a part of this job" in refused.err) == (2, True)
    store.delete("a b/table/csv/mine.csv")
    assert "part-00000, part-00001" in job.run().err
    assert r3po("verify", "--source", cwd=job.folder).code == 0
    assert store.read(part)[0] == content


def test_pieces_of_a_killed_upload_are_removed(job: Job, seaweed: Seaweed, bucket: str) -> None:
    for key in ("a%20b/table/csv/part-00000.csv", "a%20b/table/mine", "other"):
        seaweed.request("POST", f"/{bucket}/{key}?uploads=")
    job.run()
    left = seaweed.request("GET", f"/{bucket}?uploads=").decode()
    assert ("part-00000.csv" in left, "table/mine" in left, "other" in left) == (False, True, True)


def test_a_table_of_another_job_is_refused(job: Job, tmp_path: Path) -> None:
    job.run()
    job.write_config(working_dir="another", job_name="another")
    ended = job.run()
    assert ended.code == 2
    assert f'{job.settings["output_path"]}: output_path belongs to another job: "doubles"' in ended.err


REFUSALS = {
    "secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "the secret does not belong to the access key"),
    "bucket": ({}, {"output_path": "s3://no-such-bucket/table"}, "there is no such bucket"),
    "permission": (
        {"AWS_ACCESS_KEY_ID": USERS["reader"][0], "AWS_SECRET_ACCESS_KEY": USERS["reader"][1]},
        {},
        "the credentials do not allow to write",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_bucket_that_cannot_be_written_is_one_error_before_a_file_is_charged(
    job: Job, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, keys, message = REFUSALS[what]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job.write_config(**keys)
    started = time.monotonic()
    ended = job.run()
    assert time.monotonic() - started < 20
    assert (ended.code, message in ended.err, "hint:" in ended.err) == (2, True, True), ended.err
    assert "Traceback" not in ended.err and "wrong" not in ended.err.replace("wrong secret", "")
    assert not list(job.working_dir.glob("segments/*"))


def test_a_store_that_fails_stops_the_run_and_the_next_one_goes_on(job: Job, proxy: FaultyProxy) -> None:
    proxy.choose = Rules(Rule(s3_error(403, "AccessDenied"), where=lambda path: "part-00001" in path))
    ended = job.run()
    assert ended.code == 3
    assert "the credentials do not allow to write" in ended.err and "what was done is saved" in ended.err
    proxy.choose = lambda method, path: None
    assert "nothing new" in job.run().err
    assert r3po("verify", "--source", cwd=job.folder).code == 0


def test_no_secret_is_in_any_file(job: Job) -> None:
    job.run("--redo")
    secret = USERS["admin"][1].encode()
    kept = [path for path in job.folder.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if secret in path.read_bytes()]
    folders = job_folders(load_config(job.config))
    assert list(folders.output.list_files())  # its client has the secret
    assert secret not in pickle.dumps(folders)


def test_large_parts_are_put_in_pieces(job: Job, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ONE_PUT_BYTES", 10)
    job.run()
    ended = job.run()
    assert "Nothing to do" in ended.err and "Repair" not in ended.err
    assert content_of(store)["csv/part-00000.csv"] == b"n,twice\n0,0\n1,2\n2,4\n"
    job.write_function(FUNCTION.replace("2 * n", "3 * n"))
    job.run("--redo")
    assert content_of(store)["csv/part-00000.csv"] == b"n,twice\n0,0\n1,3\n2,6\n"
    assert r3po("verify", "--source", cwd=job.folder).code == 0


@pytest.mark.slow
def test_kills_and_failing_requests_lose_and_double_nothing(
    tmp_path: Path, store: ObjectStore, job: Job, proxy: FaultyProxy
) -> None:
    """Two of a hundred requests fail, and the tree is killed three times while parts are put."""
    proxy.choose = Rules(*(Rule(fault, share=0.007) for fault in (SLOW_DOWN, Cut(), Lost())))
    job.add_files(*range(600))
    job.write_config(shard_size=10)
    arguments = ("run", "--engine", "processes")
    notes = job.working_dir / "published"
    for n_parts in (10, 40, 80):
        with running(*arguments, cwd=job.folder) as run:
            run.wait_until(lambda n=n_parts: notes.is_dir() and len(list(notes.iterdir())) >= n, f"{n_parts} parts")
            kill_tree(run.pid)
    ended = run_process(*arguments, cwd=job.folder)
    assert ended.code == 1, ended.err
    proxy.choose = lambda method, path: None
    verified = r3po("verify", "--source", cwd=job.folder)
    assert verified.code == 0, verified.said
    found = content_of(store)
    job.write_config(shard_size=10, output_path="on_disk", working_dir="work_on_disk")
    job.output = tmp_path / "on_disk"
    job.run()
    assert found.keys() == job.published().keys()
    on_disk = job.published("csv", "parquet")
    assert {name: found[name] for name in on_disk} == on_disk


def test_every_other_command_takes_a_url_for_a_folder(job: Job) -> None:
    job.run()
    url = job.settings["output_path"]
    said = {}
    for command in ("status", "errors", "slow", "config", "try"):
        ended = r3po(command, cwd=job.folder)
        assert ended.code in (0, 1), ended.err
        said[command] = ended.said
    assert f"output     {url}: csv, parquet" in said["status"]
    assert url in said["config"]
    assert r3po("status", "--json", cwd=job.folder).json()["files"] == 6


def test_a_job_goes_from_a_bucket_into_it(job: Job, store: ObjectStore, bucket: str) -> None:
    job.run()
    on_disk = content_of(store)
    for file in job.source.iterdir():
        store.write(f"raw/{file.name}", file.read_bytes())
    url = f"s3://{bucket}/both"
    job.write_config(source_path=f"s3://{bucket}/raw", output_path=url, working_dir="work_of_both")
    ended = job.run()
    assert ended.code == 1, ended.err
    assert content_of(ObjectStore(ObjectUrl.parse(url))) == on_disk
    verified = r3po("verify", "--source", cwd=job.folder)
    assert verified.code == 0, verified.said
    job.write_config(source_path=f"s3://{bucket}/both", output_path=f"{url}/inside", working_dir="work_inside")
    assert "source_path" in job.run().err
