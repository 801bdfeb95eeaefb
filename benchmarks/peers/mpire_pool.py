"""mpire.WorkerPool.imap_unordered."""

from mpire import WorkerPool

from peer import CHUNK, iter_paths, parse_task, write_rows

if __name__ == "__main__":
    task = parse_task()
    paths = list(iter_paths(task.source))  # it wants to know how many
    with WorkerPool(task.processes) as pool:
        rows = pool.imap_unordered(task.function, paths, chunk_size=CHUNK)
        write_rows(rows, task.out / "rows.csv")
