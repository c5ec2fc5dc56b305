"""How far predicted numbers are from the true ones, from sums.

Leaves the site: sum of e, |e| and e^2 with e = prediction - target (float64 (3,)); sum of y - c and of (y - c)^2 (float64 (2,)).

c is a public centre, the same at every site. The spread of the targets is a difference of two sums, and digits are lost where the targets
lie far from c (mean 10,000,000.2, deviation 0.1 and c = 0 lose all of them): state a c near the targets' mean. The figures
do not depend on c otherwise, and R2 is undefined rather than wrong where too few digits are left.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from aimer2.metrics.intervals import NOTHING, Estimate, estimate, mean, undefined

Floats = NDArray[np.float64]

LEAST_SPREAD = 1e-8  # share of sum (y - c)^2 that must be left after subtracting the mean's part: keeps about six digits


def error_sums(predictions: Floats, targets: Floats) -> Floats:
    error = predictions - targets
    return np.array([error.sum(), np.abs(error).sum(), (error * error).sum()])


def target_sums(targets: Floats, centre: float) -> Floats:
    shifted = targets - centre
    return np.array([shifted.sum(), (shifted * shifted).sum()])


def mean_error(errors: Floats, n: float) -> Estimate:
    """The mean of prediction - target: positive means too high."""
    return mean(float(errors[0]), float(errors[2]), n)


def mae(errors: Floats, n: float) -> Estimate:
    return mean(float(errors[1]), float(errors[2]), n, least=0.0)


def mse(errors: Floats, n: float) -> Estimate:
    return estimate(float(errors[2]) / n, None, n, "no interval") if n > 0 else undefined(NOTHING)


def rmse(errors: Floats, n: float) -> Estimate:
    return estimate(sqrt(max(float(errors[2]) / n, 0.0)), None, n, "no interval") if n > 0 else undefined(NOTHING)


def r2(errors: Floats, targets: Floats, n: float) -> Estimate:
    """The share of the targets' variance that is explained; negative where the mean would predict better."""
    if n <= 0:
        return undefined(NOTHING)
    total, squares = float(targets[0]), float(targets[1])
    spread = squares - total * total / n
    if spread <= LEAST_SPREAD * squares:
        return undefined("the targets do not vary, or lie too far from the stated centre for it to be seen", round(n))
    return estimate(1 - float(errors[2]) / spread, None, n, "no interval")
