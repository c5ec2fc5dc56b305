"""Ed25519 keys (RFC 8032): the private one signs and never leaves its machine, the public one is what others know of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from aimer2.core.errors import BadInput, Tampered
from aimer2.core.said import say
from aimer2.identity import base64url
from aimer2.identity.secret_files import read_secret, write_secret

_DIGITS = 40


@final
@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: 32 bytes that check signatures. Equal when the bytes are equal."""

    raw: bytes
    ed25519: Ed25519PublicKey = field(init=False, repr=False, compare=False)
    key_id: str = field(init=False, repr=False, compare=False)
    """A short name to look a key up by (64 bit): no proof of anything."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "ed25519", Ed25519PublicKey.from_public_bytes(self.raw))
        except ValueError as error:
            raise BadInput("A public key is 32 bytes.") from error
        object.__setattr__(self, "key_id", hashlib.sha256(self.raw).hexdigest()[:16])

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """The key that ``text`` spells. Raises BadInput."""
        try:
            return cls(base64url.decode(text))
        except ValueError as error:
            raise BadInput("A public key is written as 43 letters, digits, '-' and '_'.") from error

    @property
    def text(self) -> str:
        """As documents carry it: 43 characters of base64url."""
        return base64url.encode(self.raw)

    @property
    def fingerprint(self) -> str:
        """What two people compare by telephone: the last 40 decimal digits of its SHA-256, read as a number, in eight groups of five.

        Digits can be told apart in every language and have no capitals. Another key with the same ones takes about 2^132 attempts.
        """
        digits = f"{int.from_bytes(hashlib.sha256(self.raw).digest()) % 10**_DIGITS:0{_DIGITS}}"
        return " ".join(digits[start : start + 5] for start in range(0, _DIGITS, 5))

    def has_fingerprint(self, told: str) -> bool:
        """Whether this is the key that somebody read out. Raises BadInput where ``told`` is no whole fingerprint."""
        compact = "".join(told.replace("-", " ").split())
        if not compact.isascii() or not compact.isdigit() or len(compact) != _DIGITS:
            raise BadInput("A fingerprint is 40 digits, in eight groups of five.", remedy="Ask for it again; nothing was compared.")
        return compact == self.fingerprint.replace(" ", "")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises Tampered unless the holder of the private key signed exactly these bytes."""
        try:
            self.ed25519.verify(signature, message)
        except InvalidSignature as error:
            raise Tampered("The signature does not fit the bytes.") from error


@final
@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. Lives in a file with mode 0600 (PEM, PKCS #8, not encrypted: the process must start without a person)."""

    ed25519: Ed25519PrivateKey = field(repr=False)
    public: PublicKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", PublicKey(self.ed25519.public_key().public_bytes_raw()))

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the system's secure source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Raises NotFound, NotAllowed (others may read the file) or BadInput (it holds no Ed25519 key)."""
        try:
            key = load_pem_private_key(read_secret(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadInput(say("{path} holds no unencrypted private key in PEM.", path=path)) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadInput(say("{path} holds a key, but not an Ed25519 key.", path=path))
        return cls(key)

    def save(self, path: Path) -> None:
        """Raises Conflict if the file exists."""
        write_secret(path, self.ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def sign(self, message: bytes) -> bytes:
        """The signature: 64 bytes, the same for the same bytes."""
        return self.ed25519.sign(message)
