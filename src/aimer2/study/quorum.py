"""How many answers a round needs, of whom, and how long it waits for the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from aimer2.core.said import Said, say
from aimer2.core.task import SiteId


@final
@dataclass(frozen=True, slots=True)
class Groups:
    """Sites whose answers are of use only with enough others of their group; ``least[k]`` of ``members[k]``, in ``needed`` groups."""

    members: tuple[frozenset[SiteId], ...]
    least: tuple[int, ...]
    needed: int

    def complete(self, sites: Collection[SiteId]) -> tuple[int, ...]:
        """Which groups these sites suffice for."""
        there = frozenset(sites)
        return tuple(number for number, group in enumerate(self.members) if len(group & there) >= self.least[number])

    def sites_needed(self) -> int:
        """The fewest sites that enough groups can be made of."""
        return sum(sorted(self.least)[: self.needed])


@final
@dataclass(frozen=True, slots=True)
class Patience:
    """How many answers a round needs, and how long it waits for the others. With groups, answers outside of complete ones do not count."""

    needed: int
    deadline_seconds: float
    groups: Groups | None = None

    def enough(self, sites: Collection[SiteId]) -> bool:
        """Whether these are the sites of a round."""
        if self.groups is None:
            return len(sites) >= self.needed
        complete = self.groups.complete(sites)
        counted = frozenset().union(*(self.groups.members[number] for number in complete)) & frozenset(sites)
        return len(complete) >= self.groups.needed and len(counted) >= self.needed

    def lacking(self, sites: Sequence[SiteId] | Collection[SiteId], what: Said) -> Said:
        """Why they are not: ``what`` they did."""
        if self.groups is None or len(self.groups.members) == 1:
            return say("{sites} sites {what}, {needed} are needed", sites=len(sites), what=what, needed=self.needed)
        complete, of = len(self.groups.complete(sites)), len(self.groups.members)
        return say(
            "{sites} sites {what}, enough for {complete} of {of} groups; {needed} sites and {groups} groups are needed",
            sites=len(sites),
            what=what,
            complete=complete,
            of=of,
            needed=self.needed,
            groups=self.groups.needed,
        )
