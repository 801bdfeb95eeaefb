"""The rows of one file may be more than the memory holds: neither f's worker nor staging has all of them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOST_MB = 280
"""Python, Arrow, a few blocks and row groups; the rows alone have 200 MB, and 400 and more without these."""

SCRIPT = """
import re, sys
import r3po


def f(path):
    for number in range(400_000):
        yield {"number": number, "text": f"{number:0500d}"}


config = {
    "job_name": "large", "processes": 1, "source_path": "source", "source_file_part": ".txt",
    "working_dir": "state", "output_path": "table", "rows": "many",
}
result = r3po.run_jobs(config, f, engine="serial")
assert (result.done, result.failed) == (1, 0), result
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process used at most")
def test_a_file_of_many_rows_takes_less_memory_than_its_rows(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) / 1024 < MOST_MB
