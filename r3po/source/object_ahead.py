"""Reading objects ahead of f: requests in flight while f works, so that it waits for the store as little as it can.

What arrives is what f sees, and nobody can change it any more: no second look is needed. Each object is asked for by
the tag that was listed; one that was replaced meanwhile is looked at again, and read as it is now.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, Self

from r3po.file_version import FileVersion
from r3po.source.hashing import HASH_BYTES
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

SMALL_BYTES = 1 << 20
"""An object up to this size becomes a file only when f is to have it, by the thread that calls f: sixteen threads that
write small files wait for each other, at up to half of the speed."""

N_LOOKS = 3
"""Looks at an object that is replaced again and again, before that is its failure."""


class Wanted(NamedTuple):
    """An object to read, as it was listed."""

    path: str
    size: int
    tag: str
    """Empty: whatever is there."""


class ObjectInUse:
    """An object that was read, from before f is called with it until f has returned; as `source.read.FileInUse`.

    Attributes:
        path: what f is given: the object's URL, or the path of a file with its content.
        size, mtime_ns, hash, tag: as in `FileVersion`, of what was read.
        data: its content; None: the file has it.
        folder: what goes with the file; None: there is none.
    """

    __slots__ = ("data", "folder", "hash", "mtime_ns", "path", "size", "tag")
    is_racy = False

    def __init__(
        self, path: str, info: ObjectInfo, hash_: bytes | None, data: bytes | None = None, folder: str | None = None
    ) -> None:
        self.path, self.data, self.hash, self.folder = path, data, hash_, folder
        self.size, self.tag, self.mtime_ns = info.size, info.tag, info.mtime_ns

    @property
    def version(self) -> FileVersion:
        """What was read."""
        return FileVersion(self.size, self.mtime_ns, self.hash, tag=self.tag)

    def still_holds(self) -> bool:
        """Return True: what was read is what f sees, whatever becomes of the object."""
        return True

    def let_go(self) -> None:
        """Do nothing: its file is needed until `close`."""

    def close(self) -> None:
        """Remove its file, with whatever f may have put beside it."""
        if self.folder is not None:
            _remove(self.folder, self.path)


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
        self._store, self._folder_for, self._wants_hash = store, folder_for, wants_hash
        self._n_requests, self._most_requests, self._n_bytes = n_requests, most_requests, n_bytes
        self._looked_at, self._waited_then = time.perf_counter(), 0.0
        self._tasks: SimpleQueue[tuple[Wanted, int, Future[ObjectInUse]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._n_begun = self._n_files = 0
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
                self._n_bytes_running -= first[0].size
                self._drop([first[1]])
            self._n_bytes_running -= wanted.size
            future = first[1]
        else:
            future = self._ask(wanted)
        self._n_bytes_in_hand = wanted.size
        self._fill()
        began = time.perf_counter()
        try:
            found = future.result()
        finally:
            now = time.perf_counter()
            self.waited_s += now - began
        if now - self._looked_at >= GROWS_AFTER_S:
            self._grow(now)
        if self._folder_for is not None and found.data is not None:
            return self._as_file(found, self._folder_for(found.size), wanted.path)
        return found

    def close(self) -> None:
        """End the threads: each after the request that it waits for, for which nobody waits."""
        self._is_closed = True
        self._drop(future for _, future in self._running)
        self._running.clear()
        for _ in self._threads:
            self._tasks.put(None)

    # Private methods

    def _fill(self) -> None:
        while self._next is not None and len(self._running) < self._n_requests * N_WAITING:
            n_bytes = self._n_bytes_running + self._n_bytes_in_hand
            if n_bytes and n_bytes + self._next.size > self._n_bytes:
                return
            self._n_bytes_running += self._next.size
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
        self._tasks.put((wanted, self._n_begun, future))
        if len(self._threads) < min(self._n_requests, self._n_begun):
            # Daemons: a process that ends does not wait for a store.
            thread = threading.Thread(target=self._work, name="r3po-ahead", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

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

    def _read(self, wanted: Wanted, number: int) -> ObjectInUse:
        key = self._store.url.key_of(wanted.path)
        tag, size = wanted.tag or None, wanted.size if wanted.tag else None
        for _ in range(N_LOOKS):
            try:
                if self._folder_for is None or wanted.size <= SMALL_BYTES:
                    data, info = self._store.read(key, tag=tag, size=size)
                    digest = hashlib.blake2b(data, digest_size=HASH_BYTES).digest() if self._wants_hash else None
                    return ObjectInUse(self._store.url.url_of(key), info, digest, data)
                return self._read_into(self._folder_for(wanted.size), number, key, tag, size)
            except TagDiffers:
                info = self._store.look(key)
                tag, size = info.tag, info.size
        raise OSError(errno.EAGAIN, f"the object was replaced {N_LOOKS} times while it was read", wanted.path)

    def _as_file(self, found: ObjectInUse, folder: Path, path: str) -> ObjectInUse:
        """Write down an object that was read into memory."""
        assert found.data is not None
        self._n_files += 1
        with _NewFile(folder, f"f{self._n_files}", path) as new:
            new.write(found.data)
        found.path, found.data, found.folder = new.path, None, new.top
        return found

    def _read_into(self, folder: Path, number: int, key: str, tag: str | None, size: int | None) -> ObjectInUse:
        digest = hashlib.blake2b(digest_size=HASH_BYTES) if self._wants_hash else None
        with _NewFile(folder, str(number), key.removeprefix(self._store.url.prefix)) as new:

            def take(block: Any) -> None:
                if digest is not None:
                    digest.update(block)
                new.write(block)

            info = self._store.stream(key, take, tag=tag, size=size)
        return ObjectInUse(new.path, info, None if digest is None else digest.digest(), None, new.top)


def local_path(path: str) -> str:
    """Return a key's path as one that a disk takes: parts that it would not take are escaped or shortened.

    The name keeps its suffix.
    """
    return "/".join(map(_local_name, path.split("/")))


# Private functions


_LONGEST_NAME = 255


def _close_unused(future: Future[ObjectInUse]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


class _NewFile:
    """A file of an object's own name, in folders of its own folders' names; after an error there is none.

    It is a copy for f: nothing of it is synced.
    """

    def __init__(self, folder: Path, name: str, path: str) -> None:
        self.top = self.path = f"{folder}/{name}"
        os.mkdir(self.path)
        *folders, last = local_path(path).split("/")
        for part in folders:
            self.path += "/" + part
            os.mkdir(self.path)
        self.path += "/" + last

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._descriptor)
        if kind is not None:
            _remove(self.top, self.path)

    def write(self, block: Any) -> None:
        n_written = os.write(self._descriptor, block)
        if n_written < len(block):  # one call of the system writes 2 GiB at the most
            self.write(memoryview(block)[n_written:])


def _remove(folder: str, file: str) -> None:
    """Remove a file and its folders up to this one, with whatever else is in it."""
    try:
        os.unlink(file)
        while file != folder:  # a tenth of what rmtree costs
            file = file[: file.rindex("/")]
            os.rmdir(file)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


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
