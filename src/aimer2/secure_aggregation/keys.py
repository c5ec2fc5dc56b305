"""From keys to masks: what site and coordinator must compute and check in the same way.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), HPKE (RFC 9180) with X25519, HKDF-SHA256 and AES-256-GCM, all from the library `cryptography`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aimer2.core.errors import Tampered
from aimer2.core.task import Digest, SiteId
from aimer2.secure_aggregation.messages import PROTOCOL, Bundle, EpochTerms, Keys, Parcel, RoundTerms, digest_of, opened, share_commitment
from aimer2.secure_aggregation.roster import Roster

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL = PROTOCOL.encode()


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def pair_seed(private: bytes, other: bytes, context: bytes, first: int, second: int) -> bytes:
    """The seed of the mask between two sites, the same from either side; ``first`` and ``second`` are their indices. Raises Tampered."""
    low, high = sorted((first, second))
    return _derived(_exchanged(private, other), _LABEL + b" pair" + context + low.to_bytes(4, "big") + high.to_bytes(4, "big"))


def own_seed(secret: bytes, context: bytes, index: int) -> bytes:
    """The seed of the mask that a site adds alone."""
    return _derived(secret, _LABEL + b" own" + context + index.to_bytes(4, "big"))


def place(roster: Roster, epoch: EpochTerms, keys: Digest, dealer: SiteId, recipient: SiteId) -> bytes:
    """What a parcel is bound to: it opens for this recipient, from this dealer, in this set-up only."""
    return bytes.fromhex(digest_of("place", [roster.hash(), epoch.model_dump(), keys, roster.index(dealer), roster.index(recipient)]))


def pack(shares: Sequence[bytes], recipient: bytes, place: bytes) -> Parcel:
    """``shares`` sealed to the recipient's public key, with a commitment to each."""
    sealed = _SUITE.encrypt(b"".join(shares), X25519PublicKey.from_public_bytes(recipient), place)
    return Parcel(sealed=sealed, commitments=tuple(share_commitment(place, index, share) for index, share in enumerate(shares)))


def unpack(parcel: Parcel, private: bytes, place: bytes, count: int) -> list[bytes]:
    """The ``count`` shares of a parcel. Raises Tampered if it does not open, or holds others than it commits to."""
    try:
        content = _SUITE.decrypt(parcel.sealed, X25519PrivateKey.from_private_bytes(private), place)
    except InvalidTag as error:
        raise Tampered("The parcel is sealed to another key or for another place.") from error
    shares = [content[start : start + 32] for start in range(0, len(content), 32)]
    if len(content) != 32 * count or tuple(share_commitment(place, index, share) for index, share in enumerate(shares)) != parcel.commitments:
        raise Tampered("The parcel holds other shares than its dealer committed to.")
    return shares


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
    # any private key shows a point of low order: the shared secret is zero
    probe = X25519PrivateKey.generate().private_bytes_raw()
    for point in points:
        _exchanged(probe, point)
    seen |= points
    return document


def open_bundle(text: str, roster: Roster, epoch: EpochTerms, site: SiteId, keys: Mapping[SiteId, Keys], list_digest: Digest) -> Bundle:
    """A dealer's bundle, checked: signed by it, for this set-up and this very list of keys, with a parcel for everybody on it.

    Raises Tampered.
    """
    document = opened(text, Bundle, roster.key(site))
    if (document.study, document.roster, document.epoch, document.site) != (roster.study, roster.hash(), epoch, site):
        raise Tampered("These shares are for another study, roster, set-up or site.")
    if document.keys != list_digest:
        raise Tampered("The dealer was shown other keys.")
    if document.parcels.keys() != keys.keys() or len(document.secrets) != epoch.rounds:
        raise Tampered("There is not one parcel for each site and one secret for each round.")
    return document


def round_context(roster: Roster, epoch: EpochTerms, cohort: Digest, terms: RoundTerms) -> bytes:
    """What a round's masks are derived from and its messages are bound to, 32 bytes: other terms at one site, and nothing cancels.

    ``cohort`` is the digest of all signed bundles, and through them of all keys, of the epoch's members.
    """
    return bytes.fromhex(digest_of("round", [roster.hash(), epoch.model_dump(), cohort, terms.model_dump()]))


def _exchanged(private: bytes, other: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise Tampered("A public key is a point of low order.") from error


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, info).derive(secret)
