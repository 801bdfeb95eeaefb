"""What is typed in a terminal, as Python says it: hints name commands, and a caller in Python is told calls.

Hints are written once, as commands (`r3po run --redo`). Here is the one table of what each command and option is called
in Python; a command that has no call there is left as it is.
"""

from __future__ import annotations

import re

CALLS = {
    "run": "run_jobs(config)",
    "build": "build_jobs(config)",
    "status": "job_status(config)",
    "errors": "result.failures()",
    "slow": "slow_files(config)",
    "try": "try_files(config, f)",
    "verify": "verify_jobs(config)",
    "reset --all": "reset_all_tracking(config)",
    "reset --errors": "reset_all_errors(config)",
    "reset --redo": "reset_redo(config)",
}
"""What Python calls for a command; its options become arguments, unless it takes none."""

ARGUMENTS = {
    "--accept-deletions": "accept_deletions=True",
    "--address": "address",
    "--engine": "engine",
    "--function": "function",
    "--limit": "limit",
    "--max-errors": "max_errors",
    "--no-build": "build=False",
    "--processes": "processes",
    "--redo": "redo=True",
    "--restart": "restart=True",
    "--retry-failed": "retry_failed=True",
    "--show-output": "show_output=True",
    "--source": "source=True",
}
"""The arguments of options; those without a value here are followed by one, or stand for themselves (`--processes`)."""

_VALUE = r"(?:none|auto|ray|processes|serial|\d+%?|[\w./-]+:\w+)(?![\w%])"
_KNOWN = "|".join(sorted(ARGUMENTS, key=len, reverse=True))
_OPTION = re.compile(rf"({_KNOWN})(?![\w-])(?:[ =]({_VALUE}))?")
_COMMAND = re.compile(
    rf"(?:r3po (reset --(?:all|errors|redo)|run|build|status|errors|slow|try|verify)|(run_jobs))(?![\w(-])"
    rf"((?: [\w./-]+\.ya?ml(?!\w)| (?:--(?:yes|json|paths|quiet|exit-zero)|--full PATH|{_OPTION.pattern}))*)"
)


def in_python(text: str) -> str:
    """Return a hint with its commands as calls: `r3po run --redo` becomes `run_jobs(config, redo=True)`."""
    return _OPTION.sub(lambda found: _argument(*found.groups()), _COMMAND.sub(_call, text))


# Private functions


def _call(found: re.Match[str]) -> str:
    name, words = found[1] or "run", found[3]
    if "--dry-run" in found.string[found.end() : found.end() + 10]:
        return found[0]  # nothing in Python does that
    call = CALLS[name]
    if not call.endswith("(config)"):
        return call
    config = re.search(r" ([\w./-]+\.ya?ml)", words)
    arguments = [f'"{config[1]}"' if config else "config"]
    arguments += [_argument(*option.groups()) for option in _OPTION.finditer(words)]
    return f"{call.removesuffix('(config)')}({', '.join(arguments)})"


def _argument(option: str, value: str | None) -> str:
    argument = ARGUMENTS[option]
    if value is None:
        return argument
    if "=" in argument:
        return f"{argument} {value}"  # a word of the text, not of the option
    return f"{argument}={value}" if value.isdigit() else f'{argument}="{value}"'
