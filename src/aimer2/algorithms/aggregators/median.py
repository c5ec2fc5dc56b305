"""The coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", Definition 1: each number of
the result is the median of that number over the sites' mean differences, every site counted once. Of an even number of sites it is the mean of
the two in the middle.

``control`` and every other sum of the model's arrays is treated the same way; ``metrics`` are added; of ``weight`` and the other sums it is the
number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.aggregators.stack import combine, middle
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """Stays between the honest sites' numbers as long as fewer than half of the sites are false."""

    block: int = 16
    additive: ClassVar[bool] = False

    @property
    def sites_needed(self) -> int:
        return 3

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, lambda stack, scale: stack.columns(middle, scale))


EXAMPLE = Median()
