"""Clients of obstore for a URL: where they find the store, whom they trust, how patient they are."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.s3_client import AT_START, CONNECT_S, IN_RUN, READ_S, S3Access
from r3po.storage.store_errors import without_client

WRITE_S = 300
"""Seconds that a store may be silent while a piece of an object is sent to it."""

LONGEST_S = 12 * 3600
"""Seconds that one answer may take as long as bytes come."""

Use = Literal["read", "write", "start"]


def obstore_of(url: ObjectUrl) -> Any:
    """Return the module.

    Raises:
        StoreError: it is not installed.
    """
    try:
        import obstore
    except ImportError:
        raise without_client(url) from None
    return obstore


def says_key(key: str) -> bool:
    """Whether obstore can name a key. It refuses some, and drops slashes at both ends without a word."""
    return key.isprintable() and not any(part in ("", ".", "..") for part in key.split("/"))


def make_client(url: ObjectUrl, options: StoreOptions, use: Use, access: S3Access | None) -> Any:
    """Return a store of obstore.

    Args:
        url: its bucket counts.
        options: where it is.
        use: what for: `start` gives up early, `write` waits longer for an answer.
        access: of s3:// alone.
    """
    obstore_of(url)
    from obstore import store as stores

    makers: dict[str, Any] = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}
    if url.scheme == "file":
        return stores.LocalStore(url.prefix)
    endpoint = access.endpoint if access else options.endpoint
    settings: dict[str, Any] = {
        "client_options": _client_options(use, endpoint or str(url), access.ca_file if access else None),
        "retry_config": _retries(use),
    }
    if url.scheme not in makers:
        return stores.HTTPStore.from_url(url.root, **settings)
    if options.anonymous:
        settings["skip_signature"] = True
    if endpoint:
        settings["base_url" if url.scheme == "gs" else "endpoint"] = endpoint
    if options.account and url.scheme == "az":
        settings["account_name"] = options.account
    if access:
        settings["region"] = access.region
        if not access.is_anonymous:
            settings["credential_provider"] = access.for_obstore()
    return makers[url.scheme](url.bucket, **settings)


# Private functions


def _client_options(use: Use, endpoint: str, ca_file: str | None) -> dict[str, Any]:
    patience = AT_START if use == "start" else IN_RUN
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=WRITE_S if use == "write" else patience.read_s),
        "timeout": timedelta(seconds=READ_S if use == "start" else LONGEST_S),
    }
    ca_file = ca_file or os.environ.get("SSL_CERT_FILE")
    if ca_file:
        options["root_certificate"] = Path(ca_file).read_bytes()
    return options


def _retries(use: Use) -> dict[str, Any]:
    patience = AT_START if use == "start" else IN_RUN
    return {
        "max_retries": patience.n_tries - 1,
        "retry_timeout": timedelta(seconds=patience.total_s),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
