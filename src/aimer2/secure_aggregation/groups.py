"""Which sites' updates are added together, where a robust aggregator compares sums of groups instead of single updates.

The division follows from the study's seed and its sites, which every site approves: in the order of SHA-256 over seed and name the sites are dealt
to the groups in turn. Each works out its own group, and nobody can be asked for a sum over another. It is the same in every stage and round. Were
the sites divided anew, sums of overlapping groups would be equations for single updates, which change little from round to round; fixed groups
are the partition of So et al. 2023, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from aimer2.core.task import SiteId
from aimer2.secure_aggregation.messages import OF_STUDIES, digest_of

Group: TypeAlias = tuple[SiteId, ...]


def groups(sites: Collection[SiteId], size: int, seed: int) -> tuple[Group, ...]:
    """As many groups as there can be of at least ``size`` sites, none with more than one site above another; each in the order of names.
    Fewer sites than ``size`` are one group."""
    drawn = sorted(sites, key=lambda site: digest_of("group", [seed, site], OF_STUDIES))
    count = max(1, len(drawn) // size)
    return tuple(sorted(tuple(sorted(drawn[number::count])) for number in range(count)))
