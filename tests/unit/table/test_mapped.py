"""What was read of a mapped file leaves the memory, and is there again when it is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest

from r3po.table.mapped import let_go

MIB = 1 << 20


def resident_pages_bytes() -> int:
    """Return what this process holds of files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


def test_what_was_let_go_is_read_again(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(content)
    with pa.memory_map(str(tmp_path / "file")) as source:
        whole = source.read_buffer()
    assert whole.to_pybytes() == content
    (tmp_path / "file").unlink()
    let_go([whole, pa.py_buffer(b"")])
    assert whole.to_pybytes() == content


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds of files")
def test_what_was_let_go_is_no_memory_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    with pa.memory_map(str(tmp_path / "file")) as source:
        whole = source.read_buffer()
    before = resident_pages_bytes()
    assert not whole.to_pybytes().strip(b"\0")
    assert resident_pages_bytes() - before > 32 * MIB
    let_go([whole])
    assert resident_pages_bytes() - before < 16 * MIB
