"""What protects pages in a browser: headers, tokens of forms, addresses that stay here.

The policy allows no script and no style but the shipped files, no frame, no form to elsewhere, and nothing from outside.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import final

from aimer2.core.errors import NotAllowed

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }
)


@final
class FormKey:
    """Makes and checks the token of each form of a session: a page of another origin cannot read it, so it cannot send the form."""

    def __init__(self, secret: bytes) -> None:
        """``secret``: at least 32 bytes, of this installation alone."""
        self._secret = secret

    def token(self, session: str) -> str:
        """``session``: what names the session to the server and nobody else knows."""
        return hmac.new(self._secret, b"aimer2-form-1\n" + session.encode(), hashlib.sha256).hexdigest()

    def check(self, session: str, token: str) -> None:
        """Raises NotAllowed unless the token was made for this session."""
        if not hmac.compare_digest(self.token(session).encode(), token.encode()):
            raise NotAllowed("This form is not from your session.", remedy="Open the page again and send the form once more.")


def check_origin(headers: Mapping[str, str]) -> None:
    """Raises NotAllowed where a browser says that a request that changes something comes from a page of another origin.

    ``headers``: of the request, names in lower case. Browsers have sent `Sec-Fetch-Site` since 2023 and `Origin` with every POST for longer.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    if foreign or (origin is not None and origin.partition("://")[2] != headers.get("host")):
        raise NotAllowed("This request comes from a page of another site.", remedy="Open the page here and try again.")


def local_path(address: str, otherwise: str = "/") -> str:
    """The address if it is a path of this server (a browser would read `//host` and `/\\host` as another one), else ``otherwise``."""
    stays = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable() and "\\" not in address
    return address if stays else otherwise
