"""In a container: little shared memory, no HOME or one that is read-only, a host name that nobody knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import DOUBLE, doubled, make_job, run_program

BARE = """
mount -t tmpfs -o size=64m none /dev/shm &&
mount -t tmpfs -o ro,size=4k none "$0" &&
hostname nobody-knows-this-one &&
exec "$@"
"""


def _why_not() -> str:
    if os.geteuid():
        return "it needs root"
    command = ["unshare", "--mount", "--uts", "true"]
    if shutil.which("unshare") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return "no namespaces can be made here"
    return ""


pytestmark = [pytest.mark.faults, pytest.mark.skipif(bool(_why_not()), reason=_why_not())]


@pytest.mark.parametrize("home", ["read-only", "none"])
@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_job_runs_in_a_bare_container(engine: str, home: str, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", 30, DOUBLE, processes=2)
    read_only = tmp_path / "home"
    read_only.mkdir()
    inside = ("unshare", "--mount", "--uts", "sh", "-c", BARE, str(read_only), "env")
    inside += (f"HOME={read_only}",) if home == "read-only" else ("-u", "HOME")
    ended = run_program(*inside, sys.executable, "-m", "r3po", "run", "--engine", engine, cwd=job.folder)
    assert ended.code == 0, ended.err
    assert job.rows() == doubled(*range(30))
    assert job.findings() == []
