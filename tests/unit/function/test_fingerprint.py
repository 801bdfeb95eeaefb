"""When two versions of a function count as the same, and when not."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from r3po.function.fingerprint import fingerprint_callable, fingerprint_name, fingerprint_source

ROOT = Path(__file__).parents[3]

COUNT = '''\
"""Counts fruits."""
import json
from functools import lru_cache

from helper import weigh

LIMIT = 5


def count(filepath):
    """Return one row."""
    # the file is small
    with open(filepath) as file:
        data = json.load(file)
    return {"n": min(len(data), LIMIT), "kg": weigh(data)}


def other(filepath):
    return {}


if __name__ == "__main__":
    import elsewhere
    print(1)
'''
HELPER = """\
FACTOR = 2

def weigh(data):
    return FACTOR * len(data)

def unrelated():
    return 1
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def fingerprint(folder: Path, files: dict[str, str], where: str = "count.py", name: str = "count") -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return fingerprint_source(write(folder, files) / where, name)


def execute(source: str, name: str = "count") -> Callable[..., object]:
    """Make a function that has no source, as in a Python shell."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(source, names)
    func = names[name]
    assert callable(func)
    return func


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("# the file is small", "# the file is large", True),
        ('"""Return one row."""', '"""Return a row."""', True),
        ('    """Return one row."""\n', "", True),
        ('"""Counts fruits."""', "# -*- coding: utf-8 -*-\n\n\n", True),
        ('{"n": min(len(data), LIMIT), "kg"', "{\n        'n': min( len(data), LIMIT ),\n        'kg'", True),
        ("print(1)", "print(2)", True),
        ("min(len", "max(len", False),
        ("LIMIT = 5", "LIMIT = 6", False),
        ("LIMIT = 5", "LIMIT = 5.0", False),
        ("LIMIT = 5", "if True:\n    LIMIT = 5", False),
        ("import json", "import simplejson as json", False),
        ("def count(filepath)", "def count(filepath, limit=3)", False),
        ("def count(", "@lru_cache\ndef count(", False),
        ("from helper import weigh", "def weigh(data): return 0", False),
        ("def other(filepath):\n    return {}", "def other(filepath):\n    return {'a': 1}", False),
        ("print(1)", "print(1)\nelse:\n    LIMIT = 7", False),
        ('__name__ == "__main__"', '__name__ != "__main__"', False),
    ],
)
def test_all_code_of_its_module_counts_and_nothing_else(tmp_path: Path, before: str, after: str, is_same: bool) -> None:
    assert before in COUNT
    first = fingerprint(tmp_path / "a", {"count.py": COUNT, "helper.py": HELPER})
    changed = fingerprint(tmp_path / "a", {"count.py": COUNT.replace(before, after), "helper.py": HELPER})
    assert (changed == first) is is_same


# Helper modules


SIBLINGS = [
    "from helper import g\ndef count(p): return {'n': g(p)}",
    "from helper import g as h\ndef count(p): return {'n': h(p)}",
    "import helper\ndef count(p): return {'n': helper.g(p)}",
    "def count(p):\n    from helper import g\n    return {'n': g(p)}",
    "def count(p):\n    import helper as h\n    return {'n': h.g(p)}",
    "from helper import *\ndef count(p): return {'n': g(p)}",
    "try:\n    from helper import g\nexcept ImportError:\n    g = len\ndef count(p): return g(p)",
    "import lib.helper\ndef count(p): return {'n': lib.helper.g(p)}",
    "from lib import helper\ndef count(p): return {'n': helper.g(p)}",
    "import helper\nclass count:\n    def __call__(self, p): return helper.g(p)",
]


@pytest.mark.parametrize("source", SIBLINGS)
def test_a_helper_counts_however_it_is_imported(tmp_path: Path, source: str) -> None:
    place = "lib/helper.py" if "lib" in source else "helper.py"
    helper = "K = 1\ndef g(p): return K\nif __name__ == '__main__':\n    g(1)\n"
    first = fingerprint(tmp_path / "a", {"count.py": source, place: helper, "unrelated.py": "1"})
    unused = {"count.py": source, place: helper.replace("g(1)", "g(2)  # now"), "unrelated.py": "2"}
    assert fingerprint(tmp_path / "a", unused) == first
    assert fingerprint(tmp_path / "a", {"count.py": source, place: helper.replace("K = 1", "K = 2")}) != first


PACKAGE = {
    "pkg/__init__.py": "from .sub.deep import g\n",
    "pkg/count.py": "from . import g\nfrom .limits import LIMIT\nfrom pkg.sub import other\ndef count(p): return g(p)",
    "pkg/limits.py": "",
    "pkg/sub/__init__.py": "from . import deep\n",
    "pkg/sub/deep.py": "def g(p):\n    from .. import late\n",
    "pkg/sub/other.py": "",
    "pkg/late.py": "",
    "pkg/unused.py": "",
    "late.py": "",
}


def test_imports_within_a_package_are_followed(tmp_path: Path) -> None:
    first = fingerprint(tmp_path / "a", PACKAGE, "pkg/count.py")
    changes = {
        file: fingerprint(tmp_path / "a", {**PACKAGE, file: f"{text}\nX = 1"}, "pkg/count.py")
        for file, text in PACKAGE.items()
    }
    assert [file for file, found in changes.items() if found == first] == ["pkg/unused.py", "late.py"]


@pytest.mark.parametrize(
    ("where", "statement", "other", "counts"),
    [
        ("funcs/count.py", "from funcs.util import g", "funcs/util.py", True),  # a package without __init__.py
        ("app/count.py", "from shared import g", "shared.py", False),
        ("lib/site-packages/count.py", "from other import g", "lib/site-packages/other.py", False),
    ],
)
def test_only_modules_of_its_own_folder_count(
    tmp_path: Path, where: str, statement: str, other: str, counts: bool
) -> None:
    files = {where: f"{statement}\ndef count(p): return g(p)", other: "def g(p): return 1"}
    first = fingerprint(tmp_path / "a", files, where)
    assert (fingerprint(tmp_path / "a", {**files, other: "def g(p): return 2"}, where) != first) == counts


@pytest.mark.parametrize(
    ("source", "helper", "changed"),
    [
        (COUNT, "def (", "def ["),  # no Python
        (
            "from helper import *\ndef count(p): return g(p)",
            "from count import *\ng = len",
            "from count import *\ng = max",
        ),
    ],
    ids=["no Python", "imports it back"],
)
def test_a_helper_that_cannot_be_read_counts_by_its_bytes_and_one_that_imports_it_back_once(
    tmp_path: Path, source: str, helper: str, changed: str
) -> None:
    first = fingerprint(tmp_path / "a", {"count.py": source, "helper.py": helper})
    assert first == fingerprint(tmp_path / "b", {"count.py": source, "helper.py": helper})
    assert first != fingerprint(tmp_path / "b", {"count.py": source, "helper.py": changed})


def test_an_expression_too_deep_to_walk_counts_by_the_bytes_of_its_file(tmp_path: Path) -> None:
    source = "def count(p): return " + "+".join(["p"] * 3000)
    first = fingerprint(tmp_path / "a", {"count.py": source})
    assert fingerprint(tmp_path / "a", {"count.py": source}) == first
    assert fingerprint(tmp_path / "a", {"count.py": source + "+1"}) != first


def test_two_functions_of_one_file_differ_even_if_each_calls_the_other(tmp_path: Path) -> None:
    files = {"count.py": "def one(p): return two(p)\ndef two(p): return one(p)\n"}
    assert fingerprint(tmp_path / "a", files, name="one") != fingerprint(tmp_path / "a", files, name="two")


def test_a_function_is_the_same_where_it_is_imported_or_given_another_name(tmp_path: Path) -> None:
    main = "from lib.helper import weigh\nfrom lib.helper import weigh as heavy\ncount = heavy\n"
    write(tmp_path, {"main.py": main, "lib/helper.py": HELPER})
    written = fingerprint_source(tmp_path / "lib/helper.py", "weigh")
    assert {fingerprint_source(tmp_path / "main.py", name) for name in ("weigh", "heavy", "count")} == {written}


def test_the_fingerprint_is_known_and_moving_or_linking_the_folder_leaves_it(tmp_path: Path) -> None:
    """It must be the same on every version of Python and in every release: rows are kept or done again by it."""
    write(tmp_path / "b/c", {"count.py": COUNT, "helper.py": HELPER})
    (tmp_path / "link").symlink_to("b/c")
    (tmp_path / "link.py").symlink_to("b/c/count.py")
    for path in ("b/c/count.py", "link/count.py", "link.py"):
        assert fingerprint_source(tmp_path / path, "count") == "837fbc74bf4e586b"


@pytest.mark.parametrize("value", ["0x1" + "0" * 5000, "1e999", "'\\ud800'", "b'\\xff'", "...", "-0.0", "3j"])
def test_every_constant_has_a_fingerprint(tmp_path: Path, value: str) -> None:
    assert fingerprint(tmp_path / "a", {"count.py": f"K = {value}\ndef count(p): return K"})


# Callables


MANY = """\
import functools

def deco(f):
    @functools.wraps(f)
    def inner(*args):
        return f(*args)
    return inner

@deco
def wrapped(p): return {}

@functools.lru_cache
def cached(p): return {}

class Reader:
    @classmethod
    def read(cls, p): return {}
    @staticmethod
    def get(p): return {}

small = lambda p: {}

def plain(p, k=3): return {}
"""


@pytest.mark.usefixtures("fresh_imports")
def test_an_imported_function_has_the_fingerprint_of_its_file(tmp_path: Path) -> None:
    write(tmp_path, {"r3po_t_many.py": MANY})
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module("r3po_t_many")
    for name in ("wrapped", "cached", "Reader", "Reader.read", "Reader.get", "small", "plain"):
        func = functools.reduce(getattr, name.split("."), module)
        assert fingerprint_callable(func) == fingerprint_source(tmp_path / "r3po_t_many.py", name), name  # type: ignore[arg-type]


SCRIPT = """\
import functools, json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from r3po.function.fingerprint import fingerprint_callable, fingerprint_source
from helper import weigh

LIMIT = 5

def count(filepath):
    return {{"kg": weigh(filepath), "n": LIMIT, "s": {{"a", "b", "c"}} & {{"d"}}}}

small = lambda p: {{"n": LIMIT}}

def make(k, bag=frozenset({{"a", "b", "c", "d"}})):
    def inner(p):
        return {{"n": k, "b": bag, "c": {{"x", "y", "z"}}}}
    return inner

class Counter:
    def __call__(self, p):
        return {{"n": 1}}

names = {{"__name__": "__main__"}}
exec("TAGS = {{'a', 'b', 'c'}}\\ndef shell(p): return p in {{'a', 'b', 'c'}} and TAGS", names)
many = [make(1), functools.partial(count, k=object()), Counter(), names["shell"], lambda p: {{}}]

if __name__ == "__main__":
    found = [fingerprint_callable(f) for f in (count, small, *many)]
    print(json.dumps([*(fingerprint_source(Path(__file__), name) for name in ("count", "small")), *found]))
"""


def test_a_script_has_one_fingerprint_in_every_process_and_as_a_file(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": SCRIPT.format(root=str(ROOT)), "helper.py": HELPER})
    answers = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "main.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0][:2] == answers[0][2:4]
    assert answers[0][0] == fingerprint_source(tmp_path / "main.py", "count")
    assert len(set(answers[0])) == 7


def adder(k: object) -> Callable[[str], object]:
    return lambda p: (p, k)


def recursive() -> Callable[[int], object]:
    """Return a function that holds itself."""

    def down(p: int) -> object:
        return down(p - 1) if p else {}

    return down


LOOP: list[object] = []
LOOP.append(LOOP)
HELD = [1, 2, 1.0, "a", (1, 2), (2, 1), {"a": 1}, {"a": 2}, {"a", "b"}, {"a", "c"}, Path("a"), Path("b")]
HELD += [adder(1), adder(2), json.loads, json.dumps, LOOP, recursive()]


def test_a_closure_and_a_partial_count_by_what_they_hold() -> None:
    def made() -> list[Callable[..., object]]:
        partial = functools.partial
        partials = [partial(adder, k=1), partial(adder, k=2), partial(adder, 1), partial(execute, name="1")]
        return [*map(adder, HELD), *partials, recursive()]

    found = [fingerprint_callable(func) for func in made()]
    assert found == [fingerprint_callable(func) for func in made()]
    assert len(set(found)) == len(found)


def test_what_a_closure_holds_never_counts_by_its_address() -> None:
    assert fingerprint_callable(adder(object())) == fingerprint_callable(adder(object()))
    assert fingerprint_callable(adder({object(), object()})) == fingerprint_callable(adder({object(), object()}))


def test_lambdas_are_told_apart_by_their_code_and_not_by_their_line() -> None:
    one, two, three, four = (lambda p: p + 1), (lambda p: p + 2), (lambda p: 3), (lambda p: 4)
    nested = lambda p: lambda q: (p, q)  # noqa: E731
    again = lambda p: 4  # noqa: E731
    found = [fingerprint_callable(f) for f in (one, two, three, four, nested, nested(1), nested(2))]  # type: ignore[no-untyped-call]
    assert len(set(found)) == 7
    assert fingerprint_callable(again) == found[3]


class Scorer:
    def __call__(self, p: str) -> object:
        return {"n": 1}

    def score(self, p: str) -> object:
        return {"n": 2}


class Anything:
    """Answers to every attribute, as a mock does."""

    def __getattr__(self, name: str) -> object:
        return Anything()

    def __call__(self, *arguments: object) -> object:
        return Anything()


def test_an_instance_and_its_methods_count_by_their_class() -> None:
    found = [fingerprint_callable(f) for f in (Scorer(), Scorer().score, Anything())]
    assert found == [fingerprint_callable(f) for f in (Scorer(), Scorer().score, Anything())]
    assert len(set(found)) == 3


def test_a_function_written_in_c_counts_by_its_name() -> None:
    assert fingerprint_callable(len) == fingerprint_name("builtins", "len")
    assert fingerprint_callable(len) != fingerprint_callable(abs)
    assert fingerprint_callable("{}".format) != fingerprint_callable("{}!".format)


SHELL = """\
import json
LIMIT = 5
def helper(p):
    return LIMIT
class Row:
    kind = "a"
    def make(self): return {"n": 1}
def count(p):
    return {"n": helper(p), "r": Row().make(), "d": json.loads, "l": [q for q in p]}
"""


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ("def count(p):", "def count(p):  # quick", True),
        ("def count(p):", "def count(p):\n    'Return a row.'", True),
        ("LIMIT = 5", "OTHER = 1\nLIMIT = 5", True),
        ("LIMIT = 5", "LIMIT = 6", False),
        ("return LIMIT", "return -LIMIT", False),
        ('{"n": 1}', '{"n": 2}', False),
        ('kind = "a"', 'kind = "b"', False),
        ("json.loads", "json.dumps", False),
        ("[q for", "[-q for", False),
        ("count(p)", "count(p, k=1)", False),
    ],
)
def test_without_source_the_instructions_count(before: str, after: str, is_same: bool) -> None:
    assert before in SHELL
    changed = execute(SHELL.replace(before, after))
    assert (fingerprint_callable(execute(SHELL)) == fingerprint_callable(changed)) == is_same


def test_shell_functions_that_all_call_each_other_are_described_once() -> None:
    calls = "+".join(f"f{n}(p)" for n in range(30))
    source = "".join(f"def f{n}(p): return {calls}\n" for n in range(30))
    assert fingerprint_callable(execute(source, "f1")) == fingerprint_callable(execute(source, "f1"))
