"""Ray Data that reads the files itself: read_binary_files, map, write_csv. The function gets path and bytes."""

import ray

from peer import parse_task

if __name__ == "__main__":
    task = parse_task()
    function = task.function
    ray.init(num_cpus=task.processes, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    files = ray.data.read_binary_files(str(task.source), include_paths=True, file_extensions=["json"])
    files.map(lambda row: function(row["path"], row["bytes"])).write_csv(str(task.out))
