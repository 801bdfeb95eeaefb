"""What stores and the way to them say, in r3po's words: the one place where it becomes an error.

Three kinds: the store cannot be used as it is (`StoreError`, with what to do), one object cannot (an `OSError` of that
object, as of a file), and the store or the way to it fails for now (an `OSError` of the environment, such as EIO).
Of what a store said only its code and its message are repeated: the rest of an answer may hold keys and tokens.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal

from r3po.errors import R3poError, StoreError
from r3po.storage.object_urls import CLOUDS, ObjectUrl

Verb = Literal["list", "read", "write", "delete"]


class TagDiffers(Exception):
    """The object is not the one that the request is about: it has another tag, or one that must not be there is."""


class StoreUnavailable(OSError):
    """The store, or the way to it, fails for now: no fault of the object that was asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request came to nothing."""

    status: int | None = None
    """Of HTTP; None: there was no answer."""
    code: str = ""
    """The store's own, such as NoSuchBucket; or, without an answer, one of `_WAYS`."""
    message: str = ""
    """The store's own, as far as it may be repeated."""
    region: str = ""
    """Where the store says that the bucket is."""

    @property
    def said(self) -> str:
        """The refusal in one line."""
        status = f"HTTP {self.status}" if self.status else ""
        return ": ".join(part for part in (" ".join(filter(None, (status, self.code))), self.message) if part)


def refusal_of_answer(status: int, body: str, region: str = "") -> Refusal:
    """Return the refusal in an answer of HTTP."""
    code, message = _element("Code", body), _element("Message", body)
    return Refusal(status, code, _harmless(message), _element("Region", body) or region)


def refusal_of_way(text: str) -> Refusal:
    """Return the refusal in what a client says who got no answer."""
    low = text.lower()
    for code, signs in _WAYS.items():
        for sign in signs:
            if sign in low:
                return Refusal(None, code, f"{_WAY_TEXTS[code]} ({sign})")
    return Refusal(None, "cut", _WAY_TEXTS["cut"])


def refusal_of_obstore(error: Exception) -> Refusal:
    """Return the refusal in an exception of obstore, whose text holds all that the store answered."""
    text = str(error).partition("\n\nDebug source:")
    if match := re.search(r"status code: (\d{3})[^:\n]*:?(.*)", text[0], re.DOTALL):
        return refusal_of_answer(int(match[1]), match[2])
    if "incorrectly configured region" in text[0]:
        return Refusal(301, "PermanentRedirect", "the store sends on to another region")
    # Without URLs: a bucket or a key may be called proxy or certificates.
    return refusal_of_way(re.sub(r"https?://\S+", "", text[2] + text[0]))


def error_of(
    refusal: Refusal, verb: Verb, url: ObjectUrl, key: str | None = None, *, at_start: bool = False
) -> Exception:
    """Return what to raise.

    Args:
        refusal: what the store, or the way to it, said.
        verb: what was asked.
        url: of the folder.
        key: of the object that it is about; None: of none.
        at_start: nothing was done yet, so that a store that fails for now is told at once, too.
    """
    status = refusal.status
    if told := _of_code(refusal, url, key):
        return told
    if status is None or status >= 500 or status in _PASSING:
        return _passing(refusal, verb, url, key, at_start=at_start)
    if status == 412:
        return TagDiffers(key or str(url))
    if key is not None and status == 404:
        return FileNotFoundError(errno.ENOENT, "no such object", key)
    if key is not None and status == 403 and verb == "read":
        return PermissionError(errno.EACCES, "the store does not allow to read it", key)
    if status in (401, 403):
        return _not_allowed(refusal, verb, url)
    return _store_error(url, f"the store refused to {verb}", refusal, "its own words are above; look at the URL")


def no_credentials(url: ObjectUrl, why: str = "") -> StoreError:
    """Return the error of a job that has nothing to sign its requests with."""
    return StoreError(
        f"no credentials for {CLOUDS.get(url.scheme, url.scheme)} were found",
        where=str(url),
        evidence=why or None,
        hint=_SIGN_IN[url.scheme] + "\nof a public bucket: storage_options: {anonymous: true}",
    )


def without_client(url: ObjectUrl) -> StoreError:
    """Return the error of an installation that lacks what a store needs."""
    extra = "s3" if url.scheme == "s3" else "objects"
    return StoreError(
        f"{url.scheme}:// needs packages that are not installed", where=str(url), hint=f'pip install "r3po[{extra}]"'
    )


def without_conditions(url: ObjectUrl) -> StoreError:
    """Return the error of a store on which two jobs could take the same output for theirs."""
    return StoreError(
        "the store does not keep conditions of writing (If-None-Match, If-Match)",
        where=str(url),
        evidence="of two writers of one object both were told that they were the first",
        hint="use a store that does, such as S3, MinIO, Ceph or SeaweedFS; or write to a disk",
    )


# Private functions


_PASSING = (408, 409, 429)
"""Of the answers that blame the request, those that go away by themselves."""

_WAYS = {
    "tls": ("certificate", "unknownissuer", "ssl", "tls", "handshake", "invalidcontenttype", "corrupt message"),
    "proxy": ("proxy", "tunnel"),
    "dns": ("dns error", "name or service not known", "failed to resolve", "nodename nor servname", "resolution"),
    "refused": ("connection refused", "connectionrefused", "could not connect", "tcp connect error"),
    "timeout": ("timed out", "timedout", "timeout,"),
}
"""What clients say without an answer, in small letters; which comes first counts."""

_WAY_TEXTS = {
    "tls": "no trusted TLS connection",
    "proxy": "the proxy does not let it through",
    "dns": "the host's name is not known",
    "refused": "nobody takes the connection",
    "timeout": "no answer in time",
    "cut": "the connection broke off",
}

_WAY_HINTS = {
    "tls": "does the endpoint speak https? of a private certificate: set AWS_CA_BUNDLE to the file of its authority",
    "proxy": "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the environment",
    "dns": "look at the name in storage_options: {endpoint: ...} or AWS_ENDPOINT_URL, and at the network",
    "refused": "look at host and port in storage_options: {endpoint: ...} or AWS_ENDPOINT_URL, and at the network",
    "timeout": "look at the network, at a firewall, and at HTTPS_PROXY",
    "cut": "try again; if it stays so, look at the network and at HTTPS_PROXY",
}

_SIGN_IN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or type: aws configure",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or type: gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or type: az login",
}

_UNKNOWN_KEY = ("InvalidAccessKeyId", "InvalidToken", "UnrecognizedClientException", "InvalidSecurity")
_WRONG_SECRET = ("SignatureDoesNotMatch", "AuthenticationFailed")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_CLOCK = ("RequestTimeTooSkewed", "RequestInTheFuture")
_REGION = (
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "InvalidLocationConstraint",
)
_BUCKET = ("NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "ContainerBeingDeleted", "BucketNotFound")

_ACTIONS = {
    "s3": {"list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject"},
    "gs": {
        "list": "storage.objects.list",
        "read": "storage.objects.get",
        "write": "storage.objects.create",
        "delete": "storage.objects.delete",
    },
    "az": {
        "list": "Storage Blob Data Reader",
        "read": "Storage Blob Data Reader",
        "write": "Storage Blob Data Contributor",
        "delete": "Storage Blob Data Contributor",
    },
}
"""What a policy has to allow."""


def _of_code(refusal: Refusal, url: ObjectUrl, key: str | None) -> StoreError | None:
    """Return the error of a refusal that its code alone explains."""
    code = refusal.code
    if code in _BUCKET or (refusal.status == 404 and (code, key, url.scheme) == ("", None, "az")):
        return _store_error(
            url, "there is no such bucket", refusal, "look at the name, and at the endpoint and account"
        )
    if code in _CLOCK:
        return _store_error(
            url, "the clock of this machine is off", refusal, "set it, for example: timedatectl set-ntp true"
        )
    if code in _REGION or refusal.status == 301:
        region = refusal.region or "eu-west-1"
        shown = f"storage_options: {{region: {region}}}"
        return _store_error(url, "the bucket is in another region", refusal, f"{shown}, or set AWS_DEFAULT_REGION")
    sign_in = _SIGN_IN.get(url.scheme, "")
    if code in _EXPIRED:
        return _store_error(url, "the credentials have expired", refusal, "sign in again, for example: aws sso login")
    if code in _UNKNOWN_KEY:
        return _store_error(url, "the store does not know the access key", refusal, sign_in)
    if code in _WRONG_SECRET:
        return _store_error(url, "the secret does not belong to the access key", refusal, sign_in)
    if code == "tls":
        return _unreachable(refusal, url)
    return None


def _not_allowed(refusal: Refusal, verb: Verb, url: ObjectUrl) -> R3poError:
    action = _ACTIONS.get(url.scheme, {}).get(verb)
    hint = f"ask the owner of the bucket for {action} on {url}" if action else "ask the owner for access"
    return _store_error(url, f"the credentials do not allow to {verb}", refusal, hint)


def _passing(refusal: Refusal, verb: Verb, url: ObjectUrl, key: str | None, *, at_start: bool) -> Exception:
    """Return the error of a store that fails for now."""
    if at_start:
        return _unreachable(refusal, url)
    number = errno.ETIMEDOUT if refusal.code == "timeout" else errno.EIO
    return StoreUnavailable(number, f"the store failed to {verb} it: {refusal.said}", key or str(url))


def _unreachable(refusal: Refusal, url: ObjectUrl) -> StoreError:
    what = "the store fails" if refusal.status else "the store cannot be reached"
    hint = _WAY_HINTS.get(refusal.code, "try again later: the fault is the store's")
    return _store_error(url, what, refusal, hint)


def _store_error(url: ObjectUrl, what: str, refusal: Refusal, hint: str) -> StoreError:
    return StoreError(what, where=str(url), evidence=refusal.said or None, hint=hint or None)


def _element(name: str, body: str) -> str:
    match = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return match[1].strip() if match else ""


def _harmless(message: str) -> str:
    """Return a message in one line, without what may be a key, a token or a signature."""
    message = re.sub(r"\b(?:AKIA|ASIA)[A-Z0-9]{8,}", "(key)", message)
    message = re.sub(r"(?i)\b(sig|x-(?:amz|goog)-[a-z-]+)=[^&\s]+", r"\1=(hidden)", message)
    message = re.sub(r"//[^/@\s]+@", "//", message)
    message = re.sub(r"[A-Za-z0-9+/=_-]{40,}", "(hidden)", message)
    return " ".join(message.split())[:300]
