"""The keys in our Arrow and Parquet files are data: they stay when a module is renamed. FORMAT.md names them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import make_shard

FORMAT = (Path(__file__).parents[3] / "FORMAT.md").read_text(encoding="utf-8")
KEYS = {
    "segments": {"r3po.job_id", "r3po.attempt", "r3po.fingerprint", "r3po.shard", "r3po.build"},
    "outcomes": {"r3po.job_id", "r3po.shard", "r3po.build"},
    ".staging": {"r3po.job", "r3po.shard", "r3po.version", "r3po.function"},
}


@pytest.mark.parametrize("folder", KEYS)
def test_a_file_names_what_made_it(tmp_path: Path, folder: str) -> None:
    shard = make_shard(tmp_path, 1)
    shard.write({0: (1, "x")})
    shard.stage(settings={"csv": False, "parquet": {"compression": "zstd", "level": 3}})
    (path,) = (path for path in tmp_path.rglob(f"{folder}/**/*") if path.is_file())
    if folder == ".staging":
        schema = pq.read_schema(path)
    else:
        with pa.ipc.open_file(path) as file:
            schema = file.schema
    assert {key.decode() for key in schema.metadata} - {"ARROW:schema"} == KEYS[folder]
    assert all(f"`{key}`" in FORMAT for key in {"r3po.fingerprint", *KEYS[".staging"]})
