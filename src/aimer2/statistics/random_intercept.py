"""Linear regression with a random intercept for each hospital: hospitals differ, and by how much is estimated.

y = Xβ + u + e with u ~ N(0, λσ²) per hospital and e ~ N(0, σ²). Given λ the weighted sums of products take of each hospital λn²/(1 + λn) times the
product of its means off those of its patients, so what hospitals send adds up; λ is searched where the slope of the (restricted) likelihood changes
its sign, at sixteen points of λ/(1 + λ) a round. It takes a dozen rounds.

Papers: N. M. Laird, J. H. Ware, "Random-effects models for longitudinal data", Biometrics 38 (1982); H. D. Patterson, R. Thompson, "Recovery of
inter-block information when block sizes are unequal", Biometrika 58 (1971), for REML. The test of no difference between hospitals is that of
S. G. Self, K.-Y. Liang, JASA 82 (1987): half the mass of χ² with 1 degree of freedom, for λ lies at its border.

Leaves the site: ``size`` = rows and patients; ``moments`` = per column, the response last, the sums of values and squares; ``sites`` = 1 where
there is any row; ``products`` = at each λ asked about, per pair of columns the weighted sums of products; ``slopes`` = their derivatives;
``logs`` = ln(1 + λn) and its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table
from aimer2.statistics import distributions
from aimer2.statistics.design import Design, Floats, design, numbers, too_few
from aimer2.statistics.estimates import Fit, Scale, coefficients, independent, inverse
from aimer2.statistics.statistic import AbstractStatistic, Values

POINTS = 16
NARROW = 1e-14


@final
class Profile(NamedTuple):
    """At one λ: coefficients of the scaled columns, their covariance but for σ², σ², twice the log-likelihood and its slope in λ."""

    beta: Floats
    cover: Floats
    variance: float
    likelihood: float
    slope: float


@final
@dataclass(frozen=True, kw_only=True)
class RandomIntercept(AbstractStatistic):
    """``restricted``: REML, else maximum likelihood. ``level``: of the intervals."""

    restricted: bool = True
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    of_sites: ClassVar[frozenset[str]] = frozenset({"sites", "products", "slopes", "logs"})
    crosses: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.survival or len(formula.response) != 1:
            yield "random_intercept has one response: write 'y ~ …'"
            return
        yield from (f"random_intercept knows no {role}(); the hospital is the group" for role in ROLES if getattr(formula, role))
        if any(feature.name == formula.response[0].name and feature.categories for feature in self.features):
            yield f"the response {formula.response[0]} is a category, and must be a number"
        if not formula.intercept:
            yield "random_intercept needs the intercept about which hospitals lie"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        yield from too_few(self._design, self.parsed, self.features, rows, disclosure)

    @property
    def _design(self) -> Design:
        return design(self.parsed, self.features)

    def _columns(self, rows: Frame) -> Floats:
        """``(n, p + 1)``, the response last."""
        return np.column_stack([self._design.matrix(rows), numbers(self.parsed.response[0], rows)])

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        columns = self._columns(rows)
        if round_number == 1:
            size = np.array([len(rows), rows.counted()], np.float64)
            return {"size": size, "moments": np.array([columns.sum(axis=0), (columns**2).sum(axis=0)]), "sites": np.array(float(len(rows) > 0))}
        scaled = _scale(values).apply(columns)
        n, spread = len(rows), values["points"]
        mean = scaled.sum(axis=0) / max(n, 1)
        shrunk = spread * n**2 / (1 + spread * n)
        turned = n**2 / (1 + spread * n) ** 2
        return {
            "products": scaled.T @ scaled - shrunk[:, None, None] * np.outer(mean, mean),
            "slopes": -turned[:, None, None] * np.outer(mean, mean),
            "logs": np.stack([np.log1p(spread * n), n / (1 + spread * n)]),
        }

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            kept = {name: total[name] for name in ("size", "moments", "sites")}
            return {**kept, "low": np.array(0.0), "high": np.array(1.0), "points": _points(0.0, 1.0)}, False
        if float(values["size"][0]) <= len(self._design.columns):
            raise BadUpdate("There are no more patients than coefficients.")
        low, high = float(values["low"]), float(values["high"])
        profiles = [self._profile(values, *one) for one in zip(total["products"], total["slopes"], total["logs"].T, strict=True)]
        if round_number == 2:
            values = {**values, "without": np.array(profiles[0].likelihood)}
        if high - low <= NARROW:
            found = profiles[0]
            answer = {"beta": found.beta, "cover": found.cover, "fit": np.array([found.variance, found.likelihood, float(values["points"][0])])}
            return {**values, **answer}, True
        rising = sum(one.slope > 0 for one in profiles)
        ends = [*np.linspace(low, high, POINTS, endpoint=False), high]
        low, high = (float(ends[rising - 1]), float(ends[rising])) if rising else (low, low)
        return {**values, "low": np.array(low), "high": np.array(high), "points": _points(low, high)}, False

    def _profile(self, values: Values, products: Floats, slopes: Floats, logs: Floats) -> Profile:
        n, width = float(values["size"][0]), len(products) - 1
        kept = independent(products[:width, :width])
        cover = inverse(products[:width, :width], kept)
        beta = cover @ products[:width, width]
        residual = float(products[width, width] - beta @ products[:width, width])
        turned = float(slopes[width, width] - 2 * beta @ slopes[:width, width] + beta @ slopes[:width, :width] @ beta)
        freedom = n - (int(kept.sum()) if self.restricted else 0)
        variance = max(residual, np.finfo(np.float64).tiny) / freedom
        likelihood = -freedom * (math.log(2 * math.pi * variance) + 1) - float(logs[0])
        slope = -turned / variance - float(logs[1])
        if self.restricted:
            likelihood += np.linalg.slogdet(cover[np.ix_(kept, kept)])[1]
            slope -= float(np.trace(cover @ slopes[:width, :width]))
        return Profile(beta, cover, variance, float(likelihood), slope)

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("points", "moments", "size") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        scale = _scale(values)
        width = len(self._design.columns)
        unit, place = float(scale.spread[width]), float(scale.centre[width])
        inner = Scale(scale.centre[:width], scale.spread[:width], has_intercept=True)
        variance, likelihood, spread = (float(one) for one in values["fit"])
        estimates = unit * (inner.back @ values["beta"])
        estimates[0] += place
        covariance = unit**2 * variance * (inner.back @ values["cover"] @ inner.back.T)
        kept = np.diag(values["cover"]) > 0
        freedom = float(values["size"][0]) - (int(kept.sum()) if self.restricted else 0)
        shift = -2 * freedom * math.log(unit)
        if self.restricted:
            shift -= 2 * float(np.log(inner.spread[kept]).sum())
        ratio = max(likelihood - float(values["without"]), 0.0)
        residual = unit**2 * variance
        facts: dict[str, Cell] = {
            "rows": round(float(values["size"][0])),
            "patients": round(float(values["size"][1])),
            "hospitals": round(float(values["sites"])),
            "variance_between_hospitals": spread * residual,
            "variance_within": residual,
            "intraclass_correlation": spread / (1 + spread),
            "log_likelihood": (likelihood + shift) / 2,
            "no_difference_p": 1.0 if ratio == 0 else float(distributions.chi_squared_above(ratio, 1)) / 2,
            "fitted_by": "REML" if self.restricted else "maximum likelihood",
            "level": self.level,
        }
        fit = Fit(names=self._design.names, estimates=estimates, covariance=covariance, aliased=~kept, freedom=None, level=self.level)
        aliased = ", ".join(label for label, one in zip(self._design.names, kept, strict=True) if not one)
        notes = (f"These terms follow from others and have no estimate: {aliased}.",) if aliased else ()
        return [coefficients(fit, analysis=name, method=self.name, facts=facts, notes=notes)]


def _scale(values: Values) -> Scale:
    sums, squares = values["moments"]
    return Scale.of(float(values["size"][0]), sums, squares, has_intercept=True, centred=True)


def _points(low: float, high: float) -> Floats:
    """λ at sixteen points of λ/(1 + λ), from the low end on."""
    shares = np.linspace(low, high, POINTS, endpoint=False)
    return np.asarray(shares / (1 - shares))


EXAMPLE = RandomIntercept(
    formula="y ~ x + s", features=(Feature(name="y"), Feature(name="x"), Feature(name="s", kind="category", categories=("f", "m")))
)
