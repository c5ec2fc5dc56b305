"""What a test and an effect are made of, whatever the method."""

from __future__ import annotations

import math
from typing import NamedTuple, final

from aimer2.statistics import distributions


@final
class Significance(NamedTuple):
    """A test's statistic, its degrees of freedom (none where it has none) and its p-value, two-sided unless the method says otherwise."""

    statistic: float
    p: float
    freedom: tuple[float, ...] = ()


@final
class Effect(NamedTuple):
    """An estimate, its standard error on the scale on which it is symmetric (of a ratio: of its logarithm), and the ends of its interval."""

    estimate: float
    error: float
    low: float
    high: float


UNKNOWN = Effect(math.nan, math.nan, math.nan, math.nan)


def symmetric(estimate: float, error: float, level: float = 0.95, freedom: float = math.inf) -> Effect:
    """The interval by Student's distribution, by the normal one with infinite ``freedom``."""
    half = quantile(level, freedom) * error
    return Effect(estimate, error, estimate - half, estimate + half)


def ratio(log_estimate: float, error: float, level: float = 0.95) -> Effect:
    """Of a ratio from its logarithm; the interval is symmetric about the logarithm."""
    effect = symmetric(log_estimate, error, level)
    return Effect(math.exp(effect.estimate), error, math.exp(effect.low), math.exp(effect.high))


def chi_squared(statistic: float, freedom: float) -> Significance:
    return Significance(statistic, float(distributions.chi_squared_above(statistic, freedom)), (freedom,))


def variance_ratio(statistic: float, numerator: float, denominator: float) -> Significance:
    """Of an F statistic."""
    return Significance(statistic, float(distributions.f_above(statistic, numerator, denominator)), (numerator, denominator))


def standardised(statistic: float, freedom: float = math.inf) -> Significance:
    """Of Student's t; with infinite ``freedom`` of a standard normal."""
    if math.isinf(freedom):
        return Significance(statistic, float(distributions.normal_two_sided(statistic)))
    return Significance(statistic, float(distributions.student_two_sided(statistic, freedom)), (freedom,))


def quantile(level: float, freedom: float = math.inf) -> float:
    """How many standard errors an interval of this level reaches to either side."""
    if math.isinf(freedom):
        return float(distributions.normal_quantile(0.5 + level / 2))
    return float(distributions.student_quantile(0.5 + level / 2, freedom))
