"""Importing the user's module once in a process of its own, beside Ray's start: what goes wrong is known early.

It is a second opinion, and a free one: nobody waits for it, and it is ended once the workers import f themselves. What
it finds is said in place of workers that die one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from r3po.errors import FunctionError
from r3po.function.find import FunctionSpec
from r3po.function.fingerprint import is_at
from r3po.function.load import load_function
from r3po.worker.messages import WorkerSetup

_PROGRAM = "import sys; sys.path.append(sys.argv[5]); from r3po.worker.import_trial import main; main()"
"""r3po is imported first, by the paths of a fresh Python: files beside f may be named like what it needs."""

_NICE = 5
"""Ray's start comes first where both want the same core."""

_SHOWN_LINES = 5
"""Lines of a crash that are shown: from where it was on."""

_MACHINERY = re.compile(r"<frozen |/importlib/|/r3po/(function|worker)/|<string>")
"""Lines of a stack that are not the user's."""


class ImportTrial:
    """A process that imports f's module as a worker would, unless this process has done so already.

    Use it as a context manager: at its end the process is ended, however far it is.

    Args:
        is_wanted: False: there is no such process, and `check` knows nothing.
    """

    def __init__(self, setup: WorkerSetup, *, is_wanted: bool) -> None:
        self._spec = spec = setup.function
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        if not is_wanted or spec.kind == "value" or _is_loaded(spec):
            return
        plain = dataclasses.replace(spec, caller_globals=(), arguments={})  # f is imported here, and never made
        given = {"function": dataclasses.asdict(plain), "arguments": setup.arguments}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115
        # Once this process is gone, however, the other end of the pipe is, and the trial ends.
        lifeline, self._lifeline = os.pipe()
        passed = (self._answer.fileno(), lifeline)
        r3po_home = str(Path(__file__).parents[2])
        texts = [json.dumps(given), json.dumps(sys.path), *map(str, passed), r3po_home]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, *texts],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=passed,
                cwd=setup.current_folder if os.path.isdir(setup.current_folder) else None,
                env={"OMP_NUM_THREADS": "1", **os.environ, "RAY_ENABLE_AUTO_CONNECT": "0"},
                start_new_session=True,  # Ctrl-C is for the run
            )
        except OSError:  # then there is no second opinion
            self.end()
        finally:
            os.close(lifeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def check(self) -> None:
        """Raise what the import has come to by now, if it has failed.

        Raises:
            FunctionError: the module raises, leaves or crashes while it is imported.
        """
        if self._process is None or self._process.poll() is None:
            return
        code = self._process.returncode
        self._answer.seek(0)
        answer = json.loads(self._answer.read() or b"null")
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").splitlines()
        self.end()
        if answer:
            raise FunctionError(answer["what"], evidence=answer["evidence"], hint=answer["hint"])
        if answer is None and -code not in (signal.SIGKILL, signal.SIGTERM):  # these come from elsewhere
            raise self._crash(code, printed)

    def end(self) -> None:
        """End the process, and what the module has started in it. It may have ended long ago."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
            self._errors.close()
            self._answer.close()

    # Private methods

    def _crash(self, code: int, printed: list[str]) -> FunctionError:
        spec = self._spec
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        places = [line.strip() for line in printed if line.startswith("  File ") and not _MACHINERY.search(line)]
        how = spec.target if spec.kind == "file" else f"-c 'import {spec.target}'"
        return FunctionError(
            f"{spec.label.rpartition(':')[0]} ended its process while it was imported ({cause})",
            evidence="\n".join(places[:_SHOWN_LINES] or printed[-_SHOWN_LINES:]) or None,
            hint=f"see it alone: {sys.executable} -X faulthandler {how}",
        )


def main() -> None:
    """Import the module that `sys.argv` names and write down what went wrong: the whole program of the process."""
    import faulthandler
    import threading

    given: dict[str, Any] = json.loads(sys.argv[1])
    answer, lifeline = int(sys.argv[3]), int(sys.argv[4])
    sys.path[:] = json.loads(sys.argv[2])
    sys.argv[:] = given["arguments"]
    function = {**given["function"], "sys_path": tuple(given["function"]["sys_path"]), "caller_globals": ()}
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    faulthandler.enable(all_threads=False)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    found: dict[str, Any] = {}
    try:
        load_function(FunctionSpec(**function))
    except FunctionError as error:
        if not _is_of_ray(error.__cause__):
            found = {"what": error.headline, "evidence": error.evidence, "hint": error.hint}
    os.write(answer, json.dumps(found).encode())
    os._exit(0)  # whatever threads the module has


# Private functions


def _end_with(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _is_of_ray(error: BaseException | None) -> bool:
    """Whether Ray itself raised it: in a worker there is a Ray that the module may ask, and here there is none."""
    tb = error.__traceback__ if error is not None else None
    while tb is not None:
        if f"{os.sep}ray{os.sep}" in tb.tb_frame.f_code.co_filename:
            return True
        tb = tb.tb_next
    return False


def _is_loaded(spec: FunctionSpec) -> bool:
    if spec.kind == "module":
        return spec.target in sys.modules
    path = Path(spec.target)
    return any(is_at(getattr(module, "__file__", None), path) for module in list(sys.modules.values()))
