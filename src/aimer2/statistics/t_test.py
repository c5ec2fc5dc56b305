"""Whether two groups' means differ: Student's and Welch's t tests, and whether the difference keeps within a margin.

``outcome ~ group``, the group being a category of two. Means are taken in a first round and the spread about them in a second, so a large mean
costs no digits. The difference is that of the second group minus the first, the reference. With ``hypothesis`` non-inferiority or equivalence
the null hypothesis is a difference of ``margin`` (two one-sided tests for equivalence).

Papers: Student, "The probable error of a mean", Biometrika 6 (1908); B. L. Welch, "The generalization of 'Student's' problem when several
different population variances are involved", Biometrika 34 (1947), degrees of freedom by Satterthwaite; L. V. Hedges, "Distribution theory for
Glass's estimator of effect size and related estimators", J. Educational Statistics 6 (1981).

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``sum`` = per group of the outcome, in the second round of its
distances from the group's mean; ``squares`` = per group of these distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Table, number
from aimer2.statistics import margins
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, Level, effect_cells, facts, significance_cells
from aimer2.statistics.group_sequential import AbstractLook, as_normal
from aimer2.statistics.margins import Hypothesis
from aimer2.statistics.significance import Effect, Significance, standardised, symmetric
from aimer2.statistics.statistic import Values


@final
class Sample(NamedTuple):
    """Of one group: patients, mean, and the sum of squared distances from it."""

    n: float
    mean: float
    squares: float

    @property
    def variance(self) -> float:
        return self.squares / (self.n - 1)


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """``difference`` is the first mean minus the second; ``hedges_g`` is it in pooled standard deviations, corrected for small samples."""

    difference: Effect
    test: Significance
    hedges_g: float


def compare(first: Sample, second: Sample, *, equal_variances: bool = False, level: float = 0.95) -> Compared:
    """Welch's test, or Student's with ``equal_variances``.

    Raises BadInput where a group has fewer than two patients or nothing varies.
    """
    if min(first.n, second.n) < 2:
        raise BadInput("A t test needs two patients at least in either group.")
    pooled_freedom = first.n + second.n - 2
    pooled = (first.squares + second.squares) / pooled_freedom
    if pooled <= 0:
        raise BadInput("The outcome does not vary within the groups, so a t test says nothing.")
    if equal_variances:
        freedom, error = pooled_freedom, math.sqrt(pooled * (1 / first.n + 1 / second.n))
    else:
        parts = first.variance / first.n, second.variance / second.n
        error = math.sqrt(sum(parts))
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1))
    difference = first.mean - second.mean
    correction = math.exp(math.lgamma(pooled_freedom / 2) - math.lgamma((pooled_freedom - 1) / 2)) / math.sqrt(pooled_freedom / 2)
    return Compared(
        difference=symmetric(difference, error, level, freedom),
        test=standardised(difference / error, freedom),
        hedges_g=correction * difference / math.sqrt(pooled),
    )


@final
@dataclass(frozen=True, kw_only=True)
class TTest(AbstractLook):
    """``level``: of the interval. ``equal_variances``: Student's test in place of Welch's. ``margin``: of non-inferiority or equivalence."""

    level: Level = 0.95
    equal_variances: bool = False
    hypothesis: Hypothesis = "difference"
    margin: Annotated[float, Field(ge=0)] = 0.0
    higher_is_better: bool = True
    most_groups: ClassVar[int] = 2

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from margins.faults(self.hypothesis, self.margin)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        outcome = self.values(rows)
        if round_number == 1:
            ones = np.ones(len(rows))
            return {"size": self.size(rows), "count": self.per_group(rows, ones), "sum": self.per_group(rows, outcome)}
        distance = outcome - values["mean"][self.codes(rows)]
        return {"sum": self.per_group(rows, distance), "squares": self.per_group(rows, distance**2)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return {"size": total["size"], "count": total["count"], "mean": total["sum"] / np.maximum(total["count"], 1)}, False
        shift = total["sum"] / np.maximum(values["count"], 1)
        squares = np.maximum(total["squares"] - total["sum"] * shift, 0.0)
        return {**values, "mean": values["mean"] + shift, "squares": squares}, True

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean",) if name in values}

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        reference, other = (Sample(*(float(values[part][code]) for part in ("count", "mean", "squares"))) for code in (0, 1))
        title = "Student's t test" if self.equal_variances else "Welch's t test"
        lines = [
            (f"{self._group} = {level}", round(one.n), one.mean, _deviation(one)) for level, one in zip(self.levels, (reference, other), strict=True)
        ]
        means = Table(analysis=name, method=self.name, title="Groups", columns=("group", "count", "mean", "standard_deviation"), rows=tuple(lines))
        found = compare(other, reference, equal_variances=self.equal_variances, level=self.level)
        term = f"{self.levels[1]} − {self.levels[0]}"
        answer = Table(
            analysis=name,
            method=self.name,
            title=title,
            columns=("term", *EFFECT, *SIGNIFICANCE),
            rows=((term, *effect_cells(found.difference), *significance_cells(found.test)),),
            facts={**facts(values["size"]), "level": self.level, "hedges_g": number(found.hedges_g)},
        )
        looked = self.look(name, as_normal(found.test.statistic, found.test.p), float(values["size"][1]), found.difference)
        return [means, answer, *self._margin(name, term, found), *looked]

    def _margin(self, name: str, term: str, found: Compared) -> Iterator[Table]:
        if self.hypothesis == "difference":
            return
        freedom = found.test.freedom[0]
        estimate, error = found.difference.estimate, found.difference.error
        if self.hypothesis == "equivalence":
            test = margins.equivalent(estimate, error, self.margin, freedom)
        else:
            test = margins.non_inferior(estimate, error, self.margin, freedom, higher_is_better=self.higher_is_better)
        yield margins.table(name, self.name, term, self.hypothesis, self.margin, test)


def _deviation(sample: Sample) -> float | None:
    return number(math.sqrt(sample.variance)) if sample.n > 1 else None


EXAMPLE = TTest(formula="y ~ g", features=(Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))))
