"""Ray Data that reads the objects itself, through pyarrow's file system: read_binary_files, map, write_csv."""

import ray
from pyarrow.fs import S3FileSystem

from bucket_peer import parse_bucket_task

if __name__ == "__main__":
    task = parse_bucket_task()
    function = task.function
    ray.init(num_cpus=task.processes, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    store = S3FileSystem(endpoint_override=task.endpoint, region=task.region, scheme="http")
    files = ray.data.read_binary_files(
        f"{task.bucket}/{task.prefix}", filesystem=store, include_paths=True, file_extensions=["json"]
    )
    files.map(lambda row: function(row["path"], row["bytes"])).write_csv(str(task.out.resolve()))
