"""The twenty lines that people write: multiprocessing.Pool.imap_unordered."""

from multiprocessing import Pool

from peer import CHUNK, iter_paths, parse_task, write_rows

if __name__ == "__main__":
    task = parse_task()
    with Pool(task.processes) as pool:
        rows = pool.imap_unordered(task.function, iter_paths(task.source), chunksize=CHUNK)
        write_rows(rows, task.out / "rows.csv")
