"""Files of web servers, each known by its whole URL: read and looked at as objects of a store are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from r3po.storage.object_urls import ObjectUrl
from r3po.storage.objects import ObjectInfo, ObjectStore
from r3po.storage.store_errors import TagDiffers


class UrlStore(ObjectStore):
    """The files that a list names, whose URL is this store's. Paths are URLs, and so are keys."""

    def key_of(self, path: str) -> str:
        return path

    def where(self, path: str) -> str:
        return path

    def read(self, key: str, *, tag: str | None = None, size: int | None = None) -> tuple[bytes, ObjectInfo]:
        server, name = self._server_of(key)
        data, info = server.read(name)
        _check_tag(key, info, tag)
        return data, info

    def stream(
        self, key: str, take: Callable[[Any], object], *, tag: str | None = None, size: int | None = None
    ) -> ObjectInfo:
        server, name = self._server_of(key)
        info = server.stream(name, take)
        _check_tag(key, info, tag)
        return info

    def look(self, key: str, *, at_start: bool = False) -> ObjectInfo:
        server, name = self._server_of(key)
        return server.look(name, at_start=at_start)

    def check_listing(self) -> None:
        """See that the list is there; its files may be on other servers.

        Raises:
            StoreError, OSError: it is not.
        """
        self.look(str(self.url), at_start=True)

    # Private methods

    def _server_of(self, key: str) -> tuple[ObjectStore, str]:
        """Return the server of a URL, and what it calls the file."""
        parts = urlsplit(key)
        url = ObjectUrl(parts.scheme, parts.netloc, "")
        server: ObjectStore = self._once(str(url), lambda: ObjectStore(url, self.options))
        return server, unquote(parts.path.lstrip("/"))


# Private functions


def _check_tag(key: str, info: ObjectInfo, tag: str | None) -> None:
    # Not by If-Match: of a weak etag, as servers give that compress, it never holds.
    if tag is not None and info.tag != tag:
        raise TagDiffers(key)
