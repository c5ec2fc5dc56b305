"""Logging in at an OpenID provider: OpenID Connect Core 1.0, the authorization code flow with PKCE (RFC 7636). No I/O here.

What the provider says of a person is believed only from an ID token under one of the provider's keys, for this client, of now, and for this very
log-in (its nonce).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import urlencode, urlsplit

import jwt

from aimer2.core.errors import BadInput, ClockSkew, NotAuthenticated
from aimer2.identity import base64url

CLOCK_TOLERANCE = 60
"""Seconds by which the clocks of the two sides may differ."""

# Signatures of a key that only the provider has: never a shared secret (HS…), never `none`.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_LONGEST_TOKEN = 64 * 1024
_REFUSED = "The OpenID provider's word was not accepted."
# The library reads the machine's clock for these; here the clock is an argument.
_OPTIONS: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False, "verify_iss": False}


@final
class UnknownKey(NotAuthenticated):
    """The ID token is signed with a key that the provider had not published when its keys were last read."""


@final
@dataclass(frozen=True, slots=True)
class Provider:
    """What its discovery document says (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None

    @classmethod
    def read(cls, issuer: str, document: bytes) -> Provider:
        """Raises BadInput for a document of another issuer, or one without the addresses that are needed."""
        fields = read_object(document)
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        optional = fields.get("userinfo_endpoint")
        addresses = [fields.get(name) for name in names] + ([] if optional is None else [optional])
        if fields.get("issuer") != issuer or not all(isinstance(each, str) and urlsplit(each).scheme == "https" for each in addresses):
            raise BadInput("The OpenID provider's description is not that of the issuer in the settings, or lacks an address with https.")
        return cls(issuer, fields["authorization_endpoint"], fields["token_endpoint"], fields["jwks_uri"], optional)


@final
@dataclass(frozen=True, slots=True)
class Started:
    """One log-in under way; each value is random and used once."""

    state: str
    nonce: str
    verifier: str

    @classmethod
    def new(cls) -> Started:
        return cls(*(secrets.token_urlsafe(32) for _ in range(3)))

    @property
    def challenge(self) -> str:
        return challenge_of(self.verifier)


def challenge_of(verifier: str) -> str:
    """PKCE, method S256 (RFC 7636, section 4.2)."""
    return base64url.encode(hashlib.sha256(verifier.encode()).digest())


def authorization_url(provider: Provider, started: Started, *, client_id: str, redirect_uri: str, scopes: Sequence[str]) -> str:
    """Where the browser is sent."""
    fields = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(scopes),
        "state": started.state,
        "nonce": started.nonce,
        "code_challenge": started.challenge,
        "code_challenge_method": "S256",
    }
    joint = "&" if urlsplit(provider.authorization_endpoint).query else "?"
    return f"{provider.authorization_endpoint}{joint}{urlencode(fields)}"


def check_id_token(token: str, keys: Sequence[Mapping[str, Any]], *, issuer: str, client_id: str, nonce: str, now: float) -> dict[str, Any]:
    """What the provider says of the person (OpenID Connect Core, section 3.1.3.7). ``keys``: its JWK set.

    Raises UnknownKey where none of the keys is named by the token, ClockSkew, NotAuthenticated for every other reason.
    """
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise NotAuthenticated(_REFUSED)
    try:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in _ALGORITHMS:
            raise NotAuthenticated(_REFUSED)
        claims: dict[str, Any] = jwt.decode(token, _key_for(header, keys), algorithms=[algorithm], options=_OPTIONS)
    except (jwt.InvalidTokenError, jwt.PyJWKError, ValueError, TypeError) as error:
        raise NotAuthenticated(_REFUSED) from error
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    subject = claims.get("sub")
    # A token for several clients says whom it was issued to.
    meant = client_id in audiences and claims.get("azp", client_id if len(audiences) == 1 else None) == client_id
    if claims.get("iss") != issuer or not meant or claims.get("nonce") != nonce or not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise NotAuthenticated(_REFUSED)
    _check_times(claims, now)
    return claims


def read_object(document: bytes) -> dict[str, Any]:
    """A JSON object of the provider's. Raises BadInput."""
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise BadInput("The OpenID provider's answer is not a JSON object.")
    return fields


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    expires, issued, earliest = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    if not all(isinstance(moment, int | float) for moment in (expires, issued, earliest)):
        raise NotAuthenticated(_REFUSED)
    if now >= expires + CLOCK_TOLERANCE or now < max(issued, earliest) - CLOCK_TOLERANCE:  # type: ignore[operator]  # numbers, as was checked
        raise ClockSkew("The OpenID provider's word is of another time than now.")


def _key_for(header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> Any:
    named = header.get("kid")
    fitting = [key for key in keys if key.get("use", "sig") == "sig" and key.get("alg", header["alg"]) == header["alg"]]
    if named is not None:
        fitting = [key for key in fitting if key.get("kid") == named]
    if len(fitting) != 1:
        raise UnknownKey(_REFUSED)
    return jwt.PyJWK.from_dict(dict(fitting[0]), algorithm=header["alg"]).key
