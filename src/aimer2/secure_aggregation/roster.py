"""Who takes part and how many are needed: the same at every site, because it comes from the study that each site approved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

from aimer2.core.errors import BadInput, NotAvailable, NotFound
from aimer2.core.said import say
from aimer2.core.task import Digest, SiteId
from aimer2.identity.keys import PublicKey
from aimer2.secure_aggregation.messages import OF_STUDIES, digest_of

MINIMUM = 3


def threshold(sites: int) -> int:
    """floor(2n/3) + 1 of n sites."""
    return 2 * sites // 3 + 1


def trusted(sites: int) -> int:
    """Of the fewest sites that a sum is made of those that are neither in league with the coordinator (fewer than a third of all) nor the one that
    reads it: so many at least add noise that a reader cannot subtract."""
    in_league = -(-sites // 3) - 1
    return threshold(sites) - max(1, in_league)


@final
@dataclass(frozen=True)
class Roster:
    """The sites of a study with their public keys. The threshold follows from their number, so nobody can ask for a lower one.

    Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 6: against a coordinator that
    lies, t > 2n/3. Two sets of t out of n sites then share more than n/3 sites, so with at most n/3 of them dishonest an honest one is in
    both, and it signs one set of survivors only.

    Raises NotAvailable for fewer than three sites: of two, each learns the other's update by subtracting its own from the sum.
    """

    study: Digest
    members: Mapping[SiteId, PublicKey]
    _indices: Mapping[SiteId, int] = field(init=False, repr=False, compare=False)
    _hash: Digest = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.members) < MINIMUM:
            raise NotAvailable("Secure aggregation needs at least three sites: of two, each could work out the other's update.")
        if len({key.raw for key in self.members.values()}) != len(self.members):
            raise BadInput("Two sites of the roster have the same key.")
        ordered = sorted(self.members)
        object.__setattr__(self, "members", MappingProxyType({site: self.members[site] for site in ordered}))
        object.__setattr__(self, "_indices", {site: index for index, site in enumerate(ordered, 1)})
        members = [[index, site, self.members[site].raw] for site, index in self._indices.items()]
        object.__setattr__(self, "_hash", digest_of("roster", [self.study, members, self.threshold, self.least], OF_STUDIES))

    @classmethod
    def of(cls, study: Digest, keys: Mapping[SiteId, str]) -> Roster:
        """Of keys as a study's package has them. Raises BadInput, NotAvailable."""
        return cls(study, {site: PublicKey.from_text(key) for site, key in keys.items()})

    @property
    def threshold(self) -> int:
        """How many sites must agree, and how many shares open a secret."""
        return threshold(len(self.members))

    @property
    def least(self) -> int:
        """How many updates a sum must at least be made of."""
        return max(self.threshold, MINIMUM)

    def index(self, site: SiteId) -> int:
        """The site's place in the order of names, from 1: where its shares are evaluated. Raises NotFound."""
        try:
            return self._indices[site]
        except KeyError as error:
            raise NotFound(say("'{site}' is not in the study's roster.", site=site)) from error

    def sites(self, indices: Collection[int]) -> list[SiteId]:
        """Those of these indices, in the order of names."""
        return [site for site, index in self._indices.items() if index in indices]

    def key(self, site: SiteId) -> PublicKey:
        """Raises NotFound."""
        self.index(site)
        return self.members[site]

    def hash(self) -> Digest:
        """What every message of the set-up and every round is bound to."""
        return self._hash
