"""Whether one model ranks patients better than another, on the same patients: DeLong's test of two areas under the curve from sums.

Two rounds. The first gathers the two models' histograms (`aimer2.metrics.binned_scores`). The second tells every hospital the share of the other
class below (or above) each bin, and gathers sums of products of what its patients score there: the covariance of the two areas, without a joint
histogram of the two models' scores, which would be close to a list of patients.

Paper: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988), equations 5 to 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.metrics.binned_scores import EDGES
from aimer2.statistics.significance import Effect, Significance, standardised, symmetric

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class AreasCompared:
    """``difference`` is the first area minus the second; ``correlation`` that of the two areas' estimates."""

    areas: tuple[float, float]
    difference: Effect
    correlation: float
    test: Significance


def placements(histograms: NDArray[np.integer]) -> Floats:
    """``(2, 2, 1024)`` from the two models' histograms ``(2, 2, 1024)``: per model, for a negative the share of positives above its bin, for a
    positive the share of negatives below it, ties at half. Raises BadInput where a class is absent."""
    counts = np.asarray(histograms, np.float64)
    totals = counts[0].sum(axis=1)
    if (totals <= 0).any():
        raise BadInput("Areas under the curve need patients with the event and without.")
    negatives, positives = counts[:, 0], counts[:, 1]
    below = np.cumsum(negatives, axis=1) - negatives / 2
    above = totals[1] - np.cumsum(positives, axis=1) + positives / 2
    return np.stack([above / totals[1], below / totals[0]], axis=1)


def products(scores: Floats, positive: NDArray[np.bool_], placed: Floats) -> Floats:
    """What a hospital sends of its patients' scores ``(n, 2)``: per class (negatives, positives) their number, and of their two placements the sums,
    squares and the product: ``(2, 6)``."""
    bins = np.searchsorted(EDGES, scores, side="right")
    out = np.zeros((2, 6))
    for row, mine in enumerate((~positive, positive)):
        first, second = (placed[model, row, bins[mine, model]] for model in range(2))
        out[row] = (len(first), first.sum(), second.sum(), (first**2).sum(), (second**2).sum(), (first * second).sum())
    return out


def compare(sums: Floats, level: float = 0.95) -> AreasCompared:
    """Of the sums over hospitals. Raises BadInput with fewer than two patients of a class."""
    covariance = np.zeros((2, 2))
    for n, first, second, squares1, squares2, product in sums:
        if n < 2:
            raise BadInput("The comparison of two areas needs two patients at least with the event and two without.")
        centred = np.array([[squares1 - first**2 / n, product - first * second / n], [product - first * second / n, squares2 - second**2 / n]])
        covariance += centred / (n - 1) / n
    areas = float(sums[1, 1] / sums[1, 0]), float(sums[1, 2] / sums[1, 0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    difference = areas[0] - areas[1]
    spread = math.sqrt(max(covariance[0, 0] * covariance[1, 1], 0.0))
    return AreasCompared(
        areas=areas,
        difference=symmetric(difference, error, level),
        correlation=float(covariance[0, 1] / spread) if spread > 0 else math.nan,
        test=standardised(difference / error) if error > 0 else _without_error(difference),
    )


def _without_error(difference: float) -> Significance:
    """Every patient's placement differs by the same: no chance is left where that is nothing, and nothing can be told where it is not."""
    return Significance(0.0, 1.0) if difference == 0 else Significance(math.nan, math.nan)
