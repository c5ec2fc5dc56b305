"""Krum and multi-Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", section 4: the score of
a site is the sum of its squared distances to the n − f − 2 sites nearest to it; Krum takes the site of the lowest score, multi-Krum the mean of
the ``selected`` lowest. ``byzantine`` is f, n the sites of the round. Of equal scores the first in the order of the sites is taken.

``control`` and every other sum of the model's arrays goes by the same rule, with scores of its own; ``metrics`` are added; of ``weight`` and the
other sums it is the number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.aggregators.span import Vector, spanned
from aimer2.algorithms.aggregators.stack import combine
from aimer2.core.ranges import AGGREGATOR, AT_LEAST_1, refuse_outside
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Krum:
    """Follows the sites that lie closest together; ``selected`` = 1 is Krum, more is multi-Krum."""

    byzantine: int = 1
    selected: int = 1
    block: int = 16
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, AGGREGATOR, byzantine=AT_LEAST_1, selected=AT_LEAST_1)

    @property
    def sites_needed(self) -> int:
        """n ≥ 2f + 3 (Proposition 4.2), and those selected are among n − f − 2."""
        return self.byzantine + 2 + max(self.selected, self.byzantine + 1)

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, lambda stack, scale: spanned(stack, scale, self.shares))

    def shares(self, gram: Vector) -> Vector:
        """Of the sites, from the inner products of their means."""
        squares = np.diag(gram)
        apart = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
        np.fill_diagonal(apart, -1)
        near = np.sort(apart, axis=1)[:, 1 : 1 + max(1, len(gram) - self.byzantine - 2)]
        chosen = np.argsort(near.sum(axis=1), kind="stable")[: self.selected]
        shares = np.zeros(len(gram))
        shares[chosen] = 1 / len(chosen)
        return shares


EXAMPLE = Krum()
