"""How a site says who it is: a signed assertion of one minute (private_key_jwt, RFC 7523), good for one use.

The site exchanges it for a bearer token (``tokens``). Both clocks may differ by `CLOCK_TOLERANCE` seconds.
"""

from __future__ import annotations

import heapq
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, final

from jwt import InvalidTokenError
from jwt.api_jws import PyJWS

from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, ClockSkew, NotAuthenticated
from aimer2.core.said import say
from aimer2.identity.keys import PublicKey, SigningKey

CLOCK_TOLERANCE = 60
"""Seconds by which the clocks of the two sides may differ."""

LONGEST_LIFETIME = 300
"""Seconds: how long an assertion may be good for at most, and so how long its identifier is remembered."""

# The type keeps an assertion apart from every other thing that the same key signs.
_TYPE = "client-authentication+jwt"
_LONGEST_TOKEN = 4096
_LONGEST_IDENTIFIER = 64
_REFUSED = "The assertion was not accepted."

_JWS = PyJWS(algorithms=["EdDSA"])
# Checked against when the subject is unknown, so that the answer takes as long as for a known one. It can never let anybody in.
_NOBODY = PublicKey.from_text("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")


class ReplayGuard(Protocol):
    """Remembers which assertions were used."""

    def remember(self, identifier: str, until: float) -> bool:
        """True the first time; False if it was remembered before. May be forgotten after ``until`` (seconds since 1970)."""
        ...


@final
class MemoryReplayGuard:
    """A replay guard for one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._seen: set[str] = set()
        self._by_end: list[tuple[float, str]] = []

    def remember(self, identifier: str, until: float) -> bool:
        with self._lock:
            while self._by_end and self._by_end[0][0] < self._clock.now():
                self._seen.discard(heapq.heappop(self._by_end)[1])
            if identifier in self._seen:
                return False
            self._seen.add(identifier)
            heapq.heappush(self._by_end, (until, identifier))
            return True


def make_assertion(key: SigningKey, *, subject: str, audience: str, now: float, lifetime_seconds: int = 60) -> str:
    """An assertion that ``subject`` (a site) hands to ``audience`` (the address of the coordinator) once.

    Raises BadInput if it were to live longer than `LONGEST_LIFETIME`.
    """
    if not 0 < lifetime_seconds <= LONGEST_LIFETIME:
        raise BadInput(say("An assertion lives for 1 to {longest_lifetime} seconds.", longest_lifetime=LONGEST_LIFETIME))
    issued = int(now)
    claims = {
        "iss": subject,
        "sub": subject,
        "aud": audience,
        "iat": issued,
        "exp": issued + lifetime_seconds,
        "jti": secrets.token_urlsafe(16),
    }
    headers = {"typ": _TYPE, "kid": key.public.key_id}
    return _JWS.encode(json.dumps(claims, separators=(",", ":")).encode(), key.ed25519, algorithm="EdDSA", headers=headers)


def check_assertion(token: str, *, key_of: Callable[[str], PublicKey | None], audience: str, now: float, seen: ReplayGuard) -> str:
    """Who made the assertion; ``key_of`` gives the enrolled key of a subject, or None.

    Raises ClockSkew if the assertion is genuine but the clocks differ too much, NotAuthenticated for every other reason: always with the
    same sentence and after the same work, so that nobody learns which subjects exist.
    """
    claims = _claims(_decode(token, None))
    key = key_of(claims.subject)
    _decode(token, key or _NOBODY)
    if key is None or claims.audience != audience:
        raise NotAuthenticated(_REFUSED)
    if now < claims.issued - CLOCK_TOLERANCE or now > claims.expires + CLOCK_TOLERANCE:
        raise ClockSkew(
            say("The assertion was made at another time than now: the clocks differ by {now} seconds.", now=f"{abs(now - claims.issued):.0f}")
        )
    if not seen.remember(f"{claims.subject}/{claims.identifier}", claims.expires + CLOCK_TOLERANCE):
        raise NotAuthenticated(_REFUSED)
    return claims.subject


@final
@dataclass(frozen=True, slots=True)
class _Claims:
    subject: str
    audience: str
    issued: int
    expires: int
    identifier: str


def _decode(token: str, key: PublicKey | None) -> bytes:
    """The payload; without a key nothing is checked of it."""
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise NotAuthenticated(_REFUSED)
    try:
        if key is None:
            parts: dict[str, Any] = _JWS.decode_complete(token, options={"verify_signature": False})
        else:
            parts = _JWS.decode_complete(token, key.ed25519, algorithms=["EdDSA"])
    except InvalidTokenError as error:
        raise NotAuthenticated(_REFUSED) from error
    if parts["header"].get("typ") != _TYPE:
        raise NotAuthenticated(_REFUSED)
    payload: bytes = parts["payload"]
    return payload


def _claims(payload: bytes) -> _Claims:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise NotAuthenticated(_REFUSED) from error
    if not isinstance(claims, dict):
        raise NotAuthenticated(_REFUSED)
    texts = [claims.get(name) for name in ("iss", "sub", "aud", "jti")]
    times = [claims.get(name) for name in ("iat", "exp")]
    if not all(type(text) is str for text in texts) or not all(type(time) is int for time in times):
        raise NotAuthenticated(_REFUSED)
    if claims["iss"] != claims["sub"] or not 0 < len(claims["jti"]) <= _LONGEST_IDENTIFIER:
        raise NotAuthenticated(_REFUSED)
    if not 0 < claims["exp"] - claims["iat"] <= LONGEST_LIFETIME:
        raise NotAuthenticated(_REFUSED)
    return _Claims(claims["sub"], claims["aud"], claims["iat"], claims["exp"], claims["jti"])
