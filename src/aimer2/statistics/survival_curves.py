"""What follows from counts at risk and events per time, beyond the Kaplan-Meier curve itself: cumulative hazard, cumulative incidence with
competing risks, and the mean time lived without the event up to a horizon.

Counts are of all hospitals together, in order of time: at risk just before a time, events at it. Where times are binned by the study, a time is
the end of its bin, and an event may have happened up to one bin earlier.

Papers: W. Nelson, Technometrics 14 (1972), O. Aalen, Annals of Statistics 6 (1978); O. Aalen, S. Johansen, Scandinavian J. Statistics 5 (1978),
variance by the delta method as in E. Marubini, M. G. Valsecchi, "Analysing Survival Data from Clinical Trials" (1995), equation 10.12;
J. P. Klein, M. L. Moeschberger, "Survival Analysis" (2003), sections 4.2, 4.3 and 4.5, for log intervals of the hazard and the restricted mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.statistics.significance import Effect, quantile, ratio, symmetric

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """A step function with the ends of its interval at every time, all ``(T,)``: constant from each time up to the next."""

    times: Floats
    values: Floats
    errors: Floats
    low: Floats
    high: Floats


@final
@dataclass(frozen=True, slots=True)
class RestrictedMean:
    """Time lived without the event on average up to ``horizon``, and time lost to it."""

    horizon: float
    lived: Effect
    lost: Effect


def nelson_aalen(times: Floats, at_risk: Floats, events: Floats, level: float = 0.95) -> Curve:
    """The cumulative hazard Σ d/n, variance Σ d/n², interval symmetric about its logarithm."""
    n = np.maximum(at_risk, 1)
    values, errors = np.cumsum(events / n), np.sqrt(np.cumsum(events / n**2))
    reach = np.exp(quantile(level) * errors / np.where(values > 0, values, 1))
    return Curve(times, values, errors, values / reach, values * reach)


def aalen_johansen(times: Floats, at_risk: Floats, events: Floats, level: float = 0.95) -> list[Curve]:
    """The share that had each kind of event first by each time; ``events`` is ``(K, T)``, one row per kind. Interval on the log(−log) scale."""
    n = np.maximum(at_risk, 1)
    every = events.sum(axis=0)
    survival = np.cumprod(1 - every / n)
    before = np.concatenate(([1.0], survival[:-1]))
    curves = []
    for kind in events:
        values = np.cumsum(before * kind / n)
        errors = np.sqrt(np.maximum(_incidence_variance(values, before, n, every, kind), 0.0))
        low, high = _log_log(values, errors, level)
        curves.append(Curve(times, values, errors, low, high))
    return curves


def _incidence_variance(values: Floats, before: Floats, n: Floats, every: Floats, kind: Floats) -> Floats:
    """Σ over times s up to t of (F(t) − F(s))² d/(n(n − d)) + S² k(n − k)/n³ − 2(F(t) − F(s)) S k/n²; the square multiplied out, so that one pass
    over the times does all t."""
    # Where all at risk have the event, survival is 0 afterwards and F no longer moves, so the factor (F(t) − F(s))² is 0.
    hazard = np.where(n > every, every / (n * np.maximum(n - every, 1)), 0.0)
    mixed = before * kind / n**2
    own = before**2 * kind * (n - kind) / n**3
    return np.asarray(
        values**2 * np.cumsum(hazard)
        - 2 * values * np.cumsum(hazard * values)
        + np.cumsum(hazard * values**2)
        + np.cumsum(own)
        - 2 * (values * np.cumsum(mixed) - np.cumsum(mixed * values))
    )


def _log_log(values: Floats, errors: Floats, level: float) -> tuple[Floats, Floats]:
    """F^exp(±z·se/(F ln F)); where F is 0 or 1 the interval is the point."""
    inside = (values > 0) & (values < 1)
    safe = np.where(inside, values, 0.5)
    power = np.exp(quantile(level) * errors / (safe * -np.log(safe)))
    return np.where(inside, safe**power, values), np.where(inside, safe ** (1 / power), values)


def restricted_mean(times: Floats, at_risk: Floats, events: Floats, horizon: float, level: float = 0.95) -> RestrictedMean:
    """The area under the Kaplan-Meier curve up to the horizon; variance Σ A(t)² d/(n(n − d)) with A(t) the area after t.

    Raises BadInput where nobody is under observation up to the horizon, unless all have had the event before.
    """
    if horizon <= 0:
        raise BadInput("The horizon of a restricted mean is above 0.")
    n = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events / n)
    if (survival.size == 0 or survival[-1] > 0) and (times.size == 0 or times[-1] < horizon):
        raise BadInput(f"Nobody is under observation up to the horizon {horizon:g}. Choose one that follow-up reaches.")
    inside = times < horizon
    times, n, events, survival = times[inside], n[inside], events[inside], survival[inside]
    widths = np.diff(np.concatenate(([0.0], times, [horizon])))
    areas = np.concatenate(([1.0], survival)) * widths
    after = areas.sum() - np.cumsum(areas)[:-1]
    # Where all at risk have the event, the area after is 0.
    variance = float((after**2 * np.where(n > events, events / (n * np.maximum(n - events, 1)), 0.0)).sum())
    lived = float(areas.sum())
    error = math.sqrt(variance)
    return RestrictedMean(horizon, symmetric(lived, error, level), symmetric(horizon - lived, error, level))


@final
@dataclass(frozen=True, slots=True)
class MeansCompared:
    """Of two groups at one horizon: the difference of the times lived, their ratio, and the ratio of the times lost."""

    difference: Effect
    lived_ratio: Effect
    lost_ratio: Effect


def compare_means(first: RestrictedMean, second: RestrictedMean, level: float = 0.95) -> MeansCompared:
    """First against second. Raises BadInput where the horizons differ or a group lost no time."""
    if first.horizon != second.horizon:
        raise BadInput("Restricted means are compared at one horizon.")
    if min(first.lost.estimate, second.lost.estimate, first.lived.estimate, second.lived.estimate) <= 0:
        raise BadInput("In one group nobody had the event before the horizon, so no ratio can be told.")
    difference = symmetric(first.lived.estimate - second.lived.estimate, math.hypot(first.lived.error, second.lived.error), level)
    return MeansCompared(difference, _ratio(first.lived, second.lived, level), _ratio(first.lost, second.lost, level))


def _ratio(first: Effect, second: Effect, level: float) -> Effect:
    error = math.hypot(first.error / first.estimate, second.error / second.estimate)
    return ratio(math.log(first.estimate / second.estimate), error, level)
