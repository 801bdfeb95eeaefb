"""f of a class or a factory: what is made, what is said when that fails, and what its definition tells beforehand."""

from __future__ import annotations

import datetime
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3po.errors import FunctionError
from r3po.function.arguments import check_arguments, may_be_made
from r3po.function.find import FunctionSpec, describe_callable, find_function, name_of_job, with_arguments
from r3po.function.load import load_function
from r3po.function.made import Made, make_function

pytestmark = pytest.mark.usefixtures("fresh_imports")


def spec_of(folder: Path, code: str, text: str, **arguments: Any) -> FunctionSpec:
    (folder / "model.py").write_text(code)
    return with_arguments(find_function(f"model.py:{text}", folder), arguments)


def make(folder: Path, code: str, text: str = "Model", **arguments: Any) -> Made:
    spec = spec_of(folder, code, text, **arguments)
    return make_function(load_function(spec), spec, str(folder))


def error_of(action: Callable[..., object], *arguments: Any, **named: Any) -> str:
    with pytest.raises(FunctionError) as caught:
        action(*arguments, **named)
    return str(caught.value)


def check_error(folder: Path, code: str, text: str = "Model", input_: str = "path", **arguments: Any) -> str:
    return error_of(check_arguments, spec_of(folder, code, text, **arguments), input_)


CLASS = """\
class Model:
    def __init__(self, size, shade="red"):
        self.size, self.shade = size, shade
    def __call__(self, filepath):
        return {"path": filepath, "size": self.size, "shade": self.shade}
"""
DONE = """
    def __enter__(self):
        done.append("entered")
        return {gives}
    def __exit__(self, *given):
        done.append(given)
"""


def test_a_class_is_made_of_its_arguments_and_called_with_files(tmp_path: Path) -> None:
    made = make(tmp_path, CLASS, size=3)
    assert made.function("a") == {"path": "a", "size": 3, "shade": "red"} and made.close is None


def test_a_factory_is_called_and_what_comes_back_is_f(tmp_path: Path) -> None:
    code = "def make(n):\n    def f(path):\n        return {'n': n}\n    return f\n"
    made = make(tmp_path, code, "make()", n=5)
    assert made.function("a") == {"n": 5} and made.close is None
    assert spec_of(tmp_path, code, "make()").label == "model.py:make()"


def test_a_plain_function_gets_its_arguments_at_each_call(tmp_path: Path) -> None:
    code = "def f(path, unit='kg'):\n    return {'path': path, 'unit': unit}\n"
    assert make(tmp_path, code, "f", unit="g").function("a") == {"path": "a", "unit": "g"}
    spec = spec_of(tmp_path, code, "f")
    found = load_function(spec)
    assert make_function(found, spec) == Made(found, None)  # without any, it is the function itself that is called


def test_a_class_of_dicts_gives_rows_as_ever(tmp_path: Path) -> None:
    made = make(tmp_path, "class Model(dict):\n    def __init__(self, path):\n        self['path'] = path\n")
    assert made.function("a") == {"path": "a"}


@pytest.mark.parametrize("gives", ["self", "None", "lambda path: {'by': 'enter'}"])
def test_a_context_manager_is_entered_and_left(tmp_path: Path, gives: str) -> None:
    code = "done = []\nclass Model:\n    def __call__(self, path): return {'by': 'call'}" + DONE.format(gives=gives)
    made = make(tmp_path, code)
    done = sys.modules["model"].done
    assert made.function("a") == {"by": "enter" if "lambda" in gives else "call"}
    assert done == ["entered"]
    assert made.close is not None
    made.close()
    assert done == ["entered", (None, None, None)]


def test_a_generator_with_contextmanager_is_a_factory(tmp_path: Path) -> None:
    code = (
        "import contextlib\ndone = []\n@contextlib.contextmanager\n"
        "def make(n):\n    yield lambda path: {'n': n}\n    done.append(n)\n"
    )
    made = make(tmp_path, code, "make()", n=4)
    assert made.function("a") == {"n": 4} and sys.modules["model"].done == []
    assert made.close is not None
    made.close()
    assert sys.modules["model"].done == [4]


def test_close_is_for_those_that_are_no_context_managers(tmp_path: Path) -> None:
    close = "    def close(self): done.append('closed')\n"
    made = make(tmp_path, "done = []\nclass Model:\n    def __call__(self, path): return {}\n" + close)
    assert made.close is not None
    made.close()
    assert sys.modules["model"].done == ["closed"]
    code = "done = []\nclass Model:\n    def __call__(self, path): return {}" + DONE.format(gives="self") + close
    sys.modules.pop("model")
    made = make(tmp_path, code)
    assert made.close is not None
    made.close()
    assert sys.modules["model"].done == ["entered", (None, None, None)]


def test_an_object_that_the_caller_made_is_neither_entered_nor_closed() -> None:
    class Given:
        def __call__(self, path: str) -> dict[str, str]:
            return {"path": path}

        def __enter__(self) -> None:
            raise AssertionError

        def __exit__(self, *_: object) -> None:
            raise AssertionError

        def close(self) -> None:
            raise AssertionError

    for f in (Given(), Given().__call__, functools.partial(Given())):
        spec = describe_callable(f)
        assert make_function(load_function(spec), spec) == Made(f, None) and not may_be_made(spec)


def test_relative_paths_start_in_the_folder_while_f_is_made(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("7")
    code = "from pathlib import Path\nclass Model:\n    def __init__(self, w): self.n = int(Path(w).read_text())\n"
    before = os.getcwd()
    made = make(tmp_path, code + "    def __call__(self, path): return {'n': self.n}\n", w="weights")
    assert made.function("a") == {"n": 7} and os.getcwd() == before
    told = error_of(make, tmp_path, code + "    def __call__(self, path): ...\n", w="nowhere")
    assert "raised FileNotFoundError when it was made" in told and os.getcwd() == before
    assert f"hint:  relative paths start in the config's folder; here that is {tmp_path}" in told


def test_a_constructor_that_raises_is_told_with_the_users_traceback(tmp_path: Path) -> None:
    code = "def load():\n    raise OSError('no such device')\nclass Model:\n    def __init__(self):\n        load()\n"
    told = error_of(make, tmp_path, code)
    assert told.splitlines()[0] == "model.py:Model raised OSError when it was made: no such device"
    assert 'model.py", line 5, in __init__' in told and 'model.py", line 2, in load' in told and "made.py" not in told
    leaves = "import sys\nclass Model:\n    def __init__(self): sys.exit(3)\n"
    sys.modules.pop("model")
    assert error_of(make, tmp_path, leaves).startswith("model.py:Model raised SystemExit when it was made: 3")
    enters = "class Model:\n    def __enter__(self): raise ValueError('full')\n    def __exit__(self, *_): ...\n"
    sys.modules.pop("model")
    assert error_of(make, tmp_path, enters).startswith("model.py:Model raised ValueError when it was entered: full")


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        ("def make(): return 3", "make()", "model.py:make() returned 3, which cannot be called"),
        ("def make(): return None", "make()", "model.py:make() returned None, which cannot be called"),
        ("class Base: ...\nclass Model(Base): ...", "Model", "the objects of model.py:Model cannot be called"),
        ("class Model:\n    async def __call__(self, path): ...", "Model", "is an async function"),
    ],
)
def test_what_is_made_must_be_a_function_of_a_file(tmp_path: Path, code: str, text: str, told: str) -> None:
    assert told in error_of(make, tmp_path, code, text)


def test_what_was_entered_is_left_where_it_cannot_be_called(tmp_path: Path) -> None:
    told = error_of(make, tmp_path, "done = []\nclass Model:" + DONE.format(gives="3"))
    assert "cannot be called" in told and sys.modules["model"].done == ["entered", (None, None, None)]


# What the definition tells


@pytest.mark.parametrize(
    ("code", "text", "arguments", "told"),
    [
        (CLASS, "Model", {}, 'model.py:Model needs "size", which function_args does not give'),
        (CLASS, "Model", {"size": 1, "shad": 2}, 'takes no argument "shad", which function_args gives\nhint:  did you'),
        (CLASS, "Model", {"size": 1, "zzz": 2}, "hint:  it takes size, shade"),
        (CLASS.replace("filepath)", "a, b)"), "Model", {"size": 1}, "model.py:Model.__call__ takes 2 arguments"),
        ("class Model:\n    def __init__(self, filepath): ...\n", "Model", {}, "give it  def __call__(self, filepath)"),
        ("class Model:\n    def run(self): ...\n", "Model", {}, "the objects of model.py:Model cannot be called"),
        ("class Model:\n    def __call__(self, p): ...\n", "Model", {"n": 1}, 'takes no argument "n"'),
        ("def make(n): ...", "make()", {}, 'model.py:make() needs "n"'),
        ("def make(): ...", "make()", {"n": 1}, "hint:  it takes none by name"),
        ("def f(path): ...", "f", {"n": 1}, 'model.py:f takes no argument "n"'),
        ("def f(n, path): ...", "f", {"n": 1}, "let it take the file first"),
        ("def f(path, n): ...", "f", {}, "takes 2 arguments, but `input: path` calls f(filepath)"),
        ("def f(path, m, n): ...", "f", {}, "or give the rest by  function_args: {m: ...}"),
        ("def f(path, *, n): ...", "f", {}, 'needs "n", which function_args does not give'),
        ("def f(path, n, /): ...", "f", {"n": 1}, 'takes no argument "n"'),
    ],
)
def test_what_function_args_cannot_be_is_told_without_running_the_users_code(
    tmp_path: Path, code: str, text: str, arguments: dict[str, Any], told: str
) -> None:
    assert told in check_error(tmp_path, "raise SystemExit\n" + code, text, **arguments)
    if text in ("f", "Model"):
        names: dict[str, Any] = {"__name__": "model"}
        exec(code, names)
        spec = with_arguments(describe_callable(names[text]), arguments)
        assert told.replace("model.py", "model") in error_of(check_arguments, spec, "path").replace("model.py", "model")


@pytest.mark.parametrize(
    ("code", "text", "arguments"),
    [
        (CLASS, "Model", {"size": 1}),
        ("class Base: ...\nclass Model(Base): ...", "Model", {"n": 1}),
        ("from dataclasses import dataclass\n@dataclass\nclass Model:\n    n: int", "Model", {"n": 1}),
        ("class Model:\n    def __init__(self, **all): ...\n    __call__ = print", "Model", {"n": 1}),
        ("class Model:\n    def __new__(cls, n): ...\n    def __call__(self, p): ...", "Model", {"n": 1}),
        ("class Model:\n    def __enter__(self): ...\n    def __exit__(self, *_): ...", "Model", {}),
        ("def f(path, n): ...", "f", {"n": 1}),
        ("def f(path, **all): ...", "f", {"n": 1}),
        ("def f(path, *, n=1): ...", "f", {"n": 1}),
        ("def make(n): ...", "make()", {"n": 1}),
        ("f = open", "f", {"n": 1}),
    ],
)
def test_what_fits_or_cannot_be_told_is_let_through(
    tmp_path: Path, code: str, text: str, arguments: dict[str, Any]
) -> None:
    check_arguments(spec_of(tmp_path, code, text, **arguments), "path")


def test_only_where_f_may_be_made_is_there_something_to_close(tmp_path: Path) -> None:
    found = {text: may_be_made(spec_of(tmp_path, CLASS + "def f(p): ...\ng = len\n", text)) for text in ("Model", "f")}
    assert found == {"Model": True, "f": False}
    assert may_be_made(find_function("model.py:f()", tmp_path)) and may_be_made(find_function("model.py:g", tmp_path))
    assert may_be_made(describe_callable(type("Made", (), {"__call__": len})))


# What counts as another function


def test_other_arguments_are_another_function_and_none_are_the_same(tmp_path: Path) -> None:
    specs = [spec_of(tmp_path, CLASS, "Model", **given) for given in ({}, {"size": 1}, {"size": 2}, {"size": "1"})]
    day = datetime.date(2026, 1, 2)
    specs += [spec_of(tmp_path, CLASS, "Model", size=given) for given in (True, [1], {"a": 1, 2: [day]}, day, str(day))]
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert specs[0].fingerprint == find_function("model.py:Model", tmp_path).fingerprint
    mixed = {"a": 1, "b": {"c": 1, "d": 2}}
    turned = {"b": {"d": 2, "c": 1}, "a": 1}
    assert with_arguments(specs[0], mixed).fingerprint == with_arguments(specs[0], turned).fingerprint


def test_a_factory_is_another_function_than_itself(tmp_path: Path) -> None:
    code = "def make(path=''): return make"
    assert spec_of(tmp_path, code, "make").fingerprint != spec_of(tmp_path, code, "make()").fingerprint


class Given:
    def __init__(self, **held: object) -> None:
        self.__dict__.update(held)

    def __call__(self, path: str) -> dict[str, str]:
        return {"path": path}


class Slotted(Given):
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


def test_the_plain_attributes_of_an_object_count_and_what_may_be_a_cache_does_not() -> None:
    def print_of(f: Callable[..., object]) -> str:
        return describe_callable(f).fingerprint

    assert print_of(Given(a=1)) == print_of(Given(a=1)) == print_of(Given(a=1, cache={}, seen=[object()], o=object()))
    told = [Given(), Given(a=1), Given(a=2), Given(b=1), Given(a="1"), Slotted(1), Slotted(2), Given(f=print_of)]
    assert len({print_of(f) for f in told}) == len(told)
    assert print_of(Given(a=1).__call__) != print_of(Given(a=2).__call__)
    assert print_of(functools.partial(Given(a=1))) != print_of(functools.partial(Given(a=2)))


def test_a_job_without_a_name_is_named_after_the_class_of_its_object() -> None:
    assert [name_of_job(f) for f in (Given, Given(), functools.partial(Given()), len)] == ["Given"] * 3 + ["len"]
    assert name_of_job(None) is None and name_of_job(lambda path: path) is None
