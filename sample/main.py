"""The same job as `r3po run config.yaml`, from Python."""

from count_fruits import count_fruits
from r3po import build_jobs, run_jobs

if __name__ == "__main__":
    build_jobs("./config.yaml")
    run_jobs("./config.yaml", count_fruits)
