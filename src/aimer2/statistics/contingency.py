"""Whether two classifications go together: chi-squared and exact tests of a table of counts, and what a 2×2 table says of a risk.

``outcome ~ group``, both categories, or the outcome 0 or 1. Of a 2×2 table the event is the outcome's second category, and risks are those of the
second group against the first, the reference. With ``hypothesis`` non-inferiority or equivalence the null hypothesis is a risk difference of
``margin``, by the score test whose variance is that under this hypothesis.

Papers: K. Pearson, Philosophical Magazine 50 (1900); F. Yates, "Contingency tables involving small numbers and the χ² test", Suppl. JRSS 1
(1934); R. A. Fisher, "Statistical Methods for Research Workers" (1925), section 21.02, two-sided as the chance of all tables with the same
margins that are not likelier than the one seen; D. Katz et al., "Obtaining confidence intervals for the risk ratio in cohort studies",
Biometrics 34 (1978); B. Woolf, "On estimating the relation between blood group and disease", Annals of Human Genetics 19 (1955);
R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17 (1998), method 10;
C. P. Farrington, G. Manning, "Test statistics and sample size formulae for comparative binomial trials with null hypothesis of non-zero risk
difference or non-unity relative risk", Statistics in Medicine 9 (1990).

Leaves the site: ``size`` = rows and patients; ``count`` = per group and outcome how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.metrics.intervals import wilson
from aimer2.statistics import distributions, margins
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, Level, effect_cells, events, facts, significance_cells
from aimer2.statistics.group_sequential import AbstractLook
from aimer2.statistics.margins import Hypothesis
from aimer2.statistics.significance import UNKNOWN, Effect, Significance, chi_squared, quantile, ratio
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]

EQUALLY_LIKELY = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Association:
    """``yates`` and ``fisher`` for 2×2 tables only; ``smallest_expected`` below 5 is where χ² should not be trusted."""

    pearson: Significance
    likelihood_ratio: Significance
    yates: Significance | None
    fisher_p: float | None
    cramers_v: float
    smallest_expected: float


@final
@dataclass(frozen=True, slots=True)
class Risks:
    """Of rows exposed and not, columns with the event and without: first row against the second."""

    odds_ratio: Effect
    risk_ratio: Effect
    risk_difference: Effect


def associate(table: NDArray[np.integer] | Floats) -> Association:
    """Of a table of counts, rows and columns without patients left out. Raises BadInput where fewer than two of either are left."""
    counts = np.asarray(table, np.float64)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    rows, columns = counts.shape
    if min(rows, columns) < 2:
        raise BadInput("A test of association needs patients in two rows and two columns at least.")
    n = counts.sum()
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    freedom = (rows - 1) * (columns - 1)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    seen = counts > 0
    likelihood = float(2 * (counts[seen] * np.log(counts[seen] / expected[seen])).sum())
    square = (rows, columns) == (2, 2)
    closer = np.maximum(np.abs(counts - expected) - min(0.5, float(np.abs(counts - expected).min())), 0.0)
    return Association(
        pearson=chi_squared(statistic, freedom),
        likelihood_ratio=chi_squared(max(likelihood, 0.0), freedom),
        yates=chi_squared(float((closer**2 / expected).sum()), 1) if square else None,
        fisher_p=fisher(counts) if square else None,
        cramers_v=math.sqrt(statistic / n / (min(rows, columns) - 1)),
        smallest_expected=float(expected.min()),
    )


def fisher(table: Floats) -> float:
    """The exact two-sided p-value of a 2×2 table of whole numbers."""
    (a, b), (c, d) = table
    first, second, events = a + b, c + d, a + c
    possible = np.arange(max(0.0, events - second), min(first, events) + 1)
    logs = distributions.log_choose(first, possible) + distributions.log_choose(second, events - possible)
    chances = np.exp(logs - logs.max())
    seen = chances[round(a - possible[0])]
    return min(1.0, float(chances[chances <= seen * (1 + EQUALLY_LIKELY)].sum() / chances.sum()))


def risks(table: NDArray[np.integer] | Floats, level: float = 0.95) -> Risks:
    """Ratios without an interval where a cell they divide by is empty; the difference always has one. Raises BadInput where a row is empty."""
    (a, b), (c, d) = np.asarray(table, np.float64)
    if min(a + b, c + d) <= 0:
        raise BadInput("A risk needs patients in both rows.")
    odds = ratio(math.log(a * d / (b * c)), math.sqrt(1 / a + 1 / b + 1 / c + 1 / d), level) if min(a, b, c, d) > 0 else UNKNOWN
    relative = UNKNOWN
    if min(a, c) > 0:
        relative = ratio(math.log(a / (a + b) / (c / (c + d))), math.sqrt(max(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d), 0.0)), level)
    return Risks(odds_ratio=odds, risk_ratio=relative, risk_difference=difference((a, a + b), (c, c + d), level))


def difference(first: tuple[float, float], second: tuple[float, float], level: float = 0.95) -> Effect:
    """Of two proportions, each as events and patients, with Newcombe's interval (made of Wilson's), which stays inside [−1, 1]."""
    shares = first[0] / first[1], second[0] / second[1]
    value = shares[0] - shares[1]
    error = math.sqrt(sum(share * (1 - share) / n for share, (_, n) in zip(shares, (first, second), strict=True)))
    z = quantile(level)
    (low1, high1), (low2, high2) = (wilson(*one, z) or (0.0, 1.0) for one in (first, second))
    below = math.hypot(shares[0] - low1, high2 - shares[1])
    above = math.hypot(high1 - shares[0], shares[1] - low2)
    return Effect(value, error, value - below, value + above)


def restricted_score(first: tuple[float, float], second: tuple[float, float], null: float) -> float:
    """Of two proportions, each as events and patients: how many standard errors their difference lies above ``null``, the error being that of the
    likeliest proportions which differ by exactly that (Farrington, Manning 1990, appendix 1)."""
    (x1, n1), (x2, n2) = first, second
    p1, p2, theta = x1 / n1, x2 / n2, n2 / n1
    a = 1 + theta
    b = -(1 + theta + p1 + theta * p2 + null * (theta + 2))
    c = null**2 + null * (2 * p1 + theta + 1) + p1 + theta * p2
    d = -p1 * null * (1 + null)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a**2) + d / (2 * a)
    u = math.copysign(math.sqrt(max((b / (3 * a)) ** 2 - c / (3 * a), 0.0)), v)
    angle = (math.pi + math.acos(max(-1.0, min(1.0, v / u**3)))) / 3 if u else 0.0
    lowest, highest = max(0.0, null), min(1.0, 1 + null)
    likely1 = min(max(2 * u * math.cos(angle) - b / (3 * a), lowest), highest)
    likely2 = likely1 - null
    variance = likely1 * (1 - likely1) / n1 + likely2 * (1 - likely2) / n2
    if variance <= 0:
        raise BadInput("Nobody or everybody had the event, so a margin cannot be tested.")
    return (p1 - p2 - null) / math.sqrt(variance)


@final
@dataclass(frozen=True, kw_only=True)
class Contingency(AbstractLook):
    """``level``: of the intervals. ``margin``: of non-inferiority or equivalence, as a difference of risks."""

    level: Level = 0.95
    hypothesis: Hypothesis = "difference"
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    higher_is_better: bool = True

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from margins.faults(self.hypothesis, self.margin)
        if (self.hypothesis != "difference" or self.planned) and (len(self.levels), len(self.outcomes)) != (2, 2):
            yield "a margin and looks belong to a comparison of two groups by an outcome of two categories"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        cell = self._cell(rows)
        for place, (level, outcome) in enumerate((level, outcome) for level in self.levels for outcome in self.outcomes):
            if disclosure.is_small(rows.counted(cell == place)):
                yield f"fewer than {disclosure.minimum_cell} patients have {self._group} = {level} and {self.outcome} = {outcome}"

    @property
    def outcomes(self) -> tuple[str, ...]:
        return self.categories_of(self.outcome) or ("0", "1")

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        levels = self.categories_of(self.outcome)
        outcome = rows.columns[self.outcome.name] if levels else events(self.outcome, levels, rows)
        return self.codes(rows) * len(self.outcomes) + outcome.astype(np.int64)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        shape = (len(self.levels), len(self.outcomes))
        counts = np.bincount(self._cell(rows), minlength=shape[0] * shape[1]).reshape(shape)
        return {"size": self.size(rows), "count": counts.astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        counts = values["count"]
        cells: list[tuple[Cell, ...]] = []
        for level, line in zip(self.levels, counts, strict=True):
            shares = line / line.sum() if line.sum() else np.full(len(line), np.nan)
            cells += [(level, outcome, round(count), number(share)) for outcome, count, share in zip(self.outcomes, line, shares, strict=True)]
        found = associate(counts)
        columns = (str(self._group), str(self.outcome), "count", "share")
        tables = [Table(analysis=name, method=self.name, title="Counts", columns=columns, rows=tuple(cells)), self._tests(name, found, values)]
        if counts.shape == (2, 2):
            tables.append(self._risks(name, counts))
        return [*tables, *self._margin(name, counts), *self._look(name, found, values)]

    def _look(self, name: str, found: Association, values: Values) -> Iterator[Table]:
        """z is the root of χ², with the sign of the risk difference."""
        if self.planned:
            counts = values["count"]
            second, first = ((float(line[1]), float(line.sum())) for line in counts)
            effect = difference(first, second, self.level)
            yield from self.look(name, math.copysign(math.sqrt(found.pearson.statistic), effect.estimate), float(values["size"][1]), effect)

    def _tests(self, name: str, found: Association, values: Values) -> Table:
        tests: list[tuple[Cell, ...]] = [
            ("chi-squared", *significance_cells(found.pearson)),
            ("likelihood ratio", *significance_cells(found.likelihood_ratio)),
        ]
        if found.yates is not None:
            tests.append(("chi-squared, corrected for continuity", *significance_cells(found.yates)))
        if found.fisher_p is not None:
            tests.append(("Fisher's exact test", None, None, number(found.fisher_p)))
        note = "an expected count is below 5: χ² is a poor approximation"
        return Table(
            analysis=name,
            method=self.name,
            title="Association",
            columns=("test", *SIGNIFICANCE),
            rows=tuple(tests),
            facts={**facts(values["size"]), "cramers_v": number(found.cramers_v), "smallest_expected": number(found.smallest_expected)},
            notes=(note,) if found.smallest_expected < 5 else (),
        )

    def _risks(self, name: str, counts: NDArray[np.float64]) -> Table:
        found = risks(counts[::-1, ::-1], self.level)
        lines = (("odds ratio", found.odds_ratio), ("risk ratio", found.risk_ratio), ("risk difference", found.risk_difference))
        return Table(
            analysis=name,
            method=self.name,
            title="Risks",
            columns=("term", *EFFECT),
            rows=tuple((term, *effect_cells(effect)) for term, effect in lines),
            facts={"event": f"{self.outcome} = {self.outcomes[1]}", "compared": f"{self.levels[1]} with {self.levels[0]}", "level": self.level},
            notes=("The standard errors of ratios are those of their logarithms.",),
        )

    def _margin(self, name: str, counts: NDArray[np.float64]) -> Iterator[Table]:
        if self.hypothesis == "difference":
            return
        first, second = ((float(line[1]), float(line.sum())) for line in counts[::-1])
        below, above = (restricted_score(first, second, side * self.margin) for side in (-1, 1))
        if self.hypothesis == "equivalence":
            score = min(below, -above)
        else:
            score = below if self.higher_is_better else -above
        test = Significance(score, margins.one_sided(score))
        yield margins.table(name, self.name, f"risk: {self.levels[1]} − {self.levels[0]}", self.hypothesis, self.margin, test)


_CATEGORIES = ("a", "b")
EXAMPLE = Contingency(
    formula="y ~ g", features=(Feature(name="y", kind="category", categories=_CATEGORIES), Feature(name="g", kind="category", categories=_CATEGORIES))
)
