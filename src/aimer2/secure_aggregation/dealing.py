"""How a site's secrets come into the hands of the others: split, sealed to each, and opened there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

from aimer2.core.errors import NotAvailable, Tampered
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.identity.keys import SigningKey
from aimer2.secure_aggregation.hash_tree import HashTree, path_length, root_of
from aimer2.secure_aggregation.keys import open_keys, pack, parcel_length, place, secret_commitment, set_up_digest, unpack
from aimer2.secure_aggregation.messages import Bundle, Deals, Dealt, EpochTerms, Keys, Letters, pieces, sign
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
                    "There are {count} sites; of {members} at least {least} must take part.",
                    count=count,
                    members=len(self.roster.members),
                    least=self.roster.least,
                )
            )

    def deal(self, secrets: Sequence[tuple[bytes, bytes]], keys: Mapping[SiteId, Keys], list_digest: Digest, key: SigningKey) -> Dealt:
        """Shares of each round's two secrets (the own mask's, the private key) for all sites in ``keys``, this one among them."""
        seals = {self.roster.index(site): document.seal for site, document in sorted(keys.items())}
        split_up = [split(secret, self.roster.threshold, list(seals)) for pair in secrets for secret in pair]
        set_up, mine = set_up_digest(self.roster, self.epoch, list_digest), self.roster.index(self.site)
        parcels = [pack([shares[index] for shares in split_up], seal, place(set_up, mine, index)) for index, seal in seals.items()]
        bundle = Bundle(
            study=self.roster.study,
            roster=self.roster.hash(),
            epoch=self.epoch,
            site=self.site,
            keys=list_digest,
            secrets=tuple(secret_commitment(own) for own, _ in secrets),
            parcels=HashTree(parcels).root.hex(),
        )
        return Dealt(bundle=sign(bundle, key), parcels=b"".join(parcels))

    def take(self, deals: Deals, bundles: Sequence[Bundle], sites: Sequence[SiteId], seal: bytes, set_up: bytes) -> dict[SiteId, list[bytes]]:
        """The shares that each dealer dealt this site, two per round; without those of a dealer that signed something of no use.

        ``bundles``: of all dealers; ``sites``: all on the list of keys; both in order. Raises Tampered where a parcel was altered on the way.
        """
        at, mine, count = sites.index(self.site), self.roster.index(self.site), 2 * self.epoch.rounds
        parcels = pieces(deals.parcels, len(bundles), parcel_length(count))
        paths = pieces(deals.paths, len(bundles), path_length(at, len(sites)))
        taken = {}
        for bundle, parcel, path in zip(bundles, parcels, paths, strict=True):
            if root_of(parcel, at, len(sites), path).hex() != bundle.parcels:
                raise Tampered(say("The parcel of '{site}' is not the one that it signed.", site=bundle.site))
            with suppress(Tampered):
                taken[bundle.site] = unpack(parcel, seal, place(set_up, self.roster.index(bundle.site), mine), count)
        return taken
