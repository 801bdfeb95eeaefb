"""A text file of URLs on a web server as the source of a job."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import r3po
from r3po.errors import ConfigError, SourceError, StoreError


@dataclass
class Web:
    """A web server with a folder; its answers to HEAD and GET are counted."""

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def put(self, name: str, content: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return f"{self.url}/{name.replace(' ', '%20')}"

    def make_list(self, *lines: str) -> None:
        (self.folder / "list.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    found = Web(tmp_path / "web")
    found.folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            found.asked.append(f"GET {self.path}")
            super().do_GET()

        def do_HEAD(self) -> None:
            found.asked.append(f"HEAD {self.path}")
            super().do_HEAD()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(found.folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


def job(web: Web, tmp_path: Path, **keys: Any) -> dict[str, Any]:
    return {
        "job_name": "web",
        "source_path": f"{web.url}/list.txt",
        "source_file_part": ".json",
        "source_column": "file",
        "working_dir": str(tmp_path / "work"),
        "output_path": str(tmp_path / "out"),
        "engine": "serial",
        "processes": 1,
        **keys,
    }


def read_bytes(path: str, data: bytes) -> dict[str, Any]:
    return {"n": json.loads(data)["n"], "path": path}


def read_path(path: str) -> dict[str, Any]:
    return {"n": json.loads(Path(path).read_text())["n"], "path": r3po.current_file()}


@pytest.mark.parametrize(("input_", "f"), [("bytes", read_bytes), ("path", read_path)])
def test_the_files_of_a_list_are_those_of_a_job(input_: str, f: Any, web: Web, tmp_path: Path) -> None:
    urls = [web.put(f"{n % 3}/a {n}.json", f'{{"n": {n}}}') for n in range(20)]
    web.put("other.json", '{"n": 99}')
    web.make_list("# which files", "", *reversed(urls), urls[3], web.put("notes.txt", "x"))
    config = job(web, tmp_path, input=input_)
    result = r3po.run_jobs(config, f)
    assert (result.done, result.failed) == (20, 0)
    table = result.to_pandas()
    assert list(table["file"]) == sorted(urls) == list(table["path"])
    assert sorted(table["n"]) == list(range(20))
    # Again: each is looked at, and none is read.
    web.asked.clear()
    assert r3po.run_jobs(config, f).done == 20
    assert [line for line in web.asked if "json" in line and not line.startswith("HEAD")] == []
    # One is replaced, one goes from the list, one comes.
    web.put("1/a 4.json", '{"n": 1004}')
    web.make_list(*urls[1:], web.put("new.json", '{"n": 77}'))
    web.asked.clear()
    result = r3po.run_jobs(config, f)
    assert sorted(result.to_pandas()["n"]) == sorted([1004, 77, *(n for n in range(1, 20) if n != 4)])
    assert sorted(line for line in web.asked if line.startswith("GET") and "json" in line) == [
        "GET /1/a%204.json",
        "GET /new.json",
    ]
    assert r3po.verify_jobs(config, source=True).findings == ()


def test_a_file_that_is_not_there_is_one_recorded_failure(web: Web, tmp_path: Path) -> None:
    url = web.put("a.json", '{"n": 1}')
    web.make_list(url, f"{web.url}/gone.json")
    result = r3po.run_jobs(job(web, tmp_path, input="bytes"), read_bytes)
    assert (result.done, result.failed) == (1, 1)
    (failure,) = result.failures()
    assert (failure["path"], failure["error_type"]) == (f"{web.url}/gone.json", "FileNotFoundError")


def test_try_takes_a_url(web: Web, tmp_path: Path) -> None:
    url = web.put("a.json", '{"n": 1}')
    web.make_list(url, web.put("b.json", '{"n": 2}'))
    config = job(web, tmp_path, input="bytes")
    assert r3po.try_files(config, read_bytes, files=[url]).rows == [{"file": url, "n": 1, "path": url}]
    assert len(r3po.try_files(config, read_bytes).rows) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.json", "is no URL of a file on a web server"),
        ("ftp://host/a.json", "is no URL of a file on a web server"),
        ("https://host/a.json?token=abcdef", r"has a \? or a #"),
        ("https://me:abcdef@host/a.json", "has a name or a password"),
    ],
)
def test_a_line_that_is_no_url_is_told_with_its_number_and_without_secrets(
    line: str, reason: str, web: Web, tmp_path: Path
) -> None:
    web.make_list(web.put("a.json", "{}"), line)
    with pytest.raises(SourceError, match=f"line 2 of the list {reason}") as caught:
        r3po.run_jobs(job(web, tmp_path), read_path)
    assert "abcdef" not in str(caught.value)


def test_a_list_that_is_not_there_or_of_a_server_that_does_not_answer_is_one_error(web: Web, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the list of URLs cannot be read"):
        r3po.run_jobs(job(web, tmp_path), read_path)
    with pytest.raises(StoreError, match="cannot be reached"):
        r3po.run_jobs(job(web, tmp_path, source_path="http://127.0.0.1:9/list.txt"), read_path)
    with pytest.raises(ConfigError, match="before its @"):
        r3po.run_jobs(job(web, tmp_path, source_path="http://me:abc@127.0.0.1/list.txt"), read_path)
    assert not (tmp_path / "out").exists()
