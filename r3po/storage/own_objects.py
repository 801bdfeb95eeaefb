"""Objects below a URL that this process alone changes: it knows how each looks, and changes them in threads.

Every change is conditional on how the object looked before, so that the late request of a process that was killed
changes nothing. Changes of one object are made in their order; those of several at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from r3po.errors import RunStoppedError, StoreError
from r3po.storage.objects import ObjectInfo, ObjectStore, Only
from r3po.storage.s3_list import list_objects
from r3po.storage.store_errors import TagDiffers

N_THREADS = 4
"""Most objects that are changed at once; each may have `ONE_PUT_BYTES` in memory."""

MOST_WAITING = 256
"""Objects that may wait to be changed; whoever wants more waits himself."""

_TRIES = 5
"""How often an object is looked at again that somebody else has just changed."""

_SAVED = "what was done is saved; run again"


class OwnObjects:
    """Objects in some folders below the URL of a store, known by their path below it.

    Args:
        store: its URL is where.
        folders: what is listed.
    """

    def __init__(self, store: ObjectStore, folders: Sequence[str]) -> None:
        self._store, self._folders = store, folders
        self._listed: dict[str, ObjectInfo] | None = None
        self._changes: dict[str, Future[None]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._error: BaseException | None = None

    @property
    def known(self) -> dict[str, ObjectInfo]:
        """What is there, by path: as it was listed once, and changed since. Raises as `told` says."""
        if self._listed is None:
            with self.told(""):
                self._listed = {path: info for folder in self._folders for path, info in self._list(folder)}
        return self._listed

    def look_again(self) -> None:
        """List anew what is there, once it is asked for. No change may be under way."""
        self._listed = None

    def is_there(self, path: str) -> bool:
        """Whether there is such an object, or is going to be one."""
        return path in self.known or path in self._changes

    def url_of(self, path: str) -> str:
        """Return an object's URL, for people."""
        return self._store.url.url_of(self._store.url.key_of(path))

    @contextlib.contextmanager
    def told(self, path: str) -> Iterator[None]:
        """Let what the store refuses within this block end the run, which can go on later.

        Raises:
            RunStoppedError: where, and why; but that there is no such object stays a FileNotFoundError.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except StoreError as error:
            hint = f"{error.hint}\n{_SAVED}" if error.hint else _SAVED
            what = str(error.args[0])
            raise RunStoppedError(what, where=self.url_of(path), evidence=error.evidence, hint=hint) from error
        except OSError as error:
            what, hint = error.strerror or str(error), f"{_SAVED} when the store is back"
            raise RunStoppedError(what, where=self.url_of(path), hint=hint) from error

    # One change, at once

    def put(self, path: str, content: bytes | Path) -> str:
        """Put an object there, whole or not at all, and return its tag.

        Raises:
            RunStoppedError: the store does not take it.
        """
        key = self._store.url.key_of(path)
        for _ in range(_TRIES):
            known = self.known.get(path)
            try:
                with self.told(path):
                    tag = self._store.write(key, content, Only(None if known is None else known.tag))
            except TagDiffers:
                self._look_at(path)
                continue
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            self.known[path] = ObjectInfo(key, size, tag, 0)
            return tag
        raise RunStoppedError("somebody else goes on writing it", where=self.url_of(path), hint=_SAVED)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there. Raises like `put`."""
        with self.told(path):
            self._store.delete(self._store.url.key_of(path))
        self.known.pop(path, None)

    # Many changes, in threads

    def change(self, path: str, work: Callable[[], object]) -> None:
        """Let a thread do `work`, which changes an object; after what was to be done with it before.

        Raises:
            RunStoppedError, OSError: an earlier change failed; nothing is changed any more.
        """
        self._raise_error()
        self._drop_ended()
        while len(self._changes) >= MOST_WAITING:
            wait(self._changes.values(), return_when=FIRST_COMPLETED)
            self._drop_ended()
        if self._threads is None:
            _ = self.known  # listed here, and not by two threads at once
            self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="r3po-publish")
        self._changes[path] = self._threads.submit(self._carry_out, work, self._changes.get(path))

    def settle(self, timeout_s: float | None = None) -> int:
        """Wait until all changes are made, or some time is over. Raises like `change`.

        Returns:
            How many are still to be made.
        """
        wait(self._changes.values(), timeout_s)
        self._drop_ended()
        self._raise_error()
        return len(self._changes)

    def close(self) -> None:
        """Begin no change any more, and wait for those that were begun."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        self._changes.clear()

    # Private methods

    def _carry_out(self, work: Callable[[], object], before: Future[None] | None) -> None:
        if before is not None:
            wait([before])  # it was given to the threads earlier, so that one of them has it in hand
        if self._error is not None:
            return
        try:
            work()
        except BaseException as error:
            self._error = error  # whoever changes the next one, or waits for all, raises it

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _drop_ended(self) -> None:
        for path in [path for path, change in self._changes.items() if change.done()]:
            del self._changes[path]

    def _look_at(self, path: str) -> None:
        """See how an object looks that is not as it was known."""
        try:
            with self.told(path):
                self.known[path] = self._store.look(self._store.url.key_of(path))
        except FileNotFoundError:
            self.known.pop(path, None)

    def _list(self, folder: str) -> Iterator[tuple[str, ObjectInfo]]:
        url, below = self._store.url, f"{folder}/"
        if self._store.is_s3:
            pages = list_objects(self._store.s3, replace(url, prefix=url.key_of(below)))
        else:
            pages = self._store.list_pages(below=below)
        with closing(pages):
            for page in pages:
                for info in page:
                    path = info.key.removeprefix(url.prefix)
                    if path != below:  # what consoles make for an empty folder
                        yield path, info
