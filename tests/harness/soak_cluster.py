"""Half an hour of one question: has every file exactly one row or one failure, whatever becomes of the machines?

Three machines (`machines.py`) are made once, and one source with an undisturbed reference. Then round follows round
until the time is up: a fresh job is run over the machines and hit by faults, drawn from the seed, until it is finished;
machines that were lost come back after a while. What the job made is held against the reference; ten seconds after the
end of each run nothing of it may be left on any machine that can be reached.

    python tests/harness/soak_cluster.py --minutes 30 --seed 7

exits with 1 as soon as something is wrong, and keeps the round: the job, what each run said, the faults. `make
soak-cluster` calls it, as root.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import soak
from cluster_jobs import ClusterJob, ClusterLab
from jobs import comes_true
from machines import GONE_S, Machine, Machines, Program, why_not

RUN_LIMIT_S = 600.0
"""No run lasts so long, whatever hits it: it hangs."""

MAX_RUNS = 30
"""Of one round: a job that needs more does not get on."""

CUT_OFF_S = 150.0
"""So long after its link was cut a machine has nothing of r3po any more."""

MENDED_S = 30.0
"""Seconds after which nothing tells any more that a link was cut."""

AWAY_S = (10, 40)
"""Seconds after which a machine that was lost is started again."""

FINISHED = {0, 1}

ENDS = {"driver": {-signal.SIGKILL}, "SIGTERM": {143}, "SIGINT": {130}, "raylet at home": {3}, "gcs_server": {3}}
"""Faults that end a run, and with which code."""

Fault = Callable[["Round"], bool]


@dataclass
class Report(soak.Report):
    """What the soak came to, with what the machines did."""

    files_by_machine: Counter[str] = field(default_factory=Counter)

    def note(self, what: str, seconds: float) -> None:
        self.longest_s[what] = round(max(self.longest_s.get(what, 0.0), seconds), 1)

    def lines(self) -> list[str]:
        n, n_faults = self.counts, self.faults.total()
        kinds = ", ".join(f"{times} {kind}" for kind, times in self.faults.most_common())
        codes = ", ".join(f"{times} times {code}" for code, times in self.exit_codes.most_common())
        calls = ", ".join(f"{name} {times:,}" for name, times in sorted(self.files_by_machine.items()))
        longest = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in sorted(self.longest_s.items()))
        return [
            f"seed {self.seed}, {self.minutes:.1f} minutes ({self.ended}), three machines, {n['rounds']} rounds, "
            f"{n['runs']} runs",
            f"faults          {n_faults}, {n_faults / (self.minutes or 1):.1f} a minute: {kinds}",
            f"came back       {n['came back']} machines",
            f"exit codes      {codes}",
            f"files           {n['files']:,}: {n['rows']:,} rows, {n['failures']:,} failures, "
            f"{n['lost']} lost, {n['doubled']} doubled; parts byte-identical in {n['rounds']} rounds",
            f"calls of f      {n['calls']:,}, {n['calls'] - n['files']:,} beyond the files: {calls}",
            f"longest         {longest}",
            *(f"FINDING         {finding}" for finding in self.findings),
        ]


class Round:
    """One job, hit until it is finished."""

    def __init__(self, lab: ClusterLab, rng: random.Random, report: Report, ends_at: float) -> None:
        self.lab, self.machines, self.rng, self.report, self.ends_at = lab, lab.machines, rng, report, ends_at
        self.job: ClusterJob = lab.new_job()
        self.program: Program | None = None
        self.ends: set[int] = set()
        """Exit codes that a fault has made right for this run."""
        self.log: list[dict[str, object]] = []
        self._started = time.monotonic()
        self._cut: dict[Machine, float] = {}
        self._mended_at = 0.0
        """When a link that was cut was mended last."""
        """Machines whose link is cut, and when it is mended."""
        self._returns: dict[Machine, float] = {}
        """Machines that are lost, and when they are started again."""
        self._coming: dict[Machine, Future[None]] = {}
        self._threads = ThreadPoolExecutor(len(self.machines))

    def play(self) -> None:
        """Run the job until it is finished.

        Raises:
            AssertionError: something is wrong.
        """
        before = self.machines.files()
        for _ in range(MAX_RUNS):
            code = self._run_once()
            self._wait_until_left(before)
            if code in FINISHED:
                break
            if not self.machines.head.of_role("raylet") or not self.machines.head.of_role("gcs_server"):
                self._mend()
        else:
            raise AssertionError(f"not finished after {MAX_RUNS} runs")
        self._compare()
        self._mend()
        self.machines.assert_nothing_left(before)
        self._threads.shutdown()

    def _run_once(self) -> int:
        self.report.counts["runs"] += 1
        self.ends = set()
        program = self.program = self.job.start()
        started = time.monotonic()
        next_at = started + self.rng.uniform(5, 20)
        while program.poll() is None:
            now = time.monotonic()
            assert now - started < RUN_LIMIT_S, f"the run does not end\n{program.err[-3000:]}"
            self._bring_back(now)
            if next_at <= now < self.ends_at and not self.ends and self.job.n_calls():
                kind = self.rng.choices(list(FAULTS), [weight for _, weight in FAULTS.values()])[0]
                if FAULTS[kind][0](self):
                    self._say(kind)
                    self.report.faults[kind] += 1
                    self.ends |= ENDS.get(kind, set())
                    next_at = time.monotonic() + self.rng.uniform(3, 15)
                    hit_at = time.monotonic()
            time.sleep(0.1)
        code = program.poll()
        assert code is not None
        self.report.exit_codes[code] += 1
        self._say(f"exit code {code}")
        if self.ends:
            self.report.note("from a fault that ends the run to its end", time.monotonic() - hit_at)
        right = self.ends | ({1} if self.job.inputs.failing else {0})
        assert code in right, f"exit code {code}, not one of {sorted(right)}\n{program.err[-3000:]}"
        assert "Traceback" not in program.err, program.err[-3000:]
        return code

    def _say(self, what: str) -> None:
        self.log.append({"at": round(time.monotonic() - self._started, 1), "what": what})

    def _wait_until_left(self, before: dict[str, set[str]]) -> None:
        """Nothing of the run may be left where one can tell a machine that it is over."""
        started = time.monotonic()
        hidden = {machine.name for machine in (*self._cut, *self._returns, *self._coming)}

        def left() -> dict[str, list[str]]:
            return {name: found for name, found in self.machines.left(before).items() if name not in hidden}

        # What was sent while the link was cut is sent again after a pause that has doubled each time.
        limit_s = GONE_S if started - self._mended_at > MENDED_S else 2 * GONE_S
        assert comes_true(lambda: not left(), limit_s, 0.25), f"left after {limit_s:.0f} s: {left()}"
        self.report.note("until nothing was left", time.monotonic() - started)

    def _compare(self) -> None:
        findings, counts = soak.compare(self.job, self.lab.reference)
        calls = self.job.calls_by_machine()
        done = set().union(*calls.values())
        never = [path for path in self.job.inputs.paths if path not in done]
        findings += [f"f was never called on {never[:5]}"] if never else []
        self.report.counts.update(counts)
        self.report.counts["files"] += len(self.job.inputs.paths)
        for name, times in calls.items():
            self.report.files_by_machine[name] += times.total()
            self.report.counts["calls"] += times.total()
        assert not findings, "\n".join(findings[:20])

    # Machines that go and come back

    def lose(self, machine: Machine, end: Callable[[], object]) -> bool:
        end()
        self._returns[machine] = time.monotonic() + self.rng.uniform(*AWAY_S)
        return True

    def cut(self, machine: Machine, seconds: float) -> bool:
        machine.cut_link()
        self._cut[machine] = time.monotonic() + seconds
        return True

    def away(self) -> Machine | None:
        """Draw a machine that is not home, and that is well."""
        well = [machine for machine in self.machines.away if self._is_well(machine)]
        return self.rng.choice(well) if well else None

    def _is_well(self, machine: Machine) -> bool:
        return not any(machine in hit for hit in (self._cut, self._returns, self._coming))

    def _bring_back(self, now: float) -> None:
        for machine, at in list(self._cut.items()):
            if at <= now:
                del self._cut[machine]
                machine.mend_link()
                self._mended_at = now
                if not machine.of_role("raylet"):  # Ray ends one that it has given up
                    self._returns[machine] = now
        for machine, at in list(self._returns.items()):
            if at <= now and self.machines.head.of_role("gcs_server"):
                del self._returns[machine]
                if not machine.is_on:
                    machine.switch_on()  # here: its namespaces end with the thread that makes them
                self._coming[machine] = self._threads.submit(machine.restart_ray)
        for machine, future in list(self._coming.items()):
            if future.done():
                del self._coming[machine]
                future.exception()  # the head may have been killed meanwhile; all is mended after the round
                self.report.counts["came back"] += future.exception() is None

    def _mend(self) -> None:
        for future in self._coming.values():
            future.exception(timeout=300)
        self._coming.clear()
        for machine in (*self._cut, *self._returns):
            if not machine.is_on:
                continue
            machine.mend_link()
            machine.kill_everything()  # mended at once, whatever Ray would make of it
        self._cut.clear()
        self._returns.clear()
        self.machines.mend()


def _kill(role: str, n: int | None) -> Fault:
    def hit(round_: Round) -> bool:
        machine = round_.rng.choice([*round_.machines.away, round_.machines.home])
        return machine.is_on and bool(machine.kill(role, n, round_.rng))

    return hit


def _on_another(act: Callable[[Round, Machine], bool]) -> Fault:
    def hit(round_: Round) -> bool:
        machine = round_.away()
        return machine is not None and act(round_, machine)

    return hit


def _signal(number: signal.Signals) -> Fault:
    def hit(round_: Round) -> bool:
        assert round_.program is not None
        round_.program.send(number)
        return True

    return hit


FAULTS: dict[str, tuple[Fault, int]] = {
    "worker": (_kill("worker", 1), 24),
    "all workers of a machine": (_kill("worker", None), 8),
    "agent": (_on_another(lambda round_, machine: bool(machine.kill("agent"))), 10),
    "raylet": (_on_another(lambda r, machine: r.lose(machine, lambda: machine.kill("raylet"))), 8),
    "machine crashed": (_on_another(lambda r, machine: r.lose(machine, machine.crash)), 6),
    "machine without power": (_on_another(lambda r, machine: r.lose(machine, machine.switch_off)), 6),
    "link cut for 2 to 8 s": (_on_another(lambda r, machine: r.cut(machine, r.rng.uniform(2, 8))), 12),
    "link cut for 35 to 90 s": (_on_another(lambda r, machine: r.cut(machine, r.rng.uniform(35, 90))), 6),
    "driver": (_signal(signal.SIGKILL), 8),
    "SIGTERM": (_signal(signal.SIGTERM), 4),
    "SIGINT": (_signal(signal.SIGINT), 4),
    "raylet at home": (lambda r: bool(r.machines.head.kill("raylet")), 2),
    "gcs_server": (lambda r: bool(r.machines.head.kill("gcs_server")), 2),
}
"""What may hit a run, and how often of a hundred times it does."""


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hit three machines for a while; does every file have one outcome?")
    parser.add_argument("--minutes", type=float, default=30, help="how long (30); the last round is then finished")
    parser.add_argument("--seed", type=int, help="of the faults; random, and printed, unless given")
    parser.add_argument("--files", type=int, default=20_000, help="of the source (20,000)")
    given = parser.parse_args()
    if reason := why_not():
        say(f"skipped: {reason}")
        return 0
    report = Report(secrets.randbelow(1 << 32) if given.seed is None else given.seed)
    say(f"seed {report.seed}")
    with Machines(3) as machines:
        _soak(given, machines, report)
    say("\n".join(report.lines()))
    file = Path(tempfile.gettempdir()) / "r3po-soak-cluster-report.json"
    file.write_text(json.dumps(vars(report), indent=2) + "\n")
    say(f"report: {file}")
    return 1 if report.findings else 0


def _soak(given: argparse.Namespace, machines: Machines, report: Report) -> None:
    started = time.monotonic()
    machines.start_ray()
    lab = ClusterLab(machines, given.files)
    say(f"three machines, {given.files:,} files and the reference made in {time.monotonic() - started:.0f} s")
    started, rng = time.monotonic(), random.Random(report.seed)
    ends_at = started + 60 * given.minutes
    try:
        while time.monotonic() < ends_at:
            round_, began = Round(lab, rng, report, ends_at), time.monotonic()
            try:
                round_.play()
            except AssertionError as error:
                report.ended = "something is wrong"
                report.findings += str(error).splitlines()
                _keep(round_, machines)
                return
            report.counts["rounds"] += 1
            kinds = [str(line["what"]) for line in round_.log]
            say(f"round {report.counts['rounds']}: {time.monotonic() - began:.0f} s; {'; '.join(kinds)}")
            shutil.rmtree(round_.job.folder)
    except KeyboardInterrupt:
        report.ended = "asked to end"
    finally:
        report.minutes = round((time.monotonic() - started) / 60, 2)


def _keep(round_: Round, machines: Machines) -> None:
    """Keep what shows what went wrong: the machines' folders end with them."""
    kept = Path(tempfile.mkdtemp(prefix="r3po-soak-cluster-"))
    (kept / "faults.json").write_text(json.dumps(round_.log, indent=1) + "\n")
    for folder in (round_.job.folder, machines.folder / "programs"):
        shutil.copytree(folder, kept / folder.name, symlinks=True)
    for machine in machines:
        for logs in (machine.disk / "ray").glob("session_2*/logs"):
            shutil.copytree(logs, kept / machine.name, dirs_exist_ok=True, symlinks=True, ignore_dangling_symlinks=True)
    say(f"kept: {kept}")


if __name__ == "__main__":
    sys.exit(main())
