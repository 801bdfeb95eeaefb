"""Reading objects ahead of f: requests in flight while f works, so that it waits for the store as little as it can.

What arrives is what f sees, and nobody can change it any more: no second look is needed. Each object is asked for by
the tag that was listed; one that was replaced meanwhile is looked at again, and read as it is now.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, Self

from r3po.file_version import FileVersion
from r3po.source.hashing import HASH_BYTES
from r3po.source.object_file import ObjectFile, ObjectFiles
from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.store_errors import TagDiffers

N_REQUESTS = 16
"""Requests in flight, at first."""

MOST_REQUESTS = 128
"""Requests in flight once f was seen to wait: a store that is far away gives more the more it is asked at once. With
30 ms of latency 16 gave 488 small objects a second, 64 gave 1,821, 256 gave 5,450."""

GROWS_AT = 0.25
"""The share of its time that f must have waited, over `GROWS_AFTER_S`, for twice as many requests."""

GROWS_AFTER_S = 0.25

N_BYTES = 64 << 20
"""Most bytes of objects that are in flight or wait for f; a larger object comes alone."""

N_WAITING = 4
"""Objects in flight or waiting for f, a request."""

UNSEEN_BYTES = 1 << 40
"""What an object is taken for whose size is not known, where it goes to a disk."""

SMALL_BYTES = 1 << 20
"""An object up to this size becomes a file only when f is to have it, by the thread that calls f: sixteen threads that
write small files wait for each other, at up to half of the speed."""

N_LOOKS = 3
"""Looks at an object that is replaced again and again, before that is its failure."""


class Wanted(NamedTuple):
    """An object to read, as it was listed."""

    path: str
    size: int
    """`UNSEEN` where it is not known."""
    tag: str
    """Empty: whatever is there."""

    @property
    def n_bytes(self) -> int:
        return max(0, self.size)


class ObjectInUse:
    """An object that was read, from before f is called with it until f has returned; as `source.read.FileInUse`.

    Attributes:
        path: what f is given: the object's URL, or the path of a file with its content.
        size, mtime_ns, hash, tag: as in `FileVersion`, of what was read.
        data: its content; None: the file has it.
    """

    __slots__ = ("_close", "data", "hash", "mtime_ns", "path", "size", "tag")
    is_racy = False

    def __init__(self, path: str, info: ObjectInfo, hash_: bytes | None, data: bytes | None = None) -> None:
        self.path, self.data, self.hash = path, data, hash_
        self.size, self.tag, self.mtime_ns = info.size, info.tag, info.mtime_ns
        self._close: Callable[[], None] | None = None

    @property
    def version(self) -> FileVersion:
        """What was read."""
        return FileVersion(self.size, self.mtime_ns, self.hash, tag=self.tag)

    def move_to(self, file: ObjectFile, close: Callable[[], None]) -> None:
        """Let a file have the content, which `close` removes."""
        self.path, self.data, self._close = file.path, None, close

    def still_holds(self) -> bool:
        """Return True: what was read is what f sees, whatever becomes of the object."""
        return True

    def let_go(self) -> None:
        """Do nothing: its file is needed until `close`."""

    def close(self) -> None:
        """Remove its file, with whatever f may have put beside it."""
        if self._close is not None:
            self._close()


class ObjectsAhead:
    """Threads that read objects. Of one worker, from batch to batch."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        folder_for: Callable[[int], Path] | None = None,
        wants_hash: bool = True,
        n_requests: int = N_REQUESTS,
        most_requests: int = MOST_REQUESTS,
        n_bytes: int = N_BYTES,
    ) -> None:
        """Start nothing yet.

        Args:
            store: below whose URL the paths are.
            folder_for: where f wants paths: returns the folder for a file of so many bytes. None: f wants bytes.
            wants_hash: take the content hash of what is read.
            n_requests: most requests in flight, at first.
            most_requests: as many, once f was seen to wait.
            n_bytes: most bytes of what is in flight or waits for f.
        """
        self._store, self._wants_hash = store, wants_hash
        self._files = None if folder_for is None else ObjectFiles(folder_for)
        self._n_requests, self._most_requests, self._n_bytes = n_requests, most_requests, n_bytes
        self._looked_at, self._waited_then = time.perf_counter(), 0.0
        self._tasks: SimpleQueue[tuple[Wanted, Future[ObjectInUse]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._n_begun = 0
        self._is_closed = False
        self._upcoming: Iterator[Wanted] = iter(())
        self._next: Wanted | None = None
        """The first of `_upcoming`, for which there was no room yet."""
        self._running: deque[tuple[Wanted, Future[ObjectInUse]]] = deque()
        """What is in flight or waits for f, in its order."""
        self._n_bytes_running = 0
        self._n_bytes_in_hand = 0
        """Of the object that was taken last."""
        self._left: dict[Wanted, Future[ObjectInUse]] = {}
        """What the batch before did not come to; the next one may want it."""
        self.waited_s = 0.0
        """Seconds that whoever takes the objects has waited for them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def begin(self, upcoming: Iterable[Wanted]) -> None:
        """Begin to read the objects of a batch, in the order in which they will be taken."""
        self._left = dict(self._running)
        self._running.clear()
        self._n_bytes_running = self._n_bytes_in_hand = 0
        self._looked_at, self._waited_then = time.perf_counter(), self.waited_s
        self._upcoming = iter(upcoming)
        self._next = next(self._upcoming, None)
        self._fill()
        self._drop(self._left.values())
        self._left = {}

    def take(self, wanted: Wanted) -> ObjectInUse:
        """Return an object, which is the caller's until it closes it. Those before it in the batch are passed over.

        Raises:
            OSError, MemoryError: it cannot be read: by its own fault, or by that of the environment.
            StoreError: the store cannot be used any more; it is no failure of the object.
        """
        if any(waiting == wanted for waiting, _ in self._running):
            while (first := self._running.popleft())[0] != wanted:
                self._n_bytes_running -= first[0].n_bytes
                self._drop([first[1]])
            self._n_bytes_running -= wanted.n_bytes
            future = first[1]
        else:
            future = self._ask(wanted)
        self._n_bytes_in_hand = wanted.n_bytes
        self._fill()
        began = time.perf_counter()
        try:
            found = future.result()
        finally:
            now = time.perf_counter()
            self.waited_s += now - began
        if now - self._looked_at >= GROWS_AFTER_S:
            self._grow(now)
        if self._files is not None and found.data is not None:
            with self._files.make_next(wanted.path, found.size) as file:
                file.write(found.data)
            found.move_to(file, partial(self._files.give_back, file))
        return found

    def close(self) -> None:
        """End the threads: each after the request that it waits for, for which nobody waits."""
        self._is_closed = True
        self._drop(future for _, future in self._running)
        self._running.clear()
        for _ in self._threads:
            self._tasks.put(None)
        if self._files is not None:
            self._files.close()

    # Private methods

    def _fill(self) -> None:
        while self._next is not None and len(self._running) < self._n_requests * N_WAITING:
            n_bytes = self._n_bytes_running + self._n_bytes_in_hand
            if n_bytes and n_bytes + self._next.n_bytes > self._n_bytes:
                return
            self._n_bytes_running += self._next.n_bytes
            future = self._left.pop(self._next) if self._next in self._left else self._ask(self._next)
            self._running.append((self._next, future))
            self._next = next(self._upcoming, None)

    def _grow(self, now: float) -> None:
        """Let more requests be in flight, if f waits for them."""
        if self.waited_s - self._waited_then > GROWS_AT * (now - self._looked_at):
            self._n_requests = min(2 * self._n_requests, max(self._n_requests, self._most_requests))
        self._looked_at, self._waited_then = now, self.waited_s

    def _drop(self, futures: Iterable[Future[ObjectInUse]]) -> None:
        for future in futures:
            future.cancel()
            future.add_done_callback(_close_unused)

    def _ask(self, wanted: Wanted) -> Future[ObjectInUse]:
        future: Future[ObjectInUse] = Future()
        self._n_begun += 1
        self._tasks.put((wanted, future))
        if len(self._threads) < min(self._n_requests, self._n_begun):
            # Daemons: a process that ends does not wait for a store.
            thread = threading.Thread(target=self._work, name="r3po-ahead", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_closed:
            wanted, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(wanted))
            except BaseException as error:  # for whoever takes the object
                future.set_exception(error)
            del future, task

    def _read(self, wanted: Wanted) -> ObjectInUse:
        key = self._store.key_of(wanted.path)
        tag, size = wanted.tag or None, wanted.size if wanted.tag else None
        for _ in range(N_LOOKS):
            try:
                if self._files is None or 0 <= wanted.size <= SMALL_BYTES:
                    data, info = self._store.read(key, tag=tag, size=size)
                    digest = hashlib.blake2b(data, digest_size=HASH_BYTES).digest() if self._wants_hash else None
                    return ObjectInUse(self._store.where(wanted.path), info, digest, data)
                return self._read_into(self._files, wanted, tag, size)
            except TagDiffers:
                info = self._store.look(key)
                tag, size = info.tag, info.size
        raise OSError(errno.EAGAIN, f"the object was replaced {N_LOOKS} times while it was read", wanted.path)

    def _read_into(self, files: ObjectFiles, wanted: Wanted, tag: str | None, size: int | None) -> ObjectInUse:
        digest = hashlib.blake2b(digest_size=HASH_BYTES) if self._wants_hash else None
        with files.make(wanted.path, wanted.size if wanted.size >= 0 else UNSEEN_BYTES) as file:

            def take(block: Any) -> None:
                if digest is not None:
                    digest.update(block)
                file.write(block)

            info = self._store.stream(self._store.key_of(wanted.path), take, tag=tag, size=size)
        found = ObjectInUse(file.path, info, None if digest is None else digest.digest())
        found.move_to(file, file.remove)
        return found


# Private functions


def _close_unused(future: Future[ObjectInUse]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
