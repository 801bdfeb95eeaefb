"""Keeps the lines off the screen that Ray's C++ code writes to stderr while it starts, whatever its settings say.

It passes on everything else that arrives there, as it arrives: the progress of the run, and what the user's program
writes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_RAY_LINE = re.compile(
    rb"^(\[\d{4}-\d\d-\d\d [\d:,.]+ [A-Z] \d+ \d+\]|[WIEF]\d{4} [\d:.]+ +\d+ "
    rb"|\*\*\* SIG[A-Z]+ received |PC: @ +0x|    @ +0x).*\n?",
    re.MULTILINE,
)
"""`[2026-11-28 12:22:28,413 W 21261 21261] rpc_client.h:153: ...`, gRPC's `E1128 12:22:28.413  21261 ...`, and the
stack that a signal prints while it is Ray's."""

END_S = 2.0
"""Seconds for which what is still on its way to the screen is waited for."""


@contextlib.contextmanager
def ray_lines_to(log_file: Path) -> Iterator[None]:
    """Inside this block, lines of Ray's own on stderr go to the end of `log_file` instead."""
    try:
        screen = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    reader, writer = os.pipe()
    thread = threading.Thread(target=_pass_on, args=(reader, screen, log_file), name="r3po-ray-lines", daemon=True)
    os.dup2(writer, 2)
    os.close(writer)
    thread.start()
    try:
        yield
    finally:
        os.dup2(screen, 2)  # with which the last writer is gone, and the thread ends
        thread.join(END_S)


def split_lines(chunk: bytes) -> tuple[bytes, bytes]:
    """Return what is to be shown of a chunk, and the lines of Ray's in it."""
    ours = b"".join(found[0] for found in _RAY_LINE.finditer(chunk))
    return (_RAY_LINE.sub(b"", chunk) if ours else chunk), ours


# Private functions


def _pass_on(reader: int, screen: int, log_file: Path) -> None:
    with contextlib.suppress(OSError), open(reader, "rb", buffering=0) as chunks:
        while chunk := chunks.read(1 << 16):
            shown, rays = split_lines(chunk)
            if rays:
                with contextlib.suppress(OSError), open(log_file, "ab") as file:
                    file.write(rays)
            with contextlib.suppress(OSError):  # whoever read us has gone
                while shown:
                    shown = shown[os.write(screen, shown) :]
    os.close(screen)
