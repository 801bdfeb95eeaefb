"""Ray Data over the list of paths: from_items, map, write_csv."""

import ray

from peer import iter_paths, parse_task

if __name__ == "__main__":
    task = parse_task()
    function = task.function
    ray.init(num_cpus=task.processes, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = ray.data.from_items(list(iter_paths(task.source)))
    paths.map(lambda row: function(row["item"])).write_csv(str(task.out))
