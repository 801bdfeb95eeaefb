"""URLs of folders in object stores, and what `storage_options` says beside them. Nothing here talks to a store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from r3po.errors import ConfigError
from r3po.storage.names import show_text

SCHEMES = ("s3", "gs", "az", "file", "http", "https")

CLOUDS = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
"""The schemes whose first part is a bucket, and what people call the stores."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)

_LIKE_A_SECRET = re.compile(r"key|secret|token|password|sas|credential|signature", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a `source_path` or an `output_path` names no folder of a disk."""
    return _URL.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """A folder of an object store: all objects whose key begins with `prefix`.

    A key is taken as it is written, as the stores' own tools do: nothing in it is an escape, and `?` and `#` are
    letters like others. Only in `file://` and `http(s)://` they are what they are in a browser.
    """

    scheme: str
    """One of `SCHEMES`."""
    bucket: str
    """Of a cloud: the bucket, in Azure the container. Of http(s): host and port. Of a file: empty."""
    prefix: str
    """Empty, or what keys of the folder begin with, with a slash at its end; of http(s) and files the path."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a URL says.

        Raises:
            ConfigError: it says nothing that can be used. What may be a password in it is not repeated.
        """
        match = _URL.fullmatch(text)
        if match is None:
            raise ConfigError(f"not a URL: {show_text(text)}", hint="write it like s3://bucket/folder")
        scheme, rest = match[1].lower(), match[2]
        scheme = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}.get(scheme, scheme)
        if scheme not in SCHEMES:
            raise ConfigError(
                f"{match[1]}:// is no store that r3po knows", hint=f"it knows {', '.join(s + '://' for s in SCHEMES)}"
            )
        host, _, path = rest.partition("/")
        if "@" in host:
            raise ConfigError(
                f"the {scheme}:// URL has a name or a password before its @",
                hint="leave it out: keys come from the environment or a profile, as the cloud's own tools have them",
            )
        if scheme in CLOUDS:
            return cls._in_cloud(scheme, host, path)
        if scheme == "file":
            return cls("file", "", cls._local(text))
        if not host:
            raise ConfigError(f"{scheme}:// names no host", hint=f"write it like {scheme}://host/list.txt")
        return cls(scheme, host, path)

    @property
    def is_cloud(self) -> bool:
        """Whether it is a folder of a bucket."""
        return self.scheme in CLOUDS

    @property
    def root(self) -> str:
        """The URL of the bucket alone."""
        return f"{self.scheme}://{self.bucket}"

    def holds(self, other: ObjectUrl) -> bool:
        """Whether `other` is this folder or lies in it."""
        return self.root == other.root and other.prefix.startswith(self.prefix)

    def key_of(self, path: str) -> str:
        """Return the key of an object that is known by its path below this URL."""
        return self.prefix + path

    def url_of(self, key: str) -> str:
        """Return the URL of an object, for people."""
        return f"{self.root}/{show_text(key)}"

    def __str__(self) -> str:
        return f"{self.root}/{show_text(self.prefix)}" if self.prefix else self.root

    # Private methods

    @classmethod
    def _in_cloud(cls, scheme: str, bucket: str, path: str) -> Self:
        if not re.fullmatch(r"[A-Za-z0-9$][A-Za-z0-9._$-]*", bucket):
            shown = f"{show_text(bucket)} is no name of a bucket" if bucket else "it names no bucket"
            raise ConfigError(
                f"{scheme}://{show_text(bucket)}: {shown}", hint=f"write it like {scheme}://bucket/folder"
            )
        return cls(scheme, bucket, path if not path or path.endswith("/") else path + "/")

    @classmethod
    def _local(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigError(
                f"{show_text(text)} names another machine, or no absolute path", hint="write it like file:///data/files"
            )
        return unquote(parts.path)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What `storage_options` says: where a store is and who asks, but never a secret."""

    endpoint: str | None = None
    """URL of a server that is not the cloud's own; http:// only where it says so."""
    region: str | None = None
    anonymous: bool = False
    """Ask without credentials, as a public bucket allows."""
    profile: str | None = None
    """Of the files that `aws configure` writes."""
    account: str | None = None
    """The storage account of Azure."""

    def for_pandas(self, scheme: str) -> dict[str, str]:
        """Return what pandas needs as its `storage_options` to find the same store: the words of s3fs, gcsfs, adlfs."""
        if scheme == "az":
            told = {"account_name": self.account}
        else:
            told = {"endpoint_url": self.endpoint, "profile": self.profile if scheme == "s3" else None}
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Return the options of a config.

        Raises:
            ConfigError: one is not known, or is of the wrong type; each problem is a line. No value is repeated.
        """
        known = {each.name for each in fields(cls)}
        problems = []
        for name, value in options.items():
            if name not in known:
                problems.append(_unknown(name, known))
            elif not isinstance(value, bool if name == "anonymous" else str) or value == "":
                takes = "true or false" if name == "anonymous" else "a text"
                problems.append(f"storage_options.{name}: takes {takes}")
        endpoint = options.get("endpoint")
        if isinstance(endpoint, str) and not re.fullmatch(r"https?://[^/@?#\s]+/?", endpoint):
            problems.append(
                "storage_options.endpoint: takes a URL like https://host:9000, without a path or a password"
            )
        if problems:
            raise ConfigError("storage_options cannot be used", evidence="\n".join(problems))
        return cls(**options)


# Private functions


def _unknown(name: str, known: set[str]) -> str:
    if _LIKE_A_SECRET.search(name):
        return (
            f"storage_options.{name}: secrets do not belong into a config; they come from the environment, a profile "
            "or the machine, as the cloud's own tools have them"
        )
    return f"storage_options.{name}: not known; there are {', '.join(sorted(known))}"
