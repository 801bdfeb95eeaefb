"""A Ray of this process for tests that only need some Ray; each start costs seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from jobs import short_folder


@contextmanager
def some_ray() -> Iterator[None]:
    """Start a Ray, and stop it at the end."""
    import ray

    from r3po.engines.ray_node import hide_messages, use_settings

    use_settings()

    with short_folder() as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
        hide_messages()  # one that comes late would be in the output of the next command
        try:
            yield
        finally:
            ray.shutdown()
