"""What is said about a function that cannot be had: the errors and hints that finding and loading share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from r3po.errors import FunctionError
from r3po.text import first_line, shorten

MAIN_GUARD = 'put what the script does under: if __name__ == "__main__":'

_MESSAGE_LENGTH = 300  # characters of a user's exception that are shown in a headline


def no_name_error(name: str, shown: str, names: list[str]) -> FunctionError:
    """Return the error for a `name` that is none of the functions `names` of the module `shown`."""
    return FunctionError(f'{shown} has no function "{name}"', hint=suggest(name, names) or list_names(names))


def list_names(names: list[str]) -> str | None:
    """Return a hint that lists the first five of `names`, or None if there are none."""
    return f"its functions: {', '.join(names[:5])}" if names else None


def async_error(name: str, shown: str | None, evidence: str | None = None) -> FunctionError:
    """Return the error for an async function, in the module `shown` if that is known."""
    where = f" in {shown}" if shown else ""
    what = f'"{name}"{where} is an async function: calling it gives no dict'
    return FunctionError(what, evidence=evidence, hint="make it a plain def; it may call asyncio.run")


def syntax_error(error: SyntaxError, shown: str) -> FunctionError:
    """Return the error for a module, `shown` to people by this name, that is not valid Python."""
    line = f":{error.lineno}" if error.lineno else ""
    text = (error.text or "").strip()
    return FunctionError(f"{shown} has a syntax error: {error.msg}", evidence=f"{shown}{line}  {text}".rstrip())


def suggest(name: str, names: Iterable[str]) -> str | None:
    """Return a hint with the one of `names` that is most like `name`, if any is."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f'did you mean "{close[0]}"?' if close else None


def message(error: BaseException) -> str:
    """Return the text of a user's exception, cut to what a headline shows."""
    try:
        return shorten(str(error), _MESSAGE_LENGTH)
    except Exception:
        return "(its message cannot be shown)"


def brief(value: object) -> str:
    """Return a plain value as it is written, the first line of an exception, or the type of anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return shorten(repr(value), _MESSAGE_LENGTH)
    return first_line(message(value)) if isinstance(value, BaseException) else f"a {type(value).__name__}"
