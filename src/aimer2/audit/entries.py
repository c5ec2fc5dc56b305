"""One entry of the audit log and its exact bytes: deterministic JSON, one line each.

An entry's line is JSON with sorted keys and no blanks, in UTF-8. Its ``signature`` is Ed25519 over ``aimer2-audit-1`` + newline + that same
JSON without the signature; its ``previous`` is the SHA-256 of the line before it (without the newline), 64 zeros in the first. Whoever has
the file and the public key can check it with any tool.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

from aimer2.core.errors import BadInput, Tampered, TooLarge
from aimer2.core.said import say

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

LONGEST_LINE = 16 * 1024
"""Bytes, without the newline."""

NO_ENTRY = "0" * 64
"""What the first entry names as the digest of its predecessor."""

_DOMAIN = b"aimer2-audit-1\n"
_NOT_PLAIN = "The details of an audit entry are plain JSON, its actor and study are text."


class Verifier(Protocol):
    """A public key, as `aimer2.identity.keys.PublicKey` is one."""

    @property
    def key_id(self) -> str: ...

    @property
    def text(self) -> str: ...

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises Tampered unless the signature fits."""
        ...


class Signer(Protocol):
    """A private key, as `aimer2.identity.keys.SigningKey` is one."""

    @property
    def public(self) -> Verifier: ...

    def sign(self, message: bytes) -> bytes: ...


@final
@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: the number of its last entry and the SHA-256 of that line. Kept elsewhere, an anchor that finds a cut tail."""

    sequence: int
    digest: str


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """What happened, when (RFC 3339, UTC), by whom, in which study. ``key``: key_id of the signer. ``details``: never data of a patient."""

    sequence: int
    time: str
    kind: str
    actor: str
    study: str | None
    details: Mapping[str, Json]
    previous: str
    key: str
    signature: str

    @classmethod
    def parse(cls, line: bytes) -> Entry:
        """The entry of a line without its newline; raises Tampered unless these are the exact bytes of an entry."""
        try:
            document = json.loads(line)
            exact = isinstance(document, dict) and _canonical(document) == line
        except (ValueError, RecursionError) as error:
            raise Tampered("The line is no entry of an audit log.") from error
        if not exact or document.keys() != _TYPES.keys() or not all(type(document[name]) in types for name, types in _TYPES.items()):
            raise Tampered("The line is no entry of an audit log.")
        return cls(**document)

    def check(self, key: Verifier) -> None:
        """Raises Tampered unless ``key`` signed this entry."""
        values = {name: getattr(self, name) for name in _TYPES if name != "signature"}
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError as error:
            raise Tampered("The signature is not hexadecimal.") from error
        # fromhex also reads capitals and blanks: the last line of a log could be changed unseen.
        if signature.hex() != self.signature:
            raise Tampered("The signature is not written in lower-case hexadecimal.")
        key.verify(signature, _DOMAIN + _canonical(values))


_TYPES: dict[str, tuple[type, ...]] = {
    "sequence": (int,),
    "time": (str,),
    "kind": (str,),
    "actor": (str,),
    "study": (str, type(None)),
    "details": (dict,),
    "previous": (str,),
    "key": (str,),
    "signature": (str,),
}


def digest(line: bytes) -> str:
    """SHA-256 of a line without its newline, in hexadecimal."""
    return hashlib.sha256(line).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Event:
    """What an entry is to say, before it has its place in the log."""

    kind: str
    actor: str
    study: str | None
    details: Mapping[str, Json]


def sign_line(event: Event, *, after: Head, time: str, key: Signer) -> bytes:
    """The line of the entry that follows ``after``, without its newline.

    Raises BadInput if the details are not JSON, TooLarge if the line were longer than `LONGEST_LINE`.
    """
    if not (isinstance(event.actor, str) and isinstance(event.study, str | None) and isinstance(event.details, dict)):
        raise BadInput(_NOT_PLAIN)
    values = {
        "sequence": after.sequence + 1,
        "time": time,
        "kind": event.kind,
        "actor": event.actor,
        "study": event.study,
        "details": event.details,
        "previous": after.digest,
        "key": key.public.key_id,
    }
    try:
        _check_names(event.details)
        signature = key.sign(_DOMAIN + _canonical(values))
        line = _canonical({**values, "signature": signature.hex()})
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(_NOT_PLAIN) from error
    if len(line) > LONGEST_LINE:
        raise TooLarge(
            say("An audit entry has at most {longest_line} bytes.", longest_line=LONGEST_LINE),
            remedy="Record a digest of the details in their stead.",
        )
    return line


def _check_names(value: object) -> None:
    """Raises TypeError for a name that is no text: two of them could be written alike, and the line would not be read as it was meant."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                raise TypeError
            _check_names(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_names(part)


def _canonical(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
