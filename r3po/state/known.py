"""The settings of a job that is there already: what its working_dir says need not be said again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from r3po.config.folders import expand
from r3po.config.settings import Config, ConfigSource, load_config
from r3po.errors import StateError
from r3po.state.manifest import read_manifest


def load_known(config: ConfigSource) -> Config:
    """Return the settings of a job that was run; a mapping without `job_name` is of the job in its working_dir.

    Raises:
        ConfigError: the settings cannot be used, or there is no such job that would give the name.
    """
    job_name = None
    if isinstance(config, Mapping) and "job_name" not in config and isinstance(config.get("working_dir"), str):
        with contextlib.suppress(StateError, OSError):  # said by whoever reads the state for its own sake
            manifest = read_manifest(Path(expand(config["working_dir"])) / "manifest.json")
            job_name = None if manifest is None else manifest.job_name
    return load_config(config, job_name)
