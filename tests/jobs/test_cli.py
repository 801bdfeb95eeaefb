"""The command line: what each command answers, where it says it, and how it ends."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Self

import pytest
from typer.main import get_command

from jobs import (
    DOUBLE,
    ESCAPE,
    GATED,
    PICKY,
    Ended,
    Job,
    as_new_process,
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
from r3po.cli.app import app, run_command
from r3po.engines.serial import SerialPool
from r3po.run.run_log import RunLog

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
    "notices",
    "machines",
}
STATUS_KEYS = {"schema_version", "files", "done", "failed", "pending", "shards", "committed_shards", "functions"}
FAILURE_KEYS = {"path", "error_type", "message", "where", "traceback", "attempts", "seconds", "group"}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


@pytest.fixture
def failing(tmp_path: Path) -> Job:
    """A job of six files, of which the third and fourth fail."""
    return make_job(tmp_path, function=PICKY.format(bad=[2, 3]))


# Help and version


def test_the_help_names_every_command_and_is_shown_without_one(tmp_path: Path) -> None:
    ended = r3po("--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\b", ended.out, re.MULTILINE)
    ended = r3po(cwd=tmp_path)
    assert ended.code in (0, 2)
    assert "Usage:" in ended.said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_each_option(command: str, tmp_path: Path) -> None:
    ended = r3po(command, "--help", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "[CONFIG]" in ended.out and "[[" not in ended.out
    text = " ".join(ended.out.split())
    known = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert known.help.splitlines()[0] in text
    for option in known.params:
        assert option.opts[0] in text or option.name == "config"
        assert option.help, option.name
        assert " ".join(option.help.split()) in text


def test_the_help_is_there_within_a_moment_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys\nfrom r3po.cli.app import run_command\nsys.argv = ['r3po', '--help']\n"
    code += "run_command()\nprint(*sys.modules)"
    ended = run_python("-c", code, cwd=tmp_path)
    assert ended.code == 0, ended.err
    loaded = set(ended.out.splitlines()[-1].split())
    assert "typer" in loaded and not {"ray", "pandas", "pyarrow", "numpy", "pydantic", "rich"} & loaded


def test_the_version_is_the_same_of_the_installed_command(tmp_path: Path) -> None:
    ended = r3po("--version", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"r3po \d+\.\d+\.\d+\S*\n", ended.out)
    command = Path(sys.executable).with_name("r3po")
    if not command.exists():
        pytest.skip("r3po is not installed beside this Python")
    done = subprocess.run([command, "--version"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ended.out)


# run


def test_the_first_run_on_the_terminal_word_for_word_and_an_idle_one(job: Job) -> None:
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
    before = job.parts()
    ended = job.run()
    assert (ended.code, ended.out) == (0, "")
    *_, last = ended.err.splitlines()
    assert re.fullmatch(r"Nothing to do: 6 files are done and unchanged( \(--redo does them again\))?\.", last)
    assert job.parts() == before
    assert r3po("errors", cwd=job.folder) == Ended(0, "No file failed.\n", "")
    assert r3po("errors", "--paths", cwd=job.folder) == Ended(0, "", "")
    assert job.failures() == []


def test_failed_files_exit_with_1_and_are_tried_again_as_the_command_says(failing: Job) -> None:
    def attempts() -> list[int]:
        return [failure["attempts"] for failure in failing.failures()]

    first = failing.run()
    assert first.code == 1
    assert "Done in" in first.err and "6 files, 2 failed" in first.err
    idle = failing.run()
    assert idle.code == 1
    last = "Nothing to do: 4 of 6 files have a row, 2 failed (r3po errors; r3po run --retry-failed)."
    assert idle.err.splitlines()[-1] == last
    failing.write_function("# A word on it.\n" + PICKY.format(bad=[2, 3]))  # a comment is not other code
    failing.add_files(7)
    assert failing.run("--exit-zero").code == 0
    assert attempts() == [1, 1]
    assert failing.run("--retry-failed").code == 1
    assert attempts() == [2, 2]
    ended = r3po("reset", "--errors", cwd=failing.folder)
    assert ended.code == 0 and ended.out.startswith("2 failed files")
    assert failing.run("--exit-zero").code == 0
    assert attempts() == [3, 3]
    assert failing.rows() == doubled(0, 1, 4, 5, 7)
    failing.write_function(DOUBLE)
    assert failing.run().code == 0
    assert failing.failures() == []
    assert failing.rows() == doubled(0, 1, 2, 3, 4, 5, 7)
    assert sorted(failing.status()["functions"].values()) == [2, 5]


@pytest.mark.parametrize("option", ["--quiet", "--exit-zero", "--json"])
def test_no_option_hides_that_a_run_could_not_start(job: Job, option: str) -> None:
    job.write_config(processes=0)
    ended = job.run(option)
    assert ended.code == 2 and (option == "--json") == bool(ended.out)
    assert ended.err.startswith("error: ")


def test_no_build_works_on_what_a_build_listed_and_leaves_new_files_for_later(job: Job) -> None:
    ended = job.run("--no-build")
    assert ended.code == 2
    assert "r3po build" in ended.err
    r3po("build", cwd=job.folder)
    for _ in range(2):
        assert job.run("--no-build").code == 0
        assert job.rows() == doubled(*range(6))
        job.add_files(6)
    job.run()
    assert job.rows() == doubled(*range(7))


def test_a_function_is_looked_for_from_where_it_was_typed_or_beside_the_config(job: Job) -> None:
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "triple.py").write_text(DOUBLE.replace("2 * n", "3 * n").replace("double", "triple"))
    arguments = ("run", "../config.yaml", "--engine", "serial")
    assert r3po(*arguments, "--function", "triple.py:triple", cwd=elsewhere).code == 0
    assert job.rows()[1] == {"n": "1", "twice": "3"}
    assert r3po(*arguments, "--redo", cwd=elsewhere).code == 0
    assert job.rows() == doubled(*range(6))


def test_a_function_is_needed_and_may_be_in_a_package(job: Job) -> None:
    job.write_config(function=None)
    ended = job.run()
    assert ended.code == 2
    assert "no function is given" in ended.err and "--function" in ended.err
    assert not job.working_dir.exists()
    package = job.folder / "tools" / "deep"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "numbers.py").write_text(DOUBLE)
    assert job.run("--function", "tools.deep.numbers:double").code == 0
    assert job.rows() == doubled(*range(6))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "--processes", "0"), ["--processes"]),
        (("run", "--processes", "-1"), ["--processes"]),
        (("run", "--processes", "two"), ["--processes"]),
        (("run", "--engine", "dask"), ["dask", "serial"]),
        (("run", "--proceses", "3"), ["--proceses"]),
        (("launch",), []),
        (("reset", "--all"), ["--yes"]),  # there is no terminal on which it could ask
        (("reset", "--yes"), ["--errors", "--all"]),
        (("reset", "--yes", "--errors", "--all"), ["--errors", "--all"]),
    ],
    ids=" ".join,
)
def test_a_wrong_usage_is_named_and_changes_nothing(job: Job, arguments: tuple[str, ...], named: list[str]) -> None:
    job.run()
    before = snapshot(job.folder)
    ended = r3po(*arguments, cwd=job.folder)
    assert ended.code == 2
    assert [text for text in named if text not in ended.err] == []
    assert snapshot(job.folder) == before


def test_processes_on_the_command_line_stand_for_the_configs_and_quiet_says_nothing_about_a_good_run(job: Job) -> None:
    job.write_config(processes=3)
    assert job.run("--processes", "1", "--quiet") == Ended(0, "", "")
    assert job.rows() == doubled(*range(6))


def test_quiet_says_one_line_of_failed_files_also_when_nothing_is_to_do_and_an_error_with_its_hint(
    failing: Job,
) -> None:
    said = re.compile(r"\d of 6 files failed: r3po errors\n")
    first, idle = failing.run("--quiet"), failing.run("--quiet")
    assert (first.code, idle.code) == (1, 1)
    assert said.fullmatch(first.err) and idle.err == first.err
    failing.write_function(PICKY.format(bad=[1]) + "\n# changed\nNEW = 1\n")
    assert failing.run("--quiet") == Ended(0, "", ""), "no warning of rows that other code made"
    wrong = failing.run("--quiet", "--limit", "2", "--function", "double.py:nobody")
    assert [line.split(":")[0] for line in wrong.err.splitlines()] == ["error", "hint"]


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


def test_run_json_is_one_object_with_exactly_the_keys_of_the_contract_also_of_an_idle_run(failing: Job) -> None:
    ended = failing.run("--json")
    found = ended.json()
    assert found.keys() == RUN_KEYS
    assert (found["files"], found["done"], found["failed"], found["pending"], found["rows"]) == (6, 4, 2, 0, 4)
    assert (found["schema_version"], found["job_name"], found["output"]) == (1, "doubles", str(failing.output))
    assert found["seconds"] > 0
    assert (failing.working_dir / "runs" / found["run_id"]).is_dir()
    assert "Done in" in ended.err
    idle = failing.run("--json", "--quiet")
    assert idle.code == 1
    assert idle.json()["run_id"] != found["run_id"]
    assert {**idle.json(), "run_id": "", "seconds": 0} == {**found, "run_id": "", "seconds": 0}


def test_status_for_people_and_as_json_needs_no_source(failing: Job) -> None:
    failing.write_config(shard_size=4)
    failing.run()
    failing.source.rename(failing.folder / "unmounted")
    before = snapshot(failing.folder)
    found = failing.status()
    assert found.keys() >= STATUS_KEYS
    numbers = {"files": 6, "done": 4, "failed": 2, "pending": 0, "shards": 2, "committed_shards": 2}
    assert {key: found[key] for key in STATUS_KEYS - {"functions"}} == {"schema_version": 1, **numbers}
    (fingerprint,) = found["functions"]
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint)
    assert found["functions"] == {fingerprint: 4}
    ended = r3po("status", cwd=failing.folder)
    assert (ended.code, ended.err) == (0, "")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in ended.out.splitlines()}
    assert lines["job"].startswith("doubles, build 1")
    assert lines["function"] == "double.py:double"
    assert lines["files"].startswith("4 done 2 failed 0 to do 100")
    assert lines["shards"] == "2 of 2 committed"
    assert lines["output"].endswith("csv, parquet")
    assert snapshot(failing.folder) == before


def test_errors_json_has_exactly_the_keys_of_the_contract_and_paths_is_one_path_a_line(failing: Job) -> None:
    failing.run()
    before = snapshot(failing.folder)
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
    assert r3po("errors", "--paths", cwd=failing.folder) == Ended(0, "002.json\n003.json\n", "")
    assert r3po("errors", cwd=failing.folder).out.startswith("2 files failed, 1 kind\n")
    assert snapshot(failing.folder) == before


# build


def test_build_lists_and_hashes_without_the_function_and_finds_nothing_new_the_next_time(job: Job) -> None:
    (job.folder / "double.py").unlink()
    ended = r3po("build", cwd=job.folder)
    assert (ended.code, ended.out) == (0, "")
    assert "6 files, 48 bytes: 6 new" in ended.err
    manifest = (job.working_dir / "manifest.json").read_bytes()
    assert json.loads(manifest)["count_job_files"] == 6
    (shard,) = (job.working_dir / "shards").iterdir()
    hashes = [json.loads(line)["hash"] for line in shard.read_text().splitlines()]
    assert len(set(hashes)) == 6
    assert all(re.fullmatch(r"[0-9a-f]{32}", found) for found in hashes)
    status = job.status()
    assert (status["done"], status["pending"]) == (0, 6)
    ended = r3po("build", "--json", cwd=job.folder)
    assert ended.code == 0
    assert "nothing new" in ended.err
    found = ended.json()
    assert (found["schema_version"], found["files"], found["shards"]) == (1, 6, 1)
    assert (job.working_dir / "manifest.json").read_bytes() == manifest


# status


def test_status_before_anything_was_built(job: Job) -> None:
    before = snapshot(job.folder)
    ended = r3po("status", cwd=job.folder)
    assert (ended.code, ended.err) == (0, "")
    assert "r3po run" in ended.out
    assert job.status()["files"] == 0
    assert snapshot(job.folder) == before


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


@pytest.mark.parametrize(
    ("arguments", "n_read"),
    [(("errors", "--json"), 0), (("errors", "--json"), 1), (("status",), 0)],
    ids=["long, closed before the first byte", "long, closed after it", "short"],
)
def test_an_answer_into_a_closed_pipe_is_no_traceback(tmp_path: Path, arguments: tuple[str, ...], n_read: int) -> None:
    """The long one is far more than a pipe holds."""
    job = make_job(tmp_path, 60, "def double(filepath):\n    raise ValueError('x' * 9000)\n")
    job.run()
    with subprocess.Popen(
        [sys.executable, "-m", "r3po", *arguments],
        cwd=job.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(n_read) == b"{"[:n_read]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 141), "1 would say that files failed"


# reset


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


# Stops and locks


@pytest.mark.parametrize(("owner", "name"), [(SerialPool, "close"), (RunLog, "close")])
def test_ctrl_c_while_a_stopped_run_is_on_its_way_out_says_how_to_go_on(
    owner: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes more than a second to end: just when people press the keys again. The log is closed when signals are
    Python's own again."""
    text = DOUBLE.replace("import json\n", "import json, os, signal\n")
    job = make_job(tmp_path, function=text.replace("    return", "    os.kill(os.getpid(), signal.SIGINT)\n    return"))
    close = getattr(owner, name)

    def close_slowly(closed: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            close(closed)

    monkeypatch.setattr(owner, name, close_slowly)
    ended = job.run("--json")
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "Continue with: r3po run --engine serial"
    assert (ended.json()["done"], ended.json()["error"]["exit_code"]) == (1, 130)


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

    monkeypatch.setattr("r3po.inspect.status.status_of", broken)
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


class Terminal:
    """`python -m r3po ...` as the leader of a session with a terminal of 80 columns, and what is on it."""

    def __init__(self, *arguments: str, cwd: Path, **changed: str | None) -> None:
        self._seen = b""
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "r3po", *arguments],
            cwd=cwd,
            env=environment(**{"TERM": "xterm-256color", "COLUMNS": None, **changed}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(30)
        os.close(self._master)

    @property
    def seen(self) -> str:
        """All that was written up to now."""
        with suppress(OSError):  # there is nothing more, or the last writer is gone
            while data := os.read(self._master, 65536):
                self._seen += data
        return self._seen.decode(errors="ignore")  # half a character may have come by now

    @property
    def shown(self) -> str:
        """The same without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen).replace("\r\n", "\n")

    def wait_until_shown(self, text: str) -> None:
        wait_until(lambda: text in self.shown or self._process.poll() is not None, f"{text!r} on the screen")
        assert text in self.shown

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        # The terminal must be read meanwhile: a full one would block the process.
        wait_until(lambda: self.seen and self._process.poll() is not None, "the end of the process")
        return self._process.wait()


def test_a_terminal_has_a_live_bar_and_its_cursor_back_after_ctrl_c_and_no_color_is_kept(tmp_path: Path) -> None:
    function = GATED.format(at=150, pause=0).replace(
        "    time.sleep(0)\n", f"    if 10 < n < 20: raise ValueError('{'x' * 200}')\n"
    )
    job = make_job(tmp_path, 200, function, batch_seconds=0.05)
    with Terminal("run", "--engine", "serial", cwd=job.folder, NO_COLOR="1") as terminal:
        wait_until(job.is_at_the_gate, "f is in its file number 150")
        terminal.wait_until_shown("/200")
        terminal.wait_until_shown("last failure")
        lines = re.split(r"[\r\n]+", terminal.shown)
        assert max(len(line) for line in lines if "last failure" in line) <= 80
        terminal.type("\x03")
        terminal.wait_until_shown("Stopping")
        job.open_gate()
        assert terminal.end() == 130
        seen, shown = terminal.seen, terminal.shown
    assert re.search(r"Process +━+.* \d+/200 +\d+\.\d %", shown)
    assert re.search(r"files/s   elapsed ", shown)
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "TIME" not in without_times(shown), "the plain lines are for what is no terminal"
    assert re.search(r"ValueError:\s+xxx", shown), "the word that no line holds is on a line of its own"
    assert shown.rstrip().endswith("Continue with: r3po run --engine serial")
    colors = re.findall(r"\x1b\[[0-9;]*m", seen)
    assert [code for code in colors if re.search(r"\b([34]\d|9\d|10\d|38|48)\b", code)] == []


class Screen(io.StringIO):
    """A terminal in this process."""

    def isatty(self) -> bool:
        return True


def on_screen(*arguments: str, cwd: Path, typed: str = "", term: str = "xterm-256color") -> Ended:
    """Call the command line in this process, as if it were on a terminal; `err` is what is on it, escape codes too."""
    screen = Screen()
    with pytest.MonkeyPatch.context() as patch, as_new_process(cwd), redirect_stdout(screen), redirect_stderr(screen):
        patch.setenv("TERM", term)
        sys.argv, sys.stdin = ["r3po", *arguments], Screen(typed)
        code = run_command()
    return Ended(code, "", screen.getvalue())


def test_a_run_on_a_terminal_gives_the_cursor_back_and_a_dumb_one_gets_plain_lines(tmp_path: Path) -> None:
    good = make_job(tmp_path / "good")
    bad = make_job(tmp_path / "bad", 120, "def double(filepath):\n    raise RuntimeError('always')\n")
    for job, code, said in (
        (good, 0, "Done in"),
        (bad, 3, "error: the first 100 files all failed with RuntimeError: always"),
    ):
        ended = on_screen("run", "--engine", "serial", cwd=job.folder)
        assert ended.code == code
        assert said in ended.err
        assert ended.err.rindex("\x1b[?25h") > ended.err.rindex("\x1b[?25l")
    good.add_files(7)
    ended = on_screen("run", "--engine", "serial", cwd=good.folder, term="dumb")
    assert ended.code == 0
    assert "Done in" in ended.err and "TIME 7/7" in without_times(ended.err) and ESCAPE not in ended.err


def test_reset_all_asks_on_a_terminal(job: Job) -> None:
    job.run()
    before = snapshot(job.folder)
    for typed in ("n\n", "\n"):
        ended = on_screen("reset", "--all", cwd=job.folder, typed=typed)
        assert ended.code == 2, "1 would say that files failed"
        assert "[y/N]" in ended.err and "doubles" in ended.err
        assert snapshot(job.folder) == before
    assert on_screen("reset", "--all", cwd=job.folder, typed="y\n").code == 0
    assert job.status()["files"] == 0


def test_names_and_messages_cannot_steer_the_screen_nor_make_two_paths_of_one(tmp_path: Path) -> None:
    evil = f"{ESCAPE}]0;owned\a{ESCAPE}[2J\r"
    job = make_job(tmp_path, 0, "def double(filepath):\n    raise ValueError('\\x1b[31mred\\x1b[0m\\x07')\n")
    for name in (evil, "one\ntwo"):
        (job.source / f"{name}.json").write_text("{}")
    ended = job.run()
    assert ended.code == 1
    errors, paths, as_json = (r3po("errors", *more, cwd=job.folder) for more in ((), ("--paths",), ("--json",)))
    for output in (ended, errors, paths, as_json):
        assert [c for c in output.said if not c.isprintable() and c != "\n"] == []
    assert "\\x1b]0;owned" in errors.out and "one\\ntwo.json" in errors.out
    assert "\\x1b[31mred" in errors.out
    assert len(paths.out.splitlines()) == 2 and "one\\ntwo.json" in paths.out.splitlines()


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


def test_a_command_leaves_at_once_with_all_that_it_said(tmp_path: Path) -> None:
    """A Ray that was cut off while it started can crash at Python's end: the exit code would be that of SIGSEGV."""
    script = (
        "import atexit, r3po.cli.app\n"
        "atexit.register(print, 'the end of Python')\n"
        "print('said before')\n"
        "r3po.cli.app._call = lambda: SystemExit(143)\n"
        "r3po.cli.app.main()\n"
    )
    ended = run_python("-c", script, cwd=tmp_path)
    assert ended.code == 143
    assert ended.out.splitlines() == ["said before"]
