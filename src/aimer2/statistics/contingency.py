"""Whether two classifications go together: chi-squared and exact tests of a table of counts, and what a 2×2 table says of a risk.

Papers: K. Pearson, Philosophical Magazine 50 (1900); F. Yates, "Contingency tables involving small numbers and the χ² test", Suppl. JRSS 1
(1934); R. A. Fisher, "Statistical Methods for Research Workers" (1925), section 21.02, two-sided as the chance of all tables with the same
margins that are not likelier than the one seen; D. Katz et al., "Obtaining confidence intervals for the risk ratio in cohort studies",
Biometrics 34 (1978); B. Woolf, "On estimating the relation between blood group and disease", Annals of Human Genetics 19 (1955);
R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17 (1998), method 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.metrics.intervals import wilson
from aimer2.statistics import distributions
from aimer2.statistics.significance import UNKNOWN, Effect, Significance, chi_squared, quantile, ratio

Floats = NDArray[np.float64]

EQUALLY_LIKELY = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Association:
    """``yates`` and ``fisher`` for 2×2 tables only; ``smallest_expected`` below 5 is where χ² should not be trusted."""

    pearson: Significance
    likelihood_ratio: Significance
    yates: Significance | None
    fisher_p: float | None
    cramers_v: float
    smallest_expected: float


@final
@dataclass(frozen=True, slots=True)
class Risks:
    """Of rows exposed and not, columns with the event and without: first row against the second."""

    odds_ratio: Effect
    risk_ratio: Effect
    risk_difference: Effect


def associate(table: NDArray[np.integer] | Floats) -> Association:
    """Of a table of counts, rows and columns without patients left out. Raises BadInput where fewer than two of either are left."""
    counts = np.asarray(table, np.float64)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    rows, columns = counts.shape
    if min(rows, columns) < 2:
        raise BadInput("A test of association needs patients in two rows and two columns at least.")
    n = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    freedom = (rows - 1) * (columns - 1)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    seen = counts > 0
    likelihood = float(2 * (counts[seen] * np.log(counts[seen] / expected[seen])).sum())
    square = (rows, columns) == (2, 2)
    closer = np.maximum(np.abs(counts - expected) - min(0.5, float(np.abs(counts - expected).min())), 0.0)
    return Association(
        pearson=chi_squared(statistic, freedom),
        likelihood_ratio=chi_squared(max(likelihood, 0.0), freedom),
        yates=chi_squared(float((closer**2 / expected).sum()), 1) if square else None,
        fisher_p=fisher(counts) if square else None,
        cramers_v=math.sqrt(statistic / n / (min(rows, columns) - 1)),
        smallest_expected=float(expected.min()),
    )


def fisher(table: Floats) -> float:
    """The exact two-sided p-value of a 2×2 table of whole numbers."""
    (a, b), (c, d) = table
    first, second, events = a + b, c + d, a + c
    possible = np.arange(max(0.0, events - second), min(first, events) + 1)
    logs = distributions.log_choose(first, possible) + distributions.log_choose(second, events - possible)
    chances = np.exp(logs - logs.max())
    seen = chances[round(a - possible[0])]
    return min(1.0, float(chances[chances <= seen * (1 + EQUALLY_LIKELY)].sum() / chances.sum()))


def risks(table: NDArray[np.integer] | Floats, level: float = 0.95) -> Risks:
    """Ratios without an interval where a cell they divide by is empty; the difference always has one. Raises BadInput where a row is empty."""
    (a, b), (c, d) = np.asarray(table, np.float64)
    if min(a + b, c + d) <= 0:
        raise BadInput("A risk needs patients in both rows.")
    odds = ratio(math.log(a * d / (b * c)), math.sqrt(1 / a + 1 / b + 1 / c + 1 / d), level) if min(a, b, c, d) > 0 else UNKNOWN
    relative = UNKNOWN
    if min(a, c) > 0:
        relative = ratio(math.log(a / (a + b) / (c / (c + d))), math.sqrt(max(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d), 0.0)), level)
    return Risks(odds_ratio=odds, risk_ratio=relative, risk_difference=difference((a, a + b), (c, c + d), level))


def difference(first: tuple[float, float], second: tuple[float, float], level: float = 0.95) -> Effect:
    """Of two proportions, each as events and patients, with Newcombe's interval (made of Wilson's), which stays inside [−1, 1]."""
    shares = first[0] / first[1], second[0] / second[1]
    value = shares[0] - shares[1]
    error = math.sqrt(sum(share * (1 - share) / n for share, (_, n) in zip(shares, (first, second), strict=True)))
    z = quantile(level)
    (low1, high1), (low2, high2) = (wilson(*one, z) or (0.0, 1.0) for one in (first, second))
    below = math.hypot(shares[0] - low1, high2 - shares[1])
    above = math.hypot(high1 - shares[0], shares[1] - low2)
    return Effect(value, error, value - below, value + above)
