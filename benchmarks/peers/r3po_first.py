"""The first r3po, 0.2.0 of 2020, as its README says: a config, `build_jobs`, `run_jobs`."""

import os
import sys
from pathlib import Path

import yaml

from peer import parse_task

FIRST = Path(__file__).resolve().parents[2] / "data" / "r3po-0.2.0"
"""Where `make bench` installs it: it has the name of the package that it is compared with."""

if __name__ == "__main__":
    task = parse_task()
    sys.path.insert(0, str(FIRST))
    os.environ["PYTHONPATH"] = f"{FIRST}:{os.environ['PYTHONPATH']}"
    from r3po import jobbuilder, jobrunner

    working_dir = task.out.with_name("working_dir")
    config = {
        "job_name": "first",
        "output_path": str(task.out.resolve()),
        "processes": task.processes,
        "source_file_part": ".json",
        "source_path": str(task.source),
        "working_dir": str(working_dir.resolve()),
    }
    Path("config.yaml").write_text(yaml.dump(config), encoding="utf-8")  # it writes into this one, wherever it lies
    jobbuilder.build_jobs("config.yaml")
    jobrunner.run_jobs("config.yaml", task.function)
