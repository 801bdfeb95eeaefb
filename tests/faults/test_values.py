"""Whatever f returns, each file ends as one row or one failure, and CSV and Parquet say the same of it."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hostile
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import ROWS

from compare_parts import compare_parts
from jobs import Ended, Job, make_job
from value_table import MAKERS, REFUSED, UNSURE, VALUES, same

if TYPE_CHECKING:
    from conftest import Draw

N_CASES = 20
N_FILES = 6

WORST_VALUES = {"int of 5,000 digits", "numpy moment beyond all years", "odd class", "odd class of int", *UNSURE}
WORST_VALUES |= {"quitting int", "biting attributes"}
WORST_ROWS = {"biting attributes", "biting repr", "faceless", "odd class", "quitting dict"}
"""Each of these once ended the run: they are tried as the first row and among rows of several kinds."""

Wanted = dict[str, Any]
NewJob = Callable[..., Job]


@pytest.fixture
def new_job(jobs_folder: Path) -> NewJob:
    """Make a job of files that say what f returns for each."""

    def make(wanted: list[Wanted], name: str = "job") -> Job:
        job = make_job(jobs_folder / name, 0, "")
        job.write_config(function=f"{hostile.__file__}:hostile")
        for n, content in enumerate(wanted):
            (job.source / f"{n:03}.json").write_text(json.dumps(content))
        return job

    return make


# Drawing


def draw_job(drawn: random.Random) -> list[Wanted]:
    """Return what the files of one job say: columns that a few values share, and rows that do not fit at all."""
    values, rows = sorted(MAKERS), sorted(ROWS)
    shared = {column: [*drawn.sample(values, 2), "none"] for column in "abc"[: drawn.randint(1, 3)]}

    def cells() -> Wanted:
        odd = drawn.random() < 0.3
        return {"cells": {column: drawn.choice(values if odd else names) for column, names in shared.items()}}

    return [{"row": drawn.choice(rows)} if drawn.random() < 0.3 else cells() for _ in range(N_FILES)]


def problems_of(job: Job) -> Iterator[str]:
    """Run a job and yield what should not have happened."""
    ended = job.run("--max-errors", "none")  # that nearly no row fits the first one is the point
    if ended.code == 2 and "r3po needs one dict a file" in ended.err:
        return
    if ended.code not in (0, 1) or not is_calm(ended):
        yield f"run ended with {ended.code}: {ended.err[-2000:]}"
        return
    failed = {failure["path"] for failure in job.failures()}
    csv.field_size_limit(1 << 30)
    rows = job.rows()
    files = {path.name for path in job.source.iterdir()}
    if len(rows) + len(failed) != len(files):
        yield f"{len(rows)} rows and {len(failed)} failures of {len(files)} files"
    has_paths = bool(rows) and "path" in rows[0]
    if has_paths and {row["path"] for row in rows} != files - failed:
        yield f"rows of {[row['path'] for row in rows]}, failures of {failed}"
    if ended.code != bool(failed):
        yield f"exit code {ended.code} with {len(failed)} failures"
    yield from job.findings(path_column="path" if has_paths else None)
    yield from compare_parts(job.output)
    before = job.parts()
    again = job.run("--max-errors", "none")
    if again.code != ended.code or "Nothing to do" not in again.err or job.parts() != before:
        yield f"the next run ended with {again.code}, {again.err}"


def is_calm(ended: Ended) -> bool:
    """Whether nothing of r3po's own is on the screen but what it always says."""
    return ended.out == "" and "Traceback" not in ended.err and "error:" not in ended.err


# The tests


def test_whatever_f_returns_each_file_is_one_row_or_one_failure(new_job: NewJob, draw: Draw) -> None:
    found = []
    for number in range(draw.n_cases(N_CASES)):
        wanted = draw_job(draw.case("values", number))
        job = new_job(wanted, f"job-{number}")
        found += [f"case {number}: {json.dumps(wanted)}: {problem}" for problem in problems_of(job)]
    assert not found, f"R3PO_FAULT_SEED={draw.seed}: {len(found)} problems\n" + "\n".join(found[:20])


def test_the_whole_table_of_values_in_one_job(new_job: NewJob) -> None:
    good = {"cells": {"a": "int", **{name: name for name in VALUES}}}
    job = new_job([good, *({"cells": {**good["cells"], "a": name}} for name in REFUSED)])
    assert list(problems_of(job)) == []
    (row,) = pq.read_table(job.output / "parquet" / "part-00000.parquet").to_pylist()
    assert [name for name, value in VALUES.items() if not same(row[name], value.back)] == []
    assert [failure["path"] for failure in job.failures()] == [f"{n:03}.json" for n in range(1, len(REFUSED) + 1)]


@pytest.mark.parametrize(
    "wanted",
    [{"cells": {"a": name}} for name in sorted(WORST_VALUES)] + [{"row": name} for name in sorted(WORST_ROWS)],
    ids=json.dumps,
)
def test_the_worst_fails_its_own_file_wherever_it_comes(wanted: Wanted, new_job: NewJob) -> None:
    name = wanted.get("cells", {}).get("a")
    for number, first in enumerate(("none", "int", "text")):
        job = new_job([{"cells": {"a": first}}, wanted, {"cells": {"a": "none"}}], f"job-{number}")
        assert list(problems_of(job)) == []
        failed = [failure["path"] for failure in job.failures()]
        assert failed == ["001.json"] or (name in UNSURE and failed == [])
    job = new_job([wanted, {"cells": {"a": "none"}}], "hostile-first")
    assert list(problems_of(job)) == []


# The script that compares


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "another number": lambda content: content.replace(b"\n7,", b"\n8,"),
    "another text": lambda content: content.replace(b'"plain"', b'"plane"'),
    "none for a text": lambda content: content.replace(b'"plain"', b""),
    "a text for none": lambda content: content.replace(b",,", b',"",'),
    "another list": lambda content: content.replace(b"[1,null,2]", b"[1,2]"),
    "another sign": lambda content: content.replace(b"-0,", b"0,"),
    "another moment": lambda content: content.replace(b"2020-01-02 11:00", b"2020-01-02 12:00"),
    "another column": lambda content: content.replace(b'"int"', b'"ink"').replace(b"int,", b"ink,"),
    "a row less": lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
    "a row more": lambda content: content + content[content.rindex(b"\n", 0, -1) + 1 :],
    "nothing": lambda content: b"",
}


def test_the_comparison_sees_a_changed_part_of_either_kind_and_a_missing_one(new_job: NewJob) -> None:
    names = ("int", "text", "none", "list", "negative zero", "moment with zone", "decimal")
    job = new_job([{"cells": {name: name for name in names}}] * 2)
    job.run()
    part = job.output / "csv" / "part-00000.csv"
    content = part.read_bytes()
    assert compare_parts(job.output) == []
    for what, change in CHANGES.items():
        assert change(content) != content, what
        part.write_bytes(change(content))
        assert compare_parts(job.output) != [], what
    part.write_bytes(content)
    part = job.output / "parquet" / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(1, "text", pa.array(["plain", "plane"])), part)
    (finding,) = compare_parts(job.output)
    assert "row 1, column 'text'" in finding
    part.unlink()
    assert compare_parts(job.output) == ["csv/part-00000.csv: has no Parquet part"]
