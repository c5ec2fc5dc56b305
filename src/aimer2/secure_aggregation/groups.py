"""Which sites' updates are added together, where a robust aggregator compares sums of groups instead of single updates.

The division follows from the study's seed and its sites, which every site approves: in the order of SHA-256 over seed and name the sites are dealt
to the groups in turn. Each works out its own group, and nobody can be asked for a sum over another. It is the same in every stage and round. Were
the sites divided anew, sums of overlapping groups would be equations for single updates, which change little from round to round; fixed groups
are the partition of So et al. 2023, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning".
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TypeAlias

import cbor2

from aimer2.core.task import SiteId

Group: TypeAlias = tuple[SiteId, ...]


def groups(sites: Collection[SiteId], size: int, seed: int) -> tuple[Group, ...]:
    """As many groups as there can be of at least ``size`` sites, none with more than one site above another; each in the order of names.
    Fewer sites than ``size`` are one group."""
    drawn = sorted(sites, key=lambda site: _place(seed, site))
    count = max(1, len(drawn) // size)
    return tuple(sorted(tuple(sorted(drawn[number::count])) for number in range(count)))


def _place(seed: int, site: SiteId) -> bytes:
    """Of no revision of the protocol: a study's groups outlive it, as sums of other groups of the same sites would tell of single ones."""
    return hashlib.sha256(cbor2.dumps(["AIMER2/SA1", "group", [seed, site]], canonical=True)).digest()
