"""The command line: what each command answers, where it says it, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from typer.main import get_command

from jobs import (
    DOUBLE,
    ESCAPE,
    GATED,
    PICKY,
    Ended,
    Job,
    doubled,
    environment,
    make_job,
    r3po,
    run_python,
    running,
    snapshot,
    wait_until,
    without_times,
)
from r3po.cli.app import app

COMMANDS = ("run", "build", "status", "errors", "verify", "reset")

RUN_KEYS = {
    "schema_version",
    "run_id",
    "job_name",
    "files",
    "done",
    "failed",
    "pending",
    "rows",
    "seconds",
    "output",
}
STATUS_KEYS = {"schema_version", "files", "done", "failed", "pending", "shards", "committed_shards", "functions"}
FAILURE_KEYS = {"path", "error_type", "message", "where", "traceback", "attempts", "seconds"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


@pytest.fixture
def failing(tmp_path: Path) -> Job:
    """A job of six files, of which the third and fourth fail."""
    return make_job(tmp_path, function=PICKY.format(bad=[2, 3]))


# Help and version


def test_the_help_names_every_command(tmp_path: Path) -> None:
    ended = r3po("--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\b", ended.out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_each_option(command: str, tmp_path: Path) -> None:
    ended = r3po(command, "--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "[CONFIG]" in ended.out
    text = " ".join(ended.out.split())
    known = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert known.help.splitlines()[0] in text
    for option in known.params:
        assert option.opts[0] in text or option.name == "config"
        assert option.help, option.name
        assert " ".join(option.help.split()) in text


def test_the_help_is_there_within_a_moment_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys\nfrom r3po.cli.app import main\nsys.argv = ['r3po', '--help']\n"
    code += "try: main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"ray", "pandas", "pyarrow", "numpy", "pydantic", "rich"} & set(done.stdout.splitlines()[-1].split())


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    ended = r3po(cwd=tmp_path)
    assert ended.code in (0, 2)
    assert "Usage:" in ended.said


def test_version(tmp_path: Path) -> None:
    ended = r3po("--version", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"r3po \d+\.\d+\.\d+\S*\n", ended.out)


def test_the_installed_command_is_the_same_as_the_module(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("r3po")
    if not command.exists():
        pytest.skip("r3po is not installed beside this Python")
    done = subprocess.run([command, "--version"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, r3po("--version", cwd=tmp_path).out)


# run


def test_the_first_run_on_the_terminal_word_for_word(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    ended = job.run()
    assert (ended.code, ended.out) == (0, "")
    assert without_times(ended.err) == (
        "r3po VERSION   config.yaml   double.py:double\n"
        "Scan      source/**.json       6 files, 48 bytes: 6 new\n"
        "Serial    everything in this process, one file after the other\n"
        "Columns   n number, twice number      (from 000.json)\n"
        "TIME 6/6 100.0% SPEED failed=0 left=LEFT\n"
        "\n"
        "Done in SECONDS: 6 files, 0 failed\n"
        "  out/csv       1 part   6 rows\n"
        "  out/parquet   1 part   6 rows\n"
        '  Read   pd.read_parquet("out/parquet")\n'
    )
    assert job.rows() == doubled(*range(6))


def test_an_idle_run_says_that_there_is_nothing_to_do(job: Job) -> None:
    job.run()
    before = job.parts()
    ended = job.run()
    assert (ended.code, ended.out) == (0, "")
    *_, last = ended.err.splitlines()
    assert re.fullmatch(r"Nothing to do: 6 files are done and unchanged( \(--redo does them again\))?\.", last)
    assert job.parts() == before


def test_failed_files_exit_with_1_in_the_run_that_made_them_and_in_idle_ones(failing: Job) -> None:
    first = failing.run()
    assert first.code == 1
    assert "Done in" in first.err
    assert "6 files, 2 failed" in first.err
    idle = failing.run()
    assert idle.code == 1
    assert idle.err.splitlines()[-1] == (
        "Nothing to do: 4 of 6 files have a row, 2 failed (r3po errors; r3po run --retry-failed)."
    )


def test_exit_zero_is_0_although_files_failed(failing: Job) -> None:
    assert failing.run("--exit-zero").code == 0
    assert failing.run("--exit-zero").code == 0
    assert failing.status()["failed"] == 2


def test_exit_zero_does_not_hide_that_a_run_could_not_start(job: Job) -> None:
    job.write_config(source_path="nowhere")
    assert job.run("--exit-zero").code == 2


def test_a_plain_run_leaves_failures_of_the_same_code_alone(failing: Job) -> None:
    failing.run()
    failing.add_files(7)
    assert failing.run().code == 1
    assert [failure["attempts"] for failure in failing.failures()] == [1, 1]
    assert failing.rows() == doubled(0, 1, 4, 5, 7)


def test_retry_failed_tries_all_failures(failing: Job) -> None:
    failing.run()
    assert failing.run("--retry-failed").code == 1
    assert [failure["attempts"] for failure in failing.failures()] == [2, 2]


def test_failures_of_other_code_are_tried_again_by_a_plain_run(failing: Job) -> None:
    failing.run()
    failing.write_function(PICKY.format(bad=[2]))
    assert failing.run().code == 1
    assert [failure["path"] for failure in failing.failures()] == ["002.json"]
    failing.write_function(DOUBLE)
    assert failing.run().code == 0
    assert failing.failures() == []
    assert failing.rows() == doubled(*range(6))


def test_a_changed_comment_is_not_other_code(failing: Job) -> None:
    failing.run()
    failing.write_function("# A word on it.\n" + PICKY.format(bad=[2, 3]))
    assert "Nothing to do" in failing.run().err


def test_quiet_says_nothing_about_a_good_run(job: Job) -> None:
    assert job.run("--quiet") == Ended(0, "", "")
    assert job.rows() == doubled(*range(6))


def test_quiet_still_says_what_is_wrong(job: Job) -> None:
    job.write_config(processes=0)
    ended = job.run("-q")
    assert ended.code == 2
    assert ended.err.startswith("error: ")


def test_no_build_leaves_new_files_for_later(job: Job) -> None:
    job.run()
    job.add_files(6)
    assert job.run("--no-build").code == 0
    assert job.rows() == doubled(*range(6))
    job.run()
    assert job.rows() == doubled(*range(7))


def test_no_build_works_on_what_a_build_listed(job: Job) -> None:
    r3po("build", cwd=job.folder)
    assert job.run("--no-build").code == 0
    assert job.rows() == doubled(*range(6))


def test_no_build_without_a_manifest_is_a_wrong_usage(job: Job) -> None:
    ended = job.run("--no-build")
    assert ended.code == 2
    assert "r3po build" in ended.err


def test_a_function_on_the_command_line_is_looked_for_from_where_it_was_typed(job: Job) -> None:
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "triple.py").write_text(DOUBLE.replace("2 * n", "3 * n").replace("double", "triple"))
    arguments = ("run", "../config.yaml", "--engine", "serial", "--function", "triple.py:triple")
    assert r3po(*arguments, cwd=elsewhere).code == 0
    assert job.rows()[1] == {"n": "1", "twice": "3"}


def test_the_function_of_the_config_is_looked_for_beside_the_config(job: Job) -> None:
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    assert r3po("run", "../config.yaml", "--engine", "serial", cwd=elsewhere).code == 0
    assert job.rows() == doubled(*range(6))


def test_a_function_is_needed(job: Job) -> None:
    job.write_config(function=None)
    ended = job.run()
    assert ended.code == 2
    assert "no function is given" in ended.err
    assert "--function" in ended.err
    assert not job.working_dir.exists()


def test_a_package_module_is_a_function_too(job: Job) -> None:
    package = job.folder / "tools" / "deep"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "numbers.py").write_text(DOUBLE)
    assert job.run("--function", "tools.deep.numbers:double").code == 0
    assert job.rows() == doubled(*range(6))


@pytest.mark.parametrize("processes", ["0", "-1", "two"])
def test_processes_must_be_a_number_of_workers(job: Job, processes: str) -> None:
    before = snapshot(job.folder)
    ended = job.run("--processes", processes)
    assert ended.code == 2
    assert "--processes" in ended.err
    assert snapshot(job.folder) == before


def test_processes_on_the_command_line_stand_for_the_configs(job: Job) -> None:
    job.write_config(processes=3)
    assert job.run("--processes", "1").code == 0
    assert job.rows() == doubled(*range(6))


def test_an_unknown_engine_or_option_is_a_wrong_usage(job: Job) -> None:
    before = snapshot(job.folder)
    engine = r3po("run", "--engine", "dask", cwd=job.folder)
    assert engine.code == 2
    assert "dask" in engine.err
    assert "serial" in engine.err
    option = r3po("run", "--proceses", "3", cwd=job.folder)
    assert option.code == 2
    assert "--proceses" in option.err
    assert r3po("launch", cwd=job.folder).code == 2
    assert snapshot(job.folder) == before


@pytest.mark.parametrize(
    "folders",
    [
        {"working_dir": "one", "output_path": "one"},
        {"working_dir": "one/state", "output_path": "one"},
        {"working_dir": "one", "output_path": "one/table"},
    ],
    ids=["the same", "state in the output", "output in the state"],
)
def test_working_dir_and_output_path_may_lie_in_each_other(tmp_path: Path, folders: dict[str, str]) -> None:
    job = make_job(tmp_path, **folders)
    assert job.run().code == 0
    job.add_files(6)
    assert job.run().code == 0
    (csv,) = tmp_path.glob(f"{folders['output_path']}/csv/part-*")
    assert csv.read_text() == "".join(f"{line}\n" for line in ["n,twice", *(f"{n},{2 * n}" for n in range(7))])
    assert "Nothing to do" in job.run().err
    assert r3po("reset", "--all", "--yes", cwd=tmp_path).code == 0
    assert job.run().code == 0
    assert csv.exists()


# --json


def test_run_json_is_one_object_with_exactly_the_keys_of_the_contract(failing: Job) -> None:
    ended = failing.run("--json")
    found = ended.json()
    assert found.keys() == RUN_KEYS
    assert (found["files"], found["done"], found["failed"], found["pending"], found["rows"]) == (6, 4, 2, 0, 4)
    assert (found["schema_version"], found["job_name"], found["output"]) == (1, "doubles", str(failing.output))
    assert found["seconds"] > 0
    assert (failing.working_dir / "runs" / found["run_id"]).is_dir()
    assert "Done in" in ended.err


def test_an_idle_runs_json_counts_the_same(failing: Job) -> None:
    first = failing.run("--json", "--quiet").json()
    second = failing.run("--json", "--quiet")
    assert second.code == 1
    changing = ("run_id", "seconds")
    assert {k: v for k, v in second.json().items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    assert second.json()["run_id"] != first["run_id"]


def test_a_run_that_could_not_start_prints_no_json(job: Job) -> None:
    job.write_config(processes=0)
    ended = job.run("--json")
    assert (ended.code, ended.out) == (2, "")


def test_status_json_has_the_keys_of_the_contract(failing: Job) -> None:
    failing.write_config(shard_size=4)
    failing.run()
    found = failing.status()
    assert found.keys() >= STATUS_KEYS
    assert {key: found[key] for key in STATUS_KEYS - {"functions"}} == {
        "schema_version": 1,
        "files": 6,
        "done": 4,
        "failed": 2,
        "pending": 0,
        "shards": 2,
        "committed_shards": 2,
    }
    (fingerprint,) = found["functions"]
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint)
    assert found["functions"] == {fingerprint: 4}


def test_status_counts_rows_by_the_code_that_made_them(failing: Job) -> None:
    failing.run()
    failing.write_function(DOUBLE)
    failing.run()
    assert sorted(failing.status()["functions"].values()) == [2, 4]


def test_errors_json_has_exactly_the_keys_of_the_contract(failing: Job) -> None:
    failing.run()
    ended = r3po("errors", "--json", cwd=failing.folder)
    found = ended.json()
    assert (ended.code, ended.err) == (0, "")
    assert found.keys() == {"schema_version", "failures"}
    assert found["schema_version"] == 1
    first, second = found["failures"]
    assert first.keys() == second.keys() == FAILURE_KEYS
    assert (first["path"], second["path"]) == ("002.json", "003.json")
    assert (first["error_type"], first["message"], first["attempts"]) == ("ValueError", "2 is a bad number", 1)
    assert first["where"] == "double.py:10 in double"
    assert 0 <= first["seconds"] < 60
    lines = first["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: 2 is a bad number"
    assert "double.py" in first["traceback"]
    assert "worker.py" not in first["traceback"]


def test_build_json(job: Job) -> None:
    ended = r3po("build", "--json", cwd=job.folder)
    assert ended.code == 0
    found = ended.json()
    assert (found["schema_version"], found["files"], found["shards"]) == (1, 6, 1)


# build


def test_build_lists_and_hashes_without_the_function(job: Job) -> None:
    (job.folder / "double.py").unlink()
    ended = r3po("build", cwd=job.folder)
    assert (ended.code, ended.out) == (0, "")
    assert "6 files, 48 bytes: 6 new" in ended.err
    manifest = json.loads((job.working_dir / "manifest.json").read_text())
    assert manifest["count_job_files"] == 6
    (shard,) = (job.working_dir / "shards").iterdir()
    hashes = [json.loads(line)["hash"] for line in shard.read_text().splitlines()]
    assert len(set(hashes)) == 6
    assert all(re.fullmatch(r"[0-9a-f]{32}", found) for found in hashes)
    status = job.status()
    assert (status["done"], status["pending"]) == (0, 6)


def test_build_again_finds_nothing_new(job: Job) -> None:
    r3po("build", cwd=job.folder)
    before = (job.working_dir / "manifest.json").read_bytes()
    ended = r3po("build", cwd=job.folder)
    assert ended.code == 0
    assert "nothing new" in ended.err
    assert (job.working_dir / "manifest.json").read_bytes() == before


# status


def test_status_before_anything_was_built(job: Job) -> None:
    before = snapshot(job.folder)
    ended = r3po("status", cwd=job.folder)
    assert (ended.code, ended.err) == (0, "")
    assert "r3po run" in ended.out
    assert job.status()["files"] == 0
    assert snapshot(job.folder) == before


def test_status_for_people(failing: Job) -> None:
    failing.write_config(shard_size=4)
    failing.run()
    ended = r3po("status", cwd=failing.folder)
    assert (ended.code, ended.err) == (0, "")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in ended.out.splitlines()}
    assert lines["job"].startswith("doubles, build 1")
    assert lines["function"] == "double.py:double"
    assert lines["files"].startswith("4 done 2 failed 0 to do 100")
    assert lines["shards"] == "2 of 2 committed"
    assert lines["output"].endswith("csv, parquet")


def test_status_needs_no_source(job: Job) -> None:
    job.run()
    job.source.rename(job.folder / "unmounted")
    assert job.status()["done"] == 6


def test_status_and_errors_change_nothing(failing: Job) -> None:
    failing.run()
    before = snapshot(failing.folder)
    for command in ("status", "errors"):
        for arguments in ((), ("--json",)):
            assert r3po(command, *arguments, cwd=failing.folder).code == 0
    assert snapshot(failing.folder) == before


# errors


def test_errors_groups_failures_by_kind(tmp_path: Path) -> None:
    job = make_job(tmp_path, 20, PICKY.format(bad="range(2, 7)").replace("{n} is a bad number", "bad number"))
    (job.source / "broken.json").write_text("{")
    job.run()
    ended = r3po("errors", cwd=job.folder)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "6 files failed, 2 kinds"
    text = " ".join(ended.out.split())
    assert "5 ValueError: bad number" in text
    assert "1 JSONDecodeError: " in text
    assert "double.py:10 in double" in text
    assert "002.json, 003.json, 3 more" in text
    assert "r3po run --retry-failed" in text
    assert text.index("ValueError") < text.index("JSONDecodeError")


def test_errors_paths_is_one_path_a_line(failing: Job) -> None:
    failing.run()
    assert r3po("errors", "--paths", cwd=failing.folder) == Ended(0, "002.json\n003.json\n", "")


def test_errors_without_failures(job: Job) -> None:
    job.run()
    ended = r3po("errors", cwd=job.folder)
    assert (ended.code, ended.out, ended.err) == (0, "No file failed.\n", "")
    assert r3po("errors", "--paths", cwd=job.folder).out == ""
    assert job.failures() == []


@pytest.mark.parametrize("is_early", [True, False], ids=["closed before the first byte", "closed after it"])
def test_an_answer_into_a_closed_pipe_is_no_traceback(tmp_path: Path, is_early: bool) -> None:
    job = make_job(tmp_path, 4, "def double(filepath):\n    raise ValueError('x' * 9000)\n")
    for n in range(4, 60):
        (job.source / f"{n:03}.json").touch()
    job.run()
    arguments = ["errors", "--json"]  # far more than a pipe holds
    with _into_pipe(*arguments, cwd=job.folder) as (process, reader):
        if not is_early:
            assert reader.read(1) == b"{"
        reader.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        code = process.wait(60)
    assert code != 70


@pytest.mark.parametrize("command", ["status", "errors"])
def test_a_short_answer_into_a_closed_pipe_is_no_traceback(failing: Job, command: str) -> None:
    failing.run()
    with _into_pipe(command, cwd=failing.folder) as (process, reader):
        reader.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 141), "1 would say that files failed"


@contextmanager
def _into_pipe(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "r3po", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        assert process.stdout is not None
        yield process, process.stdout


def test_errors_piped_into_head(failing: Job) -> None:
    failing.run()
    command = f"{sys.executable} -m r3po errors | head -1"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=failing.folder, env=environment(), capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("2 files failed, 2 kinds\n", "")


# reset


def test_reset_errors_lets_the_next_run_try_them_again(failing: Job) -> None:
    failing.run()
    ended = r3po("reset", "--errors", cwd=failing.folder)
    assert ended.code == 0
    assert ended.out.startswith("2 failed files")
    assert failing.run().code == 1
    assert [failure["attempts"] for failure in failing.failures()] == [2, 2]
    assert failing.rows() == doubled(0, 1, 4, 5)


def test_reset_all_leaves_only_what_r3po_did_not_write(job: Job) -> None:
    job.run()
    (job.output / "notes.txt").write_text("mine")
    (job.working_dir / "mine.txt").write_text("mine, too")
    ended = r3po("reset", "--all", "--yes", cwd=job.folder)
    assert ended.code == 0
    files = {str(path.relative_to(job.folder)) for path in job.folder.rglob("*") if path.is_file()}
    ours = {"config.yaml", "double.py", "out/notes.txt", "work/mine.txt", *(f"source/{n:03}.json" for n in range(6))}
    assert files - {"work/lock"} == ours
    assert job.status()["files"] == 0
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


def test_reset_all_asks_nobody_where_there_is_no_terminal(job: Job) -> None:
    job.run()
    before = snapshot(job.folder)
    ended = r3po("reset", "--all", cwd=job.folder)
    assert ended.code == 2
    assert "--yes" in ended.err
    assert snapshot(job.folder) == before


@pytest.mark.parametrize("arguments", [(), ("--errors", "--all")])
def test_reset_wants_to_know_what(job: Job, arguments: tuple[str, ...]) -> None:
    job.run()
    before = snapshot(job.folder)
    ended = r3po("reset", "--yes", *arguments, cwd=job.folder)
    assert ended.code == 2
    assert "--errors" in ended.err
    assert "--all" in ended.err
    assert snapshot(job.folder) == before


# Stops and locks


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_ends_the_run_after_the_file_at_hand(tmp_path: Path, number: signal.Signals, code: int) -> None:
    job = make_job(tmp_path, function=GATED.format(at=2, pause=0))
    shutil.copy(job.config, job.folder / "big.yaml")
    with running("run", "big.yaml", "--engine", "serial", "--json", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is in its third file")
        os.kill(process.pid, number)
        process.wait_until(lambda: "Stopping" in process.err, "it says that it stops")
        job.open_gate()
        ended = process.end(30)
    assert ended.code == code
    assert ended.json().keys() == RUN_KEYS
    assert ended.json()["pending"] == 3
    assert re.search(r"Stopped after [\d.:]+( s)?\. 3 files have their rows, 0 failed, 3 are to do\.", ended.err)
    assert ended.err.splitlines()[-1] == "Continue with: r3po run big.yaml"
    assert "error:" not in ended.err
    assert "Traceback" not in ended.err
    assert job.failures() == []
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


def test_a_second_ctrl_c_ends_the_run_at_once_and_is_not_a_failure_of_f(tmp_path: Path) -> None:
    job = make_job(tmp_path, function=GATED.format(at=2, pause=0))
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is in its third file")
        os.kill(process.pid, signal.SIGINT)
        process.wait_until(lambda: "Stopping" in process.err, "it says that it stops")
        os.kill(process.pid, signal.SIGINT)  # the gate stays closed
        ended = process.end(10)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"
    assert job.failures() == []
    job.open_gate()
    assert job.run().code == 0
    assert job.rows() == doubled(*range(6))


def test_ctrl_c_while_the_workers_are_being_ended_is_no_traceback(tmp_path: Path) -> None:
    """Ray takes more than a second to end: just when people press the keys again."""
    text = DOUBLE.replace("import json\n", "import json, os, signal\n")
    job = make_job(tmp_path, function=text.replace("    return", "    os.kill(os.getpid(), signal.SIGINT)\n    return"))
    code = (
        "import os, signal, sys, r3po.cli.app, r3po.engines.serial\n"
        "close = r3po.engines.serial.SerialPool.close\n"
        "def close_slowly(self):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    close(self)\n"
        "r3po.engines.serial.SerialPool.close = close_slowly\n"
        "sys.argv = ['r3po', 'run', '--engine', 'serial']\n"
        "r3po.cli.app.main()\n"
    )
    ended = run_python("-c", code, cwd=job.folder)
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "Continue with: r3po run"


def test_a_second_run_names_the_first_and_status_works_meanwhile(tmp_path: Path) -> None:
    job = make_job(tmp_path, function=GATED.format(at=5, pause=0))
    with running("run", "--engine", "serial", cwd=job.folder) as process:
        process.wait_until(job.is_at_the_gate, "f is in its last file")
        for command in (("run", "--engine", "serial"), ("build",), ("reset", "--errors"), ("reset", "--all", "--yes")):
            ended = r3po(*command, cwd=job.folder)
            assert (ended.code, ended.out) == (4, "")
            assert ended.err.startswith("error: working_dir is in use by another run")
            assert f"pid {process.pid} " in ended.err
            assert "hint:" in ended.err
        status = job.status()
        assert status["files"] == 6
        assert str(process.pid) in r3po("status", cwd=job.folder).out
        assert job.failures() == []
        job.open_gate()
        assert process.end(60).code == 0
    assert job.rows() == doubled(*range(6))


def test_a_bug_of_ours_is_70_and_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object) -> None:
        raise AttributeError("our own mistake")

    monkeypatch.setattr("r3po.inspect.status.read_status", broken)
    ended = r3po("status", cwd=job.folder)
    assert (ended.code, ended.out) == (70, "")
    assert "our own mistake" in ended.err
    assert re.search(r"^error: .*bug in r3po", ended.err, re.MULTILINE)


# Colours and terminals


def test_what_goes_to_no_terminal_has_no_escape_codes_even_when_colours_are_forced(
    failing: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for arguments in (("run", "--engine", "serial"), ("errors",), ("run", "--wrong"), ("--help",)):
        ended = r3po(*arguments, cwd=failing.folder)
        assert ended.said
        assert ESCAPE not in ended.said


@contextmanager
def on_terminal(*arguments: str, cwd: Path, **changed: str | None) -> Iterator[_Terminal]:
    """`python -m r3po ...` as the leader of a session with a terminal of 80 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "r3po", *arguments],
        cwd=cwd,
        env=environment(**{"TERM": "xterm-256color", **changed}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    try:
        yield _Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        os.close(master)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class _Terminal:
    """What a process writes to its terminal, and what is typed there."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._seen = b""

    @property
    def seen(self) -> str:
        """All that was written up to now."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError as error:  # Linux says so when the last writer is gone
                if error.errno != errno.EIO:
                    raise
                break
            if not data:
                break
            self._seen += data
        return self._seen.decode(errors="ignore")  # half a character may have come by now

    @property
    def shown(self) -> str:
        """The same without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen).replace("\r\n", "\n")

    def wait_until_shown(self, text: str, timeout_s: float = 60) -> None:
        wait_until(lambda: text in self.shown or self.process.poll() is not None, f"{text!r} on the screen", timeout_s)
        assert text in self.shown

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, timeout_s: float = 60) -> int:
        # The terminal must be read meanwhile: a full one would block the process.
        wait_until(lambda: self.seen and self.process.poll() is not None, "the end of the process", timeout_s)
        return self.process.wait()


def test_a_terminal_has_a_live_bar_and_its_cursor_back(tmp_path: Path) -> None:
    function = GATED.format(at=150, pause=0.0).replace(
        "    time.sleep", f"    if n > 103: raise ValueError('{'x' * 200}')\n    time.sleep", 1
    )
    job = make_job(tmp_path, 200, function, batch_seconds=0.05)
    with on_terminal("run", "--engine", "serial", cwd=job.folder) as terminal:
        wait_until(job.is_at_the_gate, "f is in its file number 150")
        terminal.wait_until_shown("/200")
        terminal.wait_until_shown("last failure")
        job.open_gate()
        assert terminal.end() == 1
        seen, shown = terminal.seen, terminal.shown
    assert re.search(r"Process +━+.* \d+/200 +\d+\.\d %", shown)
    assert re.search(r"files/s   elapsed ", shown)
    assert seen.count("\x1b[?25l") >= 1
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "Done in" in shown
    assert "TIME" not in without_times(shown), "the plain lines are for what is no terminal"
    assert "ValueError: xxx" in shown
    assert max(len(line) for line in re.split(r"[\r\n]+", shown) if "last failure" in line) <= 80


def test_a_dumb_terminal_gets_plain_lines(job: Job) -> None:
    with on_terminal("run", "--engine", "serial", cwd=job.folder, TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert ESCAPE not in terminal.seen
        assert "Done in" in terminal.shown


def test_ctrl_c_on_a_terminal_gives_the_cursor_back_and_no_color_is_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path, function=GATED.format(at=2, pause=0))
    with on_terminal("run", "--engine", "serial", cwd=job.folder, NO_COLOR="1") as terminal:
        wait_until(job.is_at_the_gate, "f is in its third file")
        terminal.type("\x03")
        terminal.wait_until_shown("Stopping")
        job.open_gate()
        assert terminal.end() == 130
        seen, shown = terminal.seen, terminal.shown
    assert shown.rstrip().endswith("Continue with: r3po run")
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    colors = re.findall(r"\x1b\[[0-9;]*m", seen)
    assert [code for code in colors if re.search(r"\b([34]\d|9\d|10\d|38|48)\b", code)] == []


def test_an_error_on_a_terminal_gives_the_cursor_back(tmp_path: Path) -> None:
    job = make_job(tmp_path, 120, "def double(filepath):\n    raise RuntimeError('always')\n")
    with on_terminal("run", "--engine", "serial", cwd=job.folder) as terminal:
        assert terminal.end() == 3
        seen, shown = terminal.seen, terminal.shown
    assert "error: the first 100 files all failed with RuntimeError: always" in shown
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("typed", "is_gone"),
    [
        ("n\n", False),
        ("\n", False),
        ("y\n", True),
    ],
)
def test_reset_all_asks_on_a_terminal(job: Job, typed: str, is_gone: bool) -> None:
    job.run()
    before = snapshot(job.folder)
    with on_terminal("reset", "--all", cwd=job.folder) as terminal:
        terminal.wait_until_shown("[y/N]")
        assert "doubles" in terminal.shown
        terminal.type(typed)
        code = terminal.end()
    assert (job.status()["files"] == 0) == is_gone
    if is_gone:
        assert code == 0
    else:
        assert code == 2, "1 would say that files failed"
        assert snapshot(job.folder) == before


def test_names_and_messages_cannot_steer_the_screen(tmp_path: Path) -> None:
    evil = f"{ESCAPE}]0;owned\a{ESCAPE}[2J\r"
    job = make_job(tmp_path, 1, "def double(filepath):\n    raise ValueError('\\x1b[31mred\\x1b[0m\\x07')\n")
    (job.source / f"{evil}.json").write_text("{}")
    ended = job.run()
    assert ended.code == 1
    outputs = [ended, *(r3po("errors", *more, cwd=job.folder) for more in ((), ("--paths",), ("--json",)))]
    for output in outputs:
        assert [c for c in output.said if not c.isprintable() and c != "\n"] == []
    assert "\\x1b]0;owned" in outputs[1].out
    assert "\\x1b[31mred" in outputs[1].out


def test_a_newline_in_a_name_does_not_make_two_paths_of_one(tmp_path: Path) -> None:
    job = make_job(tmp_path, 1, PICKY.format(bad=[1]))
    (job.source / "one\ntwo.json").write_text('{"n": 1}')
    job.run()
    assert len(job.failures()) == 1
    assert r3po("errors", "--paths", cwd=job.folder).out == "one\\ntwo.json\n"
    assert "one\\ntwo.json" in r3po("errors", cwd=job.folder).out


def test_a_job_whose_folders_have_evil_names_cannot_steer_the_screen(tmp_path: Path) -> None:
    evil = f"{ESCAPE}[2J"
    job = make_job(tmp_path / evil)
    outputs = [job.run(), job.run(), r3po("status", cwd=job.folder), r3po("errors", cwd=job.folder)]
    job.source.rename(job.folder / "away")
    outputs.append(job.run())
    assert [output.code for output in outputs] == [0, 0, 0, 0, 2]
    for output in outputs:
        assert ESCAPE not in output.said


def test_rows_of_older_code_are_told_and_stay(job: Job) -> None:
    job.run()
    before = job.parts()
    job.write_function(DOUBLE.replace("2 * n", "3 * n"))
    idle = job.run()
    assert idle.code == 0
    assert "warning: double.py:double changed after 6 rows were made; they stay as they are\n" in idle.err
    assert "hint:  r3po run --redo makes all rows with the new code" in idle.err
    assert job.parts() == before


@pytest.mark.parametrize(("code", "with_ray"), [(0, True), (143, True), (3, False)])
def test_after_a_run_on_ray_the_process_leaves_at_once(tmp_path: Path, code: int, with_ray: bool) -> None:
    """A Ray that was cut off while it started can crash at Python's end: the exit code would be that of SIGSEGV."""
    script = (
        "import atexit, sys, types, r3po.cli.app\n"
        f"if {with_ray}: sys.modules['ray'] = types.ModuleType('ray')\n"
        "atexit.register(print, 'the end of Python')\n"
        "print('said before')\n"
        f"r3po.cli.app.run_command = lambda: {code}\n"
        "r3po.cli.app.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == code
    assert ended.stdout.splitlines() == ["said before", *([] if with_ray else ["the end of Python"])]
