"""HTTPS to a coordinator: what a connection trusts, by which proxy it goes, and requests over connections that stay open.

urllib3 opens every connection, with all that belongs to it: names, proxies, TLS. What a site says over them, round after round, is plain HTTP/1.1
(RFC 9112), written and read here: a library's pools, policies and header objects cost more than the exchange itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLError as TlsError
from typing import Any, final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, SSLError

from aimer2 import __version__
from aimer2.core.errors import NotAuthenticated, Unreachable

PIECE = 1 << 20
CONNECT_SECONDS = 10.0

_LONGEST_HEAD = 64 * 1024
_PATIENCE_BYTES = 1 << 20
"""So much of an answer that nobody wants is read, to keep the connection."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


@final
@dataclass(frozen=True, slots=True)
class Trust:
    """What a coordinator's certificate is known by: a file of authorities, else its own SHA-256, else the machine's authorities."""

    fingerprint: str | None = None
    ca_file: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """As urllib3 takes them; nothing is sent before the certificate is checked."""
        if self.ca_file is not None:
            return {"ca_certs": str(self.ca_file)}
        if self.fingerprint is not None:
            # The pin is the trust: a certificate that nobody vouches for has no chain and no name to check.
            return {"cert_reqs": "CERT_NONE", "assert_fingerprint": self.fingerprint, "assert_hostname": False}
        return {}


def proxy_of(url: str) -> str | None:
    """The proxy that HTTPS_PROXY names for this address, unless NO_PROXY excepts it."""
    if proxy_bypass(urlsplit(url).netloc):
        return None
    return getproxies_environment().get("https")


def make_pool(url: str, trust: Trust, connections: int) -> urllib3.PoolManager:
    """urllib3's own requests, on so many kept connections."""
    options: dict[str, Any] = {"maxsize": connections, "blocksize": PIECE, "retries": False, **trust.options}
    proxy = proxy_of(url)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def connect(url: str, trust: Trust) -> HTTPSConnection:
    """An open connection whose certificate is checked."""
    parts, proxy = urlsplit(url), proxy_of(url)
    host, port = parts.hostname or "", parts.port or 443
    options: dict[str, Any] = {"timeout": CONNECT_SECONDS, "blocksize": PIECE, **trust.options}
    if proxy is None:
        connection = HTTPSConnection(host, port, **options)
    else:
        way = urllib3.ProxyManager(proxy)
        assert way.proxy is not None
        connection = HTTPSConnection(way.proxy.host or "", way.proxy.port, proxy=way.proxy, proxy_config=way.proxy_config, **options)
        connection.set_tunnel(host, port, scheme=way.proxy.scheme or "http")
    connection.connect()
    return connection


@contextmanager
def transport_errors(url: str, remedy: str) -> Iterator[None]:
    """What the network does, as our errors; ``remedy``: what to do about a certificate that is not trusted. Raises Unreachable, NotAuthenticated."""
    try:
        yield
    except (SSLError, TlsError) as error:
        text = str(error)
        if "ingerprint" in text or "CERTIFICATE_VERIFY_FAILED" in text:
            raise NotAuthenticated(f"The certificate of {url} is not the one that is trusted here.", remedy=remedy) from None
        raise Unreachable(f"TLS with {url} failed.") from None
    except (HTTPError, LocationParseError, OSError) as error:
        raise Unreachable(f"{url} did not answer ({type(error).__name__}).") from None


@final
class NotHttp(ConnectionError):
    """The other side broke off, or does not speak HTTP/1.1."""


@final
@dataclass(frozen=True, slots=True)
class Request:
    """A body is bytes, or pieces that may be sent again; then ``headers`` has their length."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | Iterable[memoryview] = b""
    silence: float = 30.0
    """Seconds for which nothing may come or go before the connection counts as broken."""

    def head(self, host: str) -> bytes:
        fields = {"Host": host, "User-Agent": f"aimer2/{__version__}", "Accept-Encoding": "identity", **self.headers}
        if isinstance(self.body, bytes) and self.method not in ("GET", "HEAD"):
            fields["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        # A line break within one would be a header, or a request, of somebody else's.
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise NotHttp("a header has characters that no header can have")
        return "\r\n".join((*lines, "", "")).encode("ascii")


@final
class Answer:
    """Status and headers (names in lower case), and the body while it comes."""

    __slots__ = ("_begun", "_chunked", "_left", "_line", "done", "headers", "keeps", "status")

    def __init__(self, line: _Line, status: int, headers: Mapping[str, str], keeps: bool, bodiless: bool) -> None:
        self.status = status
        self.headers = headers
        self._line = line
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        self._chunked, self._begun = coding is not None and not bodiless, False
        if (coding is not None and (length is not None or coding.lower() != "chunked")) or (length is not None and not _is_number(length)):
            raise NotHttp("the answer does not say where it ends")
        self._left: int | None = 0 if bodiless or self._chunked else None if length is None else int(length)
        """Bytes of the body, or of this chunk of it, that have not been read; None: until the connection ends."""
        self.keeps = keeps and self._left is not None
        """Whether the connection can be used again once the body has been read."""
        self.done = self._left == 0 and not self._chunked

    def read(self) -> bytes:
        """The whole body."""
        if self._left and self._left <= PIECE and not self._chunked:
            self.done, left = True, self._left
            self._left = 0
            return self._line.take(left)
        body, piece = bytearray(), bytearray(64 * 1024)
        while got := self.read_into(memoryview(piece)):
            body += memoryview(piece)[:got]
        return bytes(body)

    def read_into(self, view: memoryview) -> int:
        """Fills the view, less where the body ends. Raises NotHttp where it is cut off."""
        filled = 0
        while filled < len(view) and not self.done:
            if self._chunked and not self._left and not self._next_chunk():
                break
            wanted = len(view) - filled if self._left is None else min(self._left, len(view) - filled)
            got = self._line.take_into(view[filled : filled + wanted])
            if got == 0 and self._left is not None:
                raise NotHttp("the answer was cut off")
            self.done = got == 0
            filled += got
            if self._left is not None:
                self._left -= got
                self.done = self._left == 0 and not self._chunked
        return filled

    def _next_chunk(self) -> bool:
        if self._begun and self._line.take_line():
            raise NotHttp("a chunk is longer than it says")
        self._begun = True
        found = _CHUNK.fullmatch(self._line.take_line())
        if found is None:
            raise NotHttp("a chunk does not say how long it is")
        self._left = int(found[1], 16)
        if self._left == 0:
            self.done = True
            # Trailers say nothing to us.
            while self._line.take_line():
                pass
        return not self.done

    def skip(self) -> bool:
        """Reads what is left of a short body; whether the connection can be used again."""
        if not self.done and self.keeps and (self._left or 0) <= _PATIENCE_BYTES:
            rest = memoryview(bytearray(64 * 1024))
            for _ in range(_PATIENCE_BYTES // len(rest)):
                if self.read_into(rest) < len(rest):
                    break
        return self.done and self.keeps


@final
class _Line:
    """One open connection, for one request at a time."""

    def __init__(self, connection: HTTPSConnection) -> None:
        self._connection = connection
        self._socket: Any = connection.sock
        self._come = b""
        """Bytes that came and have not been taken."""

    @property
    def is_open(self) -> bool:
        return not self._come and self._connection.is_connected

    def close(self) -> None:
        self._connection.close()

    def ask(self, request: Request, host: str) -> Answer:
        self._socket.settimeout(request.silence)
        head = request.head(host)
        try:
            if isinstance(request.body, bytes):
                self._socket.sendall(head + request.body)
            else:
                self._socket.sendall(head)
                for piece in request.body:
                    self._socket.sendall(piece)
        except BrokenPipeError:
            # It wants no more of this: what it has said about it can still be read.
            pass
        while True:
            version, status, headers = self._take_head()
            if status >= 200:
                break
        keeps = version == b"1" and "close" not in headers.get("connection", "").lower()
        return Answer(self, status, headers, keeps, request.method == "HEAD" or status in (204, 304))

    def _take_head(self) -> tuple[bytes, int, dict[str, str]]:
        while (end := self._come.find(b"\r\n\r\n")) < 0:
            self._receive_more()
        first, _, rest = self._come[:end].partition(b"\r\n")
        self._come = self._come[end + 4 :]
        found = _STATUS.fullmatch(first)
        if found is None:
            raise NotHttp("the answer does not begin as one of HTTP/1.1")
        headers: dict[str, str] = {}
        for line in rest.decode("latin-1").split("\r\n") if rest else ():
            name, colon, value = line.partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise NotHttp("the answer has a header that is none")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return found[1], int(found[2]), headers

    def _receive_more(self) -> None:
        if len(self._come) > _LONGEST_HEAD:
            raise NotHttp("the answer's head has no end")
        more = self._socket.recv(64 * 1024)
        if not more:
            raise NotHttp("the connection was closed")
        self._come += more

    def take_line(self) -> bytes:
        while (end := self._come.find(b"\r\n")) < 0:
            self._receive_more()
        line, self._come = self._come[:end], self._come[end + 2 :]
        return line

    def take(self, length: int) -> bytes:
        """Exactly so many bytes."""
        if len(self._come) >= length:
            taken, self._come = self._come[:length], self._come[length:]
            return taken
        whole = bytearray(length)
        view, filled = memoryview(whole), 0
        while filled < length:
            got = self.take_into(view[filled:])
            if not got:
                raise NotHttp("the answer was cut off")
            filled += got
        return bytes(whole)

    def take_into(self, view: memoryview) -> int:
        """Some bytes, as many as are there; 0 where the connection has ended."""
        if self._come:
            got = min(len(view), len(self._come))
            view[:got], self._come = self._come[:got], self._come[got:]
            return got
        return int(self._socket.recv_into(view))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


@final
class Https:
    """Requests to one server; connections stay open and are used again, by several threads at once. Redirects are not followed: they would
    carry the token elsewhere. Raises what `transport_errors` translates."""

    def __init__(self, url: str, trust: Trust) -> None:
        self._url = url
        self._trust = trust
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._idle: list[_Line] = []
        self._closed = False

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def ask(self, request: Request) -> Iterator[Answer]:
        """The answer, its body not yet read; what is left of it at the end is skipped."""
        line = self._take_idle() or _Line(connect(self._url, self._trust))
        kept = False
        try:
            answer = line.ask(request, self._host)
            yield answer
            kept = answer.skip() and not self._closed
        finally:
            if kept:
                self._idle.append(line)
            else:
                line.close()

    def _take_idle(self) -> _Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            if line.is_open:
                return line
            line.close()
        return None
