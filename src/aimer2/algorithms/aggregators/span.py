"""Robust means that are mixtures of the sites' means: found among their inner products, so that the updates are read twice whatever the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aimer2.algorithms.aggregators.stack import Stack
from aimer2.core.tree import Tree

Vector: TypeAlias = npt.NDArray[np.float64]


def spanned(stack: Stack, scale: float, solve: Callable[[Vector], Vector]) -> Tree:
    """``scale · Σ cₖ·xₖ`` with the shares c that ``solve`` finds from the inner products. A site whose length is not finite gets no share."""
    with np.errstate(over="ignore", invalid="ignore"):
        gram = stack.gram()
    there = np.flatnonzero(np.isfinite(np.diag(gram)))
    shares = np.zeros(len(gram))
    if len(there):
        shares[there] = solve(gram[np.ix_(there, there)])
    return stack.mix(shares, scale)


def lengths(gram: Vector) -> Vector:
    return np.sqrt(np.diag(gram))


def distances(gram: Vector, shares: Vector) -> Vector:
    """Of every site's mean from the mixture: ‖x_k − Σ c_j x_j‖² = G_kk − 2(Gc)_k + cᵀGc."""
    across = gram @ shares
    return np.sqrt(np.maximum(np.diag(gram) - 2 * across + shares @ across, 0))


def clipped(given: Vector, bound: float) -> Vector:
    """min(1, bound/length) for each length."""
    return np.minimum(1, np.divide(bound, given, out=np.ones_like(given), where=given > bound))
