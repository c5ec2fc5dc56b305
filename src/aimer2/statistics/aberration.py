"""Whether a week has more cases than the weeks before it let expect: detectors on a series of counts.

Papers: C. P. Farrington, N. J. Andrews, A. D. Beale, M. A. Catchpole, "A statistical algorithm for the early detection of outbreaks of infectious
disease", JRSS A 159 (1996); L. Hutwagner et al., "The bioterrorism preparedness and response Early Aberration Reporting System (EARS)", J. Urban
Health 80 (2003), C1 to C3; G. Rossi, L. Lampugnani, M. Marchi, "An approximate CUSUM procedure for surveillance of health events", Statistics in
Medicine 18 (1999), for the standardised counts.

``noise`` is the standard deviation of what was added to each count on purpose, 0 of exact counts: no detector then takes a week's count for more
certain than that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.statistics import distributions

Floats = NDArray[np.float64]

BASELINE = 7
STEPS = 50


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """Of each week ``(T,)``: what was expected, the statistic, and the value from which it is an alarm; NaN where too few weeks lie before it."""

    expected: Floats
    statistic: Floats
    limit: Floats

    @property
    def alarms(self) -> NDArray[np.bool_]:
        with np.errstate(invalid="ignore"):
            return np.asarray(self.statistic > self.limit)


def ears(counts: Floats, *, lag: int, summed: bool, deviations: float, noise: float = 0.0) -> Judged:
    """Distance from the mean of seven weeks in their standard deviations: C1 with no lag, C2 with two weeks between; C3 sums what C2 has above 1 over
    three weeks, and its limit is 2. Above a baseline that does not vary the distance is infinite."""
    weeks = len(counts)
    expected, distance = np.full(weeks, np.nan), np.full(weeks, np.nan)
    for week in range(BASELINE + lag, weeks):
        before = counts[week - lag - BASELINE : week - lag]
        expected[week] = before.mean()
        surplus, deviation = counts[week] - expected[week], max(before.std(ddof=1), noise)
        distance[week] = surplus / deviation if deviation > 0 else math.inf * surplus if surplus else 0.0
    if not summed:
        return Judged(expected, distance, np.full(weeks, deviations))
    above = np.maximum(distance - 1, 0.0)
    total = np.full(weeks, np.nan)
    total[2:] = above[2:] + above[1:-1] + above[:-2]
    return Judged(expected, total, np.full(weeks, 2.0))


def cusum(counts: Floats, *, baseline: int, reference: float, limit: float, noise: float = 0.0) -> Judged:
    """What the standardised counts have above ``reference`` adds up until nothing is left: S = max(0, S + z − k), z = (y − 3m + 2√(my)) / (2√m) with
    m the mean of the first ``baseline`` weeks, which are not judged; with noise σ z = (y − m) / √(m + σ²), where an m that noise
    has brought below 0 is 0. After an alarm it begins anew. Exact counts without a case in those weeks have no scores."""
    weeks = len(counts)
    statistic, expected = np.full(weeks, np.nan), np.full(weeks, np.nan)
    mean = max(float(counts[:baseline].mean()), 0.0) if weeks > baseline else 0.0
    if weeks > baseline and (mean > 0 or noise > 0):
        total = 0.0
        for week in range(baseline, weeks):
            if noise:
                z = (counts[week] - mean) / math.sqrt(mean + noise**2)
            else:
                z = (counts[week] - 3 * mean + 2 * math.sqrt(mean * counts[week])) / (2 * math.sqrt(mean))
            total = max(0.0, total + z - reference)
            statistic[week], expected[week] = total, mean
            total = 0.0 if total > limit else total
    return Judged(expected, statistic, np.full(weeks, limit))


def farrington(counts: Floats, *, per_year: int, years: int, window: int, alpha: float, noise: float = 0.0) -> Judged:
    """Against the same season of earlier years: a quasi-Poisson line through the weeks within ``window`` of this one in each of ``years`` years, in
    which past outbreaks count less (weights by Anscombe residuals); the limit by the 2/3 power, so that it holds for small counts too.

    A trend counts only where it is significant at 5 %, there are three years, and it does not lead beyond what was seen. A limit needs five cases in
    four weeks to be passed, as in the paper. Counts that noise has brought below 0 are 0 here; how far the weeks spread about the line tells of noise
    too, and a limit lies no nearer to what is expected than noise alone reaches.
    """
    counts = np.maximum(counts, 0.0)
    least = float(distributions.normal_quantile(1 - alpha)) * noise
    weeks = len(counts)
    expected, limit = np.full(weeks, np.nan), np.full(weeks, np.nan)
    reach = years * per_year + window
    for week in range(reach, weeks):
        around = np.arange(-window, window + 1)
        places = np.sort(np.concatenate([week - year * per_year + around for year in range(1, years + 1)]))
        expected[week], limit[week] = _limit(counts[places], (places - week).astype(np.float64), years, alpha)
    limit = np.maximum(limit, expected + least) if noise else limit
    recent = np.convolve(counts, np.ones(4))[:weeks]
    return Judged(expected, np.where(recent >= 5, counts, np.where(np.isnan(limit), np.nan, 0.0)), limit)


def _limit(counts: Floats, times: Floats, years: int, alpha: float) -> tuple[float, float]:
    if counts.sum() == 0:
        return 0.0, 0.0
    z = float(distributions.normal_quantile(1 - alpha))
    with_trend = _fit(counts, times) if years >= 3 else None
    if with_trend is not None:
        slope, error, expected, variance, phi = with_trend
        if abs(slope) > float(distributions.normal_quantile(0.975)) * error and expected <= counts.max():
            return expected, _power(expected, variance, phi, z)
    without = _fit(counts, None)
    return (without[2], _power(*without[2:], z)) if without is not None else (math.nan, math.nan)


def _power(expected: float, variance: float, phi: float, z: float) -> float:
    tau = phi + variance / expected
    return float(expected * (1 + 2 / 3 * z * math.sqrt(tau / expected)) ** 1.5)


def _fit(counts: Floats, times: Floats | None) -> tuple[float, float, float, float, float] | None:
    """Slope, its standard error, the mean expected at time 0 (this week) with its variance, and the dispersion, after reweighting; None
    where these weeks determine no line."""
    design = np.ones((len(counts), 1)) if times is None else np.column_stack([np.ones(len(counts)), times])
    weights = np.ones(len(counts))
    for last in (False, True):
        try:
            coefficients, fitted, inverse = _quasi_poisson(design, counts, weights)
        except np.linalg.LinAlgError:
            return None
        freedom = len(counts) - design.shape[1]
        phi = max(1.0, float((weights * (counts - fitted) ** 2 / fitted).sum()) / freedom)
        if not last:
            leverage = weights * fitted * np.einsum("ij,jk,ik->i", design, inverse, design)
            residual = 1.5 * (counts ** (2 / 3) * fitted ** (-1 / 3) - fitted ** (1 / 3)) / np.sqrt(phi * np.maximum(1 - leverage, 1e-9))
            weights = np.where(residual > 1, np.maximum(residual, 1.0) ** -2, 1.0)
            weights *= len(counts) / weights.sum()
    expected = float(np.exp(coefficients[0]))
    slope, error = (float(coefficients[1]), math.sqrt(phi * float(inverse[1, 1]))) if times is not None else (0.0, 0.0)
    return slope, error, expected, expected**2 * phi * float(inverse[0, 0]), phi


def _quasi_poisson(design: Floats, counts: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Coefficients of the log-linear mean, the fitted means, and the inverse of the weighted information, by iteratively reweighted least squares."""
    fitted = counts + 0.1 + counts.mean()
    linear = np.log(fitted)
    coefficients = np.zeros(design.shape[1])
    for _ in range(STEPS):
        working = weights * fitted
        inverse = np.linalg.inv((design * working[:, None]).T @ design)
        following = inverse @ (design.T @ (working * (linear + (counts - fitted) / fitted)))
        moved = float(np.abs(following - coefficients).max())
        coefficients = following
        linear = design @ coefficients
        fitted = np.exp(np.clip(linear, -30, 30))
        if moved < 1e-12 * (1 + float(np.abs(coefficients).max())):
            break
    working = weights * fitted
    return coefficients, fitted, np.linalg.inv((design * working[:, None]).T @ design)


def expected_in_full(triangle: Floats) -> Floats:
    """From cases by the week of onset and by how many weeks later they were known ``(T, D + 1)``: how many each week has once all are known.

    By chain ladder (T. Mack, ASTIN Bulletin 23 (1993)), from the weeks whose delays are over. Weeks without a way to tell stay as they are.
    """
    weeks, delays = triangle.shape
    known = np.cumsum(triangle, axis=1)
    full = np.array([known[week, min(delays - 1, weeks - 1 - week)] for week in range(weeks)])
    for week in range(max(0, weeks - delays + 1), weeks):
        for delay in range(weeks - 1 - week, delays - 1):
            ready = np.arange(weeks - delay - 1)
            before = known[ready, delay].sum()
            full[week] *= known[ready, delay + 1].sum() / before if before > 0 else 1.0
    return full
