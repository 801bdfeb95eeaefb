"""What a start of Ray may do to the screen and for how long; no Ray is started here."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

import r3po.engines.private_ray as private_ray
from r3po.engines.needs import Needs
from r3po.engines.private_ray import PrivateRay
from r3po.engines.ray_lines import ray_lines_to, split_lines
from r3po.errors import FunctionError, RunStoppedError
from r3po.function.find import find_function
from r3po.state.folders import JobFolders
from r3po.worker.import_trial import ImportTrial
from r3po.worker.messages import WorkerSetup

RAYS = b"[2026-11-28 12:22:28,413 W 21261 21261] rpc_client.h:153: Failed to connect to GCS within 5 seconds.\n"
STACK = (
    b"*** SIGTERM received at time=1795913934 on cpu 0 ***\nPC: @     0x7f9129c9af16  (unknown)  (unknown)\n"
    b"    @     0x7f9129c51050  (unknown)  (unknown)\n"
)
GRPCS = b"E1128 12:22:28.413000  21261 chttp2_server.cc:40] address in use\n"


@pytest.mark.parametrize(
    ("chunk", "shown"),
    [
        (RAYS, b""),
        (b"mine\n" + RAYS + GRPCS + b"mine, too", b"mine\nmine, too"),
        (STACK + b"mine\n", b"mine\n"),
        (b"\r\x1b[2KRay  starting ...", b"\r\x1b[2KRay  starting ..."),
        (b"[2026-11-28] a line of the user's\n", b"[2026-11-28] a line of the user's\n"),
    ],
)
def test_lines_of_ray_are_told_from_all_others(chunk: bytes, shown: bytes) -> None:
    assert split_lines(chunk)[0] == shown


def test_lines_of_ray_go_to_its_log_and_all_others_to_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ray_lines_to(tmp_path / "ray.log"):
        os.write(2, b"first\n" + RAYS)
        os.write(2, b"second\n")
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "first\nsecond\nthird\n"
    assert (tmp_path / "ray.log").read_bytes() == RAYS


# Waiting for the keeper


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_ray, "LOOK_S", 0.02)
    monkeypatch.setattr(private_ray, "START_LIMIT_S", 0.5)


def launch(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> private_ray._Keeper:
    """Start a process in a keeper's place."""
    monkeypatch.setattr(private_ray, "command_of", lambda settings, *flags: [sys.executable, "-c", code])
    return private_ray._Keeper(folder, folder.parent / "ray.log", 1, 0, dict(os.environ))


def test_a_start_without_a_sign_of_life_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    signs = f"[(open(r'{folder}/' + str(n), 'w').close(), time.sleep(0.2)) for n in range(10)]"
    keeper = launch(folder, monkeypatch, f"import sys, time; {signs}; sys.stdin.read()")
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="nothing has come of it for 0 s"):
            keeper.wait_for_address()
        assert time.monotonic() - began > 2, "as long as there are signs it is waited for"
    finally:
        keeper.end()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ('import json; print(json.dumps({"failed": "its raylet ended"}))', "its raylet ended"),
        ("import os; os.kill(os.getpid(), 9)", "the process that starts it ended"),
    ],
)
def test_a_start_that_fails_says_why(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(private_ray, "check_loopback", lambda: None)
    monkeypatch.setattr(private_ray, "make_temporary", lambda: Path(tempfile.mkdtemp(dir=tmp_path)))
    monkeypatch.setattr(private_ray, "command_of", lambda settings, *flags: [sys.executable, "-c", code])
    monkeypatch.setattr(private_ray.time, "sleep", lambda seconds: None)
    ray = PrivateRay(tmp_path / "ray.log", tmp_path / "ray_folder", Needs())
    with pytest.raises(RunStoppedError) as caught:
        ray.start(2)
    assert caught.value.args[0] == f"Ray does not start: {told}"
    assert "run again" in (caught.value.hint or "")
    assert {path.name for path in tmp_path.iterdir()} == {"ray.log", "ray_folder"}, "nothing is left of three tries"


def test_ray_and_its_workers_have_docstrings_threads_and_a_token_of_their_own() -> None:
    given = {"PYTHONOPTIMIZE": "2", "RAY_AUTH_TOKEN": "of another Ray", "PATH": "/bin"}
    made = private_ray.keeper_environment(given, "own", 3)
    assert (made["PYTHONOPTIMIZE"], made["OMP_NUM_THREADS"], made["PATH"]) == ("1", "3", "/bin")
    assert (made["RAY_AUTH_MODE"], made["RAY_AUTH_TOKEN"]) == ("token", "own")
    assert private_ray.keeper_environment({"OMP_NUM_THREADS": "8"}, "own", 3)["OMP_NUM_THREADS"] == "8"


# The import of f's module beside the start


def try_import(folder: Path, code: str) -> None:
    """Import a module with this code as a run does beside Ray's start, and wait for it, which a run does not."""
    (folder / "tried.py").write_text(f"import os, sys\n{code}\n\n\ndef f(path):\n    return {{}}\n")
    setup = WorkerSetup(
        folders=JobFolders(folder, folder),
        source_path=str(folder),
        function=find_function("tried.py:f", folder),
        input="path",
        hash="content",
        batch_seconds=1.0,
        stop_file=folder / "stop",
        workers_folder=folder,
        current_folder=str(folder),
    )
    with ImportTrial(setup, is_wanted=True) as trial:
        assert trial._process is not None
        trial._process.wait(60)
        trial.check()
        trial.check()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("{}['key']", ("tried.py raised KeyError while it was imported: 'key'", 'tried.py", line 2', "{}['key']")),
        ("import not_there", ("tried.py failed to import not_there", "tried.py:2")),
        ("sys.exit(3)", ("tried.py called sys.exit(3) while it was imported", "tried.py:2  sys.exit(3)")),
        ("os._exit(7)", ("tried.py ended its process while it was imported (exit code 7)", "see it alone: ")),
        ("os._exit(0)", ("tried.py ended its process while it was imported (exit code 0)",)),
        ("import ctypes\nctypes.string_at(0)", ("(SIGSEGV)", 'tried.py", line 3 in <module>')),
    ],
)
def test_what_goes_wrong_at_the_import_is_known_before_workers_die(
    code: str, told: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(FunctionError) as caught:
        try_import(tmp_path, code)
    text = str(caught.value)
    assert [part for part in told if part not in text] == [], text
    assert "import_trial" not in text and "importlib" not in text


@pytest.mark.parametrize(
    "code",
    [
        "print('x' * 1_000_000)\nprint('y' * 1_000_000, file=sys.stderr)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
        "assert os.getcwd() == os.path.dirname(__file__) and sys.argv == [__file__], (os.getcwd(), sys.argv)",
        "import signal\nassert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL",
        "os.kill(os.getpid(), 9)",  # for want of memory, perhaps
    ],
)
def test_an_import_that_works_or_may_work_in_a_worker_says_nothing(code: str, tmp_path: Path) -> None:
    try_import(tmp_path, code)


def test_an_import_that_takes_long_is_left_to_the_workers(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n\n\ndef f(path):\n    return {}\n")
    setup = WorkerSetup(
        JobFolders(tmp_path, tmp_path),
        "",
        find_function("slow.py:f", tmp_path),
        "path",
        "stat",
        1.0,
        tmp_path,
        tmp_path,
    )
    with ImportTrial(setup, is_wanted=True) as trial:
        process = trial._process
        assert process is not None
        trial.check()
    assert process.returncode == -9
