"""A fixed intercept for each hospital, found at the hospital and taken out of what it sends: a regression with as many further coefficients, and none
of them told.

With an intercept aᵢ for each hospital the log-likelihood falls into parts that share β alone. Given β a hospital finds its own aᵢ; what it then
adds to the score of β is the derivative of its part of the profile likelihood (F. J. Richards, JRSS B 23 (1961)), and what it adds to the
information is that of β less what aᵢ takes up: Iᵦᵦ − Iᵦₐ Iₐᵦ / Iₐₐ, the products of columns about their means with the weights w μ'²/V. Both add
up, and Newton's steps with them end at the fit that has a column for every hospital; the inverse is its covariance of β. Of a linear regression
it is the within transformation.

Intercepts of many small hospitals make ratios too large, other than in a linear or a Poisson regression: J. Neyman, E. L. Scott, Econometrica 16
(1948).
"""

from __future__ import annotations

import numpy as np

from aimer2.statistics import families
from aimer2.statistics.design import Floats
from aimer2.statistics.families import LINKS, FamilyName, LinkName

ONE_MAXIMUM: frozenset[tuple[FamilyName, LinkName]] = frozenset(
    {
        ("gaussian", "identity"),
        ("binomial", "logit"),
        ("binomial", "probit"),
        ("binomial", "cloglog"),
        ("poisson", "log"),
        ("gamma", "log"),
        ("negative_binomial", "log"),
    }
)
"""Where the log-likelihood is concave in the linear predictor, so that a hospital's intercept is one number."""

_SETTLED = 1e-22
_FURTHEST = 4.0
_STEPS = 100
_CONSTANT = 1e-12


def is_finite(family: FamilyName, y: Floats, weight: Floats) -> bool:
    """Whether a hospital's outcomes differ as far as its intercept needs. Where they do not, its rows say nothing of β."""
    counted = y[weight > 0]
    if family == "binomial":
        return bool((counted > 0).any() and (counted < 1).any())
    return len(counted) > 0 and (family in ("gaussian", "gamma") or bool((counted > 0).any()))


def within(matrix: Floats, weight: Floats) -> Floats:
    """Columns ``(n, p)`` about their weighted means; one that does not vary is 0, not the rounding of its mean."""
    whole = float(weight.sum())
    if not whole > 0:
        return np.zeros_like(matrix)
    about: Floats = matrix - weight @ matrix / whole
    about[:, np.abs(about).max(axis=0) <= _CONSTANT * np.abs(matrix).max(axis=0)] = 0.0
    return about


def found(family: FamilyName, link: LinkName, y: Floats, weight: Floats, rest: Floats, alpha: float) -> float:
    """The intercept at which the log-likelihood of these outcomes is highest, given the ``rest`` of each row's linear predictor."""
    if not weight.sum() > 0:
        return 0.0
    curve = LINKS[link]
    at = float(curve.of(families.inside(family, np.array([weight @ y / weight.sum()])))[0] - weight @ rest / weight.sum())
    low, high = -np.inf, np.inf
    for _ in range(_STEPS):
        mean, slope = families.inside(family, curve.mean(at + rest)), curve.slope(at + rest)
        steep = weight * slope / families.variance(family, mean, alpha)
        score, information = float(steep @ (y - mean)), float(steep @ slope)
        low, high = (at, high) if score > 0 else (low, at)
        step = score / information if information > 0 else np.sign(score)
        following = at + float(np.clip(step, -_FURTHEST, _FURTHEST))
        # where a step leads past a point that is already known to be too far, half the way to it
        at = following if low <= following <= high else (low + high) / 2
        if information > 0 and step**2 * information <= _SETTLED:
            break
    return at
