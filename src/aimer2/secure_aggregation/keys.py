"""From keys to masks: what site and coordinator must compute and check in the same way.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), HPKE (RFC 9180) with X25519, HKDF-SHA256 and AES-256-GCM, all from the library `cryptography`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aimer2.core.errors import Tampered
from aimer2.core.task import Digest, SiteId
from aimer2.secure_aggregation.messages import PROTOCOL, Bundle, EpochTerms, Keys, RoundTerms, digest_of, letters_digest, opened
from aimer2.secure_aggregation.roster import Roster

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL = PROTOCOL.encode()
_PROBE = X25519PrivateKey.generate()
"""Any private key shows a point of low order: the shared secret is zero."""
_SEAL = 32 + 16
"""Bytes that sealing adds: HPKE's public key and AES-GCM's tag."""


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def pair_seed(private: bytes, other: bytes, context: bytes, first: int, second: int) -> bytes:
    """The seed of the mask between two sites, the same from either side; ``first`` and ``second`` are their indices. Raises Tampered."""
    low, high = sorted((first, second))
    shared = _exchanged(X25519PrivateKey.from_private_bytes(private), other)
    return _derived(shared, _LABEL + b" pair" + context + low.to_bytes(4, "big") + high.to_bytes(4, "big"))


def own_seed(secret: bytes, context: bytes, index: int) -> bytes:
    """The seed of the mask that a site adds alone."""
    return _derived(secret, _LABEL + b" own" + context + index.to_bytes(4, "big"))


def set_up_digest(roster: Roster, epoch: EpochTerms, keys: Digest) -> bytes:
    """What every parcel of one set-up is bound to, ``keys`` being the digest of the list: 32 bytes."""
    return bytes.fromhex(digest_of("set-up", [roster.hash(), epoch.model_dump(), keys]))


def place(set_up: bytes, dealer: int, recipient: int) -> bytes:
    """What one parcel is bound to: it opens for this recipient, from this dealer, in this set-up only. By their indices in the roster."""
    return set_up + dealer.to_bytes(4, "big") + recipient.to_bytes(4, "big")


def pack(shares: Sequence[bytes], recipient: bytes, place: bytes) -> bytes:
    """A parcel: ``shares`` of 32 bytes sealed to the recipient's public key, and then a commitment to each."""
    sealed = _SUITE.encrypt(b"".join(shares), X25519PublicKey.from_public_bytes(recipient), place)
    return sealed + b"".join(share_commitment(place, index, share) for index, share in enumerate(shares))


def parcel_length(count: int) -> int:
    """Bytes of a parcel of so many shares."""
    return _SEAL + 2 * 32 * count


def commitment(parcel: bytes, index: int, count: int) -> bytes:
    """To the share at ``index`` of the parcel's ``count``."""
    start = _SEAL + 32 * (count + index)
    return parcel[start : start + 32]


def unpack(parcel: bytes, private: bytes, place: bytes, count: int) -> list[bytes]:
    """The ``count`` shares of a parcel. Raises Tampered if it does not open, or holds others than it commits to."""
    if len(parcel) != parcel_length(count):
        raise Tampered("The parcel does not hold two shares for each round.")
    try:
        content = _SUITE.decrypt(parcel[: _SEAL + 32 * count], X25519PrivateKey.from_private_bytes(private), place)
    except InvalidTag as error:
        raise Tampered("The parcel is sealed to another key or for another place.") from error
    shares = [content[start : start + 32] for start in range(0, len(content), 32)]
    if any(share_commitment(place, index, share) != commitment(parcel, index, count) for index, share in enumerate(shares)):
        raise Tampered("The parcel holds other shares than its dealer committed to.")
    return shares


def secret_commitment(secret: bytes) -> bytes:
    """Binding and, as the secret is 32 random bytes, hiding."""
    return hashlib.sha256(_LABEL + b" secret" + secret).digest()


def share_commitment(place: bytes, index: int, share: bytes) -> bytes:
    """A share is uniform below 2^256 to whoever holds fewer than the threshold: its hash needs no salt. ``index`` counts in the parcel."""
    return hashlib.sha256(_LABEL + b" share" + place + index.to_bytes(4, "big") + share).digest()


def fitting(told: Mapping[int, bytes], parcels: Mapping[int, bytes], which: tuple[int, int], set_up: bytes, dealer: int) -> dict[int, bytes]:
    """Of the shares that recipients tell, those that ``dealer`` committed to in their parcels. ``which``: the share's index, and how many there are.

    200 sites tell 40,000 in one round: this is `share_commitment` without its calls.
    """
    index, count = which
    head, tail, start = _LABEL + b" share" + set_up + dealer.to_bytes(4, "big"), index.to_bytes(4, "big"), _SEAL + 32 * (count + index)
    return {
        recipient: share
        for recipient, share in told.items()
        if hashlib.sha256(head + recipient.to_bytes(4, "big") + tail + share).digest() == parcels[recipient][start : start + 32]
    }


def open_keys(text: str, roster: Roster, epoch: EpochTerms, site: SiteId, seen: set[bytes]) -> Keys:
    """A site's keys, checked: signed by it, for this set-up, usable, and none of them in ``seen``, to which they are added.

    Raises Tampered.
    """
    document = opened(text, Keys, roster.key(site))
    if (document.study, document.roster, document.epoch, document.site) != (roster.study, roster.hash(), epoch, site):
        raise Tampered("These keys are for another study, roster, set-up or site.")
    points = {document.seal, *document.masks}
    if len(document.masks) != epoch.rounds or len(points) != epoch.rounds + 1 or points & seen:
        raise Tampered("There is not one new key for each round.")
    for point in points:
        _exchanged(_PROBE, point)
    seen |= points
    return document


def open_bundle(text: str, roster: Roster, epoch: EpochTerms, site: SiteId, list_digest: Digest) -> Bundle:
    """A dealer's bundle, checked: signed by it, for this set-up and this very list of keys. Raises Tampered."""
    document = opened(text, Bundle, roster.key(site))
    if (document.study, document.roster, document.epoch, document.site) != (roster.study, roster.hash(), epoch, site):
        raise Tampered("These shares are for another study, roster, set-up or site.")
    if document.keys != list_digest:
        raise Tampered("The dealer was shown other keys.")
    if len(document.secrets) != epoch.rounds:
        raise Tampered("There is not one secret for each round.")
    return document


def round_context(roster: Roster, epoch: EpochTerms, cohort: Digest, terms: RoundTerms) -> bytes:
    """What a round's masks are derived from and its messages are bound to, 32 bytes: other terms at one site, and nothing cancels.

    ``cohort`` is the digest of all signed bundles, and through them of all keys, of the epoch's members.
    """
    return bytes.fromhex(digest_of("round", [roster.hash(), epoch.model_dump(), cohort, terms.model_dump()]))


def survivor_set(roster: Roster, signed: Mapping[SiteId, str]) -> tuple[tuple[int, ...], Digest]:
    """What an agreement says of the survivors' signed updates: whose they are, and one digest of them all."""
    return tuple(sorted(roster.index(site) for site in signed)), letters_digest("survivors", signed)


def _exchanged(private: X25519PrivateKey, other: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise Tampered("A public key is a point of low order.") from error


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, info).derive(secret)
