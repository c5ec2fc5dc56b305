"""What sites and coordinator say to each other: signed documents, one kind per phase, and the digests that bind them together.

An *epoch* is one set-up of keys for some consecutive rounds; its phases are "keys" and "shares". A *round* has the phases "update",
"agree" and "reveal". What a site says is signed with its Ed25519 key and names study, epoch, round and phase: nothing said in one place
can be said again in another. What the coordinator says is a collection of such documents under no signature of its own: it can leave
out, never alter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import cbor2
from pydantic import ConfigDict, Field, ValidationError

from aimer2.core.errors import NotAuthenticated, Tampered
from aimer2.core.said import say
from aimer2.core.task import Digest, Document, SiteId, Stage
from aimer2.identity.documents import open_document, sign_document
from aimer2.identity.keys import PublicKey, SigningKey

PROTOCOL = "AIMER2/SA1.2"
"""With its revision: another form of what sites sign, seal or keep is another revision, and nothing of the one passes for the other's."""
OF_STUDIES = "AIMER2/SA1"
"""Of no revision, for what a study keeps through all of them: the roster that sites have countersigned, and its groups."""

Bytes32 = Annotated[bytes, Field(min_length=32, max_length=32)]


class EpochTerms(Document):
    """Which rounds one set-up serves. A further attempt is another epoch, with keys of its own."""

    stage: Stage
    attempt: int = Field(ge=1)
    first_round: int = Field(ge=0)
    rounds: int = Field(ge=1, le=1024)

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.attempt}-{self.first_round}"

    def __contains__(self, round_number: int) -> bool:
        return self.first_round <= round_number < self.first_round + self.rounds


class RoundTerms(Document):
    """What all sites must have in common for their masks to cancel: the round, the model they received, the layout of the sums."""

    round_number: int = Field(ge=0)
    inputs: Mapping[str, Digest] = Field(default_factory=dict, description="SHA-256 of each blob that the round broadcasts")
    layout: Digest


class Keys(Document):
    """Phase "keys": a site's public keys for an epoch, X25519 (RFC 7748)."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    study: Digest
    roster: Digest
    epoch: EpochTerms
    site: SiteId
    seal: Bytes32 = Field(description="shares for this site are sealed to it")
    masks: tuple[Bytes32, ...] = Field(description="one per round, for the masks between two sites")


class Bundle(Document):
    """Phase "shares": what a site dealt, to whom, and what its secrets must turn out to be."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    study: Digest
    roster: Digest
    epoch: EpochTerms
    site: SiteId
    keys: Digest = Field(description="of the list of keys that it saw")
    secrets: tuple[Bytes32, ...] = Field(description="commitment to the own mask's secret of each round")
    parcels: Digest = Field(description="root of the `HashTree` over its parcels, in the order of the list")


class Dealt(Document):
    """A site's answer in the phase "shares"."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    bundle: str
    parcels: bytes = Field(description="one after the other, in the order of the list of keys, see `keys.pack`")


class Update(Document):
    """Phase "update": what a site masked and uploads."""

    study: Digest
    epoch: EpochTerms
    round_number: int
    context: Digest
    site: SiteId
    uploads: Mapping[str, Digest] = Field(description="SHA-256 of each masked sum")


class Agreement(Document):
    """Phase "agree": whose updates the sum is made of. A site signs one per round and attempt, never a second."""

    study: Digest
    epoch: EpochTerms
    round_number: int
    context: Digest
    site: SiteId
    survivors: tuple[int, ...] = Field(description="their indices in the roster")
    updates: Digest = Field(description="of all their signed updates, by site")


class Reveal(Document):
    """Phase "reveal": for each member of the epoch one share, of one of its two secrets."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    study: Digest
    epoch: EpochTerms
    round_number: int
    context: Digest
    site: SiteId
    own: Mapping[int, Bytes32] = Field(description="of survivors, by their index: the own mask's secret")
    keys: Mapping[int, Bytes32] = Field(description="of members that handed nothing in: the private key of this round")


class Letters(Document):
    """What the coordinator hands on: signed documents by the site that signed."""

    signed: Mapping[SiteId, str]


class Deals(Document):
    """What the coordinator hands a recipient at the end of the set-up: every bundle, and of the parcels those for it."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    bundles: Mapping[SiteId, str]
    parcels: bytes = Field(description="one after the other, in the order of the dealers' names")
    paths: bytes = Field(description="that each of them is among those its dealer signed: their paths in the `HashTree`, in the same order")


Signed = TypeVar("Signed", Keys, Bundle, Update, Agreement, Reveal)
Form = TypeVar("Form", bound=Document)


def sign(document: Keys | Bundle | Update | Agreement | Reveal, key: SigningKey) -> str:
    """The document as it travels: compact JWS whose type names the phase."""
    return sign_document(document.model_dump_json().encode(), key, kind=_kind(type(document)))


def opened(text: str, form: type[Signed], key: PublicKey) -> Signed:
    """The document, once the signature of its site is checked. Raises Tampered."""
    try:
        return parsed(open_document(text, key, kind=_kind(form)), form)
    except NotAuthenticated as error:
        raise Tampered("It is signed with another key than its site's.") from error


def parsed(text: str | bytes, form: type[Form]) -> Form:
    """Raises Tampered for anything that is not exactly such a document."""
    try:
        return form.model_validate_json(text)
    except ValidationError as error:
        raise Tampered(say("This is not what the protocol calls {name}.", name=form.__name__)) from error


def deals_message(bundles: str, parcels: bytes, paths: bytes) -> str:
    """A `Deals`; ``bundles`` is JSON already, as most of the message is the same for all."""
    return Deals(bundles={}, parcels=parcels, paths=paths).model_dump_json().replace("{}", bundles, 1)


def pieces(content: bytes, count: int, length: int) -> list[bytes]:
    """What was put one after the other. Raises Tampered."""
    if len(content) != count * length:
        raise Tampered("There is not one parcel for each site.")
    return [content[start : start + length] for start in range(0, len(content), length)]


def digest_of(what: str, content: Any, of: str = PROTOCOL) -> Digest:
    """SHA-256 over the protocol's name, what this is a digest of, and the content in deterministic CBOR."""
    return hashlib.sha256(cbor2.dumps([of, what, content], canonical=True)).hexdigest()


def text_digest(text: str) -> Digest:
    """The digest that one signed document refers to another by."""
    return hashlib.sha256(text.encode()).hexdigest()


def letters_digest(what: str, signed: Mapping[SiteId, str]) -> Digest:
    return digest_of(what, {site: text_digest(text) for site, text in signed.items()})


def _kind(form: type[Document]) -> str:
    return f"sa1.2-{form.__name__.lower()}"
