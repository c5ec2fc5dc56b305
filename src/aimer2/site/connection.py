"""The site's one connection to its coordinator: outbound HTTPS, by the hospital's proxy where there is one.

The coordinator is known by the SHA-256 of its certificate (from the invitation), or by an authority: a public one, or the hospital's own where
a proxy inspects TLS. The site is known by signed assertions, exchanged for short-lived tokens. Everything is blocking; called in threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TypeVar, final
from urllib.parse import urlencode

from pydantic import ValidationError

from aimer2 import __version__
from aimer2.blobs.folder import FolderStore
from aimer2.client.https import PIECE, Answer, Https, Request, Trust, transport_errors
from aimer2.core.clock import Clock, rfc3339
from aimer2.core.errors import AimerError, ClockSkew, Conflict, NotApproved, NotAuthenticated, OutOfResources, Unreachable, VersionMismatch
from aimer2.core.protocols import Blob
from aimer2.core.said import say
from aimer2.core.task import BlobRef, Digest, Document
from aimer2.identity.assertions import make_assertion
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.messages.told import Told
from aimer2.messages.wire import (
    AuditHead,
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

SILENCE_SECONDS = 30
"""So long nothing may come before a connection counts as broken; a waiting exchange is allowed its wait on top."""

_REFRESH_SECONDS = 60
_MOST_REMEMBERED = 1000
_TRUST_REMEDY = "If a proxy inspects TLS, set `ca_file` in site.toml; otherwise compare the fingerprint with the operator by telephone."


@final
@dataclass(frozen=True, slots=True)
class _Heard:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


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
        self._url = address.url
        self._https = Https(address.url, Trust(address.fingerprint, address.ca_file))
        self._site = site
        self._key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._tried: set[str] = set()

    def close(self) -> None:
        self._https.close()

    # before the site is known

    def info(self) -> CoordinatorInfo:
        return _document(CoordinatorInfo, self._checked(self._send(Request("GET", "/v1/coordinator", {}))))

    def enrol(self, code: str) -> Enrolled:
        request = EnrolmentRequest(code=code, site=self._site, key=self._key.public.text, version=__version__)
        return _document(Enrolled, self._checked(self._send(_posted("/v1/enrolments", request))))

    # as the site

    def exchange(self, exchange: Exchange) -> Exchanged:
        """Hands in, waits for work."""
        return _document(Exchanged, self._as_site(_posted("/v1/exchange", exchange, SILENCE_SECONDS + exchange.wait_seconds)))

    def package(self, digest: Digest) -> Package:
        return _document(Package, self._as_site(Request("GET", f"/v1/studies/{digest}/package", {})))

    def decide(self, statement: str) -> None:
        self._as_site(_posted("/v1/decisions", SignedDecision(statement=statement)))

    def exchange_heads(self, head: AuditHead) -> AuditHead:
        """Hands in the head of this site's audit log for that of the coordinator's."""
        return _document(AuditHead, self._as_site(_posted("/v1/audit/heads", head)))

    def tell(self, path: str, statement: str) -> None:
        """What the site says of itself, signed."""
        self._as_site(_posted(path, Told(statement=statement)))

    def rotate(self, rotation: KeyRotation) -> None:
        self._as_site(_posted("/v1/sites/key", rotation))

    def fetch(self, ref: BlobRef, store: FolderStore) -> Blob:
        """A blob, checked while it comes; goes on where an earlier attempt broke off. Raises Unreachable, Tampered."""
        if ref in store:
            return store.open(ref)
        partial = store.partial(ref)
        try:
            if partial.offset < ref.size:
                headers = {"Range": f"bytes={partial.offset}-"} if partial.offset else {}
                with self._authenticated(Request("GET", f"/v1/blobs/{ref.sha256}", headers)) as answer:
                    self._check(answer)
                    if partial.offset and answer.status != 206:
                        partial.forget()
                        partial = store.partial(ref)
                    buffer = memoryview(bytearray(min(PIECE, ref.size)))
                    while got := answer.read_into(buffer):
                        partial.write(buffer[:got])
            partial.finish()
        finally:
            partial.close()
        return store.open(ref)

    def put(self, blob: Blob, stopped: Callable[[], bool]) -> None:
        """A stored blob; after an attempt that broke off, from where it did. Sending again sends these bytes.

        Raises Unreachable, NotApproved as soon as ``stopped``: the rest stays here.
        """
        path = f"/v1/blobs/{blob.ref.sha256}"
        offset = self._offset(path) if path in self._tried else 0
        if offset is None:
            return
        self._remember(path)
        view = blob.view()
        headers = {
            "Upload-Offset": str(offset),
            "Upload-Length": str(len(view)),
            "Content-Length": str(len(view) - offset),
            "Content-Type": "application/octet-stream",
        }
        try:
            heard = self._as_site(Request("PUT", path, headers, _Pieces(view[offset:], stopped)))
        except (Conflict, OutOfResources) as error:
            raise Unreachable(say("The upload has to wait: {sentence}", sentence=error.sentence)) from None
        if heard.status != 201:
            raise Unreachable("The upload broke off.")

    def _remember(self, path: str) -> None:
        if len(self._tried) >= _MOST_REMEMBERED:
            self._tried.clear()
        self._tried.add(path)

    def _offset(self, path: str) -> int | None:
        """How far an upload has come; None where the blob is there."""
        with self._authenticated(Request("HEAD", path, {})) as answer:
            if answer.status == 404:
                return int(answer.headers.get("upload-offset", "0"))
            self._check(answer)
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

    def _as_site(self, request: Request) -> _Heard:
        with self._authenticated(request) as answer:
            return self._checked(_Heard(answer.status, answer.headers, answer.read()))

    def _send(self, request: Request) -> _Heard:
        with transport_errors(self._url, _TRUST_REMEDY), self._https.ask(request) as answer:
            return _Heard(answer.status, answer.headers, answer.read())

    @contextmanager
    def _authenticated(self, request: Request) -> Iterator[Answer]:
        """With a token; a refused one is replaced once."""
        held = self._token()
        with transport_errors(self._url, _TRUST_REMEDY):
            with self._https.ask(_with_token(request, held)) as answer:
                if answer.status != 401:
                    yield answer
                    return
            with self._lock:
                if self._held is held:
                    self._held = None
            with self._https.ask(_with_token(request, self._token())) as answer:
                yield answer

    def _token(self) -> _Held:
        with self._lock:
            now = self._clock.monotonic()
            if self._held is None or now > self._held.until:
                assertion = make_assertion(self._key, subject=self._site, audience=self._url, now=self._clock.now())
                fields = {
                    "grant_type": "client_credentials",
                    "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    "client_assertion": assertion,
                }
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                heard = self._checked(self._send(Request("POST", "/v1/tokens", headers, urlencode(fields).encode(), SILENCE_SECONDS)))
                token = _document(Token, heard)
                self._held = _Held(token.access_token, now + max(1, token.expires_in - _REFRESH_SECONDS))
            return self._held

    def _check(self, answer: Answer) -> None:
        if answer.status >= 400:
            self._checked(_Heard(answer.status, answer.headers, answer.read()))

    def _checked(self, heard: _Heard) -> _Heard:
        if heard.status < 400:
            return heard
        error = _error(heard)
        if isinstance(error, ClockSkew):
            theirs = parsedate_to_datetime(heard.headers["date"]).timestamp() if "date" in heard.headers else None
            ours = self._clock.now()
            if theirs is None:
                raise ClockSkew(say("This machine's clock says {ours}.", ours=rfc3339(ours)))
            raise ClockSkew(say("This machine's clock says {ours}; the coordinator's {theirs}.", ours=rfc3339(ours), theirs=rfc3339(theirs)))
        raise error


def _posted(path: str, document: Document, silence: float = SILENCE_SECONDS) -> Request:
    return Request("POST", path, {"Content-Type": "application/json"}, document.model_dump_json().encode(), silence)


def _with_token(request: Request, held: _Held) -> Request:
    return replace(request, headers={**request.headers, "Authorization": f"Bearer {held.token}"})


def _error(heard: _Heard) -> AimerError:
    try:
        return error_of(Problem.model_validate_json(heard.data))
    except ValidationError:
        # Not the coordinator's word: a proxy or load balancer on the way.
        if heard.status == 401:
            return NotAuthenticated()
        return Unreachable(say("On the way to the coordinator something answered with status {status}.", status=heard.status))


def _document(kind: type[AnyDocument], heard: _Heard) -> AnyDocument:
    try:
        return kind.model_validate_json(heard.data)
    except ValidationError:
        raise VersionMismatch("The coordinator's answer is not of the form that this version knows.") from None
