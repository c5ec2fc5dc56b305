"""Requests of a person to a coordinator: HTTPS whose certificate is checked before anything is sent, through the proxy where there is one."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, final
from urllib.parse import urlsplit

import urllib3
from pydantic import TypeAdapter, ValidationError
from urllib3.connection import HTTPSConnection

from aimer2.client import https
from aimer2.client.https import CONNECT_SECONDS, Trust, make_pool, proxy_of
from aimer2.core.errors import AimerError, BadInput, Unreachable, VersionMismatch
from aimer2.core.task import Document
from aimer2.identity.certificates import fingerprint
from aimer2.messages.wire import Problem, error_of

PIECE = https.PIECE
SILENCE_SECONDS = 60.0
"""So long nothing may come before a connection counts as broken."""

Form = TypeVar("Form")


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator is, and what its certificate is trusted by: its own SHA-256, a file of authorities, or the machine's authorities.

    Raises BadInput.
    """

    url: str
    fingerprint: str | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise BadInput(f"{self.url} is not the address of a coordinator.", remedy="Give it like https://coordinator.example.org:8443")
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.fingerprint is None:
            return
        if self.ca_file is not None:
            raise BadInput("Give a fingerprint or a file of authorities, not both.")
        digits = self.fingerprint.replace(":", "").replace(" ", "").lower()
        if not re.fullmatch("[0-9a-f]{64}", digits):
            raise BadInput("The fingerprint of a certificate is its SHA-256: 64 hexadecimal digits.")
        object.__setattr__(self, "fingerprint", digits)


def fetch_fingerprint(url: str) -> str:
    """SHA-256 of the certificate that the server shows; nothing is sent, nothing is trusted. Raises Unreachable, BadInput."""
    url = Address(url).url
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 443
    proxy = urlsplit(proxy_of(url) or "")
    through = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
    # Only looked at: a person compares it with what the operator has told.
    connection = HTTPSConnection(*through, cert_reqs=ssl.CERT_NONE, assert_hostname=False, timeout=CONNECT_SECONDS)
    if proxy.hostname:
        connection.set_tunnel(host, port)
    with transport_errors(url):
        connection.connect()
    try:
        return fingerprint(cast("Any", connection.sock).getpeercert(binary_form=True))
    finally:
        connection.close()


@final
class Transport:
    """Keeps connections open. Redirects are not followed: they would carry the token elsewhere."""

    def __init__(self, address: Address, token: str = "") -> None:
        self.address = address
        self.token = token
        self._pool = _pool(address)

    def close(self) -> None:
        self._pool.clear()

    def send(
        self,
        method: str,
        path: str,
        body: Document | Iterable[memoryview] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        silence: float = SILENCE_SECONDS,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, whatever its status. Raises Unreachable, NotAuthenticated where the certificate is another one."""
        given = dict(headers or {})
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        if isinstance(body, Document):
            given["Content-Type"] = "application/json"
        # urllib3 sends any buffers as they are, without a copy; its types know bytes only.
        content = body.model_dump_json().encode() if isinstance(body, Document) else cast("bytes | None", body)
        with transport_errors(self.address.url):
            return self._pool.request(
                method,
                self.address.url + path,
                body=content,
                headers=given,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=silence),
                preload_content=not stream,
                redirect=False,
            )

    def ask(self, method: str, path: str, body: Document | None = None, *, silence: float = SILENCE_SECONDS) -> bytes:
        """The body of a good answer. Raises the error that the coordinator names."""
        return self.checked(self.send(method, path, body, silence=silence)).data

    def checked(self, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        """Raises the error that the coordinator names."""
        if response.status >= 300:
            with transport_errors(self.address.url):
                raise _error(response)
        return response


def parse(form: type[Form], data: bytes) -> Form:
    """Raises VersionMismatch where the answer is not of this form."""
    try:
        return TypeAdapter(form).validate_json(data)
    except ValidationError:
        raise VersionMismatch("The coordinator's answer is not of the form that this version knows.") from None


def _pool(address: Address) -> urllib3.PoolManager:
    if address.ca_file is not None and not address.ca_file.is_file():
        raise BadInput(f"There is no file {address.ca_file}.")
    return make_pool(address.url, Trust(address.fingerprint, address.ca_file), connections=4)


def _error(response: urllib3.BaseHTTPResponse) -> AimerError:
    try:
        return error_of(Problem.model_validate_json(response.data))
    except ValidationError:
        # Not the coordinator's word: a proxy or load balancer on the way.
        return Unreachable(f"Something on the way to the coordinator answered with status {response.status}.")


def transport_errors(url: str) -> AbstractContextManager[None]:
    """What the network does, as our errors. Raises Unreachable, NotAuthenticated."""
    remedy = "Compare the fingerprint with the operator by telephone, then log in with --fingerprint; or give --ca-file."
    return https.transport_errors(url, remedy)
