"""The keys `worker` and `function_args`: what they take, and what is said of anything else."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from r3po.config.explain import explain_config
from r3po.config.settings import load_config
from r3po.config.worker_keys import parse_size
from r3po.errors import ConfigError

KEYS = {"processes": 2, "source_path": "a", "source_file_part": "", "working_dir": "b", "output_path": "c"}


def write(folder: Path, *lines: str) -> Path:
    file = folder / "config.yaml"
    file.write_text("".join(f"{line}\n" for line in ["job_name: x", *(f"{k}: {v!r}" for k, v in KEYS.items()), *lines]))
    return file


def told_of(folder: Path, *lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, *lines))
    return caught.value.evidence or ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("4 GiB", 4 << 30), ("4GB", 4 * 10**9), ("64k", 64 << 10), ("1.5 MiB", 3 << 19), ("12", 12), (7, 7), ("1 b", 1)],
)
def test_a_size_is_a_number_of_bytes_or_has_a_unit(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 GiBs", "-1", 0, -3, True, 1.5, None, "GiB", "1e9", "four"])
def test_anything_else_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as 4 GiB"):
        parse_size(text)


def test_what_a_worker_needs_is_said_in_rays_words(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "worker: {num_cpus: 2, num_gpus: 0.5, memory: 4 GiB, resources: {tape: 1}}"))
    assert config.worker is not None
    assert config.worker.needs == {"CPU": 2, "GPU": 0.5, "memory": 4 << 30, "tape": 1}
    found = {setting.key: setting.shown for setting in explain_config(config.path)}
    assert found["worker"] == "{num_cpus: 2.0, num_gpus: 0.5, memory: 4294967296, resources: {tape: 1.0}}"
    assert found["function_args"] == "not set" and load_config(KEYS, job_name="x").worker is None
    zero = load_config({**KEYS, "worker": {"num_cpus": 0}}, job_name="x").worker
    assert zero is not None and zero.needs == {"CPU": 0}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{num_gpus: 1.5}", "must be a whole number where it is more than 1"),
        ("{num_cpus: -1}", "must be at least 0"),
        ("{num_cpus: '2'}", "must be a number, without quotes"),
        ("{memory: lots}", "must be a size such as 4 GiB, 500 MB or a number of bytes"),
        ("{num_gpu: 1}", 'unknown key; did you mean "num_gpus"?'),
        ("{resources: {GPU: 1}}", '"GPU" is no resource of its own'),
        ("{resources: {tape: 0}}", "must be greater than 0"),
        ("3", "must be a mapping such as {num_cpus: 2, num_gpus: 1, memory: 4 GiB}"),
        ("{resources: 3}", "must be a mapping such as {name: 1}"),
    ],
)
def test_what_is_wrong_with_worker_is_told_with_its_line(tmp_path: Path, written: str, told: str) -> None:
    found = told_of(tmp_path, f"worker: {written}")
    assert told in found and found.startswith("line 7")


def test_arguments_are_values_as_yaml_has_them(tmp_path: Path) -> None:
    file = write(tmp_path, "function_args:", "  weights: w.json", "  since: 2026-01-02", "  sizes: [1, {2: x}, null]")
    assert load_config(file).function_args == {
        "weights": "w.json",
        "since": datetime.date(2026, 1, 2),
        "sizes": [1, {2: "x"}, None],
    }
    given: dict[str, Any] = {"path": tmp_path, "sizes": (1, 2)}
    found = load_config({**KEYS, "function_args": given}, job_name="x").function_args
    assert found == {"path": str(tmp_path), "sizes": [1, 2]}
    assert load_config(write(tmp_path, "function_args:")).function_args is None


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[a, b]", "must be a mapping such as {weights: weights.json, size: 3}"),
        ("{a b: 1}", '"a b" is no name that an argument of a function can have'),
        ("{class: 1}", '"class" is no name that an argument of a function can have'),
        ("{1: 1}", '"1" is no name that an argument of a function can have'),
    ],
)
def test_what_no_function_can_be_given_is_refused(tmp_path: Path, written: str, told: str) -> None:
    assert told in told_of(tmp_path, f"function_args: {written}")


def test_an_object_from_python_is_refused_with_what_takes_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({**KEYS, "function_args": {"model": object()}}, job_name="x")
    told = "model holds a object; it takes text, numbers, dates, lists and mappings (functools.partial takes the rest)"
    assert told in (caught.value.evidence or "")


def test_auto_is_remembered_until_a_number_is_given(tmp_path: Path) -> None:
    config = load_config({**KEYS, "processes": "auto"}, job_name="x")
    assert config.is_auto and not config.with_overrides(processes=1).is_auto
    assert not load_config(KEYS, job_name="x").is_auto
    assert load_config({key: value for key, value in KEYS.items() if key != "processes"}, job_name="x").is_auto
