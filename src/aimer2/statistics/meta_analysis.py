"""One effect out of many hospitals' own: fixed effect, and random effects with their spread.

``outcome ~ group``, the group a category of two: each hospital has an estimate y of the effect on its own patients, with its variance v. Weights are
w = 1/(v + τ²); everything is read from sums over hospitals of w, w², w³ with distances of y from a common centre, so hospitals send sums and, in
secret, keep their estimates. τ² and its interval are searched at sixteen points a round. A hospital whose data give no estimate (one class, an empty
cell) is left out and not counted.

Papers: R. DerSimonian, N. Laird, "Meta-analysis in clinical trials", Controlled Clinical Trials 7 (1986); R. C. Paule, J. Mandel, "Consensus
values and weighting factors", J. Research NBS 87 (1982); W. Viechtbauer, "Bias and efficiency of meta-analytic variance estimators in the
random-effects model", J. Educational and Behavioral Statistics 30 (2005), for REML by Fisher scoring; J. Hartung, G. Knapp, "On tests of the
overall treatment effect in meta-analysis with normally distributed responses", Statistics in Medicine 20 (2001); J. P. T. Higgins,
S. G. Thompson, D. J. Spiegelhalter, "A re-evaluation of random-effects meta-analysis", JRSS A 172 (2009), for the prediction interval with
k − 2 degrees of freedom; W. Viechtbauer, "Confidence intervals for the amount of heterogeneity in meta-analysis", Statistics in Medicine 26
(2007), for the interval of τ² by Q profiles.

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``powers`` = at each of the τ² asked about, of the site's own estimate
1, w, w², w³, wd, wd², w²d, w²d² with d its distance from the centre; ``distance`` = d².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics import distributions
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, AbstractComparison, Level, events, facts, has_few
from aimer2.statistics.significance import quantile, standardised
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]
Measure: TypeAlias = Literal["mean_difference", "log_odds_ratio", "log_risk_ratio", "risk_difference"]

Spread: TypeAlias = Literal["fixed", "dersimonian_laird", "paule_mandel", "reml"]

STEPS = 200
TOLERANCE = 1e-12
POINTS = 16


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
    k = hospitals_of(fixed)
    there = ask(spread(ask, fixed, method), fixed.mean)
    interval = None if method == "fixed" else profile(ask, fixed.mean, k, level)
    return concluded(fixed, there, interval, method, hartung_knapp=hartung_knapp, level=level)


def hospitals_of(sums: Weighted) -> int:
    """Raises BadInput with fewer than two."""
    k = round(sums.hospitals)
    if k < 2:
        raise BadInput(say("A meta-analysis needs estimates of two hospitals at least, not of {k}.", k=k))
    return k


def concluded(
    fixed: Weighted, there: Weighted, tau_squared_interval: tuple[float, float] | None, method: Spread, *, hartung_knapp: bool, level: float
) -> Combined:
    """From the sums at τ² = 0 and at the τ² that was found."""
    k = hospitals_of(fixed)
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
        tau_squared_interval=tau_squared_interval,
        i_squared=i_squared,
        prediction=None if reach is None else (there.mean - reach, there.mean + reach),
        level=level,
    )


def spread(ask: Ask, fixed: Weighted, method: Spread) -> float:
    """τ², the variance between hospitals, never below 0."""
    if method == "fixed":
        return 0.0
    if method == "paule_mandel":
        return _q_equals(ask, fixed.mean, fixed.hospitals - 1)
    return moments(fixed) if method == "dersimonian_laird" else _reml(ask, fixed.mean, moments(fixed))


def moments(fixed: Weighted) -> float:
    """τ² by DerSimonian and Laird, from the sums at 0."""
    return max(0.0, (fixed.q - (fixed.hospitals - 1)) / (fixed.w - fixed.w2 / fixed.w))


def profile(ask: Ask, centre: float, hospitals: int, level: float) -> tuple[float, float]:
    """The interval of τ²: where the generalised Q is still a likely value of χ² with k − 1 degrees of freedom."""
    upper, lower = profile_ends(hospitals, level)
    return _q_equals(ask, centre, upper), _q_equals(ask, centre, lower)


def profile_ends(hospitals: int, level: float) -> tuple[float, float]:
    """The values of Q at the lower and the upper end of the interval of τ²."""
    upper, lower = (float(distributions.chi_squared_quantile(0.5 + side * level / 2, hospitals - 1)) for side in (1, -1))
    return upper, lower


def _q_equals(ask: Ask, centre: float, wanted: float) -> float:
    """The τ² at which Q, which falls as τ² grows, is ``wanted``; 0 where it is below already at 0."""
    if ask(0.0, centre).q <= wanted:
        return 0.0
    high = 1 / ask(0.0, centre).w
    while ask(high, centre).q > wanted:
        high *= 4
    return distributions.root(lambda tau_squared: ask(tau_squared, centre).q - wanted, 0.0, high, high * TOLERANCE)


def slope(at: Weighted) -> float:
    """Twice the slope of the restricted likelihood in τ²: y'PPy − tr P."""
    mean = at.wd / at.w
    return at.w2dd - 2 * mean * at.w2d + mean**2 * at.w2 - (at.w - at.w2 / at.w)


def _reml(ask: Ask, centre: float, start: float) -> float:
    """Fisher scoring on the restricted likelihood (Viechtbauer 2005, equation 12): τ² += (y'PPy − tr P) / tr PP, from the estimate by moments."""
    tau_squared = start
    for _ in range(STEPS):
        at = ask(tau_squared, centre)
        curvature = at.w2 - 2 * at.w3 / at.w + (at.w2 / at.w) ** 2
        following = max(0.0, tau_squared + slope(at) / curvature)
        if abs(following - tau_squared) <= TOLERANCE * (1 / at.w + following):
            return following
        tau_squared = following
    raise BadInput("The restricted likelihood of the variance between hospitals has no maximum that was found; use paule_mandel.")


@final
@dataclass(frozen=True, kw_only=True)
class MetaAnalysis(AbstractComparison):
    """``measure``: the effect, of the second group against the first. ``spread``: how τ², the variance between hospitals, is found.

    ``hartung_knapp``: Student's interval with k − 1 degrees of freedom. ``level``: of the intervals.
    """

    measure: Measure = "mean_difference"
    spread: Spread = "reml"
    hartung_knapp: bool = False
    level: Level = 0.95
    most_groups: ClassVar[int] = 2
    of_sites: ClassVar[frozenset[str]] = frozenset({"powers", "distance"})

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        categories = self.categories_of(self.outcome) if self.parsed.response else ()
        if len(categories) not in ((0,) if self.measure == "mean_difference" else (0, 2)):
            yield f"{self.outcome} must be a number for a mean difference, and for the other measures have two categories, or be 0 or 1"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if self.measure == "mean_difference":
            return
        rows = self.read(frame)
        ill = events(self.outcome, self.categories_of(self.outcome), rows)
        cell = ill.astype(np.int64) if secure else self.codes(rows) * 2 + ill
        if has_few(rows, cell, disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients have the event, or not" + ("" if secure else " in a group")

    def start(self) -> Values:
        return {"points": np.zeros((1, 1)), "centre": np.zeros(())}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        points, centre = values["points"], float(values["centre"])
        made = {"powers": np.zeros((*points.shape, 8)), "distance": np.zeros(())}
        if (own := self._own(rows)) is not None:
            for place, tau_squared in np.ndenumerate(points):
                made["powers"][place] = weigh(*own, float(tau_squared), centre)[:8]
            made["distance"] = np.asarray((own[0] - centre) ** 2)
        if round_number == 1:
            made |= {"size": self.size(rows), "count": self.per_group(rows, np.ones(len(rows)))}
        return made

    def _own(self, rows: Frame) -> tuple[float, float] | None:
        """This site's estimate and its variance; None where its patients give none."""
        codes = self.codes(rows)
        if self.measure == "mean_difference":
            outcome = self.values(rows)
            first, second = (outcome[codes == code] for code in (0, 1))
            if min(len(first), len(second)) < 2 or (variance := first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)) <= 0:
                return None
            return float(second.mean() - first.mean()), float(variance)
        ill = events(self.outcome, self.categories_of(self.outcome), rows)
        return of_counts(self.measure, *((float((ill & (codes == code)).sum()), float((codes == code).sum())) for code in (1, 0)))

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        points, centre = values["points"], float(values["centre"])
        if round_number == 1:
            kept = {"size": total["size"], "count": total["count"], "points": points, "fixed": total["powers"][0, 0]}
            at = _weighted(kept["fixed"], 0.0, 0.0)
            return kept | {"centre": np.array(at.mean if at.hospitals else 0.0)}, at.hospitals < 2
        if round_number == 2:
            return self._begun({**values, "fixed": total["powers"][0, 0]}, float(total["distance"]), centre)
        found = [[_weighted(sums, centre, tau) for sums, tau in zip(*row, strict=True)] for row in zip(total["powers"], points, strict=True)]
        width = values["high"] - values["low"]
        if (width <= TOLERANCE * values["bracket"]).all():
            return {**values, "there": total["powers"][0, 0]}, True
        low, high = values["low"].copy(), values["high"].copy()
        fixed = _weighted(values["fixed"], centre, 0.0)
        for place, row in enumerate(found):
            above = sum(self._excess(place, at, fixed) > 0 for at in row) if width[place] > 0 else 0
            if width[place] > 0:
                ends = [*points[place], high[place]]
                low[place], high[place] = (ends[above - 1], ends[above]) if above else (low[place], low[place])
        return {**values, "low": low, "high": high, "points": _points(low, high)}, False

    def _begun(self, values: Values, distance: float, centre: float) -> tuple[Values, bool]:
        """The intervals in which τ² and its ends are searched: Q ≤ Σd²/τ², so beyond Σd²/q it is below q."""
        fixed = _weighted(values["fixed"], centre, 0.0)
        if self.spread == "fixed":
            return {**values, "there": values["fixed"]}, True
        bracket = distance / profile_ends(hospitals_of(fixed), self.level)[1] + 1 / fixed.w
        low, high = np.zeros(3), np.full(3, bracket)
        if self.spread == "dersimonian_laird":
            low[0] = high[0] = moments(fixed)
        return {**values, "low": low, "high": high, "bracket": np.array(bracket), "points": _points(low, high)}, False

    def _excess(self, search: int, at: Weighted, fixed: Weighted) -> float:
        """Above 0 where the τ² searched for lies beyond this one."""
        upper, lower = profile_ends(round(fixed.hospitals), self.level)
        if search == 0:
            return slope(at) if self.spread == "reml" else at.q - (fixed.hospitals - 1)
        return at.q - (upper if search == 1 else lower)

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("points", "centre")}

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        centre = float(values["centre"])
        fixed = _weighted(values["fixed"], centre, 0.0)
        hospitals_of(fixed)
        low = values.get("low", np.zeros(3))
        interval = None if self.spread == "fixed" else (float(low[1]), float(low[2]))
        there = _weighted(values["there"], centre, float(low[0]))
        found = concluded(fixed, there, interval, self.spread, hartung_knapp=self.hartung_knapp, level=self.level)
        freedom = None if math.isinf(found.freedom) else found.freedom
        term = f"{self.measure.replace('_', ' ')}: {self.levels[1]} against {self.levels[0]}"
        ends = (found.estimate, found.standard_error, *found.interval)
        rows: list[tuple[Cell, ...]] = [(term, *ends, found.statistic, freedom, found.p)]
        if found.prediction is not None:
            rows.append(("in a new hospital", found.estimate, None, *found.prediction, None, None, None))
        if self.measure.startswith("log"):
            rows += [
                (f"exp({line[0]})", math.exp(found.estimate), None, *(math.exp(float(end or 0)) for end in line[3:5]), None, None, None)
                for line in rows
            ]
        shown: dict[str, Cell] = {
            **facts(values["size"]),
            "hospitals": found.hospitals,
            "tau_squared": found.tau_squared,
            "tau_squared_low": interval[0] if interval else None,
            "tau_squared_high": interval[1] if interval else None,
            "i_squared": found.i_squared,
            "q": number(found.q),
            "q_p": number(found.q_p),
            "level": self.level,
        }
        columns = ("term", *EFFECT, *SIGNIFICANCE)
        notes = ("Hospitals whose data give no estimate are not counted.",)
        return [Table(analysis=name, method=self.name, title="Common effect", columns=columns, rows=tuple(rows), facts=shown, notes=notes)]


def of_counts(measure: Measure, first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float] | None:
    """The estimate and its variance from events and patients of two groups, the first against the second; None where an empty cell forbids it."""
    (a, n1), (c, n2) = first, second
    b, d = n1 - a, n2 - c
    if min(n1, n2) <= 0:
        return None
    if measure == "risk_difference":
        variance = a * b / n1**3 + c * d / n2**3
        return (a / n1 - c / n2, variance) if variance > 0 else None
    if measure == "log_odds_ratio":
        return (math.log(a * d / (b * c)), 1 / a + 1 / b + 1 / c + 1 / d) if min(a, b, c, d) > 0 else None
    if min(a, c) <= 0 or max(b, d) <= 0:
        return None
    return math.log(a / n1 / (c / n2)), 1 / a - 1 / n1 + 1 / c - 1 / n2


def _weighted(sums: Floats, centre: float, tau_squared: float) -> Weighted:
    return Weighted._make([*(float(one) for one in sums), centre, tau_squared])


def _points(low: Floats, high: Floats) -> Floats:
    """``(searches, 16)``: from the low end on, the high one left out."""
    return np.asarray(low[:, None] + (high - low)[:, None] * (np.arange(POINTS) / POINTS))


EXAMPLE = MetaAnalysis(formula="y ~ g", features=(Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))))
