"""Bearer tokens of sites, checked on every request (about 0.05 ms, so not cached).

A token is a JWT under HMAC-SHA-256 with a secret that only the coordinator's processes know. It cannot be called back: keep its life short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import jwt

from aimer2.core.errors import BadInput, NotAuthenticated
from aimer2.core.said import say

SHORTEST_SECRET = 32
"""Bytes."""

_TYPE = "aimer2-access+jwt"
_LONGEST_TOKEN = 4096
_REFUSED = "The token was not accepted: it is not ours or has expired."
# The library reads the machine's clock for these; here the clock is an argument.
_OPTIONS: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}


@final
@dataclass(frozen=True, slots=True)
class Holder:
    """Who a token was given to, as what, and until when (seconds since 1970)."""

    subject: str
    role: str
    expires: int


def issue_token(secret: bytes, *, subject: str, role: str, now: float, lifetime_seconds: int) -> str:
    """A token for ``subject`` that is good for ``lifetime_seconds`` from ``now``.

    Raises BadInput if the secret is shorter than 32 bytes.
    """
    _check_length(secret)
    claims = {"sub": subject, "role": role, "exp": int(now) + lifetime_seconds}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"typ": _TYPE})


def check_token(secrets: bytes | Sequence[bytes], token: str, *, now: float) -> Holder:
    """Who holds the token; ``secrets`` are all that are good now (the new and, for a while, the old one).

    Raises NotAuthenticated if it is not ours or has expired.
    """
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise NotAuthenticated(_REFUSED)
    for secret in (secrets,) if isinstance(secrets, bytes) else secrets:
        _check_length(secret)
        try:
            parts = jwt.decode_complete(token, secret, algorithms=["HS256"], options=_OPTIONS)
        except jwt.InvalidTokenError:
            continue
        return _holder(parts["header"], parts["payload"], now)
    raise NotAuthenticated(_REFUSED)


def _holder(header: dict[str, Any], claims: dict[str, Any], now: float) -> Holder:
    subject, role, expires = (claims.get(name) for name in ("sub", "role", "exp"))
    if header.get("typ") != _TYPE or not isinstance(subject, str) or not isinstance(role, str) or type(expires) is not int:
        raise NotAuthenticated(_REFUSED)
    if now >= expires:
        raise NotAuthenticated(_REFUSED)
    return Holder(subject, role, expires)


def _check_length(secret: bytes) -> None:
    if len(secret) < SHORTEST_SECRET:
        raise BadInput(say("The secret of tokens has at least {shortest_secret} bytes.", shortest_secret=SHORTEST_SECRET))
