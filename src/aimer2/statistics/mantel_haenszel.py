"""The common odds ratio and risk ratio of an exposure over hospitals, from 2×2 tables that stay there.

Each hospital is a stratum (or has several): what it sends are the terms of the sums in the estimators, never its table. A second round, which
tells the common odds ratio, gathers the Breslow-Day test of whether it is one and the same.

Papers: N. Mantel, W. Haenszel, "Statistical aspects of the analysis of data from retrospective studies of disease", JNCI 22 (1959);
J. Robins, N. Breslow, S. Greenland, "Estimators of the Mantel-Haenszel variance consistent in both sparse data and large-strata limiting
models", Biometrics 42 (1986); S. Greenland, J. Robins, "Estimation of a common effect parameter from sparse follow-up data", Biometrics 41
(1985), for the variance of the risk ratio; N. E. Breslow, N. E. Day, "Statistical Methods in Cancer Research" I (1980), equation 4.30;
R. E. Tarone, "On heterogeneity tests based on efficient scores", Biometrika 72 (1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aimer2.core.errors import BadInput
from aimer2.statistics.significance import Effect, Significance, chi_squared, ratio

Floats = NDArray[np.float64]

TERMS = ("r", "s", "pr", "ps_qr", "qs", "rr", "rs", "rv", "excess", "variance", "strata")
HOMOGENEITY = ("squares", "excess", "variance", "strata")


@final
@dataclass(frozen=True, slots=True)
class Common:
    """``test`` is Cochran-Mantel-Haenszel's χ² without correction for continuity, ``corrected`` the one with."""

    odds_ratio: Effect
    risk_ratio: Effect
    test: Significance
    corrected: Significance
    strata: int


@final
@dataclass(frozen=True, slots=True)
class Homogeneity:
    """Whether the odds ratio is the same in all strata: Breslow-Day, and with Tarone's correction."""

    breslow_day: Significance
    tarone: Significance


def terms(tables: ArrayLike) -> Floats:
    """What a hospital's 2×2 tables ``(strata, 2, 2)`` (rows exposed and not, columns with the event and without) add to `TERMS`: ``(11,)``.

    A stratum in which nobody, or everybody, has the event or the exposure adds nothing to the test or the odds ratio, and is not counted; one in
    which everybody has the event still speaks of the risk ratio.
    """
    counts = _counts(tables)
    a, b, c, d = counts.reshape(-1, 4).T
    n = counts.sum(axis=(1, 2))
    p, q, r, s = (a + d) / n, (b + c) / n, a * d / n, b * c / n
    exposed, events = a + b, a + c
    variance = exposed * (c + d) * events * (b + d) / (n**2 * np.maximum(n - 1, 1))
    risk = a * (c + d) / n, c * exposed / n, (exposed * (c + d) * events - a * c * n) / n**2
    parts = (r, s, p * r, p * s + q * r, q * s, *risk, a - exposed * events / n, variance, _informative(counts))
    return np.array([float(part.sum()) for part in parts])


def common(sums: Floats, level: float = 0.95) -> Common:
    """Raises BadInput where no stratum tells of both exposures and both outcomes."""
    r, s, pr, ps_qr, qs, rr, rs, rv, excess, variance, strata = (float(one) for one in sums)
    if min(r, s, rr, rs, variance) <= 0:
        raise BadInput("No odds ratio: over all strata, exposed and others must both have patients with the event and without.")
    odds_error = math.sqrt(pr / (2 * r**2) + ps_qr / (2 * r * s) + qs / (2 * s**2))
    return Common(
        odds_ratio=ratio(math.log(r / s), odds_error, level),
        risk_ratio=ratio(math.log(rr / rs), math.sqrt(rv / (rr * rs)), level),
        test=chi_squared(excess**2 / variance, 1),
        corrected=chi_squared(max(abs(excess) - 0.5, 0.0) ** 2 / variance, 1),
        strata=round(strata),
    )


def homogeneity_terms(tables: ArrayLike, odds_ratio: float) -> Floats:
    """What a hospital's tables add to `HOMOGENEITY` at the common odds ratio: ``(4,)``."""
    counts = _counts(tables)
    counts = counts[_informative(counts)]
    a, exposed, events, n = counts[:, 0, 0], counts[:, 0].sum(axis=1), counts[:, :, 0].sum(axis=1), counts.sum(axis=(1, 2))
    expected = _expected(exposed, events, n, odds_ratio)
    others = np.stack([expected, exposed - expected, events - expected, n - exposed - events + expected])
    variance = 1 / (1 / others).sum(axis=0)
    parts = ((a - expected) ** 2 / variance, a - expected, variance, np.ones_like(n))
    return np.array([float(part.sum()) for part in parts])


def homogeneity(sums: Floats) -> Homogeneity:
    """Raises BadInput with fewer than two strata."""
    squares, excess, variance, strata = (float(one) for one in sums)
    if round(strata) < 2:
        raise BadInput("Whether strata have the same odds ratio needs two strata at least.")
    freedom = round(strata) - 1
    return Homogeneity(chi_squared(squares, freedom), chi_squared(max(squares - excess**2 / variance, 0.0), freedom))


def _counts(tables: ArrayLike) -> Floats:
    counts = np.asarray(tables, np.float64).reshape(-1, 2, 2)
    return np.asarray(counts[counts.sum(axis=(1, 2)) > 0])


def _informative(counts: Floats) -> NDArray[np.bool_]:
    return np.asarray((counts.sum(axis=2) > 0).all(axis=1) & (counts.sum(axis=1) > 0).all(axis=1))


def _expected(exposed: Floats, events: Floats, n: Floats, odds_ratio: float) -> Floats:
    """Exposed with the event, given the margins and the odds ratio: the root that lies within the margins, in the form that cancels nothing."""
    linear = odds_ratio * (exposed + events) + n - exposed - events
    root = np.sqrt(linear**2 - 4 * odds_ratio * (odds_ratio - 1) * exposed * events)
    return np.asarray(2 * odds_ratio * exposed * events / (linear + root))
