"""Who takes part: r3po in its three ways, the limit, and the peers, each as one command that writes CSV files.

A contestant gets an empty folder of its own and the tree, or the URL of a bucket; what counts is the time from the
shell's start of the command to its end. Every peer is in its own idiom, with the chunk size that suits it: see peers/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
PYTHON = sys.executable
R3PO = str(Path(sys.executable).with_name("r3po"))
FUNCTIONS = BENCHMARKS / "functions.py"


@dataclass(frozen=True)
class Contestant:
    name: str
    label: str
    prepare: Callable[[Path | str, Path, int], list[str]]
    """(source, own folder, processes) -> command; run in the folder."""
    csv_files: str
    """Where its rows are: a pattern below its folder."""
    is_r3po: bool = False
    is_limit: bool = False


def r3po(name: str, label: str, function: str = "count_produce", **keys: object) -> Contestant:
    """Return `r3po run` on a fresh job: CSV, Parquet and the whole state, durable."""

    def prepare(source: Path | str, folder: Path, processes: int) -> list[str]:
        config = {
            "job_name": name,
            "processes": processes,
            "source_path": str(source),
            "source_file_part": ".json",
            "working_dir": "working_dir",
            "output_path": "output_dir",
            "function": f"{FUNCTIONS}:{function}",
            **keys,
        }
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in config.items())
        (folder / "config.yaml").write_text("".join(lines), encoding="utf-8")
        return [R3PO, "run", "config.yaml", "--json"]

    return Contestant(name, label, prepare, "output_dir/csv/part-*.csv", is_r3po=True)


def limit(name: str, label: str, function: str) -> Contestant:
    """Return the loop: as many bare processes, each with its half of the sorted list, CSV, nothing else."""

    def prepare(source: Path | str, folder: Path, processes: int) -> list[str]:
        script = str(BENCHMARKS / "plain_loop.py")
        spec = f"{FUNCTIONS}:{function}"
        return [PYTHON, script, str(source), "--function", spec, "--out", "rows.csv", "--processes", str(processes)]

    return Contestant(name, label, prepare, "rows*.csv", is_limit=True)


def peer(script: str, label: str, function: str = "count_produce") -> Contestant:
    """Return one of the scripts in peers/."""

    def prepare(source: Path | str, folder: Path, processes: int) -> list[str]:
        (folder / "out").mkdir()
        path = str(BENCHMARKS / "peers" / f"{script}.py")
        return [PYTHON, path, str(source), "out", "--function", function, "--processes", str(processes)]

    return Contestant(script, label, prepare, "out/*.csv")


CONTENT = r3po("r3po_content", "r3po, hash: content")
STAT = r3po("r3po_stat", "r3po, hash: stat", hash="stat")
BYTES = r3po("r3po_bytes", "r3po, input: bytes, orjson", "count_produce_bytes", input="bytes")
PROCESSES = r3po("r3po_processes", "r3po on processes, hash: content", engine="processes")
PROCESSES_BYTES = r3po(
    "r3po_processes_bytes",
    "r3po on processes, input: bytes, orjson",
    "count_produce_bytes",
    input="bytes",
    engine="processes",
)
LIMIT = limit("limit", "two bare loops (the limit)", "count_produce")
LIMIT_ORJSON = limit("limit_orjson", "two bare loops, orjson", "count_produce_orjson")
POOL = peer("pool_imap", "Pool.imap_unordered")
RAY_DATA = peer("ray_data_items", "Ray Data, from_items")

EVERYBODY = [
    LIMIT,
    CONTENT,
    STAT,
    BYTES,
    PROCESSES,
    PROCESSES_BYTES,
    LIMIT_ORJSON,
    POOL,
    peer("process_pool", "ProcessPoolExecutor"),
    peer("joblib_parallel", "joblib"),
    peer("mpire_pool", "mpire"),
    peer("dask_bag", "Dask bag"),
    RAY_DATA,
    peer("ray_data_files", "Ray Data, read_binary_files", "count_produce_bytes"),
    peer("r3po_first", "r3po 0.2.0 (2020)"),
]
MILLIONS = [LIMIT, CONTENT, STAT, BYTES, LIMIT_ORJSON, POOL, RAY_DATA]
COLD = [POOL, CONTENT, BYTES]
