"""Whatever r3po does, it may die before and after every durable step of it: the next run makes the same table.

All durable steps pass through four module variables of `storage`. A `World` takes their place, counts the steps, and
ends the "process" at one of them: it raises, and goes on raising, so that no cleaning up changes anything on disk.
Nothing is really synced: what is tested is the order of the steps, and the unsynced is taken away on purpose.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import r3po
from jobs import run_python
from r3po.config.settings import load_config
from r3po.run import loop as runloop
from r3po.run import session
from r3po.source import sources
from r3po.source.hashing import hash_files
from r3po.state.job import open_job
from r3po.state.manifest import Manifest, read_manifest
from r3po.storage import durable as storage
from r3po.worker import many_rows, worker

if TYPE_CHECKING:
    from jobs import NewJob
    from jobs import TinyJob as Job

pytestmark = pytest.mark.faults

SEAMS = ("_create", "_fsync", "_replace", "_unlink")
REAL = {name: getattr(storage, name) for name in SEAMS}
RMDIR = os.rmdir

LATER = 1_700_000_000
"""When a file was touched, in seconds."""

FileId = tuple[int, int]
"""Device and inode."""


# A world in which a process can die


class Killed(BaseException):
    """The process is dead. No Exception: nobody may handle it."""


@dataclass(frozen=True)
class Step:
    """One durable step that is about to be carried out."""

    seam: str
    target: Path | None
    """What is made, synced, replaced or removed; None: a folder is synced."""

    @property
    def is_sync_of_folder(self) -> bool:
        return self.seam == "_fsync" and self.target is None

    def __str__(self) -> str:
        target = "a folder" if self.target is None else f"{self.target.parent.name}/{self.target.name}"
        return f"{self.seam} {target}"


@dataclass
class World:
    """Stands in for the disk's durable steps, as a context manager.

    Args:
        kill_at: number of the step to die at, from 1; 0: live on.
        is_after: die once the step is carried out, instead of before it.
        kill_if: die after the first step that fits, instead of at a number.
        error: instead of dying, let that one step fail, and live on.
        look: its results before and after each step are kept in `seen`.
    """

    kill_at: int = 0
    is_after: bool = False
    kill_if: Callable[[Step], bool] | None = None
    error: OSError | None = None
    look: Callable[[], object] = lambda: None
    seen: list[tuple[object, object]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    is_dead: bool = False
    n_durable: int = 0
    """Outcomes in the segments that were renamed into place."""
    _unsynced: dict[FileId, Path] = field(default_factory=dict)
    """Files whose content would not survive a power cut."""
    _names: list[tuple[FileId, int, Callable[[], None]]] = field(default_factory=list)
    """Of each name that would not survive one: its folder, the outcomes behind it, how to undo it; oldest first."""

    def __enter__(self) -> Self:
        self._patch = pytest.MonkeyPatch()
        for name in SEAMS:
            self._patch.setattr(storage, name, self._seam(name))
        self._patch.setattr(shutil, "rmtree", _remove_tree_by_the_seam)
        self._patch.setattr(os, "rmdir", self._rmdir)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def cut_power(self) -> int:
        """Empty every file, and undo every rename and removal, that was not synced before the end.

        Returns:
            How many outcomes were lost with that.
        """
        n_lost = 0
        for _, n_outcomes, undo in reversed(self._names):
            undo()
            n_lost += n_outcomes
        for path in self._unsynced.values():
            if path.exists():
                os.truncate(path, 0)
        return n_lost

    def _seam(self, name: str) -> Callable[..., Any]:
        def carry_out(*args: Any) -> Any:
            if self.is_dead:
                raise Killed
            step = self._step(name, args)
            self.steps.append(step)
            before = self.look()
            is_last = len(self.steps) == self.kill_at
            if is_last and not self.is_after:
                self._die()
            is_last = is_last or (self.kill_if is not None and self.kill_if(step))
            try:
                result = getattr(self, name)(*args)
            except OSError:
                if is_last:
                    self._die()
                self.seen.append((before, self.look()))
                raise
            if is_last:
                if name == "_create":
                    os.close(result)
                self._die()
            self.seen.append((before, self.look()))
            return result

        return carry_out

    def _die(self) -> None:
        if self.error is not None:
            raise self.error
        self.is_dead = True
        raise Killed

    def _step(self, name: str, args: tuple[Any, ...]) -> Step:
        if name == "_fsync":
            target = self._unsynced.get(_id(os.fstat(args[0])))
        else:
            target = Path(args[1] if name == "_replace" else args[0])
        return Step(name, target)

    # The four seams

    def _create(self, path: Path, flags: int, mode: int) -> int:
        descriptor: int = REAL["_create"](path, flags, mode)
        if Path(path).suffix == ".tmp":  # its name may come through a power cut: the worse case for what follows
            self._unsynced[_id(os.fstat(descriptor))] = Path(path)
        else:
            self._names.append((_id(os.stat(Path(path).parent)), 0, lambda: _put(Path(path), None)))
        return descriptor

    def _fsync(self, descriptor: int) -> None:
        synced = _id(os.fstat(descriptor))
        self._unsynced.pop(synced, None)
        self._names = [name for name in self._names if name[0] != synced]

    def _replace(self, source: Path, target: Path) -> None:
        assert _id(os.stat(source)) not in self._unsynced, f"{target} is renamed into place before it is synced"
        before = target.read_bytes() if target.exists() else None
        content = source.read_bytes()
        REAL["_replace"](source, target)
        counts = re.search(r"\.d(\d+)\.f(\d+)\.", target.name) if "segments" in target.parts else None
        n_outcomes = sum(map(int, counts.groups())) if counts else 0
        self.n_durable += n_outcomes

        def undo() -> None:
            _put(target, before)
            _put(source, content)

        self._names.append((_id(os.stat(target.parent)), n_outcomes, undo))

    def _unlink(self, path: Path) -> None:
        content = Path(path).read_bytes() if os.path.exists(path) else None
        REAL["_unlink"](path)
        self._names.append((_id(os.stat(Path(path).parent)), 0, lambda: _put(Path(path), content)))

    def _rmdir(self, folder: Path, **options: Any) -> None:
        if self.is_dead:
            raise Killed
        removed, parent = _id(os.stat(folder)), _id(os.stat(Path(folder).parent))
        RMDIR(folder, **options)
        # What was in it comes back if the folder does.
        self._names = [(parent if of == removed else of, *rest) for of, *rest in self._names]


def _id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _remove_tree_by_the_seam(folder: Path, ignore_errors: bool = False) -> None:
    """Remove a folder as `shutil.rmtree` does, one step a file: a process may die in the middle of it."""
    if not os.path.isdir(folder):
        return
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            _remove_tree_by_the_seam(Path(entry.path))
        else:
            storage._unlink(Path(entry.path))
    os.rmdir(folder)


# What may die


def run(job: Job) -> None:
    job.run()


@dataclass(frozen=True)
class Operation:
    """Something that r3po does, from a job in which it is about to be done to the job that comes of it."""

    prepare: Callable[[Job], object]
    act: Callable[[Job], object]
    finish: Callable[[Job], object]
    """What the user does after `act` was killed, or once it is done. It ends with a run."""
    reference: Callable[[Job], object] | None = None
    """What comes to the same job without any death; None: the three above do."""
    is_looked_into: bool = False
    """Look at the table right after the start that follows a death, too."""
    idle: Callable[[Job], object] = run
    """A run that finds nothing to do afterwards."""
    withdraws: bool = False
    """Rows may be out of the table for a while: it gets other columns."""

    def carry_out_undisturbed(self, job: Job) -> None:
        for step in (self.reference,) if self.reference else (self.prepare, self.act, self.finish):
            step(job)


def build(job: Job) -> None:
    """`build_jobs`, which hashes, but in this process: the steps are the same, and a start of processes takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "hash_files", lambda paths, processes: hash_files(paths, 0))
        r3po.build_jobs(job.config)


def roll_forward(job: Job) -> None:
    with open_job(load_config(job.config)):
        pass


def add_first_files(job: Job) -> None:
    """Two shards, and a failure in the first; each has a float where the other one has an int.

    So the one that is committed first is staged once more at the end.
    """
    job.add("0.json", value=0)
    job.add("1.json", error="bad")
    job.add("2.json", value=0.5, other=2)
    job.add("3.json", value=3, other=0.5)
    job.add("4.json", value=4)


def finish_first_files(job: Job) -> None:
    add_first_files(job)
    job.run()


def add_more_files(job: Job) -> None:
    """Files between the old ones: the first fills the last shard, the other one fails in a shard of its own.

    The first has a float where all others have an int, so that the old shard is staged once more at the end.
    """
    for n in range(5):
        job.add(f"{n}.json", **({"error": "bad"} if n == 1 else {"value": n}))
    job.run()
    job.add("0-more.json", value=0.5)
    job.add("3-more.json", error="bad as well")


def finish_then(change: Callable[[Job], object]) -> Callable[[Job], None]:
    def prepare(job: Job) -> None:
        finish_first_files(job)
        change(job)

    return prepare


def run_with_retry(job: Job) -> None:
    job.run(retry_failed=True)


def run_with_mended_function(job: Job) -> None:
    job.run(function=job.mended_function)


def reset_errors(job: Job) -> None:
    r3po.reset_all_errors(job.config)


def reset_all(job: Job) -> None:
    r3po.reset_all_tracking(job.config)


def harm_parts(job: Job) -> None:
    (job.output / "csv" / "part-00000.csv").unlink()
    os.truncate(job.output / "parquet" / "part-00001.parquet", 10)


def both(first: Callable[[Job], object], second: Callable[[Job], object]) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        first(job)
        second(job)

    return act


def configured(prepare: Callable[[Job], object], **settings: Any) -> Callable[[Job], None]:
    """Do the same under other settings of the config."""

    def prepare_configured(job: Job) -> None:
        job.configure(**settings)
        prepare(job)

    return prepare_configured


def for_many(prepare: Callable[[Job], object]) -> Callable[[Job], None]:
    """Do the same with a function that takes three files at once."""

    def prepare_for_many(job: Job) -> None:
        many = job.function.with_name("tiny_function_many.py")
        source = "\n\ndef describe_many(paths):\n    return [describe(path) for path in paths]\n"
        many.write_text(job.function.read_text() + source)
        job.configure(batch_files=3, function=f"{many}:describe_many")
        prepare(job)

    return prepare_for_many


def with_rows(prepare: Callable[[Job], object], **settings: Any) -> Callable[[Job], None]:
    """Do the same with a function that gives as many rows as `other` says, or one: in blocks of two rows."""

    def prepare_with_rows(job: Job) -> None:
        many = job.function.with_name("tiny_function_rows.py")
        source = "\n\ndef describe_rows(path):\n    row = describe(path)\n    yield from [row] * (row['other'] or 1)\n"
        many.write_text(job.function.read_text() + source)
        job.configure(rows="many", part_rows=2, function=f"{many}:describe_rows", **settings)
        prepare(job)

    return prepare_with_rows


def add_files_with_rows(job: Job) -> None:
    """Two shards of several parts each, and a failure."""
    for n, other in enumerate((5, None, 1, 3, 2)):
        job.add(f"{n}.json", **({"error": "bad"} if other is None else {"value": n, "other": other}))


def change_numbers_of_rows(job: Job) -> None:
    """One shard gets fewer parts, to a single one; the other one more."""
    add_files_with_rows(job)
    job.run()
    job.add("0.json", value=100, other=1)
    job.add("4.json", value=400, other=6)


def change_files(job: Job) -> None:
    """Finish seven files, one of them gone; then one changes, one is touched, one goes, one returns, two are new.

    A file that failed stays as it is, and of the new files, of which one fails, the first fills the last shard.
    """
    for n in (0, 1, 2, 3, 5):
        job.add(f"{n}.json", **({"error": "bad"} if n == 1 else {"value": n}))
    job.run()
    (job.source / "5.json").unlink()
    job.run()
    job.add("0.json", value=100)
    touch(job, "2.json")
    (job.source / "3.json").unlink()
    job.add("5.json", value=5)
    job.add("4.json", value=4)
    job.add("6.json", error="bad as well")


def touch(job: Job, *names: str) -> None:
    for name in names:
        os.utime(job.source / name, (LATER, LATER))


def touch_files(job: Job) -> None:
    """Touch a file with a row and one that failed, in two shards."""
    for n in range(5):
        job.add(f"{n}.json", **({"error": "bad"} if n == 1 else {"value": n}))
    job.run()
    touch(job, "1.json", "3.json")


def keep_then_drop(job: Job) -> None:
    """Keep two rows of files that were deleted, and be about to drop them."""
    job.configure(on_deleted="keep")
    finish_first_files(job)
    for name in ("0.json", "4.json"):
        (job.source / name).unlink()
    job.run()
    job.configure(on_deleted="drop")


def show_otherwise(job: Job) -> None:
    job.configure(
        source_column="file", columns={"text": "string", "value": "float64", "other": "float64", "path": "string"}
    )


def finish_few_files(job: Job) -> None:
    """Two shards, and a failure in the first."""
    job.configure(shard_size=2)
    job.add("0.json", value=0)
    job.add("1.json", error="bad")
    job.add("2.json", value=2)
    job.run()


def lose_a_shard(job: Job) -> None:
    for n in range(3):
        (job.source / f"{n}.json").unlink()


def manifest_of(job: Job) -> Manifest:
    manifest = read_manifest(job.state / "manifest.json")
    assert manifest is not None
    return manifest


def run_accepting(job: Job) -> None:
    """Accept the deletions, as long as no build is in force that did."""
    job.run(accept_deletions=not any(ref.n_deleted for ref in manifest_of(job).shards))


def redo(function: Callable[[Job], str]) -> Callable[[Job], None]:
    """Run with `--redo` until a redo was begun; from then on a plain run goes on with it."""

    def run_or_redo(job: Job) -> None:
        job.run(function=function(job), redo=manifest_of(job).redo_since == 1)

    return run_or_redo


def same_function(job: Job) -> str:
    return str(job.settings["function"])


def wider_function(job: Job) -> str:
    """Return a function that gives one column more."""
    wider = job.function.with_name("tiny_function_wider.py")
    wider.write_text(job.function.read_text().replace('"text": "plain"', '"text": "plain", "more": True'))
    return f"{wider}:describe"


REDO, REDO_WIDER = redo(same_function), redo(wider_function)

CHANGES = {
    "run that finds changes": Operation(change_files, run, run, is_looked_into=True),
    "run that finds changes and keeps": Operation(
        configured(change_files, on_deleted="keep"), run, run, is_looked_into=True
    ),
    "run that finds touched files": Operation(touch_files, run, run, is_looked_into=True),
    "build that finds changes": Operation(change_files, build, run, is_looked_into=True),
    "run after that build": Operation(both(change_files, build), run, run, is_looked_into=True),
    "redo": Operation(finish_few_files, REDO, REDO, is_looked_into=True),
    "redo with other columns": Operation(
        finish_few_files, REDO_WIDER, REDO_WIDER, is_looked_into=True, idle=REDO_WIDER, withdraws=True
    ),
    "run that drops what was kept": Operation(keep_then_drop, run, run, is_looked_into=True),
    "run that shows other columns": Operation(finish_then(show_otherwise), run, run, is_looked_into=True),
    "run that accepts deletions": Operation(
        finish_then(lose_a_shard), run_accepting, run_accepting, is_looked_into=True
    ),
}
"""What follows the source, or makes the table anew."""

OPERATIONS = {
    "first run": Operation(add_first_files, run, run),
    "first run with many files a call": Operation(for_many(add_first_files), run, run),
    "first run with many rows a file": Operation(with_rows(add_files_with_rows), run, run),
    "run that finds other numbers of rows": Operation(with_rows(change_numbers_of_rows), run, run),
    "run that adds files": Operation(add_more_files, run, run),
    "first build": Operation(add_first_files, build, run),
    "build that adds files": Operation(add_more_files, build, run),
    "retry": Operation(finish_then(lambda job: job.mend()), run_with_retry, run_with_retry),
    "reset of errors": Operation(finish_then(lambda job: job.mend()), reset_errors, both(reset_errors, run)),
    "run with a mended function": Operation(finish_first_files, run_with_mended_function, run_with_mended_function),
    "run without csv": Operation(finish_then(lambda job: job.configure(csv=False)), run, run),
    "repair": Operation(finish_then(harm_parts), run, run),
    "reset": Operation(finish_first_files, reset_all, run),
    "reset, twice": Operation(finish_first_files, reset_all, both(reset_all, run)),
}


OPERATIONS |= CHANGES


def is_commit(step: Step) -> bool:
    return step.seam == "_replace" and step.target is not None and step.target.parent.name == "commits"


def die_at(nth: int, fits: Callable[[Step], bool]) -> Callable[[Job], None]:
    """Prepare a job that died just after the n-th step that fits."""

    def prepare(job: Job) -> None:
        add_first_files(job)
        seen = 0

        def is_last(step: Step) -> bool:
            nonlocal seen
            seen += fits(step)
            return seen == nth

        with World(kill_if=is_last), pytest.raises(Killed):
            job.run()

    return prepare


def with_clutter(prepare: Callable[[Job], object]) -> Callable[[Job], None]:
    """Leave beside it what processes that died elsewhere may leave."""

    def prepare_with_clutter(job: Job) -> None:
        prepare(job)
        temporary = f".{'0' * 32}.tmp"
        for folder in ("state", "state/commits", "state/shards", "state/outcomes", "output/.staging"):
            (job.root / folder / temporary).write_bytes(b"half")
        (job.state / "outcomes" / "00000.b1.never-decided.arrow").write_bytes(b"whole")
        (job.state / "shards" / "00000.b2.never-named.jsonl").write_bytes(b"whole")
        (job.output / ".staging" / "part-00000.csv.never-decided.tmp").write_bytes(b"whole")

    return prepare_with_clutter


def is_publication(step: Step) -> bool:
    return step.seam == "_replace" and step.target is not None and step.target.name.startswith("part-0")


def is_removal_of_a_segment(step: Step) -> bool:
    return step.seam == "_unlink" and step.target is not None and "segments" in step.target.parts


ROLL_FORWARDS = {
    name: Operation(with_clutter(prepare), roll_forward, run, reference=finish_first_files)
    for name, prepare in {
        "decided": die_at(1, is_commit),
        "published in part": die_at(1, is_publication),
        "swept in part": die_at(1, is_removal_of_a_segment),
        "all decided": die_at(2, is_commit),
        "decided again": die_at(3, is_commit),
    }.items()
}


class Arena:
    """One operation on one job that is brought back to its beginning again and again, always in the same folder.

    Args:
        other: a job in another folder, where nothing is disturbed.
    """

    def __init__(self, job: Job, other: Job, operation: Operation) -> None:
        self.operation, self.job = operation, job
        operation.prepare(job)
        self._base = job.root / "base"
        for folder in (job.state, job.output):
            if folder.is_dir():
                shutil.copytree(folder, self._base / folder.name)
        self.restore()
        self._rows_at_begin = rows_by_path(job)
        with World(look=self._look) as world:
            operation.act(job)
        self.steps, self._seen = world.steps, world.seen
        operation.finish(job)
        self.n_calls = len(job.calls())
        self._rows_at_end = rows_by_path(job)
        operation.carry_out_undisturbed(other)
        self.expected = other.published()
        assert_none(_differences(job.published(), self.expected))

    def restore(self) -> None:
        self.job.forget_calls()
        for folder in (self.job.state, self.job.output):
            shutil.rmtree(folder, ignore_errors=True)
            if (self._base / folder.name).is_dir():
                shutil.copytree(self._base / folder.name, folder)

    def deaths(self) -> Iterator[World]:
        """Yield a world for every moment to die at: before and after every step, unless the last one left the same."""
        left: object = None
        for n, seen in enumerate(self._seen, 1):
            for is_after in (False, True):
                if seen[is_after] != left:
                    left = seen[is_after]
                    yield World(n, is_after=is_after)

    def problems(self, *worlds: World, is_power_cut: bool = False, is_idle_after: bool = False) -> Iterator[str]:
        """Kill the operation in the first world and the run after it in the second; yield what is wrong at the end."""
        self.restore()
        most_calls = self.n_calls
        for world, act in zip(worlds, (self.operation.act, self.operation.finish), strict=False):
            n_before = len(self.job.calls())
            with suppress(Killed, OSError, r3po.R3poError), world:
                act(self.job)
            # What was at hand; and, if the power went, what was in a segment that is not there any more.
            most_calls += len(self.job.calls()) - n_before - world.n_durable
            if is_power_cut:
                most_calls += world.cut_power()
        if self.operation.is_looked_into:
            yield from self._problems_of_a_start()
        try:
            self.operation.finish(self.job)
        except Exception as error:
            yield f"the next run ended with {type(error).__name__}: {error}"
            return
        yield from self.job.findings(check_source=True)
        yield from _differences(self.job.published(), self.expected)
        if len(self.job.calls()) > most_calls:
            yield f"f was called on {self.job.calls()}, which is more than {most_calls} times"
        if is_idle_after:
            yield from self._problems_of_an_idle_run()

    def say(self, world: World) -> str:
        """Return when the world ended."""
        moment = "after" if world.is_after else "before"
        return f"{moment} step {world.kill_at} of {len(self.steps)}, {self.steps[world.kill_at - 1]}"

    def _look(self) -> object:
        """Return what is on disk; `runs` is for people."""
        found = []
        for root in (self.job.state, self.job.output):
            for folder, folders, names in os.walk(root):
                if "runs" in folders:
                    folders.remove("runs")
                for name in [*names, *folders]:
                    status = os.stat(os.path.join(folder, name))
                    found.append((folder, name, status.st_ino, status.st_size, status.st_mtime_ns))
        return sorted(found)

    def _problems_of_a_start(self) -> Iterator[str]:
        """Start and do no more; whoever reads the table now finds no row twice, and misses none that stays."""
        roll_forward(self.job)
        for problem in self.job.findings(is_finished=False):
            yield f"after the start: {problem}"
        found = rows_by_path(self.job)
        begin, end = self._rows_at_begin, self._rows_at_end
        for path in sorted(begin.keys() | end.keys() | found.keys()):
            rows, known = found.get(path, []), [*begin.get(path, []), *end.get(path, [])]
            is_due = path in begin and path in end and not self.operation.withdraws
            if len(rows) > 1 or (is_due and not rows) or any(row not in known for row in rows):
                yield f"after the start: {path} has the rows {rows}, of {known}"

    def _problems_of_an_idle_run(self) -> Iterator[str]:
        self.job.forget_calls()
        self.operation.idle(self.job)
        if self.job.calls():
            yield f"the idle run called f on {self.job.calls()}"
        yield from _differences(self.job.published(), self.expected)
        yield from self.job.findings(is_swept=True)


def rows_by_path(job: Job) -> dict[str, list[tuple[float, float]]]:
    """Return the values that the table has for each file, whatever else it shows, and in which order and type."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in job.rows():
        found.setdefault(row["path"], []).append((float(row["value"] or 0), float(row["other"])))
    return found


def _differences(found: dict[str, bytes], expected: dict[str, bytes]) -> Iterator[str]:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name} is {_short(found.get(name))}, undisturbed {_short(expected.get(name))}"


def _short(content: bytes | None) -> str:
    if content is None:
        return "not there"
    return repr(content) if len(content) < 200 else f"{len(content)} bytes"


def assert_none(problems: Iterable[str]) -> None:
    found = list(problems)
    assert not found, f"{len(found)} problems\n" + "\n".join(found[:40])


NewArena = Callable[[Operation], Arena]


@pytest.fixture
def new_arena(new_job: NewJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> NewArena:
    """Make arenas, without what only hundreds of deaths in one process bring about."""
    caplog.set_level("ERROR", "r3po")
    monkeypatch.setattr(many_rows, "BLOCK_ROWS", 2)
    monkeypatch.setattr(worker, "STOP_CHECK_S", 3600)  # a busy machine must not change how many batches there are
    monkeypatch.setattr(runloop, "DRAIN_S", 0.1)  # the one worker has nothing at hand when the disk refuses
    monkeypatch.setattr(session, "find_function", cache(session.find_function))  # a fifth of a run's time
    return lambda operation: Arena(new_job("arena"), new_job("undisturbed"), operation)


# The tests


def test_every_file_of_a_job_gets_there_by_a_seam(new_job: NewJob) -> None:
    job = new_job()
    add_first_files(job)
    with World() as world:
        job.run()
    made = {step.target for step in world.steps if step.seam in ("_create", "_replace")}
    roots = (job.state, job.output)
    found = {Path(folder, name) for root in roots for folder, _, names in os.walk(root) for name in names}
    by_the_way = {path for path in found if "runs" in path.parts or path.name.startswith("lock")}
    assert found - by_the_way <= made
    for kind in ("shards", "segments", "outcomes", "commits", "csv", "parquet", "failures"):
        assert any(kind in target.parts for target in made if target is not None), kind


def edit(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


HARMS: dict[str, Callable[[Job], object]] = {
    "csv/part-00000.csv: is named, but is not there": lambda job: (job.output / "csv" / "part-00000.csv").unlink(),
    "another sha256 than named": lambda job: edit(job.output / "csv" / "part-00001.csv", b"plain", b"plane"),
    "no commit names it": lambda job: (job.output / "parquet" / "part-00009.parquet").write_bytes(b"PAR1PAR1"),
    "a temporary file is left": lambda job: (job.output / f".{'0' * 32}.tmp").touch(),
    "csv/_SUCCESS: is missing": lambda job: (job.output / "csv" / "_SUCCESS").unlink(),
    "00000: is left": lambda job: (job.state / "segments" / "00000").mkdir(),
    "shard 1 has none": lambda job: (job.state / "commits" / "00001.json").unlink(),
    "its digest does not fit": lambda job: edit(job.state / "manifest.json", b"tiny", b"tinY"),
    "a file is there twice": lambda job: (job.output / "failures" / "failures.csv").write_text(
        "path,error_type,message,where,attempts\n" + "1.json,ValueError,bad,here,1\n" * 2
    ),
    "is not what the manifest says": lambda job: job.add("3.json", value=4),
}


def test_the_checker_sees_what_is_wrong(new_job: NewJob) -> None:
    job = new_job()
    finish_first_files(job)
    assert_none(job.findings(check_source=True))
    good = job.root.with_name("good")
    shutil.copytree(job.root, good)
    for finding, harm in HARMS.items():
        harm(job)
        assert any(finding in found for found in job.findings(check_source=True)), finding
        shutil.rmtree(job.root)
        shutil.copytree(good, job.root)


@pytest.mark.parametrize("name", [*OPERATIONS, *ROLL_FORWARDS])
def test_a_kill_at_any_step_is_healed_by_the_next_run(name: str, new_arena: NewArena) -> None:
    arena = new_arena((OPERATIONS | ROLL_FORWARDS)[name])
    assert len(arena.steps) > 1

    def problems() -> Iterator[str]:
        for n, world in enumerate(arena.deaths()):
            for problem in arena.problems(world, is_idle_after=n % 10 == 0):
                yield f"killed {arena.say(world)}: {problem}"
            if not world.is_dead:
                yield f"never came to: {arena.say(world)}"

    assert_none(problems())


@pytest.mark.parametrize("name", [*OPERATIONS, *ROLL_FORWARDS])
def test_a_power_cut_that_undoes_what_was_not_synced_is_healed_by_the_next_run(name: str, new_arena: NewArena) -> None:
    """Content that was not synced before a kill is as good as never written, which the test above tries."""
    arena = new_arena((OPERATIONS | ROLL_FORWARDS)[name])
    worlds = [World(n) for n, step in enumerate(arena.steps, 1) if step.is_sync_of_folder]
    worlds.append(World(len(arena.steps), is_after=True))
    assert_none(
        f"cut {arena.say(world)}: {problem}" for world in worlds for problem in arena.problems(world, is_power_cut=True)
    )


@pytest.mark.parametrize(
    ("name", "n_pairs"),
    [
        ("first run", 30),
        ("run that adds files", 15),
        ("run with a mended function", 10),
        ("run without csv", 10),
        ("run that finds changes", 15),
        ("run that finds changes and keeps", 10),
        ("run that finds touched files", 10),
        ("redo with other columns", 15),
        ("run that drops what was kept", 5),
        ("run that shows other columns", 5),
        ("run that accepts deletions", 5),
    ],
)
def test_a_kill_of_the_recovery_is_healed_too(name: str, n_pairs: int, new_arena: NewArena) -> None:
    arena = new_arena(OPERATIONS[name])
    drawn = random.Random(name)
    n_steps = len(arena.steps)

    def problems() -> Iterator[str]:
        n_done = 0
        while n_done < n_pairs:
            first = World(drawn.randint(1, n_steps), is_after=drawn.random() < 0.5)
            # The recovery has the steps that are left, and some of its own.
            second = World(drawn.randint(1, n_steps - first.kill_at + 10), is_after=drawn.random() < 0.5)
            for problem in arena.problems(first, second):
                yield f"killed {arena.say(first)}, then at step {second.kill_at} of the recovery: {problem}"
            n_done += second.is_dead

    assert_none(problems())


@pytest.mark.parametrize(
    "name", ["retry", "build that adds files", "build that finds changes", "redo with other columns"]
)
def test_a_disk_that_refuses_a_step_stops_the_run_and_nothing_is_lost(name: str, new_arena: NewArena) -> None:
    arena = new_arena(OPERATIONS[name])

    def problems() -> Iterator[str]:
        for n, step in enumerate(arena.steps, 1):
            for problem in arena.problems(World(n, error=no_space())):
                yield f"refused step {n} of {len(arena.steps)}, {step}: {problem}"

    assert_none(problems())


@pytest.mark.parametrize(
    "name",
    [
        "retry",
        "build that adds files",
        "reset of errors",
        "reset",
        "run that finds changes",
        "run that finds touched files",
        "build that finds changes",
        "run that accepts deletions",
    ],
)
def test_a_disk_that_refuses_a_step_is_no_bug_of_r3po(name: str, new_arena: NewArena) -> None:
    arena = new_arena(OPERATIONS[name])

    def problems() -> Iterator[str]:
        for n, step in enumerate(arena.steps, 1):
            arena.restore()
            try:
                with World(n, error=no_space()):
                    arena.operation.act(arena.job)
            except r3po.R3poError as error:
                if "No space left" not in str(error):
                    yield f"refused step {n} of {len(arena.steps)}, {step}: {error}"
            except OSError as error:
                yield f"refused step {n} of {len(arena.steps)}, {step}: came out as {error!r}"

    assert_none(problems())


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


PROCESS = """\
import os
import signal
import sys

import r3po
from r3po.storage import durable as storage

config, last, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
n = 0


def seam(real):
    def carry_out(*args):
        global n
        n += 1
        if n == last:
            os.kill(os.getpid(), signal.SIGKILL) if how == "SIGKILL" else os._exit(9)
        return real(*args)

    return carry_out


for name in ("_create", "_fsync", "_replace", "_unlink"):
    setattr(storage, name, seam(getattr(storage, name)))
r3po.run_jobs(config, engine="serial", progress=False)
"""


def test_a_killed_process_is_healed_by_the_next_run(new_job: NewJob) -> None:
    undisturbed = new_job("undisturbed")
    add_first_files(undisturbed)
    with World() as world:
        undisturbed.run()
    for percent, how, code in ((15, "SIGKILL", -signal.SIGKILL), (50, "_exit", 9), (85, "SIGKILL", -signal.SIGKILL)):
        job = new_job(f"killed-at-{percent}")
        add_first_files(job)
        killed = run_python("-c", PROCESS, str(job.config), str(len(world.steps) * percent // 100), how, cwd=job.root)
        assert killed.code == code, killed.err
        job.run()
        assert_none(job.findings(check_source=True))
        assert job.published() == undisturbed.published()
        assert len(job.calls()) <= 5 + 3


def fill_up(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk have no room for finished files in folders of this name."""
    replace = storage._replace

    def refuse(source: Path, target: Path) -> None:
        if folder in target.parts:
            raise no_space()
        replace(source, target)

    monkeypatch.setattr(storage, "_replace", refuse)


def test_a_full_disk_ends_the_run_without_waiting(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = new_job()
    add_first_files(job)
    monkeypatch.setattr(runloop, "DRAIN_S", 4)
    fill_up("segments", monkeypatch)
    started = time.monotonic()
    with pytest.raises(r3po.RunStoppedError, match="No space left"):
        job.run()
    assert time.monotonic() - started < 3


def test_a_full_disk_while_staging_leaves_nothing_that_complains_later(
    new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job()
    add_first_files(job)
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with monkeypatch.context() as patch:
        fill_up(".staging", patch)
        with pytest.raises(r3po.RunStoppedError, match="No space left"):
            job.run()
    gc.collect()
    assert not complaints
    job.run()
    assert_none(job.findings())
