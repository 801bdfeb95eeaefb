"""`build_jobs`: the manifest of a job from Python. Equal to `r3po build`."""

from __future__ import annotations

from r3po.config.settings import ConfigSource, load_config
from r3po.run.log_events import log_event
from r3po.source.build import build_job
from r3po.state.manifest import Manifest

__all__ = ["build_jobs"]


def build_jobs(config: ConfigSource, *, accept_deletions: bool = False) -> Manifest:
    """Bring the manifest of a job up to date with its source, hashing with `processes` processes, and return it.

    Equal to `r3po build CONFIG`. No Ray is started and f is not needed. Unchanged files are not opened.

    Args:
        config: the config file, or a mapping of the keys that it would have.
        accept_deletions: go on although more than half of the job's files are gone.

    Raises:
        R3poError: of the kinds ConfigError, SourceError, FolderError, StateError or LockedError; nothing was changed.
    """
    return build_job(load_config(config), log_event, accept_deletions=accept_deletions)
