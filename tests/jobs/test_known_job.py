"""A mapping that `run_jobs` takes is enough for every other function of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import r3po


def double(filepath: str) -> dict[str, int | None]:
    n = int(Path(filepath).read_text())
    return {"n": n if n % 2 else None, "large": (1 << 60) + n}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    for n in range(4):
        (tmp_path / "source" / f"{n}.txt").write_text(str(n))
    return {"source_path": "source", "source_file_part": ".txt", "working_dir": "state", "output_path": "table"}


def test_the_other_functions_know_the_job_by_its_working_dir(config: dict[str, str]) -> None:
    assert r3po.run_jobs(config, double, engine="serial", progress=False).rows == 4
    assert r3po.job_status(config).job_name == "double"
    assert r3po.slow_files(config).files == 4
    assert r3po.verify_jobs(config).is_good
    assert r3po.reset_all_errors(config) == 0
    with pytest.raises(r3po.StateError, match="no redo is under way"):
        r3po.reset_redo(config)
    assert r3po.reset_all_tracking(config) == 2


def test_without_a_job_the_name_is_asked_for(config: dict[str, str]) -> None:
    with pytest.raises(r3po.ConfigError, match="job_name"):
        r3po.job_status(config)


def test_the_line_that_reads_the_table_keeps_large_ints(
    config: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    r3po.run_jobs(config, double, engine="serial", progress=True)
    assert 'pd.read_parquet("table/parquet", dtype_backend="pyarrow")' in capsys.readouterr().err
