"""Jobs on several machines: the source lies where all see it, everything else on the first machine alone.

The function tells of each call in a folder that all machines share, under the name of its machine: who did which file,
how far a run is, and whether f was called for every file, can be seen from outside at any moment.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

from jobs import Ended
from machines import Machines, Program
from soak import SoakJob, Source, compare, make_source

FUNCTION = """\
import json
import os
import signal
import socket
import time


def measure(filepath):
    shared = filepath[: filepath.index("/source/")]
    with open(filepath) as file:
        wanted = json.load(file)
    # One line a call, in one write to a file of this process: it is there whatever is killed next.
    name = f"{socket.gethostname()}.{os.getpid()}.log"
    log = os.open(os.path.join(shared, "calls", name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, wanted["path"].encode() + b"\\n")
    os.close(log)
    while os.path.exists(os.path.join(shared, "hold")):
        time.sleep(0.02)
    with open(os.path.join(shared, "pace")) as file:
        time.sleep(wanted["ms"] / 1000 * float(file.read()))
    if wanted["does"] == "fail":
        raise ValueError(f"{wanted['n']} is refused")
    value = wanted["n"] + 0.5 if wanted["does"] == "float" else wanted["n"]
    return {"path": wanted["path"], "value": value, "text": wanted["text"]}
"""
"""The same text in all jobs, since parts name its fingerprint; what is other lies in files that all machines see."""


def joined(address: str, *arguments: str) -> tuple[str, ...]:
    """Return the command of `r3po run` on the Ray at an address."""
    return (sys.executable, "-m", "r3po", "run", "--address", address, *arguments)


class ClusterJob(SoakJob):
    """A job that only the first machine sees, over a source that all see."""

    def __init__(self, machines: Machines, name: str, inputs: Source, **settings: Any) -> None:
        super().__init__(machines.home_folder / name, inputs, workers=2 * len(machines), shard_size=1000)
        self.machines = machines
        self.settings |= settings

    def write(self, *, crashes: bool = False) -> Self:
        assert not crashes, "none of these files crashes"
        self.folder.mkdir(parents=True)
        self.write_function(FUNCTION)
        self.write_config()
        shutil.rmtree(self._shared / "calls", ignore_errors=True)
        (self._shared / "calls").mkdir()
        self.set_pace(1)
        return self

    @property
    def _shared(self) -> Path:
        return self.inputs.folder.parent

    def hold(self, is_held: bool = True) -> None:
        if is_held:
            (self._shared / "hold").touch()
        else:
            (self._shared / "hold").unlink(missing_ok=True)

    def set_pace(self, pace: float) -> None:
        """Let each call of f take so many times its usual time from now on."""
        new = self._shared / "pace.new"
        new.write_text(str(pace))
        new.replace(self._shared / "pace")

    def start(self, *arguments: str, **changed: str | None) -> Program:
        """Start `r3po run` at home, joined to the Ray of the machines."""
        return self.machines.home.start(*joined(self.machines.address, *arguments), cwd=self.folder, **changed)

    def wait_for_calls(self, program: Program, share: float, n_machines: int = 3) -> None:
        """Wait until f was called on such a share of all files, and on so many machines."""

        def is_so() -> bool:
            names = {log.name.partition(".")[0] for log in (self._shared / "calls").iterdir()}
            return self.n_calls() >= share * len(self.inputs.paths) and len(names) >= n_machines

        program.wait_until(is_so, f"f was called on {share:.0%} of the files, by {n_machines} machines", 180)

    def finish(self, program: Program, timeout_s: float = 240) -> Ended:
        """Wait for the end of a run that has to finish the job."""
        ended = program.end(timeout_s)
        assert ended.code == (1 if self.inputs.failing else 0), ended.said
        assert "Traceback" not in ended.said, ended.said
        return ended

    def n_calls(self) -> int:
        line_bytes = len(self.inputs.paths[0]) + 1  # all paths are of one length
        return sum(log.stat().st_size for log in (self._shared / "calls").iterdir()) // line_bytes

    def calls(self) -> Counter[str]:
        return sum(self.calls_by_machine().values(), Counter())

    def calls_by_machine(self) -> dict[str, Counter[str]]:
        """Return how often each machine called f on each file."""
        found: dict[str, Counter[str]] = {}
        for log in (self._shared / "calls").iterdir():
            found.setdefault(log.name.partition(".")[0], Counter()).update(log.read_text().splitlines())
        return found


class ClusterLab:
    """Jobs over one source that all machines see, and the undisturbed serial job that they are held against."""

    def __init__(self, machines: Machines, n_files: int, **settings: Any) -> None:
        self.machines, self._settings, self._n_jobs = machines, settings, 0
        self.inputs = make_source(machines.shared / "source", n_files)
        self.reference = self.new_job()
        self.reference.set_pace(0)
        ended = machines.home.run(
            *(sys.executable, "-m", "r3po", "run", "--engine", "serial"), cwd=self.reference.folder, timeout_s=300
        )
        assert ended.code == (1 if self.inputs.failing else 0), ended.said
        calls = self.reference.calls()
        assert all(calls[path] == 1 for path in self.inputs.paths), "the reference called f once a file"

    def new_job(self) -> ClusterJob:
        self._n_jobs += 1
        job = ClusterJob(self.machines, f"job{self._n_jobs:02}", self.inputs, **self._settings)
        return job.write()

    def assert_finished(self, job: ClusterJob) -> Counter[str]:
        """The job has all rows and failures, in parts of the same bytes as the reference; return how many there are."""
        findings, counts = compare(job, self.reference)
        assert findings == []
        calls = job.calls()
        assert [path for path in self.inputs.paths if path not in calls] == []
        return counts
