"""Rows in blocks: what is written comes back, damaged places of rows are refused, and cuts depend on the rows alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from r3po.table import outcome_files, outcomes, rows
from r3po.table.outcome_files import OutcomeWriter, read_outcomes_file, unpack_outcomes, write_chosen
from r3po.table.rows import Outcomes, Rows, check_blocks, join_outcomes

NUMBERS = list(range(10, 19))


def counted(*spans: tuple[int, int] | None) -> Any:
    """Return an outcome table, as far as rows are concerned: where the rows of each file are; None: it failed."""
    firsts, counts = zip(*[span or (0, 0) for span in spans], strict=True)
    return pa.table(
        {
            "place": pa.array(range(len(spans)), pa.int32()),
            "is_row": pa.array([span is not None for span in spans], pa.bool_()),
            "first_row": pa.array(firsts, pa.int64()),
            "n_rows": pa.array(counts, pa.int64()),
        }
    )


def block(numbers: Sequence[int]) -> Any:
    return pa.table({"0.int": pa.array(numbers, pa.int64())})


BLOCKS = (block(NUMBERS[:4]), block(NUMBERS[4:6]), block(NUMBERS[6:]))
SPANS = ((3, 4), None, (0, 2), (8, 0), (8, 1))
"""Of the second and third file's rows nobody has 2 and 7."""


def write(path: Path, *, is_compressed: bool = False, table: Any = None, blocks: Sequence[Any] = BLOCKS) -> Path:
    table = counted(*SPANS) if table is None else table
    with open(path, "wb") as sink:
        writer = OutcomeWriter(sink, is_compressed=is_compressed)
        for one in blocks:
            with writer.rows(one.schema) as written:
                written.write(one)
        with writer.outcomes(table.schema, {"said": "so"}) as written:
            written.write(table)
    return path


def values(found: Outcomes, *indices: int) -> list[list[Any]]:
    """Return place, number within the file and value of each row."""
    chosen = Rows(found, pa.array(indices or range(len(found.table)), pa.int64()))
    n = len(chosen)
    shown = chosen.table["0.int"].take(chosen.at(0, n))
    columns = [array.to_pylist() for array in (chosen.places(0, n), chosen.numbers(0, n), shown)]
    return [list(row) for row in zip(*columns, strict=True)]


EXPECTED = [[0, 0, 13], [0, 1, 14], [0, 2, 15], [0, 3, 16], [2, 0, 10], [2, 1, 11], [4, 0, 18]]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_rows_in_blocks_come_back(tmp_path: Path, is_compressed: bool) -> None:
    path = write(tmp_path / "a.arrow", is_compressed=is_compressed)
    found, metadata = read_outcomes_file(path)
    assert metadata["said"] == "so"
    assert values(found) == EXPECTED
    without, _ = read_outcomes_file(path, with_values=False)
    assert without.blocks is None
    assert without.table.equals(found.table)


def test_what_is_chosen_is_written_without_what_nobody_has_and_unpacked_again(tmp_path: Path) -> None:
    found, _ = read_outcomes_file(write(tmp_path / "a.arrow"))
    with open(tmp_path / "b.arrow", "wb") as sink:
        write_chosen(sink, found, pa.array([0, 1, 3, 4], pa.int64()), {})
    with open(tmp_path / "c.arrow", "wb") as sink:
        unpack_outcomes(tmp_path / "b.arrow", sink)
    for name in ("b", "c"):
        chosen, _ = read_outcomes_file(tmp_path / f"{name}.arrow")
        assert chosen.values["0.int"].to_pylist() == [13, 14, 15, 16, 18]
        assert values(chosen) == [*EXPECTED[:4], EXPECTED[-1]]


def test_a_table_without_blocks_or_rows_comes_back(tmp_path: Path) -> None:
    found, _ = read_outcomes_file(write(tmp_path / "a.arrow", table=counted(None, (0, 0)), blocks=()))
    assert found.blocks is not None
    assert len(Rows(found, pa.array([0, 1], pa.int64()))) == 0


def test_a_block_that_broke_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    table = counted((0, 4))
    with open(path, "wb") as sink:
        writer = OutcomeWriter(sink, is_compressed=False)
        with pytest.raises(KeyError), writer.rows(BLOCKS[1].schema) as written:
            written.write(BLOCKS[1])
            raise KeyError
        with writer.rows(BLOCKS[0].schema) as written:
            written.write(BLOCKS[0])
        with writer.outcomes(table.schema, {}) as written:
            written.write(table)
    found, _ = read_outcomes_file(path)
    assert [row[2] for row in values(found)] == NUMBERS[:4]


@pytest.mark.parametrize(
    "table",
    [
        counted((0, 10)),
        counted((9, 1)),
        counted((-1, 2)),
        counted((3, -1)),
        counted((0, 3), (2, 2)),
        counted((2, 2), (0, 9)),
        counted((4, 2), (4, 2)),
    ],
    ids=["too many", "behind", "before", "fewer than none", "overlap", "one in the other", "the same"],
)
def test_rows_that_are_not_there_or_are_two_files_are_refused(tmp_path: Path, table: Any) -> None:
    with pytest.raises(ValueError, match=r"rows? of a file|rows of"):
        read_outcomes_file(write(tmp_path / "a.arrow", table=table))


def test_places_of_rows_that_are_null_are_refused() -> None:
    table = counted((0, 1))
    table = table.set_column(2, "first_row", pa.nulls(1, pa.int64()))
    with pytest.raises(ValueError, match="it is not said"):
        check_blocks(Outcomes(table, BLOCKS[0]))


@pytest.mark.parametrize(
    "harm",
    [
        {"r3po.blocks": "[[0, 10]]"},
        {"r3po.blocks": "[[64, 1000000]]"},
        {"r3po.blocks": "[[-64, 64]]"},
        {"r3po.blocks": "[[640, 64]]"},
        {"r3po.blocks": "no JSON"},
        {"r3po.blocks": "[5]"},
        {"r3po.blocks": "[[0]]"},
        {"r3po.blocks": '{"a": 1}'},
        {"r3po.blocks": "7"},
        {"r3po.blocks": "[]"},
        {"r3po.start": "1000000"},
        {"r3po.start": "-5"},
        {"r3po.start": "x"},
        {"r3po.start": "8"},
    ],
    ids=str,
)
def test_blocks_that_are_not_where_it_is_said_are_refused(tmp_path: Path, harm: dict[str, str]) -> None:
    path, table = tmp_path / "a.arrow", counted(*SPANS)
    with open(path, "wb") as sink:
        writer = OutcomeWriter(sink, is_compressed=False)
        for one in BLOCKS:
            with writer.rows(one.schema) as written:
                written.write(one)
        start = sink.tell() + -sink.tell() % 64
        sink.write(bytes(start - sink.tell()))
        said = {"r3po.blocks": json.dumps(writer._blocks), "r3po.start": str(start), **harm}
        with outcome_files.TableWriter(sink, table.schema, said, is_compressed=False) as written:
            written.write(table)
    with pytest.raises(ValueError):
        read_outcomes_file(path)


def test_plain_outcomes_and_blocks_are_joined() -> None:
    plain = Outcomes(
        pa.table(
            {
                "place": pa.array([5, 6, 7], pa.int32()),
                "is_row": [True, False, True],
                "0.int": pa.array([50, None, 70], pa.int64()),
            }
        )
    )
    blocks = Outcomes(counted(*SPANS), pa.concat_tables(BLOCKS))
    joined = join_outcomes([plain, blocks, plain])
    assert [row[2] for row in values(check_blocks(joined))] == [50, 70, *(row[2] for row in EXPECTED), 50, 70]
    assert join_outcomes([plain, plain]).blocks is None
    assert join_outcomes([plain, blocks._replace(blocks=None)]).blocks is None


def test_any_span_of_rows_is_where_the_whole_has_it() -> None:
    chosen = Rows(Outcomes(counted(*SPANS), pa.concat_tables(BLOCKS)), pa.array([4, 3, 1, 0, 2], pa.int64()))
    whole = [chosen.at(0, 7).to_pylist(), chosen.places(0, 7).to_pylist(), chosen.numbers(0, 7).to_pylist()]
    assert whole == [[8, 3, 4, 5, 6, 0, 1], [4, 0, 0, 0, 0, 2, 2], [0, 0, 1, 2, 3, 0, 1]]
    for start in range(8):
        for stop in range(start, 8):
            found = [chosen.at(start, stop), chosen.places(start, stop), chosen.numbers(start, stop)]
            assert [array.to_pylist() for array in found] == [array[start:stop] for array in whole]


def many(n: int, n_bytes: int) -> Rows:
    values = pa.table({"0.text": pa.array(["x" * n_bytes] * n, pa.string())})
    return Rows(Outcomes(counted((0, n)), values), pa.array([0], pa.int64()))


@pytest.mark.parametrize(
    ("part_rows", "part_bytes", "expected"),
    [
        (None, None, [10]),
        (10, None, [10]),
        (4, None, [4, 4, 2]),
        (1, None, [1] * 10),
        (None, 108 * 10, [10]),
        (None, 108 * 5, [4, 4, 2]),
        (None, 1, [2] * 5),
        (3, 108 * 4, [3, 3, 3, 1]),
        (3, 1, [2] * 5),
    ],
)
def test_parts_are_cut_at_row_groups(
    monkeypatch: pytest.MonkeyPatch, part_rows: int | None, part_bytes: int | None, expected: list[int]
) -> None:
    monkeypatch.setattr(outcomes, "ROW_GROUP_BYTES", 200)
    found = list(many(10, 100).parts(1, part_rows, part_bytes))
    assert [groups[-1][1] - groups[0][0] for groups in found] == expected
    flat = [span for groups in found for span in groups]
    assert [start for start, _ in flat] == [0, *(stop for _, stop in flat[:-1])]
    assert rows.VALUE_BYTES == 8 and pc.sum(pa.array(expected)).as_py() == 10
