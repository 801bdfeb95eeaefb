"""What is known of other processes of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from jobs import HAS_PROC, wait_until
from r3po.worker.processes import has_ended, name_and_state

EXIT = {"x86_64": 60, "aarch64": 93}.get(platform.machine())
"""The system call that ends one thread alone."""

FIRST_THREAD_ENDS = f"""
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("there", flush=True)
ctypes.CDLL(None).syscall({EXIT}, 0)
"""


@pytest.mark.skipif(not HAS_PROC or EXIT is None, reason="looks at threads by /proc")
def test_a_process_has_ended_once_all_its_threads_have() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        wait_until(lambda: name_and_state(process.pid)[1] == "Z", "its first thread has ended")
        assert not has_ended(process.pid)
        process.kill()
        wait_until(lambda: has_ended(process.pid), "the other one has ended, too")
    assert has_ended(process.pid), "its exit code was asked for"
    assert not has_ended(os.getpid())
