"""R-3PO runs one Python function over millions of files and makes one table of the results.

    build_jobs(config)          list the source's files in the manifest
    run_jobs(config, f)         call f on every file that has no outcome yet
    job_status(config)          how far the job is, also while a run is going on
    verify_jobs(config)         check all that is on disk, against itself and the source
    try_files(config, f)        call f on a few files, here and now; nothing is kept
    slow_files(config, n=20)    the files that f took longest for, and the spread
    reset_all_errors(config)    let the next run try every failed file again
    reset_redo(config)          give up a redo that is under way: the rows of before are back
    reset_all_tracking(config)  forget everything, as if the job had never run
    current_file()              within f: the path of its file in the source

Names are loaded when they are asked for, so that `import r3po` costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from r3po.errors import (
        ConfigError,
        DamagedStateError,
        FolderError,
        FunctionError,
        LockedError,
        NewerFormatError,
        R3poError,
        RunStoppedError,
        SourceError,
        StateError,
        StoreError,
    )
    from r3po.inspect.slow import SlowFiles, slow_files
    from r3po.inspect.status import JobStatus, job_status
    from r3po.inspect.verify import VerifyResult, verify_jobs
    from r3po.jobbuilder import build_jobs
    from r3po.jobrunner import RunResult, run_jobs
    from r3po.run.try_files import TryResult, try_files
    from r3po.run.undo_redo import reset_redo
    from r3po.state.reset import reset_all_errors, reset_all_tracking
    from r3po.worker.current import current_file, current_files

__all__ = [
    "ConfigError",
    "DamagedStateError",
    "FolderError",
    "FunctionError",
    "JobStatus",
    "LockedError",
    "NewerFormatError",
    "R3poError",
    "RunResult",
    "RunStoppedError",
    "SlowFiles",
    "SourceError",
    "StateError",
    "StoreError",
    "TryResult",
    "VerifyResult",
    "__version__",
    "build_jobs",
    "current_file",
    "current_files",
    "job_status",
    "reset_all_errors",
    "reset_all_tracking",
    "reset_redo",
    "run_jobs",
    "slow_files",
    "try_files",
    "verify_jobs",
]

_HOMES = {
    "build_jobs": "r3po.jobbuilder",
    "run_jobs": "r3po.jobrunner",
    "RunResult": "r3po.jobrunner",
    "JobStatus": "r3po.inspect.status",
    "job_status": "r3po.inspect.status",
    "VerifyResult": "r3po.inspect.verify",
    "SlowFiles": "r3po.inspect.slow",
    "slow_files": "r3po.inspect.slow",
    "TryResult": "r3po.run.try_files",
    "try_files": "r3po.run.try_files",
    "verify_jobs": "r3po.inspect.verify",
    "reset_all_errors": "r3po.state.reset",
    "reset_all_tracking": "r3po.state.reset",
    "reset_redo": "r3po.run.undo_redo",
    "current_file": "r3po.worker.current",
    "current_files": "r3po.worker.current",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if "IPython" in sys.modules:
        import_module("r3po.cli.results").show_in_notebooks()
    return getattr(import_module(_HOMES.get(name, "r3po.errors")), name)


def __dir__() -> list[str]:
    return __all__
