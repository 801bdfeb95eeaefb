"""What r3po raises on purpose. It owns the words and the exit codes, nothing else.

    R3poError
    ├── ConfigError            2   config.yaml: every problem found, at once
    ├── SourceError            2   the source folder: missing, empty, unreadable, changed under a job
    ├── FunctionError          2   the user's function: not found, cannot be imported, returns no dict
    ├── FolderError            2   working_dir or output_path: not writable, in the wrong place, another job's
    ├── StoreError             2   an object store: credentials, region, bucket, permissions, the way to it
    ├── StateError             2   the job's own files on disk
    │   ├── DamagedStateError  2   ... are not what was written
    │   └── NewerFormatError   2   ... were written by a newer r3po
    ├── LockedError            4   another run works on this job
    └── RunStoppedError        3   a run ended early; its state is saved (or 129, 130, 143: by a signal)

Two that are no `Exception`, so that `except Exception` in f cannot keep them: `StopNow` and `TimedOut`.

A *failed file* is none of these: it is an outcome, and the job goes on.
The exit codes are the table of docs/commands.md, "Exit codes".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r3po.doors import in_python


class R3poError(Exception):
    """Base of every error r3po raises on purpose; the CLI prints it without a traceback, and so does a notebook.

    Attributes:
        where: the file, the folder or the key that it is about.
        evidence: what shows it, in lines.
        hint: what to type next in a terminal; as text the error says it as a call, see `for_terminal`.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        where: Path | str | None = None,
        evidence: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)  # one positional argument, so that it survives pickle
        self.where, self.evidence, self.hint = where, evidence, hint

    @property
    def headline(self) -> str:
        """The first line: where, and what happened there."""
        return f"{self.where}: {self.args[0]}" if self.where is not None else str(self.args[0])

    def __str__(self) -> str:
        return self._text(in_python(self.hint or ""))

    def for_terminal(self) -> str:
        """Return the error as `str` does, but its hint with the commands of a terminal."""
        return self._text(self.hint or "")

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: IPython asks for this, and the frames of r3po help nobody."""
        return f"{type(self).__name__}: {self}".splitlines()

    def _text(self, hint: str) -> str:
        lines = [self.headline]
        if self.evidence:
            lines += ["  " + line for line in self.evidence.splitlines()]
        if hint:
            first, *rest = hint.splitlines()
            lines += [f"hint:  {first}", *("       " + line for line in rest)]
        return "\n".join(lines)


class ConfigError(R3poError):
    """The config cannot be used; `evidence` holds one line a problem."""


class SourceError(R3poError):
    """The source folder is not there, is empty, cannot be read, or does not fit the manifest."""


class FunctionError(R3poError):
    """The user's function was not found, cannot be imported, or does not return a dict."""


class FolderError(R3poError):
    """`working_dir` or `output_path` cannot be used: not writable, misplaced, or another job's."""


class StoreError(R3poError):
    """An object store cannot be used as it is: credentials, region, bucket, permissions, or the way to it."""


class StateError(R3poError):
    """The job's state on disk cannot be used as it is."""


class DamagedStateError(StateError):
    """A file of the job's state is not what r3po wrote there."""


class NewerFormatError(StateError):
    """A file of the job's state was written by a newer r3po."""


class LockedError(R3poError):
    """Another run holds the job's lock."""

    exit_code = 4


class RunStoppedError(R3poError):
    """A run ended early. What was done is saved, and the next run goes on from there.

    Attributes:
        result: the `RunResult` up to the stop, where the run came far enough to have one.
        exit_code: 3, or 129, 130, 143 when a signal stopped the run.
    """

    exit_code = 3

    def __init__(
        self,
        what: str,
        *,
        where: Path | str | None = None,
        evidence: str | None = None,
        hint: str | None = None,
        exit_code: int = 3,
        result: Any = None,
    ) -> None:
        super().__init__(what, where=where, evidence=evidence, hint=hint)
        self.exit_code, self.result = exit_code, result


class StopNow(BaseException):
    """A second signal: stop at once, whatever is in flight."""


class TimedOut(BaseException):
    """f took longer than `timeout_seconds`."""
