"""concurrent.futures.ProcessPoolExecutor.map."""

from concurrent.futures import ProcessPoolExecutor

from peer import CHUNK, iter_paths, parse_task, write_rows

if __name__ == "__main__":
    task = parse_task()
    with ProcessPoolExecutor(task.processes) as pool:
        rows = pool.map(task.function, iter_paths(task.source), chunksize=CHUNK)
        write_rows(rows, task.out / "rows.csv")
