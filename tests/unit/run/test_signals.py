"""Signals while the workers are being started; what they do to a run is in test_resume.py and the fault tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import r3po.run.signals as signals_module
from r3po.errors import StopNow
from r3po.run.signals import StopSignals


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def stop(tmp_path: Path, told: list[str]) -> Iterator[StopSignals]:
    stop = StopSignals(tmp_path / "stop", told.append, interrupts=False)
    stop.install()
    yield stop
    stop.restore()


def test_a_start_that_goes_on_for_too_long_after_a_signal_is_cut_off(
    stop: StopSignals, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_module, "START_S", 0.05)
    with pytest.raises(StopNow), stop.interrupting():
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == ["SIGTERM"]
        time.sleep(30)
    assert (stop.exit_code, told) == (143, ["SIGTERM"])


def test_a_second_signal_cuts_a_start_off_at_once(stop: StopSignals) -> None:
    with pytest.raises(StopNow), stop.interrupting():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert stop.exit_code == 130


def test_a_start_that_ends_in_time_is_only_followed_by_an_orderly_end(
    stop: StopSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_module, "START_S", 0.2)
    with stop.interrupting():
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    assert stop.is_requested and not stop.is_urgent


def test_nothing_is_started_after_a_signal(stop: StopSignals) -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(StopNow), stop.interrupting():
        raise AssertionError("it was started")
    assert stop.exit_code == 129


def test_a_start_that_goes_on_is_cut_off_by_the_same_signal(stop: StopSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals_module, "START_S", 0.05)
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    with stop.interrupting():
        signal.raise_signal(signal.SIGTERM)
        assert stop._timer is not None
        stop._timer.join(30)
    assert sent == [signal.SIGTERM]
