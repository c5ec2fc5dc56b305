"""Passwords of local accounts: argon2id (RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes)."""

from __future__ import annotations

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from aimer2.core.errors import BadInput
from aimer2.core.said import say

SHORTEST = 12
LONGEST = 1024
"""Characters."""

_HASHER = PasswordHasher()
# The hash of a forgotten random password, with the parameters of today, for accounts that do not exist.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$m1YTib/4hbfHwGTVMlUa6w$F047Nu5kd8lQqBUAvdqWjrau1L+yPvokE1we9j5dAJo"


def hash_password(password: str) -> str:
    """What is stored of a password; raises BadInput if it has fewer than 12 or more than 1024 characters."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadInput(say("A password has {shortest} to {longest} characters.", shortest=SHORTEST, longest=LONGEST))
    return _HASHER.hash(_normalised(password))


def verify_or_burn(stored: str | None, password: str) -> bool:
    """Whether the password fits; without an account (None) it is False after the same work, so that time tells nobody who has one."""
    try:
        _HASHER.verify(stored or _NOBODY, _normalised(password))
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether it was made with weaker parameters than today's: hash the password anew at the next login."""
    return _HASHER.check_needs_rehash(stored)


def _normalised(password: str) -> bytes:
    # An umlaut is one character on one keyboard and two on another (NIST SP 800-63B §5.1.1.2).
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
