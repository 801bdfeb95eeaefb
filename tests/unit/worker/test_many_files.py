"""f called with many files at a time, inside a worker: what a call that fails leaves behind, and for whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_worker import Job, fresh_imports  # noqa: F401 - a fixture

import r3po.worker.many_files as many_files
from r3po.table.columns import Columns, columns_of
from r3po.work import Batch
from r3po.worker.beacon import Phase, read_beacon
from r3po.worker.messages import BatchDone

LISTS = """\
import os
CALLS = []
def f(paths, datas=None):
    names = [os.path.basename(path) for path in paths]
    CALLS.append("".join(names))
    {body}
    return [{{"x": ord(name[0])}} for name in names]
"""
NAMES = "abcdefgh"


def job_of(folder: Path, body: str = "pass", names: str = NAMES, batch_files: int = 8, **settings: Any) -> Job:
    source = LISTS.format(body=body.replace("\n", "\n    "))
    return Job(folder, source, {name: b"1" for name in names}, batch_files=batch_files, **settings)


def found_in(job: Job, done: BatchDone) -> dict[str, str]:
    """Return the rows' values and the failures' types, by the name of the file."""
    lines = job.outcomes(done)
    names = "".join(sorted(os.listdir(job.source)))
    return {names[line["place"]]: chr(line["0.int"]) if line["is_row"] else line["error_type"] for line in lines}


def expected(**failures: str) -> dict[str, str]:
    return {name: failures.get(name, name) for name in NAMES}


# Calls that go well


def test_calls_are_full_but_for_the_last_and_rows_are_those_of_their_files(tmp_path: Path) -> None:
    job = job_of(tmp_path, batch_files=3)
    assert found_in(job, job.run()) == expected()
    assert job.module.CALLS == ["abc", "def", "gh"]


@pytest.mark.parametrize("hash", ["content", "stat"])
def test_with_bytes_f_gets_two_lists(tmp_path: Path, hash: str) -> None:
    body = "assert type(paths) is type(datas) is list\nassert datas == [b'1'] * len(paths)"
    job = job_of(tmp_path, body, input="bytes", hash=hash)
    assert found_in(job, job.run()) == expected()
    assert job.module.CALLS == [NAMES]


@pytest.mark.parametrize(
    "made", ["tuple({})", "iter({})", "(row for row in {})", "__import__('collections').deque({})"]
)
def test_whatever_gives_as_many_items_will_do(tmp_path: Path, made: str) -> None:
    rows = "[{'x': ord(name[0])} for name in names]"
    job = job_of(tmp_path, f"return {made.format(rows)}")
    assert found_in(job, job.run()) == expected()
    assert job.module.CALLS == [NAMES]


def test_f_may_change_the_list_that_it_gets(tmp_path: Path) -> None:
    job = job_of(tmp_path, "paths.clear()")
    assert found_in(job, job.run()) == expected()


def test_seconds_of_a_file_are_its_share_of_the_call(tmp_path: Path) -> None:
    job = job_of(tmp_path, "__import__('time').sleep(0.4)")
    seconds = [line["seconds"] for line in job.outcomes(job.run())]
    assert len(set(seconds)) == 1 and 0.05 <= seconds[0] < 0.2


def test_a_call_with_contents_ends_early_once_these_are_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_files, "CALL_BYTES", 3)
    job = job_of(tmp_path, input="bytes")
    assert found_in(job, job.run()) == expected()
    assert job.module.CALLS == ["abc", "def", "gh"]


def test_no_file_of_a_call_stays_open(tmp_path: Path) -> None:
    job = job_of(tmp_path, "global N; N = len(os.listdir('/proc/self/fd'))", batch_files=8)
    job.run((0, 1))
    alone = job.module.N
    job.run((1, 8))
    assert alone >= job.module.N


# Who is to blame


@pytest.mark.parametrize("culprit", NAMES)
@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("if '{}' in names: raise ValueError('bad')", "ValueError"),
        ("if '{}' in names: names.remove('{}')", "NoList"),
        ("if '{}' in names: names.append('x')", "NoList"),
        ("if '{}' in names: return None", "NoList"),
        ("if '{}' in names: return {{'x': 1}}", "NoList"),
        ("if '{}' in names: return 'x' * len(names)", "NoList"),
        ("if '{}' in names: return 7", "NoList"),
        ("if '{}' in names: return (1 / 0 for name in names)", "ZeroDivisionError"),
        ("if '{}' in names: raise SystemExit(3)", "SystemExit"),
    ],
)
def test_the_culprit_alone_fails_and_its_neighbours_have_their_rows(
    tmp_path: Path, body: str, error_type: str, culprit: str
) -> None:
    job = job_of(tmp_path, body.replace("{}", culprit).replace("{{", "{").replace("}}", "}"))
    assert found_in(job, job.run()) == expected(**{culprit: error_type})
    assert len(job.module.CALLS) == 1 + 4 + 2, "of eight files, of two, of one"


def test_the_culprit_s_failure_is_that_of_a_call_with_it_alone(tmp_path: Path) -> None:
    job = job_of(tmp_path, "if 'c' in names: raise ValueError(f'bad among {len(names)}')")
    (failure,) = [line for line in job.outcomes(job.run()) if not line["is_row"]]
    assert (failure["message"], failure["where"]) == ("bad among 1", "userf.py:6 in f")
    assert "call_many.py" not in failure["traceback"] and "call.py" not in failure["traceback"]


def test_a_generator_that_raises_half_way_is_told_without_our_own_frames(tmp_path: Path) -> None:
    body = "def rows():\n    yield {'x': ord(names[0])}\n    raise KeyError('odd')\nif 'b' in names: return rows()"
    job = job_of(tmp_path, body, names="ab")
    first, second = sorted(job.outcomes(job.run()), key=lambda line: line["place"])
    assert (first["is_row"], second["error_type"], second["where"]) == (True, "KeyError", "userf.py:8 in rows")
    assert "call_many" not in second["traceback"]


def test_all_may_be_to_blame(tmp_path: Path) -> None:
    job = job_of(tmp_path, "raise ValueError('bad')")
    assert found_in(job, job.run()) == dict.fromkeys(NAMES, "ValueError")
    assert len(job.module.CALLS) == 1 + 4 + 8


def test_an_item_that_is_no_row_is_that_file_s_failure_and_nothing_is_called_again(tmp_path: Path) -> None:
    rows = "[None if name == 'b' else {'y': 1} if name == 'f' else {'x': ord(name)} for name in names]"
    job = job_of(tmp_path, f"return {rows}")
    assert found_in(job, job.run()) == expected(b="NoDict", f="BadRow")
    assert job.module.CALLS == [NAMES]


def test_the_message_says_what_came_back_and_what_is_needed(tmp_path: Path) -> None:
    job = job_of(tmp_path, "return {'x': 1}", names="a")
    message = "f returned a dict for a list of 1 path; batch_files needs a list of 1 dict, one a file"
    assert job.only_failure().message == message
    job.module.f = lambda paths: [{"x": 1}, {"x": 2}]
    job.worker._caller.function = job.module.f
    message = "f returned a list of more than 1 for a list of 1 path; batch_files needs a list of 1 dict, one a file"
    assert job.only_failure().message == message


# Files that cannot be read, change or go


def test_a_file_that_cannot_be_read_is_in_no_call(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.path("c").unlink()
    job.path("c").mkdir()
    done = job.run()
    assert found_in(job, done) == expected(c="OSError")
    assert job.module.CALLS == ["abdefgh"]


def test_a_file_that_is_gone_is_tried_once_more_later(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    job.path("c").unlink()
    done = job.run()
    assert (done.deferred, done.n_done, done.returned, done.doubted) == ((2,), 7, (), ())
    last = job.run((2, 3), is_last_try=True)
    assert (last.n_failed, job.outcomes(last)[0]["error_type"]) == (1, "FileNotFoundError")


@pytest.mark.parametrize("hash", ["content", "stat"])
def test_a_file_that_changes_during_a_call_is_called_again_alone(tmp_path: Path, hash: str) -> None:
    body = "if len(CALLS) == 1:\n    with open(paths[3], 'ab') as file: file.write(b'+')"
    job = job_of(tmp_path, body, hash=hash)
    done = job.run()
    assert found_in(job, done) == expected()
    assert job.module.CALLS == [NAMES, "d"]
    sizes = {line["place"]: line["size"] for line in job.outcomes(done)}
    assert sizes == {place: 2 if place == 3 else 1 for place in range(8)}


def test_a_file_that_changes_each_time_has_failed(tmp_path: Path) -> None:
    body = "for path in paths:\n    if path.endswith('d'):\n        with open(path, 'ab') as file: file.write(b'+')"
    job = job_of(tmp_path, body)
    assert found_in(job, job.run()) == expected(d="FileChanged")


def test_a_file_that_f_removes_has_its_row_and_is_told(tmp_path: Path) -> None:
    job = job_of(tmp_path, "os.unlink(paths[2])")
    done = job.run()
    assert (done.n_done, done.vanished) == (8, "c")


# The end of a batch in the middle of it


def test_a_call_that_takes_too_long_records_nothing_and_goes_into_smaller_ones(tmp_path: Path) -> None:
    job = job_of(tmp_path, "while 'g' in names: pass", timeout_s=0.2, batch_files=4)
    done = job.run()
    assert done.is_spent
    assert (done.n_done, done.n_failed, done.returned, done.doubted, done.call_files) == (4, 0, (), ((4, 8),), 1)
    assert job.module.CALLS == ["abcd", "efgh"]


def test_a_file_alone_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    job = job_of(tmp_path, "while 'g' in names: pass", timeout_s=0.2)
    batch, context = job.offer((4, 8))
    calls = Batch(batch.number, batch.shard, batch.places, call_files=1)
    done = job.worker.run_batch(calls, context)
    assert done.is_spent and done.returned == ((7, 8),)
    assert found_in(job, done) == {"e": "e", "f": "f", "g": "Timeout"}


def test_what_is_left_of_a_call_that_failed_goes_back_when_time_is_up(tmp_path: Path) -> None:
    job = job_of(tmp_path, "if 'f' in names: raise ValueError('bad')", batch_seconds=1e-9)
    done = job.run()
    assert (done.segment, done.returned, done.doubted, done.call_files) == (None, (), ((0, 8),), 2)
    batch, context = job.offer()
    calls = Batch(batch.number, batch.shard, batch.places, call_files=2)
    done = job.worker.run_batch(calls, context)
    assert (done.n_done, done.returned, done.doubted) == (2, ((2, 8),), ())


def test_a_stop_is_heard_between_two_calls(tmp_path: Path) -> None:
    job = job_of(tmp_path, f"open({str(tmp_path / 'stop')!r}, 'w').close()", batch_files=3)
    done = job.run()
    assert (done.n_done, done.returned, done.doubted) == (3, ((3, 8),), ())
    assert job.module.CALLS == ["abc"]


@pytest.mark.parametrize(("timeout_s", "phase"), [(None, "READING"), (30.0, "CALLING")])
def test_the_beacon_says_from_which_file_to_which_a_call_reaches(
    tmp_path: Path, timeout_s: float | None, phase: str
) -> None:
    job = job_of(tmp_path, timeout_s=timeout_s, batch_files=3)
    seen = []

    def look(paths: list[str]) -> list[dict[str, int]]:
        found = read_beacon(tmp_path / "workers", 0)
        assert found is not None
        seen.append((found.phase, found.shard, *found.span))
        return [{"x": 1} for _ in paths]

    job.worker._caller.function = look
    assert job.run((0, 2), (5, 8)).n_done == 5
    assert seen == [(Phase[phase], 3, 0, 6), (Phase[phase], 3, 6, 8)]
    job.run((4, 5))
    assert seen[-1] == (Phase[phase], 3, 4, 5)


# Before the columns are known


def test_the_first_row_of_a_call_sets_the_columns_and_the_others_are_kept(tmp_path: Path) -> None:
    body = "return [7 if name == 'a' else {'y': 1} if name == 'c' else {'x': ord(name)} for name in names]"
    job = job_of(tmp_path, body, columns=None, batch_files=4)
    batch, context = job.offer()
    probed = job.worker.probe(batch, context)
    assert isinstance(probed.columns, Columns) and probed.columns.names == columns_of({"x": 1}).names
    assert (probed.first_row_path, probed.n_failed, probed.not_a_dict) == ("b", 2, ("a", "int", "7"))
    done = job.worker.record_probe(probed.columns)
    assert found_in(job, done) == {"a": "NoDict", "b": "b", "c": "BadRow", "d": "d"}
    assert done.returned == ((4, 8),)
    assert job.module.CALLS == ["abcd"]


def test_a_probe_that_raises_goes_on_in_smaller_calls_until_there_is_a_row(tmp_path: Path) -> None:
    job = job_of(tmp_path, "if names != ['b']: raise ValueError('bad')", columns=None, batch_files=4)
    probed = job.worker.probe(*job.offer())
    done = job.worker.record_probe(probed.columns)
    assert found_in(job, done) == {"a": "ValueError", "b": "b"}
    assert (done.returned, done.doubted, done.call_files) == (((4, 8),), ((2, 4),), 1)
    assert job.module.CALLS == ["abcd", "a", "b"]
