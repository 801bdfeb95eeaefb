"""The user's function on a machine that has none of its files."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r3po.function.find import FunctionSpec, find_function
from r3po.function.travel import Baggage, pack, unpack

LOADED = """
import json, sys
from r3po.function.find import FunctionSpec, fingerprint_of_file
from r3po.function.load import load_function
given = json.loads(sys.argv[1])
spec = FunctionSpec(**{**given, "sys_path": tuple(given["sys_path"]), "caller_globals": ()})
print(json.dumps([load_function(spec)("x"), fingerprint_of_file(spec)]))
"""


def call_there(spec: FunctionSpec) -> tuple[object, str | None]:
    """Return what f returns in a process of its own, and the fingerprint of its file there."""
    given = json.dumps(dataclasses.asdict(spec))
    ended = subprocess.run([sys.executable, "-P", "-c", LOADED, given], capture_output=True, text=True, check=True)
    value, fingerprint = json.loads(ended.stdout)
    return value, fingerprint


def travel(spec: FunctionSpec, home: Path, there: Path) -> tuple[FunctionSpec, Baggage]:
    """Return the function as a machine has it where `home` is not, and what was sent."""
    baggage = pack(spec)
    shutil.rmtree(home)
    return unpack(spec, baggage, there), baggage


def test_a_module_takes_along_what_it_imports_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "f.py").write_text("import helper\n\n\ndef f(path):\n    return {'n': helper.one()}\n")
    (home / "helper.py").write_text("from deeper import ONE\n\n\ndef one():\n    return ONE\n")
    (home / "deeper.py").write_text("ONE = 1\n")
    (home / "other.py").write_text("")
    (home / "data.csv").write_text("large")
    spec = find_function("f.py:f", home)
    there, baggage = travel(spec, home, tmp_path / "there")
    assert sorted(name for name, _ in baggage.files) == ["deeper.py", "f.py", "helper.py"]
    assert call_there(there) == ({"n": 1}, spec.fingerprint)


def test_a_module_of_a_package_takes_its_packages_along(tmp_path: Path) -> None:
    package = tmp_path / "home" / "lab" / "counts"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "f.py").write_text("from ..tools import one\n\n\ndef f(path):\n    return {'n': one()}\n")
    (package.parent / "tools.py").write_text("def one():\n    return 1\n")
    for text in ("lab/counts/f.py:f", "lab.counts.f:f"):
        (tmp_path / "again").mkdir(exist_ok=True)
        home = shutil.copytree(tmp_path / "home", tmp_path / "again" / text.replace("/", "."))
        there, baggage = travel(find_function(text, home), home, tmp_path / f"there-{text[3]}")
        assert sorted(name for name, _ in baggage.files) == [
            "lab/__init__.py",
            "lab/counts/__init__.py",
            "lab/counts/f.py",
            "lab/tools.py",
        ]
        assert call_there(there)[0] == {"n": 1}


def test_a_function_stays_where_it_lies_if_it_is_there_just_so(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(path):\n    return {}\n")
    spec = find_function("f.py:f", tmp_path)
    baggage = pack(spec)
    assert unpack(spec, baggage, tmp_path / "there") == spec
    assert not (tmp_path / "there").exists()
    (tmp_path / "f.py").write_text("def f(path):\n    return {'other': 1}\n")
    assert unpack(spec, baggage, tmp_path / "there").target == str(tmp_path / "there" / "f.py")


@pytest.mark.parametrize("text", ["json:loads", "pathlib:Path"])
def test_what_is_installed_takes_nothing_along(text: str, tmp_path: Path) -> None:
    spec = find_function(text, tmp_path)
    assert pack(spec) == Baggage()
    assert unpack(spec, pack(spec), tmp_path / "there") == spec
