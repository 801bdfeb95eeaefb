"""The time limit of a call: it ends Python code, whatever that code catches."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from r3po.worker import time_limit as timelimit
from r3po.worker.time_limit import TimedOut, TimeLimit, is_possible


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "no alarm is left"
    signal.signal(signal.SIGALRM, before)


def loop() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def catch_exceptions() -> None:
    while True:
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("it is no Exception")


def wait_for_a_lock() -> None:
    threading.Event().wait(60)


@pytest.mark.parametrize("function", [loop, sleep, catch_exceptions, wait_for_a_lock])
def test_what_takes_too_long_is_ended(function: Callable[[], None]) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut):
        TimeLimit(0.05).call(function)
    assert 0.05 <= time.monotonic() - started < 10


def test_f_that_catches_everything_once_is_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelimit, "REPEAT_S", 0.05)
    caught = []

    def stubborn() -> None:
        for _ in range(3):
            try:
                time.sleep(60)
            except BaseException as error:
                caught.append(error)
        time.sleep(60)

    with pytest.raises(TimedOut):
        TimeLimit(0.05).call(stubborn)
    assert [type(error) for error in caught] == [TimedOut] * 3


def test_f_that_catches_it_and_returns_has_returned() -> None:
    def late() -> str:
        try:
            time.sleep(60)
        except TimedOut:
            return "late"
        return "never"

    assert TimeLimit(0.05).call(late) == "late"


def test_limits_follow_one_another_and_what_is_in_time_is_returned_without_a_trace() -> None:
    limit = TimeLimit(0.05)
    for _ in range(3):
        with pytest.raises(TimedOut):
            limit.call(loop)
        assert limit.call(lambda a, b: (b, a), 1, 2) == (2, 1)
    time.sleep(0.1)  # the time in which an alarm would have come
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_that_was_on_its_way_ends_nothing() -> None:
    TimeLimit(60).call(int)
    signal.raise_signal(signal.SIGALRM)


def test_the_error_of_f_is_raised_as_it_is() -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        TimeLimit(60).call(fail)


def test_a_handler_of_f_s_own_does_not_keep_the_next_call_from_its_limit() -> None:
    limit = TimeLimit(0.05)

    def take_over() -> str:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 60)
        return "mine now"

    assert limit.call(take_over) == "mine now"
    with pytest.raises(TimedOut):
        limit.call(sleep)


@pytest.mark.parametrize("seconds", [1e-9, 1e-6])
def test_the_shortest_limit_is_no_limit_of_zero_which_would_be_none(seconds: float) -> None:
    with pytest.raises(TimedOut):
        TimeLimit(seconds).call(sleep)


def test_only_the_main_thread_can_have_a_limit() -> None:
    found: list[Any] = [is_possible()]
    thread = threading.Thread(target=lambda: found.append(is_possible()))
    thread.start()
    thread.join()
    assert found == [True, False]
