"""The buckets of the benchmarks: a SeaweedFS server on this machine, filled with produce logs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from generate import log_content, log_path
from trees import PER_FOLDER

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "harness"))

from seaweed import Seaweed, credentials

BUCKET = "bench"
LARGE_BYTES = 100_000
PUTS_AT_ONCE = 32


@contextmanager
def running_server(folder: Path) -> Iterator[None]:
    """Run a server with an empty bucket; the environment tells this process, and those that it starts, where and who.

    Args:
        folder: of the server's data; removed at the end.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Seaweed(folder) as server:
        server.make_bucket(BUCKET)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ |= credentials()
        os.environ |= {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        yield
    shutil.rmtree(folder)


def fill_bucket(prefix: str, n_objects: int, size_bytes: int | None = None, say: Callable[[str], None] = print) -> str:
    """Put produce logs into the bucket, and return the URL that all of them are below.

    Args:
        prefix: of their keys, with a slash at its end.
        n_objects: how many.
        size_bytes: of each; None: about 300.
    """
    import obstore
    from obstore.store import S3Store

    url = f"s3://{BUCKET}/{prefix}"
    say(f"putting {n_objects:,} objects below {url}")
    store = S3Store(
        BUCKET,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_DEFAULT_REGION"],
        client_options={"allow_http": True},
    )
    sizes = (size_bytes, size_bytes) if size_bytes else None

    def put(i: int) -> None:
        obstore.put(store, prefix + log_path(i, PER_FOLDER), log_content(0, i, sizes), use_multipart=False)

    numbers = iter(range(n_objects))
    with ThreadPoolExecutor(PUTS_AT_ONCE) as threads:
        while block := list(islice(numbers, 10_000)):
            list(threads.map(put, block))
    return url
