"""The site's one connection to its coordinator: outbound HTTPS, by the hospital's proxy where there is one.

The coordinator is known by the SHA-256 of its certificate (from the invitation), or by an authority: a public one, or the hospital's own where
a proxy inspects TLS. The site is known by signed assertions, exchanged for short-lived tokens. Everything is blocking; called in threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast, final
from urllib.request import getproxies_environment, proxy_bypass

import urllib3
from pydantic import ValidationError
from urllib3.exceptions import HTTPError, SSLError

from aimer2 import __version__
from aimer2.blobs.folder import FolderStore
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import AimerError, ClockSkew, Conflict, NotApproved, NotAuthenticated, OutOfResources, Unreachable, VersionMismatch
from aimer2.core.protocols import Blob
from aimer2.core.task import BlobRef, Digest, Document
from aimer2.identity.assertions import make_assertion
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.wire import (
    CoordinatorInfo,
    Enrolled,
    EnrolmentRequest,
    Exchange,
    Exchanged,
    KeyRotation,
    Problem,
    SignedDecision,
    Token,
    error_of,
)
from aimer2.site.settings import CoordinatorAddress

AnyDocument = TypeVar("AnyDocument", bound=Document)

PIECE = 1 << 20
SILENCE_SECONDS = 30
"""So long nothing may come before a connection counts as broken; a waiting exchange is allowed its wait on top."""

_CONNECT_SECONDS = 10
_REFRESH_SECONDS = 60


def proxy_of(url: str) -> str | None:
    """The proxy that HTTPS_PROXY names for this address, unless NO_PROXY excepts it."""
    host = urllib3.util.parse_url(url).host or ""
    if proxy_bypass(host):
        return None
    return getproxies_environment().get("https")


def make_pool(address: CoordinatorAddress) -> urllib3.PoolManager:
    """Keeps connections open; nothing is sent before the coordinator's certificate is checked."""
    trust: dict[str, Any] = {"ca_certs": str(address.ca_file)} if address.ca_file else {}
    if address.fingerprint and not address.ca_file:
        # The pin is the trust: a certificate that nobody vouches for has no chain and no name to check.
        trust = {"cert_reqs": "CERT_NONE", "assert_fingerprint": address.fingerprint, "assert_hostname": False}
    options = {"maxsize": 8, "blocksize": PIECE, "retries": False, **trust}
    proxy = proxy_of(address.url)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


@final
@dataclass(frozen=True, slots=True)
class _Held:
    token: str
    until: float


@final
@dataclass(frozen=True, slots=True)
class _Pieces:
    """A body that can be sent again, and is cut off once it must not leave any more."""

    view: memoryview
    stopped: Callable[[], bool]

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self.view), PIECE):
            if self.stopped():
                raise NotApproved("The study was withdrawn while its update was being sent.")
            yield self.view[start : start + PIECE]


@final
class Connection:
    """Used by several threads at once."""

    def __init__(self, address: CoordinatorAddress, site: str, key: SigningKey, clock: Clock) -> None:
        self._address = address
        self._pool = make_pool(address)
        self._site = site
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def close(self) -> None:
        self._pool.clear()

    # before the site is known

    def info(self) -> CoordinatorInfo:
        return _document(CoordinatorInfo, self._send("GET", "/v1/coordinator"))

    def enrol(self, code: str) -> Enrolled:
        request = EnrolmentRequest(code=code, site=self._site, key=self._key.public.text, version=__version__)
        return _document(Enrolled, self._send("POST", "/v1/enrolments", request))

    # as the site

    def exchange(self, exchange: Exchange) -> Exchanged:
        """Hands in, waits for work."""
        return _document(Exchanged, self._as_site("POST", "/v1/exchange", exchange, silence=SILENCE_SECONDS + exchange.wait_seconds))

    def package(self, digest: Digest) -> Package:
        return _document(Package, self._as_site("GET", f"/v1/studies/{digest}/package"))

    def decide(self, statement: str) -> None:
        self._as_site("POST", "/v1/decisions", SignedDecision(statement=statement))

    def rotate(self, rotation: KeyRotation) -> None:
        self._as_site("POST", "/v1/sites/key", rotation)

    def fetch(self, ref: BlobRef, store: FolderStore) -> Blob:
        """A blob, checked while it comes; goes on where an earlier attempt broke off. Raises Unreachable, Tampered."""
        if ref in store:
            return store.open(ref)
        partial = store.partial(ref)
        try:
            if partial.offset < ref.size:
                headers = {"Range": f"bytes={partial.offset}-"} if partial.offset else {}
                with self._stream(f"/v1/blobs/{ref.sha256}", headers) as response:
                    if partial.offset and response.status != 206:
                        partial.forget()
                        partial = store.partial(ref)
                    for piece in response.stream(PIECE, decode_content=False):
                        partial.write(piece)
            partial.finish()
        finally:
            partial.close()
        return store.open(ref)

    def put(self, blob: Blob, stopped: Callable[[], bool]) -> None:
        """A stored blob, from where an earlier attempt broke off. Sending again sends these bytes.

        Raises Unreachable, NotApproved as soon as ``stopped``: the rest stays here.
        """
        path = f"/v1/blobs/{blob.ref.sha256}"
        offset = self._offset(path)
        if offset is None:
            return
        view = blob.view()
        headers = {
            "Upload-Offset": str(offset),
            "Upload-Length": str(len(view)),
            "Content-Length": str(len(view) - offset),
            "Content-Type": "application/octet-stream",
        }
        try:
            response = self._as_site("PUT", path, _Pieces(view[offset:], stopped), headers=headers)
        except (Conflict, OutOfResources) as error:
            raise Unreachable(f"The upload has to wait: {error.sentence}") from None
        if response.status != 201:
            raise Unreachable("The upload broke off.")

    def _offset(self, path: str) -> int | None:
        """How far an upload has come; None where the blob is there."""
        response = self._authenticated("HEAD", path, None, {}, SILENCE_SECONDS)
        if response.status == 404:
            return int(response.headers.get("Upload-Offset", "0"))
        self._check(response)
        return None

    def accepts_us(self) -> bool:
        """Whether the coordinator knows this site by this key. Raises Unreachable, ClockSkew."""
        try:
            self._token()
        except ClockSkew:
            raise
        except NotAuthenticated:
            return False
        return True

    # requests

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        with _transport_errors(self._address.url):
            response = self._authenticated("GET", path, None, headers, SILENCE_SECONDS, preload=False)
            try:
                self._check(response)
                yield response
            finally:
                response.release_conn()

    def _as_site(
        self,
        method: str,
        path: str,
        body: Document | _Pieces | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        return self._check(self._authenticated(method, path, body, headers or {}, silence))

    def _authenticated(
        self, method: str, path: str, body: Document | _Pieces | None, headers: Mapping[str, str], silence: float, *, preload: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """With a token; a refused one is replaced once."""
        for attempt in (1, 2):
            held = self._token()
            given = {**headers, "Authorization": f"Bearer {held.token}"}
            response = self._raw(method, path, body, given, silence, preload)
            if response.status != 401 or attempt == 2:
                break
            response.drain_conn()
            with self._lock:
                if self._held is held:
                    self._held = None
        return response

    def _token(self) -> _Held:
        with self._lock:
            now = self._clock.monotonic()
            if self._held is None or now > self._held.until:
                assertion = make_assertion(self._key, subject=self._site, audience=self._address.url, now=self._clock.now())
                fields = {
                    "grant_type": "client_credentials",
                    "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    "client_assertion": assertion,
                }
                with _transport_errors(self._address.url):
                    url = f"{self._address.url}/v1/tokens"
                    response = self._pool.request("POST", url, fields=fields, encode_multipart=False, timeout=_timeout(SILENCE_SECONDS))
                token = _document(Token, self._check(response))
                self._held = _Held(token.access_token, now + max(1, token.expires_in - _REFRESH_SECONDS))
            return self._held

    def _send(self, method: str, path: str, body: Document | None = None) -> urllib3.BaseHTTPResponse:
        return self._check(self._raw(method, path, body, {}, SILENCE_SECONDS))

    def _raw(
        self, method: str, path: str, body: Document | _Pieces | None, headers: Mapping[str, str], silence: float, preload: bool = True
    ) -> urllib3.BaseHTTPResponse:
        given = dict(headers)
        if isinstance(body, Document):
            given["Content-Type"] = "application/json"
            content: bytes | None = body.model_dump_json().encode()
        else:
            # urllib3 sends any buffers as they are, without a copy; its types know bytes only.
            content = cast("bytes | None", body)
        with _transport_errors(self._address.url):
            return self._pool.request(
                method,
                self._address.url + path,
                body=content,
                headers=given,
                timeout=_timeout(silence),
                preload_content=preload,
                redirect=False,
            )

    def _check(self, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        if response.status < 400:
            return response
        error = _error(response)
        if isinstance(error, ClockSkew):
            theirs = parsedate_to_datetime(response.headers["Date"]).timestamp() if "Date" in response.headers else None
            ours = self._clock.now()
            told = f"; the coordinator's {rfc3339(theirs)}" if theirs is not None else ""
            raise ClockSkew(f"This machine's clock says {rfc3339(ours)}{told}.")
        raise error


def _error(response: urllib3.BaseHTTPResponse) -> AimerError:
    try:
        return error_of(Problem.model_validate_json(response.data))
    except ValidationError:
        # Not the coordinator's word: a proxy or load balancer on the way.
        if response.status == 401:
            return NotAuthenticated()
        return Unreachable(f"On the way to the coordinator something answered with status {response.status}.")


def _document(kind: type[AnyDocument], response: urllib3.BaseHTTPResponse) -> AnyDocument:
    try:
        return kind.model_validate_json(response.data)
    except ValidationError:
        raise VersionMismatch("The coordinator's answer is not of the form that this version knows.") from None


def _timeout(silence: float) -> urllib3.Timeout:
    return urllib3.Timeout(connect=_CONNECT_SECONDS, read=silence)


@contextmanager
def _transport_errors(url: str) -> Iterator[None]:
    try:
        yield
    except SSLError as error:
        text = str(error)
        if "ingerprint" in text or "CERTIFICATE_VERIFY_FAILED" in text:
            raise NotAuthenticated(
                "The server's certificate is not the one that this site trusts.",
                remedy="If a proxy inspects TLS, set `ca_file` in site.toml; otherwise compare the fingerprint with the operator by telephone.",
            ) from None
        raise Unreachable(f"TLS to {url} failed.") from None
    except (HTTPError, OSError) as error:
        raise Unreachable(f"{url} did not answer ({type(error).__name__}).") from None
