"""An invitation: one line of text that an operator hands to a hospital, good for enrolling one site once.

It holds a one-time code, so it travels like a password. Its checksum finds a slip of the hand or a copy that is cut off; it proves nothing
about who made it: for that the two sides compare the fingerprint of the coordinator's key by telephone.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from typing import final
from urllib.parse import urlsplit

from aimer2.core.clock import rfc3339
from aimer2.core.errors import BadInput, VersionMismatch
from aimer2.core.said import say
from aimer2.identity import base64url
from aimer2.identity.keys import PublicKey

VERSION = 1
_PREFIX = "aimer2-invite."
_CHECKSUM_DIGITS = 8


@final
@dataclass(frozen=True, slots=True)
class Invitation:
    """What a hospital needs to enrol a site.

    ``fingerprint``: SHA-256 of the coordinator's TLS certificate in hexadecimal, None if a public authority vouches for it.
    ``coordinator_key``: text of the key that signs every task. ``site``: the name the operator foresees, None if the hospital chooses.
    ``expires``: seconds since 1970.
    """

    url: str
    code: str = field(repr=False)
    fingerprint: str | None
    coordinator_key: str
    site: str | None
    expires: int

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme != "https" or not address.hostname:
            raise BadInput("The address of a coordinator begins with https://.")
        if len(self.code) < 22:
            raise BadInput("The code of an invitation has at least 128 bit.")
        if self.fingerprint is not None and not re.fullmatch("[0-9a-f]{64}", self.fingerprint):
            raise BadInput("The fingerprint of a certificate is 64 hexadecimal digits.")
        PublicKey.from_text(self.coordinator_key)

    def to_text(self) -> str:
        """One line without blanks, to copy and paste."""
        document = json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))
        body = base64url.encode(document.encode())
        return f"{_PREFIX}{body}.{_checksum(body)}"

    @classmethod
    def from_text(cls, text: str) -> Invitation:
        """The invitation that was copied; line breaks and blanks that a mail program put in do no harm.

        Raises BadInput if a character is missing or wrong, VersionMismatch if it is of another version.
        """
        compact = "".join(text.split())
        body, _, checksum = compact.removeprefix(_PREFIX).rpartition(".")
        if not compact.startswith(_PREFIX) or checksum != _checksum(body):
            raise BadInput(
                "This is not a whole invitation: a part is missing or a character is wrong.",
                remedy=say("Copy it again, from '{prefix}' to its end.", prefix=_PREFIX),
            )
        try:
            document = json.loads(base64url.decode(body))
            version = document.pop("version")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise BadInput("This is not an invitation.") from error
        if version != VERSION:
            raise VersionMismatch(
                say("The invitation has version {version}; this program reads version {ours}.", version=f"{version!r}", ours=VERSION)
            )
        return _from_document(document)

    def describe(self) -> str:
        """What the invitation holds, for a person; the code is not shown."""
        key = PublicKey.from_text(self.coordinator_key)
        return "\n".join(
            [
                f"Coordinator      {self.url}",
                f"Its key          {key.fingerprint}",
                f"Its certificate  {self.fingerprint or 'vouched for by a public authority'}",
                f"Site             {self.site or 'you choose the name'}",
                f"Good until       {rfc3339(self.expires)}",
                "Holds a one-time code: keep it like a password.",
            ]
        )


def new_code() -> str:
    """A one-time code: 128 bit from the system's secure source."""
    return secrets.token_urlsafe(16)


def hash_code(code: str) -> str:
    """What the coordinator stores of a code: SHA-256 in hexadecimal (a code of 128 bit cannot be guessed from it)."""
    return hashlib.sha256(code.encode()).hexdigest()


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:_CHECKSUM_DIGITS]


def _from_document(document: dict[str, object]) -> Invitation:
    wanted: dict[str, tuple[type, ...]] = {
        "url": (str,),
        "code": (str,),
        "fingerprint": (str, type(None)),
        "coordinator_key": (str,),
        "site": (str, type(None)),
        "expires": (int,),
    }
    if document.keys() != wanted.keys() or not all(type(document[name]) in types for name, types in wanted.items()):
        raise BadInput("This is not an invitation.")
    return Invitation(**document)  # type: ignore[arg-type]
