"""Objects of one bucket: read, write, look at and delete them by key.

obstore's synchronous calls only, from any thread: its asynchronous ones have aborted the interpreter at its end. A
process that has used it must not fork: the child would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from r3po.errors import StoreError
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.obstore_clients import Use, make_client, obstore_of, says_key
from r3po.storage.s3_client import AT_START, S3Access, S3Client
from r3po.storage.store_errors import (
    Refusal,
    StoreUnavailable,
    TagDiffers,
    Verb,
    error_of,
    refusal_of_obstore,
    without_conditions,
)

ONE_PUT_BYTES = 64 << 20
"""Most bytes of an object that is written by one request; a larger one is put together of pieces."""

PIECE_BYTES = 16 << 20

_READS = 3
"""How often an object is read at most whose answers have another size than it."""

BLOCK_BYTES = 1 << 20
"""Bytes of an object in memory while it is read into a file."""


class ObjectInfo(NamedTuple):
    """What an object looks like, by its listing or by an answer."""

    key: str
    size: int
    tag: str
    """The etag with its quotes, as the store gives it; it says whether two looks were at the same object, and nothing
    else: it is no hash of the content."""
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Only:
    """What must hold for an object to be written.

    Attributes:
        tag: of the object that is replaced; None: there must be none.
    """

    tag: str | None = None


class ObjectStore:
    """The objects of one bucket. Threads may share it; pickled, it takes no secret along."""

    def __init__(self, url: ObjectUrl, options: StoreOptions | None = None, *, client: Any = None) -> None:
        """Name a store; nothing is asked before the first request.

        Args:
            url: its bucket counts, and its prefix in errors; keys are whole.
            options: where it is.
            client: a store of obstore to use instead, such as one in memory.
        """
        self.url, self.options = url, options or StoreOptions()
        self._given = client
        self._lock = threading.Lock()
        self._made: dict[tuple[int, str], Any] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.url)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.options)

    def key_of(self, path: str) -> str:
        """Return the key of an object that is known by its path below the URL."""
        return self.url.key_of(path)

    def where(self, path: str) -> str:
        """Return the URL of an object that is known by its path, for people and for f."""
        return self.url.url_of(self.key_of(path))

    @property
    def is_s3(self) -> bool:
        """Whether there is a client for what obstore cannot say."""
        return self.url.scheme == "s3" and self._given is None

    @property
    def s3(self) -> S3Client:
        """The client for what obstore cannot say. Only of s3://."""
        client: S3Client = self._once("s3", lambda: S3Client(self.url, self.options, self._s3_access))
        return client

    def read(self, key: str, *, tag: str | None = None, size: int | None = None) -> tuple[bytes, ObjectInfo]:
        """Return an object's content, and what it looks like.

        Args:
            key: its key.
            tag: that it must have.
            size: that it must have, as it was listed with this tag.

        Raises:
            TagDiffers: it is another object by now.
            FileNotFoundError: it is gone.
            PermissionError: it may not be read.
            OSError: the store fails for now, or gave another number of bytes.
            StoreError: the store cannot be used as it is.
        """
        for _ in range(_READS):
            data, info = self._read(key, tag)
            if len(data) == (info.size if size is None else size):
                break  # else an answer that is whole by its own words, and too short: no client notices
        _check_size(key, len(data), info.size if size is None else size)
        return data, info

    def stream(
        self, key: str, take: Callable[[Any], object], *, tag: str | None = None, size: int | None = None
    ) -> ObjectInfo:
        """Read an object of any size in blocks, each of which `take` is called with. See `read`."""
        is_small = size is not None and size <= BLOCK_BYTES  # one call in place of four
        if is_small or self._is_odd(key):
            data, info = self.read(key, tag=tag, size=size)
            take(data)
            return info
        n_bytes = 0
        with self._words("read", key):
            result = obstore_of(self.url).get(self._client(), key, options={"if_match": tag} if tag else None)
            info = _info(key, result.meta)
            blocks = iter(result.stream(min_chunk_size=BLOCK_BYTES))
        while True:
            with self._words("read", key):
                block = next(blocks, None)
            if block is None:
                break
            n_bytes += len(block)
            take(block)
        _check_size(key, n_bytes, info.size if size is None else size)
        return info

    def look(self, key: str, *, at_start: bool = False) -> ObjectInfo:
        """Return what an object looks like. Raises as `read` does.

        Args:
            at_start: nothing was done yet: what is wrong with the store is told within 20 s.
        """
        if self._is_odd(key):
            answer = self.s3.request("read", "HEAD", key)
            return _info_of_headers(key, answer.headers, int(answer.headers.get("Content-Length", 0)))
        with self._words("read", key, at_start=at_start):
            return _info(key, obstore_of(self.url).head(self._client("start" if at_start else "read"), key))

    def write(self, key: str, content: bytes | Path, only: Only | None = None) -> str:
        """Put an object there, whole or not at all, and return its tag.

        Of one that is larger than `ONE_PUT_BYTES` the condition is looked at before the pieces are sent, and not by
        the store in the moment of the end.

        Args:
            key: its key.
            content: its bytes, or a file that has them.
            only: what must hold; None: nothing.

        Raises:
            TagDiffers: that does not hold. Where an answer was lost and the request made again, the object may be ours:
                it is then compared, so that of two writers with the very same bytes both succeed.
            StoreError, OSError: as `read`.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        is_whole = size <= ONE_PUT_BYTES
        if not is_whole and only is not None:
            self._check(key, only)
        options: dict[str, Any] = {"use_multipart": not is_whole}
        if is_whole and only is not None:
            options["mode"] = "create" if only.tag is None else self._version_of(key, only.tag)
        if not is_whole:
            options |= {"chunk_size": PIECE_BYTES, "max_concurrency": 4}
        try:
            with self._words("write", key):
                # obstore begins a file in pieces whatever its size, unless it has the bytes.
                whole = content.read_bytes() if is_whole and isinstance(content, Path) else content
                result = obstore_of(self.url).put(self._client("write"), key, whole, **options)
        except (TagDiffers, FileNotFoundError):
            if only is None:
                raise
            tag = self._own_tag(key, content, size)
            if tag is None:
                raise TagDiffers(key) from None
            return tag
        return _tag(result)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is none to remove."""
        if self._is_odd(key):
            self.s3.request("delete", "DELETE", key)
            return
        with contextlib.suppress(FileNotFoundError), self._words("delete", key):
            obstore_of(self.url).delete(self._client(), key)

    def list_pages(self, start_after: str = "", *, below: str = "") -> Generator[list[ObjectInfo]]:
        """Yield what obstore lists below the URL, in the store's order. Of S3 `s3_list` knows more.

        Args:
            start_after: only keys behind this one.
            below: a folder of the URL's, with a slash at its end.
        """
        prefix = self.url.key_of(below) or None
        with self._words("list"):
            pages = iter(obstore_of(self.url).list(self._client(), prefix, offset=start_after or None, chunk_size=1000))
        while True:
            with self._words("list"):
                page = next(pages, None)
            if page is None:
                return
            yield [_info(meta["path"], meta) for meta in page]

    def check_listing(self) -> None:
        """Look at the first key below the URL.

        Raises:
            StoreError: it cannot be listed; within 20 s, and why.
        """
        if self.is_s3:
            query = {"list-type": "2", "max-keys": "1", "prefix": self.url.prefix}
            self.s3.request("list", "GET", query=query, patience=AT_START)
            return
        with self._words("list", at_start=True):
            next(iter(obstore_of(self.url).list(self._client("start"), self.url.prefix or None, chunk_size=1)), None)

    def check_writing(self, key: str) -> None:
        """Write an object under a key that nobody uses, see whether conditions are kept, and remove it.

        It is as patient as any writing: `check_listing` before it tells early what is wrong with the store.

        Raises:
            StoreError: there is no permission, or the store lets two writers win, so that no job could own its output.
        """
        content = uuid.uuid4().bytes
        tag = self.write(key, content, Only())
        try:
            for condition in (Only(), Only(tag.replace(tag[-9:-1], "deadbeef"))):
                with contextlib.suppress(TagDiffers):
                    self.write(key, uuid.uuid4().bytes, condition)
                    raise without_conditions(self.url)
        finally:
            self.delete(key)

    # Private methods

    def _read(self, key: str, tag: str | None) -> tuple[bytes, ObjectInfo]:
        if self._is_odd(key):
            answer = self.s3.request("read", "GET", key, headers={"If-Match": tag} if tag else None)
            return answer.body, _info_of_headers(key, answer.headers, len(answer.body))
        with self._words("read", key):
            result = obstore_of(self.url).get(self._client(), key, options={"if_match": tag} if tag else None)
            return bytes(result.bytes()), _info(key, result.meta)

    def _is_odd(self, key: str) -> bool:
        """Whether obstore would refuse the key, or take it for another one, but another client knows it.

        Raises:
            OSError: nobody knows it.
        """
        if says_key(key):
            return False
        if not self.is_s3:
            raise OSError(
                errno.EINVAL, "a key with an empty or dotted part, or a control character, cannot be read", key
            )
        return True

    def _check(self, key: str, only: Only) -> None:
        try:
            tag: str | None = self.look(key).tag
        except FileNotFoundError:
            tag = None
        if tag != only.tag:
            raise TagDiffers(key)

    def _version_of(self, key: str, tag: str) -> dict[str, str]:
        """Return what names the object that is replaced. Google's store takes no etag for it."""
        if self.url.scheme != "gs" or self._given is not None:
            return {"e_tag": tag}
        try:
            with self._words("read", key):
                meta = obstore_of(self.url).head(self._client(), key)
        except FileNotFoundError:
            raise TagDiffers(key) from None
        if _tag(meta) != tag:
            raise TagDiffers(key)
        return {"e_tag": tag, "version": meta["version"] or ""}

    def _own_tag(self, key: str, content: bytes | Path, size: int) -> str | None:
        """Return the tag of the object if it has this very content; else None."""
        try:
            info = self.look(key)
            if info.size != size:
                return None
            data, info = self.read(key, tag=info.tag, size=size)
        except (TagDiffers, FileNotFoundError, PermissionError):
            return None
        return info.tag if data == (content.read_bytes() if isinstance(content, Path) else content) else None

    @contextlib.contextmanager
    def _words(self, verb: Verb, key: str | None = None, *, at_start: bool = False) -> Iterator[None]:
        """Turn what obstore raises into what `store_errors` says."""
        try:
            yield
        except StoreError:
            raise
        except FileExistsError:
            raise TagDiffers(key) from None
        except (FileNotFoundError, ValueError) as error:
            refusal = refusal_of_obstore(error)
            if refusal.status is None:
                number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EINVAL
                text = "no such object" if number == errno.ENOENT else "this key cannot be read"
                raise OSError(number, text, key) from None
            raise error_of(refusal, verb, self.url, key, at_start=at_start) from None
        except obstore_of(self.url).exceptions.BaseError as error:
            # Its text has all that the store answered: it must not be in the traceback either.
            raise error_of(_refusal(error), verb, self.url, key, at_start=at_start) from None

    @property
    def _s3_access(self) -> S3Access | None:
        if self.url.scheme != "s3":
            return None
        access: S3Access = self._once("access", lambda: S3Access(self.url, self.options))
        return access

    def _client(self, use: Use = "read") -> Any:
        return self._given or self._once(use, lambda: make_client(self.url, self.options, use, self._s3_access))

    def _once(self, name: str, make: Any) -> Any:
        """Return what is made once a process."""
        found = self._made.get((os.getpid(), name))
        if found is None:
            made = make()
            with self._lock:
                found = self._made.setdefault((os.getpid(), name), made)
        return found


# Private functions


def _refusal(error: Exception) -> Refusal:
    name = type(error).__name__
    if name in ("AlreadyExistsError", "PreconditionError", "NotModifiedError"):
        return Refusal(412, "PreconditionFailed")
    return refusal_of_obstore(error)


def _info(key: str, meta: Any) -> ObjectInfo:
    return ObjectInfo(key, meta["size"], _tag(meta), _nanoseconds(meta["last_modified"]))


def _tag(meta: Any) -> str:
    """Return the etag, with quotes also where a listing has none (Azure's)."""
    tag = str(meta["e_tag"] or meta["version"] or "")
    return tag if not tag or tag.endswith('"') else f'"{tag}"'


def _info_of_headers(key: str, headers: Any, size: int) -> ObjectInfo:
    from email.utils import parsedate_to_datetime

    modified = headers.get("Last-Modified")
    return ObjectInfo(
        key, size, headers.get("ETag", ""), _nanoseconds(parsedate_to_datetime(modified)) if modified else 0
    )


def _nanoseconds(moment: Any) -> int:
    seconds: float = moment.timestamp()
    return int(seconds) * 10**9 + int(moment.microsecond) * 1000


def _check_size(key: str, n_bytes: int, size: int) -> None:
    if n_bytes != size:
        raise StoreUnavailable(errno.EIO, f"the store gave {n_bytes:,} of {size:,} bytes", key)
