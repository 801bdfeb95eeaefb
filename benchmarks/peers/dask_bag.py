"""dask.bag on its processes, one CSV file a partition."""

import dask
import dask.bag

from peer import iter_paths, parse_task

FILES_PER_PARTITION = 5_000

if __name__ == "__main__":
    task = parse_task()
    dask.config.set(scheduler="processes", num_workers=task.processes)
    bag = dask.bag.from_sequence(iter_paths(task.source), partition_size=FILES_PER_PARTITION)
    bag.map(task.function).to_dataframe().to_csv(str(task.out / "rows-*.csv"), index=False)
