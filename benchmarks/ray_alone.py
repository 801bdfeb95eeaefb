"""How long Ray takes to start and to stop, with the options of r3po's private Ray and nothing else."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time


def main() -> None:
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-alone-", dir="/tmp") as folder:
        start = time.perf_counter()
        ray.init(
            address="local",
            num_cpus=int(sys.argv[1]),
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        started = time.perf_counter()
        ray.shutdown()
        stopped = time.perf_counter()
    print(json.dumps({"init_s": round(started - start, 3), "shutdown_s": round(stopped - started, 3)}))


if __name__ == "__main__":
    main()
