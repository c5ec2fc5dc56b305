"""A log-in handed on by a browser, where a person logs in as the coordinator asks: by password, OpenID, second factor (RFC 8252 and RFC 7636)."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final
from urllib.parse import parse_qs, urlencode, urlsplit

from aimer2.core.errors import NotAuthenticated
from aimer2.identity.openid import challenge_of

_DONE = b"<!doctype html><meta charset=utf-8><title>AIMER2</title><p>The command line has the code. You can close this page."


@final
class HandedOn:
    """One log-in under way: what the browser hands on is of use to nobody who does not know ``verifier``, which only the coordinator is told."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.verifier = secrets.token_urlsafe(32)

    @property
    def mark(self) -> str:
        """To compare with what the page shows."""
        return challenge_of(self.verifier)[:8]

    def address(self, port: int | None = None) -> str:
        """Of the page to open; ``port``: where this computer waits for the code, else the page shows it."""
        asked = {"challenge": challenge_of(self.verifier)} | ({} if port is None else {"port": str(port)})
        return f"{self._url}/command-line?{urlencode(asked)}"

    def wait(self, open_page: Callable[[str], object], seconds: float) -> str:
        """The code that the page, opened by ``open_page``, sends to this computer. Raises NotAuthenticated where none comes in time."""
        with _Listening(("127.0.0.1", 0), _Receiver) as server:
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
            try:
                open_page(self.address(server.server_port))
                if not server.came.wait(seconds):
                    raise NotAuthenticated("No browser has answered.", remedy="Log in again; without a browser on this computer, with --paste.")
                return server.code
            finally:
                server.shutdown()


@final
class _Listening(ThreadingHTTPServer):
    """A browser may open connections that it never uses: none is waited for."""

    block_on_close = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.came = threading.Event()
        self.code = ""


@final
class _Receiver(BaseHTTPRequestHandler):
    """Takes one code, from whatever page: a code that was not made for this log-in is of no use."""

    timeout = 10.0

    def do_GET(self) -> None:
        code = parse_qs(urlsplit(self.path).query).get("code", [""])[0]
        self.send_response(200 if code else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if code:
            self.wfile.write(_DONE)
            assert isinstance(self.server, _Listening)
            self.server.code = code
            self.server.came.set()

    def log_message(self, *_: Any) -> None:
        """The address holds a code: it is written nowhere."""
