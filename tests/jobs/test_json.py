"""docs/json.md names every field of every `--json`, with its type, and no other."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from jobs import GATED, PICKY, Ended, Job, make_job, r3po, running
from r3po.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
TYPES = {
    "text": str,
    "int": int,
    "bool": bool,
    "number": (int, float),
    "object": dict,
    "list": list,
    "null": type(None),
    "any": object,
}

Answers = list[Ended]


def tables() -> dict[str, dict[str, str]]:
    """Return field and type of each table, by its heading."""
    found = {}
    for part in PAGE.split("\n## ")[1:]:
        heading = part.splitlines()[0].strip("`")
        found[heading] = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", part, re.MULTILINE))
    return found


def ran(job: Job, *arguments: str) -> Ended:
    return r3po("run", "--engine", "serial", "--json", *arguments, cwd=job.folder)


def told(job: Job, *arguments: str) -> Ended:
    return r3po(*arguments, "--json", cwd=job.folder)


def failing(folder: Path) -> Job:
    job = make_job(folder, function=PICKY.format(bad=[2, 3]))
    assert job.run().code == 1
    return job


def stopping(folder: Path) -> Job:
    text = PICKY.format(bad=[]).replace("import json\n", "import json, os, signal\n")
    return make_job(folder, function=text.replace("    return", "    os.kill(os.getpid(), signal.SIGTERM)\n    return"))


def of_run(folder: Path) -> Answers:
    good, bad = make_job(folder / "good"), make_job(folder / "bad", 6, PICKY.format(bad=[2]), processes=3)
    all_fail = make_job(folder / "all", 200, "def double(filepath):\n    raise ValueError('no')\n")
    answers = [ran(good, "--limit", "2"), ran(good), ran(bad), ran(stopping(folder / "stopped")), ran(all_fail)]
    assert [answer.code for answer in answers] == [0, 0, 1, 143, 3]
    assert [answer.json().get("error", {}).get("kind") for answer in answers[3:]] == ["RunStoppedError"] * 2
    return answers


def of_build(folder: Path) -> Answers:
    return [told(make_job(folder), "build")]


def of_dry_run(folder: Path) -> Answers:
    return [told(make_job(folder), "build", "--dry-run"), told(failing(folder / "failing"), "build", "--dry-run")]


def of_status(folder: Path) -> Answers:
    job = make_job(folder / "running", 4, GATED.format(at=3, pause=0.6), processes=1, batch_seconds=0.001)
    answers = [told(job, "status"), told(failing(folder / "failing"), "status")]
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is in its last file")
        answers.append(told(job, "status"))
        job.open_gate()
        assert process.end(60).code == 0
    return answers


def of_errors(folder: Path) -> Answers:
    return [told(make_job(folder / "new"), "errors"), told(failing(folder / "failing"), "errors", "--by", "type")]


def of_one_error(folder: Path) -> Answers:
    return [told(failing(folder), "errors", "--full", "002.json")]


def of_verify(folder: Path) -> Answers:
    job = failing(folder)
    answers = [told(job, "verify"), told(job, "verify", "--source")]
    (job.output / "csv" / "part-00000.csv").unlink()
    answers.append(told(job, "verify"))
    assert [answer.code for answer in answers] == [0, 0, 1]
    return answers


def of_init(folder: Path) -> Answers:
    make_job(folder / "files")
    source = str(folder / "files" / "source")
    return [r3po("init", *more, "--json", cwd=folder) for more in (("new",), ("other", "--from", source))]


def of_config(folder: Path) -> Answers:
    return [told(make_job(folder), "config")]


def of_keys(folder: Path) -> Answers:
    return [r3po("config", "--keys", "--json", cwd=folder)]


def of_try(folder: Path) -> Answers:
    job = make_job(folder, function=PICKY.format(bad=[2]))
    return [told(job, "try"), told(job, "try", "source/001.json")]


def of_slow(folder: Path) -> Answers:
    return [told(make_job(folder / "new"), "slow"), told(failing(folder / "failing"), "slow")]


def of_an_error(folder: Path) -> Answers:
    job = make_job(folder)
    job.write_config(proceses=4)
    answers = [told(job, command) for command in ("run", "build", "status", "errors", "verify")]
    job.write_config()
    answers.append(told(job, "errors", "--full", "none.json"))
    answers.append(told(job, "verify"))
    job.write_config(source_path="elsewhere")
    answers += [told(job, "build", "--dry-run"), ran(job)]
    assert [answer.code for answer in answers] == [2] * len(answers)
    kinds = [answer.json()["error"]["kind"] for answer in answers]
    assert kinds == ["ConfigError"] * 5 + ["R3poError", "FolderError", "SourceError", "SourceError"]
    assert all(answer.err.startswith("error: ") for answer in answers), "people are told, too"
    return answers


OUTCOMES: dict[str, Callable[[Path], Answers]] = {
    "An error": of_an_error,
    "r3po run --json": of_run,
    "r3po build --json": of_build,
    "r3po build --dry-run --json": of_dry_run,
    "r3po status --json": of_status,
    "r3po errors --json": of_errors,
    "r3po errors --full PATH --json": of_one_error,
    "r3po verify --json": of_verify,
    "r3po init --json": of_init,
    "r3po try --json": of_try,
    "r3po slow --json": of_slow,
    "r3po config --json": of_config,
    "r3po config --keys --json": of_keys,
}
"""What gives the answers that each table is about, in all the ways in which it may end."""


@pytest.mark.parametrize("heading", OUTCOMES)
def test_a_table_has_every_field_with_its_type_and_no_other(heading: str, tmp_path: Path) -> None:
    table, seen = tables()[heading], set[str]()
    for answer in OUTCOMES[heading](tmp_path):
        assert answer.out.count("\n") == 1, "one object, in one line"
        content = answer.json()
        assert content["schema_version"] == 1
        if heading != "An error" and "error" in content:
            assert set(content.pop("error")) == {"kind", "message", "evidence", "hint", "exit_code"}
            seen.add("error")
        for field, value in fields_of(content, table):
            seen.add(field)
            assert field in table, f"{field} is not in the table"
            assert isinstance(value, types_of(table[field])), f"{field}: {value!r} is no {table[field]}"
    assert seen == set(table)


def fields_of(value: Any, table: dict[str, str], name: str = "") -> list[tuple[str, Any]]:
    """Return every field in a JSON value and its value; not those of an object whose keys are of the job."""
    found = [(name, value)] if name and not name.endswith("[]") else []
    if isinstance(value, dict) and not re.search(" by |any", table.get(name, "")):
        for key, inner in value.items():
            found += fields_of(inner, table, f"{name}.{key}" if name else key)
    if isinstance(value, list) and table.get(name, "").endswith("of object"):
        for inner in value:
            found += fields_of(inner, table, f"{name}[]")
    return found


def types_of(words: str) -> tuple[type, ...]:
    """Return the types that the table names: `int or null`, `list of text`, `object by kind`."""
    found: list[type] = []
    for word in words.split(" or "):
        named = TYPES[word.split()[0]]
        found += named if isinstance(named, tuple) else [named]
    return tuple(found)


def test_every_table_has_its_outcomes_and_every_command_with_json_its_table() -> None:
    assert set(tables()) == set(OUTCOMES), "add what gives these answers to OUTCOMES"
    root = typer.main.get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        if any("--json" in option.opts for option in command.params):
            assert f"r3po {name} --json" in tables(), f"docs/json.md has no table for r3po {name} --json"


def test_without_json_an_error_leaves_stdout_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert told(job, "status").code == 0
    job.write_config(proceses=4)
    for command in ("run", "build", "status", "errors", "verify"):
        ended = r3po(command, cwd=job.folder)
        assert (ended.code, ended.out) == (2, ""), command


def test_a_run_that_finds_another_one_answers_with_that(tmp_path: Path) -> None:
    job = make_job(tmp_path, function=GATED.format(at=0, pause=0))
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is in a file")
        ended = ran(job)
        assert ended.code == 4 and ended.json()["error"]["kind"] == "LockedError"
        assert f"pid {process.pid} " in ended.json()["error"]["message"]
        job.open_gate()
        assert process.end(60).code == 0
    assert os.listdir(job.output / "csv")
