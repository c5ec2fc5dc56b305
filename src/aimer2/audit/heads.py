"""The signed head of a log, handed to somebody else, who writes it into a log of his own: neither can rewrite his past unseen after that.

What is signed is ``aimer2-audit-head-1`` + newline + the JSON (sorted keys, no blanks, UTF-8) of all fields but the signature.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import final

from aimer2.audit.entries import Head, Json, Signer, Verifier
from aimer2.core.errors import Tampered

_DOMAIN = b"aimer2-audit-head-1\n"


@final
@dataclass(frozen=True, slots=True)
class SignedHead:
    """How far the log of ``log`` went at ``time`` (RFC 3339), at the word of ``key`` (the public key as text)."""

    log: str
    key: str
    sequence: int
    digest: str
    time: str
    signature: str

    @classmethod
    def read(cls, details: object) -> SignedHead:
        """From the details of an entry. Raises Tampered where they are no head."""
        kinds = {field.name: int if field.name == "sequence" else str for field in fields(cls)}
        if not isinstance(details, dict) or details.keys() != kinds.keys() or any(type(details[name]) is not kind for name, kind in kinds.items()):
            raise Tampered("The entry holds no head of a log.")
        return cls(**details)

    @property
    def head(self) -> Head:
        return Head(self.sequence, self.digest)

    def details(self) -> dict[str, Json]:
        """As an entry's."""
        return asdict(self)

    def check(self, key: Verifier) -> None:
        """Raises Tampered unless ``key`` has signed it."""
        if key.text != self.key:
            raise Tampered("The head of the log is signed with another key.")
        try:
            signature = bytes.fromhex(self.signature)
        except ValueError:
            raise Tampered("The head's signature is not hexadecimal.") from None
        key.verify(signature, _signed(self.log, self.key, self.head, self.time))


def sign_head(log: str, head: Head, *, time: str, key: Signer) -> SignedHead:
    """``log``: the name under which others know its holder."""
    signature = key.sign(_signed(log, key.public.text, head, time))
    return SignedHead(log, key.public.text, head.sequence, head.digest, time, signature.hex())


def _signed(log: str, key: str, head: Head, time: str) -> bytes:
    values = {"log": log, "key": key, "sequence": head.sequence, "digest": head.digest, "time": time}
    return _DOMAIN + json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
