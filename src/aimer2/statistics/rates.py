"""How often: incidence per person-time and prevalence, with exact intervals, and both standardised to another population.

Papers: F. Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28 (1936); C. J. Clopper, E. S. Pearson, Biometrika 26 (1934);
M. P. Fay, E. J. Feuer, "Confidence intervals for directly standardized rates: a method based on the gamma distribution", Statistics in Medicine 16
(1997); N. E. Breslow, N. E. Day, "Statistical Methods in Cancer Research" II (1987), chapter 2, for indirect standardisation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from aimer2.core.errors import BadInput
from aimer2.statistics import distributions
from aimer2.statistics.significance import Effect


def counted(events: float, level: float = 0.95) -> tuple[float, float]:
    """The exact limits of the expected number, from the number seen."""
    tail = (1 - level) / 2
    low = float(distributions.chi_squared_quantile(tail, 2 * events)) / 2 if events > 0 else 0.0
    return low, float(distributions.chi_squared_quantile(1 - tail, 2 * events + 2)) / 2


def incidence(events: float, time: float, level: float = 0.95) -> Effect:
    """Events per unit of person-time. Raises BadInput without person-time."""
    if time <= 0:
        raise BadInput("A rate needs person-time above 0.")
    low, high = counted(events, level)
    return Effect(events / time, math.sqrt(events) / time, low / time, high / time)


def prevalence(events: float, patients: float, level: float = 0.95) -> Effect:
    """A share with Clopper and Pearson's limits. Raises BadInput without patients."""
    if patients <= 0:
        raise BadInput("A prevalence needs patients.")
    tail, share = (1 - level) / 2, events / patients
    low = float(distributions.beta_quantile(tail, events, patients - events + 1)) if events > 0 else 0.0
    high = float(distributions.beta_quantile(1 - tail, events + 1, patients - events)) if events < patients else 1.0
    return Effect(share, math.sqrt(share * (1 - share) / patients), low, high)


def directly(events: ArrayLike, time: ArrayLike, population: ArrayLike, level: float = 0.95) -> Effect:
    """What the rate would be with the strata of a standard population; gamma limits.

    Raises BadInput where a stratum that counts has no person-time.
    """
    seen, lived, standard = (np.asarray(one, np.float64) for one in (events, time, population))
    if (standard < 0).any() or standard.sum() <= 0 or (lived[standard > 0] <= 0).any():
        raise BadInput("Direct standardisation needs person-time in every stratum that the standard population has.")
    held = standard > 0
    weights = standard[held] / standard.sum() / lived[held]
    value, variance = float(weights @ seen[held]), float(weights**2 @ seen[held])
    tail, largest = (1 - level) / 2, float(weights.max())
    low = variance / (2 * value) * float(distributions.chi_squared_quantile(tail, 2 * value**2 / variance)) if value > 0 else 0.0
    above, spread = value + largest, variance + largest**2
    high = spread / (2 * above) * float(distributions.chi_squared_quantile(1 - tail, 2 * above**2 / spread))
    return Effect(value, math.sqrt(variance), low, high)


def indirectly(events: float, time: ArrayLike, rates: ArrayLike, level: float = 0.95) -> tuple[float, Effect]:
    """The events expected at the standard's rates, and the standardised ratio with exact limits. Raises BadInput where none are expected."""
    expected = float(np.asarray(time, np.float64) @ np.asarray(rates, np.float64))
    if expected <= 0:
        raise BadInput("Indirect standardisation needs events expected at the standard's rates.")
    return expected, incidence(events, expected, level)
