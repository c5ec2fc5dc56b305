"""Whether values of one group tend to lie above another's: Mann-Whitney and Kruskal-Wallis from histograms.

Ranks need the order of all patients of all hospitals; what is sent are counts per group in bins with common edges. Patients of a bin share its
middle rank, as ties do, so the test is exactly that of the binned values. By how much binning can move it is bounded from the counts alone: a
pair of patients within one bin counts a half and could count 0 or 1.

Papers: H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947); W. H. Kruskal, W. A. Wallis, JASA 47 (1952), both with the usual
correction for ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.statistics.significance import Significance, chi_squared, standardised

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Ranked:
    """``superiority`` is the chance that a patient of the first group lies above one of the second, ties at half, and ``possible`` its range over
    all values that have these counts."""

    u: float
    test: Significance
    superiority: float
    possible: tuple[float, float]


def mann_whitney(counts: NDArray[np.integer] | Floats, *, continuity: bool = True) -> Ranked:
    """From counts ``(2, bins)`` in order of the values, by the normal approximation. Raises BadInput where a group is empty or all lie in one bin."""
    table = np.asarray(counts, np.float64)
    first, second = table
    n1, n2 = table.sum(axis=1)
    if min(n1, n2) <= 0:
        raise BadInput("A rank test needs patients in both groups.")
    below = np.cumsum(second) - second
    u, tied = float(first @ (below + second / 2)), float(first @ second)
    variance = n1 * n2 / 12 * (n1 + n2 + 1 - _ties(table) / ((n1 + n2) * (n1 + n2 - 1)))
    if variance <= 0:
        raise BadInput("All values lie in one bin, so their ranks say nothing. Choose finer bins.")
    distance = u - n1 * n2 / 2
    corrected = math.copysign(max(abs(distance) - (0.5 if continuity else 0.0), 0.0), distance)
    pairs = n1 * n2
    return Ranked(u, standardised(corrected / math.sqrt(variance)), u / pairs, ((u - tied / 2) / pairs, (u + tied / 2) / pairs))


def kruskal_wallis(counts: NDArray[np.integer] | Floats) -> Significance:
    """From counts ``(groups, bins)``; groups without patients are left out. Raises BadInput with fewer than two, or all in one bin."""
    table = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    n = table.sum()
    together = table.sum(axis=0)
    correction = 1 - _ties(table) / (n**3 - n) if n > 1 else 0.0
    if len(table) < 2 or correction <= 0:
        raise BadInput("A rank test needs patients in two groups and in two bins at least.")
    ranks = np.cumsum(together) - together / 2 + 0.5
    sums = table @ ranks
    statistic = 12 / (n * (n + 1)) * float((sums**2 / table.sum(axis=1)).sum()) - 3 * (n + 1)
    return chi_squared(max(float(statistic / correction), 0.0), len(table) - 1)


def undecided(counts: NDArray[np.integer] | Floats) -> float:
    """The share of the pairs of patients of different groups that lie in one bin, whose order is not known; near 0 binning moves nothing."""
    table = np.asarray(counts, np.float64)
    groups = table.sum(axis=1)
    pairs = (groups.sum() ** 2 - (groups**2).sum()) / 2
    within = (table.sum(axis=0) ** 2 - (table**2).sum(axis=0)) / 2
    return float(within.sum() / pairs) if pairs > 0 else 0.0


def _ties(table: Floats) -> float:
    together = table.sum(axis=0)
    return float((together**3 - together).sum())
