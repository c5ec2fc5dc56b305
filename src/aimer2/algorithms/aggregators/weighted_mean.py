"""The weighted mean, as the sum that it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.core.update import Update, total


@final
@dataclass(frozen=True, slots=True)
class WeightedMean:
    """Adds the sites' sums; the method divides by the summed weights, so the mean is weighted by what each site counts.

    Sites are added in their order within blocks of ``block`` sites, then the blocks in theirs: the order of every floating-point sum is fixed
    whoever adds and however many add at once.
    """

    block: int = 16
    additive: ClassVar[bool] = True

    @property
    def sites_needed(self) -> int:
        return 1

    def __call__(self, updates: Iterable[Update]) -> Update:
        given = list(updates)
        blocks = [total(given[start : start + self.block]) for start in range(0, len(given), self.block)]
        return total(blocks)


EXAMPLE = WeightedMean()
