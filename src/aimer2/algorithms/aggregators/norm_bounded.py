"""The mean of updates of bounded length.

Sun, Kairouz, Suresh, McMahan 2019, "Can You Really Backdoor Federated Learning?", section 3 (norm thresholding): each site's mean difference x_k
is scaled to min(1, M/‖x_k‖)·x_k, then all are averaged, every site counted once. ``bound`` is M; 0 takes the median of the sites' lengths of
the round.

``control`` and every other sum of the model's arrays is treated the same way, on its own; ``metrics`` are added; of ``weight`` and the other
sums it is the number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.aggregators.span import Vector, clipped
from aimer2.algorithms.aggregators.stack import Stack, combine
from aimer2.core.ranges import AGGREGATOR, AT_LEAST_0, refuse_outside
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NormBounded:
    """No site moves the mean by more than M divided by the number of sites; against lies that are large, not against small ones."""

    bound: float = 0.0
    block: int = 16
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, AGGREGATOR, bound=AT_LEAST_0)

    @property
    def sites_needed(self) -> int:
        return 3

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, self._mean)

    def _mean(self, stack: Stack, scale: float) -> Tree:
        return stack.mix(self.shares(_lengths(stack)), scale)

    def shares(self, lengths: Vector) -> Vector:
        """Of the sites, from the lengths of their means; a length that is not finite gets none."""
        there = np.isfinite(lengths)
        bound = self.bound or float(np.median(lengths[there])) if there.any() else 0.0
        return np.where(there, clipped(np.where(there, lengths, 0), bound), 0) / len(lengths)


def _lengths(stack: Stack) -> Vector:
    """Distances of the means from 0, in one pass."""
    squares = np.zeros(len(stack.rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for strip in stack:
            squares += np.einsum("ij,ij->i", strip, strip)
    return np.sqrt(squares)


EXAMPLE = NormBounded()
