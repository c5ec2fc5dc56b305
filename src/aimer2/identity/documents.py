"""Signed documents: compact JWS (RFC 7515) with EdDSA (RFC 8037), each of one kind.

The header is exactly ``{"alg":"EdDSA","kid":…,"typ":"aimer2-<kind>+jws"}``: any other, ``none`` and HMAC among them, is refused before a
key is touched. It is written here and not with PyJWT, whose base64 check walks every character in Python: 0.1 ms per kilobyte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from aimer2.core.errors import NotAuthenticated, Tampered
from aimer2.core.said import say
from aimer2.identity import base64url
from aimer2.identity.keys import PublicKey, SigningKey


def sign_document(payload: bytes, key: SigningKey, *, kind: str) -> str:
    """The payload, readable by anybody, under the signature of ``key``; ``kind`` says what it is ("task", "study", …)."""
    signed = f"{_header_text(kind, key.public.key_id)}.{base64url.encode(payload)}"
    return f"{signed}.{base64url.encode(key.sign(signed.encode()))}"


def open_document(token: str, keys: Mapping[str, PublicKey] | PublicKey, *, kind: str) -> bytes:
    """The payload, once its signature is checked; ``keys`` is the one key that may have signed, or those that may by their key_id.

    Raises NotAuthenticated if the signer is none of ``keys``, Tampered if the bytes were changed or are a document of another kind.
    """
    try:
        header_text, payload_text, signature_text = token.split(".")
        header = json.loads(base64url.decode(header_text))
        payload = base64url.decode(payload_text)
        signature = base64url.decode(signature_text)
    except (ValueError, RecursionError) as error:
        raise Tampered("This is not a signed document.") from error
    key_id = header.get("kid") if isinstance(header, dict) else None
    if not isinstance(key_id, str) or header != _header(kind, key_id):
        raise Tampered(say("This is not a signed document of the kind '{kind}'.", kind=kind))
    known = {keys.key_id: keys} if isinstance(keys, PublicKey) else keys
    if key_id not in known:
        raise NotAuthenticated("The document is signed with a key that is not known here.")
    known[key_id].verify(signature, f"{header_text}.{payload_text}".encode())
    return payload


@lru_cache(64)
def _header_text(kind: str, key_id: str) -> str:
    return base64url.encode(json.dumps(_header(kind, key_id), separators=(",", ":")).encode())


def _header(kind: str, key_id: str) -> dict[str, str]:
    return {"alg": "EdDSA", "kid": key_id, "typ": f"aimer2-{kind}+jws"}
