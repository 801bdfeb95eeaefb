"""How the user's function is found and loaded, and what is said when it is not."""

from __future__ import annotations

import functools
import importlib
import json
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from r3po.errors import FunctionError
from r3po.function.find import FunctionSpec, describe_callable, find_function
from r3po.function.fingerprint import fingerprint_name, fingerprint_source
from r3po.function.load import extend_sys_path, load_function

ROOT = Path(__file__).parents[3]
COUNT = 'def count_fruits(filepath):\n    return {"n": len(filepath)}\n'
MAIN_BLOCK = 'put what the script does under: if __name__ == "__main__":'
BOOM = 'raise RuntimeError("this must not run")\n'


pytestmark = pytest.mark.usefixtures("fresh_imports")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def error_of(action: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(FunctionError) as caught:
        action(*arguments)
    return str(caught.value)


def find_error(folder: Path, files: dict[str, str], text: str = "count.py:count") -> str:
    return error_of(find_function, text, write(folder, files))


def load_error(folder: Path, files: dict[str, str], text: str = "count.py:count") -> str:
    return error_of(load_function, find_function(text, write(folder, files)))


def load(folder: Path, files: dict[str, str], text: str = "count.py:count") -> Callable[..., object]:
    return load_function(find_function(text, write(folder, files)))


# Finding a function of a file


def test_a_file_is_found_beside_the_config_whatever_the_current_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"funcs/count_fruits.py": COUNT})
    spec = find_function("funcs/count_fruits.py:count_fruits", tmp_path)
    assert spec.label == "funcs/count_fruits.py:count_fruits"
    assert (spec.kind, spec.target) == ("file", str(tmp_path / "funcs/count_fruits.py"))
    assert spec.name == "count_fruits"
    assert spec.sys_path[:2] == (str(tmp_path / "funcs"), str(tmp_path))
    assert spec.fingerprint == fingerprint_source(tmp_path / "funcs/count_fruits.py", "count_fruits")
    assert pickle.loads(pickle.dumps(spec)) == spec
    monkeypatch.setenv("HOME", str(tmp_path))
    for start in (tmp_path, "~"):
        assert find_function(f"{start}/funcs/count_fruits.py:count_fruits", Path("/")).target == spec.target


def test_finding_a_function_runs_none_of_the_users_code(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"count.py": "import pkg.helper\n" + BOOM + COUNT, "pkg/__init__.py": BOOM, "pkg/mod.py": BOOM + COUNT},
    )
    assert find_function("count.py:count_fruits", tmp_path).kind == "file"
    assert find_function("pkg.mod:count_fruits", tmp_path).kind == "module"
    assert not {"count", "pkg", "pkg.mod"} & set(sys.modules)


@pytest.mark.parametrize(
    "source",
    [
        "count = print",
        "from os.path import getsize as count",
        "from os import *",
        "class count: ...",
        "if True:\n    def count(p): ...",
        "try:\n    from fast import count\nexcept ImportError:\n    def count(p): ...",
        "with open(__file__):\n    count = len",
        "def __getattr__(name): ...",
        "globals()['count'] = len",
        "def make():\n    global count\n    count = len\nmake()",
        "a, count = 1, len",
        "for count in [len]: ...",
        "match len:\n    case count: ...",
        "(count := len)",
        "count: object = len",
        "count = 3\ncount = len",
        "async def count(p): ...\ncount = len",
        'def count(p): return "\\d"',  # an odd escape in the user's text is no matter of ours
    ],
)
def test_every_way_to_bind_a_name_counts(tmp_path: Path, source: str) -> None:
    assert find_function("count.py:count", write(tmp_path, {"count.py": source})).name == "count"


TWO_FORMS = "write file.py:name, or package.module:name"
NOT_HERE = "in FOLDER, the current folder or the installed packages"
REFUSED = [
    ("count", 'function "count" names no function', TWO_FORMS),
    (
        "count_fruits.py",
        'function "count_fruits.py" names no function',
        f'{TWO_FORMS}\n       did you mean "count_fruits.py:count_fruits" or "count_fruits.py:Weigh"?',
    ),
    *(
        (text, f'function "{text}" cannot be read', TWO_FORMS)
        for text in ("count.py:", ":count", "a b:count", "count.py:a.", "a..b:c", "a:1")
    ),
    (
        "count.py:count(2)",
        'function "count.py:count(2)" cannot be read',
        'write "count.py:count()", and what it takes in  function_args: {name: value}',
    ),
    ("count.py::count", 'function "count.py::count" has two colons', 'did you mean "count.py:count"?'),
    ("count_fruits.py:count_fruit", 'count_fruits.py has no function "count_fruit"', 'did you mean "count_fruits"?'),
    ("count_fruits.py:xyz", 'count_fruits.py has no function "xyz"', "its functions: count_fruits, Weigh"),
    ("count_fruit.py:f", "function file not found: FOLDER/count_fruit.py", 'did you mean "count_fruits.py"?'),
    ("funcs/f.py:f", "function file not found: FOLDER/funcs/f.py", "there is no folder FOLDER/funcs"),
    ("count.ipynb:f", f'there is no module "count" {NOT_HERE}', TWO_FORMS),
    ("./count.ipynb:f", "FOLDER/count.ipynb is not a Python file (.py)", TWO_FORMS),
    ("r3po_pkg.fruit:f", 'r3po_pkg has no module "fruit"', 'did you mean "r3po_pkg.fruits"?'),
    ("r3po_pgk.fruits:f", f'there is no module "r3po_pgk" {NOT_HERE}', 'did you mean "r3po_pkg"?'),
    ("r3po_pkg.folder:f", '"r3po_pkg.folder" is a folder of modules, not a module', TWO_FORMS),
    ("__main__:f", f'there is no module "__main__" {NOT_HERE}', TWO_FORMS),
    ("r3po_pkg.fruits:count_fruit", 'r3po_pkg.fruits has no function "count_fruit"', 'did you mean "count_fruits"?'),
]


@pytest.mark.parametrize(("text", "what", "hint"), REFUSED)
def test_a_text_that_leads_nowhere_is_refused_with_what_was_meant(
    tmp_path: Path, text: str, what: str, hint: str
) -> None:
    more = BOOM + "class Weigh: ...\nLIMIT = 1\ndef _private():\n    def xyz(): ...\n"
    files = {"count_fruits.py": COUNT + more, "count.ipynb": "{}"}
    files |= {"r3po_pkg/__init__.py": "", "r3po_pkg/fruits.py": COUNT, "r3po_pkg/folder/x": ""}
    assert find_error(tmp_path, files, text) == f"{what}\nhint:  {hint}".replace("FOLDER", str(tmp_path))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "import os\ndef count(p:\n    pass\n",
            "count.py has a syntax error: '(' was never closed\n  count.py:2  def count(p:",
        ),
        (
            "async def count(p): ...\n",
            '"count" in count.py is an async function: calling it gives no dict\n'
            "  count.py:1  async def count(p): ...\nhint:  make it a plain def; it may call asyncio.run",
        ),
        *(
            (
                f"def other(p): ...\ncount = {value}\n",
                f'"count" in count.py is not callable\n  count.py:2  count = {value}\nhint:  its functions: other',
            )
            for value in ("5", "'text'", "[len]", "{}", "{'a': len}", "f'{5}'", "(1, 2)", "None")
        ),
    ],
)
def test_what_is_no_function_is_shown_with_its_line(tmp_path: Path, source: str, expected: str) -> None:
    assert find_error(tmp_path, {"count.py": source}) == expected


@pytest.mark.parametrize("source", [b"\xff\xfe\x00", b"x = '\xff'", b"\x00", b"# coding: nonsense"])
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "count.py").write_bytes(source)
    assert error_of(find_function, "count.py:count", tmp_path).startswith("count.py ")


# Finding a function of a module


def test_a_module_is_found_beside_the_config_then_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"one/r3po_t/a.py": COUNT, "two/r3po_t/a.py": COUNT + "# 2", "two/r3po_u.py": COUNT}
    write(tmp_path, files)
    monkeypatch.chdir(tmp_path / "two")
    spec = find_function("r3po_t.a:count_fruits", tmp_path / "one")
    assert (spec.kind, spec.target, spec.label) == ("module", "r3po_t.a", "r3po_t.a:count_fruits")
    assert spec.sys_path[:2] == (str(tmp_path / "one"), str(tmp_path / "two"))
    assert spec.fingerprint == fingerprint_source(tmp_path / "one/r3po_t/a.py", "count_fruits")
    assert find_function("r3po_u:count_fruits", tmp_path / "one").kind == "module"
    assert load_function(spec)("abc") == {"n": 3}
    assert sys.modules["r3po_t.a"].__file__ == str(tmp_path / "one/r3po_t/a.py")


def test_an_installed_module_is_not_shadowed_and_one_without_source_is_taken_on_trust(tmp_path: Path) -> None:
    spec = find_function("json:loads", tmp_path)
    assert str(tmp_path) not in spec.sys_path
    assert load_function(spec) is json.loads
    assert find_function("json.decoder:JSONDecoder.decode", tmp_path).name == "JSONDecoder.decode"
    assert find_function("time:time", tmp_path).fingerprint == fingerprint_name("time", "time")
    assert error_of(load_function, find_function("time:tine", tmp_path)).startswith('time has no function "tine"\n')


# Loading


G = "def g(p): return {'p': p}"
IMPORTS = {
    "beside it": ("funcs/count.py", {"funcs/count.py": "from r3po_h import g as count", "funcs/r3po_h.py": G}),
    "from the folder of the config": (
        "r3po_f/count.py",
        {"r3po_f/count.py": "from r3po_f.h import g\ncount = g", "r3po_f/h.py": G},
    ),
    "beside an accidental init": (
        "r3po_p/count.py",
        {"r3po_p/__init__.py": "", "r3po_p/r3po_h.py": G, "r3po_p/count.py": "from r3po_h import g as count"},
    ),
    "in the init of its package": (
        "r3po_p/__init__.py",
        {"r3po_p/__init__.py": "from .h import g\ndef count(p): return g(p)", "r3po_p/h.py": G},
    ),
    "in a folder with the name of a loaded package": (
        "json/count.py",
        {"json/__init__.py": BOOM, "json/count.py": f"{G}\ncount = g"},
    ),
    "behind a link": ("link.py", {"real/r3po_c.py": "from r3po_h import g as count", "real/r3po_h.py": G}),
}


@pytest.mark.parametrize("where", IMPORTS)
def test_a_file_finds_what_it_imports(tmp_path: Path, where: str) -> None:
    place, files = IMPORTS[where]
    (tmp_path / "link.py").symlink_to("real/r3po_c.py")
    assert load(tmp_path, files, f"{place}:count")("x") == {"p": "x"}
    assert sys.modules["json"] is json


def test_a_file_in_a_package_may_import_relatively(tmp_path: Path) -> None:
    files = {
        "r3po_p/__init__.py": "",
        "r3po_p/sub/__init__.py": "",
        "r3po_p/sub/count.py": "from ..h import g\nfrom . import k\ndef count(p): return g(p)",
        "r3po_p/sub/k.py": "",
        "r3po_p/h.py": "def g(p): return {'p': p}",
    }
    spec = find_function("r3po_p/sub/count.py:count", write(tmp_path, files))
    assert spec.sys_path[0] == str(tmp_path)
    assert str(tmp_path / "r3po_p/sub") not in spec.sys_path
    assert load_function(spec)("x") == {"p": "x"}
    assert load_function(spec).__module__ == "r3po_p.sub.count"


def test_a_file_is_imported_once_under_its_own_name_or_a_private_one(tmp_path: Path) -> None:
    """Private where the name is that of another module, or none."""
    files = ("r3po_once.py", "a/json.py", "b/json.py", "a b/two words.py")
    write(tmp_path, dict.fromkeys(files, COUNT))
    specs = [find_function(f"{file}:count_fruits", tmp_path) for file in files]
    loaded = [load_function(spec) for spec in specs]
    assert all(load_function(spec) is func for spec, func in zip(specs, loaded, strict=True))
    names = [func.__module__ for func in loaded]
    assert names[2].startswith("_r3po_user_json_")
    assert [names[0], names[1], names[3]] == ["r3po_once", "_r3po_user_json", "_r3po_user_two words"]
    assert sys.modules["json"] is json
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("source", "name"),
    [
        # A module is known while it runs, since dataclasses and pickle ask for it.
        (
            "from __future__ import annotations\nimport dataclasses, pickle\n"
            "@dataclasses.dataclass\nclass Row:\n    n: int\n"
            "def count(p): return dataclasses.asdict(pickle.loads(pickle.dumps(Row(1))))\n",
            "count",
        ),
        ("def deco(f): return lambda p: {'n': f(p)}\n@deco\ndef count(p): return 1\n", "count"),
        ("class Reader:\n    @staticmethod\n    def read(p): return {'n': 1}\n", "Reader.read"),
    ],
    ids=["dataclass", "decorated", "method"],
)
def test_what_the_name_stands_for_after_the_import_is_loaded(tmp_path: Path, source: str, name: str) -> None:
    assert load(tmp_path, {"r3po_source.py": source}, f"r3po_source.py:{name}")("x") == {"n": 1}


def test_a_file_or_module_that_vanished_is_told_apart_from_one_that_imports_what_is_not_here(tmp_path: Path) -> None:
    spec = find_function("count.py:count_fruits", write(tmp_path, {"count.py": COUNT}))
    (tmp_path / "count.py").unlink()
    assert error_of(load_function, spec) == (
        f"function file not found: {tmp_path}/count.py\n"
        "hint:  on a cluster, the function must be on storage that all nodes share"
    )
    gone = FunctionSpec("r3po_gone.a:count", "module", "r3po_gone.a", "count", (), "0" * 16)
    assert error_of(load_function, gone) == 'there is no module "r3po_gone"\n  for function r3po_gone.a:count'
    files = {"r3po_here/__init__.py": "", "r3po_here/a.py": "import r3po_here.b\n" + COUNT}
    assert load_error(tmp_path, files, "r3po_here.a:count_fruits") == (
        "r3po_here.a failed to import r3po_here.b\n"
        "  r3po_here/a.py:1  import r3po_here.b\n"
        f"hint:  is it installed for {sys.executable}?"
    )


@pytest.mark.parametrize(
    ("source", "helper", "expected"),
    [
        (
            "import os\nimport r3po_h\n" + COUNT,
            "\n\nimport r3po_lz4.frame\n",
            "count.py failed to import r3po_lz4\n  count.py:2  import r3po_h\n  r3po_h.py:3  import r3po_lz4.frame\n"
            f"hint:  is it installed for {sys.executable}?",
        ),
        (
            "import r3po_h\n" + COUNT,
            "x = = 1\n",
            "r3po_h.py has a syntax error: invalid syntax\n  r3po_h.py:1  x = = 1",
        ),
        (
            COUNT + "import sys\nsys.exit(3)\n",
            "",
            f"count.py called sys.exit(3) while it was imported\n  count.py:4  sys.exit(3)\nhint:  {MAIN_BLOCK}",
        ),
        (
            COUNT + "from r3po.errors import LockedError\nraise LockedError('in use')\n",
            "",
            "count.py raised LockedError while it was imported: in use\n"
            "    File \"FOLDER/count.py\", line 4, in <module>\n      raise LockedError('in use')\n"
            f"  LockedError: in use\nhint:  {MAIN_BLOCK}",
        ),
    ],
    ids=["a missing package", "a syntax error in a helper", "exits", "starts a job"],
)
def test_what_fails_at_import_is_told_with_its_line_and_what_to_do(
    tmp_path: Path, source: str, helper: str, expected: str
) -> None:
    message = load_error(tmp_path, {"count.py": source, "r3po_h.py": helper}, "count.py:count_fruits")
    assert message == expected.replace("FOLDER", str(tmp_path))


def test_an_exception_at_import_is_shown_with_the_users_traceback_alone_and_leaves_no_module(tmp_path: Path) -> None:
    source = "def read():\n    return {}['rules']\nRULES = read()\n" + COUNT
    lines = load_error(tmp_path, {"r3po_fails.py": source}, "r3po_fails.py:count_fruits").splitlines()
    assert [line for line in lines if line.strip("~^ ")] == [
        "r3po_fails.py raised KeyError while it was imported: 'rules'",
        f'    File "{tmp_path}/r3po_fails.py", line 3, in <module>',
        "      RULES = read()",
        f'    File "{tmp_path}/r3po_fails.py", line 2, in read',
        "      return {}['rules']",
        "  KeyError: 'rules'",
    ]
    assert "r3po_fails" not in sys.modules


def test_an_exception_with_an_odd_text_is_reported_all_the_same(tmp_path: Path) -> None:
    odd = "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd\n"
    message = load_error(tmp_path, {"r3po_a.py": odd + COUNT}, "r3po_a.py:count_fruits")
    assert "raised Odd while it was imported: (its message cannot be shown)" in message
    long = "raise ValueError('x' * 10_000_000 + '\\n')\n"
    assert len(load_error(tmp_path, {"r3po_b.py": long + COUNT}, "r3po_b.py:count_fruits")) < 1500


def test_ctrl_c_during_the_import_stays_ctrl_c(tmp_path: Path) -> None:
    spec = find_function("count.py:count_fruits", write(tmp_path, {"count.py": COUNT + "raise KeyboardInterrupt\n"}))
    with pytest.raises(KeyboardInterrupt):
        load_function(spec)


def test_a_name_that_only_the_import_can_tell_is_checked_then(tmp_path: Path) -> None:
    star = "from math import *\n"
    assert load_error(tmp_path, {"a.py": star + COUNT}, "a.py:count_fruit") == (
        'a.py has no function "count_fruit"\nhint:  did you mean "count_fruits"?'
    )
    assert load_error(tmp_path, {"b.py": star}, "b.py:pi") == '"pi" in b.py is not callable: it is 3.141592653589793'
    source = "def deco(f):\n    async def inner(p): ...\n    return inner\n@deco\ndef count(p): ...\n"
    assert load_error(tmp_path, {"c.py": source}, "c.py:count").startswith('"count" in c.py is an async function')


def test_missing_folders_are_put_in_front_in_their_order() -> None:
    sys.path[:] = ["/a", "/b"]
    extend_sys_path(("/c", "/b", "/d"))
    assert sys.path == ["/c", "/d", "/a", "/b"]


# Callables


def import_module(folder: Path, files: dict[str, str], name: str) -> types.ModuleType:
    sys.path.insert(0, str(write(folder, files)))
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_a_function_of_a_module_beside_the_script_is_the_same_as_the_one_of_the_config(tmp_path: Path) -> None:
    module = import_module(tmp_path, {"r3po_count.py": COUNT}, "r3po_count")
    spec = describe_callable(module.count_fruits)
    named = find_function("r3po_count.py:count_fruits", tmp_path)
    for field in ("label", "kind", "target", "name", "fingerprint"):
        assert getattr(spec, field) == getattr(named, field)
    assert spec.value is None
    assert spec.sys_path[0] == str(tmp_path)
    assert load_function(spec) is module.count_fruits


def test_a_function_of_a_package_goes_by_its_dotted_name_or_by_its_file(tmp_path: Path) -> None:
    """By its file where the package left the search path."""
    module = import_module(tmp_path, {"r3po_p/__init__.py": "", "r3po_p/a.py": COUNT}, "r3po_p.a")
    spec = describe_callable(module.count_fruits)
    assert (spec.label, spec.kind, spec.target) == ("r3po_p.a:count_fruits", "module", "r3po_p.a")
    assert str(tmp_path) in spec.sys_path
    for text in ("r3po_p/a.py:count_fruits", "r3po_p.a:count_fruits"):
        assert spec.fingerprint == find_function(text, tmp_path).fingerprint
    sys.path.remove(str(tmp_path))
    spec = describe_callable(module.count_fruits)
    assert (spec.kind, spec.target) == ("file", str(tmp_path / "r3po_p/a.py"))
    assert spec.sys_path[0] == str(tmp_path)


def test_library_functions_classes_and_methods_go_by_name() -> None:
    for func in (json.loads, len, json.JSONDecoder, json.JSONDecoder.decode):
        spec = describe_callable(func)
        assert (spec.kind, spec.name) == ("module", func.__qualname__)
        assert load_function(spec) == func


class Scorer:
    def __call__(self, filepath: str) -> dict[str, object]:
        return {"n": 1}


def test_what_has_no_name_of_its_own_goes_by_value() -> None:
    def local(filepath: str) -> dict[str, object]:
        return {}

    here = "test_what_has_no_name_of_its_own_goes_by_value.<locals>"
    cases: list[tuple[Callable[..., object], str]] = [
        (local, f"{here}.local"),
        (lambda p: {}, f"{here}.<lambda>"),
        (functools.partial(write, files={}), "partial(write)"),
        (Scorer(), "Scorer"),
        (Scorer().__call__, "Scorer.__call__"),
    ]
    for func, name in cases:
        spec = describe_callable(func)
        assert (spec.kind, spec.target, spec.name, spec.value) == ("value", "", name, func)
        assert load_function(spec) is func


def test_what_is_not_callable_is_refused(tmp_path: Path) -> None:
    refuse: Callable[..., object] = describe_callable
    assert error_of(refuse, "count.py:count") == (
        "f must be a function that takes a file's path, not 'count.py:count'\n"
        "hint:  pass the function itself, or write function: count.py:count in the config"
    )
    assert error_of(refuse, {}) == "f must be a function that takes a file's path, not a dict"

    async def count(filepath: str) -> None: ...

    assert 'count" is an async function: calling it gives no dict' in error_of(refuse, count)


def test_the_search_path_of_a_worker_holds_the_drivers_own_folders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.chdir(tmp_path)
    sys.path[:] = ["", "lib", str(tmp_path / "deleted"), str(tmp_path / "lib"), *sys.path]
    found = describe_callable(lambda p: {}).sys_path
    assert found[:2] == (str(tmp_path), str(tmp_path / "lib"))
    assert str(tmp_path / "deleted") not in found
    assert not [folder for folder in found if "site-packages" in folder or folder == os.path.dirname(os.__file__)]


SCRIPT = """\
import json, sys
sys.path.insert(0, {root!r})
from r3po.function.find import describe_callable, find_function
from r3po.function.load import load_function
from pathlib import Path

def count(filepath):
    return {{"n": 1}}

spec, named = describe_callable(count), find_function("main.py:count", Path("."))
print(json.dumps([spec.kind, spec.label, spec.name, spec.sys_path[1], spec.fingerprint == named.fingerprint]))
assert load_function(named) is count
"""


def python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_function_of_the_script_goes_by_value_and_the_script_runs_once(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": SCRIPT.format(root=str(ROOT))})
    assert json.loads(python("main.py", cwd=tmp_path)) == ["value", "main.py:count", "count", str(tmp_path), True]


def test_a_function_of_the_shell_goes_by_value(tmp_path: Path) -> None:
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom r3po.function.find import describe_callable\n"
    source += "def count(p): return {}\nspec = describe_callable(count)\nprint(spec.kind, spec.label, spec.fingerprint)"
    kind, label, fingerprint = python("-c", source, cwd=tmp_path).split()
    assert (kind, label, len(fingerprint)) == ("value", "__main__:count", 16)


def test_a_worker_loads_what_the_driver_described_from_another_folder(tmp_path: Path) -> None:
    """Today's usual failure: the worker starts elsewhere, with another search path, and does not find the module."""
    files = {"app/r3po_p/__init__.py": "", "lib/r3po_h.py": "g = len"}
    files["app/r3po_p/a.py"] = "import r3po_h\ncount = r3po_h.g\n" + COUNT
    sys.path.insert(0, str(tmp_path / "lib"))
    module = import_module(tmp_path, files, "app.r3po_p.a")
    (tmp_path / "spec").write_bytes(pickle.dumps(describe_callable(module.count_fruits)))
    worker = f"import pickle, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom r3po.function.load import load_function\n"
    worker += f"print(load_function(pickle.load(open({str(tmp_path / 'spec')!r}, 'rb')))('abc'))"
    assert python("-c", worker, cwd=Path("/")) == "{'n': 3}\n"
