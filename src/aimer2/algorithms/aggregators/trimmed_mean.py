"""The coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", Definition 2: of each number
the ``byzantine`` smallest and as many of the largest over the sites' mean differences are left out, the others averaged, every site counted
once. The paper gives the share β = byzantine / sites.

``control`` and every other sum of the model's arrays is treated the same way; ``metrics`` are added; of ``weight`` and the other sums it is the
number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.aggregators.stack import Matrix, combine
from aimer2.core.errors import BadUpdate
from aimer2.core.ranges import AGGREGATOR, AT_LEAST_1, refuse_outside
from aimer2.core.said import say
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean:
    """Stays between the honest sites' numbers with up to ``byzantine`` false sites, and uses more of the honest ones than the median."""

    byzantine: int = 1
    block: int = 16
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, AGGREGATOR, byzantine=AT_LEAST_1)

    @property
    def sites_needed(self) -> int:
        return 2 * self.byzantine + 1

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, lambda stack, scale: stack.columns(self._trim, scale))

    def _trim(self, strip: Matrix) -> Matrix:
        if len(strip) < self.sites_needed:
            raise BadUpdate(say("{count} sites have a weight above 0, {sites_needed} are needed.", count=len(strip), sites_needed=self.sites_needed))
        ordered = np.sort(strip, axis=0)[self.byzantine : len(strip) - self.byzantine]
        return np.asarray(np.add.reduce(ordered / ordered.dtype.type(len(ordered)), axis=0))


EXAMPLE = TrimmedMean()
