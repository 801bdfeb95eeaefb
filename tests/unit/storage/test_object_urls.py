"""What URLs and `storage_options` say, and what becomes of what stores say. No store is asked."""

from __future__ import annotations

import errno
import pickle

import pytest

from r3po.errors import ConfigError, StoreError
from r3po.storage.object_urls import ObjectUrl, StoreOptions, is_url
from r3po.storage.objects import ObjectStore
from r3po.storage.store_errors import (
    Refusal,
    TagDiffers,
    error_of,
    refusal_of_answer,
    refusal_of_obstore,
    refusal_of_way,
)

URL = ObjectUrl("s3", "files", "raw/")


@pytest.mark.parametrize(
    ("text", "scheme", "bucket", "prefix"),
    [
        ("s3://files", "s3", "files", ""),
        ("s3://files/", "s3", "files", ""),
        ("S3://files/raw", "s3", "files", "raw/"),
        ("s3a://files/raw/", "s3", "files", "raw/"),
        ("s3://files/a b/%20+é?x#y", "s3", "files", "a b/%20+é?x#y/"),
        ("s3://files//raw", "s3", "files", "/raw/"),
        ("gs://files/raw", "gs", "files", "raw/"),
        ("az://container/raw", "az", "container", "raw/"),
        ("file:///data/a%20b", "file", "", "/data/a b"),
        ("https://host:8000/list.txt?x=1", "https", "host:8000", "list.txt?x=1"),
    ],
)
def test_a_url_is_taken_apart_and_keys_are_as_they_are_written(
    text: str, scheme: str, bucket: str, prefix: str
) -> None:
    assert is_url(text)
    assert ObjectUrl.parse(text) == ObjectUrl(scheme, bucket, prefix)


@pytest.mark.parametrize(
    "text",
    [
        "data",
        "ftp://host/x",
        "s3://",
        "s3:///raw",
        "s3://KEY:hush@files/raw",
        "https://me:hush@host/x",
        "file://host/x",
    ],
)
def test_a_url_that_cannot_be_used_is_one_error_without_the_password(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ObjectUrl.parse(text)
    assert caught.value.hint
    assert "hush" not in str(caught.value)


def test_options_are_told_all_their_problems_at_once_and_secrets_are_sent_away() -> None:
    with pytest.raises(ConfigError) as caught:
        StoreOptions.from_mapping(
            {"secret_access_key": "hush", "zone": "x", "anonymous": "yes", "endpoint": "http://me:hush@host"}
        )
    lines = (caught.value.evidence or "").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "storage_options.secret_access_key",
        "storage_options.zone",
        "storage_options.anonymous",
        "storage_options.endpoint",
    ]
    assert "environment" in lines[0] and "hush" not in str(caught.value)
    options = StoreOptions.from_mapping({"endpoint": "http://host:9000", "anonymous": True})
    assert options == StoreOptions(endpoint="http://host:9000", anonymous=True)


@pytest.mark.parametrize(
    ("status", "code", "says", "hint"),
    [
        (404, "NoSuchBucket", "no such bucket", "name"),
        (403, "InvalidAccessKeyId", "access key", "aws configure"),
        (403, "SignatureDoesNotMatch", "secret", "aws configure"),
        (400, "ExpiredToken", "expired", "sso login"),
        (403, "RequestTimeTooSkewed", "clock", "set-ntp"),
        (400, "AuthorizationHeaderMalformed", "another region", "region: eu-central-1"),
        (301, "PermanentRedirect", "another region", "region: eu-central-1"),
        (403, "AccessDenied", "do not allow to list", "s3:ListBucket on s3://files/raw/"),
        (503, "SlowDown", "the store fails", "try again later"),
        (400, "Odd", "refused to list", "URL"),
    ],
)
def test_each_refusal_of_a_listing_is_one_error_with_what_to_do(status: int, code: str, says: str, hint: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>so it is</Message><Region>eu-central-1</Region></Error>"
    error = error_of(refusal_of_answer(status, body), "list", URL, at_start=True)
    assert isinstance(error, StoreError)
    assert says in error.headline and str(URL) in error.headline
    assert error.evidence == f"HTTP {status} {code}: so it is"
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("HTTP error: error sending request\n\nDebug source:\n ConnectError(dns error, ...)", "dns"),
        ("error sending request\n\nDebug source: tcp connect error, Connection refused (os error 111)", "refused"),
        ("error sending request\n\nDebug source: invalid peer certificate: UnknownIssuer", "tls"),
        ("error sending request\n\nDebug source: kind: Timeout, source: TimedOut", "timeout"),
        ("HTTP error: request or response body error\n\nDebug source: IncompleteBody", "cut"),
    ],
)
def test_what_went_wrong_on_the_way_is_told_apart(text: str, code: str) -> None:
    refusal = refusal_of_obstore(Exception(text))
    assert (refusal.status, refusal.code) == (None, code)
    at_start = error_of(refusal, "list", URL, at_start=True)
    assert isinstance(at_start, StoreError) and at_start.hint


def test_a_proxy_that_refuses_is_named() -> None:
    assert refusal_of_way("ProxyConnectionError Tunnel connection failed: 407").code == "proxy"


def test_of_one_object_errors_are_those_of_a_file_and_of_a_store_those_of_the_environment() -> None:
    assert isinstance(error_of(Refusal(404, "NoSuchKey"), "read", URL, "k"), FileNotFoundError)
    azure = ObjectUrl.parse("az://container/raw")  # it says no code where there is no body
    assert isinstance(error_of(Refusal(404), "read", azure, "k"), FileNotFoundError)
    assert "no such bucket" in str(error_of(Refusal(404), "list", azure))
    assert isinstance(error_of(Refusal(403, "AccessDenied"), "read", URL, "k"), PermissionError)
    assert isinstance(error_of(Refusal(403, "AccessDenied"), "write", URL, "k"), StoreError)
    assert isinstance(error_of(Refusal(412), "read", URL, "k"), TagDiffers)
    for refusal in (Refusal(500), Refusal(503, "SlowDown"), Refusal(429), Refusal(None, "cut"), Refusal(409)):
        error = error_of(refusal, "read", URL, "k")
        assert isinstance(error, OSError) and error.errno == errno.EIO
    timeout = error_of(Refusal(None, "timeout"), "read", URL, "k")
    assert isinstance(timeout, OSError) and timeout.errno == errno.ETIMEDOUT


def test_no_message_repeats_a_key_a_token_or_a_signature() -> None:
    token = "FwoGZXIvYXdzEBYaD" + "x" * 40
    body = (
        f"<Error><Code>Odd</Code><Message>AKIAIOSFODNN7EXAMPLE x-amz-security-token={token} https://u:pw@h/ sig=abc "
        f"{token}</Message><StringToSign>{token}</StringToSign></Error>"
    )
    said = str(error_of(refusal_of_answer(400, body), "read", URL, "k"))
    for secret in ("AKIAIOSFODNN7EXAMPLE", token, "u:pw", "sig=abc"):
        assert secret not in said


def test_a_store_is_pickled_without_what_it_has_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "r3po-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    store = ObjectStore(URL, StoreOptions(endpoint="http://127.0.0.1:9"))
    assert store.s3.access.frozen_credentials().secret_key == "hush-hush"
    for text in (pickle.dumps(store).decode("latin-1"), repr(store), repr(store.s3), repr(store.s3.access)):
        assert "hush-hush" not in text and "r3po-key" not in text
    again = pickle.loads(pickle.dumps(store))
    assert (again.url, again.options) == (store.url, store.options)


def test_without_credentials_a_store_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials for S3") as caught:
        ObjectStore(URL).check_listing()
    assert "aws configure" in (caught.value.hint or "")
    with pytest.raises(StoreError) as caught:
        ObjectStore(URL, StoreOptions(profile="nobody")).check_listing()
    assert "nobody" in (caught.value.evidence or "")
