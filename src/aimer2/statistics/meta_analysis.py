"""One estimate out of many hospitals' own: fixed effect, and random effects with their spread.

Each hospital has an estimate y with its variance v (a log odds ratio, a mean difference, a regression coefficient). Weights are
w = 1/(v + τ²); everything below is read from sums over hospitals of w, w², w³ with distances of y from a common centre, so that hospitals
can send sums and keep their estimates.

Papers: R. DerSimonian, N. Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7 (1986); R. C. Paule, J. Mandel, "Consensus
values and weighting factors", J. Research NBS 87 (1982); W. Viechtbauer, "Bias and efficiency of meta-analytic variance estimators in the
random-effects model", J. Educational and Behavioral Statistics 30 (2005), for REML by Fisher scoring; J. Hartung, G. Knapp, "On tests of the
overall treatment effect in meta-analysis with normally distributed responses", Statistics in Medicine 20 (2001); J. P. T. Higgins,
S. G. Thompson, D. J. Spiegelhalter, "A re-evaluation of random-effects meta-analysis", JRSS A 172 (2009), for the prediction interval with
k − 2 degrees of freedom; W. Viechtbauer, "Confidence intervals for the amount of heterogeneity in meta-analysis", Statistics in Medicine 26
(2007), for the interval of τ² by Q profiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike

from aimer2.core.errors import BadInput
from aimer2.statistics import distributions
from aimer2.statistics.significance import quantile, standardised

Spread: TypeAlias = Literal["fixed", "dersimonian_laird", "paule_mandel", "reml"]

STEPS = 200
TOLERANCE = 1e-12


@final
class Weighted(NamedTuple):
    """Sums over hospitals at one τ², with d the distance of a hospital's estimate from ``centre``: k, Σw, Σw², Σw³, Σwd, Σwd², Σw²d, Σw²d²."""

    hospitals: float
    w: float
    w2: float
    w3: float
    wd: float
    wdd: float
    w2d: float
    w2dd: float
    centre: float
    tau_squared: float

    @property
    def mean(self) -> float:
        return self.centre + self.wd / self.w

    @property
    def q(self) -> float:
        """Σ w (y − mean)²."""
        return max(self.wdd - self.wd**2 / self.w, 0.0)


Ask: TypeAlias = Callable[[float, float], Weighted]
"""(τ², centre) → the sums there."""


def weigh(estimates: ArrayLike, variances: ArrayLike, tau_squared: float, centre: float) -> Weighted:
    """Raises BadInput where a variance is not above 0 or a number is not finite."""
    y, v = np.atleast_1d(np.asarray(estimates, np.float64)), np.atleast_1d(np.asarray(variances, np.float64))
    if y.shape != v.shape or not (np.isfinite(y).all() and np.isfinite(v).all() and (v > 0).all()):
        raise BadInput("An estimate has no finite variance above 0. Leave out hospitals whose data give no estimate.")
    w, d = 1 / (v + tau_squared), y - centre
    powers = [float(one.sum()) for one in (w, w**2, w**3, w * d, w * d**2, w**2 * d, (w * d) ** 2)]
    return Weighted._make([float(len(y)), *powers, centre, tau_squared])


@final
@dataclass(frozen=True, slots=True)
class Combined:
    """The common estimate with what it rests on. ``i_squared`` is a share; ``prediction`` is where the effect in a new hospital would lie."""

    method: Spread
    hospitals: int
    estimate: float
    standard_error: float
    interval: tuple[float, float]
    statistic: float
    freedom: float
    p: float
    q: float
    q_p: float
    tau_squared: float
    tau_squared_interval: tuple[float, float] | None
    i_squared: float
    prediction: tuple[float, float] | None
    level: float


def combine(estimates: ArrayLike, variances: ArrayLike, method: Spread = "reml", *, hartung_knapp: bool = False, level: float = 0.95) -> Combined:
    """Random effects by REML unless another method is named. With ``hartung_knapp`` the interval is Student's with k − 1 degrees of freedom, not
    truncated. Raises BadInput with fewer than two estimates."""
    return combined(lambda tau_squared, centre: weigh(estimates, variances, tau_squared, centre), method, hartung_knapp=hartung_knapp, level=level)


def combined(ask: Ask, method: Spread, *, hartung_knapp: bool = False, level: float = 0.95) -> Combined:
    """`combine` from sums alone."""
    fixed = ask(0.0, ask(0.0, 0.0).mean)
    k = round(fixed.hospitals)
    if k < 2:
        raise BadInput(f"A meta-analysis needs estimates of two hospitals at least, not of {k}.")
    there = ask(spread(ask, fixed, method), fixed.mean)
    freedom = k - 1.0 if hartung_knapp else math.inf
    error = math.sqrt(there.q / (k - 1) / there.w if hartung_knapp else 1 / there.w)
    statistic = there.mean / error if error > 0 else math.copysign(math.inf, there.mean)
    half = quantile(level, freedom) * error
    typical = (k - 1) * fixed.w / (fixed.w**2 - fixed.w2)
    tau_squared = there.tau_squared
    if method in ("fixed", "dersimonian_laird"):
        i_squared = max(0.0, 1 - (k - 1) / fixed.q) if fixed.q > 0 else 0.0
    else:
        i_squared = tau_squared / (tau_squared + typical)
    reach = quantile(level, k - 2) * math.sqrt(tau_squared + error**2) if k > 2 and method != "fixed" else None
    return Combined(
        method=method,
        hospitals=k,
        estimate=there.mean,
        standard_error=error,
        interval=(there.mean - half, there.mean + half),
        statistic=statistic,
        freedom=freedom,
        p=standardised(statistic, freedom).p,
        q=fixed.q,
        q_p=float(distributions.chi_squared_above(fixed.q, k - 1)),
        tau_squared=tau_squared,
        tau_squared_interval=None if method == "fixed" else profile(ask, fixed.mean, k, level),
        i_squared=i_squared,
        prediction=None if reach is None else (there.mean - reach, there.mean + reach),
        level=level,
    )


def spread(ask: Ask, fixed: Weighted, method: Spread) -> float:
    """τ², the variance between hospitals, never below 0."""
    surplus = fixed.q - (fixed.hospitals - 1)
    moments = max(0.0, surplus / (fixed.w - fixed.w2 / fixed.w))
    if method == "fixed":
        return 0.0
    if method == "dersimonian_laird":
        return moments
    if method == "paule_mandel":
        return _q_equals(ask, fixed.mean, fixed.hospitals - 1)
    return _reml(ask, fixed.mean, moments)


def profile(ask: Ask, centre: float, hospitals: int, level: float) -> tuple[float, float]:
    """The interval of τ²: where the generalised Q is still a likely value of χ² with k − 1 degrees of freedom."""
    upper, lower = (float(distributions.chi_squared_quantile(0.5 + side * level / 2, hospitals - 1)) for side in (1, -1))
    return _q_equals(ask, centre, upper), _q_equals(ask, centre, lower)


def _q_equals(ask: Ask, centre: float, wanted: float) -> float:
    """The τ² at which Q, which falls as τ² grows, is ``wanted``; 0 where it is below already at 0."""
    if ask(0.0, centre).q <= wanted:
        return 0.0
    high = 1 / ask(0.0, centre).w
    while ask(high, centre).q > wanted:
        high *= 4
    return distributions.root(lambda tau_squared: ask(tau_squared, centre).q - wanted, 0.0, high, high * TOLERANCE)


def _reml(ask: Ask, centre: float, start: float) -> float:
    """Fisher scoring on the restricted likelihood (Viechtbauer 2005, equation 12): τ² += (y'PPy − tr P) / tr PP, from the estimate by moments."""
    tau_squared = start
    for _ in range(STEPS):
        at = ask(tau_squared, centre)
        mean = at.wd / at.w
        squares = at.w2dd - 2 * mean * at.w2d + mean**2 * at.w2
        trace = at.w - at.w2 / at.w
        curvature = at.w2 - 2 * at.w3 / at.w + (at.w2 / at.w) ** 2
        following = max(0.0, tau_squared + (squares - trace) / curvature)
        if abs(following - tau_squared) <= TOLERANCE * (1 / at.w + following):
            return following
        tau_squared = following
    raise BadInput("The restricted likelihood of the variance between hospitals has no maximum that was found; use paule_mandel.")
