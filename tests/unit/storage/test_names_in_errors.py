"""A store that cannot be reached is told as that, whatever bucket and key are called."""

from __future__ import annotations

import pytest

from r3po.storage import obstore_clients
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.objects import ObjectStore
from r3po.storage.s3_client import Patience
from r3po.storage.store_errors import StoreUnavailable


@pytest.mark.parametrize(
    ("bucket", "key"),
    [("plain", "raw/a.json"), ("plain", "certificates/a b.json"), ("tls-logs", "a.json"), ("plain", "proxy/ssl.json")],
)
def test_words_in_a_name_do_not_explain_an_error(bucket: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(obstore_clients, "IN_RUN", Patience(1, 1.0))
    store = ObjectStore(ObjectUrl.parse(f"s3://{bucket}"), StoreOptions(endpoint="http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailable, match="nobody takes the connection"):
        store.read(key)
