"""Synthetic produce logs: trees of JSON files, as many and as large as a benchmark needs.

The content of file i depends on the seed, i and the sizes asked for alone, so every machine makes the same tree.
Modification times are whatever the clock gives.

    python benchmarks/generate.py data/logs --files 300000 --per-folder 1000
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b, shake_128
from itertools import repeat
from pathlib import Path

MIN_SIZE_BYTES = 300  # a log without a list of harvests has at most 294
DISTINCT_FILES = 4096  # with links: so many files of their own, or more
MAX_LINKS = 60_000  # names a file; ext4 allows 65,000
LINKED_PER_FOLDER = 10_000
FILES_PER_TASK = 5_000

PRODUCE = {
    "fruits": ["apples", "bananas", "cantaloupes", "dates", "elderberries"],
    "vegetables": ["artichokes", "beans", "cabbages", "carrots", "cucumbers"],
    "meat": ["beef", "lamb", "mutton", "pork", "poultry"],
}
N_ITEMS = sum(map(len, PRODUCE.values()))
HARVEST = b'{"field": %3d, "crop": %3d, "crates": %3d}, '  # of one width, so that a size can be met exactly

_ZEROS = {"log": 0, "produce": {group: dict.fromkeys(items, 0) for group, items in PRODUCE.items()}}
_SMALL = json.dumps(_ZEROS).replace(": 0", ": %d").encode()
_BELOW_100 = bytes(number % 100 for number in range(256))


def log_content(seed: int, i: int, size_range: tuple[int, int] | None = None) -> bytes:
    """Return the JSON of log i: about 300 bytes, or of a size drawn from `size_range`.

    Args:
        seed: another seed, another tree.
        i: the log's number.
        size_range: smallest and largest size in bytes, 300 or more; sizes follow a log-uniform law and are met
            to the byte.
    """
    digest = blake2b(b"%d %d" % (seed, i), digest_size=N_ITEMS + 8).digest()
    small = _SMALL % (i, *digest[8:].translate(_BELOW_100))
    if size_range is None:
        return small + b"\n"
    low, high = size_range
    size_bytes = int(low * (high / low) ** (int.from_bytes(digest[:8], "big") / 2**64))
    n_harvests, n_spaces = divmod(size_bytes - len(small) - len(b', "harvests": []\n'), len(HARVEST % (0, 0, 0)))
    if n_harvests <= 0:
        return small.ljust(size_bytes - 1) + b"\n"
    numbers = shake_128(digest).digest(3 * n_harvests)
    harvests = (HARVEST * n_harvests % tuple(numbers))[:-2]
    return small[:-1] + b', "harvests": [' + harvests + b" " * (n_spaces + 2) + b"]}\n"


def log_path(i: int, per_folder: int = 0, deep: bool = False) -> str:
    """Return where log i lies in its tree; with `per_folder` 0 all lie in one folder.

    Args:
        deep: the five digits of the folder's number are five folders, one in the other.
    """
    if not per_folder:
        return f"{i:08d}.json"
    folder = f"{i // per_folder:05d}"
    return f"{'/'.join(folder) if deep else folder}/{i:08d}.json"


def write_tree(
    out: Path,
    n_files: int,
    *,
    seed: int = 0,
    per_folder: int = 0,
    size_range: tuple[int, int] | None = None,
    links: bool = False,
    deep: bool = False,
) -> None:
    """Write logs 0 to `n_files` - 1 into `out`, which is made and must be empty.

    Args:
        out: the tree's folder.
        n_files: how many names.
        seed: another seed, another tree.
        per_folder: files a subfolder; 0: all in `out` itself.
        size_range: as for `log_content`.
        deep: as for `log_path`; needs `per_folder`.
        links: write a few thousand files only; all other names are hard links to them. For trees of many millions.

    Raises:
        FileExistsError: `out` is not empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    if per_folder:
        for first in range(0, n_files, per_folder):
            (out / log_path(first, per_folder, deep)).parent.mkdir(parents=deep)
    n_written = min(n_files, max(DISTINCT_FILES, -(-n_files // MAX_LINKS))) if links else n_files
    with ProcessPoolExecutor() as pool:
        tasks = _split(0, n_written)
        where = repeat(per_folder), repeat(deep)
        list(pool.map(_write_files, repeat(str(out)), tasks, *where, repeat(seed), repeat(size_range)))
        tasks = _split(n_written, n_files)  # only now: every file that is linked to is there
        list(pool.map(_link_files, repeat(str(out)), tasks, *where, repeat(n_written)))


# Private functions


def _split(start: int, stop: int) -> Iterator[range]:
    return (range(i, min(i + FILES_PER_TASK, stop)) for i in range(start, stop, FILES_PER_TASK))


def _write_files(
    out: str, numbers: range, per_folder: int, deep: bool, seed: int, size_range: tuple[int, int] | None
) -> None:
    for i in numbers:
        content = log_content(seed, i, size_range)
        file = os.open(f"{out}/{log_path(i, per_folder, deep)}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            written = os.write(file, content)
            while written < len(content):
                written += os.write(file, content[written:])
        finally:
            os.close(file)


def _link_files(out: str, numbers: range, per_folder: int, deep: bool, n_written: int) -> None:
    for i in numbers:
        os.link(f"{out}/{log_path(i % n_written, per_folder, deep)}", f"{out}/{log_path(i, per_folder, deep)}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a tree of synthetic produce logs.")
    parser.add_argument("out", type=Path, help="the tree's folder; it must be empty")
    parser.add_argument("--files", type=int, required=True, metavar="N", help="how many files")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another tree (0)")
    parser.add_argument(
        "--per-folder", type=int, metavar="N", help="files a subfolder; 0: none (0; with --links 10,000)"
    )
    parser.add_argument(
        "--bytes", type=int, nargs=2, metavar=("LO", "HI"), help="log-uniform sizes, 300 on (about 300 each)"
    )
    parser.add_argument("--deep", action="store_true", help="each folder five levels down; needs --per-folder")
    parser.add_argument("--links", action="store_true", help="a few thousand files, all other names hard links to them")
    arguments = parser.parse_args()
    if arguments.files < 1 or (arguments.per_folder or 0) < 0:
        parser.error("--files must be 1 or more, --per-folder 0 or more")
    if arguments.bytes and not MIN_SIZE_BYTES <= arguments.bytes[0] <= arguments.bytes[1]:
        parser.error(f"--bytes needs {MIN_SIZE_BYTES} <= LO <= HI")
    if arguments.deep and not arguments.per_folder:
        parser.error("--deep needs --per-folder")
    if arguments.per_folder is None:
        arguments.per_folder = LINKED_PER_FOLDER if arguments.links else 0
    return arguments


def main() -> None:
    arguments = _parse_arguments()
    start = time.perf_counter()
    try:
        write_tree(
            arguments.out,
            arguments.files,
            seed=arguments.seed,
            per_folder=arguments.per_folder,
            size_range=tuple(arguments.bytes) if arguments.bytes else None,
            links=arguments.links,
            deep=arguments.deep,
        )
    except FileExistsError as error:
        raise SystemExit(f"error: {error}") from None
    print(json.dumps({"files": arguments.files, "seconds": round(time.perf_counter() - start, 3)}))


if __name__ == "__main__":
    main()
