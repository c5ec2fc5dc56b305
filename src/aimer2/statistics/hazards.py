"""What is asked of a fitted Cox model: whether hazards are proportional, and errors that hold where rows belong together.

**Proportional hazards** (P. M. Grambsch, T. M. Therneau, Biometrika 81 (1994); as R's cox.zph since survival 3.0): the score test of a further term
z·g(t) for each column. With V the spread of z among those at risk at each event, its score is U = Σ_events g(t)(z − z̄) and its information, of what
the columns themselves do not explain, Σ g²V − Σ gV · (Σ V)⁻¹ · Σ gV.

**Score residuals** (T. M. Therneau, P. M. Grambsch, T. R. Fleming, Biometrika 77 (1990); with Efron's ties as in their "Modeling Survival Data",
2000, section 4.3): what each row adds to the derivative of the likelihood, less what it was expected to add while at risk. Their squares are the
middle of the sandwich (D. Y. Lin, L. J. Wei, JASA 84 (1989)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aimer2.core.table import Cell, number
from aimer2.statistics import distributions
from aimer2.statistics.design import Coded
from aimer2.statistics.estimates import Floats, inverse
from aimer2.statistics.risk_sets import STEEPEST, Observed, Sets

Clock: TypeAlias = Literal["none", "identity", "log", "km"]
"""g(t): nothing is asked; the time, its logarithm, one minus the survival of all just before it."""


def of_times(clock: Clock, times: Floats) -> Floats:
    """g where it is known without anybody's data."""
    return np.log(times) if clock == "log" else times


def of_everybody(clock: Clock, times: Floats, deaths: Floats, at_risk: Floats) -> Floats:
    """g at these times ``(T,)``, about its mean over all events and by its spread over them; ``deaths`` and ``at_risk`` ``(T,)`` of all patients."""
    found = of_times(clock, times)
    if clock == "km":
        found = 1 - np.concatenate(([1.0], np.cumprod(1 - deaths / np.maximum(at_risk, 1))[:-1]))
    events = max(deaths.sum(), 1.0)
    about = found - deaths @ found / events
    spread = float(np.sqrt(deaths @ about**2 / events))
    return np.asarray(about / (spread or 1.0))


def late(sets: Sets, clock: Floats) -> tuple[Floats, Floats]:
    """``(p,)``: Σ_events g·z̄, and ``(2, p, p)``: Σ gV and Σ g²V; ``clock`` ``(S · T,)``."""
    at = clock[sets.held][sets.place]
    return at @ sets.means, np.stack([sets.spread(at), sets.spread(at**2)])


def proportionality(score: Floats, spreads: Floats, information: Floats, kept: NDArray[np.bool_], columns: Sequence[Coded]) -> list[tuple[Cell, ...]]:
    """Lines of the test: each term's statistic, degrees of freedom and p, then all together. ``information``: Σ V."""
    crossed, own = spreads
    left = own - crossed.T @ inverse(information, kept) @ crossed
    terms: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        if kept[place]:
            terms.setdefault(" : ".join(str(variable) for variable, _ in column.parts), []).append(place)
    terms["all together"] = [place for places in terms.values() for place in places]
    return [(name, *_chi_squared(score[places], left[np.ix_(places, places)])) for name, places in terms.items()]


def _chi_squared(score: Floats, information: Floats) -> tuple[Cell, ...]:
    found = float(score @ inverse(information, np.diag(information) > 0) @ score)
    return number(found), len(score), number(float(distributions.chi_squared_above(found, len(score))))


def baseline(sets: Sets, strata: int) -> Floats:
    """``(S, T, 2 + 3p)``: at each time the increments of the baseline hazard and of its product with z̄, what of these the tied do not have, and the
    mean z̄ over the events."""
    hazard = 1 / sets.whole[:, None]
    parts = [hazard, hazard * sets.means, sets.share[:, None] * hazard, sets.share[:, None] * hazard * sets.means]
    count = np.bincount(sets.place, minlength=len(sets.risk))[sets.place, None]
    found = sets.per_time(np.hstack([*parts, sets.means / count]))
    return found.reshape(strata, -1, found.shape[1])


def residuals(columns: Floats, beta: Floats, observed: Observed, base: Floats) -> Floats:
    """Each row's score residual ``(n, p)``."""
    width = columns.shape[1]
    risks = np.exp(np.clip(columns @ beta, -STEEPEST, STEEPEST))[:, None]
    past = np.concatenate([np.zeros((base.shape[0], 1, 1 + width)), np.cumsum(base[..., : 1 + width], axis=1)], axis=1)
    there = observed.last >= observed.first
    found = np.zeros_like(columns)
    stratum = observed.stratum[there]
    met = past[stratum, observed.last[there] + 1] - past[stratum, observed.first[there]]
    found[there] = -risks[there] * (columns[there] * met[:, :1] - met[:, 1:])
    event = observed.event
    own = base[observed.stratum[event], observed.last[event], 1 + width :]
    tied = risks[event] * (columns[event] * own[:, :1] - own[:, 1 : 1 + width])
    found[event] += columns[event] - own[:, 1 + width :] + tied
    return found


def concordance(sums: Floats) -> dict[str, Cell]:
    """Of the five sums of `aimer2.metrics.survival`: Harrell's C with its error by the infinitesimal jackknife."""
    comparable, concordant, cc, cp, pp = (float(one) for one in sums)
    if comparable <= 0:
        return {"concordance": None}
    value = concordant / comparable
    variance = max(cc - 2 * value * cp + value**2 * pp, 0.0) / comparable**2
    return {"concordance": value, "concordance_standard_error": variance**0.5, "concordance_pairs": round(comparable)}
