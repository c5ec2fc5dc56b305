"""How a site's secrets come into the hands of the others: split, sealed to each, and opened there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from aimer2.core.errors import NotAvailable, Tampered
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.keys import open_keys, pack, place, unpack
from aimer2.secure_aggregation.messages import Bundle, Dealt, EpochTerms, Keys, Letters, secret_commitment, sign
from aimer2.secure_aggregation.roster import Roster
from aimer2.secure_aggregation.secret_sharing import split


@final
@dataclass(frozen=True, slots=True)
class Dealer:
    """One site in the set-up of one epoch."""

    roster: Roster
    epoch: EpochTerms
    site: SiteId

    def check_list(self, letters: Letters, mine: str) -> dict[SiteId, Keys]:
        """The keys of all, if every one is its site's own and ``mine`` is among them. Raises Tampered, NotAvailable."""
        if letters.signed.get(self.site) != mine:
            raise Tampered("The list of keys does not hold this site's own.")
        self.check_count(len(letters.signed))
        seen: set[bytes] = set()
        return {site: open_keys(text, self.roster, self.epoch, site, seen) for site, text in sorted(letters.signed.items())}

    def check_count(self, count: int) -> None:
        """Raises NotAvailable for fewer sites than a sum must be made of."""
        if count < self.roster.least:
            raise NotAvailable(
                say(
                    "There are {count} sites; of {count_2} at least {least} must take part.",
                    count=count,
                    count_2=len(self.roster.members),
                    least=self.roster.least,
                )
            )

    def deal(self, secrets: Sequence[tuple[bytes, bytes]], keys: Mapping[SiteId, Keys], list_digest: Digest, key: SigningKey) -> Dealt:
        """Shares of each round's two secrets (the own mask's, the private key) for all sites in ``keys``, this one among them."""
        xs = {site: self.roster.index(site) for site in keys}
        pieces = [split(secret, self.roster.threshold, list(xs.values())) for pair in secrets for secret in pair]
        parcels = {
            site: pack([piece[xs[site]] for piece in pieces], document.seal, place(self.roster, self.epoch, list_digest, self.site, site))
            for site, document in keys.items()
        }
        bundle = Bundle(
            study=self.roster.study,
            roster=self.roster.hash(),
            epoch=self.epoch,
            site=self.site,
            keys=list_digest,
            secrets=tuple(secret_commitment(own) for own, _ in secrets),
            parcels={site: parcel.digest() for site, parcel in parcels.items()},
        )
        return Dealt(bundle=sign(bundle, key), parcels=parcels)

    def take(self, dealt: Dealt, bundle: Bundle, seal: bytes) -> list[bytes] | None:
        """The shares that ``bundle.site`` dealt this site, two per round; None where it signed something of no use.

        Raises Tampered where the parcel was altered on the way.
        """
        parcel = dealt.parcels.get(self.site)
        if parcel is None or parcel.digest() != bundle.parcels[self.site]:
            raise Tampered(say("The parcel of '{site}' is not the one that it signed.", site=bundle.site))
        try:
            return unpack(parcel, seal, place(self.roster, self.epoch, bundle.keys, bundle.site, self.site), 2 * self.epoch.rounds)
        except Tampered:
            return None
