"""A damaged file is refused by name, or what it held is made again; a table that differs is never taken for a good one.

One job is kept in three states: half done, with segments; killed between a decision and its publication, with staged
parts; finished. Each case puts one state in place, damages one file and runs r3po. What r3po cannot make again it must
refuse, and go on as if nothing had happened once the file is back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from damages import DAMAGES
from jobs import LONG_AGO, Ended, Job, make_job, r3po, run_process, run_python, snapshot
from r3po.run import session

if TYPE_CHECKING:
    from conftest import Draw

N_FILES = 22
N_CASES = 200

FUNCTION = """\
import json
import os
import signal

HERE = os.path.dirname(os.path.abspath(__file__))


def double(filepath):
    with open(filepath) as file:
        n = json.load(file)["n"]
    if n == 13 and os.path.exists(os.path.join(HERE, "die")):
        os.kill(os.getpid(), signal.SIGKILL)
    if n in (3, 11, 17):
        raise ValueError(f"{n} is a bad number")
    # The last number widens its column: by then the parts of the first shards are made, and are made again.
    return {"n": n, "half": n / 2 if n == 21 else n // 2, "text": f'row "{n}" of many, \\u00e9', "list": [n] * (n % 3)}
"""

DIE_AFTER_COMMIT = """\
import os
import signal
import sys

from r3po.storage import durable as storage
from r3po.cli.app import main

replace = storage._replace


def die_after(source, target):
    replace(source, target)
    if target.parent.name == "commits" and target.name == "00002.json":
        os.kill(os.getpid(), signal.SIGKILL)


storage._replace = die_after
sys.argv = ["r3po", "run", "--engine", "serial"]
main()
"""

TARGETS: dict[str, str] = {
    "manifest": "work/manifest.json",
    "shard file": "work/shards/*.jsonl",
    "columns": "work/columns.*.json",
    "segment": "work/segments/*/*.arrow",
    "commit": "work/commits/*.json",
    "outcomes": "work/outcomes/*.arrow",
    "csv part": "out/csv/part-*",
    "parquet part": "out/parquet/part-*",
    "staged part": "out/.staging/*",
    "claim": "out/.r3po.json",
}
PARTS = ("csv part", "parquet part", "staged part")


# The job in its three states


@dataclass
class Arena:
    """One job, always at the same place, and copies of its state and output as they were at three moments."""

    job: Job
    copies: Path
    undisturbed: dict[str, bytes] = field(default_factory=dict)
    """What users read once the job is finished."""
    opened: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is on disk in each state once a start has completed what was decided, and done nothing else."""

    def make(self) -> None:
        ended = self.job.run()
        assert ended.code == 1, ended.err
        self.undisturbed = self.job.published()
        self._keep("finished")
        self._clear()
        (self.job.folder / "die").touch()
        assert run_process("run", "--engine", "serial", cwd=self.job.folder).code == -signal.SIGKILL
        (self.job.folder / "die").unlink()
        assert len(list(self.job.folder.glob("work/segments/00002/*"))) > 1
        assert len(list(self.job.folder.glob("work/commits/*"))) == 2
        self._keep("half")
        assert run_python("-c", DIE_AFTER_COMMIT, cwd=self.job.folder).code == -signal.SIGKILL
        assert len(list(self.job.folder.glob("out/.staging/*"))) == 2
        self._keep("decided")
        for state in ("half", "decided", "finished"):
            self.restore(state)
            assert r3po("build", cwd=self.job.folder).code == 0
            self.opened[state] = self.durable()

    def restore(self, state: str) -> None:
        self._clear()
        for name in ("work", "out"):
            shutil.copytree(self.copies / state / name, self.job.folder / name)

    def files(self, state: str, target: str) -> list[str]:
        """Return the files of one kind in a state, relative to the job's folder."""
        root = self.copies / state
        return sorted(str(path.relative_to(root)) for path in root.glob(TARGETS[target]) if path.stat().st_size)

    def findings(self) -> list[str]:
        return self.job.findings(check_source=True)

    def durable(self) -> dict[str, str]:
        """Return what is on disk of state and output, without what every start writes."""
        found = snapshot(self.job.working_dir, self.job.output)
        by_the_way = (str(self.job.working_dir / "runs"), str(self.job.working_dir / "lock"))
        return {name: digest for name, digest in found.items() if not name.startswith(by_the_way)}

    def _keep(self, state: str) -> None:
        for name in ("work", "out"):
            shutil.copytree(self.job.folder / name, self.copies / state / name)

    def _clear(self) -> None:
        for name in ("work", "out"):
            shutil.rmtree(self.job.folder / name)


@pytest.fixture(scope="module")
def arena(memory_folder: Path) -> Arena:
    folder = memory_folder / "damage"
    job = make_job(folder / "job", N_FILES, FUNCTION, shard_size=5, batch_seconds=0.0001)
    for path in job.source.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))  # young files are looked at once more, and then the manifest changes
    arena = Arena(job, folder / "copies")
    arena.make()
    return arena


@pytest.fixture(autouse=True)
def find_the_function_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function is the same in all cases, and to find it takes a fifth of a run's time."""
    monkeypatch.setattr(session, "find_function", cache(session.find_function))


# One case


@dataclass(frozen=True)
class Case:
    state: str
    target: str
    damage: str
    contents: dict[str, bytes]
    """The damaged files by their name relative to the job's folder: one, or two that were swapped."""

    def __str__(self) -> str:
        return f"{' and '.join(self.contents)} {self.damage}, {self.state}"


def draw_case(arena: Arena, target: str, drawn: random.Random) -> Case:
    state = drawn.choice([state for state in ("half", "decided", "finished") if arena.files(state, target)])
    names = arena.files(state, target)
    name = drawn.choice(names)
    good = (arena.copies / state / name).read_bytes()
    damage = drawn.choice([*DAMAGES, "swapped"])
    if damage == "swapped":
        others = [other for other in names if other != name] or ["work/manifest.json", "work/columns.b1.json"]
        other = drawn.choice([other for other in others if other != name])
        return Case(state, target, damage, {name: (arena.copies / state / other).read_bytes(), other: good})
    return Case(state, target, damage, {name: DAMAGES[damage](good, drawn)})


def problems_of(arena: Arena, case: Case) -> Iterator[str]:
    """Put the case in place, run r3po, and yield what should not have happened."""
    arena.restore(case.state)
    good = {name: (arena.job.folder / name).read_bytes() for name in case.contents}
    if all(is_same(good[name], content) for name, content in case.contents.items()):
        return
    for name, content in case.contents.items():
        (arena.job.folder / name).write_bytes(content)
    before = arena.durable()
    status = r3po("status", cwd=arena.job.folder)
    if status.code != 0 and not is_named(status, case, arena.job):
        yield f"status ended with {status.code}: {status.err}"
    if arena.durable() != before:
        yield "status changed something"
    ended = arena.job.run()
    if ended.code == 1:
        yield from problems_of_a_success(arena, case, good)
        return
    if ended.code not in (2, 3) or not is_named(ended, case, arena.job):
        yield f"run ended with {ended.code}: {ended.err}"
        return
    after, opened = arena.durable(), arena.opened[case.state]
    changed = [name for name in differing(before, after) if after.get(name) != opened.get(name)]
    # Outcomes are opened when they are needed, and that may be after other work.
    if changed and case.target != "outcomes":
        yield f"refused, but {changed} changed"
    yield from problems_of_the_end(arena, good)


def is_same(good: bytes, content: bytes) -> bool:
    """Whether damage left things as they were: zeros for zeros, or white space at the end of a JSON file."""
    try:
        return good == content or bool(json.loads(good) == json.loads(content))
    except ValueError:
        return False


def is_named(ended: Ended, case: Case, job: Job) -> bool:
    """Whether r3po said no in its usual shape, and named what is damaged or the folder of it."""
    paths = [job.folder / name for name in case.contents]
    is_told = any(str(named) in ended.err for path in paths for named in (path, path.parent))
    return is_told and "\nerror: " in "\n" + ended.err and "Traceback" not in ended.err


def problems_of_a_success(arena: Arena, case: Case, good: dict[str, bytes]) -> Iterator[str]:
    """A run that calls the job finished has made again what was damaged, or never needed it."""
    left = {
        n: c for n, c in case.contents.items() if (path := arena.job.folder / n).exists() and path.read_bytes() == c
    }
    if case.target in PARTS:
        yield from problems_of_parts(arena, case, good)
        return
    yield from (f"{name} is not as undisturbed" for name in differing(arena.job.published(), arena.undisturbed))
    told = [str(arena.job.folder / name) for name in left]
    yield from (finding for finding in arena.findings() if not finding.startswith(tuple(told)) or not left)
    if not left:
        return
    if case.target != "outcomes":
        yield "the damage is still there, and nothing was said"
        return
    # Nothing in the output hangs on them as long as the parts are there; else they are needed, and must be refused.
    for part in arena.job.output.glob("csv/part-*"):
        part.unlink()
    ended = arena.job.run()
    if ended.code not in (2, 3) or not is_named(ended, case, arena.job):
        yield f"parts were made from damaged outcomes, or the refusal does not name them: {ended.code}, {ended.err}"
    yield from problems_of_the_end(arena, good)


def problems_of_parts(arena: Arena, case: Case, good: dict[str, bytes]) -> Iterator[str]:
    """A part of another size is made again. One of the same size is not opened by a run, which would have to read the
    whole table each time: it stays as it is until something looks into it, and all the others are right."""
    unseen = {}
    for name, content in case.contents.items():
        if len(content) == len(good[name]):
            final = f"{Path(name).suffixes[0][1:]}/{Path(name).name.split('.')[0]}{Path(name).suffixes[0]}"
            unseen[final] = content
    found = arena.job.published()
    for name in differing(found, arena.undisturbed):
        if found.get(name) != unseen.get(name, b""):
            yield f"{name} is neither as undisturbed nor as it was damaged"
    for name in unseen:
        (arena.job.output / name).write_bytes(arena.undisturbed[name])
    if case.target == "staged part":
        arena.job.run()  # a staged file of another size goes with the next start
    yield from arena.findings()


def problems_of_the_end(arena: Arena, good: dict[str, bytes]) -> Iterator[str]:
    """Put the files back, let a run finish the job, and yield what is not as undisturbed."""
    for name, content in good.items():
        (arena.job.folder / name).write_bytes(content)
    ended = arena.job.run()
    if ended.code != 1:
        yield f"with {list(good)} put back, run ended with {ended.code}: {ended.err}"
        return
    wrong = [f"{name} is not as undisturbed" for name in differing(arena.job.published(), arena.undisturbed)]
    yield from (f"with {list(good)} put back, {finding}" for finding in (*wrong, *arena.findings()))


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


# The tests


@pytest.mark.parametrize("state", ["half", "decided", "finished"])
def test_an_undamaged_job_comes_to_its_end(state: str, arena: Arena) -> None:
    arena.restore(state)
    assert not list(problems_of_the_end(arena, {}))


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_refused_by_name_or_made_good(target: str, arena: Arena, draw: Draw) -> None:
    found = []
    for number in range(max(1, draw.n_cases(N_CASES) // len(TARGETS))):
        case = draw_case(arena, target, draw.case(target, number))
        found += [f"case {number}: {case}: {problem}" for problem in problems_of(arena, case)]
    assert not found, f"R3PO_FAULT_SEED={draw.seed}: {len(found)} problems\n" + "\n".join(found[:20])
