"""Which Ray a run uses, by what the config and the environment say; no Ray is started here."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

import r3po.engines.ray_address as ray_address
from r3po.config.key_types import check_address
from r3po.engines.ray_address import Choice, check_reachable, choose, find_running
from r3po.errors import ConfigError, RunStoppedError

SUBMITTED = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


@pytest.mark.parametrize(
    ("configured", "environment", "address"),
    [
        (None, {}, None),
        (None, {"RAY_ADDRESS": "local"}, None),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"} | SUBMITTED, "10.0.0.1:6379"),
        (None, SUBMITTED, None),
        ("local", {"RAY_ADDRESS": "10.0.0.1:6379"} | SUBMITTED, None),
        ("auto", {}, "auto"),
        ("auto", {"RAY_ADDRESS": "auto"}, "auto"),
        ("auto", {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),
        ("auto", {"RAY_ADDRESS": "local"}, None),
        ("head:6379", {"RAY_ADDRESS": "10.0.0.1:6379"}, "head:6379"),
    ],
)
def test_the_config_says_which_ray_or_ray_itself_where_it_has_started_the_run(
    configured: str | None, environment: dict[str, str], address: str | None
) -> None:
    assert choose(configured, environment) == Choice(address)


def test_an_address_in_the_environment_is_named_and_not_followed() -> None:
    choice = choose(None, {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert choice.address is None
    assert choice.notice == "RAY_ADDRESS is 10.0.0.1:6379, and is not followed: --address auto does"


def test_an_address_in_the_environment_that_is_followed_must_be_one() -> None:
    with pytest.raises(ConfigError, match="RAY_ADDRESS is ray://head:10001") as caught:
        choose("auto", {"RAY_ADDRESS": "ray://head:10001"})
    assert "ray job submit" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("given", "address"),
    [("auto", "auto"), ("local", "local"), ("a.b:1", "a.b:1"), ("[fd00::1]:80", "[fd00::1]:80")],
)
def test_addresses(given: str, address: str) -> None:
    assert check_address(given) == address


@pytest.mark.parametrize("given", ["head", "head:", ":6379", "head:0", "head:65536", "http://head:8265", "a b:1"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="must be auto, local, or HOST:PORT"):
        check_address(given)


def test_an_address_without_a_ray_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        check_reachable(address)
    began = time.monotonic()
    with pytest.raises(RunStoppedError, match=f"no Ray answers at {address} .Connection refused.") as caught:
        check_reachable(address)
    assert time.monotonic() - began < 5
    assert "ray_address, --address" in (caught.value.hint or "")


@pytest.fixture
def rays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose Ray was started on a port that nobody has any more; no raylet runs."""
    monkeypatch.setattr(ray_address, "_iter_running", lambda: iter(()))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    return {"TMPDIR": str(tmp_path)}


def test_auto_does_not_believe_in_a_ray_that_was(rays: dict[str, str]) -> None:
    with pytest.raises(RunStoppedError, match="no Ray is running on this machine"):
        find_running(rays)


def test_auto_takes_the_ray_that_was_started_last_or_the_only_one(
    rays: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ["10.0.0.1:6379", "10.0.0.1:6379"]
    monkeypatch.setattr(ray_address, "_iter_running", lambda: iter(running))
    assert find_running(rays) == "10.0.0.1:6379"
    running.append("10.0.0.2:6379")
    with pytest.raises(RunStoppedError, match="2 Rays are running") as caught:
        find_running(rays)
    assert caught.value.evidence == "10.0.0.1:6379\n10.0.0.2:6379"
    with socket.create_server(("127.0.0.1", 0)) as server:
        latest = "{}:{}".format(*server.getsockname())
        (tmp_path / "ray" / "ray_current_cluster").write_text(latest + "\n")
        assert find_running(rays) == latest
