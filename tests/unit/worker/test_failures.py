"""Failures as text: nothing that the user's exception does reaches us, and the environment's are told apart."""

from __future__ import annotations

import errno
import traceback
from traceback import FrameSummary
from types import TracebackType
from typing import Any

import pytest

from r3po.table.outcomes import Failure
from r3po.worker.failures import (
    ENVIRONMENTAL,
    GONE,
    TEXT_LIMIT,
    EnvironmentalFailure,
    clean,
    death_failure,
    failure_of,
    timeout_failure,
)


def raised(error: BaseException) -> tuple[BaseException, TracebackType | None]:
    try:
        raise error
    except BaseException as caught:
        return caught, caught.__traceback__


class Odd(OSError):
    """Claims to be of the environment, in its own way."""

    @property
    def errno(self) -> Any:  # type: ignore[override]
        raise RuntimeError("which?")


def test_an_exception_is_told_with_its_type_its_message_and_its_place() -> None:
    failure = failure_of(*raised(ValueError("broke")))
    assert (failure.error_type, failure.message) == ("ValueError", "broke")
    assert failure.where.startswith("test_failures.py:") and failure.where.endswith(" in raised")
    assert failure.traceback.startswith("Traceback") and failure.traceback.endswith("ValueError: broke\n")
    assert failure_of(ValueError("broke"), None).where == "", "without a frame of the user"


FILES_OWN = {errno.EISDIR, errno.EINVAL, errno.EPIPE, errno.ECHILD}


@pytest.mark.parametrize("number", sorted(ENVIRONMENTAL | GONE | FILES_OWN))
def test_what_the_system_says_of_a_disk_may_not_be_the_file_s_fault_and_a_file_gone_only_where_that_is_asked(
    number: int,
) -> None:
    error = OSError(number, "says the system", "a.json")
    assert {errno.ENOENT, errno.EACCES} <= GONE and not ENVIRONMENTAL & GONE
    assert isinstance(failure_of(error, None, ENVIRONMENTAL), EnvironmentalFailure) is (number in ENVIRONMENTAL)
    assert isinstance(failure_of(error, None, ENVIRONMENTAL | GONE), EnvironmentalFailure) is (number not in FILES_OWN)
    assert type(failure_of(error, None)) is Failure, "unless nobody asks"


@pytest.mark.parametrize("error", [OSError("words only"), OSError("EIO", "text"), Odd("x"), ValueError(errno.EIO)])
def test_an_error_without_a_number_of_the_system_is_the_file_s_own(error: Exception) -> None:
    assert type(failure_of(error, None, ENVIRONMENTAL)) is Failure
    environmental = failure_of(Odd(errno.EIO, "x"), None, ENVIRONMENTAL)
    assert isinstance(environmental, EnvironmentalFailure), "an errno of the user's own does not deceive"


def test_a_timeout_says_the_limit_and_where_f_was() -> None:
    frames = [FrameSummary("/home/me/count.py", 3, "f", line="weigh()"), FrameSummary("/home/me/lib.py", 9, "weigh")]
    failure = timeout_failure(2.5, frames)
    assert failure[:3] == ("Timeout", "f took longer than timeout_seconds: 2.5", "lib.py:9 in weigh")
    assert failure.traceback.index("count.py") < failure.traceback.index("lib.py")
    assert timeout_failure(60.0, ())[1:] == ("f took longer than timeout_seconds: 60", "", "")


STACK = f"""\
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "{traceback.__file__}", line 5 in string_at
  File "/home/me/my files/lib.py", line 9 in weigh
  File "/home/me/count.py", line 3 in f
  File "{failure_of.__code__.co_filename.replace("failures", "worker")}", line 300 in _call
  File "/usr/lib/ray/worker.py", line 1 in main
"""


def test_a_death_is_told_with_the_innermost_line_of_the_user_s_code() -> None:
    failure = death_failure("WorkerDied", "SIGSEGV: it died", STACK)
    assert failure[:3] == ("WorkerDied", "SIGSEGV: it died", "lib.py:9 in weigh")
    assert failure.traceback.endswith("line 3 in f"), "below f there is nothing of the user's"
    assert STACK.startswith(failure.traceback)


@pytest.mark.parametrize("stack", ["", "Fatal Python error: Aborted\n\n<no Python frame>\n", '  File "cut'])
def test_a_death_without_a_stack_has_no_place(stack: str) -> None:
    assert death_failure("WorkerDied", "killed", stack) == Failure("WorkerDied", "killed", "", stack)


def test_text_is_cut_in_its_middle_and_always_utf_8() -> None:
    assert clean("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT
    cut = clean("a" + "x" * TEXT_LIMIT + "z")
    assert cut.startswith("ax") and cut.endswith("xz") and "\n... 2 characters left out ...\n" in cut
    assert clean("\ud800") == "\\ud800"
