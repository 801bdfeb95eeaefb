"""The keys in our Arrow and Parquet files are data: they stay when a module is renamed. FORMAT.md names them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import DOUBLE, make_job
from r3po.table.outcomes import OutcomeBatch, outcome_table
from shards import write_segment

FORMAT = (Path(__file__).parents[3] / "FORMAT.md").read_text(encoding="utf-8")


def keys_of(schema: pa.Schema) -> set[str]:
    return {key.decode() for key in schema.metadata} - {"ARROW:schema"}


def test_a_segment_names_what_made_it(tmp_path: Path) -> None:
    table = outcome_table(OutcomeBatch(), None)
    names = {"job_id": "a" * 32, "attempt": "run-000001", "fingerprint": "f" * 16}
    write_segment(tmp_path, table, shard=0, build=1, n_failed=0, **names)
    (path,) = tmp_path.rglob("*.arrow")
    with pa.ipc.open_file(path) as file:
        assert keys_of(file.schema) == {f"r3po.{name}" for name in (*names, "shard", "build")}
    assert "`r3po.fingerprint`" in FORMAT


def test_parts_and_outcomes_name_their_job(tmp_path: Path) -> None:
    job = make_job(tmp_path, 2, DOUBLE)
    assert job.run().code == 0
    (part,) = tmp_path.rglob("part-*.parquet")
    keys = {"r3po.job", "r3po.shard", "r3po.version", "r3po.function"}
    assert keys_of(pq.read_schema(part)) == keys
    assert all(f"`{key}`" in FORMAT for key in keys)
    (outcomes,) = next(path for path in tmp_path.rglob("outcomes") if path.is_dir()).glob("*.arrow")
    with pa.ipc.open_file(outcomes) as file:
        assert keys_of(file.schema) == {"r3po.job_id", "r3po.shard", "r3po.build"}
