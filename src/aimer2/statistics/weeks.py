"""A series of cases by week, `~ week + strata(region)`, and whether a week has too many: for surveillance with and without noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, number
from aimer2.statistics import aberration
from aimer2.statistics.design import Floats, groups
from aimer2.statistics.statistic import AbstractStatistic

Detector: TypeAlias = Literal["none", "farrington", "cusum", "ears_c1", "ears_c2", "ears_c3"]

MOST_WEEKS = 3000


@dataclass(frozen=True, kw_only=True)
class AbstractWeeks(AbstractStatistic):
    """``detector`` with what it needs: ``years``, ``window`` and ``alpha`` (one-sided) for Farrington; ``baseline``, ``reference`` and ``limit`` for
    CUSUM; ``deviations`` for EARS C1 and C2. ``per_year``: weeks in a year."""

    detector: Detector = "farrington"
    per_year: Annotated[int, Field(ge=2, le=366)] = 52
    years: Annotated[int, Field(ge=1, le=20)] = 5
    window: Annotated[int, Field(ge=1, le=20)] = 3
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    baseline: Annotated[int, Field(ge=2)] = 52
    reference: Annotated[float, Field(gt=0)] = 1.0
    limit: Annotated[float, Field(gt=0)] = 2.26
    deviations: Annotated[float, Field(gt=0)] = 3.0

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if len(formula.terms) != 1 or len(formula.terms[0]) != 1 or formula.terms[0][0].function:
            yield f"{self.name} is asked as ~ week"
        elif not 1 < self.weeks <= MOST_WEEKS:
            yield f"{formula.terms[0][0]} needs whole `minimum` and `maximum` in `cohort.features`: the first and the last week, at most {MOST_WEEKS}"
        yield from (f"{self.name} knows no {role}()" for role in ROLES if role != "strata" and getattr(formula, role))
        kinds = {feature.name: feature.kind for feature in self.features}
        yield from (f"strata({one}) is no category" for one in formula.strata if kinds.get(one.name) != "category")

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last week."""
        name = self.parsed.terms[0][0].name
        low, high = next(((one.minimum, one.maximum) for one in self.features if one.name == name), (None, None))
        return (0, -1) if low is None or high is None or low != int(low) or high != int(high) else (int(low), int(high))

    @property
    def weeks(self) -> int:
        return self.span[1] - self.span[0] + 1

    @property
    def strata(self) -> tuple[str, ...]:
        """The names of all."""
        return groups(self.parsed.strata, self.features, Frame.empty(self.parsed.columns))[1]

    def judged(self, counts: Floats, noise: float = 0.0) -> Iterator[tuple[Cell, ...]]:
        """Of each week the expected cases, the statistic, its limit, and whether that is an alarm. ``noise``: its standard deviation in a count."""
        found = self._detected(counts, noise)
        for place, alarm in enumerate(found.alarms):
            told = (number(float(one[place])) for one in (found.expected, found.statistic, found.limit))
            yield *told, "alarm" if alarm else ""

    def _detected(self, counts: Floats, noise: float) -> aberration.Judged:
        if self.detector == "farrington":
            return aberration.farrington(counts, per_year=self.per_year, years=self.years, window=self.window, alpha=self.alpha, noise=noise)
        if self.detector == "cusum":
            return aberration.cusum(counts, baseline=self.baseline, reference=self.reference, limit=self.limit, noise=noise)
        if self.detector.startswith("ears"):
            lag = 0 if self.detector == "ears_c1" else 2
            return aberration.ears(counts, lag=lag, summed=self.detector == "ears_c3", deviations=self.deviations, noise=noise)
        unknown = np.full(len(counts), np.nan)
        return aberration.Judged(unknown, unknown, unknown)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.detector == "none":
            return ()
        if self.detector == "cusum":
            return ("Weeks without a statistic are those of the baseline; of exact counts all weeks, where the baseline has no case.",)
        return ("Weeks without a statistic or a limit have too few weeks before them.",)
