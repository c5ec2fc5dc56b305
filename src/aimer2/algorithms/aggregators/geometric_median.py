"""The geometric median.

Pillutla, Kakade, Harchaoui 2022, "Robust Aggregation for Federated Learning", Algorithm 2 (smoothed Weiszfeld): z minimises Σ ‖x_k − z‖ over the
sites' mean differences x_k by z ← Σ β_k x_k / Σ β_k with β_k = 1/max(ν, ‖x_k − z‖), from their mean on. ``nu`` is ν; unlike in the paper
every site counts once, because the number of rows is its own word. It stops where no share of a site moves by more than 1e-9 of itself.

``control`` and every other sum of the model's arrays is treated the same way, on its own; ``metrics`` are added; of ``weight`` and the other
sums it is the number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.aggregators.span import Vector, distances, spanned
from aimer2.algorithms.aggregators.stack import combine
from aimer2.core.ranges import ABOVE_0, AGGREGATOR, AT_LEAST_1, refuse_outside
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMedian:
    """The point of least summed distance from the sites: it stays near the honest ones while fewer than half are false, however far those go."""

    nu: float = 1e-6
    iterations: int = 1000
    block: int = 16
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, AGGREGATOR, nu=ABOVE_0, iterations=AT_LEAST_1)

    @property
    def sites_needed(self) -> int:
        return 3

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, lambda stack, scale: spanned(stack, scale, self.shares))

    def shares(self, gram: Vector) -> Vector:
        """Of the sites, from the inner products of their means."""
        shares = np.full(len(gram), 1 / len(gram))
        for _ in range(self.iterations):
            nearness = 1 / np.maximum(self.nu, distances(gram, shares))
            before, shares = shares, nearness / nearness.sum()
            if np.all(np.abs(shares - before) <= 1e-9 * shares):
                break
        return shares


EXAMPLE = GeometricMedian()
