"""How sure a figure is: 95 % intervals from counts and sums.

All of them speak of sampling alone: records are taken as independent, and noise that was added for privacy is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist
from typing import final

from aimer2.core.said import mark

LEVEL = 0.95
NOTHING = mark("no record was evaluated")
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)

Interval = tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval and the number of records it rests on; ``value`` None means undefined, and ``note`` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ""


def undefined(why: str, n: int = 0) -> Estimate:
    return Estimate(None, None, None, n, why)


def estimate(value: float, interval: Interval | None, n: float, note: str = "") -> Estimate:
    low, high = interval if interval is not None else (None, None)
    return Estimate(float(value), low, high, round(n), note)


def wilson(successes: float, trials: float, z: float = Z) -> Interval | None:
    """The interval of a proportion that stays inside [0, 1] also near its ends.

    Paper: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). None where
    ``successes`` of ``trials`` is no proportion (no trials; counts that privacy noise made negative).
    """
    if trials <= 0 or not 0 <= successes <= trials:
        return None
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and at all successes the two terms are equal but round differently.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def proportion(successes: float, trials: float, without: str) -> Estimate:
    """``successes`` of ``trials`` with Wilson's interval; with no trials undefined, for the reason ``without``."""
    if trials <= 0:
        return undefined(without)
    return estimate(successes / trials, wilson(successes, trials), trials)


def logit_interval(value: float, variance: float) -> Interval | None:
    """The interval of an area under the curve, symmetric on the logit scale so that it stays inside (0, 1).

    Paper: M. S. Pepe, "The Statistical Evaluation of Medical Tests for Classification and Prediction" (2003), section 5.2. None where
    the value is 0 or 1 or nothing varies: the normal approximation then claims a certainty that is not there.
    """
    if not 0 < value < 1 or variance <= 0:
        return None
    middle = log(value / (1 - value))
    half = Z * sqrt(variance) / (value * (1 - value))
    return _logistic(middle - half), _logistic(middle + half)


def extreme_auc_interval(value: float, positives: float, negatives: float) -> Interval | None:
    """The interval of an area of 0 or 1, where nothing varies and DeLong's variance is 0.

    Paper: R. G. Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", Statistics in Medicine 25
    (2006), part 2, method 5: all areas whose own standard error reaches to the one that was seen. None without both classes.
    """
    if positives <= 0 or negatives <= 0 or value not in (0.0, 1.0):
        return None
    half = (positives + negatives) / 2

    def reaches(area: float) -> bool:
        spread = area * (1 - area) / (positives * negatives) * (2 * half - 1 - (3 * half - 3) / ((2 - area) * (1 + area)))
        return (1 - area) ** 2 <= Z * Z * spread

    outside, inside = 0.0, 1.0
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (outside, middle) if reaches(middle) else (middle, inside)
    return (inside, 1.0) if value == 1 else (0.0, 1 - inside)


def _logistic(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def mean(total: float, squares: float, n: float, *, least: float | None = None) -> Estimate:
    """The mean of n numbers from their sum and sum of squares, with the normal interval; ``least`` is the lowest possible value."""
    if n <= 0:
        return undefined(NOTHING)
    value = total / n
    if n < 2:
        return estimate(value, None, n, "no interval: fewer than two records")
    half = Z * sqrt(max(squares - total * value, 0.0) / (n - 1) / n)
    low = value - half
    return estimate(value, (low if least is None else max(low, least), value + half), n)


def mean_over_classes(parts: Sequence[Estimate], n: int, *, independent: bool = False, each: str = "class") -> Estimate:
    """The mean of one figure per class; undefined as soon as it is for one class, with that class named.

    With ``independent`` figures their own intervals give that of the mean (MOVER). Paper: G. Y. Zou and A. Donner, "Construction of
    confidence limits about effect measures", Statistics in Medicine 27 (2008).
    """
    if n <= 0:
        return undefined(NOTHING)
    if lacking := [f"{each} {k}: {part.note}" for k, part in enumerate(parts) if part.value is None]:
        return undefined("; ".join(lacking), n)
    value = sum(part.value for part in parts if part.value is not None) / len(parts)
    bounded = [(p.value, p.low, p.high) for p in parts if p.value is not None and p.low is not None and p.high is not None]
    if not independent or len(bounded) < len(parts):
        return estimate(value, None, n, "no interval")
    below = sum((middle - low) ** 2 for middle, low, _ in bounded)
    above = sum((high - middle) ** 2 for middle, _, high in bounded)
    return estimate(value, (value - sqrt(below) / len(parts), value + sqrt(above) / len(parts)), n)
