"""The process of a worker, whoever started it: what is set up around a `Worker`, and what becomes of its calls."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import gc
import os
import sys
import traceback
from typing import IO, NoReturn

from r3po.engines.by_value import from_bytes
from r3po.engines.pool import Answer, Call, answer
from r3po.errors import FunctionError, R3poError
from r3po.function.load import extend_sys_path
from r3po.table.pandas_later import leave_pandas_to_f
from r3po.worker.beacon import Beacon, watch_for_crashes
from r3po.worker.forks import ignore_interrupts, shed_handlers_in_children
from r3po.worker.messages import WorkerSetup
from r3po.worker.printed import redirect_output, restore_streams
from r3po.worker.worker import Worker


class WorkerShell:
    """A shell around `Worker`: no logic of its own.

    Args:
        pickled: the function, where it has no module to import it from.
    """

    def __init__(self, setup: WorkerSetup, number: int, pickled: bytes | None) -> None:
        ignore_interrupts()  # Ctrl-C on the terminal is for the driver; it tells us through the stop file
        shed_handlers_in_children()
        self._pickled = pickled
        self._setup = setup
        self._number = number
        self._worker: Worker | None = None

    def perform(self, call: Call) -> Answer:
        number = self._number
        try:
            if call.method == "load":
                self._load()
            else:
                restore_streams()
        except OSError as error:  # the disk of beacon and log
            return Answer(number, call, error=error)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            what = f"{self._setup.function.label} does not arrive in the workers: {type(error).__name__}: {error}"
            hint = "put the function into a module beside your script, and import it from there"
            return Answer(number, call, error=FunctionError(what, evidence=text, hint=hint))
        answered = answer(self._worker, number, call)
        if call.method == "load":
            gc.freeze()  # Ray's modules and f's, however large, need not be gone through with every collection
        if answered.error is not None and not isinstance(answered.error, (R3poError, OSError)):
            # A bug of ours, with whatever it carries: as text it survives the way to the driver.
            text = "".join(traceback.format_exception(answered.error))
            return Answer(number, call, error=RuntimeError(f"in a worker:\n{text}"))
        return answered

    def _load(self) -> None:
        """Not in `__init__`: what that raises is one more dead worker, without a word of the disk."""
        redirect_output(self._setup.workers_folder, self._number)
        leave_pandas_to_f()
        sys.argv[:] = self._setup.arguments
        if self._setup.current_folder:
            with contextlib.suppress(OSError):  # another machine may not have it
                os.chdir(self._setup.current_folder)
        crash_file = watch_for_crashes(self._setup.workers_folder, self._number, on_request=True)
        self._worker = Worker(_with_value(self._setup, self._pickled), self._number)
        _note_exits(self._worker.beacon, crash_file)


# Private functions


def _note_exits(beacon: Beacon, crash_file: IO[bytes]) -> None:
    """Let the beacon know the code, and the crash file the place, if f leaves by `os._exit`: nobody else will tell."""
    leave = os._exit

    def leave_with_a_note(status: int) -> NoReturn:
        if beacon.note_exit(status):
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # whatever f did to its descriptors
                faulthandler.dump_traceback(crash_file, all_threads=False)
        leave(status)

    os._exit = leave_with_a_note


def _with_value(setup: WorkerSetup, pickled: bytes | None) -> WorkerSetup:
    if pickled is None:
        return setup
    # What the function's module imports must be found before it is unpickled.
    extend_sys_path(setup.function.sys_path)
    return dataclasses.replace(setup, function=dataclasses.replace(setup.function, value=from_bytes(pickled)))
