"""What a notebook shows of the results of Python's functions; a real notebook is in tests/jobs/test_notebook.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import r3po
from jobs import PICKY, make_job
from r3po.cli.results import show_in_notebooks, text_of


def test_each_result_says_what_the_command_says_in_the_words_of_python(tmp_path: Path) -> None:
    job = make_job(tmp_path, 6, PICKY.format(bad=[3]))
    tried = text_of(r3po.try_files(job.config))
    assert "6 files tried: 5 rows, 1 failed; nothing was kept" in tried and "--pdb" not in tried
    assert text_of(r3po.build_jobs(job.config)) == "doubles, build 1: 6 files in 1 shard"
    first, second, third = text_of(r3po.run_jobs(job.config, engine="serial", progress=False), 1000).splitlines()
    assert first.startswith("doubles: 6 files in ") and first.endswith(" s: 5 done, 1 failed, 0 to do")
    assert second.startswith("5 rows in ") and third.startswith("failures() lists the failed files")
    assert "files      5 done   1 failed   0 to do" in text_of(r3po.job_status(job.config))
    assert "6 files, " in text_of(r3po.slow_files(job.config))
    assert text_of(r3po.verify_jobs(job.config)).startswith("Good: ")
    (tmp_path / "out" / "csv" / "part-00000.csv").unlink()
    found = text_of(r3po.verify_jobs(job.config))
    assert "run_jobs(config)" in found and "r3po run" not in found


def test_within_a_list_a_result_is_one_line_and_without_a_shell_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = r3po.job_status(make_job(tmp_path).config)
    shown: dict[tuple[str, str], Any] = {}
    formatter = SimpleNamespace(for_type_by_name=lambda home, name, show: shown.update({(home, name): show}))
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/plain": formatter}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    show_in_notebooks()
    assert shown == {}
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    show_in_notebooks()
    show, said = shown["r3po.inspect.status", "JobStatus"], list[str]()
    for depth in (1, 2):
        show(status, SimpleNamespace(stack=[0] * depth, text=said.append), False)
    assert said[0].startswith("job        doubles, build 0") and "run_jobs(config)" in said[0]
    assert said[1] == repr(status) and "\n" not in said[1]
