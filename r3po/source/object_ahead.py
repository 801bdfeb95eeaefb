"""Reading objects ahead of f: requests in flight while f works, so that it waits for the store as little as it can.

What arrives is what f sees, and nobody can change it any more: no second look is needed. Each object is asked for by
the tag that was listed; one that was replaced meanwhile is looked at again, and read as it is now.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple, Self

from r3po.errors import StoreError
from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.store_errors import TagDiffers

N_REQUESTS = 16
"""Requests in flight."""

N_BYTES = 64 << 20
"""Most bytes of objects that are in flight or wait for f; a larger object comes alone."""

N_WAITING = 4
"""Objects in flight or waiting for f, a request."""

N_LOOKS = 3
"""Looks at an object that is replaced again and again, before that is its failure."""


class Wanted(NamedTuple):
    """An object to read, as it was listed."""

    path: str
    size: int
    tag: str
    """Empty: whatever is there."""


@dataclass(slots=True)
class Fetched:
    """An object for f.

    Attributes:
        path: as it was wanted.
        info: what the object looked like that was read; None: it could not be read.
        data: its content, unless a file has it.
        file: with its content, until the next object is asked for; None: `data` has it.
        error: why it could not be read: of the object, or of the environment.
    """

    path: str
    info: ObjectInfo | None = None
    data: bytes | None = None
    file: Path | None = None
    error: Exception | None = None


class ObjectsAhead:
    """Threads that read objects. Of one worker, from batch to batch."""

    def __init__(
        self, store: ObjectStore, *, folder: Path | None = None, n_requests: int = N_REQUESTS, n_bytes: int = N_BYTES
    ) -> None:
        """Start nothing yet.

        Args:
            store: below whose URL the paths are.
            folder: for files, where f wants paths; None: it wants bytes.
            n_requests: most requests in flight.
            n_bytes: most bytes of what is in flight or waits for f.
        """
        self._store, self._folder = store, folder
        self._n_requests, self._n_bytes = n_requests, n_bytes
        self._tasks: SimpleQueue[tuple[Wanted, int, Future[Fetched]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._n_begun = 0
        self._is_closed = False
        self.waited_s = 0.0
        """Seconds that whoever takes the objects has waited for them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def fetch(self, wanted: Iterable[Wanted]) -> Iterator[Fetched]:
        """Yield the objects in the order in which they are wanted.

        Raises:
            StoreError: the store cannot be used any more; it is no failure of the object.
        """
        upcoming = iter(wanted)
        following = next(upcoming, None)
        running: deque[tuple[int, Wanted, Future[Fetched]]] = deque()
        n_bytes = 0
        most = self._n_requests if self._n_requests == 1 else self._n_requests * N_WAITING
        try:
            while following is not None or running:
                while following is not None and len(running) < most:
                    if running and n_bytes + following.size > self._n_bytes:
                        break
                    n_bytes += following.size
                    running.append(self._begin(following))
                    following = next(upcoming, None)
                number, now, future = running[0]
                yield self._take(future)
                running.popleft()
                self._remove(number, now.path)
                n_bytes -= now.size
        finally:
            for number, now, future in running:
                future.cancel()
                future.add_done_callback(lambda _, number=number, path=now.path: self._remove(number, path))  # type: ignore[misc]

    def close(self) -> None:
        """End the threads: each after the request that it waits for, for which nobody waits."""
        self._is_closed = True
        for _ in self._threads:
            self._tasks.put(None)

    # Private methods

    def _begin(self, wanted: Wanted) -> tuple[int, Wanted, Future[Fetched]]:
        future: Future[Fetched] = Future()
        self._n_begun += 1
        self._tasks.put((wanted, self._n_begun, future))
        if len(self._threads) < min(self._n_requests, self._n_begun):
            # Daemons: a process that ends does not wait for a store.
            thread = threading.Thread(target=self._work, name="r3po-ahead", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self._n_begun, wanted, future

    def _take(self, future: Future[Fetched]) -> Fetched:
        began = time.perf_counter()
        try:
            return future.result()
        finally:
            self.waited_s += time.perf_counter() - began

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_closed:
            wanted, number, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(wanted, number))
            except BaseException as error:  # for whoever takes the object
                future.set_exception(error)
            del future, task

    def _read(self, wanted: Wanted, number: int) -> Fetched:
        fetched = Fetched(wanted.path)
        key = self._store.url.key_of(wanted.path)
        tag, size = wanted.tag or None, wanted.size if wanted.tag else None
        for look in range(N_LOOKS):
            try:
                if self._folder is None:
                    fetched.data, fetched.info = self._store.read(key, tag=tag, size=size)
                else:
                    file = self._new_file(number, wanted.path)
                    fetched.info = self._store.read_into(key, file, tag=tag, size=size)
                    fetched.file = file
                fetched.error = None
                return fetched
            except TagDiffers:
                fetched.error = OSError(f"the object was replaced {look + 1} times while it was read")
                try:
                    info = self._store.look(key)
                except OSError as error:
                    fetched.error = error
                    return fetched
                tag, size = info.tag, info.size
            except StoreError:
                raise
            except (OSError, MemoryError) as error:
                fetched.error = error
                return fetched
        return fetched

    def _new_file(self, number: int, path: str) -> Path:
        """Return where an object goes to: a file of its own name in folders of its own folders' names."""
        assert self._folder is not None
        file = os.path.join(self._folder, str(number), local_path(path))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        return Path(file)

    def _remove(self, number: int, path: str) -> None:
        """Remove an object's file, with whatever f may have put beside it."""
        if self._folder is None:
            return
        top = self._folder / str(number)
        try:
            file = os.path.join(top, local_path(path))
            os.unlink(file)
            while file != str(top):  # a tenth of what rmtree costs
                file = os.path.dirname(file)
                os.rmdir(file)
        except OSError:
            shutil.rmtree(top, ignore_errors=True)


def local_path(path: str) -> str:
    """Return a key's path as one that a disk takes: parts that it would not take are escaped or shortened.

    The name keeps its suffix.
    """
    return "/".join(map(_local_name, path.split("/")))


# Private functions


_LONGEST_NAME = 255


def _local_name(part: str) -> str:
    if part in ("", ".", ".."):
        return "%2E" * len(part) or "%"
    if "\0" in part:
        part = part.replace("\0", "%00")
    name = os.fsencode(part)
    if len(name) > _LONGEST_NAME:
        suffix = os.fsencode(os.path.splitext(part)[1])[-50:]
        name = name[: _LONGEST_NAME - len(suffix)] + suffix
    return os.fsdecode(name)
