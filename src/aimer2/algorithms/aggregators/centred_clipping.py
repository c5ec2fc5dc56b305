"""Centred clipping.

Karimireddy, He, Jaggi 2021, "Learning from History for Byzantine Robust Optimization", Algorithm 1: v ← v + mean((x_k − v)·min(1, τ/‖x_k − v‖))
over the sites' mean differences x_k, ``iterations`` times, every site counted once. ``tau`` is τ; 0 takes in each iteration the median of the
sites' distances from v. The paper starts from the last round's result; this one keeps nothing between rounds and starts from 0, the model as
it is, and takes more iterations for that.

``control`` and every other sum of the model's arrays is treated the same way, on its own; ``metrics`` are added; of ``weight`` and the other
sums it is the number of sites times the median.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.aggregators.span import Vector, clipped, distances, spanned
from aimer2.algorithms.aggregators.stack import combine
from aimer2.core.ranges import AGGREGATOR, AT_LEAST_0, AT_LEAST_1, refuse_outside
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CentredClipping:
    """A mean around a centre that false sites can pull at by τ each and no more."""

    tau: float = 0.0
    iterations: int = 10
    block: int = 16
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, AGGREGATOR, tau=AT_LEAST_0, iterations=AT_LEAST_1)

    @property
    def sites_needed(self) -> int:
        return 3

    def __call__(self, updates: Iterable[Update]) -> Update:
        return combine(updates, self.block, self.sites_needed, lambda stack, scale: spanned(stack, scale, self.shares))

    def shares(self, gram: Vector) -> Vector:
        """Of the sites, from the inner products of their means; the centre is the mixture that they make."""
        shares = np.zeros(len(gram))
        for _ in range(self.iterations):
            away = distances(gram, shares)
            pull = clipped(away, self.tau or float(np.median(away))) / len(gram)
            shares = shares * (1 - pull.sum()) + pull
        return shares


EXAMPLE = CentredClipping()
