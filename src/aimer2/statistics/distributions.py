"""Tails and quantiles of the distributions that tests and intervals rest on; the one home of scipy.

Numbers and arrays alike. Tails are computed as tails, so a p-value of 1e-40 keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


def normal_below(z: Any) -> Any:
    return special.ndtr(z)


def normal_two_sided(z: Any) -> Any:
    return 2 * special.ndtr(-np.abs(z))


def normal_quantile(probability: Any) -> Any:
    return special.ndtri(probability)


def student_below(t: Any, freedom: Any) -> Any:
    return special.stdtr(freedom, t)


def student_two_sided(t: Any, freedom: Any) -> Any:
    return 2 * special.stdtr(freedom, -np.abs(t))


def student_above_shifted(t: Any, freedom: Any, shift: Any) -> Any:
    """The chance that a noncentral t with this noncentrality lies above ``t``."""
    return 1 - special.nctdtr(freedom, shift, t)


def student_quantile(probability: Any, freedom: Any) -> Any:
    return special.stdtrit(freedom, probability)


def chi_squared_above(x: Any, freedom: Any) -> Any:
    return special.chdtrc(freedom, x)


def chi_squared_quantile(probability: Any, freedom: Any) -> Any:
    return 2 * special.gammaincinv(np.asarray(freedom) / 2, probability)


def f_above(x: Any, numerator: Any, denominator: Any) -> Any:
    return special.fdtrc(numerator, denominator, x)


def beta_quantile(probability: Any, a: Any, b: Any) -> Any:
    return special.betaincinv(a, b, probability)


def log_choose(n: Any, k: Any) -> Any:
    return special.gammaln(np.asarray(n) + 1.0) - special.gammaln(np.asarray(k) + 1.0) - special.gammaln(np.asarray(n) - k + 1.0)


def root(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-12) -> float:
    """Where a continuous function that has not the same sign at both ends is zero, by bisection until the ends are within ``tolerance`` of each
    other (relative to their size beyond one). Raises ValueError where the signs are the same."""
    at_low = function(low)
    if at_low == 0:
        return low
    if not at_low * function(high) <= 0:
        raise ValueError("The function has the same sign at both ends.")
    while high - low > tolerance * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        value = function(middle)
        if value == 0:
            return middle
        low, high = (middle, high) if math.copysign(1.0, value) == math.copysign(1.0, at_low) else (low, middle)
    return (low + high) / 2
