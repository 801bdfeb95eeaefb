"""S3 by single requests, with any key: botocore's credentials and signatures, and nothing else of it.

obstore cannot say keys with an empty part, with `.`, `..` or a control character, and its listing fails over one of
them. This client can. It also finds what boto's users have set up: environment, profile, instance, endpoint, region.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from r3po.errors import StoreError
from r3po.storage.object_urls import ObjectUrl, StoreOptions
from r3po.storage.store_errors import (
    Refusal,
    Verb,
    error_of,
    no_credentials,
    refusal_of_answer,
    refusal_of_way,
    without_client,
)

CONNECT_S = 5
READ_S = 30
"""Seconds to wait for a connection, and for the next bytes of an answer."""

CREDENTIALS_S = 900
"""Seconds after which botocore is asked for the credentials again; it renews them in time by itself."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client goes on with a request that fails for now."""

    n_tries: int
    total_s: float
    """No try begins after so many seconds."""
    read_s: float = READ_S


AT_START = Patience(3, 8.0, 6.0)
"""For the first look at a store: what is wrong with it is told within 20 s."""

IN_RUN = Patience(8, 60.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the store, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class S3Access:
    """Where a bucket is and who asks, as boto's users have set it up.

    Attributes:
        endpoint: URL of the server, without a slash at its end.
        is_aws: whether that is Amazon's own.
        region: where the bucket is taken to be.
        ca_file: of the authorities that are trusted beside the system's; None: of no others.
    """

    def __init__(self, url: ObjectUrl, options: StoreOptions) -> None:
        """Look around.

        Raises:
            StoreError: there are no credentials, no such profile, or no botocore.
        """
        try:
            import botocore.exceptions
            import botocore.session
        except ImportError:
            raise without_client(url) from None
        try:
            session = botocore.session.Session(profile=options.profile)
            config = session.get_scoped_config()
            region = options.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
            self.ca_file: str | None = session.get_config_variable("ca_bundle")
            self._credentials = None if options.anonymous else session.get_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise no_credentials(url, str(error)) from None
        if self._credentials is None and not options.anonymous:
            raise no_credentials(url)
        self._url = url
        self.is_anonymous = options.anonymous
        self.region: str = region or "us-east-1"
        endpoint = options.endpoint or _endpoint_of(os.environ, config)
        self.is_aws = endpoint is None or ".amazonaws.com" in endpoint
        self.endpoint = endpoint.rstrip("/") if endpoint else _amazon(self.region)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint!r}, {self.region!r})"

    def frozen_credentials(self) -> Any:
        """Return access key, secret and token of now; None: the requests are anonymous.

        Raises:
            StoreError: they cannot be renewed.
        """
        if self._credentials is None:
            return None
        try:
            return self._credentials.get_frozen_credentials()
        except Exception as error:  # whatever a provider of credentials runs into
            raise no_credentials(self._url, f"they cannot be renewed: {type(error).__name__}") from None

    def for_obstore(self) -> Callable[[], dict[str, Any]]:
        """Return what obstore calls for credentials."""

        def provide() -> dict[str, Any]:
            found = self.frozen_credentials()
            return {
                "access_key_id": found.access_key,
                "secret_access_key": found.secret_key,
                "token": found.token,
                "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_S),
            }

        return provide


class S3Client:
    """Signed requests to one bucket. Threads may share it."""

    def __init__(self, url: ObjectUrl, options: StoreOptions, access: S3Access | None = None) -> None:
        self._url = url
        self.access = access or S3Access(url, options)
        self._sessions = threading.local()

    def request(
        self,
        verb: Verb,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        patience: Patience = IN_RUN,
    ) -> Answer:
        """Return the answer to a request without a body; one that fails for now is made again.

        Raises:
            StoreError, OSError, TagDiffers: see `store_errors`.
        """
        path = f"/{self._url.bucket}" + (f"/{quote(key, safe='/~', errors='surrogateescape')}" if key else "")
        target = (
            self.access.endpoint + path + (f"?{urlencode(sorted(query.items()), quote_via=quote)}" if query else "")
        )
        end, n_tries = time.monotonic() + patience.total_s, 0
        while True:
            n_tries += 1
            answer = self._send(method, target, headers or {}, patience)
            if isinstance(answer, Answer):
                if answer.status < 300:
                    return answer
                text = answer.body[:20_000].decode("utf-8", "replace")
                refusal = refusal_of_answer(answer.status, text, answer.headers.get("x-amz-bucket-region", ""))
            else:
                refusal = answer
            pause = min(5.0, 0.05 * 2**n_tries) * random.uniform(0.5, 1)
            if not _may_pass(refusal) or n_tries >= patience.n_tries or time.monotonic() + pause > end:
                raise error_of(refusal, verb, self._url, key or None, at_start=patience is AT_START)
            time.sleep(pause)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    # Private methods

    def _send(self, method: str, target: str, headers: Mapping[str, str], patience: Patience) -> Answer | Refusal:
        """Return the answer to one try, or why there was none."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        request = AWSRequest(method=method, url=target, headers=dict(headers))
        found = self.access.frozen_credentials()
        if found is not None:
            S3SigV4Auth(found, "s3", self.access.region).add_auth(request)
        try:
            answer = self._session(patience.read_s).send(request.prepare())
            body = answer.content
        except BotoCoreError as error:
            # Its own text has the URL, in which the words may be that are looked for.
            return refusal_of_way(f"{type(error).__name__} {error.kwargs.get('error')!r}")
        length = answer.headers.get("Content-Length")
        if method != "HEAD" and length is not None and int(length) != len(body):
            return refusal_of_way("the answer has an end missing")  # nobody else looks
        return Answer(answer.status_code, answer.headers, body)

    def _session(self, read_s: float) -> Any:
        """Return this thread's connections. They are made here: a fork leaves them behind."""
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        kept: dict[tuple[int, float], Any] = self._sessions.__dict__.setdefault("kept", {})
        name = os.getpid(), read_s
        if name not in kept:
            kept[name] = URLLib3Session(
                verify=self.access.ca_file or True,
                proxies=get_environ_proxies(self.access.endpoint),
                timeout=(CONNECT_S, read_s),
            )
        return kept[name]


# Private functions


def _may_pass(refusal: Refusal) -> bool:
    """Whether the same request may be answered in a moment."""
    if refusal.status is None:
        return refusal.code not in ("tls", "proxy")
    return refusal.status >= 500 or refusal.status in (408, 429)


def _endpoint_of(environment: Mapping[str, str], config: Mapping[str, Any]) -> str | None:
    """Return the endpoint that boto's users have set, in the order in which boto looks for it."""
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    found = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or config.get("endpoint_url")
    if found is not None and not str(found).startswith(("http://", "https://")):
        raise StoreError(
            "AWS_ENDPOINT_URL is no URL of a server", hint="write it like https://host:9000, with http:// or https://"
        )
    return found or None


def _amazon(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
