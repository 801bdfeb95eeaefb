"""A function for r3po that raises what no decent function does. Each source file is the name of what."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


def raising(filepath: str) -> dict[str, Any]:
    with open(filepath) as file:
        name = file.read()
    if name != "good":
        EXCEPTIONS[name]()
    return {"path": os.path.basename(filepath)}


def throw(error: BaseException) -> NoReturn:
    raise error


def bite(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("do not look at me")


def quit_(*_: object, **__: object) -> NoReturn:
    raise SystemExit(5)


class BitingText(str):
    __len__ = __getitem__ = encode = bite


def made(base: type[BaseException] = Exception, **members: Any) -> Callable[[], NoReturn]:
    """Return what raises an exception of a class that is made at that moment."""
    return lambda: throw(type("Made", (base,), members)("made on the fly"))


class OddMeta(type):
    __name__ = property(bite)  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class OddError(Exception, metaclass=OddMeta):
    pass


class NeedsTwo(Exception):
    """Cannot be unpickled: it wants two arguments, and tells of one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def recurse() -> None:
    recurse()


def chain(n: int) -> None:
    """Raise the last of a long chain of causes."""
    error = ValueError("the first")
    for number in range(n):
        later = ValueError(f"number {number}")
        later.__cause__ = error
        error = later
    raise error


def ring() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def group(depth: int) -> BaseExceptionGroup[BaseException]:
    inner: BaseException = KeyboardInterrupt()
    for _ in range(depth):
        inner = BaseExceptionGroup("nested", [inner, ValueError("beside it")])
    assert isinstance(inner, BaseExceptionGroup)
    return inner


def stop_in_a_generator() -> None:
    def generate() -> Iterator[int]:
        yield next(iter(()))

    next(generate())  # comes out as a RuntimeError


EXCEPTIONS: dict[str, Callable[[], object]] = {
    "SystemExit": lambda: throw(SystemExit(3)),
    "SystemExit of nothing": lambda: sys.exit(),
    "SystemExit of a lock": lambda: throw(SystemExit(threading.Lock())),
    "KeyboardInterrupt": lambda: throw(KeyboardInterrupt()),
    "GeneratorExit": lambda: throw(GeneratorExit()),
    "StopIteration": lambda: throw(StopIteration(1)),
    "StopIteration in a generator": stop_in_a_generator,
    "StopAsyncIteration": lambda: throw(StopAsyncIteration()),
    "BaseException": lambda: throw(BaseException("bare")),
    "group": lambda: throw(group(3)),
    "deep group": lambda: throw(group(500)),
    "MemoryError": lambda: throw(MemoryError()),
    "RecursionError": recurse,
    "OSError without a number": lambda: throw(OSError()),
    "OSError of no space": lambda: throw(OSError(28, "No space left on device", "/nowhere")),
    "FileNotFoundError": lambda: os.stat("/no/such/file"),
    "BlockingIOError": lambda: throw(BlockingIOError(11, "busy", 1 << 40)),
    "ImportError": lambda: __import__("no_such_module"),
    "SyntaxError": lambda: compile("(" * 50, "no\nfile", "exec"),
    "SyntaxError of odd parts": lambda: throw(SyntaxError("odd", ("file", 1 << 40, -5, None))),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    "JSONDecodeError": lambda: json.loads("{"),
    "ZeroDivisionError": lambda: 1 // 0,
    "AssertionError": lambda: throw(AssertionError()),
    "warning": lambda: throw(UserWarning("raised")),
    "holds a lock": lambda: throw(ValueError(threading.Lock())),
    "holds a function": lambda: throw(ValueError(lambda: None)),
    "cannot be unpickled": lambda: throw(NeedsTwo("a", "b")),
    "cannot be pickled": made(__reduce_ex__=bite, __reduce__=bite),
    "ten megabytes": lambda: throw(ValueError("x" * 10_000_000)),
    "ten megabytes of lines": lambda: throw(ValueError("x\n" * 5_000_000)),
    "no message": lambda: throw(ValueError()),
    "message of a terminal": lambda: throw(ValueError("\x1b[2J\x07\x9b31m\u202e")),
    "message with a carriage return": lambda: throw(ValueError("a\rb")),
    "message with a nul": lambda: throw(ValueError("a\x00b")),
    "message with a lone surrogate": lambda: throw(ValueError("\ud800")),
    "message of quotes": lambda: throw(ValueError('"a","b"\n"c')),
    "__str__ raises": made(__str__=bite),
    "__str__ quits": made(__str__=quit_),
    "__str__ recurses": made(__str__=lambda self: str(self)),
    "__str__ gives a number": made(__str__=lambda self: 5),
    "__str__ gives a text that bites": made(__str__=lambda self: BitingText("x")),
    "__repr__ raises": made(__repr__=bite),
    "__eq__ raises": made(__eq__=bite, __hash__=bite),
    "__bool__ raises": made(__bool__=bite, __len__=bite),
    "__getattr__ gives something": made(__getattr__=lambda self, name: None),
    "__getattr__ raises": made(__getattr__=bite),
    "__getattribute__ raises": made(__getattribute__=bite),
    "__class__ raises": made(__class__=property(bite)),
    "notes": lambda: throw(with_notes(["a note", 5, "\x1b[2J"])),
    "notes that are none": lambda: throw(with_notes(5)),
    "notes that quit": made(__notes__=property(quit_)),
    "args that are none": lambda: throw(with_args()),
    "long chain": lambda: chain(300),
    "ring": ring,
    "class of an odd class": lambda: throw(OddError("odd")),
    "class named like r3po's": lambda: throw(type("StopNow", (BaseException,), {})()),
    "class in no module": made(__module__=None),
    "long name": lambda: throw(type("L" * 100_000, (Exception,), {})()),
}


def with_notes(notes: object) -> Exception:
    error = ValueError("with notes")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


def with_args() -> Exception:
    error = ValueError()
    error.args = (error,)
    return error
