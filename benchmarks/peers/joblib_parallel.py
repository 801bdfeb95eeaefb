"""joblib.Parallel with its loky processes, rows as they come."""

from joblib import Parallel, delayed

from peer import CHUNK, iter_paths, parse_task, write_rows

if __name__ == "__main__":
    task = parse_task()
    parallel = Parallel(task.processes, return_as="generator_unordered", batch_size=CHUNK)
    rows = parallel(delayed(task.function)(path) for path in iter_paths(task.source))
    write_rows(rows, task.out / "rows.csv")
