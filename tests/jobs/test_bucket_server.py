"""Files in a bucket of a real S3 server that fails, is killed, emptied, misconfigured; and what keys may look like."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from jobs import Job, kill_tree, make_job, r3po, run_process, running
from r3po.config.settings import load_config
from r3po.function.find import find_function
from r3po.source.sources import store_of
from r3po.state.folders import JobFolders
from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectStore
from r3po.worker.messages import WorkerSetup
from seaweed import USERS, Seaweed, credentials
from store_proxy import (
    INTERNAL,
    SLOW_DOWN,
    TOO_MANY,
    Cut,
    Delay,
    Fault,
    FaultyProxy,
    Lost,
    OldListing,
    Rule,
    Rules,
    Short,
    Status,
    Torn,
    key_of,
    s3_error,
)

pytestmark = [pytest.mark.long, pytest.mark.faults]

N_FILES = 60

FUNCTION = """\
import json
import time

import r3po


def double(filepath):
    time.sleep(0.02)
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n == 13:
        raise ValueError("thirteen")
    return {"n": n, "twice": 2 * n, "key": r3po.current_file()}
"""


@pytest.fixture
def job(tmp_path: Path, bucket: str) -> Job:
    """Sixty objects, of which one fails, in six shards."""
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}"))
    for n in range(N_FILES):
        store.write(f"raw/{n // 25}/{n:03}.json", b'{"n": %d}' % n)
    keys = {"source_path": f"s3://{bucket}/raw", "shard_size": 10, "engine": "processes", "batch_seconds": 0.2}
    return make_job(tmp_path, 0, FUNCTION, **keys)


@pytest.fixture
def store(bucket: str, seaweed: Seaweed) -> ObjectStore:
    """The bucket, past any proxy."""
    from r3po.storage.object_urls import StoreOptions

    return ObjectStore(ObjectUrl.parse(f"s3://{bucket}"), StoreOptions(endpoint=seaweed.endpoint))


@pytest.fixture
def expected(job: Job) -> dict[str, bytes]:
    """The parts that the same files on a disk give."""
    folder = job.folder / "on_disk"
    for n in range(N_FILES):
        path = folder / "files" / str(n // 25) / f"{n:03}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"n": {n}}}')
    settings = {"source_path": str(folder / "files"), "shard_size": 10, "engine": "serial"}
    other = make_job(folder, 0, FUNCTION, **settings)
    assert other.run().code == 1
    return other.parts()


FAILING = (SLOW_DOWN, Cut(), Lost(), Cut(3))
"""What happens to requests while runs are killed."""


@pytest.mark.parametrize("share", [0.0, 0.2], ids=["quiet", "failing"])
def test_kills_lose_nothing_and_double_nothing(
    share: float, job: Job, expected: dict[str, bytes], proxy: FaultyProxy
) -> None:
    is_object = lambda path: key_of(path).endswith(".json")  # noqa: E731
    proxy.choose = Rules(*(Rule(fault, share=share / len(FAILING), where=is_object) for fault in FAILING), seed=5)
    for n_commits in (0, 2, 4):
        with running("run", cwd=job.folder) as run:
            run.wait_until(lambda n=n_commits: _is_beyond(job, n), f"{n_commits} commits and a segment")  # type: ignore[misc]
            kill_tree(run.pid)
    assert run_process("run", cwd=job.folder).code == 1
    assert job.parts() == expected
    assert r3po("verify", "--source", cwd=job.folder).code == 0
    assert (sum(proxy.counts.values()) > 5) == (share > 0)


FAULTS: dict[str, tuple[Fault, str | None]] = {
    "cut before": (Cut(), None),
    "cut within": (Cut(5), "GET"),
    "too many": (TOO_MANY, None),
    "internal": (INTERNAL, None),
    "slow down": (SLOW_DOWN, None),
    "too short": (Short(3), "GET"),
    "late": (Delay(1.0), None),
    "torn": (Torn(), None),
    "answer lost": (Lost(), None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_costs_no_file(name: str, job: Job, expected: dict[str, bytes], proxy: FaultyProxy) -> None:
    fault, method = FAULTS[name]
    is_object = lambda path: key_of(path).endswith(".json")  # noqa: E731
    proxy.choose = Rules(Rule(fault, share=0.15, method=method, where=is_object), seed=3)
    ended = run_process("run", cwd=job.folder)
    assert ended.code == 1, ended.err
    assert proxy.counts[fault] >= 2
    assert job.parts() == expected


def test_a_listing_that_fails_now_and_then_is_whole(job: Job, expected: dict[str, bytes], proxy: FaultyProxy) -> None:
    faults = (SLOW_DOWN, Cut(), Cut(20), Short(5))
    rules = [Rule(fault, times=2, where=lambda path: "max-keys=1000" in path) for fault in faults]
    proxy.choose = Rules(*rules, Rule(SLOW_DOWN, times=2, where=lambda path: "max-keys=1&" in path))
    assert r3po("run", "--engine", "serial", cwd=job.folder).code == 1
    assert proxy.counts == {SLOW_DOWN: 4, Cut(): 2, Cut(20): 2, Short(5): 2}
    assert job.parts() == expected


def test_an_old_listing_loses_no_row(job: Job, store: ObjectStore, proxy: FaultyProxy) -> None:
    job.write_config(engine="serial")
    assert job.run().code == 1
    store.delete("raw/0/001.json")
    store.write("raw/0/002.json", b'{"n": 1002}')
    store.write("raw/9/new.json", b'{"n": 7}')
    proxy.choose = Rules(Rule(OldListing()))
    assert job.run().code == 1
    assert [row["n"] for row in job.rows()][:3] == ["0", "1", "2"]
    proxy.choose = lambda method, path: None
    assert job.run().code == 1
    assert [row["n"] for row in job.rows()][:2] == ["0", "1002"]
    assert job.rows()[-1]["n"] == "7"


def test_an_object_that_is_replaced_between_listing_and_reading_is_what_is_recorded(
    job: Job, store: ObjectStore, proxy: FaultyProxy
) -> None:
    replaced = threading.Event()

    def choose(method: str, path: str) -> Fault | None:
        if method == "GET" and key_of(path) == "raw/1/030.json" and not replaced.is_set():
            replaced.set()
            store.write("raw/1/030.json", b'{"n": 9030}')
        return None

    proxy.choose = choose
    assert r3po("run", "--engine", "serial", cwd=job.folder).code == 1
    assert replaced.is_set()
    assert "9030" in [row["n"] for row in job.rows()]
    proxy.requests.clear()
    ended = r3po("run", "--engine", "serial", cwd=job.folder)
    assert "nothing new" in ended.err, "what was recorded is the new one's tag"
    assert r3po("verify", "--source", cwd=job.folder).code == 0


def test_a_bucket_that_is_emptied_during_a_run_ends_it_and_no_row_goes(
    job: Job, store: ObjectStore, proxy: FaultyProxy
) -> None:
    n_read = iter(range(10_000))

    def choose(method: str, path: str) -> Fault | None:
        if method == "GET" and key_of(path).endswith(".json") and next(n_read) == 20:
            for n in range(N_FILES):
                store.delete(f"raw/{n // 25}/{n:03}.json")
        return None

    proxy.choose = choose
    first = r3po("run", "--engine", "serial", cwd=job.folder)
    assert first.code == 1, first.err
    done = job.status()["done"]
    assert 0 < done < N_FILES - 1, first.err
    again = job.run()
    assert again.code == 2
    assert "are gone from" in again.err or "no file under" in again.err
    assert job.status()["done"] == done


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """A server that may be killed."""
    with Seaweed(tmp_path / "server") as server:
        server.make_bucket("own")
        for name, value in {**credentials(), "AWS_ENDPOINT_URL": server.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield server


def own_job(folder: Path, n_files: int, shard_size: int) -> Job:
    """Return a job whose files are on that server."""
    store = ObjectStore(ObjectUrl.parse("s3://own"))
    for n in range(n_files):
        store.write(f"raw/{n:03}.json", b'{"n": %d}' % n)
    keys = {"source_path": "s3://own/raw", "shard_size": shard_size, "engine": "processes", "batch_seconds": 0.2}
    return make_job(folder / "job", 0, FUNCTION, **keys)


def test_a_server_that_is_killed_and_comes_back_costs_nothing(own_server: Seaweed, tmp_path: Path) -> None:
    job = own_job(tmp_path, 200, shard_size=50)
    with running("run", cwd=job.folder) as run:
        run.wait_until(lambda: _is_beyond(job, 1), "a commit and a segment")
        own_server.kill()
        time.sleep(2.0)  # it is away for a while: that is the test
        own_server.start()
        ended = run.end(120)
    assert ended.code in (1, 3), ended.err
    if ended.code == 3:
        assert "what was done is saved" in ended.err
        assert run_process("run", cwd=job.folder).code == 1
    told = job.status()
    assert (told["done"], told["failed"], told["pending"]) == (199, 1, 0)
    assert sorted(int(row["n"]) for row in job.rows()) == [n for n in range(200) if n != 13]


def test_a_server_that_is_gone_for_good_stops_the_run_and_what_was_done_is_kept(
    own_server: Seaweed, tmp_path: Path
) -> None:
    n_files = 800  # more than what is read ahead of f
    job = own_job(tmp_path, n_files, shard_size=25)
    with running("run", cwd=job.folder) as run:
        run.wait_until(lambda: _is_beyond(job, 1), "a commit and a segment")
        own_server.kill()
        ended = run.end(180)
    assert ended.code == 3, ended.err
    assert "it looks like the store rather than the files" in ended.err
    assert "what was done is saved; run again once the store answers" in ended.err and "Traceback" not in ended.err
    told = job.status()
    assert (told["failed"] <= 1, told["done"] >= 25, told["pending"] > 0) == (True, True, True), "none is charged"
    again = run_process("run", cwd=job.folder)
    assert again.code == 2 and "nobody takes the connection" in again.err
    own_server.start()
    assert run_process("run", cwd=job.folder).code == 1
    assert sorted(int(row["n"]) for row in job.rows()) == [n for n in range(n_files) if n != 13]


def test_verify_tells_of_objects_that_are_changed_gone_and_new(job: Job, store: ObjectStore) -> None:
    job.write_config(engine="serial")
    assert job.run().code == 1
    assert r3po("verify", "--source", cwd=job.folder).code == 0
    store.write("raw/0/001.json", b'{"n": 1001}')
    store.delete("raw/0/002.json")
    store.write("raw/9/new.json", b'{"n": 7}')
    found = r3po("verify", "--source", "--json", cwd=job.folder)
    assert found.code == 1, found.err
    told = {finding["where"].rpartition("/raw/")[2]: finding for finding in found.json()["findings"]}
    assert told.keys() == {"0/001.json", "0/002.json", "9/new.json"}, found.out


ODD_KEYS = [
    "a b.json", "a%20b.json", "a+b.json", "a&b=c.json", "ü/é.json", "日本.json", "quote'\".json", "x/a..json",
    "deep//er.json", "trailing/x.json/y.json", "trailing/x.json", "#1.json", "?q.json", "~t.json", "-dash.json",
    "[b].json",
]  # fmt: skip


AS_SEAWEEDFS_HAS_IT = {"deep//er.json": "deep/er.json"}
"""It keeps objects in folders: two slashes are one."""


@pytest.mark.parametrize("given", ["path", "bytes"])
def test_odd_keys_are_files_like_others(
    given: str, bucket: str, store: ObjectStore, seaweed: Seaweed, tmp_path: Path
) -> None:
    for n, key in enumerate(ODD_KEYS):
        seaweed.request("PUT", f"/{bucket}/{quote(f'raw/{key}')}", b'{"n": %d}' % n)  # whatever obstore makes of it
    seaweed.request("PUT", f"/{bucket}/raw/folder/", b"")
    written = {AS_SEAWEEDFS_HAS_IT.get(key, key) for key in ODD_KEYS}
    text = (
        "import json, pathlib, r3po\ndef double(path, data=b''):\n    text = data or pathlib.Path(path).read_bytes()\n"
    )
    text += "    return {'n': json.loads(text)['n'], 'key': r3po.current_file()}\n"
    if given == "path":
        text = text.replace(", data=b''", "").replace("data or ", "")
    else:
        text = text.replace("data=b''", "data")
    job = make_job(tmp_path, 0, text, source_path=f"s3://{bucket}/raw", engine="serial", input=given, source_column="f")
    ended = job.run()
    assert ended.code == 0, ended.err
    assert {row["f"] for row in job.rows()} == {row["key"] for row in job.rows()} == written
    assert [row["f"].encode() for row in job.rows()] == sorted(key.encode() for key in written)


def test_a_large_object_goes_through_the_disk(bucket: str, store: ObjectStore, tmp_path: Path) -> None:
    content = tmp_path / "content"
    with open(content, "wb") as file:
        for n in range(150):
            file.write(bytes([n]) * (1 << 20))
    store.write("raw/large.bin", content)
    text = "import os, resource\ndef double(path):\n"
    text += "    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    text += "    return {'size': os.path.getsize(path), 'peak_kib': peak, 'place': path[:9]}\n"
    keys = {"source_path": f"s3://{bucket}/raw", "source_file_part": ".bin", "engine": "processes", "processes": 1}
    job = make_job(tmp_path / "job", 0, text, **keys)
    ended = run_process("run", cwd=job.folder)
    assert ended.code == 0, ended.err
    (row,) = job.rows()
    assert (int(row["size"]), row["place"] == "/dev/shm/") == (150 << 20, False)
    assert int(row["peak_kib"]) < 150 << 10, "it is not in memory as a whole"


# What is wrong from the start


def _silent() -> tuple[socket.socket, str]:
    """Return a server that takes connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    return server, f"http://127.0.0.1:{server.getsockname()[1]}"


KEY, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
NOBODY: dict[str, str | None] = {KEY: None, SECRET: None, "AWS_EC2_METADATA_DISABLED": "true"}
WRONG: dict[str, tuple[dict[str, str | None], dict[str, Any], str]] = {
    "no credentials": (NOBODY, {}, "no credentials for S3 were found"),
    "no profile": ({}, {"storage_options": {"profile": "nobody"}}, "The config profile (nobody) could not be found"),
    "secret": ({SECRET: "recognisable-and-wrong"}, {}, "the secret does not belong to the access key"),
    "key": ({KEY: "AKIANOBODY"}, {}, "the store does not know the access key"),
    "bucket": ({}, {"source_path": "s3://no-such-bucket/raw"}, "there is no such bucket"),
    "folder": ({}, {"source_path": "s3://BUCKET/nothing"}, "no file under s3://BUCKET/nothing/"),
    "list": ({KEY: USERS["blind"][0], SECRET: USERS["blind"][1]}, {}, "the credentials do not allow to list"),
    "refused": ({}, {"storage_options": {"endpoint": "http://127.0.0.1:9"}}, "nobody takes the connection"),
    "silent": ({}, {"storage_options": {"endpoint": "SILENT"}}, "no answer in time"),
    "no tls": ({}, {"storage_options": {"endpoint": "HTTPS"}}, "no trusted TLS connection"),
    "host": ({}, {"storage_options": {"endpoint": "http://no-such-host.invalid"}}, "the host's name is not known"),
    "proxy": (
        {"HTTPS_PROXY": "http://127.0.0.1:9"},
        {"storage_options": {"endpoint": "https://store.invalid"}},
        "the proxy does not let it through",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_error_within_20_s_before_a_file_is_charged(
    what: str, job: Job, bucket: str, seaweed: Seaweed
) -> None:
    variables, keys, message = WRONG[what]
    server, silent = _silent()
    words = {"BUCKET": bucket, "SILENT": silent, "HTTPS": seaweed.endpoint.replace("http:", "https:")}
    text = json.dumps(keys)
    for word, meant in words.items():
        text, message = text.replace(word, meant), message.replace(word, meant)
    job.write_config(**json.loads(text))
    began = time.monotonic()
    ended = run_process("run", "--json", cwd=job.folder, **variables)
    assert time.monotonic() - began < 20
    server.close()
    assert ended.code == 2, ended.err
    assert message in ended.err and "hint:" in ended.err
    assert "Traceback" not in ended.err and "recognisable" not in ended.said
    assert not list((job.folder / "work").glob("segments/*"))


def test_objects_that_may_be_listed_and_not_read_stop_the_run_before_one_is_charged(
    job: Job, proxy: FaultyProxy
) -> None:
    is_object = lambda path: key_of(path).endswith(".json")  # noqa: E731
    proxy.choose = Rules(Rule(s3_error(403, "AccessDenied"), method="GET", where=is_object))
    ended = r3po("run", "--engine", "serial", cwd=job.folder)
    assert ended.code == 3, ended.err
    assert "the store does not allow to read it" in ended.err
    told = job.status()
    assert (told["done"], told["failed"], told["pending"]) == (0, 0, N_FILES)
    proxy.choose = lambda method, path: None
    assert job.run().code == 1
    assert len(job.rows()) == N_FILES - 1


def test_a_bucket_in_another_region_is_told_with_its_name(job: Job, proxy: FaultyProxy) -> None:
    said = "<Message>it is elsewhere</Message><Region>eu-central-1</Region>"
    body = f"<Error><Code>AuthorizationHeaderMalformed</Code>{said}</Error>".encode()
    proxy.choose = Rules(Rule(Status(400, body, (("Content-Type", "application/xml"),))))
    ended = run_process("run", cwd=job.folder)
    assert ended.code == 2
    assert "the bucket is in another region" in ended.err
    assert "storage_options: {region: eu-central-1}" in ended.err
    assert job.status()["pending"] == 0, "not even listed"


def test_no_secret_is_in_any_file_answer_or_pickle(job: Job, bucket: str, proxy: FaultyProxy) -> None:
    secret = USERS["admin"][1]
    proxy.choose = Rules(Rule(SLOW_DOWN, share=0.1), seed=1)
    told = [
        run_process(*command, cwd=job.folder)
        for command in (("try",), ("run", "--json"), ("status", "--json"), ("errors", "--json"), ("verify", "--json"))
    ]
    proxy.choose = lambda method, path: None
    told.append(run_process("run", cwd=job.folder, AWS_SECRET_ACCESS_KEY="recognisable-and-wrong"))
    assert all(secret not in ended.said and "recognisable" not in ended.said for ended in told)
    kept = [path for path in job.folder.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert {"events.jsonl", "summary.json", "manifest.json"} <= {path.name for path in kept}
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    store = store_of(load_config(job.config))
    assert store is not None
    store.look("raw/0/000.json")  # it has its credentials now
    setup = WorkerSetup(
        JobFolders(job.working_dir, job.output),
        str(store.url),
        find_function("double.py:double", job.folder),
        "path",
        "content",
        1.0,
        job.folder / "stop",
        job.folder,
        store=store,
    )
    assert secret.encode() not in pickle.dumps(store)
    assert secret.encode() not in pickle.dumps(setup), "what goes to each worker"
    assert pickle.loads(pickle.dumps(setup)).store.read("raw/0/000.json")[0] == b'{"n": 0}'


# Private functions


def _is_beyond(job: Job, n_commits: int) -> bool:
    work = job.working_dir
    return len(list(work.glob("commits/*.json"))) >= n_commits and any(work.glob("segments/*"))
