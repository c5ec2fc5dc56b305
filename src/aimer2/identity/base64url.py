"""Base64url without padding (RFC 4648 §5), strict: every byte string has exactly one spelling."""

from __future__ import annotations

import base64
import binascii


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes that ``text`` spells.

    Raises ValueError for anything that ``encode`` would not have written: a lenient decoder gives one signed document many spellings.
    """
    try:
        content = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("not base64url") from error
    if encode(content) != text:
        raise ValueError("not canonical base64url")
    return content
