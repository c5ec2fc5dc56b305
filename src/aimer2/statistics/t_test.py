"""Whether two groups' means differ: Student's and Welch's t tests from sums.

Papers: Student, "The probable error of a mean", Biometrika 6 (1908); B. L. Welch, "The generalization of 'Student's' problem when several
different population variances are involved", Biometrika 34 (1947), degrees of freedom by Satterthwaite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

from aimer2.core.errors import BadInput
from aimer2.statistics.significance import Effect, Significance, standardised, symmetric


@final
class Sample(NamedTuple):
    """Of one group: patients, mean, and the sum of squared distances from it."""

    n: float
    mean: float
    squares: float

    @property
    def variance(self) -> float:
        return self.squares / (self.n - 1)


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """``difference`` is the first mean minus the second; ``hedges_g`` is it in pooled standard deviations, corrected for small samples."""

    difference: Effect
    test: Significance
    hedges_g: float


def compare(first: Sample, second: Sample, *, equal_variances: bool = False, level: float = 0.95) -> Compared:
    """Welch's test, or Student's with ``equal_variances``.

    Raises BadInput where a group has fewer than two patients or nothing varies.
    """
    if min(first.n, second.n) < 2:
        raise BadInput("A t test needs two patients at least in either group.")
    pooled_freedom = first.n + second.n - 2
    pooled = (first.squares + second.squares) / pooled_freedom
    if pooled <= 0:
        raise BadInput("The outcome does not vary within the groups, so a t test says nothing.")
    if equal_variances:
        freedom, error = pooled_freedom, math.sqrt(pooled * (1 / first.n + 1 / second.n))
    else:
        parts = first.variance / first.n, second.variance / second.n
        error = math.sqrt(sum(parts))
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1))
    difference = first.mean - second.mean
    correction = math.exp(math.lgamma(pooled_freedom / 2) - math.lgamma((pooled_freedom - 1) / 2)) / math.sqrt(pooled_freedom / 2)
    return Compared(
        difference=symmetric(difference, error, level, freedom),
        test=standardised(difference / error, freedom),
        hedges_g=correction * difference / math.sqrt(pooled),
    )
