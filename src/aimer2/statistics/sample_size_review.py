"""How many patients a running trial of two groups needs, from the outcome's spread or rate in all of them together: blinded re-estimation.

``outcome ~ 1``: who is in which group is not looked at, so the level of the final test stays what it is. The planned ``difference`` stays; what was
guessed about the outcome is measured. For a number the sizes are those of Student's t test with the spread of all patients, less what the planned
difference itself adds to it (``adjusted``); for 0 and 1 those of the test of two proportions about the rate seen.

Papers: M. Kieser, T. Friede, "Simple procedures for blinded sample size adjustment that do not affect the type I error rate", Statistics in Medicine
22 (2003); A. L. Gould, W. J. Shih, Communications in Statistics A 21 (1992), for the adjustment; A. L. Gould, Statistics in Medicine 11 (1992), for
proportions.

Leaves the site: ``size`` = rows and patients; ``sum`` = of the outcome, in the second round of its distances from the common mean; ``squares`` = of
these distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table
from aimer2.statistics import distributions
from aimer2.statistics.comparison import events, facts, has_few
from aimer2.statistics.design import Floats, numbers
from aimer2.statistics.statistic import AbstractStatistic, Values

MOST = 10_000_000


@final
@dataclass(frozen=True, kw_only=True)
class SampleSizeReview(AbstractStatistic):
    """``difference``: the planned one, of means or of rates. ``outcome``: a number, or a rate. ``ratio``: patients of the second group for each of
    the first. ``alpha``: two-sided. ``planned``: patients in all, to say how many more are needed."""

    difference: Annotated[float, Field(gt=0)]
    outcome: Literal["number", "rate"] = "number"
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    ratio: Annotated[float, Field(gt=0)] = 1.0
    adjusted: bool = True
    planned: Annotated[int, Field(ge=0)] = 0

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if len(formula.response) != 1 or formula.survival or formula.terms:
            yield "sample_size_review is asked as outcome ~ 1: no group, so that the trial stays blinded"
        yield from (f"sample_size_review knows no {role}()" for role in ROLES if getattr(formula, role))
        if self.outcome == "rate" and self.difference >= 1:
            yield "a difference of rates lies below 1"
        if formula.response and len(self._levels) not in ((0,) if self.outcome == "number" else (0, 2)):
            yield f"{formula.response[0]} must be a number; or for a rate have two categories, the event being the second, or be 0 or 1"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        if self.outcome == "rate" and has_few(rows, self._values(rows).astype(np.int64), disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients have the event, or not"

    @property
    def _levels(self) -> tuple[str, ...]:
        return next((tuple(one.categories) for one in self.features if one.name == self.parsed.response[0].name), ())

    def _values(self, rows: Frame) -> Floats:
        response = self.parsed.response[0]
        return events(response, self._levels, rows).astype(np.float64) if self.outcome == "rate" else numbers(response, rows)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        outcome = self._values(rows)
        if round_number == 1:
            return {"size": np.array([len(rows), rows.counted()], np.float64), "sum": np.array(outcome.sum())}
        distance = outcome - float(values["mean"])
        return {"sum": np.array(distance.sum()), "squares": np.array((distance**2).sum())}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return {"size": total["size"], "mean": total["sum"] / max(float(total["size"][0]), 1.0)}, self.outcome == "rate"
        return {**values, "squares": total["squares"] - total["sum"] ** 2 / max(float(values["size"][0]), 1.0)}, True

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean",) if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        n, mean = float(values["size"][0]), float(values["mean"])
        shown: dict[str, Cell] = {**facts(values["size"]), "difference": self.difference, "power": self.power, "alpha": self.alpha}
        try:
            if self.outcome == "rate":
                shown["rate"] = mean
                first, second = for_rates(mean, self.difference, self.ratio, self.alpha, self.power)
            else:
                if n < 2:
                    raise BadInput("A spread needs two patients at least.")
                share = self.ratio / (1 + self.ratio) ** 2
                variance = float(values["squares"]) / (n - 1) - (self.difference**2 * share if self.adjusted else 0.0)
                shown["standard_deviation"] = math.sqrt(max(variance, 0.0))
                first, second = for_means(variance, self.difference, self.ratio, self.alpha, self.power)
        except BadInput as error:
            return [Table(analysis=name, method=self.name, title="No answer", columns=("term",), rows=(), facts=shown, notes=(error.sentence,))]
        rows: list[tuple[Cell, ...]] = [("first group", first), ("second group", second), ("together", first + second)]
        if self.planned:
            rows.append(("more than planned", first + second - self.planned))
        return [Table(analysis=name, method=self.name, title="Patients needed", columns=("term", "patients"), rows=tuple(rows), facts=shown)]


def for_means(variance: float, difference: float, ratio: float, alpha: float, power: float) -> tuple[int, int]:
    """The smallest groups in which Student's two-sided t test has the power. Raises BadInput where the spread leaves none."""
    if variance <= 0:
        raise BadInput("The outcome varies less than the planned difference alone makes it.")

    def reached(first: int) -> float:
        second = math.ceil(ratio * first)
        shift = difference / math.sqrt(variance * (1 / first + 1 / second))
        freedom = first + second - 2
        limit = float(distributions.student_quantile(1 - alpha / 2, freedom))
        return float(distributions.student_above_shifted(limit, freedom, shift))

    first = _smallest(lambda size: reached(size) >= power)
    return first, math.ceil(ratio * first)


def for_rates(rate: float, difference: float, ratio: float, alpha: float, power: float) -> tuple[int, int]:
    """By the normal approximation, with the variance of the rate in all under no difference, and of the two rates that it splits into under the
    planned one. Raises BadInput where it cannot be split so."""
    first, second = rate - difference * ratio / (1 + ratio), rate + difference / (1 + ratio)
    if not (0 <= first < second <= 1 and 0 < rate < 1):
        raise BadInput("The rate seen cannot be that of two groups which differ by as much as planned.")
    null = distributions.normal_quantile(1 - alpha / 2) * math.sqrt(rate * (1 - rate) * (1 + 1 / ratio))
    planned = distributions.normal_quantile(power) * math.sqrt(first * (1 - first) + second * (1 - second) / ratio)
    size = math.ceil(float((null + planned) / difference) ** 2 - 1e-9)
    return size, math.ceil(ratio * size)


def _smallest(enough: Callable[[int], bool]) -> int:
    """By doubling, then halving: more is enough too."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST:
            raise BadInput("No trial is large enough for so small a difference.")
    low = max(high // 2, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


EXAMPLE = SampleSizeReview(formula="y ~ 1", features=(Feature(name="y"),), outcome="rate", difference=0.1)
